//! What this attachment has done and its journal does not say yet: written bits, and AUs bound out of the reserve.
//!
//! A bit is *pending* (its write has completed), then *taken* (a flush that was submitted after that covers it), then
//! *appended* (forgotten here). A failed append makes taken bits pending again; a failed flush *loses* them: the block
//! counts as never written, so that bytes which perhaps never arrived are not journaled by a later flush.
//! A bit is taken before the flush is submitted, so only complete data is journaled (PROTOCOL.md, J1); a binding goes with the
//! first bit of its AU, or before its discard, or where space was asked for without data.
//!
//! A write that brings no new bit (all its blocks were written before) adds nothing here: [`Ledger::unchanged`] is all it asks. The
//! number of losses is odd while bits are being lost and even otherwise; the losing flush makes it odd *before* it clears any bit of the
//! map. So a writer that read an even number, then planned on bits that it found set, then wrote, and then finds the same number, did
//! all of this before the loss began: its acknowledgement stands before the failure in the order of things, as one does that went
//! through the lock. One that finds another number, or began on an odd one, plans again. (All of it is `SeqCst`: were a bit cleared
//! before the writer's look, so was the number changed.)
//!
//! Pages are taken, appended and given back, and discards made, under the volume's turn: so no written bit follows the discard of
//! its block, and none is under way when a block is discarded.

use fusevol_shared::change::Entry;
use fusevol_shared::map::{AuMask, Leg, MapEntry, VolumeMap};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{DiskAu, VolAu};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Set = BTreeMap<VolAu, BlockMask>;

#[derive(Default)]
struct State {
    pending: Set,
    taken: Set,
    /// Bound, and not journaled as bound.
    bound: BTreeMap<VolAu, Vec<DiskAu>>,
    /// Those of them of which that may be said without any bit.
    plain: BTreeSet<VolAu>,
}

impl State {
    /// The binding of `au`, which the journal is about to know.
    fn unbind(&mut self, au: VolAu) -> Option<Vec<DiskAu>> {
        self.plain.remove(&au);
        self.bound.remove(&au)
    }
}

/// What one append takes from the ledger. Given back by [`Ledger::appended`] or [`Ledger::put_back`].
#[derive(Default, Debug)]
pub struct Page {
    bound: Vec<(VolAu, Vec<DiskAu>)>,
    written: Vec<AuMask>,
}

impl Page {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.written.is_empty()
    }

    /// It as entries of the journal.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let mut out = bound_entries(&self.bound);
        if !self.written.is_empty() {
            out.push(Entry::Written { masks: self.written.clone() });
        }
        out
    }
}

/// The bindings as one entry; none where there are none.
#[must_use]
pub fn bound_entries(bound: &[(VolAu, Vec<DiskAu>)]) -> Vec<Entry> {
    let mut map = VolumeMap::default();
    for (au, places) in bound {
        let legs: Vec<Leg> = places.iter().map(|p| Leg::single(*p)).collect();
        map.set(*au, MapEntry::new(&legs, BlockMask::NONE));
    }
    let (runs, _) = map.runs(VolAu(0), usize::MAX);
    if runs.is_empty() { Vec::new() } else { vec![Entry::Bound { runs }] }
}

/// The ledger of one attachment.
#[derive(Default)]
pub struct Ledger {
    state: Mutex<State>,
    /// Twice the number of flushes that lost bits; one more while one does. Changed under the lock only.
    losses: AtomicU64,
}

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

impl Ledger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bind` chooses a place for `au` and puts it into the map, unless it is there already: one at a time. Gives whether it did.
    pub fn bind<E>(&self, au: VolAu, plain: bool, bind: impl FnOnce() -> Result<Option<Vec<DiskAu>>, E>) -> Result<(), E> {
        let mut s = self.state();
        if let Some(places) = bind()? {
            s.bound.insert(au, places);
        }
        if plain && s.bound.contains_key(&au) {
            s.plain.insert(au);
        }
        Ok(())
    }

    /// Stands for how often bits were lost: a writer looks before it plans, and gives the number to [`Ledger::unchanged`] or
    /// [`Ledger::add`].
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::SeqCst)
    }

    /// Whether no bit was lost since `losses`, nor was one being lost then. A writer of blocks that were all written when it planned, and
    /// whose write is complete, is done if so; otherwise it goes on to [`Ledger::add`].
    #[must_use]
    pub fn unchanged(&self, losses: u64) -> bool {
        losses.is_multiple_of(2) && self.losses() == losses
    }

    /// Runs `set` (which sets bits of a map and gives the new ones) and makes these pending, unless bits were lost since `losses`
    /// (or were being lost then): then nothing is done, `false` is the answer, and the writer plans again.
    #[must_use]
    pub fn add(&self, losses: u64, set: impl FnOnce() -> Vec<AuMask>) -> bool {
        let mut s = self.state();
        if !self.unchanged(losses) {
            return false;
        }
        for m in set() {
            add(&mut s.pending, m.au, m.blocks);
        }
        true
    }

    /// Takes all pending bits.
    pub fn take(&self) {
        let mut s = self.state();
        if s.taken.is_empty() {
            s.taken = std::mem::take(&mut s.pending);
        }
        for (au, m) in std::mem::take(&mut s.pending) {
            add(&mut s.taken, au, m);
        }
    }

    /// Up to `limit` AUs of what is taken or bound plainly, for one append.
    #[must_use]
    pub fn page(&self, limit: usize) -> Page {
        let mut s = self.state();
        let written: Vec<AuMask> = s.taken.iter().take(limit).map(|(au, blocks)| AuMask { au: *au, blocks: *blocks }).collect();
        let room = limit.saturating_sub(written.len());
        let plain = s.plain.iter().filter(|au| !s.taken.contains_key(au)).copied().take(room);
        let aus: Vec<VolAu> = written.iter().map(|m| m.au).chain(plain).collect();
        let bound = aus.into_iter().filter_map(|au| Some((au, s.unbind(au)?))).collect();
        Page { bound, written }
    }

    /// Up to `limit` bindings that the journal does not know, whether anything is written in them or not.
    #[must_use]
    pub fn bindings(&self, limit: usize) -> Page {
        let mut s = self.state();
        let aus: Vec<VolAu> = s.bound.keys().take(limit).copied().collect();
        let bound = aus.into_iter().filter_map(|au| Some((au, s.unbind(au)?))).collect();
        Page { bound, written: Vec::new() }
    }

    /// The journal has not got these bindings.
    pub fn put_back_bindings(&self, page: Page) {
        let mut s = self.state();
        for (au, places) in page.bound {
            s.bound.entry(au).or_insert(places);
            s.plain.insert(au);
        }
    }

    /// The journal has it.
    pub fn appended(&self, page: &Page) {
        let mut s = self.state();
        page.written.iter().for_each(|m| remove(&mut s.taken, m.au, m.blocks));
    }

    /// The append failed: the next flush takes everything again.
    pub fn put_back(&self, page: Page) {
        let mut s = self.state();
        for (au, m) in std::mem::take(&mut s.taken) {
            add(&mut s.pending, au, m);
        }
        drop(s);
        self.put_back_bindings(page);
    }

    /// The flush failed. The taken bits of which `lost` says so (it clears them in the map, too) are forgotten; the others go back.
    pub fn lose(&self, mut lost: impl FnMut(AuMask) -> bool) {
        let mut s = self.state();
        self.losses.fetch_add(1, Ordering::SeqCst); // odd, before any bit is cleared
        for (au, blocks) in std::mem::take(&mut s.taken) {
            if !lost(AuMask { au, blocks }) {
                add(&mut s.pending, au, blocks);
            }
        }
        self.losses.fetch_add(1, Ordering::SeqCst);
    }

    /// These blocks are discarded: nothing of them is journaled any more. Gives what is to be appended: the bindings that the journal
    /// does not know yet, then the discard.
    #[must_use]
    pub fn discard(&self, cleared: Vec<AuMask>) -> Vec<Entry> {
        let mut s = self.state();
        let mut bound = Vec::new();
        for m in &cleared {
            remove(&mut s.pending, m.au, m.blocks);
            remove(&mut s.taken, m.au, m.blocks);
            if let Some(places) = s.unbind(m.au) {
                bound.push((m.au, places));
            }
        }
        let mut entries = bound_entries(&bound);
        entries.push(Entry::Discarded { cleared });
        entries
    }

    /// This AU moves: what is to be appended before that, the binding that the journal does not know yet. Bits that it does not know stay so.
    #[must_use]
    pub fn moved(&self, au: VolAu) -> Vec<Entry> {
        self.state().unbind(au).map_or_else(Vec::new, |places| bound_entries(&[(au, places)]))
    }

    /// Blocks of `au` that the journal does not know.
    #[cfg(test)]
    pub fn unsaid(&self, au: VolAu) -> BlockMask {
        let s = self.state();
        let of = |set: &Set| set.get(&au).copied().unwrap_or_default();
        of(&s.pending).or(of(&s.taken))
    }
}

#[cfg(test)]
mod tests;
