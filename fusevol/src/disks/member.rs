//! One disk of the pool, by whichever path it is reached.
//!
//! ```text
//!  I/O --> direct disk --failed, and may be the path's fault--> through the manager
//!   ^                                                                  |
//!   '---- the direct path is back, and it was never sent there --------'
//! ```
//! A flush says from when on it must cover ([`crate::path::lives`]): it goes by a path that was up since then, or it has failed. What goes through the
//! manager and would not outlive the manager's path is written through, so that a path that is lost there is nobody's failed flush.

use crate::path::door::{self, BACK, Door};
use crate::path::lives::Stamp;
use crate::path::{Path, may_be_the_path};
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::{Answer, Disk, DiskError, DiskResult};
use fusevol_shared::ids::{DiskId, VolumeId};
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{DiskNo, DiskOff, VolAu};
use fusevol_shared::wire::data::{Claim, Io, Verb};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// How often one request follows its path back.
const RETURNS: u32 = 64;

/// When a write was submitted that is to be flushed; `None`: it is durable.
pub type Unflushed = Option<Stamp>;

/// An open disk.
pub struct Member<D> {
    no: DiskNo,
    id: DiskId,
    path: Path<D>,
    door: Arc<OnceLock<Arc<dyn Door>>>,
    unreturned: Arc<AtomicBool>,
}

fn comes_and_goes(no: DiskNo) -> DiskError {
    DiskError::answered(libc::EIO, format!("the path to disk {no} comes and goes"))
}

fn is_back(e: &DiskError) -> bool {
    (e.answer, e.errno) == (Answer::Answered, BACK)
}

/// Nobody has a path: it was not asked.
fn is_no_path(e: &DiskError) -> bool {
    (e.answer, e.errno) == (Answer::Answered, libc::ENOTCONN)
}

impl<D: Disk> Member<D> {
    pub(super) fn new(no: DiskNo, id: DiskId, path: Path<D>, door: Arc<OnceLock<Arc<dyn Door>>>, unreturned: Arc<AtomicBool>) -> Self {
        Self { no, id, path, door, unreturned }
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

    /// How it is reached.
    #[must_use]
    pub fn path(&self) -> &Path<D> {
        &self.path
    }

    /// The direct path is back: what waits to be sent through the manager need not.
    pub fn is_back(&self) {
        if let Some(door) = self.door.get() {
            door.release(self.no);
        }
    }

    /// Fills the whole of `buf` from `at`; gives the buffer back in either case.
    pub async fn read(&self, at: DiskOff, mut buf: IoBuf, claim: Claim) -> (DiskResult<()>, IoBuf) {
        for _ in 0..RETURNS {
            let (read, back) = self.read_once(at, buf, claim).await;
            buf = back;
            match read {
                Err(e) if is_back(&e) => {}
                read => return (read, buf),
            }
        }
        (Err(comes_and_goes(self.no)), buf)
    }

    async fn read_once(&self, at: DiskOff, buf: IoBuf, claim: Claim) -> (DiskResult<()>, IoBuf) {
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

    /// Writes all of `data` at `at`. Completion is not durability, unless it says so.
    ///
    /// # Errors
    /// `NotReturned`: it may still land, so its range must be written by nobody.
    pub async fn write(&self, at: DiskOff, data: IoBytes, claim: Claim) -> DiskResult<Unflushed> {
        for _ in 0..RETURNS {
            match self.write_once(at, &data, claim).await {
                Err(e) if is_back(&e) => {}
                done => return done,
            }
        }
        Err(comes_and_goes(self.no))
    }

    async fn write_once(&self, at: DiskOff, data: &IoBytes, claim: Claim) -> DiskResult<Unflushed> {
        let Some(disk) = self.path.direct() else { return Box::pin(self.write_through(Verb::Write, at, data, claim)).await };
        // After the look: this path was known by then.
        let submitted = self.path.lives().now();
        match disk.write(at, data.clone()).await {
            Err(e) if self.redirects(&disk, &e) => {
                drop(disk);
                Box::pin(self.after_failure(e, Verb::Write, at, data, claim)).await
            }
            done => self.noted(done).map(|()| Some(submitted)),
        }
    }

    /// The same, durable once it completes.
    ///
    /// # Errors
    /// As [`Member::write`].
    pub async fn write_durable(&self, at: DiskOff, data: IoBytes, claim: Claim) -> DiskResult<()> {
        for _ in 0..RETURNS {
            match self.write_durable_once(at, &data, claim).await {
                Err(e) if is_back(&e) => {}
                done => return done,
            }
        }
        Err(comes_and_goes(self.no))
    }

    async fn write_durable_once(&self, at: DiskOff, data: &IoBytes, claim: Claim) -> DiskResult<()> {
        let through = async || Box::pin(self.write_through(Verb::WriteDurable, at, data, claim)).await.map(drop);
        let Some(disk) = self.path.direct() else { return through().await };
        match disk.write_durable(at, data.clone()).await {
            Err(e) if self.redirects(&disk, &e) => {
                drop(disk);
                Box::pin(self.after_failure(e, Verb::WriteDurable, at, data, claim)).await.map(drop)
            }
            done => self.noted(done),
        }
    }

    /// A write that has not returned is remembered until the end of the process.
    fn noted<T>(&self, done: DiskResult<T>) -> DiskResult<T> {
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

    async fn after_failure(&self, e: DiskError, verb: Verb, at: DiskOff, data: &IoBytes, claim: Claim) -> DiskResult<Unflushed> {
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
        door::read(door, self.io(Verb::Read, at, claim), buf, || self.path.direct().is_some()).await
    }

    async fn write_through(&self, verb: Verb, at: DiskOff, data: &IoBytes, claim: Claim) -> DiskResult<Unflushed> {
        self.path.redirected(data.len());
        let lasts = self.path.lives().manager_lasts();
        let (verb, unflushed) = match verb {
            Verb::Write if lasts => (verb, Some(self.path.lives().now())),
            _ => (Verb::WriteDurable, None),
        };
        let done = door::write(self.door()?, self.io(verb, at, claim), data, || self.path.direct().is_some()).await;
        self.noted(done).map(|()| unflushed)
    }

    /// For this volume: makes everything durable that was submitted at `since` or later and has completed; counts a failure, so that every volume that has written
    /// before hears of it.
    ///
    /// # Errors
    /// What the disk answered, or that no path is left that was up at `since`: what was written since then may be lost.
    pub async fn flush(&self, since: Stamp, of: VolumeId) -> DiskResult<()> {
        for _ in 0..RETURNS {
            match self.flush_once(since, of).await {
                Err(e) if is_back(&e) => {}
                done => return done,
            }
        }
        Err(comes_and_goes(self.no))
    }

    async fn flush_once(&self, since: Stamp, of: VolumeId) -> DiskResult<()> {
        let (lives, covers) = (self.path.lives(), |up: Stamp| up <= since || !sentence::holds(Tag::P1));
        let mut lost = self.path.direct().is_some();
        if let Some(disk) = self.path.direct()
            && covers(lives.direct())
        {
            match disk.flush().await {
                // Not answered, or of a path that was lost before it was asked.
                Err(e) if self.redirects(&disk, &e) && (e.answer == Answer::NotReturned || e.errno == libc::ENOTCONN) => lost = false,
                // What was answered stands: a failed flush is never made good by another one.
                done => return done.inspect_err(|_| lives.flush_failed()),
            }
        }
        let none = |_| self.uncovered();
        let door = self.door().map_err(|e| if lost { none(e) } else { e })?;
        let back = || self.path.direct().is_some() && covers(lives.direct());
        let claim = Claim::Live { volume: of, au: VolAu(0) };
        let by = door::flush(door, self.io(Verb::Flush, DiskOff(0), claim), back).await.inspect_err(|e| {
            // What was not asked for lack of a path has not failed: others may wait for one.
            if !is_back(e) && !is_no_path(e) {
                lives.flush_failed();
            }
        })?;
        if covers(lives.heard(by)) { Ok(()) } else { Err(self.uncovered()) }
    }

    fn uncovered(&self) -> DiskError {
        let what = format!("flush of disk {}: the connection is lost by which it was written, and no other was up since before", self.no);
        DiskError::answered(libc::EIO, what)
    }
}
