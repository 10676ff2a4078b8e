//! Gathers every file and kernel listing that the doctor's checks need. Read-only.
//!
//! What cannot be read is left out; the checks report what that means.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;

use super::super::foreign::RulesetDump;
use super::super::links::{self, LinkState};
use super::super::socket::{RouteError, RouteSocket};
use super::super::{encode, host_network, marks, routes, sysctl};
use super::DoctorInput;
use super::networkd::{self, Networkd};
use super::survey::{Device, PeerRoute, Survey, SysctlSurvey};
use super::{chains, trial};
use crate::core::host_network::{HostNetwork, HostRoute};
use crate::core::name::NodeName;
use crate::core::state::mask::choose;
use crate::core::state::net::{Protocol, Route, RoutingRule, route_text};
use crate::core::state::nft::{AddressFamily, Ruleset};
use crate::core::state::ownership::{DatapathConfig, PROTOCOL};

/// Where Cilium's agent writes its running configuration (pkg/option in its sources, `StoreInFile`).
const CILIUM_STATE: &str = "/var/run/cilium/state/agent-runtime-config.json";

/// Where it pins its eBPF maps (pkg/bpf in its sources, `TCGlobalsPath`).
const CILIUM_MAPS: &str = "/sys/fs/bpf/tc/globals";

/// Its fields and the corresponding keys of `cilium-config`.
const CILIUM_FIELDS: [(&str, &str); 5] = [
    ("EnableHostLegacyRouting", "enable-host-legacy-routing"),
    ("KubeProxyReplacement", "kube-proxy-replacement"),
    ("EnableBPFMasquerade", "enable-bpf-masquerade"),
    ("EnableEgressGateway", "enable-egress-gateway"),
    ("EnableIPv4EgressGateway", "enable-ipv4-egress-gateway"),
];

/// Gathers everything. Returns the survey, and the input with the mark bits that this node takes.
pub(super) async fn gather(input: &DoctorInput) -> (Survey, DoctorInput) {
    let marks = marks::survey(input.range.first).await.map_err(|error| crate::telemetry::chain(&error));
    let mut input = input.clone();
    let seen = marks.as_ref().ok();
    let choice = seen.filter(|_| !input.mask_is_given).map(|seen| choose(&seen.used, seen.own));
    if let Some(choice) = choice {
        input.range.mask = choice.mask;
    }
    let range = input.range;
    let listed = listings(&input).await.unwrap_or_default();
    let foreign = match RulesetDump::open() {
        Ok(mut listing) => listing.rules().await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let survey = Survey {
        marks,
        choice,
        peer_routes: listed.peer_routes,
        foreign,
        release: text("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown release".to_owned()),
        trial: trial::run(range).await,
        capabilities: text("/proc/self/status").and_then(|status| effective(&status)),
        settings: settings(),
        devices: listed.devices,
        host_network: listed.host_network,
        rules: listed.rules,
        foreign_routes: listed.foreign_routes,
        chains: chains::list().await.ok(),
        udp_ports: ["udp", "udp6"].iter().flat_map(|file| ports(&of_thread(file))).collect(),
        legacy_tables: ["ip_tables_names", "ip6_tables_names"]
            .iter()
            .flat_map(|file| words(&of_thread(file)))
            .collect(),
        networkd: networkd_settings(Path::new("/")),
        cilium: text(CILIUM_STATE).and_then(|json| cilium(&json)),
        egress_maps: egress_maps(Path::new(CILIUM_MAPS)),
    };
    (survey, input)
}

/// What rtnetlink lists. Needs no privileges.
#[derive(Default)]
struct Listings {
    devices: BTreeMap<String, Device>,
    host_network: HostNetwork,
    rules: Vec<(RoutingRule, Protocol)>,
    foreign_routes: Vec<String>,
    peer_routes: Vec<(NodeName, IpAddr, Result<PeerRoute, String>)>,
}

async fn listings(input: &DoctorInput) -> Result<Listings, RouteError> {
    let socket = RouteSocket::open().map_err(|_| RouteError::Closed)?;
    let mut seen = BTreeMap::new();
    for answer in socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await? {
        if let RouteNetlinkMessage::NewLink(message) = answer {
            seen.extend(links::decode(&message));
        }
    }
    let mut addresses = Vec::new();
    for answer in socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await? {
        if let RouteNetlinkMessage::NewAddress(message) = answer {
            addresses.extend(links::decode_address(&message));
        }
    }
    let (mut rules, mut main, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
    for family in AddressFamily::BOTH {
        let mut request = RuleMessage::default();
        request.header.family = encode::family(family);
        for answer in socket.dump(RouteNetlinkMessage::GetRule(request)).await? {
            if let RouteNetlinkMessage::NewRule(message) = answer {
                rules.extend(routes::rule(&message));
            }
        }
        all_routes(&socket, family, (input.range, &seen), (&mut main, &mut foreign)).await?;
    }
    foreign.sort();
    let devices = seen.values().map(|seen| {
        let device = Device { mtu: seen.mtu, vxlan_port: seen.link.port, ours: seen.is_ours() };
        (seen.name.clone(), device)
    });
    let devices = devices.collect();
    let host_network = host_network::host_network(
        &seen,
        &addresses,
        (main, Vec::new()),
        &Ruleset::default(),
        crate::kernel::nft::NftFeatures { owned_tables: false, interface_kinds: true, resets: true },
        &[],
    );
    let peer_routes = peer_routes(&socket, input, &seen).await;
    Ok(Listings { devices, host_network, rules, foreign_routes: foreign, peer_routes })
}

/// The route to each other node from this node's address.
async fn peer_routes(
    socket: &RouteSocket,
    input: &DoctorInput,
    links: &BTreeMap<u32, LinkState>,
) -> Vec<(NodeName, IpAddr, Result<PeerRoute, String>)> {
    let Some(own) = input.node.as_ref().and_then(|(_, node)| node.tunnel_address()) else { return Vec::new() };
    let mut found = Vec::new();
    for (name, peer, _) in &input.peers {
        let route = match socket.ask(encode::route_to(*peer, own)).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(message))) => routes::lookup_result(&message, links)
                .ok_or_else(|| "the kernel's answer names no interface".to_owned()),
            Ok(_) => Err("the kernel gave no answer".to_owned()),
            Err(RouteError::Kernel { errno, .. }) => Err(errno.desc().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let route = route.map(|(interface, mtu, local)| PeerRoute { interface, mtu, local });
        found.push((name.clone(), *peer, route));
    }
    found
}

/// Routes of the main table, and foreign routes in tables of ours. The kernel cannot filter for the latter alone.
async fn all_routes(
    socket: &RouteSocket,
    family: AddressFamily,
    (range, links): (DatapathConfig, &BTreeMap<u32, LinkState>),
    (main, foreign): (&mut Vec<HostRoute>, &mut Vec<String>),
) -> Result<(), RouteError> {
    let mut request = RouteMessage::default();
    request.header.address_family = encode::family(family);
    for answer in socket.dump(RouteNetlinkMessage::GetRoute(request)).await? {
        let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
        if routes::is_main(&message) {
            main.extend(routes::foreign_route(&message, links));
        }
        let protocol = routes::protocol(message.header.protocol);
        if protocol != PROTOCOL
            && range.owns(routes::table(&message))
            && let Some((key, route)) = routes::own_route(&message, links)
        {
            foreign.push(foreign_text(&route_text(&key, &route), &route, protocol));
        }
    }
    Ok(())
}

/// A route's text form with its actual protocol in place of Egret's.
fn foreign_text(text: &str, route: &Route, protocol: Protocol) -> String {
    let text = text.strip_suffix(" proto egret").unwrap_or(text);
    // A route that Egret cannot express is shown in the kernel's form; its protocol is enough to find it.
    let known = !matches!(route, Route::Unknown(_));
    if known && protocol == Protocol(3) { text.to_owned() } else { format!("{text} proto {protocol}") }
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Reads a file below `/proc/net` for the calling thread's network namespace; `/proc/net` itself is the main thread's.
fn of_thread(file: &str) -> String {
    format!("/proc/thread-self/net/{file}")
}

fn words(path: &str) -> Vec<String> {
    text(path).map(|text| text.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

/// `CapEff:` of `/proc/self/status`, proc_pid_status(5).
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn settings() -> SysctlSurvey {
    let flag = |path: &str| text(path).map(|value| value != "0");
    // Opening for writing checks the permission without changing anything.
    let opened = sysctl::open("/proc/sys/net/ipv4/ip_forward");
    SysctlSurvey {
        read_only: opened.err().map(|error| error.to_string()),
        forwards4: flag("/proc/sys/net/ipv4/ip_forward"),
        forwards6: flag("/proc/sys/net/ipv6/conf/all/forwarding"),
        src_valid_mark: flag("/proc/sys/net/ipv4/conf/all/src_valid_mark"),
    }
}

/// The local ports of `/proc/net/udp`: second field, `ADDRESS:PORT` in hexadecimal.
fn ports(path: &str) -> BTreeSet<u16> {
    let listing = text(path).unwrap_or_default();
    let local = listing.lines().filter_map(|line| line.split_whitespace().nth(1)?.rsplit_once(':'));
    local.filter_map(|(_, port)| u16::from_str_radix(port, 16).ok()).collect()
}

/// networkd's settings below a root, if it runs: main file and drop-ins in systemd's search order (networkd.conf(5)).
fn networkd_settings(root: &Path) -> Option<Networkd> {
    // The folder alone is created at boot even if networkd never runs; networkd itself writes this file.
    if !root.join("run/systemd/netif/state").is_file() {
        return None;
    }
    let folders = ["etc", "run", "usr/local/lib", "usr/lib"].map(|folder| root.join(folder).join("systemd"));
    let main = folders.iter().map(|folder| folder.join("networkd.conf")).find(|path| path.is_file());
    let mut drop_ins: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for folder in &folders {
        for entry in fs::read_dir(folder.join("networkd.conf.d")).into_iter().flatten().flatten() {
            // Of two drop-ins with one name, the one in the first folder hides the other.
            if entry.path().extension().is_some_and(|extension| extension == "conf") {
                drop_ins.entry(entry.file_name()).or_insert_with(|| entry.path());
            }
        }
    }
    let texts: Vec<String> =
        main.iter().chain(drop_ins.values()).filter_map(|path| fs::read_to_string(path).ok()).collect();
    Some(networkd::read(texts.iter().map(String::as_str)))
}

/// The maps of Cilium's egress gateway: `cilium_egress_gw_policy_v4`, with `_v2` in newer versions, and `_v6`.
fn egress_maps(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    found.retain(|name| name.starts_with("cilium_egress_gw_policy_v"));
    found.sort();
    found
}

/// The running configuration of Cilium's agent. Fields that are missing or of an unexpected type are left out.
fn cilium(json: &str) -> Option<BTreeMap<String, String>> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let known = CILIUM_FIELDS.into_iter().filter_map(|(field, name)| {
        let value = value.get(field)?;
        let text = value.as_str().map(str::to_owned).or_else(|| value.as_bool().map(|value| value.to_string()))?;
        Some((name.to_owned(), text))
    });
    Some(known.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_capabilities_are_read() {
        let status = "Name:\tegret\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n";
        assert_eq!(effective(status), Some(1 << 12));
        assert_eq!(effective("Name:\tegret\n"), None);
    }

    #[test]
    fn drop_ins_of_one_name_hide_each_other_and_others_add_up() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, line: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("[Network]\n{line}\n")).unwrap();
        };
        write("usr/lib/systemd/networkd.conf.d/10-site.conf", "ManageForeignRoutes=no");
        assert_eq!(networkd_settings(root.path()), None, "networkd does not run");
        write("run/systemd/netif/state", "OPER_STATE=routable");
        assert_eq!(networkd_settings(root.path()), Some(Networkd { rules: true, routes: false }));
        write("etc/systemd/networkd.conf.d/10-site.conf", "ManageForeignRoutingPolicyRules=no");
        assert_eq!(networkd_settings(root.path()), Some(Networkd { rules: false, routes: true }));
        write("run/systemd/networkd.conf.d/20-site.conf", "ManageForeignRoutingPolicyRules=yes");
        assert_eq!(networkd_settings(root.path()), Some(Networkd { rules: true, routes: true }));
    }

    #[test]
    fn the_maps_of_ciliums_gateway_are_found_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cilium_egress_gw_policy_v6", "cilium_egress_gw_policy_v4_v2", "cilium_lxc"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(egress_maps(folder.path()), ["cilium_egress_gw_policy_v4_v2", "cilium_egress_gw_policy_v6"]);
        assert_eq!(egress_maps(&folder.path().join("none")), [""; 0]);
    }

    #[test]
    fn ciliums_running_configuration_gets_the_keys_of_its_config_map() {
        let json = r#"{"EnableHostLegacyRouting": false, "KubeProxyReplacement": "true", "EnableBPFMasquerade": 1}"#;
        let expected = [("enable-host-legacy-routing", "false"), ("kube-proxy-replacement", "true")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(cilium(json), Some(BTreeMap::from(expected)));
        assert_eq!(cilium("{"), None);
    }
}
