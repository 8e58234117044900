//! Who reads under the map, counted so that a change can wait for those who may have seen what was before.
//!
//! Readers are counted by AU, hashed to stripes, each stripe in two counters: new readers go to the current one. Who drains a stripe makes the
//! other one current, waits until the one before is empty, and does so once more. Why that is enough: a reader counts itself
//! *before* it looks at the map. Who looked before the change was counted before it, in one of the two counters, and stays
//! counted until it is done; each counter was seen empty once after the change. Why it ends: a counter that is not current gets
//! no new readers, but for those that chose it a moment before.

use fusevol_shared::units::VolAu;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::{Mutex, Notify};

/// A stripe is shared by AUs that lie this far from each other.
const STRIPES: usize = 1024;

#[derive(Default)]
struct Stripe {
    current: AtomicU32,
    readers: [AtomicU32; 2],
}

/// The counters of one map.
pub struct Readers {
    stripes: Box<[Stripe]>,
    /// Drains that wait.
    waiting: AtomicU32,
    /// A counter became empty while a drain waited.
    empty: Notify,
    /// One drain at a time.
    turn: Mutex<()>,
}

impl Default for Readers {
    fn default() -> Self {
        let stripes = (0..STRIPES).map(|_| Stripe::default()).collect();
        Self { stripes, waiting: AtomicU32::new(0), empty: Notify::new(), turn: Mutex::new(()) }
    }
}

/// One who reads, until dropped.
pub struct Reading<'a> {
    readers: &'a Readers,
    counter: &'a AtomicU32,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // Whoever waits has said so before it looked at the counter (both in one order): it sees this, or is seen here.
        if self.counter.fetch_sub(1, Ordering::SeqCst) == 1 && self.readers.waiting.load(Ordering::SeqCst) > 0 {
            self.readers.empty.notify_waiters();
        }
    }
}

fn stripe_of(au: VolAu) -> usize {
    au.0 as usize % STRIPES
}

impl Readers {
    /// Counts a reader of this AU, before it looks at the map.
    pub fn enter(&self, au: VolAu) -> Reading<'_> {
        let stripe = &self.stripes[stripe_of(au)];
        let counter = &stripe.readers[(stripe.current.load(Ordering::SeqCst) & 1) as usize];
        counter.fetch_add(1, Ordering::SeqCst);
        Reading { readers: self, counter }
    }

    /// Returns when nobody reads these AUs any more who looked before this was called.
    pub async fn drain(&self, aus: impl IntoIterator<Item = VolAu>) {
        let stripes: BTreeSet<usize> = aus.into_iter().map(stripe_of).collect();
        if stripes.is_empty() {
            return;
        }
        let _turn = self.turn.lock().await;
        for _ in 0..2 {
            for s in &stripes {
                self.stripes[*s].current.fetch_xor(1, Ordering::SeqCst);
            }
            for s in &stripes {
                let stripe = &self.stripes[*s];
                let before = (stripe.current.load(Ordering::SeqCst) ^ 1) & 1;
                self.wait(&stripe.readers[before as usize]).await;
            }
        }
    }

    async fn wait(&self, counter: &AtomicU32) {
        let _waits = Waits::new(&self.waiting);
        loop {
            let mut empty = std::pin::pin!(self.empty.notified());
            empty.as_mut().enable();
            if counter.load(Ordering::SeqCst) == 0 {
                return;
            }
            empty.await;
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.stripes)
    }
}

/// Counted among those who wait, until dropped.
struct Waits<'a>(&'a AtomicU32);

impl<'a> Waits<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
