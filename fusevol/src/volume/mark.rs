//! Marks: a region is marked in the journal before the first write to it, and cleared when it is at rest (PROTOCOL.md, M1, M2).
//!
//! AUs that were bound under this attachment in this epoch need no mark: a binding is one. When their region is at rest they are cleared with it, and need
//! one from then on: so what a takeover must copy is what was written of late (T3).
//!
//! Nothing is written in a region before the SEAL was read clear *after* its mark was durable (T1): whoever sealed the session before that finds the mark.

use super::Volume;
use super::view::Slot;
use crate::control::Control;
use fusevol_shared::change::{AUS_PER_REGION, Entry, Region};
use fusevol_shared::disk::Disk;
use fusevol_shared::error::Result;
use fusevol_shared::ids::VolumeEpoch;
use fusevol_shared::map::AuMask;
use fusevol_shared::sentence::{self, Tag};
use fusevol_shared::units::{BLOCKS_PER_AU, VolAu};
use fusevol_shared::wire::messages::APPEND_WEIGHT;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Regions that are cleared by one append.
const AT_ONCE: usize = 64;

impl<D: Disk, C: Control> Volume<D, C> {
    /// Makes sure that what is about to be written is marked. The caller holds the guard of all its blocks.
    pub(super) async fn mark(&self, aus: Range<u32>, slots: &[Slot<'_>]) -> Result<()> {
        let mut clean: Vec<Region> = Vec::new();
        for (au, slot) in aus.map(VolAu).zip(slots) {
            let region = au.region();
            if slot.is_fresh() {
                self.regions.touch_bound(region);
            } else if !self.regions.touch(region) && clean.last() != Some(&region) {
                clean.push(region);
            }
        }
        if clean.is_empty() {
            return Ok(());
        }
        Box::pin(self.mark_regions(clean)).await
    }

    async fn mark_regions(&self, clean: Vec<Region>) -> Result<()> {
        let _gate = self.legs.gate().await;
        let marked = vec![Entry::Marked { epoch: self.epoch(), regions: clean.clone() }];
        let marked = self.log()?.append(marked).await?;
        if sentence::holds(Tag::T1) {
            marked.clear()?;
        }
        let out = self.legs.out.disks();
        for au in clean.iter().flat_map(|r| r.aus()).filter(|_| !out.is_empty()) {
            self.view.miss(VolAu(au), &out);
        }
        clean.into_iter().for_each(|r| self.regions.set_dirty(r));
        Ok(())
    }

    /// Clears the regions that nobody has written since the last call.
    ///
    /// # Errors
    /// Those of [`Volume::flush`] and of the journal: then they stay dirty.
    pub(super) async fn clear_at_rest(&self) -> Result<()> {
        let at_rest = self.regions.at_rest();
        for some in at_rest.chunks(AT_ONCE) {
            self.clear(some).await?;
        }
        Ok(())
    }

    /// Clears those of these regions in which nobody writes now.
    async fn clear(&self, regions: &[Region]) -> Result<()> {
        let blocks_per_region = u64::from(AUS_PER_REGION) * u64::from(BLOCKS_PER_AU);
        let blocks = |r: &Region| u64::from(r.0) * blocks_per_region..(u64::from(r.0) + 1) * blocks_per_region;
        let held: Vec<_> = regions.iter().filter_map(|r| Some((*r, self.guard.try_lock(blocks(r))?))).collect();
        if held.is_empty() || self.is_closed() {
            return Ok(());
        }
        // Every write in them has returned, and no other begins: the flush begins after the last one.
        if sentence::holds(Tag::M2) {
            self.flush_unasked().await?;
        }
        let regions: Vec<Region> = held.iter().map(|(r, _)| *r).collect();
        let changed = self.take_changed(&regions);
        let dirty: Vec<Region> = regions.iter().copied().filter(|r| self.regions.is_dirty(*r)).collect();
        regions.iter().for_each(|r| self.regions.set_clean(*r));
        self.rest(&regions);
        for entry in cleared(self.epoch(), &regions, &changed) {
            if let Err(e) = self.log()?.append(vec![entry]).await.map(drop) {
                self.put_changed_back(&changed);
                // Those of which the journal has no mark stay clean: the next write there marks them.
                dirty.iter().for_each(|r| self.regions.set_dirty(*r));
                return Err(e);
            }
        }
        Ok(())
    }

    /// AUs of these regions that were bound need a mark from now on.
    fn rest(&self, regions: &[Region]) {
        for r in regions {
            self.regions.forget_bound(*r);
            let aus = self.view.iter_from(VolAu(r.aus().start)).take_while(|(au, _)| au.0 < r.aus().end);
            aus.for_each(|(_, slot)| slot.settle());
        }
    }

    /// What changed in these regions since it was said last.
    pub(super) fn take_changed(&self, regions: &[Region]) -> Vec<AuMask> {
        let mut out = Vec::new();
        for r in regions {
            for (au, slot) in self.view.iter_from(VolAu(r.aus().start)).take_while(|(au, _)| au.0 < r.aus().end) {
                let blocks = slot.take_changed();
                if !blocks.is_empty() {
                    out.push(AuMask { au, blocks });
                }
            }
        }
        out
    }

    fn put_changed_back(&self, changed: &[AuMask]) {
        for m in changed {
            if let Some(slot) = self.view.get(m.au) {
                slot.add_changed(m.blocks);
            }
        }
    }

    /// The epoch in which writes are made.
    pub(super) fn epoch(&self) -> VolumeEpoch {
        VolumeEpoch(self.epoch.load(Ordering::SeqCst))
    }
}

/// `Cleared` entries that fit into appends each.
pub(super) fn cleared(epoch: VolumeEpoch, regions: &[Region], changed: &[AuMask]) -> Vec<Entry> {
    let most = APPEND_WEIGHT / 2;
    let mut out: Vec<Entry> = changed.chunks(most).map(|c| Entry::Cleared { epoch, regions: vec![], changed: c.to_vec() }).collect();
    out.extend(regions.chunks(most).map(|r| Entry::Cleared { epoch, regions: r.to_vec(), changed: vec![] }));
    if let [Entry::Cleared { changed, .. }, Entry::Cleared { regions, .. }] = &out[..]
        && changed.len() + regions.len() <= most
    {
        return vec![Entry::Cleared { epoch, regions: regions.clone(), changed: changed.clone() }];
    }
    out
}
