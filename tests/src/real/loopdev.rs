//! A loop device on a file; detached when dropped.

use super::run::{run, tool};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device.
pub struct LoopDevice(PathBuf);

impl LoopDevice {
    /// `losetup` on `file`, with direct I/O where asked.
    #[must_use]
    pub fn new(file: &Path, direct: bool) -> Self {
        let direct = if direct { "--direct-io=on" } else { "--direct-io=off" };
        let out = tool("losetup", &["--find", "--show", direct, &file.to_string_lossy()]).out;
        Self(PathBuf::from(out.trim()))
    }

    /// The device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _said = run(Command::new("losetup").arg("--detach").arg(&self.0));
    }
}
