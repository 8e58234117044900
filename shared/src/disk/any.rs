//! A disk of a pool, whatever it is: a file or block device, or an export of an NBD server. By its [`Address`]. Or one that was not found (yet).
//!
//! Byte locks exist on files and devices only, and say so by their type: over NBD nothing is locked, so nothing that a process on
//! this host has written there is ever proven to have landed (PROTOCOLS.md, K1 and T3).

use super::absent::AbsentDisk;
use super::buf::{IoBuf, IoBytes};
use super::file::{FileDisk, Identity, OpenMode};
use super::nbd::uri::{NbdUri, is_nbd};
use super::nbd::{NbdDisk, NbdOptions};
use super::{Disk, DiskResult};
use crate::ids::Life;
use crate::units::DiskOff;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a disk is, as a user writes it: a path, or the address of an NBD export (`nbd::uri`). A path that looks like an address
/// is written with `./` before it. On the wire, in the catalog and in the configuration it is its text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// Of a file or block device.
    Path(PathBuf),
    /// Of an export.
    Nbd(NbdUri),
}

impl Address {
    /// The same for a program that stands in another folder.
    ///
    /// # Errors
    /// Where the path is empty, or the folder is not known.
    pub fn absolute(&self) -> std::io::Result<Self> {
        match self {
            Address::Path(path) => std::path::absolute(path).map(Address::Path),
            Address::Nbd(_) => Ok(self.clone()),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_nbd(text) { text.parse().map(Address::Nbd) } else { Ok(Address::Path(text.into())) }
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Address::Path(path.to_owned())
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Address::Path(path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Path(path) => path.display().fmt(f),
            Address::Nbd(uri) => uri.fmt(f),
        }
    }
}

/// What became of an attempt to lock a byte of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// It is ours.
    Taken,
    /// Another open of the disk on this host has it.
    Held,
    /// The disk knows no locks: nothing is excluded, and nothing proven.
    Absent,
}

/// An open disk of a pool.
#[derive(Debug)]
pub enum PoolDisk {
    /// A file or block device.
    File(FileDisk),
    /// An export.
    Nbd(NbdDisk),
    /// One that was not found.
    Absent(AbsentDisk),
}

impl PoolDisk {
    /// Opens it. May be awaited on any executor; a file is opened at once.
    ///
    /// # Errors
    /// Those of `FileDisk::open` and `NbdDisk::open`, all answered.
    pub async fn open(address: &Address, mode: OpenMode) -> DiskResult<Self> {
        Self::open_with(address, mode, &NbdOptions::default()).await
    }

    /// Opens it to look at it: for reading, over one connection.
    ///
    /// # Errors
    /// As `open`.
    pub async fn peek(address: &Address) -> DiskResult<Self> {
        Self::open_with(address, OpenMode::Read, &NbdOptions { connections: 1, ..NbdOptions::patient() }).await
    }

    /// Opens it, an export by these options.
    ///
    /// # Errors
    /// As `open`.
    pub async fn open_with(address: &Address, mode: OpenMode, options: &NbdOptions) -> DiskResult<Self> {
        let uri = match address {
            Address::Path(path) => return FileDisk::open(path, mode).map(PoolDisk::File),
            Address::Nbd(uri) => uri,
        };
        let disk = NbdDisk::open(uri, mode, options).await?;
        if mode == OpenMode::ReadWrite && !disk.is_coherent() {
            tracing::warn!(
                "{disk}: its server does not promise (multi-conn) that all hosts see the same: it must serve them from one cache"
            );
        }
        Ok(PoolDisk::Nbd(disk))
    }

    /// What opens it again; says nothing about which disk it is. Of one that was not found: where it was looked for first.
    #[must_use]
    pub fn address(&self) -> Address {
        match self {
            PoolDisk::File(disk) => Address::Path(disk.path().to_owned()),
            PoolDisk::Nbd(disk) => Address::Nbd(disk.uri().clone()),
            PoolDisk::Absent(disk) => disk.hints().first().cloned().unwrap_or_else(|| Address::Path(PathBuf::new())),
        }
    }

    /// Which disk it is to this host, whatever its address; `None` for one that was not found.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        match self {
            PoolDisk::File(disk) => Some(disk.identity()),
            PoolDisk::Nbd(disk) => Some(disk.identity()),
            PoolDisk::Absent(_) => None,
        }
    }

    /// Why it cannot be used any more until it is opened anew; a file or device always can.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        match self {
            PoolDisk::File(_) => None,
            PoolDisk::Nbd(disk) => disk.lost(),
            PoolDisk::Absent(disk) => Some(disk.why().to_owned()),
        }
    }

    /// Waits until it is lost: for a file or device, for ever. On any executor.
    pub async fn until_lost(&self) {
        match self {
            PoolDisk::File(_) => std::future::pending().await,
            PoolDisk::Nbd(disk) => disk.until_lost().await,
            PoolDisk::Absent(_) => {}
        }
    }

    /// Whether it knows byte locks.
    #[must_use]
    pub fn has_locks(&self) -> bool {
        matches!(self, PoolDisk::File(_))
    }

    /// Locks the byte at `byte`: `FileDisk::try_lock`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn try_lock(&self, byte: u64) -> DiskResult<Lock> {
        match self {
            PoolDisk::File(disk) => disk.try_lock(byte).map(|taken| if taken { Lock::Taken } else { Lock::Held }),
            PoolDisk::Nbd(_) | PoolDisk::Absent(_) => Ok(Lock::Absent),
        }
    }

    /// The same, beside other opens that have it this way: `FileDisk::try_lock_shared`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn try_lock_shared(&self, byte: u64) -> DiskResult<Lock> {
        match self {
            PoolDisk::File(disk) => disk.try_lock_shared(byte).map(|taken| if taken { Lock::Taken } else { Lock::Held }),
            PoolDisk::Nbd(_) | PoolDisk::Absent(_) => Ok(Lock::Absent),
        }
    }

    /// Whether another open of the disk on this host holds the lock on this byte; `None` where there are no locks.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn lock_held_by_other(&self, byte: u64) -> DiskResult<Option<bool>> {
        match self {
            PoolDisk::File(disk) => disk.lock_held_by_other(byte).map(Some),
            PoolDisk::Nbd(_) | PoolDisk::Absent(_) => Ok(None),
        }
    }
}

impl From<FileDisk> for PoolDisk {
    fn from(disk: FileDisk) -> Self {
        PoolDisk::File(disk)
    }
}

impl fmt::Display for PoolDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolDisk::File(disk) => disk.fmt(f),
            PoolDisk::Nbd(disk) => disk.fmt(f),
            PoolDisk::Absent(disk) => disk.fmt(f),
        }
    }
}

impl Disk for PoolDisk {
    fn size(&self) -> u64 {
        match self {
            PoolDisk::File(disk) => disk.size(),
            PoolDisk::Nbd(disk) => disk.size(),
            PoolDisk::Absent(disk) => disk.size(),
        }
    }

    async fn read(&self, at: DiskOff, buf: IoBuf) -> (DiskResult<()>, IoBuf) {
        match self {
            PoolDisk::File(disk) => disk.read(at, buf).await,
            PoolDisk::Nbd(disk) => disk.read(at, buf).await,
            PoolDisk::Absent(disk) => disk.read(at, buf).await,
        }
    }

    async fn write(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        match self {
            PoolDisk::File(disk) => disk.write(at, data).await,
            PoolDisk::Nbd(disk) => disk.write(at, data).await,
            PoolDisk::Absent(disk) => disk.write(at, data).await,
        }
    }

    async fn write_durable(&self, at: DiskOff, data: IoBytes) -> DiskResult<()> {
        match self {
            PoolDisk::File(disk) => disk.write_durable(at, data).await,
            PoolDisk::Nbd(disk) => disk.write_durable(at, data).await,
            PoolDisk::Absent(disk) => disk.write_durable(at, data).await,
        }
    }

    async fn flush(&self) -> DiskResult<()> {
        match self {
            PoolDisk::File(disk) => disk.flush().await,
            PoolDisk::Nbd(disk) => disk.flush().await,
            PoolDisk::Absent(disk) => disk.flush().await,
        }
    }

    fn life(&self) -> Life {
        match self {
            PoolDisk::File(disk) => disk.life(),
            PoolDisk::Nbd(disk) => disk.life(),
            PoolDisk::Absent(disk) => disk.life(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_unless_it_has_a_scheme_of_ours() {
        for text in ["/dev/sda", "d.img", "./nbd://h/x", "http://h/x"] {
            assert_eq!(text.parse(), Ok(Address::Path(text.into())));
        }
        for text in ["nbd://h/x", "nbd+unix:///x?socket=/s"] {
            assert!(matches!(text.parse(), Ok(Address::Nbd(_))), "{text}");
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert!("nbds://h/x".parse::<Address>().is_err() && "nbd+ssh://h/x".parse::<Address>().is_err());
        let json = r#""nbd://h/x""#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Address>(json).unwrap()).unwrap(), json);
    }

    #[test]
    fn a_file_has_locks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || PoolDisk::from(FileDisk::open(file.path(), OpenMode::ReadWrite).unwrap());
        let (a, b) = (open(), open());
        assert_eq!((a.try_lock(1 << 40), b.try_lock(1 << 40)), (Ok(Lock::Taken), Ok(Lock::Held)));
        assert_eq!(b.lock_held_by_other(1 << 40), Ok(Some(true)));
        assert_eq!((a.address(), a.lost()), (Address::Path(file.path().into()), None));
    }

    #[test]
    fn what_was_not_found_is_as_a_lost_path_and_proves_nothing() {
        let hints = vec!["/dev/sdx".parse::<Address>().unwrap()];
        let disk = PoolDisk::Absent(AbsentDisk::new(hints.clone(), 64 << 20, "no such file".into()));
        assert_eq!((disk.lost(), disk.has_locks(), disk.life()), (Some("no such file".into()), false, Life::NONE));
        assert_eq!((disk.try_lock(0), disk.lock_held_by_other(0)), (Ok(Lock::Absent), Ok(None)));
        let failed = super::super::ring::block_on(disk.flush()).unwrap_err();
        assert_eq!((failed.answer, failed.errno), (super::super::Answer::Answered, libc::ENOTCONN));
        assert_eq!(disk.address(), hints[0]);
    }
}
