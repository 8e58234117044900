//! The last rung (DESIGN.md, D7; PROTOCOL.md, T1-T4): whatever a lost writer could still write is taken from it without a fence, volume by volume.
//!
//! ```text
//!  sealed, and its volume is wanted
//!     -> Journal: read to its end, folded        what is marked is known: dirty regions, fresh AUs, the reserve
//!     -> Room:    places for all of it           "waits for room" until there are
//!     -> Copy:    the written blocks of marked AUs, some AUs at a time
//!     -> Log:     the preserve log is read, *after* the copies
//!     -> Lay:     what stands in segments that end, or is of places that move, in segments of our own
//!     -> Lease:   what the old client still reads by its lease is over
//!     -> TakenOver: maps, segments, closing number and quarantine in one transaction
//! ```
//! No other order is right (T4): before the journal is read a bit may be journaled whose data was not copied; before the copies are made a block may be preserved
//! and overwritten of which the log that was read knows nothing. What the old writer does after all that lands in quarantine.
//!
//! Nothing but places is taken from the catalog before the last step, so a crash leaves the old state; another manager begins anew. So does this one where
//! a write has not returned (P1). In both cases the places of the old attempt are nobody's until that manager is proven drained.
//! Whoever proves meanwhile that the session is drained ends it in the usual way (`death`), once the errand that is under way has returned.

mod plan;

use super::admin_api::Level;
use super::errand::{Errand, LogEnd, Outcome};
use super::seal::Seal;
use super::{Core, Effect};
use crate::catalog::alloc::Wish;
use crate::catalog::record::{Fencing, Record};
use fusevol_shared::change::Places;
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::journal::Tail;
use fusevol_shared::ids::{FenceToken, SessionNo, VolumeId};
use fusevol_shared::sentence::{Tag, holds};
use plan::Plan;
use std::time::Duration;

/// First wait after something could not be done; it doubles.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
const AGAIN_MOST: Duration = Duration::from_secs(5);

/// What is done next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Journal,
    Room,
    Copy,
    Log,
    /// Only with T4 switched off: the journal is read where it must not be.
    LateJournal,
    Lay,
    Lease,
}

/// How far a takeover is.
#[derive(Debug)]
pub(super) struct Remap {
    /// The attachment.
    pub token: FenceToken,
    volume: VolumeId,
    step: Step,
    began: BootTime,
    next: BootTime,
    wait: Duration,
    /// Why it does not go on.
    trouble: Option<String>,
    plan: Plan,
}

impl Remap {
    fn new(token: FenceToken, volume: VolumeId, now: BootTime) -> Self {
        Self { token, volume, step: Step::Journal, began: now, next: now, wait: AGAIN_FIRST, trouble: None, plan: Plan::default() }
    }

    /// When something is to be done next.
    pub fn due(&self) -> Option<BootTime> {
        (self.step != Step::Lease).then_some(self.next)
    }

    /// For people.
    pub fn said(&self) -> String {
        let doing = match self.step {
            Step::Journal | Step::LateJournal => "its journal is read".to_owned(),
            Step::Room => "places for the copies are chosen".to_owned(),
            Step::Copy => format!("{} of {} allocation units are copied", self.plan.copied(), self.plan.aus()),
            Step::Log => "its preserve log is read".to_owned(),
            Step::Lay => "what it preserved is written anew".to_owned(),
            Step::Lease => "its lease is waited for".to_owned(),
        };
        let text = format!("it is being taken over, unfenced: {doing}");
        self.trouble.as_ref().map_or(text.clone(), |t| format!("{text}; {t}"))
    }

    fn done(&mut self, now: BootTime) {
        let order = if holds(Tag::T2) { [Step::Copy, Step::Log] } else { [Step::Log, Step::Copy] };
        self.step = match self.step {
            Step::Journal => Step::Room,
            Step::Room => order[0],
            s if s == order[0] => order[1],
            Step::Copy | Step::Log if !holds(Tag::T4) => Step::LateJournal,
            Step::Copy | Step::Log | Step::LateJournal => Step::Lay,
            Step::Lay | Step::Lease => Step::Lease,
        };
        (self.next, self.wait, self.trouble) = (now, AGAIN_FIRST, None);
    }
}

impl Core {
    /// Whether a session's volumes may be taken over without a fence, once it is sealed: the pool allows it, and no agent could do better.
    pub(super) fn may_be_remapped(&self, no: SessionNo) -> bool {
        let policy = match self.catalog.fencing() {
            Fencing::Required => false,
            Fencing::LeaseOnly => true,
            Fencing::Best => self.agents_are_no_help(no),
        };
        let writes = || self.catalog.attachments().any(|a| a.session == no && a.writes());
        policy && !self.is_probed(no) && writes()
    }

    /// Takeovers begin and go on.
    pub(super) fn remaps_go_on(&mut self) {
        let sealed: Vec<SessionNo> = self.lives.iter().filter(|(_, l)| l.may_be_taken_from()).map(|(no, _)| *no).collect();
        for no in sealed {
            // Each turn ends an attachment, or leaves the takeover waiting.
            while self.remap_goes_on(no) {}
        }
    }

    /// Whether an attachment was taken over.
    fn remap_goes_on(&mut self, no: SessionNo) -> bool {
        let now = self.now.boot;
        if self.lives.get(&no).is_some_and(|l| l.remap.is_none()) {
            let first = self.catalog.attachments().find(|a| a.session == no && a.writes()).map(|a| (a.token, a.volume));
            let Some((token, volume)) = first.filter(|_| self.catalog.fencing() != Fencing::Required) else { return false };
            if let Some(l) = self.lives.get_mut(&no) {
                l.remap = Some(Remap::new(token, volume, now));
            }
        }
        // Each turn but the last goes one step on.
        loop {
            let Some(life) = self.lives.get(&no).filter(|l| !l.errand) else { return false };
            let (over, Some(r)) = (matches!(life.seal, Seal::Over), &life.remap) else { return false };
            let (step, due) = (r.step, r.due().is_some_and(|d| d <= now));
            let result = match step {
                Step::Lease if over => return self.take_over(no),
                Step::Room if due => self.remap_room(no),
                _ if due => self.remap_errand(no),
                _ => return false,
            };
            match result {
                Ok(true) => self.remap_step_done(no),
                Ok(false) => return false,
                Err(e) => {
                    self.remap_waits(no, &e);
                    return false;
                }
            }
        }
    }

    fn remap(&mut self, no: SessionNo) -> Result<&mut Remap> {
        let r = self.lives.get_mut(&no).and_then(|l| l.remap.as_mut());
        r.ok_or_else(|| Error::new(Kind::Internal, "a takeover goes on that did not begin"))
    }

    fn remap_step_done(&mut self, no: SessionNo) {
        let now = self.now.boot;
        if let Ok(r) = self.remap(no) {
            r.done(now);
        }
    }

    /// It is tried again after a while; why is said once.
    fn remap_waits(&mut self, no: SessionNo, e: &Error) {
        self.does_without_lost(no);
        let (now, why) = (self.now.boot, e.to_string());
        let Ok(r) = self.remap(no) else { return };
        let volume = r.volume;
        r.next = now.plus(r.wait);
        r.wait = (r.wait * 2).min(AGAIN_MOST);
        if r.trouble.replace(why.clone()).as_ref() != Some(&why) {
            let name = self.volume_name(volume);
            let who = self.who(no);
            self.tell(Level::Critical, "takeover-waits", format!("volume '{name}' is not taken over from {who} yet: {why}"));
        }
    }

    fn volume_name(&self, volume: VolumeId) -> String {
        self.catalog.volume(volume).map_or_else(String::new, |v| v.entry.name.to_string())
    }

    /// Places for what is to be copied.
    fn remap_room(&mut self, no: SessionNo) -> Result<bool> {
        let (token, aus) = self.remap(no).map(|r| (r.token, r.plan.aus()))?;
        let places = self.remap_places(token, aus, self.reserve())?;
        self.remap(no)?.plan.set_places(places);
        Ok(true)
    }

    /// Takes places for this takeover.
    fn remap_places(&mut self, token: FenceToken, count: usize, keep: u64) -> Result<Vec<Vec<fusevol_shared::units::DiskAu>>> {
        let volume = self.catalog.attachment(token).and_then(|a| self.catalog.volume(a.volume));
        let (legs, out) = volume.map_or((1, Vec::new()), |v| (v.entry.legs, v.out.clone()));
        let want = u32::try_from(count).unwrap_or(u32::MAX);
        if want == 0 {
            return Ok(Vec::new());
        }
        let places = self.allocator.choose(&self.catalog, Wish::of(legs, &out), want, keep).ok_or_else(|| {
            let free = self.catalog.free_aus();
            let e = format!(
                "it waits for room: {want} allocation units on {legs} disks are needed beside {keep} that are kept, {free} are free"
            );
            Error::new(Kind::NoSpace, e).hint("add a disk with `fusevol-mgr disk add`, or free space: remove snapshots or volumes")
        })?;
        self.commit(Record::TakeoverGranted { token, places: Places::join(places.iter().map(Vec::as_slice)) })?;
        Ok(places)
    }

    /// Asks the disks for what this step needs; whether nothing is to be asked.
    fn remap_errand(&mut self, no: SessionNo) -> Result<bool> {
        let r = self.remap(no)?;
        let (step, token) = (r.step, r.token);
        let errand = match step {
            Step::Journal | Step::LateJournal => self.catalog.attachment(token).and_then(|a| self.journal_of(a)).map(Errand::Journal),
            Step::Copy => r.plan.next_copies().map(Errand::Copy),
            Step::Log => self.remap_log(no)?,
            Step::Lay => self.remap_lay(no)?,
            Step::Room | Step::Lease => None,
        };
        let Some(errand) = errand else { return Ok(true) };
        if let Some(l) = self.lives.get_mut(&no) {
            l.errand = true;
        }
        self.out.effects.push(Effect::Errand { session: no, errand });
        Ok(false)
    }

    /// An errand has come back.
    pub(super) fn errand_done(&mut self, no: SessionNo, outcome: Outcome) {
        let Some(life) = self.lives.get_mut(&no) else { return };
        if !std::mem::take(&mut life.errand) {
            return;
        }
        if let Outcome::Late(_) = outcome
            && holds(Tag::P1)
        {
            // Whether it goes on or not.
            self.drop_takeovers(|session| session == no, false);
        }
        if self.lives.get(&no).is_none_or(|l| l.remap.is_none()) {
            return;
        }
        let result = match outcome {
            Outcome::Journal(tail) => tail.map_err(Error::from).and_then(|tail| self.remap_journal(no, &tail)),
            Outcome::Copied(done) => done.map_err(Error::from).and_then(|()| Ok(self.remap(no)?.plan.copies_done())),
            Outcome::Log(end) => end.map_err(Error::from).and_then(|end| self.remap_log_read(no, end)),
            Outcome::Laid(done) => done.map_err(Error::from).and_then(|()| Ok(self.remap(no)?.plan.lay_done())),
            Outcome::Late(why) => self.remap_anew(no, why.into()),
        };
        match result {
            Ok(true) => self.remap_step_done(no),
            Ok(false) => {}
            Err(e) => self.remap_waits(no, &e),
        }
    }

    /// A write of it may still land, on top of what the next writer writes there: none of its places is used, and it begins anew.
    fn remap_anew(&mut self, no: SessionNo, why: Error) -> Result<bool> {
        if holds(Tag::P1) {
            let r = self.remap(no)?;
            (r.step, r.plan) = (Step::Journal, Plan::default());
        }
        Err(why)
    }

    /// The places of a takeover are the copier's; free, where all that was to be written there is `drained`.
    fn drop_takeover(&mut self, token: FenceToken, drained: bool) -> Result<()> {
        let places = self.catalog.taking(token).concat();
        self.commit(Record::TakeoverDropped { token, generation: self.generation })?;
        if drained { self.commit(Record::CopyEnded { places }) } else { Ok(()) }
    }

    fn drop_takeovers(&mut self, of: impl Fn(SessionNo) -> bool, drained: bool) {
        let its = |token: &FenceToken| self.catalog.attachment(*token).is_some_and(|a| of(a.session));
        for token in self.catalog.takeovers().filter(its).collect::<Vec<_>>() {
            if let Err(e) = self.drop_takeover(token, drained) {
                self.tell(Level::Critical, "internal", e.to_string());
            }
        }
    }

    /// What former managers did not bring to its end.
    pub(super) fn drop_old_takeovers(&mut self) {
        self.drop_takeovers(|_| true, self.config.drained);
    }

    /// The journal was read: it is folded, and what is marked is known. Whether all of it is folded.
    fn remap_journal(&mut self, no: SessionNo, tail: &Tail) -> Result<bool> {
        let (token, step) = self.remap(no).map(|r| (r.token, r.step))?;
        self.judge(token, tail)?;
        if self.fold_tail(token, tail, super::death::CLOSE_WEIGHT)?.is_none() {
            return Ok(false); // read again for the rest
        }
        if step == Step::LateJournal {
            return Ok(true);
        }
        let regions = self.left_dirty(token, tail);
        if !regions.is_empty() {
            self.commit(Record::LeftDirty { token, regions: regions.clone() })?;
        }
        if !self.catalog.taking(token).is_empty() {
            // It begins anew, and nothing of it is under way.
            self.drop_takeover(token, true)?;
        }
        let plan = Plan::new(&self.catalog, token, &regions)?;
        self.remap(no)?.plan = plan;
        Ok(true)
    }

    fn remap_log(&mut self, no: SessionNo) -> Result<Option<Errand>> {
        let (token, volume) = self.remap(no).map(|r| (r.token, r.volume))?;
        let places = self.remap(no)?.plan.former_places();
        let segments: Vec<_> = self.catalog.volume(volume).into_iter().flat_map(|v| v.segments.values().cloned()).collect();
        if self.catalog.snapshots_of(volume).is_empty() {
            // Nobody reads them.
            let ended = segments.iter().filter(|s| s.token == token).map(|s| s.no).collect();
            self.remap_log_read(no, LogEnd { ended, ..LogEnd::default() })?;
            return Ok(None);
        }
        Ok(Some(Errand::Log { volume, token, segments, places }))
    }

    fn remap_log_read(&mut self, no: SessionNo, end: LogEnd) -> Result<bool> {
        let volume = self.remap(no)?.volume;
        let oldest = self.catalog.snapshots_of(volume).first().map(|s| s.entry.epoch);
        let needed = |b: &super::errand::KeptBlock| oldest.is_some_and(|e| e <= b.epoch);
        let blocks = end.blocks.into_iter().filter(needed).collect();
        let v = self.catalog.volume(volume);
        let epoch = |s: &u32| oldest.and_then(|_| Some((*s, v?.segments.get(s)?.epoch)));
        let again = end.named.iter().filter_map(epoch).collect();
        self.remap(no)?.plan.set_log(end.ended, again, blocks);
        Ok(true)
    }

    /// The next segment that is to be laid down; the places of all are taken before the first.
    fn remap_lay(&mut self, no: SessionNo) -> Result<Option<Errand>> {
        let (token, volume) = self.remap(no).map(|r| (r.token, r.volume))?;
        let size = self.catalog.au_size();
        if let Some(count) = self.remap(no)?.plan.segments_wanted(size) {
            let places = self.remap_places(token, count, 0)?;
            let next = self.catalog.volume(volume).map_or(0, |v| v.entry.next_segment);
            self.remap(no)?.plan.set_segments(size, (token, no), next, places);
        }
        Ok(self.remap(no)?.plan.next_laid().map(|laid| Errand::Lay { volume, laid }))
    }

    /// Everything lies elsewhere, and nothing is read under the old lease any more: the attachment is over.
    fn take_over(&mut self, no: SessionNo) -> bool {
        let Some(r) = self.lives.get_mut(&no).and_then(|l| l.remap.take()) else { return false };
        let who = self.who(no);
        let waits = self.users(r.volume, Some(no));
        let taken = r.plan.record(&self.catalog, r.token, waits.clone());
        let aus: Vec<_> = r.plan.moved().collect();
        if let Err(e) = taken.and_then(|t| self.commit(Record::TakenOver(t))) {
            // Our own mistake: nothing has changed, and it is not tried at once.
            self.tell(Level::Critical, "internal", e.to_string());
            if let Some(l) = self.lives.get_mut(&no) {
                l.remap = Some(Remap { step: Step::Journal, next: self.now.boot.plus(AGAIN_MOST), plan: Plan::default(), ..r });
            }
            return false;
        }
        self.map_changed(r.volume, Some(no), aus.iter().copied());
        self.limbo_entered(r.volume, &waits);
        self.locks_gone(r.volume, no);
        self.attachment_is_over(no, r.volume, true);
        self.list_changed(r.volume);
        let (name, took) = (self.volume_name(r.volume), self.now.boot.since(r.began));
        let held = self.catalog.quarantine().filter(|q| q.session == no).map(|q| q.places.len() as u64).sum();
        let text = format!(
            "volume '{name}' was taken over from {who}, unfenced: {} allocation units were copied in {} ms; what that client could still write, {} at least, stays in quarantine until it is proven drained",
            aus.len(),
            took.as_millis(),
            fusevol_shared::size::show(self.bytes(held)),
        );
        self.tell(Level::Warning, "volume-taken-over", text);
        true
    }
}
