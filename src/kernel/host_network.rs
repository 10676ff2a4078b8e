//! Reads the host network: interfaces that are not Egret's with their addresses and filters, and the main table.
//! Read-only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rtnetlink::packet_route::neighbour::NeighbourMessage;

use super::links::{LinkState, SeenAddress};
use super::{nft, routes};
use crate::core::compile::RP_FILTER_BEFORE;
use crate::core::host_network::{
    Forwarding, HostNetwork, HostRoute, Interface, KernelFeatures, ListedAddress, SourceTable,
};
use crate::core::state::nft::{ElementData, ElementKey, Ruleset, TableFamily};

pub(super) fn host_network(
    links: &BTreeMap<u32, LinkState>,
    addresses: &[SeenAddress],
    (host_routes, sources): (Vec<HostRoute>, Vec<SourceTable>),
    ours: &Ruleset,
    can: nft::NftFeatures,
    neighbours: &[NeighbourMessage],
) -> HostNetwork {
    let mut listed: BTreeMap<u32, Vec<ListedAddress>> = BTreeMap::new();
    for address in addresses {
        listed.entry(address.index).or_default().push(address.listed);
    }
    let interfaces = links
        .iter()
        .filter(|(_, link)| !link.is_ours())
        .map(|(index, link)| {
            let rp_filter = number(&format!("/proc/sys/net/ipv4/conf/{}/rp_filter", link.name)).unwrap_or(0);
            let interface = Interface {
                up: link.up,
                no_carrier: link.no_carrier,
                kind: link.kind,
                bridge: link.bridge,
                point_to_point: link.point_to_point,
                other_names: link.other_names.clone(),
                rp_filter,
                mtu: link.mtu,
                ..Interface::default()
            };
            (link.name.clone(), interface.arrange(listed.get(index).map_or(&[], Vec::as_slice)))
        })
        .collect();
    let off4: BTreeSet<String> = links
        .values()
        .filter(|link| {
            !link.is_ours() && number(&format!("/proc/sys/net/ipv4/conf/{}/forwarding", link.name)) == Some(0)
        })
        .map(|link| link.name.clone())
        .collect();
    HostNetwork {
        interfaces,
        routes: host_routes,
        sources,
        rp_filter_all: number("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap_or(0),
        src_valid_mark: number("/proc/sys/net/ipv4/conf/all/src_valid_mark") == Some(1),
        loosened: loosened(ours),
        features: KernelFeatures {
            owned_tables: can.owned_tables,
            interface_kinds: can.interface_kinds,
            resets: can.resets,
            ipv6: number("/proc/sys/net/ipv6/conf/all/disable_ipv6") == Some(0),
        },
        forwarding: Forwarding { off4, off6: number("/proc/sys/net/ipv6/conf/all/forwarding") == Some(0) },
        unresolved: neighbours.iter().filter_map(|seen| routes::unresolved(seen, links)).collect(),
        resolved: BTreeSet::new(),
    }
}

/// Interfaces whose original `rp_filter` our table remembers.
fn loosened(ours: &Ruleset) -> BTreeMap<String, u8> {
    let map = ours.get(&TableFamily::Inet).and_then(|table| table.sets.get(RP_FILTER_BEFORE));
    map.into_iter()
        .flat_map(|set| &set.elements)
        .filter_map(|(key, data)| match (key, data) {
            (ElementKey::Interface(name), Some(ElementData::Mark(before))) => {
                Some((name.clone(), u8::try_from(*before).ok()?))
            }
            _ => None,
        })
        .collect()
}

fn number(path: &str) -> Option<u8> {
    std::fs::read_to_string(Path::new(path)).ok()?.trim().parse().ok()
}
