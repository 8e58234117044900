//! Everything that was measured, as it is kept in a JSON file, and the questions that tables ask of it.

use super::disk::DiskKind;
use super::fio::Figures;
use super::goals::{Against, Goal};
use super::stats;
use super::target::TargetKind;
use super::work::Work;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;

#[cfg(test)]
mod tests;

/// Version of the file; fields are added without changing it.
pub const SCHEMA: u32 = 1;

/// A run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it began, RFC 3339.
    pub date: String,
    /// The command line.
    pub command: String,
    /// Of the machine.
    pub machine: Machine,
    /// The area, bytes.
    pub size: u64,
    /// A measurement, seconds.
    pub seconds: u32,
    /// Rounds.
    pub rounds: u32,
    /// Each measurement.
    pub samples: Vec<Sample>,
    /// What was left out or failed, and why.
    pub left_out: Vec<String>,
}

/// What it ran on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// Of fio.
    pub fio: String,
    /// Of qemu-storage-daemon.
    pub qemu: String,
    /// The commit of the project; `-dirty` with changes.
    pub fusevol: String,
    /// Processors.
    pub cpus: usize,
    /// Processes that ran or waited, the mean of the minute before: what else the machine had to do.
    pub load: f64,
}

/// A measurement.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// On which disk.
    pub disk: DiskKind,
    /// Of which target.
    pub target: TargetKind,
    /// Name of the work.
    pub work: String,
    /// In which round, from 1.
    pub round: u32,
    /// What was measured.
    #[serde(flatten)]
    pub figures: Figures,
}

impl Sample {
    /// IOPS, or MiB/s.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let stream = Work::named(&self.work).is_some_and(|w| w.stream);
        let amount = if stream { self.figures.bytes as f64 / f64::from(1 << 20) } else { self.figures.ios as f64 };
        amount / self.figures.seconds
    }
}

impl Machine {
    /// Asks the tools. One that is not there has no version.
    #[must_use]
    pub fn here() -> Self {
        let said = |program: &str, args: &[&str]| {
            let out = Command::new(program).args(args).output().ok().filter(|o| o.status.success());
            out.and_then(|o| String::from_utf8_lossy(&o.stdout).lines().next().map(str::to_owned)).unwrap_or_default()
        };
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let qemu = said("qemu-storage-daemon", &["--version"]);
        Self {
            kernel: said("uname", &["-r"]),
            fio: said("fio", &["--version"]),
            qemu: qemu.split(' ').nth(2).unwrap_or_default().to_owned(),
            fusevol: said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            load: load.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or_default(),
        }
    }
}

impl Report {
    /// Of a file.
    ///
    /// # Errors
    /// Where it is none.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let report: Self = serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))?;
        ensure!(report.schema == SCHEMA, "{} has schema {}, not {SCHEMA}", path.display(), report.schema);
        Ok(report)
    }

    /// Into a file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// The disks that were measured.
    #[must_use]
    pub fn disks(&self) -> Vec<DiskKind> {
        [DiskKind::File, DiskKind::Loop].into_iter().filter(|d| self.samples.iter().any(|s| s.disk == *d)).collect()
    }

    /// The rounds of a cell.
    #[must_use]
    pub fn cell(&self, disk: DiskKind, target: TargetKind, work: &str) -> Vec<&Sample> {
        self.samples.iter().filter(|s| s.disk == disk && s.target == target && s.work == work).collect()
    }

    /// The rates of a cell, with their rounds.
    #[must_use]
    pub fn rates(&self, disk: DiskKind, target: TargetKind, work: &str) -> Vec<(u32, f64)> {
        self.cell(disk, target, work).iter().map(|s| (s.round, s.rate())).collect()
    }

    /// The median of a figure of a cell.
    #[must_use]
    pub fn median(&self, disk: DiskKind, target: TargetKind, work: &str, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.cell(disk, target, work).into_iter().map(figure).collect();
        stats::median(&values)
    }

    /// How many times as fast `target` is at `work` as what it is measured against.
    #[must_use]
    pub fn ratio(&self, disk: DiskKind, target: TargetKind, work: &str, against: Against) -> Option<f64> {
        let base = match against {
            Against::Target(other) => self.rates(disk, other, work),
            Against::Own => self.rates(disk, target, Work::named(work)?.base?),
        };
        stats::ratio(&self.rates(disk, target, work), &base)
    }

    /// The ratio that a goal is about.
    #[must_use]
    pub fn reached(&self, disk: DiskKind, target: TargetKind, goal: &Goal) -> Option<f64> {
        self.ratio(disk, target, goal.work, goal.against)
    }
}
