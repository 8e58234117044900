//! Legs that fail: who is told before the writer goes on, what misses writes, what a dead writer leaves.

use super::harness::*;
use super::writer::{Writer, mask};
use crate::core::{AdminReply, AdminRequest, ConnId, Event};
use fusevol_shared::change::{Entry, Region, RegionRun};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{SessionNo, SnapshotId, VolumeId};
use fusevol_shared::map::LegState::{self, InSync, Stale};
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{DiskNo, VolAu};
use fusevol_shared::wire::messages::{Ack, AttachRead, CloseSnapshot, Detach, OpenSnapshot, Push};
use fusevol_shared::wire::recovery::{LegFailed, LegOut, Recovery};
use std::time::Duration;

/// A volume of two copies on `disks` disks, its writer (key 1) with AUs 0 to 3 and 64 to 66, and somebody else (key 2).
pub fn mirrored(disks: u8) -> (World, VolumeId, Writer, ConnId) {
    let mut w = World::new(disks, 200);
    let v = w.mirror("db", 2);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..3);
    wr.bind(&mut w, 64..66);
    (w, v, wr, b)
}

pub fn states(w: &World, v: VolumeId, au: u32) -> Vec<(u16, LegState)> {
    let e = w.shadow.volume(v).and_then(|v| v.map.get(VolAu(au))).expect("it has space");
    e.legs().iter().map(|l| (l.at.disk.0, l.state)).collect()
}

/// The states of an AU of two copies, by disk.
fn by_disk(w: &World, v: VolumeId, au: u32) -> Vec<LegState> {
    let mut s = states(w, v, au);
    s.sort_by_key(|(d, _)| *d);
    s.into_iter().map(|(_, s)| s).collect()
}

pub fn out(wr: &Writer, disk: u16, dirty: &[u32]) -> LegOut {
    let dirty = RegionRun::join(dirty.iter().map(|r| Region(*r)), 100);
    LegOut { volume: wr.volume, token: wr.token, disk: DiskNo(disk), dirty, why: "it does not answer".into() }
}

fn failed(w: &World, c: ConnId) -> Option<(u64, LegFailed)> {
    w.find(c, |p| if let Push::LegFailed(m) = p { Some(m.clone()) } else { None })
}

#[test]
fn of_disks_that_fail_one_after_the_other_the_last_one_has_what_is_not_folded_yet() {
    for (order, expected) in [([1, 0], [InSync, Stale]), ([0, 1], [Stale, InSync])] {
        let (mut w, v, mut wr, _) = mirrored(2);
        for disk in order {
            w.ok(wr.conn, out(&wr, disk, &[]));
        }
        wr.bind(&mut w, 10..11);
        assert_eq!(by_disk(&w, v, 10), expected, "{order:?}");
        w.checkpoint();
    }
}

fn marked(wr: &Writer, regions: &[u32]) -> Entry {
    Entry::Marked { epoch: wr.epoch, regions: regions.iter().map(|r| Region(*r)).collect() }
}

#[test]
fn copies_lie_on_different_disks_or_are_fewer() {
    let (w, v, wr, _) = mirrored(3);
    let at = w.shadow.attachment(wr.token).expect("stands");
    assert!(at.reserve.each().all(|l| l.len() == 2 && l[0].disk != l[1].disk));
    assert!((0..3).all(|au| states(&w, v, au).len() == 2));
    w.checkpoint();
    // One disk: one copy, which is said, and lacks the other.
    let mut w = World::new(1, 100);
    let AdminReply::Volume(view) = w.admin(AdminRequest::VolumeCreateMirrored { name: "db".into(), size: 1 << 30, copies: 2 }) else {
        panic!()
    };
    assert!(view.notes.iter().any(|n| n.contains("1 of 2 copies")), "{:?}", view.notes);
    w.client(1, "db", "all");
    let a = w.open(1, 1);
    let mut wr = w.attach(a, view.id);
    wr.bind(&mut w, 0..2);
    let orders = w.ok(a, Recovery { volume: view.id, token: wr.token, says: String::new() });
    assert_eq!((orders.todo, orders.copies, orders.given_up.len()), (2, 2, 0));
    let e = w.admin_refused(AdminRequest::VolumeCreateMirrored { name: "x".into(), size: 4096, copies: 4 });
    assert_eq!(e.kind, Kind::Refused);
}

#[test]
fn a_leg_is_out_when_every_reader_has_said_that_it_reads_there_no_more() {
    let (mut w, v, wr, b) = mirrored(2);
    w.client(3, "db", "all");
    let c = w.open(3, 3);
    w.read(b, v);
    let snapshot = SnapshotId([9; 16]);
    let (a, reading) = (wr.conn, w.read(c, v));
    assert_eq!(w.refused(c, LegOut { token: reading.token, ..out(&wr, 1, &[]) }), Kind::Busy, "it is for the writer to say");
    let (id, answer) = w.send(a, out(&wr, 1, &[0]));
    assert_eq!(answer, None);
    assert_eq!(w.shadow.volume(v).expect("there").out, [DiskNo(1)], "durable at once");
    assert_eq!((by_disk(&w, v, 0), by_disk(&w, v, 64)), (vec![InSync, Stale], vec![InSync, InSync]));
    w.checkpoint();
    // Who attaches now is told with the answer.
    let (push, told) = failed(&w, b).expect("told");
    assert_eq!(told, LegFailed { volume: v, disk: DiskNo(1) });
    w.ack(b, push, Ack::Done);
    assert_eq!(w.answer(a, id), None, "one has not answered");
    // Asked again, it is not done twice; the wait goes on, and the last who asked is answered.
    let log = w.log.len();
    let (again, answer) = w.send(a, out(&wr, 1, &[0]));
    assert_eq!((answer, w.log.len()), (None, log));
    w.ack_all(b);
    let (push, _) = failed(&w, c).expect("told once");
    w.ack(c, push, Ack::Done);
    assert!(matches!(w.answer(a, again), Some(Ok(_))));
    assert_eq!(w.read(b, v).out, [DiskNo(1)]);
    // Another manager knows nothing of it, and says it again.
    w.restart();
    let (a, b, c) = (w.resume(1, 1), w.resume(2, 2), w.resume(3, 3));
    let (id, answer) = w.send(a, out(&wr, 1, &[0]));
    assert_eq!(answer, None);
    w.ok(c, Detach { volume: v });
    assert_eq!(w.answer(a, id), None);
    w.ack_all(b);
    assert!(matches!(w.answer(a, id), Some(Ok(_))), "who has given it back is not waited for");
    assert!(w.shadow.snapshot(snapshot).is_none());
}

#[test]
fn readers_of_snapshots_are_told_and_a_dead_one_is_not_waited_for() {
    let (mut w, v, wr, b) = mirrored(2);
    let a = wr.conn;
    wr.detach(&mut w);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    let s = SnapshotId([9; 16]);
    assert!(w.ok(b, OpenSnapshot { snapshot: s }).out.is_empty());
    let (id, answer) = w.send(a, fusevol_shared::wire::messages::AttachWrite { volume: v });
    assert_eq!(answer, None);
    w.ack_all(b);
    let Some(Ok(fusevol_shared::wire::messages::Reply::Attached(at))) = w.answer(a, id) else { panic!("not attached") };
    assert_eq!((at.copies, at.segment[0].legs.len()), (2, 2));
    let wr = Writer::new(&mut w, a, v, &at);
    let (id, answer) = w.send(a, out(&wr, 0, &[]));
    assert_eq!(answer, None);
    // The preserve segment goes on without the leg; its former place is nobody's else.
    let segment = w.shadow.volume(v).expect("there").segments[&at.segment[0].no].clone();
    assert_eq!(segment.legs.iter().map(|l| l.disk.0).collect::<Vec<_>>(), [1]);
    assert_eq!(w.shadow.volume(v).expect("there").husks.len(), 1);
    w.checkpoint();
    w.disconnect(b);
    w.step(Event::LockProbed { session: SessionNo(1), held: false });
    assert!(matches!(w.answer(a, id), Some(Ok(_))));
    // Once no snapshot needs it, it stays with the session that may still write there.
    w.admin(AdminRequest::SnapshotRemove { volume: "db".into(), name: "s9".into() });
    wr.detach(&mut w);
    assert_eq!(w.shadow.quarantine().flat_map(|q| q.places.clone()).map(|p| p.disk.0).collect::<Vec<_>>(), [0]);
    w.ok(a, fusevol_shared::wire::messages::Goodbye {});
    assert_eq!(w.shadow.quarantine().count(), 0);
}

#[test]
fn closing_a_snapshot_ends_the_wait_for_its_reader() {
    let (mut w, v, wr, b) = mirrored(2);
    let a = wr.conn;
    wr.detach(&mut w);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    let s = SnapshotId([9; 16]);
    let at = w.ok(a, AttachRead { volume: v });
    w.ok(b, OpenSnapshot { snapshot: s });
    // Nobody writes: a reader may say it.
    let m = LegOut { volume: v, token: at.token, disk: DiskNo(1), dirty: vec![], why: String::new() };
    let (id, answer) = w.send(a, m);
    assert_eq!(answer, None);
    w.ok(b, CloseSnapshot { snapshot: s });
    assert!(matches!(w.answer(a, id), Some(Ok(_))));
    assert_eq!(w.ok(b, OpenSnapshot { snapshot: s }).out, [DiskNo(1)]);
}

#[test]
fn a_reader_that_is_lost_is_waited_for_until_it_is_known_that_it_reads_no_more() {
    let (mut w, v, wr, b) = mirrored(2);
    w.read(b, v);
    let (id, _) = w.send(wr.conn, out(&wr, 1, &[]));
    w.disconnect(b);
    let mut waited = Duration::ZERO;
    let step = LEASE / 2;
    while w.answer(wr.conn, id).is_none() && waited < LEASE * 20 {
        w.ok(wr.conn, fusevol_shared::wire::messages::Renew {});
        w.wait(step);
        waited += step;
        if w.probes().contains(&SessionNo(1)) {
            w.step(Event::LockProbed { session: SessionNo(1), held: waited < LEASE * 3 });
        }
    }
    assert!(matches!(w.answer(wr.conn, id), Some(Ok(_))), "{waited:?}");
    assert!(waited >= LEASE * 3, "its lock was held: it may have read");
}

#[test]
fn a_switch_shows_that_a_reader_would_read_what_missed_a_write() {
    let story = || {
        let (mut w, v, wr, b) = mirrored(2);
        w.read(b, v);
        // Answered: the writer acknowledges a write that the leg missed, and the reader has not been heard yet.
        let (_, answer) = w.send(wr.conn, out(&wr, 1, &[0]));
        answer.is_some() && failed(&w, b).is_some()
    };
    assert!(!story(), "no write that missed the leg is acknowledged before the reader has answered");
    assert!(without(Tag::R2, story), "the reader may still read the leg");
}

#[test]
fn what_is_touched_while_a_leg_is_out_misses_it_and_the_rest_does_not() {
    let (mut w, v, mut wr, _) = mirrored(2);
    w.ok(wr.conn, out(&wr, 1, &[]));
    assert!([0, 64].iter().all(|au| by_disk(&w, v, *au) == [InSync, InSync]), "nothing was missed yet");
    let entry = marked(&wr, &[0]);
    wr.change(&mut w, vec![entry]);
    assert_eq!((by_disk(&w, v, 2), by_disk(&w, v, 65)), (vec![InSync, Stale], vec![InSync, InSync]));
    // What is bound out of the reserve that lies on it, too, and what is moved.
    let on_both = wr.reserve.front().expect("some").clone();
    assert_eq!(on_both.len(), 2);
    let entry = wr.bound([3]);
    wr.change(&mut w, vec![entry]);
    assert_eq!(by_disk(&w, v, 3), [InSync, Stale]);
    // New space is not on it.
    wr.shrink(&mut w, 0);
    wr.fill(&mut w, 2);
    assert!(wr.reserve.iter().all(|l| l.len() == 1 && l[0].disk.0 == 0));
    let orders = w.ok(wr.conn, Recovery { volume: v, token: wr.token, says: String::new() });
    assert_eq!((orders.todo, orders.given_up.len()), (6, 0), "all of it lacks a copy as long as the leg is out");
    w.wait(LEASE * 20);
    let back = wr.conn;
    wr.conn = w.resume(1, 1);
    assert_ne!(back, wr.conn);
    let orders = w.ok(wr.conn, Recovery { volume: v, token: wr.token, says: String::new() });
    assert_eq!(orders.given_up, [DiskNo(1)], "out for so long");
    // It returns: what missed nothing is whole.
    wr.change(&mut w, vec![Entry::Returned { disk: DiskNo(1) }]);
    assert!(w.shadow.volume(v).expect("there").out.is_empty());
    let orders = w.ok(wr.conn, Recovery { volume: v, token: wr.token, says: String::new() });
    assert_eq!((orders.todo, orders.given_up.len()), (4, 0));
    w.checkpoint();
}

#[test]
fn the_last_leg_in_sync_is_never_given_up() {
    let (mut w, v, mut wr, _) = mirrored(2);
    w.ok(wr.conn, out(&wr, 1, &[0]));
    w.ok(wr.conn, out(&wr, 0, &[0, 1]));
    assert_eq!(by_disk(&w, v, 0), [InSync, Stale]);
    assert_eq!(by_disk(&w, v, 64), [InSync, InSync], "nothing is left that could have been written instead");
    let entry = marked(&wr, &[0, 1]);
    wr.change(&mut w, vec![entry]);
    assert_eq!(by_disk(&w, v, 0), [InSync, Stale]);
    // A volume of one copy has no leg to give up.
    let one = w.volume("one", 1 << 30);
    w.client(1, "one", "all");
    let single = w.attach(wr.conn, one);
    assert_eq!(w.refused(wr.conn, out(&single, 1, &[])), Kind::Refused);
    assert_eq!(w.refused(wr.conn, out(&wr, 9, &[])), Kind::Refused, "no such disk");
    assert_eq!(w.refused(wr.conn, out(&wr, 1, &[1000])), Kind::Refused, "beyond the volume");
}

#[test]
fn what_a_dead_writer_was_writing_has_one_copy_that_is_right() {
    let (mut w, v, mut wr, _) = mirrored(3);
    let flip = |w: &World| w.shadow.attachment(wr.token).expect("stands").bound.clone();
    assert_eq!(flip(&w).into_iter().collect::<Vec<_>>(), [Region(0), Region(1)], "a binding is a mark");
    w.checkpoint();
    let s = w.snapshot(wr.conn, v, 9);
    assert_eq!(s.1, None);
    let (push, hold) = w.find(wr.conn, |p| if let Push::Hold(h) = p { Some(h.clone()) } else { None }).expect("held");
    let entry = wr.flip(&w, hold.epoch);
    let append = wr.append(&mut w, vec![entry]);
    w.ack(wr.conn, push, Ack::Held { seq: append.seq, held_us: 1 });
    wr.fold(&mut w);
    assert!(w.shadow.attachment(wr.token).expect("stands").bound.is_empty(), "all was drained at the flip");
    let entry = marked(&wr, &[1]);
    wr.append(&mut w, vec![entry, Entry::Written { masks: vec![mask(64, 1)] }]);
    w.disconnect(wr.conn);
    w.step(Event::LockProbed { session: wr.session, held: false });
    assert!(w.shadow.session(wr.session).is_none());
    let of = |au| states(&w, v, au).into_iter().map(|(_, s)| s).collect::<Vec<_>>();
    assert_eq!((of(0), of(64), of(65)), (vec![InSync, InSync], vec![InSync, Stale], vec![InSync, Stale]));
    // The snapshot that shares it has the same.
    let frozen = w.shadow.snapshot(SnapshotId([9; 16])).expect("taken").map.get(VolAu(64)).expect("frozen");
    assert_eq!(frozen.legs(), w.shadow.volume(v).expect("there").map.get(VolAu(64)).expect("live").legs());
    w.checkpoint();
}
