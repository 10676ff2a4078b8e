//! Lints that teach: what cannot match, what does nothing and what reaches too far is told with what was likely meant, and is silent once
//! the document says why it is meant.
//!
//! Deliberately absent: what a document alone gets wrong (`documents`), and what a change would do (`previews`).

use std::collections::BTreeMap;

use egret::core::diagnostic::Severity;
use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::labels::Labels;
use egret::core::name::NodeName;
use egret::core::policy::acknowledged::CODES;
use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::policy::lint::lint;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Two namespaces with a pod each, and a gateway.
fn facts() -> Facts {
    let pod = |namespace: &str, name: &str, pairs: &[(&str, &str)], last: u8| {
        let node = NodeName::parse("n1").expect("a name");
        let addresses = vec![[10, 1, 1, last].into()];
        let pod = Pod { labels: labels(pairs), node: Some(node), addresses, ..Pod::default() };
        (PodName { namespace: namespace.to_owned(), name: name.to_owned() }, pod)
    };
    let node = |pairs: &[(&str, &str)]| Node { labels: labels(pairs), ready: true, ..Node::default() };
    Facts {
        nodes: BTreeMap::from([
            (NodeName::parse("n1").expect("a name"), node(&[("zone", "a")])),
            (NodeName::parse("n2").expect("a name"), node(&[("zone", "b"), ("egress-gw", "true")])),
        ]),
        namespaces: BTreeMap::from([
            ("shop".to_owned(), labels(&[("kubernetes.io/metadata.name", "shop"), ("team", "blue")])),
            ("bank".to_owned(), labels(&[("kubernetes.io/metadata.name", "bank"), ("team", "red")])),
        ]),
        pods: BTreeMap::from([
            pod("shop", "web-1", &[("app", "frontend"), ("tier", "web")], 7),
            pod("bank", "ledger-1", &[("app", "ledger")], 8),
        ]),
        ..Facts::default()
    }
}

const CONFIG: &str =
    "apiVersion: egret.dev/v1alpha1\nkind: Config\nserviceCIDRs: [198.18.0.0/16, \"2001:db9:96::/112\"]\n";

/// A policy with these entries of `selectors`, destinations, exclusions and gateway selector.
fn policy(selectors: &str, destinations: &str, excluded: &str, gateway: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata:\n  name: p\n  annotations: {{}}\nspec:\n  \
         selectors: [{selectors}]\n  destinationCIDRs: [{destinations}]\n  excludedCIDRs: [{excluded}]\n  \
         egressGateway: {{nodeSelector: {gateway}}}\n"
    )
}

fn selecting(selectors: &str) -> String {
    policy(selectors, "192.0.2.0/24", "", "{matchLabels: {egress-gw: \"true\"}}")
}

fn reaching(destinations: &str, excluded: &str) -> String {
    policy(SHOP, destinations, excluded, "{matchLabels: {egress-gw: \"true\"}}")
}

const SHOP: &str = "{podSelector: {matchLabels: {io.kubernetes.pod.namespace: shop}}}";

fn found(config: &str, text: &str, facts: Option<&Facts>) -> Vec<egret::core::diagnostic::Diagnostic> {
    let mut catalogue = Catalogue::new("prod");
    let file = |text: &str| FileUpdate::Text(text.to_owned());
    catalogue.update(BTreeMap::from([("egret.yaml".to_owned(), file(config)), ("p.yaml".to_owned(), file(text))]));
    let mut all = catalogue.diagnostics();
    all.extend(lint(catalogue.policies(), facts, catalogue.spans()));
    assert!(all.iter().all(|one| one.severity == Severity::Warning), "{all:?}\n{text}");
    all
}

/// The message and hint of a policy's only warning; with the annotation that acknowledges it there is none.
fn told(config: &str, text: &str, facts: Option<&Facts>, code: &str) -> (String, String) {
    let all = found(config, text, facts);
    let codes: Vec<&str> = all.iter().map(|one| one.code).collect();
    assert_eq!(codes, [code], "{all:?}\n{text}");
    let annotation = format!("annotations: {{\"egret.dev/acknowledge.{code}\": it is meant}}");
    let acknowledged = text.replace("annotations: {}", &annotation);
    assert_eq!(found(config, &acknowledged, facts), [], "{acknowledged}");
    let one = all.into_iter().next().expect("one");
    (one.message, one.hint.unwrap_or_default())
}

#[test]
fn a_selector_that_matches_nothing_says_which_part_and_what_was_likely_meant() {
    let facts = facts();
    let by = |labels: &str| format!("{{podSelector: {{matchLabels: {{{labels}}}}}}}");
    for (selector, part, meant) in [
        (by("io.kubernetes.pod.namespace: shopp"), "there is no namespace shopp", "did you mean the namespace `shop`?"),
        (
            "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shopp}}}".to_owned(),
            "no namespace has kubernetes.io/metadata.name=shopp",
            "did you mean `kubernetes.io/metadata.name=shop`?",
        ),
        (
            "{namespaceSelector: {matchLabels: {teams: red}}}".to_owned(),
            "no namespace has teams=red",
            "did you mean `team=red`?",
        ),
        (
            by("io.kubernetes.pod.namespace: shop, app: fronted"),
            "no pod has app=fronted",
            "did you mean `app=frontend`?",
        ),
        (
            by("io.kubernetes.pod.namespace: shop, apps: frontend"),
            "no pod has apps=frontend",
            "did you mean `app=frontend`?",
        ),
        (
            by("io.kubernetes.pod.namespace: shop, component: ledger"),
            "no pod has component=ledger",
            "did you mean `app=ledger`?",
        ),
        (
            by("io.kubernetes.pod.namespace: shop, app: zebra"),
            "no pod has app=zebra",
            "the values of `app` there: frontend, ledger",
        ),
        (
            by("io.kubernetes.pod.namespace: bank, tier: web"),
            "no pod in the namespace bank has tier=web",
            "pods in the namespace `shop` have it",
        ),
        (
            "{podSelector: {matchLabels: {io.kubernetes.pod.namespace: shop}}, nodeSelector: {matchLabels: {zone: c}}}".to_owned(),
            "no node has zone=c",
            "the values of `zone` there: a, b",
        ),
        (
            "{podSelector: {matchLabels: {io.kubernetes.pod.namespace: shop, app: frontend}, matchExpressions: [{key: app, operator: DoesNotExist}]}}".to_owned(),
            "what is asked of `app` excludes itself",
            "take one of the requirements out",
        ),
        (
            "{podSelector: {matchLabels: {io.kubernetes.pod.namespace: shop}, matchExpressions: [{key: app, operator: NotIn, values: [frontend, ledger]}]}}".to_owned(),
            "no pod has app notin (frontend,ledger)",
            "the values of `app` there: frontend, ledger",
        ),
    ] {
        let text = selecting(&selector);
        let expected = format!("the policy p selects no pod that is there now: {part}");
        assert_eq!(told(CONFIG, &text, Some(&facts), "no-member"), (expected, meant.to_owned()));
        // Beside a selector that has members, the one without is told where it stands.
        let text = selecting(&format!("{SHOP}, {selector}"));
        let expected = format!("this selector matches no pod: {part}");
        assert_eq!(told(CONFIG, &text, Some(&facts), "no-match"), (expected, meant.to_owned()));
    }
    // The label is there, but not on the namespace's pods.
    let text = selecting(&by("io.kubernetes.pod.namespace: shop, app: ledger, tier: web"));
    let (message, hint) = told(CONFIG, &text, Some(&facts), "no-member");
    assert_eq!(message, "the policy p selects no pod that is there now: no pod in the namespace shop has app=ledger");
    assert_eq!(hint, "pods in the namespace `bank` have it");
    assert_eq!(found(CONFIG, &selecting(SHOP), Some(&facts)), []);
}

#[test]
fn a_selector_that_excludes_itself_needs_no_cluster_to_be_seen() {
    let member = "{podSelector: {matchLabels: {io.kubernetes.pod.namespace: shop}, matchExpressions: [{key: a, operator: In, values: [x]}, {key: a, operator: NotIn, values: [x]}]}}";
    let (message, _) = told(CONFIG, &selecting(member), None, "no-match");
    assert_eq!(message, "this selector matches no pod: what is asked of `a` excludes itself");
    let gateway = "{matchLabels: {zone: a}, matchExpressions: [{key: zone, operator: In, values: [b, c]}]}";
    let (message, _) = told(CONFIG, &policy(SHOP, "192.0.2.0/24", "", gateway), None, "no-match");
    assert_eq!(message, "this selector matches no node: what is asked of `zone` excludes itself");
    let (known, _) = told(CONFIG, &policy(SHOP, "192.0.2.0/24", "", gateway), Some(&facts()), "no-match");
    assert_eq!(known, message, "where the nodes are known it is the same one warning");
    for possible in [
        "{matchExpressions: [{key: a, operator: In, values: [x, z]}, {key: a, operator: NotIn, values: [x]}]}",
        "{matchExpressions: [{key: a, operator: Exists}, {key: a, operator: NotIn, values: [x]}]}",
        "{matchExpressions: [{key: a, operator: DoesNotExist}, {key: a, operator: NotIn, values: [x]}]}",
    ] {
        assert_eq!(found(CONFIG, &policy(SHOP, "192.0.2.0/24", "", possible), None), [], "{possible}");
    }
}

#[test]
fn a_gateway_that_no_node_can_be_says_which_label_was_likely_meant() {
    let text = |gateway: &str| policy(SHOP, "192.0.2.0/24", "", gateway);
    for (gateway, meant) in [
        ("{matchLabels: {egress-gv: \"true\"}}", "did you mean `egress-gw=true`?"),
        ("{matchLabels: {egress-gw: \"yes\"}}", "the values of `egress-gw` there: true"),
    ] {
        assert_eq!(told(CONFIG, &text(gateway), Some(&facts()), "no-gateway").1, meant);
    }
}

#[test]
fn keys_that_look_like_a_namespaces_are_told_with_the_one_that_is() {
    for (key, meant) in [
        ("namespace", "io.kubernetes.pod.namespace"),
        ("kubernetes.io/metadata.name", "io.kubernetes.pod.namespace"),
        ("k8s:io.kubernetes.pods.namespace", "io.kubernetes.pod.namespace"),
        ("kubernetes.io/namespace", "io.kubernetes.pod.namespace"),
        ("metadata.namespace", "io.kubernetes.pod.namespace"),
        ("io.cilium.k8s.namespace.label.team", "io.cilium.k8s.namespace.labels.team"),
    ] {
        let text = selecting(&format!(
            "{{podSelector: {{matchLabels: {{\"{key}\": shop}}}}, namespaceSelector: {{matchLabels: {{team: blue}}}}}}"
        ));
        let (message, hint) = told(CONFIG, &text, None, "namespace-lookalike");
        assert!(message.ends_with("in a podSelector is a label of the pod, not of its namespace"), "{message}");
        assert_eq!(hint, format!("did you mean `{meant}`?"), "{key}");
        // Pods that have the label are meant by it.
        let mut facts = facts();
        let key = key.trim_start_matches("k8s:").to_owned();
        for pod in facts.pods.values_mut() {
            pod.labels.insert(key.clone(), "shop".to_owned());
        }
        assert_eq!(found(CONFIG, &text, Some(&facts)), [], "{key}");
    }
    for (key, meant) in [
        ("io.kubernetes.pod.namespace", "kubernetes.io/metadata.name"),
        ("io.cilium.k8s.namespace.labels.team", "team"),
    ] {
        let text = selecting(&format!("{{namespaceSelector: {{matchLabels: {{{key}: shop}}}}}}"));
        assert_eq!(told(CONFIG, &text, None, "namespace-lookalike").1, format!("did you mean `{meant}`?"));
    }
    for key in ["io.kubernetes.pod.namespace", "io.cilium.k8s.namespace.labels.team"] {
        assert_eq!(
            found(CONFIG, &selecting(&format!("{{podSelector: {{matchLabels: {{{key}: a}}}}}}")), None),
            [],
            "{key}"
        );
    }
}

#[test]
fn exclusions_that_change_nothing_and_destinations_that_nothing_is_left_of_are_told() {
    let told = |text: &str, code: &str| told(CONFIG, text, None, code).0;
    assert_eq!(
        told(&reaching("192.0.2.0/24", "198.51.100.0/24"), "idle-exclusion"),
        "198.51.100.0/24 is outside of all destinations: excluding it changes nothing"
    );
    assert_eq!(
        told(&reaching("192.0.2.0/24, \"2001:db8::/32\"", "192.0.2.0/23"), "excluded-destination"),
        "192.0.2.0/24 is excluded as a whole, by 192.0.2.0/23 of `excludedCIDRs`: nothing to it is steered"
    );
    assert_eq!(
        told(&reaching("192.0.2.0/24", "192.0.2.0/25, 192.0.2.128/25"), "excluded-destination"),
        "192.0.2.0/24 is excluded as a whole, by the exclusions together: nothing to it is steered"
    );
    let config = format!("{CONFIG}exclusions: [192.0.0.0/16]\n");
    let all = found(&config, &reaching("192.0.2.0/24", ""), None);
    assert_eq!(
        all[0].message,
        "192.0.2.0/24 is excluded as a whole, by 192.0.0.0/16 of `exclusions` in egret.yaml: nothing to it is steered"
    );
    for never in ["169.254.169.254/32", "127.0.0.0/8", "224.0.0.0/4", "\"fe80::/10\"", "\"ff02::1/128\""] {
        let message = told(&reaching(never, ""), "never-forwarded");
        assert!(message.ends_with("they are never steered"), "{message}");
    }
    for (destinations, excluded) in [
        ("192.0.2.0/24", "192.0.2.7/32"),
        ("192.0.2.0/24, 198.51.100.0/24", "192.0.2.0/25, 198.51.100.7/32"),
        ("192.0.2.0/24, \"2001:db8::/32\"", "\"2001:db8:1::/48\""),
    ] {
        assert_eq!(found(CONFIG, &reaching(destinations, excluded), None), [], "{destinations} {excluded}");
    }
}

#[test]
fn a_wide_destination_asks_for_the_services_networks() {
    let none = "apiVersion: egret.dev/v1alpha1\nkind: Config\n";
    for (net, named) in [
        ("10.0.0.0/8", "10.0.0.0/8 may have"),
        ("8.0.0.0/5", "8.0.0.0/5 takes in 10.0.0.0/8, which may have"),
        ("172.16.0.0/12", "172.16.0.0/12 may have"),
        ("192.168.0.0/16", "192.168.0.0/16 may have"),
        ("\"fc00::/7\"", "fc00::/7 may have"),
    ] {
        let message = told(none, &reaching(net, ""), None, "services-unknown").0;
        assert!(message.starts_with(&format!("{named} addresses of the cluster's Services: ")), "{message}");
        assert_eq!(found(none, &reaching(net, net), None)[0].code, "excluded-destination");
        assert_eq!(found(CONFIG, &reaching(net, ""), None), []);
    }
    for everything in ["0.0.0.0/0", "\"::/0\""] {
        let codes = |config: &str| {
            found(config, &reaching(everything, ""), None).iter().map(|one| one.code).collect::<Vec<_>>()
        };
        assert_eq!(codes(none), ["covers-everything", "services-unknown"]);
        assert_eq!(codes(CONFIG), ["covers-everything"]);
        told(CONFIG, &reaching(everything, ""), None, "covers-everything");
    }
    // One family's networks say nothing of the other's.
    let only_v4 = "apiVersion: egret.dev/v1alpha1\nkind: Config\nserviceCIDRs: [198.18.0.0/16]\n";
    told(only_v4, &reaching("10.0.0.0/8, \"fc00::/7\"", ""), None, "services-unknown");
    assert_eq!(found(none, &reaching("10.1.0.0/16", ""), None), []);
}

#[test]
fn an_acknowledgement_needs_a_known_warning_and_a_reason() {
    let with = |annotations: &str| {
        reaching("0.0.0.0/0", "").replace("annotations: {}", &format!("annotations: {{{annotations}}}"))
    };
    let codes = |annotations: &str| {
        let all = found(CONFIG, &with(annotations), None);
        all.into_iter().map(|one| (one.code, one.hint.unwrap_or_default())).collect::<Vec<_>>()
    };
    let of = |annotations: &str| codes(annotations).into_iter().map(|(code, _)| code).collect::<Vec<_>>();
    assert_eq!(of("\"egret.dev/acknowledge.covers-everything\": \"\""), ["no-reason", "covers-everything"]);
    assert_eq!(of("\"egret.dev/acknowledge.covers-everything\": \" \""), ["no-reason", "covers-everything"]);
    assert_eq!(of("\"egret.dev/acknowledge.no-member\": not yet"), ["covers-everything"]);
    let misspelt = codes("\"egret.dev/acknowledge.covers-everythin\": it is a proxy");
    assert_eq!(misspelt[0], ("unknown-warning", "did you mean `egret.dev/acknowledge.covers-everything`?".to_owned()));
    // An EgressPolicy and a NodeLabels have it as well; an error cannot be acknowledged.
    let egret = with("\"egret.dev/acknowledge.covers-everything\": it is a proxy")
        .replace("cilium.io/v2", "egret.dev/v1alpha1")
        .replace("CiliumEgressGatewayPolicy", "EgressPolicy");
    assert_eq!(found(CONFIG, &egret, None), []);
    let node_labels = "apiVersion: egret.dev/v1alpha1\nkind: NodeLabels\nmetadata: {name: a, annotations: {}}\nspec: {nodes: [n9], labels: {a: b}}\n";
    assert_eq!(told(CONFIG, node_labels, Some(&facts()), "unknown-node").0, "the cluster has no node n9");
    assert!(CODES.is_sorted());
}

#[test]
fn what_ciliums_definition_demands_is_no_warning() {
    let both = |kind: &str, version: &str| {
        selecting(SHOP)
            .replace("CiliumEgressGatewayPolicy", kind)
            .replace("cilium.io/v2", version)
            .replace("  egressGateway:", "  egressGateways: [{nodeSelector: {}}]\n  egressGateway:")
    };
    assert_eq!(found(CONFIG, &both("CiliumEgressGatewayPolicy", "cilium.io/v2"), None), []);
    told(CONFIG, &both("EgressPolicy", "egret.dev/v1alpha1"), None, "ignored-gateway");
}

#[test]
fn one_mistake_is_one_error() {
    for (right, wrong) in
        [("selectors:", "selector:"), ("destinationCIDRs:", "destinationCIDR:"), ("egressGateway:", "egressGatway:")]
    {
        let text = selecting(SHOP).replace(right, wrong);
        let mut catalogue = Catalogue::new("prod");
        catalogue.update(BTreeMap::from([("p.yaml".to_owned(), FileUpdate::Text(text))]));
        let all = catalogue.diagnostics();
        assert_eq!(all.iter().map(|one| one.code).collect::<Vec<_>>(), ["unknown-field"], "{all:?}");
    }
}
