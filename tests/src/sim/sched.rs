//! The clock, the dice and the trace of a simulated world: what disks, nets and processes share.
//!
//! Time is virtual and moves only here: a little with each step of a task, and to the next timer where no task can go on. Every choice
//! is taken from one seeded source, in the order in which it is asked, so that one seed is one world. The trace is a running hash of
//! everything that happened (who, what, when); printed too, where it is wanted.
//!
//! A *process* is a number with a clock of its own, which may go a little too fast or too slow, and may be *frozen*: its tasks do not
//! run. Its clock goes on (a process that was stopped) or stands still too (a machine that was paused).
//!
//! Invariants: what is due is done in the order of its time, and of its asking where the times are equal; nothing here is called
//! with the lock held, so whatever is done may ask again.

use fusevol_shared::clock::{BootTime, Clock};
use fusevol_shared::random::SeededRandom;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What a step of a task takes, in nanoseconds.
const STEP: u64 = 1_000;
/// Lines of the trace that are kept for a failure.
const LINES: usize = 400;
/// Boot clocks differ by so many millionths at most, either way.
const DRIFT_PPM: u64 = 5_000;

/// A process; 0 is the world itself, which never dies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcId(pub u32);

/// The world itself.
pub const WORLD: ProcId = ProcId(0);

impl fmt::Display for ProcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// A task of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct TaskId(pub u64);

/// What happens when a timer is due.
enum Fire {
    Wake(Waker),
    Do(Box<dyn FnOnce() + Send>),
}

/// A process as the clock sees it.
#[derive(Clone, Debug)]
struct Proc {
    name: String,
    alive: bool,
    frozen: bool,
    /// Its clock stands.
    stopped: bool,
    /// Its clock at `since`.
    local: u64,
    since: u64,
    /// Millionths of the true speed.
    ppm: u64,
}

impl Proc {
    fn local(&self, now: u64) -> u64 {
        if self.stopped {
            return self.local;
        }
        let gone = u128::from(now.saturating_sub(self.since)) * u128::from(self.ppm) / 1_000_000;
        self.local + u64::try_from(gone).expect("a simulation ends long before")
    }

    fn rebase(&mut self, now: u64) {
        (self.local, self.since) = (self.local(now), now);
    }
}

struct State {
    now: u64,
    random: SeededRandom,
    timers: BTreeMap<(u64, u64), Fire>,
    timer_no: u64,
    ready: Vec<TaskId>,
    queued: BTreeSet<TaskId>,
    procs: BTreeMap<ProcId, Proc>,
    next_task: u64,
    hash: u64,
    events: u64,
    lines: VecDeque<String>,
    print: bool,
}

/// The shared part of a world. A clone is another handle.
#[derive(Clone)]
pub struct Sched(Arc<Mutex<State>>);

impl Sched {
    /// A world from a seed; `print` writes its trace to standard error as it happens.
    #[must_use]
    pub fn new(seed: u64, print: bool) -> Self {
        let world = Proc { name: "world".into(), alive: true, frozen: false, stopped: false, local: 0, since: 0, ppm: 1_000_000 };
        Self(Arc::new(Mutex::new(State {
            now: 0,
            random: SeededRandom(seed),
            timers: BTreeMap::new(),
            timer_no: 0,
            ready: Vec::new(),
            queued: BTreeSet::new(),
            procs: BTreeMap::from([(WORLD, world)]),
            next_task: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            events: 0,
            lines: VecDeque::new(),
            print,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic is a found failure; what is read after it is only the trace.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- dice ----

    /// A number below `n` (`n` > 0).
    pub fn below(&self, n: u64) -> u64 {
        self.state().random.below(n)
    }

    /// A number in `from..to`; `from` where that is empty.
    pub fn between(&self, from: u64, to: u64) -> u64 {
        if to <= from { from } else { from + self.below(to - from) }
    }

    /// True in one of `n` cases; never where `n` is 0.
    pub fn one_in(&self, n: u64) -> bool {
        n != 0 && self.below(n) == 0
    }

    /// A source of its own, for a part that draws much.
    #[must_use]
    pub fn fork_random(&self) -> SeededRandom {
        SeededRandom(self.state().random.next_u64())
    }

    // ---- trace ----

    /// Something happened: into the hash, and to people where they want to read all of it.
    pub fn trace(&self, who: ProcId, what: &'static str, a: u64, b: u64) {
        let mut s = self.state();
        let mut h = s.hash;
        let mut mix = |n: u64| h = (h ^ n).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        mix(s.now);
        mix(u64::from(who.0));
        mix(what.len() as u64 ^ what.bytes().fold(7, |x: u64, c| x.wrapping_mul(31).wrapping_add(u64::from(c))));
        mix(a);
        mix(b);
        s.hash = h;
        s.events += 1;
        if s.print {
            let name = s.procs.get(&who).map_or("?", |p| p.name.as_str());
            eprintln!("{:>14.6} {name}: {what} {a} {b}", seconds(s.now));
        }
    }

    /// Something for people: kept for a failure, and hashed by its text.
    pub fn say(&self, who: ProcId, text: impl fmt::Display) {
        let text = text.to_string();
        let sum = text.bytes().fold(7u64, |x, c| x.wrapping_mul(31).wrapping_add(u64::from(c)));
        self.trace(who, "say", sum, text.len() as u64);
        let mut s = self.state();
        let name = s.procs.get(&who).map_or("?", |p| p.name.as_str());
        let line = format!("{:>14.6} {name}: {text}", seconds(s.now));
        if s.print {
            eprintln!("{line}");
        }
        if s.lines.len() >= LINES {
            s.lines.pop_front();
        }
        s.lines.push_back(line);
    }

    /// Something for who reads all of it: made only then, and no part of the hash.
    pub fn detail(&self, who: ProcId, text: impl FnOnce() -> String) {
        if self.state().print {
            let (name, now) = (self.name(who), self.now());
            eprintln!("{:>14.6} {name}: {}", seconds(now), text());
        }
    }

    /// Hash and number of all that happened.
    #[must_use]
    pub fn digest(&self) -> (u64, u64) {
        let s = self.state();
        (s.hash, s.events)
    }

    /// The last things that were said.
    #[must_use]
    pub fn story(&self) -> String {
        self.state().lines.iter().map(|l| format!("{l}\n")).collect()
    }

    // ---- time ----

    /// Virtual nanoseconds since the world began.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.state().now
    }

    /// Does `f` after `after` of virtual time, whoever lives then.
    pub fn after(&self, after: u64, f: impl FnOnce() + Send + 'static) {
        let mut s = self.state();
        let due = s.now + after;
        s.timer(due, Fire::Do(Box::new(f)));
    }

    fn wake_after(&self, after: u64, waker: Waker) -> (u64, u64) {
        let mut s = self.state();
        let due = s.now + after;
        s.timer(due, Fire::Wake(waker))
    }

    fn cancel(&self, timer: (u64, u64)) {
        // The waker may be the last handle on its task's: dropped with the lock free.
        let gone = self.state().timers.remove(&timer);
        drop(gone);
    }

    /// The world is over: nothing is due any more.
    pub(super) fn clear(&self) {
        // What a timer holds may cancel another as it goes.
        let gone = std::mem::take(&mut self.state().timers);
        drop(gone);
    }

    /// Tells whether this world is still held by somebody, once it is over.
    pub fn watch(&self) -> impl Fn() -> usize + use<> {
        let weak = Arc::downgrade(&self.0);
        move || weak.strong_count()
    }

    /// Does what is due; where `idle`, goes to the next timer first. `false` where there is none.
    pub(super) fn fire(&self, idle: bool) -> bool {
        let due = {
            let mut s = self.state();
            let Some(first) = s.timers.first_entry() else { return false };
            let at = first.key().0;
            if !idle && at > s.now {
                return false;
            }
            let fire = s.timers.pop_first().expect("it was there").1;
            s.now = s.now.max(at);
            fire
        };
        match due {
            Fire::Wake(w) => w.wake(),
            Fire::Do(f) => f(),
        }
        true
    }

    // ---- processes ----

    /// A new process. Its clock begins anywhere and goes a little wrong.
    pub fn process(&self, name: &str) -> ProcId {
        let mut s = self.state();
        let id = ProcId(u32::try_from(s.procs.len()).expect("few processes"));
        let local = 1_000_000_000 * (1 + s.random.below(1000));
        let ppm = 1_000_000 - DRIFT_PPM + s.random.below(2 * DRIFT_PPM);
        let since = s.now;
        let proc = Proc { name: format!("{name}#{}", id.0), alive: true, frozen: false, stopped: false, local, since, ppm };
        s.procs.insert(id, proc);
        id
    }

    /// Gives a process the clock of another: they are on one host.
    pub fn same_clock(&self, of: ProcId, as_of: ProcId) {
        let mut s = self.state();
        let now = s.now;
        let Some(other) = s.procs.get(&as_of).cloned() else { return };
        if let Some(p) = s.procs.get_mut(&of) {
            (p.local, p.since, p.ppm) = (other.local(now), now, other.ppm);
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self, proc: ProcId) -> String {
        self.state().procs.get(&proc).map_or_else(|| "?".into(), |p| p.name.clone())
    }

    /// Whether it lives.
    #[must_use]
    pub fn alive(&self, proc: ProcId) -> bool {
        self.state().procs.get(&proc).is_some_and(|p| p.alive)
    }

    pub(super) fn die(&self, proc: ProcId) {
        if let Some(p) = self.state().procs.get_mut(&proc) {
            p.alive = false;
        }
    }

    /// Its tasks stand still from now on; its clock too where `clock`.
    pub fn freeze(&self, proc: ProcId, clock: bool) {
        let mut s = self.state();
        let now = s.now;
        if let Some(p) = s.procs.get_mut(&proc) {
            p.rebase(now);
            (p.frozen, p.stopped) = (true, clock);
        }
        drop(s);
        self.trace(proc, "frozen", u64::from(clock), 0);
    }

    /// They go on.
    pub fn thaw(&self, proc: ProcId) {
        let mut s = self.state();
        let now = s.now;
        if let Some(p) = s.procs.get_mut(&proc) {
            p.rebase(now);
            (p.frozen, p.stopped) = (false, false);
        }
        drop(s);
        self.trace(proc, "thawed", 0, 0);
    }

    /// Whether it is frozen.
    #[must_use]
    pub fn frozen(&self, proc: ProcId) -> bool {
        self.state().procs.get(&proc).is_some_and(|p| p.frozen)
    }

    /// What its clock says.
    #[must_use]
    pub fn local(&self, proc: ProcId) -> u64 {
        let s = self.state();
        s.procs.get(&proc).map_or(0, |p| p.local(s.now))
    }

    /// The clock of a process.
    #[must_use]
    pub fn clock(&self, proc: ProcId) -> ProcClock {
        ProcClock { sched: self.clone(), proc }
    }

    /// Sleeps, by the clock of a process.
    #[must_use]
    pub fn sleep(&self, proc: ProcId, time: Duration) -> Sleep {
        let due = self.local(proc).saturating_add(nanos(time));
        Sleep { sched: self.clone(), proc, due, timer: None }
    }

    // ---- tasks, for the executor ----

    pub(super) fn new_task(&self) -> TaskId {
        let mut s = self.state();
        s.next_task += 1;
        TaskId(s.next_task)
    }

    pub(super) fn make_ready(&self, task: TaskId) {
        let mut s = self.state();
        if s.queued.insert(task) {
            s.ready.push(task);
        }
    }

    /// A task that may run, chosen by the dice.
    pub(super) fn pick(&self) -> Option<TaskId> {
        let mut s = self.state();
        s.now += STEP;
        if s.ready.is_empty() {
            return None;
        }
        let n = s.ready.len() as u64;
        let i = usize::try_from(s.random.below(n)).expect("a few tasks");
        let task = s.ready.swap_remove(i);
        s.queued.remove(&task);
        Some(task)
    }
}

impl State {
    fn timer(&mut self, due: u64, fire: Fire) -> (u64, u64) {
        self.timer_no += 1;
        let key = (due, self.timer_no);
        self.timers.insert(key, fire);
        key
    }
}

#[allow(clippy::cast_precision_loss)] // for people
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// A duration in nanoseconds; far away where that is more than there is.
#[must_use]
pub fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// A sleep by the clock of a process; its timer goes with it.
pub struct Sleep {
    sched: Sched,
    proc: ProcId,
    due: u64,
    timer: Option<(u64, u64)>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(old) = self.timer.take() {
            self.sched.cancel(old);
        }
        let local = self.sched.local(self.proc);
        if local >= self.due {
            return Poll::Ready(());
        }
        // A timer of true time may come early by that clock: then it is set again.
        let left = self.due - local;
        self.timer = Some(self.sched.wake_after(left.max(STEP), cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.sched.cancel(timer);
        }
    }
}

/// The boot clock of a process.
#[derive(Clone)]
pub struct ProcClock {
    sched: Sched,
    proc: ProcId,
}

impl Clock for ProcClock {
    fn now(&self) -> BootTime {
        BootTime(self.sched.local(self.proc))
    }
    fn wall(&self) -> u64 {
        1_700_000_000_000_000_000 + self.sched.now()
    }
}
