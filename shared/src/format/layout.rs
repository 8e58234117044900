//! Which part of a disk is what. Every disk of a pool has the same layout:
//!
//! ```text
//! AU 0            byte 0        label copy 0
//!                 64 KiB        label copy 1
//!                 96 KiB        marks of the disk's age: 8 pages (`mark`)
//!                 128 KiB       owner table: 8 x (owner record 4 KiB, its SEAL 4 KiB), by generation modulo 8
//!                 192 KiB       letters to sessions: 16 pages (`mail`)
//! AU 1..          session slots 2,048 x (heartbeat 4 KiB, SEAL 4 KiB), whole AUs
//! then            4 catalog areas, whole AUs each
//! first_data..    data AUs
//! last AU         label copy 2 at its first byte
//! ```
//!
//! Invariant: the parts do not overlap and lie within the disk; everything follows from the AU size and the disk's
//! number of whole AUs, both of which stand in the label.

use crate::error::{Error, Kind, Result};
use crate::ids::Generation;
use crate::size;
use crate::units::{AuNo, AuSize, DiskOff, PAGE_U64};

/// Label copies on a disk.
pub const LABEL_COPIES: usize = 3;
/// Where the second label copy lies; the first lies at 0, the third at the last AU.
pub const LABEL_1: DiskOff = DiskOff(64 << 10);
/// Where the owner table lies.
pub const OWNER_TABLE: DiskOff = DiskOff(128 << 10);
/// Entries in the owner table.
pub const OWNER_SLOTS: u64 = 8;
/// Session slots.
pub const SESSION_SLOTS: u32 = 2048;
/// Bytes of a session slot: heartbeat and SEAL.
pub const SLOT_BYTES: u64 = 2 * PAGE_U64;
/// Catalog areas on a disk.
pub const AREAS: u8 = 4;
/// Smallest disk, in bytes.
pub const DISK_MIN: u64 = 64 << 20;
/// Byte of the manager's lock on each disk, far beyond any data.
pub const MANAGER_LOCK: u64 = 1 << 62;

const AREA_MIN: u64 = 4 << 20;
const AREA_MAX: u64 = 512 << 20;

/// The parts of one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The pool's AU size.
    pub au_size: AuSize,
    /// Whole AUs of the disk, the reserved ones included.
    pub aus: u32,
    /// AUs of one catalog area.
    pub area_aus: u32,
    /// First AU of the first catalog area.
    pub first_area: AuNo,
    /// First data AU.
    pub first_data: AuNo,
    /// One past the last data AU.
    pub end_data: AuNo,
}

impl Layout {
    /// The layout of a disk of `disk_bytes` bytes; bytes past its last whole AU are not used.
    ///
    /// # Errors
    /// `Refused` if it is too small or too large.
    pub fn for_disk(au_size: AuSize, disk_bytes: u64) -> Result<Self> {
        let small = || {
            Error::new(Kind::Refused, format!("a disk of {} is too small", size::show(disk_bytes)))
                .hint(format!("at least {} are needed, and more for large allocation units", size::show(DISK_MIN)))
        };
        if disk_bytes < DISK_MIN {
            return Err(small());
        }
        let aus = disk_bytes >> au_size.log2();
        let aus = u32::try_from(aus).map_err(|_| {
            Error::new(Kind::Refused, format!("a disk of {} has too many allocation units of {}", size::show(disk_bytes), au_size.bytes()))
                .hint("use a larger allocation unit")
        })?;
        Self::for_aus(au_size, aus).ok_or_else(small)
    }

    /// The layout of a disk of `aus` whole AUs, as a label says it; `None` if it is too small for its parts and one data AU.
    #[must_use]
    pub fn for_aus(au_size: AuSize, aus: u32) -> Option<Self> {
        let to_aus = |bytes: u64| u32::try_from(bytes.div_ceil(au_size.bytes())).ok();
        let slots = to_aus(u64::from(SESSION_SLOTS) * SLOT_BYTES)?;
        let area_aus = to_aus(((u64::from(aus) << au_size.log2()) / 512).clamp(AREA_MIN, AREA_MAX))?;
        let first_area = slots.checked_add(1)?;
        let first_data = area_aus.checked_mul(u32::from(AREAS))?.checked_add(first_area)?;
        let end_data = aus.checked_sub(1)?;
        (first_data < end_data).then_some(Self {
            au_size,
            aus,
            area_aus,
            first_area: AuNo(first_area),
            first_data: AuNo(first_data),
            end_data: AuNo(end_data),
        })
    }

    /// Where the label copies lie.
    #[must_use]
    pub fn labels(&self) -> [DiskOff; LABEL_COPIES] {
        [DiskOff(0), LABEL_1, self.end_data.start(self.au_size)]
    }

    /// Data AUs.
    #[must_use]
    pub fn data_aus(&self) -> u32 {
        self.end_data.0 - self.first_data.0
    }

    /// Whether `au` is a data AU.
    #[must_use]
    pub fn is_data(&self, au: AuNo) -> bool {
        (self.first_data..self.end_data).contains(&au)
    }

    /// Where a session's heartbeat lies; its SEAL is one page further on.
    #[must_use]
    pub fn slot(&self, session: crate::ids::SessionNo) -> DiskOff {
        AuNo(1).start(self.au_size).plus(u64::from(session.0 % SESSION_SLOTS) * SLOT_BYTES)
    }

    /// Where catalog area `no` begins; `None` unless `no` is below [`AREAS`].
    #[must_use]
    pub fn area(&self, no: u8) -> Option<DiskOff> {
        (no < AREAS).then(|| AuNo(self.first_area.0 + u32::from(no) * self.area_aus).start(self.au_size))
    }

    /// Pages of one catalog area.
    #[must_use]
    pub fn area_pages(&self) -> u64 {
        u64::from(self.area_aus) * self.au_size.bytes() / PAGE_U64
    }
}

/// Where the owner record of a generation lies.
#[must_use]
pub fn owner_at(generation: Generation) -> DiskOff {
    OWNER_TABLE.plus(generation.0 % OWNER_SLOTS * 2 * PAGE_U64)
}

/// Where the SEAL of a generation lies.
#[must_use]
pub fn seal_at(generation: Generation) -> DiskOff {
    owner_at(generation).plus(PAGE_U64)
}

/// Where the third label copy of a disk of this size would lie, for each AU size: for a disk whose first two are lost.
#[must_use]
pub fn last_label_candidates(disk_bytes: u64) -> Vec<DiskOff> {
    let mut all: Vec<DiskOff> = (0..=u8::MAX)
        .filter_map(AuSize::from_log2)
        .filter_map(|s| Some(DiskOff((disk_bytes >> s.log2()).checked_sub(1)? << s.log2())))
        .filter(|at| at.0 > LABEL_1.0)
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionNo;

    #[test]
    fn parts_of_the_smallest_disk() {
        let l = Layout::for_disk(AuSize::DEFAULT, DISK_MIN + 4096).expect("64 MiB are enough");
        assert_eq!((l.aus, l.area_aus, l.first_area, l.first_data, l.end_data), (64, 4, AuNo(17), AuNo(33), AuNo(63)));
        assert_eq!(l.labels(), [DiskOff(0), DiskOff(65536), DiskOff(63 << 20)]);
        assert_eq!(l.area(3), Some(DiskOff(29 << 20)));
        assert_eq!(l.area(4), None);
        assert_eq!(l.slot(SessionNo(2049)), DiskOff((1 << 20) + 8192));
        assert_eq!((l.data_aus(), l.area_pages()), (30, 1024));
        assert!(l.is_data(AuNo(33)) && !l.is_data(AuNo(63)) && !l.is_data(AuNo(32)));
        assert_eq!((owner_at(Generation(9)), seal_at(Generation(9))), (DiskOff((128 << 10) + 8192), DiskOff((128 << 10) + 12288)));
    }

    #[test]
    fn parts_never_overlap() {
        for log2 in 18..=26 {
            let s = AuSize::from_log2(log2).expect("in range");
            for bytes in [64 << 20, 1 << 30, 5 << 30, 4 << 40, 300 << 40, 1 << 57] {
                let Ok(l) = Layout::for_disk(s, bytes) else { continue };
                assert!(owner_at(Generation(7)).0 + 2 * PAGE_U64 <= s.bytes());
                assert!(l.slot(SessionNo(SESSION_SLOTS - 1)).0 + SLOT_BYTES <= l.first_area.start(s).0);
                assert_eq!(l.area(AREAS - 1).expect("last").0 + l.area_pages() * PAGE_U64, l.first_data.start(s).0);
                assert!(l.first_data < l.end_data && l.labels()[2].0 + s.bytes() <= bytes);
                assert!(last_label_candidates(bytes).contains(&l.labels()[2]));
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert!(Layout::for_disk(AuSize::DEFAULT, DISK_MIN - 1).is_err());
        assert!(Layout::for_disk(AuSize::from_log2(26).expect("in range"), 256 << 20).is_err());
        assert!(Layout::for_disk(AuSize::from_log2(18).expect("in range"), u64::MAX).is_err());
        assert!(last_label_candidates(0).is_empty());
    }
}
