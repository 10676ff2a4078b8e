//! Checks of the machine itself: kernel, capabilities, settings, the tunnel's port and MTU, and its Node object. Pure.
//!
//! Not here: other programs' firewalls, rules and routes (`others`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::survey::{Attempt, Survey};
use super::{Check, DoctorInput};
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::DatapathConfig;

/// include/uapi/linux/capability.h
const CAP_NET_ADMIN: u32 = 12;

/// VXLAN overhead: outer IP header, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348, section 5).
const OVERHEAD_IPV4: u32 = 20 + 8 + 8 + 14;
const OVERHEAD_IPV6: u32 = 40 + 8 + 8 + 14;

/// Encapsulation overhead in bytes for a packet to this address.
pub(super) fn overhead(peer: IpAddr) -> u32 {
    if peer.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 }
}

/// All checks, in the order they are shown.
pub(super) fn machine(survey: &Survey, input: &DoctorInput) -> Vec<Check> {
    let mut found = kernel(survey);
    found.push(capabilities(survey.capabilities));
    found.extend(settings(survey));
    found.push(filters(survey));
    found.push(tunnel_port(survey, input.range));
    found.extend(tunnel_mtu(survey, input));
    found.extend(node(survey, input));
    found
}

fn kernel(survey: &Survey) -> Vec<Check> {
    let release = &survey.release;
    let attempts = match &survey.trial {
        Ok(attempts) => attempts,
        Err(why) => {
            let message = format!("kernel {release}: its features were not tested ({why})");
            return vec![Check::warn("kernel", message, "run `egret doctor` once as root, outside of a container")];
        }
    };
    let there: Vec<&str> = attempts.iter().filter(|one| one.refusal.is_none()).map(|one| one.feature).collect();
    let mut found = Vec::new();
    if !there.is_empty() {
        found.push(Check::ok("kernel", format!("kernel {release}: {}", there.join(", "))));
    }
    for Attempt { feature, refusal, optional, hint } in attempts {
        let Some(refusal) = refusal else { continue };
        found.push(match optional {
            Some(without) => Check::warn("kernel", format!("no {feature}: {without} ({refusal})"), *hint),
            None => Check::error("kernel", format!("no {feature}: {refusal}"), *hint),
        });
    }
    found
}

fn capabilities(effective: Option<u64>) -> Check {
    match effective {
        Some(set) if set & (1 << CAP_NET_ADMIN) != 0 => Check::ok("capabilities", "capabilities: NET_ADMIN"),
        Some(_) => Check::error(
            "capabilities",
            "NET_ADMIN is missing: nftables can be neither read nor changed",
            "run as root, or with CAP_NET_ADMIN: `securityContext.capabilities.add: [NET_ADMIN]` in a pod",
        ),
        None => Check::warn(
            "capabilities",
            "the capabilities of this process are unknown: /proc/self/status cannot be read",
            "mount /proc",
        ),
    }
}

fn settings(survey: &Survey) -> Vec<Check> {
    let mut found = Vec::new();
    if let Some(why) = &survey.settings.read_only {
        let message = format!("/proc/sys/net cannot be written ({why}): the tunnel's filters cannot be set");
        found.push(Check::error(
            "sysctl",
            message,
            "a container needs the node's at /host/proc/sys/net, where the chart mounts it",
        ));
    }
    if survey.settings.forwards4 == Some(false) {
        let message = "net.ipv4.ip_forward is 0: no pod's packet leaves this node";
        found.push(Check::error("forwarding", message, "`sysctl -w net.ipv4.ip_forward=1`"));
    }
    if !survey.host_network.features.ipv6 {
        found.push(Check::ok("ipv6", "IPv6 is switched off: policies' IPv6 destinations are left out here"));
    } else if survey.settings.forwards6 == Some(false) {
        let message = "net.ipv6.conf.all.forwarding is 0: no pod's IPv6 packet leaves this node";
        let hint = "`sysctl -w net.ipv6.conf.all.forwarding=1`; nothing to do where pods have no IPv6";
        found.push(Check::warn("forwarding", message, hint));
    }
    if found.is_empty() {
        found.push(Check::ok("forwarding", "settings: /proc/sys/net is writable, IPv4 and IPv6 are forwarded"));
    }
    found
}

/// Informational: Egret loosens strict filters where necessary, and restores them.
fn filters(survey: &Survey) -> Check {
    let strict: Vec<&str> = survey
        .host_network
        .interfaces
        .iter()
        .filter(|(_, interface)| interface.rp_filter.max(survey.host_network.rp_filter_all) == 1)
        .map(|(name, _)| name.as_str())
        .collect();
    let marks = if survey.settings.src_valid_mark == Some(true) { "use marks" } else { "ignore marks" };
    let message = if strict.is_empty() {
        format!("reverse path filters: none is strict; they {marks}")
    } else {
        format!("reverse path filters: strict on {}; they {marks}", some(&strict))
    };
    Check::ok("rp-filter", message)
}

fn tunnel_port(survey: &Survey, range: DatapathConfig) -> Check {
    let port = range.port;
    let other = survey.devices.iter().find(|(_, device)| !device.ours && device.vxlan_port == port);
    let own = survey.devices.values().any(|device| device.ours && device.vxlan_port == port);
    if let Some((name, _)) = other {
        let message = format!("UDP port {port} is the tunnel port of {name}, which is not ours: two cannot share it");
        return Check::error("tunnel-port", message, "set another datapath.port in egret.yaml, the same for all nodes");
    }
    if !own && survey.udp_ports.contains(&port) {
        let message = format!("UDP port {port}, the tunnel's, is in use by a program");
        let hint = format!("`ss -ulpn sport = :{port}` names it; or set another datapath.port in egret.yaml");
        return Check::error("tunnel-port", message, hint);
    }
    let holder = if own { "our tunnel has it" } else { "it is free" };
    Check::ok("tunnel-port", format!("UDP port {port}: {holder}"))
}

/// The interface that tunnel packets leave by: the one with the node's address, otherwise the one with the default route.
fn tunnel_mtu(survey: &Survey, input: &DoctorInput) -> Option<Check> {
    let address = input.node.as_ref().and_then(|(_, node)| node.tunnel_address());
    let (name, overhead) = match address.and_then(|address| Some((address, survey.host_network.holder(address)?))) {
        Some((address, name)) => (name, overhead(address)),
        None => (survey.host_network.default_route(AddressFamily::V4)?.interface.as_str(), OVERHEAD_IPV4),
    };
    let (tunnel, under) = (input.range.mtu, survey.host_network.interfaces.get(name)?.mtu);
    Some(if tunnel + overhead > under {
        let message = format!(
            "MTU: tunnel packets of {tunnel} bytes need {} with encapsulation, and {name} takes {under}",
            tunnel + overhead
        );
        let room = under.saturating_sub(overhead);
        Check::warn("mtu", message, format!("set datapath.mtu to {room} in egret.yaml, or raise the MTU of {name}"))
    } else {
        Check::ok("mtu", format!("MTU: {tunnel} in the tunnel, {under} on {name}"))
    })
}

fn node(survey: &Survey, input: &DoctorInput) -> Vec<Check> {
    let Some((name, node)) = &input.node else { return Vec::new() };
    let mut found = Vec::new();
    match node.tunnel_address() {
        None => found.push(Check::error(
            "node-address",
            format!("{name} has no InternalIP: the other nodes have nowhere to send its packets"),
            "the Node manifest's status.addresses should have one",
        )),
        Some(address) => found.push(match survey.host_network.holder(address) {
            Some(interface) => Check::ok("node-address", format!("{name} is here: {address} on {interface}")),
            None => Check::error(
                "node-address",
                format!("{address}, the InternalIP of {name}, is on no interface: this is not {name}, or it has moved"),
                "compare --node with `ip address`",
            ),
        }),
    }
    if node.pod_cidrs.is_empty() {
        let message = format!("{name} has no podCIDRs: packets of a new pod are not dropped until it is classified");
        found.push(Check::warn("pod-cidrs", message, "set podCIDRs in egret.yaml"));
    }
    found
}

/// A few names and the number of the rest.
pub(super) fn some(names: &[&str]) -> String {
    let names: BTreeSet<&str> = names.iter().copied().collect();
    let shown: Vec<&str> = names.iter().copied().take(3).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests;
