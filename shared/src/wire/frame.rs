//! The envelope of a message on the wire: a fixed header of 32 bytes in front of the archive.
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..4 | magic | `FVWR` |
//! | 4..6 | version | of the frame, 1 |
//! | 6 | kind | 1: client to manager, 2: manager to client; on a data connection 3 and 4 |
//! | 7 | flags | 0 |
//! | 8..12 | archive | length in bytes, at least 1 |
//! | 12..16 | payload | length in bytes of the raw bytes after the archive |
//! | 16..20 | checksum | CRC32C of bytes 0..16 and the archive |
//! | 20..32 | reserved | 0 |
//!
//! Integers are little-endian. TLS authenticates the bytes; the checksum finds our own mistakes before the archive is looked at.
//!
//! Invariants: a header is checked wholly, its lengths against the limit of this direction and phase, before a byte of memory is
//! taken for what follows; what is reserved is zero, so that a later version can give it a meaning.

use crate::error::{Error, Kind};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a frame begins with.
pub const MAGIC: [u8; 4] = *b"FVWR";
/// Version of the envelope.
pub const FRAME_VERSION: u16 = 1;
/// Bytes in a header.
pub const HEADER: usize = 32;

/// The most that is taken, by direction and phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of archive.
    pub archive: u32,
    /// Bytes of payload.
    pub payload: u32,
}

impl Limits {
    /// From a client that has not been welcomed.
    pub const BEFORE_HELLO: Limits = Limits { archive: 64 << 10, payload: 0 };
    /// From a client with a session, and from a manager (which TLS has proven to be the pool's).
    pub const OPEN: Limits = Limits { archive: 1 << 20, payload: 0 };
    /// On a data connection, before it is opened.
    pub const DATA_UNOPENED: Limits = Limits { archive: 4 << 10, payload: 0 };
    /// On a data connection: one piece of I/O.
    pub const DATA: Limits = Limits { archive: 4 << 10, payload: 1 << 20 };
}

/// Who speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// `FromClient`.
    Client = 1,
    /// `FromManager`.
    Manager = 2,
    /// `data::FromClient`.
    DataClient = 3,
    /// `data::FromManager`.
    DataManager = 4,
}

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// They begin with something else.
    #[error("not a frame: it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// Another version of the envelope.
    #[error("frame of version {0}; this program speaks version {FRAME_VERSION}")]
    Version(u16),
    /// Not what this side takes.
    #[error("frame of kind {0}, which does not come this way")]
    Kind(u8),
    /// A flag or a reserved byte is set.
    #[error("frame with unknown flags or reserved bytes set")]
    Reserved,
    /// Longer than this direction and phase allow.
    #[error("{part} of {len} bytes where at most {limit} are taken")]
    TooLong {
        /// `archive` or `payload`.
        part: &'static str,
        /// As announced, or as made.
        len: u64,
        /// As allowed.
        limit: u32,
    },
    /// No message in it.
    #[error("frame without a message")]
    Empty,
    /// The bytes are not those that were sent.
    #[error("frame with a wrong checksum")]
    Checksum,
    /// The archive does not pass its check.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The connection ended in the middle.
    #[error("the connection ended within a frame")]
    Half,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<FrameError> for Error {
    fn from(e: FrameError) -> Self {
        match e {
            FrameError::Io(e) => super::tls::explain(e),
            FrameError::Half => Error::new(Kind::Unreachable, e.to_string()),
            FrameError::Version(_) => Error::new(Kind::Version, e.to_string()).hint("client and manager must be of the same release"),
            _ => Error::new(Kind::Damaged, e.to_string()),
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 4],
    version: U16,
    kind: u8,
    flags: u8,
    archive: U32,
    payload: U32,
    checksum: U32,
    reserved: [u8; 12],
}

/// A header that has been checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes of archive that follow; at least 1.
    pub archive: u32,
    /// Bytes of payload after that.
    pub payload: u32,
    checksum: u32,
}

impl Header {
    /// Checks a header.
    ///
    /// # Errors
    /// Whatever is not as the table above says, and lengths over `limits`.
    pub fn parse(bytes: &[u8; HEADER], kind: FrameKind, limits: Limits) -> Result<Self, FrameError> {
        let raw: Raw = zerocopy::transmute!(*bytes);
        if raw.magic != MAGIC {
            return Err(FrameError::Magic(raw.magic));
        }
        if raw.version.get() != FRAME_VERSION {
            return Err(FrameError::Version(raw.version.get()));
        }
        if raw.kind != kind as u8 {
            return Err(FrameError::Kind(raw.kind));
        }
        if raw.flags != 0 || raw.reserved != [0; 12] {
            return Err(FrameError::Reserved);
        }
        let header = Self { archive: raw.archive.get(), payload: raw.payload.get(), checksum: raw.checksum.get() };
        if header.archive > limits.archive {
            return Err(FrameError::TooLong { part: "message", len: header.archive.into(), limit: limits.archive });
        }
        if header.payload > limits.payload {
            return Err(FrameError::TooLong { part: "payload", len: header.payload.into(), limit: limits.payload });
        }
        if header.archive == 0 {
            return Err(FrameError::Empty);
        }
        Ok(header)
    }

    /// Whether `archive` is what was sent behind this header.
    ///
    /// # Errors
    /// `Checksum`.
    pub fn check(&self, head: &[u8; HEADER], archive: &[u8]) -> Result<(), FrameError> {
        if checksum(head, archive) == self.checksum { Ok(()) } else { Err(FrameError::Checksum) }
    }

    /// The header of this archive.
    ///
    /// # Errors
    /// `TooLong` over `limits`, `Empty`.
    pub fn make(kind: FrameKind, archive: &[u8], limits: Limits) -> Result<[u8; HEADER], FrameError> {
        Self::make_for(kind, archive, 0, limits)
    }

    /// The header of this archive, with so many bytes of payload behind it.
    ///
    /// # Errors
    /// As [`Header::make`].
    pub fn make_for(kind: FrameKind, archive: &[u8], payload: usize, limits: Limits) -> Result<[u8; HEADER], FrameError> {
        let payload = u32::try_from(payload).ok().filter(|len| *len <= limits.payload).ok_or(FrameError::TooLong {
            part: "payload",
            len: payload as u64,
            limit: limits.payload,
        })?;
        let len = u32::try_from(archive.len()).ok().filter(|len| *len <= limits.archive);
        let len = len.ok_or(FrameError::TooLong { part: "message", len: archive.len() as u64, limit: limits.archive })?;
        if len == 0 {
            return Err(FrameError::Empty);
        }
        let mut raw = Raw {
            magic: MAGIC,
            version: FRAME_VERSION.into(),
            kind: kind as u8,
            flags: 0,
            archive: len.into(),
            payload: payload.into(),
            checksum: 0.into(),
            reserved: [0; 12],
        };
        let mut bytes = [0; HEADER];
        bytes.copy_from_slice(raw.as_bytes());
        raw.checksum = checksum(&bytes, archive).into();
        bytes.copy_from_slice(raw.as_bytes());
        Ok(bytes)
    }
}

fn checksum(head: &[u8; HEADER], archive: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..16]), archive)
}
