//! Maps as they cross the wire: runs of neighbours, in which equal masks side by side stand once. A volume that was written
//! from one end to the other is a few runs, however large it is.

use super::{Leg, MapEntry, VolumeMap};
use crate::mask::BlockMask;
use crate::units::{AuNo, VolAu};
use rkyv::{Archive, Deserialize, Serialize};

/// Most weight of one part of a map: a mask weighs one, a run [`RUN_WEIGHT`] more. With 16 bytes each far below the frame limit.
pub const PART_WEIGHT: usize = 16_384;
/// Weight of a run beside its masks.
const RUN_WEIGHT: usize = 4;
/// Most AUs in one part: who makes it looks at no more at once.
pub const PART_AUS: u32 = 256 * 1024;

/// Some AUs side by side with one mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Masks {
    /// Blocks that were written, of each.
    pub written: u64,
    /// How many AUs.
    pub aus: u32,
}

/// Neighbouring AUs of a volume that are neighbours on disk, too.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct PackedRun {
    /// First AU of the run.
    pub first: VolAu,
    /// Replicas of the first AU.
    pub legs: Vec<Leg>,
    /// Masks, in order.
    pub masks: Vec<Masks>,
}

impl PackedRun {
    /// Gives each entry of the run to `each`. `None` where the run does not fit together (no leg, too many, or AUs past `aus` or past the end
    /// of a disk): what was given before is not to be used then.
    #[must_use]
    pub fn each(&self, aus: u32, mut each: impl FnMut(VolAu, MapEntry)) -> Option<()> {
        let mut entry = MapEntry::new(&self.legs, BlockMask::NONE)?;
        let mut au = self.first.0;
        for (n, masks) in self.masks.iter().enumerate() {
            let end = au.checked_add(masks.aus).filter(|end| *end <= aus && masks.aus > 0)?;
            entry.written = BlockMask(masks.written);
            for at in au..end {
                if n > 0 || at > au {
                    entry.step()?;
                }
                each(VolAu(at), entry);
            }
            au = end;
        }
        Some(())
    }
}

/// Packs entries, given in ascending order.
#[derive(Default)]
pub struct Packer {
    runs: Vec<PackedRun>,
    /// The entry that would follow the last run.
    next: Option<(VolAu, MapEntry)>,
    weight: usize,
    aus: u32,
}

impl Packer {
    /// Adds an entry; `false` where the part is full: it is not in it then.
    #[must_use]
    pub fn add(&mut self, au: VolAu, entry: &MapEntry) -> bool {
        if self.weight >= PART_WEIGHT || self.aus >= PART_AUS {
            return false;
        }
        let written = entry.written.0;
        let follows = self.next.is_some_and(|(at, e)| at == au && e.legs() == entry.legs());
        match self.runs.last_mut().filter(|_| follows) {
            Some(run) => match run.masks.last_mut().filter(|m| m.written == written) {
                Some(masks) => masks.aus += 1,
                None => {
                    run.masks.push(Masks { written, aus: 1 });
                    self.weight += 1;
                }
            },
            None => {
                self.runs.push(PackedRun { first: au, legs: entry.legs().to_vec(), masks: vec![Masks { written, aus: 1 }] });
                self.weight += 1 + RUN_WEIGHT;
            }
        }
        let mut after = *entry;
        self.next = after.step().and_then(|()| Some((VolAu(au.0.checked_add(1)?), after)));
        self.aus += 1;
        true
    }

    /// What was packed.
    #[must_use]
    pub fn runs(self) -> Vec<PackedRun> {
        self.runs
    }
}

impl MapEntry {
    /// All legs one AU further on; `None` past the end of a disk.
    fn step(&mut self) -> Option<()> {
        // Those behind `count` are copies of the first.
        for leg in &mut self.legs {
            leg.at.au = AuNo(leg.at.au.0.checked_add(1)?);
        }
        Some(())
    }
}

/// These entries, as many as one part takes, and where to go on.
pub fn pack(entries: impl IntoIterator<Item = (VolAu, MapEntry)>) -> (Vec<PackedRun>, Option<VolAu>) {
    let mut packer = Packer::default();
    let next = entries.into_iter().find(|(au, e)| !packer.add(*au, e)).map(|(au, _)| au);
    (packer.runs(), next)
}

impl VolumeMap {
    /// The entries from `from` on, as many as one part takes, and where to go on.
    #[must_use]
    pub fn part(&self, from: VolAu) -> (Vec<PackedRun>, Option<VolAu>) {
        pack(self.iter_from(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{DiskAu, DiskNo};

    fn at(disk: u16, au: u32, written: u64) -> MapEntry {
        MapEntry::new(&[Leg::single(DiskAu { disk: DiskNo(disk), au: AuNo(au) })], BlockMask(written)).expect("one leg")
    }

    fn all(map: &VolumeMap) -> (Vec<(VolAu, MapEntry)>, usize, usize) {
        let (mut out, mut from, mut parts, mut runs) = (Vec::new(), Some(VolAu(0)), 0, 0);
        while let Some(f) = from {
            let (part, next) = map.part(f);
            part.iter().for_each(|r| r.each(u32::MAX, |au, e| out.push((au, e))).expect("it fits together"));
            (from, parts, runs) = (next, parts + 1, runs + part.len());
        }
        (out, parts, runs)
    }

    #[test]
    fn parts_hold_what_the_map_holds() {
        let mut map = VolumeMap::default();
        for (v, d, a, w) in [(0, 0, 5, 1), (1, 0, 6, 1), (2, 0, 7, 2), (3, 1, 8, 2), (9, 1, 9, 2), (5000, 0, u32::MAX, 3), (5001, 0, 0, 3)]
        {
            map.set(VolAu(v), Some(at(d, a, w)));
        }
        let two = [Leg::single(DiskAu { disk: DiskNo(0), au: AuNo(90) }), Leg::single(DiskAu { disk: DiskNo(1), au: AuNo(90) })];
        map.set(VolAu(5002), MapEntry::new(&two, BlockMask::ALL));
        assert_eq!(all(&map), (map.iter().collect(), 1, 6));
    }

    #[test]
    fn a_part_has_its_limits() {
        let mut map = VolumeMap::default();
        (0..PART_AUS + 1).for_each(|au| map.set(VolAu(au), Some(at(0, au, u64::MAX))));
        assert_eq!(all(&map), (map.iter().collect(), 2, 2));
        let mut torn = VolumeMap::default();
        (0..10_000).for_each(|au| torn.set(VolAu(au), Some(at(0, au * 2, u64::from(au)))));
        assert_eq!(all(&torn), (torn.iter().collect(), 4, 10_000));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let run = |legs: Vec<Leg>, masks: &[(u64, u32)]| PackedRun {
            first: VolAu(10),
            legs,
            masks: masks.iter().map(|(written, aus)| Masks { written: *written, aus: *aus }).collect(),
        };
        let leg = |au| Leg::single(DiskAu { disk: DiskNo(0), au: AuNo(au) });
        let each = |r: &PackedRun| r.each(100, |_, _| {});
        assert!(each(&run(vec![leg(1)], &[(1, 90)])).is_some());
        for bad in [
            run(vec![], &[(1, 1)]),
            run(vec![leg(1); super::super::LEGS_MAX + 1], &[(1, 1)]),
            run(vec![leg(1)], &[(1, 91)]),
            run(vec![leg(1)], &[(1, 1), (2, u32::MAX)]),
            run(vec![leg(1)], &[(1, 0)]),
            run(vec![leg(u32::MAX)], &[(1, 2)]),
        ] {
            assert!(each(&bad).is_none(), "{bad:?}");
        }
    }
}
