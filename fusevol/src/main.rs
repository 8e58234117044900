//! `fusevol`: mounts a pool's volumes on this host.

fn main() -> std::process::ExitCode {
    fusevol::cli::main()
}
