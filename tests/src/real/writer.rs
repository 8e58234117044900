//! A writer whose every write is numbered, so that an image tells which writes it holds.
//!
//! Write `n` (from 1) fills one aligned block of 4 KiB with `n` and the block's own number. What the volume held at some
//! instant is then the replay of writes `1..=k` for one `k`: the largest number in the image.

use super::wait::timed;
use fusevol_shared::random::SeededRandom;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes a write.
pub const GRAIN: usize = 4096;

/// What was written where, in order.
#[derive(Clone, Debug, Default)]
pub struct History(Vec<u64>, Option<String>);

/// A running writer.
pub struct Writer {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    synced: Arc<AtomicU64>,
    slowest: Arc<AtomicU64>,
    thread: JoinHandle<History>,
}

impl Writer {
    /// Writes to random grains among the first `grains` of `image`, at each 64th with an fsync, until stopped or until a
    /// write fails (which [`Writer::finish`] complains about, and [`Writer::wreck`] does not).
    ///
    /// # Panics
    /// Where the image does not open.
    #[must_use]
    pub fn start(image: &Path, grains: u64, seed: u64) -> Self {
        let file = OpenOptions::new().write(true).open(image).expect("the image opens for writing");
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let synced = Arc::new(AtomicU64::new(0));
        let slowest = Arc::new(AtomicU64::new(0));
        let (stop2, acked2, synced2, slowest2) = (stop.clone(), acked.clone(), synced.clone(), slowest.clone());
        let thread = std::thread::spawn(move || {
            let mut random = SeededRandom(seed);
            let mut history = History::default();
            while !stop2.load(Ordering::Relaxed) {
                let grain = random.below(grains);
                history.0.push(grain);
                let n = history.0.len() as u64;
                let (done, took) = timed(|| {
                    file.write_all_at(&filled(n, grain), grain * GRAIN as u64)?;
                    acked2.store(n, Ordering::Release);
                    if n.is_multiple_of(64) { file.sync_data() } else { Ok(()) }
                });
                slowest2.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
                match done {
                    Ok(()) if n.is_multiple_of(64) => synced2.store(n, Ordering::Release),
                    Ok(()) => {}
                    Err(e) => {
                        history.1 = Some(e.to_string());
                        break;
                    }
                }
            }
            history
        });
        Self { stop, acked, synced, slowest, thread }
    }

    /// How many writes were acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    /// The longest write, or write with its fsync, since the last question.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest.swap(0, Ordering::Relaxed))
    }

    /// Whether a write has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops, and tells what was written.
    ///
    /// # Panics
    /// If a write failed.
    #[must_use]
    pub fn finish(self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let history = self.thread.join().expect("the writer ran");
        assert_eq!(history.1, None, "write {} failed", history.len());
        history
    }

    /// Tells what was written until the volume was taken away, and how many of these writes an fsync has covered.
    ///
    /// # Panics
    /// If the writer did not run.
    #[must_use]
    pub fn wreck(self) -> (History, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let history = self.thread.join().expect("the writer ran");
        (history, self.synced.load(Ordering::Acquire))
    }
}

/// The number of the write that each grain holds; 0 where none.
fn numbers(image: &Path, grains: u64) -> Vec<u64> {
    let file = std::fs::File::open(image).expect("the image opens");
    let mut held = vec![0u8; usize::try_from(grains).expect("small") * GRAIN];
    file.read_exact_at(&mut held, 0).expect("the image is long enough");
    let number = |grain: u64| {
        let at = usize::try_from(grain).expect("small") * GRAIN;
        let n = u64::from_le_bytes(held[at..at + 8].try_into().expect("8 bytes"));
        let want = if n == 0 { vec![0; GRAIN] } else { filled(n, grain) };
        assert!(held[at..at + GRAIN] == want, "grain {grain} is torn or foreign");
        n
    };
    (0..grains).map(number).collect()
}

fn filled(n: u64, grain: u64) -> Vec<u8> {
    let mut word = n.to_le_bytes().to_vec();
    word.extend(grain.to_le_bytes());
    word.repeat(GRAIN / 16)
}

impl History {
    /// How many writes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Demands that `image` (all beyond the written grains is zero or not looked at) is the replay of the first `k`
    /// writes, for one `k`; tells it.
    ///
    /// # Panics
    /// Where it is not, naming the first grain that differs.
    #[must_use]
    pub fn prefix_of(&self, image: &Path, grains: u64) -> u64 {
        let found = numbers(image, grains);
        let k = found.iter().copied().max().unwrap_or(0);
        let mut want = vec![0; found.len()];
        for (i, grain) in self.0.iter().take(usize::try_from(k).expect("small")).enumerate() {
            want[usize::try_from(*grain).expect("small")] = i as u64 + 1;
        }
        if let Some(grain) = (0..want.len()).find(|g| want[*g] != found[*g]) {
            panic!("grain {grain} holds write {}, but at write {k} it held write {}", found[grain], want[grain]);
        }
        k
    }

    /// Demands that each grain of `image` holds what it held after the first `synced` writes, or a later write to it.
    ///
    /// # Panics
    /// Where one does not.
    pub fn survived(&self, image: &Path, grains: u64, synced: u64) {
        let found = numbers(image, grains);
        let mut least = vec![0; found.len()];
        let mut later: Vec<Vec<u64>> = vec![Vec::new(); found.len()];
        for (i, grain) in self.0.iter().enumerate() {
            let (n, grain) = (i as u64 + 1, usize::try_from(*grain).expect("small"));
            if n <= synced { least[grain] = n } else { later[grain].push(n) }
        }
        for grain in 0..found.len() {
            let n = found[grain];
            assert!(
                n == least[grain] || later[grain].contains(&n),
                "grain {grain} holds write {n}; write {} of it was synced",
                least[grain]
            );
        }
    }

    /// Blocks of `block` bytes that were written after the first `k` writes.
    #[must_use]
    pub fn blocks_after(&self, k: u64, block: u64) -> Vec<u64> {
        let after = self.0.iter().skip(usize::try_from(k).expect("small"));
        let set: BTreeMap<u64, ()> = after.map(|g| (g * GRAIN as u64 / block, ())).collect();
        set.into_keys().collect()
    }
}
