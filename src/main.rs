//! The `egret` binary; all code is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    egret::cli::main()
}
