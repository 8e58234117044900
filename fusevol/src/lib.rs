//! The client engine: the connection to the manager, the session, the data path, the mount.
//!
//! The data path ([`volume`], [`preserve`], [`snapshot`]) is generic over its doors: [`fusevol_shared::disk::Disk`] for
//! the disks and [`control::Control`] for what is said to the manager. A test stands in with memory disks and the
//! manager's own core.

pub mod control;
pub mod disks;
pub mod lease;
pub mod link;
pub mod preserve;
pub mod snapshot;
pub mod volume;
