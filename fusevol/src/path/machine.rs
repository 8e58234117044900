//! What becomes of one path to one disk: decided here, without I/O and without a clock.
//!
//! ```text
//!            failed, or the drill                nobody uses the former path any more
//!   Direct ------------------------> Draining --------------------------------------> Proxied
//!     ^                                                                              |      ^
//!     |                                                             its time has come|      | not opened
//!     |                                                                              v      |
//!     '------------------- opened: label read again, nonce found, nothing in flight -- Probing
//! ```
//! I/O goes through the manager in every state but Direct. Whoever still waits for an answer of the former path holds its range all the
//! while: what matters for the order of writes is decided range by range, by who holds it ([`crate::volume`]).
//!
//! *Hysteresis.* After a failure the path is tried again in [`FIRST`]; where it had not held for [`CALM`], in twice the time as before, at most
//! [`MOST`].

use fusevol_shared::clock::BootTime;
use std::time::Duration;

/// The first pause before a path is tried again, and between two tries.
const FIRST: Duration = Duration::from_millis(500);
/// The longest.
const MOST: Duration = Duration::from_secs(60);
/// A path that has held for so long has proven itself.
const CALM: Duration = Duration::from_secs(30);

/// Where I/O to the disk goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// To the disk.
    Direct,
    /// Through the manager; something of the former path has not returned.
    Draining,
    /// Through the manager.
    Proxied,
    /// Through the manager; a path is being tried.
    Probing,
}

impl State {
    /// In one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Direct => "direct",
            State::Draining => "draining",
            State::Proxied => "proxied",
            State::Probing => "probing",
        }
    }
}

/// What happens to a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// I/O failed on it in a way that may be the path's fault.
    Failed(String),
    /// The drill: it counts as failed until [`Event::Restore`].
    Fail,
    /// The drill is over.
    Restore,
    /// Nothing is in flight on the former path.
    Drained,
    /// A path was found good.
    Opened,
    /// None was.
    NotOpened(String),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// No more direct I/O from now on.
    Redirect,
    /// A path is to be tried: [`Event::Opened`] or [`Event::NotOpened`] follows.
    Probe,
    /// I/O goes by the path that was found good.
    Direct,
}

/// The state of one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    state: State,
    since: BootTime,
    /// Why it is not direct.
    why: Option<String>,
    /// Why it could not be opened last.
    not_opened: Option<String>,
    drill: bool,
    pause: Duration,
    next: BootTime,
    failures: u64,
}

impl Machine {
    /// A path that was just opened.
    #[must_use]
    pub fn new(now: BootTime) -> Self {
        Self { state: State::Direct, since: now, why: None, not_opened: None, drill: false, pause: FIRST, next: now, failures: 0 }
    }

    /// A path that could not be opened at the beginning.
    #[must_use]
    pub fn lost(now: BootTime, why: String) -> Self {
        Self { state: State::Proxied, next: now.plus(FIRST), failures: 1, why: Some(why), ..Self::new(now) }
    }

    /// Where I/O goes.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when.
    #[must_use]
    pub fn since(&self) -> BootTime {
        self.since
    }

    /// Why it does not go to the disk.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        let drill = self.drill.then(|| "failed by fusevol paths fail".to_owned());
        let tried = self.not_opened.as_ref().map(|n| format!("; tried again: {n}")).unwrap_or_default();
        drill.or_else(|| self.why.as_ref().map(|w| format!("{w}{tried}")))
    }

    /// How often it has failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// When it wants to be told the time; none where only an event moves it.
    #[must_use]
    pub fn due(&self) -> Option<BootTime> {
        (self.state == State::Proxied && !self.drill).then_some(self.next)
    }

    /// One event.
    pub fn step(&mut self, now: BootTime, event: Event) -> Option<Effect> {
        match (self.state, event) {
            (State::Direct, Event::Failed(why)) => Some(self.redirect(now, why)),
            (State::Direct, Event::Fail) => {
                self.drill = true;
                Some(self.redirect(now, "the drill".to_owned()))
            }
            (_, Event::Fail) => {
                self.drill = true;
                None
            }
            (_, Event::Restore) => {
                (self.drill, self.next) = (false, now);
                None
            }
            (State::Draining, Event::Drained) => self.enter(now, State::Proxied),
            (State::Proxied, Event::Tick) if !self.drill && now >= self.next => {
                self.enter(now, State::Probing);
                Some(Effect::Probe)
            }
            (State::Probing, Event::NotOpened(why)) => {
                self.not_opened = Some(why);
                self.next = now.plus(self.pause);
                self.enter(now, State::Proxied)
            }
            // The drill began while it was tried.
            (State::Probing, Event::Opened) if self.drill => self.enter(now, State::Proxied),
            (State::Probing, Event::Opened) => {
                (self.why, self.not_opened) = (None, None);
                self.enter(now, State::Direct);
                Some(Effect::Direct)
            }
            _ => None,
        }
    }

    fn redirect(&mut self, now: BootTime, why: String) -> Effect {
        let held = now.since(self.since);
        self.pause = if self.failures == 0 || held >= CALM { FIRST } else { (self.pause * 2).min(MOST) };
        self.next = now.plus(self.pause);
        self.failures += 1;
        self.why = Some(why);
        self.enter(now, State::Draining);
        Effect::Redirect
    }

    fn enter(&mut self, now: BootTime, state: State) -> Option<Effect> {
        (self.state, self.since) = (state, now);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime(ms * 1_000_000)
    }

    fn fails(m: &mut Machine, ms: u64) {
        assert_eq!(m.step(at(ms), Event::Failed("EIO".into())), Some(Effect::Redirect));
        assert_eq!(m.step(at(ms), Event::Drained), None);
    }

    fn heals(m: &mut Machine, ms: u64) {
        assert_eq!(m.step(at(ms), Event::Tick), Some(Effect::Probe));
        assert_eq!(m.step(at(ms), Event::Opened), Some(Effect::Direct));
    }

    #[test]
    fn round_and_back() {
        let mut m = Machine::new(at(0));
        assert_eq!(m.step(at(1), Event::Failed("EIO".into())), Some(Effect::Redirect));
        assert_eq!((m.state(), m.step(at(2), Event::Tick)), (State::Draining, None), "not tried before it is drained");
        assert_eq!(m.step(at(3), Event::Failed("EIO".into())), None, "the others that fail change nothing");
        m.step(at(4), Event::Drained);
        assert_eq!(m.step(at(100), Event::Tick), None);
        assert_eq!(m.step(at(501), Event::Tick), Some(Effect::Probe));
        assert_eq!(m.step(at(600), Event::NotOpened("no label".into())), None);
        assert!(m.why().is_some_and(|w| w.contains("EIO") && w.contains("no label")));
        heals(&mut m, 1100);
        assert_eq!((m.state(), m.why()), (State::Direct, None));
    }

    #[test]
    fn what_was_not_there_at_the_beginning_is_tried_like_what_failed() {
        let mut m = Machine::lost(at(0), "no such device".into());
        assert_eq!((m.state(), m.why().as_deref(), m.due()), (State::Proxied, Some("no such device"), Some(at(500))));
        heals(&mut m, 500);
        assert_eq!((m.state(), m.why()), (State::Direct, None));
    }

    #[test]
    fn what_flaps_waits_longer() {
        let mut m = Machine::new(at(0));
        fails(&mut m, 0);
        heals(&mut m, 500);
        fails(&mut m, 600);
        assert_eq!(m.step(at(1599), Event::Tick), None);
        heals(&mut m, 1600);
        fails(&mut m, 1700);
        assert_eq!(m.step(at(3699), Event::Tick), None);
        heals(&mut m, 3700);
        fails(&mut m, 40_000);
        heals(&mut m, 40_500);
    }

    #[test]
    fn the_drill_lasts_until_it_is_over() {
        let mut m = Machine::new(at(0));
        assert_eq!(m.step(at(1), Event::Fail), Some(Effect::Redirect));
        m.step(at(1), Event::Drained);
        assert_eq!((m.due(), m.step(at(99_000), Event::Tick)), (None, None));
        m.step(at(99_000), Event::Restore);
        assert_eq!(m.step(at(99_000), Event::Tick), Some(Effect::Probe));
        m.step(at(99_000), Event::Fail);
        assert_eq!(m.step(at(99_001), Event::Opened), None, "what was found good is not used");
        assert_eq!(m.state(), State::Proxied);
    }
}
