//! Sparse answers from the written masks, exact at the grain of a block.

use super::Volume;
use super::view::MapView;
use crate::control::Control;
use crate::out::OutSet;
use fusevol_shared::disk::Disk;
use fusevol_shared::mask::BlockMask;
use fusevol_shared::units::{AuSize, BLOCKS_PER_AU, DiskAu, VolAu, VolOff};

/// A run of blocks of a volume that lie side by side on one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Extent {
    /// First byte in the volume.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Whether they are written; space that was only allocated reads as zeros.
    pub written: bool,
    /// Where the AU of the first byte lies.
    pub at: DiskAu,
}

/// The first byte from `off` on that is (`data`) or is not in a written block; `None` at the end of `size`.
/// `written` tells of the next AU from the given one on that has any written block, with its mask.
pub(crate) fn seek(off: u64, size: u64, au_size: AuSize, data: bool, written: impl Fn(VolAu) -> Option<(VolAu, BlockMask)>) -> Option<u64> {
    let mut at = off;
    // Every turn goes on by at least one block.
    while at < size {
        let au = VolOff(at).au(au_size);
        let (next, mask) = match written(au) {
            Some(found) => found,
            None => return (!data).then_some(at),
        };
        if next > au {
            if !data {
                return Some(at);
            }
            at = next.start(au_size).0;
        }
        let first = VolOff(at).within_au(au_size) / au_size.block_bytes();
        let rest = if data { mask.0 >> first } else { !mask.0 >> first };
        if rest != 0 {
            let found = next.start(au_size).0 + (first + u64::from(rest.trailing_zeros())) * au_size.block_bytes();
            return (found.max(off) < size).then_some(found.max(off));
        }
        at = next.start(au_size).0 + au_size.bytes();
    }
    None
}

impl<D: Disk, C: Control> Volume<D, C> {
    /// The first byte from `off` on that lies in a written block.
    #[must_use]
    pub fn seek_data(&self, off: u64) -> Option<u64> {
        seek(off, self.size, self.engine.au_size, true, |au| self.next_written(au))
    }

    /// The first byte from `off` on that does not; the size of the volume where all are. `None` past the end.
    #[must_use]
    pub fn seek_hole(&self, off: u64) -> Option<u64> {
        if off >= self.size {
            return None;
        }
        Some(seek(off, self.size, self.engine.au_size, false, |au| self.next_written(au)).unwrap_or(self.size))
    }

    fn next_written(&self, from: VolAu) -> Option<(VolAu, BlockMask)> {
        next_written(&self.view, from)
    }

    /// Bytes in written blocks.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.view.written_blocks() * self.block_size()
    }

    /// Where its blocks lie, ascending, neighbours joined.
    #[must_use]
    pub fn extents(&self) -> Vec<Extent> {
        extents(&self.view, self.engine.au_size, &self.legs.out)
    }
}

/// The next AU from `from` on that has a written block.
pub(super) fn next_written(view: &MapView, from: VolAu) -> Option<(VolAu, BlockMask)> {
    view.iter_from(from).map(|(au, s)| (au, s.written())).find(|(_, m)| !m.is_empty())
}

/// Where all blocks lie, ascending, neighbours joined.
pub(super) fn extents(view: &MapView, size: AuSize, out: &OutSet) -> Vec<Extent> {
    let block = size.block_bytes();
    let mut all: Vec<(Extent, u64)> = Vec::new();
    for (au, slot) in view.iter_from(VolAu(0)) {
        let (mask, at) = (slot.written(), slot.source(out));
        for b in 0..BLOCKS_PER_AU {
            let offset = au.start(size).0 + u64::from(b) * block;
            let on_disk = at.au.start(size).0 + u64::from(b) * block;
            let e = Extent { offset, len: block, written: mask.has(b), at };
            match all.last_mut() {
                Some((l, end)) if l.written == e.written && l.offset + l.len == offset && l.at.disk == at.disk && *end == on_disk => {
                    l.len += block;
                    *end += block;
                }
                _ => all.push((e, on_disk + block)),
            }
        }
    }
    all.into_iter().map(|(e, _)| e).collect()
}
