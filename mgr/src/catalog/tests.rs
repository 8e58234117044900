//! The fold: what fits, what does not, and that a wrong record changes nothing.

use super::alloc::{Allocator, Wish};
use super::record::{ClientEntry, DiskEntry, Fencing, Mode, PoolEntry, Record, SessionEntry, SnapshotToBe, Takeover};
use super::{Catalog, prove};
use fusevol_shared::change::{Append, Entry, Journal, JournalCopy, Places, Region, WhenFull};
use fusevol_shared::ids::{
    BootId, ClientId, DiskId, FenceToken, Generation, KeyPrint, PoolId, Seq, SessionId, SessionNo, SnapshotId, VolumeEpoch, VolumeId,
};
use fusevol_shared::map::{AuMask, Leg, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuNo, AuSize, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::messages::{Segment, SlotDisk};
use fusevol_shared::wire::rights::{Right, Rights};
use fusevol_shared::wire::slots::Slots;
use std::collections::BTreeSet;

const V: VolumeId = VolumeId([1; 16]);
const C: ClientId = ClientId([2; 16]);
const S: SnapshotId = SnapshotId([3; 16]);
const T: FenceToken = FenceToken(0);
/// Of a writer that is taken over from.
const W: FenceToken = FenceToken(2);

fn name(t: &str) -> Name {
    Name::new(t).expect("a name")
}

fn disk(no: u16) -> Record {
    let id = DiskId([u8::try_from(no).expect("small") + 1; 16]);
    Record::DiskAdded(DiskEntry { no: DiskNo(no), id, aus: 60, first_data: AuNo(10), end_data: AuNo(50), paths: vec!["/dev/x".into()] })
}

fn run(first: u32, disk: u16, au: u32, n: usize) -> MapRun {
    MapRun { first: VolAu(first), legs: vec![Leg::single(DiskAu { disk: DiskNo(disk), au: AuNo(au) })], written: vec![0; n] }
}

fn at(disk: u16, au: u32) -> DiskAu {
    DiskAu { disk: DiskNo(disk), au: AuNo(au) }
}

fn places(disk: u16, au: u32, count: u32) -> Places {
    Places { legs: vec![at(disk, au)], count }
}

fn segment(no: u32, epoch: u64, au: u32) -> Segment {
    Segment { no, epoch: VolumeEpoch(epoch), token: T, session: SessionNo(0), legs: vec![at(1, au)] }
}

fn masks(au: u32, blocks: u64) -> Vec<AuMask> {
    vec![AuMask { au: VolAu(au), blocks: BlockMask(blocks) }]
}

fn written(au: u32, blocks: u64) -> Entry {
    Entry::Written { masks: masks(au, blocks) }
}

fn discarded(au: u32) -> Entry {
    Entry::Discarded { cleared: masks(au, u64::MAX) }
}

fn flipped(epoch: u64, segment: Segment) -> Entry {
    Entry::Flipped { epoch: VolumeEpoch(epoch), segment, dirty: vec![Region(0)] }
}

/// The append of number `seq` alone.
fn folded(seq: u64, entries: Vec<Entry>, limbo: u64, waits: &[u32]) -> Record {
    let waits = waits.iter().copied().map(SessionNo).collect();
    Record::Folded { token: T, prev: Seq(seq - 1), appends: vec![Append { seq: Seq(seq), entries }], limbo, waits }
}

fn journal(no: u32, au: u32) -> Journal {
    let copy = |disk| JournalCopy { first: at(disk, au), second: at(disk, au + 1) };
    Journal { no, copies: vec![copy(0), copy(1)] }
}

fn to_be(id: SnapshotId, text: &str) -> SnapshotToBe {
    SnapshotToBe { id, name: name(text), created: 7 }
}

fn session(no: u32) -> Record {
    Record::SessionOpened(SessionEntry {
        no: SessionNo(no),
        id: SessionId([u8::try_from(no % 251).expect("small"); 16]),
        client: C,
        boot: BootId([1; 16]),
        host: "h".into(),
        program: "p".into(),
        opened: 5,
        slots: Slots::new([DiskNo(0), DiskNo(1)], Generation(1)),
        generation: Generation(1),
        sealed: false,
    })
}

fn slot_disk(disk: u16, opened: u64) -> SlotDisk {
    SlotDisk { disk: DiskNo(disk), opened: Generation(opened) }
}

fn attached(session: u32, token: u64, mode: Mode, segment: Option<Segment>) -> Record {
    let (session, token) = (SessionNo(session), FenceToken(token));
    let (journal, reserve) = match mode {
        Mode::Read => (None, vec![]),
        Mode::Write => (Some(journal(1, 46)), vec![places(0, 20, 4), places(1, 30, 1)]),
    };
    Record::Attached { volume: V, session, token, mode, segment, journal, reserve }
}

/// One of each kind, each fitting after those before it.
fn story() -> Vec<Record> {
    let granted = |no, places: Vec<Places>, back: Vec<Places>| Record::Granted { token: T, no, places, back };
    let begun = |epoch, snapshot| Record::EpochBegun { volume: V, epoch: VolumeEpoch(epoch), snapshot };
    let (t, u) = (SnapshotId([4; 16]), SnapshotId([5; 16]));
    vec![
        Record::PoolCreated(PoolEntry { id: PoolId([9; 16]), name: name("pool"), au_size: AuSize::DEFAULT, lease_ms: 1000, created: 1 }),
        Record::AuthoritySet { sealed: vec![1, 2, 3] },
        Record::ListenSet { addresses: vec!["127.0.0.1:7400".into()] },
        disk(0),
        disk(1),
        Record::DiskPaths { disk: DiskNo(1), paths: vec!["/dev/y".into()] },
        Record::FencingSet { fencing: Fencing::Required },
        Record::VolumeCreated { id: V, name: name("db"), size: 64 << 20, legs: 1, created: 2 },
        Record::WhenFullSet { volume: V, when_full: WhenFull::StopWriter },
        Record::VolumeCreated { id: VolumeId([7; 16]), name: name("gone"), size: 512, legs: 3, created: 2 },
        Record::VolumeRemoved { id: VolumeId([7; 16]) },
        Record::ClientAdded { id: C, name: name("host"), print: KeyPrint([1; 32]), created: 3 },
        Record::ClientAdded { id: ClientId([8; 16]), name: name("other"), print: KeyPrint([2; 32]), created: 3 },
        Record::ClientRevoked { id: ClientId([8; 16]) },
        Record::AccessSet { volume: V, client: C, rights: Rights::NONE.with(Right::Write) },
        Record::AccessSet { volume: V, client: ClientId([8; 16]), rights: Rights::NONE.with(Right::Read) },
        Record::ClientRemoved { id: ClientId([8; 16]) },
        session(0),
        session(1),
        session(3),
        Record::SessionReopened { no: SessionNo(3), generation: Generation(2) },
        Record::SlotMoves { no: SessionNo(3), next: vec![slot_disk(1, 2)] },
        Record::SlotMoved { no: SessionNo(3), moves: 1 },
        Record::SessionSealed { no: SessionNo(3) },
        Record::SlotMoves { no: SessionNo(1), next: vec![slot_disk(0, 1)] },
        Record::SessionEnded { no: SessionNo(3), closed: vec![] },
        attached(0, 0, Mode::Write, None),
        attached(1, 1, Mode::Read, None),
        folded(1, vec![Entry::Bound { runs: vec![run(0, 0, 20, 4), run(10, 1, 30, 1)] }], 0, &[]),
        granted(1, vec![places(1, 40, 5), places(0, 11, 6)], vec![]),
        folded(2, vec![written(0, 3)], 0, &[]),
        begun(2, to_be(S, "s")),
        folded(3, vec![written(0, 4), flipped(2, segment(1, 1, 40)), written(0, 8)], 0, &[1]),
        Record::SnapshotOpened { id: S, session: SessionNo(1) },
        folded(4, vec![Entry::Segment(segment(2, 1, 41)), written(1, 8)], 0, &[]),
        folded(5, vec![discarded(0)], 0, &[1]),
        folded(
            6,
            vec![Entry::Bound { runs: vec![run(20, 0, 11, 2)] }, discarded(20), Entry::Bound { runs: vec![run(20, 0, 13, 1)] }],
            0,
            &[1],
        ),
        granted(2, vec![places(0, 30, 2)], vec![places(0, 15, 2)]),
        folded(7, vec![discarded(21)], 1, &[]),
        Record::LimboFreed { no: 1 },
        folded(8, vec![Entry::Broken { epoch: VolumeEpoch(1) }], 0, &[]),
        begun(3, to_be(u, "u")),
        Record::HoldDropped { volume: V },
        begun(4, to_be(t, "t")),
        folded(9, vec![flipped(3, segment(3, 2, 42)), written(2, 1)], 0, &[]),
        folded(10, vec![flipped(4, segment(4, 3, 43)), Entry::Marked { epoch: VolumeEpoch(4), regions: vec![Region(0)] }], 0, &[]),
        folded(11, vec![Entry::Cleared { epoch: VolumeEpoch(4), regions: vec![Region(0)], changed: masks(2, 1) }], 0, &[]),
        Record::JournalReplaced { token: T, closing: Seq(11), journal: journal(2, 48) },
        Record::SnapshotClosed { id: S, session: SessionNo(1) },
        Record::SnapshotRemoved { id: S, limbo: 2, waits: vec![SessionNo(1)] },
        Record::SegmentsDropped { volume: V, nos: vec![1, 2, 3] },
        Record::LimboAnswered { no: 0, session: SessionNo(1) },
        Record::LimboFreed { no: 0 },
        Record::SnapshotOpened { id: t, session: SessionNo(1) },
        Record::LeftDirty { token: T, regions: vec![Region(0)] },
        Record::SessionEnded { no: SessionNo(0), closed: vec![(T, Seq(11))] },
        Record::SnapshotTaken { id: SnapshotId([6; 16]), volume: V, name: name("v"), epoch: VolumeEpoch(4), created: 8 },
        session(5),
        Record::Attached {
            volume: V,
            session: SessionNo(5),
            token: W,
            mode: Mode::Write,
            segment: Some(Segment { no: 5, epoch: VolumeEpoch(4), token: W, session: SessionNo(5), legs: vec![at(1, 25)] }),
            journal: Some(journal(1, 46)),
            reserve: vec![places(1, 20, 3)],
        },
        Record::Folded {
            token: W,
            prev: Seq(0),
            appends: vec![Append { seq: Seq(1), entries: vec![Entry::Bound { runs: vec![run(30, 1, 20, 1)] }] }],
            limbo: 0,
            waits: vec![],
        },
        Record::SessionSealed { no: SessionNo(5) },
        Record::TakeoverGranted { token: W, places: vec![places(0, 35, 1)] },
        Record::TakeoverDropped { token: W, generation: Generation(2) },
        Record::TakeoverGranted { token: W, places: vec![places(0, 38, 2)] },
        Record::TakenOver(Takeover {
            token: W,
            closing: Seq(1),
            moves: vec![run(30, 0, 38, 1)],
            segments: vec![Segment { no: 5, epoch: VolumeEpoch(4), token: W, session: SessionNo(5), legs: vec![at(0, 39)] }],
            ended: vec![5],
            limbo: 3,
            waits: vec![SessionNo(1)],
        }),
        Record::SessionEnded { no: SessionNo(5), closed: vec![] },
        Record::Detached { token: FenceToken(1) },
        Record::SessionEnded { no: SessionNo(1), closed: vec![] },
    ]
}

#[test]
fn the_story_is_told_alike_by_log_and_checkpoint_at_every_point() {
    let mut c = Catalog::default();
    for r in story() {
        c.apply(&r).unwrap_or_else(|e| panic!("{r:?}: {e}"));
        assert_eq!(prove(&c), [], "after {r:?}");
        let again = Catalog::fold(&c.dump()).unwrap_or_else(|e| panic!("after {r:?}: {e}"));
        assert!(again == c, "after {r:?}");
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&r).expect("archived");
        assert_eq!(rkyv::from_bytes::<Record, rkyv::rancor::Error>(&bytes).expect("read"), r);
    }
    assert_eq!(c.limbo().map(|l| (l.no, l.waits.len())).collect::<Vec<_>>(), [(2, 0), (3, 0)]);
    // What is left: the maps, two segments that snapshots need, limbo, and where a takeover that was dropped may still copy to.
    assert_eq!(c.total_aus() - c.free_aus(), 6 + 2 + 2 + 1);
}

#[test]
fn the_story_has_one_of_each_kind() {
    let mut kinds: Vec<String> = story().iter().map(|r| format!("{r:?}").split([' ', '(']).next().unwrap_or_default().to_owned()).collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), 37, "{kinds:?}");
}

#[test]
fn a_fold_takes_the_snapshot_between_two_of_its_entries() {
    let story = story();
    let at = story.iter().position(|r| matches!(r, Record::SnapshotOpened { .. })).expect("in the story");
    let c = Catalog::fold(&story[..at]).expect("folds");
    let s = c.snapshot(S).expect("taken");
    assert_eq!((s.entry.epoch, s.map.get(VolAu(0)).expect("bound").written.0), (VolumeEpoch(1), 7));
    let v = c.volume(V).expect("there");
    assert_eq!((v.map.get(VolAu(0)).expect("bound").written.0, v.entry.pending.clone(), v.entry.epoch.0), (15, None, 2));
    assert_eq!(v.changed[&VolumeEpoch(2)], [(VolAu(0), BlockMask(8))].into_iter().collect());
    assert_eq!(c.attachment(T).expect("stands").epoch(), VolumeEpoch(2));
}

#[test]
fn changes_are_kept_and_dropped_with_the_snapshots_that_may_ask() {
    let story = story();
    let changes = |n: fn(&Record) -> bool| {
        let at = story.iter().position(n).expect("in the story");
        let c = Catalog::fold(&story[..=at]).expect("folds");
        c.volume(V).expect("there").changed.iter().map(|(e, m)| (e.0, m.len())).collect::<Vec<_>>()
    };
    assert_eq!(changes(|r| matches!(r, Record::JournalReplaced { .. })), [(2, 4), (3, 1), (4, 1)]);
    assert_eq!(changes(|r| matches!(r, Record::SnapshotRemoved { .. })), [(4, 1)], "only what came after the oldest that is left");
    assert_eq!(changes(|r| matches!(r, Record::LeftDirty { .. })), [(4, 5)], "all that the region holds");
}

#[test]
fn a_record_twice_or_out_of_place_changes_nothing() {
    let story = story();
    let idempotent = |r: &Record| {
        matches!(
            r,
            Record::AuthoritySet { .. }
                | Record::ListenSet { .. }
                | Record::FencingSet { .. }
                | Record::DiskPaths { .. }
                | Record::AccessSet { .. }
                | Record::WhenFullSet { .. }
                | Record::LeftDirty { .. }
        )
    };
    for cut in 0..=story.len() {
        let before = Catalog::fold(&story[..cut]).expect("folds");
        for (i, r) in story.iter().enumerate() {
            let mut c = before.clone();
            let result = c.apply(r);
            match &result {
                Err(_) => assert!(c == before, "{r:?} was refused and changed something"),
                Ok(()) => assert_eq!(prove(&c), [], "{r:?} fits at {cut} and breaks a rule"),
            }
            if i + 1 == cut && !idempotent(r) {
                assert!(result.is_err(), "{r:?} was applied twice");
            }
        }
    }
}

#[test]
fn what_no_record_may_do() {
    let story = story();
    let upto = |n: fn(&Record) -> bool| {
        let at = story.iter().position(n).expect("in the story");
        Catalog::fold(&story[..at]).expect("folds")
    };
    let free = upto(|r| matches!(r, Record::EpochBegun { .. }));
    let fold = |entries: Vec<Entry>| folded(3, entries, 0, &[]);
    let bound = |runs| fold(vec![Entry::Bound { runs }]);
    let granted = |no, places, back| Record::Granted { token: T, no, places, back };
    let replaced = |closing, no, au| Record::JournalReplaced { token: T, closing: Seq(closing), journal: journal(no, au) };
    let reopened = |generation| Record::SessionReopened { no: SessionNo(1), generation: Generation(generation) };
    let twice = |copy: JournalCopy| Journal { no: 2, copies: vec![copy.clone(), copy] };
    let one = |first, second| JournalCopy { first, second };
    let mut bad = vec![
        bound(vec![run(5, 0, 20, 1)]),                                // a place that is bound
        bound(vec![run(5, 0, 17, 1)]),                                // one that was never granted
        bound(vec![run(0, 0, 11, 1)]),                                // an AU that has space
        bound(vec![run(5, 0, 11, 1), run(6, 0, 11, 1)]),              // one place twice
        bound(vec![run(5, 0, 11, 1), run(5, 0, 12, 1)]),              // one AU twice
        bound(vec![run(5, 0, 16, 2)]),                                // beyond the reserve
        bound(vec![run(64, 0, 11, 1)]),                               // beyond the volume
        bound(vec![run(u32::MAX, 0, 11, 2)]),                         // beyond all
        bound(vec![MapRun { written: vec![1], ..run(5, 0, 11, 1) }]), // not new
        fold(vec![written(5, 1)]),
        fold(vec![written(0, 1), discarded(5)]),
        fold(vec![Entry::Segment(segment(2, 0, 40))]),
        fold(vec![Entry::Segment(segment(1, 1, 40))]),
        fold(vec![Entry::Segment(segment(1, 0, 45))]),
        fold(vec![Entry::Segment(segment(1, 0, 40)), Entry::Segment(segment(2, 0, 40))]),
        fold(vec![Entry::Segment(Segment { session: SessionNo(1), ..segment(1, 0, 40) })]),
        fold(vec![flipped(2, segment(1, 1, 40))]),
        fold(vec![flipped(1, segment(1, 0, 40))]),
        fold(vec![Entry::Broken { epoch: VolumeEpoch(1) }]),
        fold(vec![Entry::Marked { epoch: VolumeEpoch(1), regions: vec![Region(1)] }]),
        fold(vec![Entry::Cleared { epoch: VolumeEpoch(2), regions: vec![], changed: vec![] }]),
        fold(vec![Entry::Cleared { epoch: VolumeEpoch(1), regions: vec![], changed: masks(64, 1) }]),
        folded(2, vec![], 0, &[]),                 // folded before
        folded(4, vec![], 0, &[]),                 // a gap
        folded(3, vec![discarded(0)], 5, &[]),     // limbo is not the next
        folded(3, vec![discarded(0)], 0, &[9]),    // waits for nobody
        folded(3, vec![discarded(0)], 0, &[1, 0]), // out of order
        Record::Folded { token: T, prev: Seq(2), appends: vec![], limbo: 0, waits: vec![] },
        Record::Folded {
            token: FenceToken(1),
            prev: Seq(0),
            appends: vec![Append { seq: Seq(1), entries: vec![] }],
            limbo: 0,
            waits: vec![],
        },
        granted(1, vec![], vec![]),                                                      // given before
        granted(3, vec![], vec![]),                                                      // not the next
        granted(2, vec![places(0, 20, 1)], vec![]),                                      // a second owner
        granted(2, vec![places(0, 9, 1)], vec![]),                                       // the reserved part of the disk
        granted(2, vec![places(0, 49, 2)], vec![]),                                      // beyond the data
        granted(2, vec![places(7, 15, 1)], vec![]),                                      // no such disk
        granted(2, vec![places(0, 30, 2), places(0, 31, 1)], vec![]),                    // twice
        granted(2, vec![Places { legs: vec![at(0, 30), at(1, 20)], count: 1 }], vec![]), // two legs
        granted(2, vec![], vec![places(0, 20, 1)]),                                      // back what is bound
        granted(2, vec![], vec![places(0, 11, u32::MAX)]),
        replaced(1, 2, 48), // what is folded is not what is closed
        replaced(3, 2, 48),
        replaced(2, 3, 48), // not the next
        replaced(2, 2, 46), // where it is
        Record::JournalReplaced { token: T, closing: Seq(2), journal: twice(one(at(0, 48), at(0, 49))) },
        Record::JournalReplaced { token: T, closing: Seq(2), journal: Journal { no: 2, copies: vec![one(at(0, 48), at(1, 48))] } },
        Record::JournalReplaced { token: T, closing: Seq(2), journal: Journal { no: 2, copies: vec![] } },
        Record::SessionEnded { no: SessionNo(0), closed: vec![] },
        Record::SessionEnded { no: SessionNo(0), closed: vec![(T, Seq(1))] },
        Record::SessionEnded { no: SessionNo(0), closed: vec![(T, Seq(2)), (T, Seq(2))] },
        Record::SessionEnded { no: SessionNo(1), closed: vec![(T, Seq(2))] },
        Record::SessionSealed { no: SessionNo(7) },
        reopened(1),
        session(2),    // a number that was passed over
        session(2048), // the slot of session 0
        attached(1, 2, Mode::Write, None),
        Record::LeftDirty { token: T, regions: vec![Region(1)] },
        Record::HoldDropped { volume: V },
        Record::SnapshotTaken { id: S, volume: V, name: name("s"), epoch: VolumeEpoch(1), created: 7 }, // under its writer
        Record::VolumeRemoved { id: V },
        Record::ClientRemoved { id: C },
        Record::VolumeCreated { id: VolumeId([5; 16]), name: name("x"), size: 0, legs: 1, created: 0 },
        Record::VolumeCreated { id: VolumeId([5; 16]), name: name("x"), size: u64::MAX / 512 * 512, legs: 1, created: 0 },
        Record::VolumeCreated { id: VolumeId([5; 16]), name: name("db"), size: 512, legs: 1, created: 0 },
        Record::SegmentsDropped { volume: V, nos: vec![1] },
        Record::LimboFreed { no: 0 },
    ];
    let moves = |no, next: &[SlotDisk]| Record::SlotMoves { no: SessionNo(no), next: next.to_vec() };
    bad.extend([
        moves(1, &[slot_disk(1, 1)]),                     // one that moves already
        Record::SlotMoved { no: SessionNo(1), moves: 2 }, // another move than that
        Record::SlotMoved { no: SessionNo(0), moves: 0 }, // none
        moves(0, &[]),                                    // to nowhere
        moves(0, &[slot_disk(0, 1), slot_disk(1, 1)]),    // to where it is
        moves(0, &[slot_disk(7, 1)]),                     // to a disk that is not there
        moves(0, &[slot_disk(0, 2)]),                     // one page that says two things
        moves(9, &[slot_disk(0, 1)]),                     // of nobody
    ]);
    bad.push(Record::Base(super::record::Base::Client(ClientEntry {
        id: C,
        name: name("again"),
        print: KeyPrint([7; 32]),
        created: 0,
        revoked: false,
    })));
    for r in bad {
        let mut c = free.clone();
        assert!(c.apply(&r).is_err(), "{r:?} was applied");
        assert!(c == free, "{r:?} was refused and changed something");
    }
    let mut waiting = upto(|r| matches!(r, Record::LimboAnswered { .. }));
    assert!(waiting.apply(&Record::LimboFreed { no: 0 }).is_err(), "freed under its reader");
}

#[test]
fn places_are_neighbours_spread_and_apart() {
    let story = story();
    let c = Catalog::fold(&story[..5]).expect("folds");
    let mut a = Allocator::default();
    let of = |legs| Wish::of(legs, &[]);
    let eight = a.choose(&c, of(1), 8, 0).expect("room");
    assert!(eight.windows(2).all(|w| w[0][0].disk == w[1][0].disk && w[0][0].au.0 + 1 == w[1][0].au.0), "{eight:?}");
    for legs in a.choose(&c, of(2), 40, 0).expect("room on both") {
        assert_ne!(legs[0].disk, legs[1].disk);
    }
    let all = a.choose(&c, of(1), 80, 0).expect("all of it");
    assert_eq!(all.iter().flatten().collect::<BTreeSet<_>>().len(), 80);
    assert!(a.choose(&c, of(1), 81, 0).is_none() && a.choose(&c, of(1), 77, 4).is_none() && a.choose(&c, of(0), 1, 0).is_none());
    // A grant takes what there is; a journal lies on two disks where it can.
    let runs = a.grant(&c, of(1), 100, 4);
    assert!(runs.len() <= 3 && runs.iter().map(|p| p.count).sum::<u32>() == 76, "{runs:?}");
    assert!(a.grant(&c, of(1), 100, 80).is_empty() && a.grant(&c, of(0), 1, 0).is_empty() && a.grant(&c, of(1), 0, 0).is_empty());
    assert_eq!(a.grant(&c, of(2), 100, 0).iter().map(|p| p.count).sum::<u32>(), 40);
    let disks = |copies: Vec<JournalCopy>| copies.iter().map(|c| c.first.disk.0).collect::<Vec<_>>();
    assert_eq!(disks(a.journal(&c, &[DiskNo(0)], &[])), [1, 0]);
    let mut full = c.clone();
    full.as_if_taken(&(10..49).map(|au| at(0, au)).collect::<Vec<_>>(), |c| assert_eq!(disks(a.journal(c, &[], &[])), [1]));
}
