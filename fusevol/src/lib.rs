//! The client engine: link, session, map view, plan, execution, preserving, snapshot reader, FUSE adapter.
//!
//! The data path is generic over its doors: [`fusevol_shared::disk::Disk`] for the disks and [`control::Control`] for
//! what is said to the manager. A test stands in with memory disks and the manager's own core.

pub mod cli;
pub mod control;
pub mod disks;
pub mod fs;
pub mod journal;
pub mod lease;
pub mod link;
pub mod locks;
pub mod out;
pub mod path;
pub mod preserve;
pub mod private;
pub mod redirect;
pub mod session;
pub mod slot;
pub mod snapshot;
pub mod stale;
pub mod volume;
