//! Every metric is set by some process. Not here: what the values are (`serve`, `outpost::metrics`), and previews, which `proposals` has.

use std::collections::BTreeMap;

use egret::serve::FAMILIES;

use crate::apiserver::{Fault, Filter};
use crate::lab::{LabError, Options, get};

use super::stand::{LABELS, Outcome, Stand, policy};

const LISTEN: &str = "127.0.0.1:9091";

/// Set by a controller that previews pull requests: `proposals::previews_are_counted`.
const ELSEWHERE: &str = "egret_previews";

/// A policy that is suspended, so that something is.
const SUSPENDED: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {name: aldhani}
spec:
  selectors: [{namespaceSelector: {}, podSelector: {matchLabels: {org: alliance}}}]
  destinationCIDRs: [10.0.5.0/24]
  egressGateways: [{nodeSelector: {matchLabels: {egress-gw: \"true\"}}, interface: net1}]
  suspend: {until: 2099-01-01T00:00:00Z, owner: Mon, reason: not yet}
";

/// A policy without a gateway, so that something is dropped.
const DROPPED: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {name: kessel}
spec:
  selectors: [{namespaceSelector: {}, podSelector: {matchLabels: {org: alliance}}}]
  destinationCIDRs: [10.0.6.0/24]
  egressGateways: [{nodeSelector: {matchLabels: {egress-gw: \"nowhere\"}}, interface: net1}]
";

/// What a process serves, or nothing while it does not.
fn page(stand: &Stand, process: &str) -> Result<String, LabError> {
    let listen = LISTEN.parse().expect("an address and a port");
    let namespace = match process {
        "controller" => stand.lab.router(),
        node => stand.lab.node(node)?,
    };
    Ok(namespace.enter(|| get(listen, "/metrics"))?.map(|(_, page)| page).unwrap_or_default())
}

/// Series by their family.
fn families(pages: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for page in pages {
        let mut family = String::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                rest.split(' ').next().unwrap_or_default().clone_into(&mut family);
                found.entry(family.clone()).or_default();
            } else if !line.starts_with('#') {
                found.entry(family.clone()).or_default().push(line.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_metric_is_set_by_the_controller_or_by_an_agent() -> Outcome {
    let mut stand = Stand::empty(Options::default())?;
    let listen = ["--listen", LISTEN];
    stand.controller_with("one", &listen)?;
    let nodes = stand.nodes();
    for node in &nodes {
        stand.agent_with(node, &listen)?;
    }
    // One request and one watch that fail.
    stand.api.fault_times(Filter::writes().resource("egressnodes/status"), Fault::Status(500), 1);
    stand.push(&[
        ("nodes/gateways.yaml", LABELS),
        ("policies/outpost.yaml", &policy("egress-gw: \"true\"")),
        ("policies/aldhani.yaml", SUSPENDED),
        ("policies/kessel.yaml", DROPPED),
    ])?;
    stand.await_granted("tiefighter")?;
    let processes = || ["controller"].into_iter().chain(nodes.iter().map(String::as_str));
    let mut seen = BTreeMap::new();
    let mut missing = vec![String::new()];
    let all = crate::lab::wait_until(super::stand::DEADLINE, || {
        let pages: Vec<String> = processes().filter_map(|process| page(&stand, process).ok()).collect();
        seen = families(&pages);
        let names = FAMILIES.iter().map(egret::serve::MetricFamily::name).filter(|name| name != ELSEWHERE);
        missing = names.filter(|name| seen.get(name).is_none_or(Vec::is_empty)).collect();
        missing.is_empty()
    });
    assert!(all, "never set: {missing:?}\n{seen:#?}\n{}", stand.logs());
    let watched = &seen["egret_watch_errors"];
    assert!(watched.iter().any(|series| series.contains("resource=\"pods\"")), "zero before the first: {watched:?}");
    let failed = "egret_api_errors_total{operation=\"patch egressnodes/status\"} 1";
    assert!(seen["egret_api_errors"].iter().any(|series| series == failed), "{:?}", seen["egret_api_errors"]);
    stand.api.away();
    let broke =
        |page: &String| page.lines().any(|line| line.starts_with("egret_watch_errors_total{") && !line.ends_with(" 0"));
    stand.await_that("watches that broke to be counted, by all processes", || {
        processes().all(|process| page(&stand, process).is_ok_and(|page| broke(&page)))
    })?;
    stand.api.back();
    Ok(())
}
