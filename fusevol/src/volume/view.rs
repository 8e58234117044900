//! The map as the data path reads it: for each AU one word that says where it lies, one that says which of its blocks are written.
//!
//! A look-up is two loads; it takes no lock. What only some AUs have stands beside, in arrays that are made when they are first needed: second
//! and third legs, what a snapshot needs, what changed. So an AU of an unmirrored volume costs 16 bytes, 24 with a snapshot.
//!
//! - `written`: blocks that read from disk; all others are zeros.
//! - `need`: blocks whose bytes a snapshot still needs and that are not preserved yet; a writer preserves them first.
//! - `changed`: blocks that were written or discarded in the current epoch, and not said to be so yet.
//! - *fresh*: bound under this attachment in this epoch, and written since without a rest: that counts as a mark.
//!
//! Who reads a disk under the map holds a [`Pin`], and [`MapView::drain`] returns when every pin is gone that may have seen an AU before it left
//! the map (PROTOCOL.md, R1): see [`readers`]. Who writes holds the guard of its blocks; their AU does not leave meanwhile.
//!
//! What a pin shows of place and mask fits together: a place is looked at before and after the mask, and while it is pinned an AU that
//! leaves cannot come back at the same place, since it is given to nobody before the drain. A new life of an AU (a reader's only) sets
//! first what both lives have of the mask, then the place, then the mask: at the new place nothing is ever read that is not written there.

mod chunk;
mod readers;

use crate::out::OutSet;
use chunk::{CHUNK, Chunk, Word};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::map::{LEGS_MAX, Leg, LegState, MapEntry, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{DiskAu, DiskNo, VolAu};
use readers::{Readers, Reading};
use smallvec::SmallVec;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

/// An AU that has space, as a writer sees it: its place does not change while the guard of any of its blocks is held.
#[derive(Clone, Copy)]
pub struct Slot<'a> {
    chunk: &'a Chunk,
    at: usize,
    first: Word,
}

impl<'a> Slot<'a> {
    /// Whether it was bound under this attachment in this epoch.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.chunk.word(self.at).is_fresh()
    }

    /// These are about to change.
    pub fn add_changed(&self, blocks: BlockMask) {
        let changed = &self.chunk.changed()[self.at];
        if changed.load(Ordering::Relaxed) & blocks.0 != blocks.0 {
            changed.fetch_or(blocks.0, Ordering::SeqCst);
        }
    }

    /// What changed since the last call.
    #[must_use]
    pub fn take_changed(&self) -> BlockMask {
        BlockMask(self.chunk.changed_if_any().map_or(0, |c| c[self.at].swap(0, Ordering::SeqCst)))
    }

    /// The replicas.
    pub fn legs(&self) -> impl Iterator<Item = Leg> + use<'a> {
        let Slot { chunk, at, first } = *self;
        std::iter::once(chunk.leg(at, first)).chain(chunk.more_legs(at, first))
    }

    /// What names the AU: where its first leg lies.
    #[must_use]
    pub fn name(&self) -> DiskAu {
        self.first.place()
    }

    /// Whether it has more than one leg.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.first.legs() > 1
    }

    /// Those that are written.
    pub fn in_sync(&self) -> impl Iterator<Item = DiskAu> + use<'a> {
        self.legs().filter(|l| l.state == LegState::InSync).map(|l| l.at)
    }

    /// The first replica in sync on a disk that is not out: what is read, and what a resync copies.
    #[must_use]
    pub fn source(&self, out: &OutSet) -> DiskAu {
        if !self.has_more() || self.first.state() == LegState::InSync && out.is_untouched() {
            return self.first.place();
        }
        let out = out.disks();
        let in_sync = |out: &[DiskNo]| self.in_sync().find(|at| !out.contains(&at.disk));
        in_sync(&out).or_else(|| in_sync(&[])).unwrap_or(self.first.place())
    }

    /// The entry as it is now.
    #[must_use]
    pub fn entry(&self) -> Option<MapEntry> {
        MapEntry::new(&self.legs().collect::<SmallVec<[Leg; LEGS_MAX]>>(), self.written())
    }

    /// Blocks that were written.
    #[must_use]
    pub fn written(&self) -> BlockMask {
        BlockMask(self.chunk.written[self.at].load(Ordering::SeqCst))
    }

    /// Blocks to preserve before they are overwritten.
    #[must_use]
    pub fn need(&self) -> BlockMask {
        BlockMask(self.chunk.need_if_any().map_or(0, |n| n[self.at].load(Ordering::SeqCst)))
    }

    /// These are preserved.
    pub fn preserved(&self, blocks: BlockMask) {
        if let Some(need) = self.chunk.need_if_any() {
            need[self.at].fetch_and(!blocks.0, Ordering::SeqCst);
        }
    }

    /// A snapshot needs these.
    pub fn add_need(&self, blocks: BlockMask) {
        if !blocks.is_empty() {
            self.chunk.need()[self.at].fetch_or(blocks.0, Ordering::SeqCst);
        }
    }

    /// A snapshot is taken: what is written now must be preserved from now on.
    pub fn freeze(&self) {
        self.settle();
        self.add_need(self.written());
    }

    /// It has come to rest: who writes it from now on marks its region.
    pub fn settle(&self) {
        self.chunk.first[self.at].fetch_and(!Word::FRESH, Ordering::SeqCst);
    }

    /// No snapshot needs anything of it any more.
    pub fn forget_need(&self) {
        self.preserved(BlockMask::ALL);
    }
}

/// An AU that is being read: it stays readable until this is dropped.
pub struct Pin<'a> {
    slot: Slot<'a>,
    written: BlockMask,
    _reading: Reading<'a>,
}

impl Pin<'_> {
    /// Where it is read.
    #[must_use]
    pub fn source(&self, out: &OutSet) -> DiskAu {
        self.slot.source(out)
    }

    /// The AU as a writer sees it.
    #[must_use]
    pub fn slot(&self) -> &Slot<'_> {
        &self.slot
    }

    /// Blocks that were written, at that place.
    #[must_use]
    pub fn written(&self) -> BlockMask {
        self.written
    }
}

/// The map of one attached volume.
pub struct MapView {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
    aus: u32,
    /// Written blocks in all AUs.
    blocks: AtomicI64,
    readers: Readers,
}

impl MapView {
    /// An empty map of a volume of `aus` AUs.
    #[must_use]
    pub fn new(aus: u32) -> Self {
        let chunks = (0..aus.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Self { chunks, aus, blocks: AtomicI64::new(0), readers: Readers::default() }
    }

    /// AUs of the volume.
    #[must_use]
    pub fn aus(&self) -> u32 {
        self.aus
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().filter_map(OnceLock::get).map(|c| c.bytes()).sum();
        size_of_val(&*self.chunks) + chunks + self.readers.bytes()
    }

    fn chunk(&self, au: VolAu) -> Option<(&Chunk, usize)> {
        let chunk = self.chunks.get((au.0 / CHUNK) as usize)?.get()?;
        Some((chunk, (au.0 % CHUNK) as usize))
    }

    /// The AU, if it has space. For who holds the guard of a block of it, or needs no more than a glance.
    #[must_use]
    pub fn get(&self, au: VolAu) -> Option<Slot<'_>> {
        let (chunk, at) = self.chunk(au)?;
        let first = chunk.word(at);
        first.is_present().then_some(Slot { chunk, at, first })
    }

    /// The AU for a reader, if it has space.
    #[must_use]
    pub fn pin(&self, au: VolAu) -> Option<Pin<'_>> {
        let (chunk, at) = self.chunk(au)?;
        let reading = self.readers.enter(au);
        let mut first = chunk.word(at);
        // An AU changes at most once under a pin: it leaves, or gets space; so this turns at most twice.
        loop {
            let written = BlockMask(chunk.written[at].load(Ordering::SeqCst));
            let again = chunk.word(at);
            if again.same_place(first) {
                let slot = Slot { chunk, at, first };
                return first.is_present().then_some(Pin { slot, written, _reading: reading });
            }
            first = again;
        }
    }

    /// `au` has this space from now on; an AU past the end of the volume is left out.
    pub fn set(&self, au: VolAu, entry: &MapEntry) {
        self.put(au, entry, false);
    }

    /// The same for an AU that is bound now.
    pub fn set_fresh(&self, au: VolAu, entry: &MapEntry) {
        self.put(au, entry, true);
    }

    fn put(&self, au: VolAu, entry: &MapEntry, fresh: bool) {
        if au.0 >= self.aus {
            return;
        }
        let chunk = self.chunks[(au.0 / CHUNK) as usize].get_or_init(Chunk::new);
        let before = chunk.put((au.0 % CHUNK) as usize, entry, fresh);
        self.blocks.fetch_add(i64::from(entry.written.count()) - i64::from(before.count()), Ordering::SeqCst);
    }

    /// Takes `au` out of the map. Whoever may still read it is [waited for](Self::drain).
    pub fn clear(&self, au: VolAu) {
        if let Some((chunk, at)) = self.chunk(au) {
            let before = chunk.clear(at);
            self.blocks.fetch_sub(i64::from(before.count()), Ordering::SeqCst);
        }
    }

    /// Returns when nobody reads these AUs any more as they were before this was called.
    pub async fn drain(&self, aus: impl IntoIterator<Item = VolAu>) {
        self.readers.drain(aus).await;
    }

    /// Adds to the written mask of an AU; gives what is new in it.
    pub fn add_written(&self, slot: &Slot<'_>, blocks: BlockMask) -> BlockMask {
        let new = blocks.minus(BlockMask(slot.chunk.written[slot.at].fetch_or(blocks.0, Ordering::SeqCst)));
        if !new.is_empty() {
            self.blocks.fetch_add(i64::from(new.count()), Ordering::SeqCst);
        }
        new
    }

    /// Takes from the written mask of an AU.
    pub fn clear_written(&self, slot: &Slot<'_>, blocks: BlockMask) {
        let gone = blocks.and(BlockMask(slot.chunk.written[slot.at].fetch_and(!blocks.0, Ordering::SeqCst)));
        self.blocks.fetch_sub(i64::from(gone.count()), Ordering::SeqCst);
    }

    /// Written blocks in the whole volume.
    #[must_use]
    pub fn written_blocks(&self) -> u64 {
        u64::try_from(self.blocks.load(Ordering::SeqCst)).unwrap_or(0)
    }

    /// Something is written to `au` that its legs on these disks miss: see [`MapEntry::missed_by`].
    pub fn miss(&self, au: VolAu, out: &[DiskNo]) {
        let Some(slot) = self.get(au).filter(Slot::has_more) else { return };
        let Some(entry) = slot.entry() else { return };
        for (n, (is, was)) in entry.missed_by(out).legs().iter().zip(entry.legs()).enumerate() {
            if is.state != was.state {
                slot.chunk.set_stale(slot.at, slot.first, n);
            }
        }
    }

    /// The next AU from `from` on that has space.
    #[must_use]
    pub fn next(&self, from: VolAu) -> Option<(VolAu, Slot<'_>)> {
        let mut au = from.0;
        while au < self.aus {
            let Some(chunk) = self.chunks[(au / CHUNK) as usize].get() else {
                au = (au / CHUNK + 1).checked_mul(CHUNK)?;
                continue;
            };
            let at = (au % CHUNK) as usize;
            let first = chunk.word(at);
            if first.is_present() {
                return Some((VolAu(au), Slot { chunk, at, first }));
            }
            au += 1;
        }
        None
    }

    /// All AUs in `from..` that have space.
    pub fn iter_from(&self, from: VolAu) -> impl Iterator<Item = (VolAu, Slot<'_>)> {
        let mut at = Some(from);
        std::iter::from_fn(move || {
            let (au, slot) = self.next(at?)?;
            at = au.0.checked_add(1).map(VolAu);
            Some((au, slot))
        })
    }
}

/// The entries of runs from the manager; one that does not fit together is left out by none: it is an error.
///
/// # Errors
/// `Damaged` where a run is malformed.
pub fn entries(runs: &[MapRun]) -> Result<Vec<(VolAu, MapEntry)>> {
    let mut out = Vec::new();
    for run in runs {
        out.extend(run.entries().ok_or_else(malformed)?);
    }
    Ok(out)
}

/// A piece of map does not fit together.
pub(crate) fn malformed() -> Error {
    Error::new(Kind::Damaged, "the manager sent a piece of map that does not fit together")
}

#[cfg(test)]
mod tests;
