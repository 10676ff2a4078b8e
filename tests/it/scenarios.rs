//! Scenarios: each folder of tests/scenarios is a repository and a cluster, with what Egret makes of them on each node, as whole files.
//!
//! What every scenario must hold besides: the plan leads to the desired state, and a second plan is empty.
//! tests/scenarios/README.md says what a folder may have. Deliberately absent: kernels; packets are looked at in the lab.

pub(crate) mod folder;
pub(crate) mod host_network;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use egret::core::assignment::holding::HoldingView;
use egret::core::compile::{Compiled, RP_FILTER_BEFORE, RefusedParts};
use egret::core::diagnostic::Diagnostic;
use egret::core::evaluation::{NodeInput, evaluate};
use egret::core::host_network::HostNetwork;
use egret::core::labels::Labels;
use egret::core::liveness::LivenessView;
use egret::core::name::NodeName;
use egret::core::plan::{StateListing, plan, simulate, summary};
use egret::core::policy::lint::lint;
use egret::core::report::drift;
use egret::core::report::files::node_file;
use egret::core::report::history::{NodeReport, ObservedDrift};
use egret::core::state::NodeState;
use egret::core::state::nft::{AddressFamily, ElementData, ElementKey, TableFamily};
use jiff::Timestamp;

use self::folder::World;
use crate::golden::Differences;

/// The time at which every scenario plays.
const NOW: &str = "2026-06-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().expect("a time")
}

/// The folder of all scenarios.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

/// The folders of the scenarios, sorted.
pub(crate) fn scenarios() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root()).expect("the scenarios");
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a scenario").path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

#[test]
fn every_scenario_gives_what_its_folder_expects() {
    let mut differences = Differences::default();
    for scenario in scenarios() {
        differences.folder(&scenario.join("expect"), &outcome(&scenario));
    }
    differences.assert_none();
}

/// Everything that a scenario gives, by the name of its file.
fn outcome(scenario: &Path) -> BTreeMap<String, String> {
    let world = World::read(&root(), &[scenario.to_path_buf()]);
    // What was active when somebody else had a hand in it, or when the repository or cluster changed.
    let other = ["before", "found"].map(|name| scenario.join(name)).into_iter().find(|path| path.is_dir());
    let drifted = other.as_ref().is_some_and(|path| path.ends_with("found"));
    let other = other.map(|path| World::read(&root(), &[scenario.to_path_buf(), path]));
    let mut files = BTreeMap::new();
    let lines: Vec<String> = diagnostics(&world).iter().map(|one| format!("{one} [{}]\n", one.code)).collect();
    if !lines.is_empty() {
        files.insert("diagnostics.txt".to_owned(), lines.concat());
    }
    for (node, host_network) in &world.host_networks {
        let observed = observed(&world, other.as_ref(), node);
        let mut host_network = host_network.clone();
        remember(&mut host_network, &observed);
        let (compiled, findings) = compiled(&world, node, &host_network, &observed);
        let plan = plan(&compiled.desired, &observed, world.set().config.range);
        leads_there(scenario, node, &compiled.desired, &observed, &world);
        let mut text = summary::text(node.as_str(), &plan, &compiled, &findings, Some(100));
        if other.is_some() && !plan.is_empty() {
            let _ = write!(text, "\nevery step\n\n{plan}");
        }
        files.insert(format!("{node}.desired.txt"), StateListing(&compiled.desired).to_string());
        files.insert(format!("{node}.plan.txt"), text);
        if drifted {
            files.insert(format!("{node}.drift.yaml"), drift_report(node, &compiled.desired, &observed));
        }
    }
    files
}

fn diagnostics(world: &World) -> Vec<Diagnostic> {
    let mut all = world.catalogue.diagnostics();
    all.extend(lint(world.set(), Some(&world.facts), world.catalogue.spans()));
    all.sort();
    all
}

/// What a node's kernel holds beforehand: what the other world would have made of it, or nothing; and of its labels those
/// that Git asks for now or asked for then.
fn observed(world: &World, other: Option<&World>, node: &NodeName) -> NodeState {
    let mut observed = other.map_or_else(NodeState::default, |other| {
        let host_network = other.host_networks.get(node).cloned().unwrap_or_default();
        compiled(other, node, &host_network, &NodeState::default()).0.desired
    });
    let labels = world.facts.nodes.get(node).map(|node| node.labels.clone()).unwrap_or_default();
    let wanted = world.set().labels_of(node, &labels);
    let there: Labels = labels.into_iter().filter(|(key, _)| wanted.contains_key(key)).collect();
    observed.labels = there.into_iter().chain(std::mem::take(&mut observed.labels)).collect();
    observed
}

/// The ground as it is after Egret was there: filters it loosened are loose, and its table remembers what they were.
fn remember(host_network: &mut HostNetwork, observed: &NodeState) {
    let map = observed.nft.get(&TableFamily::Inet).and_then(|table| table.sets.get(RP_FILTER_BEFORE));
    for (key, data) in map.into_iter().flat_map(|map| &map.elements) {
        if let (ElementKey::Interface(name), Some(ElementData::Mark(before))) = (key, data) {
            host_network.loosened.insert(name.clone(), u8::try_from(*before).expect("a filter's value"));
        }
    }
    for (sysctl, value) in observed.sysctls.iter().filter(|(sysctl, _)| sysctl.family == AddressFamily::V4) {
        if let Some(interface) = host_network.interfaces.get_mut(&sysctl.link) {
            interface.rp_filter = value.parse().expect("a filter's value");
        }
    }
}

/// The node's state, as `egret plan` finds it: with the labels that Git asks for on every node.
fn compiled(
    world: &World,
    node: &NodeName,
    host_network: &HostNetwork,
    observed: &NodeState,
) -> (Compiled, Vec<egret::core::finding::Finding>) {
    let set = world.set();
    let facts = set.labelled(&world.facts);
    let input = NodeInput {
        node,
        set,
        facts: &facts,
        host_network,
        observed,
        refused: RefusedParts::NOTHING,
        liveness: LivenessView::NOTHING,
        holding: HoldingView::PLACED,
    };
    let evaluation = evaluate(&input, None, now());
    let findings = evaluation.findings();
    (evaluation.compiled, findings)
}

/// The plan carried out gives the desired state, and there is nothing more to do: neither now nor when all is looked at again.
fn leads_there(scenario: &Path, node: &NodeName, desired: &NodeState, observed: &NodeState, world: &World) {
    let range = world.set().config.range;
    let mut state = observed.clone();
    for step in &plan(desired, observed, range).steps {
        simulate::apply(step, &mut state);
    }
    let place = format!("{} on {node}", scenario.display());
    assert_eq!(
        StateListing(&state).to_string(),
        StateListing(desired).to_string(),
        "{place}: the plan leads elsewhere"
    );
    assert_eq!(state, *desired, "{place}: the plan leads elsewhere, and the listing does not show it");
    let mut host_network = world.host_networks[node].clone();
    remember(&mut host_network, &state);
    let again = compiled(world, node, &host_network, &state).0.desired;
    assert_eq!(plan(&again, &state, range).to_string(), "", "{place}: there is something to do again");
}

/// The node's report after somebody made of it what was found, one minute ago, and it was corrected now.
fn drift_report(node: &NodeName, desired: &NodeState, found: &NodeState) -> String {
    let seen: Timestamp = "2026-06-01T11:59:59.962Z".parse().expect("a time");
    let sighting = |drift| ObservedDrift { drift, by: None, wanted_by: Vec::new() };
    let mut report = NodeReport::new(node.as_str());
    report.seen(drift::between(desired, found).into_iter().map(sighting).collect(), seen);
    report.mark_corrected(now());
    node_file(&report).expect("a report")
}
