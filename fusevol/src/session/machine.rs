//! The decisions of a client session, free of I/O and clock: events in, effects out.
//!
//! ```text
//!            Welcomed                  lease over (own clock)
//!  Opening ----------> Live --------------------------------> Fenced
//!     |                 ^                                        |
//!     |                 +-- Welcomed (resumed), Renewed, Beaten -+
//!     | Ended           | Ended, Sealed                          | Ended, Sealed
//!     v                 v                                        v
//!    Over <-------------+----------------------------------------+      (and by Close, from every state)
//! ```
//!
//! The link keeps the connection and says `Hello` on each new one; what follows from its answers is decided here. Beside that the session
//! has its slot on the disks: a heartbeat there keeps the lease while no manager is reached, and with it letters are looked for and answered. Whether a manager *answers* is a
//! matter of its own: what needs one fails once none has answered for a lease and the time-out, lease or not.
//!
//! Invariants:
//! - a lease ends one lease time after its request was *sent*, or its heartbeat begun, never after it was answered;
//! - it is extended by an answer or a heartbeat only, and never while the session is over;
//! - a lost network ends nothing by itself;
//! - at most one `Renew` is out, and one `Beat`;
//! - `Over` is left never: what was attached under the session stays dead.

use fusevol_shared::clock::BootTime;
use fusevol_shared::error::Kind;
use fusevol_shared::ids::Generation;
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Why a session is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// The manager has refused it for good: `Lapsed` where it had ended it, `Denied` where the client was revoked, ...
    Refused {
        /// The kind of refusal.
        kind: Kind,
        /// The manager's sentence.
        sentence: String,
    },
    /// It was closed here.
    Closed,
}

/// Where the session stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// No manager has welcomed it yet.
    Opening,
    /// The lease holds.
    Live {
        /// Until then, on the boot clock.
        until: BootTime,
    },
    /// The lease has run out by the own clock; whether the session is over, only the manager or the SEAL can say.
    Fenced {
        /// Since when.
        since: BootTime,
    },
    /// Nothing is submitted or acknowledged any more.
    Over(Why),
}

/// What extends the lease, and when each did so last.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Extended {
    /// By the network: when the request was sent that a manager answered last.
    pub network: Option<BootTime>,
    /// By the disks: when the last heartbeat was begun after which the SEAL was read clear.
    pub disk: Option<BootTime>,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A manager has answered `Hello`.
    Welcomed {
        /// When that `Hello` was sent.
        sent: BootTime,
        /// How long the lease is.
        lease: Duration,
        /// The manager's generation.
        generation: Generation,
    },
    /// `Renew` was granted.
    Renewed {
        /// When the request that was answered was sent.
        sent: BootTime,
    },
    /// `Renew` was answered with an error.
    NotRenewed {
        /// Its kind.
        kind: Kind,
        /// Its sentence.
        sentence: String,
    },
    /// The heartbeat was written, and the SEAL then read clear.
    Beaten {
        /// From before the heartbeat was submitted.
        sent: BootTime,
    },
    /// A letter was answered: the next heartbeat says so.
    Answered,
    /// There was no heartbeat: no slot yet, or too few of its disks answer.
    NotBeaten,
    /// The SEAL says that the session is over.
    Sealed {
        /// What it says.
        sentence: String,
    },
    /// The link has ended: the manager has refused the session.
    Ended {
        /// The kind of refusal.
        kind: Kind,
        /// The manager's sentence.
        sentence: String,
    },
    /// Time has passed.
    Tick,
    /// The session is to end here.
    Close,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send `Renew`; answered by `Renewed` or `NotRenewed`.
    Renew,
    /// Write the heartbeat and read the SEAL; answered by `Beaten`, `NotBeaten` or `Sealed`.
    Beat,
    /// Look for letters on the slot disks: no manager was heard for half a lease.
    Mail,
    /// The connection does not answer, or the manager wants to hear `Hello` again: make a new one.
    Reconnect,
    /// The lease holds until then: I/O may go on.
    Lease(BootTime),
    /// The lease is over: nothing is submitted or acknowledged until it is extended.
    Fence,
    /// What waits for the manager fails from now on, until one answers.
    Fail,
    /// A manager answers again.
    Answers,
    /// Another manager serves: what a reader knows of its maps may have changed unsaid.
    Refresh,
    /// The session is over for good.
    End(Why),
}

/// A session's state, and what it waits for.
#[derive(Debug)]
pub struct Machine {
    state: State,
    /// How long what needs the manager waits for it, once it has not answered for a lease.
    patience: Duration,
    lease: Duration,
    generation: Option<Generation>,
    extended: Extended,
    /// From when the next `Renew` is counted: when the last one that was answered was sent.
    renewed: BootTime,
    /// When the `Renew` that is out was asked for; moved on when a reconnection was asked for on its account.
    asked: Option<BootTime>,
    /// When the last heartbeat was asked for.
    beaten: BootTime,
    beating: bool,
    /// An answer to a letter waits for the next heartbeat.
    answered: bool,
    failing: bool,
}

impl Machine {
    /// A session that is not open yet. `patience`: how long I/O waits for a manager.
    #[must_use]
    pub fn new(now: BootTime, patience: Duration) -> Self {
        Self {
            state: State::Opening,
            patience,
            lease: Duration::ZERO,
            generation: None,
            extended: Extended::default(),
            renewed: now,
            asked: None,
            beaten: now,
            beating: false,
            answered: false,
            failing: false,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What has extended the lease, and when.
    #[must_use]
    pub fn extended(&self) -> Extended {
        self.extended
    }

    /// Whether what needs the manager fails.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// When to send `Tick` at the latest; `None` where only an event can change anything.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        let until = match self.state {
            State::Opening | State::Over(_) => return None,
            State::Live { until } => Some(until),
            State::Fenced { .. } => None,
        };
        let ask = self.asked.map_or_else(|| self.renew_due(), |asked| asked.plus(self.lease));
        let beat = (!self.beating).then(|| self.beat_due());
        let fail = (!self.failing).then(|| self.fail_due());
        [until, Some(ask), beat, fail].into_iter().flatten().min()
    }

    /// Takes one event in.
    pub fn step(&mut self, now: BootTime, event: Event, out: &mut Vec<Effect>) {
        if matches!(self.state, State::Over(_)) {
            return;
        }
        match event {
            Event::Welcomed { sent, lease, generation } => self.welcomed(now, sent, lease, generation, out),
            Event::Renewed { sent } => {
                self.asked = None;
                self.heard(now, sent, out);
            }
            // The manager's lease is over, ours may not be: only `Hello` tells whether the session still stands.
            Event::NotRenewed { kind: Kind::Lapsed | Kind::Unreachable | Kind::Busy | Kind::Io, .. } => {
                (self.asked, self.renewed) = (None, now);
                out.push(Effect::Reconnect);
            }
            Event::Beaten { sent } => {
                self.beating = false;
                // Before the welcome there is no lease that could be extended.
                if self.state != State::Opening {
                    self.extended.disk = self.extended.disk.max(Some(sent));
                    self.extend(now, sent, out);
                    if now >= self.extended.network.unwrap_or_default().plus(self.lease / 2) {
                        out.push(Effect::Mail);
                    }
                }
            }
            // Due at once, unless one is under way: then it is written again right after it.
            Event::Answered => self.answered = true,
            Event::NotBeaten => self.beating = false,
            Event::Sealed { sentence } => self.end(Why::Refused { kind: Kind::Lapsed, sentence }, out),
            Event::NotRenewed { kind, sentence } | Event::Ended { kind, sentence } => self.end(Why::Refused { kind, sentence }, out),
            Event::Close => self.end(Why::Closed, out),
            Event::Tick => {}
        }
        self.maintain(now, out);
    }

    /// What follows from the time alone.
    fn maintain(&mut self, now: BootTime, out: &mut Vec<Effect>) {
        match self.state {
            State::Opening | State::Over(_) => return,
            State::Live { until } if now >= until => {
                self.state = State::Fenced { since: until };
                out.push(Effect::Fence);
            }
            State::Live { .. } | State::Fenced { .. } => {}
        }
        if !self.failing && now >= self.fail_due() {
            self.failing = true;
            out.push(Effect::Fail);
        }
        match self.asked {
            Some(asked) if now >= asked.plus(self.lease) => {
                self.asked = Some(now);
                out.push(Effect::Reconnect);
            }
            None if now >= self.renew_due() => {
                self.asked = Some(now);
                out.push(Effect::Renew);
            }
            Some(_) | None => {}
        }
        if !self.beating && now >= self.beat_due() {
            (self.beating, self.beaten, self.answered) = (true, now, false);
            out.push(Effect::Beat);
        }
    }

    fn renew_due(&self) -> BootTime {
        self.renewed.plus(self.lease / 3)
    }

    fn beat_due(&self) -> BootTime {
        self.beaten.plus(if self.answered { Duration::ZERO } else { self.lease / 3 })
    }

    /// When what needs the manager begins to fail, unless one answers.
    fn fail_due(&self) -> BootTime {
        self.extended.network.unwrap_or_default().plus(self.lease).plus(self.patience)
    }

    fn welcomed(&mut self, now: BootTime, sent: BootTime, lease: Duration, generation: Generation, out: &mut Vec<Effect>) {
        self.lease = lease;
        self.heard(now, sent, out);
        // A Renew that is out is sent again on this connection, whose time to answer begins now.
        self.asked = self.asked.map(|_| now);
        if self.state == State::Opening {
            // An answer older than its own lease: the session stands, its lease does not.
            self.state = State::Fenced { since: now };
        }
        if self.generation.replace(generation).is_some_and(|old| old != generation) {
            out.push(Effect::Refresh);
        }
    }

    /// A manager has answered what was sent then.
    fn heard(&mut self, now: BootTime, sent: BootTime, out: &mut Vec<Effect>) {
        self.extended.network = self.extended.network.max(Some(sent));
        self.extend(now, sent, out);
        if now < sent.plus(self.lease) {
            self.renewed = self.renewed.max(sent);
        }
        if self.failing && now < self.fail_due() {
            self.failing = false;
            out.push(Effect::Answers);
        }
    }

    fn extend(&mut self, now: BootTime, sent: BootTime, out: &mut Vec<Effect>) {
        let until = sent.plus(self.lease);
        let later = match self.state {
            State::Live { until: held } => until > held,
            State::Opening | State::Fenced { .. } => true,
            State::Over(_) => false,
        };
        if later && now < until {
            self.state = State::Live { until };
            out.push(Effect::Lease(until));
        }
    }

    fn end(&mut self, why: Why, out: &mut Vec<Effect>) {
        self.state = State::Over(why.clone());
        out.push(Effect::End(why));
    }
}
