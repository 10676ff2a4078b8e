//! Pools in a cluster: the controller allocates, agents get addresses, and a controller that knows nothing takes none away.
//!
//! Deliberately absent: standalone nodes (`outpost::pools`), and which address is chosen (`core::allocation`).

use std::net::IpAddr;

use egret::core::allocation::{FILE, read};
use serde_json::{Value, json};

use crate::lab::{Answer, LabError, OUTPOST, Options};

use super::stand::{LABELS, Outcome, Stand};

const POOL: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressPool
metadata: {name: outpost}
spec: {addresses: [10.0.3.50-10.0.3.52]}
";

fn policy(name: &str, org: &str, addresses: usize) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  selectors: [{{podSelector: {{matchLabels: {{org: {org}, io.kubernetes.pod.namespace: batuu}}}}}}]
  destinationCIDRs: [10.0.4.0/24]
  egressGateway:
    nodeSelector: {{matchLabels: {{egress-gw: \"true\"}}}}
    egressPool: {{name: outpost, addresses: {addresses}}}
"
    )
}

/// What the reports branch says a policy has.
fn addresses(stand: &Stand, policy: &str) -> Vec<IpAddr> {
    let Ok(text) = stand.lab.repository().show(&format!("egret/reports/default:{FILE}")) else { return Vec::new() };
    let allocation = read(&text).expect("an allocation");
    let has = allocation.holdings.iter().filter(|(_, one)| one.freed.is_none() && one.slot.policy.as_str() == policy);
    has.map(|(address, _)| *address).collect()
}

/// The gateway entries of a published policy, without their selectors.
fn published(stand: &Stand, policy: &str) -> Vec<Value> {
    let entries = stand.object("publishedegresspolicies", policy)["spec"]["egressGateways"].as_array().cloned();
    let mut entries = entries.unwrap_or_default();
    for entry in &mut entries {
        entry.as_object_mut().expect("an entry").remove("nodeSelector");
    }
    entries
}

/// One member leaves with an address of the policy; which one.
fn await_granted(stand: &Stand, pod: &str, allowed: &[IpAddr]) -> Result<IpAddr, LabError> {
    let granted = || match stand.lab.ask(pod, OUTPOST) {
        Ok(Answer::Granted(address)) if allowed.contains(&address) => Some(address),
        _ => None,
    };
    stand.await_that("a member that leaves with an address of the pool", || granted().is_some())?;
    Ok(granted().expect("as it just was"))
}

#[test]
fn a_controller_that_leads_again_takes_no_address_away_that_another_gave_meanwhile() -> Outcome {
    let mut stand = Stand::up(Options { ipv6: false, ..Options::default() })?;
    for last in 50..53 {
        stand.lab.node("kind-worker2")?.exec(["ip", "address", "add", &format!("10.0.3.{last}/24"), "dev", "net1"])?;
    }
    stand.push(&[
        ("nodes/gateways.yaml", LABELS),
        ("policies/pool.yaml", POOL),
        ("policies/outpost.yaml", &policy("outpost", "empire", 1)),
    ])?;
    stand.await_that("an address for the first policy", || addresses(&stand, "outpost").len() == 1)?;
    let published_with =
        |stand: &Stand, name: &str| published(stand, name).iter().any(|one| one["egressIP"].is_string());
    stand.await_that("it, published", || published_with(&stand, "outpost"))?;
    stand.kill9("controller-one")?;
    // Another leads while this one is away, and gives an address.
    stand.controller("two")?;
    stand.push(&[("policies/alliance.yaml", &policy("alliance", "alliance", 1))])?;
    stand.await_that("an address for the second policy", || published_with(&stand, "alliance"))?;
    stand.await_that("a policy that works", || {
        stand.condition("publishedegresspolicies", "alliance", "Ready").0 == "True"
    })?;
    let generation =
        |stand: &Stand| stand.object("publishedegresspolicies", "alliance")["metadata"]["generation"].clone();
    let before = generation(&stand);
    stand.kill9("controller-two")?;
    // A push that is killed leaves its lock in a folder, as Git's own does, and the log says so: somebody takes it away.
    let _ = std::fs::remove_file(stand.lab.repository().path().join("refs/heads/egret/reports/default.lock"));
    stand.controller("one")?;
    stand.push(&[("policies/late.yaml", &policy("late", "rebels", 1))])?;
    stand.await_that("an address for the third policy", || published_with(&stand, "late"))?;
    assert_eq!(generation(&stand), before, "nothing was taken from the second in between");
    Ok(())
}

#[test]
fn the_controller_allocates_and_one_without_any_state_takes_no_address_away() -> Outcome {
    let mut stand = Stand::up(Options { ipv6: false, ..Options::default() })?;
    let all: Vec<IpAddr> = (50..53_u8).map(|last| IpAddr::from([10, 0, 3, last])).collect();
    for address in &all {
        stand.lab.node("kind-worker2")?.exec(["ip", "address", "add", &format!("{address}/24"), "dev", "net1"])?;
    }
    stand.lab.outpost().allow(all.clone());
    stand.push(&[
        ("nodes/gateways.yaml", LABELS),
        ("policies/pool.yaml", POOL),
        ("policies/outpost.yaml", &policy("outpost", "empire", 2)),
    ])?;
    stand.await_that("two addresses on the reports branch", || addresses(&stand, "outpost").len() == 2)?;
    let given = addresses(&stand, "outpost");
    let seen = await_granted(&stand, "tiefighter", &given)?;
    let entries = published(&stand, "outpost");
    let named: Vec<&str> = entries.iter().filter_map(|entry| entry["egressIP"].as_str()).collect();
    assert_eq!(named.len(), 2, "{entries:?}");
    assert!(given.iter().all(|address| named.contains(&address.to_string().as_str())), "{entries:?}");
    stand.await_that("both addresses in the status", || {
        let object = stand.object("publishedegresspolicies", "outpost");
        let shown = object["status"]["egressIPSummary"].as_str().unwrap_or_default().to_owned();
        given.iter().all(|address| shown.contains(&address.to_string()))
    })?;

    let generation = || stand.object("publishedegresspolicies", "outpost")["metadata"]["generation"].clone();
    let before = generation();
    stand.kill9("controller-one")?;
    std::fs::remove_dir_all(stand.state("controller-one")?).map_err(LabError::doing("remove a state folder"))?;
    stand.controller("one")?;
    stand.push(&[("policies/alliance.yaml", &policy("alliance", "alliance", 2))])?;
    stand.await_that("the last address for the other policy", || addresses(&stand, "alliance").len() == 1)?;
    let other = addresses(&stand, "alliance");
    assert!(!given.contains(&other[0]));
    assert_eq!(stand.object("publishedegresspolicies", "outpost")["metadata"]["generation"], before);
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::Granted(seen));
    await_granted(&stand, "xwing", &other)?;
    stand.await_that("what is still asked, published", || {
        let waits = json!({"egressPool": {"name": "outpost", "addresses": 1}});
        published(&stand, "alliance") == [json!({"egressIP": other[0].to_string()}), waits]
    })?;

    stand.push(&[("policies/late.yaml", &policy("late", "rebels", 1))])?;
    stand.await_that("a policy that waits for an address", || {
        stand.condition("publishedegresspolicies", "late", "Ready")
            == ("False".to_owned(), "PoolAddressMissing".to_owned())
    })?;
    assert_eq!(addresses(&stand, "outpost"), given);
    Ok(())
}
