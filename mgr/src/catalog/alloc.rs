//! Where new AUs go: neighbours on disk where that can be, spread over the disks by their free share,
//! the legs of one AU on different disks. Chooses only; the record that names the places takes them.

use super::Catalog;
use fusevol_shared::map::LEGS_MAX;
use fusevol_shared::units::{AuNo, DiskAu, DiskNo};
use std::collections::BTreeMap;

/// Remembers, for each disk, where the last run ended, so that a growing volume finds its neighbours.
#[derive(Clone, Default, Debug)]
pub struct Allocator {
    next: BTreeMap<DiskNo, AuNo>,
}

impl Allocator {
    /// Places for `count` AUs with `legs` replicas each, as lists of legs; `None` where there is no room for all of them,
    /// or where fewer than `keep` AUs would stay free in the pool.
    pub fn choose(&mut self, catalog: &Catalog, legs: u8, count: u32, keep: u64) -> Option<Vec<Vec<DiskAu>>> {
        let legs = usize::from(legs);
        if legs == 0 || legs > LEGS_MAX || catalog.free_aus() < u64::from(count) * legs as u64 + keep {
            return None;
        }
        // What this choice has used already: the bitmaps change only when its record is applied.
        let mut spaces: BTreeMap<DiskNo, super::space::Space> = catalog.disks().map(|d| (d.entry.no, d.space.clone())).collect();
        let mut out = Vec::with_capacity(count as usize);
        while out.len() < count as usize {
            let want = count - u32::try_from(out.len()).ok()?;
            let runs = self.runs(&spaces, legs, want)?;
            let len = runs.iter().map(|(_, r)| r.len()).min()?;
            for i in 0..len {
                let places: Option<Vec<DiskAu>> = runs
                    .iter()
                    .map(|(disk, run)| {
                        let au = AuNo(run.start + u32::try_from(i).ok()?);
                        spaces.get_mut(disk)?.take(au).then_some(DiskAu { disk: *disk, au })
                    })
                    .collect();
                out.push(places?);
            }
            for (disk, run) in &runs {
                self.next.insert(*disk, AuNo(run.start + u32::try_from(len).ok()?));
            }
        }
        Some(out)
    }

    /// One run on each of `legs` disks: those with the highest share of free AUs.
    fn runs(&self, spaces: &BTreeMap<DiskNo, super::space::Space>, legs: usize, want: u32) -> Option<Vec<(DiskNo, std::ops::Range<u32>)>> {
        let mut by_share: Vec<_> = spaces.iter().filter(|(_, s)| s.free() > 0).collect();
        by_share.sort_by_key(|(no, s)| (std::cmp::Reverse(u64::from(s.free()) * (1 << 20) / u64::from(s.total().max(1))), **no));
        let chosen: Vec<_> = by_share
            .into_iter()
            .take(legs)
            .filter_map(|(no, s)| Some((*no, s.run(self.next.get(no).copied().unwrap_or_default(), want)?)))
            .collect();
        (chosen.len() == legs).then_some(chosen)
    }
}
