//! Reading chunks: found by the index, read from their pack, decoded within the length that their row says, and given
//! out only when their hash is their name. Where a chunk is there twice, a damaged copy does no harm.

use super::Repository;
use super::index::{ChunkIndex, Place};
use crate::format::damaged;
use crate::format::id::{ChunkId, ChunkKind, FileId};
use crate::format::pack::PLAIN_MAX;
use crate::store::StoreRead;
use fusevol_shared::error::{Context, Kind, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Most pack files held open.
const OPEN_MAX: usize = 64;

/// Memory of one reading thread, used again and again.
pub struct Scratch {
    stored: Vec<u8>,
    plain: Vec<u8>,
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Scratch {
    /// Empty.
    ///
    /// # Errors
    /// Where the decoder cannot be made.
    pub fn new() -> Result<Self> {
        let zstd = zstd::bulk::Decompressor::new().context(Kind::Internal, || "the zstd decoder")?;
        Ok(Self { stored: Vec::new(), plain: Vec::new(), zstd })
    }
}

/// Reads chunks, from any thread.
pub struct ChunkReader<'a> {
    repo: &'a Repository,
    index: RwLock<State>,
    open: Mutex<HashMap<FileId, Arc<dyn StoreRead>>>,
}

struct State {
    index: ChunkIndex,
    /// All packs' own lists have been read.
    complete: bool,
}

impl<'a> ChunkReader<'a> {
    /// With this index; where it does not know a chunk the packs' own lists are read.
    #[must_use]
    pub fn new(repo: &'a Repository, index: ChunkIndex) -> Self {
        Self { repo, index: RwLock::new(State { index, complete: false }), open: Mutex::default() }
    }

    /// The plain bytes of a chunk, checked.
    ///
    /// # Errors
    /// `Damaged` where it is missing or no copy of it is whole; of the medium.
    pub fn read<'s>(&self, kind: ChunkKind, id: ChunkId, scratch: &'s mut Scratch) -> Result<&'s [u8]> {
        let mut failed = None;
        for (pack, place) in self.places(id)? {
            match self.read_at(kind, id, pack, place, scratch) {
                Ok(()) => return Ok(&scratch.plain),
                Err(e) => failed = Some(e.within(format_args!("chunk {id:?} in {}", Repository::pack_path(pack)))),
            }
        }
        Err(failed.unwrap_or_else(|| damaged(format!("chunk {id:?} is in no pack"))))
    }

    fn places(&self, id: ChunkId) -> Result<Vec<(FileId, Place)>> {
        let look = |s: &State| s.index.places(id).map(|p| (s.index.pack(p.pack), p)).collect::<Vec<_>>();
        {
            let state = self.index.read().unwrap_or_else(PoisonError::into_inner);
            let found = look(&state);
            if !found.is_empty() || state.complete {
                return Ok(found);
            }
        }
        let mut state = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if !state.complete {
            // Packs whose lists cannot be read are what `check` reports; here they only do not help.
            state.index.learn_packs(self.repo)?;
            state.complete = true;
        }
        Ok(look(&state))
    }

    fn read_at(&self, kind: ChunkKind, id: ChunkId, pack: FileId, place: Place, scratch: &mut Scratch) -> Result<()> {
        let file = self.file(pack)?;
        scratch.stored.resize(place.stored as usize, 0);
        file.read_at(u64::from(place.offset), &mut scratch.stored)?;
        decode(place.plain, scratch)?;
        if ChunkId::of(kind, &scratch.plain) == id { Ok(()) } else { Err(damaged("its hash is not its name")) }
    }

    fn file(&self, pack: FileId) -> Result<Arc<dyn StoreRead>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&pack) {
            return Ok(file.clone());
        }
        let file: Arc<dyn StoreRead> = match self.repo.store().open(&Repository::pack_path(pack)) {
            Err(e) if e.kind() == Kind::NotFound => return Err(damaged("the pack is missing")),
            other => other?.into(),
        };
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        open.insert(pack, file.clone());
        Ok(file)
    }
}

/// Decodes `scratch.stored` into `scratch.plain`, which gets exactly `plain` bytes.
pub(crate) fn decode(plain: u32, scratch: &mut Scratch) -> Result<()> {
    if plain > PLAIN_MAX {
        return Err(damaged(format!("a chunk of {plain} bytes is too long")));
    }
    let Scratch { stored, plain: out, zstd } = scratch;
    if stored.len() == plain as usize {
        std::mem::swap(stored, out);
        return Ok(());
    }
    out.clear();
    out.reserve_exact(plain as usize);
    zstd.decompress_to_buffer(stored.as_slice(), out).map_err(|e| damaged("it does not decompress").because(e))?;
    if out.len() == plain as usize { Ok(()) } else { Err(damaged(format!("it has {} bytes, not {plain}", out.len()))) }
}

impl Scratch {
    /// For a reader that goes through a pack by itself: the stored bytes to fill.
    pub(crate) fn stored(&mut self, len: u32) -> &mut [u8] {
        self.stored.resize(len as usize, 0);
        &mut self.stored
    }

    /// What [`decode`] has made of them.
    pub(crate) fn plain(&self) -> &[u8] {
        &self.plain
    }
}
