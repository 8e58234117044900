//! The command line.

use super::disk::DiskKind;
use super::target::TargetKind;
use super::work::{WORKS, Work};
use anyhow::{Result, ensure};
use fusevol_shared::size;
use std::path::PathBuf;

/// Measures this machine: our programs beside their peers.
#[derive(clap::Parser, Debug)]
#[command(name = "scripts/bench", subcommand_value_name = "KIND", subcommand_help_heading = "Kinds")]
pub struct Args {
    /// What is measured
    #[command(subcommand)]
    pub kind: Kind,
}

/// What is measured.
#[derive(clap::Subcommand, Debug)]
pub enum Kind {
    /// The data path: raw disk, fusevol, qemu-storage-daemon
    Data(Data),
    /// What failures cost: mirrors, rebuilds, I/O through the manager, on NBD exports with a limit
    Failure(Failure),
}

/// Which disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Disks {
    /// Plain files
    File,
    /// Loop devices over plain files
    Loop,
    /// One after the other
    Both,
}

/// `bench data`
#[derive(clap::Args, Debug)]
pub struct Data {
    /// Rounds; the figures are medians of them [default: 5, quick: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Seconds of a measurement [default: 3, quick: 1]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// 3 rounds of 1 second
    #[arg(long)]
    quick: bool,
    /// Only works with this in their names (see --list); a work's base comes along
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Only these targets
    #[arg(long, value_name = "TARGET,...", value_delimiter = ',')]
    pub targets: Vec<TargetKind>,
    /// What the targets' disks are
    #[arg(long, default_value = "both")]
    disk: Disks,
    /// The area that is measured; the disks take about eight times as much together
    #[arg(long, default_value = "4G", value_parser = area, value_name = "SIZE")]
    pub size: u64,
    /// Writes everything to this file: each round, versions, the command
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Prints the tables as Markdown
    #[arg(long)]
    pub markdown: bool,
    /// Compares with an older --json file
    #[arg(long, value_name = "OLD.json")]
    pub compare: Option<PathBuf>,
    /// Measures nothing: shows this --json file
    #[arg(long, value_name = "FILE")]
    pub show: Option<PathBuf>,
    /// Lists the works
    #[arg(long)]
    pub list: bool,
}

/// `bench failure`
#[derive(clap::Args, Debug)]
pub struct Failure {
    /// Rounds; the figures are medians of them
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Seconds of a measurement
    #[arg(long, value_name = "S", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=60))]
    pub seconds: u32,
    /// The volume that is measured; up to five exports of that much in memory
    #[arg(long, default_value = "2G", value_parser = area, value_name = "SIZE")]
    pub size: u64,
    /// What an export may read, and what it may write, in a second
    #[arg(long, default_value = "64M", value_parser = per_second, value_name = "SIZE")]
    pub rate: u64,
    /// Only figures with this in their names (see --list)
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,
    /// Prints the table as Markdown
    #[arg(long)]
    pub markdown: bool,
    /// Lists the figures
    #[arg(long)]
    pub list: bool,
}

fn per_second(text: &str) -> Result<u64, String> {
    size::parse(text).map_err(|e| e.to_string()).and_then(|n| if n >= 1 << 20 { Ok(n) } else { Err("at least 1M".to_owned()) })
}

fn area(text: &str) -> Result<u64, String> {
    let size = size::parse(text).map_err(|e| e.to_string())?;
    // Less is used up before a list of places has been measured for long.
    if size >= 256 << 20 && size.is_multiple_of(1 << 20) { Ok(size) } else { Err("whole MiB, at least 256M".to_owned()) }
}

impl Data {
    /// Rounds.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    /// Seconds of a measurement.
    #[must_use]
    pub fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// Disk kinds, one after the other.
    #[must_use]
    pub fn disks(&self) -> &'static [DiskKind] {
        match self.disk {
            Disks::File => &[DiskKind::File],
            Disks::Loop => &[DiskKind::Loop],
            Disks::Both => &[DiskKind::File, DiskKind::Loop],
        }
    }

    /// The targets, in the order of the table.
    #[must_use]
    pub fn targets(&self) -> Vec<TargetKind> {
        TargetKind::ALL.into_iter().filter(|t| self.targets.is_empty() || self.targets.contains(t)).collect()
    }

    /// The works, with the bases that they are compared with.
    ///
    /// # Errors
    /// Where there is none.
    pub fn works(&self) -> Result<Vec<&'static Work>> {
        let chosen = |w: &Work| self.only.as_deref().is_none_or(|p| w.name.contains(p));
        let wanted = |w: &&Work| chosen(w) || WORKS.iter().any(|o| chosen(o) && o.base == Some(w.name));
        let works: Vec<_> = WORKS.iter().filter(wanted).collect();
        ensure!(!works.is_empty(), "no work has '{}' in its name; hint: --list", self.only.as_deref().unwrap_or_default());
        Ok(works)
    }
}
