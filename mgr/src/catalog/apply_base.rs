//! Records of a checkpoint: each part of the state as it stood.

use super::apply_change::entries_of;
use super::record::{Base, LimboEntry, MapOf, SegmentEntry};
use super::{Catalog, Counters, must, unfit};
use fusevol_shared::error::Result;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::map::{MapEntry, MapRun};
use fusevol_shared::units::{DiskAu, VolAu};
use std::collections::BTreeSet;

impl Catalog {
    pub(super) fn base(&mut self, base: &Base) -> Result<()> {
        match base {
            Base::Client(entry) => self.client_added(entry),
            Base::Session(entry) => self.session_loaded(entry),
            Base::Volume(entry) => self.volume_loaded(entry),
            Base::Snapshot(entry) => self.snapshot_loaded(entry),
            Base::Map { of, runs } => self.map_loaded(*of, runs),
            Base::Attachment(entry) => {
                must(self.attachment_of(entry.volume, entry.session).is_none(), "a volume is attached twice by a session")?;
                self.attachment_fits(entry)?;
                self.attachments.insert(entry.token, *entry);
                Ok(())
            }
            Base::Segment { volume, entry } => self.segment_loaded(*volume, entry),
            Base::Limbo(entry) => self.limbo_loaded(entry),
            Base::Counters { session, token, limbo } => {
                must(self.sessions.last_key_value().is_none_or(|(no, _)| no < session), "the next session is there already")?;
                must(self.attachments.last_key_value().is_none_or(|(t, _)| t < token), "the next token is there already")?;
                must(self.limbo.last_key_value().is_none_or(|(no, _)| no < limbo), "the next limbo is there already")?;
                self.counters = Counters { session: *session, token: *token, limbo: *limbo };
                Ok(())
            }
        }
    }

    fn are_free(&self, places: &[DiskAu]) -> bool {
        let set: BTreeSet<_> = places.iter().collect();
        set.len() == places.len() && places.iter().all(|p| self.disk(p.disk).is_some_and(|d| d.space.is_free(p.au)))
    }

    /// Whether the volume has this AU at this place already, in its live map or a snapshot's.
    fn has_there(&self, volume: VolumeId, au: VolAu, entry: &MapEntry) -> bool {
        let live = self.volume(volume).and_then(|v| v.map.get(au)).is_some_and(|e| e.legs() == entry.legs());
        live || Self::shared(&self.snapshots_of(volume), au, entry)
    }

    fn map_loaded(&mut self, of: MapOf, runs: &[MapRun]) -> Result<()> {
        let missing = || unfit("a part of a map of nothing");
        let (id, size) = match of {
            MapOf::Volume(id) => (id, self.volume(id).ok_or_else(missing)?.entry.size),
            MapOf::Snapshot(id) => self.snapshot(id).map(|s| (s.entry.volume, s.entry.size)).ok_or_else(missing)?,
        };
        let entries = entries_of(runs)?;
        self.entries_fit(id, size, &entries)?;
        let map = match of {
            MapOf::Volume(id) => &self.volume(id).ok_or_else(missing)?.map,
            MapOf::Snapshot(id) => &self.snapshot(id).ok_or_else(missing)?.map,
        };
        must(entries.iter().all(|(au, _)| map.get(*au).is_none()), "a part of a map comes twice")?;
        let new: Vec<DiskAu> = Self::places(entries.iter().filter(|(au, e)| !self.has_there(id, *au, e)).map(|(_, e)| e));
        must(self.are_free(&new), "an AU gets a second owner")?;
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

    fn segment_loaded(&mut self, volume: VolumeId, entry: &SegmentEntry) -> Result<()> {
        let v = self.volume(volume).ok_or_else(|| unfit("a preserve segment of no volume"))?;
        let s = &entry.segment;
        must(s.no < v.entry.next_segment && !v.segments.contains_key(&s.no), "a preserve segment comes twice")?;
        must(s.legs.len() == usize::from(v.entry.legs), "a preserve segment does not fit its volume")?;
        must(self.are_free(&s.legs), "an AU gets a second owner")?;
        self.segment_taken(volume, entry.clone());
        Ok(())
    }

    fn limbo_loaded(&mut self, entry: &LimboEntry) -> Result<()> {
        must(!self.limbo.contains_key(&entry.no), "a limbo entry comes twice")?;
        must(!entry.places.is_empty(), "nothing is in limbo")?;
        self.waits_fit(entry.volume, &entry.waits)?;
        must(self.are_free(&entry.places), "an AU gets a second owner")?;
        self.take(entry.places.clone());
        self.limbo.insert(entry.no, entry.clone());
        Ok(())
    }
}
