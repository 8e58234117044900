//! The AUs that are granted to a writer and not bound yet, as far as is folded.
//!
//! Invariant: no place is in it twice. The order is that of the disks, so that neighbours are given out and shown as runs.

use fusevol_shared::change::Places;
use fusevol_shared::units::DiskAu;
use std::collections::BTreeSet;

/// The replicas of each AU, one list an AU.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Reserve {
    each: BTreeSet<Vec<DiskAu>>,
}

/// The AUs of runs, one list of replicas each; `None` where a run cannot be what it says, an AU is named twice, or they are
/// more than `most`.
#[must_use]
pub fn spots(runs: &[Places], most: usize) -> Option<BTreeSet<Vec<DiskAu>>> {
    let count = runs.iter().try_fold(0usize, |sum, p| sum.checked_add(p.count as usize).filter(|_| p.fits()))?;
    if count > most {
        return None;
    }
    let each: BTreeSet<Vec<DiskAu>> = runs.iter().flat_map(Places::each).collect();
    (each.len() == count).then_some(each)
}

impl Reserve {
    /// Those AUs.
    #[must_use]
    pub fn new(each: BTreeSet<Vec<DiskAu>>) -> Self {
        Self { each }
    }

    /// How many AUs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// Whether an AU with these replicas, in this order, is in it.
    #[must_use]
    pub fn has(&self, legs: &[DiskAu]) -> bool {
        self.each.contains(legs)
    }

    /// Whether a replica of one of the AUs lies there.
    #[must_use]
    pub fn holds(&self, place: DiskAu) -> bool {
        self.each.contains(&[place][..]) || self.places().any(|p| p == place)
    }

    /// The AUs, ascending.
    pub fn each(&self) -> impl Iterator<Item = &[DiskAu]> {
        self.each.iter().map(Vec::as_slice)
    }

    /// Every place.
    pub fn places(&self) -> impl Iterator<Item = DiskAu> + '_ {
        self.each.iter().flatten().copied()
    }

    /// In runs.
    #[must_use]
    pub fn runs(&self) -> Vec<Places> {
        Places::join(self.each())
    }

    pub(super) fn add(&mut self, each: BTreeSet<Vec<DiskAu>>) {
        self.each.extend(each);
    }

    pub(super) fn remove(&mut self, each: &BTreeSet<Vec<DiskAu>>) {
        self.each.retain(|legs| !each.contains(legs));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusevol_shared::units::{AuNo, DiskNo};

    fn at(disk: u16, au: u32) -> DiskAu {
        DiskAu { disk: DiskNo(disk), au: AuNo(au) }
    }

    #[test]
    fn runs_go_in_and_come_out_whatever_was_taken_between() {
        let run = |au, count| Places { legs: vec![at(0, au), at(1, au + 100)], count };
        let mut r = Reserve::new(spots(&[run(5, 3), run(8, 2)], 5).expect("fits"));
        assert_eq!((r.runs(), r.len()), (vec![run(5, 5)], 5));
        assert!(r.has(&[at(0, 6), at(1, 106)]) && !r.has(&[at(1, 106), at(0, 6)]));
        r.remove(&spots(&[run(6, 1)], 1).expect("fits"));
        assert_eq!(r.runs(), [run(5, 1), run(7, 3)]);
        assert_eq!(r.places().count(), 8);
        r.add(spots(&[run(6, 1)], 1).expect("fits"));
        assert_eq!(r.runs(), [run(5, 5)]);
    }

    #[test]
    fn what_strangers_say_is_bounded() {
        let run = |au, count| Places { legs: vec![at(0, au)], count };
        assert!(spots(&[run(5, 3), run(7, 1)], 100).is_none(), "an AU twice");
        assert!(spots(&[run(0, u32::MAX)], 100).is_none(), "too many");
        assert!(spots(&[run(u32::MAX, 2)], 100).is_none(), "beyond all numbers");
        assert!(spots(&[Places { legs: vec![], count: 1 }], 100).is_none());
        assert!(spots(&[run(1, 0)], 100).is_none());
    }
}
