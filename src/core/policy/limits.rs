//! The sizes that the API server takes, so that a document that it would refuse is an error before it is merged: the
//! lengths of lists, maps and texts, and the size of a whole object.
//!
//! The lengths stand in the custom resource definitions of the chart and nowhere else; they are read from there, and
//! compared with the document as it would be published. All other rules of the definitions are kept by the readers
//! (`check`); `tests/it/descriptions.rs` names the reader of each. Not here: what the API server has accepted already
//! (`published`): an agent may be older than the definitions.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use super::check::{Checked, ConfigDocument};
use super::diagnostic_sink::{DiagnosticSink, Span};
use super::document::{ANNOTATION_PREFIX, field};
use super::grants::Grant;
use super::mapping_reader::first_line;
use super::published;
use super::yaml::{YamlNode, YamlValue};
use super::{Egress, GatewaySpec, Policy, PolicySet};

/// The largest request that etcd takes (`--max-request-bytes`); the API server's own limit is twice that.
const MAX_REQUEST: usize = 1_572_864;
/// What an object has beside its spec: metadata and status. A status names 20 documents or 64 gateways at most.
const RESERVED: usize = 256 << 10;
/// The largest spec in bytes of JSON.
pub const MAX_SPEC: usize = MAX_REQUEST - RESERVED;

static POLICY: LazyLock<Schema> =
    LazyLock::new(|| Schema::of_spec(include_str!("../../../charts/egret/crds/publishedegresspolicies.yaml")));
static HEAD: LazyLock<Schema> =
    LazyLock::new(|| Schema::of_spec(include_str!("../../../charts/egret/crds/egressconfigs.yaml")));

/// The limits of size in a schema.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Schema {
    min_length: usize,
    max_length: Option<usize>,
    max_items: Option<usize>,
    max_properties: Option<usize>,
    format: String,
    properties: BTreeMap<String, Schema>,
    items: Option<Box<Schema>>,
    additional_properties: Option<Box<Schema>>,
}

/// A step from a value to a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    /// An entry of a list, with its `key` if it is an entry of `matchExpressions`.
    Entry(usize, Option<String>),
}

/// A part of a published value that is too large, or too small.
#[derive(Debug, PartialEq, Eq)]
struct Excess {
    path: Vec<Step>,
    /// `has 70 entries; the API server takes 64`.
    what: String,
}

impl Schema {
    fn of_spec(definition: &str) -> Self {
        const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        let definition: Value = serde_yaml::from_str(definition).expect("the chart's definitions are YAML");
        let schema = definition.pointer(SPEC).expect("the schema of a spec");
        Self::deserialize(schema).expect("a schema")
    }

    /// The schema of a field, an empty one if it has none.
    fn part(&self, path: &[&str]) -> &Self {
        static NONE: LazyLock<Schema> = LazyLock::new(Schema::default);
        path.iter().fold(self, |schema, name| schema.properties.get(*name).unwrap_or(&NONE))
    }

    fn excesses(&self, value: &Value) -> Vec<Excess> {
        let mut found = Vec::new();
        self.collect(value, &mut Vec::new(), &mut found);
        found
    }

    fn collect(&self, value: &Value, path: &mut Vec<Step>, found: &mut Vec<Excess>) {
        if let Some(what) = self.refuses(value) {
            found.push(Excess { path: path.clone(), what });
        }
        match value {
            Value::Array(items) => {
                for (schema, (index, item)) in
                    self.items.iter().flat_map(|schema| items.iter().enumerate().map(move |item| (schema, item)))
                {
                    path.push(Step::Entry(index, item["key"].as_str().map(str::to_owned)));
                    schema.collect(item, path, found);
                    path.pop();
                }
            }
            Value::Object(fields) => {
                for (name, below) in fields {
                    let Some(schema) = self.properties.get(name).or(self.additional_properties.as_deref()) else {
                        continue;
                    };
                    path.push(Step::Field(name.clone()));
                    schema.collect(below, path, found);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    /// What is wrong with a value itself.
    fn refuses(&self, value: &Value) -> Option<String> {
        let over = |count: usize, most: Option<usize>, noun: &str| {
            let most = most.filter(|most| count > *most)?;
            Some(format!("has {count} {noun}; the API server takes {most} at most"))
        };
        match value {
            Value::Array(items) => over(items.len(), self.max_items, "entries"),
            Value::Object(fields) => over(fields.len(), self.max_properties, "entries"),
            Value::String(text) if text.chars().count() < self.min_length => Some("is empty".to_owned()),
            // RFC 3339 has four digits for the year.
            Value::String(text) if self.format == "date-time" && text.starts_with('-') => {
                Some("is before the year 0".to_owned())
            }
            Value::String(text) => over(text.chars().count(), self.max_length, "characters"),
            _ => None,
        }
    }
}

/// The most gateway entries of a policy. Each is an exit with a mark of its own on every node with members.
pub(super) fn max_gateways() -> Option<usize> {
    POLICY.part(&["egressGateways"]).max_items
}

/// The most pod networks that can be published.
pub fn max_pod_networks() -> usize {
    HEAD.part(&["podNetworks"]).max_items.unwrap_or(usize::MAX)
}

/// The largest `config` of an EgressConfig: the rest of its spec is for pod networks, which only the cluster knows.
pub fn max_config() -> usize {
    let networks = HEAD.part(&["podNetworks"]);
    let longest = networks.items.as_ref().and_then(|text| text.max_length).unwrap_or_default();
    // With quotes and a comma.
    MAX_SPEC.saturating_sub(max_pod_networks().saturating_mul(longest + 3))
}

fn size(value: &Value) -> usize {
    value.to_string().len()
}

/// Reports what of a document cannot be published.
pub(super) fn check(checked: &Checked, root: &YamlNode, out: &mut DiagnosticSink<'_>) {
    match checked {
        Checked::Policy(checked) => {
            let spec = published::spec(&with_room_for_pools(&checked.policy));
            report(POLICY.excesses(&spec), root, &["spec"], out);
            if size(&spec) > MAX_SPEC {
                let message = format!(
                    "the policy is published in {} bytes; the API server takes {MAX_SPEC} at most",
                    size(&spec)
                );
                out.error(locate(root, &["spec"], &[]).0, "too-large", message).hint("write two policies");
            }
        }
        // Whether they are published or not: `onlyLabelledFromGit` should make no document bad.
        Checked::NodeLabels(checked) => {
            let labelled = HEAD.part(&["config", "gateways", "labelled"]);
            let grant = published::grant(&Grant::new(&checked.node_labels, |_| true));
            let excesses = labelled.items.as_ref().map(|schema| schema.excesses(&grant));
            report(excesses.unwrap_or_default(), root, &["spec"], out);
        }
        Checked::Config(config) => check_config(config, root, out),
        // They are not published.
        Checked::Assertion(_) | Checked::Pool(_) => {}
    }
}

/// A policy with as many gateway entries as it has once pools have given it addresses.
fn with_room_for_pools(policy: &Policy) -> Policy {
    let longest = Egress::DualStack([255; 4].into(), [0xffff; 8].into());
    let entries = policy.gateways.iter().flat_map(|spec| {
        let (egress, count) = match &spec.egress {
            Egress::Pool(request) => (&longest, request.addresses),
            egress => (egress, 1),
        };
        std::iter::repeat_n(GatewaySpec { egress: egress.clone(), ..spec.clone() }, count)
    });
    Policy { gateways: entries.collect(), ..policy.clone() }
}

/// Checks the values at the top, and those that each cluster has of its own.
fn check_config(config: &ConfigDocument, root: &YamlNode, out: &mut DiagnosticSink<'_>) {
    let schema = HEAD.part(&["config"]);
    let mut reported = Vec::new();
    for cluster in std::iter::once("").chain(config.clusters.keys().map(String::as_str)) {
        let base: &[&str] = if cluster.is_empty() { &[] } else { &["clusters", cluster] };
        let config = published::config(&config.of(cluster), None);
        let mut excesses = schema.excesses(&config);
        // What a cluster has from the top is reported there.
        excesses.retain(|excess| cluster.is_empty() || locate(root, base, &excess.path).1 > 0);
        report(excesses, root, base, out);
        let size = size(&config);
        if size > max_config() && !reported.contains(&size) {
            reported.push(size);
            out.error(locate(root, base, &[]).0, "too-large", too_large("this configuration", size)).hint(FEWER);
        }
    }
}

const FEWER: &str = "name fewer and larger networks";

fn too_large(what: &str, size: usize) -> String {
    format!("{what} is published in {size} bytes; the API server takes {} at most", max_config())
}

/// Why the EgressConfig of a set cannot be stored, and what to do about it: documents that can each be published may be
/// too many together.
pub fn refuses_set(set: &PolicySet) -> Option<(String, &'static str)> {
    set.grants.as_ref()?;
    let config = published::config(&set.config, set.grants.as_deref());
    let excess = HEAD.part(&["config"]).excesses(&config).into_iter().find(|excess| excess.path.len() == 2);
    let hint = "name the nodes of equal labels in one NodeLabels";
    if let Some(excess) = excess {
        return Some((format!("what NodeLabels give gateways {}", excess.what), hint));
    }
    let size = size(&config);
    (size > max_config()).then(|| (too_large("the configuration with what NodeLabels give gateways", size), hint))
}

fn report(excesses: Vec<Excess>, root: &YamlNode, base: &[&str], out: &mut DiagnosticSink<'_>) {
    for Excess { path, what } in excesses {
        let message = format!("`{}` {what}", dotted(&path));
        out.error(locate(root, base, &path).0, "over-limit", message).hint(hint(&path));
    }
}

fn hint(path: &[Step]) -> &'static str {
    let name = path.iter().rev().find_map(|step| match step {
        Step::Field(name) => Some(name.as_str()),
        Step::Entry(..) => None,
    });
    match name.unwrap_or_default() {
        "selectors" | "destinationCIDRs" | "egressGateways" => "give the rest to a second policy",
        "values" | "matchLabels" | "matchExpressions" => "select by a label that all of them share",
        "nodes" | "labels" => "give the rest to a second NodeLabels",
        "excludedCIDRs" | "podCIDRs" | "serviceCIDRs" | "exclusions" => FEWER,
        "file" => "move the file",
        "until" => "as in 2026-12-31T18:00:00Z",
        "reason" => "a text of one or two sentences for other users",
        _ => "make it shorter",
    }
}

/// `selectors[3].podSelector.matchExpressions`.
fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        let _ = match step {
            Step::Field(name) if text.is_empty() => write!(text, "{name}"),
            Step::Field(name) => write!(text, ".{name}"),
            Step::Entry(index, _) => write!(text, "[{index}]"),
        };
    }
    text
}

/// The place of a published part in its document, or of the nearest one around it that the document has, and how many
/// steps of its path lead there.
fn locate(root: &YamlNode, base: &[&str], path: &[Step]) -> (Span, usize) {
    let mut place = (root, root.span.head());
    for name in base {
        place = field(place.0, name).map_or(place, |entry| (&entry.value, entry.key_span));
    }
    // Fields of an EgressPolicy that a CiliumEgressGatewayPolicy has as annotations.
    if let [Step::Field(field_name), Step::Field(below)] = path
        && let annotation = format!("{ANNOTATION_PREFIX}{field_name}-{below}")
        && let Some(metadata) = field(root, "metadata")
        && let Some(annotations) = field(&metadata.value, "annotations")
        && let Some(entry) = field(&annotations.value, &annotation)
    {
        return (entry.key_span, path.len());
    }
    let mut steps = 0;
    for step in path {
        let Some(next) = descend(place.0, step) else { break };
        place = next;
        steps += 1;
    }
    (place.1, steps)
}

fn descend<'n>(node: &'n YamlNode, step: &Step) -> Option<(&'n YamlNode, Span)> {
    match (step, &node.value) {
        (Step::Field(name), YamlValue::Mapping(_)) => {
            let written = field(node, name)
                .filter(|entry| !matches!(&entry.value.value, YamlValue::Sequence(items) if items.is_empty()));
            // One gateway or next hop may stand without a list.
            let entry = written.or_else(|| field(node, name.strip_suffix('s')?))?;
            Some((&entry.value, entry.key_span))
        }
        (Step::Entry(_, Some(key)), YamlValue::Sequence(items)) => {
            let has_key = |item: &&YamlNode| {
                let written = field(item, "key").map(|entry| &entry.value.value);
                matches!(written, Some(YamlValue::Scalar(scalar)) if scalar.text.ends_with(key.as_str()))
            };
            items.iter().find(has_key).map(|item| (item, first_line(item)))
        }
        (Step::Entry(index, None), YamlValue::Sequence(items)) => {
            items.get(*index).map(|item| (item, first_line(item)))
        }
        (Step::Entry(0, None), YamlValue::Mapping(_)) => Some((node, first_line(node))),
        _ => None,
    }
}
