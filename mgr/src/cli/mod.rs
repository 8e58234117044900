//! The manager's command line: `init`, `adopt`, `serve`, `check` and `dump` work themselves; every other verb asks the manager
//! that serves, over the socket in `--dir`, and prints its answer. Nothing is decided here.

mod access;
mod args;
mod client;
mod context;
mod disk;
mod dump;
mod events;
mod job;
mod lifecycle;
mod pool;
mod show;
mod snapshot;
mod status;
mod volume;

use args::{Cli, Verb};
use context::Ctx;
use fusevol_shared::cli;
use fusevol_shared::error::Result;
use std::process::ExitCode;

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    cli::main::<Cli>("fusevol-mgr", run)
}

fn run(cli: Cli) -> Result<u8> {
    let default = if matches!(cli.verb, Verb::Serve { .. }) { "info" } else { "warn" };
    cli::log::init(default)?;
    let ctx = Ctx::new(&cli);
    match cli.verb {
        Verb::Init(args) => lifecycle::init(&ctx, &args)?,
        Verb::Adopt(args) => lifecycle::adopt(&ctx, &args)?,
        Verb::Serve { force } => lifecycle::serve(&ctx, force)?,
        Verb::Check(args) => return lifecycle::check(&ctx, &args),
        Verb::Dump(args) => dump::run(&ctx, &args)?,
        Verb::Pool(args::Pool::Show) => pool::show(&ctx)?,
        Verb::Pool(args::Pool::Set { fencing, reservations, rebuild_after }) => {
            pool::set(&ctx, fencing.map(Into::into), reservations.map(|r| r == args::Switch::On), rebuild_after)?;
        }
        Verb::Job(verb) => job::run(&ctx, verb)?,
        Verb::Disk(verb) => disk::run(&ctx, verb)?,
        Verb::Volume(verb) => volume::run(&ctx, verb)?,
        Verb::Snapshot(verb) => snapshot::run(&ctx, verb)?,
        Verb::Client(verb) => client::run(&ctx, verb)?,
        Verb::Access(verb) => access::run(&ctx, verb)?,
        Verb::Status(args) => return status::run(&ctx, &args),
        Verb::Events(args) => events::run(&ctx, &args)?,
    }
    Ok(cli::DONE)
}
