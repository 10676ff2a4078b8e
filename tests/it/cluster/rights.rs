//! The rights that the chart gives, beside the calls that processes made: none is missing, and none is more than is needed.
//!
//! Only the double can tell: it writes every request down, with the program that sent it. Deliberately absent: what an admission policy
//! refuses although a right permits it (`rules`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::api::{Outcome, fault, name};
use super::chart;
use crate::apiserver::Request;

/// Rights that no run of the suite uses, and why they are needed.
const UNUSED: &[(&str, &str, &str)] = &[
    // A repeated event is written again after five minutes: `cluster::live::events`.
    ("egret-controller", "patch", "events.events.k8s.io"),
    ("egret-agent", "patch", "events.events.k8s.io"),
    // An agent counts as silent after 42 s: `sim::claims`.
    ("egret-controller", "patch", "egressnodes.egret.dev/status"),
];

/// One thing that an account may do, or did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    account: String,
    verb: String,
    /// `egressnodes.egret.dev/status`
    resource: String,
    /// Empty for all, or where there are none.
    namespace: String,
    /// Empty for all.
    object: String,
}

impl Right {
    fn covers(&self, used: &Self) -> bool {
        let fits = |mine: &str, other: &str| mine.is_empty() || mine == other;
        (&self.account, &self.verb, &self.resource) == (&used.account, &used.verb, &used.resource)
            && fits(&self.namespace, &used.namespace)
            && fits(&self.object, &used.object)
    }

    fn is_excused(&self) -> bool {
        UNUSED.contains(&(self.account.as_str(), self.verb.as_str(), self.resource.as_str()))
    }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The rights of a role, for one account.
fn rights_of(role: &Value, account: &str) -> Vec<Right> {
    let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let mut objects = texts(&rule["resourceNames"]);
        if objects.is_empty() {
            objects.push(String::new());
        }
        for (group, plural) in texts(&rule["apiGroups"])
            .iter()
            .flat_map(|group| texts(&rule["resources"]).into_iter().map(move |one| (group, one)))
        {
            let (plural, below) = plural.split_once('/').map_or((plural.as_str(), None), |(all, one)| (all, Some(one)));
            let group = if group.is_empty() { String::new() } else { format!(".{group}") };
            let below = below.map(|below| format!("/{below}")).unwrap_or_default();
            for (verb, object) in
                texts(&rule["verbs"]).iter().flat_map(|verb| objects.iter().map(move |object| (verb, object)))
            {
                rights.push(Right {
                    account: account.to_owned(),
                    verb: verb.clone(),
                    resource: format!("{plural}{group}{below}"),
                    namespace: namespace.to_owned(),
                    object: object.clone(),
                });
            }
        }
    }
    rights
}

/// All rights of the chart's accounts, through every binding.
fn given(objects: &[Value]) -> BTreeSet<Right> {
    let is_binding = |object: &&Value| object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding"));
    let mut rights = BTreeSet::new();
    for binding in objects.iter().filter(is_binding) {
        let role = objects.iter().find(|object| {
            object["kind"] == binding["roleRef"]["kind"]
                && name(object) == binding["roleRef"]["name"]
                && object["metadata"]["namespace"] == binding["metadata"]["namespace"]
        });
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            rights.extend(rights_of(role.unwrap_or(&Value::Null), name(&serde_json::json!({"metadata": subject}))));
        }
    }
    rights
}

/// What a request of one of our processes took. An apply that made an object took the right to create it, too.
fn used(request: &Request, prefix: &str) -> Vec<Right> {
    let Some(account) = request.user.strip_prefix(prefix) else { return Vec::new() };
    if !request.agent.starts_with("egret/") || !request.resource.contains(|letter: char| letter != '/') {
        return Vec::new();
    }
    let right = |verb: &str| Right {
        account: account.to_owned(),
        verb: verb.to_owned(),
        resource: request.resource.clone(),
        namespace: request.namespace.clone(),
        object: request.name.clone(),
    };
    let made = request.verb == "patch" && request.status == 201;
    [right(&request.verb)].into_iter().chain(made.then(|| right("create"))).collect()
}

/// Compares the rights of the chart with what a whole run of the suite asked for.
pub(super) fn compare(requests: &[Request]) -> Outcome {
    let account = requests.iter().find(|request| request.user.ends_with(":egret-controller"));
    let account = account.ok_or_else(|| fault("no controller asked for anything"))?;
    let namespace = account.user.split(':').nth(2).unwrap_or_default();
    let prefix = format!("system:serviceaccount:{namespace}:");
    let mut rights = given(&chart::rendered(namespace, false)?);
    rights.extend(given(&chart::rendered(namespace, true)?));
    let calls: BTreeSet<Right> = requests.iter().flat_map(|request| used(request, &prefix)).collect();
    // Paths that are no resources are open to everybody.
    let calls: Vec<Right> = calls.into_iter().filter(|call| !call.resource.starts_with('/')).collect();
    let missing: Vec<&Right> = calls.iter().filter(|call| !rights.iter().any(|right| right.covers(call))).collect();
    let needless: Vec<&Right> =
        rights.iter().filter(|right| !right.is_excused() && !calls.iter().any(|call| right.covers(call))).collect();
    let stale: Vec<_> = UNUSED
        .iter()
        .filter(|excused| {
            calls.iter().any(|call| (call.account.as_str(), call.verb.as_str(), call.resource.as_str()) == **excused)
        })
        .collect();
    if missing.is_empty() && needless.is_empty() && stale.is_empty() {
        return Ok(());
    }
    Err(fault(format!(
        "calls without a right: {missing:#?}\nrights without a call: {needless:#?}\nneedless excuses: {stale:?}"
    )))
}
