//! Letters, in virtual time: who is silent is asked through the disks, and the answer counts as if it had come over the network.

use super::harness::*;
use super::writer::{Writer, mask};
use crate::core::mail::AUS_PER_LETTER;
use crate::core::{AdminRequest, ConnId};
use fusevol_shared::change::Entry;
use fusevol_shared::error::Kind;
use fusevol_shared::format::mail::{BODY_MAX, PAGES};
use fusevol_shared::format::slot::Answer;
use fusevol_shared::ids::{SessionNo, VolumeId};
use fusevol_shared::map::{Leg, MapRun};
use fusevol_shared::units::{AuNo, DiskAu, DiskNo, VolAu};
use fusevol_shared::wire::codec::Message;
use fusevol_shared::wire::messages::{Ack, AttachRead, AttachWrite, FromManager, MapChanged, Push, Renew};
use rkyv::util::AlignedVec;
use std::time::Duration;

const S: SessionNo = SessionNo(0);

/// A session of another boot (key 1), and one of this boot (key 2), which writes.
fn pair() -> (World, VolumeId, ConnId, ConnId) {
    let mut w = World::new(2, 200);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    w.client(2, "db", "read,write");
    let a = w.connect(1);
    w.hello(a, 1, OTHER_BOOT, false).expect("welcome");
    // It lives: its heartbeat on the disks moves.
    w.disks.alive.insert(S);
    let b = w.open(2, 2);
    (w, v, a, b)
}

/// Time goes by; these keep their leases, and answer what they hear.
fn wait(w: &mut World, living: &[ConnId], d: Duration) {
    let mut left = d;
    while !left.is_zero() {
        let step = left.min(LEASE / 16);
        w.wait(step);
        for c in living {
            w.ok(*c, Renew {});
            w.ack_all(*c);
        }
        left -= step;
    }
}

/// What the letter to a session says.
fn letter(w: &World, no: SessionNo) -> Option<(u64, Push)> {
    let (_, letter) = w.disks.letters.get(&no)?;
    let mut archive = AlignedVec::<16>::new();
    archive.extend_from_slice(&letter.body);
    match FromManager::from_archive(&archive).expect("whole") {
        FromManager::Push { push, body } if push == letter.push => Some((push, body)),
        other => panic!("{other:?}"),
    }
}

fn say(w: &mut World, no: SessionNo, push: u64, done: bool) {
    w.disks.answers.insert(no, Answer { push, done });
}

/// `b` writes `n` AUs and discards them, beside a reader.
fn discards(w: &mut World, b: ConnId, v: VolumeId, n: u32) -> Writer {
    let mut wr = w.attach(b, v);
    wr.bind(w, 0..n);
    wr.append(w, vec![Entry::Discarded { cleared: (0..n).map(|au| mask(au, u64::MAX)).collect() }]);
    wr.try_fold(w).expect("folded");
    wr
}

#[test]
fn a_silent_reader_is_asked_through_the_disks() {
    let (mut w, v, a, b) = pair();
    w.read(a, v);
    w.disconnect(a);
    discards(&mut w, b, v, 1);
    assert_eq!((w.shadow.limbo().count(), letter(&w, S)), (1, None), "it may be back in a moment");
    wait(&mut w, &[b], LEASE * 2 / 3 + LEASE / 8);
    let (push, body) = letter(&w, S).expect("written");
    assert!(matches!(body, Push::MapChanged(m) if m.unmapped == [VolAu(0)]));
    say(&mut w, S, push - 1, true);
    wait(&mut w, &[b], LEASE);
    assert_eq!(w.shadow.limbo().count(), 1, "an answer to another letter is none");
    say(&mut w, S, push, true);
    wait(&mut w, &[b], LEASE / 4);
    assert_eq!(w.shadow.limbo().count(), 0);
    w.disks.letters.clear();
    wait(&mut w, &[b], LEASE * 2);
    assert!(w.disks.letters.is_empty() && w.shadow.session(S).is_some(), "nothing is asked any more, and nothing taken away");
    assert_eq!(w.heard.values().flatten().count(), 0);
}

#[test]
fn a_connection_that_stands_still_is_silent_too_and_the_first_answer_counts() {
    let (mut w, v, a, b) = pair();
    w.read(a, v);
    discards(&mut w, b, v, 1);
    wait(&mut w, &[b], LEASE * 3 / 4);
    let (push, _) = letter(&w, S).expect("written");
    w.ack(a, push, Ack::Done);
    // The discard came after the change that this one told.
    w.ack_all(a);
    assert_eq!(w.shadow.limbo().count(), 0);
    say(&mut w, S, push, true);
    wait(&mut w, &[b], LEASE / 4);
}

#[test]
fn a_writer_gives_back_through_the_disks_and_its_journal_is_read() {
    let (mut w, v, a, b) = pair();
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..1);
    wr.append(&mut w, vec![Entry::Written { masks: vec![mask(0, 1)] }]);
    w.disconnect(a);
    w.admin(AdminRequest::AccessRevoke { volume: "db".into(), client: "host1".into(), rights: None });
    wait(&mut w, &[b], LEASE * 3 / 4);
    let (push, body) = letter(&w, S).expect("written");
    assert!(matches!(body, Push::Recall(m) if m.volume == v));
    assert_eq!(w.ask(b, AttachWrite { volume: v }).expect_err("held").kind, Kind::Busy);
    say(&mut w, S, push, true);
    wait(&mut w, &[b], LEASE / 4);
    assert!(w.shadow.writer(v).is_none() && w.shadow.session(S).is_some());
    assert_eq!(w.shadow.volume(v).expect("there").map.written_blocks(), 1, "what it had appended is there");
    w.attach(b, v);
    wait(&mut w, &[b], LEASE * 3);
    assert!(!w.disks.slots.get(&S).copied().unwrap_or(false), "it is not given up");
}

#[test]
fn a_session_that_cannot_do_it_is_given_up() {
    let (mut w, v, a, b) = pair();
    w.attach(a, v);
    w.disconnect(a);
    w.admin(AdminRequest::AccessRevoke { volume: "db".into(), client: "host1".into(), rights: None });
    wait(&mut w, &[b], LEASE * 3 / 4);
    let (push, _) = letter(&w, S).expect("written");
    say(&mut w, S, push, false);
    wait(&mut w, &[b], LEASE * 2);
    assert!(w.disks.slots[&S] && w.shadow.writer(v).is_some(), "sealed, and what it could write stays");
}

#[test]
fn what_is_being_given_back_is_not_attached_anew_under_the_same_token() {
    for (mode, attach) in [("read,write", true), ("read", false)] {
        let (mut w, v, a, b) = pair();
        if attach {
            drop(w.attach(a, v))
        } else {
            drop(w.read(a, v))
        }
        w.disconnect(a);
        w.admin(AdminRequest::AccessRevoke { volume: "db".into(), client: "host1".into(), rights: None });
        wait(&mut w, &[b], LEASE * 3 / 4);
        let (push, _) = letter(&w, S).expect("written");
        w.client(1, "db", mode);
        // The client has answered, and comes back before that was read.
        let a = w.connect(1);
        w.hello(a, 1, OTHER_BOOT, true).expect("welcome");
        let refused = if attach { w.refused(a, AttachWrite { volume: v }) } else { w.refused(a, AttachRead { volume: v }) };
        assert_eq!(refused, Kind::Busy);
        w.ack(a, push, Ack::Done);
        if attach {
            drop(w.attach(a, v))
        } else {
            drop(w.read(a, v))
        }
        say(&mut w, S, push, true);
        wait(&mut w, &[a, b], LEASE);
        assert_eq!(w.shadow.attached(v).count(), 1, "an answer that was counted is not counted again");
    }
}

#[test]
fn a_large_change_is_told_in_small_parts() {
    let (mut w, v, a, b) = pair();
    w.read(a, v);
    // Told over the network, and not answered: the connection is gone.
    discards(&mut w, b, v, 100);
    w.disconnect(a);
    let mut told = 0;
    for _ in 0..8 {
        wait(&mut w, &[b], LEASE * 3 / 4);
        let Some((push, Push::MapChanged(m))) = letter(&w, S) else { panic!("no letter") };
        told += m.unmapped.len();
        say(&mut w, S, push, true);
        wait(&mut w, &[b], LEASE / 4);
        if w.shadow.limbo().count() == 0 {
            break;
        }
    }
    assert_eq!((w.shadow.limbo().count(), told), (0, 100));
}

#[test]
fn more_silent_sessions_than_pages_are_asked_in_turn() {
    let (mut w, v, _, b) = pair();
    let others: Vec<u8> = (10..30).collect();
    for n in &others {
        w.client(*n, "db", "read");
        let c = w.connect(*n);
        w.hello(c, *n, OTHER_BOOT, false).expect("welcome");
        w.read(c, v);
        w.disconnect(c);
    }
    discards(&mut w, b, v, 1);
    wait(&mut w, &[b], LEASE * 3 / 4);
    assert_eq!(w.disks.letters.len(), usize::from(PAGES), "one a page");
    let mut pages: Vec<u8> = w.disks.letters.values().map(|(page, _)| *page).collect();
    pages.sort_unstable();
    assert!(pages.into_iter().eq(0..PAGES));
    // Nobody answers, and everybody is asked. (They are not given up: their heartbeats move.)
    w.disks.alive.extend((2..22).map(SessionNo));
    wait(&mut w, &[b], LEASE * 4);
    assert_eq!(w.disks.letters.len(), others.len());
    for no in w.disks.letters.keys().copied().collect::<Vec<_>>() {
        let (push, _) = letter(&w, no).expect("written");
        say(&mut w, no, push, true);
    }
    wait(&mut w, &[b], LEASE * 4);
    assert_eq!(w.shadow.limbo().count(), 0);
}

#[test]
fn a_part_fits_on_a_page() {
    let leg = |n: u32| Leg::single(DiskAu { disk: DiskNo(u16::MAX), au: AuNo(n) });
    let n = u32::try_from(AUS_PER_LETTER).expect("few");
    let runs = (0..n).map(|i| MapRun { first: VolAu(2 * i), legs: vec![leg(i), leg(2 * i), leg(3 * i)], written: vec![u64::MAX - 1] });
    let body =
        MapChanged { volume: VolumeId([1; 16]), version: fusevol_shared::ids::MapVersion(1), runs: runs.collect(), unmapped: vec![] };
    let archive = FromManager::Push { push: u64::MAX, body: Push::MapChanged(body) }.to_archive().expect("archived");
    assert!(archive.len() <= BODY_MAX, "{}", archive.len());
}
