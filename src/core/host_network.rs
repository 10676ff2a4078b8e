//! The ground: what a node's kernel has that is not Egret's and that decides something: interfaces, their addresses, their routes.
//!
//! Deliberately absent: how it is read (`kernel::ground`) and any way to change it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::address_class::{SpecialAddress, is_no_host};
use super::state::nft::AddressFamily;

/// How the interface begins on which kube-proxy keeps the address of every Service. No packet leaves by it, and every node has the same
/// addresses there, so one of them says nothing of who holds it.
const OF_SERVICES: &str = "kube-ipvs";

/// What is under a node's feet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// Interfaces of others, by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Unicast routes of the main table, in the kernel's order; of a route with several next hops one for each, the heaviest first.
    pub routes: Vec<HostRoute>,
    /// What rules of others (`ip rule add from ADDRESS lookup TABLE`) say of addresses of this node, in the order of the rules.
    pub sources: Vec<SourceTable>,
    /// `net.ipv4.conf.all.rp_filter`: the larger of this and the interface's own counts.
    pub rp_filter_all: u8,
    /// `net.ipv4.conf.all.src_valid_mark`: the reverse-path check looks a packet's source up with the packet's mark.
    pub src_valid_mark: bool,
    /// Interfaces whose strict filter Egret has loosened, with the value they had before. Kept in our nftables table
    /// ([`super::compile::RP_FILTER_BEFORE`]), so that a process that starts anew can put it back.
    pub loosened: BTreeMap<String, u8>,
    /// What the kernel can do.
    pub features: KernelFeatures,
    /// Where it forwards nothing.
    pub forwarding: Forwarding,
}

/// Where a kernel forwards nothing of what comes in: by default nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Interfaces with `net.ipv4.conf.NAME.forwarding` 0; `net.ipv4.ip_forward` is a switch for all of them.
    pub off4: BTreeSet<String>,
    /// `net.ipv6.conf.all.forwarding` is 0.
    pub off6: bool,
}

/// An interface that is not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's, and none depends on another")]
pub struct Interface {
    /// Administratively up.
    pub up: bool,
    /// Up, and no cable, no peer, or a lower device that is down.
    pub no_carrier: bool,
    /// Whether packets leave by it at all.
    pub kind: InterfaceKind,
    /// Frames of others are forwarded by it: behind it may be pods.
    pub bridge: bool,
    /// There is one other end and no network: nobody has to be asked for a hardware address.
    pub point_to_point: bool,
    /// Addresses by which packets can leave, the one that an exit without a named address takes first ([`Interface::arrange`]).
    pub addresses: Vec<IpNet>,
    /// Those of them that only a policy that names them takes: deprecated, temporary, or of a narrower scope than global.
    pub only_named: BTreeSet<IpAddr>,
    /// Addresses that it has and that no packet may leave with.
    pub unusable: BTreeMap<IpAddr, Unusable>,
    /// Other names that `ip` takes for it (`altname`).
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
    /// `lo`: it holds addresses, and packets leave by other interfaces.
    Loopback,
    /// A dummy device: what is sent by it is gone.
    Dummy,
}

/// Why no packet may leave with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// The kernel still asks whether another host has it (RFC 4862, 5.4).
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
    /// Its preferred lifetime is over, or was 0 from the start as kube-vip has it.
    pub deprecated: bool,
    /// IPv4: another address of the same network came first. IPv6: a privacy address (RFC 8981), which changes every day.
    pub secondary_or_temporary: bool,
    /// Duplicate address detection is not over.
    pub tentative: bool,
    /// It found another host.
    pub duplicate: bool,
}

/// A route of others: of the main table, or of one that a rule leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRoute {
    /// The destination; /0 is the default route.
    pub destination: IpNet,
    /// The interface.
    pub interface: String,
    /// The next hop; none: on the link.
    pub gateway: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
    /// `src`: the address that the node's own packets leave with.
    pub source: Option<IpAddr>,
}

/// The table that a rule of others names for packets from an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceTable {
    /// `from`
    pub from: IpNet,
    /// Its routes, as those of the main table.
    pub routes: Vec<HostRoute>,
}

/// What the kernel can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KernelFeatures {
    /// nftables' `owner` and `persist` table flags (kernel 6.9).
    pub owned_tables: bool,
    /// nftables' `meta iifkind` (Linux 5.6): what comes in by a veth is known for a pod's whatever its address.
    pub interface_kinds: bool,
    /// IPv6 is there and not disabled.
    pub ipv6: bool,
}

impl Interface {
    /// Takes in the addresses that the kernel lists, in its order. First comes the address that an engineer calls the interface's own:
    ///
    /// - one whose network has room for others, before a /32 or /128 that was added as a VIP;
    /// - IPv4: a primary one before a secondary one;
    /// - the one that was there first: IPv4 is listed oldest first, IPv6 newest first (`ipv6_link_dev_addr`, net/ipv6/addrconf.c).
    ///
    /// What lives on one link alone (169.254.0.0/16, fe80::/10) and loopback addresses are left out.
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

    /// The address of a family that an exit takes that names none.
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

/// Whether an interface is where kube-proxy keeps the addresses of Services.
pub fn is_of_services(name: &str) -> bool {
    name.starts_with(OF_SERVICES)
}

impl HostNetwork {
    /// The interface that has this address, if any: of several one that can send, and one that packets leave by.
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

    /// An interface by its name, or by another name of it.
    pub fn interface(&self, name: &str) -> Option<(&str, &Interface)> {
        let by_name = self.interfaces.get_key_value(name);
        let found = by_name.or_else(|| self.interfaces.iter().find(|(_, one)| one.other_names.contains(name)))?;
        Some((found.0.as_str(), found.1))
    }

    /// The default route of a family with the lowest metric, of those whose interface can send if there is one.
    pub fn default_route(&self, family: AddressFamily) -> Option<&HostRoute> {
        self.routes
            .iter()
            .filter(|route| {
                route.destination.prefix_len() == 0 && AddressFamily::of(route.destination.addr()) == family
            })
            .min_by_key(|route| (!self.can_send(&route.interface), route.metric))
    }

    /// Whether an interface is there and can send.
    pub fn can_send(&self, interface: &str) -> bool {
        self.interfaces.get(interface).is_some_and(Interface::works)
    }

    /// Why no packet can be sent on to this address as to a router, in the words of a sentence; nothing where that is not known.
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
