//! A node's ground as a small file: interfaces with their addresses, and routes as `ip route` prints them.
//!
//! Deliberately absent: scopes, route types and whatever else decides nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use egret::core::host_network::{HostNetwork, HostRoute, Interface, KernelFeatures};
use egret::core::state::nft::AddressFamily;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    interfaces: BTreeMap<String, WrittenInterface>,
    #[serde(default)]
    routes: Vec<String>,
    #[serde(default)]
    rp_filter_all: u8,
    #[serde(default)]
    src_valid_mark: bool,
    #[serde(default = "yes")]
    owned_tables: bool,
    #[serde(default = "yes")]
    ipv6: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenInterface {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    rp_filter: u8,
    #[serde(default = "ethernet")]
    mtu: u32,
}

fn ethernet() -> u32 {
    1500
}

fn yes() -> bool {
    true
}

/// Reads a ground; `place` is for the message when it is none.
pub(crate) fn read(place: &str, text: &str) -> HostNetwork {
    let written: Written = serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{place}: {error}"));
    let address = |text: &String| text.parse().unwrap_or_else(|_| panic!("{place}: {text}"));
    let interface = |of: WrittenInterface| Interface {
        up: true,
        addresses: of.addresses.iter().map(address).collect(),
        rp_filter: of.rp_filter,
        mtu: of.mtu,
        ..Interface::default()
    };
    HostNetwork {
        interfaces: written.interfaces.into_iter().map(|(name, of)| (name, interface(of))).collect(),
        routes: written.routes.iter().map(|line| route(place, line)).collect(),
        rp_filter_all: written.rp_filter_all,
        src_valid_mark: written.src_valid_mark,
        loosened: BTreeMap::new(),
        features: KernelFeatures {
            owned_tables: written.owned_tables,
            interface_kinds: true,
            resets: true,
            ipv6: written.ipv6,
        },
        ..HostNetwork::default()
    }
}

/// `default via 172.18.0.1 dev eth0 metric 100`, `10.0.3.0/24 dev net1`. A bare `default` is IPv4's unless its router is not.
fn route(place: &str, line: &str) -> HostRoute {
    let words: Vec<&str> = line.split_whitespace().collect();
    let behind = |word: &str| words.iter().position(|one| *one == word).and_then(|position| words.get(position + 1));
    let gateway: Option<IpAddr> = behind("via").map(|text| text.parse().expect(line));
    let destination = match words.first() {
        Some(&"default") => match gateway.map(AddressFamily::of) {
            Some(AddressFamily::V6) => "::/0",
            _ => "0.0.0.0/0",
        },
        Some(destination) => destination,
        None => panic!("{place}: an empty route"),
    };
    HostRoute {
        destination: destination.parse().unwrap_or_else(|_| panic!("{place}: {line}")),
        interface: (*behind("dev").unwrap_or_else(|| panic!("{place}: {line}: no dev"))).to_owned(),
        gateway,
        metric: behind("metric").map_or(0, |text| text.parse().expect(line)),
        source: behind("src").map(|text| text.parse().expect(line)),
    }
}
