//! Tests of which documents are active after which change.

use std::collections::BTreeMap;

use super::*;
use crate::core::policy::{ObjectName, OnNoGateway, PolicyId, PolicyKind};

fn policy(name: &str, destination: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors:\n  \
         - podSelector: {{}}\n  destinationCIDRs: [{destination}]\n  egressGateway: {{nodeSelector: {{}}}}\n"
    )
}

fn labels(name: &str, node: &str, value: &str) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1\nkind: NodeLabels\nmetadata: {{name: {name}}}\nspec:\n  nodes: [{node}]\n  labels: {{gw: \"{value}\"}}\n"
    )
}

fn changes(list: &[(&str, &str)]) -> BTreeMap<String, FileUpdate> {
    list.iter().map(|(path, text)| ((*path).to_owned(), FileUpdate::Text((*text).to_owned()))).collect()
}

fn active(catalogue: &Catalogue) -> Vec<String> {
    let policies = catalogue.policies().policies.values();
    let policies = policies.map(|policy| format!("{} {:?}", policy.id, policy.destinations));
    let labels = catalogue.policies().node_labels.values().map(|one| format!("{} {:?}", one.name, one.labels));
    policies.chain(labels).collect()
}

fn codes(catalogue: &Catalogue) -> Vec<(String, &'static str)> {
    catalogue.diagnostics().into_iter().map(|one| (one.file, one.code)).collect()
}

fn held(catalogue: &Catalogue) -> Vec<(String, String)> {
    catalogue.held().into_iter().map(|held| (held.path, held.identity.to_string())).collect()
}

#[test]
fn a_bad_document_keeps_its_last_good_version_active_and_affects_no_other() {
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(changes(&[("a.yaml", &policy("a", "10.0.0.0/8")), ("b.yaml", &policy("b", "10.1.0.0/16"))]));
    catalogue.update(changes(&[("a.yaml", &policy("a", "10.0.0.7/8")), ("b.yaml", &policy("b", "10.2.0.0/16"))]));
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]", "b [10.2.0.0/16]"]);
    assert_eq!(codes(&catalogue), [("a.yaml".to_owned(), "host-bits")]);
    let expected = HeldDocument {
        path: "a.yaml".to_owned(),
        identity: DocumentIdentity::Policy(PolicyId {
            name: ObjectName::parse("a").unwrap(),
            kind: PolicyKind::Cilium,
        }),
        why: "it has errors in a.yaml".to_owned(),
    };
    assert_eq!(catalogue.held(), [expected]);
    catalogue.update(BTreeMap::from([("a.yaml".to_owned(), FileUpdate::Removed)]));
    assert_eq!(active(&catalogue), ["b [10.2.0.0/16]"]);
    assert_eq!(catalogue.held(), []);
}

/// A controller's pod that is moved has an empty folder, and the cluster has what the last one published.
#[test]
fn a_bad_document_keeps_its_published_version_where_nothing_else_is_left_of_a_good_one() {
    let mut before = Catalogue::new("prod");
    before.update(changes(&[("a.yaml", &policy("a", "10.0.0.0/8")), ("b.yaml", &policy("b", "10.1.0.0/16"))]));
    let published = crate::core::policy::published::Published::of(before.policies()).policies;
    let mut catalogue = Catalogue::new("prod");
    catalogue.import_good(&LastGoodDocuments { published, ..LastGoodDocuments::default() });
    catalogue.update(changes(&[("a.yaml", &policy("a", "10.0.0.7/8")), ("b.yaml", &policy("b", "10.2.0.0/16"))]));
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]", "b [10.2.0.0/16]"]);
    assert_eq!(catalogue.held().len(), 1);
    catalogue.update(BTreeMap::from([("a.yaml".to_owned(), FileUpdate::Removed)]));
    assert_eq!(active(&catalogue), ["b [10.2.0.0/16]"], "what is removed is not kept");
}

#[test]
fn a_renamed_folder_keeps_its_documents_until_egret_yaml_follows_or_they_are_removed() {
    let config = |folder: &str| format!("apiVersion: egret.dev/v1alpha1\nkind: Config\npaths: [{folder}]\n");
    let (a, b) = (policy("a", "10.0.0.0/8"), policy("b", "10.1.0.0/16"));
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(changes(&[("egret.yaml", &config("egress")), ("egress/a.yaml", &a), ("egress/b.yaml", &b)]));
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]", "b [10.1.0.0/16]"]);
    let removed = |path: &str| (path.to_owned(), FileUpdate::Removed);
    let mut renamed = changes(&[("egres/a.yaml", &a), ("egres/b.yaml", &b)]);
    renamed.extend([removed("egress/a.yaml"), removed("egress/b.yaml")]);
    catalogue.update(renamed);
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]", "b [10.1.0.0/16]"]);
    assert_eq!(codes(&catalogue), [("egret.yaml".to_owned(), "dead-path")]);
    catalogue.update(BTreeMap::from([removed("egres/b.yaml")]));
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]"], "b was removed");
    catalogue.update(changes(&[("egret.yaml", &config("egres"))]));
    assert_eq!((active(&catalogue), catalogue.held().len()), (vec!["a [10.0.0.0/8]".to_owned()], 0));
}

#[test]
fn all_documents_of_a_file_stay_active_when_it_becomes_unreadable() {
    let both = format!("{}---\n{}", policy("a", "10.0.0.0/8"), policy("b", "10.1.0.0/16"));
    for bad in [
        FileUpdate::Text("{".to_owned()),
        FileUpdate::Refused(FileRefusal::Symlink),
        FileUpdate::Text("x".repeat(MAX_BYTES + 1)),
    ] {
        let mut catalogue = Catalogue::new("prod");
        catalogue.update(changes(&[("a.yaml", &both)]));
        catalogue.update(BTreeMap::from([("a.yaml".to_owned(), bad.clone())]));
        assert_eq!(active(&catalogue), ["a [10.0.0.0/8]", "b [10.1.0.0/16]"]);
        assert_eq!(held(&catalogue).len(), 2);
        assert_eq!(catalogue.diagnostics().len(), 1, "{bad:?}");
    }
}

#[test]
fn a_document_that_moves_to_another_file_with_a_mistake_stays_active() {
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(changes(&[("a.yaml", &policy("a", "10.0.0.0/8"))]));
    let mut moved = changes(&[("b.yaml", &policy("a", "10.0.0.7/8"))]);
    moved.insert("a.yaml".to_owned(), FileUpdate::Removed);
    catalogue.update(moved);
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]"]);
    catalogue.update(changes(&[("b.yaml", &policy("a", "10.9.0.0/16"))]));
    assert_eq!(active(&catalogue), ["a [10.9.0.0/16]"]);
    assert_eq!(catalogue.held(), []);
}

#[test]
fn two_documents_with_one_name_are_an_error_in_both_and_the_active_one_stays() {
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(changes(&[("a.yaml", &policy("a", "10.0.0.0/8"))]));
    catalogue.update(changes(&[("b.yaml", &policy("a", "10.1.0.0/16"))]));
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]"]);
    let expected = [("a.yaml".to_owned(), "duplicate-document"), ("b.yaml".to_owned(), "duplicate-document")];
    assert_eq!(codes(&catalogue), expected);
    let hint = "the other is in b.yaml:3; rename one or take it out".to_owned();
    assert_eq!(catalogue.diagnostics()[0].hint, Some(hint));
    catalogue.update(BTreeMap::from([("a.yaml".to_owned(), FileUpdate::Removed)]));
    assert_eq!(active(&catalogue), ["a [10.1.0.0/16]"]);
    assert_eq!(codes(&catalogue), []);
}

#[test]
fn conflicting_node_labels_are_an_error_in_both_and_neither_is_activated() {
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(changes(&[("a.yaml", &labels("a", "n1", "x"))]));
    catalogue.update(changes(&[("b.yaml", &labels("b", "n1", "y")), ("c.yaml", &labels("c", "n2", "z"))]));
    assert_eq!(active(&catalogue), [r#"a {"gw": "x"}"#, r#"c {"gw": "z"}"#]);
    let expected = [("a.yaml".to_owned(), "labels-disagree"), ("b.yaml".to_owned(), "labels-disagree")];
    assert_eq!(codes(&catalogue), expected);
    assert_eq!(held(&catalogue), [("a.yaml".to_owned(), "NodeLabels a".to_owned())]);
    assert_eq!(catalogue.diagnostics()[1].message, "b and a give n1 different values of gw");
    catalogue.update(changes(&[("a.yaml", &labels("a", "n1", "y"))]));
    assert_eq!(active(&catalogue), [r#"a {"gw": "y"}"#, r#"b {"gw": "y"}"#, r#"c {"gw": "z"}"#]);
    assert_eq!(codes(&catalogue), []);
}

#[test]
fn a_version_restored_by_fallback_may_not_conflict_with_a_new_one() {
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(changes(&[("a.yaml", &labels("a", "n1", "x")), ("b.yaml", &labels("b", "n2", "y"))]));
    // a leaves n1 and conflicts with b, so it falls back to n1, where c has been added meanwhile.
    catalogue.update(changes(&[("a.yaml", &labels("a", "n2", "x")), ("c.yaml", &labels("c", "n1", "z"))]));
    assert_eq!(active(&catalogue), [r#"a {"gw": "x"}"#, r#"b {"gw": "y"}"#]);
    let nodes: Vec<String> = catalogue.policies().node_labels.values().map(|one| one.nodes[0].to_string()).collect();
    assert_eq!(nodes, ["n1", "n2"]);
}

#[test]
fn a_bad_configuration_keeps_the_last_good_one_active() {
    let config = |rest: &str| format!("apiVersion: egret.dev/v1alpha1\nkind: Config\n{rest}");
    let mut catalogue = Catalogue::new("prod");
    assert_eq!(catalogue.policies().config.reports_branch, "egret/reports/prod");
    catalogue.update(changes(&[
        ("egret.yaml", &config("paths: [p]\nonNoGateway: Passthrough\n")),
        ("p/a.yaml", &policy("a", "10.0.0.0/8")),
        ("q/b.yaml", &policy("b", "10.1.0.0/16")),
    ]));
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]"]);
    let on_no_gateway = |catalogue: &Catalogue| {
        catalogue.policies().policies.values().map(|policy| policy.on_no_gateway).collect::<Vec<_>>()
    };
    assert_eq!(on_no_gateway(&catalogue), [OnNoGateway::Passthrough]);
    catalogue.update(changes(&[("egret.yaml", &config("paths: [../p]\n"))]));
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]"]);
    assert_eq!(held(&catalogue), [("egret.yaml".to_owned(), "Config".to_owned())]);
    catalogue.update(changes(&[("egret.yaml", &config("clusters: {prod: {paths: [q/]}}\n"))]));
    assert_eq!(active(&catalogue), ["b [10.1.0.0/16]"]);
    assert_eq!(on_no_gateway(&catalogue), [OnNoGateway::Drop]);
    catalogue.update(BTreeMap::from([("egret.yaml".to_owned(), FileUpdate::Removed)]));
    assert_eq!(active(&catalogue), ["a [10.0.0.0/8]", "b [10.1.0.0/16]"]);
}

#[test]
fn a_restart_at_a_bad_commit_restores_the_active_versions() {
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(changes(&[("a.yaml", &policy("a", "10.0.0.0/8")), ("b.yaml", &policy("b", "10.1.0.0/16"))]));
    let bad = changes(&[("a.yaml", &policy("a", "10.0.0.7/8")), ("b.yaml", &policy("b", "10.1.0.0/16"))]);
    catalogue.update(bad.clone());
    let kept = serde_json::to_string(&catalogue.export_good()).unwrap();
    let mut again = Catalogue::new("prod");
    again.import_good(&serde_json::from_str(&kept).unwrap());
    assert_eq!(active(&again), ["a [10.0.0.0/8]"]);
    again.update(bad);
    assert_eq!(again.policies(), catalogue.policies());
    assert_eq!(again.held(), catalogue.held());
    let mut after_removal = Catalogue::new("prod");
    after_removal.import_good(&serde_json::from_str(&kept).unwrap());
    after_removal.update(changes(&[("b.yaml", &policy("b", "10.1.0.0/16"))]));
    assert_eq!(active(&after_removal), ["b [10.1.0.0/16]"], "its file went while nobody looked");
}

#[test]
fn foreign_files_are_ignored() {
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(changes(&[
        (".github/workflows/ci.yaml", "on: push"),
        ("README.md", "# words"),
        ("empty.yaml", "# only a comment\n---\n---\n"),
        ("kustomization.yaml", "resources: [a.yaml]"),
        ("other.yaml", "apiVersion: v1\nkind: ConfigMap\n---\napiVersion: v1\nkind: Secret\n"),
        ("../up.yaml", "a: b"),
    ]));
    assert_eq!(codes(&catalogue), [("../up.yaml".to_owned(), "outside")]);
    let tally = DiagnosticCounts { errors: 1, warnings: 0, touched: 1, documents: 1 };
    assert_eq!(catalogue.tally(&catalogue.diagnostics()), tally);
}
