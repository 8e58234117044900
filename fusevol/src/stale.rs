//! What the kernel's page cache may hold of volumes and snapshots, and must not give any more: said here by whoever finds that out,
//! carried out by the mount's own thread (`fs::pages`).
//!
//! Pages of a volume are right while it is attached for writing here under a lease; those of a snapshot while it is whole. They become
//! stale when the lease runs out or the session ends (all of them), when the attachment ends, when a failed flush makes blocks count
//! as never written, when a volume is emptied; and when a snapshot is seen broken.
//!
//! Invariant: saying so never waits, and is never lost: what is said is a set, so it is bounded by what there is.

use fusevol_shared::ids::{SnapshotId, VolumeId};
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whose pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Whose {
    /// A volume's.
    Volume(VolumeId),
    /// A snapshot's.
    Snapshot(SnapshotId),
}

/// What is to be dropped at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// Everything.
    All,
    /// These.
    These(BTreeSet<Whose>),
}

#[derive(Default)]
struct State {
    all: bool,
    these: BTreeSet<Whose>,
    /// How often something was said, and up to which of these it was carried out.
    said: u64,
    done: u64,
    ended: bool,
}

/// What is stale.
#[derive(Default)]
pub struct Stale {
    state: Mutex<State>,
    changed: Condvar,
}

impl Stale {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, what: impl FnOnce(&mut State)) -> u64 {
        let mut s = self.state();
        what(&mut s);
        s.said += 1;
        self.changed.notify_all();
        s.said
    }

    /// All pages are.
    pub fn all(&self) {
        self.say(|s| s.all = true);
    }

    /// The pages of this one are.
    pub fn one(&self, whose: Whose) {
        self.say(|s| _ = s.these.insert(whose));
    }

    /// The same, and waits until they are gone, but not longer than `limit`. Whether they are.
    pub fn one_within(&self, whose: Whose, limit: Duration) -> bool {
        let said = self.say(|s| _ = s.these.insert(whose));
        let waits = |s: &mut State| s.done < said && !s.ended;
        let (s, _) = self.changed.wait_timeout_while(self.state(), limit, waits).unwrap_or_else(PoisonError::into_inner);
        s.done >= said
    }

    /// Gives what is to be dropped to `carry_out`, again and again, until [`Stale::end`].
    pub fn serve(&self, mut carry_out: impl FnMut(What)) {
        while let Some((what, said)) = self.next() {
            carry_out(what);
            self.state().done = said;
            self.changed.notify_all();
        }
    }

    /// What is to be dropped now, and up to which saying; `None` at the end.
    fn next(&self) -> Option<(What, u64)> {
        let nothing = |s: &mut State| !s.all && s.these.is_empty() && !s.ended;
        let mut s = self.changed.wait_while(self.state(), nothing).unwrap_or_else(PoisonError::into_inner);
        if s.ended {
            return None;
        }
        let these = std::mem::take(&mut s.these);
        let what = if std::mem::take(&mut s.all) { What::All } else { What::These(these) };
        Some((what, s.said))
    }

    /// Nothing is carried out any more.
    pub fn end(&self) {
        self.say(|s| s.ended = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn vol(n: u8) -> Whose {
        Whose::Volume(VolumeId([n; 16]))
    }

    #[test]
    fn what_is_said_is_carried_out_once_and_waited_for() {
        let stale = Stale::default();
        let mut dropped = Vec::new();
        std::thread::scope(|scope| {
            stale.one(vol(1));
            stale.one(vol(1));
            let server = scope.spawn(|| stale.serve(|what| dropped.push(what)));
            assert!(stale.one_within(vol(2), LIMIT));
            stale.all();
            assert!(stale.one_within(vol(3), LIMIT));
            stale.end();
            server.join().expect("no panic");
        });
        let first: Vec<Whose> =
            dropped.iter().flat_map(|d| if let What::These(t) = d { t.iter().copied().collect() } else { vec![] }).collect();
        assert!(first.starts_with(&[vol(1), vol(2)]) && first.iter().filter(|w| **w == vol(1)).count() == 1, "{dropped:?}");
        assert!(dropped.contains(&What::All), "{dropped:?}");
    }

    #[test]
    fn nobody_waits_for_what_is_not_carried_out() {
        let stale = Stale::default();
        assert!(!stale.one_within(vol(1), Duration::from_millis(1)), "nobody serves");
        stale.end();
        assert!(!stale.one_within(vol(1), LIMIT), "it has ended");
        stale.serve(|what| panic!("{what:?} after the end"));
    }
}
