//! Who may serve: locks, heartbeats, SEALs, races.

use super::world::World;
use fusevol_shared::error::Kind;
use fusevol_shared::ids::Generation;
use fusevol_shared::sentence::{Tag, without};

#[test]
fn a_second_manager_on_the_same_host_is_refused_and_takes_over_at_once_after_a_kill() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    w.commit(&mut s, &[1]).expect("commits");
    let refused = w.open("a", 2).map(|_| ()).expect_err("the first lives");
    assert!(refused.kind() == Kind::Busy && refused.to_string().contains(": a, process 1"), "{refused}");
    w.commit(&mut s, &[2]).expect("the first goes on");
    w.kill(1);
    w.slept.lock().expect("not poisoned").clear();
    assert_eq!(w.open("a", 3).expect("opens").1, [1, 2]);
    assert!(w.slept.lock().expect("not poisoned").is_empty(), "no waiting on the same boot");
}

/// One disk of two is over NBD: the free lock on the other proves that the process is gone, not that its writes have landed.
#[test]
fn without_locks_on_every_disk_a_predecessor_of_the_same_boot_is_waited_for_and_kept_away_from() {
    let takeover = || {
        let w = World { lockless: vec![1], ..World::new(2) };
        let mut s = w.start("a", 1);
        w.commit(&mut s, &[1]).expect("commits");
        w.kill(1);
        w.slept.lock().expect("not poisoned").clear();
        let (t, found) = w.open("a", 2).expect("opens");
        let next = w.run(t.start(&super::records(&found))).expect("starts");
        let waited = w.slept.lock().expect("not poisoned").iter().any(|d| d.as_millis() == 4500);
        // What the killed one had under way lands now: in its own area.
        (waited, next.quarantine[usize::from(s.area.no)].is_some(), found)
    };
    assert_eq!(takeover(), (true, true, vec![1]));
    assert_eq!(without(Tag::K1, takeover), (false, false, vec![1]), "the sentence is what keeps it");
}

#[test]
fn without_any_lock_a_manager_that_lives_is_seen_by_its_heart() {
    let w = World { lockless: vec![0, 1], ..World::new(2) };
    let s = std::cell::RefCell::new(w.start("a", 1));
    let beating = super::world::BeatingDoor { inner: w.door("a", 2), beat: || w.run(s.borrow_mut().heartbeat()).expect("beats") };
    let opened = w.run(super::open::<_, _, super::world::Rec>(w.candidates(), w.who("a", 2), beating, &super::Options::default()));
    assert_eq!(opened.map(|_| ()).expect_err("alive").kind(), Kind::Busy);
}

#[test]
fn another_host_waits_and_the_first_one_ends_itself() {
    let w = World::new(2);
    let mut first = w.start("a", 1);
    w.commit(&mut first, &[1]).expect("commits");
    let mut second = w.start("b", 2);
    let slept = w.slept.lock().expect("not poisoned").clone();
    assert!(slept.iter().any(|d| d.as_millis() == 4500), "one lease and the margin: {slept:?}");
    let late = w.commit(&mut first, &[99]).expect_err("sealed");
    assert_eq!(late.kind(), Kind::Lapsed);
    assert_eq!(w.run(first.heartbeat()).expect_err("over").kind(), Kind::Lapsed);
    w.commit(&mut second, &[2]).expect("commits");
    assert_eq!(w.inspect().1, [1, 2]);
    // Its areas are not used before it is proven drained.
    assert!(second.model().pointer.quarantine.iter().flatten().count() >= 1);
}

#[test]
fn generations_only_grow_and_a_failed_start_hurts_nobody() {
    let w = World::new(2);
    let mut last = Generation(1);
    for n in 0..20u8 {
        let (t, _) = w.open("a", n + 1).expect("opens");
        assert!(t.generation() > last);
        last = t.generation();
        if n % 3 == 0 {
            w.run(t.start(&super::records(&[n.into()]))).expect("starts");
        }
        w.kill(n + 1);
    }
    assert_eq!(w.inspect().1, [18]);
}

#[test]
fn areas_of_undrained_predecessors_are_kept_away_from_until_they_are_proven_drained() {
    let w = World::new(2);
    let mut used = Vec::new();
    for (n, host) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let process = u8::try_from(n).expect("few") + 1;
        let mut s = w.start(host, process);
        w.commit(&mut s, &[n as u64]).expect("commits");
        assert!(!used.contains(&s.area.no), "{host} writes where another may still write");
        used.push(s.area.no);
    }
    let (t, found) = w.open("e", 9).expect("wins");
    assert_eq!(found, [0, 1, 2, 3]);
    let full = w.run(t.start(&super::records(&found))).map(|_| ()).expect_err("no area is left");
    assert!(full.kind() == Kind::Refused && full.hint_text().is_some_and(|h| h.contains("--force")), "{full}");
    // On the boot of the third the locks prove that the third has drained: its area is free again.
    w.kill(3);
    let s = w.start("c", 10);
    assert_eq!(s.area.no, used[2]);
}

/// What a manager that was killed did for its clients counts as landed only where that is proven (K1).
#[test]
fn a_predecessor_is_drained_by_its_locks_or_its_word() {
    let killed = |lockless: Vec<usize>, ended: bool, host: &str| {
        let w = World { lockless, ..World::new(2) };
        let mut s = w.start("a", 1);
        w.commit(&mut s, &[1]).expect("commits");
        if ended {
            w.run(s.close()).expect("closes");
        }
        w.kill(1);
        w.open(host, 2).expect("wins").0.is_drained()
    };
    assert!(killed(vec![], false, "a"), "its locks were free");
    assert!(!killed(vec![1], false, "a"), "a disk that knows none proves nothing");
    assert!(!killed(vec![], false, "b"), "nor do those of another host");
    assert!(killed(vec![1], true, "b"), "it has said so");
    let without =
        std::panic::catch_unwind(|| fusevol_shared::sentence::without(fusevol_shared::sentence::Tag::K1, || killed(vec![1], false, "a")));
    assert!(without.expect("it opens"), "without the sentence the end of the process would do");
    // One that was not, before one that was.
    let w = World::new(2);
    let mut s = w.start("a", 1);
    w.commit(&mut s, &[1]).expect("commits");
    let mut s = w.start("b", 2);
    w.commit_to(&mut s, &[2], &[1, 2]).expect("commits");
    w.kill(2);
    assert!(!w.open("b", 3).expect("wins").0.is_drained(), "what the first one sent may still land");
}

#[test]
fn a_clean_end_on_another_host_leaves_nothing_in_quarantine() {
    let w = World::new(2);
    let mut s = w.start("a", 1);
    w.commit(&mut s, &[1]).expect("commits");
    w.run(s.close()).expect("closes");
    let s = w.start("b", 2);
    assert!(s.quarantine.iter().all(Option::is_none));
}

#[test]
fn a_predecessor_whose_heart_beats_is_left_alone() {
    let w = World::new(2);
    let s = std::cell::RefCell::new(w.start("a", 1));
    let beating = super::world::BeatingDoor { inner: w.door("b", 2), beat: || w.run(s.borrow_mut().heartbeat()).expect("beats") };
    let opened = w.run(super::open::<_, _, super::world::Rec>(w.candidates(), w.who("b", 2), beating, &super::Options::default()));
    let refused = opened.map(|_| ()).expect_err("alive");
    assert!(refused.kind() == Kind::Busy && refused.to_string().contains("a, process 1"), "{refused}");
    w.commit(&mut s.borrow_mut(), &[1]).expect("the first one goes on");
}
