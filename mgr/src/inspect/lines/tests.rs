//! What was written is printed; what is damaged says so.

use super::super::world::{POOL, S, T, V, World, au, bound, preserve};
use super::*;
use fusevol_shared::change::Segment;
use fusevol_shared::disk::mem::MemDisk;
use fusevol_shared::disk::ring::block_on;
use fusevol_shared::ids::VolumeEpoch;

fn dumper(w: &World) -> Dumper<'_, MemDisk> {
    Dumper { pool: POOL, io: w.io(), only: None }
}

fn says(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|l| format!("{} {:?} {}{}", l.disk, l.seq, if l.damaged { "DAMAGED " } else { "" }, l.says)).collect()
}

#[test]
fn slots_and_journals_are_printed() {
    let w = World::new();
    let slots = block_on(dumper(&w).slots()).expect("read");
    assert_eq!(slots.len(), 4, "heartbeat and SEAL on each of two disks: {slots:?}");
    assert!(says(&slots)[0].starts_with("0 Some(1) heartbeat of session 0") && says(&slots)[1].contains("clear, by generation 3"));
    let empty = block_on(dumper(&w).journals(&w.catalog)).expect("read");
    assert!(empty.len() == 4 && empty.iter().all(|l| l.says.contains("not begun") && !l.damaged), "{empty:?}");

    let starts = w.write(0, &[bound(1, 0, 50), bound(2, 1, 51)]);
    let lines = block_on(dumper(&w).journals(&w.catalog)).expect("read");
    let said = says(&lines);
    assert!(said[0].contains("journal 1 of 'db', session 0, half 0, turn 1: state in epoch 1, folded to 0"), "{said:?}");
    assert!(said[1].starts_with("0 Some(1) ") && said[1].ends_with("bound 1 AUs; written in 1 AUs"), "{said:?}");
    assert_eq!((lines[1].at, lines[2].at), (starts[1].0, starts[2].0));
    w.disks[0].2.poke(starts[1].plus(200), &[0xee; 8]);
    let lines = block_on(dumper(&w).journals(&w.catalog)).expect("read");
    assert!(lines[1].damaged && lines[1].at == starts[1].0, "{lines:?}");
    let other = Dumper { only: Some(VolumeId([77; 16])), ..dumper(&w) };
    assert!(block_on(other.journals(&w.catalog)).expect("read").is_empty());
}

#[test]
fn a_rotten_slot_page_says_why() {
    let w = World::new();
    let at = block_on(dumper(&w).slots()).expect("read")[1].at;
    w.disks[0].2.poke(DiskOff(at + 100), &[0xff]);
    let lines = block_on(dumper(&w).slots()).expect("read");
    assert_eq!(says(&lines)[1], "0 None DAMAGED wrong checksum");
}

#[test]
fn preserve_segments_are_printed() {
    let mut w = World::new();
    let no = w.catalog.volume(V).expect("there").entry.next_segment;
    let segment = Segment { no, epoch: VolumeEpoch(0), token: T, session: S, legs: vec![au(0, 50)] };
    let appends = vec![Append { seq: Seq(1), entries: vec![Entry::Segment(segment)] }];
    let limbo = w.catalog.counters().limbo;
    w.catalog.apply(&Record::Folded { token: T, prev: Seq(0), appends, limbo, waits: vec![] }).expect("fits");
    preserve(&w, 50, no, Some((no + 1, 51)));
    let said = says(&block_on(dumper(&w).segments(&w.catalog)).expect("read"));
    assert!(said[0].contains("record, counts, keeps 1/50/0"), "{said:?}");
    assert!(said[1].contains(&format!("1 records count, goes on in segment {} at 0/51", no + 1)), "{said:?}");
}

#[test]
fn a_disk_without_a_label_says_so() {
    let lines = block_on(labels("/dev/x", &MemDisk::new(64 << 20))).expect("read");
    assert!(lines.len() == 2 && lines.iter().all(|l| l.damaged && l.disk == "/dev/x"), "{lines:?}");
}
