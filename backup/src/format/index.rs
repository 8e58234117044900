//! An index file: the lists of packs, gathered, so that opening a repository reads a few files instead of every pack.
//! It holds nothing that the packs do not: a lost or damaged one is made again from them.
//!
//! Payload of the envelope (kind 4), for each pack: name 16, bytes of its file 8, rows 4, zero 4, then the rows as in
//! the pack's own list.

use super::envelope::{FileKind, open, seal};
use super::id::FileId;
use super::pack::{ROW, Row, decode_rows, file_size};
use super::{Fields, PACK_MAX, damaged};
use fusevol_shared::error::Result;

/// A pack as an index knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexedPack {
    /// Its name.
    pub name: FileId,
    /// Bytes of its file.
    pub size: u64,
    /// Its entries, in order.
    pub rows: Vec<Row>,
}

/// The file's bytes.
#[must_use]
pub fn encode(repo: FileId, packs: &[IndexedPack]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(packs.iter().map(|p| 32 + p.rows.len() * ROW).sum());
    for p in packs {
        payload.extend_from_slice(&p.name.0);
        payload.extend_from_slice(&p.size.to_le_bytes());
        payload.extend_from_slice(&u32::try_from(p.rows.len()).expect("a pack has far fewer than 2^32 entries").to_le_bytes());
        payload.extend_from_slice(&[0; 4]);
        p.rows.iter().for_each(|r| r.encode(&mut payload));
    }
    seal(FileKind::Index, repo, &payload)
}

/// Checks and parses the file's bytes.
///
/// # Errors
/// `Damaged`, `Version`.
pub fn decode(repo: FileId, bytes: &[u8]) -> Result<Vec<IndexedPack>> {
    let (_, payload) = open(FileKind::Index, Some(repo), bytes)?;
    let mut f = Fields::new(payload);
    let mut packs = Vec::new();
    while f.left() > 0 {
        let name = FileId(f.array()?);
        let (size, count) = (f.u64()?, f.u32()?);
        f.zeros(4)?;
        let length = usize::try_from(count).ok().and_then(|c| c.checked_mul(ROW)).ok_or_else(|| damaged("a list is too long"))?;
        let (rows, end) = decode_rows(f.take(length)?)?;
        if size != file_size(rows.len(), end) || size > PACK_MAX * 2 {
            return Err(damaged(format!("pack {name} cannot have {size} bytes")));
        }
        packs.push(IndexedPack { name, size, rows });
    }
    Ok(packs)
}
