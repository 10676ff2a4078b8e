//! Warns of destinations that include more than may be intended: the cluster itself, or all addresses.
//!
//! Packets to the cluster are never steered, whatever a policy says; the warning tells an author who expects otherwise.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::diagnostic_sink::Span;
use super::super::{Policy, PolicySet};
use super::warning;
use crate::core::diagnostic::Diagnostic;
use crate::core::facts::Facts;

/// The cluster's networks, as far as they are known.
pub(super) struct Inside {
    pods: Vec<IpNet>,
    services: Vec<IpNet>,
    nodes: Vec<(String, IpAddr)>,
}

impl Inside {
    /// From the configuration and the nodes.
    pub(super) fn of(set: &PolicySet, facts: Option<&Facts>) -> Self {
        let nodes = || facts.into_iter().flat_map(|facts| &facts.nodes);
        let nothing = Facts::default();
        let mut pods: Vec<IpNet> = set.config.pod_networks(facts.unwrap_or(&nothing)).collect();
        pods.sort();
        pods.dedup();
        let addresses =
            nodes().flat_map(|(name, node)| node.addresses.iter().map(move |address| (name.to_string(), *address)));
        Self { pods, services: set.config.service_cidrs.clone(), nodes: addresses.collect() }
    }

    /// Checks one destination of a policy. At most one warning for each kind of network it includes.
    pub(super) fn check(
        &self,
        policy: &Policy,
        net: IpNet,
        exclusions: &[IpNet],
        file: &str,
        span: Span,
    ) -> Vec<Diagnostic> {
        let same_family = |other: &&IpNet| other.addr().is_ipv4() == net.addr().is_ipv4();
        let excluded: Vec<&IpNet> = policy.excluded.iter().chain(exclusions).filter(same_family).collect();
        if net.prefix_len() == 0 {
            // It includes all the others too; one warning covers them.
            return excluded.is_empty().then(|| everything(net, file, span)).into_iter().collect();
        }
        let out = |inner: &IpNet| excluded.iter().any(|excluded| excluded.contains(inner));
        let meets = |other: &&IpNet| (net.contains(*other) || other.contains(&net)) && !out(other) && !out(&net);
        let mut found = Vec::new();
        let mut take = |code, what: String| {
            let message = format!("{net} takes in {what}");
            let hint = "destinations inside of the cluster are never steered, or it would cut them off; excludedCIDRs \
                        makes that plain";
            found.push(warning(file, span, code, message, hint));
        };
        if let Some(pods) = self.pods.iter().find(meets) {
            take("covers-pods", format!("the pods of {pods}"));
        }
        if let Some(services) = self.services.iter().find(meets) {
            take("covers-services", format!("the services of {services}"));
        }
        let node = self.nodes.iter().find(|(_, address)| net.contains(address) && !out(&IpNet::from(*address)));
        if let Some((name, address)) = node {
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
