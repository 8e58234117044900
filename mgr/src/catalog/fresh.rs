//! AUs that were bound under a write attachment and have not come to rest: each counts as marked (PROTOCOL.md, T3).
//!
//! A writer marks no region for an AU that it bound itself; so what it may be writing at any time is what its journal calls dirty, these, and its
//! reserve. An AU leaves the set when its region is cleared (the writer marks it from then on), at a flip (the same), and with the map.

use fusevol_shared::change::{AUS_PER_REGION, Region};
use fusevol_shared::units::VolAu;
use std::collections::{BTreeMap, BTreeSet};

/// The AUs of one attachment, a bit each, by region.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Fresh {
    regions: BTreeMap<Region, u64>,
}

/// What an entry of the journal does to them.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// It has space now.
    Bound(VolAu),
    /// It left the map.
    Left(VolAu),
    /// These regions came to rest.
    Cleared(Vec<Region>),
    /// All of them did.
    Flipped,
}

fn bit(au: VolAu) -> u64 {
    1 << (au.0 % AUS_PER_REGION)
}

impl Fresh {
    /// With these bits; none where a region comes twice, or has no bit.
    pub(super) fn new(regions: &[(Region, u64)]) -> Option<Self> {
        let all: BTreeMap<Region, u64> = regions.iter().copied().collect();
        (all.len() == regions.len() && all.values().all(|b| *b != 0)).then_some(Self { regions: all })
    }

    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Bound(au) => *self.regions.entry(au.region()).or_default() |= bit(au),
            Step::Left(au) => {
                if let Some(bits) = self.regions.get_mut(&au.region()) {
                    *bits &= !bit(au);
                    if *bits == 0 {
                        self.regions.remove(&au.region());
                    }
                }
            }
            Step::Cleared(regions) => regions.iter().for_each(|r| _ = self.regions.remove(r)),
            Step::Flipped => self.regions.clear(),
        }
    }

    pub(super) fn regions(&self) -> Vec<(Region, u64)> {
        self.regions.iter().map(|(r, b)| (*r, *b)).collect()
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, au: VolAu) -> bool {
        self.regions.get(&au.region()).is_some_and(|bits| bits & bit(au) != 0)
    }

    /// All of them.
    #[must_use]
    pub fn aus(&self) -> BTreeSet<VolAu> {
        let of = |(r, bits): (&Region, &u64)| {
            let (first, bits) = (r.aus().start, *bits);
            (0..AUS_PER_REGION).filter(move |i| bits >> i & 1 != 0).map(move |i| VolAu(first.saturating_add(i)))
        };
        self.regions.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aus_come_by_binding_and_go_by_rest() {
        let mut f = Fresh::default();
        [3, 63, 64, 700].into_iter().for_each(|au| f.take(Step::Bound(VolAu(au))));
        assert_eq!(f.aus().into_iter().map(|a| a.0).collect::<Vec<_>>(), [3, 63, 64, 700]);
        assert!(f.has(VolAu(63)) && !f.has(VolAu(62)));
        assert_eq!(Fresh::new(&f.regions()), Some(f.clone()));
        f.take(Step::Left(VolAu(64)));
        f.take(Step::Cleared(vec![Region(0), Region(9)]));
        assert_eq!(f.regions(), [(Region(10), 1 << 60)]);
        f.take(Step::Flipped);
        assert_eq!(f, Fresh::default());
        assert!(Fresh::new(&[(Region(1), 0)]).is_none() && Fresh::new(&[(Region(1), 1), (Region(1), 2)]).is_none());
    }
}
