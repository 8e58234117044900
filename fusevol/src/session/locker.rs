//! The thread that carries out what processes want of locks, each want a task: one that waits for its lock, or for the manager, keeps no
//! thread of the mount. What is decided stands in [`crate::locks`].
//!
//! Invariant: each want is answered once, by its `done`; what does not fit any more ([`locks::MOST`]) at once.

use super::open::spawn;
use crate::lease::Lease;
use crate::link::{Link, Phase};
use crate::locks::{self, Door, Had, Locks, Reach, Refusal, Wanted};
use crate::stale::Whose;
use fusevol_shared::clock::{BootTime, Clock, SystemClock};
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::lock::{LockKind, Piece, Span};
use fusevol_shared::wire::messages::Call;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The way to the manager, through the link.
pub struct Way {
    pub(super) link: Link,
    pub(super) lease: Arc<Lease>,
    pub(super) failing: watch::Receiver<bool>,
}

impl Door for Way {
    fn ask<C: Call>(&self, call: C) -> impl Future<Output = Result<C::Reply>> + use<C> {
        let answer = self.link.call(call, None);
        let mut failing = self.failing.clone();
        async move {
            match select(pin!(answer), pin!(failing.wait_for(|f| *f))).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Err(Error::new(Kind::Unreachable, format!("{}: the manager did not answer in time", C::NAME))),
            }
        }
    }

    fn reach(&self) -> Reach {
        match self.link.state().borrow().phase {
            _ if self.lease.is_over() || *self.failing.borrow() => Reach::GivenUp,
            Phase::Connected { .. } => Reach::Yes,
            Phase::Connecting => Reach::NotNow,
            Phase::Ended(_) | Phase::Closed => Reach::GivenUp,
        }
    }

    fn stands(&self) -> bool {
        self.lease.valid(self.now())
    }

    fn now(&self) -> BootTime {
        SystemClock.now()
    }

    async fn sleep(&self, d: Duration) {
        if ring::sleep(d).await.is_err() {
            // Without a ring there is no disk either; nothing that asks again may go round without a pause.
            std::future::pending().await
        }
    }
}

/// What a process wants, and who hears the answer.
pub enum Want {
    /// A lock.
    Lock {
        /// Which.
        wanted: Wanted,
        /// Whether the process shall not wait any more.
        interrupted: Box<dyn FnMut() -> bool + Send>,
        /// Takes the answer.
        done: Box<dyn FnOnce(Had<()>) + Send>,
    },
    /// Who is in the way of one.
    Test {
        /// In which file.
        whose: Whose,
        /// For whom.
        owner: u64,
        /// Which bytes.
        span: Span,
        /// How.
        kind: LockKind,
        /// Takes the answer.
        done: Box<dyn FnOnce(Result<Option<Piece>>) + Send>,
    },
}

/// The session's end of it; the thread ends when this is dropped.
pub(super) struct Locker(Mutex<Option<Running>>);

struct Running {
    to: mpsc::Sender<Want>,
    thread: JoinHandle<()>,
}

impl Locker {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Internal` without a thread.
    pub(super) fn start(locks: Arc<Locks<Way>>) -> Result<Self> {
        let (to, wants) = mpsc::channel(locks::MOST);
        let thread = spawn("fusevol-locks", move || ring::block_on(serve(&locks, wants)))?;
        Ok(Self(Mutex::new(Some(Running { to, thread }))))
    }

    /// Carries this out; it is answered later.
    pub(super) fn want(&self, want: Want) {
        let refused = match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(running) => running.to.try_send(want).err().map(|e| match e {
                mpsc::error::TrySendError::Full(want) | mpsc::error::TrySendError::Closed(want) => want,
            }),
            None => Some(want),
        };
        match refused {
            Some(Want::Lock { done, .. }) => done(Err(Refusal::Failed("too many requests for locks wait".to_owned()))),
            Some(Want::Test { done, .. }) => done(Err(Error::new(Kind::Busy, "too many requests for locks wait"))),
            None => {}
        }
    }

    /// Ends the thread; who waits is answered by nobody any more. A second call does nothing.
    pub(super) fn end(&self) {
        if let Some(Running { to, thread }) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(to);
            // A panic of it was reported where it happened.
            let _ = thread.join();
        }
    }
}

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

async fn serve(locks: &Locks<Way>, mut wants: mpsc::Receiver<Want>) {
    let mut under_way: FuturesUnordered<Task<'_>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            want = wants.recv(), if under_way.len() < locks::MOST => match want {
                Some(want) => under_way.push(Box::pin(carry_out(locks, want))),
                None => return,
            },
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
        }
    }
}

async fn carry_out(locks: &Locks<Way>, want: Want) {
    match want {
        Want::Lock { wanted, interrupted, done } => done(locks.lock(&wanted, interrupted).await),
        Want::Test { whose, owner, span, kind, done } => done(locks.test(whose, owner, span, kind).await),
    }
}
