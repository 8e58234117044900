//! Preserve segments that lack copies: what is copied, when, and what becomes of it.

use super::harness::*;
use super::mirror::{mirrored, out};
use super::writer::Writer;
use crate::core::{AdminRequest, ConnId, Effect, Event, LayEnd, LayJob};
use fusevol_shared::change::Entry;
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::units::DiskAu;
use fusevol_shared::wire::messages::{AttachWrite, OpenSnapshot, Reply};
use std::time::Duration;

/// A volume with a snapshot; its writer has gone over from a first segment to a second one. `b` has the snapshot open.
fn preserving() -> (World, VolumeId, Writer, ConnId) {
    let (mut w, v, mut wr, b) = mirrored(3);
    let a = wr.conn;
    wr.write(&mut w, 0, 3);
    wr.detach(&mut w);
    w.snapshot(b, v, 9).1.expect("at once").expect("taken");
    let mut wr = w.attach(a, v);
    w.ok(b, OpenSnapshot { snapshot: SnapshotId([9; 16]) });
    wr.fill(&mut w, 2);
    let s = wr.next_segment();
    wr.change(&mut w, vec![Entry::Segment(s)]);
    (w, v, wr, b)
}

/// A disk of the first segment is out; which.
fn goes_out(w: &mut World, wr: &Writer, b: ConnId) -> String {
    let lost = legs(w, wr.volume)[0].1[0].disk;
    let (id, _) = w.send(wr.conn, out(wr, lost.0, &[]));
    w.ack_all(b);
    assert!(w.answer(wr.conn, id).is_some());
    lost.to_string()
}

/// The same as [`preserving`], and a disk that is out does not come back.
fn short() -> (World, VolumeId, Writer) {
    let (mut w, v, wr, b) = preserving();
    let disk = goes_out(&mut w, &wr, b);
    w.admin(AdminRequest::DiskFail { disk, failed: true });
    (w, v, wr)
}

fn legs(w: &World, v: VolumeId) -> Vec<(u32, Vec<DiskAu>)> {
    w.shadow.volume(v).expect("there").segments.values().map(|s| (s.no, s.legs.clone())).collect()
}

/// What is to be copied now.
fn asked(w: &mut World) -> Option<(u64, LayJob)> {
    let found = w.effects.iter().position(|e| matches!(e, Effect::LayAgain { .. }))?;
    match w.effects.remove(found) {
        Effect::LayAgain { lay, job } => Some((lay, job)),
        _ => None,
    }
}

/// The same, within some seconds.
fn awaited(w: &mut World) -> Option<(u64, LayJob)> {
    (0..5).find_map(|_| {
        w.wait(Duration::from_secs(1));
        asked(w)
    })
}

#[test]
fn a_segment_gets_another_leg_once_its_writer_is_beyond_it() {
    let (mut w, v, _wr) = short();
    let before = legs(&w, v);
    let (lay, job) = awaited(&mut w).expect("the first one is copied");
    assert_eq!((job.segment.no, job.over, &job.from), (before[0].0, false, &before[0].1));
    assert!(!job.from.iter().any(|l| l.disk == job.to.disk), "{job:?}");
    assert!(w.shadow.copying().any(|(at, _)| at == job.to), "its place is nobody's else, whatever happens");
    assert_eq!(awaited(&mut w), None, "one at a time");
    w.step(Event::LaidAgain { lay, end: LayEnd::Done });
    let after = legs(&w, v);
    assert_eq!(after[0].1, [before[0].1.clone(), vec![job.to]].concat());
    assert_eq!(w.shadow.copying().count(), 0);
    w.checkpoint();
    assert_eq!(awaited(&mut w), None, "the second one may be written to");
    // An answer that comes twice is none.
    w.step(Event::LaidAgain { lay, end: LayEnd::Done });
    assert_eq!(legs(&w, v), after);
}

#[test]
fn what_could_not_be_copied_is_copied_later() {
    let (mut w, v, _wr) = short();
    let before = legs(&w, v);
    let (lay, _) = awaited(&mut w).expect("asked");
    w.step(Event::LaidAgain { lay, end: LayEnd::Open });
    assert_eq!((w.shadow.copying().count(), legs(&w, v)), (0, before.clone()), "its place is free again");
    let (lay, job) = awaited(&mut w).expect("asked about again");
    w.step(Event::LaidAgain { lay, end: LayEnd::Failed { why: "no answer".into(), late: true } });
    assert_eq!(legs(&w, v), before);
    assert!(w.shadow.copying().any(|(at, _)| at == job.to), "something may land there yet");
    // No other disk has room apart from the copy that there is: it is tried again where it failed, after a while.
    let (lay, job) = (0..60).find_map(|_| awaited(&mut w)).expect("asked in the end");
    // It is over before that is answered: whoever comes next is asked anew.
    w.restart();
    w.step(Event::LaidAgain { lay, end: LayEnd::Done });
    assert_eq!(legs(&w, v)[0].1.len(), 1, "{job:?}");
}

#[test]
fn a_segment_of_a_writer_that_is_gone_is_closed() {
    let (mut w, v, wr) = short();
    let early = asked(&mut w).expect("asked about before").0;
    wr.detach(&mut w);
    w.step(Event::LaidAgain { lay: early, end: LayEnd::Open });
    let mut seen = Vec::new();
    while let Some((lay, job)) = awaited(&mut w) {
        assert!(job.over);
        seen.push(job.segment.no);
        w.step(Event::LaidAgain { lay, end: LayEnd::Done });
    }
    seen.sort_unstable();
    assert_eq!(seen, legs(&w, v).iter().map(|(no, _)| *no).collect::<Vec<_>>());
    assert!(legs(&w, v).iter().all(|(_, l)| l.len() == 2), "{:?}", legs(&w, v));
    w.checkpoint();
    // Its former legs are its own as long as it is there.
    let husks = |w: &World| w.shadow.volume(v).map_or(0, |v| v.husks.values().map(Vec::len).sum::<usize>());
    assert_eq!(husks(&w), 2);
}

#[test]
fn one_that_cannot_be_read_is_said_once_and_passed_over() {
    let (mut w, v, _wr) = short();
    let (lay, job) = awaited(&mut w).expect("asked");
    w.step(Event::LaidAgain { lay, end: LayEnd::Unreadable { why: "rotten".into() } });
    let said = |w: &World| w.effects.iter().filter(|e| matches!(e, Effect::Notice(n) if n.what == "rebuild-hole")).count();
    assert_eq!(said(&w), 1);
    assert!(awaited(&mut w).is_none_or(|(_, j)| j.segment.no != job.segment.no));
    assert_eq!((said(&w), legs(&w, v)[0].1.len()), (1, 1));
}

#[test]
fn what_a_former_writer_had_is_whole_on_a_disk_that_may_return() {
    let (mut w, v, wr, b) = preserving();
    let a = wr.conn;
    wr.detach(&mut w);
    let (id, _) = w.send(a, AttachWrite { volume: v });
    w.ack_all(b);
    let Some(Ok(Reply::Attached(at))) = w.answer(a, id) else { panic!("not attached") };
    let wr = Writer::new(&mut w, a, v, &at);
    let disk = goes_out(&mut w, &wr, b);
    assert_eq!((awaited(&mut w), legs(&w, v)[0].1.len()), (None, 2));
    w.admin(AdminRequest::DiskFail { disk, failed: true });
    let (_, job) = asked(&mut w).or_else(|| awaited(&mut w)).expect("it does not");
    assert_eq!((job.over, job.from.len()), (true, 1));
}
