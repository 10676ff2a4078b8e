//! Ugly faults, each of which `egret explain` names in its first line: on the node that has it, and on the pod's node by what the other
//! reports.
//!
//! Deliberately absent: what can be said without a kernel (`explain`).

use std::process::Output;

use super::stand::{DEADLINE, Document, Outcome, Stand};
use crate::lab::{Answer, EGRESS, LabError, OUTPOST, Options, wait_until};

impl Stand {
    /// What `egret explain` prints on a node, and its exit code.
    fn explain(&self, node: &str, words: &[&str]) -> Result<(Option<i32>, String), LabError> {
        let all: Vec<&str> = ["explain"].into_iter().chain(words.iter().copied()).collect();
        let Output { status, stdout, stderr } = self.command(node, &all)?;
        assert_eq!(String::from_utf8_lossy(&stderr), "", "on {node}");
        Ok((status.code(), String::from_utf8_lossy(&stdout).into_owned()))
    }

    /// Waits until the first line of an explanation says something; the whole of it.
    fn await_explained(&self, (node, pod): (&str, &str), code: i32, says: &[&str]) -> Result<String, LabError> {
        let mut last = (None, String::new());
        let pod = format!("batuu/{pod}");
        let said = wait_until(DEADLINE, || {
            last = self.explain(node, &[&pod, "--to", "10.0.4.2"]).unwrap_or_default();
            let first = last.1.lines().next().unwrap_or_default();
            last.0 == Some(code) && says.iter().all(|part| first.contains(part))
        });
        if said {
            return Ok(last.1);
        }
        let seen = format!("exit code {:?}\n{}\n{}", last.0, last.1, self.log(node));
        Err(LabError::Late { awaited: format!("{says:?} on {node}"), deadline: DEADLINE, seen })
    }
}

const MEMBER: (&str, &str) = ("kind-worker", "tiefighter");
const AT_THE_GATEWAY: (&str, &str) = ("kind-worker2", "tiefighter");

#[test]
fn what_leaves_is_explained_on_both_nodes_with_the_commit_and_what_was_counted() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let text = stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42 through kind-worker2"])?;
    let first = "batuu/tiefighter (10.1.1.177, kind-worker) → 10.0.4.2   leaves as 10.0.3.42 through kind-worker2";
    assert_eq!(text.lines().next(), Some(first));
    assert!(
        text.contains("policy  outpost, policies/outpost.yaml:1, ") && text.contains("\"let the empire through\""),
        "{text}"
    );
    assert!(
        text.contains("match   selector 1: org=empire, namespace batuu · 10.0.4.0/24, longest of 1 prefix"),
        "{text}"
    );
    assert!(text.contains("→ exit 1, rule 501, default encap ip id"), "{text}");
    assert!(text.contains("waits   nothing (window, signature, suspension)"), "{text}");
    let at_gateway = stand.await_explained(AT_THE_GATEWAY, 0, &["leaves as 10.0.3.42 through kind-worker2"])?;
    assert!(
        at_gateway.contains("kernel  kind-worker2 at ") && at_gateway.contains("dev net1 table 9001"),
        "{at_gateway}"
    );
    let (code, json) = stand.explain("kind-worker", &["--pod", "batuu/tiefighter", "--to", "10.0.4.2", "-ojson"])?;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let of = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    assert_eq!((code, json["formatVersion"].as_u64()), (Some(0), Some(1)));
    assert_eq!([of("verdict"), of("egressAddress"), of("gateway")], ["leaves", "10.0.3.42", "kind-worker2"]);
    assert!(json["kernels"][0]["packets"].as_u64() > Some(0), "{json}");
    Ok(())
}

#[test]
fn an_egress_address_that_was_taken_away_is_named_on_both_nodes() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let gateway = stand.lab.node("kind-worker2")?;
    gateway.exec(["ip", "address", "del", "10.0.3.42/24", "dev", "net1"])?;
    let says = ["DROPPED on kind-worker2 since ", "net1 has no global IPv4 address"];
    let text = stand.await_explained(AT_THE_GATEWAY, 2, &says)?;
    assert!(text.contains("table 9001 unreachable"), "{text}");
    assert!(text.contains("do      on kind-worker2: put the address on it; Egret follows at once"), "{text}");
    stand.await_explained(MEMBER, 2, &says)?;
    gateway.exec(["ip", "address", "add", "10.0.3.42/24", "dev", "net1"])?;
    stand.await_explained(AT_THE_GATEWAY, 0, &["leaves as 10.0.3.42"])?;
    stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42"]).map(|_| ())
}

#[test]
fn a_pod_that_no_policy_selects_is_told_its_missing_label() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let text = stand.await_explained(
        ("kind-worker", "xwing"),
        0,
        &["NOT STEERED: outpost has 10.0.4.0/24", "the pod has org=alliance, and org=empire is wanted"],
    )?;
    assert!(
        text.contains(
            "do      if outpost is meant to select it: kubectl label pod -n batuu xwing org=empire --overwrite"
        ),
        "{text}"
    );
    // A label of the namespace.
    let of_team = Document::default().text().replace(
        "podSelector: {matchLabels: {org: empire, io.kubernetes.pod.namespace: batuu}}",
        "podSelector: {matchLabels: {org: empire}}\n    namespaceSelector: {matchLabels: {team: blue}}",
    );
    stand.push("policies/outpost.yaml", &of_team)?;
    let text = stand.await_explained(MEMBER, 0, &["the namespace has no label team, and team=blue is wanted"])?;
    assert!(
        text.contains("do      if outpost is meant to select it: kubectl label namespace batuu team=blue"),
        "{text}"
    );
    Ok(())
}

#[test]
fn an_overlapping_policy_with_a_longer_prefix_is_named_with_the_one_that_lost() -> Outcome {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let egress = "nodeSelector: {matchLabels: {kubernetes.io/hostname: kind-worker3}}, interface: net1".to_owned();
    let partner = Document { name: "partner", egress, ..Document::default() }.text();
    stand.push("policies/partner.yaml", &partner.replace("\"10.0.4.0/24\", ", "\"10.0.4.2/32\", "))?;
    let text = stand.await_explained(MEMBER, 0, &["through kind-worker3"])?;
    assert!(text.contains("policy  partner, policies/partner.yaml:1"), "{text}");
    assert!(text.contains("not     outpost (policies/outpost.yaml:1): 10.0.4.0/24 is shorter"), "{text}");
    Ok(())
}

#[test]
fn what_was_changed_by_hand_while_nothing_runs_is_named() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    let worker = stand.lab.node("kind-worker")?;
    stand.kill9("kind-worker")?;
    let text = stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42"])?;
    assert!(text.contains("no egret runs there"), "{text}");
    let group = text.split("group ").nth(1).and_then(|rest| rest.split(' ').next()).expect("the group").to_owned();
    worker.exec(["nft", "flush", "chain", "inet", "egret", &format!("group_{group}")])?;
    let chain = format!("DIFFERS on kind-worker: nft inet egret chain group_{group} differs");
    let text = stand.await_explained(MEMBER, 2, &[&chain, "no egret runs there", "what is decided: leaves as"])?;
    assert!(text.contains("do      on kind-worker: start `egret run`"), "{text}");
    // A route table that was flushed, with the rule still there.
    worker.exec(["ip", "route", "flush", "table", "9001"])?;
    stand.await_explained(MEMBER, 2, &["DIFFERS on kind-worker: ", "other difference"])?;
    worker.exec(["nft", "delete", "table", "inet", "egret"])?;
    stand.await_explained(MEMBER, 2, &["DIFFERS on kind-worker: nft table inet egret is missing"])?;
    stand.start("kind-worker")?;
    stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42"]).map(|_| ())
}

#[test]
fn a_next_hop_that_is_gone_is_named_on_both_nodes_and_in_the_gateways_log() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let gateway = stand.lab.node("kind-worker2")?;
    stand.lab.router().exec(["ip", "address", "del", "10.0.3.1/24", "dev", "br1"])?;
    gateway.exec(["ip", "neigh", "flush", "dev", "net1"])?;
    assert_eq!(stand.lab.ask_within("tiefighter", OUTPOST, super::stand::HELD_BACK)?, Answer::NoAnswer);
    let silent = "10.0.3.1, the IPv4 next hop on net1, does not answer";
    stand.await_explained(AT_THE_GATEWAY, 2, &["DROPPED on kind-worker2", silent])?;
    let text = stand.await_explained(MEMBER, 2, &["DROPPED on kind-worker2 since ", silent])?;
    assert!(text.contains("do      on kind-worker2: `ip neigh show 10.0.3.1` there"), "{text}");
    let log = stand.log("kind-worker2");
    assert!(log.contains("members of outpost are dropped: kind-worker2 dev net1: 10.0.3.1"), "{log}");
    let status = String::from_utf8_lossy(&stand.command("kind-worker", &["status"])?.stdout).into_owned();
    assert!(status.contains("1 policy DROPS") && status.contains("NextHopSilent"), "{status}");
    // Nobody sends a packet: the gateway asks by itself, and hears the answer.
    stand.lab.router().exec(["ip", "address", "add", "10.0.3.1/24", "dev", "br1"])?;
    stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42"])?;
    stand.await_explained(AT_THE_GATEWAY, 0, &["leaves as 10.0.3.42"]).map(|_| ())
}

#[test]
fn a_next_hop_whose_entry_another_program_made_stays_as_it_is() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let gateway = stand.lab.node("kind-worker2")?;
    let entry = ["10.0.3.1", "lladdr", "02:00:0a:00:03:01", "dev", "net1", "nud", "permanent"];
    gateway.exec(["ip", "neigh", "replace"].into_iter().chain(entry))?;
    // At the end of each round the gateway would ask for it.
    stand.push("policies/outpost.yaml", &format!("{}# again\n", Document::default().text()))?;
    stand.await_settled()?;
    gateway.exec(["ip", "address", "add", "192.0.2.1/32", "dev", "lo"])?;
    stand.await_granted("tiefighter")?;
    let seen = gateway.exec(["ip", "neigh", "show", "10.0.3.1"])?;
    assert!(seen.trim().ends_with("PERMANENT"), "{seen}");
    Ok(())
}

#[test]
fn an_interface_on_which_somebody_switched_forwarding_off_is_named_with_its_setting() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.lab.node("kind-worker2")?.sysctl("net.ipv4.conf.net1.forwarding", "0")?;
    stand.await_explained(AT_THE_GATEWAY, 2, &["DROPPED on kind-worker2: ", "net.ipv4.conf.net1.forwarding is 0"])?;
    stand.lab.node("kind-worker2")?.sysctl("net.ipv4.conf.net1.forwarding", "1")?;
    stand.await_explained(AT_THE_GATEWAY, 0, &["leaves as 10.0.3.42"])?;
    // The pod's own interface, on its own node.
    let pods = stand.lab.node("kind-worker")?;
    pods.sysctl("net.ipv4.conf.lxc-tiefighter.forwarding", "0")?;
    let says =
        ["DROPPED on kind-worker", "lxc-tiefighter.forwarding is 0: what batuu/tiefighter sends ends on this node"];
    stand.await_explained(MEMBER, 2, &says)?;
    let status = stand.command("kind-worker", &["status"])?;
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        status.contains("1 node DROPS: kind-worker: net.ipv4.conf.") && status.contains("lxc-tiefighter"),
        "{status}"
    );
    pods.sysctl("net.ipv4.conf.lxc-tiefighter.forwarding", "1")?;
    stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42"]).map(|_| ())
}

#[test]
fn what_a_nodes_own_table_leads_nowhere_is_no_promise() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    // Too small for IPv6 in the tunnel, whose exits are closed then.
    stand.lab.node("kind-worker")?.exec(["ip", "link", "set", "eth0", "mtu", "1300"])?;
    let mut last = (None, String::new());
    let said = wait_until(DEADLINE, || {
        last = stand.explain("kind-worker", &["batuu/tiefighter", "--to", "fd00:10:4::2"]).unwrap_or_default();
        let first = last.1.lines().next().unwrap_or_default();
        last.0 == Some(2) && first.contains("DROPPED on kind-worker") && first.contains("too small for IPv6")
    });
    assert!(said, "{last:?}");
    stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42"]).map(|_| ())
}

#[test]
fn a_firewall_between_the_nodes_that_takes_the_tunnels_packets_is_seen_on_the_pods_node() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let blocks = "table inet fw { chain in { type filter hook input priority -5; udp dport 4790 drop; }; }";
    stand.lab.node("kind-worker2")?.nft(blocks)?;
    let says = ["DROPPED on kind-worker since ", "its gateway does not answer this node's probes"];
    stand.await_explained(MEMBER, 2, &says)?;
    stand.lab.node("kind-worker2")?.exec(["nft", "delete", "table", "inet", "fw"])?;
    stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42"]).map(|_| ())
}

/// Open in the first minute of a year alone.
const CLOSED: &str = "apiVersion: egret.dev/v1alpha1
kind: Config
changeWindows:
  open: [{name: new year, cron: 0 0 1 1 *, timeZone: Europe/Berlin, duration: 1m}]
";

#[test]
fn a_commit_that_waits_for_a_window_is_named_with_what_it_would_change() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.push("egret.yaml", CLOSED)?;
    stand.await_settled()?;
    let rebels = Document { name: "rebels", org: "alliance", ..Document::default() };
    stand.push_saying("let the alliance through", &[("policies/rebels.yaml", &rebels.text())])?;
    let says =
        ["NOT STEERED: outpost has", "which waits (the change window is closed; it opens ", "leaves as 10.0.3.42"];
    let text = stand.await_explained(("kind-worker", "xwing"), 0, &says)?;
    assert!(text.contains("waits   ") && text.contains("\"let the alliance through\" of "), "{text}");
    stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42"]).map(|_| ())
}

#[test]
fn connections_that_are_older_than_what_is_active_are_listed() -> Outcome {
    let stand = Stand::up(Options::default())?;
    let mut open = stand.lab.long_connection("tiefighter", OUTPOST)?;
    open.echo()?;
    stand.push_outpost()?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    let (_, text) = stand.explain("kind-worker", &["batuu/tiefighter", "--to", "10.0.4.2", "--connections"])?;
    assert!(text.contains("on an older way"), "{text}");
    assert!(text.contains("not steered; a new one takes another way"), "{text}");
    drop(open);
    Ok(())
}

#[test]
fn a_node_answers_while_its_repository_is_away() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let text = stand.await_explained(MEMBER, 0, &["leaves as 10.0.3.42"])?;
    assert!(text.contains("policies/outpost.yaml:1"), "{text}");
    let (here, away) = (stand.lab.repository().path().to_owned(), stand.lab.repository().path().with_extension("away"));
    std::fs::rename(&here, &away).map_err(LabError::doing("move the repository away"))?;
    let (code, text) = stand.explain("kind-worker", &["batuu/tiefighter", "--to", "10.0.4.2"])?;
    // The address is what the gateway reports, on the branch that is away.
    assert!(code == Some(0) && text.contains("leaves through kind-worker2"), "{text}");
    std::fs::rename(&away, &here).map_err(LabError::doing("put the repository back"))?;
    Ok(())
}

#[test]
fn who_leaves_with_an_address_is_answered_on_the_gateway() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let (code, text) = stand.explain("kind-worker2", &["--address", "10.0.3.42"])?;
    assert_eq!(code, Some(0));
    assert!(text.starts_with("1 pod leaves as 10.0.3.42, by 1 policy\n"), "{text}");
    assert!(text.contains("pods    batuu/tiefighter"), "{text}");
    Ok(())
}

#[test]
fn the_status_says_in_its_first_line_what_is_dropped_and_what_differs() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    let status = |stand: &Stand, node: &str, code: i32, says: &str| -> Result<String, LabError> {
        let mut last = (None, String::new());
        let said = wait_until(DEADLINE, || {
            let output = stand.command(node, &["status"]);
            last = output.map_or_else(
                |error| (None, error.to_string()),
                |output| (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()),
            );
            last.0 == Some(code) && last.1.lines().next().unwrap_or_default().contains(says)
        });
        if said { Ok(last.1) } else { Err(stand.late(says, &format!("{:?}\n{}", last.0, last.1))) }
    };
    let text = status(&stand, "kind-worker2", 0, "1 policy, 2 nodes: nothing is wrong")?;
    assert!(
        text.contains("outpost  1     10.0.4.0/24,fd00:10:4::/64  kind-worker2  10.0.3.42,fd00:10:3::42  ok"),
        "{text}"
    );
    let gateway = stand.lab.node("kind-worker2")?;
    gateway.exec(["ip", "address", "del", "10.0.3.42/24", "dev", "net1"])?;
    for node in ["kind-worker2", "kind-worker"] {
        status(&stand, node, 2, "1 policy DROPS: outpost: kind-worker2: net1 has no global IPv4 address")?;
    }
    gateway.exec(["ip", "address", "add", "10.0.3.42/24", "dev", "net1"])?;
    status(&stand, "kind-worker2", 0, "nothing is wrong")?;
    stand.kill9("kind-worker2")?;
    gateway.exec(["ip", "route", "flush", "table", "9001"])?;
    status(&stand, "kind-worker2", 2, "1 node DIFFERS: kind-worker2: ip route ").map(|_| ())
}
