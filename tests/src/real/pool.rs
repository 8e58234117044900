//! A pool of file disks under a real manager process.
//!
//! The next manager is started ahead, in a shell that waits for its turn: a new process closes what it inherits, the volume
//! files of a load among them, and each such close is a flush that may need the manager which is about to be started.

use super::run::{Ran, program, run};
use super::wait::until;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// Starts of a manager until one serves: it refuses, then it has the administrator's word.
const TRIES: usize = 2;

/// A scratch folder with disks, and the manager that serves them. Ends the manager when dropped.
pub struct Pool {
    scratch: tempfile::TempDir,
    disks: Vec<PathBuf>,
    manager: Option<Child>,
    /// The next ones, which wait for a line: as many as are tried before one serves.
    next: Vec<Child>,
    /// What the manager takes for this boot's id, where it shall take itself for another host.
    boot: Option<PathBuf>,
}

/// How a pool is made.
pub struct Options<'a> {
    /// Sizes of the disks, bytes.
    pub disks: &'a [u64],
    /// Addresses that the manager listens on; a free port of the loopback where there is none.
    pub listen: &'a [String],
    /// Lease, seconds.
    pub lease: u32,
}

/// A folder for one test; it goes with its guard, unless it shall be kept.
///
/// # Panics
/// Where it cannot be made.
#[must_use]
pub fn scratch() -> tempfile::TempDir {
    let base = std::env::var_os("FUSEVOL_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let mut scratch = tempfile::Builder::new().prefix("fusevol-test.").tempdir_in(base).expect("a scratch folder");
    scratch.disable_cleanup(std::env::var_os("FUSEVOL_KEEP").is_some());
    scratch
}

/// A port that nobody listens on.
///
/// # Panics
/// Where the loopback has none.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

impl Pool {
    /// Two disks of 2 GiB, one address, a lease of two seconds.
    #[must_use]
    pub fn new() -> Self {
        Self::with(&Options { disks: &[2 << 30, 2 << 30], listen: &[], lease: 2 })
    }

    /// Made by `init`, and served.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn with(options: &Options<'_>) -> Self {
        let scratch = scratch();
        let disks: Vec<_> = (0..options.disks.len()).map(|i| scratch.path().join(format!("d{i}.img"))).collect();
        for (path, size) in disks.iter().zip(options.disks) {
            std::fs::File::create(path).and_then(|f| f.set_len(*size)).expect("a disk file");
        }
        Self::init(scratch, disks, options.listen, options.lease)
    }

    /// Made by `init` of disks that are there already, and served: one address, a lease of two seconds.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn on(disks: Vec<PathBuf>) -> Self {
        Self::leased(disks, 2)
    }

    /// As `on`, with a lease of so many seconds.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn leased(disks: Vec<PathBuf>, lease: u32) -> Self {
        Self::init(scratch(), disks, &[], lease)
    }

    /// Made by `init` of disks that are there already, and served at these addresses, with a lease of two seconds.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn listening(disks: Vec<PathBuf>, listen: &[String]) -> Self {
        Self::init(scratch(), disks, listen, 2)
    }

    fn init(scratch: tempfile::TempDir, disks: Vec<PathBuf>, listen: &[String], lease: u32) -> Self {
        let mut pool = Self { scratch, disks, manager: None, next: Vec::new(), boot: None };
        let mut init = Command::new(program("fusevol-mgr"));
        init.args(["init", "--dir"]).arg(pool.dir()).args(["--pool", "san1", "--lease", &lease.to_string()]);
        let local = [format!("127.0.0.1:{}", free_port())];
        for address in if listen.is_empty() { &local } else { listen } {
            init.args(["--listen", address]);
        }
        let _said = run(init.args(&pool.disks)).ok();
        pool.serve();
        pool
    }

    /// As `new`, with a manager that is on another host as far as it can tell: no byte lock says anything of the clients.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn elsewhere() -> Self {
        let mut pool = Self::new();
        pool.stop();
        let boot = pool.path().join("boot_id");
        std::fs::write(&boot, "00000000-1111-4222-8333-444444444444\n").expect("written");
        pool.boot = Some(boot);
        // It waits on this host.
        for mut former in pool.next.drain(..) {
            former.kill().and_then(|()| former.wait()).expect("it is ours");
        }
        pool.serve();
        pool
    }

    /// The scratch folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// The manager's folder.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.scratch.path().join("mgr")
    }

    /// The disks' paths.
    #[must_use]
    pub fn disks(&self) -> &[PathBuf] {
        &self.disks
    }

    /// Starts the manager and waits until it says `ready`.
    ///
    /// # Panics
    /// Where it does not.
    pub fn serve(&mut self) {
        assert!(self.begin(""), "the manager ended before it was ready:\n{}", self.log());
    }

    /// The same; where it refuses, with the administrator's word that nothing of a former manager is under way: it is dead, and what it had sent has landed.
    /// Whether that was needed.
    ///
    /// # Panics
    /// Where it does not serve even so.
    pub fn serve_at_any_rate(&mut self) -> bool {
        if self.begin("") {
            return false;
        }
        assert!(self.begin("--force"), "the manager ended before it was ready:\n{}", self.log());
        true
    }

    /// Whether it came to serve.
    fn begin(&mut self, word: &str) -> bool {
        assert!(self.manager.is_none(), "it is served already");
        let mut child = self.next.pop().unwrap_or_else(|| self.waiting());
        child.stdin.take().expect("piped").write_all(format!("{word}\n").as_bytes()).expect("it waits for its turn");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|l| l.trim() == "ready");
        match ready {
            true => self.manager = Some(child),
            false => child.wait().map(drop).expect("it is ours"),
        }
        // What it says later is not of interest, but the pipe must stay open.
        std::thread::spawn(move || lines.for_each(drop));
        // While none serves a new process might wait for what only a manager can do.
        while ready && self.next.len() < TRIES {
            self.next.push(self.waiting());
        }
        ready
    }

    /// As a supervisor would: one that has ended by itself is started again. Whether it had.
    ///
    /// # Panics
    /// Where none was started, or it does not serve.
    pub fn revive(&mut self) -> bool {
        let ended = !self.runs();
        if ended {
            self.manager = None;
            self.serve_at_any_rate();
        }
        ended
    }

    /// Whether the manager still runs.
    ///
    /// # Panics
    /// Where none was started.
    pub fn runs(&mut self) -> bool {
        self.manager.as_mut().expect("it was started").try_wait().expect("it is ours").is_none()
    }

    /// A manager that starts once it gets a line.
    fn waiting(&self) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.scratch.path().join("manager.log")).expect("a log");
        let mut shell = Command::new("sh");
        let serve = "read -r word && exec \"$0\" serve --dir \"$1\" $word";
        if let Some(boot) = &self.boot {
            // Its mounts are its own: the file shows another boot to it alone.
            shell = Command::new("unshare");
            let bind = format!("mount --bind '{}' /proc/sys/kernel/random/boot_id && {serve}", boot.display());
            shell.args(["--mount", "sh", "-c", &bind]);
        } else {
            shell.args(["-c", serve]);
        }
        shell.arg(program("fusevol-mgr")).arg(self.dir());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().expect("a shell starts")
    }

    /// What the manager has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("manager.log")).unwrap_or_default()
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Panics
    /// Where none runs.
    pub fn kill(&mut self) {
        let mut child = self.manager.take().expect("a manager runs");
        child.kill().and_then(|()| child.wait()).expect("it can be killed");
    }

    /// Ends the manager as systemd would.
    ///
    /// # Panics
    /// Where none runs, or it does not end.
    pub fn stop(&mut self) {
        let mut child = self.manager.take().expect("a manager runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
        until("the manager to end", PATIENCE, || child.try_wait().expect("it is ours"));
    }

    /// Runs a verb of the manager's command line.
    pub fn mgr(&self, args: &[&str]) -> Ran {
        run(Command::new(program("fusevol-mgr")).arg("--dir").arg(self.dir()).args(args))
    }

    /// Makes a volume.
    pub fn volume(&self, name: &str, size: &str) {
        let _said = self.mgr(&["volume", "create", name, "--size", size]).ok();
    }

    /// Makes a client and gives it these rights on each of these volumes; its key file.
    pub fn client(&self, name: &str, grants: &[(&str, &str)]) -> PathBuf {
        let key = self.scratch.path().join(format!("{name}.key"));
        let _said = self.mgr(&["client", "add", name, "--out", &key.to_string_lossy()]).ok();
        for (volume, rights) in grants {
            let _said = self.mgr(&["access", "grant", volume, name, rights]).ok();
        }
        key
    }

    /// A number of `pool show`: allocation units that are `total`, `free`, `mapped`, `preserve`, `limbo`, ...
    ///
    /// # Panics
    /// Where the pool does not tell it.
    #[must_use]
    pub fn space(&self, what: &str) -> u64 {
        let pool = self.mgr(&["--json", "pool", "show"]).ok().json();
        pool["pool"]["space"][what].as_u64().unwrap_or_else(|| panic!("no {what} in {pool}"))
    }

    /// Waits until every allocation unit is free, mapped, preserved or on its way to be free: nobody is attached, and
    /// nothing is kept for somebody who is gone.
    pub fn adds_up(&self) {
        until("what is kept for sessions to come back", PATIENCE, || {
            let parts: u64 = ["free", "mapped", "preserve", "limbo"].iter().map(|p| self.space(p)).sum();
            (parts == self.space("total")).then_some(())
        });
    }

    /// Removes a snapshot, as soon as nobody reads it.
    pub fn remove_snapshot(&self, target: &str) {
        let removed = || (self.mgr(&["snapshot", "rm", target, "-y"]).code == 0).then_some(());
        until(&format!("{target} to be removed"), PATIENCE, removed);
    }

    /// Removes all snapshots and the volume, and waits until `free` allocation units are free.
    pub fn remove(&self, volume: &str, free: u64) {
        let list = self.mgr(&["--json", "snapshot", "ls", volume]).ok().json();
        for snapshot in list["snapshots"].as_array().into_iter().flatten() {
            self.remove_snapshot(&format!("{volume}@{}", snapshot["name"].as_str().expect("a name")));
        }
        let _said = self.mgr(&["volume", "rm", volume, "-y"]).ok();
        until("all space to be free", PATIENCE, || (self.space("free") == free).then_some(()));
    }

    /// Stops the manager where it runs, and proves the catalog against the disks.
    pub fn check(&mut self) {
        if self.manager.is_some() {
            self.stop();
        }
        let _said = self.mgr(&["check"]).ok();
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for mut child in self.manager.take().into_iter().chain(self.next.drain(..)) {
            // The test is over: whatever it is doing, it ends.
            child.kill().and_then(|()| child.wait()).map(drop).unwrap_or_default();
        }
        if std::thread::panicking() {
            eprintln!("--- the manager's log\n{}", self.log());
        }
    }
}
