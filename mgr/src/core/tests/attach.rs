//! Attachments: one writer, who waits for the readers of its snapshots.

use super::harness::*;
use super::people::entries;
use crate::core::AdminRequest;
use fusevol_shared::error::Kind;
use fusevol_shared::ids::SnapshotId;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{Ack, AttachWrite, CloseSnapshot, Detach, GetMap, GetNeed, Grant, OpenSnapshot, Push};

#[test]
fn one_writer_any_readers_and_each_asked_twice_is_done_once() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    for key in 1..=3 {
        w.client(key, "db", "read,write");
    }
    let (a, b, c) = (w.open(1, 1), w.open(2, 2), w.open(3, 3));
    let token = w.attach(a, v).token;
    assert_eq!(w.attach(a, v).token, token);
    assert_eq!(w.read(a, v).token, token, "the writer reads under its own attachment");
    let e = w.ask(b, AttachWrite { volume: v }).expect_err("a second writer");
    assert!(e.kind == Kind::Busy && e.message.contains("host1"), "{e:?}");
    let r = w.read(b, v).token;
    assert!(r > token && w.read(b, v).token == r);
    w.ok(a, Detach { volume: v });
    w.ok(a, Detach { volume: v });
    assert_eq!(w.refused(a, GetMap { volume: v, from: VolAu(0) }), Kind::Refused);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::Busy, "a reader drains and detaches before it writes");
    w.ok(b, Detach { volume: v });
    assert!(w.attach(b, v).token > r);
    w.read(c, v);
}

#[test]
fn a_new_preserve_log_is_known_to_every_reader_before_the_writer_may_begin() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    let s = SnapshotId([9; 16]);
    w.snapshot(a, v, 9).1.expect("at once").expect("taken");
    assert!(w.ok(b, OpenSnapshot { snapshot: s }).segments.is_empty());
    let (id, answer) = w.send(a, AttachWrite { volume: v });
    assert_eq!(answer, None);
    assert_eq!(
        w.refused(a, Grant { volume: v, token: w.shadow.writer(v).expect("stands").token, no: 1, want: 1, back: vec![], apart: vec![] }),
        Kind::Refused
    );
    // A reader that opens meanwhile learns of it in its answer.
    assert_eq!(w.ok(a, OpenSnapshot { snapshot: s }).segments.len(), 1);
    let (push, added) = w.find(b, |p| if let Push::SegmentAdded(m) = p { Some(m.clone()) } else { None }).expect("told");
    assert_eq!((added.snapshot, added.segment.epoch.0), (s, 1));
    w.ack(b, push, Ack::Done);
    let Some(Ok(fusevol_shared::wire::messages::Reply::Attached(at))) = w.answer(a, id) else { panic!("not attached") };
    assert_eq!(at.segment, [added.segment]);
    assert_eq!(at.epoch.0, 2);
}

#[test]
fn a_reader_that_does_not_answer_does_not_stop_a_writer_for_ever() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    w.snapshot(a, v, 9).1.expect("at once").expect("taken");
    w.ok(b, OpenSnapshot { snapshot: SnapshotId([9; 16]) });
    let (id, _) = w.send(a, AttachWrite { volume: v });
    for _ in 0..3 {
        w.wait(LEASE);
        w.ok(a, fusevol_shared::wire::messages::Renew {});
        w.ok(b, fusevol_shared::wire::messages::Renew {});
    }
    assert_eq!(w.answer(a, id).expect("answered").expect_err("not attached").kind, Kind::Busy);
    assert!(w.shadow.writer(v).is_none());
    // Once it has closed, or its session is over, nobody is waited for.
    let (id, _) = w.send(a, AttachWrite { volume: v });
    w.ok(b, CloseSnapshot { snapshot: SnapshotId([9; 16]) });
    w.answer(a, id).expect("answered").expect("attached");
}

#[test]
fn access_taken_away_is_recalled_with_a_last_fold() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "read,write");
    let a = w.open(1, 1);
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 0..1);
    w.admin(AdminRequest::AccessRevoke { volume: "db".into(), client: "host1".into(), rights: None });
    let (push, ()) = w.find(a, |p| matches!(p, Push::Recall(_)).then_some(())).expect("recalled");
    assert_eq!(w.refused(a, wr.grant_request(1)), Kind::NotFound);
    wr.write(&mut w, 0, 7);
    w.ack(a, push, Ack::Done);
    assert!(w.shadow.writer(v).is_none());
    assert_eq!(w.shadow.volume(v).expect("there").map.written_blocks(), 3);
}

#[test]
fn the_writer_is_told_what_snapshots_need() {
    let mut w = World::new(1, 64);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    let a = w.open(1, 1);
    let mut wr = w.attach(a, v);
    wr.bind(&mut w, 3..5);
    wr.write(&mut w, 3, 0b11);
    wr.detach(&mut w);
    w.snapshot(a, v, 9).1.expect("at once").expect("taken");
    w.attach(a, v);
    let need = w.ok(a, GetNeed { volume: v, from: VolAu(0) });
    let all: Vec<_> = entries(&need.runs).into_iter().map(|(au, e)| (au.0, e.written.0)).collect();
    assert_eq!((all, need.next), (vec![(3, 0b11)], None));
}
