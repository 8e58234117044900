//! Locks of byte ranges, as the processes of this host hold them in volumes: the manager keeps them against other hosts, this is the
//! session's own account of them (SEMANTICS.md, "Locks"). Locks in snapshots concern this mount alone.
//!
//! ```text
//!  lock:    had already -> done     another here has it -> in the way      else SetLock -> had | in the way | not known yet
//!           in the way, and wait -> told by LocksFreed, or a second later: again      not known yet, manager not there -> again
//!  unlock:  gone here at once; the manager is told, and waited for a moment only
//!  another manager serves: RetakeLocks with all that is held
//! ```
//! Nobody who waits holds a thread of the mount: all of this is `async`, and [`MOST`] wait at most.
//!
//! Invariants:
//! - What a process was told to hold is held at the manager, or in a `RetakeLocks` that is on its way to it: [`Held`] and the order of the calls change
//!   under one lock, and a grant counts only if no manager was begun anew, and nothing of the owner unlocked, since it was asked for.
//! - A lock that may have been granted unheard is given back.
//! - An open file that is closed takes the locks with it that were taken through it, but for those that their process still has: a flush
//!   names the process, and comes first.

mod held;

use crate::stale::Whose;
use fusevol_shared::clock::BootTime;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::lock::{LockKind, Piece, Span};
use fusevol_shared::wire::lock::{GetLock, LockState, RetakeLocks, SetLock};
use fusevol_shared::wire::messages::Call;
use futures_util::future::{Either, select};
use held::{Asked, Held};
use std::future::Future;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Most requests for locks that are under way, those that wait among them.
pub const MOST: usize = 1024;
/// How often one that waits looks whether its process was interrupted.
const LOOK: Duration = Duration::from_millis(100);
/// After how long the manager is asked again though it has not said that this is worth it.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an unlock waits for the manager to know of it.
const TOLD: Duration = Duration::from_secs(1);

/// Whether the manager can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Now.
    Yes,
    /// Not now.
    NotNow,
    /// It has not answered for too long, or the session is over.
    GivenUp,
}

/// The way to the manager, and the time.
pub trait Door: Send + Sync + 'static {
    /// Asks; queued before this returns, so that calls keep their order, and not taken back where the future is dropped.
    fn ask<C: Call>(&self, call: C) -> impl Future<Output = Result<C::Reply>> + use<Self, C>;
    /// Whether that can be done.
    fn reach(&self) -> Reach;
    /// Whether the lease holds: what was locked is locked.
    fn stands(&self) -> bool;
    /// Now.
    fn now(&self) -> BootTime;
    /// Waits.
    fn sleep(&self, d: Duration) -> impl Future<Output = ()>;
}

/// A lock that a process wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// In which file.
    pub whose: Whose,
    /// Through which open file.
    pub handle: u64,
    /// For whom, as the kernel names it: a process or an open file.
    pub owner: u64,
    /// Which bytes.
    pub span: Span,
    /// How.
    pub kind: LockKind,
    /// The process, for people.
    pub pid: u32,
    /// Until it is had.
    pub wait: bool,
}

/// Why a lock is not had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Another has it.
    InTheWay,
    /// The process that waited was interrupted.
    Interrupted,
    /// It cannot be had, or asked for.
    Failed(String),
}

/// A lock, or why not.
pub type Had<T> = std::result::Result<T, Refusal>;

/// What one look has brought.
enum Look {
    Had,
    InTheWay,
    /// The manager does not know yet what others hold.
    Unknown,
    NotNow,
    /// Asked again at once.
    Again,
}

/// The locks of one session.
pub struct Locks<D> {
    door: D,
    held: Mutex<Held>,
    /// Something was given back: those who wait look again.
    freed: watch::Sender<u64>,
    /// How long a process that does not want to wait is kept while the manager does not know.
    patience: Duration,
}

impl<D: Door> Locks<D> {
    /// None yet.
    pub fn new(door: D, patience: Duration) -> Self {
        Self { door, held: Mutex::default(), freed: watch::Sender::new(0), patience }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to the manager.
    pub fn door(&self) -> &D {
        &self.door
    }

    /// How many are held.
    pub fn count(&self) -> usize {
        self.held().count()
    }

    /// The manager says that locks were given back.
    pub fn freed(&self) {
        self.freed.send_modify(|n| *n += 1);
    }

    /// Locks. `interrupted` tells whether the process that waits shall not any more.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn lock(&self, w: &Wanted, mut interrupted: impl FnMut() -> bool) -> Had<()> {
        let mut freed = self.freed.subscribe();
        let begun = self.door.now();
        let mut last: Option<BootTime> = None;
        loop {
            freed.borrow_and_update();
            let now = self.door.now();
            // Who is in the way here is looked at each time, the manager asked when that is worth it.
            let ask = last.is_none_or(|at| now.since(at) >= AGAIN);
            let look = self.look(w, ask, &mut last).await?;
            let enough = !w.wait && now.since(begun) >= self.patience;
            match look {
                Look::Had => return Ok(()),
                Look::Again => continue,
                Look::InTheWay if !w.wait => return Err(Refusal::InTheWay),
                Look::Unknown if enough => return Err(Refusal::InTheWay),
                Look::NotNow if self.door.reach() == Reach::GivenUp => return Err(given_up()),
                Look::InTheWay | Look::Unknown | Look::NotNow => {}
            }
            if let Either::Left(_) = select(pin!(freed.changed()), pin!(self.door.sleep(LOOK))).await {
                last = None;
            }
            if !matches!(look, Look::InTheWay) {
                last = None;
            }
            if interrupted() {
                return Err(Refusal::Interrupted);
            }
        }
    }

    async fn look(&self, w: &Wanted, ask: bool, last: &mut Option<BootTime>) -> Had<Look> {
        let (answer, asked) = {
            let mut held = self.held();
            if held.covers(w) {
                if !self.door.stands() {
                    return Ok(Look::NotNow);
                }
                if held.set(w) {
                    self.weaker(&held, w.whose, w.owner, w.span);
                }
                return Ok(Look::Had);
            }
            if held.conflict(w.whose, w.owner, w.span, w.kind).is_some() {
                return Ok(Look::InTheWay);
            }
            held.room().map_err(Refusal::Failed)?;
            let Whose::Volume(volume) = w.whose else {
                held.set(w);
                return Ok(Look::Had);
            };
            match self.door.reach() {
                Reach::Yes if ask => {}
                Reach::Yes => return Ok(Look::InTheWay),
                Reach::NotNow | Reach::GivenUp => return Ok(Look::NotNow),
            }
            *last = Some(self.door.now());
            let Wanted { owner, span, pid, wait, .. } = *w;
            let call = SetLock { volume, owner, span, kind: Some(w.kind), pid, wait };
            (self.door.ask(call), held.asked(w))
        };
        let answer = answer.await;
        self.answered(w, asked, answer)
    }

    /// The manager's answer, or none.
    fn answered(&self, w: &Wanted, asked: Asked, answer: Result<LockState>) -> Had<Look> {
        let mut held = self.held();
        let counts = held.counts(asked);
        match answer {
            Ok(LockState { conflict: None, unknown: false }) if counts => {
                held.set(w);
                Ok(Look::Had)
            }
            Ok(LockState { conflict: None, unknown: false }) => Ok(Look::Again),
            Ok(LockState { unknown: true, .. }) => Ok(Look::Unknown),
            Ok(LockState { conflict: Some(_), .. }) => Ok(Look::InTheWay),
            Err(e) => {
                if matches!(e.kind(), Kind::Unreachable | Kind::Internal) {
                    // It may have been granted, and may still be: what is held there is put back to what is held here.
                    self.weaker(&held, w.whose, w.owner, w.span);
                }
                Err(Refusal::Failed(e.to_string()))
            }
        }
    }

    /// Who is in the way of a lock; nobody where it could be had.
    ///
    /// # Errors
    /// What the manager says, or that it cannot be asked.
    pub async fn test(&self, whose: Whose, owner: u64, span: Span, kind: LockKind) -> Result<Option<Piece>> {
        let begun = self.door.now();
        loop {
            let call = {
                let held = self.held();
                if let Some(piece) = held.conflict(whose, owner, span, kind) {
                    return Ok(Some(piece));
                }
                let Whose::Volume(volume) = whose else { return Ok(None) };
                GetLock { volume, owner, span, kind }
            };
            match self.door.reach() {
                Reach::Yes => {
                    let state = self.door.ask(call).await?;
                    if !state.unknown {
                        return Ok(state.conflict);
                    }
                    if self.door.now().since(begun) >= self.patience {
                        // Anybody may have any of it.
                        return Ok(Some(Piece { span, kind: LockKind::Write, pid: 0 }));
                    }
                }
                Reach::NotNow => {}
                Reach::GivenUp => return Err(Error::new(Kind::Unreachable, "the manager cannot be asked for locks")),
            }
            self.door.sleep(LOOK).await;
        }
    }

    /// Unlocks. Done here at once; the manager hears of it now, or when it is there again.
    pub async fn unlock(&self, whose: Whose, owner: u64, span: Span) -> Had<()> {
        let told = {
            let mut held = self.held();
            if held.splits(whose, owner, span) {
                held.room().map_err(Refusal::Failed)?;
            }
            if held.unset(whose, owner, span) { self.weaker(&held, whose, owner, span) } else { None }
        };
        if let (Some(told), Reach::Yes) = (told, self.door.reach()) {
            select(pin!(told), pin!(self.door.sleep(TOLD))).await;
        }
        Ok(())
    }

    /// A process closes one of its descriptors of this file: all of its locks there are gone. (Open files, which may be owners, too, are others.)
    pub async fn process_closes(&self, whose: Whose, owner: u64) {
        // Unlocking everything splits nothing.
        let _ = self.unlock(whose, owner, Span::ALL).await;
    }

    /// An open file is closed for the last time.
    pub async fn handle_closes(&self, handle: u64) {
        let owners = self.held().through(handle);
        for (whose, owner) in owners {
            self.process_closes(whose, owner).await;
        }
    }

    /// Another manager serves, which knows of no locks.
    pub async fn retake(&self) {
        let taken = {
            let mut held = self.held();
            self.door.ask(RetakeLocks { locks: held.begin_anew() })
        };
        match taken.await {
            Ok(taken) => {
                let mut held = self.held();
                for l in taken.lost {
                    tracing::error!("a lock of process {} on volume {} is lost: another host has taken it", l.piece.pid, l.volume);
                    held.unset(Whose::Volume(l.volume), l.owner, l.piece.span);
                }
            }
            Err(e) => tracing::warn!("the manager was not told which locks are held: {e}"),
        }
        self.freed();
    }

    /// Tells the manager what the owner has of these bytes, which is less than it had: everything weaker first, so that nothing is free in between
    /// that shall not be. Those here who wait look again.
    fn weaker(&self, held: &Held, whose: Whose, owner: u64, span: Span) -> Option<impl Future<Output = Result<LockState>> + use<D>> {
        self.freed();
        let Whose::Volume(volume) = whose else { return None };
        let mut last = None;
        for (span, piece) in held.within(whose, owner, span) {
            let (kind, pid) = (piece.map(|p| p.kind), piece.map_or(0, |p| p.pid));
            last = Some(self.door.ask(SetLock { volume, owner, span, kind, pid, wait: false }));
        }
        last
    }
}

fn given_up() -> Refusal {
    Refusal::Failed("the manager cannot be asked for locks".to_owned())
}
