//! Which flush covers which write, where a path has lives (PROTOCOL.md, P1): a connection that is lost takes with it what was written and not
//! flushed, perhaps (its server was restarted). So a flush covers a write only if the connection by which it goes was up since before
//! the write was submitted: if that connection still stands, so does the server that had the write.
//!
//! One disk's clock, of this process alone: it moves on when a connection is first *known* to be up, one of this process or one of the manager's
//! (which has told so). A write is submitted at a [`Stamp`]; a connection is known since one. Paths without lives are known since ever.
//!
//! A flush that a disk has failed moves the clock on, too: what was submitted before is in doubt for whoever wrote it, once.

use fusevol_shared::ids::{Generation, Life};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A moment of one disk's clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Before everything.
    pub const EVER: Self = Self(0);
    /// After everything: nothing was written.
    pub const NEVER: Self = Self(u64::MAX);
}

/// One life of a manager's path.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ManagerLife {
    /// Which manager.
    pub generation: Generation,
    /// Its number for it.
    pub life: Life,
}

/// The clock of one disk, and since when its connections are known.
#[derive(Debug)]
pub struct Lives {
    now: AtomicU64,
    /// The direct one.
    direct: AtomicU64,
    /// The manager's that was told last.
    manager: Mutex<Option<(ManagerLife, Stamp)>>,
    /// A flush failed then.
    failed: AtomicU64,
}

impl Default for Lives {
    fn default() -> Self {
        Self { now: AtomicU64::new(1), direct: AtomicU64::new(0), manager: Mutex::default(), failed: AtomicU64::new(0) }
    }
}

impl Lives {
    /// For a write that is about to be submitted.
    #[must_use]
    pub fn now(&self) -> Stamp {
        Stamp(self.now.load(Ordering::SeqCst))
    }

    fn next(&self) -> Stamp {
        Stamp(self.now.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// The direct path is another one. Said before it is used.
    pub fn opened(&self, life: Life) {
        let since = if life.is_lasting() { Stamp::EVER } else { self.next() };
        self.direct.store(since.0, Ordering::SeqCst);
    }

    /// Since when the direct path is up. Asked after it was looked up: it is that one's, or a later one's.
    #[must_use]
    pub fn direct(&self) -> Stamp {
        Stamp(self.direct.load(Ordering::SeqCst))
    }

    /// The manager has, or had a moment ago, this path. Gives since when it is known.
    pub fn heard(&self, told: ManagerLife) -> Stamp {
        let mut manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        match *manager {
            Some((known, since)) if known == told => since,
            _ => {
                let since = if told.life.is_lasting() { Stamp::EVER } else { self.next() };
                *manager = Some((told, since));
                since
            }
        }
    }

    /// Whether what goes through the manager outlives its path. Where that is not known it does not.
    #[must_use]
    pub fn manager_lasts(&self) -> bool {
        let manager = self.manager.lock().unwrap_or_else(PoisonError::into_inner);
        manager.is_some_and(|(m, _)| m.life.is_lasting())
    }

    /// A flush failed.
    pub fn flush_failed(&self) {
        let at = self.next();
        self.failed.fetch_max(at.0, Ordering::SeqCst);
    }

    /// Whether a flush has failed since then.
    #[must_use]
    pub fn has_failed_since(&self, since: Stamp) -> bool {
        since.0 < self.failed.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(generation: u64, life: u64) -> ManagerLife {
        ManagerLife { generation: Generation(generation), life: Life(life) }
    }

    #[test]
    fn a_connection_covers_what_was_written_after_it_was_known() {
        let lives = Lives::default();
        assert!(lives.direct() <= lives.now(), "the first path is there before anything is written");
        let managers = lives.heard(of(1, 5));
        let write = lives.now();
        assert!(managers <= write && lives.heard(of(1, 5)) == managers, "told again, it is the same");
        lives.opened(Life(9));
        assert!(lives.direct() > write, "one that is opened later does not");
        assert!(lives.heard(of(1, 6)) > write && lives.heard(of(2, 6)) > write, "nor does another of the manager's, or another manager's");
        assert!(lives.direct() <= lives.now());
    }

    #[test]
    fn a_path_without_lives_covers_everything() {
        let lives = Lives::default();
        assert!(!lives.manager_lasts(), "nothing is known of it");
        let write = lives.now();
        lives.opened(Life::LASTING);
        assert!(lives.direct() <= write && lives.heard(of(7, 0)) <= write && lives.manager_lasts());
    }

    #[test]
    fn a_failed_flush_concerns_what_was_written_before() {
        let lives = Lives::default();
        let before = lives.now();
        lives.flush_failed();
        assert!(lives.has_failed_since(before) && !lives.has_failed_since(lives.now()));
    }
}
