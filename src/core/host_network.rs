//! The host network: a node's interfaces, addresses, routes and sysctls that are not Egret's and influence its decisions.
//!
//! Not here: reading it (`kernel::host_network`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::SignedDuration;

use super::address_class::{SpecialAddress, is_no_host};
use super::neighbour_resolution::{LinkNeighbour, PATIENCE, Resolution};
use super::state::nft::AddressFamily;

/// Prefix of the interface on which kube-proxy (IPVS) keeps the address of every Service. No packet leaves by it, and
/// every node has the same addresses there, so they do not identify a holder.
const OF_SERVICES: &str = "kube-ipvs";

/// A node's host network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// Interfaces that are not Egret's, by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Unicast routes of the main table, in the kernel's order; a route with several next hops has one entry for each,
    /// the heaviest first.
    pub routes: Vec<HostRoute>,
    /// Foreign rules for addresses of this node (`ip rule add from ADDRESS lookup TABLE`), in order.
    pub sources: Vec<SourceTable>,
    /// `net.ipv4.conf.all.rp_filter`: the larger of this and the interface's own applies.
    pub rp_filter_all: u8,
    /// `net.ipv4.conf.all.src_valid_mark`: the reverse-path check uses the packet's mark.
    pub src_valid_mark: bool,
    /// Interfaces whose strict filter Egret has loosened, with the original value. Kept in our nftables table
    /// ([`super::compile::RP_FILTER_BEFORE`]), so that a new process can restore it.
    pub loosened: BTreeMap<String, u8>,
    /// The kernel's features.
    pub features: KernelFeatures,
    /// Where forwarding is off.
    pub forwarding: Forwarding,
    /// Neighbours that the kernel has no MAC address of.
    pub unresolved: BTreeMap<LinkNeighbour, Resolution>,
    /// Of the neighbours that Egret asked for, those that it has one of.
    pub resolved: BTreeSet<LinkNeighbour>,
}

/// Where the kernel does not forward incoming packets; empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Interfaces with `net.ipv4.conf.NAME.forwarding` 0; `net.ipv4.ip_forward` is a switch for all of them.
    pub off4: BTreeSet<String>,
    /// `net.ipv6.conf.all.forwarding` is 0.
    pub off6: bool,
}

/// An interface that is not Egret's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's, and none depends on another")]
pub struct Interface {
    /// Administratively up.
    pub up: bool,
    /// Up without carrier: no cable, no peer, or a lower device that is down.
    pub no_carrier: bool,
    /// Whether packets leave by it at all.
    pub kind: InterfaceKind,
    /// It is a bridge: pods may be behind it.
    pub bridge: bool,
    /// It has one peer and no network, so that no neighbour resolution is needed.
    pub point_to_point: bool,
    /// Addresses that packets can leave with, the default choice of an exit first ([`Interface::arrange`]).
    pub addresses: Vec<IpNet>,
    /// Those that are used only if a policy names them: deprecated, temporary, or of a narrower scope than global.
    pub only_named: BTreeSet<IpAddr>,
    /// Addresses that no packet may leave with.
    pub unusable: BTreeMap<IpAddr, Unusable>,
    /// Alternative names (`altname`).
    pub other_names: BTreeSet<String>,
    /// The interface's own `rp_filter`: 0 off, 1 strict, 2 loose.
    pub rp_filter: u8,
    /// The MTU in bytes.
    pub mtu: u32,
}

/// Whether packets leave by an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InterfaceKind {
    /// They do.
    #[default]
    Device,
    /// `lo`: it has addresses, and packets leave by other interfaces.
    Loopback,
    /// A dummy device: it discards what is sent by it.
    Dummy,
}

/// Why no packet may leave with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// Duplicate address detection is still running (RFC 4862, 5.4).
    Tentative,
    /// Another host has it: duplicate address detection failed.
    Duplicate,
}

/// An address as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "flags of the kernel's, and none depends on another")]
pub struct ListedAddress {
    /// The address and the length of its network's prefix.
    pub net: IpNet,
    /// Its scope is global.
    pub global: bool,
    /// Its preferred lifetime has ended, or was 0 from the start as with kube-vip.
    pub deprecated: bool,
    /// IPv4: another address of the same network was added earlier. IPv6: a privacy address (RFC 8981), which changes
    /// every day.
    pub secondary_or_temporary: bool,
    /// Duplicate address detection is still running.
    pub tentative: bool,
    /// Duplicate address detection found another host.
    pub duplicate: bool,
}

/// A foreign route: of the main table, or of one that a rule leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRoute {
    /// The destination; /0 is the default route.
    pub destination: IpNet,
    /// The interface.
    pub interface: String,
    /// The next hop; none: on the link.
    pub gateway: Option<IpAddr>,
    /// Lower values win.
    pub metric: u32,
    /// `src`: the address that the node's own packets leave with.
    pub source: Option<IpAddr>,
}

/// The table that a foreign rule selects for packets from an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceTable {
    /// `from`
    pub from: IpNet,
    /// Its routes, in the form of the main table's.
    pub routes: Vec<HostRoute>,
}

/// The kernel's features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a feature of its own")]
pub struct KernelFeatures {
    /// nftables' `owner` and `persist` table flags (kernel 6.9).
    pub owned_tables: bool,
    /// nftables' `meta iifkind` (Linux 5.6): packets from a veth are recognised as a pod's whatever their address.
    pub interface_kinds: bool,
    /// nftables' `reject with tcp reset` (CONFIG_NFT_REJECT_INET): a gateway can answer probes.
    pub resets: bool,
    /// IPv6 is available and not disabled.
    pub ipv6: bool,
}

impl Interface {
    /// Takes the addresses in the kernel's order. First comes the address that an engineer calls the interface's own:
    ///
    /// - one whose network has room for others, before a /32 or /128 that was added as a VIP;
    /// - IPv4: a primary one before a secondary one;
    /// - the oldest: IPv4 is listed oldest first, IPv6 newest first (`ipv6_link_dev_addr`, net/ipv6/addrconf.c).
    ///
    /// Link-local (169.254.0.0/16, fe80::/10) and loopback addresses are left out.
    #[must_use]
    pub fn arrange(mut self, listed: &[ListedAddress]) -> Self {
        let of_links = |address: IpAddr| {
            matches!(SpecialAddress::of(address), Some(SpecialAddress::LinkLocal | SpecialAddress::Loopback))
        };
        let mut usable = Vec::new();
        for (place, one) in listed.iter().enumerate().filter(|(_, one)| !of_links(one.net.addr())) {
            let address = one.net.addr();
            let v6 = address.is_ipv6();
            // A failed address stays tentative.
            if one.duplicate || one.tentative {
                let why = if one.duplicate { Unusable::Duplicate } else { Unusable::Tentative };
                self.unusable.insert(address, why);
                continue;
            }
            let temporary = v6 && one.secondary_or_temporary;
            if one.deprecated || temporary || !one.global {
                self.only_named.insert(address);
            }
            let narrow = one.net.prefix_len() == one.net.max_prefix_len();
            let secondary = !v6 && one.secondary_or_temporary;
            let age = if v6 { listed.len() - place } else { place };
            usable.push(((v6, self.only_named.contains(&address), narrow, secondary, age), one.net));
        }
        usable.sort();
        self.addresses = usable.into_iter().map(|(_, net)| net).collect();
        self
    }

    /// The address of a family for an exit that names none.
    pub fn own_address(&self, family: AddressFamily) -> Option<IpAddr> {
        let of_family = |address: &IpAddr| AddressFamily::of(*address) == family;
        self.addresses.iter().map(IpNet::addr).filter(of_family).find(|address| !self.only_named.contains(address))
    }

    /// Whether it can send.
    pub fn works(&self) -> bool {
        self.up && !self.no_carrier
    }

    /// Whether it has an address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address)
    }
}

/// Whether kube-proxy keeps the addresses of Services on this interface.
pub fn is_of_services(name: &str) -> bool {
    name.starts_with(OF_SERVICES)
}

impl HostNetwork {
    /// The interface that has this address, if any: preferably one that can send and that packets leave by.
    pub fn holder(&self, address: IpAddr) -> Option<&str> {
        self.holders(address).first().map(|(name, _)| *name)
    }

    /// All interfaces that have this address, the best first; without kube-proxy's.
    pub fn holders(&self, address: IpAddr) -> Vec<(&str, &Interface)> {
        let mut holders: Vec<(&str, &Interface)> = self
            .interfaces
            .iter()
            .filter(|(name, interface)| interface.has(address) && !is_of_services(name))
            .map(|(name, interface)| (name.as_str(), interface))
            .collect();
        holders.sort_by_key(|(_, interface)| (!interface.works(), interface.kind != InterfaceKind::Device));
        holders
    }

    /// An interface by its name, or by an alternative name.
    pub fn interface(&self, name: &str) -> Option<(&str, &Interface)> {
        let by_name = self.interfaces.get_key_value(name);
        let found = by_name.or_else(|| self.interfaces.iter().find(|(_, one)| one.other_names.contains(name)))?;
        Some((found.0.as_str(), found.1))
    }

    /// The default route of a family with the lowest metric, preferably through an interface that can send.
    pub fn default_route(&self, family: AddressFamily) -> Option<&HostRoute> {
        self.routes
            .iter()
            .filter(|route| {
                route.destination.prefix_len() == 0 && AddressFamily::of(route.destination.addr()) == family
            })
            .min_by_key(|route| (!self.can_send(&route.interface), route.metric))
    }

    /// Why the kernel has no MAC address of a neighbour; none if it has one, or nothing was sent to it.
    pub fn resolution(&self, neighbour: &LinkNeighbour) -> Option<Resolution> {
        self.unresolved.get(neighbour).copied()
    }

    /// When it is worth reading again what the kernel has found of some neighbours. Without packets nothing else makes it look.
    pub fn look_again(&self, neighbours: &BTreeSet<LinkNeighbour>) -> Option<Duration> {
        let waits = neighbours.iter().filter_map(|neighbour| self.resolution(neighbour)).map(|found| match found {
            Resolution::Asking => PATIENCE,
            Resolution::Failed => PATIENCE * 5,
        });
        waits.min().map(SignedDuration::unsigned_abs)
    }

    /// Whether an interface exists and can send.
    pub fn can_send(&self, interface: &str) -> bool {
        self.interfaces.get(interface).is_some_and(Interface::works)
    }

    /// Why this address cannot be a next hop, as a clause; none if it can or that is not known.
    pub fn no_router(&self, hop: IpAddr) -> Option<String> {
        if is_no_host(hop) {
            return Some("is no address that a router has".to_owned());
        }
        for (name, interface) in &self.interfaces {
            if interface.has(hop) || interface.unusable.contains_key(&hop) {
                return Some(format!("is this node's own address, on {name}"));
            }
            for net in &interface.addresses {
                // With two addresses (RFC 3021, RFC 6164) or one, neither is the network's.
                if net.max_prefix_len() - net.prefix_len() < 2 {
                    continue;
                }
                if hop == net.network() {
                    return Some(format!("is the address of the network {} of {name} itself", net.trunc()));
                }
                if hop.is_ipv4() && hop == net.broadcast() {
                    return Some(format!("is the broadcast address of the network {} of {name}", net.trunc()));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
