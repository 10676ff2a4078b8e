//! Warns of destinations that include more than may be intended: the cluster itself, or all addresses.
//!
//! Packets to the cluster are never steered, whatever a policy says; the warning is for an author who expects
//! otherwise.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::diagnostic_sink::Span;
use super::super::spans::PolicySpans;
use super::super::{Policy, PolicySet};
use super::warning;
use crate::core::diagnostic::Diagnostic;
use crate::core::facts::Facts;
use crate::core::name::NodeName;
use crate::core::prefixes::Prefixes;

/// The cluster's networks, as far as they are known.
pub(super) struct Inside<'a> {
    exclusions: &'a [IpNet],
    pods: Prefixes,
    services: Vec<IpNet>,
    nodes: Prefixes,
    /// The first node that has each address.
    holders: BTreeMap<IpAddr, &'a NodeName>,
}

impl<'a> Inside<'a> {
    /// From the configuration and the nodes.
    pub(super) fn of(set: &'a PolicySet, facts: Option<&'a Facts>) -> Self {
        let nodes = facts.into_iter().flat_map(|facts| &facts.nodes);
        let mut holders = BTreeMap::new();
        for (name, address) in nodes.flat_map(|(name, node)| node.addresses.iter().map(move |one| (name, *one))) {
            holders.entry(address).or_insert(name);
        }
        Self {
            exclusions: &set.config.exclusions,
            pods: set.config.pod_networks(facts.unwrap_or(&Facts::default())).collect(),
            services: set.config.service_cidrs.clone(),
            nodes: holders.keys().copied().map(IpNet::from).collect(),
            holders,
        }
    }

    /// Checks the destinations of a policy. At most one warning of each for each kind of network that it includes.
    pub(super) fn check(&self, policy: &Policy, file: &str, places: &PolicySpans) -> Vec<Diagnostic> {
        let excluded: Prefixes = policy.excluded.iter().chain(self.exclusions).copied().collect();
        let destinations = policy.destinations.iter().zip(&places.destinations);
        destinations.flat_map(|(net, span)| self.check_one(*net, &excluded, file, *span)).collect()
    }

    fn check_one(&self, net: IpNet, excluded: &Prefixes, file: &str, span: Span) -> Vec<Diagnostic> {
        if net.prefix_len() == 0 {
            // It includes all the others too; one warning covers them.
            return excluded.has_none_like(net).then(|| everything(net, file, span)).into_iter().collect();
        }
        let mut found = Vec::new();
        if excluded.around(net).is_some() {
            return found;
        }
        let mut take = |code, what: String| {
            let message = format!("{net} takes in {what}");
            let hint = "destinations inside of the cluster are never steered, or it would cut them off; excludedCIDRs \
                        makes that plain";
            found.push(warning(file, span, code, message, hint));
        };
        if let Some(pods) = self.pods.first_that_meets(net, excluded) {
            take("covers-pods", format!("the pods of {pods}"));
        }
        // They are a few, and in the order in which egret.yaml has them.
        let meets = |other: &&IpNet| net.contains(*other) || other.contains(&net);
        if let Some(services) = self.services.iter().filter(meets).find(|net| excluded.around(**net).is_none()) {
            take("covers-services", format!("the services of {services}"));
        }
        if let Some(node) = self.nodes.first_that_meets(net, excluded) {
            let (name, address) = (self.holders[&node.addr()], node.addr());
            take("covers-nodes", format!("the node {name} ({address}), with its kubelet and what is behind its ports"));
        }
        found
    }
}

fn everything(net: IpNet, file: &str, span: Span) -> Diagnostic {
    let message =
        format!("{net} is everything outside of the cluster: registries, DNS, the cloud's own interfaces too");
    let hint =
        "pods, nodes and services of the cluster are never steered; name the rest in excludedCIDRs if it must not be";
    warning(file, span, "covers-everything", message, hint)
}
