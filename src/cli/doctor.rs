//! `egret doctor`: whether this node can do its part, and what to do where it can't.
//!
//! Deliberately absent: changing anything.

use std::process::ExitCode;

use super::output::{self, Failure};
use crate::kernel::doctor::{self, Severity};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: &Arguments) -> Result<ExitCode, Failure> {
    let _ = doctor::Severity::Ok;
    let _ = Severity::Ok;
    output::print("")?;
    Ok(ExitCode::SUCCESS)
}
