//! History: when each drift was seen, by whom it was made, when it was put right. One node's file on the reports branch.
//!
//! A file changes only when there is something new to say; times are those of events, never of writing. Deliberately absent:
//! YAML and Markdown (`files`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::drift::{Drift, DriftClass};
use crate::core::admission::{Emergency, PendingCommit};
use crate::core::finding::Finding;

/// How many records of what was put right are kept in the file; older ones are in the branch's history.
const KEPT: usize = 100;

/// Everything worth telling of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// The node.
    pub node: String,
    /// The commit that is in force there; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<EffectiveCommit>,
    /// The newest commit, if it is not in force but waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Box<PendingCommit>>,
    /// How the commit in force came through a closed change window, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<Box<Emergency>>,
    /// Found different and not put right (yet).
    #[serde(default)]
    pub drift: Vec<DriftRecord>,
    /// Put right, the newest first.
    #[serde(default)]
    pub corrected: Vec<DriftRecord>,
    /// Documents that are not in force as they stand in the repository.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejected>,
    /// Reasons worth a person's eye, and since when.
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
    /// Since when it has been in force on this node.
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
    /// What is in force instead.
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
    /// What it was to be; absent for what was not to be at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<String>,
    /// What it was found to be; absent if it was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// Who did it, as far as the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<DriftActor>,
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// When it was last put right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<Timestamp>,
    /// How often it was seen.
    pub times: u32,
    /// What was done: `corrected`, or why not.
    pub action: String,
    /// Who wants it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted_by: Vec<RequestedBy>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Who is thought to have done it, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DriftActor {
    /// `nft`, `process 4711`, `the kernel`.
    pub guess: String,
    /// What the guess rests on.
    pub because: String,
}

/// A policy that wants an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestedBy {
    /// Its name.
    pub policy: String,
    /// `policies/outpost.yaml:1`
    pub file: String,
    /// The commit that is in force.
    pub commit: String,
}

/// A drift as it was just seen.
#[derive(Debug, Clone)]
pub struct ObservedDrift {
    /// What differs.
    pub drift: Drift,
    /// Who did it, if the kernel says.
    pub by: Option<DriftActor>,
    /// Who wants the object.
    pub wanted_by: Vec<RequestedBy>,
}

impl DriftRecord {
    /// From when it was last seen until it was put right, in milliseconds. A clock that jumped back in between makes it 0.
    pub fn took_milliseconds(&self) -> Option<i128> {
        self.corrected.map(|corrected| corrected.duration_since(self.last_seen).as_millis().max(0))
    }
}

impl NodeReport {
    /// An empty one.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            in_force: None,
            withheld: None,
            emergency: None,
            drift: Vec::new(),
            corrected: Vec::new(),
            rejected: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Takes down what was seen. Drift that is open already is seen again; an object that was put right before and drifted the
    /// same way is opened again with its count.
    pub fn seen(&mut self, sightings: Vec<ObservedDrift>, now: Timestamp) {
        for sighting in sightings {
            let same =
                |record: &DriftRecord| record.object == sighting.drift.object && record.class == sighting.drift.class;
            if let Some(open) = self.drift.iter_mut().find(|record| same(record)) {
                open.observed = sighting.drift.observed;
                continue;
            }
            let before = self.corrected.iter().position(same).map(|position| self.corrected.remove(position));
            self.drift.push(DriftRecord {
                first_seen: before.as_ref().map_or(now, |record| record.first_seen),
                times: before.map_or(0, |record| record.times) + 1,
                object: sighting.drift.object,
                class: sighting.drift.class,
                desired: sighting.drift.desired,
                observed: sighting.drift.observed,
                by: sighting.by,
                last_seen: now,
                corrected: None,
                action: "being put right".to_owned(),
                wanted_by: sighting.wanted_by,
                hint: None,
            });
        }
        self.drift.sort_by(|a, b| a.object.cmp(&b.object));
    }

    /// The same report with what only the one before knows: what was put right before this process began, and since when
    /// findings have stood.
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
        if let (Some(now), Some(then)) = (&mut self.in_force, &before.in_force)
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

    /// Takes down that all open drift was put right.
    pub fn put_right(&mut self, now: Timestamp) {
        for mut record in std::mem::take(&mut self.drift).into_iter().rev() {
            record.corrected = Some(now);
            "corrected".clone_into(&mut record.action);
            self.corrected.insert(0, record);
        }
        self.corrected.truncate(KEPT);
    }

    /// Takes down that open drift could not be put right.
    pub fn not_put_right(&mut self, why: &str) {
        for record in &mut self.drift {
            record.action = format!("not put right: {why}");
        }
    }

    /// Takes down which commit is in force. One that was so already keeps its time.
    pub fn set_in_force(&mut self, commit: &str, summary: &str, now: Timestamp) {
        let known = self.in_force.as_ref().filter(|known| known.commit == commit);
        let since = known.map_or(Some(now), |known| known.since);
        self.in_force = Some(EffectiveCommit { commit: commit.to_owned(), summary: summary.to_owned(), since });
    }

    /// Replaces the findings; those that were there keep their time.
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
