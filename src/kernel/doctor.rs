//! Doctor: whether this machine can do its part, who else is at work on it, and what to do where the two don't go together.
//!
//! Facts are gathered first (`gather`; what the kernel can do is tried in a network namespace that exists for a moment, `trial`),
//! then judged by pure functions (`checks` for the machine itself, `others` for whoever else is there, `cilium` for the CNI).
//! Deliberately absent: changing anything on the machine, Git and manifests (the command asks those edges itself), and how the
//! result looks.

mod chains;
mod checks;
mod cilium;
mod forward;
mod gather;
mod networkd;
mod others;
mod peers;
mod survey;
mod trial;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::core::facts::Node;
use crate::core::name::NodeName;
use crate::core::state::ownership::DatapathConfig;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be, or good to know.
    Ok,
    /// Steering works; something may disturb it.
    Warn,
    /// Packets would not be steered, or not all of them.
    Error,
}

/// One thing that was looked at. Its serialised form is the `--output json` of `egret doctor`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// A stable word for filters: `tunnel-port`, `forward-drop`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: CheckStatus,
    /// One line.
    pub message: String,
    /// What to do about it; always there unless the severity is [`Severity::Ok`].
    pub hint: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, severity: CheckStatus::Ok, message: message.into(), hint: None }
    }

    /// Something that may disturb.
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

/// What is known beforehand, and decides what counts as a conflict.
#[derive(Debug, Clone, Default)]
pub struct DoctorInput {
    /// The marks, tables, port and MTU that Egret is to use here.
    pub range: DatapathConfig,
    /// The marks of `range` are those to use; else this node takes some that nobody else uses.
    pub mask_is_given: bool,
    /// The other nodes: where tunnels to them lead, and the networks of their pods.
    pub peers: Vec<(NodeName, IpAddr, Vec<IpNet>)>,
    /// This node as the cluster's facts have it; none where they were not given.
    pub node: Option<(NodeName, Node)>,
    /// The data of the ConfigMap `cilium-config`, where it is known.
    pub cilium: Option<BTreeMap<String, String>>,
}

/// Looks at this machine in the network namespace of the calling thread, and says everything there is to say, good and bad,
/// always in the same order. Has to be called within a tokio runtime. What cannot be looked at is a check of its own.
pub async fn examine(asked: &DoctorInput) -> Vec<Check> {
    let (survey, asked) = gather::gather(asked).await;
    let asked = &asked;
    let mut found = checks::machine(&survey, asked);
    found.extend(peers::peers(&survey, asked));
    found.extend(others::others(&survey, asked));
    found.extend(cilium::cilium(&survey, asked));
    found
}

/// What would keep this node from steering packets: for a node that starts, to be logged before its first round. Nothing of it
/// is a reason not to start; the datapath may be right for some policies and wrong for others.
pub async fn blockers(range: DatapathConfig) -> Vec<Check> {
    let mut found = examine(&DoctorInput { range, mask_is_given: true, ..DoctorInput::default() }).await;
    found.retain(|check| check.severity == CheckStatus::Error);
    found
}
