//! The claims of the reference datapath, each with real packets on what Egret itself put in, for IPv4 and IPv6, whatever the node's reverse
//! path filters are and whatever the CNI does behind us.
//!
//! Deliberately absent: packets from strangers (`stranger`).

use std::net::IpAddr;

use super::stand::{Outcome, Stand, WAYS, with_pods};
use crate::lab::{Answer, Options, Pod};

/// Every claim, in the order of reference.sh. `hidden`: the CNI gives pods' packets the node's address.
fn hold(options: Options, hidden: bool) -> Outcome {
    let mut stand = Stand::applied(options)?;
    let own = |pod: &str, node: [&str; 2]| -> Result<Vec<IpAddr>, crate::lab::LabError> {
        let hidden_behind = node.map(|address| address.parse().expect("an address"));
        Ok(if hidden { hidden_behind.to_vec() } else { stand.lab.pod_addresses(pod)? })
    };
    let node1 = ["172.18.0.2", "fd00:172:18::2"];
    let (xwing, tiefighter) = (own("xwing", node1)?, own("tiefighter", node1)?);
    for (position, (outpost, excluded, egress)) in WAYS.into_iter().enumerate() {
        assert_eq!(stand.lab.ask("tiefighter", outpost)?, Answer::Granted(egress), "a member");
        assert_eq!(stand.lab.ask("tiefighter", excluded)?, Answer::Denied(tiefighter[position]), "an exclusion");
        assert_eq!(stand.lab.ask("xwing", outpost)?, Answer::Denied(xwing[position]), "another pod");
    }
    stand.assert_no_leak_but(&xwing)?;

    stand.lab.forget()?;
    stand.lab.wire_pod(Pod::new("newborn", "kind-worker", 50, &[("org", "empire")]))?;
    stand.assert_silence("newborn")?;
    stand.lab.announce_pod("newborn")?;
    stand.await_granted("newborn")?;
    stand.assert_no_leak_but(&[])?;

    // Nobody repairs while the gateway's Egret is away; the datapath stays.
    assert_eq!(stand.terminate("kind-worker2")?, Some(0));
    stand.await_granted("tiefighter")?;
    stand.lab.node("kind-worker2")?.exec(["ip", "link", "set", "egret0", "down"])?;
    stand.assert_silence("tiefighter")?;
    stand.assert_no_leak_but(&[])?;
    stand.start("kind-worker2")?;
    stand.await_granted("tiefighter")?;
    stand.assert_no_leak_but(&[])
}

#[test]
fn the_claims_hold_without_reverse_path_filter() -> Outcome {
    hold(Options { rp_filter: 0, ..Options::default() }, false)
}

#[test]
fn the_claims_hold_with_a_strict_reverse_path_filter() -> Outcome {
    hold(Options { rp_filter: 1, ..Options::default() }, false)
}

#[test]
fn the_claims_hold_with_a_loose_reverse_path_filter() -> Outcome {
    hold(Options { rp_filter: 2, ..Options::default() }, false)
}

#[test]
fn the_claims_hold_with_a_strict_filter_that_looks_at_marks() -> Outcome {
    hold(Options { rp_filter: 1, src_valid_mark: true, ..Options::default() }, false)
}

#[test]
fn the_claims_hold_beside_a_cni_that_hides_pods_behind_their_node() -> Outcome {
    hold(Options { rp_filter: 1, masquerade: true, ..Options::default() }, true)
}

#[test]
fn a_pod_on_the_gateway_itself_leaves_with_the_egress_address_too() -> Outcome {
    for rp_filter in [0, 1] {
        let member = Pod::new("deathstar", "kind-worker2", 60, &[("org", "empire")]);
        let other = Pod::new("falcon", "kind-worker2", 61, &[("org", "alliance")]);
        let stand =
            Stand::applied(Options { rp_filter, src_valid_mark: rp_filter == 1, ..with_pods(&[member, other]) })?;
        let own = stand.lab.pod_addresses("falcon")?;
        stand.await_granted("deathstar")?;
        for (position, (outpost, excluded, _)) in WAYS.into_iter().enumerate() {
            let deathstar = stand.lab.pod_addresses("deathstar")?[position];
            assert_eq!(stand.lab.ask("deathstar", excluded)?, Answer::Denied(deathstar));
            assert_eq!(stand.lab.ask("falcon", outpost)?, Answer::Denied(own[position]));
        }
        stand.lab.wire_pod(Pod::new("newborn", "kind-worker2", 50, &[("org", "empire")]))?;
        stand.assert_silence("newborn")?;
        stand.lab.announce_pod("newborn")?;
        stand.await_granted("newborn")?;
        stand.assert_no_leak_but(&own)?;
    }
    Ok(())
}

#[test]
fn without_any_gateway_members_are_dropped_and_others_go_their_own_way() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    // The first report may be of the time before the gateway had its label.
    stand.await_report("kind-worker", "nothing but what is active", |report| {
        report.active.is_some() && report.findings.is_empty()
    });
    stand.lab.set_ready("kind-worker2", false)?;
    stand.await_report("kind-worker", "that there is no gateway", |report| {
        report.findings.iter().any(|since| since.finding.code == "no-gateway")
    });
    stand.assert_silence("tiefighter")?;
    stand.await_own_way("xwing")?;
    stand.lab.set_ready("kind-worker2", true)?;
    stand.await_granted("tiefighter")?;
    stand.assert_no_leak_but(&stand.lab.pod_addresses("xwing")?)
}
