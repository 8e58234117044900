//! The manager's folder: where its files are, and the lock that says whether a manager runs from it.
//!
//! States: *absent* (nothing there), *made* (it has a `config.toml`), *held* (a process has the lock: it serves, or
//! makes, adopts or checks the pool). The lock is `flock` on `lock`: the kernel drops it with the process, however it ends.

use fusevol_shared::error::{Context, Error, Kind, Result};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of what only the owner may read.
const SECRET: u32 = 0o600;

/// A manager's folder.
#[derive(Clone, Debug)]
pub struct Dir {
    root: PathBuf,
}

/// Held by the one process that works from a folder.
#[derive(Debug)]
pub struct DirLock {
    // Closing the file gives the lock back.
    _file: File,
}

impl Dir {
    /// The folder at `root`; nothing is looked at yet.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()) }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.file("config.toml")
    }

    /// The admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.file("admin.sock")
    }

    /// The folder as a path of a few bytes, whatever its length: a socket's address holds at most 107 (unix(7)).
    /// It is good as long as the file that comes with it is open.
    ///
    /// # Errors
    /// Those of opening the folder.
    pub fn short(&self) -> std::io::Result<(PathBuf, File)> {
        let folder = File::open(&self.root)?;
        Ok((PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())), folder))
    }

    /// The authority's key and certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.file("authority.pem")
    }

    /// The recovery key that `init` made: to be kept elsewhere.
    #[must_use]
    pub fn recovery_key(&self) -> PathBuf {
        self.file("recovery.key")
    }

    /// Whether there is a pool's configuration in it.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.config().exists()
    }

    /// Makes the folder (0700) where it is not there, and takes its lock.
    ///
    /// # Errors
    /// `Io` where it cannot be made; `Busy` where another process works from it.
    pub fn make_and_lock(&self) -> Result<DirLock> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.root).context(Kind::Io, || format!("folder {}", self.root.display()))?;
        self.lock()
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// `NotFound` where there is no folder; `Busy` where another process works from it.
    pub fn lock(&self) -> Result<DirLock> {
        let path = self.file("lock");
        if !self.root.is_dir() {
            return Err(self.no_pool());
        }
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(SECRET).open(&path);
        let file = open.context(Kind::Io, || path.display().to_string())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::new(Kind::Busy, format!("{}: a manager already works from this folder", self.root.display()))
                    .hint(format!("ask it with `fusevol-mgr --dir {} status`, or stop it first", self.root.display())))
            }
            Err(e) => Err(Error::new(Kind::Io, path.display().to_string()).because(e)),
        }
    }

    /// That there is no pool here.
    #[must_use]
    pub fn no_pool(&self) -> Error {
        let dir = self.root.display();
        Error::new(Kind::NotFound, format!("{dir}: there is no pool's configuration in this folder"))
            .hint(format!("make a pool with `fusevol-mgr init --dir {dir} ...`, or name its folder with --dir (FUSEVOL_DIR)"))
    }
}

/// Writes a file whole and durably: into a temporary one of mode 0600 beside it, flushed, renamed, the folder flushed.
///
/// # Errors
/// `Io`.
pub fn write_secret(path: &Path, content: &[u8]) -> Result<()> {
    let what = || path.display().to_string();
    let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(SECRET)
        .open(&new)
        .context(Kind::Io, || new.display().to_string())?;
    file.set_permissions(Permissions::from_mode(SECRET)).context(Kind::Io, what)?;
    file.write_all(content).and_then(|()| file.sync_all()).context(Kind::Io, what)?;
    std::fs::rename(&new, path).context(Kind::Io, what)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).context(Kind::Io, || folder.display().to_string())
}
