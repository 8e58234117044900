//! The lease on a clock that is moved by hand: valid, run out, back again, over.

use super::*;
use futures_util::FutureExt;

struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> BootTime {
        BootTime(self.0.load(Ordering::SeqCst))
    }
    fn wall(&self) -> u64 {
        0
    }
}

fn lease() -> (Arc<Hand>, Lease) {
    let clock = Arc::new(Hand(AtomicU64::new(1)));
    (clock.clone(), Lease::new(clock, Duration::from_nanos(100)))
}

#[test]
fn waits_until_it_is_extended() {
    let (clock, lease) = lease();
    let mut wait = Box::pin(lease.wait());
    assert!((&mut wait).now_or_never().is_none());
    lease.extend(BootTime(10));
    assert!((&mut wait).now_or_never().expect("it was woken").is_ok());
    clock.0.store(10, Ordering::SeqCst);
    assert!(!lease.valid(clock.now()), "a lease ends at its deadline");
}

#[test]
fn gives_up_after_the_time_out() {
    let (clock, lease) = lease();
    let mut wait = Box::pin(lease.wait());
    assert!((&mut wait).now_or_never().is_none());
    clock.0.store(101, Ordering::SeqCst);
    lease.tick();
    assert_eq!((&mut wait).now_or_never().expect("timed out").expect_err("lapsed").kind(), Kind::Lapsed);
}

#[test]
fn an_ended_session_is_never_valid_again() {
    let (clock, lease) = lease();
    lease.extend(BootTime(1000));
    lease.end();
    lease.extend(BootTime(2000));
    assert!(!lease.valid(clock.now()));
    assert_eq!(lease.wait().now_or_never().expect("at once").expect_err("over").kind(), Kind::Lapsed);
}
