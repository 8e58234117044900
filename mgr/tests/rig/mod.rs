//! A folder with two file disks and the real manager on them. What was started is ended by pid when the rig is dropped.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What a command said.
#[derive(Debug)]
pub struct Ran {
    code: i32,
    pub out: String,
    pub err: String,
    what: String,
}

impl Ran {
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n--- stdout\n{}\n--- stderr\n{}", self.what, self.out, self.err);
        self
    }

    pub fn ok(self) -> Self {
        self.code(0)
    }

    pub fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text) || self.err.contains(text), "{} does not say '{text}':\n{}{}", self.what, self.out, self.err);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{}: {e}\n{}\n{}", self.what, self.out, self.err))
    }
}

pub struct Rig {
    scratch: tempfile::TempDir,
    dir: PathBuf,
    disks: Vec<PathBuf>,
    listen: String,
    manager: Option<Child>,
}

impl Rig {
    /// Two blank disks of 128 MiB.
    pub fn new() -> Self {
        let scratch = tempfile::Builder::new().prefix("fusevol-mgr-test.").tempdir_in("/var/tmp").expect("a scratch folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let dir = scratch.path().join("mgr");
        let mut rig = Self { scratch, dir, disks: Vec::new(), listen: format!("127.0.0.1:{port}"), manager: None };
        rig.disks = (0..2).map(|i| rig.disk(&format!("d{i}.img"), 128 << 20)).collect();
        rig
    }

    /// A pool that is served.
    pub fn served() -> Self {
        let mut rig = Self::new();
        rig.init().ok();
        rig.serve();
        rig
    }

    /// A blank sparse file.
    pub fn disk(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create(&path).and_then(|f| f.set_len(bytes)).expect("a disk file");
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    pub fn disks(&self) -> &[PathBuf] {
        &self.disks
    }

    pub fn listen(&self) -> &str {
        &self.listen
    }

    /// From now on the manager works from here.
    pub fn move_to(&mut self, dir: PathBuf) {
        self.dir = dir;
    }

    /// `init` with both disks.
    pub fn init(&self) -> Ran {
        self.init_with(&[&text(&self.disks[0]), &text(&self.disks[1])])
    }

    /// `init` with these disks.
    pub fn init_with(&self, disks: &[&str]) -> Ran {
        let mut args = vec!["init", "--pool", "san1", "--listen", &self.listen, "--lease", "2"];
        args.extend(disks);
        self.mgr(&args)
    }

    /// A verb, on this rig's folder.
    pub fn mgr(&self, args: &[&str]) -> Ran {
        let mut all = vec!["--dir", self.dir.to_str().expect("UTF-8")];
        all.extend(args);
        self.anywhere(&all)
    }

    /// The program, with these arguments alone.
    pub fn anywhere(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fusevol-mgr"));
        let out = command.args(args).env_remove("FUSEVOL_DIR").stdin(Stdio::null()).output().expect("the program starts");
        let utf8 = |b: Vec<u8>| String::from_utf8(b).expect("UTF-8");
        Ran { code: out.status.code().unwrap_or(-1), out: utf8(out.stdout), err: utf8(out.stderr), what: args.join(" ") }
    }

    /// Starts the manager and waits for its `ready`.
    pub fn serve(&mut self) {
        assert!(self.manager.is_none(), "it is served already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("manager.log")).expect("a log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_fusevol-mgr"))
            .args(["serve", "--dir"])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the manager starts");
        let out = child.stdout.take().expect("piped");
        self.manager = Some(child);
        let mut lines = BufReader::new(out).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|l| l == "ready");
        assert!(ready, "the manager ended before it was ready:\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("manager.log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut child = self.manager.take().expect("a manager runs");
        child.kill().and_then(|()| child.wait()).expect("it can be killed");
    }

    /// SIGTERM; it must end well.
    pub fn stop(&mut self) {
        let mut child = self.manager.take().expect("a manager runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
        let end = child.wait().expect("it is ours");
        assert!(end.success(), "{end}:\n{}", self.log());
    }
}

impl Drop for Rig {
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
