//! Which one disk a mirrored volume can do without: what is asked of it need not wait once nobody reaches it.
//!
//! ```text
//!  None --every AU has all its copies--> Any --one disk is taken for dead, or given up--> Only(disk) --all copies again--> Any
//! ```
//! A writer is told by the manager what lacks copies; a reader counts in its map, which holds as long as no other disk is out for it.
//!
//! Invariant: of several disks that nobody reaches one is dead to a volume, not more: what only the others have is waited for.

use crate::out::OutSet;
use fusevol_shared::units::DiskNo;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Which {
    #[default]
    None,
    Any,
    Only(DiskNo),
}

/// Of one volume.
#[derive(Default)]
pub struct Spare {
    known: Mutex<Known>,
    /// What is out for a reader, and may have changed since it counted.
    reads: Option<Arc<OutSet>>,
}

#[derive(Default)]
struct Known {
    which: Which,
    /// Disks that were taken: what was counted before counts no more.
    taken: u64,
    /// The version of what was out, when a reader counted.
    version: u64,
}

impl Spare {
    /// Of a volume of which every AU has all its copies, or not.
    #[must_use]
    pub fn new(whole: bool) -> Self {
        let spare = Self::default();
        spare.counted(0, whole);
        spare
    }

    /// Of a reader for which this is out.
    #[must_use]
    pub fn of_reader(out: Arc<OutSet>) -> Self {
        Self { known: Mutex::default(), reads: Some(out) }
    }

    /// A reader has counted, when what is out had this version: each AU has a copy that is not out, and one more.
    pub fn counted_by_reader(&self, version: u64, whole: bool) {
        let mut k = self.known();
        (k.which, k.version) = (if whole { Which::Any } else { Which::None }, version);
    }

    /// A moment, before it is counted what copies there are.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.known().taken
    }

    /// It was counted since then: every AU has all its copies, or not.
    pub fn counted(&self, since: u64, whole: bool) {
        let mut k = self.known();
        if k.taken != since {
            return;
        }
        k.which = match k.which {
            _ if whole => Which::Any,
            Which::Any => Which::None,
            which => which,
        };
    }

    /// The volume does without this one.
    pub fn gives_up(&self, no: DiskNo) {
        let mut k = self.known();
        k.taken += 1;
        k.which = Which::Only(no);
    }

    /// Whether it can do without this one; if so, it is the one from now on.
    #[must_use]
    pub fn takes(&self, no: DiskNo) -> bool {
        let mut k = self.known();
        if let Some(out) = self.reads.as_ref().filter(|o| o.version() != k.version) {
            return out.has(no);
        }
        if k.which == Which::Any {
            k.taken += 1;
            k.which = Which::Only(no);
        }
        k.which == Which::Only(no)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_disks_one_is_spared() {
        let (spare, a, b) = (Spare::new(true), DiskNo(1), DiskNo(2));
        let before = spare.now();
        assert!(spare.takes(a) && spare.takes(a) && !spare.takes(b));
        spare.counted(before, true);
        assert!(!spare.takes(b), "that was counted while it still had the other one");
        spare.counted(spare.now(), false);
        assert!(spare.takes(a) && !spare.takes(b));
        spare.counted(spare.now(), true);
        assert!(spare.takes(b) && !spare.takes(a), "it has all its copies again");
        spare.gives_up(a);
        assert!(spare.takes(a) && !spare.takes(b));
    }

    #[test]
    fn what_is_out_for_a_reader_is_spared_and_nothing_else() {
        let (out, a, b) = (Arc::new(OutSet::default()), DiskNo(1), DiskNo(2));
        let spare = Spare::of_reader(out.clone());
        assert!(!spare.takes(a), "it has not counted");
        spare.counted_by_reader(out.version(), true);
        assert!(spare.takes(a) && !spare.takes(b));
        out.add(b);
        assert!(!spare.takes(a) && spare.takes(b), "what it counted is not so any more");
        spare.counted_by_reader(out.version(), false);
        assert!(!spare.takes(a) && !spare.takes(b));
    }

    #[test]
    fn what_lacks_copies_already_spares_none() {
        let spare = Spare::new(false);
        assert!(!spare.takes(DiskNo(0)));
        spare.counted(spare.now(), true);
        spare.counted(spare.now(), false);
        assert!(!spare.takes(DiskNo(0)));
    }
}
