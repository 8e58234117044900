//! The preserve log on disk: where blocks of snapshots are kept before they are overwritten.
//!
//! A *segment* is one AU on each of its legs, the same content but for the address in each page's envelope:
//!
//! | bytes | what |
//! |---|---|
//! | from 0 | records, one after the other: a page that names 1 to 63 blocks, then the blocks' old bytes |
//! | the last page | the successor: which segment goes on, and how many records count in this one; or the break: no space |
//!
//! Both pages are frames of kind `Preserve` (see [`super::envelope`]), `seq` in the envelope is the record's number in
//! the log of its attachment, from 1 on without a gap; the envelope's generation is 0. All numbers are little endian.
//!
//! Invariants: a record is written only after all before it are durable on every leg; a successor only once no record
//! will follow in its segment, and before the first record of the next one. A break stands in the place that is kept for the
//! successor, so there is always room for it: the snapshots that read this log have lost blocks from there on.

use super::envelope::{self, BlockKind, Flaw, Head, PAGE_PAYLOAD, Place};
use crate::ids::{DiskId, FenceToken, Generation, PoolId, Seq, SessionNo, VolumeEpoch, VolumeId};
use crate::map::LEGS_MAX;
use crate::units::{AuNo, AuSize, BLOCKS_PER_AU, DiskAu, DiskNo, DiskOff, PAGE, PAGE_U64};
use std::fmt;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const RECORD: u8 = 1;
const SUCCESSOR: u8 = 2;
const BREAK: u8 = 3;

/// Whose log a page belongs to: anything else ends the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogId {
    /// The pool.
    pub pool: PoolId,
    /// The volume.
    pub volume: VolumeId,
    /// The session that writes.
    pub session: SessionNo,
    /// Its attachment.
    pub token: FenceToken,
    /// The segment's number within the volume.
    pub segment: u32,
    /// Epoch of the newest snapshot when the segment was granted.
    pub epoch: VolumeEpoch,
}

/// Where on which disk a page lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    /// The disk.
    pub disk: DiskId,
    /// The page's first byte.
    pub off: DiskOff,
}

/// One preserved block: its place on disk, and the checksum of its old bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The AU that will be overwritten.
    pub at: DiskAu,
    /// The block in it.
    pub block: u32,
    /// CRC-32C of the old bytes.
    pub crc: u32,
}

/// The segment that goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Successor {
    /// Its log: same pool, volume, session and attachment.
    pub next: LogId,
    /// Its replicas.
    pub legs: Vec<DiskAu>,
    /// Records that count in the segment that ends.
    pub records: u32,
}

/// Why bytes are not the page that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotPreserve {
    /// The envelope says so.
    Envelope(Flaw),
    /// Whole, but of another log, or another kind of page.
    OtherLog,
    /// Whole, but it does not fit together.
    Malformed,
}

impl fmt::Display for NotPreserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotPreserve::Envelope(flaw) => write!(f, "{flaw}"),
            NotPreserve::OtherLog => f.write_str("a page of another log"),
            NotPreserve::Malformed => f.write_str("a page that does not fit together"),
        }
    }
}

/// The fixed part of a page's payload.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawPage {
    what: u8,
    reserved: [u8; 3],
    /// Blocks of a record; legs of a successor.
    count: U32,
    volume: [u8; 16],
    token: U64,
    epoch: U64,
    session: U32,
    segment: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawKept {
    disk: U16,
    block: u8,
    reserved: u8,
    au: U32,
    crc: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuccessor {
    epoch: U64,
    segment: U32,
    records: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawLeg {
    disk: U16,
    reserved: U16,
    au: U32,
}

const _: () = assert!(size_of::<RawPage>() + BLOCKS_PER_AU as usize * size_of::<RawKept>() <= PAGE_PAYLOAD);

/// Bytes of a record of `blocks` blocks.
#[must_use]
pub fn record_len(size: AuSize, blocks: u32) -> u64 {
    PAGE_U64 + u64::from(blocks) * size.block_bytes()
}

/// Where the successor's page lies in a segment: records end before it.
#[must_use]
pub fn successor_at(size: AuSize) -> u64 {
    size.bytes() - PAGE_U64
}

/// Blocks that a record at byte `pos` of a segment may hold at most.
#[must_use]
pub fn room(size: AuSize, pos: u64) -> u32 {
    let bytes = successor_at(size).saturating_sub(pos).saturating_sub(PAGE_U64);
    u32::try_from(bytes / size.block_bytes()).unwrap_or(0).min(BLOCKS_PER_AU)
}

/// The checksum of a block's old bytes.
#[must_use]
pub fn checksum(block: &[u8]) -> u32 {
    crc32c::crc32c(block)
}

fn page(what: u8, log: &LogId, count: usize) -> RawPage {
    RawPage {
        what,
        reserved: [0; 3],
        count: u32::try_from(count).expect("at most 64").into(),
        volume: log.volume.0,
        token: log.token.0.into(),
        epoch: log.epoch.0.into(),
        session: log.session.0.into(),
        segment: log.segment.into(),
    }
}

fn seal(log: &LogId, at: At, seq: Seq, payload: &[u8], out: &mut [u8]) {
    let head = Head { kind: BlockKind::Preserve, pool: log.pool, disk: at.disk, at: at.off, generation: Generation(0), seq };
    envelope::seal_into(&head, payload, &mut out[..PAGE]);
}

/// Lays a record's page out in the first page of `out`.
///
/// # Panics
/// If there are more than 64 blocks, or `out` is shorter than a page: the caller's own numbers.
pub fn seal_record(log: &LogId, at: At, seq: Seq, kept: &[Kept], out: &mut [u8]) {
    let mut payload = page(RECORD, log, kept.len()).as_bytes().to_vec();
    for k in kept {
        let block = u8::try_from(k.block).expect("an AU has 64 blocks");
        let raw = RawKept { disk: k.at.disk.0.into(), block, reserved: 0, au: k.at.au.0.into(), crc: k.crc.into() };
        payload.extend_from_slice(raw.as_bytes());
    }
    seal(log, at, seq, &payload, out);
}

/// Lays a successor's page out in the first page of `out`; `seq` is the number of the next record.
///
/// # Panics
/// As [`seal_record`], for more than `LEGS_MAX` legs.
pub fn seal_successor(log: &LogId, at: At, seq: Seq, s: &Successor, out: &mut [u8]) {
    assert!(s.legs.len() <= LEGS_MAX, "a segment has at most LEGS_MAX legs");
    let mut payload = page(SUCCESSOR, log, s.legs.len()).as_bytes().to_vec();
    let raw = RawSuccessor { epoch: s.next.epoch.0.into(), segment: s.next.segment.into(), records: s.records.into() };
    payload.extend_from_slice(raw.as_bytes());
    for l in &s.legs {
        payload.extend_from_slice(RawLeg { disk: l.disk.0.into(), reserved: 0.into(), au: l.au.0.into() }.as_bytes());
    }
    seal(log, at, seq, &payload, out);
}

/// Lays the page out that breaks the log, in the first page of `out`: at the successor's place, in its stead.
///
/// # Panics
/// If `out` is shorter than a page.
pub fn seal_break(log: &LogId, at: At, seq: Seq, out: &mut [u8]) {
    seal(log, at, seq, page(BREAK, log, 0).as_bytes(), out);
}

fn open<'a>(bytes: &'a [u8], log: &LogId, at: At, what: u8) -> Result<(Seq, usize, &'a [u8]), NotPreserve> {
    let place = Place { kind: BlockKind::Preserve, pool: Some(log.pool), disk: Some(at.disk), at: at.off };
    let bytes = bytes.get(..PAGE).ok_or(NotPreserve::Malformed)?;
    let block = envelope::open(bytes, &place).map_err(NotPreserve::Envelope)?;
    let (raw, rest) = RawPage::read_from_prefix(block.payload).map_err(|_| NotPreserve::Malformed)?;
    let count = usize::try_from(raw.count.get()).map_err(|_| NotPreserve::Malformed)?;
    if raw.as_bytes() != page(what, log, count.min(BLOCKS_PER_AU as usize)).as_bytes() {
        return Err(NotPreserve::OtherLog);
    }
    Ok((block.head.seq, count, rest))
}

/// The record whose page is at the start of `bytes`: its number and what it keeps.
///
/// # Errors
/// Why it is none.
pub fn open_record(bytes: &[u8], log: &LogId, at: At) -> Result<(Seq, Vec<Kept>), NotPreserve> {
    let (seq, count, rest) = open(bytes, log, at, RECORD)?;
    let raw = <[RawKept]>::ref_from_bytes(rest).map_err(|_| NotPreserve::Malformed)?;
    if raw.len() != count || count == 0 || raw.iter().any(|k| u32::from(k.block) >= BLOCKS_PER_AU) {
        return Err(NotPreserve::Malformed);
    }
    let kept = raw.iter().map(|k| Kept {
        at: DiskAu { disk: DiskNo(k.disk.get()), au: AuNo(k.au.get()) },
        block: u32::from(k.block),
        crc: k.crc.get(),
    });
    Ok((seq, kept.collect()))
}

/// The successor whose page is at the start of `bytes`: the number of the next record, and the segment.
///
/// # Errors
/// Why it is none.
pub fn open_successor(bytes: &[u8], log: &LogId, at: At) -> Result<(Seq, Successor), NotPreserve> {
    let (seq, count, rest) = open(bytes, log, at, SUCCESSOR)?;
    let (raw, rest) = RawSuccessor::ref_from_prefix(rest).map_err(|_| NotPreserve::Malformed)?;
    let legs = <[RawLeg]>::ref_from_bytes(rest).map_err(|_| NotPreserve::Malformed)?;
    if legs.len() != count || count == 0 || count > LEGS_MAX {
        return Err(NotPreserve::Malformed);
    }
    let next = LogId { segment: raw.segment.get(), epoch: VolumeEpoch(raw.epoch.get()), ..*log };
    let legs = legs.iter().map(|l| DiskAu { disk: DiskNo(l.disk.get()), au: AuNo(l.au.get()) }).collect();
    Ok((seq, Successor { next, legs, records: raw.records.get() }))
}

/// Whether the page at the start of `bytes` breaks the log.
#[must_use]
pub fn is_break(bytes: &[u8], log: &LogId, at: At) -> bool {
    open(bytes, log, at, BREAK).is_ok_and(|(_, count, rest)| count == 0 && rest.is_empty())
}

#[cfg(test)]
mod tests;
