//! How the pure core grows: 10,000 policies, 5,000 nodes, 100,000 pods (DESIGN §9, promise 3).
//!
//! Prints the median of several runs of each stage, and the ratio of one change to the whole. Deliberately absent: limits; times
//! on shared machines are for reading, not for failing on.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use egret::core::compile::marks::Marks;
use egret::core::compile::{Compiled, Input, compile};
use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::ground::{Features, Ground};
use egret::core::labels::Labels;
use egret::core::name::NodeName;
use egret::core::placement::{Placement, place};
use egret::core::plan::plan;
use egret::core::policy::PolicySet;
use egret::core::policy::catalogue::{Catalogue, Change};
use egret::core::policy::lint::lint;
use egret::core::preview::{Input as PreviewInput, Limits, Validation, lines, markdown, preview};
use egret::core::state::NodeState;
use egret::core::state::ownership::Range;
use jiff::Timestamp;

const POLICIES: usize = 10_000;
const NODES: usize = 5_000;
const PODS: usize = 100_000;
const GATEWAYS: usize = 50;

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{POLICIES} policies, {NODES} nodes, {PODS} pods; medians of 5 runs\n")?;
    let texts: BTreeMap<String, Change> = (0..POLICIES).map(|number| (path(number), policy(number, 24))).collect();
    let mut catalogue = Catalogue::new("bench");
    let all = show("parse all policies", &mut || {
        catalogue = Catalogue::new("bench");
        catalogue.update(texts.clone());
    })?;
    let mut length = 24;
    let one = show("parse one changed file", &mut || {
        length = if length == 24 { 25 } else { 24 };
        catalogue.update(BTreeMap::from([(path(4711), policy(4711, length))]));
    })?;
    ratio(one, all)?;
    let set = catalogue.policies().clone();
    assert_eq!(set.policies.len(), POLICIES, "every policy is good");

    let facts = world(NODES, PODS, POLICIES);
    let mut placement = Placement::default();
    show("place all policies", &mut || placement = place(&set, &facts, Timestamp::UNIX_EPOCH))?;
    assert_eq!(placement.policies.len(), POLICIES);

    let node = NodeName::parse("node-02500").expect("a node");
    let mut compiled = Compiled::default();
    let whole = show("compile one node", &mut || compiled = compile_node(&node, &set, &placement, &facts))?;
    assert!(compiled.members.len() > 1, "the node has members");
    show("plan from nothing", &mut || {
        black_box(plan(&compiled.desired, &NodeState::default(), Range::default()).steps.len());
    })?;
    show("plan with nothing to do", &mut || {
        assert!(plan(&compiled.desired, &compiled.desired, Range::default()).is_empty());
    })?;

    let mut more = facts.clone();
    let name = PodName { namespace: "team-0".to_owned(), name: "newborn".to_owned() };
    more.pods.insert(name, pod(2500, "node-02500", 2500, 200));
    let mut with_pod = Compiled::default();
    show("compile with one more pod", &mut || with_pod = compile_node(&node, &set, &placement, &more))?;
    let steps = plan(&with_pod.desired, &compiled.desired, Range::default());
    writeln!(out, "\none more pod is this plan:\n{steps}")?;
    writeln!(out, "one node against all policies: {whole:?} for {} members", compiled.members.len())?;
    previews()
}

/// A change of a repository with 1,000 policies for 1,000 nodes and 10,000 pods: of one policy, and of all.
fn previews() -> io::Result<()> {
    const POLICIES: usize = 1_000;
    let facts = world(1_000, 10_000, POLICIES);
    let texts = |length| -> BTreeMap<String, Change> {
        (0..POLICIES).map(|number| (path(number), policy(number, length))).collect()
    };
    let one = BTreeMap::from([(path(471), policy(471, 25))]);
    writeln!(io::stdout(), "\n{POLICIES} policies, 1000 nodes, 10000 pods")?;
    for (what, change) in [("preview one changed policy", one), ("preview all policies changed", texts(25))] {
        let mut size = 0;
        show(what, &mut || {
            let mut catalogue = Catalogue::new("bench");
            catalogue.update(texts(24));
            let before = catalogue.policies().clone();
            let mut old = catalogue.diagnostics();
            old.extend(lint(&before, Some(&facts), catalogue.spans()));
            catalogue.update(change.clone());
            let mut found = catalogue.diagnostics();
            found.extend(lint(catalogue.policies(), Some(&facts), catalogue.spans()));
            let tally = catalogue.tally(&found);
            let validation = Validation::new(&old, found, tally, catalogue.held());
            let grounds = BTreeMap::new();
            let preview = preview(PreviewInput {
                cluster: "bench",
                commits: ("a", "b"),
                before: &before,
                after: catalogue.policies(),
                facts: &facts,
                facts_from: "now",
                grounds: &grounds,
                now: Timestamp::UNIX_EPOCH,
                concerned: true,
                trailers: &[],
                validation: &validation,
                config_diff: "",
                reports: &[],
                limits: Limits::default(),
            });
            assert!(preview.moved > 0, "somebody moves");
            size = markdown(&preview).len() + lines(&preview).len();
        })?;
        writeln!(io::stdout(), "{:<28} {size:>10} bytes and lines", "")?;
    }
    Ok(())
}

fn compile_node(node: &NodeName, set: &PolicySet, placement: &Placement, facts: &Facts) -> Compiled {
    let ground =
        Ground { features: Features { owned_tables: true, blind_tunnels: false, ipv6: true }, ..Ground::default() };
    let marks = Marks::default();
    compile(&Input { node, set, placement, facts, ground: &ground, marks: &marks })
}

fn show(what: &str, work: &mut dyn FnMut()) -> io::Result<Duration> {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    times.sort();
    writeln!(io::stdout(), "{what:<28} {:>10.3} ms", times[2].as_secs_f64() * 1000.0)?;
    Ok(times[2])
}

fn ratio(part: Duration, whole: Duration) -> io::Result<()> {
    writeln!(io::stdout(), "{:<28} {:>10.0} times less", "", whole.as_secs_f64() / part.as_secs_f64())
}

fn path(number: usize) -> String {
    format!("policies/team-{}/policy-{number}.yaml", number % 100)
}

fn policy(number: usize, length: usize) -> Change {
    let (a, b) = (number / 250, number % 250);
    let host = if length == 24 { 0 } else { 128 };
    Change::Text(format!(
        "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {{name: policy-{number}}}
spec:
  selectors:
  - podSelector: {{matchLabels: {{app: app-{number}, io.kubernetes.pod.namespace: team-{}}}}}
  destinationCIDRs: [\"100.{a}.{b}.{host}/{length}\"]
  egressGateway: {{nodeSelector: {{matchLabels: {{gateway: \"g{}\"}}}}, interface: net1}}
",
        number % 100,
        number % GATEWAYS
    ))
}

fn world(nodes: usize, pods: usize, policies: usize) -> Facts {
    let mut facts = Facts::default();
    for number in 0..nodes {
        let labels = Labels::from([("gateway".to_owned(), format!("g{number}"))]);
        let (high, low) = (number / 250, number % 250);
        let node = Node {
            labels,
            addresses: vec![format!("172.16.{high}.{low}").parse().expect("an address")],
            pod_cidrs: vec![format!("10.{high}.{low}.0/24").parse().expect("a network")],
            ready: true,
            unschedulable: false,
        };
        facts.nodes.insert(NodeName::parse(&format!("node-{number:05}")).expect("a name"), node);
    }
    for number in 0..pods {
        let node = number % nodes;
        let name = PodName { namespace: format!("team-{}", number % 100), name: format!("pod-{number}") };
        facts.pods.insert(name, pod(number % policies, &format!("node-{node:05}"), node, number / nodes));
    }
    facts
}

fn pod(app: usize, node: &str, node_number: usize, host: usize) -> Pod {
    let (high, low) = (node_number / 250, node_number % 250);
    Pod {
        labels: Labels::from([("app".to_owned(), format!("app-{app}"))]),
        node: NodeName::parse(node).ok(),
        addresses: vec![format!("10.{high}.{low}.{}", host + 2).parse().expect("an address")],
        host_network: false,
        finished: false,
    }
}
