//! `fusevol-mgr`: the manager and its command line.

fn main() -> std::process::ExitCode {
    fusevol_mgr::cli::main()
}
