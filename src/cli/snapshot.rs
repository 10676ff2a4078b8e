//! `egret snapshot`: what a preview needs to know of a cluster, as one file. `core::snapshot` has what is in it.

use std::path::PathBuf;
use std::process::ExitCode;

use super::args::CLUSTER;
use super::output::{self, Failure, Manifests};
use crate::core::snapshot::snapshot;

#[derive(Debug, clap::Args)]
pub(super) struct SnapshotArgs {
    /// Manifests of nodes, namespaces and pods: a file or folder, as `kubectl get nodes,namespaces,pods -A -o yaml` prints them; - for
    /// standard input.
    #[arg(long, value_name = "PATH", env = "EGRET_CLUSTER", help_heading = CLUSTER)]
    cluster: PathBuf,
    /// The file to write [default: standard output].
    // Elsewhere `-o` is the form of the result; here it was the file before.
    #[arg(long, short_alias = 'o', value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &SnapshotArgs) -> Result<ExitCode, Failure> {
    let cluster = Manifests::read(&args.cluster)?;
    if let Some(fault) = cluster.faults.first() {
        // A snapshot that leaves something out would make a preview say that nothing changes.
        return Err(Failure::new(format!("read the manifests: {fault}"), None));
    }
    let text = snapshot(&cluster.facts);
    match &args.out {
        None => output::print(&text)?,
        Some(path) => std::fs::write(path, &text)
            .map_err(|error| Failure::new(format!("write {}: {error}", path.display()), None))?,
    }
    Ok(ExitCode::SUCCESS)
}
