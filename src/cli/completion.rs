//! `egret completion SHELL`: a completion script, made by clap.

use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

use super::output::{self, Failure};

#[derive(Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// The shell. For bash: source <(egret completion bash).
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionArgs) -> Result<ExitCode, Failure> {
    let all = super::command();
    // clap_complete offers hidden commands too.
    let visible = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut command = Command::new("egret").version("").args(all.get_arguments().cloned()).subcommands(visible);
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "egret", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
