//! The manager's own copier: for volumes that nobody writes, over its own death, and never under a writer.

use super::harness::*;
use super::mirror::{mirrored, out, states};
use super::writer::Writer;
use crate::core::{AdminRequest, CopyEnd, CopyJob, Effect, Event};
use fusevol_shared::change::{Entry, Region};
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::map::LegState::{self, InSync, Stale};
use fusevol_shared::sentence::{Tag, without};
use fusevol_shared::units::{DiskAu, DiskNo};
use fusevol_shared::wire::messages::{AttachWrite, Goodbye, OpenSnapshot};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// The batch that is under way, and that the test has to answer.
fn batch(w: &mut World) -> Option<(u64, Vec<CopyJob>)> {
    let found = w.effects.iter().position(|e| matches!(e, Effect::Copy { .. }))?;
    match w.effects.remove(found) {
        Effect::Copy { batch, jobs } => Some((batch, jobs)),
        _ => None,
    }
}

fn done(job: &CopyJob) -> CopyEnd {
    CopyEnd { done: job.to.clone(), late: vec![], written: 1 << 20, unreadable: false, why: String::new() }
}

/// Answers every batch, until there is none.
fn copy_all(w: &mut World) {
    for _ in 0..20 {
        w.wait(SECOND);
        while let Some((batch, jobs)) = batch(w) {
            w.step(Event::BlocksCopied { batch, ends: jobs.iter().map(done).collect() });
        }
    }
}

fn states_of(w: &World, v: VolumeId, au: u32) -> Vec<LegState> {
    states(w, v, au).into_iter().map(|(_, s)| s).collect()
}

/// A mirrored volume on `disks` disks whose writer has died in the midst of writes: AUs 64 and 65 have a stale leg, 0 to 2 too.
fn left(disks: u8) -> (World, VolumeId, Writer) {
    let (mut w, v, wr, _) = mirrored(disks);
    w.disconnect(wr.conn);
    w.step(Event::LockProbed { session: wr.session, held: false });
    assert!(w.shadow.writer(v).is_none());
    assert_eq!(states_of(&w, v, 64), [InSync, Stale]);
    (w, v, wr)
}

#[test]
fn what_a_dead_writer_left_is_made_equal_in_its_place() {
    let (mut w, v, _) = left(2);
    w.wait(SECOND);
    let (batch, jobs) = batch(&mut w).expect("begun");
    assert_eq!(jobs.len(), 5);
    let e = w.shadow.volume(v).expect("there").map.get(fusevol_shared::units::VolAu(0)).expect("bound");
    assert_eq!((jobs[0].from.clone(), jobs[0].to.clone()), (vec![e.legs()[0].at], vec![e.legs()[1].at]));
    w.checkpoint();
    w.step(Event::BlocksCopied { batch, ends: jobs.iter().map(done).collect() });
    assert!([0, 1, 2, 64, 65].iter().all(|au| states_of(&w, v, *au) == [InSync, InSync]));
    assert_eq!((w.shadow.copying().count(), w.shadow.limbo().count()), (0, 0));
    w.wait(SECOND * 2);
    assert!(w.effects.iter().any(|e| matches!(e, Effect::Notice(n) if n.what == "rebuild-done")));
    // Answered twice, done once.
    let log = w.log.len();
    w.step(Event::BlocksCopied { batch, ends: jobs.iter().map(done).collect() });
    assert_eq!(w.log.len(), log);
}

#[test]
fn copies_of_a_disk_that_is_given_up_are_made_elsewhere() {
    let (mut w, v, wr, _) = mirrored(3);
    w.ok(wr.conn, out(&wr, 0, &[]));
    wr.detach(&mut w);
    w.wait(SECOND);
    assert!(batch(&mut w).is_none(), "it may return");
    w.admin(AdminRequest::PoolRebuildAfter { ms: 100 });
    copy_all(&mut w);
    for au in [0, 1, 2, 64, 65] {
        let s = states(&w, v, au);
        assert!(s.len() == 2 && s.iter().all(|(d, s)| *d != 0 && *s == InSync), "{au}: {s:?}");
    }
    assert_eq!(w.shadow.copying().count(), 0);
    w.checkpoint();
    let conn = w.resume(1, 1);
    let at = w.ok(conn, AttachWrite { volume: v });
    assert_eq!(at.out, [DiskNo(0)]);
}

#[test]
fn a_disk_that_answers_again_is_taken_back_after_a_while() {
    let (mut w, v, mut wr, _) = mirrored(2);
    w.ok(wr.conn, out(&wr, 1, &[]));
    wr.change(&mut w, vec![Entry::Marked { epoch: wr.epoch, regions: vec![Region(1)] }]);
    wr.detach(&mut w);
    let mut looks = 0;
    for _ in 0..8 {
        w.wait(SECOND);
        let asked = w.effects.iter().filter(|e| matches!(e, Effect::LookAtDisk { disk } if disk.0 == 1)).count();
        w.effects.retain(|e| !matches!(e, Effect::LookAtDisk { .. }));
        if asked > 0 {
            looks += 1;
            // It comes and goes at first.
            w.step(Event::DiskLooked { disk: DiskNo(1), well: looks != 2 });
        }
        assert!(looks > 4 || !w.shadow.volume(v).expect("there").out.is_empty(), "too soon: {looks}");
    }
    assert!(w.shadow.volume(v).expect("there").out.is_empty());
    copy_all(&mut w);
    assert!([0, 64].iter().all(|au| states_of(&w, v, *au) == [InSync, InSync]));
}

#[test]
fn who_wants_to_write_waits_for_what_is_being_copied() {
    let (mut w, v, _) = left(2);
    let b = w.open(1, 7);
    w.wait(SECOND);
    let (id, jobs) = batch(&mut w).expect("begun");
    let (asked, answer) = w.send(b, AttachWrite { volume: v });
    assert_eq!(answer, None);
    w.step(Event::BlocksCopied { batch: id, ends: jobs.iter().map(done).collect() });
    assert!(matches!(w.answer(b, asked), Some(Ok(_))));
    w.wait(SECOND * 3);
    assert!(batch(&mut w).is_none(), "it is the writer's now");
}

#[test]
fn a_switch_shows_that_a_copier_would_write_under_a_writer() {
    let story = || {
        let (mut w, v, _) = left(2);
        let b = w.open(1, 7);
        w.wait(SECOND);
        let (_, jobs) = batch(&mut w).expect("begun");
        let (_, answer) = w.send(b, AttachWrite { volume: v });
        // The writer goes on while a copy of former bytes is under way to a place of its map.
        answer.is_some() && jobs.iter().flat_map(|j| &j.to).any(|p| w.shadow.copying().any(|(at, _)| at == *p))
    };
    assert!(!story(), "it waits until nothing is under way");
    assert!(without(Tag::B1, story), "the copy would land on top of what it writes");
}

#[test]
fn what_a_dead_manager_may_still_write_is_nobodys() {
    let (mut w, v, _) = left(2);
    w.wait(SECOND);
    let (_, jobs) = batch(&mut w).expect("begun");
    let targets: Vec<DiskAu> = jobs.iter().flat_map(|j| j.to.clone()).collect();
    w.restart();
    w.step(Event::Tick);
    // They are no legs any more, and not free either.
    let c = &w.shadow;
    let legs: Vec<DiskAu> =
        c.volume(v).expect("there").map.iter().flat_map(|(_, e)| e.legs().iter().map(|l| l.at).collect::<Vec<_>>()).collect();
    assert!(targets.iter().all(|t| !legs.contains(t)), "{targets:?} {legs:?}");
    let old = |c: &crate::catalog::Catalog| c.copying().filter(|(_, x)| x.target.is_none() && x.generation.0 == 1).count();
    assert_eq!(old(c), targets.len());
    w.checkpoint();
    // The copies are made, at other places.
    copy_all(&mut w);
    assert_eq!(states_of(&w, v, 64), [InSync, InSync]);
    assert_eq!((w.shadow.copying().count(), old(&w.shadow)), (targets.len(), targets.len()));
}

#[test]
fn an_au_that_leaves_its_map_under_the_copier_is_not_free_before_that_has_ended() {
    let (mut w, v, _) = left(2);
    w.wait(SECOND);
    let (id, jobs) = batch(&mut w).expect("begun");
    let e = w.admin_refused(AdminRequest::VolumeRemove { name: "db".into() });
    assert_eq!(e.kind, fusevol_shared::error::Kind::Busy);
    // A snapshot that only it has, removed meanwhile.
    let late = jobs[1].to[0];
    let mut ends: Vec<CopyEnd> = jobs.iter().map(done).collect();
    ends[0].done.clear();
    (ends[1].done, ends[1].late) = (vec![], vec![late]);
    w.step(Event::BlocksCopied { batch: id, ends });
    assert_eq!(states_of(&w, v, 0), [InSync, Stale], "the target failed: it is tried again later");
    assert_eq!(states_of(&w, v, 1), [InSync], "what was not answered may land yet: it is no leg any more");
    assert_eq!(w.shadow.copying().map(|(p, _)| p).collect::<Vec<_>>(), [late]);
    w.checkpoint();
}

#[test]
fn a_source_that_cannot_be_read_is_a_hole_and_the_others_go_on() {
    let (mut w, v, _) = left(2);
    w.wait(SECOND);
    let (id, jobs) = batch(&mut w).expect("begun");
    let mut ends: Vec<CopyEnd> = jobs.iter().map(done).collect();
    ends[0] = CopyEnd { done: vec![], late: vec![], written: 0, unreadable: true, why: "read: bad sector".into() };
    w.step(Event::BlocksCopied { batch: id, ends });
    assert_eq!((states_of(&w, v, 0), states_of(&w, v, 1)), (vec![InSync, Stale], vec![InSync, InSync]));
    let crate::core::AdminReply::Jobs(jobs) = w.admin(AdminRequest::JobList) else { panic!() };
    assert_eq!((jobs[0].todo, jobs[0].holes), (1, 1));
    assert!(w.effects.iter().any(|e| matches!(e, Effect::Notice(n) if n.what == "rebuild-hole" && n.text.contains("bad sector"))));
    w.wait(SECOND * 5);
    assert!(batch(&mut w).is_none(), "it is not tried for ever");
}

#[test]
fn what_only_a_snapshot_has_is_copied_and_its_reader_is_asked() {
    let (mut w, v, mut wr, b) = mirrored(3);
    let a = wr.conn;
    wr.write(&mut w, 0, 1);
    wr.detach(&mut w);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    let s = SnapshotId([9; 16]);
    w.ok(b, OpenSnapshot { snapshot: s });
    let (id, answer) = w.send(a, AttachWrite { volume: v });
    assert_eq!(answer, None);
    w.ack_all(b);
    let Some(Ok(fusevol_shared::wire::messages::Reply::Attached(at))) = w.answer(a, id) else { panic!() };
    let mut wr = Writer::new(&mut w, a, v, &at);
    let lost = w.shadow.snapshot(s).expect("there").map.get(fusevol_shared::units::VolAu(0)).expect("frozen").legs()[1].at;
    wr.discard(&mut w, 0);
    let (id, _) = w.send(a, out(&wr, lost.disk.0, &[]));
    w.ack_all(b);
    assert!(w.answer(a, id).is_some());
    wr.detach(&mut w);
    w.ok(a, Goodbye {});
    w.admin(AdminRequest::DiskFail { disk: lost.disk.to_string(), failed: true });
    copy_all(&mut w);
    let e = w.shadow.snapshot(s).expect("there").map.get(fusevol_shared::units::VolAu(0)).expect("frozen");
    assert!(e.legs().len() == 2 && e.legs().iter().all(|l| l.at.disk != lost.disk && l.state == InSync), "{e:?}");
    assert!(w.shadow.limbo().any(|l| l.places.contains(&lost)), "its reader has not answered");
    w.ack_all(b);
    assert_eq!(w.shadow.limbo().count(), 0);
}
