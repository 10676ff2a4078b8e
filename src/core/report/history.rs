//! The drift history of one node: when each drift was seen, which process caused it, when it was corrected. One file
//! per node on the reports branch.
//!
//! A file changes only when there is something new; its times are those of events, never of writing. Not here: YAML
//! and Markdown (see `files`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::drift::{Drift, DriftClass};
use crate::core::admission::{Emergency, PendingCommit};
use crate::core::finding::Finding;

/// How many corrected records the file keeps; older ones are in the branch's history.
const KEPT: usize = 100;

/// The report of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The node.
    pub node: String,
    /// The commit that is active on the node; none before the first.
    #[serde(rename = "inForce", default, skip_serializing_if = "Option::is_none")]
    pub active: Option<EffectiveCommit>,
    /// The newest commit, if it is pending.
    #[serde(rename = "withheld", default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Box<PendingCommit>>,
    /// How the active commit passed a closed change window, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<Box<Emergency>>,
    /// Drift that is not corrected (yet).
    #[serde(default)]
    pub drift: Vec<DriftRecord>,
    /// Corrected drift, the newest first.
    #[serde(default)]
    pub corrected: Vec<DriftRecord>,
    /// Documents whose version in the repository is not active.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
    /// Findings that a user should see, and since when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<DatedFinding>,
}

/// A commit of the policy repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveCommit {
    /// Its full id.
    pub commit: String,
    /// Its first line.
    pub summary: String,
    /// Since when it has been active on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// A document that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// `policies/outpost.yaml:12:5`
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What is active instead.
    pub instead: String,
}

/// A finding and when it was first made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DatedFinding {
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
    /// When it was first made.
    pub since: Timestamp,
}

/// One object's drift.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftRecord {
    /// The object, as [`Drift::object`].
    pub object: String,
    /// How it differs.
    pub class: DriftClass,
    /// The desired form; absent if the object should not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<String>,
    /// The observed form; absent if the object was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// The process that caused it, as far as the kernel reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<DriftActor>,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// When it was last corrected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<Timestamp>,
    /// How often it was seen.
    pub times: u32,
    /// The action taken: `corrected`, or why not.
    pub action: String,
    /// The policies that need the object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted_by: Vec<RequestedBy>,
    /// A hint for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The process that probably caused a drift, and the evidence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DriftActor {
    /// `nft`, `process 4711`, `the kernel`.
    pub guess: String,
    /// The evidence for the guess.
    pub because: String,
}

/// A policy that needs an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestedBy {
    /// Its name.
    pub policy: String,
    /// `policies/outpost.yaml:1`
    pub file: String,
    /// The active commit.
    pub commit: String,
}

/// A drift as it was just observed.
#[derive(Debug, Clone)]
pub struct ObservedDrift {
    /// The difference.
    pub drift: Drift,
    /// The process that caused it, if the kernel reports it.
    pub by: Option<DriftActor>,
    /// The policies that need the object.
    pub wanted_by: Vec<RequestedBy>,
}

impl DriftRecord {
    /// The time from the last sighting to the correction, in milliseconds; 0 if the clock jumped back in between.
    pub fn took_milliseconds(&self) -> Option<i128> {
        self.corrected.map(|corrected| corrected.duration_since(self.last_seen).as_millis().max(0))
    }
}

impl NodeReport {
    /// An empty report.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            active: None,
            pending: None,
            emergency: None,
            drift: Vec::new(),
            corrected: Vec::new(),
            rejected: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Records observed drift. Open drift is counted again; an object that was corrected before and drifted the same
    /// way is reopened with its count.
    pub fn seen(&mut self, drifts: Vec<ObservedDrift>, now: Timestamp) {
        for observed in drifts {
            let same =
                |record: &DriftRecord| record.object == observed.drift.object && record.class == observed.drift.class;
            if let Some(open) = self.drift.iter_mut().find(|record| same(record)) {
                open.observed = observed.drift.observed;
                continue;
            }
            let before = self.corrected.iter().position(same).map(|position| self.corrected.remove(position));
            self.drift.push(DriftRecord {
                first_seen: before.as_ref().map_or(now, |record| record.first_seen),
                times: before.map_or(0, |record| record.times) + 1,
                object: observed.drift.object,
                class: observed.drift.class,
                desired: observed.drift.desired,
                observed: observed.drift.observed,
                by: observed.by,
                last_seen: now,
                corrected: None,
                action: "being corrected".to_owned(),
                wanted_by: observed.wanted_by,
                hint: None,
            });
        }
        self.drift.sort_by(|a, b| a.object.cmp(&b.object));
    }

    /// The same report with what only the previous one has: drift that was corrected before this process started, and
    /// since when findings have existed.
    #[must_use]
    pub fn after(mut self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self };
        let known = |record: &DriftRecord, records: &[DriftRecord]| {
            records.iter().any(|own| own.object == record.object && own.class == record.class)
        };
        let older: Vec<DriftRecord> = before
            .corrected
            .iter()
            .filter(|record| !known(record, &self.corrected) && !known(record, &self.drift))
            .cloned()
            .collect();
        self.corrected.extend(older);
        self.corrected.truncate(KEPT);
        if let (Some(now), Some(then)) = (&mut self.active, &before.active)
            && now.commit == then.commit
        {
            now.since = then.since.or(now.since);
        }
        for since in &mut self.findings {
            if let Some(known) = before.findings.iter().find(|known| known.finding == since.finding) {
                since.since = since.since.min(known.since);
            }
        }
        self
    }

    /// Records that all open drift was corrected.
    pub fn mark_corrected(&mut self, now: Timestamp) {
        for mut record in std::mem::take(&mut self.drift).into_iter().rev() {
            record.corrected = Some(now);
            "corrected".clone_into(&mut record.action);
            self.corrected.insert(0, record);
        }
        self.corrected.truncate(KEPT);
    }

    /// Records that open drift could not be corrected.
    pub fn mark_uncorrected(&mut self, why: &str) {
        for record in &mut self.drift {
            record.action = format!("not corrected: {why}");
        }
    }

    /// Records which commit is active. A commit that was active already keeps its time.
    pub fn set_active(&mut self, commit: &str, summary: &str, now: Timestamp) {
        let known = self.active.as_ref().filter(|known| known.commit == commit);
        let since = known.map_or(Some(now), |known| known.since);
        self.active = Some(EffectiveCommit { commit: commit.to_owned(), summary: summary.to_owned(), since });
    }

    /// Replaces the findings; those that existed before keep their time.
    pub fn set_findings(&mut self, findings: Vec<Finding>, now: Timestamp) {
        let before = std::mem::take(&mut self.findings);
        self.findings = findings
            .into_iter()
            .map(|finding| {
                let since = before.iter().find(|known| known.finding == finding).map_or(now, |known| known.since);
                DatedFinding { finding, since }
            })
            .collect();
    }
}
