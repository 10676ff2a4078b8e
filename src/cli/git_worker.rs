//! `egret git-worker`: the process that talks to a Git server for another one of ours. Nobody types it.
//!
//! Deliberately absent: arguments, which others could read, and everything that it does (`git::worker`).

use std::io;
use std::process::ExitCode;

use super::output::Failure;
use crate::git::worker;

pub(super) fn run() -> Result<ExitCode, Failure> {
    worker::serve(io::stdin().lock(), io::stdout().lock()).map_err(|error| Failure::new(error, None))?;
    Ok(ExitCode::SUCCESS)
}
