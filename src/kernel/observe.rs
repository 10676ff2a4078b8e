//! Reads the node's state from the kernel: Egret's own objects and the host network.
//!
//! Not here: labels, which are in the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::PoisonError;

use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::packet_route::{AddressFamily as NetlinkFamily, RouteNetlinkMessage};

use super::links::{self, LinkState, SeenAddress};
use super::{Kernel, KernelError, Observed, encode, host_network, routes};
use crate::core::assignment::record;
use crate::core::host_network::{HostRoute, SourceTable};
use crate::core::neighbour_resolution::LinkNeighbour;
use crate::core::state::NodeState;
use crate::core::state::net::{Route, RouteKey, RoutingRule, Sysctl};
use crate::core::state::nft::{AddressFamily, ElementKey, RuleCounters, Ruleset, TableFamily};
use crate::core::state::ownership::PROTOCOL;

/// A foreign rule: its priority, the source addresses it matches, and the table it names.
type Lookup = (u32, IpNet, u32);

impl Kernel {
    /// Reads everything. Labels are left empty: the caller knows them from the facts.
    pub async fn observe(&mut self) -> Result<Observed, KernelError> {
        let (ruleset, generation) = self.nft.observe().await.map_err(KernelError::Nft)?;
        let links = self.links().await?;
        let addresses = self.addresses().await?;
        let (own_routes, host_routes) = self.all_routes(&links).await?;
        let (rules, lookups) = self.rules().await?;
        let sources = self.sources(lookups, &addresses, &links).await?;
        let neighbours = self.neighbours().await?;
        let routes = (host_routes, sources);
        let mut host_network =
            host_network::host_network(&links, &addresses, routes, &ruleset, self.features, &neighbours);
        host_network.resolved = self.resolved(&neighbours, &links);
        let assigned = assigned(&ruleset);
        let state = NodeState {
            labels: BTreeMap::new(),
            links: links
                .values()
                .filter(|seen| seen.is_ours())
                .map(|seen| (seen.name.clone(), seen.link.clone()))
                .collect(),
            addresses: addresses.iter().filter_map(|seen| links::own_address(seen, &links, &assigned)).collect(),
            sysctls: sysctls(&links, &host_network.loosened, host_network.features.ipv6),
            rules,
            routes: own_routes,
            neighbours: neighbours.iter().filter_map(|seen| routes::neighbour(seen, &links)).collect(),
            nft: ruleset,
        };
        Ok(Observed { state, host_network, generation })
    }

    /// Reads the rule counters in Egret's tables with one dump, on request.
    pub async fn counters(&mut self) -> Result<RuleCounters, KernelError> {
        self.nft.counters().await.map_err(KernelError::Nft)
    }

    async fn dump(
        &self,
        what: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        self.routes.dump(message).await.map_err(|source| KernelError::Observe { what, source })
    }

    pub(super) async fn links(&self) -> Result<BTreeMap<u32, LinkState>, KernelError> {
        let answers = self.dump("links", RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        let links = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => links::decode(message),
            _ => None,
        });
        Ok(links.collect())
    }

    async fn addresses(&self) -> Result<Vec<SeenAddress>, KernelError> {
        let answers = self.dump("addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?;
        let addresses = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => links::decode_address(message),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Egret's rules, and foreign rules that choose a table by source address, in order.
    async fn rules(&self) -> Result<(BTreeSet<RoutingRule>, Vec<Lookup>), KernelError> {
        let mut rules = BTreeSet::new();
        let mut lookups = Vec::new();
        for family in AddressFamily::BOTH {
            let mut request = RuleMessage::default();
            request.header.family = encode::family(family);
            for answer in self.dump("rules", RouteNetlinkMessage::GetRule(request)).await? {
                // Egret's by protocol and priority; a rule with only one of the two belongs to another program.
                let RouteNetlinkMessage::NewRule(message) = answer else { continue };
                match routes::rule(&message) {
                    Some((rule, of)) if of == PROTOCOL && self.owns_priority(rule.priority) => drop(rules.insert(rule)),
                    _ => lookups.extend(routes::source_rule(&message)),
                }
            }
        }
        lookups.sort_by_key(|(priority, ..)| *priority);
        Ok((rules, lookups))
    }

    /// The routes of tables that foreign rules name for addresses of this node. A CNI may have such a rule for each pod
    /// (the AWS VPC CNI does): their addresses are not this node's, so those tables are not read.
    async fn sources(
        &self,
        lookups: Vec<Lookup>,
        addresses: &[SeenAddress],
        links: &BTreeMap<u32, LinkState>,
    ) -> Result<Vec<SourceTable>, KernelError> {
        let mut sources = Vec::new();
        for (_, from, table) in lookups {
            if !addresses.iter().any(|seen| from.contains(&seen.listed.net.addr())) {
                continue;
            }
            let request = routes::table_dump(AddressFamily::of(from.addr()), table);
            let answers = match self.routes.dump(request).await {
                Ok(answers) => answers,
                // The kernel reports an empty table as missing.
                Err(source) if source.is_missing() => Vec::new(),
                Err(source) => return Err(KernelError::Observe { what: "a routing table", source }),
            };
            let of_table = answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) if routes::table(message) == table => Some(message),
                _ => None,
            });
            let routes = of_table.flat_map(|message| routes::foreign_route(message, links)).collect();
            sources.push(SourceTable { from, routes });
        }
        Ok(sources)
    }

    async fn all_routes(
        &self,
        links: &BTreeMap<u32, LinkState>,
    ) -> Result<(BTreeMap<RouteKey, Route>, Vec<HostRoute>), KernelError> {
        let mut own = BTreeMap::new();
        let mut host_network = Vec::new();
        for family in AddressFamily::BOTH {
            for answer in self.dump("routes", encode::route_dump(family, false)).await? {
                if let RouteNetlinkMessage::NewRoute(message) = answer
                    && routes::protocol(message.header.protocol) == PROTOCOL
                    && let Some((key, route)) = routes::own_route(&message, links)
                    && self.owns(key.table)
                {
                    own.insert(key, route);
                }
            }
            for answer in self.dump("the main routing table", encode::route_dump(family, true)).await? {
                if let RouteNetlinkMessage::NewRoute(message) = answer
                    && routes::is_main(&message)
                {
                    host_network.extend(routes::foreign_route(&message, links));
                }
            }
        }
        Ok((own, host_network))
    }

    /// Those that the kernel was asked for and has an address of.
    fn resolved(&self, neighbours: &[NeighbourMessage], links: &BTreeMap<u32, LinkState>) -> BTreeSet<LinkNeighbour> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let resolved = neighbours.iter().filter_map(|seen| {
            let address =
                routes::neighbour_address(seen).filter(|address| asked.contains(&(seen.header.ifindex, *address)))?;
            let link = links.get(&seen.header.ifindex).filter(|_| routes::unresolved(seen, links).is_none())?;
            Some((link.name.clone(), address))
        });
        resolved.collect()
    }

    async fn neighbours(&self) -> Result<Vec<NeighbourMessage>, KernelError> {
        let mut request = NeighbourMessage::default();
        request.header.family = NetlinkFamily::Unspec;
        let answers = self.dump("neighbours", RouteNetlinkMessage::GetNeighbour(request)).await?;
        let neighbours = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => Some(message),
            _ => None,
        });
        Ok(neighbours.collect())
    }
}

/// The egress addresses that Egret's table records.
fn assigned(ours: &Ruleset) -> BTreeSet<IpAddr> {
    let table = ours.get(&TableFamily::Inet);
    let sets = AddressFamily::BOTH.into_iter().filter_map(|family| table?.sets.get(&record(family)));
    let addresses = sets.flat_map(|set| set.elements.keys()).filter_map(|key| match key {
        ElementKey::Address(address) => Some(*address),
        _ => None,
    });
    addresses.collect()
}

/// Sysctls of Egret's devices, and the filters that Egret's table remembers having loosened.
fn sysctls(links: &BTreeMap<u32, LinkState>, loosened: &BTreeMap<String, u8>, ipv6: bool) -> BTreeMap<Sysctl, String> {
    let own = links.values().filter(|seen| seen.is_ours()).map(|seen| &seen.name);
    let mut wanted: Vec<Sysctl> = Vec::new();
    for name in own {
        wanted.push(Sysctl { family: AddressFamily::V4, link: name.clone(), name: "rp_filter" });
        wanted.push(Sysctl { family: AddressFamily::V4, link: name.clone(), name: "forwarding" });
        if ipv6 {
            wanted.push(Sysctl { family: AddressFamily::V6, link: name.clone(), name: "disable_ipv6" });
        }
    }
    for name in loosened.keys() {
        wanted.push(Sysctl { family: AddressFamily::V4, link: name.clone(), name: "rp_filter" });
    }
    wanted
        .into_iter()
        // A device that was just deleted has no sysctls; the next dump shows that it is gone.
        .filter_map(|sysctl| Some((sysctl.clone(), std::fs::read_to_string(sysctl.path()).ok()?.trim().to_owned())))
        .collect()
}
