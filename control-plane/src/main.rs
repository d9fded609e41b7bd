//! The `ipwarden` program. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ipwarden_control_plane::cli::main()
}
