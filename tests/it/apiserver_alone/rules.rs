//! What the double refuses and lets through: schemas, rules in CEL, names, events, roles.
//!
//! Deliberately absent: what the recording has (`replay`).

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::client::refused_with;
use super::{client_with, node, pod, server, widget, widgets};
use crate::apiserver::{ApiServer, Filter};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const WIDGETS: &str = "/apis/egret.dev/v1alpha1/widgets";

fn with_widgets() -> ApiServer {
    let server = server();
    server.create(&widgets());
    server
}

/// What creating one gives.
fn created(server: &ApiServer, spec: &Value) -> (u16, String) {
    let (code, body) = server.send("POST", WIDGETS, JSON, &widget("one", spec));
    (code, body["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn what_a_schema_does_not_permit_is_refused_in_the_words_of_the_real_server() {
    let server = with_widgets();
    let cases = [
        (json!({}), "spec.fence: Required value"),
        (
            json!({"fence": "a"}),
            r#"spec.fence: Invalid value: "string": spec.fence in body must be of type integer: "string""#,
        ),
        (json!({"fence": 0}), "spec.fence: Invalid value: 0: spec.fence in body should be greater than or equal to 1"),
        (
            json!({"fence": 1, "mode": "Maybe"}),
            r#"spec.mode: Unsupported value: "Maybe": supported values: "Drop", "Passthrough""#,
        ),
        (
            json!({"fence": 1, "interface": "NET1"}),
            r#"spec.interface: Invalid value: "NET1": spec.interface in body should match '^[a-z0-9]+$'"#,
        ),
        (
            json!({"fence": 1, "interface": "a234567890123456"}),
            "spec.interface: Too long: may not be more than 15 bytes",
        ),
        (
            json!({"fence": 1, "cidrs": []}),
            "spec.cidrs: Invalid value: 0: spec.cidrs in body should have at least 1 items",
        ),
        (json!({"fence": 1, "cidrs": ["a", "b", "c", "d"]}), "spec.cidrs: Too many: 4: must have at most 3 items"),
        (json!({"fence": 1, "cidrs": ["10.0.0.1"]}), r#"spec.cidrs: Invalid value: "array": networks"#),
        (json!({"fence": 1, "egressIP": "010.0.0.1"}), r#"spec.egressIP: Invalid value: "010.0.0.1": an address"#),
        (
            json!({"fence": 1, "egressIP": "::1", "interface": "net1"}),
            r#"spec: Invalid value: "object": either interface or egressIP"#,
        ),
    ];
    for (spec, expected) in cases {
        let (code, message) = created(&server, &spec);
        assert_eq!(code, 422, "{spec}: {message}");
        assert!(message.starts_with("Widget.egret.dev \"one\" is invalid: "), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(server.list("widgets.egret.dev"), Vec::<Value>::new());
}

#[test]
fn a_rule_about_what_was_before_holds_for_every_kind_of_write() {
    let server = with_widgets();
    assert_eq!(created(&server, &json!({"fence": 3})).0, 201);
    let path = format!("{WIDGETS}/one");
    let back = server.send("PATCH", &path, MERGE, &json!({"spec": {"fence": 2}}));
    let applied = widget("one", &json!({"fence": 2}));
    let by_apply = server.send("PATCH", &format!("{path}?fieldManager=egret&force=true"), APPLY, &applied);
    for (code, body) in [back, by_apply] {
        let expected = r#"Widget.egret.dev "one" is invalid: spec: Invalid value: "object": the fence never goes back"#;
        assert_eq!((code, body["message"].as_str()), (422, Some(expected)));
    }
    let status = server.send("PATCH", &format!("{path}/status"), MERGE, &json!({"status": {"revision": "a"}}));
    assert_eq!((status.0, &status.1["metadata"]["generation"]), (200, &json!(1)));
    let on = server.send("PATCH", &path, MERGE, &json!({"spec": {"fence": 3, "mode": "Passthrough"}}));
    assert_eq!((on.0, &on.1["metadata"]["generation"]), (200, &json!(2)));
}

#[test]
fn unknown_fields_are_pruned_or_refused_as_the_writer_asks() {
    let server = with_widgets();
    let object = widget("one", &json!({"fence": 1, "nope": 1}));
    let (code, body) = server.send("POST", &format!("{WIDGETS}?fieldValidation=Strict"), JSON, &object);
    assert_eq!((code, body["message"].as_str()), (400, Some("strict decoding error: unknown field \"spec.nope\"")));
    let (code, body) = server.send("POST", WIDGETS, JSON, &object);
    assert_eq!((code, &body["spec"]), (201, &json!({"fence": 1, "mode": "Drop"})));
    let (code, body) = server.send("PATCH", &format!("{WIDGETS}/one?fieldManager=egret"), APPLY, &object);
    assert_eq!(code, 500, "{body}");
    let mut strange = node("a");
    strange["spec"]["nope"] = json!(1);
    let (code, body) = server.send("POST", "/api/v1/nodes", JSON, &strange);
    assert_eq!((code, body["message"].as_str()), (400, Some("strict decoding error: unknown field \"spec.nope\"")));
}

#[test]
fn a_rule_that_cannot_be_evaluated_is_no_rule_that_holds() {
    let server = server();
    let mut definition = widgets();
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations/0/rule";
    *definition.pointer_mut(schema).expect("a rule") = json!("quantity(self.fence).isInteger()");
    server.create(&definition);
    assert_eq!(created(&server, &json!({"fence": 1})).0, 500);
    assert_eq!(server.take_complaints().len(), 1, "else the test would fail when the server is dropped");
    *definition.pointer_mut(schema).expect("a rule") = json!("self.fence >");
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.egret.dev";
    let (code, body) = server.send("PATCH", path, MERGE, &json!({"spec": definition["spec"]}));
    assert_eq!(code, 422, "{body}");
}

#[test]
fn an_event_is_about_an_object_of_its_namespace_and_says_who_acts() {
    let server = server();
    let event = |namespace: &str, action: &str| {
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a.1", "namespace": namespace},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "egret.dev/agent",
            "reportingInstance": "kind-worker", "action": action, "reason": "Drifted", "type": "Normal",
            "regarding": {"kind": "Node", "name": "kind-worker"}, "note": "something was gone",
        })
    };
    let post = |namespace: &str, action: &str| {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let (code, body) = server.send("POST", &path, JSON, &event(namespace, action));
        (code, body["message"].as_str().unwrap_or_default().to_owned())
    };
    assert!(post("kube-system", "Heal").1.contains("does not match event.namespace"));
    assert!(post("default", "").1.contains("action: Required value"));
    assert_eq!(post("nowhere", "Heal").1, "namespaces \"nowhere\" not found");
    assert_eq!(post("default", "Heal").0, 201);
}

#[test]
fn patches_of_every_kind_end_in_the_same_object() {
    let server = server();
    let conditions = json!([{"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}]);
    for name in ["strategic", "merge", "json"] {
        let mut node = node(name);
        node["status"] = json!({"conditions": conditions});
        server.create(&node);
    }
    let down = json!({"type": "Ready", "status": "False"});
    let patches = [
        ("strategic", "application/strategic-merge-patch+json", json!({"status": {"conditions": [down]}})),
        ("merge", MERGE, json!({"status": {"conditions": [down, conditions[1]]}})),
        (
            "json",
            "application/json-patch+json",
            json!([
                {"op": "test", "path": "/status/conditions/0/type", "value": "Ready"},
                {"op": "replace", "path": "/status/conditions/0/status", "value": "False"},
            ]),
        ),
    ];
    for (name, kind, patch) in patches {
        let (code, body) = server.send("PATCH", &format!("/api/v1/nodes/{name}/status"), kind, &patch);
        assert_eq!(code, 200, "{body}");
        let seen: Vec<_> =
            body["status"]["conditions"].as_array().expect("a list").iter().map(|one| &one["status"]).collect();
        assert_eq!(seen, ["False", "True"], "{name}");
    }
    let failing = json!([{"op": "test", "path": "/metadata/name", "value": "another"}]);
    assert_eq!(server.send("PATCH", "/api/v1/nodes/json", "application/json-patch+json", &failing).0, 422);
    assert_eq!(
        server.send("PATCH", &format!("{WIDGETS}/one"), "application/strategic-merge-patch+json", &json!({})).0,
        404
    );
}

#[test]
fn a_pod_keeps_its_node_and_a_finalizer_its_object() {
    let server = server();
    server.create(&pod("a", "kind-worker"));
    let path = "/api/v1/namespaces/default/pods/a";
    assert_eq!(server.send("PATCH", path, MERGE, &json!({"spec": {"nodeName": "kind-worker2"}})).0, 422);
    server.create(&node("a"));
    server.patch("nodes", "", "a", &json!({"metadata": {"finalizers": ["egret.dev/x"]}}));
    server.delete("nodes", "", "a");
    assert!(server.get("nodes", "", "a").expect("it is held")["metadata"]["deletionTimestamp"].is_string());
    server.patch("nodes", "", "a", &json!({"metadata": {"finalizers": null}}));
    assert_eq!(server.get("nodes", "", "a"), None);
}

#[tokio::test]
async fn a_user_may_do_what_roles_say_and_nothing_else() {
    let server = server();
    server.create(&node("a"));
    let account = "system:serviceaccount:default:agent";
    server.user(account, "secret");
    let role = |kind: &str, name: &str, rules: &Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": rules});
    let binding = |role: &str, subject: &Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [subject],
        })
    };
    server.create(&role(
        "ClusterRole",
        "read",
        &json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "get"]}]),
    ));
    server.create(&binding("read", &json!({"kind": "ServiceAccount", "namespace": "default", "name": "agent"})));
    let api: Api<Node> = Api::all(client_with(&server, "secret"));
    assert_eq!(api.list(&ListParams::default()).await.expect("a list").items.len(), 1);
    let label =
        |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"a": "b"}}});
    let apply = PatchParams::apply("egret");
    let words = format!(
        "nodes \"a\" is forbidden: User \"{account}\" cannot patch resource \"nodes\" in API group \"\" at the cluster scope"
    );
    refused_with(api.patch("a", &apply, &Patch::Apply(label("a"))).await, 403, &words);
    let one = json!([{"apiGroups": [""], "resources": ["nodes"], "resourceNames": ["a"], "verbs": ["patch"]}, {
        "apiGroups": [""], "resources": ["nodes"], "resourceNames": ["ghost"], "verbs": ["patch"],
    }]);
    server.create(&role("ClusterRole", "write", &one));
    server.create(&binding("write", &json!({"kind": "Group", "name": "system:serviceaccounts:default"})));
    api.patch("a", &apply, &Patch::Apply(label("a"))).await.expect("an apply");
    let status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "status": {}});
    refused_with(api.patch_status("a", &apply, &Patch::Apply(status)).await, 403, "\"nodes/status\"");
    refused_with(api.patch("ghost", &apply, &Patch::Apply(label("ghost"))).await, 403, "cannot create resource");
    let stranger: Api<Node> = Api::all(client_with(&server, "guess"));
    refused_with(stranger.list(&ListParams::default()).await, 401, "Unauthorized");
    assert_eq!(server.writes(&Filter::writes().resource("nodes").user(account)), 1);
}

/// The chart's own definitions: a rule in them that could not be evaluated here would let everything through, or nothing.
#[test]
fn the_charts_definitions_refuse_what_they_should_and_nothing_else() {
    let server = server();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/egret/crds");
    for file in ["egressconfigs", "egressnodes", "publishedegresspolicies"] {
        let text = std::fs::read_to_string(folder.join(format!("{file}.yaml"))).expect("a definition");
        server.create(&serde_yaml::from_str(&text).expect("a document"));
    }
    let policy = |spec: &Value| {
        let object = json!({
            "apiVersion": "egret.dev/v1alpha1", "kind": "PublishedEgressPolicy", "metadata": {"name": "outpost"}, "spec": spec,
        });
        let path = "/apis/egret.dev/v1alpha1/publishedegresspolicies/outpost?fieldManager=egret-controller";
        let (code, body) = server.send("PATCH", path, APPLY, &object);
        (code, body["message"].as_str().unwrap_or_default().to_owned())
    };
    let good = json!({
        "selectors": [{
            "podSelector": {"matchLabels": {"org": "empire"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
        }],
        "destinationCIDRs": ["10.0.4.0/24", "2001:db8::/32"],
        "egressGateways": [{"nodeSelector": {"matchLabels": {"egress-gw": "true"}}, "interface": "net1"}],
        "priority": 0, "onNoGateway": "Drop", "existingConnections": "Keep", "fence": 3,
        "source": {"kind": "EgressPolicy", "name": "outpost", "file": "policies/outpost.yaml", "line": 1},
    });
    assert_eq!(policy(&good), (201, String::new()));
    let cases = [
        ("/fence", json!(2), "spec.fence: Invalid value"),
        ("/destinationCIDRs/0", json!("10.0.4.1"), "not a CIDR"),
        ("/egressGateways/0/egressIP", json!("10.0.3.42"), "not both"),
        ("/selectors/0/podSelector/matchExpressions/0/values", json!([]), "need values"),
        ("/selectors/0", json!({"nodeSelector": {}}), "needs podSelector or namespaceSelector"),
    ];
    for (place, value, expected) in cases {
        let mut bad = good.clone();
        let (parent, name) = place.rsplit_once('/').expect("a place");
        match bad.pointer_mut(parent).expect("a parent") {
            Value::Array(items) => items[0] = value,
            other => other[name] = value,
        }
        let (code, message) = policy(&bad);
        assert!(code == 422 && message.contains(expected), "{place}: {code} {message}");
    }
}

#[test]
fn definitions_that_helm_installed_are_updated_by_the_documented_command_and_only_by_force() {
    let server = ApiServer::local().expect("a server");
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let text = include_str!("../../../charts/egret/crds/egressnodes.yaml");
    let new: Value = serde_yaml::from_str(text).expect("a definition");
    let mut old = new.clone();
    let columns = "/spec/versions/0/additionalPrinterColumns";
    old.pointer_mut(columns).and_then(Value::as_array_mut).expect("columns").pop();
    let (code, body) = server.send("POST", &format!("{path}?fieldManager=helm"), "application/json", &old);
    assert_eq!(code, 201, "{body}");
    let apply = |manager: &str, force: bool| {
        let at = format!("{path}/egressnodes.egret.dev?fieldManager={manager}&force={force}");
        server.send("PATCH", &at, "application/apply-patch+yaml", &new)
    };
    // Under helm's own name it is another manager all the same: one applies, the other updated.
    for manager in ["kubectl", "helm"] {
        let (code, body) = apply(manager, false);
        assert_eq!((code, body["reason"].as_str()), (409, Some("Conflict")), "{body}");
        assert!(body["message"].as_str().is_some_and(|why| why.contains("conflict with \"helm\"")), "{body}");
    }
    let (code, body) = apply("kubectl", true);
    assert_eq!((code, body.pointer(columns)), (200, new.pointer(columns)), "{body}");
    assert_eq!(apply("kubectl", false).0, 200, "the next one takes nothing from anybody");
    for text in [
        include_str!("../../../charts/egret/README.md"),
        include_str!("../../../charts/egret/templates/NOTES.txt"),
        include_str!("../../../src/cluster/live/error.rs"),
    ] {
        let commands: Vec<&str> = text.lines().filter(|line| line.contains("kubectl apply")).collect();
        assert!(!commands.is_empty());
        assert!(commands.iter().all(|line| line.contains("--server-side --force-conflicts -f ")), "{commands:?}");
    }
}
