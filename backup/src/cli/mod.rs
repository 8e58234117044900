//! What the user types: `fusevol-backup VERB ...`.
//!
//! - [`make`]: `init`. [`save`]: `backup`, `dump`. [`bring`]: `restore`. [`look`]: `snapshots`, `show`, `check`.
//! - [`progress`]: bars, plain lines, JSON lines.
//!
//! Invariants: standard output carries the answer (or the image) only, progress goes to standard error, with `--json` to
//! standard output; SIGINT and SIGTERM end long work in order, with exit code 130.

mod bring;
mod look;
mod make;
mod progress;
mod save;

use crate::pipeline::Cancel;
use crate::repo::Repository;
use crate::store::{DirStore, LockMode};
use clap::{Args, Parser, Subcommand};
use fusevol_shared::cli::{Yes, log};
use fusevol_shared::clock::SystemClock;
use fusevol_shared::error::{Context, Error, Kind, Result};
use std::path::{Path, PathBuf};

/// Point-in-time backups of fusevol volumes in a deduplicating repository, and back.
#[derive(Parser, Debug)]
#[command(name = "fusevol-backup", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// For all verbs.
#[derive(Args, Debug)]
struct Common {
    /// The repository: a folder
    #[arg(long, value_name = "DIR", env = "FUSEVOL_REPO", global = true)]
    repo: Option<PathBuf>,
    /// Answers, progress and errors as JSON lines
    #[arg(long, global = true)]
    json: bool,
    /// No progress
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// How the pool is reached.
#[derive(Args, Debug)]
struct Pool {
    /// The client's key file
    #[arg(long, value_name = "FILE", env = "FUSEVOL_KEY")]
    key: Option<PathBuf>,
    /// Where to look for the pool's disks first
    #[arg(long, value_name = "GLOB")]
    disk: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a repository
    Init(make::Init),
    /// Store volumes: takes a snapshot of each, stores it, drops it
    Backup(save::Backup),
    /// Write a raw image of a volume or snapshot, without a repository
    Dump(save::Dump),
    /// List the snapshots in the repository
    Snapshots(look::Snapshots),
    /// Show one snapshot
    Show(look::Show),
    /// Restore a snapshot to a file, a device, standard output or a volume
    Restore(bring::Restore),
    /// Prove the repository
    Check(look::Check),
}

/// Runs a command line.
///
/// # Errors
/// As the verb's.
pub fn run(cli: Cli) -> Result<u8> {
    log::init("warn")?;
    let cancel = Cancel::default();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, cancel.flag()).context(Kind::Internal, || "signals cannot be heard")?;
    }
    let env = Env { common: cli.common, cancel };
    let done = match cli.verb {
        Verb::Init(v) => make::init(&env, &v),
        Verb::Backup(v) => save::backup(&env, &v),
        Verb::Dump(v) => save::dump(&env, &v),
        Verb::Snapshots(v) => look::snapshots(&env, &v),
        Verb::Show(v) => look::show(&env, &v),
        Verb::Restore(v) => bring::restore(&env, &v),
        Verb::Check(v) => look::check(&env, &v),
    };
    // What fails because all is being ended is the interrupt's doing.
    match (done, env.cancel.check()) {
        (Err(e), Err(_)) if e.kind() != Kind::Interrupted => {
            Err(Error::new(Kind::Interrupted, format!("interrupted: {e}")).hint(e.hint_text().unwrap_or("start it again")))
        }
        (done, _) => done,
    }
}

/// What every verb has.
struct Env {
    common: Common,
    cancel: Cancel,
}

impl Env {
    fn repo_dir(&self) -> Result<&Path> {
        let missing = || Error::new(Kind::Refused, "no repository is named").hint("give --repo DIR, or set FUSEVOL_REPO");
        self.common.repo.as_deref().ok_or_else(missing)
    }

    fn open(&self) -> Result<Repository> {
        Repository::open(Box::new(DirStore::new(self.repo_dir()?)), LockMode::Shared)
    }

    fn progress(&self, verb: &'static str) -> progress::Shown {
        progress::Shown::new(verb, self.common.json, self.common.quiet, Box::new(SystemClock))
    }

    /// What is wrong beside the work, but does not stop it.
    fn warn(&self, what: &Error) -> Result<()> {
        if self.common.json {
            return fusevol_shared::cli::json::print(&serde_json::json!({ "event": "warning", "message": what.to_string() }));
        }
        eprintln!("fusevol-backup: warning: {what}");
        Ok(())
    }
}

impl Pool {
    fn key(&self) -> Result<&Path> {
        let missing = || Error::new(Kind::Refused, "no key file is named").hint("give --key FILE, or set FUSEVOL_KEY");
        self.key.as_deref().ok_or_else(missing)
    }
}

/// Seconds since 1970 UTC.
fn now() -> u64 {
    use fusevol_shared::clock::Clock;
    SystemClock.wall() / 1_000_000_000
}
