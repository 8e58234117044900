//! Records of sessions and attachments, and of who still holds what is in limbo.

use super::fits::journal_fits;
use super::record::{AttachmentEntry, Mode, SessionEntry};
use super::reserve::Reserve;
use super::{Attachment, Catalog, must, unfit};
use fusevol_shared::change::{Journal, Places};
use fusevol_shared::error::Result;
use fusevol_shared::format::layout::SESSION_SLOTS;
use fusevol_shared::ids::{FenceToken, Generation, Seq, SessionNo, VolumeId};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::DiskAu;
use fusevol_shared::wire::messages::{Segment, SlotDisk};
use fusevol_shared::wire::slots::Slots;
use std::collections::BTreeMap;

/// Longest host or program text of a session, bytes.
pub const HOST_MAX: usize = 256;

/// What an attachment begins with.
pub(super) struct Beginning<'a> {
    pub volume: VolumeId,
    pub session: SessionNo,
    pub token: FenceToken,
    pub mode: Mode,
    pub segment: Option<&'a Segment>,
    pub journal: Option<&'a Journal>,
    pub reserve: &'a [Places],
}

impl Catalog {
    pub(super) fn session_opened(&mut self, entry: &SessionEntry) -> Result<()> {
        must(entry.no >= self.counters.session, "a session has a number that was used before")?;
        must(self.client(entry.client).is_some_and(|c| !c.revoked), "a session of a client that is not served")?;
        must(!entry.sealed, "a session begins sealed")?;
        let next = entry.no.0.checked_add(1).ok_or_else(|| unfit("all numbers of sessions are used up"))?;
        self.session_loaded(entry)?;
        self.counters.session = SessionNo(next);
        Ok(())
    }

    pub(super) fn session_loaded(&mut self, entry: &SessionEntry) -> Result<()> {
        must(self.client(entry.client).is_some(), "a session of an unknown client")?;
        must(!self.sessions.contains_key(&entry.no) && self.session_by_id(entry.id).is_none(), "a session begins twice")?;
        must(self.slot_is_free(entry.no), "two sessions have one slot")?;
        must(entry.host.len() <= HOST_MAX && entry.program.len() <= HOST_MAX, "a session's texts are too long")?;
        must(self.slots_fit(&entry.slots), "a session's slot lies on no disk")?;
        self.sessions.insert(entry.no, entry.clone());
        Ok(())
    }

    pub(super) fn slots_fit(&self, slots: &Slots) -> bool {
        slots.is_whole() && slots.each().all(|s| self.disks.contains_key(&s.disk))
    }

    pub(super) fn slot_moves(&mut self, no: SessionNo, next: &[SlotDisk]) -> Result<()> {
        let s = self.session(no).filter(|s| !s.sealed && !s.slots.is_moving()).ok_or_else(|| unfit("a slot moves that may not"))?;
        let slots = Slots { now: s.slots.now.clone(), next: next.to_vec(), moves: s.slots.moves + 1 };
        must(slots.is_moving() && slots.next != slots.now && self.slots_fit(&slots), "a slot moves to no disk")?;
        if let Some(s) = self.sessions.get_mut(&no) {
            s.slots = slots;
        }
        Ok(())
    }

    pub(super) fn slot_moved(&mut self, no: SessionNo, moves: u64) -> Result<()> {
        let moving = |s: &SessionEntry| !s.sealed && s.slots.is_moving() && s.slots.moves == moves;
        let s = self.sessions.get_mut(&no).filter(|s| moving(s)).ok_or_else(|| unfit("a slot has moved that does not move"))?;
        s.slots.now = std::mem::take(&mut s.slots.next);
        Ok(())
    }

    pub(super) fn slot_is_free(&self, no: SessionNo) -> bool {
        self.sessions.keys().all(|other| other.0 % SESSION_SLOTS != no.0 % SESSION_SLOTS)
    }

    pub(super) fn session_reopened(&mut self, no: SessionNo, generation: Generation) -> Result<()> {
        let s = self.sessions.get_mut(&no).filter(|s| !s.sealed).ok_or_else(|| unfit("the slot of no session is opened again"))?;
        must(generation > s.generation, "a slot is opened again by a manager of the past")?;
        s.generation = generation;
        s.slots.reopen(generation);
        Ok(())
    }

    pub(super) fn session_sealed(&mut self, no: SessionNo) -> Result<()> {
        let s = self.sessions.get_mut(&no).filter(|s| !s.sealed).ok_or_else(|| unfit("the slot of no session is sealed"))?;
        s.sealed = true;
        Ok(())
    }

    /// The end of a session frees what it could still write: it is proven drained, and its journals are folded to their ends.
    pub(super) fn session_ended(&mut self, no: SessionNo, closed: &[(FenceToken, Seq)]) -> Result<()> {
        must(self.sessions.contains_key(&no), "a session that is not there ends")?;
        if holds(Tag::F1) {
            let closings: BTreeMap<_, _> = closed.iter().copied().collect();
            let folded: BTreeMap<_, _> =
                self.attachments.values().filter(|a| a.session == no && a.writes()).map(|a| (a.token, a.folded)).collect();
            must(closings.len() == closed.len() && closings == folded, "a session ends whose journals are not folded to their ends")?;
        }
        self.sessions.remove(&no);
        self.late.retain(|_, s| *s != no);
        let tokens: Vec<FenceToken> = self.attachments.values().filter(|a| a.session == no).map(|a| a.token).collect();
        for t in tokens {
            self.attachment_over(t);
        }
        let free: Vec<DiskAu> = self.quarantine.values().filter(|q| q.session == no).flat_map(|q| q.places.clone()).collect();
        self.release(free);
        self.quarantine.retain(|_, q| q.session != no);
        self.opens.retain(|(_, s)| *s != no);
        self.opens_over(|(_, s)| *s == no);
        for l in self.limbo.values_mut() {
            l.waits.retain(|s| *s != no);
        }
        Ok(())
    }

    /// An attachment is no more; its reserve and its journal are free.
    fn attachment_over(&mut self, token: FenceToken) -> Option<Attachment> {
        let gone = self.attachments.remove(&token)?;
        self.release(gone.reserve.places().collect::<Vec<_>>());
        self.release(gone.journal.iter().flat_map(Journal::places).collect::<Vec<_>>());
        let taking = self.taking.remove(&token).unwrap_or_default();
        self.release(taking.places().collect::<Vec<_>>());
        Some(gone)
    }

    pub(super) fn volume_attached(&mut self, b: &Beginning<'_>) -> Result<()> {
        must(b.token == self.counters.token, "an attachment has a token that is not the next")?;
        let next = b.token.0.checked_add(1).ok_or_else(|| unfit("all tokens are used up"))?;
        let volume = self.volume(b.volume).ok_or_else(|| unfit("an attachment of nothing"))?;
        let entry = AttachmentEntry {
            volume: b.volume,
            session: b.session,
            token: b.token,
            mode: b.mode,
            folded: Seq(0),
            flipped: Self::preserve_epoch(volume),
            journal: b.journal.cloned(),
            began: Seq(0),
            grant: 0,
            granted: Vec::new(),
            reserve: b.reserve.to_vec(),
        };
        let segment = b.segment.map_or(&[][..], |s| s.legs.as_slice());
        if let Some(s) = b.segment {
            must(b.mode == Mode::Write, "a reader is granted a preserve segment")?;
            must(s.session == b.session && s.token == b.token, "a preserve segment of another attachment")?;
            must(s.no == volume.entry.next_segment && s.no < u32::MAX, "a preserve segment has a number that is not the next")?;
            must(s.epoch == entry.flipped, "a preserve segment is not of the epoch before the writer's")?;
            must(super::fits::legs_fit(&s.legs, volume.entry.legs), "a preserve segment does not fit its volume")?;
        }
        self.attachment_loaded(&entry, segment)?;
        self.counters.token = FenceToken(next);
        if let Some(s) = b.segment {
            self.segment_begun(b.volume, s.clone());
        }
        Ok(())
    }

    /// An attachment stands beside the others, with what it has and these places.
    pub(super) fn attachment_loaded(&mut self, entry: &AttachmentEntry, besides: &[DiskAu]) -> Result<()> {
        let volume = self.volume(entry.volume).ok_or_else(|| unfit("an attachment of nothing"))?;
        must(self.sessions.contains_key(&entry.session), "an attachment of nobody")?;
        must(!self.attachments.contains_key(&entry.token), "a token is used twice")?;
        must(self.attachment_of(entry.volume, entry.session).is_none(), "a volume is attached twice by a session")?;
        must(entry.mode == Mode::Read || self.writer(entry.volume).is_none(), "a volume has two writers")?;
        must(entry.flipped < volume.entry.epoch && entry.began <= entry.folded, "an attachment is ahead of its volume")?;
        must(entry.journal.is_some() == (entry.mode == Mode::Write), "a writer without a journal, or a reader with one")?;
        must(entry.mode == Mode::Write || entry.reserve.is_empty(), "a reader has a reserve")?;
        must(entry.journal.as_ref().is_none_or(journal_fits), "a journal does not fit together")?;
        let reserve = self.grantable(&entry.reserve, volume.entry.legs)?;
        let flat = reserve.iter().flatten().copied().chain(entry.journal.iter().flat_map(Journal::places)).chain(besides.iter().copied());
        let places: Vec<DiskAu> = flat.collect();
        must(self.all_free(&places), "an attachment has a place that is not free")?;
        self.take(places);
        self.attachments.insert(entry.token, Attachment::new(entry, Reserve::new(reserve)));
        Ok(())
    }

    pub(super) fn detached(&mut self, token: FenceToken) -> Result<()> {
        let gone = self.attachment_over(token).ok_or_else(|| unfit("an attachment that is not there ends"))?;
        self.waits_no_more(gone.volume, gone.session);
        Ok(())
    }

    pub(super) fn limbo_answered(&mut self, no: u64, session: SessionNo) -> Result<()> {
        let entry = self.limbo.get_mut(&no).ok_or_else(|| unfit("an answer for nothing in limbo"))?;
        let at = entry.waits.binary_search(&session).map_err(|_| unfit("an answer of a session that was not waited for"))?;
        entry.waits.remove(at);
        Ok(())
    }

    pub(super) fn limbo_freed(&mut self, no: u64) -> Result<()> {
        must(self.limbo.get(&no).is_some_and(|l| l.waits.is_empty()), "AUs are freed that somebody may still use")?;
        if let Some(entry) = self.limbo.remove(&no) {
            self.release(entry.places);
        }
        Ok(())
    }
}
