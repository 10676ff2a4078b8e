//! Types of a node's kernel state, shared by the desired and the observed state; the text form of each is the syntax of
//! `ip` or `nft`.
//!
//! A value that the kernel adds on its own (a handle, a counter, a default) has no field here: it would show up as drift.

pub mod mask;
pub mod net;
pub mod nft;
pub mod ownership;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use net::{InterfaceAddress, Link, LinkName, Neighbour, Route, RouteKey, RoutingRule, Sysctl};
use nft::Ruleset;

use super::labels::Labels;

/// The desired or observed state of one node. Holds only Egret's objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Labels of the node that Git asks for, or (observed) those of them that are set.
    pub labels: Labels,
    /// Tunnel devices.
    pub links: BTreeMap<LinkName, Link>,
    /// Addresses on Egret's tunnel devices, and egress addresses that it puts on interfaces.
    pub addresses: BTreeSet<InterfaceAddress>,
    /// `net.*` sysctls of Egret's devices, and those that a gateway's interfaces need.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Policy routing rules in Egret's range.
    pub rules: BTreeSet<RoutingRule>,
    /// Routes with Egret's protocol in Egret's tables.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Static neighbours on Egret's devices.
    pub neighbours: BTreeSet<Neighbour>,
    /// Egret's nftables tables.
    pub nft: Ruleset,
}

/// `ip` or `ip6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFamily {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl AddressFamily {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// As documents and people call it; `Display` is as nftables does.
    pub fn version(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// `4` or `6`, the suffix of Egret's sets' names.
    pub fn suffix(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
}
