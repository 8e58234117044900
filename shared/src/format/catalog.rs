//! A block of the catalog log: one page of a catalog area.
//!
//! An area is a row of *units*: first the checkpoint, cut into pieces, the last of which says that it is the last; then one
//! unit for each transaction. A unit takes one or more blocks, each of which names the unit, its own place in it and the
//! number of blocks of the whole; a unit counts only when all of them are there. Page `i` of an area carries sequence
//! number `first_seq + i`, with `first_seq` from the label; sequence numbers grow over areas, so a block left over from an
//! earlier use of the area is never taken for one of this.

use super::envelope::{self, BlockKind, Flaw, Head, PAGE_PAYLOAD, Place};
use super::label::Instance;
use crate::ids::{DiskId, Generation, PoolId, Seq};
use crate::units::DiskOff;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const RAW: usize = 64;
/// Bytes of a unit that fit in one block.
pub const BLOCK_BYTES: usize = PAGE_PAYLOAD - RAW;

/// What a unit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A piece of the checkpoint; more follow.
    Piece = 1,
    /// The last piece of the checkpoint.
    LastPiece = 2,
    /// A transaction.
    Transaction = 3,
}

/// What a block says besides its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHead {
    /// The manager that wrote it.
    pub writer: Instance,
    /// Number of the unit; grows by one, over areas too.
    pub unit: u64,
    /// Which block of the unit, from 0.
    pub part: u32,
    /// How many the unit has.
    pub parts: u32,
    /// What the unit is.
    pub role: Role,
}

/// Where and under which counters a block lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockPlace {
    /// The pool.
    pub pool: PoolId,
    /// The disk.
    pub disk: DiskId,
    /// The byte on it.
    pub at: DiskOff,
    /// Generation of its writer.
    pub generation: Generation,
    /// Its number.
    pub seq: Seq,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawBlock {
    writer: [u8; 16],
    unit: U64,
    part: U32,
    parts: U32,
    role: u8,
    room: [u8; 31],
}

/// Blocks that a unit of `bytes` bytes takes: at least one.
#[must_use]
pub fn blocks_for(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK_BYTES).max(1)
}

/// Lays a block with these bytes of its unit (at most [`BLOCK_BYTES`]) out in `page`.
pub fn encode_into(head: &BlockHead, place: &BlockPlace, bytes: &[u8], page: &mut [u8]) {
    let raw = RawBlock {
        writer: head.writer.0,
        unit: head.unit.into(),
        part: head.part.into(),
        parts: head.parts.into(),
        role: head.role as u8,
        room: [0; 31],
    };
    let mut payload = Vec::with_capacity(PAGE_PAYLOAD);
    payload.extend(raw.as_bytes());
    payload.extend(bytes);
    let BlockPlace { pool, disk, at, generation, seq } = *place;
    envelope::seal_into(&Head { kind: BlockKind::Catalog, pool, disk, at, generation, seq }, &payload, page);
}

/// The block at this place, and its bytes. A whole block of another generation or sequence is a left-over, and `NotOurs`.
///
/// # Errors
/// Why there is none.
pub fn decode<'a>(page: &'a [u8], place: &BlockPlace) -> Result<(BlockHead, &'a [u8]), Flaw> {
    let want = Place { kind: BlockKind::Catalog, pool: Some(place.pool), disk: Some(place.disk), at: place.at };
    let block = envelope::open(page, &want)?;
    if (block.head.generation, block.head.seq) != (place.generation, place.seq) {
        return Err(Flaw::NotOurs);
    }
    let bad = Flaw::Length(u32::try_from(block.payload.len()).unwrap_or(u32::MAX));
    let (raw, bytes) = RawBlock::ref_from_prefix(block.payload).map_err(|_| bad)?;
    let role = match raw.role {
        1 => Role::Piece,
        2 => Role::LastPiece,
        3 => Role::Transaction,
        _ => return Err(bad),
    };
    let head = BlockHead { writer: Instance(raw.writer), unit: raw.unit.get(), part: raw.part.get(), parts: raw.parts.get(), role };
    if head.part >= head.parts || bytes.len() > BLOCK_BYTES {
        return Err(bad);
    }
    Ok((head, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::envelope::HEADER;
    use crate::units::PAGE;

    #[test]
    fn golden_bytes_and_left_overs() {
        let head = BlockHead { writer: Instance([5; 16]), unit: 0x0201, part: 1, parts: 3, role: Role::Transaction };
        let place =
            BlockPlace { pool: PoolId([1; 16]), disk: DiskId([2; 16]), at: DiskOff(1 << 24), generation: Generation(3), seq: Seq(40) };
        let mut page = vec![0xff; PAGE];
        encode_into(&head, &place, b"records", &mut page);
        let mut body = vec![5; 16];
        body.extend([1, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 3]);
        body.resize(RAW, 0);
        body.extend(b"records");
        assert_eq!(page[HEADER..HEADER + body.len()], body);
        assert_eq!(page[8..12], [4, 0, 1, 0]);
        assert!(page[HEADER + body.len()..].iter().all(|b| *b == 0));
        assert_eq!(decode(&page, &place), Ok((head, &b"records"[..])));
        assert_eq!(decode(&page, &BlockPlace { seq: Seq(41), ..place }), Err(Flaw::NotOurs));
        assert_eq!(decode(&page, &BlockPlace { generation: Generation(4), ..place }), Err(Flaw::NotOurs));
        assert!(matches!(decode(&page, &BlockPlace { at: DiskOff(0), ..place }), Err(Flaw::Elsewhere(..))));
        assert_eq!((blocks_for(0), blocks_for(BLOCK_BYTES), blocks_for(BLOCK_BYTES + 1)), (1, 1, 2));
    }
}
