//! A connection that was opened for an explanation, from the pod itself, and what the kernels on the way counted meanwhile.
//!
//! Not here: opening it (`kernel::pod_namespace`).

use std::time::Duration;

use super::{Explanation, KernelView, Verdict};
use crate::core::name::NodeName;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveOutcome {
    /// It was accepted.
    Connected,
    /// It was refused: by the server, or by a firewall that says so.
    Refused,
    /// It failed for another reason.
    Failed(String),
}

/// A connection that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveConnection {
    /// The destination's TCP port.
    pub port: u16,
    /// What came of it.
    pub outcome: LiveOutcome,
    /// After how long.
    pub took: Duration,
    /// How many packets of the exit each kernel on the way counted meanwhile, those of other members with them; none: it counts none.
    pub counted: Vec<(NodeName, Option<u64>)>,
}

/// How many packets each kernel counted between two explanations of the same question.
pub fn counted_between(before: &Explanation, after: &Explanation) -> Vec<(NodeName, Option<u64>)> {
    let packets = |explanation: &Explanation, of: &NodeName| {
        explanation.kernels.iter().find_map(|view| match view {
            KernelView::Read { node, counted, .. } if node == of => Some(counted.packets),
            _ => None,
        })
    };
    let nodes = after.kernels.iter().filter_map(|view| match view {
        KernelView::Read { node, .. } => Some(node),
        KernelView::Unanswered { .. } | KernelView::Reported { .. } => None,
    });
    // A kernel whose rules were replaced meanwhile counts from zero.
    let more = |node: &NodeName| Some(packets(after, node)??.saturating_sub(packets(before, node)??));
    nodes.map(|node| (node.clone(), more(node))).collect()
}

impl LiveConnection {
    /// Where to look for packets that leave by what every kernel holds and are not answered.
    pub(super) fn advice(&self, verdict: &Verdict) -> Option<String> {
        let Verdict::Leaves { address, gateway, .. } = verdict else { return None };
        if matches!(self.outcome, LiveOutcome::Connected) {
            return None;
        }
        let beyond = format!(
            "look at the firewall and the routes beyond {gateway}: do they let {address} in, and answers back to it"
        );
        let counted =
            |of: &NodeName| self.counted.iter().find(|(node, _)| node == of).and_then(|(_, packets)| *packets);
        let at_source =
            self.counted.iter().any(|(node, packets)| node != gateway && packets.is_some_and(|packets| packets > 0));
        Some(match (counted(gateway), &self.outcome) {
            (_, LiveOutcome::Refused) => format!("something answers and refuses: the server, or a firewall; {beyond}"),
            (Some(0), _) if at_source => {
                "the packets are lost between the nodes, or by a firewall of one of the two: `egret doctor` on both"
                    .to_owned()
            }
            (Some(0), _) => "the packets are lost on the pod's own node: `egret doctor` there".to_owned(),
            (Some(_), _) => format!(
                "the gateway's exit has them: `egret doctor` on {gateway} for a firewall behind it, then {beyond}"
            ),
            (None, _) => format!(
                "run `egret explain` twice on {gateway} meanwhile: if its packets of the exit get more, {beyond}; if not, the packets are lost between the nodes"
            ),
        })
    }

    /// In one line.
    pub fn line(&self) -> String {
        let took = self.took.as_millis();
        let outcome = match &self.outcome {
            LiveOutcome::Connected => format!("accepted after {took} ms"),
            LiveOutcome::Refused => format!("refused after {took} ms"),
            LiveOutcome::Failed(why) => format!("no answer: {why}"),
        };
        let counted = self.counted.iter().map(|(node, packets)| match packets {
            Some(packets) => format!("{node} counted {packets} packets of the exit meanwhile"),
            None => format!("{node} counts no packets of it"),
        });
        [format!("TCP port {} {outcome}", self.port)].into_iter().chain(counted).collect::<Vec<_>>().join("; ")
    }
}
