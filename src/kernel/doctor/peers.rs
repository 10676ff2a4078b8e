//! Checks of the routes to the other nodes, as the kernel would route tunnel packets. Pure.
//!
//! Not here: whether a node answers. No packet is ever sent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::checks::{overhead, some};
use super::survey::Survey;
use super::{Check, DoctorInput};

/// The minimum MTU of IPv6 (RFC 8200, section 5).
const IPV6_MINIMUM: u32 = 1280;

/// Checks of all routes, grouped by kind.
pub(super) fn peers(survey: &Survey, input: &DoctorInput) -> Vec<Check> {
    let Some((_, node)) = &input.node else {
        return vec![Check::ok("peers", "routes to the other nodes: not checked without --cluster and --node")];
    };
    // Another check already reports a node without an address, or with one that is not on this machine.
    let Some(own) = node.tunnel_address() else { return Vec::new() };
    let Some(holder) = survey.host_network.holder(own) else { return Vec::new() };
    let mut found = Vec::new();
    let mut names = Names::default();
    for (peer, address, route) in &survey.peer_routes {
        let name = peer.as_str();
        match route {
            _ if address.is_ipv4() != own.is_ipv4() => names.put("families", "", name),
            Err(reason) => names.put("none", reason, name),
            Ok(route) if route.local => names.put("local", "", name),
            Ok(route) => {
                names.put("good", &route.interface, name);
                if route.interface != *holder && !is_everywhere(holder) {
                    names.put("elsewhere", &route.interface, name);
                }
                if route.mtu < IPV6_MINIMUM + overhead(*address) {
                    names.put("narrow", &route.mtu.to_string(), name);
                }
            }
        }
    }
    for ((kind, detail), of) in &names.0 {
        found.push(judged(kind, detail, &some(of), own, holder));
    }
    let good: Vec<&str> =
        names.0.keys().filter(|(kind, _)| *kind == "good").map(|(_, interface)| interface.as_str()).collect();
    let many = survey.peer_routes.len();
    if found.iter().all(Option::is_none) && many > 0 {
        let nodes = if many == 1 { "the other node".to_owned() } else { format!("all {many} other nodes") };
        found.push(Some(Check::ok("peers", format!("routes to {nodes}: from {own} through {}", good.join(", ")))));
    }
    found.into_iter().flatten().collect()
}

/// Names of nodes grouped by result and differing detail.
#[derive(Default)]
struct Names<'a>(BTreeMap<(&'static str, String), Vec<&'a str>>);

impl<'a> Names<'a> {
    fn put(&mut self, kind: &'static str, detail: &str, name: &'a str) {
        self.0.entry((kind, detail.to_owned())).or_default().push(name);
    }
}

/// An address on one of these is reachable by every interface: nodes that announce their address by a routing protocol
/// have it there.
fn is_everywhere(interface: &str) -> bool {
    interface == "lo" || interface.starts_with("dummy")
}

fn judged(kind: &str, detail: &str, names: &str, own: IpAddr, holder: &str) -> Option<Check> {
    Some(match kind {
        "families" => Check::error(
            "peer-family",
            format!(
                "{names}: the InternalIP is of another family than {own}, this node's; no tunnel leads from one to the other"
            ),
            "give all nodes an InternalIP of one family: kubelet's --node-ip takes one of each",
        ),
        "none" => Check::error(
            "peer-route",
            format!("no route from {own} to {names}: {detail}"),
            format!("`ip route get ADDRESS from {own}` with the node's InternalIP; tunnels run between InternalIPs"),
        ),
        "local" => Check::error(
            "peer-address",
            format!("the InternalIP of {names} is an address of this machine"),
            "each node needs an InternalIP of its own: kubelet's --node-ip; a stale Node object can be deleted",
        ),
        "elsewhere" => Check::warn(
            "peer-interface",
            format!(
                "the route from {own} to {names} is through {detail}, and {own} is on {holder}: replies may come in elsewhere"
            ),
            format!("let InternalIPs be reached through {holder}, or give kubelet's --node-ip an address on {detail}"),
        ),
        "narrow" => {
            let needed = IPV6_MINIMUM + overhead(own);
            Check::warn(
                "peer-mtu",
                format!(
                    "the route to {names} takes packets of {detail} bytes: IPv6 policies need {needed}, IPv4 policies work"
                ),
                "raise the MTU of the interface or route; nothing to do where policies name no IPv6 destinations",
            )
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::survey::PeerRoute;
    use super::*;
    use crate::core::facts::Node;
    use crate::core::host_network::Interface;
    use crate::core::name::NodeName;

    fn input(address: &str) -> DoctorInput {
        let node = Node { addresses: vec![address.parse().unwrap()], ..Node::default() };
        DoctorInput { node: Some((NodeName::parse("a").unwrap(), node)), ..DoctorInput::default() }
    }

    #[expect(clippy::type_complexity, reason = "a table of cases")]
    fn survey(peer_routes: &[(&str, &str, Result<(&str, u32, bool), &str>)]) -> Survey {
        let mut survey = Survey::healthy();
        for (name, address) in [("eth0", "172.18.0.2/16"), ("lo", "10.9.9.1/32")] {
            let interface =
                Interface { up: true, addresses: vec![address.parse().unwrap()], mtu: 1500, ..Interface::default() };
            survey.host_network.interfaces.insert(name.to_owned(), interface);
        }
        survey.peer_routes = peer_routes
            .iter()
            .map(|(name, address, route)| {
                let route =
                    route.map(|(interface, mtu, local)| PeerRoute { interface: interface.to_owned(), mtu, local });
                (NodeName::parse(name).unwrap(), address.parse().unwrap(), route.map_err(str::to_owned))
            })
            .collect();
        survey
    }

    fn messages(survey: &Survey, own: &str) -> Vec<(&'static str, String)> {
        peers(survey, &input(own)).into_iter().map(|check| (check.code, check.message)).collect()
    }

    #[test]
    fn routes_to_all_nodes_from_the_internal_ip_are_one_passing_line() {
        let survey =
            survey(&[("b", "172.18.0.3", Ok(("eth0", 1500, false))), ("c", "172.18.0.4", Ok(("eth0", 1330, false)))]);
        let expected = [("peers", "routes to all 2 other nodes: from 172.18.0.2 through eth0".to_owned())];
        assert_eq!(messages(&survey, "172.18.0.2"), expected);
        let unknown = peers(&survey, &DoctorInput::default());
        assert_eq!(unknown[0].message, "routes to the other nodes: not checked without --cluster and --node");
        assert_eq!(messages(&survey, "172.18.0.99"), [], "what is not here has been said");
    }

    #[test]
    fn unusable_routes_are_named_and_equal_problems_share_a_line() {
        let survey = survey(&[
            ("b", "172.18.0.3", Err("Network is unreachable")),
            ("c", "172.18.0.4", Err("Network is unreachable")),
            ("d", "172.18.0.2", Ok(("lo", 65536, true))),
            ("e", "fd00::5", Ok(("eth0", 1500, false))),
            ("f", "172.18.0.6", Ok(("eth1", 1329, false))),
        ]);
        let expected = [
            (
                "peer-interface",
                "the route from 172.18.0.2 to f is through eth1, and 172.18.0.2 is on eth0: replies may come in elsewhere",
            ),
            (
                "peer-family",
                "e: the InternalIP is of another family than 172.18.0.2, this node's; no tunnel leads from one to the other",
            ),
            ("peer-address", "the InternalIP of d is an address of this machine"),
            ("peer-mtu", "the route to f takes packets of 1329 bytes: IPv6 policies need 1330, IPv4 policies work"),
            ("peer-route", "no route from 172.18.0.2 to b, c: Network is unreachable"),
        ];
        assert_eq!(messages(&survey, "172.18.0.2"), expected.map(|(code, message)| (code, message.to_owned())));
    }

    #[test]
    fn an_address_on_the_loopback_device_is_reached_by_any_interface() {
        let survey = survey(&[("b", "10.9.9.2", Ok(("eth0", 1500, false)))]);
        assert_eq!(
            messages(&survey, "10.9.9.1"),
            [("peers", "routes to the other node: from 10.9.9.1 through eth0".to_owned())]
        );
    }
}
