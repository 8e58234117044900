//! What the manager does on the shared disks for its sessions: it opens, seals and reads their slots, and reads the journals of the
//! dead to their ends. It decides nothing: what follows from an answer is the core's.
//!
//! Each request to a disk is bounded in time, and a disk that was [`Silent`] is left alone for a while: a hung disk holds nobody up for
//! longer than one limit.
//!
//! Invariants: a SEAL counts as written when a majority of the slot disks has it durably, of both sets while the slot moves; a journal whose end cannot be known for
//! certain is an error, never a shorter journal: none of its copies could be read, or an append that counted is damaged on all.

use crate::core::{JournalRef, Opened, Tails};
use fusevol_shared::clock::{BootTime, Clock, SystemClock};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::{Answer, Disk, DiskError, DiskResult, ring};
use fusevol_shared::error::{Error, Kind, Result, WireError};
use fusevol_shared::format::journal::{Half, JournalId, Tail, half_bytes, read_half, tail, turn_seen};
use fusevol_shared::format::layout::Layout;
use fusevol_shared::format::mail::{Letter, LetterAt};
use fusevol_shared::format::preserve::At;
use fusevol_shared::format::slot::{Answer as Answered, Heartbeat, SlotAt, SlotSeal, majority};
use fusevol_shared::ids::{DiskId, Generation, PoolId, Seq, SessionId, SessionNo};
use fusevol_shared::units::{AuSize, DiskAu, DiskNo, DiskOff, PAGE};
use fusevol_shared::wire::slots::Slots;
use futures_util::future::{Either, join_all, pending, select};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

mod again;
mod log;
mod takeover;
#[cfg(test)]
mod tests;

/// How long a disk may take for one request, unless it is said otherwise.
pub const LIMIT: Duration = Duration::from_secs(5);
/// How long a disk that did not answer is left alone.
const PAUSE: Duration = Duration::from_secs(30);

/// An open disk of the pool: its number, what its label says, and itself.
pub type Member<D> = (DiskNo, DiskId, D);

/// The pool's disks, as they are used for sessions.
pub struct SessionIo<'a, D> {
    pool: PoolId,
    au_size: AuSize,
    disks: &'a [Member<D>],
    limit: Duration,
    silent: Arc<Silent>,
}

/// Disks that have not answered in time, each until when it is left alone.
#[derive(Default, Debug)]
pub struct Silent(Mutex<BTreeMap<DiskNo, BootTime>>);

impl Silent {
    fn is(&self, no: DiskNo) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&no).is_some_and(|until| SystemClock.now() < *until)
    }

    /// It is another life of the disk: what the former one did says nothing of it.
    pub fn answers(&self, no: DiskNo) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&no);
    }

    fn was(&self, no: DiskNo) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(no, SystemClock.now().plus(PAUSE));
    }
}

/// Whose slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotOf<'a> {
    /// The session's number.
    pub session: SessionNo,
    /// Its identity.
    pub id: SessionId,
    /// The disks that carry it.
    pub slots: &'a [DiskNo],
}

/// Disks that failed, for people.
fn failures(done: Vec<(DiskNo, DiskResult<()>)>) -> Vec<String> {
    done.into_iter().filter_map(|(no, r)| r.err().map(|e| format!("disk {no}: {e}"))).collect()
}

impl<'a, D: Disk> SessionIo<'a, D> {
    /// For the pool with these disks; `limit` as [`LIMIT`]. Outside of a ring nothing is bounded.
    #[must_use]
    pub fn new(pool: PoolId, au_size: AuSize, disks: &'a [Member<D>], limit: Duration) -> Self {
        Self { pool, au_size, disks, limit, silent: Arc::default() }
    }

    /// The same, with what is known of disks that do not answer.
    #[must_use]
    pub fn knowing(self, silent: &Arc<Silent>) -> Self {
        Self { silent: silent.clone(), ..self }
    }

    /// Writes the clear SEAL of a session that this generation opens, durable. Gives the disks that have it not, each with a sentence: there
    /// the session cannot go on. Also says whether a majority has it.
    pub async fn open_slot(&self, of: SlotOf<'_>, generation: Generation) -> (bool, Vec<String>) {
        let done = self.write_seal(of, SlotSeal { session: of.session, id: of.id, generation, sealed: false }).await;
        let written = done.iter().filter(|(_, r)| r.is_ok()).count();
        (written >= majority(of.slots.len()), failures(done))
    }

    /// Writes the clear SEAL of a session to disks to which its slot shall move, durable. What became of it on each.
    pub async fn open_places(&self, of: SlotOf<'_>, generation: Generation) -> Vec<(DiskNo, Opened)> {
        let done = self.write_seal(of, SlotSeal { session: of.session, id: of.id, generation, sealed: false }).await;
        let one = |(no, r): (DiskNo, DiskResult<()>)| match r {
            Ok(()) => (no, Opened::Done),
            Err(e) => {
                tracing::warn!("the slot of session {} could not be opened on disk {no}: {e}", of.session);
                (no, if e.answer == Answer::Answered { Opened::Not } else { Opened::Late })
            }
        };
        done.into_iter().map(one).collect()
    }

    /// Seals a session's slot, durable. Says whether so many of its disks have the SEAL that it counts, and names the others.
    pub async fn seal_slot(&self, session: SessionNo, id: SessionId, slots: &Slots, generation: Generation) -> (bool, Vec<String>) {
        let disks = slots.disks();
        let of = SlotOf { session, id, slots: &disks };
        let done = self.write_seal(of, SlotSeal { session, id, generation, sealed: true }).await;
        let counts = slots.counts(|no| done.iter().any(|(d, r)| *d == no && r.is_ok()));
        (counts, failures(done))
    }

    async fn write_seal(&self, of: SlotOf<'_>, seal: SlotSeal) -> Vec<(DiskNo, DiskResult<()>)> {
        let one = async |no: &DiskNo| {
            let at = match self.slot_at(*no, of.session) {
                Ok(at) => at,
                Err(e) => return (*no, Err(DiskError::answered(libc::ENODEV, e.to_string()))),
            };
            let page = IoBuf::copy_of(&seal.encode(at)).freeze();
            (*no, self.asked(*no, async |d| d.write_durable(at.seal(), page).await).await)
        };
        join_all(of.slots.iter().map(one)).await
    }

    /// The highest heartbeat of this identity on any of its disks; `None` where there is none, or none that can be read.
    pub async fn read_slot(&self, of: SlotOf<'_>) -> Option<Seq> {
        let pages = join_all(of.slots.iter().map(|no| self.read_beat(*no, of.session))).await;
        let own = pages.into_iter().flatten().filter(|b| (b.session, b.id) == (of.session, of.id));
        own.map(|b| b.beat).max()
    }

    /// Writes a letter to a session, to this page of each of its slot disks. Whether one has it: the session reads them all.
    pub async fn write_letter(&self, slots: &[DiskNo], page: u8, letter: &Letter) -> bool {
        let one = async |no: &DiskNo| {
            let (_, id, _) = self.member(*no)?;
            let at = LetterAt { pool: self.pool, disk: *id, page };
            let page = letter.encode(at).ok_or_else(|| Error::new(Kind::Internal, "a letter that does not fit its page"))?;
            let page = IoBuf::copy_of(&page).freeze();
            self.bounded(*no, async |d| d.write(at.off(), page).await).await
        };
        let done: Vec<Result<()>> = join_all(slots.iter().map(one)).await;
        done.iter().filter_map(|r| r.as_ref().err()).for_each(|e| tracing::debug!("a letter to session {}: {e}", letter.session));
        done.iter().any(Result::is_ok)
    }

    /// The answer of this identity to the youngest letter, on any of its disks; `None` where there is none, or none that can be read.
    pub async fn read_answer(&self, of: SlotOf<'_>) -> Option<Answered> {
        let pages = join_all(of.slots.iter().map(|no| self.read_beat(*no, of.session))).await;
        let own = pages.into_iter().flatten().filter(|b| (b.session, b.id) == (of.session, of.id));
        own.filter_map(|b| b.answer).max_by_key(|a| a.push)
    }

    /// Identity and nonce in a session's slot on this disk; `None` where they cannot be read.
    pub async fn read_nonce(&self, no: DiskNo, session: SessionNo) -> Option<(SessionId, u64)> {
        self.read_beat(no, session).await.map(|b| (b.id, b.nonce))
    }

    async fn read_beat(&self, no: DiskNo, session: SessionNo) -> Option<Heartbeat> {
        let at = self.slot_at(no, session).ok()?;
        let page = self.read(no, at.off, PAGE).await.ok()?;
        Heartbeat::decode(&page, at).ok()
    }

    /// What the SEAL of a session's slot says on one disk; the inner error is the page's own flaw.
    ///
    /// # Errors
    /// `Io`.
    pub async fn read_seal(&self, no: DiskNo, session: SessionNo) -> Result<std::result::Result<SlotSeal, String>> {
        let at = self.slot_at(no, session)?;
        let page = self.read(no, at.seal(), PAGE).await?;
        Ok(SlotSeal::decode(&page, at).map_err(|flaw| flaw.to_string()))
    }

    /// Reads these journals, of a session that is dead, to their ends, one after the other. Every disk is flushed before: what the session
    /// overwrote and did not flush is in a disk's cache perhaps, and would be read by its successor, or frozen in a snapshot, and be gone
    /// after a power cut. A disk that cannot be flushed keeps every journal from being concluded but those of volumes that do without it.
    pub async fn read_journals(&self, journals: &[JournalRef]) -> Tails {
        let flush = async |no: DiskNo| (no, self.bounded(no, async |d| d.flush().await).await);
        let flushed = join_all(self.disks.iter().map(|(no, _, _)| flush(*no))).await;
        let wire = |e: Error| WireError::from(&e.within("before journals are read"));
        let failed: Vec<(DiskNo, WireError)> = flushed.into_iter().filter_map(|(no, done)| Some((no, wire(done.err()?)))).collect();
        let mut tails = Tails::new();
        for j in journals {
            if let Some((_, e)) = failed.iter().find(|(no, _)| !j.without.contains(no)) {
                tails.push((j.token, Err(e.clone())));
                continue;
            }
            let end = self.read_journal(j).await.map(|read| read.tail);
            tails.push((j.token, end.map_err(|e| WireError::from(&e))));
        }
        tails
    }

    /// Reads one journal to its end.
    ///
    /// # Errors
    /// `Io` where none of its copies can be read; `Damaged` where an append that counted is damaged on every copy.
    pub async fn read_journal(&self, j: &JournalRef) -> Result<JournalRead> {
        let what = |e: Error| e.within(format_args!("journal {} of volume {}", j.journal.no, j.volume));
        let id = JournalId { pool: self.pool, volume: j.volume, session: j.session, token: j.token, journal: j.journal.no };
        let halves = |copy: usize| j.journal.copies[copy].halves();
        let mut read = JournalRead::default();
        let (mut halves_read, mut seen, mut whole) = (Vec::new(), None, 0);
        for copy in 0..j.journal.copies.len() {
            let [first, second] = halves(copy);
            let got = (self.read_au(first).await, self.read_au(second).await);
            match got {
                (Ok(a), Ok(b)) => {
                    whole += 1;
                    for (n, (bytes, at)) in [a, b].into_iter().enumerate() {
                        seen = seen.max(turn_seen(&bytes, &id, at));
                        if let Ok(half) = read_half(&bytes, &id, at, n) {
                            if half.damaged {
                                read.flaws.push(format!("an append is damaged on disk {}", halves(copy)[n].disk));
                            }
                            halves_read.push(half);
                        }
                    }
                }
                (Err(e), _) | (_, Err(e)) => read.flaws.push(e.to_string()),
            }
        }
        if whole == 0 {
            let why = if read.flaws.is_empty() { "it has no copy".to_owned() } else { read.flaws.join("; ") };
            return Err(what(Error::new(Kind::Io, format!("no copy can be read: {why}"))));
        }
        let best = halves_read.iter().map(|h: &Half| h.turn).max();
        let (end, damaged) = tail(halves_read).unwrap_or_default();
        if damaged || seen > best {
            let disks: Vec<String> = j.journal.copies.iter().map(|c| format!("disk {}", c.first.disk)).collect();
            let why = format!("what it says is damaged on every copy ({}): its end cannot be known", disks.join(", "));
            return Err(what(Error::new(Kind::Damaged, why)));
        }
        read.begun = best.is_some();
        read.tail = end;
        Ok(read)
    }

    /// The bytes of one AU, and where they lie.
    ///
    /// # Errors
    /// `Io`, naming the disk.
    pub async fn read_au(&self, au: DiskAu) -> Result<(IoBuf, At)> {
        let (_, id, _) = self.member(au.disk)?;
        let off = au.au.start(self.au_size);
        let len = usize::try_from(half_bytes(self.au_size)).expect("an AU has at most 64 MiB");
        let bytes = self.read(au.disk, off, len).await?;
        Ok((bytes, At { disk: *id, off }))
    }

    fn slot_at(&self, no: DiskNo, session: SessionNo) -> Result<SlotAt> {
        let (_, id, disk) = self.member(no)?;
        let layout = Layout::for_disk(self.au_size, disk.size())?;
        Ok(SlotAt::new(self.pool, *id, &layout, session))
    }

    fn member(&self, no: DiskNo) -> Result<&'a Member<D>> {
        self.disks.iter().find(|(n, ..)| *n == no).ok_or_else(|| Error::new(Kind::Io, format!("disk {no} is not here")))
    }

    /// The pool's AU size.
    #[must_use]
    pub fn au_size(&self) -> AuSize {
        self.au_size
    }

    /// The pool's disks.
    #[must_use]
    pub fn disks(&self) -> &'a [Member<D>] {
        self.disks
    }

    /// Reads `len` bytes, within the limit.
    ///
    /// # Errors
    /// `Io`, naming the disk.
    pub async fn read(&self, no: DiskNo, at: DiskOff, len: usize) -> Result<IoBuf> {
        self.bounded(no, async |d| {
            let (result, buf) = d.read(at, IoBuf::zeroed(len)).await;
            result.map(|()| buf)
        })
        .await
    }

    /// One request to a disk, within the limit.
    async fn bounded<T>(&self, no: DiskNo, request: impl AsyncFnOnce(&'a D) -> DiskResult<T>) -> Result<T> {
        self.asked(no, request).await.map_err(|e| Error::new(Kind::Io, format!("disk {no}")).because(e))
    }

    /// The same, with the disk's own answer.
    async fn asked<T>(&self, no: DiskNo, request: impl AsyncFnOnce(&'a D) -> DiskResult<T>) -> DiskResult<T> {
        let (_, _, disk) = self.member(no).map_err(|e| DiskError::answered(libc::ENODEV, e.to_string()))?;
        let why = format!("no answer in {:?}", self.limit);
        if self.silent.is(no) {
            return Err(DiskError::answered(libc::ETIMEDOUT, why));
        }
        let time = async {
            if !ring::runs_here() || ring::sleep(self.limit).await.is_err() {
                pending::<()>().await;
            }
        };
        match select(pin!(request(disk)), pin!(time)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => {
                self.silent.was(no);
                Err(DiskError { answer: Answer::NotReturned, errno: libc::ETIMEDOUT, what: why })
            }
        }
    }
}

/// A journal that was read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct JournalRead {
    /// Its end.
    pub tail: Tail,
    /// Something of it stands on the disks.
    pub begun: bool,
    /// What is wrong with single copies, though its end is known.
    pub flaws: Vec<String>,
}
