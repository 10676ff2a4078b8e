//! What a reviewer has to look at before it is merged.
//!
//! Only what the change brings: what was there before is no news. Deliberately absent: mistakes in documents, which are diagnostics; the
//! warnings among those are told here in their own words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Input;
use super::phrase::{Phrase, counted};
use super::ways::{Move, Ways};
use super::words::{leaves_as, policy as named, towards};
use super::world::World;
use crate::core::cidr::{Range, RangeSet};
use crate::core::compile::{Way, egress_address};
use crate::core::diagnostic::Severity;
use crate::core::placement::ExitKey;
use crate::core::policy::{OnNoGateway, Policy, PolicyId};
use crate::core::state::nft::AddressFamily;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Packets are lost or leave with a wrong address if nobody does something.
    Danger,
    /// Somebody should look.
    Warning,
    /// For knowing.
    Note,
    /// It comes into force later, or sooner than others would.
    Waits,
}

/// One thing to look at. Ordered by how bad it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Danger {
    /// How bad it is.
    pub level: Level,
    /// A stable word: `firewall`, `one-gateway`.
    pub code: &'static str,
    /// Two or three words.
    pub title: &'static str,
    /// The sentence.
    pub text: Phrase,
}

struct Finder<'a, 'w> {
    input: &'a Input<'a>,
    before: &'a World<'w>,
    after: &'a World<'w>,
    ways: &'a Ways,
    found: BTreeSet<Danger>,
}

/// Finds everything.
pub(super) fn find<'a>(
    input: &'a Input<'a>,
    before: &'a World<'_>,
    after: &'a World<'_>,
    ways: &'a Ways,
    touched: &BTreeSet<PolicyId>,
) -> Vec<Danger> {
    let mut finder = Finder { input, before, after, ways, found: BTreeSet::new() };
    for policy in touched.iter().filter_map(|id| after.set.policies.get(id)) {
        finder.gateways(policy);
        finder.missing_addresses(policy);
        finder.nobody(policy);
        finder.own_cluster(policy);
    }
    finder.firewall();
    finder.removals();
    finder.overlaps(touched);
    finder.warnings();
    finder.found.into_iter().collect()
}

impl Finder<'_, '_> {
    fn add(&mut self, level: Level, code: &'static str, title: &'static str, text: Phrase) {
        self.found.insert(Danger { level, code, title, text });
    }

    /// No gateway, or one only.
    fn gateways(&mut self, policy: &Policy) {
        let Some(placed) = self.after.placement.policies.get(&policy.id) else {
            let until = policy.suspend.as_ref().filter(|suspend| self.input.now < suspend.until);
            if let Some(suspend) = until {
                let text = named(self.input, &policy.id).words(format!(" is not in force until {}", suspend.until));
                let text = suspend.owner.iter().fold(text, |text, owner| text.words(", says ").quote(owner));
                let text = text.words(": ").quote(suspend.reason.clone());
                self.add(Level::Note, "suspended", "Suspended", text);
            }
            return;
        };
        let members = self.ways.members_of(&policy.id).1;
        let had = self.before.placement.policies.get(&policy.id);
        if placed.exits.is_empty() {
            let labels: Vec<String> = policy.gateways.iter().map(|spec| spec.node.to_string()).collect();
            let lost =
                if had.is_some_and(|had| !had.exits.is_empty()) { "its last gateway is gone" } else { "it has none" };
            let text =
                named(self.input, &policy.id).words(format!(": {lost}, no fit node has the labels ")).names(labels);
            let text = match policy.on_no_gateway {
                OnNoGateway::Drop => text.words(format!("; what {} to its destinations is dropped", sends(members))),
                OnNoGateway::Passthrough => text.words(format!("; {} with its own address", leaves(members))),
            };
            self.add(Level::Danger, "no-gateway", "No gateway", text);
            return;
        }
        let one = self.after.candidates(policy) == 1 && members > 0;
        let news = had.is_none_or(|had| had.exits != placed.exits)
            || self.before.set.policies.get(&policy.id).is_some_and(|was| self.before.candidates(was) > 1);
        if one && news {
            let gateway = &placed.exits[0].gateway;
            let text = named(self.input, &policy.id).words(" has no second gateway. If ").name(gateway);
            let text = match policy.on_no_gateway {
                OnNoGateway::Drop => text.words(format!(
                    " dies, {} can't reach its destinations (dropped, not leaked)",
                    counted(members, "pod")
                )),
                OnNoGateway::Passthrough => text.words(format!(" dies, {} with its own address", leaves(members))),
            };
            self.add(Level::Warning, "one-gateway", "One gateway left", text);
        }
    }

    /// Addresses that a gateway is known not to have.
    fn missing_addresses(&mut self, policy: &Policy) {
        let families: BTreeSet<AddressFamily> =
            policy.destinations.iter().map(|net| AddressFamily::of(net.addr())).collect();
        let Some(placed) = self.after.placement.policies.get(&policy.id) else { return };
        for exit in &placed.exits {
            let Some(ground) = self.input.grounds.get(&exit.gateway) else { continue };
            for finding in families.iter().filter_map(|family| egress_address(exit, *family, ground).err()) {
                let text = named(self.input, &policy.id).words(": ").quote(finding.message);
                self.add(Level::Danger, "egress-address-missing", "Address missing", text);
            }
        }
    }

    fn nobody(&mut self, policy: &Policy) {
        let (before, after) = self.ways.members_of(&policy.id);
        if after == 0 && before > 0 && !policy.suspended(self.input.now) {
            let text = named(self.input, &policy.id)
                .words(format!(" selects no pod any more; {} before", counted(before, "pod")));
            self.add(Level::Warning, "no-member", "Selects nothing", text);
        }
    }

    /// The API server and the cluster's DNS: never steered, but whoever names them may believe otherwise.
    fn own_cluster(&mut self, policy: &Policy) {
        const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
        let earlier =
            self.before.set.policies.get(&policy.id).map(|was| was.destinations.as_slice()).unwrap_or_default();
        let facts = &self.after.facts;
        let servers = facts.nodes.iter().filter(|(_, node)| node.labels.contains_key(CONTROL_PLANE));
        let servers =
            servers.flat_map(|(name, node)| node.addresses.iter().map(|address| (name.to_string(), *address)));
        let resolvers = facts
            .pods
            .iter()
            .filter(|(_, pod)| pod.labels.get("k8s-app").is_some_and(|app| app == "kube-dns" || app == "coredns"));
        let resolvers =
            resolvers.flat_map(|(name, pod)| pod.addresses.iter().map(|address| (name.to_string(), *address)));
        let all: [(&str, Vec<(String, IpAddr)>); 2] =
            [("the API server", servers.collect()), ("the cluster's DNS", resolvers.collect())];
        for net in policy.destinations.iter().filter(|net| !earlier.contains(net)) {
            for (what, places) in &all {
                let excluded = |address: &IpAddr| policy.excluded.iter().any(|net| net.contains(address));
                let hit = places.iter().find(|(_, address)| net.contains(address) && !excluded(address));
                if let Some((name, address)) = hit {
                    let text = named(self.input, &policy.id)
                        .words(": ")
                        .name(net)
                        .words(format!(" covers {what} ("))
                        .name(name)
                        .words(", ")
                        .name(address)
                        .words("); it is never steered, so this would not do what it seems to say");
                    self.add(Level::Warning, "covers-cluster", "Covers the cluster", text);
                }
            }
        }
    }

    /// Addresses that are new for a policy: somebody's firewall has to know them.
    fn firewall(&mut self) {
        let mut news: BTreeMap<(PolicyId, ExitKey), (BTreeSet<Way>, RangeSet)> = BTreeMap::new();
        for Move { policy, from, to, towards, .. } in &self.ways.moves {
            let Way::Exit(exit) = to else { continue };
            let had = self.before.placement.policies.get(policy).is_some_and(|placed| {
                placed.exits.iter().any(|old| old == exit || same_address(self.input, old, exit, towards))
            });
            // What is known to have no address has another warning.
            let none = self.input.grounds.get(&exit.gateway).is_some_and(|ground| {
                towards.iter().all(|range| egress_address(exit, AddressFamily::of(range.first()), ground).is_err())
            });
            if !had && !none {
                let (froms, all) = news.entry((policy.clone(), exit.clone())).or_default();
                froms.insert(from.clone());
                *all = all.union(&towards.iter().copied().collect());
            }
        }
        for ((policy, exit), (froms, all)) in news {
            let address = leaves_as(self.input, &exit, all.ranges());
            let text = Phrase::new();
            let text = if address.starts_with(|letter: char| letter.is_ascii_digit()) || address.contains(':') {
                text.name(address)
            } else {
                text.words("the address of ").name(address).words(" on ").name(&exit.gateway)
            };
            let text =
                text.words(" has not been an egress address of ").join(named(self.input, &policy)).words(" before. ");
            let old: Vec<String> = froms
                .iter()
                .filter_map(|way| match way {
                    Way::Exit(old) => Some(leaves_as(self.input, old, all.ranges())),
                    Way::Drop | Way::Own => None,
                })
                .collect();
            let text = if old.is_empty() {
                text.words("The firewall in front of ").join(towards(all.ranges())).words(" has to admit it")
            } else {
                let text = text.words("Whoever admits ").names(old).words(" to ").join(towards(all.ranges()));
                text.words(" has to admit it")
            };
            self.add(Level::Warning, "firewall", "Firewall", text);
        }
    }

    /// Much that goes at once is often a mistake.
    fn removals(&mut self) {
        let percent = self.input.limits.removed_percent;
        let (before, after) = (self.before.set.policies.keys(), &self.after.set.policies);
        let had = before.len();
        let gone: Vec<&PolicyId> = before.filter(|id| !after.contains_key(*id)).collect();
        if !gone.is_empty() && gone.len() * 100 > had * percent {
            let many = gone.len() > 2 || gone.len() == had;
            let text =
                Phrase::new().words(format!("{} of {} removed: ", gone.len(), counted(had, "policy"))).names(gone);
            // One of few is mostly meant.
            let level = if many { Level::Danger } else { Level::Warning };
            self.add(level, "removed", "Much is removed", text);
        }
        let (selected, still) = self.ways.selected;
        let lost = selected.saturating_sub(still);
        if lost * 100 > selected * percent {
            let text = Phrase::new()
                .words(format!("{lost} of {} that had a policy would have none", counted(selected, "pod")));
            self.add(Level::Danger, "members-removed", "Pods without a policy", text);
        }
    }

    /// Who wins where two policies name the same, or one names part of the other's.
    fn overlaps(&mut self, touched: &BTreeSet<PolicyId>) {
        for finding in &self.ways.overlaps {
            let text = Phrase::new().name(&finding.subject).words(": ").quote(finding.message.clone());
            self.found.insert(Danger { level: Level::Warning, code: "overlap", title: "Overlap", text });
        }
        let index = self.after.members();
        let mut pairs: BTreeSet<(&PolicyId, IpNet, &PolicyId, IpNet)> = BTreeSet::new();
        for one in &self.ways.moves {
            let Some(mine) = self.after.set.policies.get(&one.policy).filter(|policy| touched.contains(&policy.id))
            else {
                continue;
            };
            let Some(pod) = one.pods.first() else { continue };
            let Some(known) = self.after.facts.pods.get(pod) else { continue };
            let others = index.of(pod, known, &self.after.facts).into_iter();
            let others = others.filter(|id| *id != mine.id).filter_map(|id| self.after.set.policies.get(&id));
            for other in others {
                for (net, theirs) in
                    mine.destinations.iter().flat_map(|net| other.destinations.iter().map(move |theirs| (net, theirs)))
                {
                    if net != theirs && net.contains(theirs) {
                        pairs.insert((&other.id, *theirs, &mine.id, *net));
                    } else if net != theirs && theirs.contains(net) {
                        pairs.insert((&mine.id, *net, &other.id, *theirs));
                    }
                }
            }
        }
        for (winner, net, loser, wider) in pairs {
            let text =
                Phrase::new().name(net).words(" of ").join(named(self.input, winner)).words(" lies in ").name(wider);
            let text = text.words(" of ").join(named(self.input, loser)).words("; the longer prefix wins there");
            self.add(Level::Note, "overlap", "Overlap", text);
        }
    }

    /// Warnings of the documents that the change brings.
    fn warnings(&mut self) {
        let told: BTreeSet<&str> = self.found.iter().map(|danger| danger.code).collect();
        let skip: Vec<&str> = ["no-gateway"].into_iter().filter(|code| told.contains(code)).collect();
        let news =
            self.input.validation.found.iter().filter(|(one, known)| !known && one.severity == Severity::Warning);
        for (one, _) in news.filter(|(one, _)| !skip.contains(&one.code)) {
            let place = format!("{}:{}", one.file, one.start.line);
            let text = Phrase::new().quote(place).words(" ").quote(one.message.clone());
            self.found.insert(Danger { level: Level::Warning, code: one.code, title: "Warning", text });
        }
    }
}

fn same_address(input: &Input<'_>, one: &ExitKey, other: &ExitKey, towards: &[Range]) -> bool {
    let known = |exit: &ExitKey| {
        input.grounds.contains_key(&exit.gateway) || matches!(exit.egress, crate::core::policy::Egress::Address(_))
    };
    known(one) && known(other) && leaves_as(input, one, towards) == leaves_as(input, other, towards)
}

fn sends(pods: usize) -> String {
    if pods == 1 { "1 pod sends".to_owned() } else { format!("{pods} pods send") }
}

fn leaves(pods: usize) -> String {
    if pods == 1 { "1 pod leaves".to_owned() } else { format!("each of {pods} pods leaves") }
}
