//! Records of a writer's changes: space, written blocks, discards, preserve segments.

use super::record::{LimboEntry, Mode, SegmentEntry};
use super::{Catalog, must, unfit};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, VolumeId};
use fusevol_shared::map::{AuMask, Leg, LegState, MapEntry, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::Segment;
use std::collections::{BTreeMap, BTreeSet};

/// Whether all places are free data AUs, none of them named twice.
fn all_free(catalog: &Catalog, places: &[DiskAu]) -> bool {
    let set: BTreeSet<_> = places.iter().collect();
    set.len() == places.len() && places.iter().all(|p| catalog.disk(p.disk).is_some_and(|d| d.space.is_free(p.au)))
}

/// Whether these replicas can be those of one AU.
fn legs_fit(legs: &[DiskAu], count: u8) -> bool {
    let disks: BTreeSet<_> = legs.iter().map(|l| l.disk).collect();
    legs.len() == usize::from(count) && disks.len() == legs.len()
}

/// The entries of runs; no AU may be named twice.
pub(super) fn entries_of(runs: &[MapRun]) -> Result<Vec<(VolAu, MapEntry)>> {
    let mut out = Vec::new();
    for run in runs {
        out.extend(run.entries().ok_or_else(|| unfit("a run of a map does not fit together"))?);
    }
    let aus: BTreeSet<_> = out.iter().map(|(au, _)| *au).collect();
    must(aus.len() == out.len(), "a part of a map names an AU twice")?;
    Ok(out)
}

impl Catalog {
    /// The volume whose writer holds `token` and has not come to `seq` yet.
    fn writer_at(&self, token: FenceToken, seq: Seq) -> Result<VolumeId> {
        let a = self.attachment(token).filter(|a| a.mode == Mode::Write).ok_or_else(|| unfit("a change by nobody who may write"))?;
        must(seq > a.last, "a change is applied twice")?;
        Ok(a.volume)
    }

    fn came_to(&mut self, token: FenceToken, seq: Seq) {
        if let Some(a) = self.attachments.get_mut(&token) {
            a.last = seq;
        }
    }

    /// Whether entries may be part of the map of a volume: inside it, with its number of legs, on different disks.
    pub(super) fn entries_fit(&self, volume: VolumeId, size: u64, entries: &[(VolAu, MapEntry)]) -> Result<()> {
        let legs = self.volume(volume).ok_or_else(|| unfit("a map of no volume"))?.entry.legs;
        let aus = self.au_size().aus_for(size).ok_or_else(|| unfit("a volume has more AUs than can be"))?;
        must(entries.iter().all(|(au, _)| au.0 < aus), "a map goes beyond its volume")?;
        let fit = |e: &MapEntry| legs_fit(&e.legs().iter().map(|l| l.at).collect::<Vec<_>>(), legs);
        must(entries.iter().all(|(_, e)| fit(e)), "the replicas of an AU do not fit its volume")
    }

    pub(super) fn bound(&mut self, token: FenceToken, seq: Seq, runs: &[MapRun]) -> Result<()> {
        let id = self.writer_at(token, seq)?;
        let volume = self.volume(id).ok_or_else(|| unfit("space for no volume"))?;
        let entries = entries_of(runs)?;
        self.entries_fit(id, volume.entry.size, &entries)?;
        must(entries.iter().all(|(au, _)| volume.map.get(*au).is_none()), "an AU gets space twice")?;
        let fresh = |l: &Leg| l.generation.0 == 0 && l.state == LegState::InSync;
        must(entries.iter().all(|(_, e)| e.written.is_empty() && e.legs().iter().all(fresh)), "new space is not new")?;
        let places = Self::places(entries.iter().map(|(_, e)| e));
        must(all_free(self, &places), "an AU gets a second owner")?;
        self.take(places);
        if let Some(volume) = self.volumes.get_mut(&id) {
            for (au, e) in entries {
                volume.map.set(au, Some(e));
            }
            volume.entry.version.0 += 1;
        }
        self.came_to(token, seq);
        Ok(())
    }

    pub(super) fn reported(&mut self, token: FenceToken, seq: Seq, written: &[AuMask]) -> Result<()> {
        let id = self.writer_at(token, seq)?;
        let volume = self.volumes.get_mut(&id).ok_or_else(|| unfit("blocks of no volume"))?;
        must(written.iter().all(|w| volume.map.get(w.au).is_some()), "a block is written that has no space")?;
        for w in written {
            if let Some(mut e) = volume.map.get(w.au) {
                e.written = e.written.or(w.blocks);
                volume.map.set(w.au, Some(e));
            }
        }
        volume.entry.version.0 += 1;
        self.came_to(token, seq);
        Ok(())
    }

    pub(super) fn discarded(
        &mut self,
        token: FenceToken,
        seq: Seq,
        cleared: &[AuMask],
        unmapped: &[VolAu],
        limbo: u64,
        waits: &[SessionNo],
    ) -> Result<()> {
        let id = self.writer_at(token, seq)?;
        let volume = self.volume(id).ok_or_else(|| unfit("a discard in no volume"))?;
        must(cleared.iter().all(|c| volume.map.get(c.au).is_some()), "a block is discarded that has no space")?;
        let mut gone: BTreeMap<VolAu, BlockMask> = BTreeMap::new();
        for c in cleared {
            let mask = gone.entry(c.au).or_default();
            *mask = mask.or(c.blocks);
        }
        let leaving: BTreeSet<VolAu> = unmapped.iter().copied().collect();
        must(leaving.len() == unmapped.len(), "an AU leaves the map twice")?;
        must(leaving.iter().all(|au| gone.get(au) == Some(&BlockMask::ALL)), "an AU leaves the map that keeps blocks")?;
        self.waits_fit(id, waits)?;
        let snapshots = self.snapshots_of(id);
        let left: Vec<(VolAu, MapEntry)> =
            leaving.iter().filter_map(|au| Some((*au, volume.map.get(*au)?))).filter(|(au, e)| !Self::shared(&snapshots, *au, e)).collect();
        self.limbo_fits(limbo, &left)?;
        if let Some(volume) = self.volumes.get_mut(&id) {
            for (au, mask) in gone {
                let kept = volume.map.get(au).filter(|_| !leaving.contains(&au));
                volume.map.set(au, kept.and_then(|e| MapEntry::new(e.legs(), e.written.minus(mask))));
            }
            volume.entry.version.0 += 1;
        }
        self.limbo_entered(limbo, id, left, waits);
        self.came_to(token, seq);
        Ok(())
    }

    /// Whether a limbo entry can begin.
    pub(super) fn limbo_fits(&self, no: u64, left: &[(VolAu, MapEntry)]) -> Result<()> {
        must(left.is_empty() || no == self.counters.limbo && no < u64::MAX, "limbo has a number that is not the next")
    }

    /// What left the maps waits here; nothing where nothing did.
    pub(super) fn limbo_entered(&mut self, no: u64, volume: VolumeId, left: Vec<(VolAu, MapEntry)>, waits: &[SessionNo]) {
        if left.is_empty() {
            return;
        }
        let places = Self::places(left.iter().map(|(_, e)| e));
        let aus = left.iter().map(|(au, _)| *au).collect();
        self.limbo.insert(no, LimboEntry { no, volume, aus, places, waits: waits.to_vec() });
        self.counters.limbo = no + 1;
    }

    pub(super) fn segment_granted(&mut self, token: FenceToken, seq: Seq, segment: &Segment) -> Result<()> {
        let id = self.writer_at(token, seq)?;
        must(segment.token == token, "a preserve segment of another attachment")?;
        must(self.attachment(token).is_some_and(|a| a.session == segment.session), "a preserve segment of another session")?;
        self.segment_fits(id, segment)?;
        self.segment_taken(id, SegmentEntry { segment: segment.clone(), seq: Some(seq) });
        self.came_to(token, seq);
        Ok(())
    }

    /// Whether a preserve segment can be granted now: the next number, an epoch that no reader overlooks, free places.
    /// While a hold is not answered yet, the writer may still ask for the epoch before.
    pub(super) fn segment_fits(&self, volume: VolumeId, segment: &Segment) -> Result<()> {
        let v = self.volume(volume).ok_or_else(|| unfit("a preserve segment of no volume"))?;
        must(segment.no == v.entry.next_segment && segment.no < u32::MAX, "a preserve segment has a number that is not the next")?;
        let e = v.entry.epoch.0;
        must(segment.epoch.0 + 1 == e || segment.epoch.0 + 2 == e, "a preserve segment is of no epoch")?;
        let newest = self.snapshots.values().filter(|s| s.entry.volume == volume).map(|s| s.entry.epoch).max();
        must(newest.is_none_or(|n| n <= segment.epoch), "a preserve segment is older than a snapshot")?;
        must(legs_fit(&segment.legs, v.entry.legs) && all_free(self, &segment.legs), "a preserve segment has a place that is not free")
    }

    /// Takes up a segment that fits.
    pub(super) fn segment_taken(&mut self, volume: VolumeId, entry: SegmentEntry) {
        self.take(entry.segment.legs.clone());
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.entry.next_segment = v.entry.next_segment.max(entry.segment.no + 1);
            v.segments.insert(entry.segment.no, entry);
        }
    }
}
