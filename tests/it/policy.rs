//! Documents from their text to what is active: every field in its good form, and every mistake with its place and hint.
//!
//! Deliberately absent: what becomes active after which change (`core::policy::catalogue`'s own tests).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::name::NodeName;
use egret::core::policy::catalogue::{Catalogue, DiagnosticCounts, FileUpdate};
use egret::core::policy::lint::{lint, suspensions};
use egret::core::policy::published::Published;
use egret::core::policy::{PolicySet, document, schema};
use serde_json::Value;

use crate::golden::{Differences, assert_file};

fn read(files: &[(&str, &str)]) -> Catalogue {
    let mut catalogue = Catalogue::new("prod");
    catalogue
        .update(files.iter().map(|(path, text)| ((*path).to_owned(), FileUpdate::Text((*text).to_owned()))).collect());
    catalogue
}

/// `line:column severity code: message | label | hint` of each finding.
fn findings(path: &str, text: &str) -> Vec<String> {
    let all = read(&[(path, text)]).diagnostics();
    let lines = all.iter().map(|one| {
        let place = format!("{}:{}", one.start.line, one.start.column);
        let hint = one.hint.as_deref().unwrap_or("");
        format!("{place} {} {}: {} | {} | {hint}", one.severity, one.code, one.message, one.label)
    });
    lines.collect()
}

#[test]
fn a_published_policy_in_git_is_a_mistake_with_the_way_out_of_it() {
    let text = "apiVersion: egret.dev/v1alpha1\nkind: PublishedEgressPolicy\nmetadata: {name: p}\nspec: {}\n";
    let expected = "2:7 error unknown-kind: egret.dev has no kind `PublishedEgressPolicy` |  | the controller writes that kind \
                    into the cluster; in Git it is an EgressPolicy, without `source` and `fence`";
    assert_eq!(findings("policies/p.yaml", text), [expected]);
}

fn template() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("repo-template")
}

fn template_files() -> Vec<(String, String)> {
    let mut folders = vec![template()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the template") {
            let path = entry.expect("the template").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(template())
                    .ok()
                    .and_then(Path::to_str)
                    .expect("a path in the template")
                    .to_owned();
                files.push((name, std::fs::read_to_string(&path).expect("a text")));
            }
        }
    }
    files
}

#[test]
fn every_mistake_of_a_document_is_found_in_one_go() {
    let text = include_str!("documents/mistakes.yaml");
    assert_file("documents/mistakes.txt", &(findings("a.yaml", text).join("\n") + "\n"));
}

#[test]
fn every_mistake_of_a_configuration_is_found_in_one_go() {
    let text = include_str!("documents/mistakes_config.yaml");
    assert_file("documents/mistakes_config.txt", &(findings("egret.yaml", text).join("\n") + "\n"));
}

#[test]
fn every_field_in_its_good_form_is_read_without_a_word() {
    let catalogue = read(&[("a.yaml", include_str!("documents/everything.yaml"))]);
    assert_eq!(catalogue.diagnostics(), []);
    assert_file("documents/everything.txt", &format!("{:#?}\n", catalogue.policies()));
}

#[test]
fn reports_are_kept_as_long_as_egret_yaml_says_and_a_cluster_may_differ() {
    let text = "apiVersion: egret.dev/v1alpha1\nkind: Config\nreports: {keep: 52w, snapshot: {every: 10m}}\nclusters:\n  \
                prod: {reports: {snapshot: {enabled: false}}}\n  test: {reports: {keep: 2d, snapshot: {every: 1d}}}\n  other:\n";
    let of = |cluster: &str| {
        let mut catalogue = Catalogue::new(cluster);
        catalogue.update(BTreeMap::from([("egret.yaml".to_owned(), FileUpdate::Text(text.to_owned()))]));
        assert_eq!(catalogue.diagnostics(), []);
        let config = &catalogue.policies().config;
        (config.reports_keep.as_secs() / 86_400, config.snapshot_every.map(|every| every.as_secs()))
    };
    assert_eq!(["prod", "test", "other"].map(of), [(364, None), (2, Some(86_400)), (364, Some(600))]);
}

#[test]
fn nodes_choose_their_mark_bits_unless_egret_yaml_says_which_and_agents_hear_the_same() {
    let of = |datapath: &str| {
        let text = format!(
            "apiVersion: egret.dev/v1alpha1\nkind: Config\n{datapath}\nclusters: {{prod: {{datapath: {{markMask: auto}}}}, test: }}\n"
        );
        ["prod", "test"].map(|cluster| {
            let mut catalogue = Catalogue::new(cluster);
            catalogue.update(BTreeMap::from([("egret.yaml".to_owned(), FileUpdate::Text(text.clone()))]));
            assert_eq!(catalogue.diagnostics(), []);
            let published = Published::of(catalogue.policies());
            let heard = Published::read(&published.policies, &published.config).expect("what was published").config;
            assert_eq!((heard.mask_is_auto, heard.range), {
                let config = &catalogue.policies().config;
                (config.mask_is_auto, config.range)
            });
            (heard.mask_is_auto, heard.range.mask)
        })
    };
    assert_eq!(of(""), [(true, 0x1fff); 2]);
    assert_eq!(of("datapath: {port: 5790}"), [(true, 0x1fff); 2]);
    assert_eq!(of("datapath: {markMask: auto}"), [(true, 0x1fff); 2]);
    assert_eq!(of("datapath: {markMask: 0x1fff}"), [(true, 0x1fff), (false, 0x1fff)]);
    assert_eq!(of("datapath: {markMask: \"0x3fff0000\"}"), [(true, 0x1fff), (false, 0x3fff_0000)]);
    let wide = "apiVersion: egret.dev/v1alpha1\nkind: Config\ndatapath: {markMask: \"0xffff0000\"}\n";
    let expected = "3:22 error bad-mask: `markMask` has 16 bits; an exit's number has at most 15 |  | 0x1fff or 0x00ff0000, for example; or auto";
    assert_eq!(findings("egret.yaml", wide), [expected]);
}

#[test]
fn the_template_is_read_without_a_word_and_gives_the_outpost() {
    let files = template_files();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let catalogue = read(&files);
    assert_eq!(catalogue.diagnostics(), []);
    assert_eq!(lint(catalogue.policies(), None, catalogue.spans()), []);
    assert_eq!(catalogue.tally(&[]), DiagnosticCounts { documents: 4, ..DiagnosticCounts::default() });
    let PolicySet { policies, node_labels, assertions, pools, config, grants } = catalogue.policies();
    let names: Vec<String> = policies.keys().map(ToString::to_string).collect();
    assert_eq!((names, node_labels.len(), assertions.len(), pools.len()), (vec!["outpost".to_owned()], 1, 1, 0));
    assert_eq!(grants.as_ref().map(Vec::len), Some(1), "only nodes that Git labels are gateways");
    assert!(config.require_namespace);
    assert_eq!(config.reports_branch, "egret/reports/prod");
}

#[test]
fn the_schemas_in_the_template_are_those_that_are_generated() {
    let mut differences = Differences::default();
    for (name, text) in schema::files() {
        differences.file(&template().join("schemas").join(name), &text);
    }
    differences.assert_none();
}

#[test]
fn a_suspension_that_ended_or_ends_late_is_reported_where_it_stands() {
    let config = "apiVersion: egret.dev/v1alpha1\nkind: Config\nsuspend: {until: \"2026-06-01T00:00:00Z\", owner: Han, reason: a}\n\
                  clusters:\n  prod:\n    suspend: {until: \"2026-12-01T00:00:00Z\", owner: Leia, reason: b}\n";
    let policy = "apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: p}\nspec:\n  selectors: [{podSelector: {}}]\n  \
                  destinationCIDRs: [192.0.2.0/24]\n  egressGateway: {nodeSelector: {}}\n  \
                  suspend: {until: \"2026-07-01T00:00:00Z\", owner: Leia, reason: c}\n";
    let catalogue = read(&[("egret.yaml", config), ("p.yaml", policy)]);
    assert_eq!(catalogue.diagnostics(), []);
    let found = |now: &str| -> Vec<String> {
        let found = suspensions(catalogue.policies(), catalogue.spans(), now.parse().expect("a time"));
        found.iter().map(|one| format!("{}:{} {}: {}", one.file, one.start.line, one.code, one.message)).collect()
    };
    let far = "egret.yaml:6 suspension-far: the cluster is suspended for more than 90 days, until 2026-12-01T00:00:00Z";
    let ended = "p.yaml:8 suspension-ended: the suspension of the policy ended at 2026-07-01T00:00:00Z";
    assert_eq!(found("2026-06-15T00:00:00Z"), [far]);
    assert_eq!(found("2026-07-15T00:00:00Z"), [far, ended]);
    assert_eq!(found("2026-09-15T00:00:00Z"), [ended]);
    let of_the_cluster = "egret.yaml:6 suspension-ended: the suspension of the cluster ended at 2026-12-01T00:00:00Z";
    assert_eq!(found("2027-01-01T00:00:00Z"), [of_the_cluster, ended]);
}

/// The fields that a schema offers at a place; `*` stands for the items of a list.
fn offered(schema: &Value, place: &str) -> BTreeSet<String> {
    let at = place.split('.').filter(|part| !part.is_empty()).fold(schema, |schema, part| match part {
        "*" => &schema["items"],
        field => &schema["properties"][field],
    });
    at["properties"].as_object().expect(place).keys().cloned().collect()
}

#[test]
fn the_schemas_offer_the_fields_that_the_readers_take() {
    let schemas: BTreeMap<&str, Value> =
        schema::files().into_iter().map(|(name, text)| (name, serde_json::from_str(&text).unwrap())).collect();
    let set = |fields: &[&str]| fields.iter().map(|field| (*field).to_owned()).collect::<BTreeSet<String>>();
    let of = |kind: &str| {
        let branches = schemas["document.json"]["allOf"].as_array().unwrap().iter();
        branches.clone().find(|branch| branch["if"]["properties"]["kind"]["const"] == kind).unwrap()["then"].clone()
    };
    let (cilium, egret, labels) = (of("CiliumEgressGatewayPolicy"), of("EgressPolicy"), of("NodeLabels"));
    for (schema, place, fields) in [
        (&cilium, "", document::ROOT),
        (&egret, "", document::ROOT),
        (&labels, "", document::ROOT),
        (&cilium, "spec", document::CILIUM_SPEC),
        (&egret, "spec", document::EGRET_SPEC),
        (&labels, "spec", document::NODE_LABELS_SPEC),
        (&cilium, "spec.egressGateway", document::CILIUM_GATEWAY),
        (&cilium, "spec.egressGateways.*", document::CILIUM_GATEWAY),
        (&egret, "spec.egressGateway", document::EGRET_GATEWAY),
        (&egret, "spec.egressGateways.*", document::EGRET_GATEWAY),
        (&egret, "spec.suspend", document::SUSPEND),
        (&egret, "spec.selectors.*", document::MEMBER_SELECTOR),
        (&egret, "spec.selectors.*.podSelector", document::LABEL_SELECTOR),
        (&egret, "spec.selectors.*.podSelector.matchExpressions.*", document::EXPRESSION),
        (&labels, "spec.nodeSelector", document::LABEL_SELECTOR),
        (&schemas["config.json"], "", document::CONFIG),
        (&schemas["config.json"]["properties"]["clusters"]["additionalProperties"], "", document::CONFIG_VALUES),
        (&schemas["config.json"], "reports", document::REPORTS),
        (&schemas["config.json"]["properties"]["reports"], "snapshot", document::SNAPSHOT),
        (&schemas["config.json"], "schedule", document::SCHEDULE),
        (&schemas["config.json"], "signatures", document::SIGNATURES),
        (&schemas["config.json"], "changeWindows", document::CHANGE_WINDOWS),
        (&schemas["config.json"], "changeWindows.open.*", document::CHANGE_WINDOW),
        (&schemas["config.json"], "suspend", document::SUSPEND),
        (&schemas["config.json"], "datapath", document::DATAPATH),
        (&schemas["config.json"], "gateways", document::GATEWAYS),
        (&schemas["config.json"], "nodeLabels", document::NODE_LABELS),
    ] {
        assert_eq!(offered(schema, place), set(fields), "{place}");
    }
}

fn node_name(name: &str) -> NodeName {
    NodeName::parse(name).expect(name)
}

fn facts() -> Facts {
    let node = |labels: &[(&str, &str)], address: &str| Node {
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        addresses: vec![address.parse().expect(address)],
        pod_cidrs: vec!["10.1.1.0/24".parse().expect("a network")],
        ready: true,
        unschedulable: false,
    };
    let pod = Pod {
        labels: BTreeMap::from([("org".to_owned(), "empire".to_owned())]),
        node: Some(node_name("n1")),
        addresses: vec!["10.1.1.177".parse().expect("an address")],
        ..Pod::default()
    };
    Facts {
        nodes: BTreeMap::from([
            (node_name("n1"), node(&[("zone", "a")], "172.18.0.2")),
            (node_name("n2"), node(&[], "172.18.0.3")),
        ]),
        namespaces: BTreeMap::from([("batuu".to_owned(), BTreeMap::new())]),
        pods: BTreeMap::from([(PodName { namespace: "batuu".to_owned(), name: "tiefighter".to_owned() }, pod)]),
        ..Facts::default()
    }
}

fn policy(name: &str, org: &str, destinations: &str, excluded: &str, gateway: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors:\n  \
         - podSelector: {{matchLabels: {{org: {org}, io.kubernetes.pod.namespace: batuu}}}}\n  \
         destinationCIDRs: [{destinations}]\n  excludedCIDRs: [{excluded}]\n  \
         egressGateway: {{nodeSelector: {{matchLabels: {{gw: \"{gateway}\"}}}}}}\n"
    )
}

#[test]
fn lint_says_what_a_policy_would_cut_off_and_what_reaches_nothing() {
    let labels = "apiVersion: egret.dev/v1alpha1\nkind: NodeLabels\nmetadata: {name: by-name}\nspec:\n  \
                  nodes: [n1, n2, n9]\n  labels: {gw: \"true\"}\n---\napiVersion: egret.dev/v1alpha1\nkind: NodeLabels\n\
                  metadata: {name: by-zone}\nspec:\n  nodeSelector: {matchLabels: {zone: a}}\n  labels: {gw: \"false\"}\n";
    let catalogue = read(&[
        ("wide.yaml", &policy("wide", "empire", "0.0.0.0/0, 10.0.0.0/8, 172.18.0.0/16", "", "false")),
        ("careful.yaml", &policy("careful", "empire", "10.0.0.0/8", "10.1.0.0/16", "true")),
        ("nobody.yaml", &policy("nobody", "alliance", "10.9.0.0/16", "", "gone")),
        ("labels.yaml", labels),
        ("egret.yaml", "apiVersion: egret.dev/v1alpha1\nkind: Config\nserviceCIDRs: [198.18.0.0/16]\n"),
    ]);
    assert_eq!(catalogue.diagnostics(), []);
    let found = lint(catalogue.policies(), Some(&facts()), catalogue.spans());
    let lines: Vec<String> = found
        .iter()
        .map(|one| {
            let place = format!("{}:{}:{}", one.file, one.start.line, one.start.column);
            format!("{place} {} {}: {}", one.severity, one.code, one.message)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "labels.yaml:5:19 warning unknown-node: the cluster has no node n9",
            "labels.yaml:6:16 error labels-disagree: by-name and by-zone give n1 different values of gw",
            "labels.yaml:13:16 error labels-disagree: by-zone and by-name give n1 different values of gw",
            "nobody.yaml:5:3 warning no-member: the policy nobody selects no pod that is there now: no \
         pod has org=alliance",
            "nobody.yaml:9:19 warning no-gateway: no node has the labels gw=gone",
            "wide.yaml:7:22 warning covers-everything: 0.0.0.0/0 is everything outside of the cluster: registries, DNS, \
         the cloud's own interfaces too",
            "wide.yaml:7:33 warning covers-pods: 10.0.0.0/8 takes in the pods of 10.1.1.0/24",
            "wide.yaml:7:45 warning covers-nodes: 172.18.0.0/16 takes in the node n1 (172.18.0.2), with its kubelet and \
         what is behind its ports",
            "wide.yaml:9:19 warning no-gateway: no node has the labels gw=false",
        ]
    );
}

#[test]
fn nodes_that_share_an_address_are_reported_where_a_policy_means_them() {
    let mut facts = facts();
    let first = facts.nodes[&node_name("n1")].addresses.clone();
    for node in facts.nodes.values_mut() {
        node.addresses.clone_from(&first);
        node.labels.insert("gw".to_owned(), "true".to_owned());
    }
    let catalogue = read(&[("p.yaml", &policy("p", "empire", "192.0.2.0/24", "", "true"))]);
    let found = lint(catalogue.policies(), Some(&facts), catalogue.spans());
    let lines: Vec<String> =
        found.iter().map(|one| format!("{}:{} {}", one.file, one.start.line, one.message)).collect();
    assert_eq!(lines, ["p.yaml:9 n1 and n2 have the same InternalIP 172.18.0.2; neither can be a gateway"]);
    facts.nodes.get_mut(&node_name("n2")).expect("n2").ready = false;
    assert_eq!(lint(catalogue.policies(), Some(&facts), catalogue.spans()), [], "an object that was left behind");
}

#[test]
fn a_next_hop_that_cannot_be_one_is_refused_where_it_stands() {
    let found = |destinations: &str, gateway: &str| {
        let text = format!(
            "apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: p}}\nspec:\n  selectors: [{{podSelector: {{}}}}]\n  \
             destinationCIDRs: [{destinations}]\n  egressGateway:\n    nodeSelector: {{}}\n    {gateway}\n"
        );
        let found = findings("a.yaml", &text);
        found.iter().map(|line| line.split(" | ").next().unwrap_or_default().to_owned()).collect::<Vec<String>>()
    };
    let v4 = "192.0.2.0/24";
    assert_eq!(found(v4, "nextHop: 10.0.3.1"), Vec::<String>::new());
    assert_eq!(
        found(v4, "nextHop: 224.0.0.1"),
        ["9:14 error bad-address: a next hop is 224.0.0.1, which is a multicast group"]
    );
    for hop in ["0.0.3.1", "250.0.0.1"] {
        let expected = format!("9:14 error bad-next-hop: the next hop {hop} is no address that a router has");
        assert_eq!(found(v4, &format!("nextHop: {hop}")), [expected]);
    }
    let own = "egressIP: 10.0.3.42\n    nextHop: 10.0.3.42";
    assert_eq!(found(v4, own), ["10:14 error bad-next-hop: the next hop 10.0.3.42 is the egress address itself"]);
    let other = "9:14 error bad-next-hop: no destination is IPv6, so nothing is sent to the next hop fd00:3::1";
    assert_eq!(found(v4, "nextHop: \"fd00:3::1\""), [other]);
    let idle = "9:26 warning idle-next-hop: no destination is IPv6, so nothing is sent to the next hop fd00:3::1";
    assert_eq!(found(v4, "nextHops: [10.0.3.1, \"fd00:3::1\"]"), [idle]);
    let link = "9:15 error bad-address: egressIP is 169.254.3.42, which no router forwards: it lives on one link";
    assert_eq!(found(v4, "egressIP: 169.254.3.42"), [link]);
}
