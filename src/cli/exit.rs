//! Exit codes. They are listed here, in `egret --help`, and in docs/commands.md, which a test compares.

use std::process::ExitCode;

use clap::error::ErrorKind;

/// Something failed, or an error was found.
pub(super) const FAILED: u8 = 1;

/// There are changes (`plan`, `preview`).
pub(super) const CHANGES: u8 = 2;

/// EX_USAGE of sysexits.h: clap's own 2 would be taken for "there are changes".
pub(super) const USAGE: u8 = 64;

/// What `egret --help` ends with.
pub(super) const CODES: &str = "\
Exit codes:
  0   success; `plan` and `preview`: nothing would change; `validate` and `doctor`: no error was found
  1   failure, or `validate`, `preview` and `doctor` found an error, or `plan` a broken assertion
  2   `plan` and `preview`: there are changes
  64  the command line is wrong";

/// The exit code for what clap returns in the place of arguments. Help and version are no errors.
pub(super) fn of_usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(USAGE),
    }
}
