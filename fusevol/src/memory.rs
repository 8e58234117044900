//! The memory of a process that serves a mount. When the kernel is short of memory it writes dirty pages back, also through our mount; if
//! that had to wait for memory which only that write-back can free, the host would stand still. So:
//!
//! - The process is an *I/O flusher* (`PR_SET_IO_FLUSHER`): its own allocations in the kernel do not wait for filesystem or block I/O. Threads inherit that, so
//!   it is set before the first one starts.
//! - Its pages are locked once they are touched (`mlockall` with `MCL_ONFAULT`): none has to be read from a swap device first.
//!
//! For the process of `fusevol mount` only: a program that mounts for itself (backup, restore) reads and writes no volume of others, and its
//! memory is its own matter.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, configure_io_flusher_behavior, setrlimit};

/// Prepares this process. Says for people what it is now: refusals are no errors, a host without pressure never notices.
#[must_use]
pub fn prepare() -> String {
    let flusher = configure_io_flusher_behavior(true).map_err(|e| format!("no I/O flusher: {e}"));
    let none = Rlimit { current: None, maximum: None };
    let limit = setrlimit(Resource::Memlock, none);
    let locked = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    let locked = locked.map_err(|e| match limit {
        Ok(()) => format!("not locked: {e}"),
        Err(l) => format!("not locked: {e} (and its limit cannot be raised: {l})"),
    });
    let said: Vec<String> = [locked.map(|()| "locked".to_owned()), flusher.map(|()| "I/O flusher".to_owned())]
        .into_iter()
        .map(|r| {
            r.unwrap_or_else(|e| {
                tracing::warn!("memory of this process: {e}");
                e
            })
        })
        .collect();
    said.join(", ")
}
