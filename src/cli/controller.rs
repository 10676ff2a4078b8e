//! `egret controller`: the one process of a cluster that reads Git, publishes and reports.
//!
//! Deliberately absent: the loop (`reconcile::controller`).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::options::{FollowingOptions, ServingOptions, WebhookOptions, cluster_name, seconds};
use super::output::{self, Failure};
use super::previews::PreviewsOptions;
use crate::cluster::live::Timing;
use crate::reconcile::controller::{self, ControllerError, ControllerOptions};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    following: FollowingOptions,
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
    /// Read pods' networks from Calico's IPPools and Cilium's pools, and publish them beside those of nodes and egret.yaml.
    #[arg(long, env = "EGRET_POD_NETWORKS_FROM_CNI")]
    pod_networks_from_cni: bool,
    /// Leave the taint egret.dev/agent-not-ready on nodes, also where their agents are done.
    #[arg(long)]
    keep_startup_taint: bool,
    #[command(flatten)]
    serving: ServingOptions,
    /// Take Egret's labels off all nodes and its custom resources out of the cluster, and end.
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    previews: PreviewsOptions,
    #[command(flatten)]
    webhook: WebhookOptions,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    arguments.serving.log();
    let runtime = output::runtime()?;
    let result = if arguments.remove {
        runtime.block_on(controller::remove())
    } else {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let duration = Duration::from_secs_f64(arguments.lease_duration);
        let options = ControllerOptions {
            following: arguments.following.following(&arguments.cluster_name, arguments.poll)?,
            previews: arguments.previews.board(&arguments.following.repository)?,
            signing_key: arguments.following.signing_key,
            state_folder: arguments.state_dir,
            namespace: arguments.namespace,
            lease: arguments.lease,
            pod_networks: arguments.pod_networks_from_cni,
            startup_taints: !arguments.keep_startup_taint,
            identity: arguments.identity.unwrap_or_else(host),
            // As the controllers of Kubernetes itself: 15, 10 and 2 seconds.
            listen: arguments.serving.listen,
            webhook: arguments.webhook.options(),
            timing: Timing { duration, deadline: duration * 2 / 3, retry: duration * 2 / 15 },
        };
        runtime.block_on(controller::run(options))
    };
    Failure::ended(result, ControllerError::hint)
}
