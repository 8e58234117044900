//! Waiting for a condition, with a limit that is generous enough for a busy machine.
#![allow(clippy::disallowed_methods)] // real processes live in real time

use std::time::{Duration, Instant};

/// Polls `condition` every 20 ms until it gives something.
///
/// # Panics
/// After `limit`, naming `what`.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(t) = condition() {
            return t;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Lets `d` pass.
pub fn pause(d: Duration) {
    std::thread::sleep(d);
}

/// How long `f` took.
pub fn timed<T>(f: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let t = f();
    (t, began.elapsed())
}
