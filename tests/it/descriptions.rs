//! What describes the same thing in several places: the readers' fields, the JSON schemas, the custom resource definitions and the Rust types
//! of statuses; and the enums and the pages of docs that explain them. A field or a word that one of them lacks fails with its name.
//!
//! Here instead of `schemars` and kube's derive: decision 0023.

use std::collections::{BTreeMap, BTreeSet};

use egret::cluster::live::resources::{ConfigSpec, ConfigStatus, NodeStatus, PolicyStatus};
use egret::core::policy::limits::{MAX_SPEC, max_config};
use egret::core::policy::{document, schema};
use egret::core::status::{ConditionType, Reason};
use egret::serve::FAMILIES;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const POLICIES: &str = include_str!("../../charts/egret/crds/publishedegresspolicies.yaml");
const CONFIGS: &str = include_str!("../../charts/egret/crds/egressconfigs.yaml");
const NODES: &str = include_str!("../../charts/egret/crds/egressnodes.yaml");

/// Fields of a document that are not published, each with the reason, and fields of what is published that no document has.
const ONE_SIDED: [(&str, &str); 19] = [
    ("policy.egressGateway", "published as egressGateways"),
    ("policy.egressGateways.*.nextHop", "published as nextHops"),
    ("policy.source", "where the document stands"),
    ("policy.fence", "the fencing token"),
    ("config.paths", "the controller reads the repository"),
    ("config.reports", "the controller commits reports"),
    ("config.schedule", "the controller has the schedule; agents compare everything each minute"),
    ("config.suspend", "a suspended cluster publishes nothing"),
    ("config.onNoGateway", "written out in each policy"),
    ("config.existingConnections", "written out in each policy"),
    ("config.onLabelDrift", "the controller writes labels"),
    ("config.maxRemovals", "the controller admits commits"),
    ("config.nodeLabels", "the controller writes labels"),
    ("config.requireNamespace", "checked before publishing"),
    ("config.gateways.labelled", "what Git gives of labels that gateways are chosen by"),
    ("config.apiVersion", "of the document"),
    ("config.kind", "of the document"),
    ("config.metadata", "of the document"),
    ("config.clusters", "published are the values of one cluster"),
];

/// Rules of the definitions that are no sizes, each with what keeps it. Sizes are read from the definitions (`core::policy::limits`).
const KEPT: [(&str, &str); 45] = [
    ("addresses format maximum minimum", "out-of-range"),
    ("config required rule", "the controller writes all of them, with the fencing token"),
    ("count format minimum", "a count of policies"),
    ("destinationCIDRs minItems", "no-destination"),
    ("destinationCIDRs.* rule", "bad-cidr"),
    ("digest pattern", "published::digest_of"),
    ("egressGateways minItems", "missing-field"),
    ("egressGateways.* required rule", "missing-field, interface-and-address, two-egresses"),
    ("egressIP rule", "bad-address"),
    ("egressIPs minItems", "no-address"),
    ("egressIPs.* rule", "bad-address"),
    ("egressPool required", "missing-field"),
    ("excludedCIDRs.* rule", "bad-cidr"),
    ("exclusions.* rule", "bad-cidr"),
    ("existingConnections enum", "unknown-value"),
    ("fence format minimum", "the fencing token"),
    ("firstTable format maximum minimum", "out-of-range"),
    ("gateways required", "published whole or not"),
    ("interface pattern", "bad-interface"),
    ("kind enum", "published::kind_name"),
    ("labelled.* required", "no-labels"),
    ("line format minimum", "lines count from 1"),
    ("markMask format maximum minimum", "out-of-range"),
    ("matchExpressions.* required", "missing-field"),
    ("matchExpressions.* required rule", "no-values, needless-values"),
    ("misses format maximum minimum", "out-of-range"),
    ("mtu format maximum minimum", "out-of-range"),
    ("nextHops.* rule", "bad-address"),
    ("onNoGateway enum", "unknown-value"),
    ("open.* required", "missing-field"),
    ("operator enum", "unknown-value"),
    ("podCIDRs.* rule", "bad-cidr"),
    ("podNetworks.* rule", "the controller leaves mapped networks out"),
    ("policies required", "the controller writes all of them"),
    ("policy required rule", "missing-field; the fencing token"),
    ("port format maximum minimum", "out-of-range"),
    ("priority format", "out-of-range"),
    ("require enum", "unknown-value"),
    ("revision pattern", "a commit of Git"),
    ("selectors minItems", "no-selector"),
    ("selectors.* rule", "no-selector"),
    ("serviceCIDRs.* rule", "bad-cidr"),
    ("signatures required", "missing-field"),
    ("source required", "where the document stands"),
    ("suspend required", "missing-field"),
];

/// The last name of a path, with the rules of that part that are no sizes.
fn rules(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let mut words = Vec::new();
    for (keyword, word) in [("enum", "enum"), ("maximum", "maximum"), ("minItems", "minItems"), ("minimum", "minimum")]
    {
        words.extend((!schema[keyword].is_null()).then_some(word));
    }
    for (keyword, word) in [("minProperties", "minProperties"), ("pattern", "pattern"), ("required", "required")] {
        words.extend((!schema[keyword].is_null()).then_some(word));
    }
    words.extend((!schema["x-kubernetes-validations"].is_null()).then_some("rule"));
    words.extend((schema["type"] == "integer" && !schema["format"].is_null()).then_some("format"));
    words.sort_unstable();
    if !words.is_empty() {
        let entry = path.strip_suffix(".*");
        let name = entry.unwrap_or(path).rsplit('.').next().unwrap_or_default();
        found.insert(format!("{name}{} {}", if entry.is_some() { ".*" } else { "" }, words.join(" ")));
    }
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        rules(below, &format!("{path}.{name}"), found);
    }
    for (below, part) in [(&schema["items"], "*"), (&schema["additionalProperties"], "labels")] {
        if below.is_object() {
            rules(below, &format!("{path}.{part}"), found);
        }
    }
}

#[test]
fn every_rule_of_the_definitions_that_is_no_size_is_kept_by_somebody() {
    let mut found = BTreeSet::new();
    rules(&definition(POLICIES, "spec"), "policy", &mut found);
    rules(&definition(CONFIGS, "spec"), "config", &mut found);
    let kept: BTreeSet<String> = KEPT.iter().map(|(rule, _)| (*rule).to_owned()).collect();
    assert_eq!(found, kept);
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).expect("YAML")
}

/// The schema of a definition, at one of its fields.
fn definition(text: &str, part: &str) -> Value {
    yaml(text)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part].clone()
}

fn schema_file(name: &str) -> Value {
    let files = schema::files();
    let (_, text) = files.iter().find(|(file, _)| *file == name).expect(name);
    serde_json::from_str(text).expect("JSON")
}

/// The schema of a kind of document.
fn document_schema(kind: &str) -> Value {
    let file = schema_file("document.json");
    let branches = file["allOf"].as_array().expect("branches");
    branches.iter().find(|one| one["if"]["properties"]["kind"]["const"] == kind).expect(kind)["then"].clone()
}

/// Every field of a schema by its path, with its own schema. Entries of a list are `*`.
fn fields(schema: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        fields(below, &path, found);
        found.insert(path, below.clone());
    }
    if schema["items"].is_object() {
        fields(&schema["items"], &format!("{path}.*"), found);
    }
}

fn fields_of(schema: &Value, path: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    fields(schema, path, &mut found);
    found
}

fn is_one_sided(path: &str) -> bool {
    ONE_SIDED.iter().any(|(one, _)| path == *one || path.strip_prefix(one).is_some_and(|rest| rest.starts_with('.')))
}

fn differences(documents: &BTreeMap<String, Value>, published: &BTreeMap<String, Value>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, field) in documents.iter().filter(|(path, _)| !is_one_sided(path)) {
        let Some(other) = published.get(path) else {
            wrong.push(format!("{path} is in the JSON schema and not in the custom resource definition"));
            continue;
        };
        for what in ["enum", "required"] {
            let words = |one: &Value| -> BTreeSet<String> {
                one[what].as_array().into_iter().flatten().map(ToString::to_string).collect()
            };
            if words(field) != words(other) && !(what == "required" && words(field).is_empty()) {
                wrong.push(format!(
                    "{path}: {what} is {} in the JSON schema and {} in the definition",
                    field[what], other[what]
                ));
            }
        }
        for what in ["minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum"] {
            if field[what].is_number() && other[what].is_number() && field[what] != other[what] {
                wrong.push(format!(
                    "{path}: {what} is {} in the JSON schema and {} in the definition",
                    field[what], other[what]
                ));
            }
        }
        // An enum of texts has no type in the JSON schema; a number that may also be a word has two.
        if let (Some(one), Some(other)) = (field["type"].as_str(), other["type"].as_str())
            && one != other
        {
            wrong.push(format!("{path} is {one} in the JSON schema and {other} in the definition"));
        }
    }
    for path in published.keys().filter(|path| !is_one_sided(path) && !documents.contains_key(*path)) {
        wrong.push(format!("{path} is in the custom resource definition and not in the JSON schema"));
    }
    wrong
}

#[test]
fn a_published_policy_has_the_fields_of_an_egress_policy_in_git() {
    let documents = fields_of(&document_schema("EgressPolicy")["properties"]["spec"], "policy");
    let published = fields_of(&definition(POLICIES, "spec"), "policy");
    assert_eq!(differences(&documents, &published), Vec::<String>::new());
}

#[test]
fn the_published_configuration_has_the_fields_of_egret_yaml_that_agents_need() {
    let documents = fields_of(&schema_file("config.json"), "config");
    let published = fields_of(&definition(CONFIGS, "spec")["properties"]["config"], "config");
    assert_eq!(differences(&documents, &published), Vec::<String>::new());
    let labels = fields_of(&document_schema("NodeLabels")["properties"]["spec"], "labels");
    let labelled =
        &definition(CONFIGS, "spec")["properties"]["config"]["properties"]["gateways"]["properties"]["labelled"];
    assert_eq!(differences(&labels, &fields_of(&labelled["items"], "labels")), Vec::<String>::new());
}

#[test]
fn every_object_of_a_schema_has_the_fields_of_some_reader() {
    let readers = [
        document::ROOT,
        document::CILIUM_SPEC,
        document::EGRET_SPEC,
        document::CILIUM_GATEWAY,
        document::EGRET_GATEWAY,
        document::MEMBER_SELECTOR,
        document::LABEL_SELECTOR,
        document::EXPRESSION,
        document::SUSPEND,
        document::NODE_LABELS_SPEC,
        document::ASSERTION_SPEC,
        document::POOL_SPEC,
        document::ASSIGN,
        document::EGRESS_POOL,
        document::SIGNATURES,
        document::CONFIG_VALUES,
        document::CONFIG,
        document::REPORTS,
        document::SNAPSHOT,
        document::GATEWAYS,
        document::NODE_LABELS,
        document::SCHEDULE,
        document::CHANGE_WINDOWS,
        document::CHANGE_WINDOW,
        document::DATAPATH,
        document::FAILOVER,
    ];
    let readers: BTreeSet<BTreeSet<&str>> = readers.iter().map(|fields| fields.iter().copied().collect()).collect();
    let mut all = BTreeMap::from([(".egret.yaml".to_owned(), schema_file("config.json"))]);
    for kind in ["CiliumEgressGatewayPolicy", "EgressPolicy", "NodeLabels", "EgressAssertion"] {
        let schema = document_schema(kind);
        all.extend(fields_of(&schema, kind));
        all.insert(kind.to_owned(), schema);
    }
    all.extend(fields_of(&schema_file("config.json"), "config"));
    let wrong: Vec<String> = all
        .iter()
        .flat_map(|(path, schema)| [(path.clone(), schema), (format!("{path}.*"), &schema["items"])])
        // metadata is Kubernetes', and a schema names of it what Egret reads.
        .filter(|(path, _)| !path.contains(".metadata"))
        .filter_map(|(path, schema)| {
            let names: BTreeSet<&str> = schema["properties"].as_object()?.keys().map(String::as_str).collect();
            (!readers.contains(&names)).then(|| format!("{path}: no reader has exactly {names:?}"))
        })
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
}

/// Paths of a value that a schema has fields for; `*` for entries of lists.
fn present(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, below) in map {
                let path = format!("{path}.{name}");
                present(below, &path, found);
                found.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| present(item, &format!("{path}.*"), found)),
        _ => {}
    }
}

/// A sample of the chart's tests is read by a Rust type and written again, without a loss.
fn round_trip<T: Serialize + DeserializeOwned>(part: &Value, what: &str) {
    let read: T = serde_json::from_value(part.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let written = serde_json::to_value(&read).expect("JSON");
    let paths = |value: &Value| {
        let mut found = BTreeSet::new();
        present(value, what, &mut found);
        found
    };
    let (had, has) = (paths(part), paths(&written));
    let lost: Vec<&String> = had.difference(&has).collect();
    assert_eq!(lost, Vec::<&String>::new(), "the Rust type lacks these fields of the sample");
}

/// Fields of a definition's part that the sample does not have, and the other way round.
fn compare(text: &str, sample: &Value, part: &str) -> Vec<String> {
    let schema = definition(text, part);
    let known: BTreeSet<String> = fields_of(&schema, part).into_keys().collect();
    let mut found = BTreeSet::new();
    present(&sample[part], part, &mut found);
    known.difference(&found).map(|path| format!("{path} is in the definition and not in the sample")).collect()
}

#[test]
fn statuses_and_the_head_have_the_same_fields_in_rust_and_in_the_definitions() {
    let sample = |name: &str| -> Value {
        let path = format!("{}/tests/chart/samples/good/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        yaml(&std::fs::read_to_string(path).expect("a sample"))
    };
    let (policy, config, node) = (sample("publishedegresspolicy"), sample("egressconfig"), sample("egressnode"));
    round_trip::<PolicyStatus>(&policy["status"], "status of PublishedEgressPolicy");
    round_trip::<ConfigStatus>(&config["status"], "status of EgressConfig");
    round_trip::<NodeStatus>(&node["status"], "status of EgressNode");
    round_trip::<ConfigSpec>(&config["spec"], "spec of EgressConfig");
    let missing: Vec<String> = [
        compare(POLICIES, &policy, "status"),
        compare(CONFIGS, &config, "status"),
        compare(CONFIGS, &config, "spec"),
        compare(NODES, &node, "status"),
    ]
    .concat();
    assert_eq!(missing, Vec::<String>::new(), "samples have every field, so that the Rust types are seen to have it");
    // What Rust writes even when it is empty, the definition has.
    for (written, text) in [
        (serde_json::to_value(PolicyStatus::default()), POLICIES),
        (serde_json::to_value(ConfigStatus::default()), CONFIGS),
        (serde_json::to_value(NodeStatus::default()), NODES),
    ] {
        let mut found = BTreeSet::new();
        present(&written.expect("JSON"), "status", &mut found);
        let known: BTreeSet<String> = fields_of(&definition(text, "status"), "status").into_keys().collect();
        let lacks: Vec<&String> = found.difference(&known).collect();
        assert_eq!(lacks, Vec::<&String>::new(), "the definition lacks these fields of the Rust type");
    }
}

/// The first cells of the rows of a table under a heading, each without backticks.
fn first_cells(page: &str, heading: &str) -> Vec<String> {
    let (_, after) = page.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = after.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    rows.filter(|cell| cell.starts_with('`')).map(|cell| cell.replace('`', "")).collect()
}

/// Every limit of entries in a schema, by the field's name.
fn limits(schema: &Value, name: &str, found: &mut BTreeMap<String, BTreeSet<u64>>) {
    for limit in ["maxItems", "maxProperties"] {
        found.entry(name.to_owned()).or_default().extend(schema[limit].as_u64());
    }
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        limits(below, name, found);
    }
    if schema["items"].is_object() {
        limits(&schema["items"], "", found);
    }
}

#[test]
fn the_page_of_sizes_has_the_limits_of_the_definitions() {
    let page = include_str!("../../docs/configuration.md");
    let (_, section) = page.split_once("\n## Sizes\n").expect("a section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
    let documented: BTreeMap<String, String> = rows.map(|(field, most)| (field.to_owned(), most.to_owned())).collect();
    let mut found = BTreeMap::new();
    limits(&definition(POLICIES, "spec"), "", &mut found);
    limits(&definition(CONFIGS, "spec")["properties"]["config"], "", &mut found);
    // One router for each family, and an entry for each NodeLabels.
    found.retain(|name, limits| !limits.is_empty() && !["nextHops", "labelled"].contains(&name.as_str()));
    let one = |limits: BTreeSet<u64>| limits.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let found: BTreeMap<String, String> = found.into_iter().map(|(name, limits)| (name, one(limits))).collect();
    assert_eq!(documented, found);
    for size in [MAX_SPEC, max_config()] {
        let digits = size.to_string();
        let groups: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
        assert!(section.contains(&format!(" {} bytes", groups.join(","))), "{size}");
    }
}

#[test]
fn the_page_of_conditions_explains_every_type_and_every_reason() {
    let page = include_str!("../../docs/conditions.md");
    let types: Vec<String> = ConditionType::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(first_cells(page, "Types"), types);
    let reasons: Vec<String> = Reason::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(first_cells(page, "Reasons"), reasons);
    // As the definitions' pattern has them.
    assert!(types.iter().chain(&reasons).all(|word| word.chars().all(|c| c.is_ascii_alphabetic())), "CamelCase");
    // Each kind names in its definition the types that the page says it has.
    for (kind, text) in [("PublishedEgressPolicy", POLICIES), ("EgressNode", NODES), ("EgressConfig", CONFIGS)] {
        let rows =
            page.lines().filter(|line| line.contains("all three kinds") || line.contains(&format!("| {kind} |")));
        let documented: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let status = definition(text, "status");
        let described = status["properties"]["conditions"]["items"]["properties"]["type"]["description"].clone();
        let described = described.as_str().expect("a description").replace(" or ", ", ");
        let described: BTreeSet<&str> = described.trim_end_matches('.').split(", ").collect();
        assert_eq!(described, documented, "{kind}");
    }
}

#[test]
fn the_page_of_metrics_lists_every_metric_with_its_labels_and_no_other() {
    let page = include_str!("../../docs/metrics.md");
    let listed: BTreeSet<String> = first_cells(page, "Metrics")
        .iter()
        .filter(|cell| cell.starts_with("egret_"))
        .flat_map(|cell| {
            cell.split(", egret_").map(|one| format!("egret_{}", one.trim_start_matches("egret_"))).collect::<Vec<_>>()
        })
        .collect();
    let labels = |labels: &[&str]| if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let known: BTreeSet<String> =
        FAMILIES.iter().map(|family| format!("{}{}", family.sample(), labels(family.labels))).collect();
    assert_eq!(listed, known);
}

#[test]
fn metrics_are_named_after_prometheus_rules() {
    for family in &FAMILIES {
        let name = family.sample();
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert!(!name.contains("fault") && !name.contains("_age_"), "{name}");
        assert!(family.help.ends_with('.') && family.help.len() < 100, "{name}: {}", family.help);
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let text = include_str!("../../charts/egret/dashboards/egret.json");
    let known: BTreeSet<String> = FAMILIES.iter().map(egret::serve::MetricFamily::sample).collect();
    let asked = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_')).filter(|word| word.starts_with("egret_"));
    let wrong: BTreeSet<&str> = asked.filter(|word| !known.contains(word.trim_end_matches("_bucket"))).collect();
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn exceptions_that_are_none_any_more_are_not_listed() {
    let mut all = fields_of(&document_schema("EgressPolicy")["properties"]["spec"], "policy");
    all.extend(fields_of(&definition(POLICIES, "spec"), "policy"));
    all.extend(fields_of(&schema_file("config.json"), "config"));
    all.extend(fields_of(&definition(CONFIGS, "spec")["properties"]["config"], "config"));
    let idle: Vec<&str> = ONE_SIDED.iter().map(|(path, _)| *path).filter(|path| !all.contains_key(*path)).collect();
    assert_eq!(idle, Vec::<&str>::new());
}
