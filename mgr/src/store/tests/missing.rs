//! A manager that begins while disks of the pool are missing.

use super::super::*;
use super::world::{TestDisk, World, dump, records};
use fusevol_shared::disk::Answer;
use fusevol_shared::disk::fault::{Fault, Ops, Rule};
use fusevol_shared::error::Kind;
use fusevol_shared::sentence::{Tag, without};

fn lacking() -> Options {
    Options { whole: false, ..Options::default() }
}

fn back(disk: &TestDisk) -> Candidate<TestDisk> {
    Candidate { disk: disk.clone(), path: format!("d{}", disk.no) }
}

fn only(w: &World, which: &[usize]) -> World {
    World { disks: which.iter().map(|i| w.disks[*i].clone()).collect(), ..w.clone() }
}

/// Of five disks three hold the catalog. Which may be missing is decided by the set that the newest label names.
#[test]
fn a_quorum_of_the_recorded_set_begins_and_nothing_less() {
    let begins = |w: &World, which: &[usize]| match only(w, which).open_with("a", 9, &lacking()) {
        Ok((_, found)) => {
            w.kill(9);
            Some(found)
        }
        Err(e) => {
            assert_eq!(e.kind(), Kind::Refused, "{e}");
            assert!(e.to_string().contains("missing disk"), "{e}");
            w.kill(9);
            None
        }
    };
    let w = World::new(5);
    let mut s = w.start("a", 1);
    w.commit(&mut s, &[1]).expect("commits");
    w.kill(1);
    for (which, is) in [(vec![0, 1, 2], true), (vec![0, 2, 3], true), (vec![1, 2], true), (vec![2, 3, 4], false), (vec![0], false)] {
        assert_eq!(begins(&w.fork(), &which), is.then(|| vec![1]), "{which:?}");
    }
    // The third copy was lost to a manager, and went on without two more commits: only the newer two count.
    let mut s = w.start("a", 2);
    w.disks[0].faults.add(Rule::on(Ops::ALL, Fault::Fail(107, Answer::NotReturned)));
    w.disks[3].faults.add(Rule::on(Ops::ALL, Fault::Fail(107, Answer::NotReturned)));
    w.disks[4].faults.add(Rule::on(Ops::ALL, Fault::Fail(107, Answer::NotReturned)));
    w.commit_to(&mut s, &[2], &[1, 2]).expect("two of three");
    w.kill(2);
    assert_eq!(s.copies().len(), 2);
    for (which, is) in [(vec![1, 2], true), (vec![0, 1], false), (vec![0, 2, 3], false)] {
        assert_eq!(begins(&w.fork(), &which), is.then(|| vec![1, 2]), "{which:?}");
    }
}

/// The lock of a predecessor on a disk that is not here cannot be asked: it counts as one without locks.
#[test]
fn a_disk_that_is_not_here_proves_nothing() {
    let takeover = || {
        let w = World::new(4);
        let mut s = w.start("a", 1);
        w.commit(&mut s, &[1]).expect("commits");
        w.kill(1);
        w.slept.lock().expect("not poisoned").clear();
        let (t, found) = only(&w, &[0, 1, 2]).open_with("a", 2, &lacking()).expect("all of the catalog is here");
        let drained = t.is_drained();
        let next = w.run(t.start(&records(&found))).expect("starts");
        let waited = w.slept.lock().expect("not poisoned").iter().any(|d| d.as_millis() == 4500);
        w.run(next.close()).expect("closes");
        w.kill(2);
        // One that sees all asks all of its host's locks; one elsewhere cannot, though the last one has ended in order.
        let here = w.fork().open("a", 3).expect("wins").0.is_drained();
        (drained, waited, here, w.fork().open("b", 3).expect("wins").0.is_drained())
    };
    assert_eq!(takeover(), (false, true, true, false));
    assert!(without(Tag::K1, takeover).0, "the sentence is what keeps it");
}

#[test]
fn a_disk_that_was_missing_at_the_start_takes_a_copy_when_it_comes() {
    let w = World::new(3);
    let mut s = w.start("a", 1);
    w.commit(&mut s, &[1]).expect("commits");
    w.kill(1);
    let two = only(&w, &[0, 1]);
    let mut s = two.start_with("a", 2, &lacking()).expect("two of three");
    two.commit_to(&mut s, &[2], &[1, 2]).expect("commits");
    let id = w.disks[2].label().disk;
    assert!(w.run(s.rejoin(id, back(&w.disks[2]), || dump(&[1, 2]))).expect("it is here"));
    assert_eq!(s.copies().len(), 3);
    w.commit(&mut s, &[3]).expect("commits");
    w.kill(2);
    // It makes a quorum with either of the others.
    for which in [[0, 2], [1, 2]] {
        let fork = only(&w, &which).fork();
        assert_eq!(fork.open_with("a", 3, &lacking()).expect("opens").1, [1, 2, 3]);
    }
}

/// Somebody has forced a manager on the disk that this one does not see: there are two pools now.
#[test]
fn a_disk_that_was_served_apart_is_not_used() {
    for (more, generation) in [(0, "3"), (1, "4")] {
        let w = World::new(3);
        let mut s = w.start("a", 1);
        w.commit(&mut s, &[1]).expect("commits");
        w.kill(1);
        let apart = only(&w, &[2]);
        for n in 0..=more {
            let mut s = apart.start_with("b", 5 + n, &Options { force: true, ..lacking() }).expect("forced");
            apart.commit_to(&mut s, &[99], &[1, 99]).expect("commits");
            apart.kill(5 + n);
        }
        let two = only(&w, &[0, 1]);
        let mut s = two.start_with("a", 2, &lacking()).expect("two of three");
        let id = w.disks[2].label().disk;
        let _ = s.take_warnings();
        assert!(!w.run(s.rejoin(id, back(&w.disks[2]), || dump(&[1]))).expect("the store goes on"));
        let said = s.take_warnings();
        assert!(said.iter().any(|t| t.contains(&format!("generation {generation}"))), "{said:?}");
        assert_eq!(s.copies().len(), 2);
        two.commit(&mut s, &[2]).expect("commits");
        w.kill(2);
        assert_eq!(only(&w, &[0, 1]).open_with("a", 3, &lacking()).expect("opens").1, [1, 2]);
    }
}
