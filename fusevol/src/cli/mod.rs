//! The client's command line.
//!
//! - [`mount`]: `mount` and the process that serves it ([`memory`]: its memory). [`mountpoint`]: the folder. [`umount`]: `umount`.
//! - [`attach`]: `attach` and `detach`: loop devices.
//! - [`paths`]: `paths`: how each disk is reached, and the drill.
//! - [`verbs`]: `ls`, `status`, `map`: they ask the mount's own socket ([`control`]: both ends of it).
//! - [`report`]: what the mount answers, and [`show`]: how it is shown.
//!
//! Invariant: a verb decides nothing about data; what it prints with `--json` is what the mount answered.

mod attach;
mod control;
mod memory;
mod mount;
mod mountpoint;
mod paths;
mod report;
mod serve;
mod show;
mod umount;
mod verbs;

use clap::{Parser, Subcommand};
use fusevol_shared::cli::{self as shared_cli, ListArgs};
use fusevol_shared::error::Result;
use fusevol_shared::name::Target;
use std::path::PathBuf;
use std::process::ExitCode;

/// Mounts the volumes that were granted to this host, and shows them.
#[derive(Parser, Debug)]
#[command(name = "fusevol", version, about, max_term_width = 120, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// JSON on standard output
    #[arg(long, global = true)]
    json: bool,
    /// The mount to ask, where there are several
    #[arg(long = "mount", value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Mount the granted volumes as sparse image files
    Mount(mount::Args),
    /// Unmount, and wait until everything is written and given back
    Umount {
        /// Where it is mounted
        dir: PathBuf,
    },
    /// Make a block device of a volume or snapshot: /dev/fusevol/VOL
    Attach(attach::Args),
    /// Give the block device of a volume or snapshot back
    Detach {
        /// VOL or VOL@SNAP
        target: Target,
    },
    /// List the granted volumes
    Ls {
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show session, manager, disks and open volumes
    Status {
        /// This volume only
        volume: Option<Target>,
        /// End with 0 (well), 1 (warning), 2 (critical) or 3 (unknown), as monitoring plugins do
        #[arg(long)]
        check: bool,
    },
    /// Show how each disk is reached, or try out how it is without a path
    Paths {
        #[command(subcommand)]
        drill: Option<paths::Drill>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show where the data of a volume lies, or what a snapshot holds
    Map {
        /// VOL or VOL@SNAP
        target: Target,
        /// What was modified since the snapshot
        #[arg(long)]
        modified: bool,
        #[command(flatten)]
        list: ListArgs,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    shared_cli::main::<Cli>("fusevol", run)
}

fn run(cli: Cli) -> Result<u8> {
    // The FUSE library speaks of requests that were interrupted as errors; ours are said by the adapter.
    shared_cli::log::init(if matches!(cli.verb, Verb::Mount(_)) { "info,fuser=off" } else { "warn" })?;
    let ask = verbs::Ask { json: cli.json, dir: cli.dir };
    match cli.verb {
        Verb::Mount(args) => mount::run(args, cli.json),
        Verb::Umount { dir } => umount::run(&dir, cli.json),
        Verb::Attach(args) => attach::attach(&ask, &args),
        Verb::Detach { target } => attach::detach(&ask, &target),
        Verb::Ls { list } => verbs::ls(&ask, &list),
        Verb::Status { volume, check } => verbs::status(&ask, volume.as_ref(), check),
        Verb::Paths { drill, list } => paths::run(&ask, drill.as_ref(), &list),
        Verb::Map { target, modified, list } => verbs::map(&ask, &target, modified, &list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_fits_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_mount_is_named_before_or_behind_the_verb() {
        for line in [["fusevol", "--mount", "/m", "ls"], ["fusevol", "ls", "--mount", "/m"]] {
            let cli = Cli::try_parse_from(line).expect("it parses");
            assert_eq!(cli.dir, Some(PathBuf::from("/m")));
        }
        assert!(Cli::try_parse_from(["fusevol", "map", "bad name"]).is_err());
    }
}
