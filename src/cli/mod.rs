//! What people type: `egret COMMAND`, one file for each command.
//!
//! Exit codes: 0 fine, or nothing to do; 2 there are changes (`plan`, `preview`); 1 an error. Deliberately absent: whatever a command does
//! once it knows what is meant.

mod agent;
mod controller;
pub mod diagnostics;
mod doctor;
mod git_worker;
mod github_app;
mod init;
mod options;
mod output;
mod plan;
mod posting;
mod preview;
mod preview_json;
mod previews;
mod remove;
mod run;
mod schema;
mod snapshot;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::output::Failure;

/// A GitOps reconciler for Kubernetes egress gateways.
#[derive(Debug, Parser)]
#[command(name = "egret", version, about, propagate_version = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring this node to what the policy repository asks for, and keep it there.
    Run(run::Arguments),
    /// Publish what the policy repository asks for to a cluster, and commit what its agents report.
    Controller(controller::Arguments),
    /// Bring this node to what a controller publishes, and keep it there.
    Agent(agent::Arguments),
    /// Check every document of a policy repository.
    Validate(validate::Arguments),
    /// Write a policy repository to start from.
    Init(init::Arguments),
    /// Print the JSON schema of documents, for editors.
    Schema(schema::Arguments),
    /// Show what `run` would change on a node, and change nothing.
    Plan(plan::Arguments),
    /// Show what a change of the repository would do to a cluster, for a pull request; needs neither the cluster nor a kernel.
    Preview(preview::Arguments),
    /// Write down what a preview has to know of a cluster: labels and addresses of nodes, namespaces and pods, nothing else.
    Snapshot(snapshot::Arguments),
    /// Take everything of Egret's away from this node: kernel objects and labels.
    Remove(remove::Arguments),
    /// Look whether this node can do its part, and say what to do where it can't.
    Doctor(doctor::Arguments),
    /// Talk to a Git server for another process of Egret's.
    #[command(hide = true)]
    GitWorker,
}

/// Runs what was typed.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => run::run(arguments),
        Command::Controller(arguments) => controller::run(arguments),
        Command::Agent(arguments) => agent::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Preview(arguments) => preview::run(&arguments),
        Command::Snapshot(arguments) => snapshot::run(&arguments),
        Command::Remove(arguments) => remove::run(arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::GitWorker => git_worker::run(),
    };
    result.unwrap_or_else(|failure: Failure| failure.report())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
