//! Which destinations are never steered: the cluster's own networks, and what no router forwards.
//!
//! Nodes and previews ask here, so that both mean the same. Absent are the algebra of ranges (`cidr`), and which networks CNIs use (`pools`).

use std::net::IpAddr;

use ipnet::IpNet;

use super::cidr::RangeSet;
use super::facts::Facts;
use super::placement::Placement;
use super::policy::PolicySet;
use super::policy::config::Config;

/// What no router forwards, and so no gateway: loopback, link-local (a cloud's metadata service, a node's own DNS cache) and
/// multicast, neighbour discovery among it (RFC 1122 3.2.1.3, RFC 3927 2.7, RFC 4291 2.4). A destination as wide as 0.0.0.0/0
/// does not mean them.
const NEVER_FORWARDED: [&str; 7] =
    ["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::1/128", "fe80::/10", "ff00::/8"];

/// The cluster's own networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnNetworks {
    /// Those that pods have their addresses from.
    pub pods: RangeSet,
    /// Destinations that no node steers.
    never_steered: RangeSet,
}

impl OwnNetworks {
    /// By the configuration, the nodes and their CNIs.
    pub fn of(config: &Config, facts: &Facts) -> Self {
        let addresses = facts.nodes.values().flat_map(|node| &node.addresses).map(|address| IpNet::from(*address));
        let never_steered = NEVER_FORWARDED
            .iter()
            .filter_map(|net| net.parse::<IpNet>().ok())
            .chain(addresses)
            .chain(config.pod_networks(facts))
            .chain(config.service_cidrs.iter().copied())
            .chain(config.exclusions.iter().copied())
            .collect();
        Self { pods: config.pod_networks(facts).collect(), never_steered }
    }

    /// Of the addresses of one node's pods those that no network has.
    pub fn outside(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
        addresses.into_iter().filter(|address| !self.pods.contains(*address)).collect()
    }

    /// Destinations that a node never steers, whose pods have these addresses [outside](Self::outside) of all networks: a policy's
    /// destination can mean none of them.
    pub fn never_steered(&self, outside: &[IpAddr]) -> RangeSet {
        outside.iter().map(|address| IpNet::from(*address)).collect::<RangeSet>().union(&self.never_steered)
    }
}

/// Destinations that some active policy names: a pod that is not classified yet must not reach them.
pub fn guarded(set: &PolicySet, placement: &Placement) -> RangeSet {
    destinations(set, placement).collect()
}

/// The destinations of all active policies.
pub fn destinations<'a>(set: &'a PolicySet, placement: &'a Placement) -> impl Iterator<Item = IpNet> + 'a {
    placement.policies.keys().flat_map(|policy| set.policies[policy].destinations.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_special_address_is_steered_and_every_one_that_a_router_forwards_is() {
        let networks = OwnNetworks::of(&Config::default(), &Facts::default()).never_steered(&[]);
        let never = ["127.0.0.1", "169.254.169.254", "239.1.2.3", "255.255.255.255", "::1", "fe80::2", "ff02::1"];
        assert!(never.iter().all(|text| networks.contains(address(text))));
        let steered = ["0.0.0.1", "10.0.0.1", "169.255.0.1", "223.255.255.255", "240.0.0.1", "fd00::1", "fec0::1"];
        assert!(!steered.iter().any(|text| networks.contains(address(text))));
    }
}
