//! Snapshots read and removed.

use super::Core;
use super::admin_api::Level;
use super::rights::no_snapshot;
use crate::catalog::record::Record;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{SessionNo, SnapshotId};
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{MapPart, Push, Reply, SnapshotOpened};

impl Core {
    pub(super) fn open_snapshot(&mut self, session: SessionNo, id: SnapshotId) -> Result<Reply> {
        if !self.catalog.is_open(id, session) {
            self.check_more_holdings(session)?;
            self.commit(Record::SnapshotOpened { id, session })?;
        }
        let s = self.catalog.snapshot(id).ok_or_else(no_snapshot)?;
        let volume = self.catalog.volume(s.entry.volume).ok_or_else(no_snapshot)?;
        // A segment that is not folded yet is named on disk by the one before it.
        let segments = volume.segments.values().filter(|g| g.epoch >= s.entry.epoch).cloned().collect();
        Ok(Reply::SnapshotOpened(SnapshotOpened { volume: s.entry.volume, info: self.snapshot_info(s), segments, out: volume.out.clone() }))
    }

    pub(super) fn get_snapshot_map(&self, session: SessionNo, id: SnapshotId, from: VolAu) -> Result<Reply> {
        let s = self.catalog.snapshot(id).ok_or_else(no_snapshot)?;
        let writes = self.catalog.writer(s.entry.volume).is_some_and(|a| a.session == session);
        if !self.catalog.is_open(id, session) && !writes {
            return Err(Error::new(Kind::Refused, "the session has not opened this snapshot"));
        }
        let (runs, next) = s.map.part(from);
        Ok(Reply::MapPart(MapPart { runs, next }))
    }

    pub(super) fn close_snapshot(&mut self, session: SessionNo, id: SnapshotId) -> Result<()> {
        // Asked twice, it is done once.
        if !self.catalog.is_open(id, session) {
            return Ok(());
        }
        self.commit(Record::SnapshotClosed { id, session })?;
        let gone: Vec<u64> = self.lives.get(&session).map_or_else(Vec::new, |l| {
            l.pushes.iter().filter(|(_, p)| matches!(p, Push::SegmentAdded(a) if a.snapshot == id)).map(|(n, _)| *n).collect()
        });
        self.unpush(session, |p| matches!(p, Push::SegmentAdded(a) if a.snapshot == id));
        self.readers_wait_over(|(s, n)| *s == session && gone.contains(n));
        if let Some(volume) = self.catalog.snapshot(id).map(|s| s.entry.volume) {
            self.legs_not_read(session, volume);
            if self.catalog.attachment_of(volume, session).is_none() && !self.catalog.reads_frozen(volume, session) {
                self.reader_gone(session, volume);
                self.limbo_moved = true;
            }
        }
        Ok(())
    }

    pub(super) fn remove_snapshot(&mut self, id: SnapshotId) -> Result<()> {
        let s = self.catalog.snapshot(id).ok_or_else(no_snapshot)?;
        let (volume, name) = (s.entry.volume, s.entry.name.clone());
        let readers: Vec<SessionNo> = self.catalog.readers(id).collect();
        if let Some(first) = readers.first() {
            let e = Error::new(Kind::Busy, format!("snapshot '{name}' is being read by {}", self.who(*first)));
            let now = self.now.boot;
            for r in readers {
                if let Some(l) = self.lives.get_mut(&r).filter(|l| l.may_be_dead()) {
                    l.probe_now(now);
                    l.wanted = true;
                }
            }
            return Err(e.hint("close it there, then try again"));
        }
        let waits = self.users(volume, None);
        let limbo = self.catalog.counters().limbo;
        self.commit(Record::SnapshotRemoved { id, limbo, waits: waits.clone() })?;
        self.held_us.remove(&id);
        self.spent.insert(volume);
        self.limbo_entered(volume, &waits);
        self.list_changed(volume);
        let of = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
        self.tell(Level::Ok, "snapshot-removed", format!("snapshot '{of}@{name}' was removed"));
        Ok(())
    }
}
