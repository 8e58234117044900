//! Attachments: one writer of a volume at most, any number of readers.
//!
//! A write attachment that must wait is *pending*: for the proof that the holder before it is dead and drained, or until every reader of
//! the volume's snapshots knows where its preserve log begins. The wait has an end; then the answer is `Busy`.

use super::admin_api::SessionState;
use super::reader::Reader;
use super::rights::no_volume;
use super::{Asker, ConnId, Core};
use crate::catalog::alloc::Wish;
use crate::catalog::record::{Mode, Record};
use crate::catalog::{Attachment, Catalog};
use fusevol_shared::change::{Journal, Places};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::{FenceToken, SessionNo, VolumeId};
use fusevol_shared::map::MapEntry;
use fusevol_shared::map::packed::pack;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::{Attached, MapPart, Push, Reply, Segment, SegmentAdded};
use std::collections::BTreeSet;

/// Most AUs in one part of a map.
pub(super) const AUS_PER_PART: usize = 4096;

/// One grant takes no more than this part of what is free, unless it is small.
pub(super) const GRANT_SHARE: u64 = 16;
/// AUs in the first reserve of a writer: so many if there are, and a sixteenth of what is free up to so many.
const FIRST_LEAST: u64 = 4;
const FIRST_MOST: u64 = 64;

/// What a write attachment waits for.
#[derive(Debug)]
pub(super) enum Wait {
    /// Proof that this session is dead.
    Holder(SessionNo),
    /// The same, for a reader: it begins in any case, after that or at the deadline.
    Tail(SessionNo),
    /// These pushes to readers of snapshots.
    Readers(BTreeSet<(SessionNo, u64)>),
    /// What the manager copies of the volume now.
    Copies,
}

/// An attachment that waits.
#[derive(Debug)]
pub(super) struct Pending {
    asker: Asker,
    wait: Wait,
    pub deadline: BootTime,
}

impl Core {
    fn attached_reply(&self, token: FenceToken) -> Result<Reply> {
        let a = self.catalog.attachment(token).ok_or_else(no_volume)?;
        let v = self.catalog.volume(a.volume).ok_or_else(no_volume)?;
        let first = v.segments.values().find(|s| s.token == a.token).cloned();
        Ok(Reply::Attached(Attached {
            token: a.token,
            size: v.entry.size,
            // A hold that is under way has begun an epoch in which the writer is not yet.
            epoch: if a.writes() { a.epoch() } else { v.entry.epoch },
            version: v.entry.version,
            snapshots: self.snapshot_infos(a.volume),
            segment: first.into_iter().collect(),
            journal: a.journal.iter().cloned().collect(),
            reserve: a.reserve.runs(),
            next_segment: v.entry.next_segment,
            when_full: v.entry.when_full,
            copies: v.entry.legs,
            out: v.out.clone(),
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

    /// A reader. Where the writer may be dead the answer waits for the proof: what it had made durable stands in its journal, and is
    /// to be seen by whoever comes after it.
    pub(super) fn attach_read(&mut self, session: SessionNo, volume: VolumeId, conn: ConnId, id: u64) -> Result<Option<Reply>> {
        let asker = Asker::Client { conn, id };
        self.check_not_given_back(session, volume)?;
        if let Some(token) = self.catalog.attachment_of(volume, session).map(|a| a.token) {
            return self.attached_reply(token).map(Some);
        }
        if let Some(p) = self.pending.get_mut(&(volume, session)) {
            if !matches!(p.wait, Wait::Tail(_)) {
                return Err(Error::new(Kind::Busy, "the session is attaching this volume for writing"));
            }
            p.asker = asker;
            return Ok(None);
        }
        let writer = self.catalog.writer(volume).map(|a| a.session);
        if let Some(writer) = writer.filter(|w| self.probe_holder(*w)) {
            let deadline = self.now.boot.plus(self.config.patience);
            self.pending.insert((volume, session), Pending { asker, wait: Wait::Tail(writer), deadline });
            return Ok(None);
        }
        self.begin_read(session, volume).map(Some)
    }

    fn begin_read(&mut self, session: SessionNo, volume: VolumeId) -> Result<Reply> {
        self.check_holdings(session)?;
        let token = self.catalog.counters().token;
        let (journal, reserve) = (None, Vec::new());
        self.commit(Record::Attached { volume, session, token, mode: Mode::Read, segment: None, journal, reserve })?;
        if let Some(l) = self.lives.get_mut(&session) {
            l.readers.insert(volume, Reader::default());
        }
        self.attached_reply(token)
    }

    pub(super) fn attach_write(&mut self, session: SessionNo, volume: VolumeId, conn: ConnId, id: u64) -> Result<Option<Reply>> {
        let asker = Asker::Client { conn, id };
        self.check_not_given_back(session, volume)?;
        if let Some(p) = self.pending.get_mut(&(volume, session)) {
            // Asked again on a new connection: the wait goes on, the answer goes there.
            p.asker = asker;
            return Ok(None);
        }
        if let Some((token, writes)) = self.catalog.attachment_of(volume, session).map(|a| (a.token, a.writes())) {
            if !writes {
                let e = Error::new(Kind::Busy, "the session has this volume attached for reading");
                return Err(e.hint("detach it first: what it reads must be drained"));
            }
            return self.attached_reply(token).map(Some);
        }
        self.check_room_in_catalog()?;
        if let Some(holder) = self.catalog.writer(volume).map(|a| a.session) {
            self.wait_for_holder(session, volume, holder, asker)?;
            return Ok(None);
        }
        if self.old_map_is_read(volume) {
            let e = Error::new(Kind::Busy, "the volume was taken over, and its readers do not have its new map yet");
            return Err(e.hint("try again in a moment"));
        }
        self.begin_write_alone(session, volume, asker)
    }

    /// What the manager copies of the volume comes to its end first (PROTOCOL.md, B1).
    fn begin_write_alone(&mut self, session: SessionNo, volume: VolumeId, asker: Asker) -> Result<Option<Reply>> {
        if !self.is_copied(volume) || !holds(Tag::B1) {
            return self.begin_write(session, volume, asker);
        }
        let deadline = self.now.boot.plus(self.config.patience);
        self.pending.insert((volume, session), Pending { asker, wait: Wait::Copies, deadline });
        Ok(None)
    }

    /// The manager copies nothing of this volume now: who waits to write it begins.
    pub(super) fn copy_is_over(&mut self, volume: VolumeId) {
        let of = |(k, p): (&(VolumeId, SessionNo), &Pending)| (k.0 == volume && matches!(p.wait, Wait::Copies)).then_some(*k);
        let ready: Vec<_> = self.pending.iter().filter_map(of).collect();
        for key in ready {
            let Some(p) = self.pending.remove(&key) else { continue };
            let result = match self.catalog.writer(volume).map(|a| a.session) {
                Some(other) => Err(self.busy_with(volume, other)),
                None => self.begin_write(key.1, volume, p.asker),
            };
            if let Some(result) = result.transpose() {
                self.reply(p.asker, result);
            }
        }
    }

    /// Whether what a session holds is being taken from it without a fence, or is about to be.
    fn is_taken_from(&self, no: SessionNo) -> bool {
        let sealed = self.lives.get(&no).is_some_and(|l| l.remap.is_some());
        sealed || self.lives.get(&no).is_some_and(|l| l.lapsed || l.is_sealed()) && self.may_be_remapped(no)
    }

    /// Whether a reader may still read AUs of this volume where they do not lie any more: it would miss what a writer writes now.
    fn old_map_is_read(&self, volume: VolumeId) -> bool {
        let Some(v) = self.catalog.volume(volume) else { return false };
        let moved = |l: &crate::catalog::record::LimboEntry| l.aus.iter().any(|au| v.map.get(*au).is_some());
        self.catalog.limbo().any(|l| l.volume == volume && !l.waits.is_empty() && moved(l))
    }

    /// The holder is asked for by its locks, if it may be dead; `Busy` if not.
    fn wait_for_holder(&mut self, session: SessionNo, volume: VolumeId, holder: SessionNo, asker: Asker) -> Result<()> {
        if !self.probe_holder(holder) {
            self.holder_is_wanted(holder);
            return Err(self.busy_with(volume, holder));
        }
        let deadline = self.now.boot.plus(self.config.patience);
        self.pending.insert((volume, session), Pending { asker, wait: Wait::Holder(holder), deadline });
        Ok(())
    }

    /// Asks for a session that may be dead by its locks, now; whether there is an answer to wait for.
    fn probe_holder(&mut self, holder: SessionNo) -> bool {
        let now = self.now.boot;
        let probed = self.is_probed(holder);
        let Some(life) = self.lives.get_mut(&holder).filter(|l| l.is_ending() || l.may_be_dead() && probed) else { return false };
        life.probe_now(now);
        true
    }

    /// Who has it, and what can be done.
    pub(super) fn busy_with(&self, volume: VolumeId, holder: SessionNo) -> Error {
        let name = self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string());
        let e = Error::new(Kind::Busy, format!("volume '{name}' is attached for writing by {}", self.who(holder)));
        match self.session_state(holder) {
            SessionState::Live => e.hint("unmount it there, or open it read-only"),
            SessionState::Away => e.hint("its connection is lost, its lease is not over yet: try again in a moment"),
            SessionState::Lapsed | SessionState::Sealed if self.is_taken_from(holder) => {
                e.hint("it is being taken over, unfenced: try again in a moment; `fusevol-mgr status` shows how far it is")
            }
            SessionState::Lapsed | SessionState::Sealed => {
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
            _ if self.catalog.session(no).is_some_and(|s| s.sealed) => SessionState::Sealed,
            Some(l) if l.lapsed => SessionState::Lapsed,
            Some(l) if l.conn.is_some() => SessionState::Live,
            _ => SessionState::Away,
        }
    }

    /// The first preserve segment of a writer where unbroken snapshots are; it may use what is kept from volumes.
    fn first_segment(&mut self, volume: VolumeId, token: FenceToken, session: SessionNo) -> Result<Option<Segment>> {
        if self.catalog.snapshots_of(volume).iter().all(|s| s.entry.broken) {
            return Ok(None);
        }
        let v = self.catalog.volume(volume).ok_or_else(no_volume)?;
        let places = self.allocator.choose(&self.catalog, Wish::of(v.entry.legs, &v.out), 1, 0);
        let legs = places.and_then(|mut p| p.pop()).ok_or_else(|| no_space("no room to preserve blocks of snapshots"))?;
        Ok(Some(Segment { no: v.entry.next_segment, epoch: Catalog::preserve_epoch(v), token, session, legs }))
    }

    /// Journal and first reserve of a writer whose first segment lies at these places.
    fn first_places(&mut self, volume: VolumeId, segment: &[DiskAu]) -> Result<(Journal, Vec<Places>)> {
        let v = self.catalog.volume(volume).ok_or_else(no_volume)?;
        let (legs, out) = (v.entry.legs, v.out.clone());
        let wish = Wish::of(legs, &out);
        let keep = self.reserve();
        let allocator = &mut self.allocator;
        let copies = self.catalog.as_if_taken(segment, |c| allocator.journal(c, &[], &out));
        if copies.is_empty() {
            return Err(no_space("no room for the journal of a writer"));
        }
        let journal = Journal { no: 1, copies };
        let taken: Vec<DiskAu> = segment.iter().copied().chain(journal.places()).collect();
        let reserve = self.catalog.as_if_taken(&taken, |c| {
            let room = wish.room(c).saturating_sub(keep) / u64::from(wish.legs_now(c).max(1));
            let want = (room / GRANT_SHARE).clamp(FIRST_LEAST, FIRST_MOST);
            allocator.grant(c, wish, u32::try_from(want).unwrap_or(0), keep)
        });
        Ok((journal, reserve))
    }

    fn begin_write(&mut self, session: SessionNo, volume: VolumeId, asker: Asker) -> Result<Option<Reply>> {
        self.check_holdings(session)?;
        let token = self.catalog.counters().token;
        let segment = self.first_segment(volume, token, session)?;
        let (journal, reserve) = self.first_places(volume, segment.as_ref().map_or(&[][..], |s| s.legs.as_slice()))?;
        let (mode, journal) = (Mode::Write, Some(journal));
        self.commit(Record::Attached { volume, session, token, mode, segment: segment.clone(), journal, reserve })?;
        self.spent.insert(volume);
        self.list_changed(volume);
        let mut waits = segment.map(|s| self.announce(volume, &s)).unwrap_or_default();
        // Nobody may read what this writer's writes will miss, whoever said it before (R2).
        if holds(Tag::R2) {
            let out = self.catalog.volume(volume).map(|v| v.out.clone()).unwrap_or_default();
            out.into_iter().for_each(|d| waits.extend(self.say_leg_failed(volume, d, Some(session))));
            waits.iter().for_each(|(s, _)| self.holder_is_wanted(*s));
        }
        if waits.is_empty() {
            return self.attached_reply(token).map(Some);
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

    /// A session reads nothing of this volume any more: who waits to write it does not wait for that session.
    pub(super) fn volume_not_read(&mut self, no: SessionNo, volume: VolumeId) {
        let mut ready = Vec::new();
        for (key, p) in self.pending.iter_mut().filter(|((v, _), _)| *v == volume) {
            if let Wait::Readers(waits) = &mut p.wait {
                waits.retain(|(s, _)| *s != no);
                ready.extend(waits.is_empty().then_some(*key));
            }
        }
        ready.into_iter().for_each(|key| self.finish_pending(key));
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
        let result = match self.catalog.attachment_of(volume, session).map(|a| a.token) {
            Some(token) => self.attached_reply(token),
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
        self.leg_waits_over(|_, (s, _)| *s == no);
        self.tail_is_known(no);
        let freed: Vec<_> = self.pending.iter().filter(|(_, p)| matches!(p.wait, Wait::Holder(h) if h == no)).map(|(k, _)| *k).collect();
        for (volume, session) in freed {
            let Some(p) = self.pending.remove(&(volume, session)) else { continue };
            let result = match self.catalog.writer(volume).map(|a| a.session) {
                Some(other) => Err(self.busy_with(volume, other)),
                None => self.begin_write_alone(session, volume, p.asker),
            };
            if let Some(result) = result.transpose() {
                self.reply(p.asker, result);
            }
        }
    }

    /// The writer is gone, with all it did folded, or it lives: those who want to read begin.
    fn tail_is_known(&mut self, writer: SessionNo) {
        let ready: Vec<_> = self.pending.iter().filter(|(_, p)| matches!(p.wait, Wait::Tail(w) if w == writer)).map(|(k, _)| *k).collect();
        for (volume, session) in ready {
            if let Some(p) = self.pending.remove(&(volume, session)) {
                let result = self.begin_read(session, volume);
                self.reply(p.asker, result);
            }
        }
    }

    /// The holder is not dead.
    pub(super) fn pending_holder_stays(&mut self, no: SessionNo) {
        // Who is away and whose lock is held may be dead all the same, with I/O under way: it is asked again until the deadline.
        if self.lives.get(&no).is_none_or(|l| !l.may_be_dead() || l.closing.is_some()) {
            self.tail_is_known(no);
        }
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
                Wait::Tail(_) => {
                    let result = self.begin_read(session, volume);
                    self.reply(p.asker, result);
                    continue;
                }
                Wait::Copies => {
                    Error::new(Kind::Busy, "a disk does not answer to which the volume is being copied").hint("try again in a moment")
                }
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
    pub(super) fn attachment(&self, session: SessionNo, volume: VolumeId) -> Result<&Attachment> {
        let a = self.catalog.attachment_of(volume, session);
        a.ok_or_else(|| Error::new(Kind::Refused, "the session has not attached this volume"))
    }

    pub(super) fn get_map(&self, session: SessionNo, volume: VolumeId, from: VolAu) -> Result<Reply> {
        // A reader of a snapshot compares the live map with the frozen one; it reads nothing under it.
        if !self.catalog.reads_frozen(volume, session) {
            self.attachment(session, volume)?;
        }
        let v = self.catalog.volume(volume).ok_or_else(no_volume)?;
        let (runs, next) = v.map.part(from);
        Ok(Reply::MapPart(MapPart { runs, next }))
    }

    /// For each AU of the live map whose place snapshots share: the blocks that any of them holds.
    pub(super) fn get_need(&self, session: SessionNo, volume: VolumeId, from: VolAu) -> Result<Reply> {
        self.attachment(session, volume)?;
        let v = self.catalog.volume(volume).ok_or_else(no_volume)?;
        let snapshots = self.catalog.snapshots_of(volume);
        let need = |au: VolAu, live: &MapEntry| {
            let shared = snapshots.iter().filter(|s| !s.entry.broken).filter_map(|s| s.map.get(au)).filter(|e| e.name() == live.name());
            shared.fold(BlockMask::NONE, |m, e| m.or(e.written))
        };
        let needed = v
            .map
            .iter_from(from)
            .map(|(au, e)| (au, need(au, &e), e))
            .filter(|(_, n, _)| !n.is_empty())
            .filter_map(|(au, n, e)| Some((au, MapEntry::new(e.legs(), n)?)));
        let (runs, next) = pack(needed);
        Ok(Reply::MapPart(MapPart { runs, next }))
    }
}

impl Core {
    /// While the catalog is nearly full, nothing is taken up that makes it larger.
    ///
    /// # Errors
    /// `NoSpace`.
    pub(super) fn check_room_in_catalog(&self) -> Result<()> {
        if self.tight {
            let e = Error::new(Kind::NoSpace, "the catalog is full");
            return Err(e.hint("remove snapshots or volumes: `fusevol-mgr snapshot ls`, `fusevol-mgr volume ls`"));
        }
        Ok(())
    }
}

/// The pool is full.
pub(super) fn no_space(what: &str) -> Error {
    Error::new(Kind::NoSpace, what)
        .hint("add a disk with `fusevol-mgr disk add`, or free space: discard (fstrim), remove snapshots or volumes")
}
