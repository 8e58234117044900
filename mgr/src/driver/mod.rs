//! The loop that joins the core (decides), the store (keeps), and listener and admin socket (speak).
//!
//! One thread owns them: it waits for events, takes all that are waiting (up to [`BATCH_MAX`]), steps the core with each,
//! commits their records as one transaction, and only then carries out the effects. So nobody outside ever sees a state
//! that is not durable, and many requests share one flush (group commit).
//!
//! States: *serving*; *ended*: a failed commit, a SEAL seen, or a stop asked for. There is no way back from a failed
//! commit: memory is ahead of the disk then, and the process ends; the next manager reads what is durable.
//!
//! Slots and journals of sessions are on the disks, too. A clear SEAL is written at once, before the welcome that follows it; sealing and
//! reading go to a thread of their own ([`helper`]), so that a disk that hangs keeps no lease from being renewed; fence agents to
//! another ([`fence`]).
//!
//! Invariants: the effects of a batch follow its commit, or where it had no records, a look at the own SEAL if they grant a lease or write a slot; every event is stepped once, in the order in which it came from
//! its source; queue and batch are bounded, and a full queue makes the sources wait.

mod copier;
mod fence;
mod handle;
mod helper;
mod join;
pub mod log;
mod marker;
mod reopen;
pub mod serve;
#[cfg(test)]
mod tests;

pub use handle::{Handle, Input};
pub use join::{Clients, Joining, Log, Opened, Outside};

use crate::core::{AdminId, AdminReply, AdminRequest, Core, Effect, Event, Now, Output};
use fusevol_shared::clock::{BootTime, Clock};
use fusevol_shared::error::{Result, WireError};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::Reply;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{mpsc, oneshot};

/// Most events in one transaction.
pub const BATCH_MAX: usize = 256;
/// Most events that wait; then their sources wait.
pub const QUEUE_MAX: usize = 1024;
/// Records in one transaction beyond which no further event is taken into it.
const RECORDS_MAX: usize = 1024;
/// Longest sleep: a clock that went on in suspend is noticed after it.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Who waits for an answer of the core.
type Asker = oneshot::Sender<std::result::Result<AdminReply, WireError>>;

/// The loop and what it owns.
pub struct Driver<L, C> {
    /// Before the log, whose helper sends here and is waited for.
    inputs: mpsc::Receiver<Input>,
    core: Core,
    log: L,
    clients: C,
    clock: Box<dyn Clock>,
    /// Events that effects have led to; taken before the queue.
    own: VecDeque<Event>,
    asking: HashMap<AdminId, Asker>,
    next_admin: u64,
    heartbeat_at: BootTime,
    stopping: bool,
}

impl<L: Log, C: Clients> Driver<L, C> {
    /// The loop, and the way to it. The log stands under its generation already.
    #[must_use]
    pub fn new(mut core: Core, log: L, clients: C, clock: Box<dyn Clock>, inputs: mpsc::Receiver<Input>) -> Self {
        core.set_lives(log.lives());
        let heartbeat_at = clock.now().plus(log.heartbeat_every());
        Self {
            core,
            log,
            clients,
            clock,
            inputs,
            own: VecDeque::new(),
            asking: HashMap::new(),
            next_admin: 0,
            heartbeat_at,
            stopping: false,
        }
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// Why it cannot go on: a failed commit, or another manager has taken over.
    pub fn run(mut self, runtime: &Runtime) -> Result<()> {
        let served = self.serve(runtime);
        // Nothing is taken any more: who still sends does not wait.
        self.inputs.close();
        served.and_then(|()| self.log.close())
    }

    fn serve(&mut self, runtime: &Runtime) -> Result<()> {
        while !self.stopping {
            let first = if self.own.is_empty() { self.wait(runtime) } else { None };
            let effects = self.batch(first)?;
            for effect in effects {
                self.carry_out(effect);
            }
            let now = self.clock.now();
            if now >= self.heartbeat_at {
                self.log.heartbeat()?;
                self.heartbeat_at = now.plus(self.log.heartbeat_every());
            }
        }
        Ok(())
    }

    /// Waits for an input, until the core or the heartbeat wants to be called.
    fn wait(&mut self, runtime: &Runtime) -> Option<Input> {
        let now = self.clock.now();
        let until = self.core.deadline().map_or(self.heartbeat_at, |d| d.min(self.heartbeat_at));
        let sleep = until.since(now).min(SLEEP_MAX);
        match runtime.block_on(async { tokio::time::timeout(sleep, self.inputs.recv()).await }) {
            Ok(Some(input)) => Some(input),
            // Every source is gone: there is nothing left to serve.
            Ok(None) => Some(Input::Stop),
            Err(_) => None,
        }
    }

    /// Steps the core with all that is waiting, and commits. Gives the effects.
    fn batch(&mut self, first: Option<Input>) -> Result<Vec<Effect>> {
        let mut out = Output::default();
        let mut next = first;
        for _ in 0..BATCH_MAX {
            if let Some(event) = self.own.pop_front() {
                self.step(event, &mut out);
            } else if let Some(input) = next.take().or_else(|| self.inputs.try_recv().ok()) {
                self.take(input, &mut out)?;
            } else {
                break;
            }
            if self.stopping || out.records.len() > RECORDS_MAX {
                break;
            }
        }
        // An input that was waited for is never left behind, whatever stood before it.
        if let Some(input) = next {
            self.take(input, &mut out)?;
        }
        if self.core.deadline().is_some_and(|d| d <= self.clock.now()) {
            self.step(Event::Tick, &mut out);
        }
        self.commit(&out)?;
        Ok(out.effects)
    }

    fn take(&mut self, input: Input, out: &mut Output) -> Result<()> {
        match input {
            Input::Event(event) => self.step(event, out),
            Input::Ask { request, answer } => self.ask(request, answer, out),
            Input::AddDisk { disk, answer } => self.add_disk(disk, answer, out)?,
            Input::Reopened { no, opened, answer } => self.reopened(no, *opened, answer, out)?,
            Input::Stop => self.stopping = true,
        }
        Ok(())
    }

    fn ask(&mut self, request: AdminRequest, answer: Asker, out: &mut Output) {
        self.next_admin += 1;
        let from = AdminId(self.next_admin);
        self.asking.insert(from, answer);
        self.step(Event::Admin { from, request }, out);
        // Administrators that went away are forgotten.
        self.asking.retain(|_, a| !a.is_closed());
    }

    /// A disk joins: it is labelled, then the catalog gets it. What was asked before is committed and answered first: the
    /// label names the disk's number. A label that the catalog does not know may be written over by the next attempt.
    fn add_disk(&mut self, disk: Joining, answer: Asker, out: &mut Output) -> Result<()> {
        self.commit(out)?;
        let done = std::mem::take(out);
        for effect in done.effects {
            self.carry_out(effect);
        }
        let labelled = self.core.may_join().and_then(|()| self.log.label(disk, self.core.catalog()));
        match labelled {
            Ok(request) => {
                self.core.set_lives(self.log.lives());
                self.ask(request, answer, out);
            }
            // Where nobody waits any more nobody is told.
            Err(e) => answer.send(Err(WireError::from(&e))).unwrap_or_default(),
        }
        Ok(())
    }

    /// What was decided before is committed and said first: the state that a copy of the catalog begins with is durable.
    fn reopened(&mut self, no: DiskNo, opened: Opened, answer: oneshot::Sender<Result<()>>, out: &mut Output) -> Result<()> {
        self.commit(out)?;
        let done = std::mem::take(out);
        for effect in done.effects {
            self.carry_out(effect);
        }
        let catalog = self.core.catalog();
        let used = self.log.reopened(no, opened, || catalog.dump())?;
        self.core.set_lives(self.log.lives());
        if used.is_ok() {
            self.own.push_back(Event::DiskBack { disk: no });
        }
        // Who has opened it says why it is not used; where it is gone the manager ends.
        answer.send(used).unwrap_or_default();
        Ok(())
    }

    fn step(&mut self, event: Event, out: &mut Output) {
        self.core.set_tight(self.log.is_tight());
        self.core.set_locks(self.log.has_locks());
        self.core.set_lost(self.log.lost());
        self.core.step(Now::of(self.clock.as_ref()), event, out);
    }

    /// Makes the records durable. Where there are none but a lease is to be granted or a slot to be written, the own SEAL is read all
    /// the same: a manager that was superseded must neither keep its clients going nor end another's (PROTOCOL.md, L1).
    fn commit(&mut self, out: &Output) -> Result<()> {
        if out.records.is_empty() {
            return if out.effects.iter().any(|e| grants_lease(e) || writes_slot(e)) { self.log.check() } else { Ok(()) };
        }
        let catalog = self.core.catalog();
        self.log.commit(&out.records, || catalog.dump())
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::AdminReply { to, result } => {
                if let Some(answer) = self.asking.remove(&to) {
                    // Nobody waits any more: nobody is told.
                    let _ = answer.send(result);
                }
            }
            Effect::ProbeLock { session } => {
                let held = self.log.lock_held(session);
                self.own.push_back(Event::LockProbed { session, held });
            }
            Effect::OpenSlot { session, id, slots } => self.log.open_slot(session, id, &slots),
            errand @ (Effect::SealSlot { .. }
            | Effect::OpenPlaces { .. }
            | Effect::ReadSlot { .. }
            | Effect::ReadNonce { .. }
            | Effect::WriteLetter { .. }
            | Effect::ReadAnswer { .. }
            | Effect::ReadJournals { .. }
            | Effect::Copy { .. }
            | Effect::LayAgain { .. }
            | Effect::LookAtDisk { .. }
            | Effect::Errand { .. }
            | Effect::Fence { .. }) => {
                self.own.extend(self.log.begin(errand));
            }
            Effect::Notice(notice) => join::log_notice(&notice),
            to_client => self.clients.carry_out(to_client),
        }
    }
}

/// Whether an effect tells a client that its lease goes on.
fn grants_lease(effect: &Effect) -> bool {
    matches!(effect, Effect::Reply { result: Ok(Reply::Welcome(_) | Reply::Renewed(_)), .. })
}

/// Whether an effect writes where a successor might, too: a session's SEAL, a letter to it, copies, what the catalog gave a takeover.
fn writes_slot(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::OpenSlot { .. }
            | Effect::OpenPlaces { .. }
            | Effect::SealSlot { .. }
            | Effect::WriteLetter { .. }
            | Effect::Copy { .. }
            | Effect::LayAgain { .. }
            | Effect::Errand { .. }
    )
}
