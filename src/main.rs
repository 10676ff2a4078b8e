//! The program: reads what was typed and does it. Deliberately absent: everything else, which is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    egret::cli::main()
}
