//! Where new AUs go: neighbours on disk where that can be, spread over the disks by their free share,
//! the legs of one AU on different disks. Chooses only; the record that names the places takes them.

use super::space::Space;
use super::{Catalog, JOURNAL_COPIES};
use fusevol_shared::change::{JournalCopy, Places};
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
        Some(self.choose_in_parts(catalog, legs, count)).filter(|out| out.len() == count as usize)
    }

    /// Up to `want` AUs with `legs` replicas each, in runs of neighbours; at least `keep` AUs stay free in the pool.
    pub fn grant(&mut self, catalog: &Catalog, legs: u8, want: u32, keep: u64) -> Vec<Places> {
        let room = catalog.free_aus().saturating_sub(keep) / u64::from(legs.max(1));
        let count = u32::try_from(room.min(want.into())).unwrap_or(want);
        if count == 0 || legs == 0 || usize::from(legs) > LEGS_MAX {
            return Vec::new();
        }
        let each = self.choose(catalog, legs, count, 0).unwrap_or_else(|| self.choose_in_parts(catalog, legs.into(), count));
        Places::join(each.iter().map(Vec::as_slice))
    }

    /// Copies of a journal: two AUs on each of two disks where two have them, else on one; none where no disk has. Disks that are not in
    /// `but` come first.
    pub fn journal(&mut self, catalog: &Catalog, but: &[DiskNo]) -> Vec<JournalCopy> {
        let mut disks: Vec<_> = catalog.disks().filter(|d| d.space.free() >= 2).collect();
        disks.sort_by_key(|d| (but.contains(&d.entry.no), std::cmp::Reverse(share(&d.space)), d.entry.no));
        let copy = |(no, space): (DiskNo, &Space)| {
            let from = self.next.get(&no).copied().unwrap_or_default();
            let run = space.run(from, 2)?;
            let first = AuNo(run.start);
            let second = if run.len() > 1 { AuNo(run.start + 1) } else { next_free(space, first)? };
            Some(JournalCopy { first: DiskAu { disk: no, au: first }, second: DiskAu { disk: no, au: second } })
        };
        disks.into_iter().map(|d| (d.entry.no, &d.space)).filter_map(copy).take(JOURNAL_COPIES).collect()
    }

    fn passed(&mut self, runs: &[(DiskNo, Range<u32>)], len: u32) {
        self.next.extend(runs.iter().map(|(disk, r)| (*disk, AuNo(r.start + len))));
    }

    /// Run by run, on copies of the bitmaps: they change only when the record is applied. Fewer where there is no more room.
    fn choose_in_parts(&mut self, catalog: &Catalog, legs: usize, count: u32) -> Vec<Vec<DiskAu>> {
        let mut spaces: BTreeMap<DiskNo, Space> = catalog.disks().map(|d| (d.entry.no, d.space.clone())).collect();
        let mut out = Vec::new();
        let mut want = count;
        while want > 0 {
            let Some(runs) = self.runs(spaces.iter().map(|(no, s)| (*no, s)), legs, want) else { break };
            let len = runs.iter().filter_map(|(_, r)| u32::try_from(r.len()).ok()).min().unwrap_or(0).min(want);
            for i in 0..len {
                let place = |(disk, run): &(DiskNo, Range<u32>)| {
                    let au = AuNo(run.start + i);
                    spaces.get_mut(disk)?.take(au).then_some(DiskAu { disk: *disk, au })
                };
                out.extend(runs.iter().map(place).collect::<Option<Vec<_>>>());
            }
            self.passed(&runs, len);
            want -= len;
            if len == 0 {
                break;
            }
        }
        out
    }

    /// One run on each of `legs` disks: those with the highest share of free AUs.
    fn runs<'a>(&self, spaces: impl Iterator<Item = (DiskNo, &'a Space)>, legs: usize, want: u32) -> Option<Vec<(DiskNo, Range<u32>)>> {
        let mut by_share: Vec<_> = spaces.filter(|(_, s)| s.free() > 0).collect();
        by_share.sort_by_key(|(no, s)| (std::cmp::Reverse(share(s)), *no));
        let chosen: Vec<_> = by_share
            .into_iter()
            .take(legs)
            .filter_map(|(no, s)| Some((no, s.run(self.next.get(&no).copied().unwrap_or_default(), want)?)))
            .collect();
        (chosen.len() == legs).then_some(chosen)
    }
}

/// The free share of a disk.
fn share(space: &Space) -> u64 {
    u64::from(space.free()) * (1 << 20) / u64::from(space.total().max(1))
}

/// The first free AU after this one, going round once.
fn next_free(space: &Space, after: AuNo) -> Option<AuNo> {
    let all = space.range();
    (after.0 + 1..all.end).chain(all.start..after.0).map(AuNo).find(|au| space.is_free(*au))
}
