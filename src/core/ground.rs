//! The ground: what a node's kernel has that is not Egret's and that decides something: interfaces, their addresses, their routes.
//!
//! Deliberately absent: how it is read (`kernel::ground`) and any way to change it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::state::nft::AddressFamily;

/// What is under a node's feet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ground {
    /// Interfaces of others, by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// Unicast routes of the main table, in the kernel's order.
    pub routes: Vec<GroundRoute>,
    /// `net.ipv4.conf.all.rp_filter`: the larger of this and the interface's own counts.
    pub rp_filter_all: u8,
    /// `net.ipv4.conf.all.src_valid_mark`: the reverse-path check looks a packet's source up with the packet's mark.
    pub src_valid_mark: bool,
    /// Interfaces whose strict filter Egret has loosened, with the value they had before. Kept in our nftables table
    /// ([`super::compile::RP_FILTER_BEFORE`]), so that a process that starts anew can put it back.
    pub loosened: BTreeMap<String, u8>,
    /// What the kernel can do.
    pub features: Features,
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
pub struct Interface {
    /// Administratively up.
    pub up: bool,
    /// Addresses of global scope that are not deprecated or tentative, in the kernel's order: the first is the primary one.
    pub addresses: Vec<IpNet>,
    /// The interface's own `rp_filter`: 0 off, 1 strict, 2 loose.
    pub rp_filter: u8,
    /// The MTU in bytes.
    pub mtu: u32,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroundRoute {
    /// The destination; /0 is the default route.
    pub destination: IpNet,
    /// The interface.
    pub interface: String,
    /// The next hop; none: on the link.
    pub gateway: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
}

/// What the kernel can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    /// nftables' `owner` and `persist` table flags (kernel 6.9).
    pub owned_tables: bool,
    /// nftables' `meta iifkind` (Linux 5.6): what comes in by a veth is known for a pod's whatever its address.
    pub interface_kinds: bool,
    /// IPv6 is there and not disabled.
    pub ipv6: bool,
}

impl Ground {
    /// The interface that has this address, if any.
    pub fn holder(&self, address: IpAddr) -> Option<&str> {
        self.interfaces
            .iter()
            .find(|(_, interface)| interface.addresses.iter().any(|net| net.addr() == address))
            .map(|(name, _)| name.as_str())
    }

    /// The default route of a family with the lowest metric.
    pub fn default_route(&self, family: AddressFamily) -> Option<&GroundRoute> {
        self.routes
            .iter()
            .filter(|route| {
                route.destination.prefix_len() == 0 && AddressFamily::of(route.destination.addr()) == family
            })
            .min_by_key(|route| route.metric)
    }
}
