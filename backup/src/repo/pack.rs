//! Writing packs: one thread appends entries ([`PackWriter`]), another makes full packs durable and gathers them into
//! index files ([`Sealer`]), so that waiting for the disk stops neither hashing nor compressing.

use super::{Repository, TMP};
use crate::format::envelope::HEADER;
use crate::format::id::{ChunkId, ChunkKind, FileId};
use crate::format::index::IndexedPack;
use crate::format::pack::{self, Coding, END, END_BYTES, HEAD, ROW, Row};
use crate::format::{META_MAX, damaged};
use crate::store::StoreFile;
use fusevol_shared::error::Result;

/// Bytes of entries after which a pack is full.
pub const PACK_TARGET: u64 = 32 << 20;
/// Packs after which an index is written in the middle of a backup, so that one that is broken off need not store all
/// again.
const PACKS_PER_INDEX: usize = 64;
/// Entries after which it is.
const ROWS_PER_INDEX: usize = 1 << 18;

/// A chunk to be stored.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub id: ChunkId,
    /// What it holds.
    pub kind: ChunkKind,
    /// How `bytes` are coded.
    pub coding: Coding,
    /// Bytes that it stands for.
    pub plain: u32,
    /// As they are stored.
    pub bytes: Vec<u8>,
}

/// A pack that has all its bytes, but is not durable yet.
pub struct FullPack {
    file: Box<dyn StoreFile>,
    pack: IndexedPack,
}

struct OpenPack {
    file: Box<dyn StoreFile>,
    name: FileId,
    rows: Vec<Row>,
    end: u64,
}

/// Appends entries to the pack that is open.
pub struct PackWriter<'a> {
    repo: &'a Repository,
    target: u64,
    open: Option<OpenPack>,
}

impl<'a> PackWriter<'a> {
    /// With no pack open; a pack is full from `target` bytes on.
    #[must_use]
    pub fn new(repo: &'a Repository, target: u64) -> Self {
        Self { repo, target, open: None }
    }

    /// Appends; gives the pack if it is full now.
    ///
    /// # Errors
    /// Of the medium.
    pub fn add(&mut self, entry: &Entry) -> Result<Option<FullPack>> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let name = self.repo.new_name();
                let mut file = self.repo.store().create(&tmp_path(name))?;
                file.append(&pack::encode_head(self.repo.config().id, name))?;
                self.open.insert(OpenPack { file, name, rows: Vec::new(), end: HEAD })
            }
        };
        open.file.append(&entry.bytes)?;
        let number = |n: u64| u32::try_from(n).expect("a pack is far smaller than 4 GiB");
        let stored = number(entry.bytes.len() as u64);
        let row = Row { id: entry.id, offset: number(open.end), stored, plain: entry.plain, kind: entry.kind, coding: entry.coding };
        open.end = row.end();
        open.rows.push(row);
        if open.end >= self.target { self.finish() } else { Ok(None) }
    }

    /// Ends the open pack, if there is one.
    ///
    /// # Errors
    /// Of the medium.
    pub fn finish(&mut self) -> Result<Option<FullPack>> {
        let Some(OpenPack { mut file, name, rows, end }) = self.open.take() else { return Ok(None) };
        file.append(&pack::encode_list(self.repo.config().id, &rows))?;
        let size = pack::file_size(rows.len(), end);
        Ok(Some(FullPack { file, pack: IndexedPack { name, size, rows } }))
    }
}

/// Makes packs durable, gives them their places, and gathers their lists.
pub struct Sealer<'a> {
    repo: &'a Repository,
    waiting: Vec<IndexedPack>,
    /// Bytes of all entries sealed.
    pub stored: u64,
}

impl<'a> Sealer<'a> {
    /// With nothing gathered.
    #[must_use]
    pub fn new(repo: &'a Repository) -> Self {
        Self { repo, waiting: Vec::new(), stored: 0 }
    }

    /// Makes one durable.
    ///
    /// # Errors
    /// Of the medium.
    pub fn seal(&mut self, full: FullPack) -> Result<()> {
        let FullPack { mut file, pack } = full;
        file.sync()?;
        drop(file);
        let store = self.repo.store();
        store.rename(&tmp_path(pack.name), &Repository::pack_path(pack.name))?;
        store.sync_dir(&Repository::pack_dir(pack.name))?;
        self.stored += pack.rows.iter().map(|r| u64::from(r.stored)).sum::<u64>();
        self.waiting.push(pack);
        let rows: usize = self.waiting.iter().map(|p| p.rows.len()).sum();
        if self.waiting.len() >= PACKS_PER_INDEX || rows >= ROWS_PER_INDEX { self.write_index() } else { Ok(()) }
    }

    /// Writes the last index, and makes every index durable that this backup may have relied on.
    ///
    /// # Errors
    /// Of the medium.
    pub fn finish(&mut self) -> Result<()> {
        if self.waiting.is_empty() { self.repo.store().sync_dir(super::INDEX) } else { self.write_index() }
    }

    fn write_index(&mut self) -> Result<()> {
        self.repo.write_index(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

fn tmp_path(name: FileId) -> String {
    format!("{TMP}/{name}")
}

/// The list at the end of a pack.
///
/// # Errors
/// `Damaged`, of the medium.
pub(super) fn read_list(repo: &Repository, name: FileId) -> Result<IndexedPack> {
    let file = repo.store().open(&Repository::pack_path(name))?;
    let size = file.size()?;
    let least = HEAD + (HEADER + ROW) as u64 + END;
    if size < least {
        return Err(damaged(format!("{size} bytes are no pack")));
    }
    let mut end = [0; END_BYTES];
    file.read_at(size - END, &mut end)?;
    let at = pack::list_at(size, &end)?;
    let length = size - END - at;
    if length > META_MAX {
        return Err(damaged(format!("its list would have {length} bytes")));
    }
    let mut list = vec![0; usize::try_from(length).map_err(|_| damaged("its list is too long"))?];
    file.read_at(at, &mut list)?;
    Ok(IndexedPack { name, size, rows: pack::decode_list(repo.config().id, at, &list)? })
}
