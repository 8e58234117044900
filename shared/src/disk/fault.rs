//! A disk that fails as it is told: a decorator for tests, changed live from another handle or thread.
//!
//! What may be injected, by direction and range (the first rule that fits a request decides):
//! - [`Fault::Fail`]: an errno, answered or not; the request is not carried out.
//! - [`Fault::LandThenFail`]: the request is carried out, but reported as failed: a lost answer.
//! - [`Fault::Delay`]: it is carried out after a while (on the boot clock, in the ring: only within `ring::block_on`).
//! - [`Fault::Hang`]: it waits until the rule is removed, and is carried out *then*: the late write; or until
//!   [`Faults::give_up`], and fails without being carried out.
//!
//! What may not: wrong bytes, torn or lost writes. Those are states after a crash, made by the crash disk in `tests`.
//!
//! Invariants: a request that no rule fits passes untouched; each request is counted once, under what became of it; a
//! hung request whose future is dropped is never carried out, as its door was never opened.

#[cfg(test)]
mod tests;

use super::buf::{IoBuf, IoBytes};
use super::{Answer, Disk, DiskError, DiskResult, ring};
use crate::units::DiskOff;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Directions that a rule is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ops {
    /// Reads.
    pub read: bool,
    /// Writes, durable ones too.
    pub write: bool,
    /// Flushes; they have no range: any range fits.
    pub flush: bool,
}

impl Ops {
    /// Reads only.
    pub const READ: Ops = Ops { read: true, write: false, flush: false };
    /// Writes only.
    pub const WRITE: Ops = Ops { read: false, write: true, flush: false };
    /// Flushes only.
    pub const FLUSH: Ops = Ops { read: false, write: false, flush: true };
    /// Everything.
    pub const ALL: Ops = Ops { read: true, write: true, flush: true };

    fn meets(self, other: Self) -> bool {
        self.read && other.read || self.write && other.write || self.flush && other.flush
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Fails with this errno; nothing is carried out.
    Fail(i32, Answer),
    /// Carried out, then fails with this errno.
    LandThenFail(i32, Answer),
    /// Carried out after a while.
    Delay(Duration),
    /// Waits for the rule to be removed, then is carried out.
    Hang,
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Which directions.
    pub ops: Ops,
    /// Which bytes: a request fits if it touches one of them.
    pub range: Range<u64>,
    /// What happens.
    pub fault: Fault,
    /// To so many requests; `None`: to all until it is removed.
    pub times: Option<u64>,
}

impl Rule {
    /// A rule for all requests of these directions, anywhere, until it is removed.
    #[must_use]
    pub fn on(ops: Ops, fault: Fault) -> Self {
        Self { ops, range: 0..u64::MAX, fault, times: None }
    }

    /// The same for these bytes only.
    #[must_use]
    pub fn within(self, range: Range<u64>) -> Self {
        Self { range, ..self }
    }

    /// The same for the next `n` requests that fit.
    #[must_use]
    pub fn times(self, n: u64) -> Self {
        Self { times: Some(n), ..self }
    }
}

/// Names a rule that was added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RuleNo(u64);

/// What was done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Untouched.
    pub passed: u64,
    /// Failed, not carried out (given up ones too).
    pub failed: u64,
    /// Carried out, reported as failed.
    pub landed_then_failed: u64,
    /// Delayed, then carried out.
    pub delayed: u64,
    /// Hanging now.
    pub hanging: u64,
    /// Hung, then carried out.
    pub released: u64,
}

/// A rule with what is left of it.
#[derive(Debug)]
struct Standing {
    rule: Rule,
    left: Option<u64>,
}

/// How a hung request ends.
#[derive(Clone, Copy, Debug)]
enum End {
    CarryOut,
    Fail(i32),
}

#[derive(Debug)]
struct Hung {
    rule: RuleNo,
    waker: Option<Waker>,
    end: Option<End>,
}

#[derive(Debug, Default)]
struct State {
    rules: BTreeMap<RuleNo, Standing>,
    hung: BTreeMap<u64, Hung>,
    next: u64,
    counts: Counts,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn end(&mut self, which: impl Fn(RuleNo) -> bool, end: End) -> Vec<Waker> {
        let hung = self.hung.values_mut().filter(|h| h.end.is_none() && which(h.rule));
        hung.filter_map(|h| {
            h.end = Some(end);
            h.waker.take()
        })
        .collect()
    }
}

/// The handle by which faults are injected; a clone is another handle on the same disk.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<State>>);

impl Faults {
    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: Rule) -> RuleNo {
        let mut state = self.state();
        let no = RuleNo(state.number());
        state.rules.insert(no, Standing { left: rule.times, rule });
        no
    }

    /// Takes a rule away; what hangs by it is carried out now.
    pub fn remove(&self, no: RuleNo) {
        self.end(Some(no), End::CarryOut);
    }

    /// Takes all rules away; what hangs is carried out now.
    pub fn clear(&self) {
        self.end(None, End::CarryOut);
    }

    /// Takes a rule away; what hangs by it fails with this errno, not returned, and is not carried out.
    pub fn give_up(&self, no: RuleNo, errno: i32) {
        self.end(Some(no), End::Fail(errno));
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    fn end(&self, no: Option<RuleNo>, end: End) {
        let mut state = self.state();
        state.rules.retain(|r, _| no.is_some_and(|no| no != *r));
        let wakers = state.end(|r| no.is_none_or(|no| no == r), end);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault for a request, if a rule fits; one of its times is used up.
    fn fitting(&self, ops: Ops, range: &Range<u64>) -> Option<(RuleNo, Fault)> {
        let mut state = self.state();
        let fits = |s: &Standing| s.rule.range.start < range.end && range.start < s.rule.range.end;
        let found = state.rules.iter_mut().find(|(_, s)| s.left != Some(0) && s.rule.ops.meets(ops) && fits(s));
        let found = found.map(|(no, standing)| {
            standing.left = standing.left.map(|n| n - 1);
            (*no, standing.rule.fault)
        });
        match found {
            None => state.counts.passed += 1,
            Some((_, Fault::Fail(..))) => state.counts.failed += 1,
            Some((_, Fault::LandThenFail(..))) => state.counts.landed_then_failed += 1,
            Some((_, Fault::Delay(_))) => state.counts.delayed += 1,
            Some((_, Fault::Hang)) => {}
        }
        found
    }
}

/// A request that hangs: off the list when it is dropped.
struct Hanging<'a> {
    faults: &'a Faults,
    ticket: u64,
}

impl<'a> Hanging<'a> {
    fn new(faults: &'a Faults, rule: RuleNo) -> Self {
        let mut state = faults.state();
        let ticket = state.number();
        // The rule may have gone since it was found.
        let end = if state.rules.contains_key(&rule) { None } else { Some(End::CarryOut) };
        state.hung.insert(ticket, Hung { rule, waker: None, end });
        state.counts.hanging += 1;
        Self { faults, ticket }
    }

    async fn end(self) -> End {
        std::future::poll_fn(|cx| {
            let mut state = self.faults.state();
            let hung = state.hung.get_mut(&self.ticket).expect("on the list until it is dropped");
            let Some(end) = hung.end else {
                hung.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            match end {
                End::CarryOut => state.counts.released += 1,
                End::Fail(_) => state.counts.failed += 1,
            }
            Poll::Ready(end)
        })
        .await
    }
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        let mut state = self.faults.state();
        let hung = state.hung.remove(&self.ticket);
        state.counts.hanging -= 1;
        drop(state);
        drop(hung);
    }
}

/// A disk with faults.
#[derive(Debug)]
pub struct FaultDisk<D> {
    inner: D,
    faults: Faults,
}

impl<D: Disk> FaultDisk<D> {
    /// Wraps a disk; no rules yet.
    pub fn new(inner: D) -> Self {
        Self { inner, faults: Faults::default() }
    }

    /// The handle by which faults are injected.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// The disk within, past all faults.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Lets the request through, perhaps later: `Ok(Some(error))` means that it fails after it was carried out.
    async fn door(&self, verb: &str, ops: Ops, range: Range<u64>) -> DiskResult<Option<DiskError>> {
        let error = |errno, answer| DiskError { answer, errno, what: format!("{verb} at {} (injected)", range.start) };
        let Some((no, fault)) = self.faults.fitting(ops, &range) else { return Ok(None) };
        match fault {
            Fault::Fail(errno, answer) => Err(error(errno, answer)),
            Fault::LandThenFail(errno, answer) => Ok(Some(error(errno, answer))),
            Fault::Delay(duration) => match ring::sleep(duration).await {
                Ok(()) => Ok(None),
                Err(e) => Err(error(e.raw_os_error().unwrap_or(libc::ENOSYS), Answer::Answered)),
            },
            Fault::Hang => match Hanging::new(&self.faults, no).end().await {
                End::CarryOut => Ok(None),
                End::Fail(errno) => Err(error(errno, Answer::NotReturned)),
            },
        }
    }
}

fn range_of(at: DiskOff, len: usize) -> Range<u64> {
    at.0..at.0.saturating_add(len as u64)
}

/// The end of a request that was let through.
fn ended(carried_out: DiskResult<()>, after: Option<DiskError>) -> DiskResult<()> {
    carried_out.and_then(|()| after.map_or(Ok(()), Err))
}

impl<D: Disk> Disk for FaultDisk<D> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn read(&self, at: DiskOff, buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        match self.door("read", Ops::READ, range_of(at, buf.len())).await {
            Ok(after) => {
                let (result, buf) = self.inner.read(at, buf).await;
                (ended(result, after), buf)
            }
            Err(e) => (Err(e), buf),
        }
    }

    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        let after = self.door("write", Ops::WRITE, range_of(at, data.len())).await?;
        ended(self.inner.write(at, data).await, after)
    }

    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        let after = self.door("write", Ops::WRITE, range_of(at, data.len())).await?;
        ended(self.inner.write_durable(at, data).await, after)
    }

    async fn flush(&self) -> DiskResult<()> {
        let after = self.door("flush", Ops::FLUSH, 0..u64::MAX).await?;
        ended(self.inner.flush().await, after)
    }
}
