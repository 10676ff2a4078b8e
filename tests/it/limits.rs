//! What `egret validate` accepts the API server stores, and what it refuses for its size the API server would refuse: the chart's custom
//! resource definitions in the API server's double, with schema, rules and the largest request.
//!
//! Deliberately absent: mistakes that have nothing to do with sizes (`policy`).

use std::collections::BTreeMap;
use std::fmt::Write;

use egret::core::diagnostic::{Diagnostic, Severity};
use egret::core::escape::json_as_yaml;
use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::policy::limits::{MAX_SPEC, max_pod_networks};
use egret::core::policy::published::{Published, read_config, read_policy, resource_name};
use egret::core::policy::{PolicySet, limits};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::apiserver::ApiServer;

const DEFINITIONS: [&str; 2] = [
    include_str!("../../charts/egret/crds/egressconfigs.yaml"),
    include_str!("../../charts/egret/crds/publishedegresspolicies.yaml"),
];
const APPLY: &str = "application/apply-patch+yaml";
const FILE: &str = "policies/p.yaml";

fn server() -> ApiServer {
    let server = ApiServer::local().expect("a server");
    for definition in DEFINITIONS {
        server.create(&serde_yaml::from_str(definition).expect("a definition"));
    }
    server
}

fn catalogue(files: &[(&str, &str)]) -> Catalogue {
    let mut catalogue = Catalogue::new("prod");
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), FileUpdate::Text((*text).to_owned())));
    catalogue.update(files.collect());
    catalogue
}

fn errors(catalogue: &Catalogue) -> Vec<Diagnostic> {
    catalogue.diagnostics().into_iter().filter(|one| one.severity == Severity::Error).collect()
}

/// `line:column code: message | hint` of each error.
fn told(path: &str, text: &str) -> Vec<String> {
    let told = |one: Diagnostic| {
        let Diagnostic { start, code, message, hint, .. } = one;
        format!("{}:{} {code}: {message} | {}", start.line, start.column, hint.unwrap_or_default())
    };
    errors(&catalogue(&[(path, text)])).into_iter().map(told).collect()
}

/// What the API server says of an object: its code and message.
fn stored(server: &ApiServer, plural: &str, kind: &str, name: &str, spec: &Value) -> (u16, String) {
    let path = format!("/apis/egret.dev/v1alpha1/{plural}/{name}?fieldManager=egret-controller&force=true");
    let object = json!({"apiVersion": "egret.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let (code, body) = server.send("PATCH", &path, APPLY, &object);
    (code, body["message"].as_str().unwrap_or_default().to_owned())
}

fn stored_policy(server: &ApiServer, name: &str, spec: &Value) -> (u16, String) {
    let mut spec = spec.clone();
    spec["fence"] = json!(1);
    stored(server, "publishedegresspolicies", "PublishedEgressPolicy", name, &spec)
}

fn stored_config(server: &ApiServer, config: &Value, networks: &[String]) -> (u16, String) {
    let head = json!({
        "cluster": "prod", "revision": "0123456789abcdef0123456789abcdef01234567", "summary": "s".repeat(200), "fence": 1,
        "policies": {"count": 1, "digest": "0123456789abcdef"}, "config": config, "podNetworks": networks,
    });
    stored(server, "egressconfigs", "EgressConfig", "default", &head)
}

fn policy_document(spec: &Value) -> String {
    json!({"apiVersion": "egret.dev/v1alpha1", "kind": "EgressPolicy", "metadata": {"name": "p"}, "spec": spec})
        .to_string()
}

fn words(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("v{number}")).collect()
}

fn labels(count: usize) -> Value {
    (0..count).map(|number| (format!("k{number}"), json!("v"))).collect()
}

fn expressions(count: usize) -> Vec<Value> {
    (0..count).map(|number| json!({"key": format!("e{number}"), "operator": "Exists"})).collect()
}

/// Numbers of IPv6 networks of full length.
fn networks(first: usize, count: usize) -> Vec<String> {
    (first..first + count)
        .map(|number| {
            format!(
                "2001:db8:aaaa:aaaa:aaaa:aaaa:{:x}:{:x}/128",
                0x1000 + number / 0x1_0000,
                0x1000 + number % 0x1_0000
            )
        })
        .collect()
}

const HEAD: &str = "apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: p}\nspec:\n";

#[test]
fn what_is_too_much_is_told_with_its_place_and_a_way_out() {
    let pod = "  - podSelector: {matchLabels: {a: b}}\n";
    let rest = "  destinationCIDRs: [10.0.0.0/8]\n  egressGateway: {nodeSelector: {matchLabels: {gw: \"true\"}}}\n";
    let document = |selectors: &str, more: &str| format!("{HEAD}  selectors:\n{selectors}{rest}{more}");
    let one = |selector: &Value| document(&format!("{pod}  - {selector}\n"), "");
    let values =
        |count| json!([{"key": "a", "operator": "Exists"}, {"key": "k", "operator": "In", "values": words(count)}]);
    let cases = [
        (
            document(&pod.repeat(1001), ""),
            "5:3 over-limit: `selectors` has 1001 entries; the API server takes 1000 at most | give the rest to a second policy",
        ),
        (
            one(&json!({"podSelector": {"matchExpressions": expressions(65)}})),
            "7:21 over-limit: `selectors[1].podSelector.matchExpressions` has 65 entries; the API server takes 64 at most | \
             select by a label that all of them share",
        ),
        (
            one(&json!({"podSelector": {"matchLabels": labels(257)}})),
            "7:21 over-limit: `selectors[1].podSelector.matchLabels` has 257 entries; the API server takes 256 at most | \
             select by a label that all of them share",
        ),
        (
            one(&json!({"namespaceSelector": {"matchExpressions": values(1001)}})),
            "7:106 over-limit: `selectors[1].namespaceSelector.matchExpressions[1].values` has 1001 entries; the API server \
             takes 1000 at most | select by a label that all of them share",
        ),
        (
            document(pod, "  suspend: {until: 2026-12-31T18:00:00Z, reason: \"\"}\n"),
            "9:42 over-limit: `suspend.reason` is empty | a text of one or two sentences for other users",
        ),
        (
            document(pod, "  suspend: {until: -000100-01-01T00:00:00Z, reason: x}\n"),
            "9:13 over-limit: `suspend.until` is before the year 0 | as in 2026-12-31T18:00:00Z",
        ),
        (
            document(
                pod,
                &format!("  suspend: {{until: 2026-12-31T18:00:00Z, reason: x, owner: {}}}\n", "ö".repeat(4097)),
            ),
            "9:53 over-limit: `suspend.owner` has 4097 characters; the API server takes 4096 at most | make it shorter",
        ),
        (
            document(pod, "").replace("[10.0.0.0/8]", "[10.0.0.0/8, \"::ffff:10.1.0.0/112\"]"),
            "7:34 bad-cidr: ::ffff:10.1.0.0/112 is an IPv4 network in the form of IPv6 | 10.1.0.0/16",
        ),
        (
            document(pod, "").replace("}}}", "}}, egressIP: \"::ffff:10.1.0.1\"}"),
            "8:72 bad-address: egressIP is ::ffff:10.1.0.1, an IPv4 address in the form of IPv6 | 10.1.0.1",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(told(FILE, &text), [expected], "{}", &text[..text.len().min(2000)]);
    }
}

#[test]
fn what_cilium_has_as_annotations_is_told_there() {
    let text = "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata:
  name: p
  annotations:
    egret.dev/suspend-until: \"2026-12-31T18:00:00Z\"
    egret.dev/suspend-reason: \"\"
spec:
  selectors: [{podSelector: {}}]
  destinationCIDRs: [10.0.0.0/8]
  egressGateway:
    nodeSelector:
      matchExpressions:
      - {key: zone, operator: In, values: [VALUES]}
";
    let text = text.replace("VALUES", &words(1001).join(", "));
    let expected = [
        "7:5 over-limit: `suspend.reason` is empty | a text of one or two sentences for other users",
        "14:35 over-limit: `egressGateways[0].nodeSelector.matchExpressions[0].values` has 1001 entries; the API server takes 1000 \
         at most | select by a label that all of them share",
    ];
    assert_eq!(told(FILE, &text), expected);
}

#[test]
fn each_cluster_of_a_configuration_is_checked_and_none_told_twice() {
    let list = |count| networks(0, count).join(", ");
    let text = format!(
        "apiVersion: egret.dev/v1alpha1\nkind: Config\nexclusions: [{}]\nclusters:\n  prod: {{podCIDRs: [{}]}}\n  test: {{onNoGateway: \
         Drop}}\n",
        list(10_001).replace("2001:db8:aaaa:aaaa:aaaa:aaaa:", "2001:db8::"),
        list(10_001).replace("2001:db8:aaaa:aaaa:aaaa:aaaa:", "2001:db8::"),
    );
    let expected = [
        "3:1 over-limit: `exclusions` has 10001 entries; the API server takes 10000 at most | name fewer and larger networks",
        "5:10 over-limit: `podCIDRs` has 10001 entries; the API server takes 10000 at most | name fewer and larger networks",
    ];
    assert_eq!(told("egret.yaml", &text), expected);
}

#[test]
fn labels_that_cannot_be_published_are_told() {
    let text = format!(
        "apiVersion: egret.dev/v1alpha1\nkind: NodeLabels\nmetadata: {{name: many}}\nspec:\n  nodes: [a]\n  labels: {}\n",
        labels(257)
    );
    let expected = "6:3 over-limit: `labels` has 257 entries; the API server takes 256 at most | give the rest to a second NodeLabels";
    assert_eq!(told("nodes/n.yaml", &text), [expected]);
}

/// A policy of which each selector takes some 67,000 bytes.
fn large_policy(selectors: usize) -> String {
    let values = (0..1000).map(|number| format!("{number:0>63}")).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "{HEAD}  selectors:\n  - &one {{podSelector: {{matchExpressions: [{{key: k, operator: In, values: [{values}]}}]}}}}\n"
    );
    for _ in 1..selectors {
        text.push_str("  - *one\n");
    }
    text.replace(": [000", ": [\"000").replace(", 000", "\", \"000").replace("]}]}}", "\"]}]}}")
        + "  destinationCIDRs: [10.0.0.0/8]\n  egressGateway: {nodeSelector: {}}\n"
}

#[test]
fn a_policy_that_is_larger_than_etcd_takes_is_a_mistake_and_the_largest_other_is_stored_with_its_status() {
    let server = server();
    let fits = catalogue(&[(FILE, &large_policy(19))]);
    assert_eq!(errors(&fits), []);
    let published = Published::of(fits.policies());
    assert!(published.policies["p"].to_string().len() > MAX_SPEC - 70_000, "near the limit");
    assert_eq!(stored_policy(&server, "p", &published.policies["p"]), (201, String::new()));
    let status = json!({"status": {"conditions": [], "gatewaySummary": "x".repeat(1024)}});
    let path = "/apis/egret.dev/v1alpha1/publishedegresspolicies/p/status";
    assert_eq!(server.send("PATCH", path, "application/merge-patch+json", &status).0, 200);
    let [found] = told(FILE, &large_policy(20)).try_into().expect("one mistake");
    assert!(
        found.starts_with("4:1 too-large: the policy is published in ") && found.ends_with("| write two policies"),
        "{found}"
    );
    // Without the check etcd refuses it, a little later.
    let mut spec = published.policies["p"].clone();
    let one = spec["selectors"][0].clone();
    spec["selectors"].as_array_mut().expect("selectors").extend(std::iter::repeat_n(one, 5));
    assert_eq!(stored_policy(&server, "q", &spec), (500, "etcdserver: request is too large".to_owned()));
}

/// A configuration with so many networks.
fn large_config(count: usize) -> String {
    let mut text = "apiVersion: egret.dev/v1alpha1\nkind: Config\n".to_owned();
    for (index, name) in ["podCIDRs", "serviceCIDRs", "exclusions"].into_iter().enumerate() {
        let list = networks(index * 10_000, count.saturating_sub(index * 10_000).min(10_000));
        writeln!(text, "{name}: [{}]", list.join(", ")).expect("a text");
    }
    text
}

#[test]
fn a_configuration_that_etcd_does_not_take_with_the_clusters_pod_networks_is_a_mistake() {
    let server = server();
    let fits = catalogue(&[("egret.yaml", &large_config(18_800))]);
    assert_eq!(errors(&fits), []);
    let config = Published::of(fits.policies()).config;
    let (code, message) = stored_config(&server, &config, &networks(50_000, max_pod_networks()));
    assert_eq!((code, message), (201, String::new()));
    let [found] = told("egret.yaml", &large_config(19_000)).try_into().expect("one mistake");
    assert!(found.starts_with("1:1 too-large: this configuration is published in "), "{found}");
}

#[test]
fn labels_of_nodes_that_are_too_many_together_are_a_mistake_of_the_set() {
    let config = "apiVersion: egret.dev/v1alpha1\nkind: Config\ngateways: {onlyLabelledFromGit: true}\n";
    let policy = policy_document(&json!({
        "selectors": [{"podSelector": {}}], "destinationCIDRs": ["10.0.0.0/8"],
        "egressGateway": {"nodeSelector": {"matchLabels": {"gw": "true"}}},
    }));
    let nodes = |first: usize, count: usize| {
        let names: Vec<String> =
            (first..first + count).map(|number| format!("{:n>200}", format!("ode{number}"))).collect();
        json!({"apiVersion": "egret.dev/v1alpha1", "kind": "NodeLabels", "metadata": {"name": format!("n{first}")},
               "spec": {"nodes": names, "labels": {"gw": "true"}}})
        .to_string()
    };
    let (one, two, other) = (nodes(0, 3000), nodes(3000, 3000), nodes(3000, 1000));
    let fits = catalogue(&[("egret.yaml", config), (FILE, &policy), ("a.yaml", &one), ("b.yaml", &other)]);
    assert_eq!((errors(&fits), limits::refuses_set(fits.policies())), (vec![], None));
    let large = catalogue(&[("egret.yaml", config), (FILE, &policy), ("a.yaml", &one), ("b.yaml", &two)]);
    let [found] = errors(&large).try_into().expect("one mistake");
    assert_eq!(
        (found.file.as_str(), found.start.line, found.start.column, found.code),
        ("egret.yaml", 3, 12, "too-large")
    );
    assert_eq!(found.hint.as_deref(), Some("name the nodes of equal labels in one NodeLabels"));
    // Labels that no policy asks for are not published.
    let elsewhere = policy.replace("gw", "other");
    let unasked = catalogue(&[("egret.yaml", config), (FILE, &elsewhere), ("a.yaml", &one), ("b.yaml", &two)]);
    assert_eq!(errors(&unasked), []);
}

#[test]
fn two_policies_of_one_name_need_a_second_one_in_the_cluster() {
    let document = |kind: &str, version: &str, name: &str| {
        json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": {
            "selectors": [{"podSelector": {}}], "destinationCIDRs": ["10.0.0.0/8"], "egressGateway": {"nodeSelector": {}},
        }})
        .to_string()
    };
    let cilium = |name: &str| document("CiliumEgressGatewayPolicy", "cilium.io/v2", name);
    let egret = |name: &str| document("EgressPolicy", "egret.dev/v1alpha1", name);
    let long = "a".repeat(244);
    let read = |one: &str, other: &str, third: &str| {
        let found = errors(&catalogue(&[("a.yaml", one), ("b.yaml", other), ("c.yaml", third)]));
        found.into_iter().map(|one| format!("{} {}: {}", one.file, one.code, one.message)).collect::<Vec<_>>()
    };
    assert_eq!(read(&cilium("p"), &egret("p"), &egret("q")), Vec::<String>::new());
    assert_eq!(
        read(&cilium("p"), &egret("p"), &egret("p.cilium.io")),
        [
            "a.yaml name-taken: beside the EgressPolicy p it is published as p.cilium.io, which is the name of another policy"
        ]
    );
    assert_eq!(
        read(&cilium(&long), &egret(&long), &egret("q")),
        [format!(
            "a.yaml name-taken: beside the EgressPolicy {long} it is published as {long}.cilium.io, which is too long"
        )]
    );
}

/// A number around a limit, or a small one.
fn near(limit: usize) -> BoxedStrategy<usize> {
    prop_oneof![8 => 1_usize..4, 2 => limit - 1..=limit + 1].boxed()
}

fn selector() -> impl Strategy<Value = Value> {
    (near(256), near(64), near(1000), 0..6_u8).prop_map(|(equal, exist, values, which)| match which {
        0 => json!({"matchLabels": labels(equal)}),
        1 => json!({"matchExpressions": expressions(exist)}),
        2 => json!({"matchExpressions": [{"key": "k", "operator": "NotIn", "values": words(values)}]}),
        // With one value it is published among matchLabels.
        3 => json!({"matchExpressions": words(exist).iter().map(|key| json!({"key": key, "operator": "In", "values": ["x"]})).collect::<Vec<_>>()}),
        4 => json!({"matchLabels": labels(equal), "matchExpressions": expressions(exist)}),
        _ => json!({}),
    })
}

fn member() -> impl Strategy<Value = Value> {
    (selector(), selector(), selector(), near(256), any::<bool>()).prop_map(|(pod, namespace, node, prefixed, both)| {
        let mut member = json!({"podSelector": pod, "nodeSelector": node});
        if both {
            member["namespaceSelector"] = namespace;
            // These are published in the namespaceSelector too.
            for number in 0..prefixed {
                let key = format!("io.cilium.k8s.namespace.labels.n{number}");
                member["podSelector"]["matchLabels"][key] = json!("x");
            }
        }
        member
    })
}

fn said() -> impl Strategy<Value = String> {
    (near(4096), prop_oneof![Just("x"), Just("ö"), Just("\u{7f}"), Just("")])
        .prop_map(|(count, letter)| letter.repeat(count))
}

/// The `spec` of an EgressPolicy that is good but for its sizes.
fn spec() -> impl Strategy<Value = Value> {
    let gateways = (near(64), selector());
    let suspend = proptest::option::weighted(0.3, (said(), said()));
    (proptest::collection::vec(member(), 1..3), near(1000), gateways, suspend).prop_map(|(members, count, gateways, suspend)| {
        let more = std::iter::repeat_n(json!({"podSelector": {}}), count - 1);
        let mut spec = json!({
            "selectors": members.into_iter().chain(more).collect::<Vec<_>>(),
            "destinationCIDRs": ["10.0.0.0/8", "2001:db8::/32"],
            "egressGateways": std::iter::repeat_n(json!({"nodeSelector": gateways.1}), gateways.0).collect::<Vec<_>>(),
        });
        if let Some((reason, owner)) = suspend {
            spec["suspend"] = json!({"until": "2026-12-31T18:00:00.5+01:00", "reason": reason, "owner": owner});
        }
        spec
    })
}

/// Sizes of a Config.
fn config() -> impl Strategy<Value = Value> {
    let windows = (near(1000), near(4096));
    (windows, near(1000), said(), near(256)).prop_map(|((count, name), signers, _, zone)| {
        let window = json!({"name": "n".repeat(name), "cron": "0 22 * * *", "duration": "6h"});
        let later = json!({"cron": format!("0 {} * * *", (0..zone).map(|_| "1").collect::<Vec<_>>().join(",")), "duration": "1h"});
        let more = std::iter::repeat_n(later, count - 1);
        let signer = "piett@empire.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF7jwV3cE4T1x6yqz5gJ6cWb6xkI0Yb6yQ8mVQ0sTt1N";
        json!({
            "changeWindows": {"open": std::iter::once(window).chain(more).collect::<Vec<_>>()},
            "signatures": {"require": "Head", "allowedSigners": vec![signer; signers]},
        })
    })
}

/// Whether reading failed for sizes alone. Any other mistake is one of this test.
fn is_refused(catalogue: &Catalogue) -> bool {
    let errors = errors(catalogue);
    assert!(errors.iter().all(|one| ["over-limit", "too-large"].contains(&one.code)), "{errors:?}");
    !errors.is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_policy_is_accepted_exactly_if_the_api_server_accepts_it(spec in spec(), folder in near(4089)) {
        let server = server();
        let file = format!("{}/p.yaml", "f".repeat(folder));
        let catalogue = catalogue(&[(&file, &json_as_yaml(&policy_document(&spec)))]);
        // What the API server stores is read without the limits, so that this is what would be published.
        let mut written = spec.clone();
        written["source"] = json!({"kind": "EgressPolicy", "name": "p", "file": file, "line": 1});
        let policy = read_policy("p", &written).map_err(|fault| TestCaseError::fail(fault.to_string()))?;
        let set = PolicySet { policies: BTreeMap::from([(policy.id.clone(), policy)]), ..PolicySet::default() };
        let published = Published::of(&set).policies;
        let (code, message) = stored_policy(&server, "p", &published["p"]);
        prop_assert_eq!(is_refused(&catalogue), code != 201, "{} {}", code, message);
        if code == 201 {
            let id = set.policies.keys().next().expect("a policy");
            prop_assert_eq!(&Published::of(catalogue.policies()).policies[&resource_name(&set, id)], &published["p"]);
        }
    }

    #[test]
    fn a_configuration_is_accepted_exactly_if_the_api_server_accepts_it(config in config()) {
        let server = server();
        let mut document = config.clone();
        document["apiVersion"] = json!("egret.dev/v1alpha1");
        document["kind"] = json!("Config");
        let catalogue = catalogue(&[("egret.yaml", &document.to_string())]);
        let read = read_config(&config).map_err(|fault| TestCaseError::fail(fault.to_string()))?;
        let published = Published::of(&PolicySet { config: read, ..PolicySet::default() }).config;
        let (code, message) = stored_config(&server, &published, &[]);
        prop_assert_eq!(is_refused(&catalogue), code != 201, "{} {}", code, message);
    }
}
