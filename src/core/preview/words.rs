//! Sentences that the comment and the terminal share.
//!
//! Deliberately absent: how they are laid out (`markdown`, `text`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::phrase::{Phrase, counted};
use super::{Input, Loss, Move, Preview, Then};
use crate::core::cidr::Range;
use crate::core::compile::{Way, egress_address};
use crate::core::placement::ExitKey;
use crate::core::policy::{ExistingConnections, Policy, PolicyId};
use crate::core::state::nft::AddressFamily;

/// Sentences about one preview.
#[derive(Debug, Clone, Copy)]
pub struct Words<'p>(pub &'p Preview<'p>);

/// What an exit's packets leave as: its address where it is known, else where it is from.
pub(super) fn leaves_as(input: &Input<'_>, exit: &ExitKey, towards: &[Range]) -> String {
    let families: BTreeSet<AddressFamily> = towards.iter().map(|range| AddressFamily::of(range.first())).collect();
    let known = input.grounds.get(&exit.gateway);
    let addresses: Vec<String> = families
        .into_iter()
        .filter_map(|family| match egress_address(exit, family, known?) {
            Ok(Some((_, address))) => Some(address.to_string()),
            Ok(None) | Err(_) => None,
        })
        .collect();
    match &exit.egress {
        _ if !addresses.is_empty() => addresses.join(" and "),
        crate::core::policy::Egress::Address(address) => address.to_string(),
        crate::core::policy::Egress::Interface(name) => name.to_string(),
        crate::core::policy::Egress::DefaultRoute => "its default address".to_owned(),
    }
}

/// A way out.
pub(super) fn way(input: &Input<'_>, way: &Way, towards: &[Range]) -> Phrase {
    match way {
        Way::Own => Phrase::new().words("own address"),
        Way::Drop => Phrase::new().words("dropped"),
        Way::Exit(exit) => {
            let hops: Vec<String> = exit.next_hops.iter().map(|hop| format!(" via {hop}")).collect();
            Phrase::new().name(leaves_as(input, exit, towards)).words(" · ").name(&exit.gateway).words(hops.concat())
        }
    }
}

/// Destinations as prefixes, a few of them.
pub(super) fn towards(ranges: &[Range]) -> Phrase {
    /// More prefixes than these are counted.
    const LISTED: usize = 4;
    let prefixes = |range: &Range| -> Vec<IpNet> {
        match (range.first(), range.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(first, last, 0).take(LISTED + 1).map(IpNet::V4).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                Ipv6Subnets::new(first, last, 0).take(LISTED + 1).map(IpNet::V6).collect()
            }
            _ => Vec::new(),
        }
    };
    let mut texts: Vec<String> = Vec::new();
    for range in ranges {
        let prefixes = prefixes(range);
        if prefixes.len() > LISTED {
            texts.push(range.to_string());
        } else {
            texts.extend(prefixes.iter().map(ToString::to_string));
        }
    }
    let more = texts.len().saturating_sub(LISTED);
    let listed = texts.iter().take(LISTED).enumerate().fold(Phrase::new(), |phrase, (position, text)| {
        if position > 0 { phrase.words(", ").name(text) } else { phrase.name(text) }
    });
    if more > 0 { listed.words(format!(" and {more} more")) } else { listed }
}

/// A policy's name. Two of different kinds may share one.
pub(super) fn policy(input: &Input<'_>, id: &PolicyId) -> Phrase {
    let twins =
        |set: &crate::core::policy::PolicySet| set.policies.keys().filter(|other| other.name == id.name).count();
    let phrase = Phrase::new().name(id);
    if twins(input.before).max(twins(input.after)) < 2 {
        return phrase;
    }
    phrase.words(match id.kind {
        crate::core::policy::PolicyKind::Cilium => " (Cilium)",
        crate::core::policy::PolicyKind::Egret => " (EgressPolicy)",
    })
}

impl Words<'_> {
    /// What it comes to.
    pub fn verdict(&self) -> String {
        let Preview { moved, nodes, input, .. } = self.0;
        let errors = input.validation.tally.errors;
        let change = match (*moved, nodes.changed) {
            (0, 0) if !self.0.changes() && !input.concerned => "nothing for this cluster".to_owned(),
            (0, 0) if !self.0.changes() => "nothing changes".to_owned(),
            (0, 0) => "nothing changes in the cluster".to_owned(),
            (0, nodes) => format!("no pod changes its way out, {} changed", is(nodes)),
            (pods, _) => format!("{} would leave another way", counted(pods, "pod")),
        };
        if errors == 0 { change } else { format!("does not validate; {change}") }
    }

    /// Commits, cluster, validation.
    pub fn subtitle(&self) -> Vec<Phrase> {
        let Input { commits: (base, head), facts_from, validation, .. } = self.0.input;
        let tally = validation.tally;
        let counts = format!(
            "validated: {}, {} in {}",
            counted(tally.errors, "error"),
            counted(tally.warnings, "warning"),
            counted(tally.documents, "document")
        );
        vec![
            Phrase::new().name(head).words(" onto ").name(base),
            Phrase::new().words("cluster as of ").quote(facts_from),
            Phrase::new().words(counts),
        ]
    }

    /// `1 policy added, 2 changed, 1 removed · 3 of 120 nodes`
    pub fn counts(&self) -> String {
        let policies = &self.0.policies;
        let all =
            [(policies.added.len(), "added"), (policies.changed.len(), "changed"), (policies.removed.len(), "removed")];
        let mut parts: Vec<String> = Vec::new();
        for (count, what) in all.into_iter().filter(|(count, _)| *count > 0) {
            parts.push(if parts.is_empty() {
                format!("{} {what}", counted(count, "policy"))
            } else {
                format!("{count} {what}")
            });
        }
        let nodes = &self.0.nodes;
        let nodes = format!("{} of {} changed", nodes.changed, counted(nodes.total, "node"));
        if parts.is_empty() { nodes } else { format!("{} · {nodes}", parts.join(", ")) }
    }

    /// Where a move's pods go from, where to, towards what.
    pub fn ways(&self, one: &Move) -> [Phrase; 3] {
        let input = &self.0.input;
        [way(input, &one.from, &one.towards), way(input, &one.to, &one.towards), towards(&one.towards)]
    }

    /// Whose pods.
    pub fn policy(&self, id: &PolicyId) -> Phrase {
        policy(&self.0.input, id)
    }

    /// What happens if a gateway dies.
    pub fn loss(&self, loss: &Loss) -> Phrase {
        let pods = counted(loss.pods, "pod");
        let of = Phrase::new().words(format!("{pods} of ")).join(self.policy(&loss.policy));
        match &loss.then {
            Then::Dropped => of.words(if loss.pods == 1 {
                " is dropped: there is no other gateway"
            } else {
                " are dropped: there is no other gateway"
            }),
            Then::Own => of.words(if loss.pods == 1 {
                " leaves with its own address"
            } else {
                " leave with their own addresses"
            }),
            Then::Through(exits) => {
                let everywhere = self.0.input.after.policies.get(&loss.policy);
                let ranges: Vec<Range> = everywhere
                    .into_iter()
                    .flat_map(|policy| &policy.destinations)
                    .map(|net| Range::from(*net))
                    .collect();
                exits.iter().enumerate().fold(
                    of.words(if loss.pods == 1 { " leaves as " } else { " leave as " }),
                    |phrase, (position, exit)| {
                        let phrase = if position > 0 { phrase.words(" or ") } else { phrase };
                        phrase.join(way(&self.0.input, &Way::Exit(exit.clone()), &ranges))
                    },
                )
            }
        }
    }

    /// What becomes of live connections.
    pub fn connections(&self) -> Option<Phrase> {
        let moves = self.0.moves.iter().filter(|one| one.from != Way::Own || one.to != Way::Own);
        let policies: BTreeSet<&PolicyId> = moves.map(|one| &one.policy).collect();
        let resets = |policy: &Policy| policy.existing_connections == ExistingConnections::Reset;
        let (reset, keep): (Vec<&PolicyId>, Vec<&PolicyId>) = policies
            .into_iter()
            .filter(|id| self.0.input.after.policies.contains_key(*id))
            .partition(|id| resets(&self.0.input.after.policies[*id]));
        match (reset.is_empty(), keep.is_empty()) {
            (true, true) => None,
            (true, false) => Some(Phrase::new().words("Live connections stay on the way they began on (Keep).")),
            (false, true) => Some(Phrase::new().words("Live connections are reset (Reset).")),
            (false, false) => Some(
                Phrase::new()
                    .words("Live connections of ")
                    .names(reset)
                    .words(" are reset, those of the others stay on their way."),
            ),
        }
    }
}

fn is(nodes: usize) -> String {
    if nodes == 1 { "1 node is".to_owned() } else { format!("{nodes} nodes are") }
}
