//! A set of an allocation unit's 64 blocks in one `u64`; bit 0 is the first block.

use crate::units::place;
use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

place!(/// Blocks of one AU.
    BlockMask(u64));

impl BlockMask {
    /// No block.
    pub const NONE: BlockMask = BlockMask(0);
    /// All 64.
    pub const ALL: BlockMask = BlockMask(u64::MAX);

    /// Blocks `r.start..r.end`, both at most 64.
    #[must_use]
    pub fn range(r: Range<u32>) -> Self {
        debug_assert!(r.start <= r.end && r.end <= 64);
        if r.start >= r.end {
            return Self::NONE;
        }
        let upto = if r.end >= 64 { u64::MAX } else { (1 << r.end) - 1 };
        Self(upto & !((1u64 << r.start) - 1))
    }

    /// Whether block `b` is in it.
    #[must_use]
    pub fn has(self, b: u32) -> bool {
        b < 64 && self.0 >> b & 1 == 1
    }

    /// Both.
    #[must_use]
    pub fn or(self, o: Self) -> Self {
        Self(self.0 | o.0)
    }

    /// In both.
    #[must_use]
    pub fn and(self, o: Self) -> Self {
        Self(self.0 & o.0)
    }

    /// In this, not in `o`.
    #[must_use]
    pub fn minus(self, o: Self) -> Self {
        Self(self.0 & !o.0)
    }

    /// No block at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many blocks.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// The runs of set blocks, ascending, without allocation.
    pub fn runs(self) -> impl Iterator<Item = Range<u32>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let start = rest.trailing_zeros();
            let len = (!(rest >> start)).trailing_zeros();
            let run = Self::range(start..start + len);
            rest &= !run.0;
            Some(start..start + len)
        })
    }
}
