//! Letters: what a session must be told and does not hear over the network is written to its slot disks (PROTOCOL.md, "Letters").
//!
//! ```text
//!  silent, something unanswered that others wait for, a page free -> WriteLetter -> LetterWritten -> ReadAnswer, again and again -> answered
//!  answered over the network meanwhile; sealed, ending; or others wait for a page and its time is over                          -> the page is free
//! ```
//! *Silent* is a session that was not renewed for two thirds of a lease: a client that hears us does so each third. A letter carries one push, under
//! the number that it has; the answer is the answer to the push, by whichever way it comes first.
//!
//! Invariants: one letter of a session at a time, one session a page; an answer counts for a push that is not answered yet, once: numbers are
//! never used twice, over restarts neither, so an old answer is nobody's.

use super::admin_api::Level;
use super::life::Life;
use super::{Core, Effect};
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, WireError};
use fusevol_shared::format::mail::{BODY_MAX, Letter, PAGES};
use fusevol_shared::format::slot::Answer;
use fusevol_shared::ids::{SessionNo, VolumeId};
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::codec::Message;
use fusevol_shared::wire::messages::{Ack, FromManager, Push};

/// AUs that a map's change names to a session that is silent: so many fit on a page, each with three legs.
pub(super) const AUS_PER_LETTER: usize = 32;
/// Part of the lease between two looks for an answer.
const LOOK: u32 = 8;

/// A letter that is not answered yet.
#[derive(Debug)]
pub(super) struct Posted {
    page: u8,
    push: u64,
    /// It stands on a disk since then.
    written: Option<BootTime>,
    next: BootTime,
    asked: bool,
    /// Then it makes room for others that wait.
    until: BootTime,
}

impl Posted {
    /// When something is to be done next.
    pub fn due(&self) -> Option<BootTime> {
        (!self.asked).then_some(self.next)
    }
}

/// Whether others may wait for the answer.
fn is_mailed(push: &Push) -> bool {
    matches!(push, Push::Recall(_) | Push::MapChanged(_) | Push::SegmentAdded(_) | Push::MoveSlot(_))
}

/// The archive of a push, where it fits on a page.
fn body(push: u64, body: &Push) -> Option<Vec<u8>> {
    let archive = FromManager::Push { push, body: body.clone() }.to_archive().ok()?;
    (archive.len() <= BODY_MAX).then(|| archive.to_vec())
}

impl Core {
    /// Since when a session counts as silent.
    fn silent_from(&self, life: &Life) -> BootTime {
        let before = self.config.margin() + self.config.lease / 3;
        BootTime(life.until.0.saturating_sub(u64::try_from(before.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Whether it may not hear us over the network.
    pub(super) fn is_silent(&self, no: SessionNo) -> bool {
        self.lives.get(&no).is_some_and(|l| self.silent_from(l) <= self.now.boot)
    }

    /// When a letter to this session is to be begun, if nothing happens before.
    fn letter_from(&self, life: &Life) -> Option<BootTime> {
        let none = life.letter.is_some() || life.is_sealed() || life.is_ending() || !life.pushes.values().any(is_mailed);
        (!none).then(|| self.silent_from(life).max(life.mail_rest))
    }

    fn free_page(&self) -> Option<u8> {
        let taken = |page: &u8| self.lives.values().any(|l| l.letter.as_ref().is_some_and(|p| p.page == *page));
        (0..PAGES).find(|page| !taken(page))
    }

    /// When something is to be done about letters.
    pub(super) fn mail_due(&self) -> Option<BootTime> {
        let posted = self.lives.values().filter_map(|l| l.letter.as_ref()?.due());
        let waiting = self.lives.values().filter_map(|l| self.letter_from(l));
        match waiting.min() {
            // Without a page nothing can be begun: the letters that stand are looked after, and make room.
            Some(from) if self.free_page().is_some() => posted.chain([from]).min(),
            _ => posted.min(),
        }
    }

    /// Does what is due.
    pub(super) fn mail_goes_on(&mut self) {
        let now = self.now.boot;
        let waits = |c: &Self| c.lives.values().any(|l| c.letter_from(l).is_some_and(|from| from <= now));
        self.letters_over(false);
        if waits(self) && self.free_page().is_none() {
            self.letters_over(true);
        }
        while let Some(page) = self.free_page() {
            // Whoever has waited longest.
            let next = self.lives.iter().filter_map(|(no, l)| Some((self.letter_from(l)?, *no)));
            let Some((_, no)) = next.filter(|(from, _)| *from <= now).min() else { break };
            self.begin_letter(no, page);
        }
        let due: Vec<SessionNo> = self
            .lives
            .iter()
            .filter(|(_, l)| l.letter.as_ref().and_then(Posted::due).is_some_and(|d| d <= now))
            .map(|(no, _)| *no)
            .collect();
        due.into_iter().for_each(|no| self.post(no));
    }

    /// Takes letters away that nobody needs; `crowded`: those, too, whose time is over.
    fn letters_over(&mut self, crowded: bool) {
        let (now, rest) = (self.now.boot, self.now.boot.plus(self.config.lease));
        for l in self.lives.values_mut() {
            let Some(p) = &l.letter else { continue };
            let over = !l.pushes.contains_key(&p.push) || l.is_sealed() || l.is_ending();
            if over || crowded && p.until <= now {
                if !over {
                    l.mail_rest = rest;
                }
                l.letter = None;
            }
        }
    }

    fn begin_letter(&mut self, no: SessionNo, page: u8) {
        let (now, until) = (self.now.boot, self.now.boot.plus(self.config.lease));
        let Some(life) = self.lives.get_mut(&no) else { return };
        // A recall first: who does not answer that in time is given up.
        let mailed = || life.pushes.iter().filter(|(_, p)| is_mailed(p));
        let recall = mailed().find(|(_, p)| matches!(p, Push::Recall(_)));
        let Some((push, body_of)) = recall.or_else(|| mailed().next()).map(|(n, p)| (*n, p.clone())) else { return };
        if body(push, &body_of).is_none() {
            life.mail_rest = now.plus(self.config.lease / LOOK);
            if let Push::MapChanged(m) = body_of {
                self.untell_reader(no, m.volume);
            }
            return;
        }
        life.letter = Some(Posted { page, push, written: None, next: now, asked: false, until });
        let who = self.who(no);
        self.tell(Level::Warning, "session-letter", format!("{who} is not heard over the network: it is asked through the disks"));
    }

    /// Writes the letter, or looks for its answer.
    fn post(&mut self, session: SessionNo) {
        let (now, lease, generation) = (self.now.boot, self.config.lease, self.generation);
        let Some((id, slots)) = self.slot_of(session) else { return };
        let Some(life) = self.lives.get_mut(&session) else { return };
        let Some(p) = life.letter.as_mut() else { return };
        // Again and again: a former letter that lands late in this page must not stand there for ever.
        let stands = p.written.is_some_and(|at| now < at.plus(lease));
        let text = life.pushes.get(&p.push).and_then(|push| body(p.push, push));
        p.asked = true;
        match text {
            Some(body) if !stands => {
                let letter = Letter { session, id, generation, push: p.push, body };
                self.out.effects.push(Effect::WriteLetter { slots, page: p.page, letter });
            }
            _ => self.out.effects.push(Effect::ReadAnswer { session, id, slots }),
        }
    }

    /// A letter stands on a disk, or could not be written.
    pub(super) fn letter_written(&mut self, session: SessionNo, done: bool) {
        let (now, lease) = (self.now.boot, self.config.lease);
        let Some(p) = self.lives.get_mut(&session).and_then(|l| l.letter.as_mut()).filter(|p| p.asked) else { return };
        p.asked = false;
        p.next = now.plus(lease / LOOK);
        if done {
            p.written = Some(now);
        }
    }

    /// What a session has answered last.
    pub(super) fn answer_read(&mut self, session: SessionNo, answer: Option<Answer>) {
        let (now, lease) = (self.now.boot, self.config.lease);
        let Some(life) = self.lives.get_mut(&session) else { return };
        if let Some(p) = life.letter.as_mut().filter(|p| p.asked) {
            p.asked = false;
            p.next = now.plus(lease / LOOK);
        }
        let known = |a: &Answer| life.pushes.get(&a.push).is_some_and(is_mailed);
        let Some(Answer { push, done }) = answer.filter(known) else { return };
        let not_done = || WireError::from(&Error::new(Kind::Io, "it says so through the disks; its log says why"));
        let who = self.who(session);
        self.tell(Level::Ok, "session-answer", format!("{who} has answered through the disks"));
        self.answered(session, push, if done { Ack::Done } else { Ack::Failed(not_done()) });
    }

    /// What a silent reader was to be told is told in smaller parts.
    fn untell_reader(&mut self, no: SessionNo, volume: VolumeId) {
        let Some(life) = self.lives.get_mut(&no) else { return };
        let Some(r) = life.readers.get_mut(&volume) else { return };
        if let Some(push) = r.untell()
            && let Some(Push::MapChanged(m)) = life.pushes.remove(&push)
        {
            let runs = m.runs.iter().flat_map(|run| (run.first.0..).zip(&run.written).map(|(au, _)| VolAu(au)));
            r.again(runs.chain(m.unmapped.iter().copied()));
        }
    }
}
