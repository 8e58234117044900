//! The clock door. Durations are measured on the boot clock only, which does not jump and goes on in suspend;
//! it is never compared across hosts. Wall time is for people.

use std::time::Duration;

/// An instant on this host's boot clock (`CLOCK_BOOTTIME`), in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// `d` later.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier`; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Tells the time; a test stands in with its own.
pub trait Clock: Send + Sync {
    /// Now, on the boot clock.
    fn now(&self) -> BootTime;
    /// Now, in nanoseconds since 1970 UTC, for people.
    fn wall(&self) -> u64;
}

/// The kernel's clocks.
#[derive(Clone, Copy, Default, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> BootTime {
        BootTime(nanos(rustix::time::ClockId::Boottime))
    }
    fn wall(&self) -> u64 {
        nanos(rustix::time::ClockId::Realtime)
    }
}

fn nanos(id: rustix::time::ClockId) -> u64 {
    let t = rustix::time::clock_gettime(id);
    let (s, n) = (u64::try_from(t.tv_sec).unwrap_or(0), u64::try_from(t.tv_nsec).unwrap_or(0));
    s.saturating_mul(1_000_000_000).saturating_add(n)
}
