//! Mounting a session at a folder, and serving it until it is unmounted.
//!
//! Over rings where the kernel has them ([`uring`]), else by loops. Each loop serves one request at a time, on its own ring, so the number of loops bounds the requests under way: eight a
//! core, at least [`LOOPS_MIN`].

use super::adapter::{Adapter, Front};
use super::attr::{Base, Shows};
use super::handles::Handles;
use super::nodes::Nodes;
use super::pages::{self, Pages};
use super::transport::{Served, Transport};
use super::{table, uring};
use crate::session::Session;
use fuser::{BackgroundSession, Config, SessionACL};
use fusevol_shared::clock::{Clock, SystemClock};
use fusevol_shared::error::{Context, Error, Kind, Result};
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
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
    /// Which way requests come.
    pub transport: Transport,
}

/// A mount that is served by this process.
pub struct Mount {
    dir: PathBuf,
    serving: Serving,
    pages: Pages,
}

/// Tells how a mount is served now.
pub type Teller = Box<dyn Fn() -> Served + Send + Sync>;

enum Serving {
    Ring(uring::Transport),
    Loops(BackgroundSession, Served),
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
    let source = format!("fusevol:{}", session.about().welcome.pool_name);
    let adapter = Adapter {
        session,
        shows: options.shows.clone(),
        base,
        background: u16::try_from(loops * 4).unwrap_or(u16::MAX),
        nodes: Nodes::default(),
        handles: Handles::default(),
    };
    let ring = ring(options.transport)?;
    let fuse = attach(&dir, &source, options)?;
    let adapter = Arc::new(adapter);
    let began = Pages::start(&adapter, &fuse).and_then(|pages| Ok((serve(ring, adapter, fuse, options, loops)?, pages)));
    match began {
        Ok((serving, pages)) => {
            pages::read_ahead(&dir);
            Ok(Mount { dir, serving, pages })
        }
        Err(e) => {
            // What the kernel says to that matters less than why it could not be served.
            let _ = table::unmount_by_force(&dir);
            Err(e.within(dir.display()))
        }
    }
}

/// The rings to serve with, or how it is served without.
fn ring(wished: Transport) -> Result<std::result::Result<uring::Prepared, Served>> {
    if wished == Transport::Classic {
        return Ok(Err(Served::Classic { why: None }));
    }
    match uring::possible().and_then(|()| uring::prepare()) {
        Ok(prepared) => Ok(Ok(prepared)),
        Err(e) if wished == Transport::Uring => Err(e),
        Err(e) => {
            tracing::info!("the classic transport serves: {e}");
            Ok(Err(Served::Classic { why: Some(e.to_string()) }))
        }
    }
}

fn serve(
    ring: std::result::Result<uring::Prepared, Served>,
    adapter: Arc<Adapter>,
    fuse: OwnedFd,
    options: &Options,
    loops: usize,
) -> Result<Serving> {
    let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    let served = match ring {
        Ok(prepared) => return uring::start(prepared, adapter, fuse, acl).map(Serving::Ring),
        Err(served) => served,
    };
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(loops);
    config.clone_fd = true;
    let session = fuser::Session::from_fd(Front(adapter), fuse, acl, config).and_then(fuser::Session::spawn);
    Ok(Serving::Loops(session.context(Kind::Io, || "the mount cannot be served")?, served))
}

/// The kernel's end: `/dev/fuse`, mounted. Done here and not by the library, which unmounts the folder once more when it
/// ends, whatever is mounted there by then.
fn attach(dir: &Path, source: &str, options: &Options) -> Result<OwnedFd> {
    let dev = OpenOptions::new().read(true).write(true).open("/dev/fuse").context(Kind::Io, || "/dev/fuse")?;
    let mode = std::fs::metadata(dir).context(Kind::Io, || format!("{}", dir.display()))?.mode();
    // mount.fuse(8) and Documentation/filesystems/fuse.rst have these.
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        dev.as_raw_fd(),
        mode & libc::S_IFMT,
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).context(Kind::Internal, || "mount options")?;
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NOATIME;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    match rustix::mount::mount(source, dir, format!("fuse.{SUBTYPE}"), flags, Some(data.as_c_str())) {
        Ok(()) => Ok(dev.into()),
        Err(e @ (rustix::io::Errno::PERM | rustix::io::Errno::ACCESS)) => {
            Err(Error::new(Kind::Denied, format!("{} may not be mounted", dir.display())).because(e).hint("run it as root (sudo)"))
        }
        Err(e) => Err(Error::new(Kind::Io, format!("{} cannot be mounted", dir.display())).because(e)),
    }
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
        let Self { serving, pages, .. } = self;
        let served = serving.join();
        drop(pages);
        served
    }

    /// How it is served now.
    #[must_use]
    pub fn served(&self) -> Served {
        (self.teller())()
    }

    /// Tells how it is served, also while somebody waits for its end: a ring may be given up later.
    #[must_use]
    pub fn teller(&self) -> Teller {
        match &self.serving {
            Serving::Ring(transport) => Box::new(transport.served()),
            Serving::Loops(_, served) => {
                let served = served.clone();
                Box::new(move || served.clone())
            }
        }
    }

    /// Unmounts by force: what is open fails from now on. Then waits for the loops.
    ///
    /// # Errors
    /// `Io` where it is still mounted.
    pub fn end(self) -> Result<()> {
        let unmounted = table::unmount_by_force(&self.dir);
        if unmounted.is_ok() {
            // A loop that ended badly serves nobody any more.
            let _ = self.wait();
        }
        unmounted
    }
}

impl Serving {
    fn join(self) -> Result<()> {
        match self {
            Serving::Ring(transport) => transport.join(),
            Serving::Loops(loops, _) => loops.join().context(Kind::Io, || "a serving thread ended"),
        }
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
