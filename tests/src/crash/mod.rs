//! The crash disk: what a set of disks may look like after a power cut at any moment of a run.
//!
//! ```ignore
//! let set = CrashSet::new(3, 64 << 20);            // or CrashSet::over(disks) to go on from any content
//! block_on(async {                                 // run the real code on set.disks(): they are `Disk`s
//!     for n in 1..=100 { commit(&disks, n).await; set.mark(n); }   // mark: "n is acknowledged from here on"
//! });
//! for state in set.states(&mut SeededRandom(7), 8) {
//!     let found = recover(&state.disks).expect(&state.label.to_string());
//!     assert!(found >= state.acknowledged);        // and not more than what was begun
//! }
//! ```
//!
//! The disks share one recorder, so there is one order over all of them: begin and completion of each write, durable
//! write and flush, and the marks. A write begins at its first poll and completes at a later one, so that requests
//! joined by the program really overlap.
//!
//! **What may survive a cut** ([`CrashSet::states`]). Durable for certain: a write that completed before the begin of a
//! flush *of its disk* that completed before the cut, and a durable write that completed before the cut. Everything else
//! that had begun is *open*: it may be there in whole, in part (any subset of its 512-byte sectors), or not at all, each
//! independent of the others, on each disk. Of two overlapping writes the later may cover the earlier, never the reverse,
//! unless both were in flight at once. At each event that changes what may survive:
//! - [`Mode::Prefix`]: for every k, the first k open writes in order: all flush-respecting prefixes;
//! - [`Mode::Subset`]: subsets of the open writes: all of them where there are no more than `per_point`, else so many at random;
//! - [`Mode::Tear`]: one open write torn, the others at random; `per_point` of them.
//!
//! **What a lying disk does** ([`CrashSet::lost`], [`CrashSet::misdirected`]): one write that was durable for certain
//! never landed, or landed at another page of the same disk (and is missing at its own). `State::fault` names it.
//!
//! Invariants: no two states of one iterator have both the same content and the same mark, so their number is honest; a
//! state costs its differences only (pages are shared); a state's disks are plain [`MemDisk`]s that share nothing with
//! the recorder. The same run and seed give the same states.

mod replay;
mod states;
#[cfg(test)]
mod tests;

pub use states::States;

use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::{Disk, DiskResult, admit};
use fusevol_shared::random::SeededRandom;
use fusevol_shared::units::DiskOff;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

/// How a state came about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mode {
    /// The first open writes in order, the rest not.
    Prefix,
    /// Some open writes, whole.
    Subset,
    /// One open write in part, some others whole.
    Tear,
    /// A durable write that never landed.
    Lost,
    /// A durable write that landed elsewhere.
    Misdirected,
}

/// How a state came about, for people: printed with a failure, and found again by the same run and seed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// The way.
    pub mode: Mode,
    /// After so many events of the recording.
    pub cut: usize,
    /// Which writes landed, or what was done to one.
    pub detail: String,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after event {}: {}", self.mode, self.cut, self.detail)
    }
}

/// The write that a lying disk did not do as told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Index of its disk in the set.
    pub disk: usize,
    /// Where it should be.
    pub at: DiskOff,
    /// Its bytes.
    pub len: usize,
    /// Where it landed, if anywhere.
    pub landed: Option<DiskOff>,
}

/// The disks after a crash.
#[derive(Debug)]
pub struct State {
    /// How it came about.
    pub label: Label,
    /// The last mark before the cut; 0 before the first.
    pub acknowledged: u64,
    /// What a lying disk did; `None` for an honest power cut.
    pub fault: Option<Fault>,
    /// One for each disk of the set, in order.
    pub disks: Vec<MemDisk>,
}

/// What happened, in the order over all disks. Numbers are indices into `Log::writes`, or of flushes.
#[derive(Clone, Copy, Debug)]
enum Event {
    WriteBegun(usize),
    WriteDone(usize),
    FlushBegun { flush: usize, disk: usize },
    FlushDone(usize),
    Mark(u64),
}

#[derive(Clone, Debug)]
struct Write {
    disk: usize,
    at: DiskOff,
    data: IoBytes,
    durable: bool,
}

#[derive(Clone, Default, Debug)]
struct Log {
    events: Vec<Event>,
    writes: Vec<Write>,
    flushes: usize,
}

#[derive(Clone, Default, Debug)]
struct Recorder(Arc<Mutex<Log>>);

impl Recorder {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().expect("nothing panics while it records")
    }

    fn event(&self, event: Event) {
        self.log().events.push(event);
    }

    fn write_begun(&self, write: Write) -> usize {
        let mut log = self.log();
        let id = log.writes.len();
        log.writes.push(write);
        log.events.push(Event::WriteBegun(id));
        id
    }

    fn flush_begun(&self, disk: usize) -> usize {
        let mut log = self.log();
        let flush = log.flushes;
        log.flushes += 1;
        log.events.push(Event::FlushBegun { flush, disk });
        flush
    }
}

/// Lets other requests begin before this one completes.
async fn in_flight() {
    let mut begun = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut begun, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A disk whose every write and flush is recorded. A clone is another handle on it.
#[derive(Clone, Debug)]
pub struct CrashDisk {
    recorder: Recorder,
    number: usize,
    live: MemDisk,
}

impl CrashDisk {
    /// What is there now, as the running program sees it.
    #[must_use]
    pub fn live(&self) -> &MemDisk {
        &self.live
    }

    async fn record(&self, at: DiskOff, data: IoBytes, durable: bool) -> DiskResult<()> {
        admit("write", at, &data, self.live.size())?;
        let id = self.recorder.write_begun(Write { disk: self.number, at, data: data.clone(), durable });
        in_flight().await;
        self.live.write(at, data).await?;
        self.recorder.event(Event::WriteDone(id));
        Ok(())
    }
}

impl Disk for CrashDisk {
    fn size(&self) -> u64 {
        self.live.size()
    }

    async fn read(&self, at: DiskOff, buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        self.live.read(at, buf).await
    }

    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.record(at, data, false).await
    }

    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        self.record(at, data, true).await
    }

    async fn flush(&self) -> DiskResult<()> {
        let flush = self.recorder.flush_begun(self.number);
        in_flight().await;
        self.recorder.event(Event::FlushDone(flush));
        Ok(())
    }
}

/// Records what a disk outside of the set does. Each begin is told before the request can have any effect, each end after it has all.
#[derive(Clone, Debug)]
pub struct Observer {
    recorder: Recorder,
    disk: usize,
}

impl Observer {
    /// A write begins.
    #[must_use]
    pub fn write_begun(&self, at: DiskOff, data: IoBytes, durable: bool) -> usize {
        self.recorder.write_begun(Write { disk: self.disk, at, data, durable })
    }

    /// It is done.
    pub fn write_done(&self, id: usize) {
        self.recorder.event(Event::WriteDone(id));
    }

    /// A flush begins.
    #[must_use]
    pub fn flush_begun(&self) -> usize {
        self.recorder.flush_begun(self.disk)
    }

    /// It is done.
    pub fn flush_done(&self, flush: usize) {
        self.recorder.event(Event::FlushDone(flush));
    }
}

/// A set of disks with one recorder.
#[derive(Debug)]
pub struct CrashSet {
    recorder: Recorder,
    start: Vec<MemDisk>,
    disks: Vec<CrashDisk>,
}

impl CrashSet {
    /// `n` disks of `bytes` zero bytes each.
    #[must_use]
    pub fn new(n: usize, bytes: u64) -> Self {
        Self::over((0..n).map(|_| MemDisk::new(bytes)).collect())
    }

    /// Disks that begin with the content that these have now, durable; these themselves are left alone.
    #[must_use]
    pub fn over(disks: Vec<MemDisk>) -> Self {
        let recorder = Recorder::default();
        let handle = |(number, d): (usize, &MemDisk)| CrashDisk { recorder: recorder.clone(), number, live: d.fork() };
        let handles = disks.iter().enumerate().map(handle).collect();
        Self { start: disks.iter().map(MemDisk::fork).collect(), disks: handles, recorder }
    }

    /// Handles for the program under test.
    #[must_use]
    pub fn disks(&self) -> Vec<CrashDisk> {
        self.disks.clone()
    }

    /// For a disk of another kind, which tells what is done to disk number `disk`; its content began as that of the set.
    #[must_use]
    pub fn observer(&self, disk: usize) -> Observer {
        Observer { recorder: self.recorder.clone(), disk }
    }

    /// From here on `n` is acknowledged: states with a later cut carry it.
    pub fn mark(&self, n: u64) {
        self.recorder.event(Event::Mark(n));
    }

    /// Events recorded so far.
    #[must_use]
    pub fn events(&self) -> usize {
        self.recorder.log().events.len()
    }

    /// The states that an honest power cut at any moment of the recording may leave; see the module.
    pub fn states<'r>(&self, random: &'r mut SeededRandom, per_point: usize) -> States<'r> {
        States::power_cuts(self.recorder.log().clone(), &self.start, random, per_point)
    }

    /// Up to `tries` states in which a durable write never landed.
    pub fn lost<'r>(&self, random: &'r mut SeededRandom, tries: usize) -> States<'r> {
        States::lying(self.recorder.log().clone(), &self.start, random, tries, Mode::Lost)
    }

    /// Up to `tries` states in which a durable write landed at another place of its disk.
    pub fn misdirected<'r>(&self, random: &'r mut SeededRandom, tries: usize) -> States<'r> {
        States::lying(self.recorder.log().clone(), &self.start, random, tries, Mode::Misdirected)
    }
}
