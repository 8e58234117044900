//! Persistent reservations (SCSI-3, NVMe), through the kernel's `IOC_PR_*`: the disk itself knows who may write to it.
//!
//! ```text
//!  free -> reserved: who is registered writes, nobody else -> a host is expelled: its registration is gone, what it had under way is aborted
//! ```
//! A registration belongs to the path between a host and a disk, not to a process: all processes of a host share its key, which is that of its boot.
//! A host that boots again has another key; one that registers again is in again.
//!
//! Invariant: a host that is expelled from a disk that is reserved writes nothing there until it registers again.

pub mod model;

use super::any::PoolDisk;
use super::file::{FileDisk, FileKind};
use super::ioctl::{self, Pr};
use crate::ids::{BootId, PoolId};
use std::fmt;
use std::io;

/// `PR_STS_RESERVATION_CONFLICT` of `linux/pr.h`.
const CONFLICT: i32 = 0x18;

/// What a host is registered by. Never 0, which stands for none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostKey(u64);

impl HostKey {
    /// That of a boot of a host, in this pool.
    #[must_use]
    pub fn of(pool: PoolId, boot: BootId) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("fusevol 2026 persistent reservation");
        hash.update(&pool.0).update(&boot.0);
        let mut key = [0; 8];
        hash.finalize_xof().fill(&mut key);
        Self(u64::from_le_bytes(key).max(1))
    }
}

/// Why a disk did not do it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotReserved {
    /// It knows no reservations.
    Unknown,
    /// It is reserved in another way, or the key that was named is not registered.
    Conflict,
    /// It failed, or nothing is known; for people.
    Failed(String),
}

impl fmt::Display for NotReserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReserved::Unknown => f.write_str("it knows no persistent reservations"),
            NotReserved::Conflict => f.write_str("reservation conflict"),
            NotReserved::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NotReserved {}

/// A disk that may know reservations. Each call waits for the disk.
pub trait Reservations: Send + Sync {
    /// This host has this key there from now on, whatever it had.
    ///
    /// # Errors
    /// As the disk answers.
    fn register(&self, key: HostKey) -> Result<(), NotReserved>;

    /// Only who is registered writes from now on. `key` is this host's; asked again it changes nothing.
    ///
    /// # Errors
    /// `Conflict` where it is reserved in another way, or `key` is not registered; else as the disk answers.
    fn reserve(&self, key: HostKey) -> Result<(), NotReserved>;

    /// The host with the key `other` is registered no more, and what it had under way has landed or never will.
    ///
    /// # Errors
    /// `Conflict` where `other` is not registered, or `own` is not; else as the disk answers.
    fn expel(&self, own: HostKey, other: HostKey) -> Result<(), NotReserved>;
}

/// Cuts a host off from a disk that it has written to only while it was registered there: nothing of it lands there any more.
///
/// # Errors
/// Where it may: the disk knows no reservations, is reserved in another way, or failed.
pub fn cut_off(disk: &dyn Reservations, own: HostKey, other: HostKey) -> Result<(), NotReserved> {
    disk.register(own)?;
    disk.reserve(own)?;
    match disk.expel(own, other) {
        // Not registered: it has never written there, or is cut off already.
        Err(NotReserved::Conflict) => Ok(()),
        done => done,
    }
}

impl FileDisk {
    fn pr(&self, pr: Pr) -> Result<(), NotReserved> {
        if self.kind() != FileKind::Block {
            return Err(NotReserved::Unknown);
        }
        match ioctl::persistent_reservation(self.fd(), pr) {
            Ok(0) => Ok(()),
            Ok(CONFLICT) => Err(NotReserved::Conflict),
            Ok(status) => Err(NotReserved::Failed(format!("status {status:#x} of the disk"))),
            Err(e) => Err(refusal(&e)),
        }
    }
}

fn refusal(e: &io::Error) -> NotReserved {
    match e.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOTTY) => NotReserved::Unknown,
        Some(libc::EBADE) => NotReserved::Conflict,
        _ => NotReserved::Failed(e.to_string()),
    }
}

impl Reservations for FileDisk {
    fn register(&self, key: HostKey) -> Result<(), NotReserved> {
        self.pr(Pr::Register(key.0))
    }

    fn reserve(&self, key: HostKey) -> Result<(), NotReserved> {
        self.pr(Pr::Reserve(key.0))
    }

    fn expel(&self, own: HostKey, other: HostKey) -> Result<(), NotReserved> {
        self.pr(Pr::PreemptAbort(own.0, other.0))
    }
}

impl PoolDisk {
    fn reserved(&self) -> Result<&FileDisk, NotReserved> {
        match self {
            PoolDisk::File(disk) => Ok(disk),
            PoolDisk::Nbd(_) => Err(NotReserved::Unknown),
            PoolDisk::Absent(disk) => Err(NotReserved::Failed(disk.to_string())),
        }
    }
}

impl Reservations for PoolDisk {
    fn register(&self, key: HostKey) -> Result<(), NotReserved> {
        self.reserved()?.register(key)
    }

    fn reserve(&self, key: HostKey) -> Result<(), NotReserved> {
        self.reserved()?.reserve(key)
    }

    fn expel(&self, own: HostKey, other: HostKey) -> Result<(), NotReserved> {
        self.reserved()?.expel(own, other)
    }
}

#[cfg(test)]
mod tests;
