//! Mounting a session at a folder, and serving it until it is unmounted.
//!
//! Each loop serves one request at a time, on its own ring, so the number of loops bounds the requests under way: eight a
//! core, at least [`LOOPS_MIN`] (a 4 KiB random write of 16 jobs on two cores is no faster with more).

use super::adapter::Adapter;
use super::attr::{Base, Shows};
use super::handles::Handles;
use super::nodes::Nodes;
use super::table;
use crate::session::Session;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::error::{Context, Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Type of our mounts in the host's table, after `fuse.`.
pub const SUBTYPE: &str = "fusevol";
/// Fewest loops.
const LOOPS_MIN: usize = 16;
/// Most loops: each has a ring and a buffer of its own.
pub const LOOPS_MAX: usize = 256;
const LOOPS_PER_CORE: usize = 8;

/// How it is mounted.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it shows.
    pub shows: Shows,
    /// Loops; chosen by the number of cores where none is given.
    pub loops: Option<usize>,
    /// Other users may look in, as far as modes let them.
    pub allow_other: bool,
    /// Nothing can be written.
    pub read_only: bool,
}

/// A mount that is served by this process.
pub struct Mount {
    dir: PathBuf,
    serving: BackgroundSession,
}

/// Mounts `session` at `dir`, an empty folder, and serves it on threads of its own.
///
/// # Errors
/// `Denied` without root or `/dev/fuse`; `Io` with what the kernel says.
pub fn mount(session: Arc<Session>, dir: &Path, options: &Options) -> Result<Mount> {
    let dir = dir.canonicalize().context(Kind::Io, || format!("{}", dir.display()))?;
    let loops = options.loops.unwrap_or_else(default_loops).clamp(1, LOOPS_MAX);
    let base = Base {
        mounted: SystemClock.wall(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        block: u32::try_from(session.block_size()).context(Kind::Internal, || "the block is larger than 4 GiB")?,
    };
    let pool = session.about().welcome.pool_name.clone();
    let adapter = Adapter {
        session,
        shows: options.shows.clone(),
        base,
        background: u16::try_from(loops * 4).unwrap_or(u16::MAX),
        nodes: Nodes::default(),
        handles: Handles::default(),
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(format!("fusevol:{pool}")),
        MountOption::Subtype(SUBTYPE.to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(loops);
    config.clone_fd = true;
    let serving = fuser::spawn_mount(adapter, &dir, &config).map_err(|e| refused(&dir, e))?;
    Ok(Mount { dir, serving })
}

impl Mount {
    /// Where.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Serves until it is unmounted, by anyone.
    ///
    /// # Errors
    /// `Io` where a loop ended in another way.
    pub fn wait(self) -> Result<()> {
        self.serving.join().context(Kind::Io, || "a serving thread ended")
    }

    /// Unmounts by force: what is open fails from now on. Then waits for the loops.
    ///
    /// # Errors
    /// `Io` where it is still mounted.
    pub fn end(self) -> Result<()> {
        let unmounted = table::unmount_by_force(&self.dir);
        if unmounted.is_ok() {
            // A loop that ended badly serves nobody any more.
            let _ = self.serving.join();
        }
        unmounted
    }
}

/// Loops for this host.
fn default_loops() -> usize {
    std::thread::available_parallelism().map_or(LOOPS_MIN, |n| (n.get() * LOOPS_PER_CORE).clamp(LOOPS_MIN, LOOPS_MAX))
}

/// Whether this host and user can mount at all.
///
/// # Errors
/// `Denied` without root, `Refused` without `/dev/fuse`.
pub fn possible() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(Kind::Denied, "mounting needs root: the disks are opened directly").hint("run it as root (sudo)"));
    }
    match std::fs::metadata("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::new(Kind::Refused, "/dev/fuse cannot be used").because(e).hint("load the module: modprobe fuse")),
    }
}

fn refused(dir: &Path, e: std::io::Error) -> Error {
    let error = Error::new(Kind::Io, format!("{} cannot be mounted", dir.display()));
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            Error::new(Kind::Denied, format!("{} may not be mounted", dir.display())).because(e).hint("run it as root (sudo)")
        }
        _ => error.because(e),
    }
}
