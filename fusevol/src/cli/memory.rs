//! The memory of the process that serves a mount: it must go on when the host is short of it.
//!
//! The host frees memory by writing dirty pages, some of them to filesystems on our volumes: what waits for that must not be what
//! carries it out. So, before the first thread (each inherits it):
//! - `PR_SET_IO_FLUSHER`: what the kernel allocates for this process never waits for I/O, and its writes are not throttled.
//! - `mlockall`: what there is at the start (the program itself) is fetched and kept; everything later is kept once it is touched
//!   (`MCL_ONFAULT`: stacks and pools are mostly untouched, and would be fetched whole without it).
//! - `oom_score_adj` -900: almost everybody else is killed first. Not -1000, as multipathd has it: where this process itself is what grows, or is alone
//!   in its group, its end is better than the host's; a killed mount gives errors, loses nothing that was synced, and is replaced.
//!
//! Not for a private mount within another program: no filesystem is mounted on it, and nothing of it goes through the page cache, so no memory
//! is freed by way of it; and what the program itself needs (a backup compresses) is not to be locked.

use fusevol_shared::error::{Context, Kind, Result};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, configure_io_flusher_behavior, setrlimit};
use serde::{Deserialize, Serialize};
use std::fmt;

const OOM_SCORE: &str = "/proc/self/oom_score_adj";
const SCORE: &str = "-900";

/// How far the process is prepared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Memory {
    /// It stays in memory.
    pub(super) locked: bool,
    /// It never waits for I/O to get memory.
    pub(super) io_flusher: bool,
    /// What could not be had, and why.
    pub(super) missing: Vec<String>,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.locked { "locked" } else { "not locked" })?;
        match self.missing.as_slice() {
            [] => Ok(()),
            missing => write!(f, " ({})", missing.join("; ")),
        }
    }
}

/// Prepares this process, which has no second thread yet. What is refused is said and done without.
pub(super) fn prepare() -> Memory {
    let flusher = configure_io_flusher_behavior(true).context(Kind::Denied, || "getting memory may wait for I/O (PR_SET_IO_FLUSHER)");
    let locked = lock();
    let score = std::fs::write(OOM_SCORE, SCORE).context(Kind::Denied, || format!("{OOM_SCORE} stays as it is"));
    let (io_flusher, is_locked) = (flusher.is_ok(), locked.is_ok());
    let missing: Vec<String> = [flusher, locked, score].into_iter().filter_map(|r| r.err().map(|e| e.to_string())).collect();
    missing.iter().for_each(|m| tracing::warn!("where memory is short the mount may suffer: {m}"));
    Memory { locked: is_locked, io_flusher, missing }
}

fn lock() -> Result<()> {
    let cannot = || "memory cannot be locked (mlockall)";
    // Who may not raise it may still be free of it (CAP_IPC_LOCK); if not, the calls below say so.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    mlockall(MlockAllFlags::CURRENT).context(Kind::Denied, cannot)?;
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).context(Kind::Denied, cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let all = Memory { locked: true, io_flusher: true, missing: vec![] };
        assert_eq!(all.to_string(), "locked");
        let some = Memory { locked: false, io_flusher: true, missing: vec!["a".into(), "b".into()] };
        assert_eq!(some.to_string(), "not locked (a; b)");
    }
}
