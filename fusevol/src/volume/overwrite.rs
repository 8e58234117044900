//! Before blocks are overwritten that a snapshot needs: read them, append them to the preserve log, go on when the
//! record is durable (DESIGN D5: copy old -> durable publish -> overwrite).

use super::view::Slot;
use super::{Volume, blocks_within};
use crate::control::Control;
use crate::preserve::Old;
use fusevol_shared::change::Entry;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::Result;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::VolAu;
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
        let preserved = self.preserve_old(old).await;
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

    /// One record or more; a leg of the log that fails is given up as any other, and they are appended again without it.
    async fn preserve_old(&self, old: Vec<Old>) -> Result<()> {
        let append =
            async |old| self.preserved.preserve(&self.engine.disks, &self.engine.lease, old, async || self.next_segment().await).await;
        let again = if self.legs.is_mirrored() { old.clone() } else { Vec::new() };
        let first = append(old).await;
        let bad = self.preserved.take_bad();
        match first {
            Err(e) if !again.is_empty() && !bad.is_empty() && !Self::is_out_of_space(&e) => {
                for no in bad {
                    self.lose_leg(no, &e.to_string()).await?;
                }
                append(again).await
            }
            done => done,
        }
    }

    /// Segments to which a record was not answered are given to nobody before the session is drained.
    pub(super) async fn say_late_segments(&self) -> Result<()> {
        let places = self.preserved.take_late();
        if places.is_empty() {
            return Ok(());
        }
        self.log()?.append(vec![Entry::Late { places }]).await.map(drop)
    }

    async fn old_blocks(&self, au: VolAu, slot: &Slot<'_>, run: Range<u32>) -> Result<Vec<Old>> {
        let (name, block) = (slot.name(), self.block_size());
        let within = u64::from(run.start) * block..u64::from(run.end) * block;
        let data = self.read_copies(au, slot, BlockMask::ALL, within).await?.freeze();
        let step = usize::try_from(block).expect("a block is at most 1 MiB");
        Ok(run.clone().enumerate().map(|(i, b)| Old { at: name, block: b, data: data.slice(i * step, step) }).collect())
    }
}
