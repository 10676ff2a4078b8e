//! What of a change counts as a change of the cluster, which exit code 2 of `egret preview` says: each kind of edit with whether it does.
//!
//! What a preview says of it is absent: tests/previews has that.

use std::collections::BTreeMap;

use egret::cluster::read_text;
use egret::core::preview::DisplayLimits;

use super::Case;

const POLICY: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {name: outpost}
spec:
  selectors:
  - podSelector: {matchLabels: {org: empire, class: tiefighter}}
  - namespaceSelector: {matchLabels: {team: navy}}
  destinationCIDRs: [10.0.4.0/24, 10.0.5.0/24]
  egressGateway: {nodeSelector: {matchLabels: {egress-gw: \"true\"}}, egressIP: 10.0.3.42}
";

const LABELS: &str = "apiVersion: egret.dev/v1alpha1
kind: NodeLabels
metadata: {name: gateways}
spec: {nodes: [a, b], labels: {egress-gw: \"true\"}}
";

const CONFIG: &str = "apiVersion: egret.dev/v1alpha1
kind: Config
paths: [policies, nodes]
clusters:
  prod: {serviceCIDRs: [10.96.0.0/12]}
  dev: {}
";

const CLUSTER: &str = "apiVersion: v1
kind: List
items:
- {kind: Node, metadata: {name: a}, spec: {podCIDRs: [10.1.1.0/24]}, status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}}
- {kind: Node, metadata: {name: b}, spec: {podCIDRs: [10.1.2.0/24]}, status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}}
- {kind: Namespace, metadata: {name: batuu, labels: {team: navy}}}
- {kind: Pod, metadata: {namespace: batuu, name: tiefighter, labels: {org: empire, class: tiefighter}}, spec: {nodeName: a}, status: {podIP: 10.1.1.7}}
";

/// An edit of a file: what is replaced in its text, and by what.
type Edit = (&'static str, &'static str, &'static str);

fn repository() -> BTreeMap<String, String> {
    let files = [("policies/outpost.yaml", POLICY), ("nodes/gateways.yaml", LABELS), ("egret.yaml", CONFIG)];
    files.map(|(path, text)| (path.to_owned(), text.to_owned())).into()
}

/// Whether the change from the repository to another one changes the cluster.
fn changes(after: &BTreeMap<String, String>) -> bool {
    let (facts, faults) = read_text("cluster", CLUSTER).expect("a cluster");
    assert_eq!(faults, []);
    let case = Case::new(&repository(), after, facts);
    assert!(!case.validation.fails(), "{:?}", case.validation);
    case.preview(DisplayLimits::default()).changes()
}

fn edited((path, from, to): Edit) -> BTreeMap<String, String> {
    let mut files = repository();
    let text = files.get_mut(path).expect(path);
    assert!(text.contains(from), "{path} has no {from}");
    *text = text.replace(from, to);
    files
}

#[test]
fn comments_style_order_and_names_of_node_labels_change_nothing() {
    let edits: [Edit; 13] = [
        ("policies/outpost.yaml", "spec:\n", "# the empire\nspec: # here\n"),
        ("policies/outpost.yaml", "{org: empire, class: tiefighter}", "{class: tiefighter, org: empire}"),
        ("policies/outpost.yaml", "[10.0.4.0/24, 10.0.5.0/24]", "\n  - 10.0.5.0/24\n  - \"10.0.4.0/24\""),
        (
            "policies/outpost.yaml",
            "{matchLabels: {team: navy}}",
            "{matchExpressions: [{key: team, operator: In, values: [navy]}]}",
        ),
        (
            "policies/outpost.yaml",
            "spec:\n",
            "spec:\n  onNoGateway: Drop\n  existingConnections: Keep\n  priority: 0\n",
        ),
        (
            "policies/outpost.yaml",
            "{name: outpost}",
            "{name: outpost, labels: {owner: vader}, annotations: {example.com/why: because}}",
        ),
        ("nodes/gateways.yaml", "[a, b]", "[b, a]"),
        ("nodes/gateways.yaml", "{name: gateways}", "{name: gateway-nodes}"),
        ("egret.yaml", "paths:", "# where documents are\npaths:"),
        ("egret.yaml", "[policies, nodes]", "[nodes, policies/*]"),
        ("egret.yaml", "dev: {}", "dev: {exclusions: [10.0.4.0/24]}"),
        ("egret.yaml", "clusters:", "onNoGateway: Drop\nclusters:"),
        ("egret.yaml", "prod: {serviceCIDRs", "stage: {}\n  prod: {serviceCIDRs"),
    ];
    let wrong: Vec<Edit> = edits.into_iter().filter(|edit| changes(&edited(*edit))).collect();
    assert_eq!(wrong, []);
}

#[test]
fn moved_documents_and_files_that_are_none_of_egrets_change_nothing() {
    let mut moved = repository();
    let both =
        format!("{}---\n{}", moved.remove("nodes/gateways.yaml").expect("labels"), moved["policies/outpost.yaml"]);
    moved.remove("policies/outpost.yaml");
    moved.insert("policies/teams/empire/all.yaml".to_owned(), both);
    moved.insert("egret.yaml".to_owned(), CONFIG.replace("[policies, nodes]", "[policies]"));
    assert!(!changes(&moved));
    let mut foreign = repository();
    foreign.insert("policies/app.yaml".to_owned(), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n".to_owned());
    foreign.insert("policies/chart.yaml".to_owned(), "{{ if .Values.x }}\n".to_owned());
    assert!(!changes(&foreign));
    assert!(!changes(&repository()));
}

#[test]
fn what_is_published_or_asked_of_a_node_changes_something_with_and_without_members() {
    let nobody = POLICY.replace("outpost", "nobody").replace("empire", "rebels").replace("navy", "rogues");
    let mut added = repository();
    added.insert("policies/nobody.yaml".to_owned(), nobody);
    assert!(changes(&added), "a policy without members is published");
    let mut removed = repository();
    removed.remove("policies/outpost.yaml");
    removed.insert("policies/empty.yaml".to_owned(), "# none\n".to_owned());
    assert!(changes(&removed));
    let edits: [Edit; 9] = [
        ("policies/outpost.yaml", "10.0.3.42", "10.0.3.43"),
        ("policies/outpost.yaml", "spec:\n", "spec:\n  priority: 1\n"),
        ("policies/outpost.yaml", "{name: outpost}", "{name: outposts}"),
        ("policies/outpost.yaml", "spec:\n", "spec:\n  existingConnections: Reset\n"),
        ("nodes/gateways.yaml", "[a, b]", "[a, b, c]"),
        ("egret.yaml", "clusters:", "onNoGateway: Passthrough\nclusters:"),
        ("egret.yaml", "prod: {", "prod: {exclusions: [10.0.9.0/24], "),
        ("egret.yaml", "clusters:", "maxRemovals: 10%\nclusters:"),
        (
            "egret.yaml",
            "clusters:",
            "suspend: {until: \"2026-12-31T18:00:00Z\", owner: vader, reason: a feast}\nclusters:",
        ),
    ];
    let wrong: Vec<Edit> = edits.into_iter().filter(|edit| !changes(&edited(*edit))).collect();
    assert_eq!(wrong, []);
}
