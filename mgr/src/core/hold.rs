//! Snapshots taken: hold, flip, fold, release (PROTOCOL.md, H1).
//!
//! ```text
//!  nobody writes: frozen at once
//!  a writer:      EpochBegun is durable, with the snapshot to be -> Hold -> (drains, flushes, appends all and the flip) -> Held, and
//!                 the fold of the append that has the flip takes the snapshot, at exactly that point -> Release{taken}
//!                 deadline, failure, lapse before that fold -> HoldDropped is durable -> Release{dropped}; a flip that comes later takes nothing
//!                 the writer gives the volume back or is dead and drained -> its fold took it, or it is frozen at once, in a fresh epoch
//! ```
//! The number of the epoch is used up when the hold begins, whatever comes of it: the writer may have gone on in it already, and what it
//! preserved under that number would belong to an earlier moment than a later snapshot of the same number. A hold that a restarted
//! manager finds in the catalog is dropped before anything else; the asker asks again with the same identity.

use super::admin_api::Level;
use super::rights::no_volume;
use super::view::snapshot_view;
use super::{AdminReply, Asker, Core};
use crate::catalog::record::{Record, SnapshotToBe};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{FenceToken, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::name::Name;
use fusevol_shared::wire::messages::{Ack, Hold, Push, Release, Reply, SnapshotTaken};

/// A hold that is under way.
#[derive(Debug)]
pub(super) struct Holding {
    id: SnapshotId,
    name: Name,
    asker: Asker,
    session: SessionNo,
    push: u64,
    pub deadline: BootTime,
    /// The writer has answered: so long were writes held, microseconds.
    held_us: Option<u64>,
    /// The fold of the flip has taken it.
    taken: bool,
}

impl Core {
    /// Takes a snapshot; nothing where the answer comes later. Asked again with the same identity, it is taken once.
    pub(super) fn create_snapshot(&mut self, volume: VolumeId, id: SnapshotId, name: &str, asker: Asker) -> Result<Option<SnapshotTaken>> {
        let name = Name::new(name).map_err(|e| Error::new(Kind::Refused, e.to_string()))?;
        if let Some(s) = self.catalog.snapshot(id) {
            if s.entry.volume != volume || s.entry.name != name {
                return Err(Error::new(Kind::Refused, "the identity of the snapshot is used already"));
            }
            let held_us = self.held_us.get(&id).copied().unwrap_or(0);
            return Ok(Some(SnapshotTaken { snapshot: self.snapshot_info(s), held_us }));
        }
        if let Some(h) = self.holds.get_mut(&volume) {
            if h.id == id && h.name == name {
                h.asker = asker;
                return Ok(None);
            }
            return Err(Error::new(Kind::Busy, "another snapshot of this volume is being taken").hint("try again in a moment"));
        }
        let others = self.catalog.snapshots_of(volume);
        if others.iter().any(|s| s.entry.name == name) {
            return Err(Error::new(Kind::Exists, format!("the volume has a snapshot '{name}' already")).hint("choose another name"));
        }
        if others.len() >= self.config.limits.snapshots_per_volume {
            return Err(Error::new(Kind::Refused, "the volume has too many snapshots").hint("remove some with `snapshot rm`"));
        }
        if self.catalog.pending_of(id).is_some() {
            return Err(Error::new(Kind::Refused, "the identity of the snapshot is used already"));
        }
        self.check_room_in_catalog()?;
        match self.catalog.writer(volume).map(|a| (a.session, a.token)) {
            None => self.freeze(volume, id, name).map(Some),
            Some((session, token)) => self.hold(volume, id, name, session, token, asker).map(|()| None),
        }
    }

    /// Nobody writes: the map is frozen as it stands.
    fn freeze(&mut self, volume: VolumeId, id: SnapshotId, name: Name) -> Result<SnapshotTaken> {
        let epoch = self.catalog.volume(volume).ok_or_else(no_volume)?.entry.epoch;
        self.commit(Record::SnapshotTaken { id, volume, name, epoch, created: self.now.seconds() })?;
        self.spent.insert(volume);
        self.list_changed(volume);
        self.taken(volume, id, 0)
    }

    /// A snapshot stands: it is told, and this is its answer.
    fn taken(&mut self, volume: VolumeId, id: SnapshotId, held_us: u64) -> Result<SnapshotTaken> {
        let name = self.catalog.snapshot(id).ok_or_else(super::rights::no_snapshot)?.entry.name.clone();
        self.held_us.insert(id, held_us);
        let of = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
        self.tell(Level::Ok, "snapshot-taken", format!("snapshot '{of}@{name}' was taken; writes were held for {held_us} us"));
        let s = self.catalog.snapshot(id).ok_or_else(super::rights::no_snapshot)?;
        Ok(SnapshotTaken { snapshot: self.snapshot_info(s), held_us })
    }

    fn hold(&mut self, volume: VolumeId, id: SnapshotId, name: Name, session: SessionNo, token: FenceToken, asker: Asker) -> Result<()> {
        let now = self.now.boot;
        if self.pending.contains_key(&(volume, session)) {
            return Err(Error::new(Kind::Busy, "the volume is being attached").hint("try again in a moment"));
        }
        let probed = self.is_probed(session);
        if self.lives.get(&session).is_none_or(|l| l.lapsed || l.doomed || l.is_ending()) {
            if let Some(l) = self.lives.get_mut(&session).filter(|_| probed) {
                l.probe_now(now);
            }
            return Err(self.busy_with(volume, session));
        }
        let closing = self.catalog.volume(volume).ok_or_else(no_volume)?.entry.epoch;
        let epoch = VolumeEpoch(closing.0.checked_add(1).ok_or_else(no_volume)?);
        let snapshot = SnapshotToBe { id, name: name.clone(), created: self.now.seconds() };
        self.commit(Record::EpochBegun { volume, epoch, snapshot })?;
        let deadline_ms = u32::try_from(self.config.hold.as_millis()).unwrap_or(u32::MAX);
        let body = Hold { volume, token, snapshot: id, epoch, deadline_ms };
        let Some(push) = self.push(session, Push::Hold(body)) else {
            self.commit(Record::HoldDropped { volume })?;
            return Err(self.busy_with(volume, session));
        };
        let deadline = now.plus(self.config.hold);
        self.holds.insert(volume, Holding { id, name, asker, session, push, deadline, held_us: None, taken: false });
        Ok(())
    }

    pub(super) fn hold_answered(&mut self, volume: VolumeId, snapshot: SnapshotId, push: u64, ack: &Ack) {
        let Some(h) = self.holds.get_mut(&volume).filter(|h| h.id == snapshot && h.push == push) else { return };
        match ack {
            Ack::Held { held_us, .. } => h.held_us = Some(*held_us),
            Ack::Done => self.drop_hold(volume, "the writer answered without its sequence"),
            Ack::Failed(e) => {
                let why = format!("the writer could not hold: {}", e.message);
                self.drop_hold(volume, &why);
            }
        }
    }

    /// The fold of a flip has taken the snapshot that was to be.
    pub(super) fn snapshot_folded(&mut self, volume: VolumeId, id: SnapshotId) {
        self.list_changed(volume);
        if let Some(h) = self.holds.get_mut(&volume).filter(|h| h.id == id) {
            h.taken = true;
        }
    }

    /// What is taken is answered for once the writer has said how long it held; a writer that is not there is not waited for.
    pub(super) fn holds_go_on(&mut self) {
        let there = |h: &Holding| h.held_us.is_none() && self.lives.get(&h.session).is_some_and(|l| l.conn.is_some());
        let done: Vec<VolumeId> = self.holds.iter().filter(|(_, h)| h.taken && !there(h)).map(|(v, _)| *v).collect();
        for v in done {
            self.finish_hold(v);
        }
    }

    fn finish_hold(&mut self, volume: VolumeId) {
        let Some(h) = self.holds.remove(&volume) else { return };
        let result = self.taken(volume, h.id, h.held_us.unwrap_or(0));
        self.release(volume, &h, true);
        self.answer_snapshot(h.asker, result);
    }

    /// Tells the writer how a hold ended. The last word of a volume replaces those that were not answered.
    fn release(&mut self, volume: VolumeId, h: &Holding, taken: bool) {
        let session = h.session;
        self.unpush(session, |p| matches!(p, Push::Release(r) if r.volume == volume) || matches!(p, Push::Hold(r) if r.volume == volume));
        self.push(session, Push::Release(Release { volume, snapshot: h.id, taken }));
    }

    /// Dropped in the catalog before anybody is told: a flip that comes later takes nothing. What is taken already stays.
    fn drop_hold(&mut self, volume: VolumeId, why: &str) {
        if self.holds.get(&volume).is_some_and(|h| h.taken) {
            return self.finish_hold(volume);
        }
        let Some(h) = self.holds.remove(&volume) else { return };
        self.commit_or_tell(Record::HoldDropped { volume });
        self.release(volume, &h, false);
        self.tell(Level::Warning, "snapshot-dropped", format!("snapshot '{}' was not taken: {why}", h.name));
        let e = Error::new(Kind::Busy, format!("the snapshot was not taken: {why}")).hint("try again");
        self.answer_snapshot(h.asker, Err(e));
    }

    /// A manager that has just begun knows of no asker: what was to be is dropped.
    pub(super) fn drop_old_holds(&mut self) {
        let old: Vec<_> = self.catalog.volumes().filter_map(|v| Some((v.entry.id, v.entry.pending.clone()?))).collect();
        for (volume, p) in old {
            self.commit_or_tell(Record::HoldDropped { volume });
            self.tell(Level::Warning, "snapshot-dropped", format!("snapshot '{}' was not taken: the manager ended meanwhile", p.name));
        }
    }

    fn answer_snapshot(&mut self, asker: Asker, result: Result<SnapshotTaken>) {
        match asker {
            Asker::Client { .. } => self.reply(asker, result.map(Reply::SnapshotTaken)),
            Asker::Admin(to) => {
                let result = result.and_then(|t| {
                    let s = self.catalog.snapshot(t.snapshot.id).ok_or_else(super::rights::no_snapshot)?;
                    Ok(AdminReply::Snapshot(snapshot_view(self, s)))
                });
                self.admin_reply(to, result);
            }
        }
    }

    /// The writer has given the volume back, or is dead and drained, and all that it did is folded: either that has taken the snapshot, or
    /// the map stands still and is frozen, in the epoch that is current now.
    pub(super) fn writer_gone(&mut self, volume: VolumeId) {
        if self.catalog.writer(volume).is_some() {
            return;
        }
        if self.holds.get(&volume).is_some_and(|h| h.taken) {
            return self.finish_hold(volume);
        }
        let Some(h) = self.holds.remove(&volume) else { return };
        let result = self.commit(Record::HoldDropped { volume }).and_then(|()| self.freeze(volume, h.id, h.name));
        self.answer_snapshot(h.asker, result);
    }

    /// The writer's lease is over: what it does now is not known in time.
    pub(super) fn drop_holds_of(&mut self, session: SessionNo) {
        let lost: Vec<VolumeId> = self.holds.iter().filter(|(_, h)| h.session == session).map(|(v, _)| *v).collect();
        for v in lost {
            self.drop_hold(v, "the lease of the writer is over");
        }
    }

    pub(super) fn holds_due(&mut self) {
        let now = self.now.boot;
        let due: Vec<VolumeId> = self.holds.iter().filter(|(_, h)| h.deadline <= now).map(|(v, _)| *v).collect();
        for v in due {
            self.drop_hold(v, "the writer did not answer in time");
        }
    }
}
