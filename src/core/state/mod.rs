//! Types of a node's kernel state, shared by the desired and the observed state; the text form of each is the syntax of
//! `ip` or `nft`.
//!
//! A value that the kernel adds on its own (a handle, a counter, a default) has no field here: it would show up as drift.

pub mod mask;
pub mod net;
pub mod nft;
pub mod ownership;

use std::collections::{BTreeMap, BTreeSet};

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
    /// Addresses on Egret's tunnel devices.
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
