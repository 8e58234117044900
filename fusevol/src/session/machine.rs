//! The decisions of a client session, free of I/O and clock: events in, effects out.
//!
//! ```text
//!            Welcomed                  lease over (own clock)
//!  Opening ----------> Live --------------------------------> Fenced ----+ after the time-out: I/O that waits fails
//!     |                 ^                                        |    <--+
//!     |                 +-------- Welcomed (resumed) ------------+
//!     | Ended           | Ended                                  | Ended
//!     v                 v                                        v
//!    Over <-------------+----------------------------------------+      (and by Close, from every state)
//! ```
//!
//! The link keeps the connection and says `Hello` on each new one; what follows from its answers is decided here.
//!
//! Invariants:
//! - a lease ends one lease time after its request was *sent*, never after it was answered;
//! - it is extended by an answer only, and never while the session is over;
//! - at most one `Renew` is out;
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
    /// The lease has run out by the own clock; whether the session is over, only the manager can say.
    Fenced {
        /// Since when.
        since: BootTime,
        /// The time-out has passed: I/O that needs the manager fails instead of waiting.
        failing: bool,
    },
    /// Nothing is submitted or acknowledged any more.
    Over(Why),
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
    /// The connection does not answer, or the manager wants to hear `Hello` again: make a new one.
    Reconnect,
    /// The lease holds until then: I/O may go on.
    Lease(BootTime),
    /// The lease is over: nothing is submitted or acknowledged until it is extended.
    Fence,
    /// I/O that waits for the manager fails from now on, until the lease is extended.
    Fail,
    /// Another manager serves: what a reader knows of its maps may have changed unsaid.
    Refresh,
    /// The session is over for good.
    End(Why),
}

/// A session's state, and what it waits for.
#[derive(Debug)]
pub struct Machine {
    state: State,
    /// How long I/O waits for a lease.
    patience: Duration,
    lease: Duration,
    generation: Option<Generation>,
    /// When the request was sent whose answer gave the lease that holds.
    renewed: BootTime,
    /// When the `Renew` that is out was asked for; moved on when a reconnection was asked for on its account.
    asked: Option<BootTime>,
}

impl Machine {
    /// A session that is not open yet. `patience`: how long I/O waits for a lease that has run out.
    #[must_use]
    pub fn new(now: BootTime, patience: Duration) -> Self {
        Self { state: State::Opening, patience, lease: Duration::ZERO, generation: None, renewed: now, asked: None }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When to send `Tick` at the latest; `None` where only an event can change anything.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        let ask = self.asked.map_or_else(|| self.renew_due(), |asked| asked.plus(self.lease));
        match self.state {
            State::Opening | State::Over(_) => None,
            State::Live { until } => Some(ask.min(until)),
            State::Fenced { since, failing: false } => Some(ask.min(since.plus(self.patience))),
            State::Fenced { failing: true, .. } => Some(ask),
        }
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
                self.granted(now, sent, out);
            }
            // The manager's lease is over, ours may not be: only `Hello` tells whether the session still stands.
            Event::NotRenewed { kind: Kind::Lapsed | Kind::Unreachable | Kind::Busy | Kind::Io, .. } => {
                (self.asked, self.renewed) = (None, now);
                out.push(Effect::Reconnect);
            }
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
                self.state = State::Fenced { since: until, failing: false };
                out.push(Effect::Fence);
            }
            State::Live { .. } | State::Fenced { .. } => {}
        }
        if let State::Fenced { since, failing: false } = self.state
            && now >= since.plus(self.patience)
        {
            self.state = State::Fenced { since, failing: true };
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
    }

    fn renew_due(&self) -> BootTime {
        self.renewed.plus(self.lease / 3)
    }

    fn welcomed(&mut self, now: BootTime, sent: BootTime, lease: Duration, generation: Generation, out: &mut Vec<Effect>) {
        self.lease = lease;
        self.granted(now, sent, out);
        // A Renew that is out is sent again on this connection, whose time to answer begins now.
        self.asked = self.asked.map(|_| now);
        if self.state == State::Opening {
            // An answer older than its own lease: the session stands, its lease does not.
            self.state = State::Fenced { since: now, failing: false };
        }
        if self.generation.replace(generation).is_some_and(|old| old != generation) {
            out.push(Effect::Refresh);
        }
    }

    fn granted(&mut self, now: BootTime, sent: BootTime, out: &mut Vec<Effect>) {
        let until = sent.plus(self.lease);
        let later = match self.state {
            State::Live { until: held } => until > held,
            State::Opening | State::Fenced { .. } => true,
            State::Over(_) => false,
        };
        if later && now < until {
            self.renewed = sent;
            self.state = State::Live { until };
            out.push(Effect::Lease(until));
        }
    }

    fn end(&mut self, why: Why, out: &mut Vec<Effect>) {
        self.state = State::Over(why.clone());
        out.push(Effect::End(why));
    }
}
