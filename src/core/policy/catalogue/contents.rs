//! What a repository has, for the last line of a validation.

use std::collections::BTreeSet;
use std::fmt;

use super::super::check::DocumentIdentity;
use super::super::document::CONFIG_FILE;
use super::{Catalogue, FileRefusal};
use crate::core::text::counted;

/// The documents of a cluster, and the files that have none.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryContents {
    /// Policies, good or bad, each with its file.
    pub policies: BTreeSet<String>,
    /// NodeLabels, the same.
    pub node_labels: BTreeSet<String>,
    /// EgressAssertions, the same.
    pub assertions: BTreeSet<String>,
    /// EgressPools, the same.
    pub pools: BTreeSet<String>,
    /// Files with such documents.
    pub files: BTreeSet<String>,
    /// Files that are none of Egret's: no document of its kinds is in them.
    pub foreign: BTreeSet<String>,
    /// Those of them that are too large to be looked into.
    pub too_large: BTreeSet<String>,
}

impl Catalogue {
    /// What the files of this cluster have.
    pub fn contents(&self) -> RepositoryContents {
        let mut contents = RepositoryContents::default();
        for (path, file) in self.files.iter().filter(|(path, _)| *path != CONFIG_FILE && self.selected(path)) {
            if file.refused == Some(FileRefusal::TooLarge) {
                contents.too_large.insert(path.clone());
            }
            let parsed = file.parsed.as_ref().filter(|parsed| !parsed.starts.is_empty());
            let Some(parsed) = parsed else {
                contents.foreign.insert(path.clone());
                continue;
            };
            contents.files.insert(path.clone());
            for identity in parsed.good.iter().map(|(identity, _)| identity).chain(&parsed.bad) {
                let named = match identity {
                    DocumentIdentity::Policy(_) => &mut contents.policies,
                    DocumentIdentity::NodeLabels(_) => &mut contents.node_labels,
                    DocumentIdentity::Assertion(_) => &mut contents.assertions,
                    DocumentIdentity::Pool(_) => &mut contents.pools,
                    DocumentIdentity::Config => continue,
                };
                // Clusters have policies of the same name, each its own.
                named.insert(format!("{path}: {identity}"));
            }
        }
        contents
    }
}

impl RepositoryContents {
    /// What several clusters of one repository have together.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        let Self { policies, node_labels, assertions, pools, files, foreign, too_large } = other;
        self.policies.extend(policies);
        self.node_labels.extend(node_labels);
        self.assertions.extend(assertions);
        self.pools.extend(pools);
        self.files.extend(files);
        self.foreign.extend(foreign);
        self.too_large.extend(too_large);
        self
    }
}

impl fmt::Display for RepositoryContents {
    /// `12 policies, 3 node labels in 9 files; 412 files are none of Egret's`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (policies, labels) =
            (counted(self.policies.len(), "policy"), counted(self.node_labels.len(), "node label"));
        let some =
            |count: usize, noun: &str| if count == 0 { String::new() } else { format!(", {}", counted(count, noun)) };
        let (assertions, pools) = (some(self.assertions.len(), "assertion"), some(self.pools.len(), "pool"));
        write!(f, "{policies}, {labels}{assertions}{pools} in {}", counted(self.files.len(), "file"))?;
        match self.foreign.len() {
            0 => return Ok(()),
            1 => f.write_str("; 1 file is none of Egret's")?,
            count => write!(f, "; {count} files are none of Egret's")?,
        }
        let mut large = self.too_large.iter();
        let Some(first) = large.next() else { return Ok(()) };
        match large.len() {
            0 => write!(f, ", {first} too large to be looked into"),
            more => write!(f, ", {first} and {more} more too large to be looked into"),
        }
    }
}
