//! `egret run`: the standalone node. The loop is `reconcile::node`.

use std::process::ExitCode;
use std::time::Duration;

use super::args::{
    BranchArgs, FollowArgs, GitArgs, LogArgs, NodeArgs, RecordArgs, RepoArgs, ServeArgs, UiArgs, WebhookArgs, duration,
};
use super::output::{self, Failure, Verbosity, no_standard_input};
use crate::reconcile::node::{self, RunError, StandaloneOptions};

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    repo: RepoArgs,
    #[command(flatten)]
    branch: BranchArgs,
    /// How often a remote repository is polled for a new commit of the branch.
    #[arg(long, value_name = "DURATION", env = "EGRET_POLL", default_value = "2s", value_parser = duration)]
    poll: Duration,
    /// Reconcile once and exit: 0 if everything is applied.
    #[arg(long)]
    once: bool,
    /// Remove everything of Egret's from this node instead of reconciling it, and exit.
    #[arg(long, conflicts_with = "once")]
    remove: bool,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    ui: UiArgs,
    #[command(flatten)]
    webhook: WebhookArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    git: GitArgs,
}

pub(super) fn run(args: RunArgs, verbosity: &Verbosity) -> Result<ExitCode, Failure> {
    args.log.start(verbosity);
    no_standard_input(&args.node.cluster)?;
    let repository = args.repo.with(&args.git);
    let options = StandaloneOptions {
        following: args.follow.following(repository, &args.branch, &args.node.cluster_name, args.poll)?,
        signing_key: args.follow.signing_key,
        cluster: args.node.cluster.clone(),
        node: args.node.node()?,
        state_folder: args.node.state_dir.clone(),
        once: args.once,
        remove: args.remove,
        listen: args.serve.listen,
        webhook: args.webhook.options(),
        nat_record: args.record.nat_record,
        ui: args.ui.options(),
    };
    Failure::ended(output::runtime()?.block_on(node::run(options)).map(|_| ()), RunError::hint)
}
