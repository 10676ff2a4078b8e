//! What a push costs: writes of our kinds, counted by a watch that begins before it.
//!
//! Deliberately absent: leases and events, which have their own pace.

use std::collections::BTreeMap;

use serde_json::Value;

use super::api::{JSON, Outcome, fault, name};
use super::host_network::CUSTOM;
use super::suite::Suite;
use super::way::{condition, settle};

const PLURALS: [&str; 3] = ["publishedegresspolicies", "egressconfigs", "egressnodes"];

/// The version of each list, for a watch that begins there.
fn versions(suite: &Suite) -> Outcome<BTreeMap<&'static str, String>> {
    let version = |plural: &'static str| {
        let list = suite.api.get(&format!("{CUSTOM}/{plural}"))?.unwrap_or_default();
        Ok((plural, list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()))
    };
    PLURALS.into_iter().map(version).collect()
}

/// Everything that was written since, by `plural/name`: the type of each event, with the object.
fn written(suite: &Suite, since: &BTreeMap<&'static str, String>) -> Outcome<BTreeMap<String, Vec<(String, Value)>>> {
    let mut found: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
    for (plural, version) in since {
        // The past is told at once; the end comes after a second.
        let path = format!("{CUSTOM}/{plural}?watch=true&resourceVersion={version}&timeoutSeconds=1");
        let lines = match suite.api.send("GET", &path, JSON, &Value::Null)? {
            (200, Value::String(lines)) => lines,
            (200, event) => event.to_string(),
            (code, answer) => return Err(fault(format!("GET {path}: {code} {answer}"))),
        };
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let event: Value = serde_json::from_str(line).map_err(fault)?;
            let (kind, object) = (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].clone());
            if ["ADDED", "MODIFIED", "DELETED"].contains(&kind.as_str()) {
                found.entry(format!("{plural}/{}", name(&object))).or_default().push((kind, object));
            }
        }
    }
    Ok(found)
}

/// How often an object's spec was written.
fn generations(events: &[(String, Value)]) -> i64 {
    let generation = |(_, object): &(String, Value)| object["metadata"]["generation"].as_i64();
    let all = || events.iter().filter_map(generation);
    all().max().unwrap_or_default() - all().min().unwrap_or_default()
}

/// A push of one policy beside others.
pub(super) fn one_policy(suite: &mut Suite) -> Outcome {
    settle(suite)?;
    let (since, head) = (versions(suite)?, suite.object("egressconfigs", "default")?);
    let policy = suite.policy().replace(&suite.named("outpost"), &suite.named("second"));
    let policy = policy.replace("10.0.4.0/24", "10.0.44.0/24").replace("fd00:10:4::/64", "fd00:10:44::/64");
    suite.push(&[("policies/second.yaml", &policy)])?;
    let second = suite.named("second");
    suite.await_that("a second policy in force", || {
        Ok(condition(&suite.object("publishedegresspolicies", &second)?, "Ready").0 == "True")
    })?;
    settle(suite)?;
    let written = written(suite, &since)?;
    let count: BTreeMap<&String, usize> = written.iter().map(|(name, events)| (name, events.len())).collect();
    suite.log(&format!("      measured: writes of a push of one policy: {count:?}"));
    let of = |what: String| written.get(&what).map(Vec::as_slice).unwrap_or_default();
    let policy = of(format!("publishedegresspolicies/{second}"));
    let made = policy.iter().filter(|(kind, _)| kind == "ADDED").count();
    let after = suite.object("egressconfigs", "default")?;
    let heads = after["metadata"]["generation"].as_i64().unwrap_or_default()
        - head["metadata"]["generation"].as_i64().unwrap_or_default();
    if (made, generations(policy), heads) != (1, 0, 1) {
        let why = format!("{made} creations and {} later specs of the policy, {heads} heads", generations(policy));
        return Err(fault(why));
    }
    let others = |name: &&String| name.starts_with("publishedegresspolicies/") && !name.ends_with(&second);
    let touched: Vec<&String> = written.keys().filter(others).collect();
    if !touched.is_empty() {
        return Err(fault(format!("{touched:?} were written, which did not change")));
    }
    for node in ["kind-worker", "kind-worker2"] {
        let writes = of(format!("egressnodes/{}", suite.named(node))).len();
        if writes != 1 {
            return Err(fault(format!("{writes} writes of the agent of {node}, for one policy")));
        }
    }
    suite.lab.repository().remove("policies/second.yaml")?;
    suite.push(&[])?;
    suite.await_that("no second policy", || Ok(suite.object("publishedegresspolicies", &second)?.is_null()))
}
