//! Resolves a gateway's own exits against its kernel: the egress address, interface and routes of each.

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

/// Codes of the findings of an exit that has no route out in a family.
pub(crate) const NO_WAY_OUT: [&str; 3] = ["egress-address-missing", "interface-down", "no-carrier"];

/// The route out of an exit in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRoute {
    /// The source address of packets that leave.
    pub address: IpAddr,
    /// The outgoing interface: the one with the address, unless that is `lo` or another that sends nothing.
    pub interface: String,
    /// Routes, including a default route if one can be found.
    pub routes: Vec<ExitRoute>,
}

impl EgressRoute {
    /// The interfaces on which replies may arrive: those with a router behind them.
    pub fn interfaces(&self) -> BTreeSet<&str> {
        let routed = self.routes.iter().filter(|route| route.gateway.is_some() || route.destination.prefix_len() == 0);
        routed.map(|route| route.interface.as_str()).chain([self.interface.as_str()]).collect()
    }
}

/// One route of an exit's table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExitRoute {
    /// The destination.
    pub destination: IpNet,
    /// The next hop; none: on the link.
    pub gateway: Option<IpAddr>,
    /// Whether the next hop is in no network of the interface.
    pub onlink: bool,
    /// The interface.
    pub interface: String,
}

/// The routes out of an exit of this node, by family, and findings for what is missing.
pub(super) fn resolve(
    exit: &ExitKey,
    families: &[AddressFamily],
    host_network: &HostNetwork,
) -> (BTreeMap<AddressFamily, EgressRoute>, Vec<Finding>) {
    let mut routes = BTreeMap::new();
    let mut findings = Vec::new();
    for family in families {
        match egress_address(exit, *family, host_network) {
            Ok(Some((interface, address))) => {
                findings.extend(address::remarks(exit, &interface, address, host_network));
                routes
                    .insert(*family, routes::way_out(exit, *family, &interface, address, host_network, &mut findings));
            }
            Ok(None) => {}
            Err(finding) => findings.push(finding),
        }
    }
    (routes, findings)
}

#[cfg(test)]
mod tests;
