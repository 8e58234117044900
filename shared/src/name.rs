//! Names of pools, volumes, snapshots and clients: labels for people, never identities.

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// Longest name, in bytes.
pub const NAME_MAX: usize = 63;

/// `[A-Za-z0-9][A-Za-z0-9_.-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Archive, Serialize, Deserialize, serde::Serialize)]
#[rkyv(derive(Debug))]
#[serde(transparent)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not a name: a letter or digit, then up to 62 letters, digits, '_', '.' or '-'")]
pub struct BadName(pub String);

impl Name {
    /// Checks `text` against the rule.
    ///
    /// # Errors
    /// `BadName` where it does not hold.
    pub fn new(text: &str) -> Result<Self, BadName> {
        if Self::is_valid(text) { Ok(Self(text.to_owned())) } else { Err(BadName(text.chars().take(80).collect())) }
    }

    /// Whether the rule holds; what came off a wire or a disk is asked again.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        let b = text.as_bytes();
        (1..=NAME_MAX).contains(&b.len())
            && b[0].is_ascii_alphanumeric()
            && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::str::FromStr for Name {
    type Err = BadName;
    fn from_str(s: &str) -> Result<Self, BadName> {
        Self::new(s)
    }
}

impl<'de> serde::Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// `VOL@SNAP`, with `POOL/` in front allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The pool, where it was named: the caller checks it.
    pub pool: Option<Name>,
    /// The volume.
    pub volume: Name,
    /// The snapshot, where one was named.
    pub snapshot: Option<Name>,
}

impl std::str::FromStr for Target {
    type Err = BadName;
    fn from_str(s: &str) -> Result<Self, BadName> {
        let (pool, rest) = match s.split_once('/') {
            Some((p, r)) => (Some(Name::new(p)?), r),
            None => (None, s),
        };
        let (volume, snapshot) = match rest.split_once('@') {
            Some((v, n)) => (Name::new(v)?, Some(Name::new(n)?)),
            None => (Name::new(rest)?, None),
        };
        Ok(Self { pool, volume, snapshot })
    }
}
