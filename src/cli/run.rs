//! `egret run`: the standalone node.
//!
//! Deliberately absent: the loop (`reconcile::node`).

use std::process::ExitCode;

use super::options::{FollowingOptions, NodeOptions, ServingOptions, WebhookOptions, seconds};
use super::output::{self, Failure};
use crate::reconcile::node::{self, RunError, StandaloneOptions};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    following: FollowingOptions,
    #[command(flatten)]
    node: NodeOptions,
    /// How often a remote repository is asked whether its branch has moved, in seconds.
    #[arg(long, value_name = "SECONDS", env = "EGRET_POLL", default_value_t = 2.0, value_parser = seconds)]
    poll: f64,
    /// Reconcile once and end: 0 if all is in force.
    #[arg(long)]
    once: bool,
    /// Take everything of Egret's away from this node in place of what Git asks for, and end.
    #[arg(long, conflicts_with = "once")]
    remove: bool,
    #[command(flatten)]
    serving: ServingOptions,
    #[command(flatten)]
    webhook: WebhookOptions,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    arguments.serving.log();
    let options = StandaloneOptions {
        following: arguments.following.following(&arguments.node.cluster_name, arguments.poll)?,
        signing_key: arguments.following.signing_key,
        cluster: arguments.node.cluster.clone(),
        node: arguments.node.node()?,
        state_folder: arguments.node.state_dir.clone(),
        once: arguments.once,
        remove: arguments.remove,
        listen: arguments.serving.listen,
        webhook: arguments.webhook.options(),
    };
    Failure::ended(output::runtime()?.block_on(node::run(options)).map(|_| ()), RunError::hint)
}
