//! What a gateway's own kernel says of its exits: which address packets leave with, through which interface and router.
//!
//! Deliberately absent: other nodes' exits, of which a node knows only where they are.

mod address;
mod routes;

pub(crate) use address::egress_address;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::core::finding::Finding;
use crate::core::host_network::HostNetwork;
use crate::core::placement::ExitKey;
use crate::core::state::nft::AddressFamily;

/// What is found where an exit has no way out for a family.
pub(crate) const NO_WAY_OUT: [&str; 3] = ["egress-address-missing", "interface-down", "no-carrier"];

/// The way out of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRoute {
    /// The address that packets leave with.
    pub address: IpAddr,
    /// The interface that they leave by; that which has the address, unless that is `lo` or another that sends nothing.
    pub interface: String,
    /// Routes, the default route included if there is a way to make one.
    pub routes: Vec<ExitRoute>,
}

impl EgressRoute {
    /// The interfaces by which answers may come: those with a router behind them.
    pub fn interfaces(&self) -> BTreeSet<&str> {
        let routed = self.routes.iter().filter(|route| route.gateway.is_some() || route.destination.prefix_len() == 0);
        routed.map(|route| route.interface.as_str()).chain([self.interface.as_str()]).collect()
    }
}

/// One route out of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExitRoute {
    /// The destination.
    pub destination: IpNet,
    /// The next hop; none: on the link.
    pub gateway: Option<IpAddr>,
    /// The next hop is in no network of the interface.
    pub onlink: bool,
    /// The interface.
    pub interface: String,
}

/// The ways out of an exit of this node, by family, and what is missing.
pub(super) fn resolve(
    exit: &ExitKey,
    families: &[AddressFamily],
    host_network: &HostNetwork,
) -> (BTreeMap<AddressFamily, EgressRoute>, Vec<Finding>) {
    let mut ways = BTreeMap::new();
    let mut findings = Vec::new();
    for family in families {
        match egress_address(exit, *family, host_network) {
            Ok(Some((interface, address))) => {
                findings.extend(address::remarks(exit, &interface, address, host_network));
                ways.insert(*family, routes::way_out(exit, *family, &interface, address, host_network, &mut findings));
            }
            Ok(None) => {}
            Err(finding) => findings.push(finding),
        }
    }
    (ways, findings)
}

#[cfg(test)]
mod tests;
