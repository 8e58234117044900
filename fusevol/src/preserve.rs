//! The preserve log: where the old bytes of blocks go before they are overwritten, for the snapshots that need them.
//!
//! The writer ([`PreserveLog`]): everyone who must preserve queues the old blocks; one of them leads, lays all that wait
//! into one record (a page of what and checksums, then the bytes), writes it durable on every leg, lets the owners of
//! its blocks go on, and takes the next. So at most one record is in flight, and a record is durable only when all
//! before it are (PROTOCOL.md, J2).
//!
//! A segment is *current* (takes records), *closing* (takes none any more: its successor's page is being written), then
//! closed. A record that failed makes its segment closing: the log goes on in a fresh one, and the same blocks are
//! appended again there. A successor's page that failed is written again before anything else: a reader may follow it.
//!
//! [`log_reader`] is the other side.

pub mod log_reader;
mod record;

use crate::disks::Disks;
use crate::lease::Lease;
use crate::out::OutSet;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBytes;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::format::preserve::{LogId, Successor, record_len, room};
use fusevol_shared::ids::{FenceToken, PoolId, Seq, SessionNo, VolumeId};
use fusevol_shared::units::{AuSize, DiskAu, DiskNo};
use fusevol_shared::wire::messages::Segment;
use futures_util::future::{Either, join, select};
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// How often a record is tried, in a fresh segment each, before its owners get the error: the paths to two disks may fail one after the other.
const TRIES: u32 = 3;
/// Below this many blocks of room the next segment is asked for.
const LOW: u32 = 16;

/// The old bytes of one block.
#[derive(Clone)]
pub struct Old {
    /// Its AU, by its name in the live map: where its first leg lies.
    pub at: DiskAu,
    /// The block in it.
    pub block: u32,
    /// Its bytes.
    pub data: IoBytes,
}

type Done = oneshot::Sender<std::result::Result<(), WireError>>;

struct Job {
    old: Vec<Old>,
    done: Done,
}

/// Where the log stands. Only the leader has it.
struct Writer {
    current: Option<Segment>,
    /// Its legs that have all its records: none that was out when one was written.
    legs: Vec<DiskAu>,
    /// Where the next record goes.
    pos: u64,
    /// Records that count in the current segment.
    records: u32,
    /// The last record's number.
    seq: Seq,
    /// Granted ahead.
    spare: Option<Segment>,
    /// What follows the current segment, in order: its successor's page names the first, or is about to. While there is one it takes no record.
    closing: VecDeque<Segment>,
    /// A record of the current segment did not come to its end.
    broken: bool,
}

/// Whose log it is.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Whose {
    pub pool: PoolId,
    pub volume: VolumeId,
    pub session: SessionNo,
    pub token: FenceToken,
}

/// The preserve log of one attachment.
pub struct PreserveLog {
    pool: PoolId,
    volume: VolumeId,
    session: SessionNo,
    token: FenceToken,
    size: AuSize,
    waiting: Mutex<VecDeque<Job>>,
    writer: tokio::sync::Mutex<Writer>,
    /// Blocks that were preserved.
    blocks: AtomicU64,
    /// Places to which a record or a page was written that did not come to its end: it may still land.
    late: Mutex<Vec<DiskAu>>,
    /// Disks on which a record failed.
    bad: Mutex<Vec<DiskNo>>,
    /// Legs there are not written.
    out: Arc<OutSet>,
}

impl PreserveLog {
    /// A log that begins in `first`; without one, the first segment is asked for when it is needed.
    #[must_use]
    pub fn new(log: Whose, size: AuSize, first: Option<Segment>, out: Arc<OutSet>) -> Self {
        let Whose { pool, volume, session, token } = log;
        let legs = first.as_ref().map_or(Vec::new(), |s| usable(&out, &s.legs));
        let writer = Writer { current: first, legs, pos: 0, records: 0, seq: Seq(0), spare: None, closing: VecDeque::new(), broken: false };
        Self {
            pool,
            volume,
            session,
            token,
            size,
            waiting: Mutex::default(),
            writer: tokio::sync::Mutex::new(writer),
            blocks: AtomicU64::new(0),
            late: Mutex::default(),
            bad: Mutex::default(),
            out,
        }
    }

    /// Returns when all of `old` is durable on every leg, and so is all that was appended before. `grant` gets the
    /// next segment from the manager.
    ///
    /// # Errors
    /// `Io` where the log's disks failed, `NoSpace` where it cannot grow: then the blocks must not be overwritten.
    pub async fn preserve<D: Disk>(
        &self,
        disks: &Disks<D>,
        lease: &Lease,
        old: Vec<Old>,
        grant: impl AsyncFn() -> Result<Segment>,
    ) -> Result<()> {
        let (tx, rx) = oneshot::channel();
        self.waiting().push_back(Job { old, done: tx });
        let mut rx = pin!(rx);
        let broken_off = || Error::new(Kind::Io, "preserving was broken off");
        let mut writer = match select(rx.as_mut(), pin!(self.writer.lock())).await {
            Either::Left((done, _)) => return done.map_err(|_| broken_off())?.map_err(Error::from),
            Either::Right((writer, _)) => writer,
        };
        // Leads until its own blocks are durable; each turn makes at least one block so, or fails someone.
        loop {
            match rx.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => self.lead(&mut writer, disks, lease, &grant).await,
                Ok(done) => return done.map_err(Error::from),
                Err(oneshot::error::TryRecvError::Closed) => return Err(broken_off()),
            }
        }
    }

    /// Begins a new epoch: everything from now on goes to `first`, which the current segment names as its successor.
    /// Nobody preserves meanwhile: the caller holds all writes.
    ///
    /// # Errors
    /// `Io` where the current segment's successor page could not be written.
    pub async fn flip<D: Disk>(&self, disks: &Disks<D>, first: Segment) -> Result<()> {
        let mut w = self.writer.lock().await;
        self.follow(&mut w, first);
        self.settle_all(&mut w, disks).await
    }

    /// The same, but nothing is written: the page of the current segment is, before anything is preserved.
    pub async fn flip_later(&self, first: Segment) {
        let mut w = self.writer.lock().await;
        self.follow(&mut w, first);
    }

    /// `first` is where the log goes on, after all that may be named on a leg already: a reader that is there finds its way from there only.
    fn follow(&self, w: &mut Writer, first: Segment) {
        if w.current.is_none() {
            return self.begin(w, first);
        }
        // What was kept as the next one is passed through, so that it is closed, and may be copied.
        w.closing.extend(w.spare.take());
        w.closing.push_back(first);
    }

    /// Whether the current segment has fewer legs than so many.
    pub async fn has_fewer_legs(&self, copies: u8) -> bool {
        self.is_short(&*self.writer.lock().await, copies)
    }

    /// Goes over to a segment with so many legs where the current one has fewer: what that has no more is copied once it is closed.
    ///
    /// # Errors
    /// What `grant` says; `Io` where the current segment's successor page could not be written.
    pub async fn heal<D: Disk>(&self, copies: u8, disks: &Disks<D>, grant: impl AsyncFn() -> Result<Segment>) -> Result<()> {
        let mut w = self.writer.lock().await;
        self.settle_all(&mut w, disks).await?;
        // The one that is kept as the next one may have too few, too: it is passed through, so that it is closed.
        for _ in 0..2 {
            if self.is_short(&w, copies) {
                self.go_over(&mut w, disks, &grant).await?;
            }
        }
        Ok(())
    }

    /// There is no space for the next segment: says on disk that the log ends here, in the place that was kept for the successor. Readers
    /// find it there and give errors from then on. Nothing is preserved before the next flip.
    ///
    /// # Errors
    /// `Io` where it could not be written on every leg; nothing may be overwritten then.
    pub async fn break_off<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        let mut w = self.writer.lock().await;
        self.settle_all(&mut w, disks).await?;
        if let Some(current) = &w.current {
            let done = record::break_off(disks, self.size, &self.log_id(current), &usable(&self.out, &w.legs), w.seq.next()).await;
            self.done(done)?;
        }
        w.current = None;
        Ok(())
    }

    /// Takes the places of segments to which something may still be written.
    #[must_use]
    pub fn take_late(&self) -> Vec<DiskAu> {
        std::mem::take(&mut self.late.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Blocks that were preserved.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// One record, with what it needs before it.
    async fn lead<D: Disk>(&self, w: &mut Writer, disks: &Disks<D>, lease: &Lease, grant: &impl AsyncFn() -> Result<Segment>) {
        if let Err(e) = self.make_room(w, disks, grant).await {
            self.fail_all(&e);
            return;
        }
        let (batch, finished, begun) = self.gather(room(self.size, w.pos));
        if batch.is_empty() {
            return;
        }
        let mut result = Ok(());
        for _ in 0..TRIES {
            result = self.append(w, disks, lease, &batch, grant).await;
            if result.is_ok() {
                break;
            }
            if let Err(e) = self.make_room(w, disks, grant).await {
                result = Err(e);
                break;
            }
        }
        if let Err(e) = &result {
            // A job of which a part failed is not preserved as a whole.
            if let Some(partial) = begun.then(|| self.waiting().pop_front()).flatten() {
                let _ = partial.done.send(Err(WireError::from(e)));
            }
        }
        for done in finished {
            let _ = done.send(result.as_ref().copied().map_err(WireError::from)); // who gave up does not listen
        }
    }

    async fn append<D: Disk>(
        &self,
        w: &mut Writer,
        disks: &Disks<D>,
        lease: &Lease,
        batch: &[Old],
        grant: &impl AsyncFn() -> Result<Segment>,
    ) -> Result<()> {
        lease.wait().await?;
        let segment = w.current.clone().expect("make_room has begun one");
        let blocks = u32::try_from(batch.len()).expect("bounded by room");
        let after = w.pos + record_len(self.size, blocks);
        let low = w.spare.is_none() && room(self.size, after) < LOW;
        w.broken = true; // until it is known to be durable
        let log = self.log_id(&segment);
        // For ever: what a leg has missed it misses, also when its disk is not out any more.
        w.legs = usable(&self.out, &w.legs);
        let legs = w.legs.clone();
        let write = record::append(disks, self.size, &log, &legs, w.pos, w.seq.next(), batch);
        let ahead = async { if low { grant().await.ok() } else { None } };
        let (written, spare) = join(write, ahead).await;
        w.spare = w.spare.take().or(spare.filter(|s| s.epoch >= segment.epoch));
        if written.is_err() {
            self.is_late(&segment);
        }
        self.done(written)?;
        self.blocks.fetch_add(u64::from(blocks), Ordering::Relaxed);
        w.broken = false;
        w.pos = after;
        w.records += 1;
        w.seq = w.seq.next();
        Ok(())
    }

    /// Makes sure that the current segment takes a record of at least one block.
    async fn make_room<D: Disk>(&self, w: &mut Writer, disks: &Disks<D>, grant: &impl AsyncFn() -> Result<Segment>) -> Result<()> {
        self.settle_all(w, disks).await?;
        if w.current.is_some() && !w.broken && room(self.size, w.pos) > 0 {
            return Ok(());
        }
        self.go_over(w, disks, grant).await
    }

    /// Ends the current segment and begins the next one.
    async fn go_over<D: Disk>(&self, w: &mut Writer, disks: &Disks<D>, grant: &impl AsyncFn() -> Result<Segment>) -> Result<()> {
        let next = match w.spare.take() {
            Some(s) => s,
            None => grant().await?,
        };
        let Some(current) = &w.current else {
            self.begin(w, next);
            return Ok(());
        };
        if next.epoch < current.epoch {
            return Err(Error::new(Kind::Internal, "the manager granted a preserve segment of an earlier epoch"));
        }
        w.closing.push_back(next);
        self.settle_all(w, disks).await
    }

    /// Comes to the segment that is last in the row.
    async fn settle_all<D: Disk>(&self, w: &mut Writer, disks: &Disks<D>) -> Result<()> {
        while !w.closing.is_empty() {
            self.close(w, disks).await?;
        }
        Ok(())
    }

    /// Writes the successor's page of the current segment and goes over to it.
    async fn close<D: Disk>(&self, w: &mut Writer, disks: &Disks<D>) -> Result<()> {
        let (Some(current), Some(next)) = (&w.current, w.closing.front()) else { return Ok(()) };
        let successor = Successor { next: self.log_id(next), legs: usable(&self.out, &next.legs), records: w.records };
        let done = record::close(disks, self.size, &self.log_id(current), &usable(&self.out, &w.legs), w.seq.next(), &successor).await;
        if done.is_err() {
            self.is_late(current);
        }
        self.done(done)?;
        if let Some(next) = w.closing.pop_front() {
            self.begin(w, next);
        }
        Ok(())
    }

    fn is_late(&self, segment: &Segment) {
        self.late.lock().unwrap_or_else(PoisonError::into_inner).extend(&segment.legs);
    }

    /// Writes the successor's page that is owed. The manager keeps the last segments of the epochs before for it until the next flip, not longer: before that
    /// one is appended it is written.
    ///
    /// # Errors
    /// `Io` where it could not be.
    pub async fn settle<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        self.settle_all(&mut *self.writer.lock().await, disks).await
    }

    /// Whether a page is owed.
    pub async fn is_owing(&self) -> bool {
        !self.writer.lock().await.closing.is_empty()
    }

    /// Up to `room` blocks from the queue, who is done once they are durable, and whether of the job that is first now
    /// a part is among them.
    fn gather(&self, room: u32) -> (Vec<Old>, Vec<Done>, bool) {
        let (mut batch, mut finished) = (Vec::new(), Vec::new());
        let mut left = room as usize;
        let mut waiting = self.waiting();
        while let Some(job) = waiting.front_mut().filter(|_| left > 0) {
            if job.old.len() > left {
                batch.extend(job.old.drain(..left));
                return (batch, finished, true);
            }
            left -= job.old.len();
            if let Some(job) = waiting.pop_front() {
                batch.extend(job.old);
                finished.push(job.done);
            }
        }
        (batch, finished, false)
    }

    fn fail_all(&self, e: &Error) {
        let jobs = std::mem::take(&mut *self.waiting());
        for job in jobs {
            let _ = job.done.send(Err(WireError::from(e)));
        }
    }

    fn begin(&self, w: &mut Writer, segment: Segment) {
        w.legs = usable(&self.out, &segment.legs);
        (w.current, w.pos, w.records, w.broken) = (Some(segment), 0, 0, false);
    }

    fn is_short(&self, w: &Writer, copies: u8) -> bool {
        w.current.is_some() && usable(&self.out, &w.legs).len() < usize::from(copies)
    }

    fn done(&self, done: std::result::Result<(), (DiskNo, Error)>) -> Result<()> {
        done.map_err(|(no, e)| {
            self.bad.lock().unwrap_or_else(PoisonError::into_inner).push(no);
            e
        })
    }

    /// Takes the disks on which something failed.
    #[must_use]
    pub fn take_bad(&self) -> Vec<DiskNo> {
        std::mem::take(&mut self.bad.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn log_id(&self, s: &Segment) -> LogId {
        LogId { pool: self.pool, volume: self.volume, session: self.session, token: self.token, segment: s.no, epoch: s.epoch }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The legs that are on no disk that is out, where there are any.
fn usable(out: &OutSet, legs: &[DiskAu]) -> Vec<DiskAu> {
    let usable: Vec<DiskAu> = legs.iter().copied().filter(|l| !out.has(l.disk)).collect();
    if usable.is_empty() { legs.to_vec() } else { usable }
}

#[cfg(test)]
mod tests;
