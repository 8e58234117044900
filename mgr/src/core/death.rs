//! The end of what is drained: the journals are read, what they say is folded, and only then is anything given away (PROTOCOL.md, K1, F1).
//!
//! ```text
//!  byte lock free, Goodbye, confirm-dead   -> ending: ReadJournals -> JournalsRead -> tails folded, dirty regions counted as changed,
//!  a revoked client answers a recall       -> (of that attachment alone)              SessionEnded (Detached) in the same transaction
//!  no write attachment                     -> ended at once
//!  a journal that cannot be read to its end -> everything stays as it is, said; read again at growing intervals
//! ```
//! A tail that is larger than [`CLOSE_WEIGHT`] is folded in several steps, each of which is durable; the journal is read again between them.

use super::admin_api::Level;
use super::{Asker, Core, Effect, JournalRef, Tails};
use crate::catalog::Attachment;
use crate::catalog::record::Record;
use fusevol_shared::change::{Append, Entry, Region};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::journal::Tail;
use fusevol_shared::ids::{FenceToken, SessionNo};
use fusevol_shared::sentence::{Tag, holds};
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{Done, FOLD_WEIGHT, Reply};
use std::collections::BTreeSet;
use std::time::Duration;

/// Most that is folded of journals in one step.
pub(super) const CLOSE_WEIGHT: usize = 4 * FOLD_WEIGHT;
/// First wait before a journal is read again; it doubles.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_MOST: Duration = Duration::from_secs(60);

/// Journals of a session that are being read.
#[derive(Debug)]
pub(super) struct Closing {
    /// The session ends with them.
    pub whole: bool,
    /// Attachments that end, where the session does not.
    tokens: BTreeSet<FenceToken>,
    /// Who said goodbye, and waits.
    asker: Option<Asker>,
    /// For people: why it ends.
    why: String,
    asked: bool,
    pub next: BootTime,
    wait: Duration,
    /// Why it cannot be read, if it cannot.
    pub damaged: Option<String>,
}

impl Closing {
    /// Whether this attachment ends with it.
    pub fn ends(&self, token: FenceToken) -> bool {
        self.whole || self.tokens.contains(&token)
    }

    /// When it is asked for next.
    pub fn due(&self) -> Option<BootTime> {
        (!self.asked).then_some(self.next)
    }
}

/// How far the journals of a session are.
enum Closed {
    All,
    Part,
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::Damaged, what)
}

impl Core {
    fn written_by(&self, session: SessionNo) -> BTreeSet<FenceToken> {
        self.catalog.attachments().filter(|a| a.session == session && a.writes()).map(|a| a.token).collect()
    }

    /// A session is drained: once its journals are folded to their ends it is over.
    pub(super) fn begin_end(&mut self, session: SessionNo, why: String, asker: Option<Asker>) -> Result<()> {
        let tokens = self.written_by(session);
        let now = self.now.boot;
        let Some(life) = self.lives.get_mut(&session) else { return Ok(()) };
        if let Some(c) = life.closing.as_mut().filter(|c| c.whole) {
            // It is ending already; who waits last is answered.
            c.asker = asker.or(c.asker);
            c.next = now;
            return Ok(());
        }
        life.remap = None;
        if tokens.is_empty() && !life.is_written_for() {
            self.end_session(session, &why)?;
            if let Some(a) = asker {
                self.reply(a, Ok(Reply::Done(Done {})));
            }
            return Ok(());
        }
        let asked = life.closing.as_ref().is_some_and(|c| c.asked);
        life.closing = Some(Closing { whole: true, tokens, asker, why, asked, next: now, wait: AGAIN_FIRST, damaged: None });
        Ok(())
    }

    /// An attachment is drained: once its journal is folded to its end it is over.
    pub(super) fn close_attachment(&mut self, session: SessionNo, token: FenceToken) {
        let now = self.now.boot;
        let Some(life) = self.lives.get_mut(&session) else { return };
        let c = life.closing.get_or_insert_with(|| {
            let (tokens, why) = (BTreeSet::new(), String::new());
            Closing { whole: false, tokens, asker: None, why, asked: false, next: now, wait: AGAIN_FIRST, damaged: None }
        });
        c.tokens.insert(token);
        c.next = now;
        life.remap.take_if(|r| r.token == token);
    }

    /// Asks for the journals that are to be read now.
    pub(super) fn closings_due(&mut self) {
        let now = self.now.boot;
        let due: Vec<SessionNo> = self
            .lives
            .iter()
            .filter(|(_, l)| !l.is_written_for() && l.closing.as_ref().and_then(Closing::due).is_some_and(|d| d <= now))
            .map(|(no, _)| *no)
            .collect();
        for session in due {
            let wanted = self.wanted(session);
            let journals: Vec<JournalRef> =
                wanted.iter().filter_map(|t| self.catalog.attachment(*t)).filter_map(|a| self.journal_of(a)).collect();
            if let Some(c) = self.lives.get_mut(&session).and_then(|l| l.closing.as_mut()) {
                c.asked = true;
                self.out.effects.push(Effect::ReadJournals { session, journals });
            }
        }
    }

    /// The journal of an attachment, if it writes.
    pub(super) fn journal_of(&self, a: &Attachment) -> Option<JournalRef> {
        let without = self.catalog.volume(a.volume).map(|v| v.out.clone()).unwrap_or_default();
        Some(JournalRef { volume: a.volume, session: a.session, token: a.token, journal: a.journal.clone()?, without })
    }

    /// The attachments whose journals a closing needs.
    fn wanted(&self, session: SessionNo) -> BTreeSet<FenceToken> {
        let Some(c) = self.lives.get(&session).and_then(|l| l.closing.as_ref()) else { return BTreeSet::new() };
        let written = self.written_by(session);
        if c.whole { written } else { written.intersection(&c.tokens).copied().collect() }
    }

    pub(super) fn journals_read(&mut self, session: SessionNo, tails: Tails) {
        let now = self.now.boot;
        let Some(c) = self.lives.get_mut(&session).and_then(|l| l.closing.as_mut()).filter(|c| c.asked) else { return };
        c.asked = false;
        c.next = now;
        let wanted = self.wanted(session);
        if !wanted.iter().all(|t| tails.iter().any(|(of, _)| of == t)) {
            return; // Something was added since it was asked: it is asked again.
        }
        match self.close_journals(&wanted, tails) {
            Ok(Closed::Part) => {}
            Ok(Closed::All) => {
                if let Err(e) = self.closed(session, &wanted) {
                    self.tell(Level::Critical, "internal", e.to_string());
                }
            }
            Err(e) => self.journal_damaged(session, &e),
        }
    }

    /// Folds what the journals say above what is folded.
    fn close_journals(&mut self, wanted: &BTreeSet<FenceToken>, tails: Tails) -> Result<Closed> {
        let mut ends = Vec::new();
        for (token, tail) in tails.into_iter().filter(|(t, _)| wanted.contains(t)) {
            let tail = tail.map_err(Error::from)?;
            self.judge(token, &tail)?;
            ends.push((token, tail));
        }
        let mut room = CLOSE_WEIGHT;
        for (token, tail) in ends {
            if !holds(Tag::F1) {
                continue;
            }
            let Some(weight) = self.fold_tail(token, &tail, room)? else { return Ok(Closed::Part) };
            room = room.saturating_sub(weight);
            let regions = self.left_dirty(token, &tail);
            if !regions.is_empty() || self.catalog.attachment(token).is_some_and(|a| !a.bound.is_empty()) {
                self.commit(Record::LeftDirty { token, regions })?;
            }
        }
        Ok(Closed::All)
    }

    /// Whether what was read can be the end of this journal.
    pub(super) fn judge(&self, token: FenceToken, tail: &Tail) -> Result<()> {
        let a = self.catalog.attachment(token).ok_or_else(|| damaged("the journal of no attachment"))?;
        if tail.last.0 == 0 && tail.appends.is_empty() {
            // Never begun: nothing of it was folded.
            return if a.folded == a.began { Ok(()) } else { Err(damaged("nothing of a journal is there of which something is folded")) };
        }
        if tail.last < a.folded {
            return Err(damaged("a journal ends before what is folded of it"));
        }
        let new = || tail.appends.iter().filter(|x| x.seq > a.folded);
        if new().map(|x| x.seq.0).ne(a.folded.0 + 1..=tail.last.0) {
            return Err(damaged("appends are missing in a journal"));
        }
        let flip = |e: &Entry| if let Entry::Flipped { epoch, .. } = e { Some(*epoch) } else { None };
        let end = new().flat_map(|x| &x.entries).filter_map(flip).next_back().unwrap_or(a.epoch());
        if end == tail.epoch { Ok(()) } else { Err(damaged("a journal ends in another epoch than its appends say")) }
    }

    /// Folds a tail in parts; what it weighs, or nothing where it weighs more than there is room for: then a part of it is folded.
    pub(super) fn fold_tail(&mut self, token: FenceToken, tail: &Tail, room: usize) -> Result<Option<usize>> {
        let mut used = 0;
        loop {
            let Some(prev) = self.catalog.attachment(token).map(|a| a.folded) else { return Ok(Some(used)) };
            let mut weight = 0;
            let part: Vec<Append> = tail
                .appends
                .iter()
                .filter(|a| a.seq > prev)
                .take_while(|a| {
                    weight += a.weight();
                    weight <= FOLD_WEIGHT || weight == a.weight()
                })
                .cloned()
                .collect();
            if part.is_empty() {
                break;
            }
            if used >= room {
                return Ok(None);
            }
            used += part.iter().map(Append::weight).sum::<usize>();
            self.fold_appends(token, prev, part)?;
        }
        Ok(Some(used))
    }

    /// Regions that may have changed unsaid. A journal that replaced another and was never begun did not take over its marks: any may have.
    pub(super) fn left_dirty(&self, token: FenceToken, tail: &Tail) -> Vec<Region> {
        let Some(a) = self.catalog.attachment(token) else { return Vec::new() };
        let replaced = a.journal.as_ref().is_some_and(|j| j.no > 1);
        if tail.last.0 > 0 || !replaced {
            return tail.dirty.clone();
        }
        let live = self.catalog.volume(a.volume).into_iter().flat_map(|v| v.map.iter());
        let frozen = self.catalog.snapshots_of(a.volume);
        let all: BTreeSet<Region> = live.chain(frozen.iter().flat_map(|s| s.map.iter())).map(|(au, _): (VolAu, _)| au.region()).collect();
        all.into_iter().collect()
    }

    /// The journals are folded to their ends.
    fn closed(&mut self, session: SessionNo, tokens: &BTreeSet<FenceToken>) -> Result<()> {
        let Some(c) = self.lives.get_mut(&session).and_then(|l| l.closing.take()) else { return Ok(()) };
        if !c.whole {
            return tokens.iter().try_for_each(|t| self.end_attachment(*t));
        }
        self.end_session(session, &c.why)?;
        if let Some(a) = c.asker {
            self.reply(a, Ok(Reply::Done(Done {})));
        }
        Ok(())
    }

    /// Nothing may be concluded from a journal that is damaged: all that the session has stays.
    fn journal_damaged(&mut self, session: SessionNo, e: &Error) {
        self.does_without_lost(session);
        let now = self.now.boot;
        let who = self.who(session);
        let Some(c) = self.lives.get_mut(&session).and_then(|l| l.closing.as_mut()) else { return };
        c.next = now.plus(c.wait);
        c.wait = (c.wait * 2).min(AGAIN_MOST);
        let asker = c.asker.take();
        let text = format!("the journal of {who} cannot be read to its end, what it holds stays held: {e}");
        if c.damaged.replace(text.clone()).as_ref() != Some(&text) {
            self.tell(Level::Critical, "journal-damaged", text.clone());
        }
        let error =
            || Error::new(Kind::Damaged, text.clone()).hint("see `fusevol-mgr status`; the journal is read again when its disks are back");
        if let Some(a) = asker {
            self.reply(a, Err(error()));
        }
        self.confirms_fail(session, &error);
        self.pending_holder_stays(session);
    }

    /// A session is over and drained, its journals are folded to their ends: what it held is free for others.
    pub(super) fn end_session(&mut self, no: SessionNo, why: &str) -> Result<()> {
        let held: Vec<_> = self.catalog.attachments().filter(|a| a.session == no).map(|a| a.volume).collect();
        let closed = self.catalog.attachments().filter(|a| a.session == no && a.writes()).map(|a| (a.token, a.folded)).collect();
        let (who, drained) = (self.who(no), why.is_empty());
        self.commit(Record::SessionEnded { no, closed })?;
        self.lives.remove(&no);
        for c in self.conns.values_mut().filter(|c| c.session == Some(no)) {
            c.session = None;
        }
        self.limbo_moved = true;
        self.spent.extend(held.iter().copied());
        self.pending_session_gone(no);
        self.locks_of_session_gone(no);
        for volume in held {
            self.writer_gone(volume);
            self.list_changed(volume);
        }
        if drained {
            self.tell(Level::Ok, "session-ended", format!("{who} ended its session"));
        } else {
            self.tell(Level::Warning, "session-dead", format!("{who} is dead: {why}"));
        }
        Ok(())
    }
}
