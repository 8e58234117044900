//! The session's slot on the shared disks: its heartbeat, and the SEAL by which the manager ends it (FORMAT.md, "Session slots").
//!
//! ```text
//!  Clear --one SEAL page says anything else--> Sealed      (never back)
//! ```
//!
//! All slot disks are asked at once. A question is answered by [`enough`] of them: the manager's SEAL counts when a majority
//! has it, and one of those is among them. A disk that cannot be read does not count, nor one that was not there when the slot was opened: what
//! stands there is an earlier session's, or nothing. Any other page that is not the session's own clear SEAL, a torn one too, ends the session.
//!
//! A disk that does not answer must hold up neither the others nor, request by request, fill the threads' rings. A check waits for
//! enough only and lets the rest go; who was let go [`UNHEARD`] times in a row is left out of checks. A beat waits a little for all;
//! who does not answer it is left alone for a pause that doubles. Where the others are not enough, those are asked again, too.
//!
//! With a heartbeat goes the answer to the last letter; letters are looked for on all slot disks, those that cannot be read pass.
//!
//! The manager may name other disks while the session lives ([`Slot::move_to`]): from then on nothing concludes that began with the former ones, it is asked again.
//!
//! Invariants: a beat is over before the SEAL is read that lets it count [L1]; a sealed slot does no I/O any more.

use crate::disks::{Disks, Member, io_error};
use arc_swap::ArcSwap;
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::{Disk, ring};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::format::envelope::Flaw;
use fusevol_shared::format::mail::{Letter, LetterAt, MAIL, MAIL_BYTES, PAGES};
use fusevol_shared::format::slot::{Answer, Heartbeat, SlotAt, SlotSeal, enough};
use fusevol_shared::ids::{PoolId, Seq, SessionId, SessionNo};
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{DiskNo, PAGE};
use fusevol_shared::wire::data::Claim;
use futures_util::future::{Either, LocalBoxFuture, pending, ready, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream, StreamExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

mod places;
#[cfg(test)]
mod tests;

pub use places::{Carrier, carriers};
use places::{Places, SlotPlace};

/// How long the others are waited for once enough have answered; and how long enough, before those are asked who were silent.
const GRACE: Duration = Duration::from_millis(100);
/// How long enough of them are waited for.
const LIMIT: Duration = Duration::from_secs(5);
/// Questions to one disk that may be let go without an answer, until a beat has heard it again.
const UNHEARD: u64 = 64;
/// How long a disk that was silent is left alone, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// How often a question is asked anew because the slot has moved meanwhile.
const MOVES_MAX: usize = 8;

/// A session's slot.
pub struct Slot {
    pool: PoolId,
    session: SessionNo,
    id: SessionId,
    places: ArcSwap<Places>,
    beats: AtomicU64,
    answer: Mutex<Option<Answer>>,
    /// Why the session is over.
    sealed: OnceLock<String>,
}

/// Who is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Enough: something waits for the answer.
    Enough,
    /// Enough, then a little for the others.
    All,
}

/// What one disk says to a question.
enum Said {
    Yes,
    /// The session is over.
    No(String),
    /// Nothing: it failed.
    Nothing(Error),
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// The time for who is late. Outside of a ring there is no timer: who has not answered yet is not waited for.
fn grace() -> LocalBoxFuture<'static, ()> {
    if ring::runs_here() { ring::sleep(GRACE).map(drop).boxed_local() } else { ready(()).boxed_local() }
}

/// The time for enough of them. Outside of a ring it is waited for without a limit.
fn limit() -> LocalBoxFuture<'static, ()> {
    if ring::runs_here() { ring::sleep(LIMIT).map(drop).boxed_local() } else { pending().boxed_local() }
}

impl Slot {
    /// The slot of the session with this number and identity, on these disks, to which the move of this number has led. Without places it always says clear.
    #[must_use]
    pub fn new(pool: PoolId, session: SessionNo, id: SessionId, moves: u64, carriers: Vec<Carrier>) -> Self {
        let places = ArcSwap::from_pointee(Places::new(moves, carriers));
        Self { pool, session, id, places, beats: AtomicU64::new(0), answer: Mutex::default(), sealed: OnceLock::new() }
    }

    /// Uses these disks from now on, unless it was told of them, or of later ones, before. When this returns, nothing concludes any more that was asked of the
    /// former ones.
    pub fn move_to(&self, no: u64, carriers: &[Carrier]) {
        self.places.rcu(|now| if now.no < no { Arc::new(Places::new(no, carriers.to_vec())) } else { now.clone() });
    }

    /// The disks that carry it.
    #[must_use]
    pub fn disks(&self) -> Vec<DiskNo> {
        self.places.load().each.iter().map(|p| p.disk).collect()
    }

    /// The pool that it belongs to.
    #[must_use]
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// Whether a SEAL was seen that ends the session.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.get().is_some()
    }

    /// Reads the SEAL. Returns once enough of the slot disks say that the session may go on.
    ///
    /// # Errors
    /// `Lapsed`: one says something else; so it stays. `Io`: fewer than enough could be read.
    pub async fn check<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        self.settled(async |places: &Places| self.read(disks, places, Wait::Enough).await).await
    }

    /// Asks of the places that are used now, and again where they have become others meanwhile: what the former ones say is nobody's word any more.
    async fn settled(&self, ask: impl AsyncFn(&Places) -> Result<()>) -> Result<()> {
        for _ in 0..MOVES_MAX {
            let places = self.places.load_full();
            let answer = ask(&places).await;
            if self.is_used(&places) || !sentence::holds(Tag::T1) {
                return answer;
            }
        }
        Err(Error::new(Kind::Io, "the session's slot is moved again and again"))
    }

    fn is_used(&self, places: &Places) -> bool {
        self.places.load().no == places.no
    }

    async fn read<D: Disk>(&self, disks: &Disks<D>, places: &Places, wait: Wait) -> Result<()> {
        self.ask(disks, places, wait, async |member: &Member<D>, place: &SlotPlace| {
            let (result, page) = member.read(place.at.seal(), IoBuf::zeroed(PAGE), Claim::Slot).await;
            match result {
                Ok(()) => self.judge(&page, place),
                Err(e) => Said::Nothing(io_error(member.no(), e)),
            }
        })
        .await
        .map_err(|e| if e.kind() == Kind::Lapsed { e } else { e.within("the session's SEAL cannot be read") })
    }

    /// Writes the heartbeat on enough of the slot disks, *then* reads the SEAL: if that is clear, the session may go on for a lease
    /// counted from before this was called [L1].
    ///
    /// # Errors
    /// As [`Slot::check`]; `Io` where fewer than enough could be written, too.
    pub async fn beat<D: Disk>(&self, disks: &Disks<D>) -> Result<()> {
        let beat = Seq(self.beats.fetch_add(1, Ordering::SeqCst) + 1);
        let answer = *self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let heartbeat = Heartbeat { session: self.session, id: self.id, beat, nonce: 0, answer };
        self.settled(async |places: &Places| self.beat_on(disks, places, heartbeat).await).await
    }

    async fn beat_on<D: Disk>(&self, disks: &Disks<D>, places: &Places, heartbeat: Heartbeat) -> Result<()> {
        let write = async |member: &Member<D>, place: &SlotPlace| {
            let page = IoBuf::copy_of(&heartbeat.encode(place.at)).freeze();
            // By the own path only: a heartbeat says that this host reaches the disk.
            let Some(disk) = member.path().direct() else { return Said::Nothing(no_path(member.no())) };
            match disk.write(place.at.off, page).await {
                Ok(()) => Said::Yes,
                Err(e) => Said::Nothing(io_error(member.no(), e)),
            }
        };
        self.ask(disks, places, Wait::All, write)
            .await
            .map_err(|e| if e.kind() == Kind::Lapsed { e } else { e.within("the heartbeat cannot be written") })?;
        if sentence::holds(Tag::L1) { self.read(disks, places, Wait::All).await } else { Ok(()) }
    }

    /// The answer that each heartbeat has from now on.
    pub fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    /// The letters to this session on those slot disks that this host reaches by itself and that answer in time.
    pub async fn letters<D: Disk>(&self, disks: &Disks<D>) -> Vec<Letter> {
        let on_one = async |place: &SlotPlace| {
            let member = disks.get(place.disk).ok().filter(|m| m.id() == place.at.disk);
            let disk = member.and_then(|m| m.path().direct())?;
            let (result, pages) = disk.read(MAIL, IoBuf::zeroed(MAIL_BYTES)).await;
            result.ok().map(|()| self.letters_in(&pages, place.at))
        };
        let places = self.places.load_full();
        let mut asked: FuturesUnordered<_> = places.each.iter().map(on_one).collect();
        let (mut letters, mut time) = (Vec::new(), limit());
        while let Either::Left((Some(found), _)) = select(asked.next(), &mut time).await {
            letters.extend(found.unwrap_or_default());
        }
        letters
    }

    fn letters_in(&self, pages: &[u8], at: SlotAt) -> Vec<Letter> {
        let letter = |page| {
            let bytes = pages.get(usize::from(page) * PAGE..)?.get(..PAGE)?;
            Letter::decode(bytes, LetterAt { pool: at.pool, disk: at.disk, page }).ok()
        };
        (0..PAGES).filter_map(letter).filter(|l| (l.session, l.id) == (self.session, self.id)).collect()
    }

    fn judge(&self, page: &[u8], place: &SlotPlace) -> Said {
        let disk = place.disk;
        match SlotSeal::decode(page, place.at) {
            Ok(seal) if seal.is_clear_for(self.session, self.id, place.opened) => Said::Yes,
            Ok(seal) if (seal.session, seal.id) == (self.session, self.id) && seal.sealed => {
                Said::No(format!("the manager has sealed session {} (disk {disk}, generation {})", self.session, seal.generation))
            }
            // It was not there when the slot was opened. (Numbers of sessions only grow.)
            Ok(seal) if seal.session < self.session => Said::Nothing(self.not_opened(disk)),
            Err(Flaw::NotOurs) => Said::Nothing(self.not_opened(disk)),
            Ok(seal) => Said::No(format!(
                "the SEAL of session {} on disk {disk} is another's: of session {}, generation {}",
                self.session, seal.session, seal.generation
            )),
            Err(flaw) => Said::No(format!("the SEAL of session {} on disk {disk} is not whole: {flaw}", self.session)),
        }
    }

    fn not_opened(&self, disk: DiskNo) -> Error {
        Error::new(Kind::Io, format!("the slot of session {} was not opened on disk {disk}", self.session))
    }

    /// Asks all disks at once. `Ok`: enough say yes, none that answered in time says no.
    async fn ask<D: Disk>(
        &self,
        disks: &Disks<D>,
        places: &Places,
        wait: Wait,
        ask: impl AsyncFn(&Member<D>, &SlotPlace) -> Said,
    ) -> Result<()> {
        if let Some(why) = self.sealed.get() {
            return Err(over(why));
        }
        let now = SystemClock.now();
        let one = async |place| (place, ask_one(disks, place, &ask).await);
        let (silent, lively): (Vec<&SlotPlace>, Vec<_>) = places.each.iter().partition(|p| p.is_silent(now, wait));
        let (needed, all) = (enough(places.each.len()), places.each.len());
        let mut round = Round { waiting: lively.clone(), ..Round::default() };
        let mut asked: FuturesUnordered<_> = lively.into_iter().map(&one).collect();
        self.hear(places, &mut round, &mut asked, needed, if silent.is_empty() { limit() } else { grace() }).await?;
        if round.yes < needed && !silent.is_empty() {
            round.waiting.extend(&silent);
            asked.extend(silent.into_iter().map(&one));
            self.hear(places, &mut round, &mut asked, needed, limit()).await?;
        }
        if round.yes >= needed {
            // What has answered meanwhile is heard in any case.
            self.hear(places, &mut round, &mut asked, all, if wait == Wait::All { grace() } else { ready(()).boxed_local() }).await?;
        }
        if ring::runs_here() {
            let now = SystemClock.now();
            round.waiting.iter().for_each(|p| p.was_silent(now, wait));
        }
        match round.failed {
            _ if round.yes >= needed => Ok(()),
            Some(e) => Err(e),
            None => Err(Error::new(Kind::Io, "too few of the slot disks answer")),
        }
    }

    /// Hears who was asked, until `enough` have said yes, all have answered, or the time is over.
    async fn hear<'a>(
        &self,
        of: &Places,
        round: &mut Round<'a>,
        asked: &mut (impl Stream<Item = (&'a SlotPlace, Said)> + Unpin),
        enough: usize,
        mut time: LocalBoxFuture<'static, ()>,
    ) -> Result<()> {
        while round.yes < enough {
            let Either::Left((Some((place, said)), _)) = select(asked.next(), &mut time).await else { break };
            round.waiting.retain(|p| !std::ptr::eq(*p, place));
            place.answered();
            match said {
                Said::Yes => round.yes += 1,
                // Where the slot has moved it is asked again there: here another manager may have opened it anew.
                Said::No(why) if !self.is_used(of) => return Err(Error::new(Kind::Io, why)),
                Said::No(why) => return Err(over(self.sealed.get_or_init(|| why))),
                Said::Nothing(e) => round.failed = Some(e),
            }
        }
        Ok(())
    }
}

/// One question to all disks.
#[derive(Default)]
struct Round<'a> {
    yes: usize,
    waiting: Vec<&'a SlotPlace>,
    failed: Option<Error>,
}

async fn ask_one<D: Disk>(disks: &Disks<D>, place: &SlotPlace, ask: impl AsyncFn(&Member<D>, &SlotPlace) -> Said) -> Said {
    match disks.get(place.disk) {
        Ok(member) if member.id() == place.at.disk => ask(&member, place).await,
        Ok(member) => Said::Nothing(Error::new(Kind::Io, format!("disk {} is {} now", place.disk, member.id()))),
        Err(e) => Said::Nothing(e),
    }
}

fn no_path(no: DiskNo) -> Error {
    Error::new(Kind::Io, format!("disk {no} is not reached from here"))
}

fn over(why: &str) -> Error {
    Error::new(Kind::Lapsed, why).hint("mount again")
}
