//! A load that describes itself: threads that write, discard, read and sync a volume through its mount, and an oracle
//! that knows what may be there after any cut.
//!
//! ```text
//! Oracle::new -> Load::start -> frame (a snapshot, beside) ------> finish -> Oracle
//!                    ^     |    verify (all threads stand still) -> wreck --> Oracle (after a kill) -> Oracle::verify
//!                    +-----+----------------------------------------------------------------------------+
//! ```
//!
//! The threads live in the test's process: the kill of a mount ends their life with an error, the oracle stays. One thread
//! writes one set of places ([`places`]), so each sector has one order of writes. Each also reads its own places back.
//!
//! Invariant: an entry is in its log before its write is submitted, and counts as answered only after the answer.

mod frame;
mod memory;
mod oracle;
mod places;
mod sector;

pub use frame::Frame;
pub use oracle::Oracle;
pub use places::SPAN;

use fusevol_shared::random::SeededRandom;
use memory::Memory;
use oracle::{Entry, Log, Version};
use places::{Act, Run};
use rustix::fs::FallocateFlags;
use sector::{SECTOR, Stamp};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads of a load.
pub const THREADS: u64 = 4;
/// What an error begins with that an fsync has given.
pub const SYNC: &str = "fsync";
const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);

/// A running load.
pub struct Load {
    image: PathBuf,
    oracle: Oracle,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
struct Shared {
    stop: AtomicBool,
    /// Held for reading during an act; who holds it for writing has them all stand still.
    gate: RwLock<()>,
    clock: AtomicU64,
    version: AtomicU64,
    /// Longest act so far, microseconds.
    slowest: AtomicU64,
    logs: Vec<Mutex<Log>>,
}

impl Shared {
    fn log(&self, thread: u64) -> MutexGuard<'_, Log> {
        // A thread that panicked has said so; its log is whole at every step.
        self.logs[usize::try_from(thread).expect("few")].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn logs(&self) -> Vec<Log> {
        (0..THREADS).map(|t| self.log(t).clone()).collect()
    }
}

impl Load {
    /// Starts the threads on `image`, which the oracle knows; the seed makes the acts.
    ///
    /// # Panics
    /// Where the image does not open, or the oracle's last life was cut off and is not verified.
    #[must_use]
    pub fn start(image: &Path, oracle: Oracle, seed: u64) -> Self {
        Self::with(image, oracle, seed, true)
    }

    /// The same without discards: once it has written everywhere it needs no new space.
    ///
    /// # Panics
    /// As `start`.
    #[must_use]
    pub fn in_place(image: &Path, oracle: Oracle, seed: u64) -> Self {
        Self::with(image, oracle, seed, false)
    }

    fn with(image: &Path, mut oracle: Oracle, seed: u64, discards: bool) -> Self {
        oracle.life += 1;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            gate: RwLock::new(()),
            clock: AtomicU64::new(1),
            version: AtomicU64::new(oracle.version + 1),
            slowest: AtomicU64::new(0),
            logs: (0..THREADS).map(|_| Mutex::default()).collect(),
        });
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(image);
        let file = Arc::new(file.unwrap_or_else(|e| panic!("{} does not open for writing: {e}", image.display())));
        let (versions, seen) = (oracle.versions(), Arc::new(oracle.clone()));
        let threads = (0..THREADS).map(|thread| {
            let mut worker = Worker {
                thread,
                file: file.clone(),
                oracle: seen.clone(),
                shared: shared.clone(),
                random: SeededRandom(seed.wrapping_mul(64).wrapping_add(thread)),
                discards,
                mine: versions.clone(),
                buf: Memory::new(thread),
            };
            std::thread::spawn(move || worker.live())
        });
        let threads = threads.collect();
        Self { image: image.to_owned(), oracle, shared, threads }
    }

    /// How many acts were answered.
    #[must_use]
    pub fn acked(&self) -> u64 {
        (0..THREADS).map(|t| self.shared.log(t).acked as u64).sum()
    }

    /// The longest act since the last question.
    #[must_use]
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.shared.slowest.swap(0, Ordering::Relaxed))
    }

    /// The oracle as it was at the start, to look at what stands still (snapshots).
    #[must_use]
    pub fn oracle(&self) -> Oracle {
        self.oracle.clone()
    }

    /// What has ended threads.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        (0..THREADS).filter_map(|t| self.shared.log(t).error.clone()).collect()
    }

    /// What ended a thread, if anything did.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        (0..THREADS).find_map(|t| self.shared.log(t).error.clone())
    }

    /// Runs `take`, which takes snapshot `name`, beside the load.
    pub fn frame(&self, name: &str, take: impl FnOnce()) -> Frame {
        let at: Vec<usize> = (0..THREADS).map(|t| self.shared.log(t).acked).collect();
        take();
        let logs = self.shared.logs();
        let mut then = self.oracle.clone();
        let known: Vec<Log> = logs.iter().zip(&at).map(|(log, acked)| Log { acked: *acked, ..log.clone() }).collect();
        then.settle(&known);
        let window = logs.iter().zip(&at).flat_map(|(log, acked)| log.entries[*acked..].iter().copied());
        Frame::new(name, then.versions(), window.collect())
    }

    /// Lets the threads stand still, and demands that the volume holds exactly what was answered last.
    ///
    /// # Panics
    /// Where it does not, or a thread has failed.
    pub fn verify(&mut self, when: &str) {
        let shared = self.shared.clone();
        let _still = shared.gate.write().unwrap_or_else(PoisonError::into_inner);
        let logs = self.shared.logs();
        failed(&logs, when);
        let mut now = self.oracle.clone();
        now.version = self.shared.version.load(Ordering::SeqCst);
        now.settle(&logs);
        now.verify(when, &self.image);
        self.oracle.verified = now.verified;
    }

    /// Ends the load in order.
    ///
    /// # Panics
    /// If a thread has failed.
    #[must_use]
    pub fn finish(self) -> Oracle {
        let (mut oracle, logs) = self.join();
        failed(&logs, "at the end of the load");
        oracle.settle(&logs);
        oracle
    }

    /// Ends the load after its volume was taken away.
    ///
    /// # Panics
    /// If a thread had read what cannot be there.
    #[must_use]
    pub fn wreck(self) -> Oracle {
        let (mut oracle, logs) = self.join();
        oracle.cut(&logs);
        oracle
    }

    fn join(self) -> (Oracle, Vec<Log>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a thread of the load ran");
        }
        let logs = self.shared.logs();
        // An fsync that has failed says that what all threads have written may be lost, and be read so before they stop.
        let lost = logs.iter().any(|l| l.error.as_ref().is_some_and(|e| e.starts_with(SYNC)));
        let wrong: Vec<_> = logs.iter().filter_map(|l| l.wrong.clone()).filter(|_| !lost).collect();
        oracle::complain("a thread of the load has read back", &wrong);
        let mut oracle = self.oracle;
        oracle.version = self.shared.version.load(Ordering::SeqCst);
        (oracle, logs)
    }
}

fn failed(logs: &[Log], when: &str) {
    if let Some(e) = logs.iter().find_map(|l| l.wrong.as_ref().or(l.error.as_ref())) {
        panic!("{when}: the load failed: {e}");
    }
}

/// One thread.
struct Worker {
    thread: u64,
    file: Arc<File>,
    oracle: Arc<Oracle>,
    shared: Arc<Shared>,
    random: SeededRandom,
    discards: bool,
    /// What the volume must hold where this thread writes; of no meaning elsewhere.
    mine: Vec<Version>,
    /// What is read into and written from.
    buf: Memory,
}

impl Worker {
    fn live(&mut self) {
        let shared = self.shared.clone();
        // One thread syncs often, in some lives: the others' writes are under way then. In other lives much is at stake.
        let every = [[12, 12, 200], [48, 100, 400]][usize::from(self.thread > 0)][usize::try_from(self.random.below(3)).expect("small")];
        let mut acts = 0u64;
        while !shared.stop.load(Ordering::Relaxed) {
            let still = shared.gate.read().unwrap_or_else(PoisonError::into_inner);
            acts += 1;
            let syncs = acts.is_multiple_of(every);
            let (done, took) = super::wait::timed(|| if syncs { self.sync() } else { self.act() });
            shared.slowest.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            drop(still);
            if let Err(e) = done {
                shared.log(self.thread).error = Some(if syncs { format!("{SYNC}: {e}") } else { e.to_string() });
                return;
            }
            // So that who waits at the gate gets it.
            std::thread::yield_now();
        }
    }

    fn act(&mut self) -> io::Result<()> {
        let (act, run) = places::next(&mut self.random, self.thread, THREADS);
        let len = usize::try_from(run.bytes()).expect("small");
        let act = if act == Act::Discard && !self.discards { Act::Write } else { act };
        match act {
            Act::Read => {
                self.file.read_exact_at(self.buf.first(len), run.offset())?;
                self.compare(run)
            }
            Act::Write => {
                let version = self.begin(run, act);
                let buf = self.buf.first(len);
                for (i, sector) in buf.chunks_exact_mut(SECTOR).enumerate() {
                    let (volume, life) = (self.oracle.volume, self.oracle.life);
                    let writer = u32::try_from(self.thread).expect("few");
                    Stamp { volume, address: run.first + i as u64, seq: version, writer, life }.put(sector);
                }
                self.file.write_all_at(buf, run.offset())?;
                self.end(run, version);
                Ok(())
            }
            Act::Discard => {
                let version = self.begin(run, act);
                rustix::fs::fallocate(&*self.file, PUNCH, run.offset(), run.bytes())?;
                self.end(run, version);
                Ok(())
            }
        }
    }

    fn begin(&mut self, run: Run, act: Act) -> Version {
        let version = if act == Act::Write { self.shared.version.fetch_add(1, Ordering::SeqCst) } else { 0 };
        let mut log = self.shared.log(self.thread);
        log.entries.push(Entry { run, version, act, began: self.shared.tick(), ended: u64::MAX });
        version
    }

    fn end(&mut self, run: Run, version: Version) {
        let mut log = self.shared.log(self.thread);
        log.acked = log.entries.len();
        let ended = self.shared.tick();
        log.entries.last_mut().expect("it was begun").ended = ended;
        self.mine[run.range()].fill(version);
    }

    fn compare(&mut self, run: Run) -> io::Result<()> {
        let len = usize::try_from(run.bytes()).expect("small");
        for (at, sector) in run.range().zip(self.buf.first(len).chunks_exact(SECTOR)) {
            let found = self.oracle.version_of(sector, at as u64);
            if found != Ok(self.mine[at]) {
                let sentence = format!("sector {at} holds {found:?}, it must hold {}", self.mine[at]);
                self.shared.log(self.thread).wrong = Some(sentence.clone());
                return Err(io::Error::other(sentence));
            }
        }
        Ok(())
    }

    /// Everything that any thread was answered before this began is durable after it.
    fn sync(&mut self) -> io::Result<()> {
        let answered: Vec<usize> = (0..THREADS).map(|t| self.shared.log(t).acked).collect();
        self.file.sync_data()?;
        for (thread, answered) in (0..THREADS).zip(answered) {
            let mut log = self.shared.log(thread);
            log.durable = log.durable.max(answered);
        }
        Ok(())
    }
}
