//! The one vocabulary that desired and observed share, each word with the syntax of `ip` or `nft` as its text form.
//!
//! Deliberately absent: where a state comes from (`compile` or `kernel::observe`) and how two are compared (`plan`).
//! A field that the kernel adds by itself (a handle, a counter, a default) has no place here: it would be drift that nobody made.

pub mod mask;
pub mod net;
pub mod nft;
pub mod ownership;

use std::collections::{BTreeMap, BTreeSet};

use net::{InterfaceAddress, Link, LinkName, Neighbour, Route, RouteKey, RoutingRule, Sysctl};
use nft::Ruleset;

use super::labels::Labels;

/// All that Egret wants to be true of one node, or found there. Holds only what is Egret's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Labels of the node that Git asks for, or (observed) those of them that are there.
    pub labels: Labels,
    /// Tunnel devices.
    pub links: BTreeMap<LinkName, Link>,
    /// Addresses on our own tunnel devices.
    pub addresses: BTreeSet<InterfaceAddress>,
    /// `net.*` settings of our own devices, and those of others that a gateway's interface has to have.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// Policy routing rules in our range.
    pub rules: BTreeSet<RoutingRule>,
    /// Routes of our protocol in our tables.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Static neighbours on our own devices.
    pub neighbours: BTreeSet<Neighbour>,
    /// Our nftables tables.
    pub nft: Ruleset,
}
