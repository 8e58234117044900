//! The chunk table: which chunk stands at each place of an image. A tree of nodes that are chunks themselves, so that an
//! image of any size needs one id in its manifest, and two snapshots share every node below which nothing changed.
//!
//! A node has up to 1024 places. At level 0 a place is a chunk of data, above it a node one level down; a place that is
//! not present is a hole all through.
//!
//! ```text
//! 0 4 magic "FVTN"   4 1 version   5 1 level   6 2 zero   8 2 places   10 2 present
//! 12  bitmap, 128 bytes: bit i of byte i / 8 stands for place i       140  an id of 32 bytes for each present place
//! ```

use super::id::ChunkId;
use super::{Fields, damaged};
use fusevol_shared::error::Result;

/// Places of a full node.
pub const FANOUT: usize = 1024;
const MAGIC: [u8; 4] = *b"FVTN";
const NODE_VERSION: u8 = 1;
/// Deepest level that an image of `IMAGE_MAX` bytes in the smallest chunks can need, and one more.
pub const LEVEL_MAX: u8 = 5;

/// Places of one node: `None` is a hole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// 0: places are chunks of data.
    pub level: u8,
    /// 1 to 1024.
    pub places: Vec<Option<ChunkId>>,
}

impl Node {
    /// The node's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = |n: usize| u16::try_from(n).expect("a node has at most 1024 places").to_le_bytes();
        let mut out = Vec::with_capacity(140 + 32 * self.places.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[NODE_VERSION, self.level, 0, 0]);
        out.extend_from_slice(&count(self.places.len()));
        out.extend_from_slice(&count(self.places.iter().flatten().count()));
        let mut bitmap = [0u8; FANOUT / 8];
        for (i, _) in self.places.iter().enumerate().filter(|(_, p)| p.is_some()) {
            bitmap[i / 8] |= 1 << (i % 8);
        }
        out.extend_from_slice(&bitmap);
        self.places.iter().flatten().for_each(|id| out.extend_from_slice(&id.0));
        out
    }

    /// Checks and parses a node's bytes: it must stand at `level` and have `places` places.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn decode(bytes: &[u8], level: u8, places: usize) -> Result<Self> {
        let mut f = Fields::new(bytes);
        if f.array()? != MAGIC || f.u8()? != NODE_VERSION {
            return Err(damaged("no node of a chunk table"));
        }
        let its_level = f.u8()?;
        f.zeros(2)?;
        let (its_places, present) = (usize::from(f.u16()?), usize::from(f.u16()?));
        if its_level != level || its_places != places || places > FANOUT {
            return Err(damaged(format!("a node of level {its_level} with {its_places} places, not {level} with {places}")));
        }
        let bitmap: [u8; FANOUT / 8] = f.array()?;
        let set = bitmap.iter().map(|b| b.count_ones() as usize).sum::<usize>();
        if set != present || present == 0 || f.left() != present * 32 {
            return Err(damaged("a node's bitmap and length do not agree"));
        }
        let has = |i: usize| bitmap[i / 8] >> (i % 8) & 1 == 1;
        if (places..FANOUT).any(has) {
            return Err(damaged("a node has more places set than it has"));
        }
        let places = (0..places).map(|i| if has(i) { f.array().map(|a| Some(ChunkId(a))) } else { Ok(None) });
        Ok(Self { level, places: places.collect::<Result<_>>()? })
    }
}

/// The shape of the table of an image: how many chunks, and how many levels above them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Chunks of the image, the last one perhaps in part.
    pub chunks: u64,
    /// Level of the root; 0 for up to 1024 chunks.
    pub root_level: u8,
}

impl Shape {
    /// Of an image of `size` bytes in chunks of `chunk_size`.
    #[must_use]
    pub fn of(size: u64, chunk_size: u32) -> Self {
        let chunks = size.div_ceil(u64::from(chunk_size));
        let mut root_level = 0;
        while chunks > span(root_level) {
            root_level += 1;
        }
        Self { chunks, root_level }
    }

    /// Places of the node at `level` whose first chunk is `first` (below `chunks`).
    #[must_use]
    pub fn places(self, level: u8, first: u64) -> usize {
        let per_place = span(level) / FANOUT as u64;
        let left = self.chunks.saturating_sub(first).div_ceil(per_place);
        usize::try_from(left.min(FANOUT as u64)).unwrap_or(FANOUT)
    }
}

/// Chunks below a full node at `level`.
#[must_use]
pub fn span(level: u8) -> u64 {
    1u64.checked_shl(10 * (u32::from(level) + 1)).unwrap_or(u64::MAX)
}
