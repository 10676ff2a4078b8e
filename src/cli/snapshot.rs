//! `egret snapshot`: what a preview has to know of a cluster, as one file.
//!
//! Deliberately absent: what is in it (`core::snapshot`), and putting it on the reports branch.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{self, Failure};
use crate::cluster::Cluster;
use crate::core::snapshot::snapshot;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Manifests of nodes, namespaces and pods: a file or folder, as `kubectl get nodes,namespaces,pods -A -o yaml` prints them.
    #[arg(long, value_name = "PATH", env = "EGRET_CLUSTER")]
    cluster: PathBuf,
    /// The file to write; standard output unless it is given.
    #[arg(short = 'o', long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let cluster = Cluster::open(&arguments.cluster)?;
    if let Some(fault) = cluster.faults().first() {
        // A snapshot that leaves something out would make a preview say that nothing changes.
        return Err(Failure::new(format!("read the manifests: {fault}"), None));
    }
    let text = snapshot(cluster.facts());
    match &arguments.out {
        None => output::print(&text)?,
        Some(path) => std::fs::write(path, &text)
            .map_err(|error| Failure::new(format!("write {}: {error}", path.display()), None))?,
    }
    Ok(ExitCode::SUCCESS)
}
