//! `fusevol umount`: the mount's own process unmounts and tells how its end went; the verb waits until it is gone.

use super::control::{Question, ask};
use super::verbs::{Found, mounts};
use crate::fs::table;
use fusevol_shared::cli::{DONE, json};
use fusevol_shared::error::{Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::Path;

/// How long the process may take to be gone after its last word, seconds.
const GONE: i64 = 30;

/// Runs the verb.
pub(super) fn run(dir: &Path, json: bool) -> Result<u8> {
    let place = table::place(dir);
    let entry = table::at(dir)?.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("nothing is mounted at {}", dir.display())).hint("fusevol status shows the mounts")
    })?;
    if !entry.is_ours() {
        return Err(
            Error::new(Kind::Refused, format!("{} is a mount of another kind ({})", dir.display(), entry.kind)).hint("umount takes it")
        );
    }
    match mounts().into_iter().find(|m| m.who.dir == place) {
        Some(mount) => end(&mount)?,
        // Its process is gone, or does not answer: a dead mount is cleared away, a living one is left to who uses it.
        None if table::is_dead(&place) => table::unmount_by_force(&place)?,
        None => table::unmount(&place)?,
    }
    if json {
        json::print(&serde_json::json!({ "unmounted": place }))?;
    }
    Ok(DONE)
}

fn end(mount: &Found) -> Result<()> {
    // Taken before the end, so that it is never of another process that got the same number.
    let process = i32::try_from(mount.who.pid).ok().and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let ended = ask(&mount.socket, &Question::Umount, |_: serde_json::Value| Ok(())).map(|_| ());
    if let (Ok(()), Some(process)) = (&ended, process) {
        wait(&process)?;
    }
    ended
}

fn wait(process: &OwnedFd) -> Result<()> {
    let limit = Timespec { tv_sec: GONE, tv_nsec: 0 };
    match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)) {
        Ok(0) => Err(Error::new(Kind::Io, "it is unmounted, but its process does not end")),
        Ok(_) | Err(_) => Ok(()),
    }
}
