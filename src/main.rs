//! The program: reads what was typed and does it. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    egret::cli::main()
}
