//! `egret man`: manual pages, made by clap from the same descriptions as `--help`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{self, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Write the pages of all commands to this folder, which is made if it does not exist: egret.1, egret-run.1, … [default: print
    /// egret.1, for `egret man | man -l -`].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs) -> Result<ExitCode, Failure> {
    let Some(folder) = &args.dir else {
        // As clap_mangen does for a folder of pages.
        let mut command = super::command().disable_help_subcommand(true);
        command.build();
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .render(&mut page)
            .map_err(|error| Failure::new(format!("make the manual page: {error}"), None))?;
        output::print(&String::from_utf8_lossy(&page))?;
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(super::command(), folder))
        .map_err(|error| Failure::new(format!("write manual pages to {}: {error}", folder.display()), None))?;
    Ok(ExitCode::SUCCESS)
}
