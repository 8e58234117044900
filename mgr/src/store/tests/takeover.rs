//! Who may serve: locks, heartbeats, SEALs, races.

use super::world::World;
use fusevol_shared::error::Kind;
use fusevol_shared::ids::Generation;

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
