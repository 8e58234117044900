//! The client's connection to its manager, kept up for as long as the session lives.
//!
//! A [`Link`] runs on a thread of its own. It connects to one of the manager's addresses ([`dial`]), says `Hello` (which the [`Owner`] makes),
//! sends what is asked through [`Link::call`] and brings back the answers, hands pushes on in order and takes their acknowledgements.
//!
//! States ([`Phase`]): `Connecting` <-> `Connected`; either -> `Ended` (the manager has refused the session for good) -> `Connecting`
//! by [`Link::restart`]; any -> `Closed` by [`Link::close`].
//!
//! Invariants:
//! - Requests are sent in the order of the calls. One that was not answered stays, and is sent again on the next connection, before
//!   anything younger, as the same bytes (same id, same sequence number). Each call gets exactly one answer.
//! - At most [`IN_FLIGHT_MAX`] requests are unanswered on a connection and [`CALLS_MAX`] wait in all.
//! - The time given with an answer is that of the sending that was answered, taken before the first byte left.
//! - A push is handed on once in the life of a manager and session, however often it is repeated, by letter too; a repeated one is answered from memory.

mod config;
mod connection;
pub(crate) mod dial;
mod pending;
mod pushes;
mod run;

pub use config::LinkConfig;
pub use pushes::Pushed;

use fusevol_shared::clock::{BootTime, SystemClock};
use fusevol_shared::error::{Context, Error, Kind, Result, WireError};
use fusevol_shared::format::mail::Letter;
use fusevol_shared::format::slot::Answer;
use fusevol_shared::wire::codec::Message;
use fusevol_shared::wire::messages::{Call, FromManager, Hello, Reply, Welcome};
use pending::Pending;
use pushes::{Pushes, Receive};
use rkyv::util::AlignedVec;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Most requests that are unanswered on a connection.
pub const IN_FLIGHT_MAX: usize = 64;
/// Most calls that wait for an answer; further ones are refused as `Busy`.
pub const CALLS_MAX: usize = 4096;
/// Most pushes that wait for the owner; one more ends the connection, and the manager repeats them on the next.
pub const PUSHES_MAX: usize = 1024;

/// Who owns the session that this link carries. Called on the link's thread: it must not block, nor wait for a call.
pub trait Owner: Send + Sync + 'static {
    /// What to say on a new connection: the session, and whether it is taken up again.
    fn hello(&self) -> Hello;
    /// The manager has welcomed us; called before any unanswered request is sent again. The lease counts from `sent_at`.
    fn welcomed(&self, welcome: &Welcome, sent_at: BootTime);
}

/// Where a link stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// No manager has welcomed us on a connection that still stands.
    Connecting,
    /// Welcomed.
    Connected {
        /// By the manager at this address.
        address: String,
    },
    /// The manager has refused the session for good: `Lapsed` where it has ended it, `Denied`, `Version`, ... Every call fails with this.
    Ended(WireError),
    /// By our own wish.
    Closed,
}

/// What [`Link::state`] shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkState {
    /// Where it stands.
    pub phase: Phase,
    /// Since when.
    pub since: BootTime,
    /// Why the last connection, or attempt at one, failed. `Denied` where TLS says that one side distrusts the other: trying goes on, but
    /// a program that has only just begun may give up.
    pub last_error: Option<WireError>,
}

/// The client's connection to its manager. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Link(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What the link's thread and its callers share.
struct Shared {
    config: LinkConfig,
    queues: Mutex<Queues>,
    /// Something may be there to send.
    work: Notify,
    state: watch::Sender<LinkState>,
    control: watch::Sender<Control>,
    /// To the owner; it ends with the link's thread.
    deliver: mpsc::WeakSender<Pushed>,
    /// What is to be answered to the last letter.
    answer: watch::Sender<Option<Answer>>,
}

/// Both directions, under one lock that is never held across an await.
struct Queues {
    pending: Pending,
    pushes: Pushes,
}

#[derive(Clone, Copy, Default)]
struct Control {
    close: bool,
    /// Grows with each wish for a new connection.
    kicks: u64,
}

impl Link {
    /// Begins to connect. The pushes of the manager come out of the second part, in order.
    ///
    /// # Errors
    /// `Refused` where the key file's certificates are unusable; `Internal` where no thread can be had.
    pub fn start(config: LinkConfig, owner: Arc<dyn Owner>) -> Result<(Link, mpsc::Receiver<Pushed>)> {
        let tls = config.key.tls()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(Kind::Internal, || "no runtime")?;
        let (deliver, pushed) = mpsc::channel(PUSHES_MAX);
        let state = LinkState { phase: Phase::Connecting, since: now(), last_error: None };
        let shared = Arc::new(Shared {
            config,
            queues: Mutex::new(Queues { pending: Pending::new(), pushes: Pushes::new() }),
            work: Notify::new(),
            state: watch::Sender::new(state),
            control: watch::Sender::new(Control::default()),
            deliver: deliver.downgrade(),
            answer: watch::Sender::new(None),
        });
        let handle = runtime.handle().clone();
        let run = run::Run::new(Arc::clone(&shared), owner, tls, deliver);
        let thread = std::thread::Builder::new()
            .name("fusevol-link".into())
            .spawn(move || runtime.block_on(run.run()))
            .context(Kind::Internal, || "no thread")?;
        Ok((Link(Arc::new(Handle { shared, runtime: handle, thread: Mutex::new(Some(thread)) })), pushed))
    }

    /// Asks the manager, and waits for the answer through lost connections and restarts of the manager. Queued when this is called, not
    /// when the future is first polled, so that calls keep their order; the future may be awaited on any executor. A future that is
    /// dropped does not take its request back.
    ///
    /// With a deadline the request is taken back when it passes, and whether the manager has acted is unknown: a request with a sequence
    /// number should have none.
    ///
    /// # Errors
    /// The manager's; `Unreachable` past the deadline (`Denied` where the two distrust each other); `Lapsed` or another once the session is
    /// refused; `Busy` where too many calls wait.
    pub fn call<C: Call>(
        &self,
        request: C,
        deadline: Option<Duration>,
    ) -> impl Future<Output = Result<C::Reply>> + Send + 'static + use<C> {
        let answer = self.call_timed(request, deadline);
        async move { answer.await.map(|(reply, _)| reply) }
    }

    /// As [`Link::call`], with the time when the request that was answered was sent.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub fn call_timed<C: Call>(
        &self,
        request: C,
        deadline: Option<Duration>,
    ) -> impl Future<Output = Result<(C::Reply, BootTime)>> + Send + 'static + use<C> {
        let queued = self.queue(request.into(), deadline);
        async move {
            let (reply, sent_at) = queued?.await.unwrap_or_else(|_| Err(closed().into()))?;
            typed::<C>(reply).map(|reply| (reply, sent_at))
        }
    }

    fn queue(
        &self,
        request: fusevol_shared::wire::messages::Request,
        deadline: Option<Duration>,
    ) -> Result<oneshot::Receiver<Result<(Reply, BootTime)>>> {
        let (answer, receiver) = oneshot::channel();
        let id = self.0.shared.queues().pending.add(request, answer)?;
        self.0.shared.work.notify_one();
        if let Some(deadline) = deadline {
            let shared = Arc::clone(&self.0.shared);
            self.0.runtime.spawn(async move {
                tokio::time::sleep(deadline).await;
                let error = shared.unreachable(deadline);
                shared.queues().pending.abandon(id, error);
            });
        }
        Ok(receiver)
    }

    /// Where the link stands, and each change of it.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.0.shared.state.subscribe()
    }

    /// Waits until a manager has welcomed us: for programs that have only just begun.
    ///
    /// # Errors
    /// The manager's refusal; `Denied` as soon as TLS shows distrust; `Unreachable` past the deadline.
    pub fn opened(&self, deadline: Duration) -> impl Future<Output = Result<()>> + Send + 'static + use<> {
        let shared = Arc::clone(&self.0.shared);
        let (tell, told) = oneshot::channel();
        self.0.runtime.spawn(async move {
            let waited = tokio::time::timeout(deadline, shared.opened()).await;
            let _ = tell.send(waited.unwrap_or_else(|_| Err(shared.unreachable(deadline))));
        });
        async move { told.await.unwrap_or_else(|_| Err(closed().into())) }
    }

    /// Takes in a push that stood in a letter: it is handed on once, whichever way it comes, and its answer shown by [`Link::answer`].
    pub fn by_letter(&self, letter: &Letter) {
        let shared = &self.0.shared;
        if let Err(e) = shared.by_letter(letter) {
            tracing::warn!("a letter of the manager of generation {} is passed over: {e}", letter.generation);
        }
        shared.show_answer();
    }

    /// The answer to the last letter that was answered, and each change of it.
    #[must_use]
    pub fn answer(&self) -> watch::Receiver<Option<Answer>> {
        self.0.shared.answer.subscribe()
    }

    /// Drops the connection and makes a new one at once.
    pub fn reconnect(&self) {
        self.0.shared.control.send_modify(|c| c.kicks += 1);
    }

    /// After `Ended`: begins anew with what the owner's `hello` says then. What waited has failed already.
    pub fn restart(&self) {
        self.0.shared.queues().pending.reopen();
        self.reconnect();
    }

    /// Ends the link; whatever waits fails as `Unreachable`. The owner is let go.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Handle {
    fn close(&self) {
        self.shared.control.send_modify(|c| c.close = true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id()) {
            // It ends at its next await; a panic of it has failed all calls already.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn by_letter(self: &Arc<Self>, letter: &Letter) -> Result<()> {
        let mut archive = AlignedVec::with_capacity(letter.body.len());
        archive.extend_from_slice(&letter.body);
        let FromManager::Push { push, body } = FromManager::from_archive(&archive)? else {
            return Err(Error::new(Kind::Damaged, "it holds no push"));
        };
        if push != letter.push {
            return Err(Error::new(Kind::Damaged, "it holds another push than it says"));
        }
        let received = self.queues().pushes.by_letter(letter.generation, push, &body)?;
        let (Receive::Deliver(life), Some(deliver)) = (received, self.deliver.upgrade()) else { return Ok(()) };
        tracing::info!("the manager asks through the disks: {body:?}");
        if let Err(e) = deliver.try_send(pushes::pushed(self, life, push, body)) {
            // It is read again with the next heartbeat.
            pushes::take_back(e.into_inner());
            self.queues().pushes.forget(push);
        }
        Ok(())
    }

    /// Shows what is to be answered to the last letter, if that has changed.
    fn show_answer(&self) {
        let now = self.queues().pushes.mailed();
        self.answer.send_if_modified(|shown| std::mem::replace(shown, now) != now);
    }

    fn enter(&self, phase: Phase) {
        self.state.send_modify(|s| {
            if s.phase != phase {
                (s.phase, s.since) = (phase, now());
            }
        });
    }

    fn failed(&self, error: &Error) {
        self.state.send_modify(|s| s.last_error = Some(error.into()));
    }

    async fn opened(&self) -> Result<()> {
        let mut state = self.state.subscribe();
        loop {
            {
                let s = state.borrow_and_update();
                match (&s.phase, &s.last_error) {
                    (Phase::Connected { .. }, _) => return Ok(()),
                    (Phase::Ended(e), _) => return Err(e.clone().into()),
                    (Phase::Closed, _) => return Err(closed().into()),
                    (Phase::Connecting, Some(e)) if e.kind == Kind::Denied => return Err(e.clone().into()),
                    (Phase::Connecting, _) => {}
                }
            }
            if state.changed().await.is_err() {
                return Err(closed().into());
            }
        }
    }

    /// The error of a call whose deadline has passed.
    fn unreachable(&self, waited: Duration) -> Error {
        let state = self.state.borrow();
        match (&state.phase, &state.last_error) {
            (Phase::Connecting, Some(e)) if e.kind == Kind::Denied => e.clone().into(),
            (Phase::Connecting, Some(e)) => Error::new(Kind::Unreachable, format!("the manager cannot be reached: {}", e.message))
                .hint("is fusevol-mgr serve running there?"),
            _ => Error::new(Kind::Unreachable, format!("the manager did not answer within {} ms", waited.as_millis())),
        }
    }
}

fn typed<C: Call>(reply: Reply) -> Result<C::Reply> {
    C::Reply::try_from(reply).map_err(|_| Error::new(Kind::Internal, format!("{} was answered by another message", C::NAME)))
}

fn closed() -> WireError {
    WireError { kind: Kind::Unreachable, message: "the connection to the manager is closed".into(), hint: String::new() }
}

fn now() -> BootTime {
    use fusevol_shared::clock::Clock;
    SystemClock.now()
}
