//! One round of the copier: all AUs that lack copies, some batches beside each other, one being read while another is written.
//!
//! A round lasts as long as there is something to copy, hours for a large volume, and what it waits for may be a disk that has just died. So the manager is
//! asked all the while: where its orders are others than those that the round began with, no batch begins any more, what waits for its turn begins
//! nothing, and the next round has the new ones; and what it counts says whether the volume can do without that disk.

use super::task::{Need, Task};
use super::{Copying, LOOK};
use crate::control::Control;
use crate::volume::Volume;
use fusevol_shared::clock::BootTime;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::Result;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::RecoveryOrders;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// AUs that are claimed at once; of a volume that is used fewer writes wait for one.
const AT_ONCE: usize = 2;
/// Such batches that are under way at once; of a volume that is used one.
const BATCHES: usize = 2;

/// What a round was told when it began.
pub(super) struct Round<'a> {
    orders: &'a RecoveryOrders,
    /// There are others.
    over: AtomicBool,
}

impl<'a> Round<'a> {
    pub(super) fn new(orders: &'a RecoveryOrders) -> Self {
        Self { orders, over: AtomicBool::new(false) }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl Copying {
    /// How long the next so many bytes wait, so that no more than `limit` a second are copied.
    fn turn(&self, now: BootTime, bytes: u64, limit: u64) -> Duration {
        let Some(nanos) = (bytes * 1000).checked_div(limit).map(|n| n * 1_000_000) else { return Duration::ZERO };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*next).max(now);
        *next = BootTime(at.0 + nanos);
        at.since(now)
    }

    /// Whoever had a turn does not take it.
    fn forget_turns(&self, now: BootTime) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// Copies what lacks, until nothing does or there are other orders. Whether anything lacked.
    pub(super) async fn copy_all(&self, round: &Round<'_>) -> Result<bool> {
        let (mut from, mut left) = (Some(VolAu(0)), false);
        let (mut under_way, mut result) = (FuturesUnordered::new(), Ok(()));
        loop {
            let (batches, at_once) = if self.is_used() { (1, 1) } else { (BATCHES, AT_ONCE) };
            while let Some(at) = from.filter(|_| under_way.len() < batches && result.is_ok() && !self.is_closed() && !round.is_over()) {
                let (tasks, next, waits) = self.lacking(at, at_once, round.orders);
                left |= waits || !tasks.is_empty();
                if !tasks.is_empty() {
                    under_way.push(self.copy_some(tasks, round));
                }
                from = next;
            }
            match under_way.next().await {
                // The first error counts; what is under way comes to its end.
                Some(done) => result = result.and(done),
                None => return result.map(|()| left || round.is_over()),
            }
        }
    }

    /// Does the work of a round, and asks the manager meanwhile.
    pub(super) async fn asking_meanwhile<T>(&self, round: &Round<'_>, work: impl Future<Output = T>) -> T {
        match select(pin!(work), pin!(self.ask_again(round))).await {
            Either::Left((done, _)) => done,
            Either::Right((never, _)) => match never {},
        }
    }

    /// Where the manager does not answer, the orders that there are stand.
    async fn ask_again(&self, round: &Round<'_>) -> Infallible {
        loop {
            self.engine.control.sleep(LOOK).await;
            let Ok(now) = self.orders().await else { continue };
            if (RecoveryOrders { todo: round.orders.todo, ..now }) != *round.orders {
                round.over.store(true, Ordering::Relaxed);
            }
        }
    }

    fn is_used(&self) -> bool {
        self.copying.pace.is_used(self.engine.lease.now())
    }

    /// AUs from `from` on that lack copies, as many as are done at once; where to go on; and whether some wait for a disk.
    fn lacking(&self, from: VolAu, at_once: usize, orders: &RecoveryOrders) -> (Vec<Task>, Option<VolAu>, bool) {
        let (mut tasks, mut waits) = (Vec::new(), false);
        let out = self.legs.out.disks();
        let holes = self.copying.holes().clone();
        for (au, slot) in self.view.iter_from(from) {
            if tasks.len() >= at_once {
                return (tasks, Some(au), waits);
            }
            match Task::of(au, &slot, &out, orders) {
                Need::Nothing => {}
                Need::Copies(t) if !holes.contains(&au) => tasks.push(t),
                Need::Copies(_) | Need::Disk => waits = true,
            }
        }
        (tasks, None, waits)
    }

    /// Claims, copies, flushes, says so; not faster than is allowed, and not where there are other orders by then.
    async fn copy_some(&self, tasks: Vec<Task>, round: &Round<'_>) -> Result<()> {
        let bytes = tasks.len() as u64 * self.engine.au_size.bytes();
        let mut wait = self.copying.turn(self.engine.lease.now(), bytes, round.orders.limit);
        while wait > Duration::ZERO && !round.is_over() {
            let some = wait.min(LOOK);
            self.engine.control.sleep(some).await;
            wait -= some;
        }
        if round.is_over() {
            self.copying.forget_turns(self.engine.lease.now());
            return Ok(());
        }
        self.copy_claimed(tasks, round.orders).await
    }
}
