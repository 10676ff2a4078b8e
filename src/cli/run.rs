//! `egret run`: the standalone node.
//!
//! Deliberately absent: the loop (`reconcile::node`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::options::{AdmissionOptions, NodeOptions, RepositoryOptions, SignatureOptions, WebhookOptions, seconds};
use super::output::{self, Failure};
use crate::reconcile::node::{self, Options};
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    repository: RepositoryOptions,
    #[command(flatten)]
    node: NodeOptions,
    #[command(flatten)]
    signatures: SignatureOptions,
    /// A private SSH key without a passphrase that report commits are signed with.
    #[arg(long, value_name = "FILE", env = "EGRET_SIGNING_KEY")]
    signing_key: Option<PathBuf>,
    /// The branch that policies are read from; the repository's default branch unless it is given.
    #[arg(long, value_name = "NAME", env = "EGRET_BRANCH")]
    branch: Option<String>,
    /// How often a remote repository is asked whether its branch has moved, in seconds.
    #[arg(long, value_name = "SECONDS", env = "EGRET_POLL", default_value_t = 2.0, value_parser = seconds)]
    poll: f64,
    /// Reconcile once and end: 0 if all is in force.
    #[arg(long)]
    once: bool,
    /// Take everything of Egret's away from this node in place of what Git asks for, and end.
    #[arg(long, conflicts_with = "once")]
    remove: bool,
    /// Serve /metrics, /healthz and /readyz over HTTP at this address; nothing is served unless it is given.
    #[arg(long, value_name = "ADDR:PORT", env = "EGRET_LISTEN")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    webhook: WebhookOptions,
    #[command(flatten)]
    admission: AdmissionOptions,
    /// Log JSON, an object a line.
    #[arg(long, env = "EGRET_LOG_JSON")]
    log_json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    telemetry::start(if arguments.log_json { telemetry::Form::Json } else { telemetry::Form::Text });
    let options = Options {
        source: arguments.repository.source()?,
        branch: arguments.branch,
        access: arguments.repository.access()?,
        signatures: arguments.signatures.flags(),
        signing_key: arguments.signing_key,
        windows: arguments.admission.windows()?,
        cluster: arguments.node.cluster.clone(),
        cluster_name: arguments.node.cluster_name.clone(),
        node: arguments.node.node()?,
        state_folder: arguments.node.state_dir.clone(),
        poll: Duration::from_secs_f64(arguments.poll),
        once: arguments.once,
        remove: arguments.remove,
        listen: arguments.listen,
        webhook: arguments.webhook.options(),
    };
    match output::runtime()?.block_on(node::run(options)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let hint = error.hint();
            Err(Failure::new(error, hint))
        }
    }
}
