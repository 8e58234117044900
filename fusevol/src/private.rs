//! A mount for one program's own use: its own session, a folder of mode 0700 that only it knows, served by this process.
//!
//! ```text
//!  open -> mounted -> close (or drop, or SIGINT/SIGTERM) -> unmounted, temporary snapshots removed, session ended
//! ```
//!
//! Invariants: a snapshot that was created here is *temporary* until [`PrivateMount::keep_snapshot`] says otherwise, and is
//! removed at the end, however the end comes about (a `kill -9` excepted); what was opened in the mount fails after it. After a
//! `kill -9` the [`watch`]er ends the mount, so that the process goes away and its session can be proven dead.

pub mod watch;

use crate::fs::mount::{self, Mount};
use crate::fs::transport::Transport;
use crate::fs::{Shows, table};
use crate::lease::IO_TIMEOUT;
use crate::session::Session;
use crate::session::granted::List;
use crate::session::open::{self, Options};
use fusevol_shared::disk::ring;
use fusevol_shared::error::{Context, Error, Kind as ErrorKind, Result};
use fusevol_shared::ids::{SnapshotId, VolumeId};
use fusevol_shared::map::AuMask;
use fusevol_shared::name::{Name, Target};
use fusevol_shared::units::AuSize;
use fusevol_shared::wire::keyfile::KeyFile;
use fusevol_shared::wire::messages::SnapshotInfo;
use fusevol_shared::wire::rights::Rights;
use rustix::fs::Mode;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use watch::Watcher;

/// Where folders and sockets of mounts lie.
pub const RUN: &str = "/run/fusevol";
/// Exit code of a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// What a private mount holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `.snapshots` only, read-only.
    Snapshots,
    /// One volume only, to be written.
    Volume(Name),
}

/// A volume that the client may see.
#[derive(Clone, Debug)]
pub struct VolumeInfo {
    /// Identity.
    pub id: VolumeId,
    /// Label.
    pub name: Name,
    /// Bytes.
    pub size: u64,
    /// Bytes in written blocks, as far as the catalog knows.
    pub written: u64,
    /// The pool's AU size.
    pub au_size: AuSize,
    /// What this client may do with it.
    pub rights: Rights,
    /// Client that has it attached for writing; empty if none.
    pub writer: String,
}

/// The list of blocks that were modified since a snapshot.
pub use crate::snapshot::Modified;

/// A private mount. Ends when dropped.
pub struct PrivateMount {
    shared: Arc<Shared>,
    signals: Option<tokio::runtime::Runtime>,
}

struct Shared {
    session: Arc<Session>,
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    mount: Option<Mount>,
    /// Dropped after the mount has ended.
    watcher: Option<Watcher>,
    temporary: Vec<SnapshotId>,
}

impl PrivateMount {
    /// Opens a session and mounts it in a new folder. `disks`: where to look for disks first, as `--disk`.
    ///
    /// # Errors
    /// As [`open::open`], and those of mounting; `NotFound`, `Denied` for a volume that is not there to be written.
    pub fn open(key: &Path, disks: &[String], kind: Kind) -> Result<Self> {
        mount::possible()?;
        let key = Arc::new(KeyFile::load(key)?);
        let program = std::env::args().next().and_then(|p| Some(Path::new(&p).file_name()?.to_string_lossy().into_owned()));
        let session = open::open(&Options { key, disks: disks.to_vec(), io_timeout: IO_TIMEOUT, program: program.unwrap_or_default() })?;
        let made = folder().and_then(|dir| Ok((begin(&session, &dir, &kind).inspect_err(|_| drop(std::fs::remove_dir(&dir)))?, dir)));
        let (mount, dir) = match made {
            Ok(made) => made,
            Err(e) => {
                // The first error is the one to tell.
                let _ = session.close();
                return Err(e);
            }
        };
        let watcher = Watcher::begin(&dir).unwrap_or_else(|e| {
            tracing::warn!("if this process is killed, its mount {} must be ended by hand: {e}", dir.display());
            None
        });
        let state = Mutex::new(State { mount: Some(mount), watcher, temporary: Vec::new() });
        let shared = Arc::new(Shared { session, dir, state });
        let signals = match signals(&shared) {
            Ok(signals) => Some(signals),
            Err(e) => {
                let _ = shared.end();
                return Err(e);
            }
        };
        Ok(Self { shared, signals })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.dir
    }

    /// The volumes that this client may see.
    ///
    /// # Errors
    /// `Unreachable`; `Damaged` for a name that is none.
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>> {
        let (list, au_size) = (self.list()?, self.shared.session.about().welcome.au_size);
        let info = |v: &fusevol_shared::wire::messages::VolumeInfo| {
            let name = Name::new(&v.name).context(ErrorKind::Damaged, || "the manager's list of volumes")?;
            Ok(VolumeInfo { id: v.id, name, size: v.size, written: v.written, au_size, rights: v.rights, writer: v.writer.clone() })
        };
        list.volumes.iter().map(info).collect()
    }

    /// Takes a snapshot, which is temporary.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Exists`, `Busy`, `NoSpace`, `Unreachable`.
    pub fn create_snapshot(&self, volume: &Name, name: &Name) -> Result<SnapshotInfo> {
        let list = self.list()?;
        let volume = list.volume_of(&target(volume, None))?;
        let mut state = self.shared.state();
        let taken = self.shared.session.create_snapshot(volume.id, name.as_str())?;
        state.temporary.push(taken.snapshot.id);
        tracing::info!("snapshot {}@{name}: writes were held for {} us", volume.name, taken.held_us);
        Ok(taken.snapshot)
    }

    /// This snapshot stays when the mount ends.
    ///
    /// # Errors
    /// `NotFound`, `Unreachable`.
    pub fn keep_snapshot(&self, volume: &Name, name: &Name) -> Result<()> {
        let id = self.find(volume, name)?.id;
        self.shared.state().temporary.retain(|t| *t != id);
        Ok(())
    }

    /// The snapshots of a volume, oldest first.
    ///
    /// # Errors
    /// `NotFound`, `Unreachable`.
    pub fn snapshots(&self, volume: &Name) -> Result<Vec<SnapshotInfo>> {
        Ok(self.list()?.volume_of(&target(volume, None))?.snapshots.clone())
    }

    /// Removes a snapshot that nobody has open.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Busy`, `Unreachable`.
    pub fn remove_snapshot(&self, volume: &Name, name: &Name) -> Result<()> {
        let id = self.find(volume, name)?.id;
        self.shared.session.remove_snapshot(id)?;
        self.shared.state().temporary.retain(|t| *t != id);
        Ok(())
    }

    /// The pseudo-device file of a snapshot.
    #[must_use]
    pub fn snapshot_path(&self, volume: &Name, name: &Name) -> PathBuf {
        self.shared.dir.join(".snapshots").join(format!("{volume}@{name}.img"))
    }

    /// The image file of the volume.
    #[must_use]
    pub fn volume_path(&self, volume: &Name) -> PathBuf {
        self.shared.dir.join(format!("{volume}.img"))
    }

    /// The blocks that were modified since the snapshot.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Damaged`, `Io`, `Unreachable`.
    pub fn modified(&self, volume: &Name, name: &Name) -> Result<Modified> {
        modified(&self.shared.session, self.find(volume, name)?.id)
    }

    /// Unmounts, removes temporary snapshots, ends the session.
    ///
    /// # Errors
    /// The first that came up; it is over all the same.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let result = self.shared.end();
        if let Some(signals) = self.signals.take() {
            signals.shutdown_background();
        }
        result
    }

    fn list(&self) -> Result<Arc<List>> {
        self.shared.session.renew_list()
    }

    fn find(&self, volume: &Name, name: &Name) -> Result<SnapshotInfo> {
        let list = self.list()?;
        list.snapshot_of(&target(volume, Some(name))).map(|(_, s)| s.clone())
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            tracing::warn!("the private mount did not end in order: {e}");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unmounts, removes temporary snapshots, ends the session; a second call does nothing.
    fn end(&self) -> Result<()> {
        let mut state = self.state();
        let Some(mount) = state.mount.take() else { return Ok(()) };
        let unmounted = mount.end();
        drop(state.watcher.take());
        // Closed before they are removed, or they would be in use.
        let drained = self.session.drain();
        let mut removed = Ok(());
        for id in std::mem::take(&mut state.temporary) {
            match self.session.remove_snapshot(id) {
                Err(e) if e.kind() != ErrorKind::NotFound => removed = removed.and(Err(e.within("a temporary snapshot stays"))),
                Ok(()) | Err(_) => {}
            }
        }
        let closed = self.session.close();
        if unmounted.is_ok() {
            // An empty folder that stays is harmless.
            let _ = std::fs::remove_dir(&self.dir);
        }
        unmounted.and(drained).and(removed).and(closed)
    }
}

/// The blocks that were modified since a snapshot, through this session.
///
/// # Errors
/// As `SnapshotReader::modified`, and those of opening it.
pub(crate) fn modified(session: &Session, id: SnapshotId) -> Result<Modified> {
    let file = session.snapshot(id)?;
    file.open(session)?;
    let modified = ring::block_on(file.with(async |r| r.modified().await));
    let closed = file.close(session);
    modified.and_then(|m| closed.map(|()| m))
}

fn target(volume: &Name, snapshot: Option<&Name>) -> Target {
    Target { pool: None, volume: volume.clone(), snapshot: snapshot.cloned() }
}

/// A new folder for a mount, which only root may enter. Folders of processes that are gone are cleared away first.
fn folder() -> Result<PathBuf> {
    make_run()?;
    clear_dead();
    let dir = Path::new(RUN).join(format!("private-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()));
    rustix::fs::mkdir(&dir, Mode::RWXU).context(ErrorKind::Io, || format!("{}", dir.display()))?;
    Ok(dir)
}

/// Makes the folder of folders and sockets.
pub(crate) fn make_run() -> Result<()> {
    match rustix::fs::mkdir(RUN, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(Error::new(ErrorKind::Io, RUN).because(e)),
    }
}

/// Private folders whose process is gone: unmounted where they still are, and removed.
fn clear_dead() {
    for entry in std::fs::read_dir(RUN).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("private-").and_then(|n| n.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = table::unmount_by_force(&entry.path());
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn begin(session: &Arc<Session>, dir: &Path, kind: &Kind) -> Result<Mount> {
    let shows = match kind {
        Kind::Snapshots => Shows::Snapshots,
        Kind::Volume(name) => {
            session.granted().list().volume_of(&target(name, None))?;
            Shows::Volume(name.as_str().to_owned())
        }
    };
    let read_only = *kind == Kind::Snapshots;
    mount::mount(session.clone(), dir, &mount::Options { shows, loops: None, allow_other: false, read_only, transport: Transport::Auto })
}

/// A thread that waits for SIGINT and SIGTERM, and then ends mount and process in order.
fn signals(shared: &Arc<Shared>) -> Result<tokio::runtime::Runtime> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("fusevol-signal")
        .enable_all()
        .build()
        .context(ErrorKind::Internal, || "no runtime")?;
    let (mut int, mut term) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context(ErrorKind::Internal, || "signals cannot be heard");
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    let shared = Arc::downgrade(shared);
    runtime.spawn(async move {
        tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
        if let Some(shared) = shared.upgrade() {
            let ended = tokio::task::spawn_blocking(move || shared.end());
            if let Ok(Err(e)) = ended.await {
                tracing::warn!("the private mount did not end in order: {e}");
            }
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(runtime)
}

/// Lists of AU masks as bytes of the volume.
#[must_use]
pub fn extents(blocks: &[AuMask], au_size: AuSize) -> Vec<(u64, u64)> {
    let block = au_size.block_bytes();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for m in blocks {
        for run in m.blocks.runs() {
            let start = m.au.start(au_size).0 + u64::from(run.start) * block;
            let len = u64::from(run.end - run.start) * block;
            match out.last_mut() {
                Some((s, l)) if *s + *l == start => *l += len,
                _ => out.push((start, len)),
            }
        }
    }
    out
}
