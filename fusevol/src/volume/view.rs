//! The map as the data path reads it: one immutable place with its masks for each AU, swapped as a whole.
//!
//! A [`Slot`] is one life of an AU in the map: *current*, then *retired* (it left the map). Looking one up takes no lock.
//! Whoever reads a disk under a slot pins it; a retired slot cannot be pinned any more, and [`MapView::drain`] returns
//! when its last pin is gone. So an AU that leaves the map is not read under the old map after that (PROTOCOL.md, R1).
//!
//! - `written`: blocks that read from disk; all others are zeros.
//! - `need`: blocks whose bytes a snapshot still needs and that are not preserved yet; a writer preserves them first.
//! - `changed`: blocks that were written or discarded in the current epoch, and not said to be so yet.
//! - *fresh*: bound under this attachment in this epoch: that counts as a mark.

use arc_swap::ArcSwapOption;
use fusevol_shared::map::{Leg, LegState, MapEntry, MapRun};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{DiskAu, VolAu};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

const CHUNK: u32 = 512;
const RETIRED: u32 = 1 << 31;

/// One life of an AU in the map.
pub struct Slot {
    first: Leg,
    more: Option<Box<[Leg]>>,
    written: AtomicU64,
    need: AtomicU64,
    changed: AtomicU64,
    fresh: AtomicBool,
    /// Number of pins, and `RETIRED`.
    pins: AtomicU32,
}

impl Slot {
    /// A slot for this entry; `need` as given.
    #[must_use]
    pub fn new(entry: &MapEntry, need: BlockMask) -> Self {
        let legs = entry.legs();
        Self {
            first: legs[0],
            more: (legs.len() > 1).then(|| legs[1..].into()),
            written: AtomicU64::new(entry.written.0),
            need: AtomicU64::new(need.0),
            changed: AtomicU64::new(0),
            fresh: AtomicBool::new(false),
            pins: AtomicU32::new(0),
        }
    }

    /// A slot of an AU that is bound now.
    #[must_use]
    pub fn fresh(entry: &MapEntry) -> Self {
        Self { fresh: AtomicBool::new(true), ..Self::new(entry, BlockMask::NONE) }
    }

    /// Whether it was bound under this attachment in this epoch.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    /// These are about to change.
    pub fn add_changed(&self, blocks: BlockMask) {
        if self.changed.load(Ordering::Relaxed) & blocks.0 != blocks.0 {
            self.changed.fetch_or(blocks.0, Ordering::SeqCst);
        }
    }

    /// What changed since the last call.
    #[must_use]
    pub fn take_changed(&self) -> BlockMask {
        BlockMask(self.changed.swap(0, Ordering::SeqCst))
    }

    /// The replicas.
    pub fn legs(&self) -> impl Iterator<Item = &Leg> {
        std::iter::once(&self.first).chain(self.more.iter().flatten())
    }

    /// The first replica in sync: what is read, and what a preserve record names.
    #[must_use]
    pub fn source(&self) -> DiskAu {
        self.legs().find(|l| l.state == LegState::InSync).unwrap_or(&self.first).at
    }

    /// Blocks that were written.
    #[must_use]
    pub fn written(&self) -> BlockMask {
        BlockMask(self.written.load(Ordering::SeqCst))
    }

    /// Blocks to preserve before they are overwritten.
    #[must_use]
    pub fn need(&self) -> BlockMask {
        BlockMask(self.need.load(Ordering::SeqCst))
    }

    /// These are preserved.
    pub fn preserved(&self, blocks: BlockMask) {
        self.need.fetch_and(!blocks.0, Ordering::SeqCst);
    }

    /// A snapshot needs these.
    pub fn add_need(&self, blocks: BlockMask) {
        self.need.fetch_or(blocks.0, Ordering::SeqCst);
    }

    /// A snapshot is taken: what is written now must be preserved from now on.
    pub fn freeze(&self) {
        self.fresh.store(false, Ordering::SeqCst);
        self.add_need(self.written());
    }

    /// No snapshot needs anything of it any more.
    pub fn forget_need(&self) {
        self.need.store(0, Ordering::SeqCst);
    }

    fn try_pin(&self) -> bool {
        if self.pins.fetch_add(1, Ordering::SeqCst) & RETIRED == 0 {
            return true;
        }
        self.pins.fetch_sub(1, Ordering::SeqCst);
        false
    }
}

/// A slot that is being read. Its AU stays readable until this is dropped.
pub struct Pin {
    slot: Arc<Slot>,
    drained: Arc<Notify>,
}

impl std::ops::Deref for Pin {
    type Target = Slot;
    fn deref(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.slot.pins.fetch_sub(1, Ordering::SeqCst) == RETIRED + 1 {
            self.drained.notify_waiters();
        }
    }
}

type Chunk = Box<[ArcSwapOption<Slot>]>;

/// The map of one attached volume.
pub struct MapView {
    aus: u32,
    chunks: Box<[OnceLock<Chunk>]>,
    /// Written blocks in the whole volume.
    blocks: AtomicI64,
    drained: Arc<Notify>,
}

impl MapView {
    /// An empty map of a volume of `aus` AUs.
    #[must_use]
    pub fn new(aus: u32) -> Self {
        let chunks = (0..aus.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Self { aus, chunks, blocks: AtomicI64::new(0), drained: Arc::new(Notify::new()) }
    }

    fn cell(&self, au: VolAu) -> Option<&ArcSwapOption<Slot>> {
        self.chunks.get((au.0 / CHUNK) as usize)?.get()?.get((au.0 % CHUNK) as usize)
    }

    /// The slot of `au`; `None` where it has no space.
    #[must_use]
    pub fn get(&self, au: VolAu) -> Option<Arc<Slot>> {
        self.cell(au)?.load_full()
    }

    /// The slot of `au` for reading.
    #[must_use]
    pub fn pin(&self, au: VolAu) -> Option<Pin> {
        let cell = self.cell(au)?;
        loop {
            let slot = cell.load_full()?;
            if slot.try_pin() {
                return Some(Pin { slot, drained: self.drained.clone() });
            }
            std::hint::spin_loop(); // retired between the two: the cell holds its successor already
        }
    }

    /// Replaces the slot of `au`; `None` takes it out of the map. Gives the retired one, to be drained.
    /// An AU past the end of the volume is left out.
    pub fn set(&self, au: VolAu, slot: Option<Arc<Slot>>) -> Option<Arc<Slot>> {
        if au.0 >= self.aus {
            return None;
        }
        let chunk = self.chunks.get((au.0 / CHUNK) as usize)?;
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| ArcSwapOption::empty()).collect());
        let count = |s: &Option<Arc<Slot>>| s.as_ref().map_or(0, |s| i64::from(s.written().count()));
        let after = count(&slot);
        let old = chunk[(au.0 % CHUNK) as usize].swap(slot);
        self.blocks.fetch_add(after - count(&old), Ordering::SeqCst);
        if let Some(o) = &old {
            o.pins.fetch_or(RETIRED, Ordering::SeqCst);
        }
        old
    }

    /// Returns when nobody reads under these retired slots any more.
    pub async fn drain(&self, retired: &[Arc<Slot>]) {
        for slot in retired {
            loop {
                let drained = self.drained.notified();
                let mut drained = std::pin::pin!(drained);
                drained.as_mut().enable();
                if slot.pins.load(Ordering::SeqCst) == RETIRED {
                    break;
                }
                drained.await;
            }
        }
    }

    /// Adds to the written mask of a slot of this map; gives what is new in it.
    pub fn add_written(&self, slot: &Slot, blocks: BlockMask) -> BlockMask {
        let new = blocks.minus(BlockMask(slot.written.fetch_or(blocks.0, Ordering::SeqCst)));
        self.blocks.fetch_add(i64::from(new.count()), Ordering::SeqCst);
        new
    }

    /// Takes from the written mask of a slot of this map.
    pub fn clear_written(&self, slot: &Slot, blocks: BlockMask) {
        let gone = blocks.and(BlockMask(slot.written.fetch_and(!blocks.0, Ordering::SeqCst)));
        self.blocks.fetch_sub(i64::from(gone.count()), Ordering::SeqCst);
    }

    /// Written blocks in the whole volume.
    #[must_use]
    pub fn written_blocks(&self) -> u64 {
        u64::try_from(self.blocks.load(Ordering::SeqCst)).unwrap_or(0)
    }

    /// The next AU from `from` on that has space, with its slot.
    #[must_use]
    pub fn next(&self, from: VolAu) -> Option<(VolAu, Arc<Slot>)> {
        let mut au = from.0;
        while au < self.aus {
            let Some(chunk) = self.chunks[(au / CHUNK) as usize].get() else {
                au = (au / CHUNK + 1).checked_mul(CHUNK)?;
                continue;
            };
            if let Some(slot) = chunk[(au % CHUNK) as usize].load_full() {
                return Some((VolAu(au), slot));
            }
            au += 1;
        }
        None
    }

    /// All AUs in `from..` that have space.
    pub fn iter_from(&self, from: VolAu) -> impl Iterator<Item = (VolAu, Arc<Slot>)> + '_ {
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
pub fn entries(runs: &[MapRun]) -> fusevol_shared::error::Result<Vec<(VolAu, MapEntry)>> {
    let mut out = Vec::new();
    for run in runs {
        let e = run.entries().ok_or_else(|| {
            fusevol_shared::error::Error::new(
                fusevol_shared::error::Kind::Damaged,
                "the manager sent a piece of map that does not fit together",
            )
        })?;
        out.extend(e);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
