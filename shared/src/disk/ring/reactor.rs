//! One thread's ring and the table of its requests. The only place that hands memory to the kernel.
//!
//! A slot is free, in flight (it owns the request: memory and descriptor), or done. A completion names its slot by
//! `user_data`; a slot is given to the next request only after the completion of the one before has been seen, so a
//! completion is never taken for another's.
#![allow(unsafe_code)]

use super::kernel::{Entry, Kernel};
use super::request::Request;
use crate::disk::buf::IoBuf;
use io_uring::opcode;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::task::Waker;
use std::time::Duration;

/// Requests of one thread that are in the kernel at once.
pub const MAX_IN_FLIGHT: usize = 512;
/// `user_data` of the poll on the eventfd, and of cancellations, whose completions say nothing.
const WAKE: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;
/// The end of a thread waits for so many quiet rounds of so long for what is in flight.
const END_ROUNDS: u32 = 100;
const END_ROUND: Duration = Duration::from_millis(100);

enum Slot {
    Free,
    InFlight { request: Request, waker: Option<Waker>, orphan: bool },
    Done { request: Request, result: i32 },
}

pub(super) struct Reactor {
    kernel: Kernel,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Who waits for a free slot; all are woken when one is freed, and ask again.
    waiting: Vec<Waker>,
    /// Who is to be woken once the ring is not borrowed: a waker may run any code.
    woken: Vec<Waker>,
    /// Room for the completions of one turn.
    seen: Vec<(u64, i32)>,
    /// Lives as long as the thread's `Notify`, which outlives this.
    eventfd: RawFd,
}

impl Reactor {
    pub(super) fn new(eventfd: BorrowedFd<'_>) -> io::Result<Self> {
        let mut reactor = Self {
            kernel: Kernel::new()?,
            slots: (0..MAX_IN_FLIGHT).map(|_| Slot::Free).collect(),
            free: (0..MAX_IN_FLIGHT).rev().collect(),
            waiting: Vec::new(),
            woken: Vec::new(),
            seen: Vec::new(),
            eventfd: eventfd.as_raw_fd(),
        };
        reactor.watch_eventfd();
        Ok(reactor)
    }

    #[allow(clippy::cast_sign_loss)] // POLLIN is 1
    pub(super) fn watch_eventfd(&mut self) {
        let entry = opcode::PollAdd::new(Fd(self.eventfd), libc::POLLIN as u32).build().user_data(WAKE);
        self.push(&Entry::Short(entry));
    }

    fn push(&mut self, entry: &Entry) {
        // SAFETY: what the entry points to is owned by its slot until its completion has been reaped, or leaked.
        if !unsafe { self.kernel.push(entry) } {
            self.enter(false);
            // SAFETY: as above.
            let pushed = unsafe { self.kernel.push(entry) };
            assert!(pushed, "the queue was just handed over");
        }
    }

    /// Whether commands can be given.
    pub(super) fn takes_commands(&self) -> bool {
        self.kernel.is_wide()
    }

    /// From now on descriptors are known by number from their first use on, and this memory is.
    pub(super) fn register(&mut self, memory: &[&IoBuf]) -> io::Result<()> {
        self.kernel.register(memory)
    }

    /// Starts the request and gives its slot, or leaves it where it is and remembers who waits.
    pub(super) fn start(&mut self, request: &mut Option<Request>, waker: &Waker) -> Option<usize> {
        let Some(index) = self.free.pop() else {
            self.waiting.push(waker.clone());
            return None;
        };
        let mut request = request.take().expect("the caller has a request");
        let entry = request.entry(&mut self.kernel, index as u64);
        self.slots[index] = Slot::InFlight { request, waker: Some(waker.clone()), orphan: false };
        self.push(&entry);
        Some(index)
    }

    /// The result of a request that is done; else remembers whom to wake.
    pub(super) fn take(&mut self, index: usize, waker: &Waker) -> Option<(Result<usize, i32>, Request)> {
        match std::mem::replace(&mut self.slots[index], Slot::Free) {
            Slot::Done { request, result } => {
                self.release(index);
                Some((usize::try_from(result).map_err(|_| -result), request))
            }
            Slot::InFlight { request, waker: old, orphan } => {
                // The old one is woken rather than dropped here: once too often does no harm.
                self.woken.extend(old.filter(|w| !w.will_wake(waker)));
                self.slots[index] = Slot::InFlight { request, waker: Some(waker.clone()), orphan };
                None
            }
            Slot::Free => unreachable!("a slot is freed by its own future or, orphaned, by its completion"),
        }
    }

    /// Its future is gone: the completion frees the slot. A sleep is cut short.
    pub(super) fn orphan(&mut self, index: usize) {
        match &mut self.slots[index] {
            Slot::InFlight { waker, orphan, request } => {
                *orphan = true;
                self.woken.extend(waker.take());
                if matches!(request, Request::Sleep(_)) {
                    self.cancel(index as u64);
                }
            }
            Slot::Done { .. } => {
                self.slots[index] = Slot::Free;
                self.release(index);
            }
            Slot::Free => unreachable!("a slot is freed by its own future or, orphaned, by its completion"),
        }
    }

    fn release(&mut self, index: usize) {
        self.free.push(index);
        self.woken.append(&mut self.waiting);
    }

    /// Who is to be woken, by the caller, who has let go of the ring and then [gives the room back](Self::give_back).
    pub(super) fn woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    /// The empty vector that [`woken`](Self::woken) gave: the next turn need not make one.
    pub(super) fn give_back(&mut self, room: Vec<Waker>) {
        if self.woken.capacity() == 0 {
            self.woken = room;
        }
    }

    /// Hands over what is queued, if anything is.
    pub(super) fn submit_queued(&mut self) {
        if self.kernel.has_queued() {
            self.enter(false);
        }
    }

    fn cancel(&mut self, user_data: u64) {
        self.push(&Entry::Short(opcode::AsyncCancel::new(user_data).build().user_data(CANCEL)));
    }

    /// Hands the queue to the kernel; with `wait`, until there is a completion.
    pub(super) fn enter(&mut self, wait: bool) {
        match self.kernel.enter(wait) {
            Ok(_) => {}
            // Interrupted, or short of memory for completions: the caller reaps and comes again.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            Err(e) => panic!("the kernel refuses this thread's ring: {e}"),
        }
    }

    /// Takes the completions. Whether the eventfd was written: the caller empties it before the next `enter`.
    pub(super) fn reap(&mut self) -> bool {
        let mut by_eventfd = false;
        let mut seen = std::mem::take(&mut self.seen);
        self.kernel.completions(&mut seen);
        for (user_data, result) in seen.drain(..) {
            match user_data {
                WAKE => by_eventfd = true,
                CANCEL => {}
                _ => self.complete(user_data, result),
            }
        }
        self.seen = seen;
        by_eventfd
    }

    fn complete(&mut self, user_data: u64, result: i32) {
        let index = usize::try_from(user_data).expect("a slot's number");
        match std::mem::replace(&mut self.slots[index], Slot::Free) {
            Slot::InFlight { orphan: true, .. } => {
                self.release(index);
            }
            Slot::InFlight { request, waker, .. } => {
                self.slots[index] = Slot::Done { request, result };
                self.woken.extend(waker);
            }
            Slot::Free | Slot::Done { .. } => unreachable!("one completion for each request"),
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.iter().filter(|s| matches!(s, Slot::InFlight { .. })).count()
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        for index in 0..self.slots.len() {
            if matches!(self.slots[index], Slot::InFlight { .. }) {
                self.orphan(index);
                self.cancel(index as u64);
            }
        }
        self.cancel(WAKE);
        let mut quiet = 0;
        while self.in_flight() > 0 && quiet < END_ROUNDS {
            let before = self.in_flight();
            let round = Timespec::from(END_ROUND);
            // A round that ran out, or a ring that is refused: both are counted as quiet.
            let _ = self.kernel.enter_for(&SubmitArgs::new().timespec(&round));
            self.reap();
            quiet = if self.in_flight() < before { 0 } else { quiet + 1 };
        }
        if self.in_flight() > 0 {
            // The kernel may still write there: never give it back.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}
