//! The ring executor: one future per thread, driven by that thread's own io_uring.
//!
//! [`block_on`] polls a future; when nothing more can be done it hands what was queued to the kernel and waits for
//! completions in the same call. The thread is woken from other threads through an eventfd, so any waker works in it
//! (channels, tokio's oneshots, another ring). The ring is made at the first request and kept until the thread ends.
//!
//! ```text
//!  thread   : Polling -> (nothing woken) Asleep in io_uring_enter -> completions or eventfd -> Polling ... -> ready
//!  request  : Waiting (limit of requests in flight) -> InFlight -> Done -> taken by its future
//!                                                       `-> Orphan (future dropped) -> completion frees it
//! ```
//!
//! Invariants:
//! - A request's memory and descriptor belong to its slot in the ring until its completion has come, also when the
//!   future that asked is long gone. A dropped write may still land.
//! - At most [`MAX_IN_FLIGHT`] requests of a thread are in the kernel; the next ones wait their turn, which is no error.
//! - A ring is used by the thread that made it, and only within `block_on`; anything else is a panic that says so.
//! - What is left in flight when the thread ends is waited for (sleeps are cancelled), for a limited time; then its
//!   memory is left to the kernel for ever rather than given back.
//!
//! A process that forks must do so before its first `block_on`: a ring is not shared with a child.

mod kernel;
mod reactor;
mod request;
#[cfg(test)]
mod tests;

use super::buf::{IoBuf, IoBytes};
use reactor::Reactor;
use request::Request;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

pub use reactor::MAX_IN_FLIGHT;
pub use request::{COMMAND_BYTES, Command};

/// The thread runs; nothing was woken since the last poll.
const IDLE: u8 = 0;
/// Something was woken: poll again.
const WOKEN: u8 = 1;
/// The thread sleeps or is about to: who wakes it writes the eventfd.
const ASLEEP: u8 = 2;

/// How the thread's future is woken, from any thread.
struct Notify {
    state: AtomicU8,
    eventfd: OwnedFd,
}

impl Notify {
    fn new() -> Self {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd: a process has room for descriptors");
        Self { state: AtomicU8::new(IDLE), eventfd }
    }

    /// Whether something was woken; asked once per wake.
    fn take(&self) -> bool {
        self.state.swap(IDLE, Ordering::AcqRel) == WOKEN
    }

    /// From now on a wake writes the eventfd. `false` if something was woken before: don't sleep.
    fn fall_asleep(&self) -> bool {
        self.state.compare_exchange(IDLE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn awake(&self) {
        // A failure means WOKEN, which must stay.
        let _ = self.state.compare_exchange(ASLEEP, IDLE, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Empties the eventfd, whether or not it was written.
    fn drain(&self) {
        let _ = rustix::io::read(&self.eventfd, &mut [0; 8]);
    }
}

impl Wake for Notify {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == ASLEEP {
            // Fails only when the counter is full: then it is readable anyway.
            let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }
}

/// The thread's ring, made at the first request.
enum Lazy {
    Not,
    Made(Box<Reactor>),
    /// This kernel or sandbox refuses: the errno that every request is answered with.
    Refused(i32),
}

struct Local {
    /// Before `notify`, whose eventfd it watches: dropped first.
    reactor: RefCell<Lazy>,
    running: Cell<bool>,
    notify: Arc<Notify>,
}

thread_local! {
    static LOCAL: Local =
        Local { notify: Arc::new(Notify::new()), running: Cell::new(false), reactor: RefCell::new(Lazy::Not) };
}

/// Marks the thread as within `block_on` until dropped, also by a panic.
struct Running<'a>(&'a Local);

impl<'a> Running<'a> {
    fn enter(local: &'a Local) -> Self {
        assert!(!local.running.replace(true), "block_on within block_on: a thread's ring drives one future; await the inner one instead");
        Self(local)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // What a dropped future had queued goes to the kernel now, or it would hold its descriptor until the next block_on.
        if let Ok(mut lazy) = self.0.reactor.try_borrow_mut()
            && let Lazy::Made(reactor) = &mut *lazy
        {
            reactor.submit_queued();
        }
        self.0.running.set(false);
    }
}

impl Local {
    /// Submits, and waits unless something was woken; then wakes whose requests are done.
    fn turn(&self) {
        let asleep = self.notify.fall_asleep();
        let woken = match &mut *self.reactor.borrow_mut() {
            Lazy::Made(reactor) => {
                reactor.enter(asleep);
                if reactor.reap() {
                    self.notify.drain();
                    reactor.watch_eventfd();
                }
                reactor.woken()
            }
            Lazy::Not | Lazy::Refused(_) if asleep => {
                // An interrupted or failed poll is only a spurious turn.
                let _ = rustix::event::poll(&mut [PollFd::new(&self.notify.eventfd, PollFlags::IN)], None);
                self.notify.drain();
                Vec::new()
            }
            Lazy::Not | Lazy::Refused(_) => Vec::new(),
        };
        self.notify.awake();
        self.wake(woken);
    }

    /// Wakes them. The ring is not borrowed here: a waker may run any code.
    fn wake(&self, mut woken: Vec<Waker>) {
        if woken.capacity() == 0 {
            return;
        }
        woken.drain(..).for_each(Waker::wake);
        if let Lazy::Made(reactor) = &mut *self.reactor.borrow_mut() {
            reactor.give_back(woken);
        }
    }

    fn with_reactor<R>(&self, f: impl FnOnce(&mut Reactor) -> R) -> Result<R, i32> {
        let mut lazy = self.reactor.borrow_mut();
        if matches!(*lazy, Lazy::Not) {
            *lazy = match Reactor::new(self.notify.eventfd.as_fd()) {
                Ok(r) => Lazy::Made(Box::new(r)),
                Err(e) => Lazy::Refused(e.raw_os_error().unwrap_or(libc::ENOSYS)),
            };
        }
        let (value, woken) = match &mut *lazy {
            Lazy::Made(r) => (f(r), r.woken()),
            Lazy::Refused(errno) => return Err(*errno),
            Lazy::Not => unreachable!("made above"),
        };
        drop(lazy);
        self.wake(woken);
        Ok(value)
    }
}

/// Runs `future` to its end on this thread's ring.
///
/// # Panics
/// Within another `block_on` on the same thread, and when the kernel refuses the thread's ring half-way.
pub fn block_on<F: Future>(future: F) -> F::Output {
    LOCAL.with(|local| {
        let _running = Running::enter(local);
        let waker = Waker::from(local.notify.clone());
        let mut cx = Context::from_waker(&waker);
        let mut future = pin!(future);
        local.notify.state.store(WOKEN, Ordering::Release);
        loop {
            if local.notify.take()
                && let Poll::Ready(value) = future.as_mut().poll(&mut cx)
            {
                return value;
            }
            local.turn();
        }
    })
}

/// Whether this is called within `block_on`: only there can a request or a sleep be awaited.
#[must_use]
pub fn runs_here() -> bool {
    LOCAL.with(|local| local.running.get())
}

/// Waits for `duration` on the boot clock.
///
/// # Errors
/// Where this kernel refuses a ring.
pub async fn sleep(duration: Duration) -> io::Result<()> {
    match Op::new(Request::sleep(duration)).await.0 {
        // A timeout that ran out says so by this errno.
        Err(libc::ETIME) | Ok(_) => Ok(()),
        Err(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// This thread's ring knows descriptors by number from their first use on, and this memory (whole regions) from now on: each I/O with
/// them costs less. Once a thread. A file that the ring has come to know stays open until the thread ends, or its number goes to another.
///
/// # Errors
/// What the kernel says, `ENOSYS` without a ring; everything works all the same.
pub fn register(memory: &[&IoBuf]) -> io::Result<()> {
    let registered = LOCAL.with(|local| local.with_reactor(|r| r.register(memory)));
    registered.unwrap_or_else(|errno| Err(io::Error::from_raw_os_error(errno)))
}

/// Whether this thread's ring takes [`command`]s.
#[must_use]
pub fn takes_commands() -> bool {
    LOCAL.with(|local| local.with_reactor(|r| r.takes_commands())).unwrap_or(false)
}

/// Gives a command to the driver behind `fd`, and gives it and its memory back with the driver's answer: its result, or the errno.
///
/// # Panics
/// Where this thread's ring [takes none](takes_commands).
pub async fn command(fd: &Arc<OwnedFd>, command: Command) -> (Result<usize, i32>, Command) {
    match Op::new(Request::Command { fd: fd.clone(), command, pieces: None }).await {
        (result, Request::Command { command, .. }) => (result, command),
        _ => unreachable!("a request comes back as it was given"),
    }
}

/// One read into `buf[from..]`, which may be short; the errno on failure.
pub(super) async fn read(fd: &Arc<OwnedFd>, at: u64, buf: IoBuf, from: usize) -> (Result<usize, i32>, IoBuf) {
    match Op::new(Request::Read { fd: fd.clone(), at, buf, from }).await {
        (result, Request::Read { buf, .. }) => (result, buf),
        _ => unreachable!("a request comes back as it was given"),
    }
}

/// One write of `data[from..]`, which may be short; with `durable` it is durable once done (`RWF_DSYNC`).
pub(super) async fn write(fd: &Arc<OwnedFd>, at: u64, data: &IoBytes, from: usize, durable: bool) -> Result<usize, i32> {
    Op::new(Request::Write { fd: fd.clone(), at, data: data.clone(), from, durable }).await.0
}

/// fdatasync.
pub(super) async fn datasync(fd: &Arc<OwnedFd>) -> Result<(), i32> {
    Op::new(Request::Sync { fd: fd.clone() }).await.0.map(|_| ())
}

/// One request's life; see the module's drawing.
enum State {
    Waiting(Request),
    InFlight(usize),
    Taken,
}

struct Op {
    state: State,
    /// A request belongs to the ring of its thread.
    _not_send: PhantomData<*const ()>,
}

impl Op {
    fn new(request: Request) -> Self {
        Self { state: State::Waiting(request), _not_send: PhantomData }
    }
}

impl Future for Op {
    type Output = (Result<usize, i32>, Request);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        LOCAL.with(|local| {
            assert!(local.running.get(), "a disk request was polled outside ring::block_on");
            match std::mem::replace(&mut self.state, State::Taken) {
                State::Waiting(request) => {
                    let mut request = Some(request);
                    match local.with_reactor(|r| r.start(&mut request, cx.waker())) {
                        Ok(Some(slot)) => self.state = State::InFlight(slot),
                        Ok(None) => self.state = State::Waiting(request.take().expect("not started, so still ours")),
                        Err(errno) => return Poll::Ready((Err(errno), request.take().expect("not started, so still ours"))),
                    }
                    Poll::Pending
                }
                State::InFlight(slot) => match local.with_reactor(|r| r.take(slot, cx.waker())) {
                    Ok(Some(done)) => Poll::Ready(done),
                    Ok(None) => {
                        self.state = State::InFlight(slot);
                        Poll::Pending
                    }
                    Err(_) => unreachable!("in flight, so the ring is there"),
                },
                State::Taken => panic!("a disk request was polled after its end"),
            }
        })
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        if let State::InFlight(slot) = self.state {
            // The thread is ending where this fails: the ring's own end looks after the slot.
            let _ = LOCAL.try_with(|local| local.with_reactor(|r| r.orphan(slot)));
        }
    }
}
