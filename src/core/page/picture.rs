//! The picture: which policies' pods leave through which gateway with which address, and how much.
//!
//! It has a bounded number of boxes, whatever the cluster's size: the worst and the busiest policies, with the ways that these take.
//! Not here: where a box is drawn (`serve::ui`).

use std::collections::BTreeMap;

use crate::core::overview::{Overview, PolicyRow, Urgency};
use crate::core::rates::{Rate, Rates};

/// At most this many policies are drawn.
const POLICIES: usize = 12;
/// At most this many ways of one policy.
const WAYS: usize = 4;

/// Boxes in three columns, and the lines between them by the boxes' positions.
#[derive(Debug, Default, PartialEq)]
pub struct Picture {
    /// Policies.
    pub sources: Vec<SourceBox>,
    /// Gateways.
    pub gateways: Vec<GatewayBox>,
    /// Exits with their addresses.
    pub exits: Vec<ExitBox>,
    /// Lines from a policy to an exit. One to none: nothing carries it.
    pub lines: Vec<(usize, Option<usize>)>,
    /// Policies that are not drawn.
    pub more: usize,
}

/// A policy.
#[derive(Debug, PartialEq)]
pub struct SourceBox {
    /// Its position among the rows of the overview.
    pub row: usize,
    /// Its name.
    pub name: String,
    /// Its pods.
    pub pods: u64,
    /// How urgent it is.
    pub urgency: Urgency,
    /// Its state in a word.
    pub state: &'static str,
    /// Connections that begin per second.
    pub connections: Option<f64>,
    /// Its ways that are not drawn.
    pub more: usize,
}

/// A gateway.
#[derive(Debug, PartialEq)]
pub struct GatewayBox {
    /// The node.
    pub node: String,
    /// How urgent the node's row is.
    pub urgency: Urgency,
    /// Its state in a word; empty: it is not known.
    pub state: &'static str,
}

/// An exit of a gateway.
#[derive(Debug, PartialEq)]
pub struct ExitBox {
    /// Its identity: `kind-worker2 dev net1`.
    pub exit: String,
    /// The gateway's position.
    pub gateway: usize,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// What leaves by it, and whether that is all or only what pods of this node send.
    pub rate: Option<(Rate, bool)>,
}

/// Draws up the picture.
pub(super) fn picture(overview: &Overview, rates: Option<&Rates>) -> Picture {
    let load = |row: &PolicyRow| -> f64 {
        let of_way = |exit: &str| rates.and_then(|rates| rates.of_exit(exit)).map_or(0.0, |(rate, _)| rate.bytes);
        row.ways.iter().map(|way| of_way(&way.exit)).sum()
    };
    let mut rows: Vec<(usize, &PolicyRow, f64)> =
        overview.policies.iter().enumerate().map(|(position, row)| (position, row, load(row))).collect();
    rows.sort_by(|(_, one, load), (_, other, against)| {
        one.urgency.cmp(&other.urgency).then(against.total_cmp(load)).then(other.pods.cmp(&one.pods))
    });
    let mut picture = Picture { more: rows.len().saturating_sub(POLICIES), ..Picture::default() };
    rows.truncate(POLICIES);
    let nodes: BTreeMap<&str, (Urgency, &'static str)> =
        overview.nodes.iter().map(|row| (row.node.as_str(), (row.urgency, row.state))).collect();
    for (row, policy, _) in rows {
        picture.sources.push(SourceBox {
            row,
            name: policy.policy.to_string(),
            pods: policy.pods,
            urgency: policy.urgency,
            state: policy.state,
            connections: rates.and_then(|rates| rates.connections(&policy.policy)),
            more: policy.ways.len().saturating_sub(WAYS),
        });
        let source = picture.sources.len() - 1;
        if policy.ways.is_empty() {
            picture.lines.push((source, None));
        }
        for way in policy.ways.iter().take(WAYS) {
            let gateway = picture.gateway(&way.gateway, &nodes);
            let exit = picture.exits.iter().position(|one| one.exit == way.exit).unwrap_or_else(|| {
                let rate = rates.and_then(|rates| rates.of_exit(&way.exit));
                let (exit, addresses) = (way.exit.clone(), way.addresses.clone());
                picture.exits.push(ExitBox { exit, gateway, addresses, rate });
                picture.exits.len() - 1
            });
            picture.lines.push((source, Some(exit)));
        }
    }
    picture.by_gateway()
}

impl Picture {
    fn gateway(&mut self, node: &str, nodes: &BTreeMap<&str, (Urgency, &'static str)>) -> usize {
        self.gateways.iter().position(|one| one.node == node).unwrap_or_else(|| {
            let (urgency, state) = nodes.get(node).copied().unwrap_or((Urgency::Doubtful, ""));
            self.gateways.push(GatewayBox { node: node.to_owned(), urgency, state });
            self.gateways.len() - 1
        })
    }

    /// Exits in the order of their gateways, so that the lines between these cross nowhere.
    fn by_gateway(mut self) -> Self {
        let mut order: Vec<usize> = (0..self.exits.len()).collect();
        order.sort_by_key(|position| (self.exits[*position].gateway, *position));
        let new: BTreeMap<usize, usize> = order.iter().enumerate().map(|(now, before)| (*before, now)).collect();
        let mut exits: Vec<Option<ExitBox>> = std::mem::take(&mut self.exits).into_iter().map(Some).collect();
        self.exits = order.iter().filter_map(|position| exits[*position].take()).collect();
        for (_, exit) in &mut self.lines {
            *exit = exit.and_then(|exit| new.get(&exit).copied());
        }
        self
    }
}
