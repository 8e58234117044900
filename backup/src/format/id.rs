//! Names: a chunk is named by its content, a file of the repository by 16 random bytes.

use super::damaged;
use fusevol_shared::error::Error;
use std::fmt;

/// Context string of the hash of table nodes, so that a volume's data can never pass for a table.
const NODE_CONTEXT: &str = "fusevol-backup repository v1 chunk table node";

/// What a chunk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChunkKind {
    /// Bytes of an image.
    Data = 0,
    /// A node of a chunk table.
    Node = 1,
}

impl ChunkKind {
    pub(crate) fn from_byte(b: u8) -> Result<Self, Error> {
        match b {
            0 => Ok(Self::Data),
            1 => Ok(Self::Node),
            _ => Err(damaged(format!("chunk kind {b} is unknown"))),
        }
    }
}

/// BLAKE3-256 of a chunk's plain bytes; nodes are hashed in a domain of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl ChunkId {
    /// The name of these bytes.
    #[must_use]
    pub fn of(kind: ChunkKind, plain: &[u8]) -> Self {
        Self(match kind {
            ChunkKind::Data => *blake3::hash(plain).as_bytes(),
            ChunkKind::Node => blake3::derive_key(NODE_CONTEXT, plain),
        })
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..6]))
    }
}

/// Name of a pack, an index file, a manifest or the repository: 16 random bytes, printed as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub [u8; 16]);

impl FileId {
    /// The first eight digits, for people.
    #[must_use]
    pub fn short(self) -> String {
        hex(&self.0[..4])
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl std::str::FromStr for FileId {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        unhex(s).map(Self)
    }
}

macro_rules! as_hex {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                unhex(&text).map(Self).map_err(serde::de::Error::custom)
            }
        }
    };
}
as_hex!(ChunkId);
as_hex!(FileId);

/// Lower-case hex digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

/// Exactly `2 * N` lower-case hex digits.
fn unhex<const N: usize>(text: &str) -> Result<[u8; N], Error> {
    let bad = || damaged(format!("'{}' is no name of {} hex digits", text.chars().take(80).collect::<String>(), 2 * N));
    let digit = |c: u8| match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(bad()),
    };
    if text.len() != 2 * N {
        return Err(bad());
    }
    let mut out = [0; N];
    for (to, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *to = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(out)
}
