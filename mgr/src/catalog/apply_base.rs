//! Records of a checkpoint: each part of the state as it stood.

use super::fits::{entries_fit, entries_of, legs_fit};
use super::record::{Base, LimboEntry, MapOf, QuarantineEntry};
use super::{Catalog, Counters, must, unfit};
use fusevol_shared::error::Result;
use fusevol_shared::ids::{SessionNo, VolumeEpoch, VolumeId};
use fusevol_shared::map::{AuMask, MapEntry, MapRun};
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::Segment;

impl Catalog {
    pub(super) fn base(&mut self, base: &Base) -> Result<()> {
        match base {
            Base::Client(entry) => self.client_added(entry),
            Base::Session(entry) => self.session_loaded(entry),
            Base::Volume(entry) => self.volume_loaded(entry),
            Base::Snapshot(entry) => self.snapshot_loaded(entry),
            Base::Map { of, runs } => self.map_loaded(*of, runs),
            Base::Attachment(entry) => self.attachment_loaded(entry, &[]),
            Base::Segment { volume, segment } => self.segment_loaded(*volume, segment),
            Base::Changed { volume, epoch, masks } => self.changes_loaded(*volume, *epoch, masks),
            Base::Limbo(entry) => self.limbo_loaded(entry),
            Base::Quarantine(entry) => self.quarantine_loaded(entry),
            Base::Late { session, places } => self.late_loaded(*session, places),
            Base::Fresh { token, regions } => self.fresh_loaded(*token, regions),
            Base::Taking { token, places } => self.takeover_granted(*token, places),
            Base::Kept(entry) => self.kept_loaded(entry),
            Base::Counters { session, token, limbo, quarantine } => {
                must(self.sessions.last_key_value().is_none_or(|(no, _)| no < session), "the next session is there already")?;
                must(self.attachments.last_key_value().is_none_or(|(t, _)| t < token), "the next token is there already")?;
                must(self.limbo.last_key_value().is_none_or(|(no, _)| no < limbo), "the next limbo is there already")?;
                must(self.quarantine.last_key_value().is_none_or(|(no, _)| no < quarantine), "the next quarantine is there already")?;
                self.counters = Counters { session: *session, token: *token, limbo: *limbo, quarantine: *quarantine };
                Ok(())
            }
            Base::Out { volume, disks } => self.out_loaded(*volume, disks),
            Base::Husks { volume, no, places } => self.husks_loaded(*volume, *no, places),
            Base::Copying { generation, own, targets } => self.copying_loaded(*generation, own, targets),
            Base::Bound { token, regions } => self.bound_loaded(*token, regions),
        }
    }

    /// What the volume has of this name at this AU already, in its live map or a snapshot's.
    fn there(&self, volume: VolumeId, au: VolAu, entry: &MapEntry) -> Option<MapEntry> {
        let live = self.volume(volume).and_then(|v| v.map.get(au));
        let frozen = self.snapshots.values().filter(|s| s.entry.volume == volume).filter_map(|s| s.map.get(au));
        live.into_iter().chain(frozen).find(|e| e.name() == entry.name())
    }

    fn map_loaded(&mut self, of: MapOf, runs: &[MapRun]) -> Result<()> {
        let missing = || unfit("a part of a map of nothing");
        let (id, size) = match of {
            MapOf::Volume(id) => (id, self.volume(id).ok_or_else(missing)?.entry.size),
            MapOf::Snapshot(id) => self.snapshot(id).map(|s| (s.entry.volume, s.entry.size)).ok_or_else(missing)?,
        };
        let entries = entries_of(runs)?;
        entries_fit(self.volume(id).ok_or_else(missing)?, self.aus_of(size)?, &entries)?;
        let map = match of {
            MapOf::Volume(id) => &self.volume(id).ok_or_else(missing)?.map,
            MapOf::Snapshot(id) => &self.snapshot(id).ok_or_else(missing)?.map,
        };
        must(entries.iter().all(|(au, _)| map.get(*au).is_none()), "a part of a map comes twice")?;
        let known: Vec<Option<MapEntry>> = entries.iter().map(|(au, e)| self.there(id, *au, e)).collect();
        let alike = |((_, e), k): (&(VolAu, MapEntry), &Option<MapEntry>)| k.is_none_or(|k| k.legs() == e.legs());
        must(entries.iter().zip(&known).all(alike), "an AU has other replicas in a snapshot than in the live map")?;
        let new: Vec<DiskAu> = Self::places(entries.iter().zip(&known).filter(|(_, k)| k.is_none()).map(|((_, e), _)| e));
        must(self.all_free(&new), "an AU gets a second owner")?;
        self.take(new);
        let map = match of {
            MapOf::Volume(id) => self.volumes.get_mut(&id).map(|v| &mut v.map),
            MapOf::Snapshot(id) => self.snapshots.get_mut(&id).map(|s| &mut s.map),
        };
        if let Some(map) = map {
            for (au, e) in entries {
                map.set(au, Some(e));
            }
        }
        Ok(())
    }

    fn segment_loaded(&mut self, volume: VolumeId, s: &Segment) -> Result<()> {
        let v = self.volume(volume).ok_or_else(|| unfit("a preserve segment of no volume"))?;
        must(s.no < v.entry.next_segment && !v.segments.contains_key(&s.no), "a preserve segment comes twice")?;
        must(legs_fit(&s.legs, v.entry.legs), "a preserve segment does not fit its volume")?;
        must(self.all_free(&s.legs), "an AU gets a second owner")?;
        self.take(s.legs.clone());
        self.segment_begun(volume, s.clone());
        Ok(())
    }

    fn changes_loaded(&mut self, volume: VolumeId, epoch: VolumeEpoch, masks: &[AuMask]) -> Result<()> {
        let v = self.volumes.get_mut(&volume).ok_or_else(|| unfit("changes of no volume"))?;
        let of = v.changed.entry(epoch).or_default();
        must(masks.iter().all(|m| !of.contains_key(&m.au)), "changes come twice")?;
        of.extend(masks.iter().map(|m| (m.au, m.blocks)));
        Ok(())
    }

    fn late_loaded(&mut self, session: SessionNo, places: &[DiskAu]) -> Result<()> {
        must(self.sessions.contains_key(&session), "places that nobody may write late")?;
        let taken = |p: &DiskAu| self.disk(p.disk).is_some_and(|d| d.space.holds(p.au) && !d.space.is_free(p.au));
        must(places.iter().all(taken) && places.iter().all(|p| !self.late.contains_key(p)), "a late place is free, or comes twice")?;
        self.late.extend(places.iter().map(|p| (*p, session)));
        Ok(())
    }

    fn quarantine_loaded(&mut self, entry: &QuarantineEntry) -> Result<()> {
        must(!self.quarantine.contains_key(&entry.no), "a quarantine comes twice")?;
        must(self.sessions.contains_key(&entry.session), "a quarantine for nobody")?;
        must(self.all_free(&entry.places), "an AU gets a second owner")?;
        self.take(entry.places.clone());
        self.quarantine.insert(entry.no, entry.clone());
        Ok(())
    }

    fn limbo_loaded(&mut self, entry: &LimboEntry) -> Result<()> {
        must(!self.limbo.contains_key(&entry.no), "a limbo entry comes twice")?;
        must(!entry.places.is_empty(), "nothing is in limbo")?;
        self.waits_fit(entry.volume, &entry.waits)?;
        must(self.all_free(&entry.places), "an AU gets a second owner")?;
        self.take(entry.places.clone());
        self.limbo.insert(entry.no, entry.clone());
        Ok(())
    }
}
