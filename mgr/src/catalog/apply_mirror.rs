//! Records of legs that miss writes, and what all changes of legs have in common.
//!
//! Invariants: entries of one name, in the live map and in snapshots, have the same legs in the same states; an AU never loses its last leg
//! in sync; what a preserve segment has lost stays its own until it is dropped (its readers may still read there; its writer, write).

use super::{Catalog, must, unfit};
use fusevol_shared::change::{Region, RegionRun};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{FenceToken, SessionNo, VolumeId};
use fusevol_shared::map::MapEntry;
use fusevol_shared::units::{DiskAu, DiskNo, VolAu};
use std::collections::BTreeSet;

impl Catalog {
    /// Gives an AU of the snapshots of a volume these legs, where it has this name.
    pub(super) fn freeze_legs(&mut self, volume: VolumeId, au: VolAu, name: DiskAu, legs: &MapEntry) {
        for s in self.snapshots.values_mut().filter(|s| s.entry.volume == volume) {
            if let Some(e) = s.map.get(au).filter(|e| e.name() == name) {
                s.map.set(au, MapEntry::new(legs.legs(), e.written));
            }
        }
    }

    /// Changes the legs of AUs of the live map, and of the snapshots that share them.
    pub(super) fn change_legs(
        &mut self,
        volume: VolumeId,
        runs: impl IntoIterator<Item = RegionRun>,
        change: impl Fn(&MapEntry) -> MapEntry,
    ) {
        let Some(v) = self.volume(volume) else { return };
        let within = |run: RegionRun| {
            let aus = run.aus();
            v.map.iter_from(VolAu(aus.start)).take_while(move |(au, _)| au.0 < aus.end)
        };
        let all = runs.into_iter().flat_map(within).map(|(au, e)| (au, e, change(&e)));
        let changed: Vec<_> = all.filter(|(_, e, new)| e.legs() != new.legs()).collect();
        for (au, e, new) in changed {
            if let Some(v) = self.volumes.get_mut(&volume) {
                v.map.set(au, Some(new));
            }
            self.freeze_legs(volume, au, e.name(), &new);
        }
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.entry.version.0 += 1;
        }
    }

    pub(super) fn legs_out(&mut self, volume: VolumeId, disk: DiskNo, dirty: &[RegionRun]) -> Result<()> {
        must(self.disk(disk).is_some(), "legs fail on a disk that is not there")?;
        let v = self.volume(volume).ok_or_else(|| unfit("legs of no volume fail"))?;
        must(v.entry.legs > 1, "the only leg of a volume is given up")?;
        let aus = self.aus_of(v.entry.size)?;
        must(dirty.iter().all(|r| r.count > 0 && r.first.aus().start < aus), "a region lies beyond its volume")?;
        // In the order in which they failed: see `begins`.
        let new = (!v.out.contains(&disk)).then_some(disk);
        let out: Vec<DiskNo> = v.out.iter().copied().chain(new).collect();
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.out.clone_from(&out);
        }
        self.change_legs(volume, dirty.iter().cloned(), |e| e.missed_by(&out));
        self.segments_lose(volume, disk);
        Ok(())
    }

    /// The preserve segments that are being written lose their legs on a disk, where others are left: it misses what is preserved from now on.
    fn segments_lose(&mut self, volume: VolumeId, disk: DiskNo) {
        let Some(v) = self.volumes.get_mut(&volume) else { return };
        let mut late: Vec<(DiskAu, SessionNo)> = Vec::new();
        for (no, s) in v.segments.iter_mut().filter(|(_, s)| self.attachments.contains_key(&s.token)) {
            let (lost, left): (Vec<DiskAu>, Vec<DiskAu>) = s.legs.iter().partition(|l| l.disk == disk);
            if lost.is_empty() || left.is_empty() {
                continue;
            }
            s.legs = left;
            late.extend(lost.iter().map(|p| (*p, s.session)));
            v.husks.entry(*no).or_default().extend(lost);
        }
        self.late.extend(late);
    }

    pub(super) fn legs_back(&mut self, volume: VolumeId, disk: DiskNo) -> Result<()> {
        must(self.writer(volume).is_none(), "legs of a volume are back without a word of its writer")?;
        let v = self.volumes.get_mut(&volume).ok_or_else(|| unfit("legs of no volume are back"))?;
        must(v.out.contains(&disk), "legs are back that were not out")?;
        v.out.retain(|d| *d != disk);
        v.entry.version.0 += 1;
        Ok(())
    }

    /// A writer is gone in the midst of writes to these regions, and to those that it had bound: only the source of a resync is known to be
    /// right there.
    pub(super) fn legs_left(&mut self, token: FenceToken, regions: &[Region]) {
        let Some((volume, bound)) = self.attachment(token).map(|a| (a.volume, &a.bound)) else { return };
        let Some(v) = self.volume(volume).filter(|v| v.entry.legs > 1) else { return };
        let (out, all): (_, BTreeSet<Region>) = (v.out.clone(), regions.iter().chain(bound).copied().collect());
        self.change_legs(volume, RegionRun::join(all, usize::MAX), |e| e.left_by_its_writer(&out));
    }

    pub(super) fn out_loaded(&mut self, volume: VolumeId, disks: &[DiskNo]) -> Result<()> {
        let fits = disks.iter().collect::<BTreeSet<_>>().len() == disks.len() && disks.iter().all(|d| self.disk(*d).is_some());
        let v = self.volumes.get_mut(&volume).ok_or_else(|| unfit("legs of no volume fail"))?;
        must(fits && v.out.is_empty(), "the disks that a volume misses do not fit together")?;
        v.out = disks.to_vec();
        Ok(())
    }

    pub(super) fn husks_loaded(&mut self, volume: VolumeId, no: u32, places: &[DiskAu]) -> Result<()> {
        let v = self.volume(volume).ok_or_else(|| unfit("a preserve segment of no volume"))?;
        must(v.segments.contains_key(&no) && !v.husks.contains_key(&no), "former legs of no preserve segment")?;
        must(!places.is_empty() && self.all_free(places), "an AU gets a second owner")?;
        self.take(places.iter().copied());
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.husks.insert(no, places.to_vec());
        }
        Ok(())
    }

    pub(super) fn bound_loaded(&mut self, token: FenceToken, regions: &[Region]) -> Result<()> {
        let a = self.attachments.get_mut(&token).filter(|a| a.writes()).ok_or_else(|| unfit("nobody has bound these regions"))?;
        a.bound.extend(regions);
        Ok(())
    }
}
