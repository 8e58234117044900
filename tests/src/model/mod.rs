//! The model: random operations on real volumes over memory disks with the manager's real core, against a byte array.
//!
//! - [`manager`]: the core, driven in memory: each step is committed at once; requests and pushes are futures.
//! - [`host`]: one client process: its session, its pushes, its disks.
//! - [`reference`]: what is right: bytes, written blocks, snapshots as copies, blocks touched since each.
//! - [`run`]: random operations from a seed, compared after each.
//! - [`copies`]: the disks of mirrored volumes, which die and come back.
//! - [`lockers`]: processes that lock byte ranges on several hosts.
//! - [`frozen`]: a writer that stands still while its volume is taken over from it.
//! - [`huge`]: a volume of millions of AUs, mapped to the last block without having been written.
//! - [`through`]: I/O through the manager.
//! - [`slow`]: a disk that lets other tasks run in the midst of its I/O. [`timed`]: one that takes a given time, and counts.
//!
//! Everything runs on one thread, in an order that the seed decides.

pub mod copies;
pub mod frozen;
pub mod host;
pub mod huge;
pub mod lockers;
pub mod manager;
pub mod reference;
pub mod run;
pub mod slow;
pub mod through;
pub mod timed;

/// Runs `future` and the tasks that it spawns on this thread.
///
/// # Panics
/// If the runtime cannot be made.
pub fn run_local<F: std::future::Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O needs nothing");
    tokio::task::LocalSet::new().block_on(&runtime, future)
}
