//! The session's lease as the data path sees it: a deadline on the boot clock that the session moves.
//!
//! States: *valid* (now < deadline), *run out* (I/O waits, up to the time-out), *over* (the session is ended: for ever).
//! Invariant: nothing is submitted to a disk, and nothing is acknowledged, while the lease is not valid.
//! Who waits is woken by [`Lease::extend`], [`Lease::end`] and [`Lease::tick`]; the session calls the last one about
//! once a second while the lease is not valid, so that waiters see their time-out.

use fusevol_shared::clock::{BootTime, Clock};
use fusevol_shared::error::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// How long I/O waits for a lease that has run out, unless an option says otherwise.
pub const IO_TIMEOUT: Duration = Duration::from_secs(60);

/// A session's right to use the maps that it holds.
pub struct Lease {
    clock: Arc<dyn Clock>,
    timeout: Duration,
    /// Nanoseconds on the boot clock; 0 before the first grant.
    deadline: AtomicU64,
    over: AtomicBool,
    changed: Notify,
}

impl Lease {
    /// A lease that is not valid yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        Self { clock, timeout, deadline: AtomicU64::new(0), over: AtomicBool::new(false), changed: Notify::new() }
    }

    /// Valid until `deadline`. A deadline never moves back.
    pub fn extend(&self, deadline: BootTime) {
        self.deadline.fetch_max(deadline.0, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// The session is over: nothing will be valid again.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Lets the waiters look at the clock.
    pub fn tick(&self) {
        self.changed.notify_waiters();
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether the lease holds at `now`.
    #[must_use]
    pub fn valid(&self, now: BootTime) -> bool {
        !self.is_over() && now.0 < self.deadline.load(Ordering::SeqCst)
    }

    /// Now, on the clock that the lease counts by.
    #[must_use]
    pub fn now(&self) -> BootTime {
        self.clock.now()
    }

    /// Until when it holds.
    #[must_use]
    pub fn deadline(&self) -> BootTime {
        BootTime(self.deadline.load(Ordering::SeqCst))
    }

    /// Returns once the lease is valid; at once where it is.
    ///
    /// # Errors
    /// `Lapsed` when the session is over, or the lease has not come back within the time-out.
    pub async fn wait(&self) -> Result<()> {
        // Every I/O comes here twice, and nearly always finds it valid: two loads and a look at the clock, nothing that others touch.
        let began = self.clock.now();
        if self.valid(began) {
            return Ok(());
        }
        Box::pin(self.wait_since(began)).await
    }

    async fn wait_since(&self, began: BootTime) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let now = self.clock.now();
            if self.valid(now) {
                return Ok(());
            }
            if self.is_over() {
                return Err(Error::new(Kind::Lapsed, "the session is over").hint("mount again"));
            }
            if now.since(began) >= self.timeout {
                let text = format!("the lease has run out and did not come back within {} s", self.timeout.as_secs());
                return Err(Error::new(Kind::Lapsed, text).hint("see whether the manager runs and can be reached"));
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests;
