//! The slot of a session moves to other disks where one of its disks is lost (PROTOCOL.md, "A slot that moves").
//!
//! ```text
//!  a slot disk is bad, or there are fewer than there could be
//!     -> OpenPlaces (clear SEALs, durable, on the disks that are new) -> PlacesOpened -> SlotMoves is durable: a SEAL needs a majority of both sets
//!     -> MoveSlot, over the network or by letter -> the session uses the new ones and answers -> SlotMoved: the former ones are nothing any more
//!        '-- a disk did not take it: without it, or later again
//! ```
//! *Bad* is a disk that the administrator has given up, whose legs were out for so long that they are copied elsewhere, or that the manager has not reached for
//! a while. One that it has just lost, or has just got back, is left as it is: neither makes a slot move.
//!
//! Invariants: one move of a session at a time, and none once its SEAL may be set; a disk is in the new set only if its clear SEAL is known to be durable, and nothing
//! that was written there before may still land; what was begun is brought to its end by the session's answer alone, whoever serves then.

use super::admin_api::Level;
use super::joining::lives;
use super::{Core, Effect};
use crate::catalog::record::Record;
use fusevol_shared::clock::BootTime;
use fusevol_shared::format::slot::SLOT_DISKS;
use fusevol_shared::ids::SessionNo;
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{DiskInfo, MoveSlot, Push, SlotDisk};
use fusevol_shared::wire::slots::Slots;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Sessions that are moved at once, of those that live.
const AT_ONCE: usize = 64;
/// The wait before a move is tried again that has found no disk; it doubles.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Part of a lease for which a disk must be lost, or back, before that counts.
const SETTLED: u32 = 3;

/// What became of a clear SEAL on one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// It is durable.
    Done,
    /// It is not there.
    Not,
    /// The disk has not answered: it may land later.
    Late,
}

/// Whether a disk may carry slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fit {
    Good,
    /// It was lost just now, or came back: nothing follows from it yet.
    Unsure,
    Bad,
}

/// The manager's own view of a disk that was lost once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    lost: bool,
    since: BootTime,
}

/// What is known of a session's moves besides the catalog.
#[derive(Default, Debug)]
pub(super) struct Mover {
    /// Where the slot is being opened.
    asked: Option<Vec<DiskNo>>,
    /// Before that nothing is tried.
    next: BootTime,
    wait: Duration,
    /// A clear SEAL of this manager may still land there, on top of whatever is written meanwhile.
    late: BTreeSet<DiskNo>,
}

impl Mover {
    fn put_off(&mut self, now: BootTime) {
        self.wait = (self.wait * 2).clamp(AGAIN.0, AGAIN.1);
        self.next = now.plus(self.wait);
    }
}

impl Core {
    fn settled_after(&self) -> Duration {
        self.config.lease / SETTLED
    }

    /// The manager has lost disks since the last look, or has them back.
    fn look_at_health(&mut self) {
        let now = self.now.boot;
        for (disk, _) in &self.lost {
            let h = self.health.entry(*disk).or_insert(Health { lost: true, since: now });
            if !h.lost {
                *h = Health { lost: true, since: now };
            }
        }
        let lost = |d: &DiskNo| self.lost.iter().any(|(l, _)| l == d);
        for (disk, h) in &mut self.health {
            if h.lost && !lost(disk) {
                *h = Health { lost: false, since: now };
            }
        }
    }

    fn fit(&self, disk: DiskNo) -> Fit {
        let now = self.now.boot;
        let given_up = || self.out_since.iter().any(|((_, d), since)| *d == disk && since.plus(self.rebuild_after()) <= now);
        if self.catalog.disk(disk).is_none_or(|d| d.failed) || given_up() {
            return Fit::Bad;
        }
        match self.health.get(&disk) {
            Some(h) if h.since.plus(self.settled_after()) > now => Fit::Unsure,
            Some(h) if h.lost => Fit::Bad,
            _ => Fit::Good,
        }
    }

    /// Whether nothing is expected of a disk any more, for now.
    pub(super) fn is_bad(&self, disk: DiskNo) -> bool {
        self.fit(disk) == Fit::Bad
    }

    /// All that are.
    pub(super) fn bad_disks(&self) -> Vec<DiskNo> {
        self.catalog.disks().map(|d| d.entry.no).filter(|d| self.is_bad(*d)).collect()
    }

    fn fits(&self) -> BTreeMap<DiskNo, Fit> {
        self.catalog.disks().map(|d| (d.entry.no, self.fit(d.entry.no))).collect()
    }

    /// The disks that carry the slot of a session that is opened now.
    pub(super) fn slot_disks(&self) -> Vec<DiskNo> {
        let here = |d: &DiskNo| self.fit(*d) != Fit::Bad && !self.lost.iter().any(|(l, _)| l == d);
        let disks: Vec<DiskNo> = self.catalog.disks().map(|d| d.entry.no).filter(here).take(SLOT_DISKS).collect();
        if disks.is_empty() { self.catalog.slot_disks() } else { disks }
    }

    /// When something is to be done next.
    pub(super) fn slots_next(&self) -> Option<BootTime> {
        let now = self.now.boot;
        let health = self.health.values().map(|h| h.since.plus(self.settled_after()));
        let again = self.lives.values().map(|l| l.mover.next);
        health.chain(again).filter(|t| *t > now).min()
    }

    /// Begins the moves that are due.
    pub(super) fn slots_go_on(&mut self) {
        self.look_at_health();
        let (now, fits) = (self.now.boot, self.fits());
        let good = fits.values().filter(|f| **f == Fit::Good).count().min(SLOT_DISKS);
        let bad = |d: DiskNo| fits.get(&d) == Some(&Fit::Bad);
        let mut due = Vec::new();
        let mut busy = 0;
        for (no, life) in self.lives.iter().filter(|(_, l)| lives(l)) {
            let Some(slots) = self.catalog.session(*no).map(|s| &s.slots) else { continue };
            if slots.is_moving() || life.mover.asked.is_some() {
                busy += 1;
            } else if life.mover.next <= now && (slots.now.len() < good || slots.now.iter().any(|s| bad(s.disk))) {
                due.push(*no);
            }
        }
        for no in due {
            if busy >= AT_ONCE {
                return;
            }
            busy += usize::from(self.begin_move(no, &fits));
        }
    }

    /// Begins to move the slot of a session, if there is anything better.
    fn begin_move(&mut self, session: SessionNo, fits: &BTreeMap<DiskNo, Fit>) -> bool {
        let Some(s) = self.catalog.session(session) else { return false };
        let Some(life) = self.lives.get_mut(&session) else { return false };
        let kept = s.slots.now.iter().filter(|p| fits.get(&p.disk) != Some(&Fit::Bad)).count();
        let has = |d: &DiskNo| s.slots.now.iter().any(|p| p.disk == *d);
        let new = fits.iter().filter(|(d, f)| **f == Fit::Good && !has(d) && !life.mover.late.contains(d)).map(|(d, _)| *d);
        let new: Vec<DiskNo> = new.take(SLOT_DISKS.saturating_sub(kept)).collect();
        if kept + new.len() == 0 || new.is_empty() && kept == s.slots.now.len() {
            return false;
        }
        if new.is_empty() {
            return self.move_slot(session, &[]);
        }
        life.mover.asked = Some(new.clone());
        self.out.effects.push(Effect::OpenPlaces { session, id: s.id, slots: new });
        true
    }

    /// The clear SEALs of a session were written, or could not be.
    pub(super) fn places_opened(&mut self, session: SessionNo, ends: &[(DiskNo, Opened)]) {
        let now = self.now.boot;
        let Some(life) = self.lives.get_mut(&session) else { return };
        let Some(asked) = life.mover.asked.take() else { return };
        life.mover.late.extend(ends.iter().filter(|(_, e)| *e == Opened::Late).map(|(d, _)| *d));
        let open: Vec<DiskNo> = asked.iter().copied().filter(|d| ends.contains(&(*d, Opened::Done))).collect();
        if open == asked {
            life.mover.wait = Duration::ZERO;
        } else {
            life.mover.put_off(now);
        }
        // Once its SEAL may be set nothing is added: what is written there would not have it.
        if lives(life)
            && !self.move_slot(session, &open)
            && let Some(life) = self.lives.get_mut(&session)
        {
            life.mover.put_off(now);
        }
    }

    /// From now on a SEAL needs a majority of the places that this gives, too: those that are not bad, and new ones, which are open.
    fn move_slot(&mut self, no: SessionNo, new: &[DiskNo]) -> bool {
        let Some(slots) = self.catalog.session(no).filter(|s| !s.sealed).map(|s| &s.slots) else { return false };
        let opened = self.generation;
        let kept = slots.now.iter().copied().filter(|p| self.fit(p.disk) != Fit::Bad);
        let all = kept.chain(new.iter().map(|disk| SlotDisk { disk: *disk, opened })).take(SLOT_DISKS);
        let mut next: Vec<SlotDisk> = all.collect();
        next.sort_by_key(|p| p.disk);
        if next.is_empty() || slots.is_moving() || next == slots.now {
            return false;
        }
        self.commit_or_tell(Record::SlotMoves { no, next });
        self.tell_move(no);
        true
    }

    /// Tells a session where its slot is to lie.
    fn tell_move(&mut self, no: SessionNo) {
        let Some(Slots { next, moves, .. }) = self.catalog.session(no).map(|s| s.slots.clone()).filter(Slots::is_moving) else { return };
        let known = |d: &DiskNo| next.iter().any(|s| s.disk == *d);
        let info = |d: DiskInfo| DiskInfo { paths: Vec::new(), ..d };
        let disks = self.catalog.disks().filter(|d| known(&d.entry.no)).map(|d| info(super::joining::info(&d.entry))).collect();
        // One that leaves too much unanswered is given up: its SEAL needs both sets then.
        let _push = self.push(no, Push::MoveSlot(MoveSlot { no: moves, slots: next, disks }));
    }

    /// A new manager does not know what sessions were told.
    pub(super) fn say_moves_again(&mut self) {
        let moving: Vec<SessionNo> = self.catalog.sessions().filter(|s| s.slots.is_moving() && !s.sealed).map(|s| s.no).collect();
        moving.into_iter().for_each(|no| self.tell_move(no));
    }

    /// A session uses the disks of this move: what stands on the others says nothing any more.
    pub(super) fn slot_moved(&mut self, no: SessionNo, moves: u64) {
        let fits = |s: &Slots| s.is_moving() && s.moves == moves;
        if !self.catalog.session(no).is_some_and(|s| fits(&s.slots) && !s.sealed) {
            return;
        }
        self.commit_or_tell(Record::SlotMoved { no, moves });
        let disks = self.catalog.session(no).map(|s| s.slots.disks()).unwrap_or_default();
        let disks: Vec<String> = disks.iter().map(ToString::to_string).collect();
        let who = self.who(no);
        self.tell(Level::Ok, "slot-moved", format!("the slot of {who} lies on disks {} now", disks.join(", ")));
    }
}
