//! The hold and its races.

use super::harness::*;
use crate::core::{AdminRequest, ConnId, Event};
use fusevol_shared::error::{Kind, WireError};
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, SnapshotId, VolumeId};
use fusevol_shared::map::AuMask;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{Ack, Bind, Detach, Hold, PreserveSpace, Push, RemoveSnapshot, Reply, Report};
use std::time::Duration;

fn hold_of(w: &World, c: ConnId) -> (u64, Hold) {
    w.find(c, |p| if let Push::Hold(m) = p { Some(m.clone()) } else { None }).expect("held")
}

fn released(w: &World, c: ConnId) -> Option<bool> {
    w.find(c, |p| if let Push::Release(m) = p { Some(m.taken) } else { None }).map(|(_, t)| t)
}

/// A writer (key 1) with one block written, and one who takes snapshots (key 2).
fn pair() -> (World, VolumeId, ConnId, FenceToken, ConnId) {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    let token = w.attach(a, v).token;
    w.ok(a, Bind { volume: v, token, seq: Seq(1), aus: vec![VolAu(0)] });
    w.ok(a, Report { volume: v, token, seq: Seq(2), written: vec![AuMask { au: VolAu(0), blocks: BlockMask(1) }] });
    (w, v, a, token, b)
}

fn report(volume: VolumeId, token: FenceToken, seq: u64, blocks: u64) -> Report {
    Report { volume, token, seq: Seq(seq), written: vec![AuMask { au: VolAu(0), blocks: BlockMask(blocks) }] }
}

fn mask_of(w: &World, id: u8) -> BlockMask {
    w.shadow.snapshot(SnapshotId([id; 16])).expect("taken").map.get(VolAu(0)).expect("frozen").written
}

#[test]
fn held_flipped_taken_released() {
    let (mut w, v, a, token, b) = pair();
    let (id, none) = w.snapshot(b, v, 9);
    assert_eq!(none, None);
    let (push, hold) = hold_of(&w, a);
    assert_eq!((hold.token, hold.epoch.0, hold.segment.epoch.0, hold.segment.token), (token, 2, 1, token));
    // Drained and reported, then the answer.
    w.ok(a, report(v, token, 3, 2));
    w.wait(Duration::from_millis(3));
    w.ack(a, push, Ack::Held { seq: Seq(3) });
    let Some(Ok(Reply::SnapshotTaken(t))) = w.answer(b, id) else { panic!("not taken") };
    assert!(t.held_us >= 3000 && t.snapshot.epoch.0 == 1, "{t:?}");
    assert_eq!(released(&w, a), Some(true));
    // Frozen, whatever comes after.
    w.ok(a, report(v, token, 4, 0xf0));
    assert_eq!(
        (mask_of(&w, 9), w.shadow.volume(v).expect("there").map.get(VolAu(0)).expect("live").written),
        (BlockMask(3), BlockMask(0xf3))
    );
    // Asked again: the same.
    let (_, again) = w.snapshot(b, v, 9);
    let Some(Ok(Reply::SnapshotTaken(t2))) = again else { panic!("not taken") };
    assert_eq!(t2, t);
    assert_eq!(
        w.refused(b, fusevol_shared::wire::messages::CreateSnapshot { volume: v, id: SnapshotId([9; 16]), name: "x".into() }),
        Kind::Refused
    );
    assert_eq!(
        w.refused(b, fusevol_shared::wire::messages::CreateSnapshot { volume: v, id: SnapshotId([8; 16]), name: "s9".into() }),
        Kind::Exists
    );
}

#[test]
fn the_answer_waits_for_the_changes_that_it_names() {
    let (mut w, v, a, token, b) = pair();
    let (id, _) = w.snapshot(b, v, 9);
    let (push, _) = hold_of(&w, a);
    w.ack(a, push, Ack::Held { seq: Seq(3) });
    assert_eq!(w.answer(b, id), None);
    w.ok(a, report(v, token, 3, 2));
    w.answer(b, id).expect("answered").expect("taken");
    assert_eq!(mask_of(&w, 9), BlockMask(3));
}

#[test]
fn a_change_that_failed_has_used_its_number_up() {
    let (mut w, v, a, token, b) = pair();
    let (id, _) = w.snapshot(b, v, 9);
    let (push, _) = hold_of(&w, a);
    assert_eq!(w.refused(a, Bind { volume: v, token, seq: Seq(3), aus: (1..100).map(VolAu).collect() }), Kind::NoSpace);
    w.ack(a, push, Ack::Held { seq: Seq(3) });
    w.answer(b, id).expect("answered").expect("taken");
}

#[test]
fn a_writer_that_has_gone_on_before_its_answer_was_read_breaks_the_hold() {
    let (mut w, v, a, token, b) = pair();
    let (id, _) = w.snapshot(b, v, 9);
    w.disconnect(a);
    let a = w.resume(1, 1);
    let (push, _) = hold_of(&w, a);
    // Its answer (seq 2) was lost with the connection; it wrote in the new epoch since.
    w.ok(a, report(v, token, 3, 2));
    w.ack(a, push, Ack::Held { seq: Seq(2) });
    assert_eq!(w.answer(b, id).expect("answered").expect_err("dropped").kind, Kind::Busy);
    assert_eq!(released(&w, a), Some(false));
    assert!(w.shadow.snapshot(SnapshotId([9; 16])).is_none());
    // The next one has another epoch: what was preserved under the former number is not taken for its content.
    w.ack_all(a);
    w.snapshot(b, v, 10);
    let (push, hold) = hold_of(&w, a);
    assert_eq!((hold.epoch.0, hold.segment.epoch.0), (3, 2));
    w.ack(a, push, Ack::Held { seq: Seq(3) });
    assert_eq!(mask_of(&w, 10), BlockMask(3));
}

#[test]
fn a_writer_that_comes_back_in_time_is_held_all_the_same() {
    let (mut w, v, a, _, b) = pair();
    let (id, _) = w.snapshot(b, v, 9);
    w.disconnect(a);
    w.wait(LEASE / 2);
    let a = w.resume(1, 1);
    let (push, _) = hold_of(&w, a);
    w.ack(a, push, Ack::Held { seq: Seq(2) });
    w.answer(b, id).expect("answered").expect("taken");
}

#[test]
fn the_deadline_failure_and_a_lapse_drop_it() {
    for way in 0..3 {
        let (mut w, v, a, _, b) = pair();
        let (id, _) = w.snapshot(b, v, 9);
        let (push, _) = hold_of(&w, a);
        match way {
            0 => w.wait(Duration::from_secs(5)),
            1 => drop(w.ack(a, push, Ack::Failed(WireError { kind: Kind::Io, message: "no".into(), hint: String::new() }))),
            _ => {
                w.disconnect(a);
                w.wait(Duration::from_secs(5));
            }
        }
        assert_eq!(w.answer(b, id).expect("answered").expect_err("dropped").kind, Kind::Busy, "way {way}");
        assert!(w.shadow.snapshot(SnapshotId([9; 16])).is_none());
        // An answer that comes too late changes nothing.
        let log = w.log.len();
        w.ack(a, push, Ack::Held { seq: Seq(2) });
        assert_eq!(w.log.len(), log);
    }
}

#[test]
fn a_writer_that_gives_back_or_dies_leaves_it_to_be_frozen() {
    for way in 0..2 {
        let (mut w, v, a, token, b) = pair();
        let (id, _) = w.snapshot(b, v, 9);
        if way == 0 {
            w.ok(a, report(v, token, 3, 4));
            w.ok(a, Detach { volume: v });
        } else {
            w.disconnect(a);
            w.step(Event::LockProbed { session: SessionNo(0), held: false });
        }
        let Some(Ok(Reply::SnapshotTaken(t))) = w.answer(b, id) else { panic!("not taken, way {way}") };
        assert_eq!(t.snapshot.epoch.0, 2, "not the number that was offered to the writer");
        assert_eq!(mask_of(&w, 9), BlockMask(if way == 0 { 5 } else { 1 }));
    }
}

#[test]
fn one_at_a_time_and_the_asker_may_come_again() {
    let (mut w, v, a, _, b) = pair();
    let (first, _) = w.snapshot(b, v, 9);
    assert_eq!(w.snapshot(b, v, 10).1.expect("at once").expect_err("one at a time").kind, Kind::Busy);
    w.disconnect(b);
    let b = w.resume(2, 2);
    let (again, none) = w.snapshot(b, v, 9);
    assert_eq!(none, None);
    let (push, _) = hold_of(&w, a);
    w.ack(a, push, Ack::Held { seq: Seq(2) });
    w.answer(b, again).expect("answered").expect("taken");
    assert_eq!(w.answer(b, first), None);
    let admin = w.try_admin(AdminRequest::SnapshotCreate { volume: "db".into(), name: "nightly".into() });
    assert_eq!(admin, None, "an administrator waits too");
    w.ack_all(a);
    let (push, _) = hold_of(&w, a);
    w.ack(a, push, Ack::Held { seq: Seq(2) });
    assert_eq!(w.shadow.snapshot_count(), 2);
}

#[test]
fn a_restart_drops_it_and_the_same_identity_may_be_asked_again() {
    let (mut w, v, a, _, b) = pair();
    w.snapshot(b, v, 9);
    let (push, _) = hold_of(&w, a);
    w.restart();
    let (a, b) = (w.resume(1, 1), w.resume(2, 2));
    w.ack(a, push, Ack::Held { seq: Seq(2) });
    assert_eq!(w.shadow.snapshot_count(), 0);
    let (id, _) = w.snapshot(b, v, 9);
    let (push2, hold) = hold_of(&w, a);
    assert!(push2 > push, "numbers of pushes go on");
    assert_eq!(hold.epoch.0, 3, "the number that was offered is used up");
    w.ack(a, push2, Ack::Held { seq: Seq(2) });
    w.answer(b, id).expect("answered").expect("taken");
    // Committed, and the answer lost: done already.
    w.restart();
    let b = w.resume(2, 2);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    assert_eq!(w.shadow.snapshot_count(), 1);
}

#[test]
fn a_segment_that_is_asked_for_before_the_flip_is_of_the_epoch_before() {
    let (mut w, v, a, token, b) = pair();
    let (id, _) = w.snapshot(b, v, 9);
    let (push, hold) = hold_of(&w, a);
    let before = w.ok(a, PreserveSpace { volume: v, token, seq: Seq(3) }).segment;
    assert_eq!((before.epoch.0, hold.segment.epoch.0), (0, 1), "a reader of the new snapshot never looks there");
    w.ack(a, push, Ack::Held { seq: Seq(3) });
    w.answer(b, id).expect("answered").expect("taken");
    assert_eq!(w.ok(a, PreserveSpace { volume: v, token, seq: Seq(4) }).segment.epoch.0, 1);
    // On another connection it cannot be known on which side of the flip it was asked.
    w.ack_all(a);
    let (id, _) = w.snapshot(b, v, 10);
    w.disconnect(a);
    let a = w.resume(1, 1);
    assert_eq!(w.ok(a, PreserveSpace { volume: v, token, seq: Seq(5) }).segment.epoch.0, 2);
    assert_eq!(w.answer(b, id).expect("answered").expect_err("dropped").kind, Kind::Busy);
}

#[test]
fn segments_go_when_no_snapshot_and_no_writer_needs_them() {
    let (mut w, v, a, token, b) = pair();
    let held = |w: &World| w.shadow.volume(v).expect("there").segments.values().map(|s| s.segment.epoch.0).collect::<Vec<_>>();
    for n in [9, 10] {
        w.snapshot(b, v, n);
        let (push, _) = hold_of(&w, a);
        w.ack(a, push, Ack::Held { seq: Seq(2) });
        w.ack_all(a);
    }
    w.ok(a, PreserveSpace { volume: v, token, seq: Seq(3) });
    assert_eq!(held(&w), [1, 2, 2]);
    w.ok(b, RemoveSnapshot { snapshot: SnapshotId([10; 16]) });
    assert_eq!(held(&w), [1, 2, 2], "the older snapshot reads them all");
    w.ok(b, RemoveSnapshot { snapshot: SnapshotId([9; 16]) });
    assert_eq!(held(&w), [2, 2], "the writer may still write in the newest epoch's");
    w.ok(a, Detach { volume: v });
    assert!(held(&w).is_empty());
    assert_eq!(w.shadow.free_aus(), 63);
}
