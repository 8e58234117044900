//! The store on disks in memory: what a commit, a switch, a failed copy and a takeover leave behind.

mod copies;
mod missing;
mod takeover;
mod world;

use super::*;
use world::{World, dump, records};

#[test]
fn what_was_committed_is_there_again() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    for n in 0..50 {
        w.commit(&mut s, &[n]).expect("commits");
    }
    w.run(s.close()).expect("closes");
    w.kill(1);
    let (t, found) = w.open("a", 2).expect("opens");
    assert_eq!(found, (0..50).collect::<Vec<u64>>());
    assert_eq!((t.generation(), t.warnings()), (Generation(3), &[][..]));
}

#[test]
fn a_full_area_is_left_before_a_transaction() {
    let w = World::new(3);
    let mut s = w.start("a", 1);
    let mut all = Vec::new();
    for n in 0..4000u64 {
        let batch: Vec<u64> = (0..n % 7 + 1).map(|i| n * 10 + i).collect();
        all.extend(&batch);
        w.commit_to(&mut s, &batch, &all).expect("commits");
    }
    assert!(s.area.unit > 4000 && s.room().checkpoint > 1, "areas were switched");
    assert_eq!(w.inspect().1, all);
    w.kill(1);
    assert_eq!(w.open("a", 2).expect("opens").1, all);
}

#[test]
fn a_transaction_of_many_blocks_is_whole_or_not_there() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    let large: Vec<u64> = (0..20_000).collect();
    w.commit_to(&mut s, &large, &large).expect("commits");
    w.commit_to(&mut s, &[7], &[7]).expect("commits");
    let mut want = large.clone();
    want.push(7);
    assert_eq!(w.inspect().1, want);
    // The middle of it is lost on both copies, and what follows proves that it had been answered.
    for d in &w.disks {
        w.flip(d, s.area.no, 5);
    }
    assert_eq!(w.try_inspect().expect_err("damaged").kind(), fusevol_shared::error::Kind::Damaged);
}

#[test]
fn a_catalog_that_fits_no_area_is_refused_and_small_changes_still_work() {
    let w = World::new(1);
    let mut s = w.start("a", 1);
    let huge: Vec<u64> = (0..200_000).collect();
    let mut refused = 0;
    for n in 0..2000u64 {
        let done = w.run(s.commit(&records(&[n]), || records(&huge)));
        match done {
            Ok(()) => {}
            Err(e) => {
                assert_eq!(e.kind(), fusevol_shared::error::Kind::NoSpace);
                refused = n;
                break;
            }
        }
    }
    assert!(refused > 1000, "the reserve was used first: {refused}");
    assert_eq!(w.run(s.commit(&records(&[1]), Vec::new)).expect_err("over").kind(), fusevol_shared::error::Kind::Lapsed);
    w.kill(1);
    assert_eq!(w.open("a", 2).expect("opens").1, (0..refused).collect::<Vec<_>>());
}

#[test]
fn used_disks_are_refused_saying_which() {
    let w = World::new(2);
    let again = w.create_on(&w.disks, false).expect_err("used");
    assert!(again.to_string().contains("is disk 0 of pool"), "{again}");
    w.create_on(&w.disks, true).expect("force");
    assert_eq!(w.inspect().1, Vec::<u64>::new());
    let x = World::blank(1);
    x.disks[0].poke(0, b"XFSB");
    assert!(x.create_on(&x.disks, false).expect_err("xfs").to_string().contains("an xfs filesystem"));
    let twice = [x.disks[0].clone(), x.disks[0].clone()];
    assert!(x.create_on(&twice, true).is_err());
}

#[test]
fn a_disk_is_added_and_takes_a_copy() {
    let w = World::new(1);
    let mut s = w.start("a", 1);
    w.commit_to(&mut s, &[1], &[1]).expect("commits");
    let more = w.more();
    w.run(s.add_disk(w.new_disk(&more, 1), false)).expect("added");
    assert_eq!(s.copies().len(), 1);
    w.commit_to(&mut s, &[2], &[1, 2]).expect("commits");
    assert_eq!(s.copies().len(), 2);
    w.kill(1);
    let alone = World { disks: vec![more.clone()], ..w.clone() };
    assert!(alone.open("a", 2).is_err(), "of two, two to start");
    let both = World { disks: vec![w.disks[0].clone(), more], ..w.clone() };
    assert_eq!(both.open("a", 2).expect("opens").1, [1, 2]);
    assert_eq!(dump(&[3]).len(), 1);
}
