//! Marks: what the manager makes durable on every disk of the pool from time to time, and remembers elsewhere, so that a disk that comes back as an
//! older copy of itself is known.
//!
//! A mark has an [`Age`]: the manager's generation and a number that grows with each of its marks. It also says for other disks the last age
//! that was durable there. So each disk's page is a witness of the others; a disk that shows less than a witness says has lost what was durable.
//!
//! Places: [`MARK_GENERATIONS`] generations by turns, two pages each, by turns again. A page that tears in a power cut leaves the one before; what a
//! predecessor writes late does not meet what its successor has written.
//!
//! Invariant: an age is told only after the page that carries it was durable on that disk.

use super::envelope::{self, BlockKind, Flaw, Head, PAGE_PAYLOAD, Place};
use crate::ids::{DiskId, Generation, PoolId, Seq};
use crate::units::{DiskOff, PAGE_U64};
use std::fmt;
use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the marks lie: between the second label copy and the owner table.
pub const MARKS: DiskOff = DiskOff(96 << 10);
/// Generations that have places of their own at a time.
pub const MARK_GENERATIONS: u64 = 4;
/// Pages of marks on a disk.
pub const MARK_PAGES: u64 = 2 * MARK_GENERATIONS;
/// Most other disks that a mark tells of.
pub const TOLD_MAX: usize = PAGE_PAYLOAD / size_of::<RawTold>();

/// How new a mark is: a later generation's is newer, then the greater number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Age {
    /// Of the manager that wrote it.
    pub generation: Generation,
    /// Which of its marks.
    pub number: Seq,
}

impl Age {
    /// Which of the pages it stands in.
    #[must_use]
    pub fn page(&self) -> u64 {
        2 * (self.generation.0 % MARK_GENERATIONS) + self.number.0 % 2
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.number)
    }
}

/// See the head of this file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Of this very mark.
    pub age: Age,
    /// Ages that were durable on other disks; at most [`TOLD_MAX`].
    pub told: Vec<(DiskId, Age)>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTold {
    disk: [u8; 16],
    generation: U64,
    number: U64,
}

/// Where this page of marks lies.
#[must_use]
pub fn mark_at(page: u64) -> DiskOff {
    MARKS.plus(page % MARK_PAGES * PAGE_U64)
}

impl Mark {
    /// The page for this disk, to be written at [`mark_at`] of its age's page.
    #[must_use]
    pub fn encode(&self, pool: PoolId, disk: DiskId) -> Vec<u8> {
        let raw = |(disk, age): &(DiskId, Age)| RawTold { disk: disk.0, generation: age.generation.0.into(), number: age.number.0.into() };
        let told: Vec<RawTold> = self.told.iter().take(TOLD_MAX).map(raw).collect();
        let Age { generation, number: seq } = self.age;
        envelope::seal(&Head { kind: BlockKind::Mark, pool, disk, at: mark_at(self.age.page()), generation, seq }, told.as_bytes())
    }

    /// The mark in this page of a disk's marks.
    ///
    /// # Errors
    /// Why there is none.
    pub fn decode(bytes: &[u8], pool: PoolId, disk: DiskId, page: u64) -> Result<Self, Flaw> {
        let block = envelope::open(bytes, &Place { kind: BlockKind::Mark, pool: Some(pool), disk: Some(disk), at: mark_at(page) })?;
        let bad = Flaw::Length(u32::try_from(block.payload.len()).unwrap_or(u32::MAX));
        let raw = <[RawTold]>::ref_from_bytes(block.payload).map_err(|_| bad)?;
        let age = Age { generation: block.head.generation, number: block.head.seq };
        if age.page() != page {
            return Err(bad);
        }
        let one = |t: &RawTold| (DiskId(t.disk), Age { generation: Generation(t.generation.get()), number: Seq(t.number.get()) });
        Ok(Self { age, told: raw.iter().map(one).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::envelope::HEADER;
    use crate::format::layout::{LABEL_1, OWNER_TABLE};
    use crate::units::PAGE;

    const POOL: PoolId = PoolId([1; 16]);
    const DISK: DiskId = DiskId([2; 16]);

    fn age(generation: u64, number: u64) -> Age {
        Age { generation: Generation(generation), number: Seq(number) }
    }

    #[test]
    fn golden_bytes_of_a_mark() {
        let mark = Mark { age: age(6, 3), told: vec![(DiskId([7; 16]), age(5, 258))] };
        let page = mark.encode(POOL, DISK);
        let told = [[7; 16].as_slice(), &[5, 0, 0, 0, 0, 0, 0, 0], &[2, 1, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!((page.len(), &page[8..12]), (PAGE, [10, 0, 1, 0].as_slice()));
        assert_eq!(page[48..56], ((96u64 << 10) + 5 * 4096).to_le_bytes());
        assert_eq!(page[56..72], [[6, 0, 0, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0, 0, 0]].concat());
        assert_eq!(page[72..76], [32, 0, 0, 0]);
        assert_eq!(page[HEADER..HEADER + 32], told);
        assert_eq!(Mark::decode(&page, POOL, DISK, 5), Ok(mark));
        assert!(matches!(Mark::decode(&page, POOL, DISK, 4), Err(Flaw::Elsewhere(..))));
        assert!(Mark::decode(&page, POOL, DiskId([9; 16]), 5).is_err() && Mark::decode(&page, PoolId([9; 16]), DISK, 5).is_err());
        let mut torn = page.clone();
        torn[600] ^= 1;
        assert_eq!(Mark::decode(&torn, POOL, DISK, 5), Err(Flaw::Checksum));
    }

    #[test]
    fn a_page_holds_what_it_may_hold_and_the_next_one_lies_elsewhere() {
        let full = Mark { age: age(9, 1), told: vec![(DISK, age(1, 1)); TOLD_MAX + 1] };
        let read = Mark::decode(&full.encode(POOL, DISK), POOL, DISK, 3).expect("it is whole");
        assert_eq!((read.told.len(), TOLD_MAX), (125, 125));
        assert!(age(9, 1) > age(8, 200) && age(9, 2) > age(9, 1));
        assert_ne!(age(9, 1).page(), age(9, 2).page());
        assert!((1..MARK_GENERATIONS).all(|n| age(9 + n, 1).page() / 2 != age(9, 1).page() / 2));
        assert!(MARKS.0 > LABEL_1.0 + PAGE_U64 && mark_at(MARK_PAGES - 1).0 + PAGE_U64 == OWNER_TABLE.0);
    }
}
