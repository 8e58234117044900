//! Snapshots taken: hold, flip, release (PROTOCOL.md, H1).
//!
//! ```text
//!  nobody writes: frozen at once
//!  a writer:      EpochBegun is durable -> Hold -> (drains, flushes, reports) -> Held{seq} -> everything up to seq is applied,
//!                 and nothing above it -> SnapshotTaken -> Release{taken}
//!                 deadline, failure, lapse, a later change applied before Held was read -> dropped -> Release{dropped}
//!                 the writer gives the volume back or is dead and drained -> frozen at once, in a fresh epoch
//! ```
//! The number of the epoch is used up when the hold begins, whatever comes of it: the writer may have gone on in it already, and what it
//! preserved under that number would belong to an earlier moment than a later snapshot of the same number. After a restart of the
//! manager a hold that was not committed is dropped; the asker asks again with the same identity.

use super::admin_api::Level;
use super::rights::no_volume;
use super::view::snapshot_view;
use super::{AdminReply, Asker, ConnId, Core};
use crate::catalog::Catalog;
use crate::catalog::record::{AttachmentEntry, Record};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{Seq, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::name::Name;
use fusevol_shared::wire::messages::{Ack, Hold, Push, Release, Reply, SnapshotTaken};

/// A hold that is under way.
#[derive(Debug)]
pub(super) struct Holding {
    id: SnapshotId,
    name: Name,
    asker: Asker,
    writer: AttachmentEntry,
    /// The epoch that ends.
    closing: VolumeEpoch,
    push: u64,
    /// On which connection the writer was told, if it was.
    conn: Option<ConnId>,
    began: BootTime,
    pub deadline: BootTime,
    /// Highest number of a change that came since, applied or refused.
    pub seen: Seq,
    /// The writer's answer, while a change below it is missing.
    held: Option<Seq>,
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
        match self.catalog.writer(volume).copied() {
            None => self.freeze(volume, id, name, 0).map(Some),
            Some(writer) => self.hold(volume, id, name, writer, asker).map(|()| None),
        }
    }

    /// Nobody writes: the map is frozen as it stands.
    fn freeze(&mut self, volume: VolumeId, id: SnapshotId, name: Name, held_us: u64) -> Result<SnapshotTaken> {
        let epoch = self.catalog.volume(volume).ok_or_else(no_volume)?.entry.epoch;
        self.snapshot_committed(volume, id, name, epoch, held_us)
    }

    fn snapshot_committed(
        &mut self,
        volume: VolumeId,
        id: SnapshotId,
        name: Name,
        epoch: VolumeEpoch,
        held_us: u64,
    ) -> Result<SnapshotTaken> {
        self.commit(Record::SnapshotTaken { id, volume, name: name.clone(), epoch, created: self.now.seconds() })?;
        self.held_us.insert(id, held_us);
        self.spent.insert(volume);
        self.list_changed(volume);
        let of = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
        self.tell(Level::Ok, "snapshot-taken", format!("snapshot '{of}@{name}' was taken; writes were held for {held_us} us"));
        let s = self.catalog.snapshot(id).ok_or_else(super::rights::no_snapshot)?;
        Ok(SnapshotTaken { snapshot: self.snapshot_info(s), held_us })
    }

    fn hold(&mut self, volume: VolumeId, id: SnapshotId, name: Name, writer: AttachmentEntry, asker: Asker) -> Result<()> {
        let session = writer.session;
        let now = self.now.boot;
        if self.pending.contains_key(&(volume, session)) {
            return Err(Error::new(Kind::Busy, "the volume is being attached").hint("try again in a moment"));
        }
        let probed = self.is_probed(session);
        let life = self.lives.get_mut(&session).filter(|l| !l.lapsed);
        let Some(life) = life else {
            if let Some(l) = self.lives.get_mut(&session).filter(|_| probed) {
                l.probe_now(now);
            }
            return Err(self.busy_with(volume, session));
        };
        let conn = life.conn;
        let closing = self.catalog.volume(volume).ok_or_else(no_volume)?.entry.epoch;
        let epoch = VolumeEpoch(closing.0 + 1);
        let segment = self.new_segment(volume, closing, writer.token, session)?;
        self.commit(Record::EpochBegun { volume, epoch, segment: segment.clone() })?;
        let deadline_ms = u32::try_from(self.config.hold.as_millis()).unwrap_or(u32::MAX);
        let body = Hold { volume, token: writer.token, snapshot: id, epoch, segment, deadline_ms };
        let push = self.push(session, Push::Hold(body)).ok_or_else(|| self.busy_with(volume, session))?;
        let deadline = now.plus(self.config.hold);
        let holding = Holding { id, name, asker, writer, closing, push, conn, began: now, deadline, seen: writer.last, held: None };
        self.holds.insert(volume, holding);
        Ok(())
    }

    pub(super) fn hold_answered(&mut self, volume: VolumeId, snapshot: SnapshotId, push: u64, ack: &Ack) {
        let Some(h) = self.holds.get_mut(&volume).filter(|h| h.id == snapshot && h.push == push) else { return };
        match ack {
            Ack::Held { seq } => {
                // Judged when the step is settled.
                h.held = Some(*seq);
            }
            Ack::Done => self.drop_hold(volume, "the writer answered without its sequence"),
            Ack::Failed(e) => {
                let why = format!("the writer could not hold: {}", e.message);
                self.drop_hold(volume, &why);
            }
        }
    }

    /// A change that an answer waits for may have come.
    pub(super) fn holds_go_on(&mut self) {
        let waiting: Vec<VolumeId> = self.holds.iter().filter(|(_, h)| h.held.is_some()).map(|(v, _)| *v).collect();
        for v in waiting {
            self.hold_goes_on(v);
        }
    }

    /// Commits the snapshot once everything that the writer did before the flip is applied, and nothing after it.
    fn hold_goes_on(&mut self, volume: VolumeId) {
        let Some((h, held)) = self.holds.get(&volume).and_then(|h| Some((h, h.held?))) else { return };
        let Some(last) = self.catalog.attachment(h.writer.token).map(|a| a.last) else { return };
        if last > held {
            return self.drop_hold(volume, "the writer had gone on before its answer was read");
        }
        if last.max(h.seen) < held {
            return;
        }
        let Some(h) = self.holds.remove(&volume) else { return };
        let held_us = u64::try_from(self.now.boot.since(h.began).as_micros()).unwrap_or(u64::MAX);
        let result = self.snapshot_committed(volume, h.id, h.name.clone(), h.closing, held_us);
        self.release(volume, &h, result.is_ok());
        self.answer_snapshot(h.asker, result);
    }

    /// Tells the writer how a hold ended. The last word of a volume replaces those that were not answered.
    fn release(&mut self, volume: VolumeId, h: &Holding, taken: bool) {
        let session = h.writer.session;
        self.unpush(session, |p| matches!(p, Push::Release(r) if r.volume == volume) || matches!(p, Push::Hold(r) if r.volume == volume));
        self.push(session, Push::Release(Release { volume, snapshot: h.id, taken }));
    }

    fn drop_hold(&mut self, volume: VolumeId, why: &str) {
        let Some(h) = self.holds.remove(&volume) else { return };
        self.release(volume, &h, false);
        self.tell(Level::Warning, "snapshot-dropped", format!("snapshot '{}' was not taken: {why}", h.name));
        let e = Error::new(Kind::Busy, format!("the snapshot was not taken: {why}")).hint("try again");
        self.answer_snapshot(h.asker, Err(e));
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

    /// The writer has given the volume back, or is dead and drained. Its answer to a hold will not come; what it did is all applied, and
    /// the map stands still: it is frozen, in the epoch that is current now.
    pub(super) fn writer_gone(&mut self, volume: VolumeId) {
        if self.catalog.writer(volume).is_some() {
            return;
        }
        let Some(h) = self.holds.remove(&volume) else { return };
        let result = self.freeze(volume, h.id, h.name, 0);
        self.answer_snapshot(h.asker, result);
    }

    /// The writer's lease is over: what it does now is not known in time.
    pub(super) fn drop_holds_of(&mut self, session: SessionNo) {
        let lost: Vec<VolumeId> = self.holds.iter().filter(|(_, h)| h.writer.session == session).map(|(v, _)| *v).collect();
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

    /// The epoch of a preserve segment that is asked for now. What is asked on the connection on which the writer was told of a hold, before
    /// its answer, is asked before the flip: what goes there belongs to the epoch before. On any other connection it cannot
    /// be known whether the writer has flipped: the hold is dropped.
    pub(super) fn epoch_of_segment(&mut self, volume: VolumeId, conn: ConnId) -> VolumeEpoch {
        let before = self.holds.get(&volume).filter(|h| h.conn == Some(conn) && h.held.is_none()).map(|h| h.closing);
        if let Some(closing) = before {
            return VolumeEpoch(closing.0.saturating_sub(1));
        }
        self.drop_hold(volume, "the writer lost its connection while it was held");
        self.catalog.volume(volume).map_or(VolumeEpoch(0), Catalog::preserve_epoch)
    }
}
