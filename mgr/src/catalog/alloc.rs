//! Where new AUs go: neighbours on disk where that can be, spread over the disks by their free share,
//! the legs of one AU on different disks, and in different failure domains. Chooses only; the record that names the places takes them.
//!
//! Where fewer disks are usable than there should be legs, AUs get fewer: writing goes on, and the rest is for the copier to make good.

use super::space::Space;
use super::{Catalog, Disk, JOURNAL_COPIES};
use fusevol_shared::change::{JournalCopy, Places};
use fusevol_shared::map::COPIES_MAX;
use fusevol_shared::units::{AuNo, DiskAu, DiskNo};
use std::collections::BTreeMap;
use std::ops::Range;

/// What is wished for.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// As many legs, each on another disk; fewer where not as many disks are usable.
    pub legs: u8,
    /// Disks that are not usable.
    pub but: &'a [DiskNo],
    /// For copies of what lies on these disks: on none of them, nor in their domains. Spare disks are there for this alone.
    pub apart: &'a [DiskNo],
}

impl<'a> Wish<'a> {
    /// Places for AUs of a volume with so many legs, which misses these disks.
    #[must_use]
    pub fn of(legs: u8, but: &'a [DiskNo]) -> Self {
        Self { legs, but, apart: &[] }
    }

    fn usable(&self, catalog: &Catalog, d: &Disk) -> bool {
        let near = |o: &Disk| o.entry.no == d.entry.no || o.domain.is_some() && o.domain == d.domain;
        let apart = || self.apart.iter().filter_map(|no| catalog.disk(*no)).all(|o| !near(o));
        !d.failed && (!d.spare || !self.apart.is_empty()) && !self.but.contains(&d.entry.no) && apart()
    }

    /// Usable disks that have room.
    fn disks<'c>(&self, catalog: &'c Catalog) -> Vec<&'c Disk> {
        catalog.disks().filter(|d| d.space.free() > 0 && self.usable(catalog, d)).collect()
    }

    /// AUs that are free where the wish may be granted.
    #[must_use]
    pub fn room(&self, catalog: &Catalog) -> u64 {
        self.disks(catalog).iter().map(|d| u64::from(d.space.free())).sum()
    }

    /// How many legs AUs get now.
    #[must_use]
    pub fn legs_now(&self, catalog: &Catalog) -> u8 {
        let found = spread(self.disks(catalog), usize::from(self.legs)).len();
        u8::try_from(found).unwrap_or(self.legs)
    }
}

/// The first disks of which no two fail together, at most so many.
fn spread(disks: Vec<&Disk>, most: usize) -> Vec<&Disk> {
    let mut out: Vec<&Disk> = Vec::new();
    for d in disks {
        if out.len() < most && out.iter().all(|o| o.domain.is_none() || o.domain != d.domain) {
            out.push(d);
        }
    }
    out
}

/// Remembers, for each disk, where the last run ended, so that a growing volume finds its neighbours.
#[derive(Clone, Default, Debug)]
pub struct Allocator {
    next: BTreeMap<DiskNo, AuNo>,
}

impl Allocator {
    /// Places for `count` AUs, as lists of legs; `None` where there is no room for all of them,
    /// or where fewer than `keep` AUs would stay free.
    pub fn choose(&mut self, catalog: &Catalog, wish: Wish<'_>, count: u32, keep: u64) -> Option<Vec<Vec<DiskAu>>> {
        if count == 0 {
            return Some(Vec::new());
        }
        let legs = wish.legs_now(catalog);
        if legs == 0 || usize::from(legs) > COPIES_MAX || wish.room(catalog) < u64::from(count) * u64::from(legs) + keep {
            return None;
        }
        // Usually one run on each disk is enough, and nothing need be noted down.
        let spaces: BTreeMap<DiskNo, &Space> = wish.disks(catalog).into_iter().map(|d| (d.entry.no, &d.space)).collect();
        let runs = self.runs(catalog, &spaces, wish.legs.into(), count);
        if runs.iter().all(|(_, r)| r.len() >= count as usize) {
            let out = (0..count).map(|i| runs.iter().map(|(disk, r)| DiskAu { disk: *disk, au: AuNo(r.start + i) }).collect()).collect();
            self.passed(&runs, count);
            return Some(out);
        }
        Some(self.choose_in_parts(catalog, wish, count)).filter(|out| out.len() == count as usize)
    }

    /// Up to `want` AUs, in runs of neighbours; at least `keep` AUs stay free.
    pub fn grant(&mut self, catalog: &Catalog, wish: Wish<'_>, want: u32, keep: u64) -> Vec<Places> {
        let room = wish.room(catalog).saturating_sub(keep) / u64::from(wish.legs_now(catalog).max(1));
        let count = u32::try_from(room.min(want.into())).unwrap_or(want);
        if count == 0 || wish.legs == 0 || usize::from(wish.legs) > COPIES_MAX {
            return Vec::new();
        }
        let each = self.choose(catalog, wish, count, 0).unwrap_or_else(|| self.choose_in_parts(catalog, wish, count));
        Places::join(each.iter().map(Vec::as_slice))
    }

    /// Copies of a journal: two AUs on each of two disks where two have them, else on one; none where no disk has. Disks that are not in
    /// `but` come first; those of `never` are taken only where there is no other at all.
    pub fn journal(&mut self, catalog: &Catalog, but: &[DiskNo], never: &[DiskNo]) -> Vec<JournalCopy> {
        let mut disks: Vec<_> = catalog.disks().filter(|d| d.space.free() >= 2).collect();
        let bad = |d: &Disk| d.failed || never.contains(&d.entry.no);
        disks.sort_by_key(|d| (d.spare, but.contains(&d.entry.no), std::cmp::Reverse(share(&d.space)), d.entry.no));
        if disks.iter().any(|d| !bad(d)) {
            disks.retain(|d| !bad(d));
        }
        // Two that do not fail together come first, if there are two.
        let (apart, rest): (Vec<&Disk>, Vec<&Disk>) = {
            let first: Vec<DiskNo> = spread(disks.clone(), JOURNAL_COPIES).iter().map(|d| d.entry.no).collect();
            disks.into_iter().partition(|d| first.contains(&d.entry.no))
        };
        let copy = |(no, space): (DiskNo, &Space)| {
            let from = self.next.get(&no).copied().unwrap_or_default();
            let run = space.run(from, 2)?;
            let first = AuNo(run.start);
            let second = if run.len() > 1 { AuNo(run.start + 1) } else { next_free(space, first)? };
            Some(JournalCopy { first: DiskAu { disk: no, au: first }, second: DiskAu { disk: no, au: second } })
        };
        apart.into_iter().chain(rest).map(|d| (d.entry.no, &d.space)).filter_map(copy).take(JOURNAL_COPIES).collect()
    }

    fn passed(&mut self, runs: &[(DiskNo, Range<u32>)], len: u32) {
        self.next.extend(runs.iter().map(|(disk, r)| (*disk, AuNo(r.start + len))));
    }

    /// Run by run, on copies of the bitmaps: they change only when the record is applied. Fewer where there is no more room.
    fn choose_in_parts(&mut self, catalog: &Catalog, wish: Wish<'_>, count: u32) -> Vec<Vec<DiskAu>> {
        let mut spaces: BTreeMap<DiskNo, Space> = wish.disks(catalog).into_iter().map(|d| (d.entry.no, d.space.clone())).collect();
        let mut out = Vec::new();
        let mut want = count;
        while want > 0 {
            let free: BTreeMap<DiskNo, &Space> = spaces.iter().filter(|(_, s)| s.free() > 0).map(|(no, s)| (*no, s)).collect();
            let runs = self.runs(catalog, &free, wish.legs.into(), want);
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

    /// One run on each of `legs` disks, or fewer: those with the highest share of free AUs.
    fn runs(&self, catalog: &Catalog, spaces: &BTreeMap<DiskNo, &Space>, legs: usize, want: u32) -> Vec<(DiskNo, Range<u32>)> {
        let mut by_share: Vec<_> = spaces.iter().collect();
        by_share.sort_by_key(|(no, s)| (std::cmp::Reverse(share(s)), **no));
        let disks = by_share.into_iter().filter_map(|(no, _)| catalog.disk(*no)).collect();
        let run = |d: &Disk| {
            let no = d.entry.no;
            Some((no, spaces.get(&no)?.run(self.next.get(&no).copied().unwrap_or_default(), want)?))
        };
        spread(disks, legs).into_iter().filter_map(run).collect()
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
