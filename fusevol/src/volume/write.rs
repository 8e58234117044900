//! Writing: guard, bind out of the reserve, mark, preserve, write, set the written bits.
//!
//! What goes to disk is the request widened at its two ends: to whole blocks where the block was never written (zeros
//! around the data, W1), to whole pages otherwise (read, modify, write). All between is covered by the request itself.

use super::moved::{MOVES, late};
use super::view::Slot;
use super::{Volume, blocks_within};
use crate::control::Control;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::{IoBuf, IoBytes};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::map::AuMask;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{PAGE, PAGE_U64, VolAu, VolOff};
use smallvec::SmallVec;
use std::ops::Range;

/// How often a write is planned again because a failed flush took blocks away meanwhile.
const TRIES: u32 = 8;

impl<D: Disk, C: Control> Volume<D, C> {
    /// Writes `data` at `off`. Any alignment. Durable after a later [`Volume::flush`].
    ///
    /// # Errors
    /// `NoSpace` where the pool is full (a later write may succeed), `Io` where a disk of these bytes failed,
    /// `Refused` past the end, `Denied` on a volume attached for reading, `Lapsed` without a lease.
    pub async fn write(&self, off: u64, data: IoBytes) -> Result<()> {
        self.check_writable()?;
        let bytes = self.bounds(off, data.len() as u64)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let blocks = self.blocks_of(&bytes);
        {
            let _held = self.guard.lock(blocks.clone()).await?;
            self.check_writable()?;
            match self.write_locked(bytes.clone(), &data).await {
                Err(_) if self.late.touches(self.aus_of(&bytes)) => {}
                done => return done,
            }
        }
        Box::pin(self.write_elsewhere(bytes, &data)).await
    }

    /// Something that was written to these AUs did not return: they are moved, then the write is made again.
    async fn write_elsewhere(&self, bytes: Range<u64>, data: &IoBytes) -> Result<()> {
        for _ in 0..MOVES {
            self.move_late(self.aus_of(&bytes)).await?;
            let _held = self.guard.lock(self.blocks_of(&bytes)).await?;
            self.check_writable()?;
            match self.write_locked(bytes.clone(), data).await {
                Err(_) if self.late.touches(self.aus_of(&bytes)) => {}
                done => return done,
            }
        }
        Err(late())
    }

    /// Gives space to `off..off + len` without writing; what is unwritten still reads as zeros.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub async fn allocate(&self, off: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        let bytes = self.bounds(off, len)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let _held = self.guard.lock(self.blocks_of(&bytes)).await?;
        self.check_writable()?;
        self.engine.lease.wait().await?;
        self.bind(self.aus_of(&bytes), true).await
    }

    pub(super) fn aus_of(&self, bytes: &Range<u64>) -> Range<u32> {
        let au = |b: u64| VolOff(b).au(self.engine.au_size).0;
        au(bytes.start)..au(bytes.end - 1) + 1
    }

    /// The caller holds the guard of all blocks that `bytes` (not empty) touches.
    pub(super) async fn write_locked(&self, bytes: Range<u64>, data: &IoBytes) -> Result<()> {
        self.engine.lease.wait().await?;
        self.copying.pace.use_it();
        let aus = self.aus_of(&bytes);
        self.bind(aus.clone(), false).await?;
        if self.late.touches(aus.clone()) {
            return Err(late());
        }
        for _ in 0..TRIES {
            let losses = self.ledger.losses();
            let slots = aus.clone().map(|au| self.slot(VolAu(au))).collect::<Result<SmallVec<[_; 2]>>>()?;
            let outer = self.widen(&slots, &bytes);
            let overwrites = self.is_written(&slots, &outer);
            self.mark(aus.clone(), &slots).await?;
            self.preserve(&slots, &outer).await?;
            self.set_changed(&slots, &outer);
            let buf = self.assemble(&slots, &outer, &bytes, data).await?;
            self.put(&slots, outer.start, &buf).await?;
            self.engine.lease.wait().await?;
            // Nothing is new, and nothing was lost meanwhile: the journal knows all of it, or is about to.
            if overwrites && self.ledger.unchanged(losses) || self.ledger.add(losses, || self.set_written(&slots, &outer)) {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Io, "flushes of this volume's disks fail again and again"))
    }

    fn slot(&self, au: VolAu) -> Result<Slot<'_>> {
        self.view.get(au).ok_or_else(|| Error::new(Kind::Internal, format!("AU {au} lost its space under the guard of a write")))
    }

    /// Whether every block of `outer` is written.
    fn is_written(&self, slots: &[Slot<'_>], outer: &Range<u64>) -> bool {
        let mut parts = self.cut(outer.clone()).zip(slots);
        parts.all(|((_, within), slot)| BlockMask::range(blocks_within(self.engine.au_size, &within)).minus(slot.written()).is_empty())
    }

    /// What must be written so that every touched block is whole on disk.
    fn widen(&self, slots: &[Slot<'_>], bytes: &Range<u64>) -> Range<u64> {
        let block = self.block_size();
        let written = |at: u64, slot: Option<&Slot<'_>>| {
            let b = VolOff(at).within_au(self.engine.au_size) / block;
            slot.is_some_and(|s| s.written().has(u32::try_from(b).unwrap_or(u32::MAX)))
        };
        let grain = |at, slot| if written(at, slot) || !sentence::holds(Tag::W1) { PAGE_U64 } else { block };
        let head = grain(bytes.start, slots.first());
        let tail = grain(bytes.end - 1, slots.last());
        bytes.start / head * head..bytes.end.next_multiple_of(tail)
    }

    /// The bytes of `outer`: the data, and around it what is on disk (written blocks) or zeros.
    async fn assemble(&self, slots: &[Slot<'_>], outer: &Range<u64>, bytes: &Range<u64>, data: &IoBytes) -> Result<IoBytes> {
        if outer == bytes && (data.as_ptr() as usize).is_multiple_of(PAGE) {
            return Ok(data.clone());
        }
        Box::pin(self.widened(slots, outer, bytes, data)).await
    }

    async fn widened(&self, slots: &[Slot<'_>], outer: &Range<u64>, bytes: &Range<u64>, data: &IoBytes) -> Result<IoBytes> {
        let n = |x: u64| usize::try_from(x).expect("within a request");
        let mut buf = IoBuf::zeroed(n(outer.end - outer.start));
        if let Some(slot) = slots.first().filter(|_| !bytes.start.is_multiple_of(PAGE_U64)) {
            self.old_page(slot, bytes.start, outer, &mut buf).await?;
        }
        let tail_page = (bytes.end - 1) / PAGE_U64;
        let same = tail_page == bytes.start / PAGE_U64 && !bytes.start.is_multiple_of(PAGE_U64);
        if let Some(slot) = slots.last().filter(|_| !bytes.end.is_multiple_of(PAGE_U64) && !same) {
            self.old_page(slot, bytes.end - 1, outer, &mut buf).await?;
        }
        let at = n(bytes.start - outer.start);
        buf[at..at + data.len()].copy_from_slice(data);
        Ok(buf.freeze())
    }

    /// Reads the page around byte `at` into its place in `buf`, if its block is written.
    async fn old_page(&self, slot: &Slot<'_>, at: u64, outer: &Range<u64>, buf: &mut IoBuf) -> Result<()> {
        let page = at / PAGE_U64 * PAGE_U64;
        let within = VolOff(page).within_au(self.engine.au_size);
        let au = VolOff(page).au(self.engine.au_size);
        let old = self.read_copies(au, slot, slot.written(), within..within + PAGE_U64).await?;
        let to = usize::try_from(page - outer.start).expect("within a request");
        buf[to..to + PAGE].copy_from_slice(&old);
        Ok(())
    }

    fn set_changed(&self, slots: &[Slot<'_>], outer: &Range<u64>) {
        for ((_, within), slot) in self.cut(outer.clone()).zip(slots) {
            slot.add_changed(BlockMask::range(blocks_within(self.engine.au_size, &within)));
        }
    }

    /// Sets the bits of all blocks of `outer`; gives the new ones.
    fn set_written(&self, slots: &[Slot<'_>], outer: &Range<u64>) -> Vec<AuMask> {
        let mut new = Vec::new();
        for ((au, within), slot) in self.cut(outer.clone()).zip(slots) {
            let blocks = self.view.add_written(slot, BlockMask::range(blocks_within(self.engine.au_size, &within)));
            new.push(AuMask { au, blocks });
        }
        new
    }
}
