//! The journal of an attachment: group commit, halves, a failed copy, a full journal, a SEAL; read back by the code that replays it.

use super::*;
use crate::disks::Disks;
use crate::lease::Lease;
use crate::slot::{Carrier, Slot};
use fusevol_shared::change::JournalCopy;
use fusevol_shared::clock::{BootTime, SystemClock};
use fusevol_shared::disk::Answer;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::disk::fault::{Fault, FaultDisk, Ops, Rule};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::format::journal::{Half, Tail, half_bytes, read_half, tail};
use fusevol_shared::format::preserve::At;
use fusevol_shared::format::slot::{SlotAt, SlotSeal};
use fusevol_shared::ids::{DiskId, Generation, PoolId, SessionId, SessionNo};
use fusevol_shared::map::AuMask;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{AuNo, AuSize, DiskAu, DiskNo, DiskOff, VolAu};
use fusevol_shared::wire::messages::{Call, Fold, Folded, JournalGranted, Reply, Request};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;

const EIO: i32 = 5;

type Disk2 = FaultDisk<MemDisk>;

/// What a manager does with folds and journals: keeps the last number, gives fresh places.
#[derive(Default)]
struct Keeper {
    folded: Mutex<Vec<Append>>,
    /// It does not answer.
    away: AtomicBool,
    journals: Mutex<Vec<(u32, Seq)>>,
}

fn at(disk: u16, au: u32) -> DiskAu {
    DiskAu { disk: DiskNo(disk), au: AuNo(au) }
}

fn journal(no: u32) -> Journal {
    let copy = |disk| JournalCopy { first: at(disk, 2 * no), second: at(disk, 2 * no + 1) };
    Journal { no, copies: vec![copy(0), copy(1)] }
}

impl Keeper {
    fn answer(&self, request: &Request) -> Result<Reply> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::new(Kind::Unreachable, "no manager"));
        }
        let mut folded = self.folded.lock().expect("one thread");
        let last = folded.last().map_or(Seq(0), |a| a.seq);
        match request {
            Request::Fold(Fold { prev, appends, .. }) => {
                assert_eq!(*prev, last, "a gap, or twice");
                folded.extend(appends.iter().cloned());
                Ok(Reply::Folded(Folded { seq: folded.last().map_or(last, |a| a.seq) }))
            }
            Request::NewJournal(m) => {
                assert_eq!(m.closing, last, "closed where it was folded");
                self.journals.lock().expect("one thread").push((m.failed, m.closing));
                Ok(Reply::JournalGranted(JournalGranted { journal: journal(m.failed + 1) }))
            }
            other => panic!("{}", other.name()),
        }
    }
}

impl Control for Keeper {
    async fn call<T: Call>(&self, call: T) -> Result<T::Reply> {
        let reply = self.answer(&call.into())?;
        Ok(T::Reply::try_from(reply).unwrap_or_else(|_| panic!("another reply")))
    }
    async fn sleep(&self, _: Duration) {}
}

struct Bench {
    engine: Engine<Disk2, Keeper>,
    log: JournalLog<Disk2, Keeper>,
}

const VOLUME: VolumeId = VolumeId([2; 16]);

fn bench() -> Bench {
    let au_size = AuSize::from_log2(18).expect("256 KiB");
    let disks = Disks::new();
    for no in 0..2 {
        let disk = FaultDisk::new(MemDisk::new(64 * au_size.bytes()));
        disks.set_present(DiskNo(no), DiskId([u8::try_from(no).expect("small"); 16]), Arc::new(disk));
    }
    let lease = Lease::new(Arc::new(SystemClock), Duration::from_secs(1));
    lease.extend(BootTime(u64::MAX));
    let (pool, session, id) = (PoolId([1; 16]), SessionNo(1), SessionId([4; 16]));
    let place = SlotAt { pool, disk: DiskId([0; 16]), off: DiskOff(40 << 18) };
    let slot = Arc::new(Slot::new(pool, session, id, 0, vec![Carrier { disk: DiskNo(0), at: place, opened: Generation(1) }]));
    let control = Arc::new(Keeper::default());
    let engine = Engine {
        disks: Arc::new(disks),
        control,
        lease: Arc::new(lease),
        slot,
        pool,
        session,
        au_size,
        unsettled: Arc::default(),
        stale: Arc::default(),
        outs: Arc::default(),
    };
    let log = JournalLog::new(engine.clone(), VOLUME, FenceToken(7), journal(1), VolumeEpoch(3));
    let b = Bench { engine, log };
    b.seal(false);
    b
}

impl Bench {
    fn disk(&self, no: u16) -> Arc<crate::disks::Member<Disk2>> {
        self.engine.disks.get(DiskNo(no)).expect("present")
    }

    fn seal(&self, sealed: bool) {
        let place = SlotAt { pool: self.engine.pool, disk: DiskId([0; 16]), off: DiskOff(40 << 18) };
        let seal = SlotSeal { session: SessionNo(1), id: SessionId([4; 16]), generation: Generation(1), sealed };
        self.disk(0).path().direct().expect("direct").inner().poke(place.seal(), &seal.encode(place));
    }

    fn append(&self, n: u64) -> Result<Appended> {
        block_on(self.log.append(written(n, 1)))
    }

    fn halves(&self, no: u32, copies: &[u16]) -> Vec<Half> {
        let id = self.log.id(no);
        let mut out = Vec::new();
        for c in journal(no).copies.iter().filter(|c| copies.contains(&c.first.disk.0)) {
            for (n, half) in c.halves().iter().enumerate() {
                let (disk, off) = (self.disk(half.disk.0), half.au.start(self.engine.au_size));
                let len = usize::try_from(half_bytes(self.engine.au_size)).expect("small");
                let (done, bytes) = block_on(disk.path().direct().expect("direct").inner().read(off, IoBuf::zeroed(len)));
                done.expect("memory can be read");
                out.extend(read_half(&bytes, &id, At { disk: disk.id(), off }, n));
            }
        }
        out
    }

    fn tail(&self, no: u32, copies: &[u16]) -> Tail {
        let (tail, damaged) = tail(self.halves(no, copies)).expect("begun");
        assert!(!damaged);
        tail
    }
}

fn written(n: u64, aus: u32) -> Vec<Entry> {
    let masks = (0..aus).map(|i| AuMask { au: VolAu(i), blocks: BlockMask(n) }).collect();
    vec![Entry::Written { masks }]
}

#[test]
fn either_copy_alone_gives_everything_that_was_answered() {
    let b = bench();
    for n in 1..=5 {
        assert_eq!(b.append(n).expect("durable").clear().expect("clear"), Seq(n));
    }
    for copies in [&[0u16][..], &[1], &[0, 1]] {
        let tail = b.tail(1, copies);
        assert_eq!((tail.last, tail.appends.len(), tail.epoch), (Seq(5), 5, VolumeEpoch(3)));
        assert_eq!(tail.appends[4].entries, written(5, 1));
    }
}

#[test]
fn callers_at_once_share_an_append_in_their_order() {
    let b = bench();
    let seqs = block_on(async {
        let tickets: Vec<_> = (1..=20).map(|n| b.log.enqueue(written(n, 1))).collect();
        join_all(tickets.into_iter().map(Ticket::done)).await
    });
    let seqs: Vec<u64> = seqs.into_iter().map(|s| s.expect("durable").seq.0).collect();
    assert_eq!(seqs, vec![1; 20], "one append for all that waited");
    let entries: Vec<Entry> = (1..=20).flat_map(|n| written(n, 1)).collect();
    assert_eq!(b.tail(1, &[1]).appends[0].entries, entries);
}

#[test]
fn a_full_half_is_followed_by_the_other_and_folds_trim() {
    let b = bench();
    for n in 1..=200 {
        drop(block_on(b.log.append(written(n, 100))).expect("durable"));
        if n % 10 == 0 {
            block_on(b.log.fold_all()).expect("folded");
        }
    }
    assert!(b.halves(1, &[0]).iter().all(|h| h.turn > 1), "both halves were used again");
    let tail = b.tail(1, &[0]);
    assert_eq!(tail.last, Seq(200));
    let folded = b.engine.control.folded.lock().expect("one thread").last().map(|a| a.seq);
    assert_eq!(folded, Some(Seq(200)));
    assert!(tail.appends.len() < 150, "what is folded is trimmed: {}", tail.appends.len());
}

#[test]
fn a_full_journal_waits_for_the_manager_and_says_so() {
    let b = bench();
    b.engine.control.away.store(true, Ordering::SeqCst);
    let mut n = 0;
    let e = loop {
        n += 1;
        match block_on(b.log.append(written(n, 400))) {
            Ok(_) => assert!(n < 200, "a journal is bounded"),
            Err(e) => break e,
        }
    };
    assert_eq!((e.kind(), b.log.is_full()), (Kind::Unreachable, true));
    assert_eq!(b.tail(1, &[0, 1]).last, Seq(n - 1), "all that was answered is there");
    b.engine.control.away.store(false, Ordering::SeqCst);
    drop(block_on(b.log.append(written(n, 400))).expect("there is room again"));
    assert!(!b.log.is_full());
    assert_eq!(b.tail(1, &[0, 1]).last, Seq(n));
}

#[test]
fn after_a_failed_copy_it_goes_on_in_a_fresh_journal() {
    let b = bench();
    drop(b.append(1).expect("durable"));
    b.disk(1).path().direct().expect("direct").faults().add(Rule::on(Ops::WRITE, Fault::Fail(EIO, Answer::Answered)).times(1));
    assert_eq!(b.append(2).expect("in the fresh one").clear().expect("clear"), Seq(2));
    assert_eq!(*b.engine.control.journals.lock().expect("one thread"), [(1, Seq(1))]);
    let tail = b.tail(2, &[0, 1]);
    assert_eq!((tail.last, tail.appends.iter().map(|a| a.seq.0).collect::<Vec<_>>()), (Seq(2), vec![2]));
    assert_eq!(b.tail(1, &[0]).last, Seq(2), "what landed on one copy of the old one lies above its closing number");
}

/// J2: without it the log goes on behind a gap, and what was answered then is not found again.
#[test]
#[cfg(debug_assertions)]
fn without_j2_an_answered_append_is_lost() {
    let lost = sentence::without(Tag::J2, || {
        let b = bench();
        drop(b.append(1).expect("durable"));
        for no in [0, 1] {
            b.disk(no).path().direct().expect("direct").faults().add(Rule::on(Ops::WRITE, Fault::Fail(EIO, Answer::Answered)).times(1));
        }
        let answered = b.append(2).expect("answered all the same").seq;
        let halves = b.halves(1, &[0, 1]);
        let last = halves.iter().map(|h| h.last).max().expect("begun");
        last < answered
    });
    assert!(lost);
}

#[test]
fn nothing_is_acknowledged_under_a_seal() {
    let b = bench();
    assert_eq!(b.append(1).expect("durable").clear().expect("clear"), Seq(1));
    b.seal(true);
    let counts = b.append(2).expect("it is durable");
    assert_eq!(counts.clear().expect_err("not acknowledged").kind(), Kind::Lapsed);
    assert!(b.engine.lease.is_over(), "the session is over");
    assert_eq!(b.append(3).expect_err("nothing is submitted any more").kind(), Kind::Lapsed);
}
