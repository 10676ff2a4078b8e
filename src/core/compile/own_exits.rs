//! What a gateway's own kernel says of its exits: which address packets leave with, through which interface and router.
//!
//! Deliberately absent: other nodes' exits, of which a node knows only where they are.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::core::finding::Finding;
use crate::core::ground::{Ground, GroundRoute};
use crate::core::placement::ExitKey;
use crate::core::policy::Egress;
use crate::core::state::nft::AddressFamily;

/// The way out of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayOut {
    /// The address that packets leave with.
    pub address: IpAddr,
    /// The interface that has it.
    pub interface: String,
    /// Routes through that interface, the default route included if there is a way to make one.
    pub routes: Vec<OutRoute>,
}

/// One route out of a gateway's interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutRoute {
    /// The destination.
    pub destination: IpNet,
    /// The next hop; none: on the link.
    pub gateway: Option<IpAddr>,
    /// The next hop is in no network of the interface.
    pub onlink: bool,
}

/// The ways out of an exit of this node, by family, and what is missing.
pub(super) fn resolve(
    exit: &ExitKey,
    families: &[AddressFamily],
    ground: &Ground,
) -> (BTreeMap<AddressFamily, WayOut>, Vec<Finding>) {
    let mut ways = BTreeMap::new();
    let mut findings = Vec::new();
    for family in families {
        match egress_address(exit, *family, ground) {
            Ok(Some((interface, address))) => {
                let routes = routes_out(exit, *family, &interface, address, ground, &mut findings);
                ways.insert(*family, WayOut { address, interface, routes });
            }
            Ok(None) => {}
            Err(finding) => findings.push(finding),
        }
    }
    (ways, findings)
}

/// The interface and address; nothing where the exit has nothing to say about the family.
pub(crate) fn egress_address(
    exit: &ExitKey,
    family: AddressFamily,
    ground: &Ground,
) -> Result<Option<(String, IpAddr)>, Finding> {
    let missing = |message: String, hint: &str| {
        let message = format!("{message}; members' packets are dropped there");
        Err(Finding::new("egress-address-missing", exit, message).hint(hint))
    };
    let first_of = |name: &str| {
        let interface = ground.interfaces.get(name)?;
        interface.addresses.iter().map(IpNet::addr).find(|address| AddressFamily::of(*address) == family)
    };
    match &exit.egress {
        Egress::Address(address) if AddressFamily::of(*address) != family => Ok(None),
        Egress::Address(address) => match ground.holder(*address) {
            Some(interface) => Ok(Some((interface.to_owned(), *address))),
            None => missing(
                format!("{address} is on no interface of {}", exit.gateway),
                "put the address on the gateway's interface; it is followed at once",
            ),
        },
        Egress::Interface(name) => match (first_of(name.as_str()), ground.interfaces.contains_key(name.as_str())) {
            (Some(address), _) => Ok(Some((name.to_string(), address))),
            (None, true) => missing(
                format!("{name} has no global {family} address"),
                "put the address on it; it is followed at once",
            ),
            (None, false) => missing(
                format!("{} has no interface {name}", exit.gateway),
                "`ip link` on the gateway shows its interfaces",
            ),
        },
        Egress::DefaultRoute => match ground.default_route(family) {
            Some(route) => match first_of(&route.interface) {
                Some(address) => Ok(Some((route.interface.clone(), address))),
                None => missing(
                    format!("{}, which has the default route, has no global {family} address", route.interface),
                    "name an interface or an egressIP in the policy",
                ),
            },
            None => missing(
                format!("{} has no {family} default route", exit.gateway),
                "name an interface or an egressIP in the policy",
            ),
        },
    }
}

/// What the main table has through the interface, and a default route. Its router is, in this order: the one that the policy
/// names; that of the interface's own default route; the first address of its network, as Cilium assumed for cloud interfaces
/// (`pkg/datapath/linux/linux_defaults` of 1.14), with a finding, for it is a guess.
fn routes_out(
    exit: &ExitKey,
    family: AddressFamily,
    interface: &str,
    address: IpAddr,
    ground: &Ground,
    findings: &mut Vec<Finding>,
) -> Vec<OutRoute> {
    let through: Vec<&GroundRoute> = ground
        .routes
        .iter()
        .filter(|route| route.interface == interface && AddressFamily::of(route.destination.addr()) == family)
        .filter(|route| !is_link_local(route.destination))
        .collect();
    let network = ground
        .interfaces
        .get(interface)
        .and_then(|interface| interface.addresses.iter().find(|net| net.addr() == address))
        .copied();
    // A link-local router is on the link by its nature (RFC 4291, 2.5.6), and its network was passed over above.
    let on_link = |hop: IpAddr| {
        is_link_local(hop.into())
            || through.iter().any(|route| route.gateway.is_none() && route.destination.contains(&hop))
    };
    let mut routes: Vec<OutRoute> = through
        .iter()
        .filter(|route| route.destination.prefix_len() > 0)
        .map(|route| OutRoute {
            destination: route.destination,
            gateway: route.gateway,
            onlink: route.gateway.is_some_and(|hop| !on_link(hop)),
        })
        .collect();
    let everything = match family {
        AddressFamily::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        AddressFamily::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    let named = exit.next_hops.iter().copied().find(|hop| AddressFamily::of(*hop) == family);
    let own = through.iter().filter(|route| route.destination.prefix_len() == 0).min_by_key(|route| route.metric);
    let default = match (named, own) {
        (Some(hop), _) => Some(Some(hop)),
        (None, Some(route)) => Some(route.gateway),
        (None, None) => {
            let guess = network.and_then(first_host).filter(|hop| *hop != address);
            findings.push(guessed(exit, interface, family, guess));
            guess.map(Some)
        }
    };
    if let Some(gateway) = default {
        let onlink = gateway.is_some_and(|hop| !on_link(hop));
        routes.push(OutRoute { destination: everything, gateway, onlink });
    }
    routes.sort();
    routes.dedup_by(|a, b| a.destination == b.destination);
    routes
}

fn guessed(exit: &ExitKey, interface: &str, family: AddressFamily, guess: Option<IpAddr>) -> Finding {
    match guess {
        Some(hop) => Finding::new(
            "next-hop-assumed",
            exit,
            format!("{interface} has no {family} default route; {hop}, the first address of its network, is taken for the router"),
        )
        .hint("name the router in the policy: nextHop, or the annotation egret.dev/next-hop"),
        None => Finding::new(
            "no-next-hop",
            exit,
            format!("{interface} has no {family} default route and no network to find a router in; only its own networks are reached"),
        )
        .hint("name the router in the policy: nextHop, or the annotation egret.dev/next-hop"),
    }
}

fn is_link_local(net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_multicast(),
        IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast(),
    }
}

/// The first address behind the network's own; none where a network has no room for a router.
fn first_host(net: IpNet) -> Option<IpAddr> {
    match net {
        IpNet::V4(net) => (net.prefix_len() <= 30).then(|| IpAddr::V4((u32::from(net.network()) + 1).into())),
        IpNet::V6(net) => (net.prefix_len() <= 126).then(|| IpAddr::V6((u128::from(net.network()) + 1).into())),
    }
}
