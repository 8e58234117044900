//! A pool of file disks under a real manager process.

use super::run::{Ran, program, run};
use super::wait::until;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A scratch folder with disks, and the manager that serves them. Ends the manager when dropped.
pub struct Pool {
    scratch: tempfile::TempDir,
    disks: Vec<PathBuf>,
    manager: Option<Child>,
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
        let base = std::env::var_os("FUSEVOL_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let mut scratch = tempfile::Builder::new().prefix("fusevol-test.").tempdir_in(base).expect("a scratch folder");
        scratch.disable_cleanup(std::env::var_os("FUSEVOL_KEEP").is_some());
        let disks: Vec<_> = (0..options.disks.len()).map(|i| scratch.path().join(format!("d{i}.img"))).collect();
        for (path, size) in disks.iter().zip(options.disks) {
            std::fs::File::create(path).and_then(|f| f.set_len(*size)).expect("a disk file");
        }
        let mut pool = Self { scratch, disks, manager: None };
        let mut init = Command::new(program("fusevol-mgr"));
        init.args(["init", "--dir"]).arg(pool.dir()).args(["--pool", "san1", "--lease", &options.lease.to_string()]);
        let local = [format!("127.0.0.1:{}", free_port())];
        for address in if options.listen.is_empty() { &local } else { options.listen } {
            init.args(["--listen", address]);
        }
        let _said = run(init.args(&pool.disks)).ok();
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
        assert!(self.manager.is_none(), "it is served already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.scratch.path().join("manager.log")).expect("a log");
        let mut child = Command::new(program("fusevol-mgr"))
            .args(["serve", "--dir"])
            .arg(self.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the manager starts");
        let out = child.stdout.take().expect("piped");
        self.manager = Some(child);
        let mut lines = BufReader::new(out).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|l| l.trim() == "ready");
        assert!(ready, "the manager ended before it was ready:\n{}", self.log());
        // What it says later is not of interest, but the pipe must stay open.
        std::thread::spawn(move || lines.for_each(drop));
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
        if let Some(mut child) = self.manager.take() {
            // The test is over: whatever it is doing, it ends.
            child.kill().and_then(|()| child.wait()).map(drop).unwrap_or_default();
        }
        if std::thread::panicking() {
            eprintln!("--- the manager's log\n{}", self.log());
        }
    }
}
