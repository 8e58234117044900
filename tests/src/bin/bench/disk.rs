//! The disk under a target: a plain file that was written through once, or a loop device over such a file. The same for
//! each target, so that no one of them meets blocks that the filesystem below has yet to allocate.

use super::fio;
use super::signal::Interrupt;
use anyhow::{Context, Result};
use fusevol_tests::real::loopdev::LoopDevice;
use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What a target's disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DiskKind {
    /// A plain file.
    File,
    /// A loop device with direct I/O over a plain file.
    Loop,
}

impl fmt::Display for DiskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Loop => "loop",
        })
    }
}

/// A disk. Detached and deleted when dropped.
pub struct Disk {
    // Detached before its file goes.
    device: Option<LoopDevice>,
    file: tempfile::TempPath,
}

impl Disk {
    /// Makes `name` in `dir` with `size` bytes, all written.
    ///
    /// # Errors
    /// Where there is no space, or the run is interrupted.
    pub fn new(dir: &Path, name: &str, size: u64, kind: DiskKind, interrupt: &Interrupt) -> Result<Self> {
        let path = dir.join(name);
        let file = File::create_new(&path).with_context(|| path.display().to_string())?;
        let guard = tempfile::TempPath::try_from_path(path.clone())?;
        fallocate(&file, FallocateFlags::empty(), 0, size).with_context(|| format!("{size} bytes for {}", path.display()))?;
        drop(file);
        fio::fill(&path, size, None, interrupt)?;
        let device = (kind == DiskKind::Loop).then(|| LoopDevice::new(&path, true));
        Ok(Self { device, file: guard })
    }

    /// The device, or the file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.device.as_ref().map_or_else(|| self.file.to_path_buf(), |d| d.path().to_owned())
    }
}
