//! Builds the input of a preview for `core::preview` from two commits of a mirror and the known state of a cluster.
//!
//! `egret preview` and the controller share this code, so that the same commits and the same cluster give the same
//! comment. Not here: the source of a cluster's facts, fetching (`git`), and a preview's text (`core::preview`).

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::core::admission::ChangeWindows;
use crate::core::allocation::{Allocation, Proposal, propose};
use crate::core::assignment;
use crate::core::diagnostic::Diagnostic;
use crate::core::facts::Facts;
use crate::core::host_network::HostNetwork;
use crate::core::labels::keys::KeyPattern;
use crate::core::name::NodeName;
use crate::core::plan::text_diff;
use crate::core::policy::catalogue::{Catalogue, FileUpdate};
use crate::core::policy::config::Config;
use crate::core::policy::document::CONFIG_FILE;
use crate::core::policy::lint::{lint, suspensions};
use crate::core::preview::assertions::{AssertionInput, FailedAssertion, failed};
use crate::core::preview::{CostLimits, DisplayLimits, Preview, PreviewInput, Validation, exceeded_limit, preview};
use crate::core::report::history::NodeReport;
use crate::git::files::LARGEST_FILE;
use crate::git::mirror::Mirror;
use crate::git::signature::SignatureFlags;
use crate::git::{CommitId, Error, Result};
use crate::reconcile::gitops::repository;

/// The merge base of a change, and its documents.
#[derive(Debug)]
pub struct MergeBase {
    commit: CommitId,
    catalogue: Catalogue,
    decides: Config,
}

/// A proposed change: two commits and their documents.
#[derive(Debug)]
pub struct ProposedChange {
    base: String,
    head: String,
    cluster: String,
    addresses: Proposal,
    validation: Validation,
    config_diff: String,
    settings_change: bool,
    concerned: bool,
    /// With the addresses that either side assigns.
    host_networks: BTreeMap<NodeName, HostNetwork>,
    trailers: Vec<(String, String)>,
    unsigned: Option<(String, String)>,
}

/// The inputs of a preview beside the two commits.
#[derive(Debug, Clone, Copy)]
pub struct ClusterContext<'a> {
    /// Nodes, namespaces and pods.
    pub facts: &'a Facts,
    /// The source of the facts, for the line below the title.
    pub facts_from: &'a str,
    /// The known interfaces and addresses of nodes.
    pub host_networks: &'a BTreeMap<NodeName, HostNetwork>,
    /// Nodes' reports.
    pub reports: &'a [NodeReport],
    /// The allocation of pools on the reports branch.
    pub allocation: &'a Allocation,
    /// The current time: it decides which suspended policies are active.
    pub now: Timestamp,
    /// Whose signatures the flags require, in addition to the base's egret.yaml.
    pub signatures: &'a SignatureFlags,
    /// The change windows that flags set instead of the base's egret.yaml.
    pub windows: Option<&'a ChangeWindows>,
    /// The limits of what is shown.
    pub limits: DisplayLimits,
    /// The most bytes of text that may differ; all of them are read.
    pub most: usize,
    /// The cost limits.
    pub work: CostLimits,
}

impl MergeBase {
    /// Reads all documents of the merge base, and egret.yaml also at the tip of the target branch: a requirement that
    /// is newer than the change applies to it, too. `label_keys`: the node labels that may be written, if flags set
    /// them.
    pub fn read(
        mirror: &Mirror,
        commit: CommitId,
        tip: CommitId,
        cluster: &str,
        label_keys: Option<&[KeyPattern]>,
    ) -> Result<Self> {
        let mut catalogue = Catalogue::new(cluster).with_label_keys(label_keys);
        catalogue.update(repository::changes(mirror.files(commit, &[String::new()])?));
        let mut now = Catalogue::new(cluster);
        let old = catalogue.text(CONFIG_FILE).map(str::to_owned);
        for text in [old, mirror.text(tip, CONFIG_FILE, LARGEST_FILE)?] {
            let change = text.map_or(FileUpdate::Removed, FileUpdate::Text);
            now.update(BTreeMap::from([(CONFIG_FILE.to_owned(), change)]));
        }
        let decides = now.policies().config.clone();
        Ok(Self { commit, catalogue, decides })
    }

    /// The active configuration. Every setting of the preview itself is read here: the author of the pull request
    /// could change the configuration in its head.
    pub fn config(&self) -> &Config {
        &self.decides
    }
}

impl ProposedChange {
    /// Applies the head's files on top of the base's as a cluster will: a document with errors keeps its previous
    /// version.
    pub fn read(
        mirror: &Mirror,
        cluster: &str,
        base: MergeBase,
        head: CommitId,
        surroundings: ClusterContext<'_>,
    ) -> Result<Self> {
        let MergeBase { commit, mut catalogue, decides } = base;
        let mut before = catalogue.policies().clone();
        let settings = before.config.clone();
        before.config.change_windows = surroundings.windows.cloned().unwrap_or(decides.change_windows);
        before.config.signatures = decides.signatures;
        before.config.max_removals = decides.max_removals;
        let demanded = before.config.signatures.as_ref();
        let unsigned = surroundings.signatures.judge(mirror, demanded, Some(commit), head)?.err();
        let ClusterContext { allocation, now, .. } = surroundings;
        let side = propose(allocation, &before, catalogue.policies(), now);
        let (found_before, _) = found(&catalogue, &side, surroundings);
        let config = |catalogue: &Catalogue| catalogue.text(CONFIG_FILE).unwrap_or_default().to_owned();
        let config_before = config(&catalogue);
        let differs = mirror.changes_within(surroundings.most, Some(commit), head, &[String::new()])?;
        let changes = repository::changes(differs);
        let (concerned, trailers) = (catalogue.concerned(&changes), mirror.trailers(head)?);
        catalogue.update(changes);
        if let Some(what) = exceeded_limit(&before, catalogue.policies(), surroundings.facts, surroundings.work) {
            return Err(Error::TooLarge { commit: head, what });
        }
        let diff = text_diff(&config_before, &config(&catalogue), "", "");
        let config_diff = diff.lines().skip(2).flat_map(|line| [line, "\n"]).collect();
        let addresses = propose(allocation, &before, catalogue.policies(), now);
        let (mut found, assertions) = found(&catalogue, &addresses, surroundings);
        found.sort();
        found.dedup();
        let tally = catalogue.tally(&found);
        let both = [&addresses.before, &addresses.after];
        let host_networks = assignment::expected(&both, surroundings.facts, surroundings.host_networks).into_owned();
        Ok(Self {
            base: commit.short(),
            head: head.short(),
            cluster: cluster.to_owned(),
            addresses,
            validation: Validation::new(&found_before, found, tally, catalogue.held(), assertions),
            config_diff,
            settings_change: !settings.has_the_effect_of(&catalogue.policies().config),
            concerned,
            host_networks,
            trailers,
            unsigned: unsigned.map(|unsigned| (unsigned.commit.to_string(), unsigned.what)),
        })
    }

    /// The validation of the head's documents.
    pub fn validation(&self) -> &Validation {
        &self.validation
    }

    /// Builds the preview.
    pub fn preview<'a>(&'a self, surroundings: ClusterContext<'a>) -> Preview<'a> {
        preview(PreviewInput {
            cluster: &self.cluster,
            commits: (&self.base, &self.head),
            before: &self.addresses.before,
            after: &self.addresses.after,
            addresses: &self.addresses.changes,
            facts: surroundings.facts,
            facts_from: surroundings.facts_from,
            host_networks: &self.host_networks,
            now: surroundings.now,
            concerned: self.concerned,
            trailers: &self.trailers,
            unsigned: self.unsigned.as_ref().map(|(commit, what)| (commit.as_str(), what.as_str())),
            validation: &self.validation,
            config_diff: &self.config_diff,
            settings_change: self.settings_change,
            reports: surroundings.reports,
            limits: surroundings.limits,
        })
    }
}

/// What is found in a side of the change, and which of its assertions fail. `addresses` has that side as its later one.
fn found(
    catalogue: &Catalogue,
    addresses: &Proposal,
    surroundings: ClusterContext<'_>,
) -> (Vec<Diagnostic>, Vec<FailedAssertion>) {
    let (set, spans) = (catalogue.policies(), catalogue.spans());
    let ClusterContext { facts, host_networks, now, .. } = surroundings;
    let mut found = catalogue.diagnostics();
    found.extend(lint(set, Some(facts), spans));
    found.extend(suspensions(set, spans, now));
    let Proposal { before, after, .. } = addresses;
    let assertions = failed(&AssertionInput { set: after, before, facts, host_networks, now });
    found.extend(assertions.iter().map(|one| one.diagnostic(spans)));
    (found, assertions)
}
