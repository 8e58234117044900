//! `fusevol-backup`: see `fusevol_backup::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    fusevol_shared::cli::main("fusevol-backup", fusevol_backup::cli::run)
}
