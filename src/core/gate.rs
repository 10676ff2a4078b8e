//! What is active, as far as it decides on the next commit; and the questions about a commit that nothing else answers.
//!
//! The repository's thread and `egret plan` ask here, and a preview asks the rules alone ([`AdmissionRules`]). Reading commits is absent, and so
//! is checking signatures (`git::signature`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::admission::{
    AdmissionDecision, AdmissionRules, ChangeWindows, Emergency, PendingCommit, PendingReason, Removals, Suspension,
};
use super::diagnostic::{Diagnostic, Severity};
use super::facts::Facts;
use super::policy::catalogue::{Catalogue, LastGoodDocuments};
use super::policy::config::Config;
use super::policy::document::CONFIG_FILE;
use super::removals::removals;
use super::signature::Signatures;

/// The commit that is active, and what has to be known of it where Git cannot be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ActiveRevision {
    /// Its full name; none: nothing was ever active.
    pub commit: Option<String>,
    /// When it was committed, by the committer's clock, should it be in no history any more.
    pub committed: Option<Timestamp>,
    /// Texts of documents whose last good version is active.
    pub good: LastGoodDocuments,
    /// What egret.yaml demands of commits that come in, should it be out of reach with the commit.
    pub signatures: Option<Signatures>,
    /// When egret.yaml lets commits in, in the same case.
    pub windows: Option<ChangeWindows>,
    /// The commit that waits.
    #[serde(rename = "withheld")]
    pub pending: Option<PendingCommit>,
    /// How the active one came through a closed change window, if it did.
    pub emergency: Option<Emergency>,
    /// Something is active, and nothing is known of it: what was persisted is lost.
    #[serde(skip)]
    pub lost: bool,
}

/// A commit that was fetched, as far as it decides on its own admission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Trailers of its message, in their order.
    pub trailers: Vec<(String, String)>,
    /// The suspension that its egret.yaml has; where that cannot be read, the one of before.
    pub suspension: Option<Suspension>,
    /// What its egret.yaml demands of commits. It counts where no other is known.
    pub signatures: Option<Signatures>,
    /// When its egret.yaml lets commits in; none if it cannot be read. It counts where no other is known.
    pub windows: Option<ChangeWindows>,
    /// What it removes.
    pub removals: Removals,
}

/// What a commit meets that comes to a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// What is known of what is active.
    pub active: &'a ActiveRevision,
    /// The active documents; where the active commit is out of reach, those of its documents that are kept.
    pub catalogue: &'a Catalogue,
    /// Whether the active commit could be read.
    pub reached: bool,
    /// Whether nothing was ever active.
    pub first_start: bool,
    /// Whether a commit is active that is not known any more. Its windows are not known either, so those of the new one
    /// count: it could open them for itself, but what waited before does not become active because a file was lost.
    pub lost: bool,
    /// The change windows that flags set. They win over egret.yaml.
    pub windows: Option<&'a ChangeWindows>,
}

impl Gate<'_> {
    /// What decides about a commit, after which the documents are these. `facts`: the cluster, if it is known.
    pub fn candidate(
        &self,
        commit: &str,
        after: &Catalogue,
        trailers: Vec<(String, String)>,
        facts: Option<&Facts>,
    ) -> Candidate {
        let candidate = Candidate { trailers, removals: self.removals(commit, after, facts), ..Candidate::default() };
        match after.config_as_written().cloned() {
            Some(Config { suspend, signatures, change_windows, .. }) => {
                Candidate { suspension: suspend, signatures, windows: Some(change_windows), ..candidate }
            }
            // An egret.yaml that cannot be read lifts nothing.
            None => Candidate { suspension: self.last_suspension(), ..candidate },
        }
    }

    /// What is demanded of a commit's signatures, beside what flags demand. What the commit itself demands counts only
    /// where nothing is known of an active one: on a first start, whoever can write the first commit can write all of
    /// it.
    pub fn signatures(&self, candidate: &Candidate) -> Option<Signatures> {
        if self.first_start || self.lost { candidate.signatures.clone() } else { self.active_signatures() }
    }

    /// What the active egret.yaml demands of commits. One that cannot be read takes nothing back.
    pub fn active_signatures(&self) -> Option<Signatures> {
        let own = self.catalogue.policies().config.signatures.clone();
        if self.unread() { own.or_else(|| self.active.signatures.clone()) } else { own }
    }

    /// When the active egret.yaml lets commits in. One that cannot be read opens nothing.
    pub fn active_windows(&self) -> ChangeWindows {
        let own = &self.catalogue.policies().config.change_windows;
        let last = self.active.windows.as_ref().filter(|_| own.open.is_empty() && self.unread());
        last.unwrap_or(own).clone()
    }

    /// The rules for a commit; `unsigned`: what is wrong with its signatures.
    pub fn judge(&self, candidate: &Candidate, unsigned: Option<PendingReason>, now: Timestamp) -> AdmissionDecision {
        let of_egret_yaml = || if self.lost { candidate.windows.clone() } else { Some(self.active_windows()) };
        let Some(windows) = self.windows.cloned().or_else(of_egret_yaml) else {
            let closed = || PendingReason::Window { opens: None, time_zone: "UTC".to_owned(), window: String::new() };
            return AdmissionDecision::Pending(unsigned.unwrap_or_else(closed));
        };
        let rules = AdmissionRules {
            unsigned,
            first_start: self.first_start,
            windows: &windows,
            suspension: candidate.suspension.as_ref(),
            removals: candidate.removals,
            trailers: &candidate.trailers,
        };
        rules.judge(now)
    }

    /// What a commit removes. Where the active commit is out of reach, it is not known what it has.
    fn removals(&self, commit: &str, after: &Catalogue, facts: Option<&Facts>) -> Removals {
        if !self.reached {
            return Removals::default();
        }
        let found = removals(self.catalogue.policies(), after.policies(), facts);
        match self.active.pending.as_ref() {
            // A restart, after which the pods are not known yet, lets in nothing that waited before it.
            Some(PendingCommit { commit: waiting, why: PendingReason::Removals(before), .. })
                if waiting == commit && facts.is_none() =>
            {
                Removals { members: before.members, ..found }
            }
            _ => found,
        }
    }

    /// The suspension that was last known to hold.
    fn last_suspension(&self) -> Option<Suspension> {
        match self.active.pending.as_ref().map(|pending| &pending.why) {
            Some(PendingReason::Suspended { until: Some(until), owner, reason }) => {
                Some(Suspension { until: *until, owner: owner.clone(), reason: reason.clone() })
            }
            _ => self.catalogue.policies().config.suspend.clone(),
        }
    }

    /// Whether the active egret.yaml cannot be read, or is out of reach.
    fn unread(&self) -> bool {
        let broken = |one: &Diagnostic| one.file == CONFIG_FILE && one.severity == Severity::Error;
        !self.reached || self.catalogue.diagnostics().iter().any(broken)
    }
}
