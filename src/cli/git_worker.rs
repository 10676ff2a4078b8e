//! `egret git-worker`: the process that Egret starts for transfers with a Git server (`git::worker`). It takes no arguments: other users of
//! the machine could read them.

use std::io;
use std::process::ExitCode;

use super::output::Failure;
use crate::git::worker;

pub(super) fn run() -> Result<ExitCode, Failure> {
    worker::serve(io::stdin().lock(), io::stdout().lock()).map_err(|error| Failure::new(error, None))?;
    Ok(ExitCode::SUCCESS)
}
