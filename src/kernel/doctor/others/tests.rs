//! Each judgement of whoever else is there, on machines made up for it.

use super::super::Severity;
use super::super::networkd::Networkd;
use super::*;
use crate::core::state::nft::AddressFamily;

fn rule(priority: u32, mark: u32, mask: u32, table: u32) -> Rule {
    Rule { family: AddressFamily::V4, priority, mark, mask, table, odd: None }
}

fn chain(family: &str, table: &str, name: &str, drops: bool) -> Chain {
    let forward = name.eq_ignore_ascii_case("forward");
    Chain { family: family.into(), table: table.into(), name: name.into(), forward, drops }
}

fn codes(found: &[Check]) -> Vec<(&str, Severity)> {
    found.iter().map(|check| (check.code, check.severity)).collect()
}

#[test]
fn with_nobody_else_there_are_two_good_lines() {
    let expected = [
        Check::ok("range", "marks 0x1fff, tables and priorities 9000 to 17190: nobody else's"),
        Check::ok("firewall", "firewalls of others: none drops forwarded packets by policy"),
    ];
    assert_eq!(others(&Survey::healthy(), &Asked::default()), expected);
}

#[test]
fn rules_of_others_count_by_their_priority_and_by_the_bits_they_look_at() {
    let range = Range::default();
    let no_mark = |priority| (rule(priority, 0, u32::MAX, 254), Protocol(2));
    let harmless = [no_mark(0), no_mark(32766), (rule(5210, 0x80000, 0xff_0000, 52), Protocol(3))];
    assert_eq!(rules(&harmless, range), []);
    assert_eq!(rules(&[(rule(9001, 1, 0x1fff, 9001), PROTOCOL)], range), [], "ours");
    let foreign = [(rule(9, 0x200, 0xf00, 2004), Protocol(0)), no_mark(9003)];
    let mark = Check::warn(
        "foreign-mark",
        "an ip rule of somebody else looks at marks of ours (0x1fff): 9: fwmark 0x200/0xf00 lookup 2004",
        "`ip rule show priority 9` shows it whole; set datapath.markMask in egret.yaml to bits nobody uses",
    );
    let place = Check::warn(
        "foreign-rule",
        "an ip rule of somebody else has a priority of ours: 9003: lookup 254 proto kernel",
        "`ip rule show priority 9003` shows it whole; move it, or set datapath.firstTable in egret.yaml",
    );
    assert_eq!(rules(&foreign, range), [mark, place]);
}

#[test]
fn routes_of_others_in_our_tables_are_an_error() {
    let one = vec!["10.9.0.0/16 dev eth0 table 9003".to_owned()];
    let expected = Check::error(
        "foreign-route",
        "a route of somebody else is in a table of ours: 10.9.0.0/16 dev eth0 table 9003",
        "`ip route del 10.9.0.0/16 dev eth0 table 9003`, or set datapath.firstTable in egret.yaml",
    );
    assert_eq!(routes(&one), Some(expected));
    assert_eq!(routes(&[]), None);
}

#[test]
fn marks_overlap_only_with_those_who_are_there() {
    let mut survey = Survey::healthy();
    let wide = Range { mask: 0xffff_f000, ..Range::default() };
    assert_eq!(marks(&survey, wide), []);
    survey.device("cali12ab34", 0);
    survey.chains = Some(vec![chain("ip", "nat", "KUBE-MARK-MASQ", false)]);
    let messages: Vec<String> = marks(&survey, wide).into_iter().map(|check| check.message).collect();
    let expected = [
        "kube-proxy uses marks 0xc000, of which 0xc000 are in our mask 0xfffff000",
        "Calico uses marks 0xffff0000, of which 0xffff0000 are in our mask 0xfffff000",
    ];
    assert_eq!(messages, expected);
    assert_eq!(marks(&survey, Range::default()), [], "the default mask is clear of both");
}

#[test]
fn chains_that_drop_forwarded_packets_are_named_with_what_lets_ours_pass() {
    let mut survey = Survey::healthy();
    survey.chains = Some(vec![
        chain("inet", TABLE, "forward", true),
        chain("inet", "site", "forward", true),
        chain("inet", "site", "input", true),
        chain("ip", "filter", "DOCKER-USER", false),
        chain("ip", "filter", "FORWARD", true),
        chain("ip6", "filter", "FORWARD", false),
    ]);
    let site = Check::warn(
        "forward-drop",
        "the chain inet site forward drops forwarded packets by policy; the tunnel's may be among them",
        "let pass what comes in or goes out by egret0: `nft insert rule inet site forward iifname egret0 accept`, and oifname",
    );
    let docker = Check::warn(
        "forward-drop",
        "the chain ip filter FORWARD drops forwarded packets by policy; the tunnel's may be among them",
        "Docker's: `iptables -I DOCKER-USER -i egret0 -j ACCEPT`, and the same with -o",
    );
    assert_eq!(firewalls(&survey), [site, docker]);
}

#[test]
fn other_firewalls_that_cannot_be_judged_are_warnings() {
    let mut survey = Survey::healthy();
    survey.chains = Some(vec![chain("inet", "firewalld", "filter_FORWARD", false)]);
    survey.legacy_tables.insert("filter".to_owned());
    let expected = [("firewalld", Severity::Warn), ("iptables-legacy", Severity::Warn)];
    assert_eq!(codes(&firewalls(&survey)), expected);
    survey.chains = None;
    assert_eq!(codes(&firewalls(&survey)), [("firewall", Severity::Warn)]);
}

#[test]
fn networkd_is_a_warning_for_what_it_deletes() {
    let mut survey = Survey::healthy();
    assert_eq!(networkd(&survey), None);
    survey.networkd = Some(Networkd { rules: false, routes: false });
    let expected = Check::ok("networkd", "systemd-networkd leaves the rules and routes of others alone");
    assert_eq!(networkd(&survey), Some(expected));
    survey.networkd = Some(Networkd { rules: true, routes: true });
    let message =
        "systemd-networkd manages foreign rules and routes: when it restarts it deletes ours, until they are put back";
    assert_eq!(networkd(&survey).map(|check| check.message), Some(message.to_owned()));
}
