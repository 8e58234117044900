//! The range guard: who writes or discards excludes every other on overlapping blocks. Reads run beside it.
//!
//! A range is *fast* (held, by bits of a table), or in the queue: *waiting*, then *held*.
//!
//! - Fast: while nobody is in the queue, a range of one AU, or across one border of two, takes its blocks' bits by compare-and-swap: no lock,
//!   nothing allocated. AUs share the words of the table by a hash, so two AUs may exclude each other without need; that costs time only.
//! - Queue: every other range, and every one that finds its bits taken or somebody in the queue. It is granted once it overlaps no held
//!   range and no range that began to wait before it, and the bits of its blocks were all seen clear since it came: so it is fair, and a
//!   guard over everything (a hold, a detach) gets its turn after the writes in flight.
//!
//! Why a fast range and a queued one never hold the same block. The fast one sets its bits, *then* looks whether somebody is in the
//! queue, and backs out if so. The queued one is counted, *then* looks at the bits. All four are `SeqCst`, so in their one order either the
//! look of the fast one comes after the count, and it backs out; or its bits come before the look of the queued one, which waits. The same
//! with the release: the fast one clears its bits, *then* looks at the count; either it sees the queued one and grants what can be, or
//! the queued one sees the bits clear. So no grant is missed. And a bit that a queued range has once seen clear is not looked at again: who
//! sets it later was counted out, and backs out.
//!
//! Dropping a waiting or a held range, in any state, grants whoever can go on. The number of ranges in the queue has a limit.

mod table;

use fusevol_shared::error::{Error, Kind, Result};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use table::{Bits, Seen, Table};

/// Most ranges in the queue at once.
const LIMIT: usize = 8192;

struct Entry {
    id: u64,
    range: Range<u64>,
    held: bool,
    /// How far its bits were seen clear since it came.
    seen: Seen,
    waker: Option<Waker>,
}

/// In order of arrival.
#[derive(Default)]
struct Queue {
    next: u64,
    entries: Vec<Entry>,
}

impl Queue {
    /// Grants the waiting ranges of which `whose` says that something may have gone out of their way, and that nothing excludes any
    /// more; gives whom to wake.
    fn grant(&mut self, table: &Table, whose: impl Fn(&Range<u64>) -> bool) -> Vec<Waker> {
        let mut wake = Vec::new();
        for i in 0..self.entries.len() {
            let (before, rest) = self.entries.split_at_mut(i);
            let e = &mut rest[0];
            if e.held || !whose(&e.range) || before.iter().any(|b| overlap(&b.range, &e.range)) {
                continue;
            }
            e.held = table.seen_clear(&e.range, &mut e.seen);
            if e.held {
                wake.extend(e.waker.take());
            }
        }
        wake
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The guard of one volume. Ranges are in blocks.
#[derive(Default)]
pub struct RangeGuard {
    table: Table,
    /// Ranges in the queue. Changed under its lock.
    queued: AtomicUsize,
    queue: Mutex<Queue>,
}

impl RangeGuard {
    /// Waits for `range`, which is not empty.
    ///
    /// # Errors
    /// `Busy` where too many wait already.
    pub async fn lock(&self, range: Range<u64>) -> Result<Locked<'_>> {
        if let Some(mine) = self.fast(&range) {
            return Ok(mine);
        }
        let (mine, id) = self.enter(range)?;
        poll_fn(|cx| {
            let mut q = self.queue();
            let entry = q.entries.iter_mut().find(|e| e.id == id).expect("an entry stays until its Locked is dropped");
            if entry.held {
                return Poll::Ready(());
            }
            entry.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        Ok(mine)
    }

    /// `range`, if it is to be had at once.
    pub fn try_lock(&self, range: Range<u64>) -> Option<Locked<'_>> {
        if let Some(mine) = self.fast(&range) {
            return Some(mine);
        }
        let (mine, id) = self.enter(range).ok()?;
        let held = self.queue().entries.iter().any(|e| e.id == id && e.held);
        held.then_some(mine)
    }

    /// By its bits, if nobody is in the queue and they are free.
    fn fast(&self, range: &Range<u64>) -> Option<Locked<'_>> {
        let bits = Bits::of(range)?;
        if self.queued.load(Ordering::SeqCst) > 0 {
            return None;
        }
        if !self.table.set(&bits) {
            self.go_on(); // it may have had the first of two words for a moment
            return None;
        }
        self.keep(bits)
    }

    /// Its bits are set; whether it may keep them. Bits first, then this look: see the head of this file. Backing out lets those go on who
    /// saw its bits.
    fn keep(&self, bits: Bits) -> Option<Locked<'_>> {
        let mine = Locked { guard: self, how: How::Fast(bits) };
        (self.queued.load(Ordering::SeqCst) == 0).then_some(mine)
    }

    fn enter(&self, range: Range<u64>) -> Result<(Locked<'_>, u64)> {
        let mut q = self.queue();
        if q.entries.len() >= LIMIT {
            return Err(Error::new(Kind::Busy, format!("{LIMIT} writes wait already")));
        }
        let id = q.next;
        q.next += 1;
        self.queued.fetch_add(1, Ordering::SeqCst); // counted first, then the bits are looked at
        let mut seen = Seen::default();
        let held = !q.entries.iter().any(|b| overlap(&b.range, &range)) && self.table.seen_clear(&range, &mut seen);
        q.entries.push(Entry { id, range, held, seen, waker: None });
        Ok((Locked { guard: self, how: How::Queued(id) }, id))
    }

    fn leave(&self, id: u64) {
        let mut q = self.queue();
        let Some(at) = q.entries.iter().position(|e| e.id == id) else { return };
        let gone = q.entries.remove(at);
        self.queued.fetch_sub(1, Ordering::SeqCst);
        let wake = q.grant(&self.table, |range| overlap(range, &gone.range));
        drop(q);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Bits were cleared: whoever is in the queue may have seen them set.
    fn go_on(&self) {
        if self.queued.load(Ordering::SeqCst) > 0 {
            // Another AU's range may have waited for the same word.
            let wake = self.queue().grant(&self.table, |_| true);
            wake.into_iter().for_each(Waker::wake);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum How {
    Fast(Bits),
    Queued(u64),
}

/// A range that is waited for or held, until dropped.
pub struct Locked<'a> {
    guard: &'a RangeGuard,
    how: How,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        match &self.how {
            How::Fast(bits) => {
                self.guard.table.clear(bits);
                self.guard.go_on();
            }
            How::Queued(id) => self.guard.leave(*id),
        }
    }
}

#[cfg(test)]
mod tests;
