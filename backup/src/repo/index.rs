//! The index in memory: where each chunk is. Compact: 48 bytes a chunk, and a hash table of 4-byte positions over them
//! that is at most two thirds full. For 8 TiB in chunks of 1 MiB that is below half a GiB.
//!
//! Loading takes the index files. Where one cannot be read, or a chunk is asked for that none names, the packs' own
//! lists are read instead ([`ChunkIndex::learn_packs`]): nothing is lost with an index.

use super::{INDEX, Repository};
use crate::format::id::{ChunkId, FileId};
use crate::format::index::IndexedPack;
use fusevol_shared::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

/// An empty place of the hash table.
const FREE: u32 = u32::MAX;
/// The pack of a chunk that this process is about to store.
const PENDING: u32 = u32::MAX;

/// Where a chunk's entry is. Its coding needs no field: an entry is raw exactly where both lengths are equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Position of the pack in [`ChunkIndex::pack`].
    pub pack: u32,
    /// Where it begins.
    pub offset: u32,
    /// Bytes in the pack.
    pub stored: u32,
    /// Bytes that it stands for.
    pub plain: u32,
}

/// Which chunks there are, and where.
#[derive(Debug)]
pub struct ChunkIndex {
    packs: Vec<FileId>,
    known: HashSet<FileId>,
    chunks: Vec<(ChunkId, Place)>,
    table: Vec<u32>,
    /// Further copies of chunks that several backups stored at once.
    more: HashMap<ChunkId, Vec<Place>>,
    hasher: RandomState,
}

impl Default for ChunkIndex {
    fn default() -> Self {
        let (packs, known, chunks, more) = Default::default();
        Self { packs, known, chunks, table: vec![FREE; 1024], more, hasher: RandomState::new() }
    }
}

impl ChunkIndex {
    /// From the index files; those that cannot be read are given back with why, and the packs' own lists taken instead.
    ///
    /// # Errors
    /// Of the medium.
    pub fn load(repo: &Repository) -> Result<(Self, Vec<Error>)> {
        let (mut index, mut bad) = (Self::default(), Vec::new());
        for (name, _) in repo.store().list(INDEX)? {
            match repo.read_index(&name) {
                Ok(packs) => packs.iter().for_each(|p| index.add(p)),
                Err(e) => bad.push(e),
            }
        }
        if !bad.is_empty() {
            bad.extend(index.learn_packs(repo)?);
        }
        Ok((index, bad))
    }

    /// Reads the lists of packs that no index names; gives those that cannot be read.
    ///
    /// # Errors
    /// Of the medium.
    pub fn learn_packs(&mut self, repo: &Repository) -> Result<Vec<Error>> {
        let mut bad = Vec::new();
        for (name, _) in repo.packs()?.0 {
            if !self.known.contains(&name) {
                match repo.read_pack_list(name) {
                    Ok(pack) => self.add(&pack),
                    Err(e) => bad.push(e),
                }
            }
        }
        Ok(bad)
    }

    /// Takes a pack in; one that is known already changes nothing.
    pub fn add(&mut self, pack: &IndexedPack) {
        if !self.known.insert(pack.name) {
            return;
        }
        let number = u32::try_from(self.packs.len()).expect("2^32 packs would be 128 PiB");
        self.packs.push(pack.name);
        for row in &pack.rows {
            let place = Place { pack: number, offset: row.offset, stored: row.stored, plain: row.plain };
            if !self.insert(row.id, place) {
                self.more.entry(row.id).or_default().push(place);
            }
        }
    }

    /// Whether the chunk is new to all; from now on it is not. Who gets `true` stores it.
    pub fn claim(&mut self, id: ChunkId) -> bool {
        self.insert(id, Place { pack: PENDING, offset: 0, stored: 0, plain: 0 })
    }

    /// Every place of a chunk, the first one known first.
    pub fn places(&self, id: ChunkId) -> impl Iterator<Item = Place> {
        let first = match self.find(id) {
            Ok(at) => Some(self.chunks[at].1).filter(|p| p.pack != PENDING),
            Err(_) => None,
        };
        first.into_iter().chain(self.more.get(&id).into_iter().flatten().copied())
    }

    /// The pack with this position.
    #[must_use]
    pub fn pack(&self, number: u32) -> FileId {
        self.packs[number as usize]
    }

    /// Whether this pack is known.
    #[must_use]
    pub fn knows(&self, pack: FileId) -> bool {
        self.known.contains(&pack)
    }

    /// How many different chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn insert(&mut self, id: ChunkId, place: Place) -> bool {
        match self.find(id) {
            Ok(_) => false,
            Err(slot) => {
                self.table[slot] = u32::try_from(self.chunks.len()).expect("2^32 chunks would need 200 GiB here");
                self.chunks.push((id, place));
                if self.chunks.len() * 3 > self.table.len() * 2 {
                    self.grow();
                }
                true
            }
        }
    }

    /// The chunk's position, or else the slot where it belongs. The table always has free slots.
    fn find(&self, id: ChunkId) -> std::result::Result<usize, usize> {
        let mask = self.table.len() - 1;
        let mut slot = self.slot(id);
        loop {
            match self.table[slot] {
                FREE => return Err(slot),
                at if self.chunks[at as usize].0 == id => return Ok(at as usize),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    #[allow(clippy::cast_possible_truncation)] // only the low bits are used
    fn slot(&self, id: ChunkId) -> usize {
        self.hasher.hash_one(id.0) as usize & (self.table.len() - 1)
    }

    fn grow(&mut self) {
        self.table = vec![FREE; self.table.len() * 2];
        let mask = self.table.len() - 1;
        for (at, (id, _)) in self.chunks.iter().enumerate() {
            let mut slot = self.slot(*id);
            while self.table[slot] != FREE {
                slot = (slot + 1) & mask;
            }
            self.table[slot] = u32::try_from(at).expect("it was put in with this position");
        }
    }
}
