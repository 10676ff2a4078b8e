//! Findings of placement and compilation that an operator should know about. They never stop anything.
//!
//! Not here: mistakes in documents (`diagnostic`), and changes by other programs (`report::drift`).

use std::fmt;

use super::state::AddressFamily;

/// One finding. Ordered by code and subject, so that lists are stable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// A stable code: `no-gateway`, `egress-address-missing`.
    pub code: String,
    /// The policy, exit or node it is about.
    pub subject: String,
    /// One sentence.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Codes of findings about an exit by which its packets are dropped, with the word for programs: of a metric, of an explanation, and where
/// conditions have it, of a condition.
const DROPS: [(&str, &str); 13] = [
    ("bad-next-hop", "NoRoute"),
    ("egress-address-missing", "EgressIPMissing"),
    ("gateway-silent", "GatewaySilent"),
    ("interface-down", "EgressIPMissing"),
    ("kernel-refused", "KernelRefused"),
    ("marks-used-up", "MarksUsedUp"),
    ("no-carrier", "EgressIPMissing"),
    ("next-hop-silent", "NextHopSilent"),
    ("next-hop-silent-in-part", "NoRoute"),
    ("no-next-hop", "NoRoute"),
    ("no-tunnel-address", "GatewayUnreachable"),
    ("not-forwarding", "GatewayNotForwarding"),
    ("peer-is-own-address", "GatewayUnreachable"),
];

impl Finding {
    /// The word for packets of an exit that are dropped because of this.
    pub fn drop_reason(&self) -> Option<&'static str> {
        DROPS.iter().find(|(code, _)| *code == self.code).map(|(_, reason)| *reason)
    }

    /// A finding without a hint.
    pub fn new(code: &str, subject: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), subject: subject.to_string(), message: message.into(), hint: None }
    }

    /// Whether it is about packets of a family: a message that names one family alone is about that one.
    pub fn is_about(&self, family: AddressFamily) -> bool {
        let message = self.message.to_ascii_lowercase();
        let names = |family: AddressFamily| message.contains(&family.version().to_ascii_lowercase());
        names(family) || !AddressFamily::BOTH.into_iter().any(names)
    }

    /// Whether something does not work because of it. Other findings are informational.
    pub fn is_problem(&self) -> bool {
        !matches!(
            self.code.as_str(),
            "next-hop-assumed"
                | "overlap"
                | "suspended"
                | "marks-moved"
                | "egress-address-twice"
                | "interface-renamed"
                | "point-to-point"
                | "pool-address"
        )
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}
