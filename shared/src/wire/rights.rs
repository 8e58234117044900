//! Rights of a client on a volume, and what a message needs.

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// One right on a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Right {
    /// Read the live volume.
    Read = 1,
    /// Write the live volume; implies `Read`.
    Write = 2,
    /// Create and remove snapshots.
    Snapshot = 4,
    /// Read snapshots.
    Backup = 8,
    /// Resize and set properties.
    Admin = 16,
}

impl Right {
    /// All, in the order in which they are shown.
    pub const ALL: [Right; 5] = [Right::Read, Right::Write, Right::Snapshot, Right::Backup, Right::Admin];

    /// As typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Snapshot => "snapshot",
            Right::Backup => "backup",
            Right::Admin => "admin",
        }
    }
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Rights(u8);

impl Rights {
    /// None at all.
    pub const NONE: Rights = Rights(0);

    /// With `r` (and what it implies).
    #[must_use]
    pub fn with(self, r: Right) -> Self {
        let implied = if r == Right::Write { Right::Read as u8 } else { 0 };
        Self(self.0 | r as u8 | implied)
    }

    /// Whether `r` is in it.
    #[must_use]
    pub fn has(self, r: Right) -> bool {
        self.0 & r as u8 != 0
    }

    /// These and those.
    #[must_use]
    pub fn or(self, o: Self) -> Self {
        Self(self.0 | o.0)
    }

    /// These without those.
    #[must_use]
    pub fn minus(self, o: Self) -> Self {
        Self(self.0 & !o.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Right::ALL.into_iter().filter(|r| self.has(*r)).map(Right::as_str).collect();
        f.pad(&names.join(","))
    }
}

impl std::str::FromStr for Rights {
    type Err = String;
    /// `read,write,snapshot,backup,admin`, or `all`.
    fn from_str(s: &str) -> Result<Self, String> {
        s.split(',').try_fold(Rights::NONE, |set, word| match word.trim() {
            "all" => Ok(Right::ALL.into_iter().fold(set, Rights::with)),
            w => Right::ALL.into_iter().find(|r| r.as_str() == w).map(|r| set.with(r)).ok_or_else(|| format!("'{w}' is no right")),
        })
    }
}

impl serde::Serialize for Rights {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Rights {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text.is_empty() { Ok(Rights::NONE) } else { text.parse().map_err(serde::de::Error::custom) }
    }
}

/// What a request needs, declared on its type and checked in one place. Deny by default: there is no "nothing".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// A known client that is not revoked; no session yet (`Hello` alone).
    Client,
    /// That, and a session on this connection.
    Session,
    /// That, and this right on the volume (or on the volume of the snapshot) that the request names.
    On(Right),
}
