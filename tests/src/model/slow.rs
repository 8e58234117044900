//! A disk that takes its time: other tasks run before, in the midst of and after each of its requests.

use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::{Disk, DiskResult};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::{DiskOff, PAGE};
use std::sync::{Arc, Mutex};

/// A slow disk over memory. Which task runs when is up to the seed.
pub struct SlowDisk {
    inner: MemDisk,
    random: Arc<Mutex<SeededRandom>>,
}

impl SlowDisk {
    /// Slow access to `inner`.
    #[must_use]
    pub fn new(inner: MemDisk, seed: u64) -> Self {
        Self { inner, random: Arc::new(Mutex::new(SeededRandom(seed))) }
    }

    async fn pause(&self) {
        let turns = self.random.lock().expect("nobody panics within").below(6);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

impl Disk for SlowDisk {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn read(&self, at: DiskOff, mut buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        let mut done: Option<IoBuf> = None;
        let mut at = at;
        while !buf.is_empty() {
            self.pause().await;
            let (result, page) = self.inner.read(at, buf.split_to(PAGE)).await;
            at = at.plus(PAGE as u64);
            match &mut done {
                None => done = Some(page),
                Some(d) => d.rejoin(page).expect("the next page"),
            }
            if result.is_err() {
                return (result, done.unwrap_or(buf));
            }
        }
        self.pause().await;
        (Ok(()), done.unwrap_or(buf))
    }

    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        for from in (0..data.len()).step_by(PAGE) {
            self.pause().await;
            self.inner.write(at.plus(from as u64), data.slice(from, PAGE)).await?;
        }
        self.pause().await;
        Ok(())
    }

    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.write(at, data).await
    }

    async fn flush(&self) -> DiskResult<()> {
        self.pause().await;
        self.inner.flush().await
    }
}
