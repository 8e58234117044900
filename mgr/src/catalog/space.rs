//! Which AUs of one disk are taken.
//!
//! Invariant: a set bit has exactly one owner in the catalog (see [`super`]);
//! `take` and `release` check both ends of each change, and AUs outside the data range can never be taken.

use fusevol_shared::units::AuNo;
use std::ops::Range;

/// The data AUs of one disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Space {
    first: u32,
    end: u32,
    /// Bit `au - first`.
    taken: Vec<u64>,
    free: u32,
}

impl Space {
    /// All of `first..end` free.
    #[must_use]
    pub fn new(first: AuNo, end: AuNo) -> Self {
        let n = end.0.saturating_sub(first.0);
        Self { first: first.0, end: end.0.max(first.0), taken: vec![0; n.div_ceil(64) as usize], free: n }
    }

    /// The data range.
    #[must_use]
    pub fn range(&self) -> Range<u32> {
        self.first..self.end
    }

    /// Free AUs.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.free
    }

    /// Data AUs.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.end - self.first
    }

    fn place(&self, au: AuNo) -> Option<(usize, u64)> {
        let i = self.range().contains(&au.0).then(|| au.0 - self.first)?;
        Some(((i / 64) as usize, 1 << (i % 64)))
    }

    /// Whether `au` is a data AU.
    #[must_use]
    pub fn holds(&self, au: AuNo) -> bool {
        self.range().contains(&au.0)
    }

    /// Whether `au` is a data AU that nobody has.
    #[must_use]
    pub fn is_free(&self, au: AuNo) -> bool {
        self.place(au).is_some_and(|(w, bit)| self.taken[w] & bit == 0)
    }

    /// Takes a free AU; false, and no change, where it is not free.
    #[must_use]
    pub fn take(&mut self, au: AuNo) -> bool {
        let Some((w, bit)) = self.place(au).filter(|(w, bit)| self.taken[*w] & bit == 0) else { return false };
        self.taken[w] |= bit;
        self.free -= 1;
        true
    }

    /// Gives a taken AU back; false, and no change, where it is not taken.
    #[must_use]
    pub fn release(&mut self, au: AuNo) -> bool {
        let Some((w, bit)) = self.place(au).filter(|(w, bit)| self.taken[*w] & bit != 0) else { return false };
        self.taken[w] &= !bit;
        self.free += 1;
        true
    }

    /// The first run of free AUs that is `want` long at or after `from`, going round once; else the longest that there is.
    #[must_use]
    pub fn run(&self, from: AuNo, want: u32) -> Option<Range<u32>> {
        let start = if self.range().contains(&from.0) { from.0 } else { self.first };
        let mut best: Option<Range<u32>> = None;
        for part in [start..self.end, self.first..start] {
            let mut at = part.start;
            while let Some(run) = self.next_run(at..part.end, want) {
                at = run.end;
                if run.end - run.start >= want {
                    return Some(run);
                }
                if best.as_ref().is_none_or(|b| run.len() > b.len()) {
                    best = Some(run);
                }
            }
        }
        best
    }

    /// The first run of free AUs within `part`, cut at `want`.
    fn next_run(&self, part: Range<u32>, want: u32) -> Option<Range<u32>> {
        let mut at = part.start;
        while at < part.end {
            let i = at - self.first;
            let word = self.taken[(i / 64) as usize] >> (i % 64);
            if word == u64::MAX >> (i % 64) {
                at += 64 - i % 64;
                continue;
            }
            at += word.trailing_ones();
            break;
        }
        if at >= part.end {
            return None;
        }
        let limit = part.end.min(at.saturating_add(want.max(1)));
        let end = (at..limit).find(|au| !self.is_free(AuNo(*au))).unwrap_or(limit);
        (end > at).then_some(at..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_and_releases_once() {
        let mut s = Space::new(AuNo(10), AuNo(200));
        assert!(!s.take(AuNo(9)) && !s.take(AuNo(200)) && !s.release(AuNo(10)));
        assert!(s.take(AuNo(10)) && !s.take(AuNo(10)) && s.take(AuNo(199)));
        assert_eq!((s.free(), s.total()), (188, 190));
        assert!(s.release(AuNo(10)) && !s.release(AuNo(10)) && s.is_free(AuNo(10)));
    }

    #[test]
    fn finds_runs_as_a_plain_search_does() {
        let mut random = fusevol_shared::random::SeededRandom(3);
        for _ in 0..300 {
            let mut s = Space::new(AuNo(7), AuNo(7 + 200));
            for _ in 0..random.below(400) {
                let _ = s.take(AuNo(7 + u32::try_from(random.below(200)).expect("small")));
            }
            let (from, want) = (AuNo(u32::try_from(random.below(220)).expect("small")), 1 + u32::try_from(random.below(9)).expect("small"));
            let Some(run) = s.run(from, want) else {
                assert_eq!(s.free(), 0);
                continue;
            };
            assert!(run.clone().all(|a| s.is_free(AuNo(a))) && !run.is_empty() && run.len() <= want as usize);
            if run.len() < want as usize {
                let longest =
                    (7..207).filter(|a| (*a..(a + want).min(207)).len() == want as usize && (*a..a + want).all(|x| s.is_free(AuNo(x))));
                // A run that is cut where the search began is the only one that may be missed.
                assert!(longest.into_iter().all(|a| a < from.0 && a + want > from.0));
            }
        }
    }
}
