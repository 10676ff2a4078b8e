//! A stand-in host network for a node whose kernel was not read: it has what the node's exits need, under names that
//! mark it as unknown.
//!
//! Its addresses are placeholders from reserved networks; [`AssumedNetwork::named`] replaces them with what they
//! stand for. A placeholder is the same on both sides of a comparison and therefore never appears as a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::core::host_network::{HostNetwork, HostRoute, Interface, KernelFeatures};
use crate::core::placement::ExitKey;
use crate::core::policy::Egress;

/// A node's host network, read or assumed.
pub(super) struct AssumedNetwork {
    pub(super) host_network: HostNetwork,
    /// Placeholders and their replacements; a longer placeholder comes before its own prefix.
    names: Vec<(String, String)>,
}

/// Ethernet's MTU.
const MTU: u32 = 1500;

impl AssumedNetwork {
    /// The host network as it was read.
    pub(super) fn known(host_network: &HostNetwork) -> Self {
        Self { host_network: host_network.clone(), names: Vec::new() }
    }

    /// A host network that has what these exits need.
    pub(super) fn assumed<'e>(exits: impl Iterator<Item = &'e ExitKey>) -> Self {
        let features = KernelFeatures { owned_tables: true, interface_kinds: true, resets: true, ipv6: true };
        let mut assumed = Self { host_network: HostNetwork { features, ..HostNetwork::default() }, names: Vec::new() };
        let mut interfaces: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for exit in exits {
            let addresses = interfaces.entry(interface_of(&exit.egress)).or_default();
            addresses.extend(exit.egress.addresses());
        }
        for (number, (name, addresses)) in (0_u8..=u8::MAX).zip(interfaces) {
            assumed.interface(number, &name, &addresses);
        }
        assumed.names.sort_by_key(|(stand_in, _)| std::cmp::Reverse(stand_in.len()));
        assumed
    }

    fn interface(&mut self, number: u8, name: &str, own: &BTreeSet<IpAddr>) {
        let v4 = |last| IpAddr::V4(Ipv4Addr::new(240, number, 0, last));
        let v6 = |last| IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, u16::from(number) + 1, 0, 0, 0, last));
        let mut interface = Interface { up: true, mtu: MTU, ..Interface::default() };
        let mut family = |address: IpAddr, router: IpAddr, network: IpNet| {
            interface.addresses.push(match address {
                IpAddr::V4(address) => IpNet::V4(Ipv4Net::new_assert(address, 16)),
                IpAddr::V6(address) => IpNet::V6(Ipv6Net::new_assert(address, 64)),
            });
            let everything = match address {
                IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
                IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
            };
            let route = |destination, gateway| HostRoute {
                destination,
                interface: name.to_owned(),
                gateway,
                metric: u32::from(number),
                source: None,
            };
            self.host_network.routes.extend([route(network, None), route(everything, Some(router))]);
            for (stand_in, what) in
                [(network.to_string(), "network"), (router.to_string(), "router"), (address.to_string(), "address")]
            {
                // A property of something unknown is unknown too.
                let meaning = if name.starts_with('<') { format!("<{what}>") } else { format!("<{what} of {name}>") };
                self.names.push((stand_in, meaning));
            }
        };
        let (net4, net6) = (Ipv4Net::new_assert(Ipv4Addr::new(240, number, 0, 0), 16), {
            let first = Ipv6Addr::new(0x100, 0, 0, u16::from(number) + 1, 0, 0, 0, 0);
            Ipv6Net::new_assert(first, 64)
        });
        family(v4(1), v4(2), IpNet::V4(net4));
        family(v6(1), v6(2), IpNet::V6(net6));
        interface.addresses.extend(own.iter().map(|address| IpNet::from(*address)));
        self.host_network.interfaces.insert(name.to_owned(), interface);
    }

    /// The text with placeholders replaced by their meanings.
    pub(super) fn named(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (stand_in, name) in &self.names {
            if text.contains(stand_in.as_str()) {
                text = text.replace(stand_in.as_str(), name);
            }
        }
        text
    }
}

fn interface_of(egress: &Egress) -> String {
    match egress {
        Egress::Interface(name) => name.to_string(),
        Egress::Address(_) | Egress::DualStack(..) | Egress::Pool(_) => "<interface>".to_owned(),
        Egress::DefaultRoute => "<interface of the default route>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::name::NodeName;

    #[test]
    fn stand_ins_are_called_what_they_stand_for() {
        let gateway = NodeName::parse("a").unwrap();
        let net1 = crate::core::name::Interface::parse("net1").unwrap();
        let exits = [
            ExitKey { gateway: gateway.clone(), egress: Egress::Interface(net1), next_hops: Vec::new() },
            ExitKey { gateway, egress: Egress::Address([10, 0, 3, 42].into()), next_hops: Vec::new() },
        ];
        let assumed = AssumedNetwork::assumed(exits.iter());
        let net1 = &assumed.host_network.interfaces["net1"].addresses;
        let text = format!("{} {} {}", net1[0].addr(), net1[1].addr(), assumed.host_network.routes[0].destination);
        assert_eq!(assumed.named(&text), "<address of net1> <address of net1> <network>");
        assert_eq!(assumed.host_network.holder([10, 0, 3, 42].into()), Some("<interface>"));
    }
}
