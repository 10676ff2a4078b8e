//! `egret agent`: one node of a cluster, told by a controller.
//!
//! Deliberately absent: the loop (`reconcile::agent`), and Git.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::options::node_name;
use super::output::{self, Failure};
use crate::reconcile::agent::{self, Options};
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// This node's name in the cluster; the host's name unless it is given.
    #[arg(long, value_name = "NAME", env = "EGRET_NODE")]
    node: Option<String>,
    /// Where the node's memory is kept.
    #[arg(long, value_name = "DIR", env = "EGRET_STATE_DIR", default_value = "/var/lib/egret")]
    state_dir: PathBuf,
    /// Serve /metrics, /healthz and /readyz over HTTP at this address; nothing is served unless it is given.
    #[arg(long, value_name = "ADDR:PORT", env = "EGRET_LISTEN")]
    listen: Option<SocketAddr>,
    /// Take everything of Egret's away from this node, and end.
    #[arg(long)]
    remove: bool,
    /// Log JSON, an object a line.
    #[arg(long, env = "EGRET_LOG_JSON")]
    log_json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    telemetry::start(if arguments.log_json { telemetry::Form::Json } else { telemetry::Form::Text });
    let options = Options {
        node: node_name(arguments.node.as_deref())?,
        state_folder: arguments.state_dir.clone(),
        remove: arguments.remove,
        listen: arguments.listen,
    };
    match output::runtime()?.block_on(agent::run(options)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let hint = error.hint();
            Err(Failure::new(error, hint))
        }
    }
}
