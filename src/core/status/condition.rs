//! Conditions of the custom resources, in the form of Kubernetes' `meta/v1 Condition`, with the types and reasons
//! that Egret uses.
//!
//! `Ready`, `Reconciling` and `Stalled` have the meaning that kstatus gives them (sigs.k8s.io/cli-utils,
//! `pkg/kstatus`): `Ready` is always there; the other two only while they are true. Reasons follow Gateway API and
//! kstatus where these have one. `docs/conditions.md` has all of them, and a test compares that page with the two
//! enums here.

use std::fmt;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::core::admission::PendingReason;
use crate::core::text::shortened;

/// The API server takes no message above 32 KiB; a status with a few of them should stay readable.
pub(super) const LONGEST_MESSAGE: usize = 1024;

/// Defines enums whose variant names are the strings that the API server stores.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $word:ident,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* $word,)*
            /// A value that another version wrote. It is never written.
            #[serde(other)]
            Unrecognised,
        }

        impl $name {
            /// All values that this version writes.
            pub const ALL: &[Self] = &[$(Self::$word,)*];

            /// The string that the API server stores.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => stringify!($word),)*
                    Self::Unrecognised => "Unrecognised",
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// `type` of a condition.
    ConditionType {
        /// Every kind: what was published is in all kernels that it concerns.
        Ready,
        /// Every kind, only while true: Egret is working towards Ready, or tries again.
        Reconciling,
        /// Every kind, only while true: Ready needs a change from outside.
        Stalled,
        /// PublishedEgressPolicy: the document is published as it stands in Git.
        Accepted,
        /// PublishedEgressPolicy, only while true: another policy has some of its destinations.
        Conflicted,
        /// EgressNode, only while true: objects in the kernel differ and could not be corrected.
        Drifted,
        /// EgressConfig: the repository can be read.
        GitReachable,
        /// EgressConfig: the newest commit is the published one.
        UpToDate,
        /// EgressConfig: every document is published as it stands in Git.
        PoliciesAccepted,
        /// EgressConfig, where reports are wanted: they are pushed.
        ReportsPublished,
        /// EgressConfig, where previews are wanted: open pull requests have theirs.
        PreviewsPosted,
        /// EgressConfig, where the repository has assertions: they hold.
        AssertionsHold,
    }
}

words! {
    /// `reason` of a condition or of an event.
    Reason {
        /// It is in the kernel of every node that it concerns.
        Programmed,
        /// The node has nothing to do: no policy is published.
        NoPolicies,
        /// Agents have not reported yet that it is in their kernels.
        Pending,
        /// The document in Git is accepted as it stands.
        Accepted,
        /// A document, or a published object, has a mistake.
        Invalid,
        /// No node is fit to be the gateway.
        NoGateway,
        /// The pool that the policy asks has given it no address yet.
        PoolAddressMissing,
        /// The gateway has no address to translate to.
        EgressIPMissing,
        /// The gateway's kernel does not forward.
        GatewayNotForwarding,
        /// The router behind the gateway's egress interface does not answer.
        NextHopSilent,
        /// A kernel rejects a part of it.
        KernelRefused,
        /// A gateway does not answer a source's probes.
        GatewaySilent,
        /// The ports of an egress address towards one destination are almost used up.
        PortsAlmostUsedUp,
        /// A user suspended it, until a time that the message names.
        Suspended,
        /// Two policies have the same destinations for the same pods.
        OverlappingDestinations,
        /// A reconciliation round of the agent failed; it is tried again.
        ReconciliationFailed,
        /// An object differs, and could not be corrected.
        DriftNotCorrected,
        /// Git answered.
        Fetched,
        /// The repository cannot be read.
        GitOperationFailed,
        /// The newest commit is the published one.
        Published,
        /// The API server did not accept what was to be published; it is tried again.
        PublicationFailed,
        /// The newest commit waits for its change window.
        ChangeWindowClosed,
        /// The newest commit is not signed as demanded.
        SignatureRefused,
        /// The newest commit removes many policies and does not confirm it.
        RemovalsUnconfirmed,
        /// Some node is not Ready.
        NodesNotReady,
        /// The agent of a node has not been heard for a while; the node's kernel keeps what it has.
        AgentNotResponding,
        /// Reports are pushed.
        Pushed,
        /// Reports could not be pushed.
        PushFailed,
        /// Previews are posted.
        Posted,
        /// A preview could not be posted.
        PostFailed,
        /// The assertions hold.
        AssertionsKept,
        /// There is a packet that breaks an assertion.
        AssertionBroken,
        /// Pods cannot be listed, so that assertions are not checked.
        PodsNotListed,
        /// Event: a commit was applied outside its change window, by its trailer.
        EmergencyApplied,
        /// Event: another client changed a node's label that Git gives.
        DriftDetected,
        /// Event: another client changed an object of Egret's, and it is restored.
        DriftCorrected,
        /// Event: a label was corrected too often, and another client's value stays.
        LabelConflict,
    }
}

impl Reason {
    /// The kstatus state of an object that is not Ready for this reason. A suspended policy has neither: it makes no
    /// progress because a user suspended it.
    fn progress(self) -> Option<ConditionType> {
        match self {
            Self::Suspended => None,
            Self::Pending
            | Self::ReconciliationFailed
            | Self::GitOperationFailed
            | Self::PublicationFailed
            | Self::NodesNotReady => Some(ConditionType::Reconciling),
            _ => Some(ConditionType::Stalled),
        }
    }
}

impl From<&PendingReason> for Reason {
    fn from(why: &PendingReason) -> Self {
        match why {
            PendingReason::Window { .. } => Self::ChangeWindowClosed,
            PendingReason::Suspended { .. } => Self::Suspended,
            PendingReason::Unsigned { .. } => Self::SignatureRefused,
            PendingReason::Removals(_) => Self::RemovalsUnconfirmed,
        }
    }
}

/// `status` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// Not known yet.
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(is: bool) -> Self {
        if is { Self::True } else { Self::False }
    }
}

/// Whether a condition holds, since when and why (`meta/v1 Condition`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The type.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// The reason, for programs.
    pub reason: Reason,
    /// The reason, as a sentence.
    pub message: String,
    /// The `metadata.generation` that was observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Since when the status has had this value.
    pub last_transition_time: Timestamp,
}

impl Condition {
    /// A condition as it is now. [`settle`] restores the earlier transition time.
    pub fn new(
        kind: ConditionType,
        status: impl Into<ConditionStatus>,
        reason: Reason,
        message: impl Into<String>,
        now: Timestamp,
    ) -> Self {
        Self {
            kind,
            status: status.into(),
            reason,
            message: shortened(&message.into(), LONGEST_MESSAGE),
            observed_generation: None,
            last_transition_time: now,
        }
    }

    /// Whether it is true.
    pub fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }

    /// `Reconciling` or `Stalled`, if this `Ready` implies one of them.
    pub(super) fn progress(&self) -> Option<Self> {
        let kind = self.reason.progress().filter(|_| !self.is_true())?;
        Some(Self { kind, status: ConditionStatus::True, ..self.clone() })
    }
}

/// The condition of a type, if it is there.
pub fn condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// Whether an object with these conditions is Ready.
pub fn is_ready(conditions: &[Condition]) -> bool {
    condition(conditions, ConditionType::Ready).is_some_and(Condition::is_true)
}

/// `Ready` with the condition that kstatus wants beside it, then the others.
pub(super) fn with_progress(ready: Condition, others: impl IntoIterator<Item = Condition>) -> Vec<Condition> {
    let progress = ready.progress();
    [ready].into_iter().chain(progress).chain(others).collect()
}

/// Conditions with the transition times of the previous ones that had the same status.
pub(super) fn with_transition_times(mut conditions: Vec<Condition>, before: &[Condition]) -> Vec<Condition> {
    for condition in &mut conditions {
        let known = before.iter().find(|known| known.kind == condition.kind && known.status == condition.status);
        if let Some(known) = known {
            condition.last_transition_time = known.last_transition_time;
        }
    }
    conditions
}

/// Sets the generation of the spec that was observed.
pub(super) fn observe(mut conditions: Vec<Condition>, generation: Option<i64>) -> Vec<Condition> {
    for condition in &mut conditions {
        condition.observed_generation = generation;
    }
    conditions
}

/// A condition that this version cannot read is skipped, and does not hide the others or the rest of a status.
pub(super) fn readable<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Condition>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Condition(Condition),
        Other(IgnoredAny),
    }
    let all = Option::<Vec<Either>>::deserialize(from)?.unwrap_or_default();
    let known = all.into_iter().filter_map(|one| match one {
        Either::Condition(condition) if condition.kind != ConditionType::Unrecognised => Some(condition),
        Either::Condition(_) | Either::Other(_) => None,
    });
    Ok(known.collect())
}
