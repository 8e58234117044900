//! What is right: a plain byte array, the set of its written blocks, and copies of both at each snapshot.

use fusevol_shared::ids::SnapshotId;
use std::collections::BTreeSet;
use std::ops::Range;

/// A volume at one instant.
#[derive(Clone)]
pub struct Image {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Which blocks are written.
    pub written: Vec<bool>,
}

impl Image {
    /// First byte from `off` on in a block that is (or is not) written; nothing past the end.
    #[must_use]
    pub fn seek(&self, off: usize, block: usize, data: bool) -> Option<u64> {
        let found = (off / block..self.written.len()).find(|b| self.written[*b] == data)?;
        let at = (found * block).max(off);
        (at < self.bytes.len()).then_some(at as u64)
    }
}

/// A snapshot.
pub struct Shot {
    /// Its identity.
    pub id: SnapshotId,
    /// What it holds.
    pub image: Image,
    /// Blocks that were written or discarded since.
    pub touched: BTreeSet<usize>,
}

/// The volume and its snapshots.
pub struct Reference {
    /// Now.
    pub live: Image,
    /// Oldest first.
    pub shots: Vec<Shot>,
    /// Bytes in a block.
    pub block: usize,
}

impl Reference {
    /// An empty volume.
    #[must_use]
    pub fn new(size: usize, block: usize) -> Self {
        let live = Image { bytes: vec![0; size], written: vec![false; size.div_ceil(block)] };
        Self { live, shots: Vec::new(), block }
    }

    fn touch(&mut self, blocks: Range<usize>) {
        for s in &mut self.shots {
            s.touched.extend(blocks.clone());
        }
    }

    /// A write.
    pub fn write(&mut self, off: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.live.bytes[off..off + data.len()].copy_from_slice(data);
        let blocks = off / self.block..(off + data.len()).div_ceil(self.block);
        self.live.written[blocks.clone()].fill(true);
        self.touch(blocks);
    }

    /// A discard: zeros; whole blocks are unwritten after it.
    pub fn discard(&mut self, off: usize, len: usize) {
        let size = self.live.bytes.len();
        let end = (off + len).min(size);
        if off >= end {
            return;
        }
        self.live.bytes[off..end].fill(0);
        let last = if end == size { size.div_ceil(self.block) } else { end / self.block };
        for b in off.div_ceil(self.block)..last {
            self.live.written[b] = false;
        }
        self.touch(off / self.block..end.div_ceil(self.block));
    }

    /// A snapshot of the live volume.
    pub fn snapshot(&mut self, id: SnapshotId) {
        self.shots.push(Shot { id, image: self.live.clone(), touched: BTreeSet::new() });
    }

    /// Blocks whose bytes differ between a snapshot and the live volume.
    #[must_use]
    pub fn changed(&self, shot: &Shot) -> BTreeSet<usize> {
        let n = self.live.written.len();
        let part = |image: &Image, b: usize| {
            let end = ((b + 1) * self.block).min(image.bytes.len());
            image.bytes[b * self.block..end].to_vec()
        };
        (0..n).filter(|b| part(&shot.image, *b) != part(&self.live, *b)).collect()
    }
}
