//! The blocks that differ, or may differ, between a snapshot and the live volume.
//!
//! A superset of what changed: everything that was preserved since, and everything in which the frozen map and the live
//! one differ. The second half needs the right to read the live volume; without it, blocks that were written for the
//! first time or discarded since are not known, and the answer says so.

use super::SnapshotReader;
use crate::control::Control;
use crate::volume::fetch_map;
use fusevol_shared::disk::Disk;
use fusevol_shared::error::{Kind, Result};
use fusevol_shared::map::{AuMask, VolumeMap};
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{DiskAu, VolAu};
use fusevol_shared::wire::messages::GetMap;
use std::collections::{BTreeMap, HashMap};

/// A list of modified blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Modified {
    /// Ascending, no AU twice.
    pub blocks: Vec<AuMask>,
    /// The live map was compared, too. If not, only blocks that the snapshot holds and that were overwritten since are listed.
    pub complete: bool,
}

impl<D: Disk, C: Control> SnapshotReader<D, C> {
    /// The blocks that were modified since the snapshot.
    ///
    /// # Errors
    /// `Io`, `Damaged` where the preserve log could not be read; what the manager answers.
    pub async fn modified(&self) -> Result<Modified> {
        self.engine.lease.wait().await?;
        let mut live = VolumeMap::default();
        let part = async |from| self.engine.control.call(GetMap { volume: self.volume, from }).await;
        let complete = match fetch_map(u32::MAX, part, |au, e| live.set(au, Some(e))).await {
            Ok(()) => true,
            Err(e) if matches!(e.kind(), Kind::Denied | Kind::NotFound | Kind::Refused) => false,
            Err(e) => return Err(e),
        };
        let mut out: BTreeMap<VolAu, BlockMask> = BTreeMap::new();
        let mut add = |au: VolAu, blocks: BlockMask| {
            if !blocks.is_empty() {
                let m = out.entry(au).or_default();
                *m = m.or(blocks);
            }
        };
        if complete {
            compare(&self.map.load(), &live, &mut add);
        }
        self.refresh().await?;
        let places: HashMap<DiskAu, (VolAu, BlockMask)> = self.map.load().iter().map(|(au, e)| (e.name(), (au, e.written))).collect();
        for (at, block) in self.logs.lock().await.reader.blocks() {
            if let Some((au, written)) = places.get(&at) {
                add(*au, written.and(BlockMask::range(block..block + 1)));
            }
        }
        Ok(Modified { blocks: out.into_iter().map(|(au, blocks)| AuMask { au, blocks }).collect(), complete })
    }
}

fn compare(frozen: &VolumeMap, live: &VolumeMap, add: &mut impl FnMut(VolAu, BlockMask)) {
    let at = |m: &VolumeMap, au| m.get(au).map_or((None, BlockMask::NONE), |e| (Some(e.name()), e.written));
    let mut both = |au| {
        let ((a, was), (b, is)) = (at(frozen, au), at(live, au));
        let same_place = a == b;
        add(au, if same_place { was.minus(is).or(is.minus(was)) } else { was.or(is) });
    };
    frozen.iter().for_each(|(au, _)| both(au));
    live.iter().filter(|(au, _)| frozen.get(*au).is_none()).for_each(|(au, _)| both(au));
}
