//! Failed, damaged, stale and missing copies.

use super::world::World;
use fusevol_shared::disk::Answer;
use fusevol_shared::disk::fault::{Fault, Ops, Rule};
use fusevol_shared::error::Kind;

const EIO: Fault = Fault::Fail(5, Answer::Answered);

#[test]
fn a_failed_copy_is_dropped_and_named_and_a_stale_one_never_used() {
    for ops in [Ops::WRITE, Ops::FLUSH, Ops::READ, Ops::ALL] {
        let w = World::new(2);
        let mut s = w.start("a", 1);
        w.commit(&mut s, &[1]).expect("commits");
        let rule = w.disks[1].faults.add(Rule::on(ops, EIO));
        w.commit(&mut s, &[2]).expect("one of two suffices to go on");
        assert_eq!((s.copies().len(), s.take_warnings().len()), (1, 1), "{ops:?}");
        w.commit(&mut s, &[3]).expect("commits");
        w.disks[1].faults.remove(rule);
        w.kill(1);
        let stale = World { disks: vec![w.disks[1].clone()], ..w.clone() };
        assert_eq!(stale.open("a", 2).map(|_| ()).expect_err("the stale copy alone").kind(), Kind::Refused);
        w.kill(2);
        let (t, found) = w.open("a", 3).expect("opens");
        assert_eq!(found, [1, 2, 3], "{ops:?}");
        let s = w.run(t.start(&super::records(&found))).expect("starts");
        assert_eq!(s.copies().len(), 2, "the copy comes back with a fresh checkpoint");
    }
}

#[test]
fn of_three_two_suffice_and_two_at_once_are_too_many() {
    let w = World::new(3);
    let mut s = w.start("a", 1);
    w.disks[0].faults.add(Rule::on(Ops::WRITE, EIO));
    w.commit(&mut s, &[1]).expect("two of three");
    w.disks[1].faults.add(Rule::on(Ops::WRITE, EIO));
    w.commit(&mut s, &[2]).expect("one of two");
    assert_eq!(s.copies().len(), 1);
    let w = World::new(3);
    let mut s = w.start("a", 1);
    w.disks[0].faults.add(Rule::on(Ops::WRITE, EIO));
    w.disks[1].faults.add(Rule::on(Ops::WRITE, EIO));
    assert_eq!(w.commit(&mut s, &[1]).expect_err("two at once").kind(), Kind::Io);
}

#[test]
fn a_disk_that_does_not_answer_is_dropped() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    w.disks[1].faults.add(Rule::on(Ops::WRITE, Fault::Hang));
    w.commit(&mut s, &[1]).expect("commits");
    assert_eq!(s.copies().len(), 1);
    assert!(s.take_warnings()[0].contains("no answer"));
}

#[test]
fn a_damaged_copy_is_named_and_the_other_used() {
    for page in [0, 1, 5] {
        let w = World::new(2);
        let mut s = w.start("a", 1);
        for n in 0..8 {
            w.commit(&mut s, &[n]).expect("commits");
        }
        w.kill(1);
        w.flip(&w.disks[1], s.area.no, page);
        let (t, found) = w.open("a", 2).expect("opens");
        assert_eq!(found, (0..8).collect::<Vec<_>>());
        assert!(t.warnings().iter().any(|t| t.contains("disk 1") && t.contains("damaged")), "{:?}", t.warnings());
    }
}

#[test]
fn damage_at_different_places_of_both_copies_is_made_good() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    for n in 0..8 {
        w.commit(&mut s, &[n]).expect("commits");
    }
    w.kill(1);
    w.flip(&w.disks[0], s.area.no, 2);
    w.flip(&w.disks[1], s.area.no, 4);
    let (t, found) = w.open("a", 2).expect("opens");
    assert_eq!((found, t.warnings().len()), ((0..8).collect::<Vec<_>>(), 2));
}

#[test]
fn a_missing_copy_needs_the_administrators_word() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    w.commit(&mut s, &[1]).expect("commits");
    w.kill(1);
    let one = World { disks: vec![w.disks[0].clone()], ..w.clone() };
    let refused = one.open("a", 2).map(|_| ()).expect_err("one of two");
    assert!(refused.kind() == Kind::Refused && refused.hint_text().is_some_and(|h| h.contains("--force")), "{refused}");
    let force = super::Options { force: true, ..super::Options::default() };
    let mut s = one.start_with("a", 2, &force).expect("forced");
    one.commit(&mut s, &[2]).expect("commits");
    one.kill(2);
    // The other one comes back: what it holds is of the past.
    assert_eq!(w.open("a", 3).expect("opens").1, [1, 2]);
}

#[test]
fn two_of_three_start_and_a_clone_is_refused() {
    let w = World::new(3);
    let mut s = w.start("a", 1);
    w.commit(&mut s, &[1]).expect("commits");
    w.kill(1);
    let two = World { disks: w.disks[1..].to_vec(), ..w.clone() };
    let (t, found) = two.open("a", 2).expect("two of three");
    assert_eq!((found, t.warnings().len()), (vec![1], 1));
    let mut cloned = w.clone();
    cloned.disks.push(super::world::TestDisk { no: 9, ..w.disks[0].clone() });
    assert!(cloned.open("a", 3).map(|_| ()).expect_err("a clone").to_string().contains("the same label"));
}
