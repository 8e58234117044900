//! The disks of the pool as this process reaches them, by their number: I/O goes by the disk's [`Path`](crate::path).
//!
//! States of a number: *present* (an open disk whose label was checked), *missing* (known to the pool, not found or
//! lost here), *unknown*. The table is swapped as a whole, so that a look-up never waits; it is dense, so that one is an index.
//!
//! [`Dirty`] belongs to one volume: which disks it has written since its last flush. Invariant: a disk is marked after
//! the write has completed and before it is acknowledged; taken before the flush is submitted. What one volume flushes
//! never clears another one's marks.
//!
//! Why a mark may be left out where the bit is set already: the writer looks at the bit after its write has completed. Where it finds it
//! set, the take that clears that bit comes after the look (both are `SeqCst` on one word), so the flush that follows the take is submitted
//! after the write's completion, and covers it. Where it finds it clear it sets it, as ever.

use crate::path::door::{self, Door};
use crate::path::{Path, may_be_the_path};
use arc_swap::ArcSwap;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Answer, Disk, DiskError, DiskResult};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::ids::DiskId;
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{DiskNo, DiskOff};
use fusevol_shared::wire::data::{Claim, Io, Verb};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// An open disk, with its history of failed flushes.
pub struct Member<D> {
    no: DiskNo,
    id: DiskId,
    path: Path<D>,
    door: Arc<OnceLock<Arc<dyn Door>>>,
    unreturned: Arc<AtomicBool>,
    failed_flushes: AtomicU64,
}

impl<D: Disk> Member<D> {
    /// How it is reached.
    #[must_use]
    pub fn path(&self) -> &Path<D> {
        &self.path
    }

    /// Fills the whole of `buf` from `at`; gives the buffer back in either case.
    pub async fn read(&self, at: DiskOff, buf: IoBuf, claim: Claim) -> (DiskResult<()>, IoBuf) {
        let Some(disk) = self.path.direct() else { return Box::pin(self.read_through(at, buf, claim)).await };
        let (read, buf) = disk.read(at, buf).await;
        match read {
            // A read may be sent again at once: one that is late changes nothing.
            Err(e) if self.redirects(&disk, &e) => {
                drop(disk);
                Box::pin(self.read_through(at, buf, claim)).await
            }
            read => (read, buf),
        }
    }

    /// Writes all of `data` at `at`. Completion is not durability.
    ///
    /// # Errors
    /// `NotReturned`: it may still land, so its range must be written by nobody.
    pub async fn write(&self, at: DiskOff, data: IoBytes, claim: Claim) -> DiskResult<()> {
        let Some(disk) = self.path.direct() else { return Box::pin(self.write_through(Verb::Write, at, &data, claim)).await };
        match disk.write(at, data.clone()).await {
            Err(e) if self.redirects(&disk, &e) => {
                drop(disk);
                Box::pin(self.after_failure(e, Verb::Write, at, &data, claim)).await
            }
            done => self.noted(done),
        }
    }

    /// The same, durable once it completes.
    ///
    /// # Errors
    /// As [`Member::write`].
    pub async fn write_durable(&self, at: DiskOff, data: IoBytes, claim: Claim) -> DiskResult<()> {
        let Some(disk) = self.path.direct() else { return Box::pin(self.write_through(Verb::WriteDurable, at, &data, claim)).await };
        match disk.write_durable(at, data.clone()).await {
            Err(e) if self.redirects(&disk, &e) => {
                drop(disk);
                Box::pin(self.after_failure(e, Verb::WriteDurable, at, &data, claim)).await
            }
            done => self.noted(done),
        }
    }

    /// A write that has not returned is remembered until the end of the process.
    fn noted(&self, done: DiskResult<()>) -> DiskResult<()> {
        if done.as_ref().is_err_and(|e| e.answer == Answer::NotReturned) {
            self.unreturned.store(true, Ordering::SeqCst);
        }
        done
    }

    /// Whether what failed goes through the manager from now on.
    fn redirects(&self, disk: &Arc<D>, e: &DiskError) -> bool {
        if self.door.get().is_none() || !may_be_the_path(e) {
            return false;
        }
        self.path.failed(disk, e);
        true
    }

    async fn after_failure(&self, e: DiskError, verb: Verb, at: DiskOff, data: &IoBytes, claim: Claim) -> DiskResult<()> {
        if e.answer == Answer::NotReturned && sentence::holds(Tag::P1) {
            return self.noted(Err(e));
        }
        self.write_through(verb, at, data, claim).await
    }

    fn io(&self, verb: Verb, at: DiskOff, claim: Claim) -> Io {
        Io { verb, disk: self.no, at, len: 0, claim }
    }

    fn door(&self) -> DiskResult<&dyn Door> {
        let none = || DiskError::answered(libc::ENXIO, format!("disk {} has no path", self.no));
        self.door.get().map(|d| &**d).ok_or_else(none)
    }

    async fn read_through(&self, at: DiskOff, buf: IoBuf, claim: Claim) -> (DiskResult<()>, IoBuf) {
        let door = match self.door() {
            Ok(door) => door,
            Err(e) => return (Err(e), buf),
        };
        self.path.redirected(buf.len());
        door::read(door, self.io(Verb::Read, at, claim), buf).await
    }

    async fn write_through(&self, verb: Verb, at: DiskOff, data: &IoBytes, claim: Claim) -> DiskResult<()> {
        self.path.redirected(data.len());
        self.noted(door::write(self.door()?, self.io(verb, at, claim), data).await)
    }

    async fn flush_anyhow(&self) -> DiskResult<()> {
        if let Some(disk) = self.path.direct() {
            match disk.flush().await {
                Err(e) if self.redirects(&disk, &e) && e.answer == Answer::NotReturned => {}
                // What was answered stands: a failed flush is never made good by another one.
                done => return done,
            }
        }
        door::flush(self.door()?, self.io(Verb::Flush, DiskOff(0), Claim::Slot)).await
    }

    /// Its number.
    #[must_use]
    pub fn no(&self) -> DiskNo {
        self.no
    }

    /// What its label says.
    #[must_use]
    pub fn id(&self) -> DiskId {
        self.id
    }

    /// Flushes, and counts a failure: every volume that has written to the disk hears of it.
    ///
    /// # Errors
    /// What the disk answered.
    pub async fn flush(&self) -> DiskResult<()> {
        let result = self.flush_anyhow().await;
        if result.is_err() {
            self.failed_flushes.fetch_add(1, Ordering::SeqCst);
        }
        result
    }

    /// How many flushes have failed, by anyone.
    #[must_use]
    pub fn failed_flushes(&self) -> u64 {
        self.failed_flushes.load(Ordering::SeqCst)
    }
}

enum State<D> {
    Present(Arc<Member<D>>),
    Missing(String),
}

impl<D> Clone for State<D> {
    fn clone(&self) -> Self {
        match self {
            State::Present(m) => State::Present(m.clone()),
            State::Missing(why) => State::Missing(why.clone()),
        }
    }
}

/// By number; `None` is unknown. As long as the greatest number that is known.
type Table<D> = Vec<Option<State<D>>>;

/// The table of disks.
pub struct Disks<D> {
    table: ArcSwap<Table<D>>,
    /// The way through the manager; none where there is none.
    door: Arc<OnceLock<Arc<dyn Door>>>,
    moved: Arc<Notify>,
    unreturned: Arc<AtomicBool>,
}

impl<D> Default for Disks<D> {
    fn default() -> Self {
        Self { table: ArcSwap::from_pointee(Vec::new()), door: Arc::default(), moved: Arc::default(), unreturned: Arc::default() }
    }
}

impl<D: Disk> Disks<D> {
    /// No disk at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What fails on its own path goes this way from now on. The first one stays.
    pub fn redirect_by(&self, door: Arc<dyn Door>) {
        // A second one is left alone.
        let _ = self.door.set(door);
    }

    /// Whether a write of this process was not answered: it may still land, so nobody can say that all of it is drained.
    #[must_use]
    pub fn has_unreturned(&self) -> bool {
        self.unreturned.load(Ordering::SeqCst)
    }

    /// Told whenever a path has failed.
    #[must_use]
    pub fn moved(&self) -> Arc<Notify> {
        self.moved.clone()
    }

    /// `no` is this open disk from now on; its label says `id`.
    pub fn set_present(&self, no: DiskNo, id: DiskId, disk: Arc<D>) {
        self.set_member(no, id, Path::new(disk, self.moved.clone()));
    }

    /// `no`, whose label says `id`, is not reached from here for now: its I/O goes through the manager; `why` is for people.
    pub fn set_unreached(&self, no: DiskNo, id: DiskId, why: String) {
        self.set_member(no, id, Path::lost(why, self.moved.clone()));
    }

    fn set_member(&self, no: DiskNo, id: DiskId, path: Path<D>) {
        let (door, unreturned) = (self.door.clone(), self.unreturned.clone());
        let member = Arc::new(Member { no, id, path, door, unreturned, failed_flushes: AtomicU64::new(0) });
        self.change(no, State::Present(member));
    }

    /// `no` belongs to the pool but cannot be used here; `why` is for people.
    pub fn set_missing(&self, no: DiskNo, why: impl Into<String>) {
        self.change(no, State::Missing(why.into()));
    }

    fn change(&self, no: DiskNo, state: State<D>) {
        self.table.rcu(|t| {
            let mut t = Table::clone(t);
            let at = usize::from(no.0);
            if t.len() <= at {
                t.resize(at + 1, None);
            }
            t[at] = Some(state.clone());
            t
        });
    }

    /// The disk `no`. It stays open until what is given here is dropped, whatever becomes of the table meanwhile.
    ///
    /// # Errors
    /// `Io` where it is missing or unknown.
    pub fn get(&self, no: DiskNo) -> Result<Arc<Member<D>>> {
        match self.table.load().get(usize::from(no.0)).and_then(Option::as_ref) {
            Some(State::Present(m)) => Ok(m.clone()),
            Some(State::Missing(why)) => Err(Error::new(Kind::Io, format!("disk {no} is missing: {why}"))),
            None => Err(Error::new(Kind::Io, format!("disk {no} is not known here"))),
        }
    }

    /// The disks that are missing, with the reason.
    #[must_use]
    pub fn missing(&self) -> Vec<(DiskNo, String)> {
        let table = self.table.load();
        let states = (0u16..=u16::MAX).map(DiskNo).zip(table.iter());
        states.filter_map(|(no, s)| if let Some(State::Missing(why)) = s { Some((no, why.clone())) } else { None }).collect()
    }

    /// The disks that are present.
    #[must_use]
    pub fn present(&self) -> Vec<Arc<Member<D>>> {
        self.table.load().iter().filter_map(|s| if let Some(State::Present(m)) = s { Some(m.clone()) } else { None }).collect()
    }
}

/// The disk's answer as an error of the I/O that it hit.
#[must_use]
pub fn io_error(no: DiskNo, e: DiskError) -> Error {
    Error::new(Kind::Io, format!("disk {no}")).because(e)
}

/// Disks with unflushed writes of one volume: one bit a disk.
pub struct Dirty(Box<[AtomicU64]>);

const WORDS: usize = (u16::MAX as usize + 1) / 64;

impl Default for Dirty {
    fn default() -> Self {
        Self((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Dirty {
    /// A write to `no` has completed.
    pub fn mark(&self, no: DiskNo) {
        let (word, bit) = (&self.0[usize::from(no.0 / 64)], 1u64 << (no.0 % 64));
        // All writers of a disk meet on this word: most find the bit set and leave it alone (see the head of this file).
        if word.load(Ordering::SeqCst) & bit == 0 {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Takes all marks.
    #[must_use]
    pub fn take(&self) -> Vec<DiskNo> {
        let mut out = Vec::new();
        for (i, word) in (0u16..).zip(self.0.iter()) {
            if word.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                out.push(DiskNo(i * 64 + u16::try_from(bits.trailing_zeros()).unwrap_or(0)));
                bits &= bits - 1;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests;
