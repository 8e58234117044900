//! The watcher of a private mount: a child process that ends the mount when its parent is killed.
//!
//! A program that reads through the mount that it serves itself cannot be killed for good: the thread that reads waits in the kernel,
//! uninterruptibly, for an answer that the dead threads of its own process will never give; and while it waits the files of the
//! process stay open, `/dev/fuse` among them, so the kernel does not know that nobody serves. Its byte locks on the disks stay held, and
//! the manager cannot prove the session dead. So somebody else must abort the connection: this child, which the kernel tells
//! (`PR_SET_PDEATHSIG`) when the thread that made it is gone.
//!
//! That thread does nothing else, and lives as long as the mount. The child is this program itself, begun anew under a hidden first
//! argument; it has none of its parent's files (all are closed on exec) and its own process group, so that an interrupt at the
//! terminal is its parent's matter.

use crate::fs::table;
use fusevol_shared::error::{Context, Error, Kind, Result};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::signal::unix::{SignalKind, signal};

/// The hidden argument.
const WATCH: &str = "--watch-private-mount";

/// Whether this program can be begun as a watcher: its `main` calls [`main`] first.
static ABLE: OnceLock<()> = OnceLock::new();

/// To be called at the very start of a program that uses private mounts. Where the program was begun as a watcher, it watches, and
/// `true` is the answer: there is nothing else to be done.
pub fn main() -> bool {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|a| a != WATCH) {
        // A second call says the same.
        let _ = ABLE.set(());
        return false;
    }
    let dir = args.next().map(PathBuf::from);
    let parent = args.next().and_then(|p| p.to_str()?.parse().ok()).and_then(Pid::from_raw);
    if let (Some(dir), Some(parent)) = (dir, parent) {
        // Nobody hears what went wrong: its output goes nowhere.
        let _ = watch(&dir, parent);
    }
    true
}

fn watch(dir: &Path, parent: Pid) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(Kind::Internal, || "no runtime")?;
    runtime.block_on(async {
        let mut told = signal(SignalKind::terminate()).context(Kind::Internal, || "signals cannot be heard")?;
        set_parent_process_death_signal(Some(Signal::TERM)).context(Kind::Internal, || "the parent's death cannot be heard")?;
        // Heard from here on; before that it may have died already.
        if getppid() == Some(parent) {
            told.recv().await;
        }
        Ok::<(), Error>(())
    })?;
    table::unmount_by_force(dir)?;
    // An empty folder that stays is cleared away by the next private mount.
    let _ = std::fs::remove_dir(dir);
    Ok(())
}

/// The watcher of one mount. Dropped, it watches no more.
pub(super) struct Watcher {
    end: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Begins to watch; none where this program cannot be begun as a watcher (a test's).
    ///
    /// # Errors
    /// `Io` where the child cannot be begun.
    pub fn begin(dir: &Path) -> Result<Option<Self>> {
        if ABLE.get().is_none() {
            return Ok(None);
        }
        let (end, ended) = mpsc::channel();
        let (begun, child) = mpsc::channel();
        let dir = dir.to_owned();
        let keep = move || {
            let made = command(&dir).spawn();
            match made {
                Ok(child) => {
                    let _ = begun.send(Ok(()));
                    keep(child, &ended);
                }
                Err(e) => _ = begun.send(Err(e)),
            }
        };
        let keeper = std::thread::Builder::new().name("fusevol-watch".into()).spawn(keep).context(Kind::Internal, || "no thread")?;
        let lost = || Error::new(Kind::Internal, "the watcher's thread ended");
        child.recv().map_err(|_| lost())?.context(Kind::Io, || "the watcher of the private mount cannot be begun")?;
        Ok(Some(Self { end: Some(end), keeper: Some(keeper) }))
    }
}

fn command(dir: &Path) -> Command {
    let mut c = Command::new("/proc/self/exe");
    c.arg(WATCH).arg(dir).arg(std::process::id().to_string());
    c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    c
}

/// The thread that is the child's parent: until the mount has ended.
fn keep(mut child: Child, ended: &mpsc::Receiver<()>) {
    // Either way the mount is over.
    let _ = ended.recv();
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end.take();
        if let Some(keeper) = self.keeper.take() {
            // A panic of it was reported where it happened.
            let _ = keeper.join();
        }
    }
}
