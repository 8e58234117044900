//! A disk over memory that takes a given time for each request, any number of them at once, and counts them: for measurements, and for proofs of
//! what is asked of a disk and what is not.
//!
//! Who waits lets the other tasks run, again and again, until its time is over: there is no timer.

use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::{Disk, DiskResult};
use fusevol_shared::units::DiskOff;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long requests take.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Times {
    /// Reads.
    pub read: Duration,
    /// Writes.
    pub write: Duration,
    /// Durable writes, and flushes.
    pub durable: Duration,
}

/// Requests that were made.
#[derive(Default, Debug)]
pub struct Asked {
    /// Writes, not the durable ones.
    pub writes: AtomicU64,
    /// Durable writes.
    pub durable: AtomicU64,
    /// Flushes.
    pub flushes: AtomicU64,
}

/// A disk that takes its time.
pub struct TimedDisk {
    inner: MemDisk,
    times: Times,
    asked: Arc<Asked>,
}

impl TimedDisk {
    /// Access to `inner` at these times.
    #[must_use]
    pub fn new(inner: MemDisk, times: Times) -> Self {
        Self { inner, times, asked: Arc::default() }
    }

    /// What is asked of it.
    #[must_use]
    pub fn asked(&self) -> Arc<Asked> {
        self.asked.clone()
    }
}

async fn take(time: Duration) {
    let began = SystemClock.now();
    while SystemClock.now().since(began) < time {
        tokio::task::yield_now().await;
    }
}

impl Disk for TimedDisk {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn read(&self, at: DiskOff, buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        take(self.times.read).await;
        self.inner.read(at, buf).await
    }

    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.asked.writes.fetch_add(1, Ordering::Relaxed);
        take(self.times.write).await;
        self.inner.write(at, data).await
    }

    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.asked.durable.fetch_add(1, Ordering::Relaxed);
        take(self.times.durable).await;
        self.inner.write(at, data).await
    }

    async fn flush(&self) -> DiskResult<()> {
        self.asked.flushes.fetch_add(1, Ordering::Relaxed);
        take(self.times.durable).await;
        self.inner.flush().await
    }
}
