//! Chooses the routes of an exit's table: those of its interface, or of the table that a rule names for its address.
//!
//! Of several routes to one destination an exit has one: that with the lowest metric, and of its next hops the heaviest
//! that is alive (docs/decisions/0017). Not here: the egress address (`address`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{EgressRoute, ExitRoute};
use crate::core::address_class::{is_link_local, stays_on_link};
use crate::core::finding::Finding;
use crate::core::host_network::{HostNetwork, HostRoute, Interface, InterfaceKind};
use crate::core::placement::ExitKey;
use crate::core::state::nft::AddressFamily;

/// The inputs of one search.
struct Search<'a> {
    exit: &'a ExitKey,
    family: AddressFamily,
    /// The interface that has the address.
    holder: &'a str,
    address: IpAddr,
    host_network: &'a HostNetwork,
}

/// The route out through an interface that can send, with one of its addresses.
pub(super) fn way_out(
    exit: &ExitKey,
    family: AddressFamily,
    holder: &str,
    address: IpAddr,
    host_network: &HostNetwork,
    findings: &mut Vec<Finding>,
) -> EgressRoute {
    let search = Search { exit, family, holder, address, host_network };
    let mut routes = search.routes();
    let everything = everything(family);
    // A next hop in the policy takes precedence over all others, even if it is unusable: another was not asked for.
    if let Some(hop) = exit.next_hops.iter().copied().find(|hop| AddressFamily::of(*hop) == family) {
        routes.remove(&everything);
        match search.named(hop) {
            Ok(route) => drop(routes.insert(everything, route)),
            Err(finding) => findings.push(finding),
        }
    } else if !routes.contains_key(&everything) {
        let (route, finding) = search.guess();
        routes.extend(route.map(|route| (everything, route)));
        findings.push(finding);
    }
    let interface = match routes.get(&everything) {
        Some(default) if search.sends_nothing() => default.interface.clone(),
        _ => holder.to_owned(),
    };
    EgressRoute { address, interface, routes: routes.into_values().collect() }
}

impl Search<'_> {
    /// Whether no packet leaves by the holder: `lo`, or a dummy without a configured router.
    fn sends_nothing(&self) -> bool {
        match self.host_network.interfaces.get(self.holder).map(|interface| interface.kind) {
            Some(InterfaceKind::Loopback) => true,
            Some(InterfaceKind::Dummy) => {
                let mut through = self.host_network.routes.iter().filter(|route| route.interface == self.holder);
                let routed = through.any(|route| route.gateway.is_some() || route.destination.prefix_len() == 0);
                !routed && !self.exit.next_hops.iter().any(|hop| self.is_on(self.holder, *hop))
            }
            Some(InterfaceKind::Device) | None => false,
        }
    }

    fn fits(&self, route: &HostRoute) -> bool {
        AddressFamily::of(route.destination.addr()) == self.family
            && !stays_on_link(route.destination)
            && self.host_network.can_send(&route.interface)
    }

    /// The tables that the kernel consults for packets from this address: those that rules name for it, up to one with a
    /// default route, then the main table. From the main table only routes through the holder, as the policy named it. An
    /// address on `lo` may use any of its routes, except those to single hosts on a link, which are pods.
    fn routes(&self) -> BTreeMap<IpNet, ExitRoute> {
        let mut found = BTreeMap::new();
        let sources = self.host_network.sources.iter().filter(|source| source.from.contains(&self.address));
        for source in sources {
            self.add(&mut found, source.routes.iter());
            if found.contains_key(&everything(self.family)) {
                return found;
            }
        }
        let anywhere = self.sends_nothing();
        let of_pod = |route: &HostRoute| {
            route.gateway.is_none() && route.destination.prefix_len() == route.destination.max_prefix_len()
        };
        let wanted = |route: &&HostRoute| if anywhere { !of_pod(route) } else { route.interface == self.holder };
        self.add(&mut found, self.host_network.routes.iter().filter(wanted));
        found
    }

    /// Adds the best route of a table for each destination that has none yet.
    fn add<'g>(&self, found: &mut BTreeMap<IpNet, ExitRoute>, table: impl Iterator<Item = &'g HostRoute>) {
        let mut routes: Vec<&HostRoute> = table.filter(|route| self.fits(route)).collect();
        // Stable: of equal metrics the first listed stays first.
        routes.sort_by_key(|route| route.metric);
        for route in routes {
            let hop = route.gateway.map(|gateway| (gateway, route.interface.as_str()));
            let out = match hop {
                Some((gateway, interface)) => self.by(route.destination, gateway, interface),
                None => ExitRoute {
                    destination: route.destination,
                    gateway: None,
                    onlink: false,
                    interface: route.interface.clone(),
                },
            };
            found.entry(route.destination).or_insert(out);
        }
    }

    fn by(&self, destination: IpNet, gateway: IpAddr, interface: &str) -> ExitRoute {
        let onlink = !self.is_on(interface, gateway);
        ExitRoute { destination, gateway: Some(gateway), onlink, interface: interface.to_owned() }
    }

    /// Whether a next hop is on the link of an interface according to the main table: the kernel checks that, too. An IPv6 link-local
    /// router always is (RFC 4291, 2.5.6; `ip6_validate_gw`, net/ipv6/route.c); for an IPv4 one the kernel wants a route like for any other.
    fn is_on(&self, interface: &str, hop: IpAddr) -> bool {
        let routed = |route: &HostRoute| {
            route.interface == interface && route.gateway.is_none() && route.destination.contains(&hop)
        };
        is_on_any_link(hop) || self.host_network.routes.iter().any(routed)
    }

    fn everywhere(&self, gateway: IpAddr, interface: &str) -> ExitRoute {
        self.by(everything(self.family), gateway, interface)
    }

    /// The default route through the router that the policy names.
    fn named(&self, hop: IpAddr) -> Result<ExitRoute, Finding> {
        let useless = |why: &str| {
            let message = format!("{hop}, its next hop, {why}; only the networks of its interface are reached");
            Finding::new("bad-next-hop", self.exit, message).hint("name the router's own address in the policy")
        };
        if let Some(why) = self.host_network.no_router(hop) {
            return Err(useless(&why));
        }
        if !self.sends_nothing() {
            return Ok(self.everywhere(hop, self.holder));
        }
        let mut works = self.host_network.interfaces.iter().filter(|(_, interface)| interface.works());
        match works.find(|(name, _)| self.is_on(name, hop) && !is_on_any_link(hop)) {
            Some((name, _)) => Ok(self.everywhere(hop, name)),
            None => match self.host_network.default_route(self.family).filter(|route| self.fits(route)) {
                Some(route) => Ok(self.everywhere(hop, &route.interface)),
                None => Err(useless("is in no network of this node")),
            },
        }
    }

    /// The default route where neither the policy nor a table has one: through the first address of the interface's
    /// network that contains the egress address, as Cilium assumed for cloud interfaces
    /// (`pkg/datapath/linux/linux_defaults` of 1.14). It is a guess, so it comes with a finding.
    fn guess(&self) -> (Option<ExitRoute>, Finding) {
        let (exit, holder, version) = (self.exit, self.holder, self.family.version());
        let hint = "name the router in the policy: nextHop, or the annotation egret.dev/next-hop";
        if self.sends_nothing() {
            let message = format!(
                "{} is on {holder}, which sends nothing, and {} has no {version} default route; what no route leads to is dropped",
                self.address, exit.gateway
            );
            return (None, Finding::new("no-next-hop", exit, message).hint(hint));
        }
        let interface = self.host_network.interfaces.get(holder);
        if interface.is_some_and(|interface| interface.point_to_point) {
            let route = ExitRoute {
                destination: everything(self.family),
                gateway: None,
                onlink: false,
                interface: holder.to_owned(),
            };
            let message = format!(
                "{holder} is a point-to-point link without a {version} default route; everything is sent to its other end"
            );
            return (Some(route), Finding::new("point-to-point", exit, message).hint(hint));
        }
        if let Some(hop) = interface.and_then(|interface| self.router(interface)) {
            let message = format!(
                "{holder} has no {version} default route; {hop}, the first address of its network, is taken for the router"
            );
            return (Some(self.everywhere(hop, holder)), Finding::new("next-hop-assumed", exit, message).hint(hint));
        }
        let message = format!(
            "{holder} has no {version} default route and no network to find a router in; only its own networks are reached"
        );
        (None, Finding::new("no-next-hop", exit, message).hint(hint))
    }

    /// The first address of the smallest network that contains the egress address and has room for a router.
    fn router(&self, interface: &Interface) -> Option<IpAddr> {
        let mut networks: Vec<&IpNet> = interface.addresses.iter().filter(|net| net.contains(&self.address)).collect();
        networks.sort_by_key(|net| std::cmp::Reverse(net.prefix_len()));
        let hosts = networks.into_iter().filter_map(|net| first_host(*net));
        hosts.into_iter().next().filter(|hop| self.host_network.no_router(*hop).is_none())
    }
}

/// Whether a router needs no route to it: the link has to be named with it, as any has such addresses.
fn is_on_any_link(hop: IpAddr) -> bool {
    hop.is_ipv6() && is_link_local(hop)
}

fn everything(family: AddressFamily) -> IpNet {
    match family {
        AddressFamily::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        AddressFamily::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// The first address behind the network's own; none where a network has no room for a router.
fn first_host(net: IpNet) -> Option<IpAddr> {
    match net {
        IpNet::V4(net) => (net.prefix_len() <= 30).then(|| IpAddr::V4((u32::from(net.network()) + 1).into())),
        IpNet::V6(net) => (net.prefix_len() <= 126).then(|| IpAddr::V6((u128::from(net.network()) + 1).into())),
    }
}
