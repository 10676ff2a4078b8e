//! `egret remove`: takes everything of Egret's away from this node. The same as `egret run --remove`.
//!
//! Deliberately absent: the repository, which is not asked.

use std::process::ExitCode;
use std::time::Duration;

use super::options::NodeOptions;
use super::output::{self, Failure};
use crate::git::access::Access;
use crate::git::signature::Flags;
use crate::git::source::{Insecure, Source};
use crate::reconcile::node::{self, Options};
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    node: NodeOptions,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    telemetry::start(telemetry::Form::Text);
    let node = arguments.node.node()?;
    let source = Source::parse("/", Insecure::Refuse).map_err(|error| Failure::new(error, None))?;
    let options = Options {
        source,
        branch: None,
        access: Access::default(),
        signatures: Flags::default(),
        signing_key: None,
        windows: None,
        cluster: arguments.node.cluster,
        cluster_name: arguments.node.cluster_name,
        node,
        state_folder: arguments.node.state_dir,
        poll: Duration::from_mins(1),
        once: false,
        remove: true,
        listen: None,
        webhook: None,
    };
    match output::runtime()?.block_on(node::run(options)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let hint = error.hint();
            Err(Failure::new(error, hint))
        }
    }
}
