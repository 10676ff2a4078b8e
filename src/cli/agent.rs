//! `egret agent`: one node of a cluster, told by a controller.
//!
//! Deliberately absent: the loop (`reconcile::agent`), and Git.

use std::path::PathBuf;
use std::process::ExitCode;

use super::options::{ServingOptions, node_name};
use super::output::{self, Failure};
use crate::reconcile::agent::{self, AgentError, AgentOptions};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// This node's name in the cluster; the host's name unless it is given.
    #[arg(long, value_name = "NAME", env = "EGRET_NODE")]
    node: Option<String>,
    /// Where the node's memory is kept.
    #[arg(long, value_name = "DIR", env = "EGRET_STATE_DIR", default_value = "/var/lib/egret")]
    state_dir: PathBuf,
    #[command(flatten)]
    serving: ServingOptions,
    /// Take everything of Egret's away from this node, and end.
    #[arg(long)]
    remove: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    arguments.serving.log();
    let options = AgentOptions {
        node: node_name(arguments.node.as_deref())?,
        state_folder: arguments.state_dir.clone(),
        remove: arguments.remove,
        listen: arguments.serving.listen,
    };
    Failure::ended(output::runtime()?.block_on(agent::run(options)), AgentError::hint)
}
