//! Dirty regions as the data path sees them: a bit each, set before the first write to a region, cleared when it is at rest.
//!
//! ```text
//!  clean --Marked is durable, SEAL clear--> dirty --nobody writes in it, legs flushed, Cleared is durable--> clean
//!                                             '--- flip: its changes are said, and it is dirty anew in the new epoch
//! ```
//! The bit is what the journal says, or less: it is set after the mark is durable, and taken away before the clearing is.
//! Both are done under the range guard of the region's blocks, so no write is under way meanwhile.
//!
//! *touched* says whether a region was written since the cleaner looked last; a region that was not is at rest.
//!
//! *bound* says that AUs of the region may have been bound under this attachment and be *fresh* still: these need no mark, and count as marked for whoever
//! takes the volume over (PROTOCOL.md, T3). So they come to rest, too: the same clearing ends it, and the next write to them marks their region.

use fusevol_shared::change::Region;
use std::sync::atomic::{AtomicU64, Ordering};

/// The regions of one volume.
pub struct Regions {
    dirty: Box<[AtomicU64]>,
    touched: Box<[AtomicU64]>,
    bound: Box<[AtomicU64]>,
}

fn place(r: Region) -> (usize, u64) {
    ((r.0 / 64) as usize, 1 << (r.0 % 64))
}

impl Regions {
    /// All clean, of a volume of so many AUs.
    #[must_use]
    pub fn new(aus: u32) -> Self {
        let words = aus.div_ceil(fusevol_shared::change::AUS_PER_REGION).div_ceil(64);
        let clean = || (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { dirty: clean(), touched: clean(), bound: clean() }
    }

    /// Whether it is dirty; a writer that finds it so has touched it.
    #[must_use]
    pub fn touch(&self, r: Region) -> bool {
        let (word, bit) = place(r);
        let dirty = self.dirty[word].load(Ordering::SeqCst) & bit != 0;
        if dirty && self.touched[word].load(Ordering::Relaxed) & bit == 0 {
            self.touched[word].fetch_or(bit, Ordering::Relaxed);
        }
        dirty
    }

    /// An AU of it is written that was bound under this attachment.
    pub fn touch_bound(&self, r: Region) {
        let (word, bit) = place(r);
        for bits in [&self.bound, &self.touched] {
            if bits[word].load(Ordering::Relaxed) & bit == 0 {
                bits[word].fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// None of its AUs is fresh any more.
    pub fn forget_bound(&self, r: Region) {
        let (word, bit) = place(r);
        self.bound[word].fetch_and(!bit, Ordering::Relaxed);
    }

    /// Whether it is dirty.
    #[must_use]
    pub fn is_dirty(&self, r: Region) -> bool {
        let (word, bit) = place(r);
        self.dirty[word].load(Ordering::SeqCst) & bit != 0
    }

    /// Its mark is durable.
    pub fn set_dirty(&self, r: Region) {
        let (word, bit) = place(r);
        self.touched[word].fetch_or(bit, Ordering::Relaxed);
        self.dirty[word].fetch_or(bit, Ordering::SeqCst);
    }

    /// It is clean; whoever writes in it marks it again.
    pub fn set_clean(&self, r: Region) {
        let (word, bit) = place(r);
        self.dirty[word].fetch_and(!bit, Ordering::SeqCst);
    }

    /// Every dirty region, ascending.
    #[must_use]
    pub fn dirty(&self) -> Vec<Region> {
        list(self.dirty.iter().map(|w| w.load(Ordering::SeqCst)))
    }

    /// Regions that are dirty, or have fresh AUs, and were not written since the last call.
    #[must_use]
    pub fn at_rest(&self) -> Vec<Region> {
        let rests = |r: &Region| {
            let (word, bit) = place(*r);
            self.touched[word].fetch_and(!bit, Ordering::Relaxed) & bit == 0
        };
        let either = self.dirty.iter().zip(&self.bound).map(|(d, b)| d.load(Ordering::SeqCst) | b.load(Ordering::Relaxed));
        list(either).into_iter().filter(rests).collect()
    }
}

/// The regions of these words, ascending.
fn list(words: impl Iterator<Item = u64>) -> Vec<Region> {
    let mut out = Vec::new();
    for (i, word) in (0u32..).zip(words) {
        let mut bits = word;
        while bits != 0 {
            out.push(Region(i * 64 + bits.trailing_zeros()));
            bits &= bits - 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_comes_to_rest_when_nobody_writes_in_it() {
        let r = Regions::new(64 * 130);
        assert!(!r.touch(Region(129)));
        r.set_dirty(Region(129));
        r.set_dirty(Region(3));
        assert_eq!(r.dirty(), [Region(3), Region(129)]);
        assert!(r.at_rest().is_empty(), "just marked");
        assert!(r.touch(Region(3)));
        assert_eq!(r.at_rest(), [Region(129)]);
        r.set_clean(Region(129));
        assert_eq!(r.at_rest(), [Region(3)]);
        r.touch_bound(Region(70));
        assert_eq!(r.at_rest(), [Region(3)], "what was bound is written still");
        assert_eq!(r.at_rest(), [Region(3), Region(70)]);
        assert!(!r.is_dirty(Region(70)) && r.is_dirty(Region(3)));
        r.forget_bound(Region(70));
        assert_eq!((r.at_rest(), r.dirty()), (vec![Region(3)], vec![Region(3)]));
    }
}
