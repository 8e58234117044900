//! Discard and zero-range: whole blocks leave the map of written blocks, partial ones are written as zeros, AUs that
//! keep no block go back to the pool.
//!
//! An AU that will leave the map is taken out here first, its readers are waited for, then that is appended to the journal: it is
//! durable then, and the manager, once it has folded it, may hand the AU on as soon as every other holder has answered. What was
//! discarded is never used again from here.
//! The guard covers whole AUs, so that no write sets a bit in an AU that is about to leave.

use super::moved::{MOVES, late};
use super::view::Slot;
use super::{Volume, blocks_within};
use crate::control::Control;
use fusevol_shared::disk::Disk;
use fusevol_shared::disk::buf::IoBuf;
use fusevol_shared::error::Result;
use fusevol_shared::map::AuMask;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{VolAu, VolOff};
use fusevol_shared::wire::messages::APPEND_WEIGHT;
use std::ops::Range;

/// AUs of one append: each weighs its binding and its discard.
const AUS_PER_PAGE: usize = APPEND_WEIGHT / 16;

/// What is done to one AU.
struct Step<'a> {
    au: VolAu,
    slot: Slot<'a>,
    cleared: BlockMask,
    /// It keeps no block: it leaves the map. A full `cleared` says so, and nothing else: the catalog does not know of blocks that
    /// are not journaled yet.
    leaves: bool,
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// `off..off + len` reads as zeros from now on, and its space goes back to the pool where whole AUs are free.
    /// Any alignment; cut at the end of the volume. Durable when it returns.
    ///
    /// # Errors
    /// As [`Volume::write`]. After an error the range holds the old bytes or zeros.
    pub async fn discard(&self, off: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        let bytes = off..off.saturating_add(len).min(self.size);
        if bytes.is_empty() {
            return Ok(());
        }
        let per_au = self.engine.au_size.bytes() / self.block_size();
        let blocks = self.blocks_of(&bytes);
        let held = blocks.start / per_au * per_au..blocks.end.next_multiple_of(per_au);
        let aus = self.aus_of(&bytes);
        for n in 0.. {
            self.move_late(aus.clone()).await?;
            let _held = self.guard.lock(held.clone()).await?;
            self.check_writable()?;
            match self.discard_locked(&bytes).await {
                _ if self.late.touches(aus.clone()) && n < MOVES => {}
                done => return done,
            }
        }
        Err(late())
    }

    /// The caller holds every block of its AUs.
    async fn discard_locked(&self, bytes: &Range<u64>) -> Result<()> {
        if self.late.touches(self.aus_of(bytes)) {
            return Err(late());
        }
        let whole = self.zero_edges(bytes).await?;
        if whole != *bytes {
            // Edges are written as zeros, and a discard is durable when it returns. What others wrote is told to who flushes.
            self.flush_unasked().await?;
        }
        let mut from = whole.start;
        // Each turn takes at most one append's AUs; a volume has at most 2^32.
        while from < whole.end {
            from = self.discard_some(from..whole.end).await?;
        }
        self.engine.lease.wait().await
    }

    /// The same: a range of zeros needs no space.
    ///
    /// # Errors
    /// As [`Volume::discard`].
    pub async fn zero(&self, off: u64, len: u64) -> Result<()> {
        self.discard(off, len).await
    }

    /// Writes zeros into the partial blocks at both ends; gives the whole blocks between, in bytes.
    async fn zero_edges(&self, bytes: &Range<u64>) -> Result<Range<u64>> {
        let block = self.block_size();
        let first = bytes.start.next_multiple_of(block);
        // The last block of the volume may be short: it is whole where the volume ends.
        let end = if bytes.end == self.size { bytes.end.next_multiple_of(block) } else { bytes.end / block * block };
        if first >= end {
            self.zero_edge(bytes.start..bytes.end.min(first)).await?;
            self.zero_edge(first..bytes.end).await?;
            return Ok(first..first);
        }
        self.zero_edge(bytes.start..first).await?;
        self.zero_edge(end..bytes.end).await?;
        Ok(first..end)
    }

    /// Part of one block; nothing to do where it is unwritten.
    async fn zero_edge(&self, part: Range<u64>) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let size = self.engine.au_size;
        let b = u32::try_from(VolOff(part.start).within_au(size) / self.block_size()).unwrap_or(u32::MAX);
        if !self.view.get(VolOff(part.start).au(size)).is_some_and(|s| s.written().has(b)) {
            return Ok(());
        }
        let zeros = IoBuf::zeroed(usize::try_from(part.end - part.start).expect("part of a block")).freeze();
        self.write_locked(part, &zeros).await
    }

    /// Discards whole blocks from the start of `whole` on, as many as one append takes; gives where to go on.
    async fn discard_some(&self, whole: Range<u64>) -> Result<u64> {
        let (steps, next) = self.plan_discard(whole);
        if steps.is_empty() {
            return Ok(next);
        }
        self.engine.lease.wait().await?;
        let _turn = self.turn.lock().await;
        for s in &steps {
            if s.leaves {
                self.view.clear(s.au);
            } else {
                self.view.clear_written(&s.slot, s.cleared);
            }
        }
        self.view.drain(steps.iter().filter(|s| s.leaves).map(|s| s.au)).await;
        let cleared = steps.iter().map(|s| AuMask { au: s.au, blocks: s.cleared }).collect();
        // The map here is ahead of the journal now: where that cannot follow, nothing more is written under this attachment.
        self.log()?.append(self.ledger.discard(cleared)).await.inspect_err(|_| self.poison())?.clear()?;
        Ok(next)
    }

    fn plan_discard(&self, whole: Range<u64>) -> (Vec<Step<'_>>, u64) {
        let size = self.engine.au_size;
        let mut steps = Vec::new();
        for (au, slot) in self.view.iter_from(VolOff(whole.start).au(size)) {
            let au_start = au.start(size).0;
            if au_start >= whole.end {
                break;
            }
            if steps.len() >= AUS_PER_PAGE {
                return (steps, au_start.max(whole.start));
            }
            let within = whole.start.saturating_sub(au_start)..(whole.end - au_start).min(size.bytes());
            let range = BlockMask::range(blocks_within(size, &within));
            let (cleared, kept) = (slot.written().and(range), slot.written().minus(range));
            // An AU without any written block leaves only where all of it is discarded.
            let leaves = kept.is_empty() && (!cleared.is_empty() || range == BlockMask::ALL);
            if leaves || !cleared.is_empty() {
                let cleared = if leaves { BlockMask::ALL } else { cleared };
                steps.push(Step { au, slot, cleared, leaves });
            }
        }
        (steps, whole.end)
    }
}
