//! Running commands: our own programs as they were built, and the tools of the field.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The built program `name`, beside the running test.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    let dir = exe.ancestors().find(|d| d.join(name).is_file());
    dir.unwrap_or_else(|| panic!("{name} is not built; run: cargo build --workspace --bins")).join(name)
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    what: String,
}

impl Ran {
    /// Demands success.
    ///
    /// # Panics
    /// Otherwise, with all that the command said.
    #[must_use]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Demands this exit code.
    ///
    /// # Panics
    /// Otherwise, with all that the command said.
    #[must_use]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n--- stdout\n{}\n--- stderr\n{}", self.what, self.out, self.err);
        self
    }

    /// Demands that the command said `text`, on either stream.
    ///
    /// # Panics
    /// Otherwise, with all that the command said.
    #[must_use]
    pub fn says(self, text: &str) -> Self {
        assert!(self.out.contains(text) || self.err.contains(text), "{} did not say '{text}'\n{}\n{}", self.what, self.out, self.err);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{}: {e}\n{}", self.what, self.out))
    }
}

/// Runs a command to its end.
///
/// # Panics
/// Where it cannot be started.
pub fn run(command: &mut Command) -> Ran {
    let what = format!("{command:?}");
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{what} cannot be started: {e}"));
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr), what }
}

/// Runs a tool of the field with these arguments and demands success.
pub fn tool<S: AsRef<OsStr>>(name: &str, args: &[S]) -> Ran {
    run(Command::new(name).args(args)).ok()
}

/// `name` of the tools that the gate installs for tests (`FUSEVOL_TEST_TOOLS/bin`), or of the PATH.
#[must_use]
pub fn test_tool(name: &str) -> PathBuf {
    let installed = std::env::var_os("FUSEVOL_TEST_TOOLS").map(|d| Path::new(&d).join("bin").join(name));
    installed.filter(|p| p.is_file()).unwrap_or_else(|| PathBuf::from(name))
}
