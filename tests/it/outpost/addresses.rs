//! The gateway's egress address leaves, moves, comes back: it is followed at once, and while it is nowhere, members are dropped.
//!
//! Deliberately absent: a gateway that is gone as a whole (`claims`).

use std::net::IpAddr;

use super::stand::{Document, HELD_BACK, Outcome, Stand, labels};
use crate::lab::{Answer, EGRESS, EGRESS6, LabError, OUTPOST, OUTPOST6, Options};

/// Runs `ip` on the gateway.
fn ip(stand: &Stand, words: &str) -> Outcome {
    stand.lab.node("kind-worker2")?.exec(["ip"].into_iter().chain(words.split(' '))).map(|_| ())
}

fn moved_to() -> IpAddr {
    IpAddr::from([10, 0, 3, 52])
}

/// Waits until the gateway's report says that the address is missing, or that it is not.
fn await_finding(stand: &Stand, missing: bool) {
    stand.await_report("kind-worker2", "whether the egress address is there", |report| {
        report.findings.iter().any(|since| since.finding.code == "egress-address-missing") == missing
    });
}

#[test]
fn the_address_of_an_interface_is_followed_and_without_one_members_are_dropped() -> Outcome {
    let stand = Stand::in_force(Options { rp_filter: 1, ..Options::default() })?;
    stand.lab.outpost().allow([EGRESS, EGRESS6, moved_to()]);
    ip(&stand, "address del 10.0.3.42/24 dev net1")?;
    await_finding(&stand, true);
    assert_eq!(stand.lab.ask_within("tiefighter", OUTPOST, HELD_BACK)?, Answer::NoAnswer);
    stand.await_answer("tiefighter", OUTPOST6, Answer::Granted(EGRESS6))?;
    stand.assert_no_leak_but(&[])?;
    ip(&stand, "address add 10.0.3.52/24 dev net1")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(moved_to()))?;
    await_finding(&stand, false);
    // In this order: with the first address of a network the kernel takes its others away, too.
    ip(&stand, "address del 10.0.3.52/24 dev net1")?;
    ip(&stand, "address add 10.0.3.42/24 dev net1")?;
    stand.await_granted("tiefighter")?;
    stand.await_settled()?;
    stand.await_granted("tiefighter")?;
    stand.assert_no_leak_but(&[moved_to()])
}

#[test]
fn a_named_address_is_followed_from_one_interface_to_another() -> Outcome {
    let stand = Stand::up(Options::default())?;
    let egress = "nodeSelector: {matchLabels: {egress-gw: \"true\"}}, egressIP: 10.0.3.42".to_owned();
    let document = Document { egress, ..Document::default() }.text().replace(", \"fd00:10:4::/64\"", "");
    stand.lab.repository().write("nodes/gateways.yaml", &labels("kind-worker2"))?;
    stand.push("policies/outpost.yaml", &document.replace(", \"fd00:10:4::99/128\"", ""))?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    stand.lab.forget()?;
    // net2 is on the same network: the router finds the address behind it.
    let (router, gateway) = (stand.lab.router(), stand.lab.node("kind-worker2")?);
    router.exec(["ip", "link", "add", "n-second", "type", "veth", "peer", "name", "net2", "netns", gateway.name()])?;
    router.exec(["ip", "link", "set", "n-second", "master", "br1", "up"])?;
    ip(&stand, "link set net2 up")?;
    let turns: [(&str, &str); 2] = [("net1", "net2"), ("net2", "net1")];
    for (from, to) in turns {
        ip(&stand, &format!("address del 10.0.3.42/24 dev {from}"))?;
        await_finding(&stand, true);
        assert_eq!(stand.lab.ask_within("tiefighter", OUTPOST, HELD_BACK)?, Answer::NoAnswer);
        ip(&stand, &format!("address add 10.0.3.42/24 dev {to}"))?;
        await_finding(&stand, false);
        forget_neighbour(&router)?;
        stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
        stand.await_settled()?;
    }
    stand.assert_no_leak_but(&[])
}

/// The router has learned behind which MAC the address was; who moves an address announces it, which `ip address add` does not.
fn forget_neighbour(router: &crate::lab::Namespace) -> Result<(), LabError> {
    router.exec(["ip", "neigh", "flush", "dev", "br1"]).map(|_| ())
}
