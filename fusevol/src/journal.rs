//! The journal of a write attachment: what makes its changes durable on the shared disks, without the manager.
//!
//! - Appending ([`JournalLog::enqueue`], [`Ticket::done`]): who has changes queues them; one of those who wait leads, lays all that
//!   wait into one append, writes it durable on every copy, reads the own SEAL, answers, and takes the next. One append is in
//!   flight at most, so an append counts only when all before it do (PROTOCOL.md, J2).
//! - Folding ([`fold`]): what counts is sent to the manager, oldest first; what is folded is trimmed with the next half.
//!
//! ```text
//!  half:    full -> (state too large: waits for folds, "full") -> the other half begins with a new state -> appends go on
//!  journal: well --a copy failed--> failed -> all that counts is folded, closed by the manager -> a fresh one -> well
//! ```
//!
//! Invariants: order of the queue is order of the journal; what failed in one journal is appended again in the next, or its owner
//! is told; nothing is answered before it is durable on every copy and the SEAL was then read clear.

mod fold;
mod halves;

use crate::control::Control;
use crate::volume::Engine;
use fusevol_shared::change::{Append, Entry, Journal, Region};
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::format::journal::{Body, JournalId, State, mark};
use fusevol_shared::ids::{FenceToken, Seq, VolumeEpoch, VolumeId};
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{APPEND_WEIGHT, NewJournal};
use futures_util::future::{Either, select};
use halves::Halves;
use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// How often an append is tried, in a fresh journal each, before its owners get the error: the paths to its disks may fail, then the disks, and then
/// the paths to others.
const TRIES: u32 = 4;

type Done = oneshot::Sender<std::result::Result<Appended, WireError>>;

/// An append that counts: it is durable on every copy, and part of the journal whatever comes.
#[must_use = "nothing is acknowledged before the SEAL was read clear"]
#[derive(Clone, Debug)]
pub struct Appended {
    /// Its number.
    pub seq: Seq,
    seal: std::result::Result<(), WireError>,
}

impl Appended {
    /// Its number, if the own SEAL was read clear after it was durable: then it may be acknowledged.
    ///
    /// # Errors
    /// `Lapsed` where the session is over, `Io` where the SEAL cannot be read.
    pub fn clear(self) -> Result<Seq> {
        self.seal.map(|()| self.seq).map_err(Error::from)
    }
}

struct Job {
    entries: Vec<Entry>,
    done: Done,
}

/// What counts: durable on every copy.
struct Counted {
    /// Number of the last append.
    last: Seq,
    /// Number of the last one that the manager has folded.
    folded: Seq,
    /// Those between.
    unfolded: VecDeque<Append>,
    epoch: VolumeEpoch,
    dirty: BTreeSet<Region>,
}

/// The journal of one write attachment.
pub struct JournalLog<D, C> {
    engine: Engine<D, C>,
    volume: VolumeId,
    token: FenceToken,
    queue: Mutex<VecDeque<Job>>,
    writer: tokio::sync::Mutex<Halves>,
    counted: Mutex<Counted>,
    /// One fold at a time.
    folding: tokio::sync::Mutex<()>,
    /// Something is to be folded.
    appended: Notify,
    /// Something was folded.
    trimmed: Notify,
    /// It is full: appends wait for folds.
    full: AtomicBool,
    /// Something may still land in the volume: the attachment is not given back.
    held: AtomicBool,
    given_back: AtomicBool,
    /// Disks that are out: no copy is written there any more.
    avoid: Mutex<BTreeSet<DiskNo>>,
}

/// Changes that are queued.
pub struct Ticket<'a, D, C> {
    log: &'a JournalLog<D, C>,
    rx: oneshot::Receiver<std::result::Result<Appended, WireError>>,
}

impl<D: Disk, C: Control> JournalLog<D, C> {
    /// A journal in which nothing was written yet.
    #[must_use]
    pub fn new(engine: Engine<D, C>, volume: VolumeId, token: FenceToken, journal: Journal, epoch: VolumeEpoch) -> Self {
        let counted = Counted { last: Seq(0), folded: Seq(0), unfolded: VecDeque::new(), epoch, dirty: BTreeSet::new() };
        Self {
            engine,
            volume,
            token,
            queue: Mutex::default(),
            writer: tokio::sync::Mutex::new(Halves::new(journal)),
            counted: Mutex::new(counted),
            folding: tokio::sync::Mutex::new(()),
            appended: Notify::new(),
            trimmed: Notify::new(),
            full: AtomicBool::new(false),
            held: AtomicBool::new(false),
            given_back: AtomicBool::new(false),
            avoid: Mutex::default(),
        }
    }

    fn id(&self, journal: u32) -> JournalId {
        JournalId { pool: self.engine.pool, volume: self.volume, session: self.engine.session, token: self.token, journal }
    }

    /// Queues changes, behind all that are queued already. They are appended once [`Ticket::done`] is awaited, by anybody.
    pub fn enqueue(&self, entries: Vec<Entry>) -> Ticket<'_, D, C> {
        let (done, rx) = oneshot::channel();
        self.queue().push_back(Job { entries, done });
        Ticket { log: self, rx }
    }

    /// Queues changes and waits for them.
    ///
    /// # Errors
    /// As [`Ticket::done`].
    pub async fn append(&self, entries: Vec<Entry>) -> Result<Appended> {
        self.enqueue(entries).done().await
    }

    /// Number of the last append that counts.
    #[must_use]
    pub fn last(&self) -> Seq {
        self.counted().last
    }

    /// Appends that count and are not folded.
    #[must_use]
    pub fn unfolded(&self) -> u64 {
        self.counted().unfolded.len() as u64
    }

    /// Whether appends wait for folds, because the journal is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Regions that the journal says are dirty.
    #[must_use]
    pub fn dirty(&self) -> Vec<Region> {
        self.counted().dirty.iter().copied().collect()
    }

    /// Bytes in use of the half that is written, and of how many; nothing while an append is under way.
    #[must_use]
    pub fn fill(&self) -> Option<(u64, u64)> {
        Some((self.writer.try_lock().ok()?.used(), fusevol_shared::format::journal::half_bytes(self.engine.au_size)))
    }

    /// One append of what is at the front of the queue.
    async fn lead(&self, halves: &mut Halves) {
        let Some((entries, owners)) = self.gather() else { return };
        let mut result = Err(Error::new(Kind::Internal, "an append was not tried"));
        for _ in 0..TRIES {
            result = self.write(halves, &entries).await;
            if result.is_ok() || !halves.failed {
                break;
            }
        }
        let answer = match result {
            Ok(seq) => {
                let seal = self.engine.slot.check(&self.engine.disks).await;
                if self.engine.slot.is_sealed() {
                    self.engine.lease.end();
                }
                Ok(Appended { seq, seal: seal.map_err(|e| WireError::from(&e)) })
            }
            Err(e) => Err(WireError::from(&e)),
        };
        for done in owners {
            let _ = done.send(answer.clone()); // who gave up does not listen
        }
    }

    /// Jobs from the front of the queue, as many as one append takes; at least one.
    fn gather(&self) -> Option<(Vec<Entry>, Vec<Done>)> {
        let mut queue = self.queue();
        let first = queue.pop_front()?;
        let (mut entries, mut owners) = (first.entries, vec![first.done]);
        let mut weight: usize = entries.iter().map(Entry::weight).sum();
        while let Some(job) = queue.front() {
            weight += job.entries.iter().map(Entry::weight).sum::<usize>();
            if weight > APPEND_WEIGHT {
                break;
            }
            if let Some(job) = queue.pop_front() {
                entries.extend(job.entries);
                owners.push(job.done);
            }
        }
        Some((entries, owners))
    }

    /// Writes one append, durable on every copy; with what it needs before: a fresh journal, a new half.
    async fn write(&self, halves: &mut Halves, entries: &[Entry]) -> Result<Seq> {
        self.engine.lease.wait().await?;
        halves.leave(&self.avoid.lock().unwrap_or_else(PoisonError::into_inner));
        if halves.failed {
            self.replace(halves).await?;
        }
        let append = Append { seq: self.last().next(), entries: entries.to_vec() };
        let id = self.id(halves.journal.no);
        let len = Body::of_append(&id, halves.turn, &append).frame_len() as u64;
        if !halves.has_room(self.engine.au_size, len) {
            self.begin_half(halves, len).await?;
        }
        let body = Body::of_append(&id, halves.turn, &append);
        halves.append(&self.engine.disks, self.engine.au_size, &id, &body).await?;
        let seq = append.seq;
        self.counts(append);
        Ok(seq)
    }

    fn counts(&self, append: Append) {
        let mut c = self.counted();
        let Counted { last, unfolded, epoch, dirty, .. } = &mut *c;
        *last = append.seq;
        append.entries.iter().for_each(|e| mark(e, epoch, dirty));
        unfolded.push_back(append);
        drop(c);
        self.appended.notify_one();
    }

    /// Begins the next half with the state as it is; waits for folds where that would not leave room for `len` bytes.
    async fn begin_half(&self, halves: &mut Halves, len: u64) -> Result<()> {
        let id = self.id(halves.journal.no);
        loop {
            let trimmed = self.trimmed.notified();
            let mut trimmed = pin!(trimmed);
            trimmed.as_mut().enable();
            let (last, state) = self.state();
            let body = Body::of_state(&id, halves.turn + 1, last, &state);
            if halves::fits(self.engine.au_size, body.frame_len() as u64 + len) {
                self.full.store(false, Ordering::Relaxed);
                return halves.begin(&self.engine.disks, self.engine.au_size, &id, &body).await;
            }
            if state.appends.is_empty() {
                return Err(Error::new(Kind::Internal, "a change is larger than its journal"));
            }
            self.full.store(true, Ordering::Relaxed);
            // The manager may be down: then this waits for it, and says so in the status.
            self.fold_some().await?;
        }
    }

    fn state(&self) -> (Seq, State) {
        let c = self.counted();
        let state = State {
            epoch: c.epoch,
            folded: c.folded,
            appends: c.unfolded.iter().cloned().collect(),
            dirty: c.dirty.iter().copied().collect(),
        };
        (c.last, state)
    }

    /// Goes over to a fresh journal: the manager closes this one at the last append that counts.
    async fn replace(&self, halves: &mut Halves) -> Result<()> {
        if !sentence::holds(Tag::J2) {
            halves.failed = false; // goes on behind the gap
            return Ok(());
        }
        self.fold_all().await?;
        let avoid = halves.bad.clone();
        let call = NewJournal { volume: self.volume, token: self.token, failed: halves.journal.no, closing: self.last(), avoid };
        let granted = self.engine.control.call(call).await?;
        if granted.journal.no <= halves.journal.no {
            return Err(Error::new(Kind::Damaged, "the manager granted a journal that was used already"));
        }
        tracing::warn!("journal {} of volume {} failed: goes on in a fresh one", halves.journal.no, self.volume);
        let bad = std::mem::take(&mut halves.bad);
        *halves = Halves::new(granted.journal);
        halves.bad = bad;
        Ok(())
    }

    /// This disk is out: who appends next goes over to a fresh journal without it, if a copy is there.
    pub fn avoid(&self, no: DiskNo) {
        self.avoid.lock().unwrap_or_else(PoisonError::into_inner).insert(no);
    }

    /// It is written again: who appends next goes over to a journal with a copy there, if it has but one.
    pub async fn returned(&self, no: DiskNo) {
        self.avoid.lock().unwrap_or_else(PoisonError::into_inner).remove(&no);
        self.writer.lock().await.returned(no);
    }

    /// The attachment is the session's until that is proven drained: it is never settled.
    pub fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Whether it is.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// The attachment was given back by the answer to a recall: the manager ends it, and reads this journal.
    pub fn give_back(&self) {
        self.given_back.store(true, Ordering::SeqCst);
    }

    /// Whether it was.
    #[must_use]
    pub fn is_given_back(&self) -> bool {
        self.given_back.load(Ordering::SeqCst)
    }

    /// Everything that counts is folded, and nothing of this journal is in doubt: the attachment may end.
    ///
    /// # Errors
    /// As [`Self::fold_some`], and those of a fresh journal where this one had failed.
    pub async fn settle(&self) -> Result<()> {
        if self.held.load(Ordering::SeqCst) {
            let e = Error::new(Kind::Io, "a write to the volume did not return, and may still land");
            return Err(e.hint("it can be attached again once this session is proven drained: end the mount"));
        }
        let mut halves = self.writer.lock().await;
        if halves.failed {
            self.replace(&mut halves).await?;
        }
        self.fold_all().await
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk, C: Control> Ticket<'_, D, C> {
    /// Returns when the changes count; [`Appended::clear`] then says whether they may be acknowledged.
    ///
    /// # Errors
    /// `Io` where the journal's disks failed, `Lapsed` where the session is over, `Unreachable` where a fresh journal was needed and
    /// the manager is not there. The changes do not count then: what may have landed of them lies above the closing number.
    pub async fn done(self) -> Result<Appended> {
        let mut rx = pin!(self.rx);
        let broken_off = || Error::new(Kind::Io, "an append was broken off");
        let mut halves = match select(rx.as_mut(), pin!(self.log.writer.lock())).await {
            Either::Left((done, _)) => return done.map_err(|_| broken_off())?.map_err(Error::from),
            Either::Right((halves, _)) => halves,
        };
        // Leads until its own are done; each turn answers at least one job.
        loop {
            match rx.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => self.log.lead(&mut halves).await,
                Ok(done) => return done.map_err(Error::from),
                Err(oneshot::error::TryRecvError::Closed) => return Err(broken_off()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
