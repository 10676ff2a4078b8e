//! The cluster as the loop sees it: facts to read, a node's labels to write. Here it is a folder of manifests; `live` is a real one.
//!
//! What stands here blocks on files for milliseconds: call it from a thread that may block. `live` is asynchronous.
//!
//! Deliberately absent: watching files (`watch_paths` says where; the loop owns its triggers), and what the facts are used for.

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

/// What objects in manifests may be wrapped in: kubectl prints a `List`, the API server itself one of the others.
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

/// Where facts come from and labels go to.
#[derive(Debug)]
pub enum Cluster {
    /// A file, or a folder, of Node, Namespace and Pod manifests.
    Manifests(Manifests),
    /// An API server that is watched. Labels are not written through it: that is the controller's.
    Watched(Box<live::ClusterWatch>),
    /// Facts that were read once: for a plan, and none for taking everything away. No label is written.
    Fixed(Facts),
}

/// What is to become of a node's labels. All others stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelChanges {
    /// Labels to set, whether or not they are there.
    pub set: BTreeMap<String, String>,
    /// Keys to remove; one that isn't there is fine.
    pub remove: BTreeSet<String>,
}

/// What a look at the cluster brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refresh {
    /// The facts differ from those before.
    pub changed: bool,
    /// Something is being written just now and was left as it was: look again after this time.
    pub again: Option<Duration>,
}

/// A folder for the loop to watch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchPath {
    /// The folder.
    pub path: PathBuf,
    /// Whether what lies in its folders counts too.
    pub recursive: bool,
}

/// Why the cluster could not be read or a label not be written. What was known before stays known.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A folder could not be listed, or is gone.
    #[error("listing the manifests in {}", path.display())]
    List {
        /// The folder, or the one file.
        path: PathBuf,
        /// Why.
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
    /// The manifest is a link to somewhere that is not ours to write to.
    #[error("labelling node {node}: {} leads out of the folder, to {}", file.display(), target.display())]
    Outside {
        /// The node.
        node: NodeName,
        /// The link.
        file: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// The text could not be edited without changing something else.
    #[error("labelling node {node} in {}", file.display())]
    Edit {
        /// The node.
        node: NodeName,
        /// Its manifest.
        file: PathBuf,
        /// Why.
        source: EditError,
    },
    /// A file could not be read, locked or written.
    #[error("labelling node {node}: {doing} {}", file.display())]
    File {
        /// The node.
        node: NodeName,
        /// What was being done to the file: "writing".
        doing: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else writes the file without ever pausing.
    #[error("labelling node {node}: {} changes each time it is about to be written", file.display())]
    Busy {
        /// The node.
        node: NodeName,
        /// Its manifest.
        file: PathBuf,
    },
}

impl Cluster {
    /// Opens what `--cluster` names, and reads it for the first time. What is being written just then is waited for, 2 s at most.
    pub fn open(path: &Path) -> Result<Self, ClusterError> {
        let mut manifests = Manifests::open(path)?;
        manifests.settle()?;
        Ok(Self::Manifests(manifests))
    }

    /// What is known, as of the last look.
    pub fn facts(&self) -> &Facts {
        match self {
            Self::Manifests(manifests) => manifests.facts(),
            Self::Watched(watching) => &watching.view().facts,
            Self::Fixed(facts) => facts,
        }
    }

    /// What is wrong with what was read, as of the last look, by file and place. Objects that something is wrong with are known
    /// as they were when they were last good.
    pub fn faults(&self) -> &[Diagnostic] {
        match self {
            Self::Manifests(manifests) => manifests.faults(),
            Self::Watched(_) | Self::Fixed(_) => &[],
        }
    }

    /// Looks again. After an error everything is known as before.
    pub fn refresh(&mut self) -> Result<Refresh, ClusterError> {
        match self {
            Self::Manifests(manifests) => manifests.refresh(),
            Self::Watched(_) | Self::Fixed(_) => Ok(Refresh { changed: false, again: None }),
        }
    }

    /// Changes a node's labels, and tells whether anything had to be written. The facts have them when this returns.
    pub fn label(&mut self, node: &NodeName, changes: &LabelChanges) -> Result<bool, ClusterError> {
        match self {
            Self::Manifests(manifests) => manifests.label(node, changes),
            Self::Watched(_) | Self::Fixed(_) => Ok(false),
        }
    }

    /// The folders in which a change means: look again. Reading is no change: a watch must pass over access events.
    pub fn watch_paths(&self) -> Vec<WatchPath> {
        match self {
            Self::Manifests(manifests) => vec![manifests.watch_path()],
            Self::Watched(_) | Self::Fixed(_) => Vec::new(),
        }
    }

    /// Whether labels of nodes are this process's to set.
    pub fn labels_nodes(&self) -> bool {
        !matches!(self, Self::Watched(_))
    }

    /// What is watched, where it is.
    pub fn watching(&self) -> Option<&live::ClusterWatch> {
        match self {
            Self::Watched(watching) => Some(watching),
            Self::Manifests(_) | Self::Fixed(_) => None,
        }
    }

    /// Waits for news and takes them in; forever where nothing is watched.
    pub async fn changed(&mut self) -> live::Changed {
        match self {
            Self::Watched(watching) => watching.changed().await,
            Self::Manifests(_) | Self::Fixed(_) => std::future::pending().await,
        }
    }
}
