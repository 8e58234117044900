//! A repository: made, opened, and what all of its users do.
//!
//! ```text
//! config            what holds for all of it (written last by init)
//! lock              flock: shared by all that read or add, exclusive for what takes away
//! data/xx/NAME      packs; xx = the first two digits of NAME
//! index/NAME        lists of packs, gathered
//! manifests/NAME    snapshots
//! tmp/NAME          being written, or left over by who was killed
//! ```
//!
//! Order of a backup: packs durable -> index durable -> manifest durable. So whatever a manifest or an index names is
//! there, and what an interrupted backup leaves is named by nobody. Several backups at once are right: each writes files
//! of its own random names, and relies only on packs that an index names, which are durable; a chunk that two of them
//! stored is there twice, and either copy serves.
//!
//! | at once            | read | backup | take away |
//! |--------------------|------|--------|-----------|
//! | read (show, restore, check) | yes | yes | no |
//! | backup             | yes  | yes    | no        |
//! | take away (prune, repair)   | no  | no  | no |

pub mod index;
pub mod pack;
pub mod read;
pub mod select;
pub mod table;

use crate::format::config::{Config, chunk_size_is_valid};
use crate::format::id::FileId;
use crate::format::index::IndexedPack;
use crate::format::manifest::Manifest;
use crate::format::{self, META_MAX, damaged};
use crate::store::{LockMode, Store, StoreLock, put, read_all};
use fusevol_shared::error::{Error, Kind, Result};
use fusevol_shared::random::{Random, SystemRandom};
use std::sync::Mutex;

/// File and folders.
pub const CONFIG: &str = "config";
/// See [`CONFIG`].
pub const DATA: &str = "data";
/// See [`CONFIG`].
pub const INDEX: &str = "index";
/// See [`CONFIG`].
pub const MANIFESTS: &str = "manifests";
/// See [`CONFIG`].
pub const TMP: &str = "tmp";
/// Largest configuration, bytes.
const CONFIG_MAX: u64 = 1 << 20;
/// Largest manifest, bytes.
const MANIFEST_MAX: u64 = 1 << 20;

/// Name and size of a pack.
pub type PackFile = (FileId, u64);
/// The name of a file that cannot be read, and why.
pub type Unreadable = (String, Error);

/// An open, locked repository.
pub struct Repository {
    store: Box<dyn Store>,
    config: Config,
    random: Mutex<Box<dyn Random>>,
    _lock: Box<dyn StoreLock>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("place", &self.store.place()).field("id", &self.config.id).finish_non_exhaustive()
    }
}

impl Repository {
    /// Makes one that is not encrypted. `now` is in seconds since 1970 UTC.
    ///
    /// # Errors
    /// `Refused` for a chunk size out of range; `Exists` where there is one, or other files; of the medium.
    pub fn init(store: Box<dyn Store>, chunk_size: u32, now: u64, mut random: Box<dyn Random>) -> Result<Self> {
        if !chunk_size_is_valid(chunk_size) {
            return Err(
                Error::new(Kind::Refused, format!("a chunk cannot have {chunk_size} bytes")).hint("take a power of two from 64K to 8M")
            );
        }
        let files = store.list("")?;
        if files.iter().any(|(n, _)| n == CONFIG) {
            return Err(Error::new(Kind::Exists, format!("there is a repository at {}", store.place())));
        }
        if files.iter().any(|(n, _)| n != "lock") {
            return Err(Error::new(Kind::Exists, format!("{} holds other files", store.place())).hint("give an empty folder"));
        }
        store.make_dir("")?;
        let lock = store.lock(LockMode::Exclusive)?;
        if store.list("")?.iter().any(|(n, _)| n == CONFIG) {
            return Err(Error::new(Kind::Exists, format!("there is a repository at {} by now", store.place())));
        }
        for dir in [DATA, INDEX, MANIFESTS, TMP] {
            store.make_dir(dir)?;
        }
        (0..=255u8).try_for_each(|x| store.make_dir(&format!("{DATA}/{x:02x}")))?;
        store.sync_dir(DATA)?;
        let config = Config::plain(FileId(random.id()), chunk_size, now);
        let tmp = format!("{TMP}/{}", FileId(random.id()));
        put(store.as_ref(), &tmp, "", CONFIG, &config.encode())?;
        Ok(Self { store, config, random: Mutex::new(random), _lock: lock })
    }

    /// Opens it under its lock.
    ///
    /// # Errors
    /// `RepoMissing`, `RepoLocked`, `Damaged`, `Version`, of the medium.
    pub fn open(store: Box<dyn Store>, mode: LockMode) -> Result<Self> {
        let place = store.place();
        let bytes = match read_all(store.as_ref(), CONFIG, CONFIG_MAX) {
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Refused) => {
                return Err(Error::new(Kind::RepoMissing, format!("there is no repository at {place}"))
                    .hint(format!("make one: fusevol-backup init --repo {place}")));
            }
            other => other?,
        };
        let config = Config::decode(&bytes).map_err(|e| e.within(format_args!("repository {place}")))?;
        let lock = store.lock(mode)?;
        Ok(Self { store, config, random: Mutex::new(Box::new(SystemRandom)), _lock: lock })
    }

    /// What holds for all of it.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its files.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// A name that nobody has.
    #[must_use]
    pub fn new_name(&self) -> FileId {
        FileId(self.random.lock().unwrap_or_else(std::sync::PoisonError::into_inner).id())
    }

    /// Where a pack is.
    #[must_use]
    pub fn pack_path(pack: FileId) -> String {
        format!("{}/{pack}", Self::pack_dir(pack))
    }

    /// Its folder.
    #[must_use]
    pub fn pack_dir(pack: FileId) -> String {
        format!("{DATA}/{:02x}", pack.0[0])
    }

    /// Names and sizes of all packs; files with other names are given apart.
    ///
    /// # Errors
    /// Of the medium.
    pub fn packs(&self) -> Result<(Vec<PackFile>, Vec<String>)> {
        let (mut packs, mut strange) = (Vec::new(), Vec::new());
        for x in 0..=255u8 {
            let dir = format!("{DATA}/{x:02x}");
            for (name, size) in self.store.list(&dir)? {
                match name.parse::<FileId>() {
                    Ok(id) if id.0[0] == x => packs.push((id, size)),
                    _ => strange.push(format!("{dir}/{name}")),
                }
            }
        }
        Ok((packs, strange))
    }

    /// The packs of one index file.
    ///
    /// # Errors
    /// `Damaged`, `Version`, of the medium.
    pub fn read_index(&self, name: &str) -> Result<Vec<IndexedPack>> {
        let path = format!("{INDEX}/{name}");
        let bytes = read_all(self.store(), &path, META_MAX)?;
        format::index::decode(self.config.id, &bytes).map_err(|e| e.within(path))
    }

    /// Writes an index file, and makes every index that can be seen durable.
    ///
    /// # Errors
    /// Of the medium.
    pub fn write_index(&self, packs: &[IndexedPack]) -> Result<()> {
        let name = self.new_name();
        let bytes = format::index::encode(self.config.id, packs);
        put(self.store(), &format!("{TMP}/{name}"), INDEX, &name.to_string(), &bytes)
    }

    /// The list at the end of a pack, and the size of the pack.
    ///
    /// # Errors
    /// `Damaged`, `Version`, of the medium.
    pub fn read_pack_list(&self, name: FileId) -> Result<IndexedPack> {
        pack::read_list(self, name).map_err(|e| e.within(Self::pack_path(name)))
    }

    /// Writes a manifest: from now on the snapshot exists.
    ///
    /// # Errors
    /// Of the medium.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        let name = manifest.id.to_string();
        put(self.store(), &format!("{TMP}/{name}"), MANIFESTS, &name, &manifest.encode(self.config.id))
    }

    /// All manifests, the oldest first, and the names of those that cannot be read, with why.
    ///
    /// # Errors
    /// Of the medium.
    pub fn manifests(&self) -> Result<(Vec<Manifest>, Vec<Unreadable>)> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for (name, _) in self.store.list(MANIFESTS)? {
            match self.read_manifest(&name) {
                Ok(m) => good.push(m),
                Err(e) => bad.push((name, e)),
            }
        }
        good.sort_by_key(|m| (m.time_ns, m.id));
        Ok((good, bad))
    }

    fn read_manifest(&self, name: &str) -> Result<Manifest> {
        let path = format!("{MANIFESTS}/{name}");
        let id: FileId = name.parse().map_err(|e: Error| e.within(path.clone()))?;
        let m = Manifest::decode(self.config.id, id, &read_all(self.store(), &path, MANIFEST_MAX)?).map_err(|e| e.within(path.clone()))?;
        if m.chunk_size == self.config.chunk_size { Ok(m) } else { Err(damaged(format!("{path}: its chunk size is not the repository's"))) }
    }
}
