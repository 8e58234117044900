//! The fold: what fits, what does not, and that a wrong record changes nothing.

use super::alloc::Allocator;
use super::record::{ClientEntry, DiskEntry, Mode, PoolEntry, Record, SessionEntry};
use super::{Catalog, prove};
use fusevol_shared::ids::{
    BootId, ClientId, DiskId, FenceToken, KeyPrint, PoolId, Seq, SessionId, SessionNo, SnapshotId, VolumeEpoch, VolumeId,
};
use fusevol_shared::map::{AuMask, Leg, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::name::Name;
use fusevol_shared::units::{AuNo, AuSize, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::messages::Segment;
use fusevol_shared::wire::rights::{Right, Rights};
use std::collections::BTreeSet;

const V: VolumeId = VolumeId([1; 16]);
const C: ClientId = ClientId([2; 16]);
const S: SnapshotId = SnapshotId([3; 16]);
const T: FenceToken = FenceToken(0);

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

fn segment(no: u32, epoch: u64, au: u32) -> Segment {
    Segment { no, epoch: VolumeEpoch(epoch), token: T, session: SessionNo(0), legs: vec![DiskAu { disk: DiskNo(1), au: AuNo(au) }] }
}

fn masks(au: u32, blocks: u64) -> Vec<AuMask> {
    vec![AuMask { au: VolAu(au), blocks: BlockMask(blocks) }]
}

/// One of each kind, each fitting after those before it.
fn story() -> Vec<Record> {
    let session = |no: u32| {
        let id = SessionId([u8::try_from(no).expect("small"); 16]);
        Record::SessionOpened(SessionEntry {
            no: SessionNo(no),
            id,
            client: C,
            boot: BootId([1; 16]),
            host: "h".into(),
            program: "p".into(),
            opened: 5,
        })
    };
    let attached = |session: u32, token: u64, mode, segment| Record::Attached {
        volume: V,
        session: SessionNo(session),
        token: FenceToken(token),
        mode,
        segment,
    };
    vec![
        Record::PoolCreated(PoolEntry { id: PoolId([9; 16]), name: name("pool"), au_size: AuSize::DEFAULT, lease_ms: 1000, created: 1 }),
        Record::AuthoritySet { sealed: vec![1, 2, 3] },
        Record::ListenSet { addresses: vec!["127.0.0.1:7400".into()] },
        disk(0),
        disk(1),
        Record::DiskPaths { disk: DiskNo(1), paths: vec!["/dev/y".into()] },
        Record::VolumeCreated { id: V, name: name("db"), size: 64 << 20, legs: 1, created: 2 },
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
        attached(0, 0, Mode::Write, None),
        attached(1, 1, Mode::Read, None),
        Record::Bound { token: T, seq: Seq(1), runs: vec![run(0, 0, 20, 4), run(10, 1, 30, 1)] },
        Record::Reported { token: T, seq: Seq(2), written: masks(0, 3) },
        Record::EpochBegun { volume: V, epoch: VolumeEpoch(2), segment: segment(1, 1, 40) },
        Record::SnapshotTaken { id: S, volume: V, name: name("s"), epoch: VolumeEpoch(1), created: 7 },
        Record::SnapshotOpened { id: S, session: SessionNo(1) },
        Record::SegmentGranted { token: T, seq: Seq(5), segment: segment(2, 1, 41) },
        Record::Reported { token: T, seq: Seq(6), written: masks(1, 8) },
        Record::Discarded {
            token: T,
            seq: Seq(7),
            cleared: masks(0, u64::MAX),
            unmapped: vec![VolAu(0)],
            limbo: 0,
            waits: vec![SessionNo(1)],
        },
        Record::Bound { token: T, seq: Seq(8), runs: vec![run(20, 0, 11, 2)] },
        Record::Discarded {
            token: T,
            seq: Seq(9),
            cleared: masks(20, u64::MAX),
            unmapped: vec![VolAu(20)],
            limbo: 0,
            waits: vec![SessionNo(1)],
        },
        Record::Discarded { token: T, seq: Seq(10), cleared: masks(21, u64::MAX), unmapped: vec![VolAu(21)], limbo: 1, waits: vec![] },
        Record::LimboFreed { no: 1 },
        Record::SnapshotBroken { id: S },
        Record::EpochBegun { volume: V, epoch: VolumeEpoch(3), segment: segment(3, 2, 42) },
        Record::SnapshotTaken { id: SnapshotId([4; 16]), volume: V, name: name("t"), epoch: VolumeEpoch(2), created: 8 },
        Record::SnapshotClosed { id: S, session: SessionNo(1) },
        Record::SnapshotRemoved { id: S, limbo: 2, waits: vec![SessionNo(1)] },
        Record::SegmentsDropped { volume: V, nos: vec![1, 2] },
        Record::LimboAnswered { no: 0, session: SessionNo(1) },
        Record::LimboFreed { no: 0 },
        Record::SnapshotOpened { id: SnapshotId([4; 16]), session: SessionNo(1) },
        Record::Detached { token: FenceToken(1) },
        Record::SessionEnded { no: SessionNo(1) },
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
    assert_eq!(c.limbo().map(|l| (l.no, l.waits.len())).collect::<Vec<_>>(), [(2, 0)]);
}

#[test]
fn a_record_twice_or_out_of_place_changes_nothing() {
    let story = story();
    let idempotent = |r: &Record| {
        matches!(r, Record::AuthoritySet { .. } | Record::ListenSet { .. } | Record::DiskPaths { .. } | Record::AccessSet { .. })
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
    let free = upto(|r| matches!(r, Record::Reported { .. }));
    let bound = |runs| Record::Bound { token: T, seq: Seq(9), runs };
    let mut bad = vec![
        bound(vec![run(5, 0, 20, 1)]),                                                     // a second owner
        bound(vec![run(0, 0, 15, 1)]),                                                     // an AU that has space
        bound(vec![run(5, 0, 15, 1), run(6, 0, 15, 1)]),                                   // one place twice
        bound(vec![run(5, 0, 15, 1), run(5, 0, 16, 1)]),                                   // one AU twice
        bound(vec![run(5, 0, 9, 1)]),                                                      // the reserved part of the disk
        bound(vec![run(5, 0, 49, 2)]),                                                     // beyond the data
        bound(vec![run(5, 7, 15, 1)]),                                                     // no such disk
        bound(vec![run(64, 0, 15, 1)]),                                                    // beyond the volume
        bound(vec![run(u32::MAX, 0, 15, 2)]),                                              // beyond all
        bound(vec![MapRun { written: vec![1], ..run(5, 0, 15, 1) }]),                      // not new
        Record::Bound { token: T, seq: Seq(1), runs: vec![run(5, 0, 15, 1)] },             // applied before
        Record::Bound { token: FenceToken(1), seq: Seq(9), runs: vec![run(5, 0, 15, 1)] }, // a reader
        Record::Reported { token: T, seq: Seq(9), written: masks(5, 1) },
        Record::Discarded { token: T, seq: Seq(9), cleared: masks(0, 1), unmapped: vec![VolAu(0)], limbo: 0, waits: vec![] },
        Record::Discarded { token: T, seq: Seq(9), cleared: masks(0, u64::MAX), unmapped: vec![VolAu(0)], limbo: 5, waits: vec![] },
        Record::Discarded {
            token: T,
            seq: Seq(9),
            cleared: masks(0, u64::MAX),
            unmapped: vec![VolAu(0)],
            limbo: 0,
            waits: vec![SessionNo(9)],
        },
        Record::Attached { volume: V, session: SessionNo(1), token: FenceToken(2), mode: Mode::Write, segment: None },
        Record::SnapshotTaken { id: S, volume: V, name: name("s"), epoch: VolumeEpoch(1), created: 7 }, // without a hold
        Record::VolumeRemoved { id: V },
        Record::ClientRemoved { id: C },
        Record::VolumeCreated { id: VolumeId([5; 16]), name: name("x"), size: 0, legs: 1, created: 0 },
        Record::VolumeCreated { id: VolumeId([5; 16]), name: name("x"), size: u64::MAX / 512 * 512, legs: 1, created: 0 },
        Record::VolumeCreated { id: VolumeId([5; 16]), name: name("db"), size: 512, legs: 1, created: 0 },
        Record::SegmentsDropped { volume: V, nos: vec![1] },
        Record::LimboFreed { no: 0 },
    ];
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
    let eight = a.choose(&c, 1, 8, 0).expect("room");
    assert!(eight.windows(2).all(|w| w[0][0].disk == w[1][0].disk && w[0][0].au.0 + 1 == w[1][0].au.0), "{eight:?}");
    for legs in a.choose(&c, 2, 40, 0).expect("room on both") {
        assert_ne!(legs[0].disk, legs[1].disk);
    }
    let all = a.choose(&c, 1, 80, 0).expect("all of it");
    assert_eq!(all.iter().flatten().collect::<BTreeSet<_>>().len(), 80);
    assert!(a.choose(&c, 1, 81, 0).is_none() && a.choose(&c, 1, 77, 4).is_none() && a.choose(&c, 3, 1, 0).is_none());
}
