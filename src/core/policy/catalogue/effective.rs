//! Decides which version of each document is active, from the catalogue's indexes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::check::{Checked, CheckedNodeLabels, CheckedPolicy, ConfigDocument, DocumentIdentity};
use super::super::diagnostic_sink::{Span, diagnostic};
use super::super::{ObjectName, Policy};
use super::layout::UNKNOWN_CLUSTER;
use super::{Catalogue, LabelConflict, Standing, disagreements, requirements};
use crate::core::diagnostic::{Diagnostic, Severity};

impl Catalogue {
    /// Recomputes the active version of the identities that changed.
    pub(super) fn settle_all(&mut self, touched: &BTreeSet<DocumentIdentity>) {
        if touched.iter().any(is_node_labels) {
            // They constrain each other, so all of them are recomputed; there are few.
            self.settle_node_labels();
        }
        // These do not depend on each other.
        let alone = |identity: &&DocumentIdentity| {
            matches!(identity, DocumentIdentity::Policy(_) | DocumentIdentity::Assertion(_) | DocumentIdentity::Pool(_))
        };
        for identity in touched.iter().filter(alone) {
            self.choose_version(identity);
        }
        self.publish(touched);
    }

    /// Updates the published policy set.
    pub(super) fn publish(&mut self, touched: &BTreeSet<DocumentIdentity>) {
        for identity in touched {
            let DocumentIdentity::Policy(id) = identity else { continue };
            let standing = self.standing.get(identity);
            let found = standing.and_then(|standing| Some((standing.held.is_some(), standing.document.policy()?)));
            self.spans.policies.remove(id);
            let Some((held, checked)) = found else {
                self.set.policies.remove(id);
                continue;
            };
            if !held {
                self.spans.policies.insert(id.clone(), checked.spans.clone());
            }
            self.set.policies.insert(id.clone(), self.with_defaults(checked));
        }
        if touched.iter().any(is_node_labels) {
            self.publish_node_labels();
        }
        self.publish_assertions(touched);
        self.publish_pools(touched);
        self.set.grants = self.set.grants_of_documents();
    }

    fn publish_node_labels(&mut self) {
        self.set.node_labels.clear();
        self.spans.node_labels.clear();
        for (identity, standing) in &self.standing {
            if let (DocumentIdentity::NodeLabels(name), Some(checked)) = (identity, standing.document.node_labels()) {
                self.set.node_labels.insert(name.clone(), checked.node_labels.clone());
                if standing.held.is_none() {
                    self.spans.node_labels.insert(name.clone(), checked.spans.clone());
                }
            }
        }
    }

    fn publish_assertions(&mut self, touched: &BTreeSet<DocumentIdentity>) {
        for identity in touched {
            let DocumentIdentity::Assertion(name) = identity else { continue };
            let standing = self.standing.get(identity);
            let found = standing.and_then(|standing| Some((standing.held.is_some(), standing.document.assertion()?)));
            self.spans.assertions.remove(name);
            let Some((held, checked)) = found else {
                self.set.assertions.remove(name);
                continue;
            };
            if !held {
                self.spans.assertions.insert(name.clone(), checked.spans.clone());
            }
            self.set.assertions.insert(name.clone(), checked.assertion.clone());
        }
    }

    fn publish_pools(&mut self, touched: &BTreeSet<DocumentIdentity>) {
        for identity in touched {
            let DocumentIdentity::Pool(name) = identity else { continue };
            let standing = self.standing.get(identity);
            let found = standing.and_then(|standing| Some((standing.held.is_some(), standing.document.pool()?)));
            self.spans.pools.remove(name);
            let Some((held, checked)) = found else {
                self.set.pools.remove(name);
                continue;
            };
            if !held {
                self.spans.pools.insert(name.clone(), checked.spans.clone());
            }
            self.set.pools.insert(name.clone(), checked.pool.clone());
        }
    }

    fn with_defaults(&self, checked: &CheckedPolicy) -> Policy {
        let CheckedPolicy { policy, says_on_no_gateway, says_existing_connections, spans: _ } = checked;
        let mut policy = policy.clone();
        if !says_on_no_gateway {
            policy.on_no_gateway = self.set.config.on_no_gateway;
        }
        if !says_existing_connections {
            policy.existing_connections = self.set.config.existing_connections;
        }
        policy
    }

    pub(super) fn apply_config(&mut self) {
        let standing = self.standing.get(&DocumentIdentity::Config);
        let document = standing.and_then(|standing| standing.document.config());
        let as_it_stands = standing.is_some_and(|standing| standing.held.is_none());
        let written = document.filter(|_| as_it_stands);
        self.spans.suspend = written.and_then(|document| document.suspend_at(&self.cluster));
        self.spans.only_labelled = written.and_then(|document| document.only_labelled_at(&self.cluster));
        self.set.config = match document {
            Some(document) => document.of(&self.cluster),
            None => ConfigDocument::default().of(&self.cluster),
        };
        // One that does not know this cluster does not say which folders are its own.
        if document.is_none() && self.candidates.contains_key(&DocumentIdentity::Config) {
            self.set.config.paths.clear();
        }
        self.set.config.label_keys.operator.clone_from(&self.label_keys);
    }

    /// Chooses one identity's version, independent of others.
    pub(super) fn choose_version(&mut self, identity: &DocumentIdentity) {
        self.between.remove(identity);
        let choice = self.choice(identity);
        match choice {
            Some(standing) => self.standing.insert(identity.clone(), standing),
            None => self.standing.remove(identity),
        };
    }

    fn choice(&mut self, identity: &DocumentIdentity) -> Option<Standing> {
        let places: Vec<(String, usize)> = self.candidates.get(identity).into_iter().flatten().cloned().collect();
        match places.as_slice() {
            [place] => self.candidate_as_demanded(identity, place),
            [] => {
                let last = self.standing.get(identity)?.clone();
                let (why, mistake) = self.why_held(identity, &last)?;
                if let Some(mistake) = mistake {
                    self.between.insert(identity.clone(), vec![mistake]);
                }
                Some(Standing { held: Some(why), ..last })
            }
            [..] => {
                let found = self.duplicates(identity, &places);
                self.between.insert(identity.clone(), found);
                let paths: BTreeSet<&str> = places.iter().map(|(path, _)| path.as_str()).collect();
                let why = format!("{} documents have its name, in {}", places.len(), join(paths));
                Some(Standing { held: Some(why), ..self.standing.get(identity)?.clone() })
            }
        }
    }

    /// The version in the repository if it meets egret.yaml's requirements; otherwise the last active one.
    fn candidate_as_demanded(&mut self, identity: &DocumentIdentity, place: &(String, usize)) -> Option<Standing> {
        let candidate = self.candidate(place)?;
        let found = match candidate.document.config() {
            Some(config) => self.layout_mistakes(config),
            None => requirements::of(&candidate.document, &candidate.path, &self.set.config),
        };
        if found.is_empty() {
            return Some(candidate);
        }
        let why = format!("it has errors in {}", candidate.path);
        let counts = self.counts_all_the_same(&candidate, &found);
        self.between.insert(identity.clone(), found);
        if counts {
            return Some(candidate);
        }
        Some(Standing { held: Some(why), ..self.standing.get(identity)?.clone() })
    }

    /// Whether a version with mistakes is active all the same: it is the one that is, or an egret.yaml without which there
    /// would be none. One without this cluster counts only if it did before: the clusters' folders are not known by it.
    fn counts_all_the_same(&self, candidate: &Standing, found: &[Diagnostic]) -> bool {
        let is_config = candidate.document.config().is_some();
        is_config
            && match self.standing.get(&DocumentIdentity::Config) {
                Some(last) => last.document == candidate.document,
                None => self.recalling || found.iter().all(|one| one.code != UNKNOWN_CLUSTER),
            }
    }

    fn candidate(&self, (path, place): &(String, usize)) -> Option<Standing> {
        let file = self.files.get(path)?;
        let (_, document) = file.parsed.as_ref()?.good.get(*place)?;
        Some(Standing { path: path.clone(), text: Arc::clone(&file.text), document: Arc::clone(document), held: None })
    }

    fn duplicates(&self, identity: &DocumentIdentity, places: &[(String, usize)]) -> Vec<Diagnostic> {
        let spans: Vec<(&str, Span)> = places
            .iter()
            .filter_map(|(path, place)| {
                let (_, document) = self.files.get(path)?.parsed.as_ref()?.good.get(*place)?;
                Some((path.as_str(), name_span(document)))
            })
            .collect();
        let other = |mine: usize| spans.iter().enumerate().find(|(index, _)| *index != mine).map(|(_, other)| *other);
        spans
            .iter()
            .enumerate()
            .map(|(index, (path, span))| {
                let message = format!("there is another {identity}");
                let found = diagnostic(path, Severity::Error, *span, "duplicate-document", message);
                let hint = other(index).map(|(path, span)| {
                    format!("the other is in {path}:{}; rename one or take it out", span.start.line)
                });
                Diagnostic { hint, ..found }
            })
            .collect()
    }

    /// Chooses all node labels together: those that conflict fall back to their last good versions.
    fn settle_node_labels(&mut self) {
        let standing = self.standing.iter().filter(|(identity, _)| is_node_labels(identity));
        let last: BTreeMap<DocumentIdentity, Standing> =
            standing.map(|(identity, standing)| (identity.clone(), standing.clone())).collect();
        let candidates = self.candidates.keys().chain(self.between.keys()).filter(|identity| is_node_labels(identity));
        let all: BTreeSet<DocumentIdentity> = last.keys().chain(candidates).cloned().collect();
        for identity in &all {
            self.choose_version(identity);
        }
        // Each round replaces at least one version from the repository, so this ends.
        while self.fall_back(&last) {}
    }

    /// Reverts conflicting documents to their last good versions; returns whether any changed.
    fn fall_back(&mut self, last: &BTreeMap<DocumentIdentity, Standing>) -> bool {
        let checked: BTreeMap<ObjectName, Arc<Checked>> = self
            .standing
            .iter()
            .filter_map(|(identity, standing)| match identity {
                DocumentIdentity::NodeLabels(name) => Some((name.clone(), Arc::clone(&standing.document))),
                _ => None,
            })
            .collect();
        let labels = checked.iter().filter_map(|(name, document)| Some((name, &document.node_labels()?.node_labels)));
        let found = disagreements(labels);
        let mut changed = false;
        for disagreement in &found {
            for (mine, other) in [(&disagreement.one, &disagreement.other), (&disagreement.other, &disagreement.one)] {
                let identity = DocumentIdentity::NodeLabels(mine.clone());
                let Some(standing) = self.standing.get(&identity).filter(|standing| standing.held.is_none()) else {
                    continue;
                };
                if let Some(labels) = checked.get(mine).and_then(|document| document.node_labels()) {
                    let path = standing.path.clone();
                    let found = self.disagreement(&path, labels, disagreement, other);
                    self.between.entry(identity.clone()).or_default().push(found);
                }
            }
        }
        for name in found.iter().flat_map(|disagreement| [&disagreement.one, &disagreement.other]) {
            let identity = DocumentIdentity::NodeLabels(name.clone());
            if self.standing.get(&identity).is_some_and(|standing| standing.held.is_none()) {
                changed = true;
                let why = "it disagrees with another document".to_owned();
                match last.get(&identity) {
                    Some(last) => self.standing.insert(identity, Standing { held: Some(why), ..last.clone() }),
                    None => self.standing.remove(&identity),
                };
            }
        }
        // Versions that were active together do not conflict. If two that were restored from disk do, the second one is
        // dropped.
        if !changed && let Some(disagreement) = found.first() {
            self.standing.remove(&DocumentIdentity::NodeLabels(disagreement.other.clone()));
            return true;
        }
        changed
    }

    fn disagreement(
        &self,
        path: &str,
        mine: &CheckedNodeLabels,
        found: &LabelConflict,
        other: &ObjectName,
    ) -> Diagnostic {
        let span = mine.spans.labels.get(&found.key).copied().unwrap_or(mine.spans.name);
        let place = self.standing.get(&DocumentIdentity::NodeLabels(other.clone())).map(|other| {
            let line = other.document.node_labels().map_or(0, |labels| labels.node_labels.origin.line);
            format!("{}:{line}", other.path)
        });
        let message =
            format!("{} and {other} give {} different values of {}", mine.node_labels.name, found.on, found.key);
        let diagnostic = diagnostic(path, Severity::Error, span, "labels-disagree", message);
        let hint =
            place.map(|place| format!("the other one is in {place}; make them agree, or take the label out of one"));
        Diagnostic { hint, ..diagnostic }
    }
}

fn is_node_labels(identity: &DocumentIdentity) -> bool {
    matches!(identity, DocumentIdentity::NodeLabels(_))
}

fn name_span(document: &Checked) -> Span {
    match document {
        Checked::Policy(policy) => policy.spans.name,
        Checked::NodeLabels(labels) => labels.spans.name,
        Checked::Assertion(assertion) => assertion.spans.name,
        Checked::Pool(pool) => pool.spans.name,
        Checked::Config(_) => Span::default(),
    }
}

pub(super) fn join<'p>(paths: impl IntoIterator<Item = &'p str>) -> String {
    paths.into_iter().collect::<Vec<_>>().join(", ")
}
