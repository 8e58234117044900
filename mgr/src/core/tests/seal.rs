//! The ladder, in virtual time: watched, sealed, waited for, given up; and the administrator's word.

use super::harness::*;
use super::writer::{Writer, mask};
use crate::core::admin_api::SessionState;
use crate::core::{AdminId, AdminReply, AdminRequest, ConnId, Effect, Event};
use fusevol_shared::change::Entry;
use fusevol_shared::error::{Kind, WireError};
use fusevol_shared::ids::{Seq, SessionNo, SnapshotId, VolumeId};
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::DiskAu;
use fusevol_shared::wire::messages::{AttachWrite, Goodbye, OpenSnapshot, Renew};
use std::time::Duration;

const S: SessionNo = SessionNo(0);
const MS: Duration = Duration::from_millis(1);

/// A session of another boot (key 1), and one of this boot (key 2).
fn pair() -> (World, VolumeId, ConnId, ConnId) {
    let mut w = World::new(2, 100);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let a = w.connect(1);
    w.hello(a, 1, OTHER_BOOT, false).expect("welcome");
    let b = w.open(2, 2);
    (w, v, a, b)
}

/// A writer of another boot with one block that is not folded.
fn writer() -> (World, VolumeId, Writer, ConnId) {
    let (mut w, v, a, b) = pair();
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..1);
    wr.append(&mut w, vec![Entry::Written { masks: vec![mask(0, 1)] }]);
    (w, v, wr, b)
}

/// Time goes by; `b` keeps its lease.
fn wait(w: &mut World, b: ConnId, d: Duration) {
    let mut left = d;
    while !left.is_zero() {
        let step = left.min(LEASE / 2);
        w.wait(step);
        w.ok(b, Renew {});
        left -= step;
    }
}

fn lapse(w: &mut World, a: ConnId, b: ConnId) {
    w.disconnect(a);
    wait(w, b, LEASE + LEASE / 4);
    assert!(w.shadow.session(S).is_some(), "never by silence alone");
}

fn dead() -> AdminRequest {
    AdminRequest::ClientConfirmDead { name: "host1".into() }
}

/// Asks and waits; the answer, and how long it took.
fn confirm(w: &mut World, b: ConnId) -> (Result<AdminReply, WireError>, Duration) {
    let from = AdminId(w.number());
    w.step(Event::Admin { from, request: dead() });
    let began = w.now;
    let answered = |w: &World| {
        w.effects.iter().find_map(|e| match e {
            Effect::AdminReply { to, result } if *to == from => Some(result.clone()),
            _ => None,
        })
    };
    for _ in 0..10_000 {
        if let Some(answer) = answered(w) {
            return (answer, Duration::from_nanos(w.now - began));
        }
        wait(w, b, MS * 10);
    }
    panic!("never answered");
}

fn reserved(w: &World, wr: &Writer) -> Vec<DiskAu> {
    w.shadow.attachment(wr.token).expect("stands").reserve.places().collect()
}

#[test]
fn the_administrators_word_is_taken_once_the_lease_is_over_and_the_journal_folded() {
    let (mut w, v, wr, b) = writer();
    assert_eq!(w.admin_refused(dead()).kind, Kind::Refused, "it lives");
    lapse(&mut w, wr.conn, b);
    let e = w.ask(b, AttachWrite { volume: v }).expect_err("held");
    assert!(e.kind == Kind::Busy && e.hint.contains("confirm-dead host1"), "{e:?}");
    let (answer, took) = confirm(&mut w, b);
    assert_eq!(answer, Ok(AdminReply::Done));
    assert!(took >= LEASE + LEASE / 4 + LEASE / 3 && took < LEASE * 2, "{took:?}");
    assert!(w.disks.slots[&S]);
    assert!(w.shadow.session(S).is_none());
    assert_eq!(w.shadow.volume(v).expect("there").map.written_blocks(), 1, "what it had answered is there");
    w.attach(b, v);
}

#[test]
fn it_is_not_taken_while_the_heartbeat_moves_or_the_session_comes_back() {
    let (mut w, _, wr, b) = writer();
    lapse(&mut w, wr.conn, b);
    w.disks.silent = true;
    let from = AdminId(w.number());
    let asked = w.step(Event::Admin { from, request: dead() });
    assert!(asked.iter().any(|e| matches!(e, Effect::ReadSlot { .. })));
    w.step(Event::SlotRead { session: S, beat: Some(Seq(5)) });
    wait(&mut w, b, LEASE / 3 + MS);
    w.step(Event::SlotRead { session: S, beat: Some(Seq(6)) });
    let told = |w: &World, from| {
        w.effects.iter().find_map(|e| match e {
            Effect::AdminReply { to, result } if *to == from => Some(result.clone()),
            _ => None,
        })
    };
    assert_eq!(told(&w, from).expect("answered").expect_err("alive").kind, Kind::Busy);
    assert!(!w.shadow.session(S).expect("there").sealed);
    let from = AdminId(w.number());
    w.step(Event::Admin { from, request: dead() });
    let a = w.connect(1);
    w.hello(a, 1, OTHER_BOOT, true).expect("nothing was given away");
    assert_eq!(told(&w, from).expect("answered").expect_err("it is back").kind, Kind::Busy);
    // An answer to what was asked before changes nothing.
    w.step(Event::SlotRead { session: S, beat: Some(Seq(6)) });
    wait(&mut w, b, LEASE / 2);
    w.ok(a, Renew {});
}

#[test]
fn a_doomed_writer_is_sealed_gives_up_what_it_reads_and_keeps_what_it_may_write() {
    let (mut w, v, a, b) = pair();
    let other = w.volume("other", 1 << 30);
    w.client(1, "other", "all");
    w.client(2, "other", "all");
    w.snapshot(b, other, 9).1.expect("at once").expect("taken");
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..1);
    w.read(a, other);
    w.ok(a, OpenSnapshot { snapshot: SnapshotId([9; 16]) });
    w.admin(AdminRequest::ClientRevoke { name: "host1".into() });
    let reserve = reserved(&w, &wr);
    // It has a while to give back.
    wait(&mut w, b, LEASE * 2 - MS);
    assert!(!w.disks.slots[&S]);
    wait(&mut w, b, MS * 2);
    assert!(w.disks.slots[&S] && w.shadow.session(S).expect("there").sealed);
    // One lease and a margin after the SEAL, not before.
    wait(&mut w, b, LEASE + LEASE / 4 - MS * 5);
    assert!(w.shadow.attachment_of(other, S).is_some());
    wait(&mut w, b, MS * 10);
    assert!(w.shadow.attachment_of(other, S).is_none() && w.shadow.opens().count() == 0);
    assert_eq!(w.shadow.writer(v).map(|a| a.session), Some(S));
    assert_eq!(reserved(&w, &wr), reserve);
    let AdminReply::Clients(all) = w.admin(AdminRequest::ClientList) else { panic!() };
    assert_eq!(all.iter().find(|c| c.name.as_str() == "host1").expect("there").sessions[0].state, SessionState::Sealed);
    let AdminReply::Status(s) = w.admin(AdminRequest::Status) else { panic!() };
    assert!(s.findings.iter().any(|f| f.text.contains("sealed") && f.action.contains("confirm-dead host1")), "{:?}", s.findings);
    // Its lease is over: the administrator's word ends it at once.
    assert_eq!(confirm(&mut w, b).0, Ok(AdminReply::Done));
    assert!(w.shadow.session(S).is_none());
    assert_eq!(w.shadow.free_aus(), 200 - 1);
}

#[test]
fn a_switch_shows_that_what_was_granted_counts_as_what_may_be_written() {
    let story = || {
        let (mut w, _, a, b) = pair();
        let v = w.volume("x", 1 << 30);
        w.client(1, "x", "all");
        let wr = w.attach(a, v);
        let reserve = reserved(&w, &wr);
        w.admin(AdminRequest::ClientRevoke { name: "host1".into() });
        wait(&mut w, b, LEASE * 4);
        reserve.iter().any(|at| w.shadow.disk(at.disk).expect("there").space.is_free(at.au))
    };
    assert!(!story());
    assert!(without(Tag::T3, story), "a late write of the sealed session lands where somebody else is");
}

#[test]
fn a_seal_is_tried_until_it_is_durable_and_outlives_the_manager() {
    let (mut w, v, a, b) = pair();
    w.read(a, v);
    w.disks.silent = true;
    w.admin(AdminRequest::AccessRevoke { volume: "db".into(), client: "host1".into(), rights: None });
    wait(&mut w, b, LEASE * 2 + MS);
    let seals = |w: &World| w.effects.iter().filter(|e| matches!(e, Effect::SealSlot { session: S, .. })).count();
    assert_eq!(seals(&w), 1);
    wait(&mut w, b, LEASE);
    assert_eq!(seals(&w), 1, "asked, not answered");
    for n in 2..5 {
        w.step(Event::Sealed { session: S, done: false });
        assert_eq!(seals(&w), n - 1);
        wait(&mut w, b, LEASE);
        assert_eq!(seals(&w), n);
    }
    w.step(Event::Sealed { session: S, done: true });
    assert!(w.shadow.session(S).expect("there").sealed);
    // It is not known to the next manager for how long: it waits anew.
    wait(&mut w, b, LEASE);
    w.restart();
    let b = w.resume(2, 2);
    wait(&mut w, b, LEASE + LEASE / 4 - MS * 5);
    assert!(w.shadow.attachment_of(v, S).is_some());
    let again = w.connect(1);
    assert_eq!(w.hello(again, 1, OTHER_BOOT, true).expect_err("sealed").kind, Kind::Lapsed);
    wait(&mut w, b, MS * 10);
    assert!(w.shadow.session(S).is_none(), "it only read: nothing is left of it");
}

#[test]
fn a_silent_reader_that_keeps_others_waiting_is_watched_then_sealed() {
    for moving in [false, true] {
        let (mut w, v, a, b) = pair();
        w.client(3, "db", "all");
        w.read(a, v);
        let mut wr = w.attach(b, v);
        wr.bind(&mut w, 0..1);
        wr.discard(&mut w, 0);
        let free = w.shadow.free_aus();
        w.disconnect(a);
        w.disks.beats.insert(S, Seq(1));
        let lived = |w: &mut World, d: Duration| {
            let steps = d.as_millis() / 100;
            for _ in 0..steps {
                if moving {
                    w.disks.beats.insert(S, w.disks.beats[&S].next());
                }
                wait(w, b, MS * 100);
            }
        };
        lived(&mut w, (LEASE + LEASE / 4) * 2);
        assert_eq!(w.shadow.free_aus(), free, "lapsed, and watched for a lease and a margin");
        lived(&mut w, LEASE * 3);
        assert_eq!(w.shadow.session(S).is_none(), !moving);
        assert_eq!(w.shadow.free_aus(), free + u64::from(!moving), "moving: {moving}");
        if moving {
            // It lives by its heartbeat, and may come back.
            let a = w.connect(1);
            w.hello(a, 1, OTHER_BOOT, true).expect("welcome");
            w.ack_all(a);
            assert_eq!(w.shadow.free_aus(), free + 1);
        }
    }
}

#[test]
fn nobody_is_sealed_for_whom_nobody_waits() {
    let (mut w, v, a, b) = pair();
    w.read(a, v);
    w.disconnect(a);
    wait(&mut w, b, LEASE * 6);
    assert!(!w.effects.iter().any(|e| matches!(e, Effect::ReadSlot { .. } | Effect::SealSlot { .. })));
    let a = w.connect(1);
    w.hello(a, 1, OTHER_BOOT, true).expect("welcome");
}

#[test]
fn a_sealed_session_may_only_say_goodbye() {
    let (mut w, v, wr, b) = writer();
    w.admin(AdminRequest::AccessRevoke { volume: "db".into(), client: "host1".into(), rights: None });
    wait(&mut w, b, LEASE * 2 + MS);
    assert!(w.shadow.session(S).expect("there").sealed);
    assert_eq!(w.refused(wr.conn, Renew {}), Kind::Lapsed);
    assert_eq!(w.refused(wr.conn, wr.fold_request().expect("one")), Kind::Lapsed);
    let again = w.connect(1);
    assert_eq!(w.hello(again, 1, OTHER_BOOT, true).expect_err("sealed").kind, Kind::Lapsed);
    w.ok(again, Goodbye {});
    assert!(w.shadow.session(S).is_none());
    assert_eq!(w.shadow.volume(v).expect("there").map.written_blocks(), 1, "its journal was read");
}

#[test]
fn a_damaged_journal_is_told_to_the_administrator_who_waits() {
    let (mut w, _, wr, b) = writer();
    w.disks.journals.get_mut(&wr.token).expect("a journal").damaged = true;
    lapse(&mut w, wr.conn, b);
    let e = confirm(&mut w, b).0.expect_err("damaged");
    assert!(e.kind == Kind::Damaged && !e.hint.is_empty(), "{e:?}");
    assert!(w.shadow.session(S).is_some());
    // The disk is back; asked again, it is read again.
    w.disks.journals.get_mut(&wr.token).expect("a journal").damaged = false;
    assert_eq!(confirm(&mut w, b).0, Ok(AdminReply::Done));
}

#[test]
fn a_slot_that_cannot_be_sealed_is_told_in_the_end() {
    let (mut w, _, wr, b) = writer();
    lapse(&mut w, wr.conn, b);
    w.disks.silent = true;
    let (answer, _) = confirm(&mut w, b);
    assert_eq!(answer.expect_err("not ended").kind, Kind::Busy);
    assert!(w.shadow.session(S).is_some());
}
