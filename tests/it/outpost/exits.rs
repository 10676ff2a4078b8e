//! Exits that the kernel refuses, beside what has to work all the same: other exits, pods that start, labels.
//!
//! Deliberately absent: how a step is known to be an exit's (`core::compile::refused`).

use super::metrics::fetch;
use super::stand::{Document, Outcome, Stand, labels};
use crate::lab::{Answer, EGRESS, LabError, OUTPOST, Options};

const GATEWAY: &str = "kind-worker2";

/// What is no next hop: the table `local` has this address for a broadcast one, which no interface shows and only trying tells
/// (`Nexthop has invalid gateway`). The second is the gateway's own, on its other interface, which is known beforehand.
const BROADCAST: &str = "10.0.3.77";
const OWN: &str = "172.18.0.3";
const ROUTER: &str = "10.0.3.1";

/// A policy for the alliance by a next hop.
fn through(next_hop: &str) -> Document {
    Document {
        name: "alliance",
        org: "alliance",
        annotations: match next_hop {
            BROADCAST => "egret.dev/next-hop: \"10.0.3.77\"",
            OWN => "egret.dev/next-hop: \"172.18.0.3\"",
            _ => "egret.dev/next-hop: \"10.0.3.1\"",
        },
        ..Document::default()
    }
}

/// The outpost's policy active, over IPv4 alone: an interface that goes down keeps no address of IPv6.
fn applied() -> Result<Stand, LabError> {
    let stand = Stand::up(Options { ipv6: false, ..Options::default() })?;
    stand.push_outpost()?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    stand.lab.forget()?;
    Ok(stand)
}

/// A pod of no policy that starts on a node leaves as itself.
fn assert_pods_start(stand: &Stand, name: &str, node: &str) -> Outcome {
    let own = stand.lab.add_pod(name, node, &[])?[0];
    stand.await_answer(name, OUTPOST, Answer::Denied(own))
}

/// Whether the gateway's report has the finding, with these words of the kernel's.
fn await_finding(stand: &Stand, code: &str, exit: &str, words: &str) {
    stand.await_report(GATEWAY, &format!("{code} of {exit}: {words}"), |report| {
        let mut findings = report.findings.iter().map(|since| &since.finding);
        findings.any(|finding| finding.code == code && finding.subject == exit && finding.message.contains(words))
    });
}

fn await_no_refusal(stand: &Stand) {
    stand.await_report(GATEWAY, "that nothing is refused", |report| {
        report.active.is_some() && !report.findings.iter().any(|since| since.finding.code == "kernel-refused")
    });
}

#[test]
fn a_next_hop_that_the_kernel_refuses_takes_its_own_exit_out_of_force_and_nothing_else() -> Outcome {
    let stand = Stand::up(Options { ipv6: false, ..Options::default() })?;
    stand.lab.node(GATEWAY)?.exec(["ip", "route", "add", "broadcast", "10.0.3.77", "dev", "net1", "table", "local"])?;
    let repository = stand.lab.repository();
    // Together with what works, and before any of it was active.
    repository.write("nodes/gateways.yaml", &labels("kind-worker2"))?;
    repository.write("policies/outpost.yaml", &Document::default().text())?;
    repository.write("policies/alliance.yaml", &through(BROADCAST).text())?;
    repository.push("one exit that works and one that does not")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    await_finding(&stand, "kernel-refused", "kind-worker2 dev net1 via 10.0.3.77", "invalid gateway");
    stand.lab.forget()?;
    assert_eq!(stand.lab.ask("xwing", OUTPOST)?, Answer::NoAnswer);
    for (name, node) in [("first", "kind-worker"), ("second", GATEWAY)] {
        assert_pods_start(&stand, name, node)?;
    }
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::Granted(EGRESS));
    let (status, body) = fetch(&stand, GATEWAY, "/readyz")?;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("kind-worker2 dev net1 via 10.0.3.77: the kernel refuses"), "{body}");
    let own: Vec<_> = ["first", "second"]
        .iter()
        .map(|pod| stand.lab.pod_addresses(pod).map(|own| own[0]))
        .collect::<Result<_, _>>()?;
    stand.assert_no_leak_but(&own)?;

    assert!(
        stand.log(GATEWAY).contains("the kernel refuses to add route default via 10.0.3.77"),
        "{}",
        stand.log(GATEWAY)
    );

    // A change of the repository is applied, and so is one that mends it.
    stand.push("policies/alliance.yaml", &through(OWN).text())?;
    await_finding(&stand, "bad-next-hop", "kind-worker2 dev net1 via 172.18.0.3", "172.18.0.3");
    assert_eq!(stand.lab.ask("xwing", OUTPOST)?, Answer::NoAnswer);
    stand.push("policies/alliance.yaml", &through(ROUTER).text())?;
    stand.await_answer("xwing", OUTPOST, Answer::Granted(EGRESS))?;
    await_no_refusal(&stand);
    assert_eq!(fetch(&stand, GATEWAY, "/readyz")?, (200, "ok\n".to_owned()));
    stand.assert_no_leak_but(&own)
}

#[test]
fn an_egress_interface_that_is_down_stops_no_node_and_is_active_once_it_is_up() -> Outcome {
    let stand = applied()?;
    let gateway = stand.lab.node(GATEWAY)?;
    gateway.exec(["ip", "link", "set", "net1", "down"])?;
    await_finding(&stand, "interface-down", "kind-worker2 dev net1", "down");
    assert_pods_start(&stand, "first", GATEWAY)?;
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::NoAnswer);
    gateway.exec(["ip", "link", "set", "net1", "up"])?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    await_no_refusal(&stand);
    stand.assert_no_leak_but(&[stand.lab.pod_addresses("first")?[0]])
}

#[test]
fn a_node_object_with_the_gateways_own_address_stops_no_gateway() -> Outcome {
    let stand = applied()?;
    stand.lab.edit_nodes(|text| {
        let stale = "- apiVersion: v1
  kind: Node
  metadata: {name: stale}
  spec: {podCIDRs: [10.1.77.0/24]}
  status: {addresses: [{type: InternalIP, address: 172.18.0.3}], conditions: [{type: Ready, status: Unknown}]}
";
        Ok(text.replacen("items:\n", &format!("items:\n{stale}"), 1))
    })?;
    await_finding(&stand, "node-address-shared", GATEWAY, "172.18.0.3 is the InternalIP of kind-worker2 and stale");
    assert_pods_start(&stand, "first", GATEWAY)?;
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::Granted(EGRESS));
    stand.assert_no_leak_but(&[stand.lab.pod_addresses("first")?[0]])
}
