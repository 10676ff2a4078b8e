//! `egret controller`: the one process of a cluster that reads Git, publishes and reports.
//!
//! Deliberately absent: the loop (`reconcile::controller`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::options::{AdmissionOptions, RepositoryOptions, SignatureOptions, WebhookOptions, cluster_name, seconds};
use super::output::{self, Failure};
use super::previews::PreviewsOptions;
use crate::cluster::live::Timing;
use crate::reconcile::controller::{self, Options};
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    repository: RepositoryOptions,
    #[command(flatten)]
    signatures: SignatureOptions,
    /// A private SSH key without a passphrase that report commits are signed with.
    #[arg(long, value_name = "FILE", env = "EGRET_SIGNING_KEY")]
    signing_key: Option<PathBuf>,
    /// The branch that policies are read from; the repository's default branch unless it is given.
    #[arg(long, value_name = "NAME", env = "EGRET_BRANCH")]
    branch: Option<String>,
    /// The cluster's name: its entry in egret.yaml and its reports branch.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default", value_parser = cluster_name)]
    cluster_name: String,
    /// How often a remote repository is asked whether its branch has moved, in seconds.
    #[arg(long, value_name = "SECONDS", env = "EGRET_POLL", default_value_t = 30.0, value_parser = seconds)]
    poll: f64,
    /// Where mirrors of the repository and the controller's memory are kept.
    #[arg(long, value_name = "DIR", env = "EGRET_STATE_DIR", default_value = "/var/lib/egret")]
    state_dir: PathBuf,
    /// The namespace of the lease by which one of several controllers leads.
    #[arg(long, value_name = "NAME", env = "EGRET_NAMESPACE", default_value = "egret-system")]
    namespace: String,
    /// The lease's name.
    #[arg(long, value_name = "NAME", env = "EGRET_LEASE", default_value = "egret-controller")]
    lease: String,
    /// This process among those that may lead, as its pod's name.
    #[arg(long, value_name = "NAME", env = "EGRET_IDENTITY")]
    identity: Option<String>,
    /// How long others wait for a leader that has gone silent before one of them leads, in seconds.
    #[arg(long, value_name = "SECONDS", env = "EGRET_LEASE_DURATION", default_value_t = 15.0, value_parser = seconds)]
    lease_duration: f64,
    /// Serve /metrics, /healthz and /readyz over HTTP at this address; nothing is served unless it is given.
    #[arg(long, value_name = "ADDR:PORT", env = "EGRET_LISTEN")]
    listen: Option<SocketAddr>,
    /// Take Egret's labels off all nodes and its custom resources out of the cluster, and end.
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    previews: PreviewsOptions,
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
    let runtime = output::runtime()?;
    let result = if arguments.remove {
        runtime.block_on(controller::remove())
    } else {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let duration = Duration::from_secs_f64(arguments.lease_duration);
        let options = Options {
            source: arguments.repository.source()?,
            branch: arguments.branch,
            access: arguments.repository.access()?,
            signatures: arguments.signatures.flags(),
            signing_key: arguments.signing_key,
            windows: arguments.admission.windows()?,
            cluster_name: arguments.cluster_name,
            state_folder: arguments.state_dir,
            poll: Duration::from_secs_f64(arguments.poll),
            namespace: arguments.namespace,
            lease: arguments.lease,
            identity: arguments.identity.unwrap_or_else(host),
            // As the controllers of Kubernetes itself: 15, 10 and 2 seconds.
            listen: arguments.listen,
            webhook: arguments.webhook.options(),
            previews: arguments.previews.board(&arguments.repository)?,
            timing: Timing { duration, deadline: duration * 2 / 3, retry: duration * 2 / 15 },
        };
        runtime.block_on(controller::run(options))
    };
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let hint = error.hint();
            Err(Failure::new(error, hint))
        }
    }
}
