//! Written bits that the manager does not know yet.
//!
//! A bit is *pending* (its write has completed), then *taken* (a flush that was submitted after that covers it), then
//! *reported* (forgotten here). A failed report makes taken bits pending again; a failed flush *loses* them: the block
//! counts as never written, so that bytes which perhaps never arrived are not reported by a later flush.
//! A bit is taken before the flush is submitted, so only complete data is reported (PROTOCOL.md, J1).
//! Discards remove bits in the same critical section in which no report is sent, so no report follows its discard.

use fusevol_shared::map::AuMask;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::VolAu;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Set = BTreeMap<VolAu, BlockMask>;

#[derive(Default)]
struct State {
    pending: Set,
    taken: Set,
    /// Flushes that lost bits.
    losses: u64,
}

/// The bits of one attachment.
#[derive(Default)]
pub struct Marks(Mutex<State>);

fn add(set: &mut Set, au: VolAu, blocks: BlockMask) {
    if !blocks.is_empty() {
        let m = set.entry(au).or_default();
        *m = m.or(blocks);
    }
}

fn remove(set: &mut Set, au: VolAu, blocks: BlockMask) {
    if let Some(m) = set.get_mut(&au) {
        *m = m.minus(blocks);
        if m.is_empty() {
            set.remove(&au);
        }
    }
}

impl Marks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often bits were lost: a writer looks before it plans, and gives the number to [`Marks::add`].
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.state().losses
    }

    /// Runs `set` (which sets bits of a map and gives the new ones) and makes these pending, unless bits were lost
    /// since `losses`: then nothing is done, `false` is the answer, and the writer plans again.
    #[must_use]
    pub fn add(&self, losses: u64, set: impl FnOnce() -> Vec<AuMask>) -> bool {
        let mut s = self.state();
        if s.losses != losses {
            return false;
        }
        for m in set() {
            add(&mut s.pending, m.au, m.blocks);
        }
        true
    }

    /// Takes all pending bits; whether there is anything to report.
    #[must_use]
    pub fn take(&self) -> bool {
        let mut s = self.state();
        for (au, m) in std::mem::take(&mut s.pending) {
            add(&mut s.taken, au, m);
        }
        !s.taken.is_empty()
    }

    /// Up to `limit` taken AUs, for one report. They stay taken until [`Marks::reported`].
    #[must_use]
    pub fn page(&self, limit: usize) -> Vec<AuMask> {
        self.state().taken.iter().take(limit).map(|(au, blocks)| AuMask { au: *au, blocks: *blocks }).collect()
    }

    /// The manager has them.
    pub fn reported(&self, page: &[AuMask]) {
        let mut s = self.state();
        page.iter().for_each(|m| remove(&mut s.taken, m.au, m.blocks));
    }

    /// The report failed: the next flush takes them again.
    pub fn put_back(&self) {
        let mut s = self.state();
        for (au, m) in std::mem::take(&mut s.taken) {
            add(&mut s.pending, au, m);
        }
    }

    /// The flush failed. The taken bits of which `lost` says so (it clears them in the map, too) are forgotten; the others go back.
    pub fn lose(&self, mut lost: impl FnMut(AuMask) -> bool) {
        let mut s = self.state();
        s.losses += 1;
        for (au, blocks) in std::mem::take(&mut s.taken) {
            if !lost(AuMask { au, blocks }) {
                add(&mut s.pending, au, blocks);
            }
        }
    }

    /// These blocks are discarded: nothing of them is reported any more.
    pub fn forget(&self, m: AuMask) {
        let mut s = self.state();
        remove(&mut s.pending, m.au, m.blocks);
        remove(&mut s.taken, m.au, m.blocks);
    }

    /// Blocks of `au` that the manager does not know.
    #[cfg(test)]
    pub fn unreported(&self, au: VolAu) -> BlockMask {
        let s = self.state();
        let of = |set: &Set| set.get(&au).copied().unwrap_or_default();
        of(&s.pending).or(of(&s.taken))
    }
}

#[cfg(test)]
mod tests;
