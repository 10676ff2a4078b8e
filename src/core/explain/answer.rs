//! What a kernel is asked, and what is answered: the form in which an agent reports what its kernel holds for one pod
//! and one destination.
//!
//! An answer comes from another node and is not trusted: it is bounded when it is made, and again when it is read. Not
//! here: how it is found (`kernel`), HTTP, and who may ask (`serve`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::core::finding::Finding;
use crate::core::plan::conntrack::Connection;
use crate::core::state::nft::COMMENT_LIMIT;
use crate::core::text::{query_pairs, shortened, url_part};

/// The header with the token of whoever asks an agent. The API server removes `Authorization` of what it hands on, and nothing else.
pub const TOKEN_HEADER: &str = "egret-token";

/// Counted up when a field goes, or means something else.
pub const ANSWER_FORMAT: u32 = 1;

/// The most differences and connections in an answer, and the most characters of a text in it.
const DIFFERENCES: usize = 16;
const CONNECTIONS: usize = 64;
const LONGEST: usize = 500;

/// What one node's kernel is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelQuestion {
    /// The address of the pod.
    pub source: Option<IpAddr>,
    /// Whether the pod is on this node: its way through the maps is followed.
    pub here: bool,
    /// Where to.
    pub destination: Option<IpAddr>,
    /// The exit that was decided, by its identity.
    pub exit: Option<String>,
    /// Whether the pod's connections to the destination are listed, too.
    pub connections: bool,
}

impl KernelQuestion {
    /// As the query of a URL.
    pub fn query(&self) -> String {
        let mut parts = Vec::new();
        let address =
            |name: &str, value: Option<IpAddr>| value.map(|value| format!("{name}={}", url_part(&value.to_string())));
        parts.extend(address("source", self.source));
        parts.extend(self.here.then(|| "here=true".to_owned()));
        parts.extend(address("destination", self.destination));
        parts.extend(self.exit.as_ref().map(|exit| format!("exit={}", url_part(exit))));
        parts.extend(self.connections.then(|| "connections=true".to_owned()));
        parts.join("&")
    }

    /// Reads it. Names that are not known are an error: an older agent must not answer half of a question.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut question = Self::default();
        for (name, value) in query_pairs(query) {
            let address = || value.parse().map(Some).map_err(|_| format!("{name} is no address"));
            match name.as_str() {
                "source" => question.source = address()?,
                "destination" => question.destination = address()?,
                "here" => question.here = value == "true",
                "connections" => question.connections = value == "true",
                "exit" if value.len() <= COMMENT_LIMIT => question.exit = Some(value),
                "exit" => return Err("exit is longer than any exit's name".to_owned()),
                _ => return Err("there is a parameter that this agent does not know".to_owned()),
            }
        }
        if question.destination.is_none() {
            return Err("destination is missing".to_owned());
        }
        Ok(question)
    }
}

/// The way of the packets through one kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KernelWay {
    /// The group of the pod, on its node.
    pub group: Option<String>,
    /// The exit that the packets are led to, by number, or what becomes of them otherwise.
    pub verdict: Option<String>,
    /// By what the node, which does not know the pod, drops what it sends there until it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
    /// The exit's number.
    pub exit: Option<u32>,
    /// The rule that leads to the exit's table.
    pub rule: Option<String>,
    /// The route in that table.
    pub route: Option<String>,
}

/// How a packet of a pod that the node does not know is recognised as one of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeldBack {
    /// By its address, which is in a network of pods.
    ByAddress,
    /// By its interface, if that is a veth.
    ByInterface,
}

/// What the rules on the way have counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counted {
    /// Packets of the exit, of all its members.
    pub packets: Option<u64>,
    /// Packets of the pod's group that no map had, if there were any.
    pub dropped: Option<u64>,
}

/// An object of a kernel that differs from what it has to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Difference {
    /// `ip rule 501`, `nft inet egret map group_of4`.
    pub object: String,
    /// As it has to be; none: it is not Egret's.
    pub desired: Option<String>,
    /// As it is; none: it is missing.
    pub observed: Option<String>,
}

/// The way out of an exit, on its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WayOut {
    /// The egress address.
    pub address: IpAddr,
    /// Its interface.
    pub interface: String,
    /// Whether a route leads to the destination.
    pub reaches: bool,
    /// The next hop and its interface, if it did not answer neighbour resolution.
    pub silent: Option<(IpAddr, String)>,
}

/// A node's answer about an exit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExitAnswer {
    /// The exit.
    pub identity: String,
    /// Why its packets end here.
    pub fault: Option<Finding>,
    /// The exit that carries its packets while its gateway does not answer, by identity.
    pub carrier: Option<String>,
    /// The way out, on its gateway.
    pub way_out: Option<WayOut>,
}

/// A connection of the pod, as this node tracks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionAnswer {
    /// Where the replies are sent to.
    pub replies_to: IpAddr,
    /// Whether a reply was seen.
    pub answered: bool,
    /// The exit whose mark it has: its identity; none: it is not steered.
    pub exit: Option<String>,
    /// The node of that exit.
    pub gateway: Option<String>,
}

/// The exit of each mark, as one node numbers them: its identity and its gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitNumbers {
    pub(super) mask: u32,
    pub(super) exits: BTreeMap<u32, (String, String)>,
}

impl ExitNumbers {
    /// Those of tracked connections that lead to a destination.
    pub fn connections(&self, tracked: &[Connection], destination: IpAddr) -> Vec<ConnectionAnswer> {
        let to_it = tracked.iter().filter(|one| one.destination == destination);
        let answer = |one: &Connection| {
            let exit = self.exits.get(&((one.mark & self.mask) >> self.mask.trailing_zeros()));
            ConnectionAnswer {
                replies_to: one.replies_to,
                answered: one.answered,
                exit: exit.map(|(identity, _)| identity.clone()),
                gateway: exit.map(|(_, gateway)| gateway.clone()),
            }
        };
        to_it.map(answer).collect()
    }
}

/// What a node's kernel holds for one pod and one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelAnswer {
    /// The version of this form.
    pub format_version: u32,
    /// When it was read, by the node's clock.
    pub at: Timestamp,
    /// The commit that is applied there.
    pub revision: String,
    /// The way of the packets.
    pub way: KernelWay,
    /// The exit that the kernel leads the pod's packets to, by identity; none on other nodes than the pod's, and if it leads to none.
    #[serde(default)]
    pub leads_to: Option<String>,
    /// What was counted.
    #[serde(default)]
    pub counted: Counted,
    /// What differs on the way.
    #[serde(default)]
    pub differs: Vec<Difference>,
    /// Its answer about the exit that it was asked about; none: it was asked about none.
    #[serde(default)]
    pub exit: Option<ExitAnswer>,
    /// The pod's connections to the destination, if they were asked for.
    #[serde(default)]
    pub connections: Option<Vec<ConnectionAnswer>>,
}

/// What became of a question: the answer, or why there is none.
pub type Told = Result<KernelAnswer, String>;

impl KernelAnswer {
    /// The same within bounds.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let cut = |text: &mut String| *text = shortened(text, LONGEST);
        let cut_some = |text: &mut Option<String>| *text = text.as_deref().map(|text| shortened(text, LONGEST));
        cut(&mut self.revision);
        let KernelWay { group, verdict, rule, route, .. } = &mut self.way;
        [group, verdict, rule, route, &mut self.leads_to].into_iter().for_each(cut_some);
        self.differs.truncate(DIFFERENCES);
        for Difference { object, desired, observed } in &mut self.differs {
            cut(object);
            cut_some(desired);
            cut_some(observed);
        }
        if let Some(ExitAnswer { identity, fault, carrier, way_out }) = &mut self.exit {
            cut(identity);
            cut_some(carrier);
            if let Some(finding) = fault {
                cut(&mut finding.code);
                cut(&mut finding.subject);
                cut(&mut finding.message);
                cut_some(&mut finding.hint);
            }
            if let Some(WayOut { interface, silent, .. }) = way_out {
                cut(interface);
                if let Some((_, interface)) = silent {
                    cut(interface);
                }
            }
        }
        if let Some(connections) = &mut self.connections {
            connections.truncate(CONNECTIONS);
            for one in connections {
                cut_some(&mut one.exit);
                cut_some(&mut one.gateway);
            }
        }
        self
    }
}

impl fmt::Display for KernelWay {
    /// `group 0a1b → exit 1, rule 501, table 9001 unreachable`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        match (&self.group, &self.verdict) {
            (Some(group), Some(verdict)) => parts.push(format!("group {group} → {verdict}")),
            (None, Some(verdict)) => parts.push(verdict.clone()),
            (_, None) => parts.extend(self.exit.map(|id| format!("exit {id}"))),
        }
        if self.exit.is_some() {
            parts.push(self.rule.clone().unwrap_or_else(|| "no rule".to_owned()));
            parts.push(self.route.clone().unwrap_or_else(|| "no route".to_owned()));
        }
        if parts.is_empty() {
            parts.push("nothing of Egret's".to_owned());
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_back_as_it_was_asked() {
        let question = KernelQuestion {
            source: Some([10, 1, 1, 177].into()),
            here: true,
            destination: Some("fd00::1".parse().unwrap()),
            exit: Some("kind-worker2 dev net&1 via 10.0.3.1".to_owned()),
            connections: true,
        };
        assert_eq!(KernelQuestion::parse(&question.query()), Ok(question));
        for wrong in
            ["", "source=x", "destination=10.0.0.1&more=1", &format!("destination=::1&exit={}", "x".repeat(128))]
        {
            assert!(KernelQuestion::parse(wrong).is_err(), "{wrong}");
        }
    }
}
