//! Disks with unflushed writes of one volume: a bit a disk, and the moment at which the oldest of the writes was submitted.
//!
//! Invariant: a disk is marked after the write has completed and before it is acknowledged; taken before the flush is submitted. What one
//! volume flushes never clears another one's marks. Rounds of one volume's flushes do not overlap.
//!
//! Why a mark may be left out where the bit is set already: the writer looks at the bit after its write has completed. Where it finds it
//! set, the take that clears that bit comes after the look (both are `SeqCst` on one word), so the flush that follows the take is submitted
//! after the write's completion, and covers it. Where it finds it clear it sets it, as ever. The moment is lowered before the bit is looked at and taken
//! after the bit is: so whoever clears the bit sees it, or the round before has, whose flush came after the write, too.

use crate::path::lives::Stamp;
use fusevol_shared::units::DiskNo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = (u16::MAX as usize + 1) / 64;

/// Of 64 disks: made when the first of them is written.
type Moments = Box<[AtomicU64; 64]>;

/// See the head of this file.
pub struct Dirty {
    bits: Box<[AtomicU64]>,
    since: Box<[OnceLock<Moments>]>,
}

impl Default for Dirty {
    fn default() -> Self {
        Self { bits: (0..WORDS).map(|_| AtomicU64::new(0)).collect(), since: (0..WORDS).map(|_| OnceLock::new()).collect() }
    }
}

impl Dirty {
    fn moment(&self, no: DiskNo) -> &AtomicU64 {
        let of_word = || Box::new(std::array::from_fn(|_| AtomicU64::new(Stamp::NEVER.0)));
        &self.since[usize::from(no.0 / 64)].get_or_init(of_word)[usize::from(no.0 % 64)]
    }

    /// A write to `no` that was submitted at `at` has completed.
    pub fn mark(&self, no: DiskNo, at: Stamp) {
        let since = self.moment(no);
        // All writers of a disk meet on these words: most find them as they must be, and leave them alone.
        if since.load(Ordering::SeqCst) > at.0 {
            since.fetch_min(at.0, Ordering::SeqCst);
        }
        let (word, bit) = (&self.bits[usize::from(no.0 / 64)], 1u64 << (no.0 % 64));
        if word.load(Ordering::SeqCst) & bit == 0 {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Takes all marks, each with the moment of its oldest write.
    #[must_use]
    pub fn take(&self) -> Vec<(DiskNo, Stamp)> {
        let mut out = Vec::new();
        for (i, word) in (0u16..).zip(self.bits.iter()) {
            if word.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                let no = DiskNo(i * 64 + u16::try_from(bits.trailing_zeros()).unwrap_or(0));
                out.push((no, Stamp(self.moment(no).swap(Stamp::NEVER.0, Ordering::SeqCst))));
                bits &= bits - 1;
            }
        }
        out
    }
}
