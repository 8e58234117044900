//! Copies that are placed anew: where they may lie, what becomes of the former ones, and what snapshots have of it.

use super::harness::*;
use super::mirror::{mirrored, out, states};
use super::writer::{Writer, mask};
use crate::core::{AdminRequest, ConnId, Effect, Event, Ticket};
use fusevol_shared::change::{Entry, Placed, Places};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{Seq, SessionNo, SnapshotId, VolumeId};
use fusevol_shared::map::LegState::{Gone, InSync, Stale};
use fusevol_shared::map::MapEntry;
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{AuSize, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::data::{Claim, Io, Verb};
use fusevol_shared::wire::messages::{Ack, GetSnapshotMap, Grant, MapChanged, NewJournal, OpenSnapshot, Push};

const S: SnapshotId = SnapshotId([9; 16]);

fn entry(w: &World, v: VolumeId, au: u32) -> MapEntry {
    w.shadow.volume(v).and_then(|v| v.map.get(VolAu(au))).expect("it has space")
}

fn places(w: &World, v: VolumeId, au: u32) -> Vec<DiskAu> {
    entry(w, v, au).legs().iter().map(|l| l.at).collect()
}

fn placed(au: u32, legs: Vec<DiskAu>) -> Entry {
    Entry::Placed { runs: vec![Placed { first: VolAu(au), places: Places { legs, count: 1 }, named: false }] }
}

/// By a writer that knows of snapshots.
fn named(au: u32, legs: Vec<DiskAu>) -> Entry {
    Entry::Placed { runs: vec![Placed { first: VolAu(au), places: Places { legs, count: 1 }, named: true }] }
}

fn changed(w: &World, c: ConnId) -> Option<(u64, MapChanged)> {
    w.find(c, |p| if let Push::MapChanged(m) = p { Some(m.clone()) } else { None })
}

/// Single places on none of these disks.
fn apart(w: &mut World, wr: &mut Writer, disks: &[u16], want: u32) -> Vec<DiskAu> {
    let m = Grant { apart: disks.iter().map(|d| DiskNo(*d)).collect(), ..wr.grant_request(want) };
    let granted = w.ok(wr.conn, m);
    wr.grants += 1;
    granted.places.iter().flat_map(Places::each).inspect(|l| assert_eq!(l.len(), 1)).map(|l| l[0]).collect()
}

/// A mirrored volume on three disks of which disk `d` is out, what AU 0 has left, and a place for its second copy.
fn degraded() -> (World, VolumeId, Writer, ConnId, u16, DiskAu, DiskAu) {
    let (mut w, v, mut wr, b) = mirrored(3);
    let legs = places(&w, v, 0);
    let lost = legs[0];
    w.ok(wr.conn, out(&wr, lost.disk.0, &[0]));
    let new = apart(&mut w, &mut wr, &[lost.disk.0, legs[1].disk.0], 1)[0];
    assert!(new.disk != lost.disk && new.disk != legs[1].disk);
    (w, v, wr, b, lost.disk.0, legs[1], new)
}

#[test]
fn copies_are_made_elsewhere_and_the_former_place_waits_for_all_who_read() {
    let (mut w, v, mut wr, b, d, left, new) = degraded();
    w.read(b, v);
    w.ack_all(b);
    let lost = places(&w, v, 0)[0];
    wr.change(&mut w, vec![placed(0, vec![left, new])]);
    assert_eq!(places(&w, v, 0), [left, new]);
    assert!(entry(&w, v, 0).legs().iter().all(|l| l.state == InSync));
    let limbo: Vec<_> = w.shadow.limbo().cloned().collect();
    assert_eq!((limbo.len(), &limbo[0].places, &limbo[0].waits), (1, &vec![lost], &vec![SessionNo(1)]));
    w.checkpoint();
    let (push, told) = changed(&w, b).expect("told");
    let told = told.runs[0].entries().expect("fits")[0].1;
    assert_eq!(told.legs(), entry(&w, v, 0).legs());
    w.ack(b, push, Ack::Done);
    // The writer's own last word to that disk may still be under way.
    assert_eq!(w.shadow.limbo().count(), 0);
    assert_eq!(w.shadow.quarantine().flat_map(|q| q.places.clone()).collect::<Vec<_>>(), [lost]);
    assert_eq!(lost.disk.0, d);
    // Once more on top of the second: nothing is lost on the way.
    let third = apart(&mut w, &mut wr, &[left.disk.0], 1)[0];
    wr.change(&mut w, vec![placed(0, vec![left, third])]);
    assert_eq!(places(&w, v, 0), [left, third]);
}

#[test]
fn what_may_not_be_placed() {
    let (mut w, v, mut wr, _, _, left, new) = degraded();
    let pair = wr.reserve.front().expect("a pair").clone();
    let stranger = places(&w, v, 1)[1];
    for bad in [
        vec![placed(0, vec![])],
        vec![placed(0, vec![left, left])],
        vec![placed(0, vec![left, stranger])],
        vec![placed(0, vec![pair[0]])], // half of a pair
        vec![placed(9, vec![new])],     // no space
        vec![placed(0, vec![left, new]), placed(1, vec![new])],
        vec![Entry::Returned { disk: DiskNo(left.disk.0) }], // not out
    ] {
        let m = wr.fold_of(bad);
        assert_eq!(w.refused(wr.conn, m), Kind::Refused);
    }
    let back = Grant { apart: vec![DiskNo(9)], ..wr.grant_request(1) };
    assert_eq!(w.refused(wr.conn, back), Kind::Refused, "apart from a disk that is none");
    let none = Grant { apart: (0..3).map(DiskNo).collect(), ..wr.grant_request(1) };
    assert_eq!(w.refused(wr.conn, none), Kind::NoSpace);
    wr.change(&mut w, vec![placed(0, vec![left, new])]);
}

#[test]
fn a_disk_that_returns_is_brought_up_to_date_in_its_place() {
    let (mut w, v, mut wr, _, d, _, _) = degraded();
    let both = places(&w, v, 0);
    assert_eq!(states(&w, v, 0)[0], (d, Stale));
    wr.change(&mut w, vec![placed(0, both.clone()), Entry::Returned { disk: DiskNo(d) }]);
    assert_eq!(places(&w, v, 0), both);
    assert!(entry(&w, v, 0).legs().iter().all(|l| l.state == InSync));
    assert!(w.shadow.limbo().count() == 0 && w.shadow.volume(v).expect("there").out.is_empty());
}

/// The same with a snapshot that shares AU 0, open by `b`.
fn frozen() -> (World, VolumeId, Writer, ConnId, Vec<DiskAu>) {
    let (mut w, v, wr, b) = mirrored(3);
    let a = wr.conn;
    let mut wr = wr;
    wr.write(&mut w, 0, 3);
    wr.detach(&mut w);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    let wr = w.attach(a, v);
    w.ok(b, OpenSnapshot { snapshot: S });
    let legs = places(&w, v, 0);
    (w, v, wr, b, legs)
}

#[test]
fn an_au_that_a_snapshot_shares_keeps_its_name_and_is_the_same_in_both() {
    let (mut w, v, mut wr, b, legs) = frozen();
    let (id, _) = w.send(wr.conn, out(&wr, legs[0].disk.0, &[0]));
    w.ack_all(b);
    assert!(w.answer(wr.conn, id).is_some());
    let of = |w: &World| w.shadow.snapshot(S).expect("there").map.get(VolAu(0)).expect("frozen");
    assert_eq!(of(&w).legs()[0].state, Stale, "in the snapshot, too");
    let new = apart(&mut w, &mut wr, &[legs[0].disk.0, legs[1].disk.0], 1)[0];
    let nameless = wr.clone().fold_of(vec![placed(0, vec![legs[1], new])]);
    assert_eq!(w.refused(wr.conn, nameless), Kind::Refused, "the snapshot needs the name");
    wr.change(&mut w, vec![Entry::Written { masks: vec![mask(0, 4)] }, named(0, vec![legs[1], new])]);
    let e = entry(&w, v, 0);
    assert_eq!(e.legs().iter().map(|l| (l.at, l.state)).collect::<Vec<_>>(), [(legs[0], Gone), (legs[1], InSync), (new, InSync)]);
    assert_eq!((of(&w).legs(), of(&w).written.0, e.written.0), (e.legs(), 3, 7));
    assert_eq!(w.shadow.limbo().count(), 0, "the name stays");
    w.checkpoint();
    w.ack_all(b);
    // The second goes, too: the reader of the snapshot is asked before its place is free.
    let two = apart(&mut w, &mut wr, &[new.disk.0], 1)[0];
    wr.change(&mut w, vec![named(0, vec![new, two])]);
    assert_eq!(w.shadow.limbo().next().expect("one").waits, [SessionNo(1)]);
    let (push, told) = changed(&w, b).expect("told");
    assert_eq!(told.runs[0].entries().expect("fits")[0].1.legs(), of(&w).legs());
    w.ack(b, push, Ack::Done);
    assert_eq!(w.shadow.limbo().count(), 0);
    assert!(!w.ok(b, GetSnapshotMap { snapshot: S, from: VolAu(0) }).runs.is_empty());
    // It leaves the live map: the snapshot has all of it, and gives all of it back.
    wr.discard(&mut w, 0);
    assert_eq!(w.shadow.limbo().count(), 0);
    w.ok(b, fusevol_shared::wire::messages::CloseSnapshot { snapshot: S });
    w.admin(AdminRequest::SnapshotRemove { volume: "db".into(), name: "s9".into() });
    assert!(w.shadow.quarantine().flat_map(|q| q.places.clone()).any(|p| p == legs[0]), "its writer may still write there");
}

#[test]
fn a_switch_shows_that_a_place_would_be_free_under_the_reader_of_a_snapshot() {
    let story = || {
        let (mut w, v, mut wr, _, legs) = frozen();
        let new = apart(&mut w, &mut wr, &[legs[0].disk.0, legs[1].disk.0], 1)[0];
        wr.change(&mut w, vec![named(0, vec![legs[0], new])]);
        assert_eq!(places(&w, v, 0), [legs[0], new]);
        // Nobody has answered yet.
        w.shadow.disk(legs[1].disk).expect("there").space.is_free(legs[1].au)
    };
    assert!(!story(), "the reader of the snapshot has not answered");
    assert!(without(Tag::R1, story), "its place is given to another while it is read");
}

#[test]
fn the_reader_of_a_snapshot_is_waited_for_over_a_restart_and_until_it_closes() {
    for close in [false, true] {
        let (mut w, _, mut wr, _, legs) = frozen();
        let new = apart(&mut w, &mut wr, &[legs[0].disk.0, legs[1].disk.0], 1)[0];
        wr.change(&mut w, vec![named(0, vec![legs[0], new])]);
        assert_eq!(w.shadow.limbo().count(), 1);
        w.restart();
        let b = w.resume(2, 2);
        assert_eq!(w.shadow.limbo().count(), 1);
        if close {
            w.ok(b, fusevol_shared::wire::messages::CloseSnapshot { snapshot: S });
        } else {
            w.ack_all(b);
        }
        assert_eq!(w.shadow.limbo().count(), 0);
    }
}

#[test]
fn a_segment_is_begun_without_the_legs_that_are_out() {
    let (mut w, v, mut wr, b, legs) = frozen();
    wr.fill(&mut w, 2);
    let lost = wr.reserve.front().expect("a pair")[1].disk;
    let _ = legs;
    let (id, _) = w.send(wr.conn, out(&wr, lost.0, &[]));
    w.ack_all(b);
    assert!(w.answer(wr.conn, id).is_some());
    let s = wr.next_segment();
    let whole = s.legs.clone();
    wr.change(&mut w, vec![Entry::Segment(s.clone())]);
    let stored = w.shadow.volume(v).expect("there").segments[&s.no].legs.clone();
    assert_eq!(stored, whole.iter().copied().filter(|l| l.disk != lost).collect::<Vec<_>>());
    assert_eq!(w.shadow.volume(v).expect("there").husks[&s.no], whole.iter().copied().filter(|l| l.disk == lost).collect::<Vec<_>>());
    wr.change(&mut w, vec![Entry::Late { places: whole }]);
    w.checkpoint();
}

#[test]
fn only_the_writer_uses_what_is_stale_and_nobody_what_is_given_up() {
    let (mut w, v, mut wr, b, legs) = frozen();
    w.read(b, v);
    let (id, _) = w.send(wr.conn, out(&wr, legs[0].disk.0, &[0]));
    w.ack_all(b);
    assert!(w.answer(wr.conn, id).is_some());
    let (writer, reader) = (wr.session, SessionNo(1));
    let asked = |w: &mut World, session, verb, at: DiskAu, claim| {
        let ticket = Ticket(w.number());
        let io = Io { verb, disk: at.disk, at: at.au.start(AuSize::DEFAULT), len: 4096, claim };
        let effects = w.step(Event::DataIo { ticket, session, io });
        effects.iter().any(|e| matches!(e, Effect::Verdict { result: Ok(_), .. }))
    };
    let (live, old) = (Claim::Live { volume: v, au: VolAu(0) }, Claim::Frozen { snapshot: S, au: VolAu(0) });
    assert!(asked(&mut w, writer, Verb::Write, legs[0], live) && asked(&mut w, writer, Verb::Write, legs[1], live));
    assert!(!asked(&mut w, reader, Verb::Read, legs[0], live) && asked(&mut w, reader, Verb::Read, legs[1], live));
    assert!(!asked(&mut w, reader, Verb::Read, legs[0], old) && asked(&mut w, reader, Verb::Read, legs[1], old));
    let new = apart(&mut w, &mut wr, &[legs[0].disk.0, legs[1].disk.0], 1)[0];
    assert!(asked(&mut w, writer, Verb::Write, new, live), "out of the reserve");
    wr.change(&mut w, vec![named(0, vec![legs[1], new])]);
    assert!(!asked(&mut w, writer, Verb::Write, legs[0], live) && asked(&mut w, reader, Verb::Read, new, old));
}

#[test]
fn a_fresh_journal_is_not_where_the_former_failed() {
    let (mut w, v, wr, _) = mirrored(2);
    let m = NewJournal { volume: v, token: wr.token, failed: 1, closing: Seq(wr.last), avoid: vec![DiskNo(0)] };
    let fresh = w.ok(wr.conn, m).journal;
    assert_eq!(fresh.copies.iter().map(|c| c.first.disk.0).collect::<Vec<_>>(), [1]);
}
