//! What the three command lines share, so that they read and fail alike.
//!
//! - [`main`]: parses the arguments, runs the body, reports its error and turns its kind into the exit code.
//! - [`report`]: an error as people and scripts see it. [`usage`]: a wrong command line as such an error.
//! - [`table`]: lists in plain columns, with `-o`, `-H` and `-p` as zfs has them. [`json`]: everything with `--json`.
//! - [`confirm`]: what destroys asks. [`log`]: `FUSEVOL_LOG`. [`out`]: standard output, and what a closed pipe means.
//! - [`time`]: instants as RFC 3339.
//!
//! Invariants: with `--json` standard output carries JSON only, errors too; without it an error is on standard error
//! only. A wrong command line ends with 2, an error with the code of its kind, output into a closed pipe quietly.

pub mod confirm;
pub mod json;
pub mod log;
pub mod out;
pub mod report;
pub mod table;
pub mod time;
pub mod usage;

#[cfg(test)]
mod tests;

pub use confirm::{Yes, confirm};
pub use table::{Cell, Column, ListArgs, Table};

use crate::error::Result;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Exit code of a command that did what was asked.
pub const DONE: u8 = 0;

/// Parses the process's arguments as `C`, runs `body` and ends as every command here ends.
///
/// `program` is the name that stands before an error (`fusevol-mgr: error: ...`). `body` gives the exit code of a run
/// without error ([`DONE`], or what a check answers).
pub fn main<C: clap::Parser>(program: &str, body: impl FnOnce(C) -> Result<u8>) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let json = wants_json(&args);
    let code = match C::try_parse_from(&args) {
        Ok(command) => body(command).unwrap_or_else(|e| report::report(program, json, &e)),
        Err(e) => usage::end(program, json, &e),
    };
    ExitCode::from(code)
}

/// Whether `--json` is among the arguments: asked before they are parsed, for errors of the parsing itself.
fn wants_json(args: &[OsString]) -> bool {
    args.iter().skip(1).take_while(|a| a.as_os_str() != OsStr::new("--")).any(|a| a.as_os_str() == OsStr::new("--json"))
}
