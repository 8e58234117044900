//! The writer's changes: folded in order and once; limbo, readers, a full pool.

use super::harness::*;
use super::people::entries;
use super::writer::{Writer, mask};
use crate::core::{AdminRequest, ConnId, Event};
use fusevol_shared::change::{Append, Entry};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{FenceToken, Seq, SessionNo, SnapshotId, VolumeEpoch, VolumeId};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::messages::{Ack, Detach, Fold, Folded, GetMap, Goodbye, MapChanged, OpenSnapshot, Push};

fn changed(w: &World, c: ConnId) -> Option<(u64, MapChanged)> {
    w.find(c, |p| if let Push::MapChanged(m) = p { Some(m.clone()) } else { None })
}

/// A writer (key 1) and a reader (key 2) of volume `db`.
fn pair(aus: u32) -> (World, VolumeId, Writer, ConnId) {
    let mut w = World::new(1, aus);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    w.client(2, "db", "all");
    let (a, b) = (w.open(1, 1), w.open(2, 2));
    let wr = w.attach(a, v);
    w.read(b, v);
    (w, v, wr, b)
}

fn written(w: &World, v: VolumeId, au: u32) -> Option<u64> {
    w.shadow.volume(v).expect("there").map.get(VolAu(au)).map(|e| e.written.0)
}

#[test]
fn appends_are_folded_in_order_and_each_once() {
    let (mut w, v, mut wr, _) = pair(64);
    wr.fill(&mut w, 2);
    let entry = wr.bound([5, 6]);
    wr.append(&mut w, vec![entry]);
    wr.append(&mut w, vec![Entry::Written { masks: vec![mask(5, 3)] }]);
    let two = wr.fold_request().expect("two");
    wr.fold(&mut w);
    assert_eq!(written(&w, v, 5), Some(3));
    // The answer was lost: the same again does nothing, also to another manager.
    let log = w.log.len();
    assert_eq!(w.ok(wr.conn, two.clone()), Folded { seq: Seq(2) });
    w.restart();
    wr.conn = w.resume(1, 1);
    assert_eq!(w.ok(wr.conn, two.clone()), Folded { seq: Seq(2) });
    assert_eq!(w.log.len(), log);
    // Some of them again, and more.
    wr.append(&mut w, vec![Entry::Discarded { cleared: vec![mask(5, 1)] }]);
    let third = wr.unfolded[0].clone();
    let overlap = Fold { appends: vec![two.appends[1].clone(), third.clone()], prev: Seq(1), ..two.clone() };
    assert_eq!(w.ok(wr.conn, overlap), Folded { seq: Seq(3) });
    assert_eq!(written(&w, v, 5), Some(2));
    // A gap, appends out of order, a number that is none: nothing happens.
    let gap = Append { seq: Seq(5), entries: vec![] };
    assert_eq!(w.refused(wr.conn, Fold { appends: vec![gap.clone()], prev: Seq(4), ..two.clone() }), Kind::Refused);
    assert_eq!(w.refused(wr.conn, Fold { appends: vec![third, gap], prev: Seq(2), ..two.clone() }), Kind::Refused);
    let last = Append { seq: Seq(u64::MAX), entries: vec![] };
    assert_eq!(w.refused(wr.conn, Fold { appends: vec![last], prev: Seq(u64::MAX), ..two.clone() }), Kind::Refused);
    assert_eq!(w.refused(wr.conn, Fold { token: FenceToken(99), ..two }), Kind::Refused);
}

#[test]
fn a_switch_shows_that_the_folded_number_keeps_a_change_from_being_applied_again() {
    let story = || {
        let (mut w, v, mut wr, _) = pair(64);
        wr.bind(&mut w, 5..6);
        wr.append(&mut w, vec![Entry::Written { masks: vec![mask(5, 3)] }]);
        let first = wr.fold_request().expect("one");
        wr.fold(&mut w);
        wr.change(&mut w, vec![Entry::Discarded { cleared: vec![mask(5, 1)] }]);
        // The first fold is sent again: its answer was lost.
        w.ok(wr.conn, first);
        written(&w, v, 5)
    };
    assert_eq!(story(), Some(2), "what was discarded reads as zeros");
    assert_eq!(without(Tag::F2, story), Some(3), "what was discarded is readable again");
}

#[test]
fn an_au_may_be_bound_discarded_and_bound_again_within_one_fold() {
    let (mut w, v, mut wr, b) = pair(64);
    wr.fill(&mut w, 2);
    let places: Vec<_> = wr.reserve.iter().take(2).map(|l| l[0]).collect();
    let entries = |wr: &mut Writer| {
        let first = wr.bound([7]);
        let gone = Entry::Discarded { cleared: vec![mask(7, u64::MAX)] };
        let second = wr.bound([7]);
        vec![first, Entry::Written { masks: vec![mask(7, 1)] }, gone.clone(), second, Entry::Written { masks: vec![mask(7, 6)] }]
    };
    let e = entries(&mut wr);
    wr.change(&mut w, e);
    let entry = w.shadow.volume(v).expect("there").map.get(VolAu(7)).expect("bound");
    assert_eq!((entry.legs()[0].at, entry.written), (places[1], BlockMask(6)));
    let limbo: Vec<_> = w.shadow.limbo().cloned().collect();
    assert_eq!((limbo.len(), &limbo[0].places, &limbo[0].aus), (1, &vec![places[0]], &vec![VolAu(7)]));
    w.ack_all(b);
    assert_eq!(w.shadow.limbo().count(), 0);
}

#[test]
fn what_no_fold_may_do() {
    let (mut w, v, mut wr, _) = pair(64);
    wr.bind(&mut w, 0..1);
    wr.fill(&mut w, 3);
    let bound = |wr: &Writer, aus: &[u32]| wr.clone().bound(aus.iter().copied());
    let masks = |au, blocks| vec![mask(au, blocks)];
    let mut stolen = wr.clone();
    stolen.reserve[0][0].au.0 = 19 + 63;
    let segment = |wr: &Writer, no: u32, epoch: u64| {
        let mut s = wr.clone().next_segment();
        (s.no, s.epoch) = (no, VolumeEpoch(epoch));
        s
    };
    let flip = |wr: &Writer, epoch: u64| Entry::Flipped { epoch: VolumeEpoch(epoch), segment: segment(wr, 1, 0), dirty: vec![] };
    let bad = vec![
        vec![bound(&wr, &[0])],                                         // an AU that has space
        vec![bound(&wr, &[1024])],                                      // beyond the volume
        vec![bound(&stolen, &[5])],                                     // a place that was never granted
        vec![bound(&wr, &[5]), bound(&wr, &[6])],                       // one place for two
        vec![bound(&wr, &[5, 5])],                                      // two places for one
        vec![Entry::Written { masks: masks(5, 1) }],                    // no space
        vec![Entry::Discarded { cleared: masks(5, 1) }],                // the same
        vec![Entry::Segment(segment(&wr, 2, 0))],                       // not the next
        vec![Entry::Segment(segment(&wr, 1, 1))],                       // of the writer's own epoch
        vec![flip(&wr, 2)],                                             // to an epoch that did not begin
        vec![Entry::Broken { epoch: VolumeEpoch(1) }],                  // a snapshot that is not taken
        vec![Entry::Marked { epoch: VolumeEpoch(2), regions: vec![] }], // not current
        // The first fits, the second does not: nothing of them is folded.
        vec![bound(&wr, &[5]), Entry::Written { masks: masks(6, 1) }],
    ];
    for entries in bad {
        let m = Fold { volume: v, token: wr.token, prev: Seq(wr.last), appends: vec![Append { seq: Seq(wr.last + 1), entries }] };
        assert_eq!(w.refused(wr.conn, m), Kind::Refused);
    }
    // What is too heavy is refused before it is looked at.
    let heavy = Entry::Marked { epoch: wr.epoch, regions: vec![fusevol_shared::change::Region(0); 9000] };
    let m = Fold { volume: v, token: wr.token, prev: Seq(wr.last), appends: vec![Append { seq: Seq(wr.last + 1), entries: vec![heavy] }] };
    assert_eq!(w.refused(wr.conn, m), Kind::Refused);
    wr.write(&mut w, 0, 1);
}

#[test]
fn what_was_discarded_is_free_once_every_reader_has_answered() {
    let (mut w, _, mut wr, b) = pair(64);
    wr.bind(&mut w, 0..2);
    w.ack_all(b);
    let free = w.shadow.free_aus();
    wr.discard(&mut w, 0);
    assert_eq!((w.shadow.free_aus(), w.shadow.limbo().count()), (free, 1));
    // A second one while the push is under way is covered by the next push only.
    wr.discard(&mut w, 1);
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
        let (mut w, v, mut wr, b) = pair(64);
        wr.bind(&mut w, 0..1);
        let free = w.shadow.free_aus();
        wr.discard(&mut w, 0);
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
    let (mut w, _, mut wr, b) = pair(64);
    wr.bind(&mut w, 0..2);
    w.ack_all(b);
    let free = w.shadow.free_aus();
    wr.discard(&mut w, 0);
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
    let (mut w, _, mut wr, b) = pair(64);
    wr.bind(&mut w, 0..2);
    w.ack_all(b);
    let free = w.shadow.free_aus();
    wr.discard(&mut w, 0);
    w.restart();
    // The writer goes on before the reader is back: its answer to that must not count for what it was never told again.
    wr.conn = w.resume(1, 1);
    wr.discard(&mut w, 1);
    let b = w.resume(2, 2);
    let (push, m) = changed(&w, b).expect("told");
    assert_eq!(m.unmapped, [VolAu(0), VolAu(1)]);
    assert_eq!(w.shadow.free_aus(), free);
    w.ack(b, push, Ack::Done);
    w.ack_all(b);
    assert_eq!(w.shadow.free_aus(), free + 2);
}

#[test]
fn a_switch_shows_that_the_wait_is_what_keeps_it() {
    let (mut w, _, mut wr, b) = pair(64);
    wr.bind(&mut w, 0..1);
    w.ack_all(b);
    let free = w.shadow.free_aus();
    without(Tag::R1, || wr.discard(&mut w, 0));
    assert_eq!(w.shadow.free_aus(), free + 1, "freed under the reader");
}

#[test]
fn an_au_that_a_snapshot_shares_stays_until_both_have_let_go() {
    let (mut w, v, mut wr, b) = pair(64);
    wr.bind(&mut w, 0..1);
    let a = wr.conn;
    wr.detach(&mut w);
    w.snapshot(a, v, 9).1.expect("at once").expect("taken");
    let mut wr = w.attach(a, v);
    w.ack_all(b);
    let free = w.shadow.free_aus();
    wr.discard(&mut w, 0);
    assert_eq!((w.shadow.free_aus(), w.shadow.limbo().count()), (free, 0), "the snapshot's now");
    // The reader has not answered: it may still read the place through the old map.
    w.admin(AdminRequest::SnapshotRemove { volume: "db".into(), name: "s9".into() });
    assert_eq!((w.shadow.free_aus(), w.shadow.limbo().count()), (free, 1));
    w.ack_all(b);
    assert_eq!((w.shadow.free_aus(), w.shadow.limbo().count()), (free + 1, 0));
}

#[test]
fn readers_follow_the_writer() {
    let (mut w, v, mut wr, b) = pair(64);
    wr.bind(&mut w, 0..1);
    wr.write(&mut w, 0, 1);
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
    let pushed: Vec<_> = m.runs.iter().flat_map(|r| r.entries().expect("fits")).collect();
    assert_eq!(entries(&map.runs), pushed);
}

#[test]
fn a_snapshot_that_is_read_stays() {
    let (mut w, v, wr, b) = pair(64);
    let a = wr.conn;
    wr.detach(&mut w);
    w.snapshot(a, v, 9).1.expect("at once").expect("taken");
    w.ok(b, OpenSnapshot { snapshot: SnapshotId([9; 16]) });
    let e = w.admin_refused(AdminRequest::SnapshotRemove { volume: "db".into(), name: "s9".into() });
    assert!(e.kind == Kind::Busy && e.message.contains("host2"), "{e:?}");
    w.ok(b, Goodbye {});
    w.admin(AdminRequest::SnapshotRemove { volume: "db".into(), name: "s9".into() });
}

#[test]
fn what_changed_is_kept_for_the_epochs_after_the_oldest_snapshot() {
    let (mut w, v, mut wr, _) = pair(64);
    let changes = |w: &World| {
        let all = &w.shadow.volume(v).expect("there").changed;
        all.iter().map(|(e, m)| (e.0, m.iter().map(|(au, b)| (au.0, b.0)).collect::<Vec<_>>())).collect::<Vec<_>>()
    };
    let cleared =
        |wr: &Writer, au, blocks| Entry::Cleared { epoch: wr.epoch, regions: vec![VolAu(au).region()], changed: vec![mask(au, blocks)] };
    wr.bind(&mut w, 0..2);
    wr.write(&mut w, 0, 1);
    assert_eq!(changes(&w), [], "nobody can ask for it");
    let a = wr.conn;
    wr.detach(&mut w);
    for n in [8, 9] {
        w.snapshot(a, v, n).1.expect("at once").expect("taken");
    }
    let mut wr = w.attach(a, v);
    wr.write(&mut w, 1, 4);
    let e = cleared(&wr, 0, 0xf0);
    wr.change(&mut w, vec![e]);
    let e = cleared(&wr, 0, 0xf);
    wr.change(&mut w, vec![e]);
    wr.discard(&mut w, 1);
    assert_eq!(changes(&w), [(3, vec![(0, 0xff), (1, u64::MAX)])]);
    wr.detach(&mut w);
    for n in ["s8", "s9"] {
        assert_eq!(changes(&w).len(), 1);
        w.admin(AdminRequest::SnapshotRemove { volume: "db".into(), name: n.into() });
    }
    assert_eq!(changes(&w), []);
}
