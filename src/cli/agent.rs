//! `egret agent`: one node of a cluster with a controller. The loop is `reconcile::agent`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::args::{CLUSTER, LogArgs, RecordArgs, ServeArgs, node_name};
use super::output::{self, Failure, Verbosity};
use crate::reconcile::agent::{self, AgentError, AgentOptions};

#[derive(Debug, clap::Args)]
pub(super) struct AgentArgs {
    /// Remove everything of Egret's from this node, and exit.
    #[arg(long)]
    remove: bool,
    /// This node's name in the cluster [default: the host's name].
    #[arg(long, value_name = "NAME", env = "EGRET_NODE", help_heading = CLUSTER)]
    node: Option<String>,
    /// The namespace of the Lease that is this agent's heartbeat, by which the controller knows that it is alive [default: none, no heartbeat].
    #[arg(long, value_name = "NAMESPACE", env = "EGRET_NAMESPACE", help_heading = CLUSTER)]
    namespace: Option<String>,
    /// Where the node's state is stored.
    #[arg(long, value_name = "DIR", env = "EGRET_STATE_DIR", default_value = "/var/lib/egret", help_heading = CLUSTER)]
    state_dir: PathBuf,
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) fn run(args: &AgentArgs, verbosity: &Verbosity) -> Result<ExitCode, Failure> {
    args.log.start(verbosity);
    let options = AgentOptions {
        node: node_name(args.node.as_deref())?,
        state_folder: args.state_dir.clone(),
        remove: args.remove,
        listen: args.serve.listen,
        namespace: args.namespace.clone(),
        nat_record: args.record.nat_record,
    };
    Failure::ended(output::runtime()?.block_on(agent::run(options)), AgentError::hint)
}
