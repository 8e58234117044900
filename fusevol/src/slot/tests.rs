//! The slot on memory disks that fail, hang and are sealed.

use super::*;
use fusevol_shared::disk::fault::{Fault, FaultDisk, Faults, Ops, Rule};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::{Answer, ring};
use fusevol_shared::format::layout::Layout;
use fusevol_shared::ids::{DiskId, Generation};
use fusevol_shared::units::AuSize;
use std::task::Poll;

mod moves;

const SESSION: SessionNo = SessionNo(2050);
const ID: SessionId = SessionId([3; 16]);
const CLEAR: SlotSeal = SlotSeal { session: SESSION, id: ID, generation: Generation(4), sealed: false };

struct World {
    disks: Disks<FaultDisk<MemDisk>>,
    memory: Vec<MemDisk>,
    faults: Vec<Faults>,
    places: Vec<SlotAt>,
    slot: Slot,
}

/// A slot on `n` disks, its SEAL clear on each.
fn world(n: u8) -> World {
    let layout = Layout::for_disk(AuSize::DEFAULT, 64 << 20).expect("large enough");
    let (disks, mut memory, mut faults, mut places) = (Disks::new(), vec![], vec![], vec![]);
    for i in 0..n {
        let id = DiskId([i + 1; 16]);
        let mem = MemDisk::new(64 << 20);
        let disk = FaultDisk::new(mem.clone());
        faults.push(disk.faults());
        disks.set_present(DiskNo(u16::from(i)), id, Arc::new(disk));
        places.push(SlotAt::new(PoolId([1; 16]), id, &layout, SESSION));
        memory.push(mem);
    }
    let at = |(no, at): (u16, &SlotAt)| Carrier { disk: DiskNo(no), at: *at, opened: Generation(4) };
    let named = (0u16..).zip(&places).map(at).collect();
    let world = World { disks, memory, faults, places, slot: Slot::new(PoolId([1; 16]), SESSION, ID, 0, named) };
    (0..usize::from(n)).for_each(|i| world.seal(i, CLEAR));
    world
}

impl World {
    fn seal(&self, i: usize, seal: SlotSeal) {
        self.memory[i].poke(self.places[i].seal(), &seal.encode(self.places[i]));
    }

    fn beats(&self) -> Vec<Option<u64>> {
        let one = |(m, at): (&MemDisk, &SlotAt)| Heartbeat::decode(&m.peek(at.off, PAGE), *at).ok().map(|h| h.beat.0);
        self.memory.iter().zip(&self.places).map(one).collect()
    }

    fn check(&self) -> Result<()> {
        ring::block_on(self.slot.check(&self.disks))
    }

    fn beat(&self) -> Result<()> {
        ring::block_on(self.slot.beat(&self.disks))
    }
}

fn kind(result: Result<()>) -> Option<Kind> {
    result.err().map(|e| e.kind())
}

fn failing(ops: Ops) -> Rule {
    Rule::on(ops, Fault::Fail(libc::EIO, Answer::NotReturned))
}

#[test]
fn a_beat_is_on_every_disk_and_the_seal_is_read_after_it() {
    for n in 1..=3 {
        let w = world(n);
        w.beat().expect("clear");
        w.beat().expect("clear");
        assert_eq!(w.beats(), vec![Some(2); usize::from(n)]);
    }
    // The SEAL comes while the heartbeat is on its way: it is read after it, so it is seen.
    let w = world(1);
    let hang = w.faults[0].add(Rule::on(Ops::WRITE, Fault::Hang));
    let result = ring::block_on(async {
        let mut beat = std::pin::pin!(w.slot.beat(&w.disks));
        assert!(std::future::poll_fn(|cx| Poll::Ready(beat.as_mut().poll(cx).is_pending())).await);
        w.seal(0, SlotSeal { sealed: true, ..CLEAR });
        w.faults[0].remove(hang);
        beat.await
    });
    assert_eq!((kind(result), w.slot.is_sealed()), (Some(Kind::Lapsed), true));
}

#[test]
fn without_the_sentence_a_sealed_session_would_keep_its_lease() {
    let w = world(3);
    (0..3).for_each(|i| w.seal(i, SlotSeal { sealed: true, ..CLEAR }));
    assert!(sentence::without(Tag::L1, || w.beat()).is_ok(), "the heartbeat alone extends it");
    assert_eq!(kind(w.beat()), Some(Kind::Lapsed));
}

#[test]
fn anything_but_the_own_clear_seal_ends_it_for_good() {
    let others = [
        SlotSeal { sealed: true, ..CLEAR },
        SlotSeal { generation: Generation(5), ..CLEAR },
        SlotSeal { session: SessionNo(SESSION.0 + 2048), ..CLEAR },
        SlotSeal { id: SessionId([4; 16]), ..CLEAR },
    ];
    for other in others {
        let w = world(3);
        w.seal(1, other);
        assert_eq!(kind(w.check()), Some(Kind::Lapsed), "{other:?}");
        w.seal(1, CLEAR);
        assert_eq!((kind(w.check()), kind(w.beat())), (Some(Kind::Lapsed), Some(Kind::Lapsed)), "it never comes back");
        assert_eq!(w.beats(), [None; 3], "a sealed slot does no I/O");
    }
    let w = world(3);
    let mut torn = SlotSeal { sealed: true, ..CLEAR }.encode(w.places[2]);
    torn[..100].copy_from_slice(&CLEAR.encode(w.places[2])[..100]);
    w.memory[2].poke(w.places[2].seal(), &torn);
    let e = w.check().expect_err("torn");
    assert!(e.kind() == Kind::Lapsed && e.to_string().contains("disk 2"), "{e}");
}

/// It was lost when the slot was opened, and is back.
#[test]
fn a_disk_that_missed_the_opening_does_not_count() {
    for n in 2..=3 {
        let w = world(n);
        w.seal(1, SlotSeal { session: SessionNo(SESSION.0 - 1), id: SessionId([4; 16]), generation: Generation(2), sealed: true });
        assert!(w.check().is_ok() && w.beat().is_ok() && !w.slot.is_sealed());
        w.memory[1].poke(w.places[1].seal(), &[0; PAGE]);
        assert!(w.check().is_ok() && w.beat().is_ok());
        w.faults[0].add(failing(Ops::READ));
        assert_eq!(kind(w.check()), Some(Kind::Io), "what is left is not enough");
    }
}

#[test]
fn half_of_them_or_more_are_needed_and_an_unreadable_disk_only_does_not_count() {
    for (n, may_fail) in [(1, 0), (2, 1), (3, 1)] {
        let w = world(n);
        for i in 0..usize::from(n) {
            w.faults[i].add(failing(Ops::READ));
            let expected = (i >= may_fail).then_some(Kind::Io);
            assert_eq!((kind(w.check()), kind(w.beat())), (expected, expected), "{} of {n} fail", i + 1);
        }
        w.faults.iter().for_each(Faults::clear);
        assert!(w.check().is_ok() && !w.slot.is_sealed());
        for i in 0..usize::from(n) {
            w.faults[i].add(failing(Ops::WRITE));
            assert_eq!(kind(w.beat()), (i >= may_fail).then_some(Kind::Io));
        }
        assert!(w.check().is_ok());
    }
    let w = world(3);
    w.disks.set_missing(DiskNo(0), "unplugged");
    assert!(w.beat().is_ok());
    w.disks.set_missing(DiskNo(2), "unplugged");
    let e = w.beat().expect_err("one of three");
    assert!(e.kind() == Kind::Io && e.to_string().contains("unplugged"), "{e}");
}

#[test]
fn a_hung_disk_is_left_alone_until_it_is_needed() {
    let w = world(3);
    // So many requests hang; one more would pass.
    w.faults[1].add(Rule::on(Ops::ALL, Fault::Hang).times(UNHEARD + 1));
    let began = SystemClock.now();
    for _ in 0..3 * UNHEARD {
        w.check().expect("the others answer");
    }
    assert!(SystemClock.now().since(began) < GRACE, "nobody waited for it");
    for _ in 0..50 {
        w.beat().expect("the others answer");
    }
    let counts = w.faults[1].counts();
    assert_eq!((counts.passed, counts.hanging), (0, 0), "it is not asked again and again, what was given up is dropped");
    assert!(w.slot.places.load().each[1].is_silent(SystemClock.now(), Wait::All));
    w.faults[0].add(failing(Ops::READ));
    assert!(w.check().is_ok(), "asked where the others are not enough");
    assert!(!w.slot.places.load().each[1].is_silent(SystemClock.now(), Wait::Enough), "it has answered");
}

#[test]
fn a_slow_disk_keeps_no_check_waiting_and_a_beat_hears_it() {
    let w = world(3);
    w.faults[2].add(Rule::on(Ops::ALL, Fault::Delay(GRACE / 4)));
    let began = SystemClock.now();
    for _ in 0..2 * UNHEARD {
        w.check().expect("the others answer");
    }
    assert!(SystemClock.now().since(began) < GRACE * 5);
    assert!(w.slot.places.load().each[2].is_silent(SystemClock.now(), Wait::Enough));
    w.beat().expect("clear");
    assert!(!w.slot.places.load().each[2].is_silent(SystemClock.now(), Wait::Enough));
    w.seal(2, SlotSeal { sealed: true, ..CLEAR });
    assert_eq!(kind(w.beat()), Some(Kind::Lapsed), "what it says is heard");
}

#[test]
fn too_many_hung_disks_are_an_error_in_the_end() {
    let w = world(3);
    for f in &w.faults[..2] {
        f.add(Rule::on(Ops::READ, Fault::Hang));
    }
    let began = SystemClock.now();
    assert_eq!(kind(w.check()), Some(Kind::Io));
    assert!(SystemClock.now().since(began) >= LIMIT);
}

#[test]
fn without_a_ring_nothing_is_waited_for_by_the_clock() {
    let w = world(3);
    w.faults[1].add(Rule::on(Ops::ALL, Fault::Hang));
    assert!(w.slot.beat(&w.disks).now_or_never().expect("a majority has answered").is_ok());
    w.faults[2].add(Rule::on(Ops::ALL, Fault::Hang));
    assert!(w.slot.check(&w.disks).now_or_never().is_none());
}

#[test]
fn a_slot_without_places_is_always_clear() {
    let slot = Slot::new(PoolId([1; 16]), SESSION, ID, 0, vec![]);
    let disks: Disks<MemDisk> = Disks::new();
    assert!(slot.check(&disks).now_or_never().expect("no I/O").is_ok());
    assert!(slot.beat(&disks).now_or_never().expect("no I/O").is_ok());
}

#[test]
fn letters_to_this_session_are_found_and_answered_with_each_beat() {
    let w = world(3);
    let letter = |session, id, push| Letter { session, id, generation: Generation(4), push, body: vec![1, 2, 3] };
    let put = |i: usize, page: u8, letter: &Letter| {
        let at = LetterAt { pool: PoolId([1; 16]), disk: w.places[i].disk, page };
        w.memory[i].poke(at.off(), &letter.encode(at).expect("it fits"));
    };
    let find = || ring::block_on(w.slot.letters(&w.disks)).into_iter().map(|l| l.push).collect::<Vec<_>>();
    assert!(find().is_empty());
    put(0, 3, &letter(SESSION, ID, 7));
    put(2, 15, &letter(SESSION, ID, 8));
    put(1, 0, &letter(SessionNo(2), ID, 9));
    put(1, 1, &letter(SESSION, SessionId([4; 16]), 10));
    let mut found = find();
    found.sort_unstable();
    assert_eq!(found, [7, 8], "on any disk, and nobody else's");
    w.faults[2].add(failing(Ops::READ));
    w.disks.set_missing(DiskNo(1), "unplugged");
    assert_eq!(find(), [7]);

    w.faults[2].clear();
    let answers = || -> Vec<_> {
        let one = |(m, at): (&MemDisk, &SlotAt)| Heartbeat::decode(&m.peek(at.off, PAGE), *at).ok().and_then(|h| h.answer);
        w.memory.iter().zip(&w.places).filter_map(one).collect()
    };
    w.beat().expect("clear");
    assert!(answers().is_empty());
    let answer = super::Answer { push: 7, done: true };
    w.slot.answer(answer);
    (0..2).for_each(|_| w.beat().expect("clear"));
    assert_eq!(answers(), [answer; 2]);
}
