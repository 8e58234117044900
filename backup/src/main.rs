//! `fusevol-backup`: see `fusevol_backup::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if fusevol::private::watch::main() {
        return ExitCode::SUCCESS;
    }
    fusevol_shared::cli::main("fusevol-backup", fusevol_backup::cli::run)
}
