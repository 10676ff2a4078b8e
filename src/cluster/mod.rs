//! The cluster: facts to read, and a node's labels to write. It is a folder of manifests, or a Kubernetes API server
//! (see `live`).
//!
//! Functions here block on files for milliseconds: call them from a thread that may block. `live` is asynchronous.
//! Not here: watching files (`watch_paths` returns which; the loop watches them), and the use of the facts.

mod edit;
pub mod live;
mod manifests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use edit::{EditError, edit_labels};
pub use manifests::{Manifests, read_text};

use crate::core::diagnostic::Diagnostic;
use crate::core::facts::Facts;
use crate::core::name::NodeName;

/// Lists that objects in manifests may be wrapped in: kubectl prints `List`, the API server one of the others.
const LISTS: [&str; 9] = [
    "List",
    "NodeList",
    "NamespaceList",
    "PodList",
    "EgressNodeList",
    "EgressConfigList",
    "IPPoolList",
    "CiliumPodIPPoolList",
    "CiliumNodeList",
];

/// The source of facts and the target of labels.
#[derive(Debug)]
pub enum Cluster {
    /// A file, or a folder, of Node, Namespace and Pod manifests.
    Manifests(Manifests),
    /// An API server that is watched. Labels are not written through it: the controller writes them.
    Watched(Box<live::ClusterWatch>),
    /// Facts that were read once: for a plan; empty for removing everything. No label is written.
    Fixed(Facts),
}

/// Changes of a node's labels. All other labels stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelChanges {
    /// Labels to set, whether or not they exist.
    pub set: BTreeMap<String, String>,
    /// Keys to remove; a missing one is no error.
    pub remove: BTreeSet<String>,
}

/// The result of a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refresh {
    /// The facts differ from those before.
    pub changed: bool,
    /// A file is being written and was not read: refresh again after this time.
    pub again: Option<Duration>,
}

/// A folder to watch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchPath {
    /// The folder.
    pub path: PathBuf,
    /// Whether its subfolders count too.
    pub recursive: bool,
}

/// Why the cluster could not be read or a label not be written. The previous facts stay.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A folder could not be listed, or is gone.
    #[error("listing the manifests in {}", path.display())]
    List {
        /// The folder, or the one file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No manifest of this node was read.
    #[error("labelling node {node}: there is no manifest of it in {}", path.display())]
    UnknownNode {
        /// The node.
        node: NodeName,
        /// The folder, or the one file.
        path: PathBuf,
    },
    /// The manifest is a link out of the folder, where Egret does not write.
    #[error("labelling node {node}: {} leads out of the folder, to {}", file.display(), target.display())]
    Outside {
        /// The node.
        node: NodeName,
        /// The link.
        file: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// The text could not be edited without changing something else.
    #[error("labelling node {node} in {}", file.display())]
    Edit {
        /// The node.
        node: NodeName,
        /// Its manifest.
        file: PathBuf,
        /// The cause.
        source: EditError,
    },
    /// A file could not be read, locked or written.
    #[error("labelling node {node}: {doing} {}", file.display())]
    File {
        /// The node.
        node: NodeName,
        /// The operation on the file: "writing".
        doing: &'static str,
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process keeps changing the file.
    #[error("labelling node {node}: {} changes each time it is about to be written", file.display())]
    Busy {
        /// The node.
        node: NodeName,
        /// Its manifest.
        file: PathBuf,
    },
}

impl Cluster {
    /// Opens what `--cluster` names, and reads it for the first time. Waits for files that are being written, 2 s at
    /// most.
    pub fn open(path: &Path) -> Result<Self, ClusterError> {
        let mut manifests = Manifests::open(path)?;
        manifests.require_readable()?;
        Ok(Self::Manifests(manifests))
    }

    /// The facts as of the last refresh.
    pub fn facts(&self) -> &Facts {
        match self {
            Self::Manifests(manifests) => manifests.facts(),
            Self::Watched(watching) => &watching.view().facts,
            Self::Fixed(facts) => facts,
        }
    }

    /// Diagnostics as of the last refresh, by file and position. Objects with an error keep their last good state.
    pub fn faults(&self) -> &[Diagnostic] {
        match self {
            Self::Manifests(manifests) => manifests.faults(),
            Self::Watched(_) | Self::Fixed(_) => &[],
        }
    }

    /// Reads what changed. After an error the previous facts stay.
    pub fn refresh(&mut self) -> Result<Refresh, ClusterError> {
        match self {
            Self::Manifests(manifests) => manifests.refresh(),
            Self::Watched(_) | Self::Fixed(_) => Ok(Refresh { changed: false, again: None }),
        }
    }

    /// Changes a node's labels, and returns whether a write was necessary. The facts have them when this returns.
    pub fn label(&mut self, node: &NodeName, changes: &LabelChanges) -> Result<bool, ClusterError> {
        match self {
            Self::Manifests(manifests) => manifests.label(node, changes),
            Self::Watched(_) | Self::Fixed(_) => Ok(false),
        }
    }

    /// The folders in which a change requires a refresh. A watch must ignore access events: reading is no change.
    pub fn watch_paths(&self) -> Vec<WatchPath> {
        match self {
            Self::Manifests(manifests) => vec![manifests.watch_path()],
            Self::Watched(_) | Self::Fixed(_) => Vec::new(),
        }
    }

    /// Whether this process sets labels of nodes.
    pub fn labels_nodes(&self) -> bool {
        !matches!(self, Self::Watched(_))
    }

    /// The watch, if the source is an API server.
    pub fn watching(&self) -> Option<&live::ClusterWatch> {
        match self {
            Self::Watched(watching) => Some(watching),
            Self::Manifests(_) | Self::Fixed(_) => None,
        }
    }

    /// Waits for events and applies them; waits forever if nothing is watched.
    pub async fn changed(&mut self) -> live::Changed {
        match self {
            Self::Watched(watching) => watching.changed().await,
            Self::Manifests(_) | Self::Fixed(_) => std::future::pending().await,
        }
    }
}
