//! Which destinations are never steered, and the classes of addresses that decide it.
//!
//! Nodes, previews and warnings about documents ask here, so that all of them mean the same networks. Not here: the ranges' algebra
//! (`cidr`), and which networks CNIs use (`pools`). A hostname is absent, too: policies name addresses.

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

/// A kind of address that no host beyond one link has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialAddress {
    /// 0.0.0.0, `::` and 255.255.255.255.
    Nobody,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
}

impl SpecialAddress {
    /// The kind of an address; none: an ordinary one.
    pub fn of(address: IpAddr) -> Option<Self> {
        let (link_local, broadcast) = match address {
            IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
            IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
        };
        if address.is_unspecified() || broadcast {
            Some(Self::Nobody)
        } else if address.is_loopback() {
            Some(Self::Loopback)
        } else if link_local {
            Some(Self::LinkLocal)
        } else if address.is_multicast() {
            Some(Self::Multicast)
        } else {
            None
        }
    }
}

/// Whether an address lives on one link: 169.254.0.0/16, fe80::/10.
pub fn is_link_local(address: IpAddr) -> bool {
    SpecialAddress::of(address) == Some(SpecialAddress::LinkLocal)
}

/// Whether a route leads to nothing but hosts of one link, or to a multicast group. Every interface has such routes of its own, and no
/// packet that is steered takes one.
pub fn stays_on_link(destination: IpNet) -> bool {
    matches!(SpecialAddress::of(destination.addr()), Some(SpecialAddress::LinkLocal | SpecialAddress::Multicast))
}

/// Whether no host has this address: 0.0.0.0/8, class E and the limited broadcast (`ipv4_is_zeronet`, `ipv4_is_lbcast`, include/linux/in.h).
pub fn is_no_host(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240)
}

/// Networks that pods have their addresses from, whichever node they are on: of nodes, of egret.yaml, of CNIs.
pub fn pod_networks<'a>(config: &'a Config, facts: &'a Facts) -> impl Iterator<Item = IpNet> + 'a {
    let of_nodes = facts.nodes.values().flat_map(|node| &node.pod_cidrs);
    of_nodes.chain(&config.pod_cidrs).chain(&facts.pod_networks).copied()
}

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
            .chain(pod_networks(config, facts))
            .chain(config.service_cidrs.iter().copied())
            .chain(config.exclusions.iter().copied())
            .collect();
        Self { pods: pod_networks(config, facts).collect(), never_steered }
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

/// Destinations that some active policy names: a pod that nobody has classified yet must not reach them.
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
    fn an_address_is_of_one_kind_in_both_families() {
        use SpecialAddress::{LinkLocal, Loopback, Multicast, Nobody};
        let kinds = [
            ("0.0.0.0", Some(Nobody)),
            ("255.255.255.255", Some(Nobody)),
            ("::", Some(Nobody)),
            ("127.9.0.1", Some(Loopback)),
            ("::1", Some(Loopback)),
            ("169.254.169.254", Some(LinkLocal)),
            ("fe80::1", Some(LinkLocal)),
            ("224.0.0.251", Some(Multicast)),
            ("ff02::fb", Some(Multicast)),
            ("169.253.255.255", None),
            ("240.0.0.1", None),
            ("fec0::1", None),
        ];
        for (text, kind) in kinds {
            assert_eq!(SpecialAddress::of(address(text)), kind, "{text}");
        }
    }

    #[test]
    fn no_special_address_is_steered_and_every_one_that_a_router_forwards_is() {
        let networks = OwnNetworks::of(&Config::default(), &Facts::default()).never_steered(&[]);
        let never = ["127.0.0.1", "169.254.169.254", "239.1.2.3", "255.255.255.255", "::1", "fe80::2", "ff02::1"];
        assert!(never.iter().all(|text| networks.contains(address(text))));
        let steered = ["0.0.0.1", "10.0.0.1", "169.255.0.1", "223.255.255.255", "240.0.0.1", "fd00::1", "fec0::1"];
        assert!(!steered.iter().any(|text| networks.contains(address(text))));
    }

    #[test]
    fn a_route_to_one_link_is_told_from_others_in_both_families() {
        let on_link = |text: &str| stays_on_link(text.parse().unwrap());
        assert!(
            ["169.254.0.0/16", "169.254.169.254/32", "224.0.0.0/4", "fe80::/64", "ff00::/8"].into_iter().all(on_link)
        );
        assert!(!["0.0.0.0/0", "10.0.0.0/8", "::/0", "fd00::/8"].into_iter().any(on_link));
    }
}
