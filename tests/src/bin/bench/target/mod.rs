//! What is measured side by side, each on a disk of its own kind and size, behind one trait.
//!
//! A target is built once for a disk kind, its area fully written, and then measured round by round. It brings its area into
//! the state that a work asks for before each measurement, and back to fully written after it. It ends what it started.

pub mod fusevol;
pub mod qemu;
pub mod raw;

use super::disk::DiskKind;
use super::fio::{Figures, Job, Lists};
use super::signal::Interrupt;
use super::work::Work;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Which one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// fio straight on the disk: the limit.
    Raw,
    /// Our mount over io_uring.
    Uring,
    /// Our mount over `/dev/fuse`.
    Classic,
    /// qemu-storage-daemon's FUSE export of the raw disk.
    QsdRaw,
    /// The same of a qcow2 image.
    QsdQcow2,
}

impl TargetKind {
    /// All, in the order of the table.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Uring, Self::Classic, Self::QsdRaw, Self::QsdQcow2];

    /// For people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Raw => "raw disk",
            Self::Uring => "fusevol uring",
            Self::Classic => "fusevol classic",
            Self::QsdRaw => "qsd raw",
            Self::QsdQcow2 => "qsd qcow2",
        }
    }

    /// Whether it allocates on demand and has snapshots.
    #[must_use]
    pub fn is_thin(self) -> bool {
        self.is_ours() || self == Self::QsdQcow2
    }

    /// Whether it is this project's.
    #[must_use]
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Uring | Self::Classic)
    }
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// What all targets are told alike.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Scratch folder.
    pub dir: PathBuf,
    /// Disk kind.
    pub disk: DiskKind,
    /// The area, bytes.
    pub size: u64,
    /// A measurement, seconds.
    pub seconds: u32,
    /// Lists of places in the area.
    pub lists: Lists,
    /// Ctrl-C.
    pub interrupt: Interrupt,
}

impl Setting {
    /// A job on `file`, for fio.
    #[must_use]
    pub fn job<'a>(&'a self, file: &'a Path, servers: &'a [u32], mount: Option<&'a Path>, round: u32) -> Job<'a> {
        Job { file, size: self.size, seconds: self.seconds, ramp: 0, seed: round.into(), lists: &self.lists, servers, mount }
    }
}

/// Something that can be measured.
pub trait Target {
    /// Which one.
    fn kind(&self) -> TargetKind;

    /// Measures a work that [`Work::is_of`] it.
    ///
    /// # Errors
    /// Where it fails; the target is not to be used again then.
    fn measure(&mut self, work: &Work, round: u32) -> Result<Figures>;
}
