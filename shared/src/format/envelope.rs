//! The envelope of every metadata block on a shared disk.
//!
//! A *frame* is one or more pages of [`PAGE`] bytes: a header of [`HEADER`] bytes, `length` bytes of payload, zeros up
//! to the end of the last page. The checksum (CRC-32C, with its own four bytes taken as zeros) covers the whole frame.
//! The header says what the block is (magic, kind, version), whose it is (pool), where it lies (disk and byte offset),
//! and when it was written (generation of the writing manager, sequence within its log).
//!
//! So a reader tells apart: never written or not ours ([`Flaw::NotOurs`]), torn or rotten ([`Flaw::Checksum`]),
//! misdirected or copied from elsewhere ([`Flaw::Elsewhere`]), left over from another pool ([`Flaw::Pool`]). Whether it
//! is a *stale* block of its own place is the caller's to tell, by generation and sequence.
//!
//! Invariant: `open(seal(head, payload), place of head) == payload`, and no other bytes of the frame's length open
//! under that place unless their checksum collides.

use crate::ids::{DiskId, Generation, PoolId, Seq};
use crate::units::{DiskOff, PAGE};
use std::fmt;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first eight bytes of every block.
pub const MAGIC: [u8; 8] = *b"fusevol\n";
/// Bytes of the header.
pub const HEADER: usize = 96;
/// Most payload bytes in one frame.
pub const PAYLOAD_MAX: usize = 16 << 20;
/// Payload bytes in a frame of one page.
pub const PAGE_PAYLOAD: usize = PAGE - HEADER;

const CRC_AT: usize = 12;

/// What a block is. The number never changes its meaning; the version of each kind grows with its layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum BlockKind {
    /// A disk's label.
    Label = 1,
    /// A manager's owner record.
    Owner = 2,
    /// The SEAL of a manager's generation.
    OwnerSeal = 3,
    /// A block of the catalog log.
    Catalog = 4,
    /// A session's heartbeat.
    Slot = 5,
    /// The SEAL of a session.
    SlotSeal = 6,
    /// A block of a preserve log.
    Preserve = 7,
    /// A frame of an attachment's journal.
    Journal = 8,
    /// A letter to a session.
    Mail = 9,
    /// A mark of a disk's age.
    Mark = 10,
}

impl BlockKind {
    /// The version that this program writes and reads.
    #[must_use]
    pub fn version(self) -> u16 {
        1
    }
}

/// What a block says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What it is.
    pub kind: BlockKind,
    /// Whose it is.
    pub pool: PoolId,
    /// The disk that it was written to.
    pub disk: DiskId,
    /// The byte on that disk at which it begins.
    pub at: DiskOff,
    /// Generation of the manager that wrote it, or whose grant it was written under.
    pub generation: Generation,
    /// Its number within its log.
    pub seq: Seq,
}

/// What a reader expects to find where it reads; what is `None` is not known yet and is taken from the block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// What it must be.
    pub kind: BlockKind,
    /// Whose it must be.
    pub pool: Option<PoolId>,
    /// The disk read from.
    pub disk: Option<DiskId>,
    /// The byte read from.
    pub at: DiskOff,
}

/// A block that passed every check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block<'a> {
    /// What it says of itself.
    pub head: Head,
    /// Its payload, without the padding.
    pub payload: &'a [u8],
}

/// Why bytes are not the block that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// No magic: never written, or not ours.
    NotOurs,
    /// Its length does not fit, or it is cut off.
    Length(u32),
    /// Torn or rotten.
    Checksum,
    /// A block of another kind.
    Kind(u16),
    /// Written by a program that this one does not understand.
    Version(u16),
    /// Of another pool.
    Pool(PoolId),
    /// Whole, but it belongs to another place.
    Elsewhere(DiskId, DiskOff),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::NotOurs => f.write_str("no block of ours"),
            Flaw::Length(n) => write!(f, "a length of {n} that does not fit"),
            Flaw::Checksum => f.write_str("wrong checksum"),
            Flaw::Kind(k) => write!(f, "a block of kind {k}"),
            Flaw::Version(v) => write!(f, "version {v}, which this program does not know"),
            Flaw::Pool(p) => write!(f, "a block of pool {p}"),
            Flaw::Elsewhere(d, at) => write!(f, "a block that belongs to byte {at} of disk {d}"),
        }
    }
}

impl std::error::Error for Flaw {}

/// The header as it lies on disk, not trusted.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    kind: U16,
    version: U16,
    crc: U32,
    pool: [u8; 16],
    disk: [u8; 16],
    at: U64,
    generation: U64,
    seq: U64,
    length: U32,
    reserved: [u8; 20],
}

/// Bytes of the frame that holds `payload` bytes: whole pages.
#[must_use]
pub fn frame_len(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(PAGE)
}

/// Lays the block out in `frame`, which must have the length `frame_len(payload.len())`.
///
/// # Panics
/// If it has not, or if the payload is longer than [`PAYLOAD_MAX`]: both are the caller's own lengths, never a disk's.
pub fn seal_into(head: &Head, payload: &[u8], frame: &mut [u8]) {
    assert!(payload.len() <= PAYLOAD_MAX && frame.len() == frame_len(payload.len()), "a frame is as long as its payload needs");
    let raw = RawHeader {
        magic: MAGIC,
        kind: (head.kind as u16).into(),
        version: head.kind.version().into(),
        crc: 0.into(),
        pool: head.pool.0,
        disk: head.disk.0,
        at: head.at.0.into(),
        generation: head.generation.0.into(),
        seq: head.seq.0.into(),
        length: u32::try_from(payload.len()).expect("bounded by PAYLOAD_MAX").into(),
        reserved: [0; 20],
    };
    frame[..HEADER].copy_from_slice(raw.as_bytes());
    frame[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    frame[HEADER + payload.len()..].fill(0);
    let crc = checksum(frame);
    frame[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The block in bytes of its own.
#[must_use]
pub fn seal(head: &Head, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; frame_len(payload.len())];
    seal_into(head, payload, &mut frame);
    frame
}

/// How long the frame that begins with `page` claims to be: how much to read before [`open`]. Not trusted, but bounded.
///
/// # Errors
/// `NotOurs` or `Length`.
pub fn claimed_len(page: &[u8]) -> Result<usize, Flaw> {
    let (raw, _) = RawHeader::ref_from_prefix(page).map_err(|_| Flaw::NotOurs)?;
    if raw.magic != MAGIC {
        return Err(Flaw::NotOurs);
    }
    let length = raw.length.get();
    usize::try_from(length).ok().filter(|n| *n <= PAYLOAD_MAX).map(frame_len).ok_or(Flaw::Length(length))
}

/// Checks `bytes`, which begin at `place` and hold at least the whole frame, and gives its payload.
///
/// # Errors
/// The first flaw: magic, length, checksum, kind, version, pool, address, in this order.
pub fn open<'a>(bytes: &'a [u8], place: &Place) -> Result<Block<'a>, Flaw> {
    let frame = bytes.get(..claimed_len(bytes)?).ok_or(Flaw::Length(u32::MAX))?;
    let (raw, _) = RawHeader::ref_from_prefix(frame).map_err(|_| Flaw::NotOurs)?;
    if raw.crc.get() != checksum(frame) {
        return Err(Flaw::Checksum);
    }
    if raw.kind.get() != place.kind as u16 {
        return Err(Flaw::Kind(raw.kind.get()));
    }
    if raw.version.get() != place.kind.version() {
        return Err(Flaw::Version(raw.version.get()));
    }
    let (pool, disk, at) = (PoolId(raw.pool), DiskId(raw.disk), DiskOff(raw.at.get()));
    if place.pool.is_some_and(|p| p != pool) {
        return Err(Flaw::Pool(pool));
    }
    if place.disk.is_some_and(|d| d != disk) || place.at != at {
        return Err(Flaw::Elsewhere(disk, at));
    }
    let head = Head { kind: place.kind, pool, disk, at, generation: Generation(raw.generation.get()), seq: Seq(raw.seq.get()) };
    let length = usize::try_from(raw.length.get()).map_err(|_| Flaw::Length(raw.length.get()))?;
    let payload = frame.get(HEADER..HEADER + length).ok_or(Flaw::Length(raw.length.get()))?;
    Ok(Block { head, payload })
}

fn checksum(frame: &[u8]) -> u32 {
    let (before, rest) = frame.split_at(CRC_AT.min(frame.len()));
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or_default())
}

#[cfg(test)]
mod tests;
