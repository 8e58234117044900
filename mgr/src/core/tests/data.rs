//! The writer's changes, idempotence, limbo, a full pool.

use super::harness::*;
use crate::core::{AdminRequest, Event};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, VolumeId};
use fusevol_shared::map::AuMask;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{
    AUS_PER_BIND, Ack, Bind, Detach, Discard, GetMap, Goodbye, MapChanged, OpenSnapshot, PreserveSpace, Push, Report,
};

fn bind(w: &mut World, c: crate::core::ConnId, volume: VolumeId, token: FenceToken, seq: u64, aus: std::ops::Range<u32>) {
    w.ok(c, Bind { volume, token, seq: Seq(seq), aus: aus.map(VolAu).collect() });
}

fn discard(volume: VolumeId, token: FenceToken, seq: u64, au: u32, blocks: BlockMask) -> Discard {
    Discard { volume, token, seq: Seq(seq), cleared: vec![AuMask { au: VolAu(au), blocks }] }
}

fn changed(w: &World, c: crate::core::ConnId) -> Option<(u64, MapChanged)> {
    w.find(c, |p| if let Push::MapChanged(m) = p { Some(m.clone()) } else { None })
}

/// A writer (key 1) and a reader (key 2) of volume `db`.
fn pair(aus: u32) -> (World, VolumeId, crate::core::ConnId, FenceToken, crate::core::ConnId) {
    let mut w = World::new(1, aus);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    let token = w.attach(a, v).token;
    w.read(b, v);
    (w, v, a, token, b)
}

#[test]
fn a_change_is_applied_once() {
    let (mut w, v, a, token, _) = pair(64);
    let m = Bind { volume: v, token, seq: Seq(1), aus: vec![VolAu(5), VolAu(6), VolAu(5)] };
    let first = w.ok(a, m.clone());
    assert_eq!(first.runs.len(), 1, "neighbours in the volume are neighbours on disk");
    assert_eq!(w.ok(a, m), first);
    let written = vec![AuMask { au: VolAu(5), blocks: BlockMask(1) }];
    let log = w.log.len();
    w.ok(a, Report { volume: v, token, seq: Seq(3), written: written.clone() });
    w.ok(a, Report { volume: v, token, seq: Seq(3), written });
    assert_eq!(w.log.len(), log + 1);
    let m = PreserveSpace { volume: v, token, seq: Seq(4) };
    let granted = w.ok(a, m.clone());
    assert_eq!(w.ok(a, m.clone()), granted);
    let gone = w.ok(a, discard(v, token, 6, 5, BlockMask::ALL));
    assert_eq!(gone.unmapped, [VolAu(5)]);
    assert_eq!(w.ok(a, discard(v, token, 6, 5, BlockMask::ALL)), gone);
    // The same again after a restart: the numbers are durable.
    w.restart();
    let a = w.resume(1, 1);
    assert_eq!(w.ok(a, m), granted);
    assert_eq!(w.ok(a, discard(v, token, 6, 5, BlockMask::ALL)), gone);
    assert_eq!(
        w.refused(a, Bind { volume: v, token, seq: Seq(1), aus: vec![VolAu(5)] }),
        Kind::NoSpace,
        "passed, and not there: never bound by a replay"
    );
}

#[test]
fn only_what_the_writer_may_do() {
    let (mut w, v, a, token, b) = pair(64);
    assert_eq!(w.refused(b, Bind { volume: v, token, seq: Seq(1), aus: vec![VolAu(0)] }), Kind::Refused);
    assert_eq!(w.refused(a, Bind { volume: v, token: FenceToken(99), seq: Seq(1), aus: vec![VolAu(0)] }), Kind::Refused);
    assert_eq!(w.refused(a, Bind { volume: v, token, seq: Seq(1), aus: vec![VolAu(1024)] }), Kind::Refused, "beyond the end");
    assert_eq!(w.refused(a, Bind { volume: v, token, seq: Seq(1), aus: vec![VolAu(0); AUS_PER_BIND + 1] }), Kind::Refused);
    assert_eq!(w.refused(a, Bind { volume: v, token, seq: Seq(0), aus: vec![VolAu(0)] }), Kind::Refused);
    let hole = vec![AuMask { au: VolAu(0), blocks: BlockMask(1) }];
    assert_eq!(w.refused(a, Report { volume: v, token, seq: Seq(1), written: hole }), Kind::Refused);
    assert_eq!(w.ok(a, discard(v, token, 1, 0, BlockMask::ALL)).unmapped, [VolAu(0)], "a hole is discarded already");
}

#[test]
fn a_discard_in_part_keeps_the_space() {
    let (mut w, v, a, token, _) = pair(64);
    bind(&mut w, a, v, token, 1, 0..1);
    w.ok(a, Report { volume: v, token, seq: Seq(2), written: vec![AuMask { au: VolAu(0), blocks: BlockMask(3) }] });
    let kept = w.ok(a, discard(v, token, 3, 0, BlockMask(3))).unmapped;
    assert!(kept.is_empty(), "the writer may hold blocks that it has not reported");
    assert_eq!(w.shadow.volume(v).expect("there").map.get(VolAu(0)).expect("kept").written, BlockMask::NONE);
}

#[test]
fn what_was_discarded_is_free_once_every_reader_has_answered() {
    let (mut w, v, a, token, b) = pair(64);
    bind(&mut w, a, v, token, 1, 0..2);
    w.ack_all(b);
    let free = w.shadow.free_aus();
    w.ok(a, discard(v, token, 2, 0, BlockMask::ALL));
    assert_eq!((w.shadow.free_aus(), w.shadow.limbo().count()), (free, 1));
    // A second one while the push is under way is covered by the next push only.
    w.ok(a, discard(v, token, 3, 1, BlockMask::ALL));
    let (push, m) = changed(&w, b).expect("told");
    assert_eq!((m.unmapped, m.runs.len()), (vec![VolAu(0)], 0));
    w.ack(b, push, Ack::Done);
    assert_eq!(w.shadow.free_aus(), free + 1);
    let (push, m) = changed(&w, b).expect("told the rest");
    assert_eq!(m.unmapped, [VolAu(1)]);
    w.ack(b, push, Ack::Done);
    assert_eq!((w.shadow.free_aus(), w.shadow.limbo().count()), (free + 2, 0));
}

#[test]
fn the_wait_is_over_when_the_reader_gives_back_or_is_dead() {
    for way in 0..3 {
        let (mut w, v, a, token, b) = pair(64);
        bind(&mut w, a, v, token, 1, 0..1);
        let free = w.shadow.free_aus();
        w.ok(a, discard(v, token, 2, 0, BlockMask::ALL));
        assert_eq!(w.shadow.free_aus(), free);
        match way {
            0 => drop(w.ok(b, Detach { volume: v })),
            1 => drop(w.ok(b, Goodbye {})),
            _ => {
                w.disconnect(b);
                w.step(Event::LockProbed { session: SessionNo(1), held: false });
            }
        }
        assert_eq!(w.shadow.free_aus(), free + 1, "way {way}");
    }
}

#[test]
fn the_wait_outlives_the_manager() {
    let (mut w, v, a, token, b) = pair(64);
    bind(&mut w, a, v, token, 1, 0..2);
    w.ack_all(b);
    let free = w.shadow.free_aus();
    w.ok(a, discard(v, token, 2, 0, BlockMask::ALL));
    w.restart();
    assert_eq!(w.shadow.free_aus(), free);
    // The reader lapses: still nothing is given away.
    w.wait(LEASE * 2);
    assert_eq!(w.shadow.free_aus(), free);
    let b = w.resume(2, 2);
    let (_, m) = changed(&w, b).expect("told again");
    assert_eq!((m.unmapped.clone(), m.runs.len()), (vec![VolAu(0)], 1), "all that it may have wrong");
    w.ack_all(b);
    assert_eq!(w.shadow.free_aus(), free + 1);
}

#[test]
fn after_a_restart_nothing_is_answered_for_before_all_was_told_again() {
    let (mut w, v, a, token, b) = pair(64);
    bind(&mut w, a, v, token, 1, 0..2);
    w.ack_all(b);
    let free = w.shadow.free_aus();
    w.ok(a, discard(v, token, 2, 0, BlockMask::ALL));
    w.restart();
    // The writer goes on before the reader is back: its answer to that must not count for what it was never told again.
    let a = w.resume(1, 1);
    w.ok(a, discard(v, token, 3, 1, BlockMask::ALL));
    let b = w.resume(2, 2);
    let (push, m) = changed(&w, b).expect("told");
    assert_eq!(m.unmapped, [VolAu(0), VolAu(1)]);
    assert_eq!(w.shadow.free_aus(), free);
    w.ack(b, push, Ack::Done);
    w.ack_all(b);
    assert_eq!(w.shadow.free_aus(), free + 2);
}

#[test]
fn a_test_switch_shows_that_the_wait_is_what_keeps_it() {
    let (mut w, v, a, token, b) = pair(64);
    w.core.skip_waits = true;
    bind(&mut w, a, v, token, 1, 0..1);
    w.ack_all(b);
    let free = w.shadow.free_aus();
    w.ok(a, discard(v, token, 2, 0, BlockMask::ALL));
    assert_eq!(w.shadow.free_aus(), free + 1, "freed under the reader");
}

#[test]
fn an_au_that_a_snapshot_shares_stays_until_both_have_let_go() {
    let (mut w, v, a, token, b) = pair(64);
    bind(&mut w, a, v, token, 1, 0..1);
    w.ok(a, Detach { volume: v });
    w.snapshot(a, v, 9).1.expect("at once").expect("taken");
    let token = w.attach(a, v).token;
    w.ack_all(b);
    let free = w.shadow.free_aus();
    w.ok(a, discard(v, token, 1, 0, BlockMask::ALL));
    assert_eq!((w.shadow.free_aus(), w.shadow.limbo().count()), (free, 0), "the snapshot's now");
    // The reader has not answered: it may still read the place through the old map.
    w.admin(AdminRequest::SnapshotRemove { volume: "db".into(), name: "s9".into() });
    assert_eq!((w.shadow.free_aus(), w.shadow.limbo().count()), (free, 1));
    w.ack_all(b);
    assert_eq!((w.shadow.free_aus(), w.shadow.limbo().count()), (free + 1, 0));
}

#[test]
fn a_full_pool_refuses_and_goes_on_when_space_is_freed() {
    let (mut w, v, a, token, b) = pair(12);
    // 12 AUs, 4 of them kept for snapshots.
    bind(&mut w, a, v, token, 1, 0..8);
    let full = Bind { volume: v, token, seq: Seq(2), aus: vec![VolAu(8)] };
    let e = w.ask(a, full.clone()).expect_err("full");
    assert!(e.kind == Kind::NoSpace && !e.hint.is_empty());
    assert_eq!(w.refused(a, full), Kind::NoSpace);
    // Snapshots still work: the reserve is theirs.
    let mut granted = 0;
    for seq in 3..10 {
        granted += u32::from(w.ask(a, PreserveSpace { volume: v, token, seq: Seq(seq) }).is_ok());
    }
    assert_eq!(granted, 4);
    w.ok(a, discard(v, token, 20, 0, BlockMask::ALL));
    w.ok(a, discard(v, token, 21, 1, BlockMask::ALL));
    w.ack_all(b);
    assert_eq!(w.shadow.free_aus(), 2);
    assert_eq!(w.refused(a, Bind { volume: v, token, seq: Seq(22), aus: vec![VolAu(9)] }), Kind::NoSpace, "the reserve fills first");
    w.ok(a, Discard { volume: v, token, seq: Seq(23), cleared: (2..6).map(|n| AuMask { au: VolAu(n), blocks: BlockMask::ALL }).collect() });
    w.ack_all(b);
    bind(&mut w, a, v, token, 24, 9..10);
}

#[test]
fn readers_follow_the_writer() {
    let (mut w, v, a, token, b) = pair(64);
    bind(&mut w, a, v, token, 1, 0..1);
    w.ok(a, Report { volume: v, token, seq: Seq(2), written: vec![AuMask { au: VolAu(0), blocks: BlockMask(1) }] });
    let (push, m) = changed(&w, b).expect("told");
    assert_eq!(m.runs[0].written, [0], "as it was when it was told");
    w.ack(b, push, Ack::Done);
    let (_, m) = changed(&w, b).expect("told more");
    assert_eq!(m.runs[0].written, [1]);
    // A push that was not answered comes again on the next connection.
    w.disconnect(b);
    let b = w.resume(2, 2);
    assert_eq!(changed(&w, b).expect("again").1, m);
    let map = w.ok(b, GetMap { volume: v, from: VolAu(0) });
    assert_eq!(map.runs, m.runs);
}

#[test]
fn a_snapshot_that_is_read_stays() {
    let (mut w, v, a, _, b) = pair(64);
    w.ok(a, Detach { volume: v });
    w.snapshot(a, v, 9).1.expect("at once").expect("taken");
    let snapshot = fusevol_shared::ids::SnapshotId([9; 16]);
    w.ok(b, OpenSnapshot { snapshot });
    let e = w.admin_refused(AdminRequest::SnapshotRemove { volume: "db".into(), name: "s9".into() });
    assert!(e.kind == Kind::Busy && e.message.contains("host2"), "{e:?}");
    w.ok(b, Goodbye {});
    w.admin(AdminRequest::SnapshotRemove { volume: "db".into(), name: "s9".into() });
}
