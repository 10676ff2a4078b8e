//! Checks of whoever else is at work on this machine: rules, routes and marks in our range, firewalls that drop forwarded packets,
//! daemons that tidy up what is not theirs.
//!
//! Pure. Deliberately absent: CNIs that go past netfilter (`cilium`), and evaluating anybody's firewall: a policy of drop is named, not judged.

use super::survey::{Chain, Survey};
use super::{Asked, Check};
use crate::core::state::net::{Protocol, Rule};
use crate::core::state::ownership::{PROTOCOL, Range, TABLE, TUNNEL};

/// Bits of the packet mark that kube-proxy sets: masquerade and drop (its `iptables.masqueradeBit` and the former mark of dropped packets).
const KUBE_PROXY_MARKS: u32 = 0x4000 | 0x8000;
/// Felix' `iptablesMarkMask` unless somebody changed it.
const CALICO_MARKS: u32 = 0xffff_0000;

/// All of them, in the order they are shown.
pub(super) fn others(survey: &Survey, asked: &Asked) -> Vec<Check> {
    let range = asked.range;
    let mut found = rules(&survey.rules, range);
    found.extend(routes(&survey.foreign_routes));
    found.extend(marks(survey, range));
    if found.is_empty() {
        let last = range.table(range.last_id());
        let message =
            format!("marks {:#x}, tables and priorities {} to {last}: nobody else's", range.mask, range.first);
        found.push(Check::ok("range", message));
    }
    found.extend(firewalls(survey));
    found.extend(networkd(survey));
    found
}

fn rules(rules: &[(Rule, Protocol)], range: Range) -> Vec<Check> {
    let mut found = Vec::new();
    for (rule, protocol) in rules.iter().filter(|(rule, of)| !(*of == PROTOCOL && range.owns(rule.priority))) {
        // `fwmark 0/0xffffffff` is how a rule without a mark is listed.
        let marked = rule.mark != 0 || rule.mask != u32::MAX;
        let shown = rule_text(rule, marked, *protocol);
        let look = format!("`ip rule show priority {}` shows it whole", rule.priority);
        if range.owns(rule.priority) {
            let message = format!("an ip rule of somebody else has a priority of ours: {shown}");
            found.push(Check::warn(
                "foreign-rule",
                message,
                format!("{look}; move it, or set datapath.firstTable in egret.yaml"),
            ));
        } else if marked && rule.mask & range.mask != 0 {
            let message = format!("an ip rule of somebody else looks at marks of ours ({:#x}): {shown}", range.mask);
            found.push(Check::warn(
                "foreign-mark",
                message,
                format!("{look}; set datapath.markMask in egret.yaml to bits nobody uses"),
            ));
        }
    }
    found
}

fn rule_text(rule: &Rule, marked: bool, protocol: Protocol) -> String {
    let mark = if marked { format!(" fwmark {:#x}/{:#x}", rule.mark, rule.mask) } else { String::new() };
    let family = if rule.family == crate::core::state::nft::AddressFamily::V6 { "-6 " } else { "" };
    // Whoever makes a rule need not say who it is.
    let protocol = if protocol == Protocol(0) { String::new() } else { format!(" proto {protocol}") };
    format!("{family}{}:{mark} lookup {}{protocol}", rule.priority, rule.table)
}

/// A route of somebody else in a table of ours leads packets of ours astray, so this is no mere warning.
fn routes(foreign: &[String]) -> Option<Check> {
    let first = foreign.first()?;
    let message = match foreign.len() {
        1 => format!("a route of somebody else is in a table of ours: {first}"),
        many => format!("{many} routes of others are in tables of ours: {first}, ..."),
    };
    let hint = format!("`ip route del {first}`, or set datapath.firstTable in egret.yaml");
    Some(Check::error("foreign-route", message, hint))
}

/// Marks by whose devices, tables and chains are there: they are set by rules that no listing of ours can judge.
fn marks(survey: &Survey, range: Range) -> Vec<Check> {
    let device = |prefix: &str| survey.devices.keys().any(|name| name.starts_with(prefix));
    let chains = survey.chains.as_deref().unwrap_or_default();
    let kube_proxy =
        device("kube-ipvs") || chains.iter().any(|chain| chain.table == "kube-proxy" || chain.name == "KUBE-MARK-MASQ");
    let calico = device("cali") || device("vxlan.calico");
    let mut found = Vec::new();
    for (there, who, bits) in [(kube_proxy, "kube-proxy", KUBE_PROXY_MARKS), (calico, "Calico", CALICO_MARKS)] {
        let common = range.mask & bits;
        if there && common != 0 {
            let message = format!("{who} uses marks {bits:#x}, of which {common:#x} are in our mask {:#x}", range.mask);
            found.push(Check::warn(
                "foreign-mark",
                message,
                "set datapath.markMask in egret.yaml; 0x1fff is clear of it",
            ));
        }
    }
    found
}

fn firewalls(survey: &Survey) -> Vec<Check> {
    let Some(chains) = &survey.chains else {
        let message = "firewalls of others: nftables cannot be listed, so whether one drops our packets cannot be told";
        return vec![Check::warn("firewall", message, "see the lines about the kernel and NET_ADMIN")];
    };
    let mut found = Vec::new();
    for chain in chains.iter().filter(|chain| chain.forward && chain.drops && chain.table != TABLE) {
        found.push(dropping(chain, chains));
    }
    if chains.iter().any(|chain| chain.table == "firewalld") {
        let message =
            format!("firewalld decides about forwarded packets; a zone that knows no {TUNNEL} rejects the tunnel's");
        let hint =
            format!("`firewall-cmd --permanent --zone=trusted --add-interface={TUNNEL} && firewall-cmd --reload`");
        found.push(Check::warn("firewalld", message, hint));
    }
    if survey.legacy_tables.contains("filter") {
        let message = "iptables' old engine has a filter table; whether its FORWARD drops our packets cannot be told";
        found.push(Check::warn("iptables-legacy", message, "`iptables-legacy -S FORWARD`"));
    }
    if found.is_empty() {
        found.push(Check::ok("firewall", "firewalls of others: none drops forwarded packets by policy"));
    }
    found
}

/// What to let through depends on who keeps the chain: a rule in a chain of Docker's own is gone after its next start.
fn dropping(chain: &Chain, chains: &[Chain]) -> Check {
    let Chain { family, table, name, .. } = chain;
    let docker =
        chains.iter().any(|other| other.family == *family && other.table == *table && other.name == "DOCKER-USER");
    let message =
        format!("the chain {family} {table} {name} drops forwarded packets by policy; the tunnel's may be among them");
    let hint = if docker {
        let program = if family == "ip6" { "ip6tables" } else { "iptables" };
        format!("Docker's: `{program} -I DOCKER-USER -i {TUNNEL} -j ACCEPT`, and the same with -o")
    } else {
        format!(
            "let pass what comes in or goes out by {TUNNEL}: `nft insert rule {family} {table} {name} iifname {TUNNEL} accept`, and oifname"
        )
    };
    Check::warn("forward-drop", message, hint)
}

fn networkd(survey: &Survey) -> Option<Check> {
    let networkd = survey.networkd?;
    let managed = [(networkd.rules, "rules"), (networkd.routes, "routes")];
    let deleted: Vec<&str> = managed.iter().filter(|(managed, _)| *managed).map(|(_, what)| *what).collect();
    if deleted.is_empty() {
        return Some(Check::ok("networkd", "systemd-networkd leaves the rules and routes of others alone"));
    }
    let deleted = deleted.join(" and ");
    let message = format!(
        "systemd-networkd manages foreign {deleted}: when it restarts it deletes ours, until they are put back"
    );
    let hint =
        "ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no below [Network] in /etc/systemd/networkd.conf";
    Some(Check::warn("networkd", message, hint))
}

#[cfg(test)]
mod tests;
