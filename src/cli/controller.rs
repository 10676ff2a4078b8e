//! `egret controller`: the one process of a cluster that reads Git, publishes and reports. The loop is `reconcile::controller`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::args::{
    BranchArgs, CLUSTER, FollowArgs, GitArgs, LogArgs, RepoArgs, ServeArgs, UiArgs, WebhookArgs, cluster_name, duration,
};
use super::output::{self, Failure, Verbosity};
use super::pull_requests::PullRequestArgs;
use crate::cluster::live::Timing;
use crate::reconcile::controller::{self, ControllerError, ControllerOptions, Removal};

#[derive(Debug, clap::Args)]
pub(super) struct ControllerArgs {
    #[command(flatten)]
    repo: RepoArgs,
    #[command(flatten)]
    branch: BranchArgs,
    /// How often a remote repository is polled for a new commit of the branch.
    #[arg(long, value_name = "DURATION", env = "EGRET_POLL", default_value = "30s", value_parser = duration)]
    poll: Duration,
    /// Remove Egret's labels from all nodes, its custom resources and its lease from the cluster, and exit. Nothing is removed
    /// while a controller or an agent still uses it: stop controllers, and end agents with `egret agent --remove`.
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    follow: FollowArgs,
    #[command(flatten)]
    pull_requests: PullRequestArgs,
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

/// The cluster that is published to, and the lease.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = CLUSTER)]
struct ClusterArgs {
    /// The cluster's name: its entry in egret.yaml, and its reports branch.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default", value_parser = cluster_name)]
    cluster_name: String,
    /// Where mirrors of the repository and the controller's state are stored.
    #[arg(long, value_name = "DIR", env = "EGRET_STATE_DIR", default_value = "/var/lib/egret")]
    state_dir: PathBuf,
    /// The namespace of the lease by which one of several controllers is elected.
    #[arg(long, value_name = "NAME", env = "EGRET_NAMESPACE", default_value = "egret-system")]
    namespace: String,
    /// The lease's name.
    #[arg(long, value_name = "NAME", env = "EGRET_LEASE", default_value = "egret-controller")]
    lease: String,
    /// This process's identity in the lease, as its pod's name [default: the host's name].
    #[arg(long, value_name = "NAME", env = "EGRET_IDENTITY")]
    identity: Option<String>,
    /// How long a lease that its holder does not renew stays valid before another controller takes it.
    #[arg(long, value_name = "DURATION", env = "EGRET_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    lease_duration: Duration,
    /// Read pod networks from Calico's IPPools and Cilium's pools, and publish them beside those of nodes and egret.yaml.
    #[arg(long, env = "EGRET_POD_NETWORKS_FROM_CNI")]
    pod_networks_from_cni: bool,
    /// Keep the taint egret.dev/agent-not-ready on nodes, also where their agents are ready.
    #[arg(long)]
    keep_startup_taint: bool,
}

pub(super) fn run(args: ControllerArgs, verbosity: &Verbosity) -> Result<ExitCode, Failure> {
    args.log.start(verbosity);
    let runtime = output::runtime()?;
    let result = if args.remove {
        let removal = Removal { namespace: args.cluster.namespace, lease: args.cluster.lease };
        runtime.block_on(controller::remove(removal)).map_err(ControllerError::from)
    } else {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let repository = args.repo.with(&args.git);
        let cluster = args.cluster;
        let duration = cluster.lease_duration;
        let options = ControllerOptions {
            following: args.follow.following(repository, &args.branch, &cluster.cluster_name, args.poll)?,
            previews: args.pull_requests.board(repository)?,
            signing_key: args.follow.signing_key,
            state_folder: cluster.state_dir,
            namespace: cluster.namespace,
            lease: cluster.lease,
            pod_networks: cluster.pod_networks_from_cni,
            startup_taints: !cluster.keep_startup_taint,
            identity: cluster.identity.unwrap_or_else(host),
            listen: args.serve.listen,
            webhook: args.webhook.options(),
            ui: args.ui.options(),
            // In the ratio of Kubernetes' own controllers: 15, 10 and 2 seconds.
            timing: Timing { duration, deadline: duration * 2 / 3, retry: duration * 2 / 15 },
        };
        runtime.block_on(controller::run(options))
    };
    Failure::ended(result, ControllerError::hint)
}
