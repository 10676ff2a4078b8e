//! Checks of other programs on this machine: rules, routes and marks in Egret's range, firewalls that drop Egret's
//! packets, daemons that delete foreign objects. Pure.
//!
//! Not here: CNIs that bypass netfilter (`cilium`), and evaluating a firewall's rules (`firewall`).

use std::fmt::Write;

use ipnet::IpNet;

use super::super::marks::MarkSurvey;
use super::firewall::{self, TracedPacket, Way};
use super::survey::{ForeignChain, Hook, Survey};
use super::{Check, DoctorInput};
use crate::core::state::mask::{MaskChoice, MaskReason};
use crate::core::state::net::{Protocol, RoutingRule};
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::{DatapathConfig, PROTOCOL, TABLE, TUNNEL};

/// Above this number, further peers' networks are not tested one by one: they resemble the first.
const PEERS: usize = 32;

/// `RT_TABLE_LOCAL` (include/uapi/linux/rtnetlink.h).
const LOCAL_TABLE: u32 = 255;

/// All checks, in the order they are shown.
pub(super) fn others(survey: &Survey, input: &DoctorInput) -> Vec<Check> {
    let range = input.range;
    let mut found = vec![numbers(survey, range)];
    found.extend(marks(survey, range));
    found.extend(rules(&survey.rules, range));
    found.extend(routes(&survey.foreign_routes));
    found.extend(firewalls(survey, input));
    found.extend(networkd(survey));
    found
}

/// Which marks, tables, priorities and port Egret uses on this node, and why.
fn numbers(survey: &Survey, range: DatapathConfig) -> Check {
    let why = match survey.choice {
        Some(MaskChoice { why, .. }) => format!("auto: {why}"),
        None => "from egret.yaml, or kept from the kernel".to_owned(),
    };
    let DatapathConfig { mask, port, .. } = range;
    let last = range.table(range.last_id());
    let mut message = format!(
        "marks {mask:#x} ({why}), tables {} to {last}, rules from priority {} on, UDP port {port}",
        range.first,
        range.priority(0)
    );
    if let Ok(MarkSurvey { used, .. }) = &survey.marks
        && !used.is_empty()
    {
        let _ = write!(message, "; marks of other programs: {used}");
    }
    Check::ok("range", message)
}

/// Marks that other programs use as well.
fn marks(survey: &Survey, range: DatapathConfig) -> Vec<Check> {
    let mask = range.mask;
    let used = match &survey.marks {
        Ok(marks) => &marks.used,
        Err(why) => {
            let message = format!("the marks of other programs are unknown ({why}); {mask:#x} is used");
            return vec![Check::warn("marks", message, "see the lines about the kernel and NET_ADMIN")];
        }
    };
    let mut found = Vec::new();
    let common = used.within(mask);
    if !common.is_empty() {
        let message = format!("other programs use Egret's marks, {mask:#x}: {common}");
        let hint = match survey.choice {
            None => "set datapath.markMask to auto in egret.yaml, or to unused bits",
            Some(_) => "no other bits are free here: give others fewer, by Calico's iptablesMarkMask for example",
        };
        found.push(Check::warn("foreign-mark", message, hint));
    } else if matches!(survey.choice, Some(MaskChoice { why: MaskReason::Narrow, .. })) {
        let message =
            format!("no eight mark bits in a row are free: {mask:#x} has room for {} exits", range.last_id() - 1);
        let hint = "give others fewer bits, by Calico's iptablesMarkMask for example";
        found.push(Check::warn("marks-scarce", message, hint));
    }
    let legacy: Vec<&str> =
        survey.legacy_tables.iter().map(String::as_str).filter(|table| *table != "filter").collect();
    if !legacy.is_empty() {
        let message = format!(
            "iptables-legacy has the tables {}: the marks of their rules cannot be read; the bits of known programs are avoided",
            legacy.join(", ")
        );
        found.push(Check::ok("marks-unread", message));
    }
    found
}

fn rules(rules: &[(RoutingRule, Protocol)], range: DatapathConfig) -> Vec<Check> {
    let mut found = Vec::new();
    for (rule, protocol) in rules.iter().filter(|(rule, of)| !(*of == PROTOCOL && range.owns_priority(rule.priority))) {
        // `fwmark 0/0xffffffff` is how a rule without a mark is listed.
        let marked = rule.mark != 0 || rule.mask != u32::MAX;
        // The `local` table only decides about this host's own addresses.
        let takes_all = !marked && rule.odd.is_none() && rule.table != LOCAL_TABLE;
        if rule.priority < range.priority(0) && takes_all {
            let shown = rule_text(rule, marked, *protocol);
            let message = format!("an ip rule of another program precedes Egret's and matches every packet: {shown}");
            let hint = format!(
                "members' packets use its table where it has a route for them; move it behind {}",
                range.priority(range.last_id())
            );
            found.push(Check::warn("foreign-rule", message, hint));
        }
    }
    found
}

fn rule_text(rule: &RoutingRule, marked: bool, protocol: Protocol) -> String {
    let mark = if marked { format!(" fwmark {:#x}/{:#x}", rule.mark, rule.mask) } else { String::new() };
    let family = if rule.family == AddressFamily::V6 { "-6 " } else { "" };
    // A rule need not name the program that made it.
    let protocol = if protocol == Protocol(0) { String::new() } else { format!(" proto {protocol}") };
    format!("{family}{}:{mark} lookup {}{protocol}", rule.priority, rule.table)
}

/// An error, not a warning: a foreign route in a table of Egret's misroutes members' packets.
fn routes(foreign: &[String]) -> Option<Check> {
    let first = foreign.first()?;
    let message = match foreign.len() {
        1 => format!("a foreign route is in one of Egret's tables: {first}"),
        many => format!("{many} foreign routes are in Egret's tables: {first}, ..."),
    };
    let hint = format!("`ip route del {first}`, or set datapath.firstTable in egret.yaml");
    Some(Check::error("foreign-route", message, hint))
}

fn firewalls(survey: &Survey, input: &DoctorInput) -> Vec<Check> {
    let Some(chains) = &survey.chains else {
        let message =
            "other firewalls: nftables cannot be listed, so it is unknown whether one drops forwarded packets";
        return vec![Check::warn("firewall", message, "see the lines about the kernel and NET_ADMIN")];
    };
    let packets = packets(input);
    let mut found = Vec::new();
    let between = between(input);
    for chain in chains.iter().filter(|chain| chain.table != TABLE) {
        match chain.hook {
            Some(Hook::Forward) => found.extend(forwarding(chain, survey, &packets)),
            Some(Hook::Input) => found.extend(tunnelling(chain, survey, &between, Way::Arrives(input.range.port))),
            Some(Hook::Output) => found.extend(tunnelling(chain, survey, &between, Way::Sent(input.range.port))),
            None => {}
        }
    }
    if survey.legacy_tables.contains("filter") {
        let message =
            "iptables-legacy has a filter table; it is unknown whether its FORWARD chain drops forwarded packets";
        let hint = format!(
            "`iptables-legacy -S FORWARD`; where its policy is DROP: `iptables-legacy -I FORWARD -i {TUNNEL} -j ACCEPT`, and the same with -o"
        );
        found.push(Check::warn("iptables-legacy", message, hint));
    }
    if found.is_empty() {
        found.push(Check::ok("firewall", "other firewalls: none drops forwarded packets, nor the tunnel's"));
    }
    found
}

/// The packets that a gateway forwards, as far as its peers are known: packets out of the tunnel bear an address of the
/// sending node's `podCIDR`, or the node's own; replies go back to it.
fn packets(input: &DoctorInput) -> Vec<TracedPacket> {
    let mut found = Vec::new();
    for family in AddressFamily::BOTH {
        let of_family = |net: &IpNet| AddressFamily::of(net.addr()) == family;
        let mut nodes: Vec<Option<IpNet>> = input
            .peers
            .iter()
            .take(PEERS)
            .filter_map(|(_, address, networks)| {
                networks.iter().copied().find(of_family).or_else(|| Some(IpNet::from(*address)).filter(of_family))
            })
            .map(Some)
            .collect();
        if input.peers.is_empty() {
            nodes.push(None);
        }
        for node in nodes {
            let ours = input.range.mask;
            found.extend([Way::OutOfTunnel, Way::IntoTunnel].map(|way| TracedPacket { family, way, node, ours }));
        }
    }
    found
}

/// The addresses of other nodes' ends of the tunnel; without a peer that is known, that of any.
fn between(input: &DoctorInput) -> Vec<(AddressFamily, Option<IpNet>)> {
    let known = input.peers.iter().take(PEERS).map(|(_, address, _)| IpNet::from(*address));
    let known: Vec<_> = known.map(|net| (AddressFamily::of(net.addr()), Some(net))).collect();
    if known.is_empty() { vec![(AddressFamily::V4, None)] } else { known }
}

/// Whether a chain takes the tunnel's own packets. Members' packets to gateways are lost then, and no rule of Egret's counts it.
fn tunnelling(
    chain: &ForeignChain,
    survey: &Survey,
    between: &[(AddressFamily, Option<IpNet>)],
    way: Way,
) -> Option<Check> {
    let ForeignChain { family, table, name, .. } = chain;
    let packet = between.iter().filter(|(of, _)| sees(family, *of)).find_map(|(of, node)| {
        let packet = TracedPacket { family: *of, way, node: *node, ours: 0 };
        let fate = firewall::fate(chain, &survey.foreign, packet);
        // What a rule may let in, by a set or by an interface that is not known here, is not warned of.
        (fate.dropped && !fate.accepted).then_some(packet)
    })?;
    let (direction, port) = match way {
        Way::Sent(port) => ("to", port),
        Way::Arrives(port) => ("from", port),
        Way::OutOfTunnel | Way::IntoTunnel => return None,
    };
    let node = packet.node.map_or("other nodes".to_owned(), |net| net.addr().to_string());
    let message =
        format!("the chain {family} {table} {name} drops the tunnel's packets {direction} {node}, UDP port {port}");
    let hint = match table.as_str() {
        _ if survey.chains.iter().flatten().any(|chain| chain.name == "ufw-user-input") => {
            format!("ufw's: `ufw allow {port}/udp`")
        }
        "firewalld" => format!("`firewall-cmd --permanent --add-port={port}/udp && firewall-cmd --reload`"),
        _ => format!(
            "`nft insert rule {family} {table} {name} udp dport {port} accept`, in the firewall's own configuration, too"
        ),
    };
    Some(Check::warn("tunnel-drop", message, hint))
}

/// Whether a chain of a table's family sees packets of a family.
fn sees(table: &str, packet: AddressFamily) -> bool {
    match table {
        "ip" => packet == AddressFamily::V4,
        "ip6" => packet == AddressFamily::V6,
        _ => true,
    }
}

/// Whether a chain accepts these packets. A chain whose policy is not drop is only reported if it certainly drops.
fn forwarding(chain: &ForeignChain, survey: &Survey, packets: &[TracedPacket]) -> Option<Check> {
    let ForeignChain { family, table, name, .. } = chain;
    let mut packets = packets.iter().filter(|packet| sees(family, packet.family)).peekable();
    packets.peek()?;
    let bad = packets.find_map(|packet| {
        let fate = firewall::fate(chain, &survey.foreign, *packet);
        let surely = fate.dropped && !fate.accepted;
        let may = fate.dropped && firewall::drops_by_default(chain, &survey.foreign, *packet);
        (surely || may).then_some((surely, packet))
    });
    let Some((surely, packet)) = bad else {
        let message = format!(
            "the chain {family} {table} {name} drops forwarded packets by policy, and accepts packets from {TUNNEL} and the replies"
        );
        return chain.drops.then(|| Check::ok("forward-drop", message));
    };
    let drops = if surely { "drops" } else { "may drop" };
    let what = match (packet.way == Way::IntoTunnel, packet.node) {
        (false, None) => format!("packets that a gateway forwards out of {TUNNEL}"),
        (false, Some(net)) => format!("packets that a gateway forwards out of {TUNNEL} from {net}"),
        (true, None) => format!("replies that a gateway forwards into {TUNNEL}"),
        (true, Some(net)) => format!("replies that a gateway forwards into {TUNNEL} to {net}"),
    };
    let message = format!("the chain {family} {table} {name} {drops} {what}");
    let (code, hint) = let_through(chain, survey.chains.as_deref().unwrap_or_default());
    Some(Check::warn(code, message, hint))
}

/// The fix depends on the program that owns the chain: a rule in a chain of Docker's own is gone after its next start.
fn let_through(chain: &ForeignChain, chains: &[ForeignChain]) -> (&'static str, String) {
    let ForeignChain { family, table, name, .. } = chain;
    let beside =
        |name: &str| chains.iter().any(|other| other.family == *family && other.table == *table && other.name == name);
    let program = if family == "ip6" { "ip6tables" } else { "iptables" };
    let both = format!("-i {TUNNEL} -j ACCEPT`, and the same with -o; nothing to do on nodes that are never gateways");
    if table == "firewalld" {
        let hint =
            format!("`firewall-cmd --permanent --zone=trusted --add-interface={TUNNEL} && firewall-cmd --reload`");
        ("firewalld", hint)
    } else if beside("DOCKER-USER") {
        ("forward-drop", format!("Docker's: `{program} -I DOCKER-USER {both}"))
    } else if beside("ufw-before-forward") || beside("ufw6-before-forward") {
        ("forward-drop", format!("ufw's: `ufw route allow in on {TUNNEL}`, and `ufw route allow out on {TUNNEL}`"))
    } else if table == "filter" && name == "FORWARD" {
        ("forward-drop", format!("`{program} -I FORWARD {both}"))
    } else {
        let hint = format!(
            "`nft insert rule {family} {table} {name} iifname {TUNNEL} accept`, and the same with oifname; nothing to do on nodes that are never gateways"
        );
        ("forward-drop", hint)
    }
}

fn networkd(survey: &Survey) -> Option<Check> {
    let networkd = survey.networkd?;
    let managed = [(networkd.rules, "rules"), (networkd.routes, "routes")];
    let deleted: Vec<&str> = managed.iter().filter(|(managed, _)| *managed).map(|(_, what)| *what).collect();
    if deleted.is_empty() {
        return Some(Check::ok("networkd", "systemd-networkd leaves foreign rules and routes alone"));
    }
    let deleted = deleted.join(" and ");
    let message = format!(
        "systemd-networkd manages foreign {deleted}: when it restarts it deletes Egret's, until they are restored"
    );
    let hint =
        "ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no below [Network] in /etc/systemd/networkd.conf";
    Some(Check::warn("networkd", message, hint))
}

#[cfg(test)]
mod tests;
