//! The range guard: order, exclusion, fairness, and what a dropped waiter leaves.

use super::*;
use futures_util::FutureExt;

#[test]
fn overlapping_ranges_exclude_and_others_do_not() {
    let g = RangeGuard::default();
    let a = g.lock(0..10).now_or_never().expect("free").expect("few wait");
    let _b = g.lock(10..20).now_or_never().expect("beside").expect("few wait");
    let mut c = Box::pin(g.lock(5..6));
    assert!((&mut c).now_or_never().is_none());
    drop(a);
    assert!((&mut c).now_or_never().is_some());
}

#[test]
fn a_guard_over_everything_gets_its_turn_before_later_writes() {
    let g = RangeGuard::default();
    let a = g.lock(0..1).now_or_never().expect("free");
    let mut all = Box::pin(g.lock(0..u64::MAX));
    assert!((&mut all).now_or_never().is_none());
    let mut later = Box::pin(g.lock(7..8));
    assert!((&mut later).now_or_never().is_none(), "it may not pass the one that waits");
    drop(a);
    let held = (&mut all).now_or_never().expect("its turn");
    assert!((&mut later).now_or_never().is_none());
    drop(held);
    assert!((&mut later).now_or_never().is_some());
}

#[test]
fn giving_up_lets_the_next_one_through() {
    let g = RangeGuard::default();
    let _a = g.lock(0..1).now_or_never().expect("free");
    let mut all = Box::pin(g.lock(0..9));
    assert!((&mut all).now_or_never().is_none());
    let mut later = Box::pin(g.lock(7..8));
    assert!((&mut later).now_or_never().is_none());
    drop(all);
    assert!((&mut later).now_or_never().is_some());
}

#[test]
fn the_number_of_waiters_is_bounded() {
    let g = RangeGuard::default();
    let held: Vec<_> = (0..LIMIT as u64).map(|i| g.enter(i..i + 1).expect("below the limit")).collect();
    assert_eq!(g.enter(0..1).err().expect("full").kind(), Kind::Busy);
    drop(held);
}
