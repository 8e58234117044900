//! What every file of metadata begins with: who it belongs to, what it is, how long, and a checksum over all of it.
//!
//! ```text
//!   0   8  magic "FVREPO\r\n" (a transfer that changes line ends is seen)
//!   8   2  kind        10  2  version      12  4  flags (bit 0: sealed; none is known yet)
//!  16  16  repository  32  8  length of the payload
//!  40  24  nonce (zero while not sealed)   64 16  tag (zero while not sealed)
//!  80  16  reserved, zero
//!  96  32  BLAKE3-256 over bytes 0..96 and the payload as it is stored
//! 128      payload
//! ```

use super::id::FileId;
use super::{Fields, VERSION, damaged};
use fusevol_shared::error::{Error, Kind, Result};

/// The first eight bytes.
pub const MAGIC: [u8; 8] = *b"FVREPO\r\n";
/// Bytes before the payload.
pub const HEADER: usize = 128;
/// Where the checksum stands.
const SUM_AT: usize = 96;

/// What an envelope holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum FileKind {
    /// `config`.
    Config = 1,
    /// Head of a pack.
    PackHead = 2,
    /// List of a pack's entries, at its end.
    PackList = 3,
    /// An index file.
    Index = 4,
    /// A manifest.
    Manifest = 5,
}

impl FileKind {
    fn name(self) -> &'static str {
        match self {
            Self::Config => "configuration",
            Self::PackHead => "head of a pack",
            Self::PackList => "list of a pack",
            Self::Index => "index",
            Self::Manifest => "manifest",
        }
    }
}

/// `payload` in its envelope.
#[must_use]
pub fn seal(kind: FileKind, repo: FileId, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(kind as u16).to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&repo.0);
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.resize(SUM_AT, 0);
    let sum = checksum(&out, payload);
    out.extend_from_slice(&sum);
    out.extend_from_slice(payload);
    out
}

/// The payload of exactly these bytes, checked; `repo` is `None` only for the configuration, which says it.
///
/// # Errors
/// `Damaged`; `Version` for a newer format or a sealed file.
pub fn open(kind: FileKind, repo: Option<FileId>, bytes: &[u8]) -> Result<(FileId, &[u8])> {
    parse(kind, repo, bytes).map_err(|e| e.within(format_args!("no {} of this repository", kind.name())))
}

fn parse(kind: FileKind, repo: Option<FileId>, bytes: &[u8]) -> Result<(FileId, &[u8])> {
    let mut f = Fields::new(bytes);
    if f.array()? != MAGIC {
        return Err(damaged("the magic is wrong"));
    }
    let (its_kind, version, flags) = (f.u16()?, f.u16()?, f.u32()?);
    let its_repo = FileId(f.array()?);
    let length = f.u64()?;
    let nonce_and_tag = f.zeros(40);
    let reserved = f.zeros(16);
    let sum: [u8; 32] = f.array()?;
    if length != f.left() as u64 {
        return Err(damaged(format!("it holds {} bytes, not {length}", f.left())));
    }
    let payload = f.take(f.left())?;
    if checksum(&bytes[..SUM_AT], payload) != sum {
        return Err(damaged("the checksum is wrong"));
    }
    // Only what the checksum covers may speak of versions: a flipped bit is no newer format.
    if version != VERSION || flags != 0 {
        let what = if version == VERSION { "it is encrypted".to_owned() } else { format!("its version is {version}, not {VERSION}") };
        return Err(Error::new(Kind::Version, what).hint("use a newer fusevol-backup"));
    }
    nonce_and_tag.and(reserved)?;
    if its_kind != kind as u16 {
        return Err(damaged(format!("its kind is {its_kind}")));
    }
    if repo.is_some_and(|r| r != its_repo) {
        return Err(damaged(format!("it belongs to repository {its_repo}")));
    }
    Ok((its_repo, payload))
}

fn checksum(head: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    h.update(head).update(payload);
    *h.finalize().as_bytes()
}
