//! Checks for `egret doctor`: whether this machine's kernel, settings, CNI and other programs let Egret steer packets,
//! with a hint for each problem.
//!
//! `gather` collects facts first (`trial` tries kernel features in a temporary network namespace), then pure functions
//! judge them (`checks`: the machine itself, `others`: other programs, `cilium`: the CNI, `cilium_gateway`: its own
//! egress gateway). Nothing on the machine is
//! changed. Not here: checks of Git and manifests, and the output format (`cli`).

mod chains;
mod checks;
mod cilium;
mod cilium_gateway;
mod firewall;
mod gather;
mod networkd;
mod others;
mod peers;
mod survey;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::core::facts::Node;
use crate::core::name::NodeName;
use crate::core::state::ownership::DatapathConfig;

/// Severity of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be, or good to know.
    Ok,
    /// Steering works, but something may disturb it.
    Warn,
    /// Some or all packets would not be steered.
    Error,
}

/// Result of one check. Its serialised form is the `--output json` of `egret doctor`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// A stable identifier for filters: `tunnel-port`, `forward-drop`.
    pub code: &'static str,
    /// Severity.
    pub severity: CheckStatus,
    /// One line.
    pub message: String,
    /// What to do about it; always present unless the severity is [`CheckStatus::Ok`].
    pub hint: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, severity: CheckStatus::Ok, message: message.into(), hint: None }
    }

    /// Something that may disturb steering.
    pub fn warn(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, severity: CheckStatus::Warn, message: message.into(), hint: Some(hint.into()) }
    }

    /// Something that keeps packets from being steered.
    pub fn error(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, severity: CheckStatus::Error, message: message.into(), hint: Some(hint.into()) }
    }
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

impl fmt::Display for Check {
    /// `message (hint: ...)` in one line, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

/// Configuration and cluster facts that decide what counts as a conflict.
#[derive(Debug, Clone, Default)]
pub struct DoctorInput {
    /// The marks, tables, port and MTU that Egret is to use here.
    pub range: DatapathConfig,
    /// Whether egret.yaml gives the mark bits of `range`; otherwise this node chooses bits that nothing else uses.
    pub mask_is_given: bool,
    /// The other nodes: name, tunnel address, pod networks.
    pub peers: Vec<(NodeName, IpAddr, Vec<IpNet>)>,
    /// This node in the cluster's facts, if they were given.
    pub node: Option<(NodeName, Node)>,
    /// The data of the ConfigMap `cilium-config`, where known.
    pub cilium: Option<BTreeMap<String, String>>,
    /// Names of the policies in Git.
    pub own_policies: BTreeSet<String>,
    /// Names of the CiliumEgressGatewayPolicies among the cluster's manifests.
    pub cilium_policies: BTreeSet<String>,
}

/// Checks this machine in the network namespace of the calling thread and returns all results, good and bad, always in
/// the same order. Must be called within a tokio runtime. What cannot be checked is a result of its own.
pub async fn examine(input: &DoctorInput) -> Vec<Check> {
    let (survey, input) = gather::gather(input).await;
    let input = &input;
    let mut found = checks::machine(&survey, input);
    found.extend(peers::peers(&survey, input));
    found.extend(others::others(&survey, input));
    found.extend(cilium::cilium(&survey, input));
    found.extend(cilium_gateway::cilium_gateway(&survey, input));
    found
}

/// What would keep this node from steering packets, to be logged at startup. None of it prevents the start: the datapath
/// may be right for some policies and wrong for others.
pub async fn blockers(range: DatapathConfig) -> Vec<Check> {
    let mut found = examine(&DoctorInput { range, mask_is_given: true, ..DoctorInput::default() }).await;
    found.retain(|check| check.severity == CheckStatus::Error);
    found
}
