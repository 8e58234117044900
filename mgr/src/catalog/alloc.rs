//! Where new AUs go: neighbours on disk where that can be, spread over the disks by their free share,
//! the legs of one AU on different disks. Chooses only; the record that names the places takes them.

use super::Catalog;
use super::space::Space;
use fusevol_shared::map::LEGS_MAX;
use fusevol_shared::units::{AuNo, DiskAu, DiskNo};
use std::collections::BTreeMap;
use std::ops::Range;

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
        if count == 0 {
            return Some(Vec::new());
        }
        if legs == 0 || legs > LEGS_MAX || catalog.free_aus() < u64::from(count) * legs as u64 + keep {
            return None;
        }
        // Usually one run on each disk is enough, and nothing need be noted down.
        let runs = self.runs(catalog.disks().map(|d| (d.entry.no, &d.space)), legs, count)?;
        if runs.iter().all(|(_, r)| r.len() >= count as usize) {
            let out = (0..count).map(|i| runs.iter().map(|(disk, r)| DiskAu { disk: *disk, au: AuNo(r.start + i) }).collect()).collect();
            self.passed(&runs, count);
            return Some(out);
        }
        self.choose_in_parts(catalog, legs, count)
    }

    fn passed(&mut self, runs: &[(DiskNo, Range<u32>)], len: u32) {
        self.next.extend(runs.iter().map(|(disk, r)| (*disk, AuNo(r.start + len))));
    }

    /// Run by run, on copies of the bitmaps: they change only when the record is applied.
    fn choose_in_parts(&mut self, catalog: &Catalog, legs: usize, count: u32) -> Option<Vec<Vec<DiskAu>>> {
        let mut spaces: BTreeMap<DiskNo, Space> = catalog.disks().map(|d| (d.entry.no, d.space.clone())).collect();
        let mut out = Vec::with_capacity(count as usize);
        while out.len() < count as usize {
            let want = count - u32::try_from(out.len()).ok()?;
            let runs = self.runs(spaces.iter().map(|(no, s)| (*no, s)), legs, want)?;
            let len = u32::try_from(runs.iter().map(|(_, r)| r.len()).min()?).ok()?;
            for i in 0..len {
                let place = |(disk, run): &(DiskNo, Range<u32>)| {
                    let au = AuNo(run.start + i);
                    spaces.get_mut(disk)?.take(au).then_some(DiskAu { disk: *disk, au })
                };
                out.push(runs.iter().map(place).collect::<Option<Vec<_>>>()?);
            }
            self.passed(&runs, len);
        }
        Some(out)
    }

    /// One run on each of `legs` disks: those with the highest share of free AUs.
    fn runs<'a>(&self, spaces: impl Iterator<Item = (DiskNo, &'a Space)>, legs: usize, want: u32) -> Option<Vec<(DiskNo, Range<u32>)>> {
        let mut by_share: Vec<_> = spaces.filter(|(_, s)| s.free() > 0).collect();
        by_share.sort_by_key(|(no, s)| (std::cmp::Reverse(u64::from(s.free()) * (1 << 20) / u64::from(s.total().max(1))), *no));
        let chosen: Vec<_> = by_share
            .into_iter()
            .take(legs)
            .filter_map(|(no, s)| Some((no, s.run(self.next.get(&no).copied().unwrap_or_default(), want)?)))
            .collect();
        (chosen.len() == legs).then_some(chosen)
    }
}
