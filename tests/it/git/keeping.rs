//! The publisher's thread: the snapshot beside the reports, what becomes of reports while the repository is away, and README.md's commands.
//!
//! Deliberately absent: a kernel, and an API server; reports and facts are made here.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::gateway_interfaces;
use egret::core::host_network::{HostNetwork, Interface};
use egret::core::name::NodeName;
use egret::core::report::drift::{Drift, DriftClass, DriftPlace};
use egret::core::report::files::{path_of, read_node_file};
use egret::core::report::history::{NodeReport, ObservedDrift, RequestedBy};
use egret::core::snapshot;
use egret::git::source::{Insecure, Source};
use egret::reconcile::gitops::publisher::{ClusterSnapshot, Publisher, PublisherOptions, ReportBatch};
use egret::reconcile::leadership::IsLeader;
use jiff::Timestamp;

use super::fixture::Origin;
use super::folding::history;
use super::publishing::{BRANCH, files_on_branch};
use crate::commands::egret;
use crate::lab::wait_until;

fn name(text: &str) -> NodeName {
    NodeName::parse(text).expect("a node")
}

fn now() -> Timestamp {
    Timestamp::now()
}

fn publisher(origin: &Origin, state: &str) -> Publisher {
    publisher_while(origin, state, Box::new(|| true))
}

/// One that writes while `leads` says so.
fn publisher_while(origin: &Origin, state: &str, leads: IsLeader) -> Publisher {
    let source = Source::parse(origin.bare.to_str().expect("UTF-8"), Insecure::Refuse).expect("a source");
    let mirror = origin.path().join(state);
    let access = egret::git::credentials::Credentials::default().into();
    let options = PublisherOptions { source, access, mirror, cluster: "kind".to_owned(), signing_key: None, seed: 1 };
    Publisher::start(options, leads).expect("a thread")
}

fn letter(reports: Vec<NodeReport>) -> ReportBatch {
    ReportBatch {
        reports,
        branch: BRANCH.to_owned(),
        policy_branch: "main".to_owned(),
        keep: Duration::from_hours(90 * 24),
        snapshot_every: Some(Duration::from_hours(1)),
        asked: None,
    }
}

/// A report of a node on which these objects drifted and were corrected.
fn report(node: &str, objects: &[&str]) -> NodeReport {
    let mut report = NodeReport::new(node);
    report.set_active(&"c0ffee".repeat(7)[..40], "let the empire through", now());
    for object in objects {
        let drift = Drift {
            object: (*object).to_owned(),
            class: DriftClass::Missing,
            desired: Some("as it should be".to_owned()),
            observed: None,
            place: DriftPlace::Neighbour,
        };
        let wanted = RequestedBy {
            policy: "outpost".to_owned(),
            file: "policies/outpost.yaml:1".to_owned(),
            commit: "c0ffee".to_owned(),
        };
        report.seen(vec![ObservedDrift { drift, by: None, wanted_by: vec![wanted] }], now());
        report.mark_corrected(now());
    }
    report
}

fn facts(nodes: &[&str], pods: usize) -> Facts {
    let node = |number: usize| Node {
        labels: BTreeMap::from([("gw".to_owned(), "true".to_owned())]),
        addresses: vec![format!("172.18.0.{}", number + 2).parse().expect("an address")],
        pod_cidrs: vec![format!("10.1.{number}.0/24").parse().expect("a network")],
        ready: true,
        unschedulable: false,
    };
    let pod = |number: usize| Pod {
        labels: BTreeMap::from([("org".to_owned(), "empire".to_owned())]),
        node: Some(name(nodes[0])),
        addresses: vec![format!("10.1.0.{}", number + 2).parse().expect("an address")],
        ..Pod::default()
    };
    let pod_name = |number| PodName { namespace: "batuu".to_owned(), name: format!("tie-{number}") };
    Facts {
        nodes: nodes.iter().enumerate().map(|(number, text)| (name(text), node(number))).collect(),
        pods: (0..pods).map(|number| (pod_name(number), pod(number))).collect(),
        ..Facts::default()
    }
}

fn host_network(address: &str) -> HostNetwork {
    let interface =
        Interface { up: true, addresses: vec![address.parse().expect("a net")], mtu: 1500, ..Interface::default() };
    let host_network =
        HostNetwork { interfaces: BTreeMap::from([("net1".to_owned(), interface)]), ..HostNetwork::default() };
    gateway_interfaces::host_network(&gateway_interfaces::of(&host_network, &std::collections::BTreeSet::new()))
        .expect("a ground")
}

/// What a standalone node sees.
fn own(facts: Facts, node: &str, address: &str) -> ClusterSnapshot {
    let facts = Facts { host_networks: BTreeMap::from([(name(node), host_network(address))]), ..facts };
    ClusterSnapshot { facts, taken: now(), only_own: true, own: Some(name(node)) }
}

fn wait(what: &str, is: impl Fn() -> bool) {
    assert!(wait_until(Duration::from_secs(40), is), "{what}");
}

fn commits(origin: &Origin) -> usize {
    let branch = origin.in_bare(&["branch", "--list", BRANCH]);
    if branch.is_empty() { 0 } else { origin.in_bare(&["rev-list", "--count", BRANCH]).parse().expect("a number") }
}

fn origin() -> Origin {
    let origin = Origin::new();
    origin.push(&[("policies/outpost.yaml", POLICY)], "first");
    origin
}

const POLICY: &str = "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: outpost}
spec:
  selectors: [{podSelector: {matchLabels: {org: empire}}}]
  destinationCIDRs: [10.0.4.0/24]
  egressGateway: {nodeSelector: {matchLabels: {gw: \"true\"}}, egressIP: 10.0.3.42}
";

#[test]
fn a_preview_needs_no_cluster_because_the_snapshot_is_kept_beside_the_reports() {
    let origin = origin();
    let publisher = publisher(&origin, "state");
    assert!(publisher.wants_snapshot(false), "nothing is known of the branch yet");
    let letter = ReportBatch { branch: "egret/reports/default".to_owned(), ..letter(vec![report("a", &[])]) };
    publisher.send(letter, Some(own(facts(&["a"], 1), "a", "10.0.3.42/24")));
    publisher.finish();
    origin.git(&["checkout", "--quiet", "-b", "change"]);
    origin.commit(&[("policies/outpost.yaml", &POLICY.replace("10.0.3.42", "10.0.3.99"))], "another address");
    origin.git(&["push", "--quiet", "origin", "change"]);
    let source = origin.bare.display().to_string();
    let said =
        egret(["preview", "--repo", &source, "--base", "main", "--head", "change", "--at", "2100-01-01T00:00:00Z"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(2), ""));
    for words in [
        "1 pod would be cut off from 10.0.4.0/24",
        "10.0.3.99 is on no interface of a",
        "egret/reports/default at ",
        " days old",
    ] {
        let whole = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(whole.contains(words), "{words}: {whole}");
    }
    let by_interface = POLICY.replace("egressIP: 10.0.3.42", "interface: net1");
    origin.commit(&[("policies/outpost.yaml", &by_interface)], "by interface");
    origin.git(&["push", "--quiet", "origin", "change"]);
    let said = egret(["preview", "--repo", &source, "--base", "main", "--head", "change"]);
    assert!(said.stdout.contains("10.0.3.42 · a"), "{}", said.stdout);
    assert!(!said.stdout.contains("address of net1"), "{}", said.stdout);
}

#[test]
fn pods_that_come_and_go_are_one_commit_an_interval() {
    let origin = origin();
    let publisher = publisher(&origin, "state");
    publisher.send(letter(vec![report("a", &[])]), Some(own(facts(&["a"], 1), "a", "10.0.3.42/24")));
    wait("the first report", || commits(&origin) == 1);
    wait("the thread says so", || !publisher.wants_snapshot(false));
    for pods in 2..20 {
        // Whoever does not ask whether it is wanted is not written either.
        publisher.send(letter(vec![report("a", &[])]), Some(own(facts(&["a"], pods), "a", "10.0.3.42/24")));
        // Else they were one message to the thread, and not twenty.
        thread::sleep(Duration::from_millis(20));
    }
    publisher.finish();
    let since = origin.in_bare(&["log", "--format=%s", BRANCH]);
    assert_eq!(commits(&origin), 1, "{since}");
    let text = &files_on_branch(&origin)[snapshot::FILE];
    assert_eq!(text.matches("kind: Pod").count(), 1, "{text}");
}

#[test]
fn nodes_that_write_one_branch_keep_what_the_others_reported_and_come_to_rest() {
    let origin = origin();
    let all = ["a", "b", "c"];
    let address = |node: &str| format!("10.0.3.{}/24", node.as_bytes()[0]);
    for round in 0..3 {
        for node in all {
            let publisher = publisher(&origin, &format!("state-{node}"));
            publisher.send(letter(vec![report(node, &[])]), Some(own(facts(&all, 2), node, &address(node))));
            publisher.finish();
        }
        assert_eq!(commits(&origin), 3, "round {round}");
    }
    let files = files_on_branch(&origin);
    let told = snapshot::host_networks(&files[snapshot::FILE]);
    let expected: BTreeMap<NodeName, HostNetwork> = all.map(|node| (name(node), host_network(&address(node)))).into();
    assert_eq!(told, expected);
    // A node that left takes its file and its interfaces along.
    let publisher = publisher(&origin, "state-a");
    publisher.send(letter(vec![report("a", &[])]), Some(own(facts(&["a", "b"], 2), "a", &address("a"))));
    publisher.finish();
    assert_eq!(origin.in_bare(&["log", "-1", "--format=%s", BRANCH]), "c is no node any more");
    let files = files_on_branch(&origin);
    assert!(!files.contains_key(&path_of("c")) && !files["README.md"].contains("| c |"), "{files:?}");
    let told: Vec<NodeName> = snapshot::host_networks(&files[snapshot::FILE]).into_keys().collect();
    assert_eq!(told, [name("a"), name("b")]);
}

#[test]
fn what_drifted_while_the_repository_was_away_is_reported_when_it_is_back() {
    let origin = origin();
    let away = origin.path().join("away.git");
    let first = publisher(&origin, "state");
    first.send(letter(vec![report("a", &[])]), None);
    wait("the first report", || commits(&origin) == 1);
    fs::rename(&origin.bare, &away).expect("it goes");
    first.send(letter(vec![report("a", &["ip rule 9001"])]), None);
    wait("it is said", || first.fault().is_some_and(|fault| fault.starts_with("there is no Git repository at ")));
    // The process ends meanwhile, and another one knows nothing of it.
    first.finish();
    let second = publisher(&origin, "state");
    second.send(letter(vec![report("a", &["ip link egret0"])]), None);
    wait("it is said again", || second.fault().is_some());
    fs::rename(&away, &origin.bare).expect("it comes back");
    second.send(letter(vec![report("a", &["ip link egret0", "nft table inet egret"])]), None);
    wait("all is told", || second.fault().is_none());
    second.finish();
    let file = read_node_file(&files_on_branch(&origin)[&path_of("a")]).expect("a report");
    let corrected: Vec<&str> = file.corrected.iter().map(|record| record.object.as_str()).collect();
    assert_eq!(corrected, ["nft table inet egret", "ip link egret0", "ip rule 9001"]);
    assert_eq!(
        fs::read_dir(origin.path())
            .expect("a folder")
            .filter(|entry| { entry.as_ref().expect("an entry").file_name().to_string_lossy().contains("unsent") })
            .count(),
        0
    );
}

#[test]
fn what_an_agent_forgot_while_the_repository_was_away_is_reported_when_it_is_back() {
    let origin = origin();
    let away = origin.path().join("away.git");
    fs::rename(&origin.bare, &away).expect("it goes");
    let first = publisher(&origin, "state");
    first.send(letter(vec![report("a", &["ip rule 9001"])]), None);
    wait("it is said", || first.fault().is_some());
    // The agent starts anew, twice: what it saw in between is in a letter that is never tried.
    first.send(letter(vec![report("a", &[])]), None);
    first.send(letter(vec![report("a", &["ip link egret0"])]), None);
    first.send(letter(vec![report("a", &[])]), None);
    first.finish();
    let second = publisher(&origin, "state");
    second.send(letter(vec![report("a", &["nft table inet egret"])]), None);
    wait("it is said again", || second.fault().is_some());
    second.send(letter(vec![report("a", &[])]), None);
    fs::rename(&away, &origin.bare).expect("it comes back");
    wait("all is told", || second.fault().is_none());
    second.finish();
    let file = read_node_file(&files_on_branch(&origin)[&path_of("a")]).expect("a report");
    let corrected: Vec<&str> = file.corrected.iter().map(|record| record.object.as_str()).collect();
    assert_eq!(corrected, ["nft table inet egret", "ip link egret0", "ip rule 9001"]);
}

#[test]
fn reports_that_nobody_wants_any_more_are_not_tried_again_and_their_fault_is_gone() {
    let origin = origin();
    let away = origin.path().join("away.git");
    let publisher = publisher(&origin, "state");
    fs::rename(&origin.bare, &away).expect("it goes");
    publisher.send(letter(vec![report("a", &["ip rule 9001"])]), None);
    wait("it is said", || publisher.fault().is_some());
    publisher.stop();
    wait("nothing is wrong", || !publisher.unsettled());
    assert_eq!((publisher.fault(), publisher.dropped()), (None, false));
    fs::rename(&away, &origin.bare).expect("it comes back");
    publisher.finish();
    assert_eq!(commits(&origin), 0, "nor at the end");
    // Who wants them again hears of it all.
    let publisher = super::keeping::publisher(&origin, "state");
    publisher.send(letter(vec![report("a", &[])]), None);
    publisher.stop();
    publisher.send(letter(vec![report("a", &[])]), None);
    wait("it is taken", || !publisher.unsettled());
    publisher.finish();
    let file = read_node_file(&files_on_branch(&origin)[&path_of("a")]).expect("a report");
    let corrected: Vec<&str> = file.corrected.iter().map(|record| record.object.as_str()).collect();
    assert_eq!(corrected, ["ip rule 9001"]);
}

#[test]
fn who_led_before_overwrites_nothing_of_who_leads_now() {
    let origin = origin();
    let away = origin.path().join("away.git");
    let leads = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&leads);
    let former = publisher_while(&origin, "state-former", Box::new(move || asked.load(Ordering::SeqCst)));
    fs::rename(&origin.bare, &away).expect("it goes");
    let older = letter(vec![report("a", &["ip rule 9001"])]);
    former.send(older.clone(), None);
    wait("it is said", || former.fault().is_some());
    leads.store(false, Ordering::SeqCst);
    fs::rename(&away, &origin.bare).expect("it comes back");
    let new = publisher(&origin, "state-new");
    let newer = report("a", &["ip link egret0", "ip rule 9001"]);
    new.send(letter(vec![newer.clone()]), None);
    new.finish();
    let told = || read_node_file(&files_on_branch(&origin)[&path_of("a")]).expect("a report");
    assert_eq!(told(), newer);
    // Something to say makes the next try come soon.
    former.send(older, None);
    wait("it is dropped", || former.dropped());
    assert_eq!(former.fault(), None);
    // It leads again: what it could not say then is older than what is there.
    leads.store(true, Ordering::SeqCst);
    let again = report("a", &["nft table inet egret"]);
    former.send(letter(vec![again.clone()]), None);
    assert!(!former.dropped());
    wait("it is taken", || !former.unsettled());
    assert_eq!(told(), again.after(Some(&newer)));
    // And what waits when it gives the lease back is left to the next.
    former.send(letter(vec![report("a", &["ip route default"])]), None);
    leads.store(false, Ordering::SeqCst);
    former.finish();
    assert_eq!(commits(&origin), 2);
}

#[test]
fn a_refusal_is_reported_with_what_to_do_and_ends_with_the_next_report_that_is_taken() {
    let origin = origin();
    origin.git(&["push", "--quiet", "origin", &format!("main:{BRANCH}")]);
    let publisher = publisher(&origin, "state");
    publisher.send(letter(vec![report("a", &[])]), None);
    wait("it is said", || publisher.fault().is_some());
    let fault = publisher.fault().expect("a fault");
    assert!(fault.contains("was not created by this cluster's Egret"), "{fault}");
    assert!(fault.ends_with("(hint: rename that branch, or set another reports.branch in egret.yaml)"), "{fault}");
    origin.in_bare(&["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
    publisher.send(letter(vec![report("a", &["ip rule 9001"])]), None);
    wait("it is taken", || publisher.fault().is_none());
    publisher.finish();
    assert_eq!(commits(&origin), 1);
}

#[test]
fn a_branch_that_reaches_back_too_far_is_folded_after_a_report() {
    let origin = origin();
    history(&mut origin.mirror(), &[1, 2, 3]);
    let publisher = publisher(&origin, "state-own");
    publisher.send(letter(vec![report("a", &[])]), None);
    publisher.finish();
    let log = origin.in_bare(&["log", "--format=%s", BRANCH]);
    assert_eq!(log, "a: c0ffeec0ffee \"let the empire through\" is active\n3 earlier reports, folded into one");
}

#[test]
fn every_command_of_the_readme_is_one_that_works() {
    let origin = origin();
    let publisher = publisher(&origin, "state");
    publisher.send(
        letter(vec![report("kind-worker", &["ip rule 9001"])]),
        Some(own(facts(&["kind-worker"], 1), "kind-worker", "10.0.3.42/24")),
    );
    publisher.finish();
    let page = files_on_branch(&origin)["README.md"].clone();
    let block = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    origin.git(&["fetch", "--quiet", "origin", &format!("+refs/heads/{BRANCH}:refs/remotes/origin/{BRANCH}")]);
    let commands: Vec<&str> = block.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        "+- object: ip rule 9001",
        "policy: outpost",
        "  c0ffeec0ffee",
        "# kind: 0 open, 1 corrected",
        "Egret-Cluster: kind",
    ];
    assert_eq!(commands.len(), expected.len(), "{block}");
    for (line, words) in commands.into_iter().zip(expected) {
        let line = line
            .replace("NODE", "kind-worker")
            .replace("NAME", "outpost")
            .replace("2026-06-01T12:00Z", "2099-01-01T00:00Z");
        let output = Command::new("sh").args(["-ec", &line]).current_dir(&origin.work).output().expect("a shell");
        let (said, fault) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains(words), "{line}: {said} {fault}");
    }
}
