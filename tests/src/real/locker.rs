//! Programs that hold locks on volume files, and those that are refused.

use super::run::{Ran, run};
use super::wait::until;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A program that has a file open until it is told to end. Killed when dropped.
pub struct Holder(Option<Child>);

impl Holder {
    /// A QEMU that writes the image and bears nobody beside it, as for a guest: the target of a mirror job, which writes some and waits.
    ///
    /// # Errors
    /// What it says where it does not get the image.
    ///
    /// # Panics
    /// Where it cannot be started.
    pub fn qemu(image: &Path) -> Result<Self, String> {
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", "driver=null-co,node-name=zeros,size=67108864,read-zeroes=on", "--blockdev"]);
        command.arg(format!("driver=file,node-name=image,filename={}", image.display()));
        command.args(["--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let job = r#"{"job-id":"job","device":"zeros","target":"image","sync":"full","speed":1}"#;
        let ask = format!("{{\"execute\":\"qmp_capabilities\"}}\n{{\"execute\":\"blockdev-mirror\",\"arguments\":{job}}}\n");
        let mut said = String::new();
        // One that cannot open the image ends before it listens.
        let asked = child.stdin.as_mut().expect("piped").write_all(ask.as_bytes());
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut returned = 0;
        while asked.is_ok() && returned < 2 && !said.contains("\"error\"") {
            let mut line = String::new();
            if out.read_line(&mut line).expect("it speaks") == 0 {
                break;
            }
            returned += u32::from(line.starts_with("{\"return\""));
            said.push_str(&line);
        }
        if returned == 2 {
            std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(drop));
            return Ok(Self(Some(child)));
        }
        child.kill().and_then(|()| child.wait()).map(drop).unwrap_or_default();
        let mut errors = String::new();
        let _n = child.stderr.take().map(|mut e| e.read_to_string(&mut errors));
        Err(said + &errors)
    }

    /// `qemu-io` with the image open for reading; it has its locks when this returns.
    ///
    /// # Panics
    /// Where it does not come to that.
    #[must_use]
    pub fn reader(image: &Path) -> Self {
        Self::start(Command::new("qemu-io").args(["-f", "raw", "-r"]).arg(image), Some("length"), "qemu-io> ")
    }

    /// A shell that has the image open for writing, and does nothing.
    ///
    /// # Panics
    /// Where it does not come to that.
    #[must_use]
    pub fn idle(image: &Path) -> Self {
        let mut command = Command::new("sh");
        Self::start(command.args(["-c", "exec 3<> \"$0\"; echo held; read -r end"]).arg(image), None, "held")
    }

    /// `flock` in this mode (`-x`, `-s`); it has the lock when this returns.
    ///
    /// # Panics
    /// Where it does not come to that.
    #[must_use]
    pub fn flock(image: &Path, mode: &str) -> Self {
        let mut command = Command::new("flock");
        Self::start(command.arg(mode).arg(image).args(["sh", "-c", "echo held; read -r end"]), None, "held")
    }

    /// `flock -x` that waits for the lock.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn waiting(image: &Path) -> Self {
        let child = Command::new("flock").arg("-x").arg(image).arg("true").stdin(Stdio::null()).spawn().expect("flock starts");
        Self(Some(child))
    }

    fn start(command: &mut Command, question: Option<&str>, answer: &str) -> Self {
        let what = format!("{command:?}");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
        if let Some(question) = question {
            let stdin = child.stdin.as_mut().expect("piped");
            stdin.write_all(format!("{question}\n").as_bytes()).expect("it listens");
        }
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("it speaks");
        assert!(line.contains(answer), "{what} said {line:?}");
        std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(drop));
        Self(Some(child))
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// After `end`.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.as_mut().expect("it was started").try_wait().expect("it is ours")
    }

    /// `kill -9`, and waits for its end.
    ///
    /// # Panics
    /// Where it does not end.
    pub fn kill(mut self) {
        let mut child = self.0.take().expect("it was started");
        child.kill().expect("it can be killed");
        until("who was killed to end", PATIENCE, || child.try_wait().expect("it is ours"));
    }

    /// Closes its input (and says `quit` before), which ends it, and waits for that.
    ///
    /// # Panics
    /// Where it does not end well.
    pub fn end(mut self) {
        let mut child = self.0.take().expect("it was started");
        // Who knows no such word ends all the same.
        let _said = child.stdin.take().map(|mut stdin| stdin.write_all(b"{\"execute\":\"quit\"}\n"));
        let status = until("the holder of a lock to end", PATIENCE, || child.try_wait().expect("it is ours"));
        assert!(status.code().is_some_and(|c| c <= 1), "it ended with {status}");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().and_then(|()| child.wait()).map(drop).unwrap_or_default();
        }
    }
}

/// One look at the image by `qemu-io`, which only reads.
#[must_use]
pub fn qemu_once(image: &Path) -> Ran {
    run(Command::new("qemu-io").args(["-f", "raw", "-r", "-c", "length"]).arg(image))
}

/// Whether `flock -n` in this mode gets the lock.
#[must_use]
pub fn flock_once(image: &Path, mode: &str) -> bool {
    run(Command::new("flock").args(["-n", mode]).arg(image).arg("true")).code == 0
}
