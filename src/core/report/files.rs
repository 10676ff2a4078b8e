//! The files of the reports branch: `nodes/<node>.yaml` for programs and diffs, `README.md` for readers.
//!
//! Not here: Git, the page's content (see `page`), and the snapshot (see `core::snapshot`).

use std::collections::BTreeMap;

use super::history::NodeReport;
use super::page::page;

/// The path of the page.
pub const PAGE: &str = "README.md";

/// The path of a node's file.
pub fn path_of(node: &str) -> String {
    format!("nodes/{node}.yaml")
}

/// The node whose file has this path; none if it is not a node's file.
pub fn node_of(path: &str) -> Option<&str> {
    path.strip_prefix("nodes/")?.strip_suffix(".yaml").filter(|node| !node.contains('/'))
}

/// A node's file.
pub fn node_file(report: &NodeReport) -> Result<String, serde_yaml::ser::Error> {
    serde_yaml::to_string(report)
}

/// Reads a node's file; none if it is not one, as when a user put another file there.
pub fn read_node_file(text: &str) -> Option<NodeReport> {
    serde_yaml::from_str(text).ok()
}

/// The whole tree after these nodes' reports changed: the existing files, these nodes' files, and the page.
pub fn tree(
    current: &BTreeMap<String, String>,
    cluster: &str,
    branch: &str,
    changed: &[NodeReport],
) -> Result<BTreeMap<String, String>, serde_yaml::ser::Error> {
    let mut files = current.clone();
    for report in changed {
        files.insert(path_of(&report.node), node_file(report)?);
    }
    let reports: Vec<NodeReport> = files
        .iter()
        .filter(|(path, _)| path.starts_with("nodes/"))
        .filter_map(|(_, text)| read_node_file(text))
        .collect();
    files.insert(PAGE.to_owned(), page(cluster, branch, &reports));
    Ok(files)
}
