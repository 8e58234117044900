//! The door to the repository's files: the few operations of which every commit is made, so that a test can record them
//! and cut them anywhere, and so that another medium can stand in.
//!
//! Rules of use: a file is written under `tmp/`, synced, renamed to its place, and the folder of that place is synced;
//! only then is it named by anything else. Nothing in its place is ever written again. Paths are relative, with `/`.

#[cfg(test)]
pub(crate) mod crash;
pub mod dir;

pub use dir::DirStore;

use fusevol_shared::error::Result;

/// How the repository is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// With others: reading, and adding what nobody knows of yet.
    Shared,
    /// Alone: taking away, or changing what others may read.
    Exclusive,
}

/// A file being written.
pub trait StoreFile: Send {
    /// Appends.
    ///
    /// # Errors
    /// Of the medium.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// Of the medium: what was appended must be taken as lost.
    fn sync(&mut self) -> Result<()>;
}

/// A file being read.
pub trait StoreRead: Send + Sync {
    /// Bytes in it.
    ///
    /// # Errors
    /// Of the medium.
    fn size(&self) -> Result<u64>;

    /// Fills `buf` from `at`.
    ///
    /// # Errors
    /// Of the medium; `Damaged` where the file ends before.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> Result<()>;
}

/// Holds a lock until dropped.
pub trait StoreLock: Send + Sync {}

/// A repository's files.
pub trait Store: Send + Sync {
    /// Where it is, for people.
    fn place(&self) -> String;

    /// Makes a folder; one that is there already is left.
    ///
    /// # Errors
    /// Of the medium.
    fn make_dir(&self, path: &str) -> Result<()>;

    /// A new file; it must not be there.
    ///
    /// # Errors
    /// `Exists`, or of the medium.
    fn create(&self, path: &str) -> Result<Box<dyn StoreFile>>;

    /// A file to read from.
    ///
    /// # Errors
    /// `NotFound`, or of the medium.
    fn open(&self, path: &str) -> Result<Box<dyn StoreRead>>;

    /// Gives a file its place; nothing may be there.
    ///
    /// # Errors
    /// `Exists`, or of the medium.
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Makes a folder's names durable; `""` is the root.
    ///
    /// # Errors
    /// Of the medium.
    fn sync_dir(&self, path: &str) -> Result<()>;

    /// Names and sizes of the files of a folder, sorted; folders in it are left out. A folder that is not there is empty.
    ///
    /// # Errors
    /// Of the medium.
    fn list(&self, path: &str) -> Result<Vec<(String, u64)>>;

    /// Removes a file.
    ///
    /// # Errors
    /// Of the medium.
    fn remove(&self, path: &str) -> Result<()>;

    /// Takes the repository's lock at once, or fails.
    ///
    /// # Errors
    /// `RepoLocked`, or of the medium.
    fn lock(&self, mode: LockMode) -> Result<Box<dyn StoreLock>>;
}

/// A whole file of at most `most` bytes.
///
/// # Errors
/// `Damaged` where it is longer; as the door's.
pub fn read_all(store: &dyn Store, path: &str, most: u64) -> Result<Vec<u8>> {
    let file = store.open(path)?;
    let size = file.size()?;
    let len = usize::try_from(size).ok().filter(|_| size <= most);
    let len = len.ok_or_else(|| crate::format::damaged(format!("{path}: {size} bytes are more than such a file may have")))?;
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Writes a whole file so that it is there with all its bytes, durably, or not at all.
///
/// # Errors
/// As the door's.
pub fn put(store: &dyn Store, tmp: &str, dir: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let mut file = store.create(tmp)?;
    let done = file.append(bytes).and_then(|()| file.sync()).and_then(|()| store.rename(tmp, &join(dir, name)));
    if let Err(e) = done {
        // What is left over is garbage under tmp/, which is allowed to be there.
        let _ = store.remove(tmp);
        return Err(e);
    }
    store.sync_dir(dir)
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}
