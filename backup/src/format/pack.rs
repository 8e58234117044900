//! A pack: chunks one after another, then the list of them. A pack never changes.
//!
//! ```text
//! 0        head: envelope (kind 2) whose payload is the pack's name, 16 bytes      = 144 bytes
//! 144      entries, without a gap between them
//! L        list: envelope (kind 3) whose payload is a row of 48 bytes for each entry, in order
//! end-16   L, 8 bytes; magic "FVPKEND1"
//!
//! row:  0 32 chunk id   32 4 offset   36 4 stored bytes   40 4 plain bytes   44 1 kind   45 1 coding   46 2 zero
//! ```
//!
//! Coding 0: the plain bytes; 1: one zstd frame. (A sealed entry will be nonce 24, ciphertext, tag 16, with kind and id
//! authenticated; its stored bytes count all of them.) Every byte of a pack is covered: head and list by their
//! envelopes, entries by their ids, the end by having to agree with the length of the file.

use super::envelope::{FileKind, HEADER, open, seal};
use super::id::{ChunkId, ChunkKind, FileId};
use super::{CHUNK_MAX, Fields, PACK_MAX, damaged};
use fusevol_shared::error::Result;

/// Bytes of the head.
pub const HEAD_BYTES: usize = HEADER + 16;
/// The place after it.
pub const HEAD: u64 = HEAD_BYTES as u64;
/// Bytes of a row.
pub const ROW: usize = 48;
/// Bytes of the end.
pub const END_BYTES: usize = 16;
/// As a distance in a file.
pub const END: u64 = END_BYTES as u64;
const END_MAGIC: [u8; 8] = *b"FVPKEND1";
/// Largest plain chunk of either kind, bytes.
pub const PLAIN_MAX: u32 = CHUNK_MAX;

/// How an entry's bytes are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Coding {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// One entry of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Name of the chunk.
    pub id: ChunkId,
    /// Where it begins in the pack.
    pub offset: u32,
    /// Bytes in the pack.
    pub stored: u32,
    /// Bytes that it stands for.
    pub plain: u32,
    /// What it holds.
    pub kind: ChunkKind,
    /// How.
    pub coding: Coding,
}

impl Row {
    /// Appends its 48 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.stored.to_le_bytes());
        out.extend_from_slice(&self.plain.to_le_bytes());
        out.extend_from_slice(&[self.kind as u8, self.coding as u8, 0, 0]);
    }

    fn decode(f: &mut Fields<'_>) -> Result<Self> {
        let id = ChunkId(f.array()?);
        let (offset, stored, plain) = (f.u32()?, f.u32()?, f.u32()?);
        let kind = ChunkKind::from_byte(f.u8()?)?;
        let coding = match f.u8()? {
            0 => Coding::Raw,
            1 => Coding::Zstd,
            n => return Err(damaged(format!("coding {n} is unknown"))),
        };
        f.zeros(2)?;
        // A compressed entry is kept only where it is smaller.
        let fits = match coding {
            Coding::Raw => stored == plain,
            Coding::Zstd => stored < plain,
        };
        if plain == 0 || stored == 0 || plain > PLAIN_MAX || !fits {
            return Err(damaged(format!("an entry of {stored} bytes stands for {plain}")));
        }
        Ok(Self { id, offset, stored, plain, kind, coding })
    }

    /// The place after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.stored)
    }
}

/// Rows that follow each other without a gap from the head on, as every pack's do; gives the place after the last.
///
/// # Errors
/// `Damaged`.
pub fn decode_rows(bytes: &[u8]) -> Result<(Vec<Row>, u64)> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(ROW) {
        return Err(damaged(format!("{} bytes are no list of entries", bytes.len())));
    }
    let mut f = Fields::new(bytes);
    let mut rows = Vec::with_capacity(bytes.len() / ROW);
    let mut next = HEAD;
    while f.left() > 0 {
        let row = Row::decode(&mut f)?;
        if u64::from(row.offset) != next {
            return Err(damaged(format!("an entry begins at {}, not {next}", row.offset)));
        }
        next = row.end();
        rows.push(row);
    }
    if next > PACK_MAX {
        return Err(damaged(format!("the entries reach to {next}")));
    }
    Ok((rows, next))
}

/// The head's bytes.
#[must_use]
pub fn encode_head(repo: FileId, pack: FileId) -> Vec<u8> {
    seal(FileKind::PackHead, repo, &pack.0)
}

/// Checks the head.
///
/// # Errors
/// `Damaged`.
pub fn check_head(repo: FileId, pack: FileId, bytes: &[u8]) -> Result<()> {
    let (_, payload) = open(FileKind::PackHead, Some(repo), bytes)?;
    if payload == pack.0 { Ok(()) } else { Err(damaged("the pack carries another name")) }
}

/// List and end, as they follow the entries.
#[must_use]
pub fn encode_list(repo: FileId, rows: &[Row]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(rows.len() * ROW);
    rows.iter().for_each(|r| r.encode(&mut payload));
    let at = rows.last().map_or(HEAD, Row::end);
    let mut out = seal(FileKind::PackList, repo, &payload);
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&END_MAGIC);
    out
}

/// Bytes of a pack with these rows.
#[must_use]
pub fn file_size(rows: usize, entries_end: u64) -> u64 {
    entries_end + (HEADER + rows * ROW) as u64 + END
}

/// Where the list begins in a file of `size` bytes whose last 16 bytes are `end`.
///
/// # Errors
/// `Damaged`.
pub fn list_at(size: u64, end: &[u8]) -> Result<u64> {
    let mut f = Fields::new(end);
    let at = f.u64()?;
    if f.array()? != END_MAGIC {
        return Err(damaged("the end of the pack is missing"));
    }
    let room = size.checked_sub(END).and_then(|e| e.checked_sub(at)).unwrap_or(0);
    if size > PACK_MAX * 2 || at < HEAD || room < HEADER as u64 {
        return Err(damaged(format!("the list of a pack of {size} bytes cannot begin at {at}")));
    }
    Ok(at)
}

/// The rows of a list that begins at `at`: `bytes` are those from there to the end's 16.
///
/// # Errors
/// `Damaged`.
pub fn decode_list(repo: FileId, at: u64, bytes: &[u8]) -> Result<Vec<Row>> {
    let (_, payload) = open(FileKind::PackList, Some(repo), bytes)?;
    let (rows, next) = decode_rows(payload)?;
    if next != at {
        return Err(damaged(format!("the entries reach to {next}, the list begins at {at}")));
    }
    Ok(rows)
}
