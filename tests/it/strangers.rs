//! Strangers kept out by what egret.yaml says: nodes that label themselves, labels that are not Git's to set, and selectors that take in
//! anybody's pods. Each refusal with its place, its words and its hint.
//!
//! Deliberately absent: packets (`incluster::strangers`), the API server's own rule about labels (`tests/chart`), and the rules' small parts
//! (`core::policy::grants`, `core::labels::keys`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use egret::core::diagnostic::Diagnostic;
use egret::core::facts::{Facts, Node};
use egret::core::labels::keys::KeyPattern;
use egret::core::name::NodeName;
use egret::core::placement::place;
use egret::core::policy::PolicySet;
use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::policy::grants::Grant;
use egret::core::policy::lint::lint;
use egret::core::policy::published::Published;
use jiff::Timestamp;

use crate::commands::egret;

const CONFIG: &str = "apiVersion: egret.dev/v1alpha1\nkind: Config\n";

fn config(rest: &str) -> String {
    format!("{CONFIG}{rest}\n")
}

fn labels(name: &str, whom: &str, labels: &str) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1\nkind: NodeLabels\nmetadata: {{name: {name}}}\nspec:\n  {whom}\n  labels:\n    {labels}\n"
    )
}

fn policy(name: &str, selector: &str, gateway: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors:\n  - {selector}\n  \
         destinationCIDRs: [192.0.2.0/24]\n  egressGateway:\n    nodeSelector: {{matchLabels: {{{gateway}}}}}\n"
    )
}

const NAMED: &str = "podSelector: {matchLabels: {org: empire, io.kubernetes.pod.namespace: batuu}}";

fn update(catalogue: &mut Catalogue, files: &[(&str, &str)]) {
    catalogue
        .update(files.iter().map(|(path, text)| ((*path).to_owned(), FileUpdate::Text((*text).to_owned()))).collect());
}

fn read(files: &[(&str, &str)]) -> Catalogue {
    let mut catalogue = Catalogue::new("prod");
    update(&mut catalogue, files);
    catalogue
}

fn lines(found: &[Diagnostic]) -> Vec<String> {
    let lines = found.iter().map(|one| {
        let place = format!("{}:{}:{}", one.file, one.start.line, one.start.column);
        let hint = one.hint.as_deref().unwrap_or("");
        format!("{place} {} {}: {} | {hint}", one.severity, one.code, one.message)
    });
    lines.collect()
}

fn linted(catalogue: &Catalogue, facts: Option<&Facts>) -> Vec<String> {
    assert_eq!(lines(&catalogue.diagnostics()), Vec::<String>::new());
    lines(&lint(catalogue.policies(), facts, catalogue.spans()))
}

fn patterns(list: &[&str]) -> Vec<KeyPattern> {
    list.iter().map(|text| KeyPattern::parse(text).expect("a pattern")).collect()
}

fn node_name(name: &str) -> NodeName {
    NodeName::parse(name).expect(name)
}

/// Ready nodes with these labels.
fn facts(nodes: &[(&str, &[(&str, &str)])]) -> Facts {
    let hosts = (2..).map(|host| Ipv4Addr::new(172, 18, 0, host).into());
    let nodes = hosts.zip(nodes).map(|(address, (name, labels))| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        (node_name(name), Node { labels, addresses: vec![address], ready: true, ..Node::default() })
    });
    Facts { nodes: nodes.collect(), ..Facts::default() }
}

/// The gateway of the one policy, and what is said about it.
fn gateway(set: &PolicySet, facts: &Facts) -> (Option<String>, Vec<String>) {
    let placement = place(set, facts, Timestamp::UNIX_EPOCH);
    let placed = placement.policies.values().next().expect("a policy");
    let findings = placement.findings.iter().map(|finding| finding.message.clone()).collect();
    (placed.choices[0].gateway.as_ref().map(ToString::to_string), findings)
}

#[test]
fn a_label_that_egret_may_not_write_is_refused_with_its_place_and_what_is_allowed() {
    let text = labels(
        "a",
        "nodes: [n1]",
        "node-role.kubernetes.io/control-plane: \"\"\n    rack: r1\n    egress-gw: \"true\"",
    );
    let reserved = "labels.yaml:7:44 error label-not-allowed: Egret may not write the label node-role.kubernetes.io/control-plane | \
                    labels of kubernetes.io and k8s.io are Kubernetes' own; take one of node-restriction.kubernetes.io/, which no node \
                    can set itself, or one of a domain of yours";
    let catalogue = read(&[("labels.yaml", &text)]);
    assert_eq!(lines(&catalogue.diagnostics()), [reserved]);
    assert!(catalogue.policies().node_labels.is_empty());

    let narrow = config("nodeLabels: {allowedKeys: [egress-*, \"kubernetes.io/*\"]}");
    let by_git = "labels.yaml:8:11 error label-not-allowed: Egret may not write the label rack | nodeLabels.allowedKeys of egret.yaml \
                  has egress-*, kubernetes.io/*";
    let catalogue = read(&[("egret.yaml", &narrow), ("labels.yaml", &text)]);
    assert_eq!(lines(&catalogue.diagnostics()), [reserved, by_git], "Git adds nothing to what is allowed");

    let mut catalogue = Catalogue::new("prod").with_label_keys(Some(&patterns(&["rack", "node-role.kubernetes.io/*"])));
    update(&mut catalogue, &[("labels.yaml", &text)]);
    let by_operator = "labels.yaml:9:16 error label-not-allowed: Egret may not write the label egress-gw | the cluster's operator allows \
                       rack, node-role.kubernetes.io/* (--allowed-label-keys, or the chart's nodeLabels.allowedKeys)";
    assert_eq!(lines(&catalogue.diagnostics()), [by_operator]);

    let nothing = config("clusters: {prod: {nodeLabels: {allowedKeys: []}}}");
    let catalogue = read(&[("egret.yaml", &nothing), ("labels.yaml", &labels("a", "nodes: [n1]", "rack: r1"))]);
    let none = "labels.yaml:7:11 error label-not-allowed: Egret may not write the label rack | nodeLabels.allowedKeys of egret.yaml has \
                nothing";
    assert_eq!(lines(&catalogue.diagnostics()), [none]);
}

#[test]
fn labels_that_are_not_allowed_any_more_keep_their_last_good_version_and_new_ones_do_not_come() {
    let (old, new) = (labels("a", "nodes: [n1]", "rack: r1"), labels("b", "nodes: [n2]", "rack: r2"));
    let mut catalogue = read(&[("a.yaml", &old)]);
    let narrow = config("nodeLabels: {allowedKeys: [egress-*]}");
    update(&mut catalogue, &[("egret.yaml", &narrow), ("b.yaml", &new)]);
    let names =
        |catalogue: &Catalogue| catalogue.policies().node_labels.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&catalogue), ["a"]);
    assert_eq!(catalogue.held()[0].why, "it has errors in a.yaml");
    assert_eq!(catalogue.diagnostics().len(), 2);
    // What is remembered is active after a restart, too.
    let mut again = Catalogue::new("prod");
    again.import_good(&catalogue.export_good());
    update(&mut again, &[("egret.yaml", &narrow), ("a.yaml", &old), ("b.yaml", &new)]);
    assert_eq!(names(&again), ["a"]);
    update(&mut catalogue, &[("egret.yaml", &config("nodeLabels: {allowedKeys: [rack]}"))]);
    assert_eq!((names(&catalogue).len(), catalogue.held(), catalogue.diagnostics()), (2, vec![], vec![]));
}

#[test]
fn a_selector_without_a_namespace_is_warned_of_and_refused_where_egret_yaml_says_so() {
    let hint = "add a namespaceSelector, or io.kubernetes.pod.namespace to the podSelector's matchLabels";
    let what = "the selector names no namespace: a user who may label pods in any namespace can use this egress IP";
    for (selector, names) in [
        ("podSelector: {}", false),
        ("podSelector: {matchLabels: {org: empire}}", false),
        ("namespaceSelector: {}", false),
        ("namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: Exists}]}", false),
        ("namespaceSelector: {matchExpressions: [{key: tenant, operator: NotIn, values: [rebels]}]}", false),
        ("podSelector: {matchExpressions: [{key: io.kubernetes.pod.namespace, operator: NotIn, values: [x]}]}", false),
        (NAMED, true),
        ("namespaceSelector: {matchLabels: {tenant: empire}}", true),
        ("namespaceSelector: {matchExpressions: [{key: tenant, operator: Exists}]}", true),
        ("podSelector: {matchLabels: {io.cilium.k8s.namespace.labels.tenant: empire}}", true),
    ] {
        let text = policy("p", selector, "a: b");
        let warned = format!(
            "p.yaml:6:5 warning no-namespace: {what} | {hint}; with requireNamespace in egret.yaml this is an error"
        );
        let expected = if names { vec![] } else { vec![warned] };
        assert_eq!(linted(&read(&[("p.yaml", &text)]), None), expected, "{selector}");
        let catalogue = read(&[("egret.yaml", &config("requireNamespace: true")), ("p.yaml", &text)]);
        let refused = format!("p.yaml:6:5 error no-namespace: {what} | {hint}; egret.yaml has requireNamespace");
        let expected = if names { vec![] } else { vec![refused] };
        assert_eq!(lines(&catalogue.diagnostics()), expected, "{selector}");
        assert_eq!(catalogue.policies().policies.len(), usize::from(names), "{selector}");
        assert_eq!(lint(catalogue.policies(), None, catalogue.spans()), [], "{selector}");
    }
}

#[test]
fn a_policy_that_was_active_stays_when_namespaces_are_demanded_and_cannot_be_changed_without_one() {
    let mut catalogue = read(&[("p.yaml", &policy("p", "podSelector: {}", "a: b"))]);
    update(&mut catalogue, &[("egret.yaml", &config("clusters: {prod: {requireNamespace: true}}"))]);
    let gateway = |catalogue: &Catalogue| {
        let policies = &catalogue.policies().policies;
        policies.values().map(|policy| policy.gateways[0].node.to_string()).collect::<Vec<_>>()
    };
    assert_eq!((gateway(&catalogue), catalogue.held().len()), (vec!["a=b".to_owned()], 1));
    update(&mut catalogue, &[("p.yaml", &policy("p", "podSelector: {}", "a: c"))]);
    assert_eq!((gateway(&catalogue), catalogue.held().len()), (vec!["a=b".to_owned()], 1));
    update(&mut catalogue, &[("p.yaml", &policy("p", NAMED, "a: c"))]);
    assert_eq!((gateway(&catalogue), catalogue.held().len()), (vec!["a=c".to_owned()], 0));
}

#[test]
fn with_labels_from_git_alone_a_node_that_labels_itself_is_passed_over() {
    let facts = facts(&[("alpha", &[("gw", "true")]), ("beta", &[("gw", "true")])]);
    let files =
        [("p.yaml", policy("p", NAMED, "gw: \"true\"")), ("l.yaml", labels("l", "nodes: [beta]", "gw: \"true\""))];
    let files: BTreeMap<&str, &str> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let with = |config: &str| {
        let mut files = files.clone();
        files.insert("egret.yaml", config);
        read(&files.into_iter().collect::<Vec<_>>())
    };
    assert_eq!(gateway(with(CONFIG).policies(), &facts), (Some("alpha".to_owned()), vec![]));
    let on = config("gateways: {onlyLabelledFromGit: true}");
    let catalogue = with(&on);
    assert_eq!(gateway(catalogue.policies(), &facts), (Some("beta".to_owned()), vec![]));
    assert_eq!(
        linted(&catalogue, Some(&facts)),
        ["p.yaml:5:3 warning no-member: the policy p selects no pod that is there now: there is no namespace batuu | \
        compare with `kubectl get pods --show-labels`"]
    );
    let own = config("clusters: {prod: {gateways: {onlyLabelledFromGit: true}}, test: {}}");
    assert_eq!(gateway(with(&own).policies(), &facts).0.as_deref(), Some("beta"));
    let but_prod =
        config("gateways: {onlyLabelledFromGit: true}\nclusters: {prod: {gateways: {onlyLabelledFromGit: false}}}");
    assert_eq!(gateway(with(&but_prod).policies(), &facts).0.as_deref(), Some("alpha"));

    let mut catalogue = with(&on);
    catalogue.update(BTreeMap::from([("l.yaml".to_owned(), FileUpdate::Removed)]));
    let said = "no node that matches gw=true is fit: alpha was not given these labels by Git, beta was not given these labels by Git; \
                members' packets to its destinations are dropped";
    assert_eq!(gateway(catalogue.policies(), &facts), (None, vec![said.to_owned()]));
}

#[test]
fn what_is_published_has_git_s_labels_and_gives_agents_the_same_gateway() {
    let facts = facts(&[("alpha", &[("gw", "true")]), ("beta", &[("gw", "true")])]);
    let on = config("gateways: {onlyLabelledFromGit: true}");
    let catalogue = read(&[
        ("egret.yaml", &on),
        ("p.yaml", &policy("p", NAMED, "gw: \"true\"")),
        ("l.yaml", &labels("l", "nodes: [beta]", "{gw: \"true\", rack: r1}")),
        ("m.yaml", &labels("m", "nodes: [alpha]", "rack: r2")),
        (
            "s.yaml",
            &labels("s", "nodeSelector: {matchLabels: {node-restriction.kubernetes.io/pool: edge}}", "gw: \"true\""),
        ),
    ]);
    let set = catalogue.policies();
    let published = Published::of(set);
    let expected = serde_json::json!({"onlyLabelledFromGit": true, "labelled": [
        {"nodes": ["beta"], "labels": {"gw": "true"}},
        {"nodeSelector": {"matchLabels": {"node-restriction.kubernetes.io/pool": "edge"}}, "labels": {"gw": "true"}},
    ]});
    assert_eq!(published.config["gateways"], expected, "labels that no gateway is chosen by are nobody's business");
    let back = Published::read(&published.policies, &published.config).expect("a set");
    assert_eq!((&back.grants, back.config.only_labelled_from_git), (&set.grants, true));
    assert!(back.node_labels.is_empty(), "agents label no nodes");
    assert_eq!(gateway(&back, &facts), gateway(set, &facts));
    assert_eq!(gateway(&back, &facts).0.as_deref(), Some("beta"));

    let without = read(&[("p.yaml", &policy("p", NAMED, "gw: \"true\""))]);
    let published = Published::of(without.policies());
    assert!(published.config.get("gateways").is_none(), "older agents read what they know");
    let back = Published::read(&published.policies, &published.config).expect("a set");
    assert_eq!(back.grants, None::<Vec<Grant>>);
}

#[test]
fn lint_says_which_gateway_nobody_can_be_and_which_node_labels_a_node_can_bring_itself_under() {
    let on = config("gateways: {onlyLabelledFromGit: true}");
    let lint_of = |files: &[(&str, &str)]| linted(&read(&[&[("egret.yaml", on.as_str())], files].concat()), None);
    let gateway_hint =
        "egret.yaml has gateways.onlyLabelledFromGit: give the labels by a NodeLabels that names the nodes";
    let nobody = |what: &str| {
        format!("p.yaml:9:5 warning gateway-not-from-git: {what}, so no node may be this gateway | {gateway_hint}")
    };
    let wanted = policy("p", NAMED, "gw: \"true\"");
    assert_eq!(lint_of(&[("p.yaml", &wanted)]), [nobody("no NodeLabels gives a node gw=true")]);
    assert_eq!(
        lint_of(&[("p.yaml", &wanted), ("l.yaml", &labels("l", "nodes: [n1]", "gw: \"true\""))]),
        Vec::<String>::new()
    );
    let zone = policy("p", NAMED, "gw: \"true\", topology.kubernetes.io/zone: a");
    let given = labels("l", "nodes: [n1]", "gw: \"true\"");
    assert_eq!(
        lint_of(&[("p.yaml", &zone), ("l.yaml", &given)]),
        [nobody("no NodeLabels gives a node topology.kubernetes.io/zone=a")]
    );
    let role = policy("p", NAMED, "node-role.kubernetes.io/egress: \"\"");
    assert_eq!(
        lint_of(&[("p.yaml", &role)]),
        [nobody("the nodeSelector (node-role.kubernetes.io/egress=) asks for no label that NodeLabels give")]
    );

    let itself = |how: &str| {
        format!(
            "l.yaml:5:3 error node-labels-itself: this nodeSelector {how}; gw makes no gateway of the nodes | egret.yaml has \
             gateways.onlyLabelledFromGit: name the nodes in `nodes`, or ask for labels of node-restriction.kubernetes.io/ alone"
        )
    };
    let disk = labels("l", "nodeSelector: {matchLabels: {disk: ssd}}", "gw: \"true\"");
    let found = lint_of(&[("p.yaml", &wanted), ("l.yaml", &disk)]);
    let asks = itself("asks for disk, which a kubelet can set or take off on its own node");
    assert_eq!(found, [asks, nobody("no NodeLabels gives a node gw=true")]);
    let all = labels("l", "nodeSelector: {}", "gw: \"true\"");
    assert_eq!(lint_of(&[("p.yaml", &wanted), ("l.yaml", &all)])[0], itself("asks for no label"));
    let other = labels("l", "nodeSelector: {matchLabels: {disk: ssd}}", "rack: r1");
    assert_eq!(
        lint_of(&[("l.yaml", &other)]),
        Vec::<String>::new(),
        "labels that no gateway is chosen by may be anybody's"
    );
}

#[test]
fn validate_takes_the_operator_s_list_and_fails_where_it_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let role = labels("a", "nodes: [n1]", "node-role.kubernetes.io/egress: \"\"");
    std::fs::write(folder.path().join("labels.yaml"), role).expect("a file");
    let repo = folder.path().to_str().expect("a path");
    let code = |more: &[&str]| egret(["validate", "--repo", repo].iter().chain(more).copied()).code;
    assert_eq!(code(&[]), Some(1));
    assert_eq!(code(&["--allowed-label-keys=rack,node-role.kubernetes.io/*"]), Some(0));
    assert_eq!(code(&["--allowed-label-keys=rack"]), Some(1));
    let said = egret(["validate", "--repo", repo, "--allowed-label-keys=a*b"]);
    assert_eq!((said.code, said.stderr.contains("a `*` stands at the end")), (Some(64), true), "{}", said.stderr);
}
