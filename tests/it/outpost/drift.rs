//! Drift made by hand while Egret runs: each is seen by event, corrected, and reported on the reports branch with who did it and who wants it.
//!
//! Deliberately absent: what stands right beside ours and must stay (`neighbours`), settings (`settings`), and drift while Egret is away (`crashes`).

use std::collections::BTreeMap;
use std::time::Duration;

use egret::core::report::drift::DriftClass::{self, Changed, Extra, Missing};
use egret::core::report::history::{DriftRecord, RequestedBy};

use super::listing::{difference, everything};
use super::stand::{DEADLINE, Outcome, Stand, WAYS, print_figures};
use crate::lab::{Answer, LabError, Options, wait_until};

/// Something done by hand.
struct Act {
    node: &'static str,
    command: &'static str,
    /// What the report calls the object.
    object: &'static str,
    class: DriftClass,
    desired: Option<&'static str>,
    observed: Option<&'static str>,
}

/// A command that takes an object away.
const fn takes(node: &'static str, command: &'static str, object: &'static str, desired: &'static str) -> Act {
    Act { node, command, object, class: Missing, desired: Some(desired), observed: None }
}

const fn adds(node: &'static str, command: &'static str, object: &'static str, observed: &'static str) -> Act {
    Act { node, command, object, class: Extra, desired: None, observed: Some(observed) }
}

const fn changes(command: &'static str, observed: &'static str) -> Act {
    let desired = Some("egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 up");
    Act { node: WORKER, command, object: "ip link egret0", class: Changed, desired, observed: Some(observed) }
}

const WORKER: &str = "kind-worker";
const GATEWAY: &str = "kind-worker2";

/// To the worker, which sends into the tunnel.
const AT_THE_SOURCE: [Act; 12] = [
    takes(
        WORKER,
        "ip rule del priority 501",
        "ip rule 501: from all fwmark 0x1/0x1fff lookup 9001 proto egret",
        "501: from all fwmark 0x1/0x1fff lookup 9001 proto egret",
    ),
    takes(
        WORKER,
        "ip -6 rule del priority 501",
        "ip rule -6 501: from all fwmark 0x1/0x1fff lookup 9001 proto egret",
        "-6 501: from all fwmark 0x1/0x1fff lookup 9001 proto egret",
    ),
    takes(
        WORKER,
        "ip route del default table 9001 dev egret0",
        "ip route default table 9001",
        "default encap ip id 1 src 172.18.0.2 dst 172.18.0.3 via 169.254.128.1 dev egret0 onlink table 9001 proto egret",
    ),
    takes(
        WORKER,
        "ip -6 route flush table 9001",
        "ip route -6 default table 9001",
        "-6 default encap ip id 1 src 172.18.0.2 dst 172.18.0.3 via fe80::e9:0:1 dev egret0 onlink table 9001 proto egret",
    ),
    takes(
        WORKER,
        "ip neigh del 169.254.128.1 dev egret0",
        "ip neigh 169.254.128.1 dev egret0",
        "169.254.128.1 dev egret0 lladdr 36:c2:80:90:a1:dc nud permanent",
    ),
    adds(
        WORKER,
        "ip neigh replace 169.254.128.1 dev egret0 lladdr 02:00:00:00:00:01",
        "ip neigh 169.254.128.1 dev egret0",
        "169.254.128.1 dev egret0 lladdr 02:00:00:00:00:01 nud permanent",
    ),
    takes(
        WORKER,
        "ip address del 169.254.90.1/32 dev egret0",
        "ip address 169.254.90.1/32 dev egret0",
        "169.254.90.1/32 dev egret0",
    ),
    changes(
        "ip link set egret0 down",
        "egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 down",
    ),
    changes(
        "ip link set egret0 mtu 1400",
        "egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1400 up",
    ),
    changes(
        "ip link set egret0 address 02:00:00:00:00:99",
        "egret0 type vxlan external dstport 4790 nolearning address 02:00:00:00:00:99 mtu 1450 up",
    ),
    takes(
        WORKER,
        "ip link del egret0",
        "ip link egret0",
        "egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 up",
    ),
    adds(
        WORKER,
        "ip address add 169.254.90.2/32 dev egret0",
        "ip address 169.254.90.2/32 dev egret0",
        "169.254.90.2/32 dev egret0",
    ),
];

/// To the gateway, which takes packets out of it.
const AT_THE_GATEWAY: [Act; 6] = [
    takes(
        GATEWAY,
        "ip rule del priority 500 fwmark 0x1fff/0x1fff",
        "ip rule 500: from all fwmark 0x1fff/0x1fff lookup 9000 proto egret",
        "500: from all fwmark 0x1fff/0x1fff lookup 9000 proto egret",
    ),
    takes(
        GATEWAY,
        "ip route del 10.1.1.254 table 9000",
        "ip route 10.1.1.254 table 9000",
        "10.1.1.254 encap ip id 1 src 172.18.0.3 dst 172.18.0.2 via 169.254.128.0 dev egret0 onlink table 9000 proto egret",
    ),
    takes(
        GATEWAY,
        "ip route del default table 9001",
        "ip route default table 9001",
        "default via 10.0.3.1 dev net1 table 9001 proto egret",
    ),
    takes(
        GATEWAY,
        "ip link del egret0",
        "ip link egret0",
        "egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:03 mtu 1450 up",
    ),
    adds(
        GATEWAY,
        "ip rule add priority 507 fwmark 7 lookup 9007 protocol 180",
        "ip rule 507: from all fwmark 0x7/0xffffffff lookup 9007 proto egret",
        "507: from all fwmark 0x7/0xffffffff lookup 9007 proto egret",
    ),
    adds(
        GATEWAY,
        "ip route add 192.0.2.0/24 dev eth0 table 9007 proto 180",
        "ip route 192.0.2.0/24 table 9007",
        "192.0.2.0/24 dev eth0 table 9007 proto egret",
    ),
];

/// Waits until a node lists what it listed before.
fn await_listing(stand: &Stand, node: &str, before: &str) -> Result<(), LabError> {
    let namespace = stand.lab.node(node)?;
    let mut left = String::new();
    wait_until(DEADLINE, || {
        left = difference(before, &everything(&namespace).unwrap_or_default());
        left.is_empty()
    });
    assert_eq!(left, "", "{}", stand.log(node));
    Ok(())
}

/// Does each by hand and holds the record of its repair against what it must say.
fn put_right(acts: &[Act]) -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let commit = stand.lab.repository().in_clone(["rev-parse", "HEAD"])?.trim_end().to_owned();
    let wanted = RequestedBy {
        policy: "outpost".to_owned(),
        file: "policies/outpost.yaml:1".to_owned(),
        commit: commit.clone(),
    };
    let (mut times, mut took) = (BTreeMap::new(), Vec::new());
    for act in acts {
        let namespace = stand.lab.node(act.node)?;
        let before = everything(&namespace)?;
        namespace.exec(act.command.split(' '))?;
        await_listing(&stand, act.node, &before)?;
        let report = stand.await_report(act.node, act.object, |report| {
            let seen: u32 = times.get(&(act.object, act.class)).copied().unwrap_or_default();
            report.corrected.iter().any(|record| is_of(record, act) && record.times > seen)
        });
        let record = report.corrected.iter().find(|record| is_of(record, act)).expect("it was just seen").clone();
        times.insert((act.object, act.class), record.times);
        let corrected = record.corrected.expect("it is among those corrected");
        took.push(Duration::try_from(corrected.duration_since(record.last_seen)).unwrap_or_default());
        // What anybody does to a device the kernel signs itself, or tells only after all that went with it.
        let is_told = record.by.as_ref().is_some_and(|by| by.because.contains("names"));
        assert!(is_told || act.object == "ip link egret0", "{record:?}");
        let whole = DriftRecord {
            object: act.object.to_owned(),
            class: act.class,
            desired: act.desired.map(str::to_owned),
            observed: act.observed.map(str::to_owned),
            by: record.by.clone(),
            first_seen: record.first_seen,
            last_seen: record.last_seen,
            corrected: record.corrected,
            times: record.times,
            action: "corrected".to_owned(),
            wanted_by: vec![wanted.clone()],
            hint: None,
        };
        assert_eq!(record, whole, "{}", act.command);
    }
    print_figures("drift of rules, routes, neighbours and devices, from event to correction", took);
    stand.await_granted("tiefighter")?;
    stand.assert_no_leak_but(&[])
}

fn is_of(record: &DriftRecord, act: &Act) -> bool {
    record.object == act.object && record.class == act.class
}

#[test]
fn drift_at_the_source_is_corrected_and_reported() -> Outcome {
    put_right(&AT_THE_SOURCE)
}

#[test]
fn drift_at_the_gateway_is_corrected_and_reported() -> Outcome {
    put_right(&AT_THE_GATEWAY)
}

#[test]
fn nobody_takes_our_tables_away_while_egret_runs() -> Outcome {
    let stand = Stand::applied(Options { tracks: false, ..Options::default() })?;
    for node in stand.nodes() {
        let namespace = stand.lab.node(&node)?;
        let before = everything(&namespace)?;
        namespace.exec(["nft", "flush", "ruleset"])?;
        // On a kernel that knows owners these are refused; on another they are corrected. Both end here.
        for object in ["table inet egret", "table netdev egret", "chain inet egret guard", "chain inet egret steer"] {
            let verb = if object.starts_with("table") { "delete" } else { "flush" };
            let words = ["nft", verb].into_iter().chain(object.split(' '));
            let _refused = namespace.exec(words);
        }
        await_listing(&stand, &node, &before)?;
    }
    for (outpost, _, egress) in WAYS {
        assert_eq!(stand.lab.ask("tiefighter", outpost)?, Answer::Granted(egress));
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_label_that_somebody_takes_away_is_put_back() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let before = std::fs::read_to_string(stand.lab.cluster_dir().join("nodes.yaml")).expect("nodes.yaml");
    let line = before.lines().find(|line| line.contains("egress-gw")).expect("the label").to_owned() + "\n";
    stand.lab.edit_nodes(|text| Ok(text.replace(&line, "")))?;
    let record = stand.await_corrected("kind-worker2", "label egress-gw", 1);
    assert_eq!((record.class, record.desired.as_deref()), (Missing, Some("egress-gw: \"true\"")));
    let after = std::fs::read_to_string(stand.lab.cluster_dir().join("nodes.yaml")).expect("nodes.yaml");
    assert_eq!(after, before);
    stand.await_granted("tiefighter")?;
    // xwing is no member: what it sent before may still arrive.
    stand.assert_no_leak_but(&stand.lab.pod_addresses("xwing")?)
}
