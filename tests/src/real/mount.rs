//! A real FUSE mount of `fusevol mount -f`, with a watchdog that aborts its connection.

use super::netns::Netns;
use super::run::{Ran, program, run, tool};
use super::wait::until;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// There where the kernel has FUSE over io_uring.
const RING: &str = "/sys/module/fuse/parameters/enable_uring";
/// After this long a mount is aborted: its I/O fails, and with it the test, instead of hanging the machine.
const WATCHDOG: Duration = Duration::from_secs(300);

/// Which way the kernel's requests come to a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// FUSE over io_uring. Where this kernel has none it is what a mount chooses by itself.
    Uring,
    /// Loops on `/dev/fuse`.
    Classic,
}

impl Transport {
    /// One after the other, for tests of many lives.
    #[must_use]
    pub fn of_round(round: u64) -> Self {
        if round.is_multiple_of(2) { Self::Uring } else { Self::Classic }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Uring if Path::new(RING).exists() => "transport=uring",
            Self::Uring => "transport=auto",
            Self::Classic => "transport=classic",
        }
    }
}

/// A mounted client. Unmounts when dropped.
pub struct Mount {
    dir: PathBuf,
    daemon: Option<Child>,
    log: PathBuf,
    _watchdog: mpsc::Sender<()>,
}

impl Mount {
    /// Mounts with this key at `dir`, on this host.
    #[must_use]
    pub fn new(key: &Path, dir: &Path) -> Self {
        Self::with(key, dir, None, &[])
    }

    /// The same, over this transport.
    #[must_use]
    pub fn over(transport: Transport, key: &Path, dir: &Path) -> Self {
        Self::with(key, dir, None, &["-o", transport.option()])
    }

    /// Mounts with this key at `dir`, from within a network namespace, with further arguments.
    ///
    /// # Panics
    /// Where it does not come to stand.
    #[must_use]
    pub fn with(key: &Path, dir: &Path, host: Option<&Netns>, args: &[&str]) -> Self {
        let tried = Self::tried(key, dir, host, args, WATCHDOG);
        tried.unwrap_or_else(|said| panic!("fusevol mount ended before it was ready:\n{said}"))
    }

    /// As `with`, to be aborted after `limit`.
    ///
    /// # Errors
    /// What it logged, where it does not come to stand: an option that it does not take, for one.
    ///
    /// # Panics
    /// Where the program cannot be started.
    pub fn tried(key: &Path, dir: &Path, host: Option<&Netns>, args: &[&str], limit: Duration) -> Result<Self, String> {
        let log = dir.with_extension("log");
        let err = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        let mut command = host.map_or_else(|| Command::new(program("fusevol")), |h| h.command(&program("fusevol")));
        command.args(["mount", "-f", "--key"]).arg(key).args(args).arg(dir);
        let mut daemon = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(err).spawn().expect("fusevol starts");
        let out = daemon.stdout.take().expect("piped");
        let mut lines = BufReader::new(out).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|l| l.trim() == "ready");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        if !ready {
            daemon.wait().map(drop).unwrap_or_default();
            return Err(said());
        }
        std::thread::spawn(move || lines.for_each(drop));
        let watchdog = watchdog(dir, limit);
        Ok(Self { dir: dir.to_owned(), daemon: Some(daemon), log, _watchdog: watchdog })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The image file of a volume.
    #[must_use]
    pub fn image(&self, volume: &str) -> PathBuf {
        self.dir.join(format!("{volume}.img"))
    }

    /// The pseudo-device file of a snapshot.
    #[must_use]
    pub fn snapshot(&self, volume: &str, snapshot: &str) -> PathBuf {
        self.dir.join(".snapshots").join(format!("{volume}@{snapshot}.img"))
    }

    /// What the client has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The daemon's process id.
    ///
    /// # Panics
    /// After `kill`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it runs").id()
    }

    /// Runs a verb of the client's command line against this mount.
    pub fn fusevol(&self, args: &[&str]) -> Ran {
        run(Command::new(program("fusevol")).arg(args[0]).arg("--mount").arg(&self.dir).args(&args[1..]))
    }

    /// `kill -9` of the daemon, and clears the dead mount away.
    ///
    /// # Panics
    /// Where it is gone already.
    pub fn kill(mut self) {
        let mut child = self.daemon.take().expect("it runs");
        child.kill().and_then(|()| child.wait()).expect("it can be killed");
        let _said = run(Command::new("umount").arg("-l").arg(&self.dir));
    }

    /// Unmounts as a user does, and waits for the daemon's end.
    ///
    /// # Panics
    /// Where that fails.
    pub fn umount(mut self) {
        let _said = run(Command::new(program("fusevol")).arg("umount").arg(&self.dir)).ok();
        let mut child = self.daemon.take().expect("it runs");
        let status = until("the mount's daemon to end", Duration::from_secs(60), || child.try_wait().expect("it is ours"));
        assert!(status.success(), "the daemon ended with {status}:\n{}", self.log());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Some(mut child) = self.daemon.take() else { return };
        if std::thread::panicking() {
            eprintln!("--- the log of {}\n{}", self.dir.display(), self.log());
        }
        let _said = run(Command::new("umount").arg("-l").arg(&self.dir));
        child.kill().and_then(|()| child.wait()).map(drop).unwrap_or_default();
    }
}

/// Aborts the connection of the mount at `dir` unless the sender is dropped within `limit`.
#[must_use]
pub fn watchdog(dir: &Path, limit: Duration) -> mpsc::Sender<()> {
    let connection = connection_of(dir);
    let (alive, over) = mpsc::channel::<()>();
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        if over.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the mount at {} is aborted after {limit:?}", dir.display());
            abort(connection);
        }
    });
    alive
}

/// Aborts a FUSE connection: all that waits for an answer of its server fails.
pub(super) fn abort(connection: Option<u32>) {
    if let Some(n) = connection {
        fs::write(format!("{CONNECTIONS}/{n}/abort"), "1").unwrap_or_default();
    }
}

/// The number of the FUSE connection: the minor number of the mount's device, read without touching the mount.
#[must_use]
pub fn connection_of(dir: &Path) -> Option<u32> {
    if fs::read_dir(CONNECTIONS).is_ok_and(|mut d| d.next().is_none()) {
        let _said = run(Command::new("mount").args(["-t", "fusectl", "none", CONNECTIONS]));
    }
    let dir = fs::canonicalize(dir.parent()?).ok()?.join(dir.file_name()?);
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().rfind(|l| l.split(' ').nth(4) == dir.to_str())?;
    line.split(' ').nth(2)?.split_once(':')?.1.parse().ok()
}

/// A filesystem mounted somewhere; unmounted when dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    /// `mount ARGS SOURCE DIR`.
    #[must_use]
    pub fn new(args: &[&str], source: &Path, dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a mount point");
        let mut all: Vec<&std::ffi::OsStr> = args.iter().map(std::ffi::OsStr::new).collect();
        all.extend([source.as_os_str(), dir.as_os_str()]);
        let _said = tool("mount", &all);
        Self(dir.to_owned())
    }

    /// Where.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.0)).code != 0 {
            let _said = run(Command::new("umount").arg("-l").arg(&self.0));
        }
    }
}
