//! A process of ours that stands still for a while.

use super::wait::until;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::time::Duration;

/// A stopped process; goes on when dropped.
pub struct Stopped(Pid);

impl Stopped {
    /// Stops process `pid`, and waits until each of its threads stands: the signal reaches them one by one.
    ///
    /// # Panics
    /// Where it is none of ours, or does not stop.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        let process = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(process, Signal::STOP).expect("it is ours");
        let stopped = Self(process);
        until("the process to stand still", Duration::from_secs(20), || stands(pid).then_some(()));
        stopped
    }
}

/// Whether all its threads are stopped (proc_pid_stat(5): the state follows the name, which ends at the last parenthesis).
fn stands(pid: u32) -> bool {
    let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.all(|t| {
        let stat = fs::read_to_string(t.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
    })
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).expect("it is ours");
    }
}
