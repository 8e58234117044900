//! Places and sizes, each its own type, so that a disk offset is never taken for a volume offset.
//!
//! A disk and a volume are both divided into *allocation units* (AU, 1 MiB unless the pool says
//! otherwise); an AU into 64 *blocks*, so that one `u64` is a full block mask.

use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// Blocks in an allocation unit: one bit each in a `u64`.
pub const BLOCKS_PER_AU: u32 = 64;
/// The logical sector that torn writes are reasoned about in, in bytes.
pub const SECTOR: usize = 512;
/// Alignment of every direct I/O: offset, length and memory, in bytes.
pub const PAGE: usize = 4096;
/// `PAGE` as a place on a disk or in a volume.
pub const PAGE_U64: u64 = 4096;

/// Size of an allocation unit: a power of two from 256 KiB to 64 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize)]
#[rkyv(derive(Debug))]
pub struct AuSize(u8);

impl AuSize {
    /// 1 MiB.
    pub const DEFAULT: AuSize = AuSize(20);
    /// Smallest and largest exponent: the block (AU / 64) is at least one page.
    const RANGE: std::ops::RangeInclusive<u8> = 18..=26;

    /// From the exponent that a label carries; `None` outside 2^18..=2^26.
    #[must_use]
    pub fn from_log2(log2: u8) -> Option<Self> {
        Self::RANGE.contains(&log2).then_some(Self(log2))
    }

    /// From a size in bytes; `None` unless a power of two from 256 KiB to 64 MiB.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        bytes.is_power_of_two().then(|| u8::try_from(bytes.trailing_zeros()).ok().and_then(Self::from_log2)).flatten()
    }

    /// The exponent.
    #[must_use]
    pub fn log2(self) -> u8 {
        self.0
    }

    /// Bytes in an AU.
    #[must_use]
    pub fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Bytes in a block.
    #[must_use]
    pub fn block_bytes(self) -> u64 {
        self.bytes() / u64::from(BLOCKS_PER_AU)
    }

    /// AUs that a volume of `len` bytes has, the last one perhaps in part; `None` past 2^32.
    #[must_use]
    pub fn aus_for(self, len: u64) -> Option<u32> {
        u32::try_from(len.div_ceil(self.bytes())).ok()
    }
}

macro_rules! place {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Archive, Serialize, Deserialize,
                 serde::Serialize, serde::Deserialize)]
        #[rkyv(derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash), compare(PartialEq))]
        #[serde(transparent)]
        pub struct $name(pub $int);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}
pub(crate) use place;

place!(/// A disk's number within its pool; never reused. Short for its UUID in maps.
    DiskNo(u16));
place!(/// Index of an allocation unit on a disk, from its first byte.
    AuNo(u32));
place!(/// Index of an allocation unit in a volume.
    VolAu(u32));
place!(/// A byte offset on a disk.
    DiskOff(u64));
place!(/// A byte offset in a volume.
    VolOff(u64));

/// One allocation unit of one disk.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Archive, Serialize, Deserialize, serde::Serialize, serde::Deserialize,
)]
#[rkyv(derive(Debug))]
pub struct DiskAu {
    /// Which disk.
    pub disk: DiskNo,
    /// Which AU on it.
    pub au: AuNo,
}

impl fmt::Display for DiskAu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.disk, self.au)
    }
}

impl AuNo {
    /// Where this AU begins on its disk.
    #[must_use]
    pub fn start(self, size: AuSize) -> DiskOff {
        DiskOff(u64::from(self.0) << size.log2())
    }
}

impl VolAu {
    /// Where this AU begins in its volume.
    #[must_use]
    pub fn start(self, size: AuSize) -> VolOff {
        VolOff(u64::from(self.0) << size.log2())
    }
}

impl VolOff {
    /// The AU that holds this byte. The volume is bounded by `u32` AUs (`AuSize::aus_for`).
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // a volume has at most 2^32 AUs, checked when it is made
    pub fn au(self, size: AuSize) -> VolAu {
        VolAu((self.0 >> size.log2()) as u32)
    }

    /// The offset of this byte within its AU.
    #[must_use]
    pub fn within_au(self, size: AuSize) -> u64 {
        self.0 & (size.bytes() - 1)
    }
}

impl DiskOff {
    /// `bytes` further on.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}
