//! The disks that carry a session's slot, and the push that names others (PROTOCOL.md, "A slot that moves").
//!
//! ```text
//!  now: A, next: -   --clear SEAL durable on B, then one record-->   now: A, next: B   --the session has answered that it uses B-->   now: B, next: -
//! ```
//! Invariants: while there are two sets, nobody but the session knows which one it uses, so a SEAL counts only when a majority of *each* has it; a disk
//! that is in both has one page there, and so one generation.

#![allow(missing_docs)] // of the twins that rkyv derives; what is written here has its docs

use super::messages::DiskInfo;
use crate::format::slot::{SLOT_DISKS, majority};
use crate::ids::Generation;
use crate::units::DiskNo;
use rkyv::{Archive, Deserialize, Serialize};
use std::collections::BTreeSet;

/// A disk that carries a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct SlotDisk {
    /// Which.
    pub disk: DiskNo,
    /// The generation under which its clear SEAL was written there.
    pub opened: Generation,
}

/// Where a session's slot lies.
#[derive(Clone, PartialEq, Eq, Default, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct Slots {
    /// What the session uses, unless it has moved already; ascending.
    pub now: Vec<SlotDisk>,
    /// What it shall use; empty, unless it is being told.
    pub next: Vec<SlotDisk>,
    /// Moves that were begun.
    pub moves: u64,
}

/// Use these disks for your slot from now on, and answer: the former ones may be left alone then. One that is not younger than the last that was heard changes
/// nothing.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[rkyv(derive(Debug))]
pub struct MoveSlot {
    /// Which move of the session this is.
    pub no: u64,
    /// The disks that carry the slot.
    pub slots: Vec<SlotDisk>,
    /// What they are, without their paths: a session that was away may not have heard of each.
    pub disks: Vec<DiskInfo>,
}

fn is_set(set: &[SlotDisk]) -> bool {
    set.len() <= SLOT_DISKS && set.is_sorted_by(|a, b| a.disk < b.disk)
}

fn counts_in(set: &[SlotDisk], on: &impl Fn(DiskNo) -> bool) -> bool {
    set.iter().filter(|s| on(s.disk)).count() >= majority(set.len())
}

impl Slots {
    /// On these disks, under the generation that opens the session.
    #[must_use]
    pub fn new(disks: impl IntoIterator<Item = DiskNo>, opened: Generation) -> Self {
        Self { now: disks.into_iter().map(|disk| SlotDisk { disk, opened }).collect(), next: Vec::new(), moves: 0 }
    }

    /// All disks of which the session may use one; ascending.
    #[must_use]
    pub fn disks(&self) -> Vec<DiskNo> {
        self.each().map(|s| s.disk).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Each place; a disk that is in both sets comes twice.
    pub fn each(&self) -> impl Iterator<Item = &SlotDisk> {
        self.now.iter().chain(&self.next)
    }

    /// Whether the session is being told to use other disks.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        !self.next.is_empty()
    }

    /// Whether a SEAL counts that stands on these disks: whichever set the session uses, it hears one of them.
    #[must_use]
    pub fn counts(&self, on: impl Fn(DiskNo) -> bool) -> bool {
        counts_in(&self.now, &on) && (!self.is_moving() || counts_in(&self.next, &on))
    }

    /// Whether this fits together.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let same = |n: &SlotDisk| self.now.iter().all(|s| s.disk != n.disk || s.opened == n.opened);
        is_set(&self.now) && is_set(&self.next) && self.next.iter().all(same) && (self.moves > 0 || !self.is_moving())
    }

    /// The slot was opened anew by this generation, on every disk.
    pub fn reopen(&mut self, opened: Generation) {
        self.now.iter_mut().chain(&mut self.next).for_each(|s| s.opened = opened);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(disks: &[u16]) -> Vec<SlotDisk> {
        disks.iter().map(|d| SlotDisk { disk: DiskNo(*d), opened: Generation(1) }).collect()
    }

    #[test]
    fn a_seal_counts_where_either_set_would_hear_it() {
        let counts =
            |now: &[u16], next: &[u16], on: &[u16]| Slots { now: set(now), next: set(next), moves: 1 }.counts(|d| on.contains(&d.0));
        assert!(counts(&[0, 1, 2], &[], &[0, 1]) && !counts(&[0, 1, 2], &[], &[0]));
        assert!(counts(&[0, 1], &[], &[0, 1]) && !counts(&[0, 1], &[], &[1]));
        assert!(!counts(&[0, 1], &[1, 2], &[1, 2]), "the session may not have moved yet");
        assert!(!counts(&[0, 1], &[1, 2], &[0, 1]), "it may have");
        assert!(counts(&[0, 1], &[1, 2], &[0, 1, 2]));
        assert!(counts(&[0, 1, 2], &[1, 2, 3], &[1, 2]));
        assert!(!counts(&[0, 1, 2], &[1, 2, 3], &[0, 1]));
        assert!(!counts(&[], &[], &[]) && !counts(&[0], &[1], &[1]));
    }

    #[test]
    fn sets_fit_together() {
        let whole = Slots { now: set(&[0, 1]), next: set(&[1, 2]), moves: 1 };
        assert!(whole.is_whole() && whole.disks() == [DiskNo(0), DiskNo(1), DiskNo(2)]);
        assert!(!Slots { moves: 0, ..whole.clone() }.is_whole());
        assert!(!Slots { now: set(&[1, 0]), ..whole.clone() }.is_whole());
        assert!(!Slots { next: set(&[0, 1, 2, 3]), ..whole.clone() }.is_whole());
        let mut other = whole.clone();
        other.next[0].opened = Generation(2);
        assert!(!other.is_whole(), "one page cannot say two things");
        other.reopen(Generation(3));
        assert!(other.is_whole() && other.each().all(|s| s.opened == Generation(3)));
    }
}
