//! The command line: `egret COMMAND`, one file for each command. What a command does once its options are known is in the library.

mod agent;
mod args;
mod assertion_json;
mod cluster;
mod cluster_doctor;
mod completion;
mod controller;
pub mod diagnostics;
mod doctor;
mod exit;
mod explain;
mod explain_json;
mod git_worker;
mod init;
mod json;
mod known;
mod kubectl;
mod live;
mod man;
mod migrate;
mod output;
mod plan;
mod post;
mod preview;
mod preview_json;
mod pull_requests;
mod remove;
mod run;
mod schema;
mod snapshot;
mod status;
mod support_bundle;
mod test;
mod validate;
mod version;
mod who;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::args::GlobalArgs;
use self::args::git::FORMER_NAMES;
use self::kubectl::Invoked;
use self::output::Failure;

/// A GitOps reconciler for Kubernetes egress gateways.
#[derive(Debug, Parser)]
#[command(name = "egret", version, about, propagate_version = true, after_help = exit::CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile this node with the policy repository, without an API server.
    Run(run::RunArgs),
    /// Publish the policy repository to a cluster, and commit the reports of its agents.
    Controller(controller::ControllerArgs),
    /// Reconcile this node with the policies that a controller publishes.
    Agent(agent::AgentArgs),
    /// Check every document of a policy repository.
    Validate(validate::ValidateArgs),
    /// Write a policy repository to start from.
    Init(init::InitArgs),
    /// Translate policies of kinds that Egret does not read: CiliumEgressNATPolicy, IsovalentEgressGatewayPolicy.
    Migrate(migrate::MigrateArgs),
    /// Print the JSON schema of documents, for editors.
    Schema(schema::SchemaArgs),
    /// Show what `run` would change on a node, and change nothing.
    Plan(plan::PlanArgs),
    /// Explain what becomes of a pod's packets to an address, and why; or who leaves with an address.
    Explain(explain::ExplainArgs),
    /// Show what a change of the repository would do to a cluster, for a pull request; needs neither the cluster nor a kernel.
    Preview(preview::PreviewArgs),
    /// Show a cluster at a glance: nodes, policies, what is dropped, since when and why.
    Status(status::StatusArgs),
    /// Send requests from pods of this node, and compare the address that a server sees with the promised one.
    Test(test::TestArgs),
    /// Write what a preview needs to know of a cluster: labels and addresses of nodes, namespaces and pods, nothing else.
    Snapshot(snapshot::SnapshotArgs),
    /// Remove everything of Egret's from this node: kernel objects and labels.
    Remove(remove::RemoveArgs),
    /// Check whether this node meets the requirements, and say what to do where it does not.
    Doctor(doctor::DoctorArgs),
    /// Write an archive with what an engineer needs to understand a case, without secrets and without names of others.
    SupportBundle(support_bundle::SupportBundleArgs),
    /// Name the pod that had a translated address and port, from the nodes' NAT records.
    Who(who::WhoArgs),
    /// Print a completion script for a shell.
    Completion(completion::CompletionArgs),
    /// Print the manual page, or write the pages of all commands to a folder.
    Man(man::ManArgs),
    /// Print the version, and the commit that the program was built from where it is known.
    Version(version::VersionArgs),
    /// Transfer for another Egret process, over standard input and output.
    #[command(hide = true)]
    GitWorker,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    if Invoked::of(std::env::args_os().next().as_deref()) == Invoked::Completer {
        return kubectl::complete(std::env::args_os().skip(1)).unwrap_or_else(|failure: Failure| failure.report());
    }
    let Cli { command, global } = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let code = exit::of_usage(&error);
            let _ = error.print();
            return code;
        }
    };
    global.color.write_global();
    let verbosity = &global.verbosity;
    let result = match command {
        Command::Run(args) => run::run(args, verbosity),
        Command::Controller(args) => controller::run(args, verbosity),
        Command::Agent(args) => agent::run(&args, verbosity),
        Command::Validate(args) => validate::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Migrate(args) => migrate::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Explain(args) => explain::run(&args, verbosity),
        Command::Preview(args) => preview::run(&args, verbosity),
        Command::Status(args) => status::run(&args, verbosity),
        Command::Test(args) => test::run(&args, verbosity),
        Command::Snapshot(args) => snapshot::run(&args),
        Command::Remove(args) => remove::run(args, verbosity),
        Command::Doctor(args) => doctor::run(&args),
        Command::SupportBundle(args) => support_bundle::run(&args, verbosity),
        Command::Who(args) => who::run(&args),
        Command::Completion(args) => completion::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Version(args) => version::run(&args),
        Command::GitWorker => git_worker::run(),
    };
    result.unwrap_or_else(|failure: Failure| failure.report())
}

fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    // `term_width(0)` is clap's "do not wrap".
    let command = command().term_width(output::width().unwrap_or(0));
    let command = Invoked::of(words.first().map(OsString::as_os_str)).named(command);
    Cli::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// All commands, with the former names of their options.
fn command() -> clap::Command {
    with_former_names(Cli::command())
}

/// Former names of options stay as aliases that `--help` does not list, and so do their environment variables.
fn with_former_names(command: clap::Command) -> clap::Command {
    command.mut_args(with_former_name).mut_subcommands(with_former_names)
}

fn with_former_name(arg: Arg) -> Arg {
    let Some((_, former, variable)) = FORMER_NAMES.iter().find(|(name, ..)| arg.get_long() == Some(*name)) else {
        return arg;
    };
    let is_set = arg.get_env().is_some_and(|present| std::env::var_os(present).is_some());
    let arg = arg.alias(*former);
    if is_set || std::env::var_os(variable).is_none() { arg } else { arg.env(*variable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_option_of_git_begins_with_git_and_its_former_name_still_works() {
        let plan = command().find_subcommand("plan").cloned().expect("plan");
        for (name, former, _) in FORMER_NAMES {
            assert!(name.starts_with("git-"), "{name}");
            let arg = plan.get_arguments().find(|arg| arg.get_long() == Some(*name)).expect("an option");
            assert_eq!(arg.get_all_aliases(), Some(vec![*former]));
            assert!(arg.get_visible_aliases().is_none_or(|visible| visible.is_empty()), "{former} is hidden");
        }
        let git = plan.get_arguments().filter(|arg| arg.get_help_heading() == Some("Git"));
        let others: Vec<_> = git.filter_map(Arg::get_long).filter(|long| !long.starts_with("git-")).collect();
        assert_eq!(others, Vec::<&str>::new());
    }

    /// By heading: Egret's own, the cluster's, what is printed, Git's.
    #[test]
    fn options_stand_under_headings_with_gits_last() {
        for command in command().get_subcommands() {
            let mut headings: Vec<&str> = Vec::new();
            for heading in command.get_arguments().filter_map(Arg::get_help_heading) {
                if !headings.contains(&heading) {
                    headings.push(heading);
                }
            }
            let place = |heading: &str| headings.iter().position(|other| *other == heading);
            if let Some(git) = place("Git") {
                assert_eq!(git, headings.len() - 1, "{}: {headings:?}", command.get_name());
                assert!(place("Output") < Some(git) && place("Cluster") < place("Output"), "{headings:?}");
            }
        }
    }

    #[test]
    fn every_environment_variable_follows_from_its_options_name() {
        let named: Vec<String> = command()
            .get_subcommands()
            .flat_map(clap::Command::get_arguments)
            .filter_map(|arg| Some((arg.get_long()?.to_owned(), arg.get_env()?.to_string_lossy().into_owned())))
            .filter(|(long, env)| *env != format!("EGRET_{}", long.replace('-', "_").to_uppercase()))
            .map(|(long, env)| format!("--{long} {env}"))
            .collect();
        assert_eq!(named, Vec::<String>::new());
    }
}
