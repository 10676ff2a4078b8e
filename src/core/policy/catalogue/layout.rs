//! What egret.yaml says of the repository and of its clusters, compared with what is there: entries of `paths` that
//! select nothing, and a cluster that is not among `clusters`.
//!
//! Such an egret.yaml would deactivate policies, or activate another cluster's, without a diagnostic. So it is bad
//! like one with a mistake: its last good version stays active. Not here: its own form (`check::config`).

use std::collections::BTreeSet;

use super::super::check::ConfigDocument;
use super::super::diagnostic_sink::{diagnostic, nearest, quoted};
use super::super::document::CONFIG_FILE;
use super::super::paths::{is_pattern, selects};
use super::Catalogue;
use crate::core::diagnostic::{Diagnostic, Severity};

/// The code of a cluster that egret.yaml does not have.
pub(super) const UNKNOWN_CLUSTER: &str = "unknown-cluster";

impl Catalogue {
    /// Every such mistake.
    pub(super) fn layout_mistakes(&self, config: &ConfigDocument) -> Vec<Diagnostic> {
        let cluster = self.unknown_cluster(config);
        let dead = config.paths_of(&self.cluster).iter().filter(|(entry, _)| !self.selects_any(entry));
        let dead = dead.map(|(entry, span)| {
            let message = format!("no file is at or below {}", quoted(entry));
            let found = diagnostic(CONFIG_FILE, Severity::Error, *span, "dead-path", message);
            let hint = match self.near_path(entry) {
                Some(near) => format!("did you mean `{near}`?"),
                None if is_pattern(entry) => {
                    "`*` and `?` stand for what is between two `/`, `**` for any folders".to_owned()
                }
                None => "it takes folders, files and patterns with .yaml, .yml or .json files; take out what has none"
                    .to_owned(),
            };
            Diagnostic { hint: Some(hint), ..found }
        });
        cluster.into_iter().chain(dead).collect()
    }

    fn unknown_cluster(&self, config: &ConfigDocument) -> Option<Diagnostic> {
        let names = || config.clusters.keys().map(String::as_str);
        if config.clusters.is_empty() || config.clusters.contains_key(&self.cluster) {
            return None;
        }
        let message = format!("egret.yaml has no cluster {}", quoted(&self.cluster));
        let found = diagnostic(CONFIG_FILE, Severity::Error, config.clusters_at, UNKNOWN_CLUSTER, message);
        let hint = match nearest(&self.cluster, names()) {
            Some(near) => format!("did you mean `{near}`? --cluster-name says which cluster this is"),
            None => format!(
                "--cluster-name says which cluster this is; there are {}, and `NAME:` without a value adds one",
                names().collect::<Vec<_>>().join(", ")
            ),
        };
        Some(Diagnostic { hint: Some(hint), ..found })
    }

    /// Whether an entry selects a file. Where there is no file at all, none is missed.
    pub(super) fn selects_any(&self, entry: &str) -> bool {
        let mut others = self.files.keys().filter(|path| *path != CONFIG_FILE).peekable();
        entry.is_empty() || others.peek().is_none() || others.any(|path| selects(entry, path))
    }

    /// The file or folder whose name is nearest to an entry that selects nothing.
    fn near_path(&self, entry: &str) -> Option<String> {
        let files = self.files.keys().filter(|path| *path != CONFIG_FILE);
        let all = files.flat_map(|path| {
            let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
            folders.chain([path.as_str()])
        });
        // A repository has many files and few folders.
        let all: BTreeSet<&str> = all.collect();
        nearest(entry, all).map(str::to_owned)
    }
}
