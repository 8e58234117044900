//! Failed, damaged, stale and missing copies.

use super::Candidate;
use super::world::World;
use fusevol_shared::disk::Answer;
use fusevol_shared::disk::fault::{Fault, Ops, Rule};
use fusevol_shared::error::Kind;
use fusevol_shared::format::layout::{owner_at, seal_at};
use fusevol_shared::ids::Generation;
use fusevol_shared::units::PAGE_U64;

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
        let mut s = w.run(t.start(&super::records(&found))).expect("starts");
        w.commit_to(&mut s, &[4], &[1, 2, 3, 4]).expect("commits");
        assert_eq!(s.copies().len(), 2, "the copy comes back with a fresh checkpoint");
    }
}

/// A copy on a disk whose path is lost and opened anew: one that has missed nothing goes on, one that has takes a new copy at once.
#[test]
fn a_copy_comes_back_with_its_disk() {
    for missed in [false, true] {
        let w = World::new(2);
        let mut s = w.start("a", 1);
        w.commit(&mut s, &[1]).expect("commits");
        let (former, id) = (&w.disks[1], w.disks[1].label().disk);
        // The connection is gone, for ever.
        former.faults.add(Rule::on(Ops::ALL, Fault::Fail(107, Answer::NotReturned)));
        if missed {
            w.commit(&mut s, &[2]).expect("one of two suffices to go on");
            assert_eq!(s.copies().len(), 1);
        }
        let known: Vec<u64> = if missed { vec![1, 2] } else { vec![1] };
        let again = super::world::TestDisk::over(1, former.mem.clone());
        let area = s.area.no;
        let new = Candidate { disk: again.clone(), path: "d1".into() };
        assert!(w.run(s.rejoin(id, new, || super::world::dump(&known))).expect("it is back"));
        assert_eq!((s.copies().len(), s.area.no == area), (2, !missed), "missed: {missed}");
        w.commit(&mut s, &[3]).expect("commits");
        w.kill(1);
        // Each of the two has everything.
        let disks = [w.disks[0].clone(), again];
        let layout = w.disks[0].label().layout();
        let area = layout.area(s.area.no).expect("an area").0;
        let area = area..area + layout.area_pages() * PAGE_U64;
        let all: Vec<u64> = known.into_iter().chain([3]).collect();
        for (n, disk) in disks.iter().enumerate() {
            let other = disks[1 - n].clone();
            let rule = other.faults.add(Rule::on(Ops::READ, Fault::Fail(5, Answer::Answered)).within(area.clone()));
            let (_, found) = World { disks: disks.to_vec(), ..w.clone() }.open("a", 2).expect("opens");
            assert_eq!(found, all, "without the copy of {}, missed: {missed}", disk.no);
            other.faults.remove(rule);
            w.kill(2);
        }
    }
}

/// A server that was started with an older copy of its image. It has to be asked before the disk comes back: what stands there is believed then.
#[test]
fn an_older_copy_of_a_disk_is_told_from_what_it_was_by_its_label() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    let (id, old) = (w.disks[1].label().disk, super::world::TestDisk::over(1, w.disks[1].mem.fork()));
    assert_eq!(s.is_older(&old.label()), None, "nothing is newer");
    w.commit(&mut s, &[1]).expect("commits");
    w.kill(1);
    let mut s = w.start("a", 2);
    let why = s.is_older(&old.label()).expect("it is older");
    assert!(why.contains("older copy of itself") && why.contains(&format!("{}.", old.label().generation)), "{why}");
    assert_eq!(s.is_older(&w.disks[1].label()), None, "the right one");
    // What is believed of it: that this manager is over.
    let e = w.run(s.rejoin(id, Candidate { disk: old, path: "d1".into() }, || super::world::dump(&[1]))).expect_err("its SEAL");
    assert_eq!(e.kind(), Kind::Lapsed, "{e}");
}

/// Only what this very manager has written is known to be durable; that it knows of a disk without a copy of the catalog, too, and of one that it has lost.
#[test]
fn the_label_counts_that_this_manager_has_written() {
    let w = World::new(4);
    let mut s = w.start("a", 1);
    let plain = (0..4).find(|n| s.copies().iter().all(|c| c.disk != w.disks[*n].label().disk)).expect("three of four hold the catalog");
    let other = s.copies()[0].disk;
    let old = super::world::TestDisk::over(plain, w.disks[plain].mem.fork());
    // A label is written anew where a copy is lost.
    let lost = w.disks.iter().find(|d| d.label().disk == other).expect("it is here");
    lost.faults.add(Rule::on(Ops::ALL, EIO));
    w.commit_to(&mut s, &[1], &[1]).expect("two of three");
    assert!(s.is_older(&old.label()).is_some());
    let mut foreign = w.disks[plain].label();
    foreign.disk = fusevol_shared::ids::DiskId([99; 16]);
    assert_eq!(s.is_older(&foreign), None, "of a disk that it has not seen nothing is known");
    w.kill(1);
    let only = World { disks: vec![w.disks[0].clone(), w.disks[1].clone(), w.disks[2].clone()], ..w.clone() };
    let lacking = crate::store::Options { whole: false, ..Default::default() };
    if plain == 3
        && let Ok(s) = only.start_with("a", 2, &lacking)
    {
        assert_eq!(s.is_older(&old.label()), None, "nor of one that was not here at the start");
    }
}

/// A disk that comes back as another one is no copy.
#[test]
fn a_disk_without_its_label_does_not_come_back() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    w.disks[1].faults.add(Rule::on(Ops::ALL, EIO));
    w.commit(&mut s, &[1]).expect("one of two suffices to go on");
    let _ = s.take_warnings();
    let blank = super::world::TestDisk::new(1);
    let blank = Candidate { disk: blank, path: "d1".into() };
    let used = w.run(s.rejoin(fusevol_shared::ids::DiskId([2; 16]), blank, || super::world::dump(&[1])));
    assert!(!used.expect("the store goes on"));
    assert_eq!(s.copies().len(), 1);
    assert!(s.take_warnings().iter().any(|t| t.contains("does not carry its label")));
    w.commit(&mut s, &[2]).expect("commits");
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
fn a_set_grows_by_one_disk_at_a_time() {
    let w = World::new(1);
    let mut s = w.start("a", 1);
    for no in 1..5 {
        w.run(s.add_disk(w.new_disk(&super::world::TestDisk::new(no.into()), no), false)).expect("added");
    }
    let mut sizes = Vec::new();
    for n in 1..5 {
        w.commit_to(&mut s, &[n], &(1..=n).collect::<Vec<_>>()).expect("commits");
        sizes.push(s.copies().len());
    }
    assert_eq!(sizes, [2, 3, 3, 3]);
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

#[test]
fn one_damaged_page_of_any_structure_harms_nothing_and_is_named_where_it_counts() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    for n in 0..4 {
        w.commit(&mut s, &[n]).expect("commits");
    }
    w.kill(1);
    let (g, layout) = (s.generation(), w.disks[0].label().layout());
    let labels = layout.labels().map(|at| (at, true));
    let log = (0..5).map(|p| (layout.area(s.area.no).expect("an area").plus(p * PAGE_U64), true));
    let table = [(owner_at(g), false), (seal_at(g), false), (owner_at(Generation(1)), false)];
    for (at, named) in labels.into_iter().chain(log).chain(table) {
        for torn in [false, true] {
            let x = w.fork();
            let page = x.disks[1].mem.peek(at, 4096);
            match torn {
                true => x.disks[1].poke(at.0 + 512, &[0; 3584]),
                false => x.disks[1].poke(at.0 + 130, &[page[130] ^ 1]),
            }
            let (t, found) = x.open("a", 2).expect("opens");
            assert_eq!(found, [0, 1, 2, 3], "byte {at}");
            let whole = x.disks[1].mem.peek(at, 4096) == page;
            assert!(!named || whole || t.warnings().iter().any(|t| t.contains("d1")), "byte {at}: {:?}", t.warnings());
            let mut s = x.run(t.start(&super::records(&found))).expect("starts");
            x.commit(&mut s, &[4]).expect("commits");
            assert_eq!((s.copies().len(), x.inspect().1), (2, vec![0, 1, 2, 3, 4]));
        }
    }
}

#[test]
fn a_new_set_is_told_to_as_many_as_any_quorum_of_the_recorded_one_can_miss() {
    let w = World::new(4);
    let mut s = w.start("a", 1);
    w.commit(&mut s, &[1]).expect("commits");
    w.kill(1);
    // One of the three is missing; while the labels of the others are written, one of those fails. If the start went on,
    // the failed and the missing one would be two of three, and know nothing of it.
    let some = World { disks: w.disks[1..].to_vec(), ..w.clone() };
    let (t, found) = some.open("a", 2).expect("two of three");
    let first_copy = w.disks[1].label().layout().labels()[0];
    w.disks[1].faults.add(Rule::on(Ops::WRITE, EIO).within(first_copy.0..first_copy.0 + 4096));
    let refused = some.run(t.start(&super::records(&found))).map(|_| ()).expect_err("too few know");
    assert_eq!(refused.kind(), Kind::Io);
    w.disks[1].faults.clear();
    w.kill(2);
    let others = World { disks: w.disks[..2].to_vec(), ..w.clone() };
    assert_eq!(others.open("a", 3).expect("opens").1, [1]);
}
