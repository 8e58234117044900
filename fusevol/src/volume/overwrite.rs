//! Before blocks are overwritten that a snapshot needs: read them, append them to the preserve log, go on when the
//! record is durable (DESIGN D5: copy old -> durable publish -> overwrite).

use super::io::{Piece, Place, read_pieces};
use super::view::Slot;
use super::{Volume, blocks_within};
use crate::control::Control;
use crate::preserve::Old;
use fusevol_shared::change::Entry;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::Result;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::VolAu;
use fusevol_shared::wire::data::Claim;
use futures_util::future::try_join_all;
use std::ops::Range;
use std::sync::atomic::Ordering;

impl<D: Disk, C: Control> Volume<D, C> {
    /// Preserves what `outer` will overwrite. The caller holds the guard of all its blocks.
    pub(super) async fn preserve(&self, slots: &[Slot<'_>], outer: &Range<u64>) -> Result<()> {
        let mut todo: Vec<(VolAu, &Slot<'_>, BlockMask)> = Vec::new();
        for ((au, within), slot) in self.cut(outer.clone()).zip(slots) {
            let blocks = slot.need().and(BlockMask::range(blocks_within(self.engine.au_size, &within)));
            if !blocks.is_empty() {
                todo.push((au, slot, blocks));
            }
        }
        match todo.is_empty() {
            true => Ok(()),
            false => Box::pin(self.preserve_blocks(todo)).await,
        }
    }

    async fn preserve_blocks(&self, todo: Vec<(VolAu, &Slot<'_>, BlockMask)>) -> Result<()> {
        if self.unseen.load(Ordering::SeqCst) {
            self.check_seal().await?;
            self.unseen.store(false, Ordering::SeqCst);
        }
        let reads = todo.iter().flat_map(|(au, slot, blocks)| blocks.runs().map(|run| self.old_blocks(*au, slot, run)));
        let old: Vec<Old> = try_join_all(reads).await?.into_iter().flatten().collect();
        let preserved = self.preserved.preserve(&self.engine.disks, &self.engine.lease, old, async || self.next_segment().await).await;
        self.say_late_segments().await?;
        if let Err(e) = preserved {
            if !Self::is_out_of_space(&e) {
                return Err(e);
            }
            self.preserve_space_is_out(e).await?;
        }
        for (_, slot, blocks) in todo {
            slot.preserved(blocks);
        }
        Ok(())
    }

    /// Segments to which a record was not answered are given to nobody before the session is drained.
    async fn say_late_segments(&self) -> Result<()> {
        let places = self.preserved.take_late();
        if places.is_empty() {
            return Ok(());
        }
        self.log()?.append(vec![Entry::Late { places }]).await.map(drop)
    }

    async fn old_blocks(&self, au: VolAu, slot: &Slot<'_>, run: Range<u32>) -> Result<Vec<Old>> {
        let (at, block) = (slot.source(), self.block_size());
        let claim = Claim::Live { volume: self.id, au };
        let place = Place { disk: at.disk, at: at.au.start(self.engine.au_size).plus(u64::from(run.start) * block), claim };
        let len = u64::from(run.end - run.start) * block;
        let data = read_pieces(&self.engine.disks, &[Piece { place: Some(place), len }]).await?.freeze();
        let step = usize::try_from(block).expect("a block is at most 1 MiB");
        Ok(run.clone().enumerate().map(|(i, b)| Old { at, block: b, data: data.slice(i * step, step) }).collect())
    }
}
