//! `egret git-worker`: the worker process of `git::supervisor`. Hidden, because only Egret starts it.
//!
//! It has no arguments, since other users could read them. Not here: what it does (`git::worker`).

use std::io;
use std::process::ExitCode;

use super::output::Failure;
use crate::git::worker;

pub(super) fn run() -> Result<ExitCode, Failure> {
    worker::serve(io::stdin().lock(), io::stdout().lock()).map_err(|error| Failure::new(error, None))?;
    Ok(ExitCode::SUCCESS)
}
