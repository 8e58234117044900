//! Attachments: one writer of a volume at most, any number of readers.
//!
//! A write attachment that must wait is *pending*: for the proof that the holder before it is dead and drained, or until every reader of
//! the volume's snapshots knows where its preserve log begins. The wait has an end; then the answer is `Busy`.

use super::admin_api::SessionState;
use super::reader::{Reader, runs_of};
use super::rights::no_volume;
use super::{Asker, ConnId, Core};
use crate::catalog::Catalog;
use crate::catalog::record::{AttachmentEntry, Mode, Record};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{FenceToken, SessionNo, VolumeEpoch, VolumeId};
use fusevol_shared::map::MapEntry;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{Attached, MapPart, Push, Reply, Segment, SegmentAdded};
use std::collections::BTreeSet;

/// Most AUs in one part of a map.
pub(super) const AUS_PER_PART: usize = 4096;

/// What a write attachment waits for.
#[derive(Debug)]
pub(super) enum Wait {
    /// Proof that this session is dead.
    Holder(SessionNo),
    /// These pushes to readers of snapshots.
    Readers(BTreeSet<(SessionNo, u64)>),
}

/// A write attachment that waits.
#[derive(Debug)]
pub(super) struct Pending {
    asker: Asker,
    wait: Wait,
    pub deadline: BootTime,
}

impl Core {
    fn attached_reply(&self, a: &AttachmentEntry) -> Result<Reply> {
        let v = self.catalog.volume(a.volume).ok_or_else(no_volume)?;
        let first = v.segments.values().find(|s| s.segment.token == a.token).map(|s| s.segment.clone());
        Ok(Reply::Attached(Attached {
            token: a.token,
            size: v.entry.size,
            epoch: v.entry.epoch,
            version: v.entry.version,
            snapshots: self.snapshot_infos(a.volume),
            segment: first.into_iter().collect(),
        }))
    }

    fn check_holdings(&self, session: SessionNo) -> Result<()> {
        let held = self.catalog.attachments().filter(|a| a.session == session).count()
            + self.catalog.opens().filter(|(_, s)| *s == session).count();
        if held < self.config.limits.holdings_per_session {
            Ok(())
        } else {
            Err(Error::new(Kind::Busy, "the session holds too many volumes and snapshots"))
        }
    }

    pub(super) fn check_more_holdings(&self, session: SessionNo) -> Result<()> {
        self.check_holdings(session)
    }

    pub(super) fn attach_read(&mut self, session: SessionNo, volume: VolumeId) -> Result<Reply> {
        if let Some(a) = self.catalog.attachment_of(volume, session).copied() {
            return self.attached_reply(&a);
        }
        if self.pending.contains_key(&(volume, session)) {
            return Err(Error::new(Kind::Busy, "the session is attaching this volume for writing"));
        }
        self.check_holdings(session)?;
        let token = self.catalog.counters().token;
        self.commit(Record::Attached { volume, session, token, mode: Mode::Read, segment: None })?;
        if let Some(l) = self.lives.get_mut(&session) {
            l.readers.insert(volume, Reader::default());
        }
        let a = self.catalog.attachment(token).copied().ok_or_else(no_volume)?;
        self.attached_reply(&a)
    }

    pub(super) fn attach_write(&mut self, session: SessionNo, volume: VolumeId, conn: ConnId, id: u64) -> Result<Option<Reply>> {
        let asker = Asker::Client { conn, id };
        if let Some(p) = self.pending.get_mut(&(volume, session)) {
            // Asked again on a new connection: the wait goes on, the answer goes there.
            p.asker = asker;
            return Ok(None);
        }
        if let Some(a) = self.catalog.attachment_of(volume, session).copied() {
            if a.mode == Mode::Read {
                let e = Error::new(Kind::Busy, "the session has this volume attached for reading");
                return Err(e.hint("detach it first: what it reads must be drained"));
            }
            return self.attached_reply(&a).map(Some);
        }
        if let Some(holder) = self.catalog.writer(volume).map(|a| a.session) {
            self.wait_for_holder(session, volume, holder, asker)?;
            return Ok(None);
        }
        self.begin_write(session, volume, asker)
    }

    /// The holder is asked for by its locks, if it may be dead; `Busy` if not.
    fn wait_for_holder(&mut self, session: SessionNo, volume: VolumeId, holder: SessionNo, asker: Asker) -> Result<()> {
        let now = self.now.boot;
        let probed = self.is_probed(holder);
        let Some(life) = self.lives.get_mut(&holder).filter(|l| l.may_be_dead() && probed) else {
            return Err(self.busy_with(volume, holder));
        };
        life.probe_now(now);
        let deadline = now.plus(self.config.patience);
        self.pending.insert((volume, session), Pending { asker, wait: Wait::Holder(holder), deadline });
        Ok(())
    }

    /// Who has it, and what can be done.
    pub(super) fn busy_with(&self, volume: VolumeId, holder: SessionNo) -> Error {
        let name = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
        let e = Error::new(Kind::Busy, format!("volume '{name}' is attached for writing by {}", self.who(holder)));
        match self.session_state(holder) {
            SessionState::Live => e.hint("unmount it there, or open it read-only"),
            SessionState::Away => e.hint("its connection is lost, its lease is not over yet: try again in a moment"),
            SessionState::Lapsed => {
                let client = self
                    .catalog
                    .session(holder)
                    .and_then(|s| self.catalog.client(s.client))
                    .map_or_else(String::new, |c| c.name.to_string());
                e.hint(format!("if that host is really off: `fusevol-mgr client confirm-dead {client}`"))
            }
        }
    }

    pub(super) fn session_state(&self, no: SessionNo) -> SessionState {
        match self.lives.get(&no) {
            Some(l) if l.lapsed => SessionState::Lapsed,
            Some(l) if l.conn.is_some() => SessionState::Live,
            _ => SessionState::Away,
        }
    }

    /// A segment that may be granted now; preserve segments may use the reserve.
    pub(super) fn new_segment(&mut self, volume: VolumeId, epoch: VolumeEpoch, token: FenceToken, session: SessionNo) -> Result<Segment> {
        let v = self.catalog.volume(volume).ok_or_else(no_volume)?;
        let places = self.allocator.choose(&self.catalog, v.entry.legs, 1, 0);
        let legs = places.and_then(|mut p| p.pop()).ok_or_else(|| no_space("no room to preserve blocks of snapshots"))?;
        Ok(Segment { no: v.entry.next_segment, epoch, token, session, legs })
    }

    fn begin_write(&mut self, session: SessionNo, volume: VolumeId, asker: Asker) -> Result<Option<Reply>> {
        self.check_holdings(session)?;
        let token = self.catalog.counters().token;
        let v = self.catalog.volume(volume).ok_or_else(no_volume)?;
        let epoch = Catalog::preserve_epoch(v);
        let segment = match self.catalog.snapshots_of(volume).is_empty() {
            true => None,
            false => Some(self.new_segment(volume, epoch, token, session)?),
        };
        self.commit(Record::Attached { volume, session, token, mode: Mode::Write, segment: segment.clone() })?;
        self.spent.insert(volume);
        self.list_changed(volume);
        let waits = segment.map(|s| self.announce(volume, &s)).unwrap_or_default();
        if waits.is_empty() {
            let a = self.catalog.attachment(token).copied().ok_or_else(no_volume)?;
            return self.attached_reply(&a).map(Some);
        }
        let deadline = self.now.boot.plus(self.config.patience);
        self.pending.insert((volume, session), Pending { asker, wait: Wait::Readers(waits), deadline });
        Ok(None)
    }

    /// Tells every reader of the volume's snapshots where a preserve log begins.
    fn announce(&mut self, volume: VolumeId, segment: &Segment) -> BTreeSet<(SessionNo, u64)> {
        let readers: Vec<_> =
            self.catalog.opens().filter(|(id, _)| self.catalog.snapshot(*id).is_some_and(|s| s.entry.volume == volume)).collect();
        let mut waits = BTreeSet::new();
        for (snapshot, session) in readers {
            let push = self.push(session, Push::SegmentAdded(SegmentAdded { snapshot, segment: segment.clone() }));
            // A reader that could not be told is waited for all the same, until its session is over.
            waits.insert((session, push.unwrap_or(u64::MAX)));
        }
        waits
    }

    /// A reader knows of a new preserve log.
    pub(super) fn segment_answered(&mut self, session: SessionNo, push: u64) {
        self.readers_wait_over(|w| *w == (session, push));
    }

    /// Takes waits away; those with none left are answered.
    pub(super) fn readers_wait_over(&mut self, over: impl Fn(&(SessionNo, u64)) -> bool) {
        let mut ready = Vec::new();
        for (key, p) in &mut self.pending {
            if let Wait::Readers(waits) = &mut p.wait {
                waits.retain(|w| !over(w));
                if waits.is_empty() {
                    ready.push(*key);
                }
            }
        }
        for key in ready {
            self.finish_pending(key);
        }
    }

    fn finish_pending(&mut self, (volume, session): (VolumeId, SessionNo)) {
        let Some(p) = self.pending.remove(&(volume, session)) else { return };
        let result = match self.catalog.attachment_of(volume, session).copied() {
            Some(a) => self.attached_reply(&a),
            None => Err(super::rights::lapsed()),
        };
        self.reply(p.asker, result);
    }

    /// A session is over: nobody waits for it any more, and what it waited for is not answered.
    pub(super) fn pending_session_gone(&mut self, no: SessionNo) {
        let own: Vec<_> = self.pending.keys().filter(|(_, s)| *s == no).copied().collect();
        for key in own {
            if let Some(p) = self.pending.remove(&key) {
                self.reply(p.asker, Err(super::rights::lapsed()));
            }
        }
        self.readers_wait_over(|(s, _)| *s == no);
        let freed: Vec<_> = self.pending.iter().filter(|(_, p)| matches!(p.wait, Wait::Holder(h) if h == no)).map(|(k, _)| *k).collect();
        for (volume, session) in freed {
            let Some(p) = self.pending.remove(&(volume, session)) else { continue };
            let result = match self.catalog.writer(volume).map(|a| a.session) {
                Some(other) => Err(self.busy_with(volume, other)),
                None => self.begin_write(session, volume, p.asker),
            };
            if let Some(result) = result.transpose() {
                self.reply(p.asker, result);
            }
        }
    }

    /// The holder is not dead.
    pub(super) fn pending_holder_stays(&mut self, no: SessionNo) {
        let refused: Vec<_> = self.pending.iter().filter(|(_, p)| matches!(p.wait, Wait::Holder(h) if h == no)).map(|(k, _)| *k).collect();
        for key in refused {
            if let Some(p) = self.pending.remove(&key) {
                self.reply(p.asker, Err(self.busy_with(key.0, no)));
            }
        }
    }

    pub(super) fn pending_due(&mut self) {
        let now = self.now.boot;
        let due: Vec<_> = self.pending.iter().filter(|(_, p)| p.deadline <= now).map(|(k, _)| *k).collect();
        for (volume, session) in due {
            let Some(p) = self.pending.remove(&(volume, session)) else { continue };
            let e = match p.wait {
                Wait::Holder(h) => self.busy_with(volume, h),
                Wait::Readers(waits) => {
                    // It was never answered, so nothing was written under it.
                    let token = self.catalog.attachment_of(volume, session).map(|a| a.token);
                    if let Some(Err(e)) = token.map(|t| self.end_attachment(t)) {
                        self.tell(super::admin_api::Level::Critical, "internal", e.to_string());
                    }
                    let who = waits.first().map_or_else(String::new, |(s, _)| self.who(*s));
                    Error::new(Kind::Busy, format!("a reader of the volume's snapshots does not answer: {who}"))
                        .hint("try again in a moment")
                }
            };
            self.reply(p.asker, Err(e));
        }
    }

    pub(super) fn detach(&mut self, session: SessionNo, volume: VolumeId) -> Result<()> {
        // Asked twice, it is done once.
        let Some(token) = self.catalog.attachment_of(volume, session).map(|a| a.token) else { return Ok(()) };
        self.end_attachment(token)?;
        self.list_changed(volume);
        Ok(())
    }

    /// How this session has this volume.
    ///
    /// # Errors
    /// `Refused` if it has not.
    pub(super) fn attachment(&self, session: SessionNo, volume: VolumeId) -> Result<AttachmentEntry> {
        let a = self.catalog.attachment_of(volume, session).copied();
        a.ok_or_else(|| Error::new(Kind::Refused, "the session has not attached this volume"))
    }

    fn reads_snapshot_of(&self, session: SessionNo, volume: VolumeId) -> bool {
        self.catalog.opens().any(|(id, s)| s == session && self.catalog.snapshot(id).is_some_and(|n| n.entry.volume == volume))
    }

    pub(super) fn get_map(&self, session: SessionNo, volume: VolumeId, from: VolAu) -> Result<Reply> {
        // A reader of a snapshot compares the live map with the frozen one; it reads nothing under it.
        if !self.reads_snapshot_of(session, volume) {
            self.attachment(session, volume)?;
        }
        let v = self.catalog.volume(volume).ok_or_else(no_volume)?;
        let (runs, next) = v.map.runs(from, AUS_PER_PART);
        Ok(Reply::MapPart(MapPart { runs, next }))
    }

    /// For each AU of the live map whose place snapshots share: the blocks that any of them holds.
    pub(super) fn get_need(&self, session: SessionNo, volume: VolumeId, from: VolAu) -> Result<Reply> {
        self.attachment(session, volume)?;
        let v = self.catalog.volume(volume).ok_or_else(no_volume)?;
        let snapshots = self.catalog.snapshots_of(volume);
        let need = |au: VolAu, live: &MapEntry| {
            let shared = snapshots.iter().filter_map(|s| s.map.get(au)).filter(|e| e.legs() == live.legs());
            shared.fold(BlockMask::NONE, |m, e| m.or(e.written))
        };
        let mut rest = v
            .map
            .iter_from(from)
            .map(|(au, e)| (au, need(au, &e), e))
            .filter(|(_, n, _)| !n.is_empty())
            .filter_map(|(au, n, e)| Some((au, MapEntry::new(e.legs(), n)?)));
        let runs = runs_of(rest.by_ref().take(AUS_PER_PART));
        Ok(Reply::MapPart(MapPart { runs, next: rest.next().map(|(au, _)| au) }))
    }
}

/// The pool is full.
pub(super) fn no_space(what: &str) -> Error {
    Error::new(Kind::NoSpace, what)
        .hint("add a disk with `fusevol-mgr disk add`, or free space: discard (fstrim), remove snapshots or volumes")
}
