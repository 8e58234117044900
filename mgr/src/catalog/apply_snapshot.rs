//! Records of snapshots and of the preserve segments that they need.

use super::apply_pool::name_fits;
use super::fits::all_of;
use super::record::{SnapshotEntry, SnapshotToBe};
use super::{Catalog, Snapshot, must, unfit};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::name::Name;
use std::collections::BTreeSet;

impl Catalog {
    /// A hold begins. What its flip will take must fit from now on: nothing may come between.
    pub(super) fn epoch_begun(&mut self, id: VolumeId, epoch: VolumeEpoch, to_be: &SnapshotToBe) -> Result<()> {
        must(self.writer(id).is_some(), "a hold of a volume that nobody writes")?;
        let volume = self.volume(id).ok_or_else(|| unfit("an epoch of no volume"))?;
        must(volume.entry.pending.is_none(), "two snapshots of a volume are taken at once")?;
        must(volume.entry.epoch.0.checked_add(1) == Some(epoch.0), "an epoch is not the next")?;
        let SnapshotToBe { id: snapshot, name, created } = to_be.clone();
        let closed = volume.entry.epoch;
        let entry = SnapshotEntry { id: snapshot, volume: id, name, epoch: closed, size: volume.entry.size, created, broken: false };
        self.snapshot_fits(&entry)?;
        must(self.pending_of(snapshot).is_none(), "a snapshot is taken twice")?;
        if let Some(v) = self.volumes.get_mut(&id) {
            v.entry.epoch = epoch;
            v.entry.pending = Some(to_be.clone());
        }
        Ok(())
    }

    pub(super) fn hold_dropped(&mut self, id: VolumeId) -> Result<()> {
        let pending = self.volumes.get_mut(&id).and_then(|v| v.entry.pending.take());
        must(pending.is_some(), "a snapshot is dropped that was not to be")
    }

    /// Nobody writes: the freeze itself begins the next epoch.
    pub(super) fn snapshot_taken(&mut self, id: SnapshotId, of: VolumeId, name: &Name, epoch: VolumeEpoch, created: u64) -> Result<()> {
        let volume = self.volume(of).ok_or_else(|| unfit("a snapshot of no volume"))?;
        must(self.writer(of).is_none(), "the map of a volume is frozen under its writer")?;
        must(volume.entry.pending.is_none(), "two snapshots of a volume are taken at once")?;
        must(epoch == volume.entry.epoch, "a snapshot is not of the epoch that ends")?;
        let next = epoch.0.checked_add(1).ok_or_else(|| unfit("all epochs are used up"))?;
        let entry = SnapshotEntry { id, volume: of, name: name.clone(), epoch, size: volume.entry.size, created, broken: false };
        self.snapshot_fits(&entry)?;
        must(self.pending_of(id).is_none(), "a snapshot is taken twice")?;
        let map = volume.map.clone();
        self.snapshots.insert(id, Snapshot { entry, map });
        if let Some(v) = self.volumes.get_mut(&of) {
            v.entry.epoch = VolumeEpoch(next);
        }
        Ok(())
    }

    /// Whether a snapshot can stand beside the others.
    pub(super) fn snapshot_fits(&self, entry: &SnapshotEntry) -> Result<()> {
        name_fits(&entry.name)?;
        must(!self.snapshots.contains_key(&entry.id), "a snapshot is taken twice")?;
        must(self.volumes.contains_key(&entry.volume), "a snapshot of no volume")?;
        let others = self.snapshots_of(entry.volume);
        must(others.iter().all(|s| s.entry.name != entry.name), "two snapshots of a volume have one name")?;
        must(others.iter().all(|s| s.entry.epoch != entry.epoch), "two snapshots of a volume have one epoch")
    }

    pub(super) fn snapshot_loaded(&mut self, entry: &SnapshotEntry) -> Result<()> {
        self.snapshot_fits(entry)?;
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
            .filter(|(au, e)| live.map.get(*au).is_none_or(|l| l.name() != e.name()) && !Self::shared(&others, *au, e))
            .map(|(au, e)| all_of(au, &e))
            .collect();
        self.limbo_fits(limbo, &left)?;
        self.snapshots.remove(&id);
        self.limbo_entered(limbo, of, &left, waits);
        self.forget_changes(of);
        Ok(())
    }

    pub(super) fn snapshot_opened(&mut self, id: SnapshotId, session: SessionNo) -> Result<()> {
        must(self.snapshots.contains_key(&id) && self.sessions.contains_key(&session), "a snapshot is opened that is not there")?;
        must(self.opens.insert((id, session)), "a snapshot is opened twice by a session")
    }

    pub(super) fn snapshot_closed(&mut self, id: SnapshotId, session: SessionNo) -> Result<()> {
        must(self.opens.remove(&(id, session)), "a snapshot is closed that is not open")?;
        if let Some(volume) = self.snapshot(id).map(|s| s.entry.volume) {
            self.waits_no_more(volume, session);
        }
        self.opens_over(|o| *o == (id, session));
        Ok(())
    }

    pub(super) fn segments_dropped(&mut self, id: VolumeId, nos: &[u32]) -> Result<()> {
        let volume = self.volume(id).ok_or_else(|| unfit("segments of no volume are dropped"))?;
        must(nos.iter().collect::<BTreeSet<_>>().len() == nos.len(), "a preserve segment is dropped twice")?;
        let spent = |no: &u32| volume.segments.get(no).is_some_and(|s| self.is_spent(id, s));
        must(nos.iter().all(spent), "a preserve segment is dropped that is needed")?;
        for no in nos {
            let Some(v) = self.volumes.get_mut(&id) else { continue };
            let (segment, husks) = (v.segments.remove(no), v.husks.remove(no));
            self.release(segment.into_iter().flat_map(|s| s.legs).chain(husks.into_iter().flatten()));
        }
        Ok(())
    }
}
