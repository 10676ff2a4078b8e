//! How the pure core grows: 10,000 policies, 5,000 nodes, 100,000 pods (DESIGN §9, promise 3).
//!
//! Prints the median of several runs of each stage, and the ratio of one change to the whole. Deliberately absent: limits; times
//! on shared machines are for reading, not for failing on.

mod world;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use egret::core::compile::exit_ids::ExitIds;
use egret::core::compile::{CompileInput, Compiled, RefusedParts, compile};
use egret::core::facts::{Facts, PodName};
use egret::core::host_network::{HostNetwork, KernelFeatures};
use egret::core::name::NodeName;
use egret::core::placement::{Placement, place};
use egret::core::plan::plan;
use egret::core::policy::PolicySet;
use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::state::NodeState;
use egret::core::state::ownership::DatapathConfig;
use jiff::Timestamp;

use self::world::{path, pod, policy, world};

const POLICIES: usize = 10_000;
const NODES: usize = 5_000;
const PODS: usize = 100_000;

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{POLICIES} policies, {NODES} nodes, {PODS} pods; medians of 5 runs\n")?;
    let texts: BTreeMap<String, FileUpdate> =
        (0..POLICIES).map(|number| (path(number), FileUpdate::Text(policy(number, 24)))).collect();
    let mut catalogue = Catalogue::new("bench");
    let all = show("parse all policies", &mut || {
        catalogue = Catalogue::new("bench");
        catalogue.update(texts.clone());
    })?;
    let mut length = 24;
    let one = show("parse one changed file", &mut || {
        length = if length == 24 { 25 } else { 24 };
        catalogue.update(BTreeMap::from([(path(4711), FileUpdate::Text(policy(4711, length)))]));
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
        black_box(plan(&compiled.desired, &NodeState::default(), DatapathConfig::default()).steps.len());
    })?;
    show("plan with nothing to do", &mut || {
        assert!(plan(&compiled.desired, &compiled.desired, DatapathConfig::default()).is_empty());
    })?;

    let mut more = facts.clone();
    let name = PodName { namespace: "team-0".to_owned(), name: "newborn".to_owned() };
    more.pods.insert(name, pod(2500, "node-02500", 2500, 200));
    let mut with_pod = Compiled::default();
    show("compile with one more pod", &mut || with_pod = compile_node(&node, &set, &placement, &more))?;
    let steps = plan(&with_pod.desired, &compiled.desired, DatapathConfig::default());
    writeln!(out, "\none more pod is this plan:\n{steps}")?;
    writeln!(out, "one node against all policies: {whole:?} for {} members", compiled.members.len())?;
    Ok(())
}

fn compile_node(node: &NodeName, set: &PolicySet, placement: &Placement, facts: &Facts) -> Compiled {
    let host_network = HostNetwork {
        features: KernelFeatures { owned_tables: true, interface_kinds: true, ipv6: true },
        ..HostNetwork::default()
    };
    let marks = ExitIds::default();
    compile(&CompileInput {
        node,
        set,
        placement,
        facts,
        host_network: &host_network,
        marks: &marks,
        refused: RefusedParts::NOTHING,
    })
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
