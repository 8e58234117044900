//! Takeovers without a fence: their order, their one transaction, what they wait for, and what each sentence keeps (T2 to T4).

use super::harness::*;
use super::writer::{Writer, mask};
use crate::catalog::record::{Fencing, Record};
use crate::core::errand::{Errand, KeptBlock};
use crate::core::{AdminReply, AdminRequest, ConnId, Effect, Event, Fenced};
use fusevol_shared::change::{Entry, Region};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{Seq, SessionNo, SnapshotId, VolumeId};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::{Ack, AttachWrite, CloseSnapshot, OpenSnapshot, Push, Renew};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const S: SessionNo = SessionNo(1);

/// Time goes by; these keep their leases.
fn wait(w: &mut World, conns: &[ConnId], d: Duration) {
    let mut left = d;
    while !left.is_zero() {
        let step = left.min(LEASE / 4);
        w.wait(step);
        conns.iter().for_each(|c| _ = w.ok(*c, Renew {}));
        left -= step;
    }
}

/// A writer of another host with two AUs that it bound itself and one of a region that it marked; it is lost. And a client of this host.
fn lost(disks: u8, aus: u32) -> (World, VolumeId, Writer, ConnId) {
    let mut w = World::new(disks, aus);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    w.client(3, "db", "all");
    w.admin(AdminRequest::PoolSet { fencing: Fencing::LeaseOnly });
    let b = w.open(2, 2);
    let mut first = w.attach(b, v);
    first.bind(&mut w, 100..101);
    first.append(&mut w, vec![Entry::Written { masks: vec![mask(100, 3)] }]);
    first.fold(&mut w);
    first.detach(&mut w);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    let a = w.connect(1);
    w.hello(a, 1, OTHER_BOOT, false).expect("welcome");
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..2);
    let epoch = wr.epoch;
    wr.append(&mut w, vec![Entry::Written { masks: vec![mask(0, 1)] }, Entry::Marked { epoch, regions: vec![Region(1)] }]);
    (w, v, wr, b)
}

fn lose(w: &mut World, wr: &Writer, b: ConnId) {
    w.disconnect(wr.conn);
    wait(w, &[b], LEASE * 2);
    assert!(w.shadow.session(S).is_some_and(|s| !s.sealed), "nobody wants it");
}

/// Somebody wants the volume, until it is free.
fn taken(w: &mut World, v: VolumeId, b: ConnId) -> Duration {
    let began = w.now;
    // It goes on at once where the session is sealed already.
    assert_eq!(w.ask(b, AttachWrite { volume: v }).expect_err("another has it").kind, Kind::Busy);
    for _ in 0..60 {
        if w.shadow.writer(v).is_none() {
            return Duration::from_nanos(w.now - began);
        }
        wait(w, &[b], LEASE / 8);
    }
    panic!("it is not taken over: {:?}", w.try_admin(AdminRequest::Status));
}

fn kinds(w: &World) -> Vec<&'static str> {
    let kind = |e: &Errand| match e {
        Errand::Journal(_) => "journal",
        Errand::Copy(_) => "copy",
        Errand::Log { .. } => "log",
        Errand::Lay { .. } => "lay",
    };
    w.disks.errands.iter().map(kind).collect()
}

/// Blocks that were copied, by where they were copied to.
fn copied(w: &World) -> BTreeMap<DiskAu, BlockMask> {
    let copies = w.disks.errands.iter().filter_map(|e| if let Errand::Copy(c) = e { Some(c) } else { None });
    copies.flatten().flat_map(|c| c.to.iter().map(|t| (*t, c.blocks))).collect()
}

fn quarantine(w: &World) -> BTreeSet<DiskAu> {
    w.shadow.quarantine().flat_map(|q| q.places.clone()).collect()
}

fn said(w: &mut World, what: &str) -> Option<String> {
    let AdminReply::Events(all) = w.admin(AdminRequest::Events { after: 0, limit: 1000 }) else { panic!("events") };
    all.into_iter().rev().find(|n| n.what == what).map(|n| n.text)
}

fn findings(w: &mut World) -> String {
    let AdminReply::Status(s) = w.admin(AdminRequest::Status) else { panic!("status") };
    s.findings.into_iter().map(|f| f.text + "\n").collect()
}

fn place(w: &World, v: VolumeId, au: u32) -> DiskAu {
    w.shadow.volume(v).expect("there").map.get(VolAu(au)).expect("bound").legs()[0].at
}

#[test]
fn what_a_lost_writer_could_still_write_lies_elsewhere_in_one_transaction() {
    let (mut w, v, wr, b) = lost(2, 100);
    let snapshot = SnapshotId([9; 16]);
    let open = w.open(3, 3);
    w.ok(open, OpenSnapshot { snapshot });
    let a = w.shadow.attachment(wr.token).expect("stands").clone();
    let mut could: BTreeSet<DiskAu> = a.reserve.places().chain(a.journal.iter().flat_map(|j| j.places())).collect();
    could.insert(place(&w, v, 100));
    could.extend(w.shadow.volume(v).expect("there").segments.values().filter(|s| s.token == wr.token).flat_map(|s| s.legs.clone()));
    let former = place(&w, v, 100);
    w.disconnect(wr.conn);
    wait(&mut w, &[b, open], LEASE * 2);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    let began = w.now;
    while w.shadow.writer(v).is_some() {
        wait(&mut w, &[b, open], LEASE / 8);
    }
    assert!(Duration::from_nanos(w.now - began) < LEASE * 2, "a look at its heartbeat, the SEAL, and its lease");
    assert_eq!(kinds(&w), ["journal", "copy", "log"]);
    // All that was durable is there, at other places, in the volume and in its snapshot.
    let map = &w.shadow.volume(v).expect("there").map;
    assert_eq!(masks(map), [(VolAu(0), BlockMask(1)), (VolAu(1), BlockMask::NONE), (VolAu(100), BlockMask(3))].into());
    assert!(map.iter().all(|(_, e)| !could.contains(&e.legs()[0].at)));
    assert_eq!(w.shadow.snapshot(snapshot).expect("there").map.get(VolAu(100)).expect("bound").legs()[0].at, place(&w, v, 100));
    assert_eq!(copied(&w).len(), 2, "what is unwritten is not copied");
    assert!(quarantine(&w).is_superset(&could), "{could:?}");
    assert!(said(&mut w, "volume-taken-over").expect("said").contains("unfenced: 3 allocation units"));
    assert!(findings(&mut w).contains("is sealed"));
    let records = w.log.iter().filter(|r| matches!(r, Record::TakenOver(_))).count();
    assert_eq!(records, 1);
    let (asked, _) = w.send(b, AttachWrite { volume: v });
    w.ack_all(open);
    w.answer(b, asked).expect("answered").expect("attached");
    // It is proven drained: all is free but what the reader of the snapshot has.
    let quarantined = quarantine(&w);
    assert!(w.try_admin(AdminRequest::ClientConfirmDead { name: "host1".into() }).is_none_or(|r| r.is_ok()));
    wait(&mut w, &[b, open], LEASE * 3);
    assert!(w.shadow.session(S).is_none() && w.shadow.quarantine().count() == 0);
    let free = |w: &World, at: DiskAu| w.shadow.disk(at.disk).expect("there").space.is_free(at.au);
    assert!(!free(&w, former), "who opened the snapshot before reads there");
    w.ok(open, CloseSnapshot { snapshot });
    assert!(quarantined.iter().all(|at| free(&w, *at)), "and then nobody");
}

#[test]
fn a_reader_has_the_new_map_before_somebody_writes() {
    let (mut w, v, wr, b) = lost(2, 100);
    let r = w.open(3, 3);
    w.read(r, v);
    w.disconnect(wr.conn);
    wait(&mut w, &[b, r], LEASE * 2);
    w.ack_all(r);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    for _ in 0..40 {
        wait(&mut w, &[b, r], LEASE / 8);
    }
    assert!(w.shadow.writer(v).is_none());
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy, "it could read what is old by then");
    let mut told = Vec::new();
    while let Some((push, m)) = w.find(r, |p| if let Push::MapChanged(m) = p { Some(m.clone()) } else { None }) {
        told.extend(m.runs.iter().map(|run| run.first));
        w.ack(r, push, Ack::Done);
    }
    assert!(told.contains(&VolAu(100)), "{told:?}");
    w.attach(b, v);
}

#[test]
fn required_waits_best_asks_the_agents_first_and_a_heartbeat_is_believed() {
    let (mut w, v, wr, b) = lost(2, 100);
    w.admin(AdminRequest::PoolSet { fencing: Fencing::Required });
    lose(&mut w, &wr, b);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    wait(&mut w, &[b], LEASE * 20);
    assert!(w.shadow.session(S).is_some_and(|s| !s.sealed));
    w.admin(AdminRequest::PoolSet { fencing: Fencing::Best });
    wait(&mut w, &[b], LEASE * 20);
    assert!(w.shadow.session(S).is_some_and(|s| !s.sealed), "the agents have not answered");
    w.disks.alive.insert(S);
    w.step(Event::Fenced { asked: crate::core::FenceFor::Session(S), fenced: Fenced::NoAgent });
    w.disks.fence = Some(Fenced::Failed { why: "no answer".into() });
    wait(&mut w, &[b], LEASE * 20);
    assert!(w.shadow.session(S).is_some_and(|s| !s.sealed), "it lives by its heartbeat");
    w.disks.alive.clear();
    assert!(taken(&mut w, v, b) < LEASE * 4);
    w.attach(b, v);
}

#[test]
fn without_room_it_waits_and_says_so() {
    let (mut w, v, wr, b) = lost(1, 40);
    let fill = w.volume("fill", 1 << 30);
    w.client(2, "fill", "all");
    let mut other = w.attach(b, fill);
    while w.shadow.free_aus() > 5 {
        let granted = other.grant(&mut w, 1);
        if granted.is_err() {
            break;
        }
    }
    other.bind(&mut w, 0..1);
    lose(&mut w, &wr, b);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    wait(&mut w, &[b], LEASE * 10);
    assert!(w.shadow.session(S).is_some_and(|s| s.sealed) && w.shadow.writer(v).is_some());
    assert!(said(&mut w, "takeover-waits").expect("said").contains("waits for room"));
    assert!(findings(&mut w).contains("waits for room: 3 allocation units"), "{}", findings(&mut w));
    other.fold(&mut w);
    other.detach(&mut w);
    wait(&mut w, &[b], LEASE * 3);
    assert!(w.shadow.writer(v).is_none());
    w.attach(b, v);
}

#[test]
fn a_manager_that_dies_in_between_begins_again() {
    for after in 0..5 {
        let (mut w, v, wr, b) = lost(2, 100);
        lose(&mut w, &wr, b);
        w.disks.silent = true;
        assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
        let mut done = 0;
        for _ in 0..20 {
            wait(&mut w, &[b], LEASE / 4);
            while done < after + 3 && !w.questions.is_empty() {
                let q = w.questions.remove(0);
                let event = w.disks.answer(&q).expect("a question");
                done += 1;
                w.step(event);
            }
        }
        w.questions.clear();
        w.disks.silent = false;
        w.restart();
        let b = w.resume(2, 2);
        wait(&mut w, &[b], LEASE * 2);
        if w.shadow.writer(v).is_some() {
            taken(&mut w, v, b);
        }
        assert_eq!(w.shadow.volume(v).expect("there").map.written_blocks(), 3, "after {after} answers");
        w.attach(b, v);
        let _later = w.try_admin(AdminRequest::ClientConfirmDead { name: "host1".into() });
        wait(&mut w, &[b], LEASE * 4);
        assert!(w.shadow.session(S).is_none() && w.shadow.quarantine().count() == 0);
    }
}

/// Everything is answered but the copy of a takeover, which is under way from then on.
fn until_copying(w: &mut World, b: ConnId) {
    w.disks.silent = true;
    let copy = |q: &Effect| matches!(q, Effect::Errand { errand: Errand::Copy(_), .. });
    while !w.questions.iter().any(copy) {
        wait(w, &[b], LEASE / 8);
        for q in std::mem::take(&mut w.questions) {
            if copy(&q) {
                w.questions.push(q);
                continue;
            }
            let event = w.disks.answer(&q).expect("a question");
            w.step(event);
        }
    }
}

#[test]
fn who_is_proven_drained_meanwhile_is_ended_once_the_copy_has_returned() {
    let (mut w, v, wr, b) = lost(2, 100);
    lose(&mut w, &wr, b);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    until_copying(&mut w, b);
    assert!(w.try_admin(AdminRequest::ClientConfirmDead { name: "host1".into() }).is_none());
    wait(&mut w, &[b], LEASE * 3);
    assert!(w.shadow.session(S).is_some(), "a copy may land where it has places");
    w.answer_questions();
    w.disks.silent = false;
    w.answer_questions();
    wait(&mut w, &[b], LEASE);
    assert!(w.shadow.session(S).is_none() && w.shadow.quarantine().count() == 0);
    assert_eq!(w.shadow.volume(v).expect("there").map.written_blocks(), 3);
}

/// A write of a copy does not return, and lands when the next writer is there; whether it lands where nobody is, also once the session is drained.
fn a_late_copy() -> bool {
    let (mut w, v, wr, b) = lost(2, 100);
    lose(&mut w, &wr, b);
    w.disks.late = 1;
    taken(&mut w, v, b);
    let first = w.disks.errands.iter().find_map(|e| if let Errand::Copy(c) = e { Some(c.clone()) } else { None }).expect("copied");
    let late: BTreeSet<DiskAu> = first.iter().flat_map(|c| c.to.clone()).collect();
    let _answer = w.try_admin(AdminRequest::ClientConfirmDead { name: "host1".into() });
    wait(&mut w, &[b], LEASE * 4);
    assert!(w.shadow.session(S).is_none() && w.shadow.quarantine().count() == 0);
    late.iter().all(|p| w.shadow.copying().any(|(at, _)| at == *p))
}

#[test]
fn a_switch_shows_that_a_copy_that_did_not_return_is_made_elsewhere() {
    assert!(a_late_copy());
    assert!(!without(Tag::P1, a_late_copy), "it lands on top of what the next writer has written");
}

#[test]
fn what_a_dead_manager_copied_to_is_nobodys_before_that_is_drained() {
    for drained in [false, true] {
        let (mut w, v, wr, b) = lost(2, 100);
        lose(&mut w, &wr, b);
        assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
        until_copying(&mut w, b);
        let under_way: BTreeSet<DiskAu> = w.shadow.taking(wr.token).concat().into_iter().collect();
        assert!(!under_way.is_empty());
        w.questions.clear();
        w.disks.silent = false;
        w.restart_after(drained);
        let b = w.resume(2, 2);
        // The session is proven drained before anybody wants the volume.
        let _answer = w.try_admin(AdminRequest::ClientConfirmDead { name: "host1".into() });
        wait(&mut w, &[b], LEASE * 6);
        assert!(w.shadow.session(S).is_none());
        let held = under_way.iter().filter(|p| w.shadow.copying().any(|(at, _)| at == **p)).count();
        assert_eq!(held, if drained { 0 } else { under_way.len() }, "drained: {drained}");
    }
}

/// The old writer appends a bit after the copies; whether every block that the map has was copied, or lies where nobody else writes.
fn bit_after_the_copies() -> bool {
    let (mut w, v, mut wr, b) = lost(2, 100);
    lose(&mut w, &wr, b);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    w.disks.silent = true;
    for _ in 0..200 {
        wait(&mut w, &[b], LEASE / 8);
        for q in std::mem::take(&mut w.questions) {
            if matches!(q, Effect::Errand { errand: Errand::Copy(_), .. }) {
                let event = w.disks.answer(&q).expect("a question");
                wr.append(&mut w, vec![Entry::Written { masks: vec![mask(0, 2)] }]);
                w.step(event);
                continue;
            }
            let event = w.disks.answer(&q).expect("a question");
            w.step(event);
        }
        if w.shadow.writer(v).is_none() {
            break;
        }
    }
    let copied = copied(&w);
    let map = &w.shadow.volume(v).expect("there").map;
    map.iter().all(|(_, e)| e.written.minus(copied.get(&e.legs()[0].at).copied().unwrap_or_default()).is_empty())
}

#[test]
fn a_switch_shows_that_the_journal_is_closed_before_the_copies() {
    assert!(bit_after_the_copies());
    assert!(!without(Tag::T4, bit_after_the_copies), "a block counts as written that was not copied");
}

#[test]
fn a_switch_shows_that_what_was_granted_is_copied_and_held_back() {
    let story = || {
        let (mut w, v, wr, b) = lost(2, 100);
        let known: BTreeSet<DiskAu> =
            wr.places.iter().filter(|(au, _)| au.0 < 2).map(|(_, at)| *at).chain(wr.reserve.iter().flatten().copied()).collect();
        lose(&mut w, &wr, b);
        taken(&mut w, v, b);
        let quarantine = quarantine(&w);
        known.iter().all(|at| quarantine.contains(at))
    };
    assert!(story());
    assert!(!without(Tag::T3, story), "it may write where others are");
}

/// The old writer preserves and overwrites once the first of copies and log was done; whether its record was found.
fn preserved_in_between() -> bool {
    let (mut w, v, wr, b) = lost(2, 100);
    lose(&mut w, &wr, b);
    let at = place(&w, v, 100);
    let s = w.shadow.volume(v).expect("there").segments.values().find(|s| s.token == wr.token).cloned().expect("a segment");
    let record = KeptBlock { epoch: s.epoch, segment: s.no, seq: Seq(1), legs: s.legs, pos: 4096, at, block: 1, crc: 7 };
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    w.disks.silent = true;
    for _ in 0..200 {
        wait(&mut w, &[b], LEASE / 8);
        for q in std::mem::take(&mut w.questions) {
            let event = w.disks.answer(&q).expect("a question");
            if matches!(q, Effect::Errand { errand: Errand::Copy(_) | Errand::Log { .. }, .. }) {
                w.disks.log = vec![record.clone()];
            }
            w.step(event);
        }
        if w.shadow.writer(v).is_none() {
            break;
        }
    }
    let laid = w.disks.errands.iter().find_map(|e| if let Errand::Lay { laid, .. } = e { Some(laid.clone()) } else { None });
    let Some(laid) = laid else { return false };
    assert_eq!(laid.blocks, [(record, place(&w, v, 100))], "under its new place");
    assert!(w.shadow.volume(v).expect("there").segments.values().any(|x| *x == laid.segment));
    true
}

#[test]
fn a_switch_shows_that_the_log_is_read_after_the_copies() {
    assert!(preserved_in_between());
    assert!(!without(Tag::T2, preserved_in_between), "a copy of what was overwritten, and nobody knows what it was");
}
