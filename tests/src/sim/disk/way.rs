//! A process's own way to a shared disk, which may fail while the disk lives (PROTOCOLS.md, P1).
//!
//! ```text
//!  good --lost--> fails: what is asked is answered with an error, and perhaps carried out all the same
//!    ^  '-------> hangs: nothing is answered -- fails, or is good again
//!    '--regained--'
//! ```
//! A write that was under way, or is asked for while the way fails, is answered as one that has *not returned*; it lands a while later, torn
//! or whole, or never: a *late* write. Until then it is in flight: its process holds its byte lock, and is not proven drained.
//!
//! Invariant: a late write lands at most once, within [`LATEST`].

use super::*;

/// A late write lands within this.
const LATEST: u64 = 12_000 * MILLI;

/// What is wrong with a way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Errors of the transport.
    Fails,
    /// No answer.
    Hangs,
}

impl Medium {
    /// The process's way to this disk is lost.
    pub fn lose(&self, proc: ProcId, way: Way) {
        let dice = &self.0.sched;
        dice.trace(proc, "way lost", self.0.number, u64::from(way == Way::Hangs));
        let mut wake = Vec::new();
        let mut s = self.state();
        s.ways.insert(proc, way);
        let mine: Vec<u64> =
            s.flying.iter().filter(|(_, f)| f.proc == proc && !f.dropped && f.answer.is_none()).map(|(id, _)| *id).collect();
        for id in mine {
            let Some(f) = s.flying.get_mut(&id) else { continue };
            match way {
                Way::Hangs if f.landed => {}
                Way::Hangs => (f.held, f.turn) = (true, f.turn + 1),
                Way::Fails => {
                    let late = (!f.landed).then(|| f.late()).flatten();
                    f.landed = true;
                    f.answer = Some(Err(not_returned(f.at)));
                    wake.extend(f.waker.take());
                    late.into_iter().for_each(|late| self.lands_late(&mut s, late));
                }
            }
        }
        drop(s);
        wake.into_iter().for_each(Waker::wake);
    }

    /// It is there again: what hung goes on.
    pub fn regain(&self, proc: ProcId) {
        let mut s = self.state();
        if s.ways.remove(&proc).is_none() || self.0.sched.frozen(proc) {
            return;
        }
        self.0.sched.trace(proc, "way regained", self.0.number, 0);
        for (id, f) in s.flying.iter_mut().filter(|(_, f)| f.proc == proc && f.held) {
            self.put_off(*id, f, self.0.sched.below(5 * MILLI));
        }
    }

    /// Whether the process's way to this disk is good.
    #[must_use]
    pub fn is_reached(&self, proc: ProcId) -> bool {
        !self.state().ways.contains_key(&proc)
    }

    /// Whether a manager that runs as this process has lost the disk.
    #[must_use]
    pub fn is_lost(&self, proc: ProcId) -> bool {
        !self.is_reached(proc) || self.state().faults.dead
    }

    /// Late writes that have landed.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.state().late
    }

    /// A request by a way that is lost; whether it is.
    pub(super) fn goes_astray(&self, s: &mut State, id: u64) -> bool {
        let Some(f) = s.flying.get_mut(&id) else { return false };
        let dice = &self.0.sched;
        match s.ways.get(&f.proc) {
            None => return false,
            Some(Way::Hangs) => (f.held, f.turn) = (true, f.turn + 1),
            Some(Way::Fails) => {
                f.landed = true;
                let at = f.at;
                // Not asked at all, or nobody knows.
                let (error, late) = match dice.one_in(2) {
                    true => (DiskError::answered(libc::ENOTCONN, format!("no way to {at}")), None),
                    false => (not_returned(at), f.late().filter(|_| dice.one_in(2))),
                };
                late.into_iter().for_each(|late| self.lands_late(s, late));
                let medium = self.clone();
                dice.after(20 * MICRO + dice.below(200 * MICRO), move || medium.answer(id, Err(error)));
            }
        }
        true
    }

    /// It lands, or it does not.
    fn lands_late(&self, s: &mut State, mut late: Flight) {
        let dice = &self.0.sched;
        let after = match dice.below(5) {
            0 => return,
            1 | 2 => dice.below(300 * MILLI),
            3 => dice.below(3_000 * MILLI),
            _ => dice.below(LATEST),
        };
        if let Kind::Write { data, .. } = &late.kind
            && dice.one_in(6)
        {
            late.torn = sectors(dice, data.len());
        }
        s.next += 1;
        let (id, medium) = (s.next, self.clone());
        s.flying.insert(id, late);
        dice.after(after, move || medium.land(id, 0));
    }
}

impl Flight {
    /// The same write, of which nobody hears any more.
    fn late(&self) -> Option<Self> {
        let kind = matches!(self.kind, Kind::Write { .. }).then(|| self.kind.clone())?;
        Some(Self { kind, dropped: true, late: true, ..Self::new(self.proc, self.at, Kind::Read { len: 0 }, None) })
    }
}

fn not_returned(at: DiskOff) -> DiskError {
    DiskError { answer: Answer::NotReturned, errno: libc::EIO, what: format!("the way is lost, at {at}") }
}
