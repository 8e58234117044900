//! `scripts/bench KIND`: figures of this machine, our programs beside their peers.
//!
//! - [`args`]: the command line. [`data`]: the rounds of `bench data`. [`failure`]: `bench failure`.
//! - [`work`]: the works, as data. [`goals`]: the goals, as data, and their marks.
//! - [`target`]: what is measured, each with what it started under guards. [`disk`]: what lies under them.
//! - [`fio`]: the load. [`places`]: lists of places for it. [`cpu`]: processor time. [`signal`]: Ctrl-C.
//! - [`report`]: everything that was measured, as a file. [`stats`], [`table`]: what is shown of it.
//!
//! Progress goes to standard error, tables to standard output. Codes: 0; 1 where something failed, or a goal of `failure` was missed; 2 for a wrong
//! command line.
//! Mounts, loop devices, processes and files end with their guards, after errors and Ctrl-C too.
#![allow(clippy::cast_precision_loss)] // figures are shown with three digits

mod args;
mod cpu;
mod data;
mod disk;
mod failure;
mod fio;
mod goals;
mod places;
mod report;
mod signal;
mod stats;
mod table;
mod target;
mod work;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match args::Args::parse().kind {
        args::Kind::Data(data) => data::run(&data),
        args::Kind::Failure(failure) => failure::run(&failure),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bench: error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
