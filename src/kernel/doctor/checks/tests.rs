//! Tests of the checks of the machine itself, on constructed surveys.

use super::super::CheckStatus;
use super::*;
use crate::core::facts::Node;
use crate::core::host_network::{HostRoute, Interface};
use crate::core::name::NodeName;

fn attempt(feature: &'static str, optional: Option<&'static str>, refusal: Option<&str>) -> Attempt {
    Attempt { feature, refusal: refusal.map(str::to_owned), optional, hint: "load it" }
}

fn interface(addresses: &[&str], mtu: u32) -> Interface {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Interface { up: true, addresses, mtu, ..Interface::default() }
}

fn input(address: &str) -> DoctorInput {
    let node = Node { addresses: vec![address.parse().unwrap()], ready: true, ..Node::default() };
    DoctorInput { node: Some((NodeName::parse("kind-worker").unwrap(), node)), ..DoctorInput::default() }
}

#[test]
fn supported_features_share_a_line_and_each_missing_one_has_its_own() {
    let mut survey = Survey::healthy();
    survey.trial = Ok(vec![
        attempt("vxlan", None, None),
        attempt("lwtunnel", None, Some("Operation not supported")),
        attempt("owned tables", Some("a flush takes ours"), Some("the kernel does not know it")),
        attempt("nf_tables", None, None),
    ]);
    let expected = [
        Check::ok("kernel", "kernel 6.18.0: vxlan, nf_tables"),
        Check::error("kernel", "no lwtunnel: Operation not supported", "load it"),
        Check::warn("kernel", "no owned tables: a flush takes ours (the kernel does not know it)", "load it"),
    ];
    assert_eq!(kernel(&survey), expected);
}

#[test]
fn a_failed_trial_is_not_reported_as_a_pass() {
    let mut survey = Survey::healthy();
    survey.trial = Err("make a network namespace: Operation not permitted".to_owned());
    let message = "kernel 6.18.0: its features were not tested (make a network namespace: Operation not permitted)";
    let hint = "run `egret doctor` once as root, outside of a container";
    assert_eq!(kernel(&survey), [Check::warn("kernel", message, hint)]);
}

#[test]
fn only_net_admin_is_required() {
    assert_eq!(capabilities(Some(1 << 12)).severity, CheckStatus::Ok);
    assert_eq!(capabilities(Some(!(1 << 12))).severity, CheckStatus::Error);
    assert_eq!(capabilities(None).severity, CheckStatus::Warn);
}

#[test]
fn a_node_without_forwarding_is_an_error_and_one_without_ipv6_is_not() {
    let mut survey = Survey::healthy();
    let fine = Check::ok("forwarding", "settings: /proc/sys/net is writable, IPv4 and IPv6 are forwarded");
    assert_eq!(settings(&survey), [fine]);
    survey.settings.forwards4 = Some(false);
    survey.settings.forwards6 = Some(false);
    survey.settings.read_only = Some("Read-only file system (os error 30)".to_owned());
    let severities = |survey: &Survey| -> Vec<(&str, CheckStatus)> {
        settings(survey).iter().map(|check| (check.code, check.severity)).collect()
    };
    let expected =
        [("sysctl", CheckStatus::Error), ("forwarding", CheckStatus::Error), ("forwarding", CheckStatus::Warn)];
    assert_eq!(severities(&survey), expected);
    survey.host_network.features.ipv6 = false;
    let expected = [("sysctl", CheckStatus::Error), ("forwarding", CheckStatus::Error), ("ipv6", CheckStatus::Ok)];
    assert_eq!(severities(&survey), expected);
}

#[test]
fn strict_filters_are_named_whether_by_interface_or_for_all() {
    let mut survey = Survey::healthy();
    for name in ["eth0", "eth1", "eth2", "eth3"] {
        survey.host_network.interfaces.insert(name.to_owned(), interface(&[], 1500));
    }
    assert_eq!(filters(&survey).message, "reverse path filters: none is strict; they ignore marks");
    survey.host_network.rp_filter_all = 1;
    survey.settings.src_valid_mark = Some(true);
    let expected = "reverse path filters: strict on eth0, eth1, eth2 and 1 more; they use marks";
    assert_eq!(filters(&survey), Check::ok("rp-filter", expected));
}

#[test]
fn the_tunnel_port_must_be_free_or_held_by_our_tunnel() {
    let mut survey = Survey::healthy();
    let look = |survey: &Survey| tunnel_port(survey, DatapathConfig::default());
    assert_eq!(look(&survey), Check::ok("tunnel-port", "UDP port 4790: it is free"));
    survey.udp_ports.insert(4790);
    let hint = "`ss -ulpn sport = :4790` names it; or set another datapath.port in egret.yaml";
    let expected = Check::error("tunnel-port", "UDP port 4790, the tunnel's, is in use by a program", hint);
    assert_eq!(look(&survey), expected);
    survey.device("egret0", 4790);
    assert_eq!(look(&survey), Check::ok("tunnel-port", "UDP port 4790: our tunnel has it"));
    survey.device("vxlan7", 4790);
    let message = "UDP port 4790 is the tunnel port of vxlan7, which is not ours: two cannot share it";
    assert_eq!(look(&survey).message, message);
    survey.device("vxlan7", 4789);
    assert_eq!(look(&survey).severity, CheckStatus::Ok);
}

#[test]
fn the_tunnel_must_fit_the_interface_of_the_nodes_address() {
    let mut survey = Survey::healthy();
    survey.host_network.interfaces.insert("eth0".to_owned(), interface(&["172.18.0.2/16", "fd00::2/64"], 1500));
    survey.host_network.interfaces.insert("net1".to_owned(), interface(&["10.0.3.42/24"], 1400));
    assert_eq!(tunnel_mtu(&survey, &DoctorInput::default()), None, "neither an address nor a default route");
    let fits = Check::ok("mtu", "MTU: 1450 in the tunnel, 1500 on eth0");
    assert_eq!(tunnel_mtu(&survey, &input("172.18.0.2")), Some(fits));
    let message = "MTU: tunnel packets of 1450 bytes need 1520 with encapsulation, and eth0 takes 1500";
    let hint = "set datapath.mtu to 1430 in egret.yaml, or raise the MTU of eth0";
    assert_eq!(tunnel_mtu(&survey, &input("fd00::2")), Some(Check::warn("mtu", message, hint)));
    let route =
        HostRoute { destination: "0.0.0.0/0".parse().unwrap(), interface: "net1".to_owned(), ..HostRoute::default() };
    survey.host_network.routes.push(route);
    let severity = tunnel_mtu(&survey, &DoctorInput::default()).map(|check| check.severity);
    assert_eq!(severity, Some(CheckStatus::Warn), "by the default route");
}

#[test]
fn a_node_is_recognised_by_its_address() {
    let mut survey = Survey::healthy();
    survey.host_network.interfaces.insert("eth0".to_owned(), interface(&["172.18.0.2/16"], 1500));
    assert_eq!(node(&survey, &DoctorInput::default()), []);
    let mut input = input("172.18.0.2");
    let no_pods = Check::warn(
        "pod-cidrs",
        "kind-worker has no podCIDRs: packets of a new pod are not dropped until it is classified",
        "set podCIDRs in egret.yaml",
    );
    let here = Check::ok("node-address", "kind-worker is here: 172.18.0.2 on eth0");
    assert_eq!(node(&survey, &input), [here, no_pods]);
    let facts = &mut input.node.as_mut().unwrap().1;
    facts.pod_cidrs.push("10.1.1.0/24".parse().unwrap());
    facts.addresses = vec!["172.18.0.9".parse().unwrap()];
    let message =
        "172.18.0.9, the InternalIP of kind-worker, is on no interface: this is not kind-worker, or it has moved";
    let elsewhere = Check::error("node-address", message, "compare --node with `ip address`");
    assert_eq!(node(&survey, &input), [elsewhere]);
}
