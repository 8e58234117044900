//! Space ahead of the writes: each grant once, nothing lost, and a full pool is a state with a name.

use super::harness::*;
use super::writer::Writer;
use crate::core::{AdminReply, AdminRequest, Event};
use fusevol_shared::change::{Entry, Places};
use fusevol_shared::error::Kind;
use fusevol_shared::ids::{Seq, SessionNo, VolumeId};
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::DiskNo;
use fusevol_shared::wire::messages::{AUS_PER_GRANT, AttachWrite, Goodbye, Grant, NewJournal, Renew};
use std::collections::BTreeSet;

fn one(disks: u8, aus: u32) -> (World, VolumeId, Writer) {
    let mut w = World::new(disks, aus);
    let v = w.volume("db", 1 << 40);
    w.client(1, "db", "all");
    let a = w.open(1, 1);
    let wr = w.attach(a, v);
    (w, v, wr)
}

#[test]
fn an_attachment_comes_with_a_journal_and_a_first_reserve() {
    let (mut w, v, wr) = one(2, 1000);
    let a = w.shadow.attachment(wr.token).expect("stands").clone();
    let journal = a.journal.clone().expect("a journal");
    assert_eq!((journal.no, journal.copies.len(), a.reserve.len()), (1, 2, 64));
    assert_ne!(journal.copies[0].first.disk, journal.copies[1].first.disk);
    assert_eq!(a.reserve.runs().len(), 1, "side by side");
    // Asked again, the same.
    let again = w.ok(wr.conn, AttachWrite { volume: v });
    assert_eq!((again.token, &again.journal[0], again.reserve), (wr.token, &journal, a.reserve.runs()));
    // One disk: one copy, and in a small pool a small reserve.
    let (w, _, wr) = one(1, 64);
    let a = w.shadow.attachment(wr.token).expect("stands");
    assert_eq!((a.journal.as_ref().expect("a journal").copies.len(), a.reserve.len()), (1, 4));
    // No room for a journal: no attachment.
    let mut w = World::new(1, 1);
    let v = w.volume("db", 1 << 30);
    w.client(1, "db", "all");
    let a = w.open(1, 1);
    let e = w.ask(a, AttachWrite { volume: v }).expect_err("no room");
    assert!(e.kind == Kind::NoSpace && !e.hint.is_empty());
    assert!(w.shadow.writer(v).is_none());
}

/// Clients may reach it all the same: without it there must be enough.
#[test]
fn a_disk_that_the_manager_does_not_reach_is_left_alone_where_there_are_others() {
    let (mut w, _, mut wr) = one(2, 1000);
    let disks = |wr: &Writer| wr.reserve.iter().flatten().map(|at| at.disk.0).collect::<BTreeSet<_>>();
    for (lost, on) in [(vec![0], vec![1]), (vec![1], vec![0]), (vec![0, 1], vec![0, 1])] {
        w.core.set_lost(lost.iter().map(|d| (DiskNo(*d), "gone".to_owned())).collect());
        // Looked at, then for long enough.
        (0..4).for_each(|_| w.wait(LEASE / 4));
        w.ok(wr.conn, Renew {});
        wr.reserve.clear();
        assert_eq!(wr.grant(&mut w, 16).expect("granted"), 16, "without {lost:?}");
        assert!(disks(&wr).iter().all(|d| on.contains(d)), "on {:?} without {lost:?}", disks(&wr));
    }
    w.core.set_lost(vec![(DiskNo(0), "gone".to_owned())]);
    let mut all = 0;
    while let Ok(n) = wr.grant(&mut w, AUS_PER_GRANT) {
        all += n;
    }
    assert!(all > 1200, "what is left is not refused for that: {all}");
}

#[test]
fn a_grant_is_given_once_and_goes_side_by_side() {
    let (mut w, v, mut wr) = one(2, 40_000);
    let m = Grant { want: 5000, ..wr.grant_request(0) };
    let first = w.ok(wr.conn, m.clone());
    assert_eq!((first.places.len(), first.places[0].count), (1, AUS_PER_GRANT), "one run");
    let log = w.log.len();
    assert_eq!(w.ok(wr.conn, m.clone()), first);
    w.restart();
    wr.conn = w.resume(1, 1);
    assert_eq!(w.ok(wr.conn, m.clone()), first, "the number is durable");
    assert_eq!(w.log.len(), log);
    wr.grants = 1;
    assert_eq!(w.refused(wr.conn, Grant { no: 3, ..m.clone() }), Kind::Refused, "not the next");
    assert_eq!(w.refused(wr.conn, Grant { no: 0, ..m.clone() }), Kind::Refused);
    // What is not needed goes back; what was never granted does not.
    let free = w.shadow.free_aus();
    let back = vec![Places { count: 1000, ..first.places[0].clone() }];
    w.ok(wr.conn, Grant { no: 2, want: 0, back: back.clone(), ..m.clone() });
    assert_eq!(w.shadow.free_aus(), free + 1000);
    assert_eq!(w.refused(wr.conn, Grant { no: 3, want: 0, back, ..m.clone() }), Kind::Refused);
    let huge = vec![Places { count: u32::MAX, ..first.places[0].clone() }];
    assert_eq!(w.refused(wr.conn, Grant { no: 3, want: 0, back: huge, ..m.clone() }), Kind::Refused);
    // The reserve has an end.
    for no in 3..7 {
        w.ok(wr.conn, Grant { no, ..m.clone() });
    }
    assert_eq!(w.shadow.writer(v).expect("stands").reserve.len(), 4096);
    assert_eq!(w.refused(wr.conn, Grant { no: 7, ..m }), Kind::Busy);
}

#[test]
fn a_full_pool_refuses_and_goes_on_when_space_is_freed() {
    let (mut w, v, mut wr) = one(1, 24);
    // 24 AUs, 4 of them kept for snapshots, 2 in the journal, 4 in the first reserve.
    assert_eq!(w.shadow.free_aus(), 18);
    assert_eq!(wr.grant(&mut w, 100), Ok(14), "a small pool is given away to its end");
    let e = wr.grant(&mut w, 1).expect_err("full");
    assert!(e.kind == Kind::NoSpace && !e.hint.is_empty());
    wr.bind(&mut w, 0..18);
    assert_eq!(wr.grant(&mut w, 1).expect_err("what is kept is not for a volume without snapshots").kind, Kind::NoSpace);
    // Snapshots still work: what is kept is theirs.
    let a = wr.conn;
    wr.discard(&mut w, 17);
    wr.detach(&mut w);
    w.snapshot(a, v, 9).1.expect("at once").expect("taken");
    let mut wr = w.attach(a, v);
    assert_eq!((wr.reserve.len(), w.shadow.free_aus()), (0, 4));
    assert_eq!(wr.grant(&mut w, 100), Ok(4));
    assert_eq!(wr.grant(&mut w, 1).expect_err("full").kind, Kind::NoSpace);
    let s = wr.next_segment();
    wr.change(&mut w, vec![Entry::Segment(s)]);
    // Discards take no space, and give it back once nothing shares it.
    wr.shrink(&mut w, 0);
    for au in 0..6 {
        wr.discard(&mut w, au);
    }
    w.admin(AdminRequest::SnapshotRemove { volume: "db".into(), name: "s9".into() });
    assert_eq!(wr.grant(&mut w, 3), Ok(3));
}

#[test]
fn large_grants_leave_something_to_others() {
    let (mut w, _, mut wr) = one(1, 1000);
    let mut last = usize::MAX;
    while let Ok(n) = wr.grant(&mut w, 1000) {
        assert!(n <= last && n > 0);
        last = n;
    }
    assert_eq!(w.shadow.free_aus(), 10, "what is kept");
    assert!(wr.grants > 10);
}

#[test]
fn every_au_is_counted_whoever_dies() {
    for way in 0..4 {
        let (mut w, v, mut wr) = one(2, 100);
        wr.bind(&mut w, 0..5);
        wr.fill(&mut w, 10);
        match way {
            0 => wr.detach(&mut w),
            1 => drop(w.ok(wr.conn, Goodbye {})),
            2 => {
                w.disconnect(wr.conn);
                w.step(Event::LockProbed { session: SessionNo(0), held: false });
            }
            _ => {
                w.restart();
                w.step(Event::Tick);
                w.wait(LEASE / 4);
                assert_eq!(w.probes(), [SessionNo(0)]);
                w.step(Event::LockProbed { session: SessionNo(0), held: false });
            }
        }
        assert!(w.shadow.writer(v).is_none());
        assert_eq!(w.shadow.free_aus(), 200 - 5, "way {way}");
    }
}

#[test]
fn a_journal_that_failed_is_closed_where_it_is_folded_and_its_places_are_in_quarantine() {
    let (mut w, v, mut wr) = one(3, 100);
    let a = w.shadow.attachment(wr.token).expect("stands");
    let former = a.journal.clone().expect("a journal");
    wr.bind(&mut w, 0..1);
    wr.append(&mut w, vec![Entry::Written { masks: vec![super::writer::mask(0, 1)] }]);
    let m = NewJournal { volume: v, token: wr.token, failed: 1, closing: Seq(wr.last), avoid: vec![] };
    assert_eq!(w.refused(wr.conn, m.clone()), Kind::Refused, "it is to be folded first");
    wr.fold(&mut w);
    let fresh = w.ok(wr.conn, m.clone()).journal;
    assert_eq!(fresh.no, 2);
    let disks = |j: &fusevol_shared::change::Journal| j.copies.iter().map(|c| c.first.disk.0).collect::<Vec<_>>();
    let other = (0..3).find(|d| !disks(&former).contains(d)).expect("a third disk");
    assert!(disks(&fresh)[0] == other && fresh.copies.len() == 2, "{fresh:?}");
    assert_eq!(w.ok(wr.conn, m.clone()).journal, fresh, "asked twice, done once");
    assert_eq!(w.refused(wr.conn, NewJournal { failed: 3, ..m }), Kind::Refused);
    let AdminReply::Pool(p) = w.admin(AdminRequest::PoolShow) else { panic!() };
    let s = p.space;
    assert_eq!((s.quarantine >> 20, s.journals >> 20), (4, 4));
    assert_eq!(s.free + s.limbo + s.preserve + s.reserve + s.journals + s.quarantine + s.mapped, s.total);
    let AdminReply::Status(s) = w.admin(AdminRequest::Status) else { panic!() };
    assert!(s.findings.iter().any(|f| f.text.contains("quarantine")), "{:?}", s.findings);
    // Its attachment is over, the session is not: what it could still write stays.
    let conn = wr.conn;
    wr.detach(&mut w);
    assert_eq!((w.shadow.quarantine().count(), w.shadow.free_aus()), (1, 300 - 1 - 4));
    w.ok(conn, Goodbye {});
    assert_eq!((w.shadow.quarantine().count(), w.shadow.free_aus()), (0, 300 - 1));
}

#[test]
fn a_switch_shows_that_a_journal_closed_above_what_is_folded_loses_what_counts() {
    let story = || {
        let (mut w, v, mut wr) = one(2, 100);
        wr.bind(&mut w, 0..1);
        wr.append(&mut w, vec![Entry::Written { masks: vec![super::writer::mask(0, 1)] }]);
        let m = NewJournal { volume: v, token: wr.token, failed: 1, closing: Seq(wr.last), avoid: vec![] };
        let closed = w.ask(wr.conn, m);
        if closed.is_ok() {
            let disk = w.disks.journals.get_mut(&wr.token).expect("a journal");
            (disk.no, disk.begun, disk.tail.appends) = (2, false, vec![]);
        }
        // The process is killed; what was answered must be there.
        w.disconnect(wr.conn);
        w.step(Event::LockProbed { session: SessionNo(0), held: false });
        w.shadow.volume(v).expect("there").map.written_blocks()
    };
    assert_eq!(story(), 1);
    assert_eq!(without(Tag::F1, story), 0, "an answered write is lost");
}

#[test]
fn a_catalog_that_is_nearly_full_takes_up_nothing_that_makes_it_larger() {
    let (mut w, v, mut wr) = one(1, 100);
    w.client(2, "db", "all");
    let b = w.open(2, 2);
    wr.bind(&mut w, 0..2);
    w.core.set_tight(true);
    assert_eq!(wr.grant(&mut w, 1).expect_err("tight").kind, Kind::NoSpace);
    assert_eq!(w.snapshot(b, v, 9).1.expect("at once").expect_err("tight").kind, Kind::NoSpace);
    let refused = [
        AdminRequest::VolumeCreate { name: "x".into(), size: 4096 },
        AdminRequest::ClientAdd { name: "x".into(), print: print(9) },
        AdminRequest::SnapshotCreate { volume: "db".into(), name: "x".into() },
    ];
    for r in refused {
        let e = w.admin_refused(r);
        assert!(e.kind == Kind::NoSpace && e.message.contains("catalog"), "{e:?}");
    }
    let AdminReply::Status(s) = w.admin(AdminRequest::Status) else { panic!() };
    assert!(s.findings[0].text.contains("the catalog is full"));
    // What makes it smaller, or was done already, goes on.
    wr.write(&mut w, 0, 1);
    wr.discard(&mut w, 1);
    wr.detach(&mut w);
    assert_eq!(w.refused(b, AttachWrite { volume: v }), Kind::NoSpace);
    w.admin(AdminRequest::VolumeRemove { name: "db".into() });
}
