//! The range guard: who writes or discards excludes every other on overlapping blocks. Reads run beside it.
//!
//! A range is *waiting*, then *held*. It is granted once it overlaps no held range and no range that began to wait
//! before it: so it is fair, and a guard over everything (a hold, a detach) gets its turn after the writes in flight.
//! Dropping a waiting or a held range, in any state, grants whoever can go on. The number of waiting ranges has a limit.

use fusevol_shared::error::{Error, Kind, Result};
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Most ranges that wait or are held at once.
const LIMIT: usize = 8192;

struct Entry {
    id: u64,
    range: Range<u64>,
    held: bool,
    waker: Option<Waker>,
}

/// In order of arrival.
#[derive(Default)]
struct State {
    next: u64,
    entries: Vec<Entry>,
}

impl State {
    /// Grants every waiting range that nothing before it overlaps; gives whom to wake.
    fn grant(&mut self) -> Vec<Waker> {
        let mut wake = Vec::new();
        for i in 0..self.entries.len() {
            let (before, rest) = self.entries.split_at_mut(i);
            let e = &mut rest[0];
            if !e.held && !before.iter().any(|b| overlap(&b.range, &e.range)) {
                e.held = true;
                wake.extend(e.waker.take());
            }
        }
        wake
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The guard of one volume.
#[derive(Default)]
pub struct RangeGuard {
    state: Mutex<State>,
}

impl RangeGuard {
    /// Waits for `range` (any unit, as long as all callers use the same).
    ///
    /// # Errors
    /// `Busy` where too many wait already.
    pub async fn lock(&self, range: Range<u64>) -> Result<Locked<'_>> {
        let mine = self.enter(range)?;
        poll_fn(|cx| {
            let mut s = self.state();
            let entry = s.entries.iter_mut().find(|e| e.id == mine.id).expect("an entry stays until its Locked is dropped");
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
        let mine = self.enter(range).ok()?;
        let held = self.state().entries.iter().any(|e| e.id == mine.id && e.held);
        held.then_some(mine)
    }

    fn enter(&self, range: Range<u64>) -> Result<Locked<'_>> {
        let mut s = self.state();
        if s.entries.len() >= LIMIT {
            return Err(Error::new(Kind::Busy, format!("{LIMIT} writes wait already")));
        }
        let id = s.next;
        s.next += 1;
        let held = !s.entries.iter().any(|b| overlap(&b.range, &range));
        s.entries.push(Entry { id, range, held, waker: None });
        Ok(Locked { guard: self, id })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A range that is waited for or held, until dropped.
pub struct Locked<'a> {
    guard: &'a RangeGuard,
    id: u64,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let mut s = self.guard.state();
        s.entries.retain(|e| e.id != self.id);
        let wake = s.grant();
        drop(s);
        wake.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
