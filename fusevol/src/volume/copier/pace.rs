//! How the copier gives way to those who use the volume.
//!
//! ```text
//!  nobody reads or writes -> large pieces, some AUs beside each other, nothing waited for
//!  somebody does          -> small pieces, one at a time, and after each as long a rest as it took
//! ```
//! So an idle volume is copied as fast as its disks are, and a busy one at about half of that, behind no more than a small piece for each request.
//!
//! The data path sets a flag that is nearly always set already: it costs it one load.

use fusevol_shared::clock::BootTime;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// Bytes that are copied at once, of each AU, where nobody uses the volume.
const LARGE: u64 = 1 << 20;
/// And where somebody does: a slow disk's queue is short again within a millisecond or two.
const SMALL: u64 = 64 << 10;
/// Who has read or written uses the volume for so long.
const QUIET: Duration = Duration::from_millis(200);
/// The longest rest.
const REST: Duration = Duration::from_millis(100);

/// See the head of this file.
#[derive(Default)]
pub(in crate::volume) struct Pace {
    /// Somebody has read or written since it was looked last.
    used: AtomicBool,
    /// When that was seen last; nanoseconds of the boot clock, 0 where it never was.
    seen: AtomicU64,
    /// Held for each small piece and its rest.
    one: Mutex<()>,
}

/// What may be copied at once.
pub(super) struct Turn<'a> {
    /// Bytes.
    pub most: u64,
    /// Where somebody uses the volume: since when.
    begun: Option<(BootTime, MutexGuard<'a, ()>)>,
}

impl Pace {
    /// Somebody reads or writes.
    pub(in crate::volume) fn use_it(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody uses the volume.
    pub(super) fn is_used(&self, now: BootTime) -> bool {
        if self.used.swap(false, Ordering::Relaxed) {
            self.seen.store(now.0.max(1), Ordering::Relaxed);
        }
        let seen = self.seen.load(Ordering::Relaxed);
        seen > 0 && now < BootTime(seen).plus(QUIET)
    }

    /// The turn of the next piece; `now` reads the clock.
    pub(super) async fn turn(&self, now: impl Fn() -> BootTime) -> Turn<'_> {
        if !self.is_used(now()) {
            return Turn { most: LARGE, begun: None };
        }
        let one = self.one.lock().await;
        Turn { most: SMALL, begun: Some((now(), one)) }
    }
}

impl Turn<'_> {
    /// How long to rest before this turn is given up, the piece being copied now.
    pub(super) fn rest(&self, now: BootTime) -> Duration {
        self.begun.as_ref().map_or(Duration::ZERO, |(begun, _)| now.since(*begun).min(REST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const MS: u64 = 1_000_000;

    #[test]
    fn who_has_used_it_is_given_way_for_a_while() {
        let pace = Pace::default();
        let at = |ms: u64| BootTime(ms * MS);
        assert!(!pace.is_used(at(1)));
        pace.use_it();
        assert!(pace.is_used(at(10)) && pace.is_used(at(209)) && !pace.is_used(at(210)));
    }

    #[test]
    fn one_small_piece_at_a_time_and_as_long_a_rest() {
        let pace = Pace::default();
        let turn = |ms: u64| pace.turn(move || BootTime(ms * MS)).now_or_never();
        let (a, b) = (turn(1).expect("at once"), turn(1).expect("beside it"));
        assert_eq!((a.most, b.most, a.rest(BootTime(9 * MS))), (LARGE, LARGE, Duration::ZERO));
        pace.use_it();
        let a = turn(10).expect("at once");
        assert_eq!((a.most, a.rest(BootTime(13 * MS))), (SMALL, Duration::from_millis(3)));
        assert_eq!(a.rest(BootTime(10_000 * MS)), REST);
        assert!(turn(12).is_none(), "one at a time");
        drop(a);
        assert!(turn(13).is_some());
    }
}
