//! What the store needs of the world besides disks: the manager's byte lock, and sleeping. A test stands in.

use fusevol_shared::disk::any::{Lock, PoolDisk};
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Context, Kind, Result};
use fusevol_shared::format::label::Instance;
use fusevol_shared::format::layout::MANAGER_LOCK;
use fusevol_shared::ids::BootId;
use fusevol_shared::random::Random;
use std::sync::Arc;
use std::time::Duration;

/// Locks and sleep.
pub trait Door<D> {
    /// Takes the manager's byte lock on this disk, until the disk is closed and its I/O has ended; `Held` if another
    /// process on this host has it, `Absent` where the disk knows no locks.
    ///
    /// # Errors
    /// What the kernel says.
    fn try_lock(&self, disk: &D) -> Result<Lock>;

    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()>;
}

/// The doors of this host: OFD byte locks, and the ring's timer.
#[derive(Clone, Copy, Default, Debug)]
pub struct HostDoor;

impl Door<PoolDisk> for HostDoor {
    fn try_lock(&self, disk: &PoolDisk) -> Result<Lock> {
        disk.try_lock(MANAGER_LOCK).context(Kind::Io, || "the manager's lock")
    }

    async fn sleep(&self, time: Duration) {
        // Where the kernel refuses a timer, waiting longer than asked is right, not going on.
        if ring::sleep(time).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Door<Arc<PoolDisk>> for HostDoor {
    fn try_lock(&self, disk: &Arc<PoolDisk>) -> Result<Lock> {
        Door::<PoolDisk>::try_lock(self, disk)
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> {
        Door::<PoolDisk>::sleep(self, time)
    }
}

/// Who this manager is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Who {
    /// This process: random.
    pub instance: Instance,
    /// This boot of this host.
    pub boot: BootId,
    /// Host name, for people.
    pub host: String,
    /// Process number, for people.
    pub pid: u32,
}

impl Who {
    /// This process on this host.
    ///
    /// # Errors
    /// `Internal` if the kernel does not tell its boot id.
    pub fn here(random: &mut dyn Random) -> Result<Self> {
        let path = "/proc/sys/kernel/random/boot_id";
        let text = std::fs::read_to_string(path).context(Kind::Internal, || path)?;
        let boot = text.trim().parse().context(Kind::Internal, || path)?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { instance: Instance(random.id()), boot, host, pid: std::process::id() })
    }
}
