//! `egret remove`: takes everything of Egret's away from this node. The same as `egret run --remove`.
//!
//! Deliberately absent: the repository, which is not asked.

use std::process::ExitCode;
use std::time::Duration;

use super::options::NodeOptions;
use super::output::{self, Failure};
use crate::git::access::Access;
use crate::git::signature::SignatureFlags;
use crate::git::source::{Insecure, Source};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::node::{self, RunError, StandaloneOptions};
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
    let options = StandaloneOptions {
        following: TrackedRepository {
            source,
            branch: None,
            access: Access::default(),
            signatures: SignatureFlags::default(),
            windows: None,
            label_keys: None,
            cluster: arguments.node.cluster_name,
            poll: Duration::from_mins(1),
        },
        signing_key: None,
        cluster: arguments.node.cluster,
        node,
        state_folder: arguments.node.state_dir,
        once: false,
        remove: true,
        listen: None,
        webhook: None,
    };
    Failure::ended(output::runtime()?.block_on(node::run(options)).map(|_| ()), RunError::hint)
}
