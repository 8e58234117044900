//! Records of snapshots and of the preserve segments that they need.

use super::apply_pool::name_fits;
use super::record::{SegmentEntry, SnapshotEntry};
use super::{Catalog, Snapshot, must, unfit};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::name::Name;
use fusevol_shared::wire::messages::Segment;
use std::collections::BTreeSet;

impl Catalog {
    pub(super) fn epoch_begun(&mut self, id: VolumeId, epoch: VolumeEpoch, segment: &Segment) -> Result<()> {
        let writer = self.writer(id).ok_or_else(|| unfit("a hold of a volume that nobody writes"))?;
        must(segment.token == writer.token && segment.session == writer.session, "a preserve segment of another attachment")?;
        let volume = self.volume(id).ok_or_else(|| unfit("an epoch of no volume"))?;
        must(volume.entry.epoch.0.checked_add(1) == Some(epoch.0), "an epoch is not the next")?;
        must(segment.epoch == volume.entry.epoch, "a preserve segment is not of the epoch that ends")?;
        // The segment is judged as one of the epoch that begins: nothing is changed where it does not fit.
        let former = volume.entry.epoch;
        self.set_epoch(id, epoch);
        if let Err(e) = self.segment_fits(id, segment) {
            self.set_epoch(id, former);
            return Err(e);
        }
        self.segment_taken(id, SegmentEntry { segment: segment.clone(), seq: None });
        Ok(())
    }

    fn set_epoch(&mut self, id: VolumeId, epoch: VolumeEpoch) {
        if let Some(v) = self.volumes.get_mut(&id) {
            v.entry.epoch = epoch;
        }
    }

    pub(super) fn snapshot_taken(&mut self, id: SnapshotId, of: VolumeId, name: &Name, epoch: VolumeEpoch, created: u64) -> Result<()> {
        let volume = self.volume(of).ok_or_else(|| unfit("a snapshot of no volume"))?;
        let writer = self.writer(of).map(|a| a.token);
        let now = volume.entry.epoch.0;
        // With a writer the hold has begun the next epoch before; without one the freeze itself begins it.
        must(
            if writer.is_some() { epoch.0.checked_add(1) == Some(now) } else { epoch.0 == now },
            "a snapshot is not of the epoch that ends",
        )?;
        let next = epoch.0.checked_add(1).ok_or_else(|| unfit("all epochs are used up"))?;
        let entry = SnapshotEntry { id, volume: of, name: name.clone(), epoch, size: volume.entry.size, created, broken: false };
        let map = volume.map.clone();
        self.snapshot_loaded(&entry)?;
        if let Some(s) = self.snapshots.get_mut(&id) {
            s.map = map;
        }
        self.set_epoch(of, VolumeEpoch(next));
        if let Some(a) = writer.and_then(|t| self.attachments.get_mut(&t)) {
            a.flipped = epoch;
        }
        Ok(())
    }

    pub(super) fn snapshot_loaded(&mut self, entry: &SnapshotEntry) -> Result<()> {
        name_fits(&entry.name)?;
        must(!self.snapshots.contains_key(&entry.id), "a snapshot is taken twice")?;
        must(self.volumes.contains_key(&entry.volume), "a snapshot of no volume")?;
        let others = self.snapshots_of(entry.volume);
        must(others.iter().all(|s| s.entry.name != entry.name), "two snapshots of a volume have one name")?;
        must(others.iter().all(|s| s.entry.epoch != entry.epoch), "two snapshots of a volume have one epoch")?;
        self.snapshots.insert(entry.id, Snapshot { entry: entry.clone(), map: Default::default() });
        Ok(())
    }

    pub(super) fn snapshot_removed(&mut self, id: SnapshotId, limbo: u64, waits: &[SessionNo]) -> Result<()> {
        must(self.readers(id).next().is_none(), "a snapshot that is read is removed")?;
        let gone = self.snapshot(id).ok_or_else(|| unfit("a snapshot that is not there is removed"))?;
        let of = gone.entry.volume;
        self.waits_fit(of, waits)?;
        let others: Vec<_> = self.snapshots_of(of).into_iter().filter(|s| s.entry.id != id).collect();
        let live = self.volume(of).ok_or_else(|| unfit("a snapshot of no volume"))?;
        let left: Vec<_> = gone
            .map
            .iter()
            .filter(|(au, e)| live.map.get(*au).is_none_or(|l| l.legs() != e.legs()) && !Self::shared(&others, *au, e))
            .collect();
        self.limbo_fits(limbo, &left)?;
        self.snapshots.remove(&id);
        self.limbo_entered(limbo, of, left, waits);
        Ok(())
    }

    pub(super) fn snapshot_opened(&mut self, id: SnapshotId, session: SessionNo) -> Result<()> {
        must(self.snapshots.contains_key(&id) && self.sessions.contains_key(&session), "a snapshot is opened that is not there")?;
        must(self.opens.insert((id, session)), "a snapshot is opened twice by a session")
    }

    pub(super) fn snapshot_closed(&mut self, id: SnapshotId, session: SessionNo) -> Result<()> {
        must(self.opens.remove(&(id, session)), "a snapshot is closed that is not open")
    }

    pub(super) fn snapshot_broken(&mut self, id: SnapshotId) -> Result<()> {
        let s = self.snapshots.get_mut(&id).filter(|s| !s.entry.broken).ok_or_else(|| unfit("a snapshot breaks that is not whole"))?;
        s.entry.broken = true;
        Ok(())
    }

    pub(super) fn segments_dropped(&mut self, id: VolumeId, nos: &[u32]) -> Result<()> {
        let volume = self.volume(id).ok_or_else(|| unfit("segments of no volume are dropped"))?;
        must(nos.iter().collect::<BTreeSet<_>>().len() == nos.len(), "a preserve segment is dropped twice")?;
        let spent = |no: &u32| volume.segments.get(no).is_some_and(|s| self.is_spent(id, s));
        must(nos.iter().all(spent), "a preserve segment is dropped that is needed")?;
        for no in nos {
            if let Some(s) = self.volumes.get_mut(&id).and_then(|v| v.segments.remove(no)) {
                self.release(s.segment.legs);
            }
        }
        Ok(())
    }
}
