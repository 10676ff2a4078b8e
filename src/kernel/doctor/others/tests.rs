//! Tests of the checks of other programs, on constructed surveys.

use super::super::CheckStatus;
use super::super::networkd::Networkd;
use super::*;
use crate::core::state::nft::AddressFamily;

fn rule(priority: u32, mark: u32, mask: u32, table: u32) -> RoutingRule {
    RoutingRule { family: AddressFamily::V4, priority, mark, mask, from: None, table, odd: None }
}

fn chain(family: &str, table: &str, name: &str, drops: bool) -> ForeignChain {
    let hook = name.eq_ignore_ascii_case("forward").then_some(Hook::Forward);
    ForeignChain { family: family.into(), table: table.into(), name: name.into(), hook, drops }
}

fn codes(found: &[Check]) -> Vec<(&str, CheckStatus)> {
    found.iter().map(|check| (check.code, check.severity)).collect()
}

#[test]
fn without_other_programs_there_are_two_passing_lines() {
    let expected = [
        Check::ok(
            "range",
            "marks 0x1fff (auto: the default, otherwise unused), tables 9000 to 17189, rules from priority 500 on, UDP port 4790",
        ),
        Check::ok("firewall", "other firewalls: none drops forwarded packets, nor the tunnel's"),
    ];
    assert_eq!(others(&Survey::healthy(), &DoctorInput::default()), expected);
}

#[test]
fn foreign_rules_are_judged_by_their_priority() {
    let range = DatapathConfig::default();
    let no_mark = |priority| (rule(priority, 0, u32::MAX, 254), Protocol(2));
    let local = (rule(100, 0, u32::MAX, 255), Protocol(2));
    let harmless = [local, no_mark(512), no_mark(32766), (rule(9, 0x200, 0xf00, 2004), Protocol(0))];
    assert_eq!(rules(&harmless, range), []);
    assert_eq!(rules(&[(rule(501, 1, 0x1fff, 9001), PROTOCOL)], range), [], "ours");
    let place = Check::warn(
        "foreign-rule",
        "an ip rule of another program precedes Egret's and matches every packet: 90: lookup 254 proto kernel",
        "members' packets use its table where it has a route for them; move it behind 1023",
    );
    assert_eq!(rules(&[no_mark(90)], range), [place]);
}

#[test]
fn foreign_routes_in_our_tables_are_an_error() {
    let one = vec!["10.9.0.0/16 dev eth0 table 9003".to_owned()];
    let expected = Check::error(
        "foreign-route",
        "a foreign route is in one of Egret's tables: 10.9.0.0/16 dev eth0 table 9003",
        "`ip route del 10.9.0.0/16 dev eth0 table 9003`, or set datapath.firstTable in egret.yaml",
    );
    assert_eq!(routes(&one), Some(expected));
    assert_eq!(routes(&[]), None);
}

/// A machine on which other programs use marks.
fn used(marks: &[(&str, u32)]) -> Survey {
    let mut used = crate::core::state::mask::MarkUsage::default();
    for (user, bits) in marks {
        used.add(*user, *bits);
    }
    Survey { marks: Ok(MarkSurvey { used, own: None }), ..Survey::healthy() }
}

#[test]
fn a_configured_mark_mask_is_compared_with_the_marks_of_other_programs() {
    let survey = Survey { choice: None, ..used(&[("Cilium", 0xffff_0f00), ("the ip rule 1024", 0x80)]) };
    let message = "other programs use Egret's marks, 0x1fff: Cilium 0xf00, the ip rule 1024 0x80";
    let hint = "set datapath.markMask to auto in egret.yaml, or to unused bits";
    assert_eq!(marks(&survey, DatapathConfig::default()), [Check::warn("foreign-mark", message, hint)]);
    assert_eq!(marks(&survey, DatapathConfig { mask: 0x7f, ..DatapathConfig::default() }), []);
    let line = "marks 0x7f (from egret.yaml, or kept from the kernel), tables 9000 to 9125, rules from priority 500 on, UDP port 4790; \
                marks of other programs: Cilium 0xffff0f00, the ip rule 1024 0x80";
    assert_eq!(numbers(&survey, DatapathConfig { mask: 0x7f, ..DatapathConfig::default() }), Check::ok("range", line));
}

#[test]
fn a_poor_choice_of_mark_bits_is_a_warning() {
    let mut survey = used(&[("Calico", 0xffff_0000), ("the AWS VPC CNI", 0x80)]);
    survey.choice = Some(MaskChoice { mask: 0x7f, why: MaskReason::Narrow });
    assert_eq!(
        codes(&marks(&survey, DatapathConfig { mask: 0x7f, ..DatapathConfig::default() })),
        [("marks-scarce", CheckStatus::Warn)]
    );
    survey.choice = Some(MaskChoice { mask: 0x1fff, why: MaskReason::Taken });
    assert_eq!(codes(&marks(&survey, DatapathConfig::default())), [("foreign-mark", CheckStatus::Warn)]);
    survey.marks = Err("Operation not permitted".to_owned());
    assert_eq!(codes(&marks(&survey, DatapathConfig::default())), [("marks", CheckStatus::Warn)]);
    let mut survey = Survey::healthy();
    survey.legacy_tables = ["filter", "nat"].map(str::to_owned).into();
    let message = "iptables-legacy has the tables nat: the marks of their rules cannot be read; the bits of known programs are avoided";
    assert_eq!(marks(&survey, DatapathConfig::default()), [Check::ok("marks-unread", message)]);
}

#[test]
fn chains_that_drop_forwarded_packets_are_named_with_the_rule_that_accepts_them() {
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
        "the chain inet site forward drops packets that a gateway forwards out of egret0",
        "`nft insert rule inet site forward iifname egret0 accept`, and the same with oifname; nothing to do on nodes that are never gateways",
    );
    let docker = Check::warn(
        "forward-drop",
        "the chain ip filter FORWARD drops packets that a gateway forwards out of egret0",
        "Docker's: `iptables -I DOCKER-USER -i egret0 -j ACCEPT`, and the same with -o; nothing to do on nodes that are never gateways",
    );
    assert_eq!(firewalls(&survey, &DoctorInput::default()), [site, docker]);
}

#[test]
fn forwarded_packets_have_an_address_of_the_sending_node_or_its_pod_network() {
    let peer = |name: &str, address: &str, networks: &[&str]| {
        let networks = networks.iter().map(|net| net.parse().unwrap()).collect();
        (crate::core::name::NodeName::parse(name).unwrap(), address.parse().unwrap(), networks)
    };
    let input = DoctorInput {
        peers: vec![
            peer("a", "172.18.0.3", &["10.1.2.0/24", "fd00:1:2::/64"]),
            peer("b", "172.18.0.4", &["fd00:1:3::/64"]),
            peer("c", "fd00::5", &[]),
        ],
        ..DoctorInput::default()
    };
    let out = packets(&input).into_iter().filter(|packet| packet.way == Way::OutOfTunnel);
    let nodes: Vec<String> = out.map(|packet| packet.node.unwrap().to_string()).collect();
    assert_eq!(nodes, ["10.1.2.0/24", "172.18.0.4/32", "fd00:1:2::/64", "fd00:1:3::/64", "fd00::5/128"]);
    let unknown: Vec<_> = packets(&DoctorInput::default()).iter().map(|packet| (packet.family, packet.node)).collect();
    let (four, six) = ((AddressFamily::V4, None), (AddressFamily::V6, None));
    assert_eq!(unknown, [four, four, six, six]);
}

#[test]
fn firewalls_that_cannot_be_evaluated_are_warnings() {
    let mut survey = Survey::healthy();
    survey.legacy_tables.insert("filter".to_owned());
    assert_eq!(codes(&firewalls(&survey, &DoctorInput::default())), [("iptables-legacy", CheckStatus::Warn)]);
    survey.chains = None;
    assert_eq!(codes(&firewalls(&survey, &DoctorInput::default())), [("firewall", CheckStatus::Warn)]);
}

#[test]
fn networkd_is_a_warning_if_it_deletes_foreign_objects() {
    let mut survey = Survey::healthy();
    assert_eq!(networkd(&survey), None);
    survey.networkd = Some(Networkd { rules: false, routes: false });
    let expected = Check::ok("networkd", "systemd-networkd leaves foreign rules and routes alone");
    assert_eq!(networkd(&survey), Some(expected));
    survey.networkd = Some(Networkd { rules: true, routes: true });
    let message = "systemd-networkd manages foreign rules and routes: when it restarts it deletes Egret's, until they are restored";
    assert_eq!(networkd(&survey).map(|check| check.message), Some(message.to_owned()));
}
