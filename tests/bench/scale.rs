//! How the pure core grows: 10,000 policies, 5,000 nodes, 100,000 pods (DESIGN §9, promise 3).
//!
//! Prints the median of several runs of each stage at three sizes, how each grows, and the ratio of one change to the whole. Deliberately absent: limits; times
//! on shared machines are for reading, not for failing on.

#[path = "scale/asserted.rs"]
mod asserted;
mod world;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use egret::core::compile::exit_ids::ExitIds;
use egret::core::compile::{CompileInput, Compiled, RefusedParts, compile};
use egret::core::facts::{Facts, Pod, PodName};
use egret::core::host_network::{HostNetwork, KernelFeatures};
use egret::core::name::NodeName;
use egret::core::placement::{Placement, place};
use egret::core::plan::plan;
use egret::core::policy::PolicySet;
use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::policy::lint::lint;
use egret::core::preview::assertions::{AssertionInput, FailedAssertion, failed};
use egret::core::state::NodeState;
use egret::core::state::ownership::DatapathConfig;
use jiff::Timestamp;

use self::world::{Size, node_name, path, pod, policy, world};

const LARGEST: Size = Size { policies: 10_000, nodes: 5_000, pods: 100_000 };
const SIZES: [Size; 3] = [
    Size { policies: LARGEST.policies / 10, nodes: LARGEST.nodes / 10, pods: LARGEST.pods / 10 },
    Size { policies: LARGEST.policies / 3, nodes: LARGEST.nodes / 3, pods: LARGEST.pods / 3 },
    LARGEST,
];

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    let mut sizes = Vec::new();
    for size in SIZES {
        writeln!(out, "\n{size}; medians of 5 runs")?;
        sizes.push(stages(size)?);
    }
    writeln!(out, "\nhow many times as long, with how many times as much of everything")?;
    for (position, (what, _)) in sizes[0].iter().enumerate() {
        let times: Vec<f64> = sizes.iter().map(|stages| stages[position].1.as_secs_f64()).collect();
        let much = SIZES[2].ratio(SIZES[0]);
        writeln!(out, "{what:<28} {:>8.1} of {much:.1}", times[2] / times[0])?;
    }
    Ok(())
}

/// Measures each stage at one size.
fn stages(size: Size) -> io::Result<Vec<(&'static str, Duration)>> {
    let mut stages = Vec::new();
    let texts: BTreeMap<String, FileUpdate> =
        (0..size.policies).map(|number| (path(number), FileUpdate::Text(policy(size, number, false)))).collect();
    let mut catalogue = Catalogue::new("bench");
    let all = show(&mut stages, "parse all policies", &mut || {
        catalogue = Catalogue::new("bench");
        catalogue.update(texts.clone());
    })?;
    let mut changed = false;
    let one = show(&mut stages, "parse one changed file", &mut || {
        changed = !changed;
        catalogue.update(BTreeMap::from([(path(471), FileUpdate::Text(policy(size, 471, changed)))]));
    })?;
    ratio(one, all)?;
    let set = catalogue.policies().clone();
    assert_eq!(set.policies.len(), size.policies, "every policy is good");

    let facts = world(size);
    show(&mut stages, "lint", &mut || drop(black_box(lint(&set, Some(&facts), catalogue.spans()))))?;
    let mut placement = Placement::default();
    show(&mut stages, "place all policies", &mut || placement = place(&set, &facts, Timestamp::UNIX_EPOCH))?;
    assert_eq!(placement.policies.len(), size.policies);
    assertions(&mut stages, size, &mut catalogue, &facts)?;

    // Of every tenth node no pod has labels.
    let node = node_name(size.nodes / 2 + 1);
    let mut compiled = Compiled::default();
    show(&mut stages, "compile one node", &mut || compiled = compile_node(&node, &set, &placement, &facts))?;
    assert!(compiled.members.len() > 1, "the node has members");
    show(&mut stages, "plan from nothing", &mut || {
        black_box(plan(&compiled.desired, &NodeState::default(), DatapathConfig::default()).steps.len());
    })?;
    show(&mut stages, "plan with nothing to do", &mut || {
        assert!(plan(&compiled.desired, &compiled.desired, DatapathConfig::default()).is_empty());
    })?;

    let mut more = facts.clone();
    // One that no number of these is: it runs on the same node, with labels.
    let (_, newborn) = pod(size, size.nodes / 2 + size.nodes * 3 + usize::from(size.nodes.is_multiple_of(20)));
    let newborn =
        Pod { node: Some(node.clone()), addresses: vec!["100.127.255.254".parse().expect("an address")], ..newborn };
    more.pods.insert(PodName { namespace: "team-0-prod".to_owned(), name: "newborn".to_owned() }, newborn);
    let mut with_pod = Compiled::default();
    show(&mut stages, "compile with one more pod", &mut || with_pod = compile_node(&node, &set, &placement, &more))?;
    let steps = plan(&with_pod.desired, &compiled.desired, DatapathConfig::default());
    writeln!(io::stdout(), "one more pod is {} steps", steps.steps.len())?;
    Ok(stages)
}

/// Measures the check of a hundred assertions, as a controller does it.
fn assertions(
    stages: &mut Vec<(&'static str, Duration)>,
    size: Size,
    catalogue: &mut Catalogue,
    facts: &Facts,
) -> io::Result<()> {
    let texts = (0..100)
        .map(|number| (format!("assertions/{number}.yaml"), FileUpdate::Text(asserted::assertion(size, number))));
    catalogue.update(texts.collect());
    let (set, host_networks) = (catalogue.policies(), asserted::host_networks(size));
    assert_eq!(set.assertions.len(), 100, "every assertion is good");
    let now = Timestamp::UNIX_EPOCH;
    let input = AssertionInput { set, before: set, facts, host_networks: &host_networks, now };
    show(stages, "check 100 assertions", &mut || {
        let failed = failed(&input);
        let broken: Vec<&FailedAssertion> = failed.iter().filter(|one| one.because.is_some()).collect();
        assert!(broken.is_empty(), "{broken:#?}");
        // Some policies of this world have no pods.
        assert!(failed.len() < 30, "{}", failed.len());
    })?;
    Ok(())
}

fn compile_node(node: &NodeName, set: &PolicySet, placement: &Placement, facts: &Facts) -> Compiled {
    let host_network = HostNetwork {
        features: KernelFeatures { owned_tables: true, interface_kinds: true, resets: true, ipv6: true },
        ..HostNetwork::default()
    };
    let marks = ExitIds::default();
    compile(&CompileInput {
        detours: &egret::core::detours::Detours::new(),
        node,
        set,
        placement,
        facts,
        host_network: &host_network,
        marks: &marks,
        refused: RefusedParts::NOTHING,
        assigned: &std::collections::BTreeSet::new(),
    })
}

fn show(
    stages: &mut Vec<(&'static str, Duration)>,
    what: &'static str,
    work: &mut dyn FnMut(),
) -> io::Result<Duration> {
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed()
        })
        .collect();
    times.sort();
    stages.push((what, times[2]));
    writeln!(io::stdout(), "{what:<28} {:>10.3} ms", times[2].as_secs_f64() * 1000.0)?;
    Ok(times[2])
}

fn ratio(part: Duration, whole: Duration) -> io::Result<()> {
    writeln!(io::stdout(), "{:<28} {:>10.0} times less", "", whole.as_secs_f64() / part.as_secs_f64())
}
