//! The end of those who are drained: their journals are read before anything is given away.

use super::harness::*;
use super::writer::{Writer, mask};
use crate::core::{AdminReply, AdminRequest, ConnId, Effect, Event};
use fusevol_shared::change::{Append, Entry};
use fusevol_shared::error::Kind;
use fusevol_shared::format::journal::Tail;
use fusevol_shared::ids::{Seq, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{Ack, AttachRead, AttachWrite, Goodbye, Hello, PROTOCOL, Push, Renew};
use std::time::Duration;

const S: SessionNo = SessionNo(0);

/// A writer with two AUs, and somebody else.
fn pair() -> (World, VolumeId, Writer, ConnId) {
    let mut w = World::new(2, 100);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..2);
    (w, v, wr, b)
}

fn written(w: &World, v: VolumeId) -> u64 {
    w.shadow.volume(v).expect("there").map.written_blocks()
}

/// Appends a block that is not folded.
fn unfolded(w: &mut World, wr: &mut Writer, au: u32, blocks: u64) {
    wr.append(w, vec![Entry::Written { masks: vec![mask(au, blocks)] }]);
}

fn die(w: &mut World, wr: &Writer) -> Vec<Effect> {
    w.disconnect(wr.conn);
    w.step(Event::LockProbed { session: S, held: false })
}

/// A disk of the pool is over NBD: what the dead one sent there may still land, whatever the locks on the others say.
#[test]
fn where_a_disk_knows_no_locks_none_is_asked_and_none_ends_a_session() {
    let (mut w, v, wr, b) = pair();
    w.core.set_locks(false);
    w.disconnect(wr.conn);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy, "it is not proven drained");
    assert!(w.probes().is_empty());
    w.step(Event::LockProbed { session: S, held: false });
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy);
    w.core.set_locks(true);
    let (id, _) = w.send(b, AttachWrite { volume: v });
    w.step(Event::LockProbed { session: S, held: false });
    w.answer(b, id).expect("answered").expect("attached");
}

#[test]
fn what_a_dead_writer_appended_is_folded_and_then_all_of_it_is_free() {
    let (mut w, v, mut wr, b) = pair();
    let free = w.shadow.free_aus();
    let e = wr.bound([7]);
    wr.append(&mut w, vec![e]);
    unfolded(&mut w, &mut wr, 7, 3);
    unfolded(&mut w, &mut wr, 0, 4);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy, "it lives");
    w.disconnect(wr.conn);
    let (id, _) = w.send(b, AttachWrite { volume: v });
    w.step(Event::LockProbed { session: S, held: false });
    w.answer(b, id).expect("answered").expect("attached");
    assert_eq!(written(&w, v), 3);
    let own = w.shadow.writer(v).expect("the next");
    let held = own.reserve.len() + own.journal.as_ref().expect("a journal").places().len();
    assert_eq!(w.shadow.free_aus() + held as u64, free + 4 + wr.reserve.len() as u64);
}

#[test]
fn who_reads_after_a_dead_writer_sees_all_that_it_had_synced() {
    let (mut w, v, mut wr, b) = pair();
    unfolded(&mut w, &mut wr, 0, 4);
    w.disconnect(wr.conn);
    let (id, answer) = w.send(b, AttachRead { volume: v });
    assert!(answer.is_none(), "it waits for the proof");
    w.step(Event::LockProbed { session: S, held: false });
    w.answer(b, id).expect("answered").expect("attached");
    assert_eq!(written(&w, v), 1, "folded before the answer");
}

#[test]
fn who_reads_beside_a_writer_that_is_away_waits_for_it_no_longer_than_a_moment() {
    let (mut w, v, wr, b) = pair();
    w.disconnect(wr.conn);
    let (id, answer) = w.send(b, AttachRead { volume: v });
    assert!(answer.is_none());
    w.step(Event::LockProbed { session: S, held: true });
    assert!(w.answer(b, id).is_none(), "it may be dead, with I/O under way: it is asked again");
    let turns = (0..100).take_while(|_| {
        w.wait(Duration::from_millis(100));
        w.probes().into_iter().for_each(|session| drop(w.step(Event::LockProbed { session, held: true })));
        w.answer(b, id).is_none()
    });
    assert!(turns.count() < 100, "not for ever");
    w.answer(b, id).expect("answered").expect("attached beside it");
    assert!(w.shadow.writer(v).is_some());
}

#[test]
fn a_switch_shows_that_a_process_that_ended_proves_nothing() {
    let story = || {
        let (mut w, v, wr, _) = pair();
        w.disconnect(wr.conn);
        // Killed; its last write is in flight: its lock is held.
        w.step(Event::LockProbed { session: S, held: true });
        let at = w.shadow.volume(v).expect("there").map.get(VolAu(0)).expect("bound").legs()[0].at;
        let in_flight = wr.reserve[0][0];
        let free = w.shadow.disk(in_flight.disk).expect("there").space.is_free(in_flight.au);
        assert!(!w.shadow.disk(at.disk).expect("there").space.is_free(at.au));
        free
    };
    assert!(!story(), "it may still write there");
    assert!(without(Tag::K1, story), "its late write lands where somebody else is");
}

#[test]
fn a_switch_shows_that_the_tail_is_folded_with_the_closing() {
    let story = || {
        let (mut w, v, mut wr, _) = pair();
        unfolded(&mut w, &mut wr, 0, 1);
        die(&mut w, &wr);
        assert!(w.shadow.writer(v).is_none());
        written(&w, v)
    };
    assert_eq!(story(), 1);
    assert_eq!(without(Tag::F1, story), 0, "an answered write is lost");
}

#[test]
fn answers_that_come_late_twice_or_unasked_do_nothing() {
    let (mut w, v, mut wr, _) = pair();
    unfolded(&mut w, &mut wr, 0, 1);
    let tails = vec![(wr.token, Ok(w.disks.journals[&wr.token].tail.clone()))];
    w.disks.silent = true;
    let log = w.log.len();
    w.step(Event::JournalsRead { session: S, tails: tails.clone() });
    w.step(Event::Sealed { session: S, done: true });
    w.step(Event::SlotRead { session: S, beat: Some(Seq(4)) });
    w.step(Event::JournalsRead { session: SessionNo(77), tails: vec![] });
    assert_eq!(w.log.len(), log, "nobody asked");
    let asked = die(&mut w, &wr);
    let Some(Effect::ReadJournals { journals, .. }) = asked.iter().find(|e| matches!(e, Effect::ReadJournals { .. })) else { panic!() };
    assert_eq!((journals[0].token, journals[0].volume, journals[0].session), (wr.token, v, S));
    // Drained: it is never taken up again, and nothing is given away yet.
    let again = w.connect(1);
    assert_eq!(w.hello(again, 1, BOOT, true).expect_err("dead").kind, Kind::Lapsed);
    w.step(Event::LockProbed { session: S, held: false });
    assert_eq!(w.log.len(), log);
    w.step(Event::JournalsRead { session: S, tails: tails.clone() });
    assert!(w.shadow.session(S).is_none() && written(&w, v) == 1);
    let log = w.log.len();
    w.step(Event::JournalsRead { session: S, tails });
    assert_eq!(w.log.len(), log);
}

#[test]
fn a_manager_that_dies_in_between_begins_again() {
    let (mut w, v, mut wr, _) = pair();
    unfolded(&mut w, &mut wr, 0, 1);
    w.disks.silent = true;
    die(&mut w, &wr);
    w.disks.silent = false;
    w.restart();
    w.wait(LEASE / 4);
    assert_eq!(w.probes()[0], S);
    w.step(Event::LockProbed { session: S, held: false });
    assert!(w.shadow.session(S).is_none() && written(&w, v) == 1);
}

#[test]
fn a_journal_that_cannot_be_read_keeps_everything_and_is_read_again() {
    let (mut w, v, mut wr, b) = pair();
    unfolded(&mut w, &mut wr, 0, 1);
    w.disks.journals.get_mut(&wr.token).expect("a journal").damaged = true;
    let free = w.shadow.free_aus();
    die(&mut w, &wr);
    w.wait(LEASE / 2);
    assert_eq!((w.shadow.free_aus(), w.shadow.writer(v).map(|a| a.session)), (free, Some(S)));
    let AdminReply::Events(all) = w.admin(AdminRequest::Events { after: 0, limit: 100 }) else { panic!() };
    assert_eq!(all.iter().filter(|n| n.what == "journal-damaged").count(), 1, "said once");
    let AdminReply::Status(s) = w.admin(AdminRequest::Status) else { panic!() };
    assert!(s.findings[0].text.contains("journal") && !s.findings[0].action.is_empty(), "{:?}", s.findings);
    let (id, _) = w.send(b, AttachWrite { volume: v });
    w.wait(std::time::Duration::from_millis(1));
    assert!(w.answer(b, id).is_none_or(|a| a.expect_err("held").kind == Kind::Busy));
    w.disks.journals.get_mut(&wr.token).expect("a journal").damaged = false;
    w.wait(LEASE * 2);
    assert!(w.shadow.session(S).is_none() && written(&w, v) == 1, "its disk is back");
}

#[test]
fn tails_that_cannot_be_are_not_believed() {
    let (mut w, v, mut wr, _) = pair();
    wr.write(&mut w, 0, 1);
    unfolded(&mut w, &mut wr, 0, 2);
    w.disks.silent = true;
    die(&mut w, &wr);
    let good = w.disks.journals[&wr.token].tail.clone();
    let bad = [
        Tail::default(),                                                            // nothing, of which something is folded
        Tail { last: Seq(1), appends: good.appends[..1].to_vec(), ..good.clone() }, // ends before what is folded
        Tail { last: Seq(9), ..good.clone() },                                      // appends are missing at its end
        Tail { appends: vec![], ..good.clone() },                                   // all of them
        Tail { epoch: VolumeEpoch(7), ..good.clone() },                             // another epoch
        Tail { last: Seq(4), appends: vec![Append { seq: Seq(4), entries: vec![] }], ..good.clone() }, // a gap
    ];
    for tail in bad {
        w.step(Event::JournalsRead { session: S, tails: vec![(wr.token, Ok(tail.clone()))] });
        assert!(w.shadow.session(S).is_some(), "{tail:?} was believed");
        w.wait(LEASE * 20);
    }
    w.step(Event::JournalsRead { session: S, tails: vec![(wr.token, Ok(good))] });
    assert!(w.shadow.session(S).is_none());
    assert_eq!(written(&w, v), 2);
}

#[test]
fn a_tail_that_is_too_large_for_one_step_is_folded_in_several() {
    let (mut w, v, mut wr, _) = pair();
    for i in 0..20 {
        wr.append(&mut w, vec![Entry::Marked { epoch: wr.epoch, regions: vec![fusevol_shared::change::Region(0); 8000] }]);
        unfolded(&mut w, &mut wr, 0, 1 << i);
    }
    let before = w.log.len();
    let effects = die(&mut w, &wr);
    assert!(effects.iter().filter(|e| matches!(e, Effect::ReadJournals { .. })).count() > 1);
    assert!(w.log.len() - before > 5);
    assert!(w.shadow.session(S).is_none());
    assert_eq!(written(&w, v), 20);
}

#[test]
fn dirty_regions_of_the_dead_count_as_changed() {
    let (mut w, v, mut wr, b) = pair();
    wr.write(&mut w, 0, 1);
    let a = wr.conn;
    wr.detach(&mut w);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    let mut wr = w.attach(a, v);
    wr.discard(&mut w, 1);
    wr.append(&mut w, vec![Entry::Marked { epoch: wr.epoch, regions: vec![VolAu(0).region()] }]);
    die(&mut w, &wr);
    let changed = &w.shadow.volume(v).expect("there").changed;
    let of: Vec<_> = changed[&VolumeEpoch(2)].iter().map(|(au, b)| (au.0, b.0)).collect();
    assert_eq!(of, [(0, u64::MAX), (1, u64::MAX)], "what it overwrote without saying, and what it discarded");
}

#[test]
fn a_fresh_journal_that_was_never_begun_may_have_lost_its_marks() {
    let (mut w, v, wr, b) = pair();
    let a = wr.conn;
    wr.detach(&mut w);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    let mut wr = w.attach(a, v);
    wr.change(&mut w, vec![Entry::Marked { epoch: wr.epoch, regions: vec![VolAu(0).region()] }]);
    let m = fusevol_shared::wire::messages::NewJournal { volume: v, token: wr.token, failed: 1, closing: Seq(1), avoid: vec![] };
    w.ok(wr.conn, m);
    die(&mut w, &wr);
    assert!(w.shadow.session(S).is_none() && w.shadow.quarantine().count() == 0);
    assert_eq!(w.shadow.volume(v).expect("there").changed[&VolumeEpoch(2)].len(), 2, "all that there is");
}

#[test]
fn a_snapshot_under_way_is_taken_where_the_tail_says_or_at_its_end() {
    for flipped in [true, false] {
        let (mut w, v, mut wr, b) = pair();
        let (id, _) = w.snapshot(b, v, 9);
        let (_, hold) = w.find(wr.conn, |p| if let Push::Hold(h) = p { Some(h.clone()) } else { None }).expect("held");
        unfolded(&mut w, &mut wr, 0, 1);
        if flipped {
            let e = wr.flip(&w, hold.epoch);
            wr.append(&mut w, vec![e]);
        }
        unfolded(&mut w, &mut wr, 0, 2);
        die(&mut w, &wr);
        w.answer(b, id).expect("answered").expect("taken");
        let s = w.shadow.snapshot(SnapshotId([9; 16])).expect("taken");
        assert_eq!(s.map.get(VolAu(0)).expect("bound").written.0, if flipped { 1 } else { 3 });
        assert_eq!(s.entry.epoch.0, if flipped { 1 } else { 2 });
        assert_eq!(w.shadow.volume(v).expect("there").entry.pending, None);
        assert_eq!(written(&w, v), 2);
    }
}

#[test]
fn goodbye_with_a_journal_that_is_not_folded_loses_nothing() {
    let (mut w, v, mut wr, _) = pair();
    unfolded(&mut w, &mut wr, 0, 1);
    w.disks.silent = true;
    let (id, none) = w.send(wr.conn, Goodbye {});
    assert_eq!(none, None);
    assert_eq!(w.refused(wr.conn, Renew {}), Kind::Lapsed, "it is ending");
    let tail = w.disks.journals[&wr.token].tail.clone();
    w.step(Event::JournalsRead { session: S, tails: vec![(wr.token, Ok(tail))] });
    w.answer(wr.conn, id).expect("answered").expect("ended");
    assert_eq!((written(&w, v), w.shadow.session(S)), (1, None));
}

#[test]
fn a_revoked_client_that_gives_back_has_its_journal_read() {
    let (mut w, v, mut wr, _) = pair();
    unfolded(&mut w, &mut wr, 0, 1);
    w.admin(AdminRequest::ClientRevoke { name: "host1".into() });
    assert_eq!(wr.try_fold(&mut w).expect_err("revoked").kind, Kind::Denied);
    let (push, ()) = w.find(wr.conn, |p| matches!(p, Push::Recall(_)).then_some(())).expect("recalled");
    w.ack(wr.conn, push, Ack::Done);
    assert!(w.shadow.writer(v).is_none());
    assert_eq!(written(&w, v), 1);
}

#[test]
fn numbers_are_not_used_while_their_slot_is_taken() {
    let mut w = World::new(4, 20);
    w.volume("db", 1 << 30);
    w.client(1, "db", "read");
    let first = w.open(1, 1);
    let welcome = w.hello(first, 1, BOOT, true).expect("welcome");
    assert_eq!(welcome.slots.iter().map(|d| d.disk.0).collect::<Vec<_>>(), [0, 1, 2], "three disks carry a slot");
    assert_eq!((welcome.session, welcome.slots[0].opened.0), (SessionNo(0), 1));
    w.prove = false;
    let conn = w.connect(1);
    let mut used = Vec::new();
    for n in 0..2049u32 {
        let mut id = [9; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        let hello = Hello {
            protocol: PROTOCOL,
            session: fusevol_shared::ids::SessionId(id),
            boot: BOOT,
            host: "h".into(),
            program: "p".into(),
            resume: false,
        };
        let answer = w.ok(conn, hello);
        used.push(answer.session.0);
        w.ok(conn, Goodbye {});
    }
    assert_eq!(used, (1..2048).chain(2049..2051).collect::<Vec<_>>(), "number 2048 would share its slot with number 0");
}

#[test]
fn a_hello_that_is_repeated_to_another_manager_gets_its_seal() {
    let mut w = World::new(1, 20);
    w.volume("db", 1 << 30);
    w.client(1, "db", "read");
    let a = w.connect(1);
    let effects = w.step(Event::Request {
        conn: a,
        id: 1,
        request: Hello {
            protocol: PROTOCOL,
            session: fusevol_shared::ids::SessionId([1; 16]),
            boot: BOOT,
            host: "h".into(),
            program: "p".into(),
            resume: false,
        }
        .into(),
    });
    let at = |is: fn(&Effect) -> bool| effects.iter().position(is).expect("there");
    assert!(
        at(|e| matches!(e, Effect::OpenSlot { .. })) < at(|e| matches!(e, Effect::Reply { .. })),
        "the SEAL is clear before the welcome"
    );
    w.restart();
    let a = w.connect(1);
    let welcome = w.hello(a, 1, BOOT, false).expect("welcome");
    assert_eq!((welcome.slots[0].opened, welcome.session), (welcome.generation, SessionNo(0)));
    assert_eq!(w.shadow.session(S).expect("open").generation, welcome.generation);
    // One that was told goes on under the manager that opened it.
    w.restart();
    let a = w.connect(1);
    let welcome = w.hello(a, 1, BOOT, true).expect("welcome");
    assert!(welcome.slots[0].opened < welcome.generation);
}
