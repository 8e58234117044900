//! A backup process in a session of its own, and its sudden end.

use super::mount::{abort, connection_of};
use super::run::{program, run};
use super::wait::pause;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where private mounts lie.
const RUN: &str = "/run/fusevol";
/// So long a killed process is given to go by itself.
const GOES: Duration = Duration::from_millis(1000);
const STEP: Duration = Duration::from_millis(10);

/// A running `fusevol-backup`. Killed when dropped.
pub struct Reader(Child);

impl Reader {
    /// `fusevol-backup ARGS --key KEY`; what it says goes to `log`.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(key: &Path, args: &[&str], log: &Path) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let mut command = Command::new(program("fusevol-backup"));
        command.args(args).arg("--key").arg(key).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().expect("fusevol-backup starts"))
    }

    /// Whether it ended by itself; well or not.
    ///
    /// # Panics
    /// Where it was not ours.
    pub fn ended(&mut self) -> Option<bool> {
        self.0.try_wait().expect("it is ours").map(|status| status.success())
    }

    /// `kill -9`, and clears its dead mount away; whether it was gone by itself.
    ///
    /// A process that reads through a mount which it serves itself cannot be killed while such a read waits: the thread
    /// waits for the server, and the server's connection ends with the thread. Then the connection is aborted.
    ///
    /// # Panics
    /// Where it was not ours.
    #[must_use]
    pub fn kill(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        self.0.kill().unwrap_or_default();
        let mut went = true;
        let mut waited = Duration::ZERO;
        while self.0.try_wait().is_ok_and(|status| status.is_none()) {
            if waited == GOES {
                went = false;
                self.mounts().for_each(|dir| abort(connection_of(&dir)));
            }
            assert!(waited < GOES * 20, "pid {} does not end, even with its connection aborted", self.0.id());
            pause(STEP);
            waited += STEP;
        }
        for dir in self.mounts() {
            let _said = run(Command::new("umount").arg("-l").arg(&dir));
            // It may have been killed before it mounted, and its folder may be gone.
            fs::remove_dir(dir).unwrap_or_default();
        }
        went
    }

    fn mounts(&self) -> impl Iterator<Item = PathBuf> {
        let prefix = format!("private-{}-", self.0.id());
        let ours = move |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(&prefix);
        fs::read_dir(RUN).into_iter().flatten().flatten().filter(move |e| ours(&e.file_name())).map(|e| e.path())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.end();
        }
    }
}
