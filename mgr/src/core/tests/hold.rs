//! The hold and its races.

use super::harness::*;
use super::writer::{Writer, mask};
use crate::catalog::record::Record;
use crate::core::{AdminRequest, ConnId, Event};
use fusevol_shared::change::Entry;
use fusevol_shared::error::{Kind, WireError};
use fusevol_shared::ids::{Seq, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{Ack, CreateSnapshot, Hold, OpenSnapshot, Push, RemoveSnapshot, Renew, Reply};
use std::time::Duration;

fn hold_of(w: &World, c: ConnId) -> (u64, Hold) {
    w.find(c, |p| if let Push::Hold(m) = p { Some(m.clone()) } else { None }).expect("held")
}

fn released(w: &World, c: ConnId) -> Option<bool> {
    w.find(c, |p| if let Push::Release(m) = p { Some(m.taken) } else { None }).map(|(_, t)| t)
}

/// A writer (key 1) with one block written, and one who takes snapshots (key 2).
fn pair() -> (World, VolumeId, Writer, ConnId) {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..1);
    wr.write(&mut w, 0, 1);
    wr.fill(&mut w, 6);
    (w, v, wr, b)
}

fn written(blocks: u64) -> Entry {
    Entry::Written { masks: vec![mask(0, blocks)] }
}

/// Answers a hold as a client does: everything and the flip in one append, then the answer; the fold comes after it.
fn flip(w: &mut World, wr: &mut Writer, before: Vec<Entry>) -> u64 {
    let (push, hold) = hold_of(w, wr.conn);
    let mut entries = before;
    entries.push(wr.flip(w, hold.epoch));
    let append = wr.append(w, entries);
    w.ack(wr.conn, push, Ack::Held { seq: append.seq, held_us: 1234 });
    push
}

fn frozen(w: &World, id: u8) -> u64 {
    w.shadow.snapshot(SnapshotId([id; 16])).expect("taken").map.get(VolAu(0)).expect("frozen").written.0
}

fn dropped(w: &World, b: ConnId, id: u64) {
    assert_eq!(w.answer(b, id).expect("answered").expect_err("dropped").kind, Kind::Busy);
}

#[test]
fn held_flipped_folded_taken_released() {
    let (mut w, v, mut wr, b) = pair();
    let (id, none) = w.snapshot(b, v, 9);
    assert_eq!(none, None);
    let (_, hold) = hold_of(&w, wr.conn);
    assert_eq!((hold.token, hold.epoch.0), (wr.token, 2));
    let again = w.ok(wr.conn, fusevol_shared::wire::messages::AttachWrite { volume: v });
    assert_eq!(again.epoch.0, 1, "the writer has not flipped yet");
    flip(&mut w, &mut wr, vec![written(2)]);
    assert_eq!((w.answer(b, id), w.shadow.snapshot_count()), (None, 0), "not folded yet");
    // What comes after the flip, in the same fold, belongs to the live map only.
    wr.append(&mut w, vec![written(0xf0)]);
    wr.fold(&mut w);
    let Some(Ok(Reply::SnapshotTaken(t))) = w.answer(b, id) else { panic!("not taken") };
    assert_eq!((t.held_us, t.snapshot.epoch.0, released(&w, wr.conn)), (1234, 1, Some(true)));
    assert_eq!((frozen(&w, 9), w.shadow.volume(v).expect("there").map.get(VolAu(0)).expect("live").written.0), (3, 0xf3));
    // Asked again: the same.
    let (_, again) = w.snapshot(b, v, 9);
    let Some(Ok(Reply::SnapshotTaken(t2))) = again else { panic!("not taken") };
    assert_eq!(t2, t);
    let other = |id: u8, name: &str| CreateSnapshot { volume: v, id: SnapshotId([id; 16]), name: name.into() };
    assert_eq!(w.refused(b, other(9, "x")), Kind::Refused);
    assert_eq!(w.refused(b, other(8, "s9")), Kind::Exists);
}

#[test]
fn the_point_of_the_flip_within_one_append_is_exact() {
    let (mut w, v, mut wr, b) = pair();
    let (id, _) = w.snapshot(b, v, 9);
    let (push, hold) = hold_of(&w, wr.conn);
    let bound = wr.bound([3]);
    let gone = Entry::Discarded { cleared: vec![mask(0, u64::MAX)] };
    let flip = wr.flip(&w, hold.epoch);
    let again = wr.bound([0]);
    wr.append(&mut w, vec![written(2), bound, flip, gone, again, written(0x80)]);
    wr.fold(&mut w);
    assert_eq!(w.answer(b, id), None, "the writer is there: its answer is waited for");
    w.ack(wr.conn, push, Ack::Held { seq: Seq(wr.last), held_us: 7 });
    w.answer(b, id).expect("answered").expect("taken");
    let s = w.shadow.snapshot(SnapshotId([9; 16])).expect("taken");
    assert_eq!(s.map.iter().map(|(au, e)| (au.0, e.written.0)).collect::<Vec<_>>(), [(0, 3), (3, 0)]);
    let live = &w.shadow.volume(v).expect("there").map;
    assert_eq!(live.iter().map(|(au, e)| (au.0, e.written.0)).collect::<Vec<_>>(), [(0, 0x80), (3, 0)]);
    assert_ne!(live.get(VolAu(0)).expect("bound").legs(), s.map.get(VolAu(0)).expect("frozen").legs());
    assert_eq!(w.shadow.limbo().count(), 0, "the place is the snapshot's");
    // Its changes belong to the new epoch.
    let changed = &w.shadow.volume(v).expect("there").changed;
    assert_eq!(changed.keys().map(|e| e.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_flip_whose_hold_was_dropped_takes_nothing() {
    let (mut w, v, mut wr, b) = pair();
    let (id, _) = w.snapshot(b, v, 9);
    let (push, hold) = hold_of(&w, wr.conn);
    for _ in 0..2 {
        w.wait(Duration::from_millis(2500));
        w.ok(wr.conn, Renew {});
        w.ok(b, Renew {});
    }
    dropped(&w, b, id);
    let drop = w.log.iter().rposition(|r| matches!(r, Record::HoldDropped { .. })).expect("durable before it is told");
    assert!(drop >= w.log.len() - 2);
    // Another one begins; then the flip of the first comes, appended before the writer heard of it.
    let (second, _) = w.snapshot(b, v, 10);
    let late = wr.flip(&w, hold.epoch);
    wr.change(&mut w, vec![written(2), late]);
    w.ack(wr.conn, push, Ack::Held { seq: Seq(wr.last), held_us: 1 });
    assert_eq!((w.shadow.snapshot_count(), w.answer(b, second)), (0, None));
    let s = wr.next_segment();
    wr.change(&mut w, vec![Entry::Segment(s)]);
    flip(&mut w, &mut wr, vec![written(4)]);
    wr.change(&mut w, vec![written(8)]);
    w.answer(b, second).expect("answered").expect("taken");
    assert_eq!(frozen(&w, 10), 7);
    let segments = &w.shadow.volume(v).expect("there").segments;
    assert_eq!(segments.values().map(|s| s.epoch.0).collect::<Vec<_>>(), [1, 1, 2], "the writer may owe those before a page");
    let mut again = wr.clone();
    let e = Entry::Flipped { epoch: VolumeEpoch(3), segment: again.next_segment(), dirty: vec![] };
    again.append(&mut w, vec![e]);
    assert_eq!(w.refused(wr.conn, again.fold_request().expect("one")), Kind::Refused, "never twice");
}

#[test]
fn a_writer_that_comes_back_in_time_is_held_all_the_same() {
    let (mut w, v, mut wr, b) = pair();
    let (id, _) = w.snapshot(b, v, 9);
    w.disconnect(wr.conn);
    w.wait(LEASE / 2);
    wr.conn = w.resume(1, 1);
    flip(&mut w, &mut wr, vec![]);
    wr.fold(&mut w);
    w.answer(b, id).expect("answered").expect("taken");
}

#[test]
fn what_is_folded_is_taken_though_the_answer_never_comes() {
    for way in 0..3 {
        let (mut w, v, mut wr, b) = pair();
        let (id, _) = w.snapshot(b, v, 9);
        let (push, hold) = hold_of(&w, wr.conn);
        let f = wr.flip(&w, hold.epoch);
        wr.change(&mut w, vec![f]);
        assert_eq!(w.answer(b, id), None);
        match way {
            0 => drop(w.disconnect(wr.conn)),
            1 => w.wait(Duration::from_secs(5)),
            _ => drop(w.ack(wr.conn, push, Ack::Failed(WireError { kind: Kind::Io, message: "no".into(), hint: String::new() }))),
        }
        let Some(Ok(Reply::SnapshotTaken(t))) = w.answer(b, id) else { panic!("not taken, way {way}") };
        assert_eq!(t.held_us, 0);
        // It may be removed before its asker is answered, and then there is nothing to answer with; here it is still there.
        assert_eq!(frozen(&w, 9), 1);
    }
}

#[test]
fn the_deadline_failure_and_a_lapse_drop_it() {
    for way in 0..3 {
        let (mut w, v, wr, b) = pair();
        let (id, _) = w.snapshot(b, v, 9);
        let (push, _) = hold_of(&w, wr.conn);
        match way {
            0 => w.wait(Duration::from_secs(5)),
            1 => drop(w.ack(wr.conn, push, Ack::Failed(WireError { kind: Kind::Io, message: "no".into(), hint: String::new() }))),
            _ => {
                w.disconnect(wr.conn);
                w.wait(Duration::from_secs(5));
            }
        }
        dropped(&w, b, id);
        assert!(w.shadow.snapshot(SnapshotId([9; 16])).is_none());
        assert_eq!(w.shadow.volume(v).expect("there").entry.pending, None);
        // An answer that comes too late changes nothing.
        let log = w.log.len();
        w.ack(wr.conn, push, Ack::Held { seq: Seq(2), held_us: 1 });
        assert_eq!(w.log.len(), log);
    }
}

#[test]
fn a_writer_that_gives_back_or_dies_leaves_it_to_be_frozen() {
    for way in 0..2 {
        let (mut w, v, mut wr, b) = pair();
        let (id, _) = w.snapshot(b, v, 9);
        if way == 0 {
            wr.write(&mut w, 0, 4);
            wr.detach(&mut w);
        } else {
            w.disconnect(wr.conn);
            w.step(Event::LockProbed { session: SessionNo(0), held: false });
        }
        let Some(Ok(Reply::SnapshotTaken(t))) = w.answer(b, id) else { panic!("not taken, way {way}") };
        assert_eq!(t.snapshot.epoch.0, 2, "not the number that was offered to the writer");
        assert_eq!(frozen(&w, 9), if way == 0 { 5 } else { 1 });
    }
}

#[test]
fn one_at_a_time_and_the_asker_may_come_again() {
    let (mut w, v, mut wr, b) = pair();
    let (first, _) = w.snapshot(b, v, 9);
    assert_eq!(w.snapshot(b, v, 10).1.expect("at once").expect_err("one at a time").kind, Kind::Busy);
    let other = w.volume("other", 1 << 30);
    w.client(2, "other", "all");
    assert_eq!(w.snapshot(b, other, 9).1.expect("at once").expect_err("an identity for one").kind, Kind::Refused);
    w.disconnect(b);
    let b = w.resume(2, 2);
    let (again, none) = w.snapshot(b, v, 9);
    assert_eq!(none, None);
    flip(&mut w, &mut wr, vec![]);
    wr.fold(&mut w);
    w.answer(b, again).expect("answered").expect("taken");
    assert_eq!(w.answer(b, first), None);
    let admin = w.try_admin(AdminRequest::SnapshotCreate { volume: "db".into(), name: "nightly".into() });
    assert_eq!(admin, None, "an administrator waits too");
    w.ack_all(wr.conn);
    flip(&mut w, &mut wr, vec![]);
    wr.fold(&mut w);
    assert_eq!(w.shadow.snapshot_count(), 2);
}

#[test]
fn a_restart_drops_it_and_the_same_identity_may_be_asked_again() {
    let (mut w, v, mut wr, b) = pair();
    w.snapshot(b, v, 9);
    let push = flip(&mut w, &mut wr, vec![written(2)]);
    w.restart();
    assert!(w.shadow.volume(v).expect("there").entry.pending.is_some());
    wr.conn = w.connect(1);
    assert_eq!(w.shadow.volume(v).expect("there").entry.pending, None, "before anything else");
    w.hello(wr.conn, 1, BOOT, true).expect("welcome");
    let b = w.resume(2, 2);
    wr.fold(&mut w);
    assert_eq!(w.shadow.snapshot_count(), 0, "its flip takes nothing");
    let (id, _) = w.snapshot(b, v, 9);
    let (push2, hold) = hold_of(&w, wr.conn);
    assert!(push2 > push, "numbers of pushes go on");
    assert_eq!(hold.epoch.0, 3, "the number that was offered is used up");
    flip(&mut w, &mut wr, vec![]);
    wr.fold(&mut w);
    w.answer(b, id).expect("answered").expect("taken");
    // Committed, and the answer lost: done already.
    w.restart();
    let b = w.resume(2, 2);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    assert_eq!(w.shadow.snapshot_count(), 1);
}

#[test]
fn segments_go_when_no_snapshot_and_no_writer_needs_them() {
    let (mut w, v, mut wr, b) = pair();
    let held = |w: &World| w.shadow.volume(v).expect("there").segments.values().map(|s| s.epoch.0).collect::<Vec<_>>();
    for n in [9, 10] {
        w.snapshot(b, v, n);
        flip(&mut w, &mut wr, vec![]);
        wr.fold(&mut w);
        w.ack_all(wr.conn);
    }
    let s = wr.next_segment();
    wr.change(&mut w, vec![Entry::Segment(s)]);
    assert_eq!(held(&w), [1, 2, 2]);
    // A reader learns of those that it may need.
    let open = w.ok(b, OpenSnapshot { snapshot: SnapshotId([10; 16]) });
    assert_eq!(open.segments.iter().map(|s| s.epoch.0).collect::<Vec<_>>(), [2, 2]);
    w.ok(b, fusevol_shared::wire::messages::CloseSnapshot { snapshot: SnapshotId([10; 16]) });
    w.ok(b, RemoveSnapshot { snapshot: SnapshotId([10; 16]) });
    assert_eq!(held(&w), [1, 2, 2], "the older snapshot reads them all");
    w.ok(b, RemoveSnapshot { snapshot: SnapshotId([9; 16]) });
    // A flip may be folded before the page is written that names its segment: until the next flip that page may land.
    assert_eq!(held(&w), [1, 2, 2], "the writer may still write in the newest epoch's, and the page of the one before");
    w.snapshot(b, v, 11);
    flip(&mut w, &mut wr, vec![]);
    wr.fold(&mut w);
    w.ack_all(wr.conn);
    w.ok(b, RemoveSnapshot { snapshot: SnapshotId([11; 16]) });
    assert_eq!(held(&w), [2, 2, 3]);
    wr.detach(&mut w);
    assert!(held(&w).is_empty());
    assert_eq!(w.shadow.free_aus(), 63);
}

#[test]
fn a_snapshot_that_breaks_is_said_and_needs_nothing_any_more() {
    let (mut w, v, mut wr, b) = pair();
    w.snapshot(b, v, 9);
    flip(&mut w, &mut wr, vec![]);
    wr.fold(&mut w);
    wr.change(&mut w, vec![Entry::Broken { epoch: VolumeEpoch(1) }]);
    wr.change(&mut w, vec![Entry::Broken { epoch: VolumeEpoch(1) }]);
    assert!(w.shadow.snapshot(SnapshotId([9; 16])).expect("there").entry.broken);
    let crate::core::AdminReply::Events(all) = w.admin(AdminRequest::Events { after: 0, limit: 100 }) else { panic!() };
    assert_eq!(all.iter().filter(|n| n.what == "snapshot-broken" && n.text.contains("db@s9")).count(), 1);
    let need = w.ok(wr.conn, fusevol_shared::wire::messages::GetNeed { volume: v, from: VolAu(0) });
    assert!(need.runs.is_empty());
    let conn = wr.conn;
    wr.detach(&mut w);
    let next = w.ok(conn, fusevol_shared::wire::messages::AttachWrite { volume: v });
    assert!(next.segment.is_empty() && next.snapshots[0].broken, "nothing is preserved for it");
}
