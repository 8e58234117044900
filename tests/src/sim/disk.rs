//! A shared disk of a simulated world: a medium with a volatile cache, and the handles that processes have on it.
//!
//! A request takes its time. It *lands* at a moment between its submission and its answer; requests land in any order. What became of
//! who asked changes nothing at first: a write whose future was dropped lands as it would have.
//! - *The process dies* ([`Medium::orphan`]): a write of it that has not landed lands at its time, or much later, or torn by sectors, or never.
//! - *The process is frozen* ([`Medium::hold`]): some of its requests stay in its host's queue and land after it is thawed.
//! - *Power cut* ([`Medium::power_cut`]): of what is in the cache any part stays, sector by sector; of what had not landed, too.
//! - *A process's way to it is lost* ([`way`]), while the disk lives.
//! - *Errors* by the dice ([`Faults`]): answered ones, nothing carried out. *Lies*: a write of a range that never lands, or lands at another
//!   page of the range: what the design promises to survive on one copy of two, and what the world does on one disk only.
//!
//! A flush makes durable what was answered before it was submitted; a durable write is durable once it has landed.
//!
//! Byte locks are those of a host: they are seen there alone, belong to a process, and are free when it is dead *and* its last request here has landed.
//!
//! Invariants: `live` is what reads see, `stable` what a cut leaves for certain; `cache` has, in the order of landing, what is in the one
//! and perhaps not in the other; what a later durable write covers comes back no more.

mod handle;
mod way;

pub use handle::SimDisk;
pub use way::Way;

use super::sched::{ProcId, Sched};
use crate::crash::Observer;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::{Answer, Disk, DiskError, DiskResult, admit};
use fusevol_shared::units::{DiskOff, PAGE, PAGE_U64, SECTOR};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// A boot of a host: where a byte lock is seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Boot(pub u32);

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;

/// What may go wrong, each in one of so many requests; 0: never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Everything is answered with an error.
    pub dead: bool,
    /// Reads answered with an error.
    pub read: u64,
    /// Writes answered with an error.
    pub write: u64,
    /// Flushes answered with an error.
    pub flush: u64,
    /// Bytes in which reads and writes may fail; flushes fail anywhere.
    pub within: Range<u64>,
    /// Writes that never land.
    pub lost: u64,
    /// Writes that land at another page of the same range.
    pub astray: u64,
    /// Bytes in which the disk may lie.
    pub lies: Range<u64>,
}

/// What a request does.
#[derive(Clone, Debug)]
enum Kind {
    Read {
        len: usize,
    },
    Write {
        data: IoBytes,
        durable: bool,
    },
    /// Entries of the cache that were answered when it was submitted.
    Flush {
        covers: Vec<u64>,
    },
}

/// A request that has not been answered, or has not landed.
struct Flight {
    proc: ProcId,
    at: DiskOff,
    kind: Kind,
    /// Grows when its landing is put off: only the newest counts.
    turn: u32,
    held: bool,
    landed: bool,
    answer: Option<DiskResult<()>>,
    bytes: Vec<u8>,
    waker: Option<Waker>,
    /// Nobody waits for its answer.
    dropped: bool,
    /// It is said not to have returned.
    late: bool,
    /// Sectors that land; all where empty.
    torn: Vec<bool>,
    /// Its number with the observer.
    seen: Option<usize>,
}

impl Flight {
    fn new(proc: ProcId, at: DiskOff, kind: Kind, seen: Option<usize>) -> Self {
        let (answer, bytes, waker, torn) = (None, Vec::new(), None, Vec::new());
        Self { proc, at, kind, turn: 0, held: false, landed: false, answer, bytes, waker, dropped: false, late: false, torn, seen }
    }
}

/// A write in the cache.
struct Cached {
    id: u64,
    at: DiskOff,
    data: IoBytes,
    answered: bool,
    /// Sectors that may still come to the medium.
    open: Vec<bool>,
}

struct State {
    live: MemDisk,
    stable: MemDisk,
    cache: Vec<Cached>,
    flying: BTreeMap<u64, Flight>,
    next: u64,
    faults: Faults,
    locks: BTreeMap<(Boot, u64), ProcId>,
    /// Processes that are dead.
    dead: Vec<ProcId>,
    /// Ways to it that are lost.
    ways: BTreeMap<ProcId, Way>,
    /// Late writes that have landed.
    late: u64,
    /// Who records what is done.
    observer: Option<Observer>,
}

struct Shared {
    sched: Sched,
    number: u64,
    size: u64,
    state: Mutex<State>,
}

/// The disk itself. A clone is another handle on it.
#[derive(Clone)]
pub struct Medium(Arc<Shared>);

impl Medium {
    /// A disk that begins with this content, durable.
    #[must_use]
    pub fn new(sched: Sched, number: u64, content: &MemDisk) -> Self {
        let state = State {
            live: content.fork(),
            stable: content.fork(),
            cache: Vec::new(),
            flying: BTreeMap::new(),
            next: 0,
            faults: Faults::default(),
            locks: BTreeMap::new(),
            dead: Vec::new(),
            ways: BTreeMap::new(),
            late: 0,
            observer: None,
        };
        Self(Arc::new(Shared { sched, number, size: content.size(), state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as this process has it open.
    #[must_use]
    pub fn open(&self, proc: ProcId, boot: Boot) -> SimDisk {
        SimDisk { medium: self.clone(), proc, boot }
    }

    /// Tells whether it is still held by somebody.
    pub fn watch(&self) -> impl Fn() -> usize + use<> {
        let weak = Arc::downgrade(&self.0);
        move || weak.strong_count()
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Records from now on. Only for a disk without faults, whose processes live.
    pub fn observe(&self, observer: Observer) {
        self.state().observer = Some(observer);
    }

    /// What reads see now, as a disk of its own.
    #[must_use]
    pub fn image(&self) -> MemDisk {
        self.state().live.fork()
    }

    /// Requests of this process that may still land.
    #[must_use]
    pub fn in_flight(&self, proc: ProcId) -> usize {
        self.state().flying.values().filter(|f| f.proc == proc && !f.landed).count()
    }

    /// The process is dead: what it asked lands at its time, late, torn or never. To be called once it cannot ask any more.
    pub fn orphan(&self, proc: ProcId) {
        let mut s = self.state();
        s.dead.push(proc);
        s.ways.remove(&proc);
        let ids: Vec<u64> = s.flying.iter().filter(|(_, f)| f.proc == proc).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(f) = s.flying.get_mut(&id) else { continue };
            f.dropped = true;
            if f.landed || !matches!(f.kind, Kind::Write { .. }) {
                s.flying.remove(&id);
                continue;
            }
            let dice = &self.0.sched;
            match dice.below(10) {
                0..4 if !f.held => {}
                0..7 => {
                    let late = if dice.one_in(3) { dice.below(20_000 * MILLI) } else { dice.below(300 * MILLI) };
                    self.put_off(id, f, late);
                }
                7..9 => {
                    let Kind::Write { data, .. } = &f.kind else { continue };
                    f.torn = sectors(dice, data.len());
                    self.put_off(id, f, dice.below(500 * MILLI));
                }
                _ => drop(s.flying.remove(&id)),
            }
        }
        self.free_locks(&mut s);
    }

    /// The process is frozen: of what it asked some stays in its host's queue.
    pub fn hold(&self, proc: ProcId) {
        let mut s = self.state();
        for f in s.flying.values_mut().filter(|f| f.proc == proc && !f.landed) {
            if self.0.sched.one_in(2) {
                (f.held, f.turn) = (true, f.turn + 1);
            }
        }
    }

    /// It is thawed: what was held lands.
    pub fn release(&self, proc: ProcId) {
        let mut s = self.state();
        if s.ways.contains_key(&proc) {
            return;
        }
        for (id, f) in s.flying.iter_mut().filter(|(_, f)| f.proc == proc && f.held) {
            self.put_off(*id, f, self.0.sched.below(5 * MILLI));
        }
    }

    /// The disk loses its power: what is not durable stays in part. Who waits for an answer gets none that says anything.
    pub fn power_cut(&self) {
        let mut wake = Vec::new();
        let mut s = self.state();
        let dice = &self.0.sched;
        dice.trace(super::sched::WORLD, "power cut", self.0.number, s.cache.len() as u64);
        for (id, f) in std::mem::take(&mut s.flying) {
            let Kind::Write { data, durable } = &f.kind else {
                s.end(id, f, &mut wake);
                continue;
            };
            if !f.landed && !f.held && !dice.one_in(3) {
                let mask = if dice.one_in(2) { vec![true; data.len() / SECTOR] } else { sectors(dice, data.len()) };
                s.land_write(id, f.at, &data.clone(), &mask, *durable);
            }
            s.end(id, f, &mut wake);
        }
        for c in std::mem::take(&mut s.cache) {
            let keep = match dice.below(4) {
                0 | 1 => continue,
                2 => c.open,
                _ => sectors(dice, c.data.len()).iter().zip(&c.open).map(|(a, b)| *a && *b).collect(),
            };
            poke(&s.stable, c.at, &c.data, &keep);
        }
        s.live = s.stable.fork();
        self.free_locks(&mut s);
        drop(s);
        wake.into_iter().for_each(Waker::wake);
    }

    /// Takes a byte lock; `false` where another process of this boot has it.
    fn try_lock(&self, proc: ProcId, boot: Boot, byte: u64) -> bool {
        let mut s = self.state();
        *s.locks.entry((boot, byte)).or_insert(proc) == proc
    }

    /// Whether a process of this boot has the byte lock.
    #[must_use]
    pub fn locked(&self, boot: Boot, byte: u64) -> bool {
        self.state().locks.contains_key(&(boot, byte))
    }

    fn free_locks(&self, s: &mut State) {
        let flying: Vec<ProcId> = s.flying.values().filter(|f| !f.landed).map(|f| f.proc).collect();
        let dead = &s.dead;
        s.locks.retain(|_, p| !dead.contains(p) || flying.contains(p));
    }

    fn put_off(&self, id: u64, f: &mut Flight, after: u64) {
        (f.held, f.turn) = (false, f.turn + 1);
        let (medium, turn) = (self.clone(), f.turn);
        self.0.sched.after(after, move || medium.land(id, turn));
    }

    fn submit(&self, proc: ProcId, at: DiskOff, mut kind: Kind) -> u64 {
        let dice = &self.0.sched;
        let mut s = self.state();
        s.next += 1;
        let id = s.next;
        if let Kind::Flush { covers } = &mut kind {
            covers.extend(s.cache.iter().filter(|c| c.answered).map(|c| c.id));
        }
        let len = match &kind {
            Kind::Read { len } => *len as u64,
            Kind::Write { data, .. } => data.len() as u64,
            Kind::Flush { .. } => 0,
        };
        dice.trace(proc, kind.name(), self.0.number << 48 | at.0, len);
        let slow = match dice.below(400) {
            0 => dice.below(1_500 * MILLI),
            1..12 => dice.below(30 * MILLI),
            _ => 0,
        };
        let land = 20 * MICRO + dice.below(300 * MICRO) + slow;
        let seen = s.observer.as_ref().and_then(|o| match &kind {
            Kind::Read { .. } => None,
            Kind::Write { data, durable } => Some(o.write_begun(at, data.clone(), *durable)),
            Kind::Flush { .. } => Some(o.flush_begun()),
        });
        s.flying.insert(id, Flight::new(proc, at, kind, seen));
        if self.goes_astray(&mut s, id) {
            return id;
        }
        drop(s);
        let medium = self.clone();
        dice.after(land, move || medium.land(id, 0));
        id
    }

    /// The request takes effect; its answer comes a little later.
    fn land(&self, id: u64, turn: u32) {
        let dice = &self.0.sched;
        let mut s = self.state();
        let Some(mut f) = s.flying.remove(&id) else { return };
        if f.turn != turn || f.landed {
            s.flying.insert(id, f);
            return;
        }
        f.landed = true;
        dice.trace(f.proc, "landed", self.0.number << 48 | f.at.0, f.torn.len() as u64);
        s.late += u64::from(f.late);
        let result = s.carry_out(id, &mut f, dice);
        let (dropped, proc) = (f.dropped, f.proc);
        f.answer = None;
        s.flying.insert(id, f);
        if dropped {
            s.answered(id, result);
            if s.dead.contains(&proc) {
                self.free_locks(&mut s);
            }
            return;
        }
        drop(s);
        let medium = self.clone();
        dice.after(5 * MICRO + dice.below(200 * MICRO), move || medium.answer(id, result));
    }

    fn answer(&self, id: u64, result: DiskResult<()>) {
        let waker = self.state().answered(id, result);
        if let Some(w) = waker {
            w.wake();
        }
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::Read { .. } => "read",
            Kind::Write { durable: false, .. } => "write",
            Kind::Write { durable: true, .. } => "write durable",
            Kind::Flush { .. } => "flush",
        }
    }
}

fn touches(range: &Range<u64>, at: DiskOff, len: usize) -> bool {
    at.0 < range.end && at.0 + len as u64 > range.start
}

/// Some of the sectors of a write; never all of them.
fn sectors(dice: &Sched, len: usize) -> Vec<bool> {
    let n = len / SECTOR;
    let mut mask: Vec<bool> = match dice.below(3) {
        // A beginning; an end; any.
        0 => (0..n).map(|_| true).collect(),
        1 => (0..n).map(|_| false).collect(),
        _ => (0..n).map(|_| dice.one_in(2)).collect(),
    };
    let cut = usize::try_from(dice.below(n.max(1) as u64)).expect("a request is small");
    let flip = mask.first().copied().unwrap_or(false);
    mask[cut..].iter_mut().for_each(|m| *m = !flip);
    mask
}

fn poke(disk: &MemDisk, at: DiskOff, data: &[u8], mask: &[bool]) {
    if mask.iter().all(|m| *m) {
        return disk.poke(at, data);
    }
    for (i, _) in mask.iter().enumerate().filter(|(_, m)| **m) {
        disk.poke(at.plus((i * SECTOR) as u64), &data[i * SECTOR..(i + 1) * SECTOR]);
    }
}

impl State {
    fn carry_out(&mut self, id: u64, f: &mut Flight, dice: &Sched) -> DiskResult<()> {
        let faults = self.faults.clone();
        let fails = |n: u64, len: usize| touches(&faults.within, f.at, len) && dice.one_in(n);
        let eio = |what: &str| Err(DiskError::answered(libc::EIO, format!("{what} at {}", f.at)));
        // What was asked by somebody who is dead is on its way already.
        if faults.dead && !f.dropped {
            return eio("dead");
        }
        match &f.kind {
            Kind::Read { len } => {
                if fails(faults.read, *len) {
                    return eio("read");
                }
                f.bytes = self.live.peek(f.at, *len);
            }
            Kind::Write { data, durable } => {
                if fails(faults.write, data.len()) {
                    return eio("write");
                }
                let mut at = f.at;
                if touches(&faults.lies, at, data.len()) {
                    if dice.one_in(faults.lost) {
                        dice.say(f.proc, format_args!("the write at {at} never lands"));
                        return Ok(());
                    }
                    if dice.one_in(faults.astray) {
                        let pages = (faults.lies.end - faults.lies.start).saturating_sub(data.len() as u64) / PAGE_U64;
                        at = DiskOff(faults.lies.start + dice.below(pages.max(1)) * PAGE_U64);
                        dice.say(f.proc, format_args!("the write at {} lands at {at}", f.at));
                    }
                }
                let mask = if f.torn.is_empty() { vec![true; data.len() / SECTOR] } else { f.torn.clone() };
                self.land_write(id, at, &data.clone(), &mask, *durable);
            }
            Kind::Flush { covers } => {
                if dice.one_in(faults.flush) {
                    return eio("flush");
                }
                for id in covers.clone() {
                    self.settle(id);
                }
            }
        }
        Ok(())
    }

    fn land_write(&mut self, id: u64, at: DiskOff, data: &IoBytes, mask: &[bool], durable: bool) {
        poke(&self.live, at, data, mask);
        if durable {
            self.cover(at, mask, usize::MAX);
            poke(&self.stable, at, data, mask);
        } else {
            self.cache.push(Cached { id, at, data: data.clone(), answered: false, open: mask.to_vec() });
        }
    }

    /// The first `upto` writes of the cache come to the medium no more where this one lies.
    fn cover(&mut self, at: DiskOff, mask: &[bool], upto: usize) {
        let end = at.0 + (mask.len() * SECTOR) as u64;
        for c in self.cache.iter_mut().take(upto) {
            for (i, open) in c.open.iter_mut().enumerate() {
                let sector = c.at.0 + (i * SECTOR) as u64;
                if (at.0..end).contains(&sector) {
                    let n = usize::try_from((sector - at.0) / SECTOR as u64).expect("a request is small");
                    *open &= !mask[n];
                }
            }
        }
    }

    /// This write of the cache is durable from now on.
    fn settle(&mut self, id: u64) {
        let Some(i) = self.cache.iter().position(|c| c.id == id) else { return };
        let c = self.cache.remove(i);
        self.cover(c.at, &c.open, i);
        poke(&self.stable, c.at, &c.data, &c.open);
    }

    fn answered(&mut self, id: u64, result: DiskResult<()>) -> Option<Waker> {
        if let Some(c) = self.cache.iter_mut().find(|c| c.id == id) {
            c.answered = result.is_ok();
        }
        let f = self.flying.get_mut(&id)?;
        match (&self.observer, f.seen, &f.kind) {
            (Some(o), Some(n), Kind::Write { .. }) => o.write_done(n),
            (Some(o), Some(n), Kind::Flush { .. }) => o.flush_done(n),
            _ => {}
        }
        if f.dropped {
            self.flying.remove(&id);
            return None;
        }
        f.answer = Some(result);
        f.waker.take()
    }

    /// A power cut ends a request.
    fn end(&mut self, id: u64, mut f: Flight, wake: &mut Vec<Waker>) {
        if f.dropped {
            return;
        }
        wake.extend(f.waker.take());
        f.landed = true;
        f.answer.get_or_insert(Err(DiskError { answer: Answer::NotReturned, errno: libc::EIO, what: format!("power cut at {}", f.at) }));
        self.flying.insert(id, f);
    }
}

#[cfg(test)]
mod tests;
