//! A repository in a folder of a local or network filesystem.
//!
//! The lock is `flock(2)` on the file `lock`: it ends with the process, so that a killed backup leaves none behind (on
//! NFS the kernel makes it a lock of the server's). An exclusive holder writes into the file who it is.

use super::{LockMode, Store, StoreFile, StoreLock, StoreRead};
use crate::io_error;
use fusevol_shared::error::{Context, Error, Kind, Result};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The lock's file.
const LOCK: &str = "lock";
/// Most bytes read of who holds the lock.
const HOLDER_MAX: usize = 200;

/// A folder.
#[derive(Clone, Debug)]
pub struct DirStore {
    root: PathBuf,
}

impl DirStore {
    /// The folder `root`, there or not.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

struct Writing(File, String);

impl StoreFile for Writing {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(|e| io_error(format!("{}: writing", self.1), e))
    }

    fn sync(&mut self) -> Result<()> {
        self.0.sync_all().map_err(|e| io_error(format!("{}: making it durable", self.1), e))
    }
}

struct Reading(File, String);

impl StoreRead for Reading {
    fn size(&self) -> Result<u64> {
        Ok(self.0.metadata().map_err(|e| io_error(self.1.clone(), e))?.len())
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buf, at).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                crate::format::damaged(format!("{}: it ends before byte {}", self.1, at + buf.len() as u64))
            }
            _ => io_error(format!("{}: reading", self.1), e),
        })
    }
}

/// Unlocked when its descriptor is closed; only the exclusive holder's name is taken away before.
struct Locked(File, LockMode);

impl StoreLock for Locked {}

impl Drop for Locked {
    fn drop(&mut self) {
        if self.1 == LockMode::Exclusive {
            // The name is for people only; the lock itself is the kernel's.
            let _ = self.0.set_len(0);
        }
    }
}

impl Store for DirStore {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn make_dir(&self, path: &str) -> Result<()> {
        let path = self.path(path);
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(io_error(format!("{}: making the folder", path.display()), e)),
            _ => Ok(()),
        }
    }

    fn create(&self, path: &str) -> Result<Box<dyn StoreFile>> {
        let path = self.path(path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let shown = path.display().to_string();
        Ok(Box::new(Writing(file.map_err(|e| io_error(format!("{shown}: making the file"), e))?, shown)))
    }

    fn open(&self, path: &str) -> Result<Box<dyn StoreRead>> {
        let path = self.path(path);
        let shown = path.display().to_string();
        Ok(Box::new(Reading(File::open(&path).map_err(|e| io_error(shown.clone(), e))?, shown)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        let what = || format!("{}: giving it its place", to.display());
        match rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            // A filesystem without RENAME_NOREPLACE: names are random, so a plain look before suffices.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match rustix::fs::statat(CWD, &to, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Error::new(Kind::Exists, what())),
                Err(_) => std::fs::rename(&from, &to).map_err(|e| io_error(what(), e)),
            },
            other => other.map_err(|e| io_error(what(), e)),
        }
    }

    fn sync_dir(&self, path: &str) -> Result<()> {
        let path = self.path(path);
        File::open(&path).and_then(|d| d.sync_all()).map_err(|e| io_error(format!("{}: making the folder durable", path.display()), e))
    }

    fn list(&self, path: &str) -> Result<Vec<(String, u64)>> {
        let path = self.path(path);
        let failed = |e| io_error(path.display().to_string(), e);
        let entries = match std::fs::read_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut out = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let meta = match entry.metadata() {
                // Renamed or removed by another backup between the listing and the look.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                other => other.map_err(failed)?,
            };
            if meta.is_file() {
                out.push((entry.file_name().to_string_lossy().into_owned(), meta.len()));
            }
        }
        out.sort();
        Ok(out)
    }

    fn remove(&self, path: &str) -> Result<()> {
        let path = self.path(path);
        std::fs::remove_file(&path).map_err(|e| io_error(format!("{}: removing", path.display()), e))
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn StoreLock>> {
        let path = self.path(LOCK);
        let shown = path.display().to_string();
        // Restoring needs no more than the right to read the repository.
        let open = |writing: OFlags| rustix::fs::open(&path, writing | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
        let fd = match (open(OFlags::RDWR | OFlags::CREATE), mode) {
            (Err(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS), LockMode::Shared) => open(OFlags::RDONLY),
            (other, _) => other,
        };
        let file = File::from(fd.map_err(|e| io_error(shown.clone(), e))?);
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&file, operation) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(locked_by_another(self, &file)),
            other => other.map_err(|e| io_error(format!("{shown}: locking"), e))?,
        }
        if mode == LockMode::Exclusive {
            let holder = format!("process {} on {}\n", std::process::id(), rustix::system::uname().nodename().to_string_lossy());
            file.set_len(0).and_then(|()| file.write_all_at(holder.as_bytes(), 0)).context(Kind::Io, || shown)?;
        }
        Ok(Box::new(Locked(file, mode)))
    }
}

fn locked_by_another(store: &DirStore, file: &File) -> Error {
    let mut text = [0; HOLDER_MAX];
    let n = file.read_at(&mut text, 0).unwrap_or(0);
    let holder = String::from_utf8_lossy(&text[..n]).chars().filter(|c| !c.is_control()).collect::<String>();
    let by = if holder.is_empty() { "others that read or write it".to_owned() } else { holder };
    Error::new(Kind::RepoLocked, format!("repository {} is locked by {by}", store.place())).hint("try again when that has ended")
}
