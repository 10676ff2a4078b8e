//! Converts active policies to the `spec` of PublishedEgressPolicies, and back.
//!
//! The fields are those of an EgressPolicy document in one spelling, so that the cluster's objects read like the
//! repository's; they are read back by the same checks. Values that a policy takes from egret.yaml are written out. Not
//! here: the resource around the `spec`, with its fencing token and status (`cluster::live`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::check::{CheckedPolicy, REQUIRE};
use super::config::{Config, ProbeTiming};
use super::document::{CONFIG_FILE, DocumentKind, PUBLISHED};
use super::grants::Grant;
use super::{
    Egress, GatewaySpec, MemberSelector, ObjectName, Origin, Policy, PolicyId, PolicyKind, PolicySet, PoolRequest,
    Suspend, file,
};
use crate::core::admission::{ChangeWindows, Window};
use crate::core::escape::json_as_yaml;
use crate::core::labels::{Operator, Requirement, Selector};
use crate::core::name::NodeName;
use crate::core::signature::Signatures;
use crate::core::state::net::fnv1a;

/// The podSelector key for the name of the pod's namespace.
const NAMESPACE_NAME: &str = "io.kubernetes.pod.namespace";
/// Suffix of a Cilium document's name where an EgressPolicy has the same name.
const CILIUM_SUFFIX: &str = ".cilium.io";
/// Field of the published `gateways` with the gateway labels that Git gives. egret.yaml has no such field.
const LABELLED: &str = "labelled";
/// Fields of a published spec that no document has.
const ENVELOPE: [&str; 2] = ["source", FENCE];
/// The field with the fencing token of the controller that wrote the spec.
pub const FENCE: &str = "fence";

/// The published content of a commit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// Specs by the name of their resource.
    pub policies: BTreeMap<String, Value>,
    /// The values of egret.yaml that nodes need.
    pub config: Value,
}

/// Why a published spec is invalid: another writer, or another version of Egret, wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The resource.
    pub name: String,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.message)
    }
}

impl Published {
    /// The published form of a policy set.
    pub fn of(set: &PolicySet) -> Self {
        let policies = set.policies.values().map(|policy| (resource_name(set, &policy.id), spec(policy))).collect();
        Self { policies, config: config(&set.config, set.grants.as_deref()) }
    }

    /// A digest that is equal exactly where the policies are. Agents only apply a set of policies that it matches.
    pub fn digest(&self) -> String {
        digest_of(self.policies.iter().map(|(name, spec)| hash_of(name, spec)))
    }

    /// Parses published specs as the API server returns them.
    pub fn read<'v>(
        policies: impl IntoIterator<Item = (&'v String, &'v Value)>,
        config: &Value,
    ) -> Result<PolicySet, Vec<Unreadable>> {
        let mut set = PolicySet::default();
        let mut faults = Vec::new();
        for (name, spec) in policies {
            match read_policy(name, spec) {
                Ok(policy) => {
                    set.policies.insert(policy.id.clone(), policy);
                }
                Err(fault) => faults.push(fault),
            }
        }
        match read_config(config).and_then(|read| Ok((read, read_grants(config)?))) {
            Ok((config, grants)) => (set.config, set.grants) = (config, grants),
            Err(fault) => faults.push(fault),
        }
        if faults.is_empty() { Ok(set) } else { Err(faults) }
    }
}

/// The hash of one published policy, from which [`digest_of`] computes that of all: when one changes, the others need not
/// be read again.
pub fn hash_of(name: &str, spec: &Value) -> u64 {
    let mut text = format!("{name}\0");
    canonical(spec, &mut text);
    fnv1a(text.as_bytes())
}

/// The digest of policies by their hashes, in any order. It protects against partial updates, not against malice: a
/// writer of policies can write the EgressConfig as well.
pub fn digest_of(hashes: impl IntoIterator<Item = u64>) -> String {
    format!("{:016x}", hashes.into_iter().fold(0_u64, u64::wrapping_add))
}

/// The name of a policy's resource.
pub fn resource_name(set: &PolicySet, id: &PolicyId) -> String {
    let namesake = PolicyId { name: id.name.clone(), kind: PolicyKind::Egret };
    if id.kind == PolicyKind::Cilium && set.policies.contains_key(&namesake) {
        format!("{}{CILIUM_SUFFIX}", id.name)
    } else {
        id.name.to_string()
    }
}

/// The kind of a policy's document.
pub fn kind_name(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::Cilium => DocumentKind::CiliumEgressGatewayPolicy.name(),
        PolicyKind::Egret => DocumentKind::EgressPolicy.name(),
    }
}

/// A policy as the `spec` of a PublishedEgressPolicy.
pub fn spec(policy: &Policy) -> Value {
    let texts = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut spec = json!({
        "selectors": policy.selectors.iter().map(member).collect::<Vec<_>>(),
        "destinationCIDRs": texts(&policy.destinations),
        "egressGateways": policy.gateways.iter().map(gateway).collect::<Vec<_>>(),
        "priority": policy.priority,
        "onNoGateway": word(&super::check::ON_NO_GATEWAY, &policy.on_no_gateway),
        "existingConnections": word(&super::check::EXISTING_CONNECTIONS, &policy.existing_connections),
        "source": {
            "kind": kind_name(policy.id.kind),
            "name": policy.id.name.as_str(),
            "file": policy.origin.file,
            "line": policy.origin.line,
        },
    });
    if !policy.excluded.is_empty() {
        spec["excludedCIDRs"] = json!(texts(&policy.excluded));
    }
    if let Some(Suspend { until, owner, reason }) = &policy.suspend {
        spec["suspend"] = json!({"until": until.to_string(), "reason": reason});
        if let Some(owner) = owner {
            spec["suspend"]["owner"] = json!(owner);
        }
    }
    spec
}

fn word<T: PartialEq>(words: &[(&'static str, T)], meant: &T) -> &'static str {
    words.iter().find(|(_, value)| value == meant).map_or("", |(word, _)| word)
}

fn gateway(spec: &GatewaySpec) -> Value {
    let mut gateway = json!({"nodeSelector": selector(&spec.node.requirements)});
    match &spec.egress {
        Egress::Address(address) => gateway["egressIP"] = json!(address.to_string()),
        Egress::Interface(name) => gateway["interface"] = json!(name.as_str()),
        Egress::DualStack(v4, v6) => gateway["egressIPs"] = json!([v4.to_string(), v6.to_string()]),
        Egress::Pool(PoolRequest { pool, addresses }) => {
            gateway["egressPool"] = json!({"name": pool.as_str(), "addresses": addresses});
        }
        Egress::DefaultRoute => {}
    }
    if !spec.next_hops.is_empty() {
        gateway["nextHops"] = json!(spec.next_hops.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    if let Some(assign) = &spec.assign {
        gateway["assign"] = json!({"failback": assign.failback});
        if let Some(interface) = &assign.interface {
            gateway["assign"]["interface"] = json!(interface.as_str());
        }
    }
    gateway
}

fn member(member: &MemberSelector) -> Value {
    let named = member
        .namespace_name
        .iter()
        .map(|operator| Requirement { key: NAMESPACE_NAME.to_owned(), operator: operator.clone() });
    let pod: Vec<Requirement> = member.pod.requirements.iter().cloned().chain(named).collect();
    let mut written = json!({"podSelector": selector(&pod)});
    for (field, Selector { requirements }) in [("namespaceSelector", &member.namespace), ("nodeSelector", &member.node)]
    {
        if !requirements.is_empty() {
            written[field] = selector(requirements);
        }
    }
    written
}

/// Requirements with one value become `matchLabels`, the usual form, unless there are two on one key.
fn selector(requirements: &[Requirement]) -> Value {
    let (mut labels, mut expressions) = (Map::new(), Vec::new());
    let alone = |key: &str| requirements.iter().filter(|requirement| requirement.key == key).count() == 1;
    for Requirement { key, operator } in requirements {
        let (word, values) = match operator {
            Operator::In(values) if values.len() == 1 && alone(key) => {
                labels.insert(key.clone(), json!(values.first()));
                continue;
            }
            Operator::In(values) => ("In", Some(values)),
            Operator::NotIn(values) => ("NotIn", Some(values)),
            Operator::Exists => ("Exists", None),
            Operator::DoesNotExist => ("DoesNotExist", None),
        };
        let mut expression = json!({"key": key, "operator": word});
        if let Some(values) = values {
            expression["values"] = json!(values);
        }
        expressions.push(expression);
    }
    let mut written = Map::new();
    if !labels.is_empty() {
        written.insert("matchLabels".to_owned(), Value::Object(labels));
    }
    if !expressions.is_empty() {
        written.insert("matchExpressions".to_owned(), Value::Array(expressions));
    }
    Value::Object(written)
}

/// The values of egret.yaml that nodes need. Paths, branch and schedule concern only the controller.
pub(super) fn config(config: &Config, grants: Option<&[Grant]>) -> Value {
    let range = config.range;
    let mut written = json!({
        "datapath": {
            "firstTable": range.first,
            "port": range.port,
            "mtu": range.mtu,
        },
    });
    // If left out, a node chooses bits that no other program uses; agents without that feature take the default.
    if !config.mask_is_auto {
        written["datapath"]["markMask"] = json!(range.mask);
    }
    // What is left out is the default, of the agent's version.
    match config.failover {
        None => written["failover"] = json!({"enabled": false}),
        Some(timing) if timing != ProbeTiming::default() => {
            let interval = format!("{}ms", timing.interval.as_millis());
            written["failover"] = json!({"interval": interval, "misses": timing.misses});
        }
        Some(_) => {}
    }
    for (field, nets) in
        [("podCIDRs", &config.pod_cidrs), ("serviceCIDRs", &config.service_cidrs), ("exclusions", &config.exclusions)]
    {
        if !nets.is_empty() {
            written[field] = json!(nets.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
    }
    // For a controller that starts: signature requirements hold even if the commit that introduced them was removed from
    // the branch.
    if let Some(signatures) = &config.signatures {
        let Signatures { require, keys } = signatures;
        written["signatures"] = json!({
            "require": word(&REQUIRE, require),
            "allowedSigners": keys.allowed_signers,
            "openPGPKeys": keys.openpgp,
        });
    }
    if let Some(grants) = grants {
        let labelled = grants.iter().map(grant).collect::<Vec<_>>();
        written["gateways"] = json!({"onlyLabelledFromGit": true, LABELLED: labelled});
    }
    if !config.change_windows.open.is_empty() {
        written["changeWindows"] = windows(&config.change_windows);
    }
    written
}

/// In the form of a NodeLabels `spec`.
pub(super) fn grant(grant: &Grant) -> Value {
    let mut written = json!({"labels": grant.labels});
    if !grant.nodes.is_empty() {
        written["nodes"] = json!(grant.nodes.iter().map(NodeName::as_str).collect::<Vec<_>>());
    }
    if let Some(Selector { requirements }) = &grant.node_selector {
        written["nodeSelector"] = selector(requirements);
    }
    written
}

/// For a controller that starts as well: an unreadable egret.yaml opens no window.
fn windows(windows: &ChangeWindows) -> Value {
    let window = |window: &Window| {
        let Window { name, cron, time_zone, duration } = window;
        let mut written = json!({"cron": cron, "timeZone": time_zone, "duration": format!("{duration:#}")});
        if !name.is_empty() {
            written["name"] = json!(name);
        }
        written
    };
    let mut written = json!({"open": windows.open.iter().map(window).collect::<Vec<_>>()});
    if let Some(trailer) = &windows.emergency_trailer {
        written["emergencyTrailer"] = json!(trailer);
    }
    written
}

/// Parses one published policy, with the same checks as a document in a repository.
pub fn read_policy(name: &str, spec: &Value) -> Result<Policy, Unreadable> {
    read_checked(name, spec).map(|(checked, _)| checked.policy)
}

/// The same with the text of a document that says it.
pub(super) fn read_checked(name: &str, spec: &Value) -> Result<(CheckedPolicy, String), Unreadable> {
    let fault = |message: String| Unreadable { name: name.to_owned(), message };
    let source = &spec["source"];
    let written = |field: &str| source[field].as_str().ok_or_else(|| fault(format!("spec.source.{field} is missing")));
    let kind = match written("kind")? {
        kind if kind == kind_name(PolicyKind::Cilium) => PolicyKind::Cilium,
        kind if kind == kind_name(PolicyKind::Egret) => PolicyKind::Egret,
        other => return Err(fault(format!("spec.source.kind is {other}"))),
    };
    let id = PolicyId { name: ObjectName::parse(written("name")?).map_err(|error| fault(error.to_string()))?, kind };
    let line = source["line"].as_u64().and_then(|line| usize::try_from(line).ok()).unwrap_or_default();
    let origin = Origin { file: written("file")?.to_owned(), line };
    let mut fields = spec.as_object().cloned().unwrap_or_default();
    fields.retain(|field, _| !ENVELOPE.contains(&field.as_str()));
    let document = json!({
        "apiVersion": DocumentKind::EgressPolicy.api_version(),
        "kind": DocumentKind::EgressPolicy.name(),
        "metadata": {"name": id.name.as_str()},
        "spec": fields,
    });
    let text = json_as_yaml(&document.to_string());
    let parsed = file::parse(PUBLISHED, &text);
    let checked = parsed.good.first().and_then(|(_, checked)| checked.policy());
    let Some(checked) = checked else { return Err(fault(first_error(&parsed))) };
    let policy = Policy { id, origin, ..checked.policy.clone() };
    Ok((CheckedPolicy { policy, ..checked.clone() }, text))
}

/// Parses the published values of egret.yaml.
pub fn read_config(config: &Value) -> Result<Config, Unreadable> {
    let mut document = config.as_object().cloned().unwrap_or_default();
    if let Some(Value::Object(gateways)) = document.get_mut("gateways") {
        gateways.remove(LABELLED);
    }
    document.insert("apiVersion".to_owned(), json!(DocumentKind::Config.api_version()));
    document.insert("kind".to_owned(), json!(DocumentKind::Config.name()));
    let parsed = file::parse(CONFIG_FILE, &json_as_yaml(&Value::Object(document).to_string()));
    match parsed.good.first().and_then(|(_, checked)| checked.config()) {
        Some(config) => Ok(config.of("")),
        None => Err(Unreadable { name: "spec.config".to_owned(), message: first_error(&parsed) }),
    }
}

/// Parses the published gateway labels, with the same checks as NodeLabels; `None` where any label counts.
pub fn read_grants(config: &Value) -> Result<Option<Vec<Grant>>, Unreadable> {
    let gateways = &config["gateways"];
    if gateways["onlyLabelledFromGit"] != json!(true) {
        return Ok(None);
    }
    let written = gateways[LABELLED].as_array().map_or(&[][..], Vec::as_slice);
    written.iter().map(read_grant).collect::<Result<_, _>>().map(Some)
}

fn read_grant(spec: &Value) -> Result<Grant, Unreadable> {
    let document = json!({
        "apiVersion": DocumentKind::NodeLabels.api_version(),
        "kind": DocumentKind::NodeLabels.name(),
        "metadata": {"name": LABELLED},
        "spec": spec,
    });
    let parsed = file::parse("spec.json", &json_as_yaml(&document.to_string()));
    match parsed.good.first().and_then(|(_, checked)| checked.node_labels()) {
        Some(checked) => Ok(Grant::new(&checked.node_labels, |_| true)),
        None => Err(Unreadable { name: format!("spec.config.gateways.{LABELLED}"), message: first_error(&parsed) }),
    }
}

fn first_error(parsed: &file::ParsedFile) -> String {
    parsed.diagnostics.first().map_or_else(|| "no document".to_owned(), |diagnostic| diagnostic.message.clone())
}

/// JSON with sorted keys, independent of the map's order.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            text.push('{');
            for (key, value) in sorted {
                text.push_str(key);
                text.push(':');
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}
