//! Chunk tables: built in order while chunks are stored, and walked for restoring and checking.

use super::read::{ChunkReader, Scratch};
use crate::format::id::{ChunkId, ChunkKind};
use crate::format::manifest::Manifest;
use crate::format::node::{FANOUT, Node, Shape, span};
use fusevol_shared::error::{Error, Result};

/// Builds a table from the first chunk to the last. Full nodes are handed out to be stored, children before parents.
#[derive(Debug)]
pub struct TableBuilder {
    shape: Shape,
    /// Chunks so far.
    done: u64,
    /// The open node of each level, 0 first.
    levels: Vec<Vec<Option<ChunkId>>>,
}

/// Stores a node's bytes under its name.
pub type StoreNode<'a> = dyn FnMut(ChunkId, Vec<u8>) -> Result<()> + 'a;

impl TableBuilder {
    /// For an image of this shape.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self { shape, done: 0, levels: vec![Vec::new(); usize::from(shape.root_level) + 1] }
    }

    /// The next chunk of the image that is not yet in the table.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.done
    }

    /// Puts chunk `number` in (`None`: a hole), and holes for all that were left out before it.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn put(&mut self, number: u64, id: Option<ChunkId>, store: &mut StoreNode<'_>) -> Result<()> {
        assert!(number >= self.done && number < self.shape.chunks, "chunk {number} after {} of {}", self.done, self.shape.chunks);
        self.holes(0, number - self.done, store)?;
        self.done = number + 1;
        self.place(0, id, store)
    }

    /// Ends the table: the rest of the image is a hole. Gives its root, none where all of it is.
    ///
    /// # Errors
    /// Those of `store`.
    pub fn finish(mut self, store: &mut StoreNode<'_>) -> Result<Option<ChunkId>> {
        self.holes(0, self.shape.chunks - self.done, store)?;
        let root = usize::from(self.shape.root_level);
        for level in 0..root {
            if !self.levels[level].is_empty() {
                let id = self.close(level, store)?;
                self.levels[level + 1].push(id);
            }
        }
        self.close(root, store)
    }

    fn holes(&mut self, level: usize, count: u64, store: &mut StoreNode<'_>) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let whole = left / FANOUT as u64;
            if self.levels[level].is_empty() && whole > 0 && level + 1 < self.levels.len() {
                self.holes(level + 1, whole, store)?;
                left %= FANOUT as u64;
            } else {
                self.place(level, None, store)?;
                left -= 1;
            }
        }
        Ok(())
    }

    fn place(&mut self, level: usize, id: Option<ChunkId>, store: &mut StoreNode<'_>) -> Result<()> {
        self.levels[level].push(id);
        if self.levels[level].len() == FANOUT && level + 1 < self.levels.len() {
            let node = self.close(level, store)?;
            self.place(level + 1, node, store)?;
        }
        Ok(())
    }

    /// Takes the open node of a level; one without any chunk is a hole itself.
    fn close(&mut self, level: usize, store: &mut StoreNode<'_>) -> Result<Option<ChunkId>> {
        let places = std::mem::take(&mut self.levels[level]);
        if places.iter().all(Option::is_none) {
            return Ok(None);
        }
        let level = u8::try_from(level).expect("a table has few levels");
        let bytes = Node { level, places }.encode();
        let id = ChunkId::of(ChunkKind::Node, &bytes);
        store(id, bytes)?;
        Ok(Some(id))
    }
}

/// What a walk meets, in the order of the image.
#[derive(Debug)]
pub enum Met {
    /// A chunk of data.
    Chunk {
        /// Its number.
        number: u64,
        /// Its name.
        id: ChunkId,
    },
    /// A node that cannot be read: the chunks below it are unknown.
    Lost {
        /// The first chunk below it.
        first: u64,
        /// How many.
        chunks: u64,
        /// Its name.
        id: ChunkId,
        /// Why.
        why: Error,
    },
}

/// Walks the table of a manifest. `enter` is asked before a node is read: `false` leaves it out. `meet` ends the walk by
/// an error.
///
/// # Errors
/// Those of `meet`.
pub fn walk(
    reader: &ChunkReader<'_>,
    manifest: &Manifest,
    enter: &mut dyn FnMut(ChunkId, u8, usize) -> bool,
    meet: &mut dyn FnMut(Met) -> Result<()>,
) -> Result<()> {
    let shape = Shape::of(manifest.size, manifest.chunk_size);
    let mut walker = Walker { reader, shape, scratch: Scratch::new()?, enter, meet };
    manifest.table.map_or(Ok(()), |root| walker.node(root, shape.root_level, 0))
}

struct Walker<'a, 'b> {
    reader: &'a ChunkReader<'b>,
    shape: Shape,
    scratch: Scratch,
    enter: &'a mut dyn FnMut(ChunkId, u8, usize) -> bool,
    meet: &'a mut dyn FnMut(Met) -> Result<()>,
}

impl Walker<'_, '_> {
    /// As deep as the table has levels: five at most.
    fn node(&mut self, id: ChunkId, level: u8, first: u64) -> Result<()> {
        let places = self.shape.places(level, first);
        if !(self.enter)(id, level, places) {
            return Ok(());
        }
        let read = self.reader.read(ChunkKind::Node, id, &mut self.scratch).and_then(|b| Node::decode(b, level, places));
        let node = match read {
            Ok(node) => node,
            Err(why) => {
                let chunks = span(level).min(self.shape.chunks - first);
                return (self.meet)(Met::Lost { first, chunks, id, why });
            }
        };
        let step = span(level) / FANOUT as u64;
        let mut number = first;
        for place in node.places {
            match (place, level.checked_sub(1)) {
                (None, _) => {}
                (Some(id), None) => (self.meet)(Met::Chunk { number, id })?,
                (Some(id), Some(below)) => self.node(id, below, number)?,
            }
            number += step;
        }
        Ok(())
    }
}
