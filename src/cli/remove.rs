//! `egret remove`: removes everything of Egret's from this node, without the repository. The same as `egret run --remove`.

use std::process::ExitCode;
use std::time::Duration;

use super::args::{LogArgs, NodeArgs};
use super::output::{self, Failure, Verbosity, no_standard_input};
use crate::git::access::Access;
use crate::git::signature::SignatureFlags;
use crate::git::source::{Insecure, Source};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::node::{self, RunError, StandaloneOptions};

#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    log: LogArgs,
}

pub(super) fn run(args: RemoveArgs, verbosity: &Verbosity) -> Result<ExitCode, Failure> {
    args.log.start(verbosity);
    no_standard_input(&args.node.cluster)?;
    let node = args.node.node()?;
    let source = Source::parse("/", Insecure::Refuse).map_err(|error| Failure::new(error, None))?;
    let options = StandaloneOptions {
        nat_record: None,
        following: TrackedRepository {
            source,
            branch: None,
            access: Access::default(),
            signatures: SignatureFlags::default(),
            windows: None,
            label_keys: None,
            cluster: args.node.cluster_name,
            poll: Duration::from_mins(1),
            max_lag: Duration::ZERO,
        },
        signing_key: None,
        cluster: args.node.cluster,
        node,
        state_folder: args.node.state_dir,
        once: false,
        remove: true,
        listen: None,
        ui: None,
        webhook: None,
    };
    Failure::ended(output::runtime()?.block_on(node::run(options)).map(|_| ()), RunError::hint)
}
