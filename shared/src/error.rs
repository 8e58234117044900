//! Errors: a kind for control flow, context for people, a source, and a hint at what to do.

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// What went wrong, for control flow. The discriminant goes over the wire; it never changes its meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug, PartialEq))]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Kind {
    /// Wrong use: an argument, a size, a state in which this is refused.
    Refused = 1,
    /// No such object, or not one that the asker may see.
    NotFound = 2,
    /// Held by another: attached, locked, in use.
    Busy = 3,
    /// The right is missing, the key is unknown or revoked.
    Denied = 4,
    /// The manager does not answer.
    Unreachable = 5,
    /// No allocation unit is free.
    NoSpace = 6,
    /// A disk answered with an error.
    Io = 7,
    /// Bytes that should be ours are not what their checksum or address says.
    Damaged = 8,
    /// The session or lease is over; nothing may be submitted or acknowledged under it.
    Lapsed = 9,
    /// An object of that name is there already.
    Exists = 10,
    /// The other side speaks another version.
    Version = 11,
    /// A broken invariant of our own.
    Internal = 12,
    /// Repository: missing.
    RepoMissing = 13,
    /// Repository: locked by another.
    RepoLocked = 14,
    /// Repository: wrong key.
    RepoKey = 15,
    /// Done in part.
    Partial = 16,
    /// The user broke it off (SIGINT, SIGTERM).
    Interrupted = 17,
}

impl Kind {
    /// The exit code of a command that ends with this.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Io | Kind::Damaged | Kind::Internal | Kind::Version | Kind::Lapsed => 1,
            Kind::Refused | Kind::Exists => 2,
            Kind::Partial => 3,
            Kind::NotFound => 4,
            Kind::Busy => 5,
            Kind::Denied => 6,
            Kind::Unreachable => 7,
            Kind::NoSpace => 8,
            Kind::RepoMissing => 10,
            Kind::RepoLocked => 11,
            Kind::RepoKey => 12,
            Kind::Interrupted => 130,
        }
    }
}

/// The project's error. `Display` is the whole sentence without the hint.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result with our error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with its sentence: what, and why.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), hint: None, source: None }
    }

    /// What caused it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `what` in front of the sentence: `what: sentence`.
    #[must_use]
    pub fn within(mut self, what: impl fmt::Display) -> Self {
        self.context = format!("{what}: {}", self.context);
        self
    }

    /// For control flow.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence alone, without its source.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.context
    }

    /// The hint, if there is one.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let mut next = std::error::Error::source(self);
        while let Some(e) = next {
            write!(f, ": {e}")?;
            // Our own errors print their sources themselves.
            next = if e.is::<Error>() { None } else { e.source() };
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Adds our kind and sentence to any result.
pub trait Context<T> {
    /// Turns the error into ours, with the original as source. The sentence is made only on error.
    ///
    /// # Errors
    /// The error, converted.
    fn context<C: Into<String>>(self, kind: Kind, what: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context<C: Into<String>>(self, kind: Kind, what: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|e| Error::new(kind, what()).because(e))
    }
}

/// An error as it crosses the wire.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
pub struct WireError {
    /// For control flow.
    pub kind: Kind,
    /// The whole sentence.
    pub message: String,
    /// What the user can do; empty where there is nothing to say.
    pub hint: String,
}

impl From<&Error> for WireError {
    fn from(e: &Error) -> Self {
        Self { kind: e.kind, message: e.to_string(), hint: e.hint.clone().unwrap_or_default() }
    }
}

impl From<WireError> for Error {
    fn from(e: WireError) -> Self {
        let err = Error::new(e.kind, e.message);
        if e.hint.is_empty() { err } else { err.hint(e.hint) }
    }
}
