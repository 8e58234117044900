//! The ladder for a session whose death cannot be seen: its slot is sealed, never is death concluded from silence (PROTOCOL.md, L1).
//!
//! ```text
//!  doomed (revoked and not given back in time, or deaf) -----------------------------.
//!  lapsed, of another boot, somebody waits, and the pool allows it: its heartbeat is watched --+-> SealSlot -> Sealed -> SessionSealed is durable
//!      over one lease and a margin, and stands still                                   |     -> one lease and a margin
//!  confirm-dead: its heartbeat stands still over a third of a lease ------------------'     -> what it only reads is given up;
//!                                                                                     confirmed: its journals are read, it is ended
//! ```
//! What a sealed session could still *write* (reserves, journals, quarantine) stays until it is proven drained: its byte lock is free, it says
//! goodbye, or the administrator says so. Its volumes are taken over from it meanwhile (`remap`), where the pool allows that and somebody wants them. A
//! session without anything that it could write is ended whole.

use super::admin_api::Level;
use super::{Core, Effect};
use crate::catalog::record::Record;
use fusevol_shared::clock::BootTime;
use fusevol_shared::ids::{Seq, SessionNo, SnapshotId};
use fusevol_shared::sentence::{Tag, holds};
use std::time::Duration;

/// First wait between two attempts to seal a slot; it doubles.
const SEAL_FIRST: Duration = Duration::from_millis(250);

/// How far a session is on the ladder.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seal {
    /// Not sealed.
    Open,
    /// The SEAL is being written, again and again, until it is durable.
    Asked { next: BootTime, wait: Duration, asked: bool },
    /// It is; what was read before may still be read until then.
    Settling { until: BootTime },
    /// What it only read is given up.
    Over,
}

/// A heartbeat that is watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// As it was first seen.
    first: Option<Option<Seq>>,
    next: BootTime,
    asked: bool,
    /// Between two looks.
    gap: Duration,
    /// For the administrator, who says that it is dead.
    admin: bool,
}

impl Watch {
    /// From now on.
    pub fn new(now: BootTime, gap: Duration, admin: bool) -> Self {
        Self { first: None, next: now, asked: false, gap, admin }
    }

    /// When it is looked at next.
    pub fn due(&self) -> Option<BootTime> {
        (!self.asked).then_some(self.next)
    }
}

impl Seal {
    /// When something is to be done next.
    pub fn due(&self) -> Option<BootTime> {
        match self {
            Seal::Asked { next, asked: false, .. } => Some(*next),
            Seal::Settling { until } => Some(*until),
            Seal::Open | Seal::Asked { .. } | Seal::Over => None,
        }
    }
}

impl Core {
    fn lease_and_margin(&self) -> Duration {
        self.config.lease + self.config.margin()
    }

    /// A session of a former life of the manager that was sealed then: it is not known for how long.
    pub(super) fn sealed_before(&mut self) {
        let until = self.now.boot.plus(self.lease_and_margin());
        let sealed: Vec<SessionNo> = self.catalog.sessions().filter(|s| s.sealed).map(|s| s.no).collect();
        for no in sealed {
            // A takeover that another manager did not bring to its end is wanted still.
            let wanted = self.catalog.attachments().any(|a| a.session == no && !self.catalog.taking(a.token).is_empty());
            if let Some(l) = self.lives.get_mut(&no) {
                (l.doomed, l.wanted) = (true, wanted);
                l.seal = Seal::Settling { until };
            }
        }
    }

    /// Seals who is doomed and has nothing left to give back in time; watches who is silent and waited for.
    pub(super) fn seals_begin(&mut self) {
        let now = self.now.boot;
        let due: Vec<SessionNo> = self
            .lives
            .iter()
            .filter(|(_, l)| l.doomed && !l.is_sealed() && !l.is_ending())
            .filter(|(_, l)| l.recalled.values().all(|until| *until <= now))
            .map(|(no, _)| *no)
            .collect();
        for no in due {
            self.begin_seal(no);
        }
        let silent: Vec<(SessionNo, Duration)> = self
            .lives
            .iter()
            .filter(|(_, l)| l.lapsed && l.watch.is_none())
            .filter_map(|(no, _)| Some((*no, self.is_in_the_way(*no)?)))
            .collect();
        for (no, gap) in silent {
            let writes = self.catalog.attachments().any(|a| a.session == no && a.writes());
            if let Some(l) = self.lives.get_mut(&no) {
                // It is not only ended but taken over.
                l.wanted |= writes;
                l.watch = Some(Watch::new(now, gap, false));
            }
        }
    }

    /// Whether a session of which no byte lock speaks keeps others waiting, and may be ended without a proof; between two looks at its heartbeat then. What
    /// is taken over is waited for by somebody: a part of the lease, in which a live session beats at least once, is long enough for that.
    fn is_in_the_way(&self, no: SessionNo) -> Option<Duration> {
        let free = |l: &super::life::Life| !l.doomed && !l.is_sealed() && !l.is_ending() && !l.confirmed;
        let life = self.lives.get(&no).filter(|l| free(l))?;
        if self.is_probed(no) || self.must_be_fenced() {
            return None;
        }
        let waits = || self.catalog.limbo().any(|l| l.waits.binary_search(&no).is_ok());
        if !life.wanted && !waits() {
            return None;
        }
        if self.legs_wait_for(no) || !self.catalog.attachments().any(|a| a.session == no && a.writes()) {
            return Some(self.lease_and_margin());
        }
        self.may_be_remapped(no).then_some(self.config.lease / super::confirm::BEATS_A_LEASE)
    }

    pub(super) fn begin_seal(&mut self, no: SessionNo) {
        let now = self.now.boot;
        if let Some(l) = self.lives.get_mut(&no).filter(|l| !l.is_sealed()) {
            l.doomed = true;
            l.watch = None;
            l.seal = Seal::Asked { next: now, wait: SEAL_FIRST, asked: false };
        }
    }

    /// Asks for what is due: SEALs to be written, heartbeats to be read; and gives up what was read by those whose time is over.
    pub(super) fn seals_due(&mut self) {
        let now = self.now.boot;
        let due: Vec<SessionNo> = self.lives.iter().filter(|(_, l)| l.seal.due().is_some_and(|d| d <= now)).map(|(no, _)| *no).collect();
        for session in due {
            let Some(life) = self.lives.get_mut(&session) else { continue };
            match &mut life.seal {
                Seal::Asked { asked, .. } => {
                    *asked = true;
                    if let Some((id, slots)) = self.catalog.session(session).map(|s| (s.id, s.slots.clone())) {
                        self.out.effects.push(Effect::SealSlot { session, id, slots });
                    }
                }
                Seal::Settling { .. } => {
                    life.seal = Seal::Over;
                    self.give_up_reads(session);
                }
                Seal::Open | Seal::Over => {}
            }
        }
        let due: Vec<SessionNo> =
            self.lives.iter().filter(|(_, l)| l.watch.and_then(|w| w.due()).is_some_and(|d| d <= now)).map(|(no, _)| *no).collect();
        for session in due {
            let Some(slot) = self.slot_of(session) else { continue };
            if let Some(w) = self.lives.get_mut(&session).and_then(|l| l.watch.as_mut()) {
                w.asked = true;
                self.out.effects.push(Effect::ReadSlot { session, id: slot.0, slots: slot.1 });
            }
        }
    }

    /// Identity, and all disks that may carry the slot.
    pub(super) fn slot_of(&self, no: SessionNo) -> Option<(fusevol_shared::ids::SessionId, Vec<fusevol_shared::units::DiskNo>)> {
        self.catalog.session(no).map(|s| (s.id, s.slots.disks()))
    }

    /// The SEAL was written, or could not be.
    pub(super) fn sealed(&mut self, no: SessionNo, done: bool) {
        let (now, most) = (self.now.boot, self.config.lease);
        let settled = now.plus(self.lease_and_margin());
        let Some(life) = self.lives.get_mut(&no) else { return };
        let Seal::Asked { next, wait, asked } = &mut life.seal else { return };
        if !*asked {
            return;
        }
        if !done {
            *asked = false;
            *next = now.plus(*wait);
            *wait = (*wait * 2).min(most);
            return;
        }
        life.seal = Seal::Settling { until: settled };
        self.commit_or_tell(Record::SessionSealed { no });
        let who = self.who(no);
        self.tell(Level::Warning, "session-sealed", format!("the slot of {who} is sealed: it is never taken up again"));
        self.drop_holds_of(no);
    }

    /// A heartbeat was read.
    pub(super) fn slot_read(&mut self, no: SessionNo, beat: Option<Seq>) {
        let now = self.now.boot;
        let Some(life) = self.lives.get_mut(&no) else { return };
        let Some(w) = life.watch.as_mut().filter(|w| w.asked) else { return };
        w.asked = false;
        w.next = now.plus(w.gap);
        let Some(first) = w.first else {
            w.first = Some(beat);
            return;
        };
        let (moved, admin) = (beat.is_some() && beat > first, w.admin);
        if !moved {
            life.watch = None;
            life.confirmed |= admin;
            self.doom(no, "its heartbeat on the disks stands still");
            return self.begin_seal(no);
        }
        w.first = Some(beat);
        if admin {
            life.watch = None;
            self.confirm_moves(no);
        }
    }

    /// The lease of a sealed session is over: it reads nothing any more, where the pool takes that for granted.
    fn give_up_reads(&mut self, no: SessionNo) {
        if self.must_be_fenced() && !self.lives.get(&no).is_some_and(|l| l.confirmed) {
            return;
        }
        self.readers_wait_over(|(s, _)| *s == no);
        self.leg_waits_over(|_, (s, _)| *s == no);
        let reads: Vec<_> = self.catalog.attachments().filter(|a| a.session == no && !a.writes()).map(|a| (a.token, a.volume)).collect();
        let opens: Vec<SnapshotId> = self.catalog.opens().filter(|(_, s)| *s == no).map(|(id, _)| id).collect();
        let given = reads.into_iter().try_for_each(|(token, volume)| {
            self.locks_gone(volume, no);
            self.end_attachment(token)
        });
        let given = given.and_then(|()| opens.into_iter().try_for_each(|id| self.close_snapshot(no, id)));
        if let Err(e) = given {
            self.tell(Level::Critical, "internal", e.to_string());
        }
        if !holds(Tag::T3) {
            self.give_up_reserves(no);
        }
        let writes = self.catalog.attachments().any(|a| a.session == no) || self.catalog.quarantine().any(|q| q.session == no);
        let confirmed = self.lives.get(&no).is_some_and(|l| l.confirmed);
        if confirmed || !writes {
            self.end_sealed(no, confirmed);
        }
    }

    /// What a sealed session was granted and has not bound would be free, if it did not count as what it may still write.
    fn give_up_reserves(&mut self, no: SessionNo) {
        let all: Vec<_> = self
            .catalog
            .attachments()
            .filter(|a| a.session == no && a.writes())
            .map(|a| (a.token, a.grant + 1, a.reserve.runs()))
            .collect();
        for (token, no, back) in all {
            self.commit_or_tell(Record::Granted { token, no, places: Vec::new(), back });
        }
    }

    pub(super) fn end_sealed(&mut self, no: SessionNo, confirmed: bool) {
        let why = self.rung(no, confirmed);
        if let Err(e) = self.begin_end(no, why, None) {
            self.tell(Level::Critical, "internal", e.to_string());
        }
    }
}
