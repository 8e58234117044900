//! The door of `benches/map.rs`: the map and the plans of requests, without disks and manager. Nothing of the programs goes through it.
//!
//! What is measured is what the data path calls; here is only what leads to it.

use super::io::{Runs, plan_writes};
use super::read::plan_read;
use super::sparse::{extents, next_written, seek};
use super::view::{MapView, Slot};
use super::{Extent, cut};
use crate::out::OutSet;
use fusevol_shared::ids::VolumeId;
use fusevol_shared::map::MapEntry;
use fusevol_shared::units::{AuSize, VolAu};
use smallvec::SmallVec;
use std::ops::Range;

/// The map of a volume that nobody has attached.
pub struct Map {
    view: MapView,
    au_size: AuSize,
    size: u64,
    out: OutSet,
}

impl Map {
    /// The map of a volume of `aus` whole AUs, with these entries.
    #[must_use]
    pub fn new(au_size: AuSize, aus: u32, entries: impl IntoIterator<Item = (VolAu, MapEntry)>) -> Self {
        let view = MapView::new(aus);
        entries.into_iter().for_each(|(au, e)| view.set(au, &e));
        Self { view, au_size, size: u64::from(aus) * au_size.bytes(), out: OutSet::default() }
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.view.bytes()
    }

    /// Plans a read of whole pages, as it is planned while its AUs are pinned; how many I/Os and holes it is.
    #[must_use]
    pub fn plan_read(&self, bytes: Range<u64>) -> usize {
        let (pins, pieces) = plan_read(&self.view, self.au_size, VolumeId([0; 16]), bytes, |_, pin| pin.source(&self.out));
        drop(pins);
        pieces.len()
    }

    /// Plans a write of whole pages to AUs that have space; how many I/Os it is. `None` where one has none.
    #[must_use]
    pub fn plan_write(&self, bytes: Range<u64>) -> Option<usize> {
        let slots: SmallVec<[Slot<'_>; 2]> = cut(self.au_size, bytes.clone()).map(|(au, _)| self.view.get(au)).collect::<Option<_>>()?;
        let runs: Runs = plan_writes(self.au_size, VolumeId([0; 16]), &slots, bytes);
        Some(runs.len())
    }

    /// The first byte from `off` on that is, or with `data: false` is not, in a written block.
    #[must_use]
    pub fn seek(&self, off: u64, data: bool) -> Option<u64> {
        seek(off, self.size, self.au_size, data, |au| next_written(&self.view, au))
    }

    /// Where its blocks lie.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        extents(&self.view, self.au_size, &self.out)
    }
}
