//! Slots and journals on memory disks that fail, hang, rot and are torn.

use super::*;
use fusevol_shared::change::{Append, Entry, Journal, JournalCopy, Region};
use fusevol_shared::disk::fault::{Fault, FaultDisk, Faults, Ops, Rule};
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::format::journal::{Body, State};
use fusevol_shared::ids::{FenceToken, VolumeEpoch, VolumeId};
use fusevol_shared::units::AuNo;
use fusevol_shared::wire::messages::SlotDisk;
use futures_util::FutureExt;

const POOL: PoolId = PoolId([1; 16]);
const SESSION: SessionNo = SessionNo(2050);
const ID: SessionId = SessionId([3; 16]);
const SLOTS: [DiskNo; 3] = [DiskNo(0), DiskNo(1), DiskNo(2)];
const OF: SlotOf<'_> = SlotOf { session: SESSION, id: ID, slots: &SLOTS };

struct World {
    disks: Vec<Member<FaultDisk<MemDisk>>>,
    faults: Vec<Faults>,
    memory: Vec<MemDisk>,
}

fn world() -> World {
    let memory: Vec<MemDisk> = (0..3).map(|_| MemDisk::new(64 << 20)).collect();
    let wrapped = memory.iter().map(|m| FaultDisk::new(m.clone()));
    let disks: Vec<_> = (0u8..).zip(wrapped).map(|(i, d)| (DiskNo(i.into()), DiskId([i + 1; 16]), d)).collect();
    let faults = disks.iter().map(|(_, _, d)| d.faults()).collect();
    World { disks, faults, memory }
}

impl World {
    fn io(&self) -> SessionIo<'_, FaultDisk<MemDisk>> {
        SessionIo::new(POOL, AuSize::DEFAULT, &self.disks, Duration::from_millis(50))
    }

    fn seals(&self, id: SessionId, opened: Generation) -> Vec<Option<bool>> {
        let one = |no: &DiskNo| {
            let seal = self.io().read_seal(*no, SESSION).now_or_never().expect("memory").expect("read").ok()?;
            Some(seal.is_clear_for(SESSION, id, opened))
        };
        SLOTS.iter().map(one).collect()
    }
}

fn broken(ops: Ops) -> Rule {
    Rule::on(ops, Fault::Fail(libc::EIO, Answer::NotReturned))
}

#[test]
fn a_slot_is_opened_and_sealed_on_a_majority() {
    let w = world();
    let open = |w: &World| ring::block_on(w.io().open_slot(OF, Generation(4)));
    assert_eq!(open(&w), (true, vec![]));
    assert_eq!(w.seals(ID, Generation(4)), [Some(true); 3]);
    assert_eq!(w.seals(ID, Generation(5)), [Some(false); 3], "the generation stands in it");
    w.faults[1].add(broken(Ops::WRITE));
    let seal = |slots: &Slots| ring::block_on(w.io().seal_slot(SESSION, ID, slots, Generation(5)));
    let slots = Slots::new(SLOTS, Generation(4));
    let (done, failed) = seal(&slots);
    assert!(done && failed.len() == 1 && failed[0].contains("disk 1"), "{failed:?}");
    assert_eq!(w.seals(ID, Generation(4)), [Some(false), Some(true), Some(false)]);
    w.faults[2].add(broken(Ops::WRITE));
    assert!(!seal(&slots).0, "one of three is not enough");
    assert!(!open(&w).0);
    assert!(!seal(&Slots::new([DiskNo(0), DiskNo(7)], Generation(4))).0);
}

#[test]
fn a_slot_that_moves_is_sealed_on_a_majority_of_both_sets() {
    let w = world();
    let place = |disk: u16, opened| SlotDisk { disk: DiskNo(disk), opened: Generation(opened) };
    let slots = Slots { now: vec![place(0, 4), place(1, 4)], next: vec![place(1, 4), place(2, 5)], moves: 1 };
    let opened = ring::block_on(w.io().open_places(SlotOf { slots: &[DiskNo(2), DiskNo(7)], ..OF }, Generation(5)));
    assert_eq!(opened, [(DiskNo(2), Opened::Done), (DiskNo(7), Opened::Not)]);
    assert_eq!(w.seals(ID, Generation(5)), [None, None, Some(true)]);
    for (lost, done) in [(0, false), (1, false), (2, false), (3, true)] {
        w.faults.iter().for_each(Faults::clear);
        if let Some(f) = w.faults.get(lost) {
            f.add(broken(Ops::WRITE));
        }
        assert_eq!(ring::block_on(w.io().seal_slot(SESSION, ID, &slots, Generation(6))).0, done, "without disk {lost}");
    }
    w.faults[0].add(broken(Ops::WRITE));
    w.faults[1].add(Rule::on(Ops::WRITE, Fault::Fail(libc::EIO, Answer::Answered)));
    w.faults[2].add(Rule::on(Ops::WRITE, Fault::Hang));
    let opened = ring::block_on(w.io().open_places(OF, Generation(7)));
    assert_eq!(opened, [(DiskNo(0), Opened::Late), (DiskNo(1), Opened::Not), (DiskNo(2), Opened::Late)], "what may still land is said");
}

#[test]
fn a_hung_disk_holds_nobody_up() {
    let w = world();
    w.faults[2].add(Rule::on(Ops::ALL, Fault::Hang));
    let io = w.io();
    assert!(ring::block_on(io.seal_slot(SESSION, ID, &Slots::new(SLOTS, Generation(4)), Generation(5))).0);
    let hung = w.faults[2].counts();
    assert_eq!(ring::block_on(io.read_slot(OF)), None);
    assert_eq!(w.faults[2].counts(), hung, "it is asked once");
}

#[test]
fn the_highest_beat_of_this_identity_counts() {
    let w = world();
    assert_eq!(ring::block_on(w.io().read_slot(OF)), None);
    let layout = Layout::for_disk(AuSize::DEFAULT, 64 << 20).expect("large enough");
    let put = |i: usize, id: SessionId, session: SessionNo, beat: u64| {
        let at = SlotAt::new(POOL, w.disks[i].1, &layout, SESSION);
        w.memory[i].poke(at.off, &Heartbeat { session, id, beat: Seq(beat), nonce: 0, answer: None }.encode(at));
    };
    put(0, ID, SESSION, 7);
    put(1, ID, SESSION, 9);
    put(2, SessionId([9; 16]), SESSION, 50);
    assert_eq!(ring::block_on(w.io().read_slot(OF)), Some(Seq(9)));
    put(2, ID, SessionNo(2), 50);
    w.faults[1].add(broken(Ops::READ));
    assert_eq!(ring::block_on(w.io().read_slot(OF)), Some(Seq(7)), "the slot's former session does not count");
}

// ---- journals ----

fn au(disk: u16, au: u32) -> DiskAu {
    DiskAu { disk: DiskNo(disk), au: AuNo(au) }
}

fn journal(copies: u16) -> JournalRef {
    let copies = (0..copies).map(|d| JournalCopy { first: au(d, 40), second: au(d, 41) }).collect();
    JournalRef {
        volume: VolumeId([2; 16]),
        session: SESSION,
        token: FenceToken(4),
        journal: Journal { no: 1, copies },
        without: Vec::new(),
    }
}

fn append(seq: u64) -> Append {
    Append {
        seq: Seq(seq),
        entries: vec![Entry::Marked { epoch: VolumeEpoch(1), regions: vec![Region(u32::try_from(seq).expect("small"))] }],
    }
}

/// Writes a turn to one copy; gives where each frame begins on the disk.
fn write_turn(w: &World, disk: usize, turn: u64, folded: u64, appends: impl Iterator<Item = u64>) -> Vec<DiskOff> {
    let j = journal(1);
    let id = JournalId { pool: POOL, volume: j.volume, session: SESSION, token: j.token, journal: 1 };
    let state = State { epoch: VolumeEpoch(1), folded: Seq(folded), appends: vec![], dirty: vec![] };
    let bodies =
        std::iter::once(Body::of_state(&id, turn, Seq(folded), &state)).chain(appends.map(|n| Body::of_append(&id, turn, &append(n))));
    let half = if turn % 2 == 1 { 40 } else { 41 };
    let mut off = AuNo(half).start(AuSize::DEFAULT);
    let mut starts = Vec::new();
    for body in bodies {
        let mut frame = vec![0; body.frame_len()];
        body.seal_into(&id, At { disk: w.disks[disk].1, off }, &mut frame);
        w.memory[disk].poke(off, &frame);
        starts.push(off);
        off = off.plus(frame.len() as u64);
    }
    starts
}

fn last(w: &World, copies: u16) -> Result<u64> {
    ring::block_on(w.io().read_journal(&journal(copies))).map(|r| r.tail.last.0)
}

#[test]
fn a_journal_is_read_to_its_end_on_the_copy_that_goes_furthest() {
    let w = world();
    let empty = ring::block_on(w.io().read_journal(&journal(2))).expect("never begun");
    assert_eq!(empty, JournalRead::default());
    write_turn(&w, 0, 1, 0, 1..=3);
    write_turn(&w, 1, 1, 0, 1..=4);
    assert_eq!(last(&w, 2).expect("read"), 4);
    write_turn(&w, 0, 2, 4, 5..=6);
    assert_eq!(last(&w, 2).expect("one copy is enough"), 6);
    let tails = ring::block_on(w.io().read_journals(&[journal(2)]));
    let (token, tail) = &tails[0];
    let tail = tail.as_ref().expect("read");
    assert_eq!((*token, tail.appends.len(), tail.dirty.as_slice()), (FenceToken(4), 2, &[Region(5), Region(6)][..]));
}

#[test]
fn an_unreadable_copy_is_passed_over_and_none_is_an_error() {
    let w = world();
    write_turn(&w, 0, 1, 0, 1..=3);
    write_turn(&w, 1, 1, 0, 1..=3);
    w.faults[0].add(broken(Ops::READ));
    let read = ring::block_on(w.io().read_journal(&journal(2))).expect("the other copy");
    assert_eq!((read.tail.last, read.flaws.len()), (Seq(3), 1));
    w.faults[1].add(Rule::on(Ops::READ, Fault::Hang));
    let e = last(&w, 2).expect_err("none");
    assert!(e.kind() == Kind::Io && e.to_string().contains("disk 1"), "{e}");
    let tails = ring::block_on(w.io().read_journals(&[journal(2), journal(1)]));
    assert!(tails.iter().all(|(_, t)| t.as_ref().is_err_and(|e| e.kind == Kind::Io)));
}

#[test]
fn no_journal_is_concluded_over_a_disk_that_cannot_be_flushed() {
    let w = world();
    write_turn(&w, 0, 1, 0, 1..=3);
    w.faults[2].add(broken(Ops::FLUSH).times(1));
    let ends = || ring::block_on(w.io().read_journals(&[journal(2)])).pop().expect("one").1.map(|t| t.last);
    assert!(ends().is_err_and(|e| e.message.contains("disk 2")));
    assert_eq!(ends(), Ok(Seq(3)), "asked again");
}

/// The volume's copies there are out: nothing of it is read there any more.
#[test]
fn a_disk_that_counts_for_nothing_keeps_no_journal() {
    let w = world();
    write_turn(&w, 0, 1, 0, 1..=3);
    w.faults[1].add(broken(Ops::ALL));
    let ends =
        |without| ring::block_on(w.io().read_journals(&[JournalRef { without, ..journal(2) }])).pop().expect("one").1.map(|t| t.last);
    assert!(ends(vec![DiskNo(2)]).is_err_and(|e| e.message.contains("disk 1")));
    assert_eq!(ends(vec![DiskNo(1)]), Ok(Seq(3)), "the other copy of the journal");
}

#[test]
fn damage_is_never_a_shorter_journal() {
    let w = world();
    let starts = write_turn(&w, 0, 1, 0, 1..=3);
    w.memory[0].poke(starts[2].plus(100), &[0xff]);
    let e = last(&w, 1).expect_err("append 2 of 3 is gone");
    assert!(e.kind() == Kind::Damaged && e.to_string().contains("disk 0") && e.to_string().contains(&journal(1).volume.to_string()), "{e}");
    write_turn(&w, 1, 1, 0, 1..=3);
    assert_eq!(last(&w, 2).expect("the other copy has it"), 3);

    // The state of the newer half rots: the older half alone would be a shorter journal.
    let w = world();
    write_turn(&w, 0, 1, 0, 1..=3);
    let starts = write_turn(&w, 0, 2, 3, 4..=5);
    w.memory[0].poke(starts[0].plus(100), &[0xff]);
    assert_eq!(last(&w, 1).expect_err("its appends are there").kind(), Kind::Damaged);
    // A state that was being written when the session died has no appends behind it.
    let w = world();
    write_turn(&w, 0, 1, 0, 1..=3);
    let starts = write_turn(&w, 0, 2, 3, std::iter::empty());
    w.memory[0].poke(starts[0].plus(100), &[0xff]);
    assert_eq!(last(&w, 1).expect("torn, not damaged"), 3);
}

// ---- letters ----

#[test]
fn a_letter_needs_one_disk_and_the_youngest_answer_on_any_counts() {
    let w = world();
    let letter = Letter { session: SESSION, id: ID, generation: Generation(4), push: 7, body: vec![5; 9] };
    let on = |i: usize| {
        let at = LetterAt { pool: POOL, disk: w.disks[i].1, page: 3 };
        Letter::decode(&w.memory[i].peek(at.off(), PAGE), at).ok()
    };
    let write = || ring::block_on(w.io().write_letter(&SLOTS, 3, &letter));
    w.faults[0].add(broken(Ops::WRITE));
    w.faults[2].add(broken(Ops::WRITE));
    assert!(write());
    assert_eq!([on(0), on(1), on(2)], [None, Some(letter.clone()), None]);
    w.faults[1].add(broken(Ops::WRITE));
    assert!(!write());

    let layout = Layout::for_disk(AuSize::DEFAULT, 64 << 20).expect("large enough");
    let put = |i: usize, id: SessionId, push: u64| {
        let at = SlotAt::new(POOL, w.disks[i].1, &layout, SESSION);
        let answer = Some(Answered { push, done: push.is_multiple_of(2) });
        w.memory[i].poke(at.off, &Heartbeat { session: SESSION, id, beat: Seq(1), nonce: 0, answer }.encode(at));
    };
    assert_eq!(ring::block_on(w.io().read_answer(OF)), None);
    put(0, ID, 7);
    put(1, ID, 8);
    put(2, SessionId([9; 16]), 50);
    assert_eq!(ring::block_on(w.io().read_answer(OF)), Some(Answered { push: 8, done: true }));
    w.faults[1].add(broken(Ops::READ));
    assert_eq!(ring::block_on(w.io().read_answer(OF)), Some(Answered { push: 7, done: false }));
}
