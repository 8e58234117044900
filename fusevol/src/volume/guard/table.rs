//! The bits of the ranges that are held without the queue: one word for the 64 blocks of an AU, found by a hash of its number.
//!
//! Invariant: a set bit belongs to one range: it is set only where it is clear, by one compare-and-swap for all bits of a word, and cleared
//! only by its owner. All accesses are `SeqCst`; the head of [`super`] says what for.

use fusevol_shared::units::BLOCKS_PER_AU;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words of the table: far more than there are requests in flight, so that two AUs seldom meet; 32 KiB a volume.
const WORDS: usize = 1 << WORDS_LOG2;
const WORDS_LOG2: u32 = 12;
const PER_AU: u64 = BLOCKS_PER_AU as u64;
const _: () = assert!(BLOCKS_PER_AU == 64, "a word has a bit for each block of an AU");

/// The bits of a range in one word.
#[derive(Clone, Copy)]
struct Part {
    word: usize,
    bits: u64,
}

/// The bits of a range of one AU, or of two that are neighbours.
pub(super) struct Bits {
    first: Part,
    second: Option<Part>,
}

/// How many AUs of a range, or words of the table where the range has at least as many AUs, were seen clear.
#[derive(Default)]
pub(super) struct Seen(u64);

/// The table.
pub(super) struct Table(Box<[AtomicU64]>);

impl Default for Table {
    fn default() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

/// AUs side by side lie in different words, and in different cache lines where they can.
fn word(au: u64) -> usize {
    let hash = au.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - WORDS_LOG2);
    usize::try_from(hash).expect("12 bits")
}

/// The part of a range in an AU that it touches.
fn part(au: u64, range: &Range<u64>) -> Part {
    let start = range.start.max(au * PER_AU) - au * PER_AU;
    let end = (range.end - au * PER_AU).min(PER_AU);
    Part { word: word(au), bits: u64::MAX >> (PER_AU - (end - start)) << start }
}

impl Bits {
    /// `None` for a range of more than two AUs, or an empty one.
    pub(super) fn of(range: &Range<u64>) -> Option<Self> {
        let (first, last) = (range.start / PER_AU, range.end.checked_sub(1)? / PER_AU);
        if range.is_empty() || last - first > 1 {
            return None;
        }
        Some(Self { first: part(first, range), second: (last > first).then(|| part(last, range)) })
    }
}

#[cfg(test)]
impl Bits {
    /// Whether two AUs exclude each other without need.
    pub(super) fn share_a_word(a: u64, b: u64) -> bool {
        word(a) == word(b)
    }
}

impl Table {
    /// Sets them, or none where one is set.
    #[must_use]
    pub(super) fn set(&self, bits: &Bits) -> bool {
        self.set_part(bits.first) && bits.second.is_none_or(|second| self.set_part(second) || self.undo(bits.first))
    }

    fn set_part(&self, p: Part) -> bool {
        let free = |now: u64| (now & p.bits == 0).then_some(now | p.bits);
        self.0[p.word].fetch_update(Ordering::SeqCst, Ordering::SeqCst, free).is_ok()
    }

    fn undo(&self, p: Part) -> bool {
        self.clear_part(p);
        false
    }

    fn clear_part(&self, p: Part) {
        let before = self.0[p.word].fetch_and(!p.bits, Ordering::SeqCst);
        debug_assert_eq!(before & p.bits, p.bits, "a range clears its own bits, once");
    }

    /// Clears them.
    pub(super) fn clear(&self, bits: &Bits) {
        self.clear_part(bits.first);
        bits.second.into_iter().for_each(|p| self.clear_part(p));
    }

    /// Whether every bit of `range` was seen clear: goes on where it was stopped by a set one.
    #[must_use]
    pub(super) fn seen_clear(&self, range: &Range<u64>, seen: &mut Seen) -> bool {
        if range.is_empty() {
            return true;
        }
        let (first, last) = (range.start / PER_AU, (range.end - 1) / PER_AU);
        let words = WORDS as u64;
        let whole = last - first >= words;
        let count = if whole { words } else { last - first + 1 };
        while seen.0 < count {
            let set = match whole {
                true => self.0[usize::try_from(seen.0).expect("below WORDS")].load(Ordering::SeqCst),
                false => {
                    let p = part(first + seen.0, range);
                    self.0[p.word].load(Ordering::SeqCst) & p.bits
                }
            };
            if set != 0 {
                return false;
            }
            seen.0 += 1;
        }
        true
    }
}
