//! Tests of requests on the wire, and of the results for answers and missing answers.

use std::time::Duration;

use kube::config::Kubeconfig;
use serde_json::{Value, json};

use super::fake::{Fake, FakeRequest, compressing};
use super::resources::NodeStatus;
use super::*;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::status::Reason;

fn node() -> NodeName {
    NodeName::parse("kind-worker2").expect("a name")
}

fn object(uid: &str, version: &str) -> Value {
    json!({"metadata": {"name": "kind-worker2", "uid": uid, "resourceVersion": version, "generation": 1}})
}

fn body(request: &FakeRequest) -> Value {
    serde_json::from_str(&request.body).expect("a body")
}

#[tokio::test]
async fn labels_are_applied_to_the_very_node_and_a_change_is_reported() {
    let mut fake = Fake::start();
    let (live, node) = (fake.client(), node());
    let labels = Labels::from([("egress-gw".to_owned(), "true".to_owned())]);
    for (version, changed) in [("231", true), ("230", false)] {
        let server = async {
            let get = fake.next_request().await;
            assert_eq!((get.method.as_str(), get.path.as_str()), ("GET", "/api/v1/nodes/kind-worker2"));
            get.answer(200, &object("u", "230"));
            let patch = fake.next_request().await;
            assert_eq!(patch.path, "/api/v1/nodes/kind-worker2?&fieldManager=egret");
            let metadata = json!({"name": "kind-worker2", "uid": "u", "labels": {"egress-gw": "true"}});
            assert_eq!(body(&patch), json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}));
            patch.answer(200, &object("u", version));
        };
        let (outcome, ()) = tokio::join!(live.apply_labels(&node, "u", &labels, false), server);
        assert_eq!(outcome.expect("an outcome"), LabelOutcome::Applied { changed });
    }
}

#[tokio::test]
async fn a_node_that_is_gone_or_another_one_by_now_is_not_even_asked() {
    let mut fake = Fake::start();
    let (live, node) = (fake.client(), node());
    let none = Labels::new();
    let (outcome, ()) = tokio::join!(live.apply_labels(&node, "u", &none, true), async {
        fake.next_request().await.refuse(404, "NotFound", "nodes \"kind-worker2\" not found");
    });
    assert_eq!(outcome.expect("an outcome"), LabelOutcome::Gone);
    let (outcome, ()) = tokio::join!(live.apply_labels(&node, "u", &none, true), async {
        fake.next_request().await.answer(200, &object("later", "9"));
    });
    assert_eq!(outcome.expect("an outcome"), LabelOutcome::Gone);
    assert!(fake.quiet(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn a_nodes_object_belongs_to_the_node_and_its_status_is_written_apart() {
    let mut fake = Fake::start();
    let (live, node) = (fake.client(), node());
    let (written, ()) = tokio::join!(live.apply_node(&node, "u", true), async {
        let request = fake.next_request().await;
        let path = "/apis/egret.dev/v1alpha1/egressnodes/kind-worker2?&force=true&fieldManager=egret-agent";
        assert_eq!((request.method.as_str(), request.path.as_str()), ("PATCH", path));
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "kind-worker2", "uid": "u"});
        let metadata =
            json!({"name": "kind-worker2", "labels": {"egret.dev/gateway": "true"}, "ownerReferences": [owner]});
        let whole = json!({"apiVersion": "egret.dev/v1alpha1", "kind": "EgressNode", "metadata": metadata, "spec": {}});
        assert_eq!(body(&request), whole);
        request.answer(201, &object("n", "7"));
    });
    let expected = Written { uid: "n".to_owned(), resource_version: "7".to_owned(), generation: 1 };
    assert_eq!(written.expect("written"), expected);

    let status = NodeStatus { revision: "0123".to_owned(), ..NodeStatus::default() };
    let (written, ()) = tokio::join!(live.apply_node_status(&node, &status), async {
        let request = fake.next_request().await;
        assert!(
            request.path.starts_with("/apis/egret.dev/v1alpha1/egressnodes/kind-worker2/status?"),
            "{}",
            request.path
        );
        assert_eq!(body(&request)["status"], serde_json::to_value(&status).expect("a status"));
        request.answer(200, &object("n", "8"));
    });
    assert!(written.is_ok());
}

#[tokio::test]
async fn a_policy_is_deleted_as_it_was_seen_and_one_that_is_gone_is_no_error() {
    let mut fake = Fake::start();
    let live = fake.client();
    let (deleted, ()) = tokio::join!(live.delete_policy("outpost", Some("7")), async {
        let request = fake.next_request().await;
        assert_eq!(request.method, "DELETE");
        assert_eq!(body(&request)["preconditions"], json!({"resourceVersion": "7"}));
        request.refuse(409, "Conflict", "the ResourceVersion in the precondition (7) does not match");
    });
    assert_eq!(deleted.expect_err("refused").code(), Some(409));
    let (deleted, ()) = tokio::join!(live.delete_policy("outpost", None), async {
        fake.next_request().await.refuse(404, "NotFound", "publishedegresspolicies.egret.dev \"outpost\" not found");
    });
    assert!(!deleted.expect("deleted"));
}

fn timing() -> Timing {
    let milliseconds = Duration::from_millis;
    Timing { duration: milliseconds(3000), deadline: milliseconds(2000), retry: milliseconds(100) }
}

/// The object as a server stores it.
fn stored(request: &FakeRequest, version: &str) -> Value {
    let mut object = body(request);
    object["metadata"]["resourceVersion"] = json!(version);
    object
}

#[tokio::test]
async fn a_lease_is_created_renewed_without_looking_and_released() {
    let mut fake = Fake::start();
    let mut lease = Lease::new(fake.client(), "egret", "egret-controller", "a", timing());
    let path = "/apis/coordination.k8s.io/v1/namespaces/egret/leases";
    let (role, created) = tokio::join!(lease.step(), async {
        let get = fake.next_request().await;
        assert_eq!(get.path, format!("{path}/egret-controller"));
        get.refuse(404, "NotFound", "leases.coordination.k8s.io \"egret-controller\" not found");
        let post = fake.next_request().await;
        assert_eq!(
            (post.method.as_str(), post.path.as_str()),
            ("POST", format!("{path}?&fieldManager=egret-controller").as_str())
        );
        let created = stored(&post, "1");
        post.answer(201, &created);
        created
    });
    assert!(matches!(role.expect("a role"), LeaseRole::Leader { fence: 1, .. }));
    assert_eq!(created["spec"]["holderIdentity"], json!("a"));
    assert_eq!(created["spec"]["leaseTransitions"], json!(1));

    let (role, ()) = tokio::join!(lease.step(), async {
        let put = fake.next_request().await;
        assert_eq!(put.method, "PUT");
        let renewed = stored(&put, "2");
        assert_eq!(renewed["spec"]["acquireTime"], created["spec"]["acquireTime"]);
        put.answer(200, &renewed);
    });
    assert!(matches!(role.expect("a role"), LeaseRole::Leader { fence: 1, .. }));

    let (released, ()) = tokio::join!(lease.release(), async {
        let put = fake.next_request().await;
        assert_eq!(body(&put)["spec"]["holderIdentity"], json!(""));
        assert_eq!(body(&put)["metadata"]["resourceVersion"], json!("2"));
        let object = stored(&put, "3");
        put.answer(200, &object);
    });
    released.expect("released");
    assert!(matches!(lease.role(), LeaseRole::Follower { .. }));
}

#[tokio::test]
async fn who_was_overtaken_learns_it_from_the_refusal() {
    let mut fake = Fake::start();
    let mut lease = Lease::new(fake.client(), "egret", "egret-controller", "a", timing());
    let (role, ()) = tokio::join!(lease.step(), async {
        fake.next_request().await.refuse(404, "NotFound", "not found");
        fake.next_request().await.refuse(
            409,
            "AlreadyExists",
            "leases.coordination.k8s.io \"egret-controller\" already exists",
        );
        let spec = json!({"holderIdentity": "b", "leaseTransitions": 1, "leaseDurationSeconds": 3});
        fake.next_request()
            .await
            .answer(200, &json!({"metadata": {"name": "egret-controller", "resourceVersion": "1"}, "spec": spec}));
    });
    assert_eq!(role.expect("a role"), LeaseRole::Follower { holder: Some("b".to_owned()) });
}

#[tokio::test]
async fn a_leader_whose_writes_are_not_answered_stops_in_time_and_comes_back_with_another_fence() {
    let mut fake = Fake::start();
    let mut lease = Lease::new(fake.client(), "egret", "egret-controller", "a", timing());
    let (role, mut object) = tokio::join!(lease.step(), async {
        fake.next_request().await.refuse(404, "NotFound", "not found");
        let post = fake.next_request().await;
        let object = stored(&post, "1");
        post.answer(201, &object);
        object
    });
    let Ok(LeaseRole::Leader { until, .. }) = role else { panic!("{role:?}") };
    let error = lease.step().await.expect_err("no answer");
    assert!(matches!(error.cause(), ApiErrorCause::Timeout(_)));
    // The write reached the server; only its answer was lost.
    let _lost = fake.next_request().await;
    object["metadata"]["resourceVersion"] = json!("2");
    assert!(matches!(lease.role(), LeaseRole::Leader { fence: 1, .. }), "there is some time left");
    tokio::time::sleep_until(until).await;
    assert!(matches!(lease.role(), LeaseRole::Follower { .. }));

    let (role, ()) = tokio::join!(lease.step(), async {
        fake.next_request().await.answer(200, &object);
        let put = fake.next_request().await;
        let object = stored(&put, "3");
        put.answer(200, &object);
    });
    assert!(matches!(role.expect("a role"), LeaseRole::Leader { fence: 2, .. }));
}

#[tokio::test]
async fn a_token_that_lies_in_a_file_goes_along() {
    let mut fake = Fake::start();
    let folder = tempfile::tempdir().expect("a folder");
    let (token, config) = (folder.path().join("token"), folder.path().join("config"));
    std::fs::write(&token, "secret").expect("a token");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": fake.address}}],
        "users": [{"name": "c", "user": {"tokenFile": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    std::fs::write(&config, text.to_string()).expect("a configuration");
    let config = Kubeconfig::read_from(&config).expect("a configuration");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a configuration");
    let live = ApiClient::open(config, Encoding::Plain).expect("a client");
    let node = node();
    let (found, ()) = tokio::join!(live.egress_node(&node), async {
        let request = fake.next_request().await;
        assert_eq!(request.authorization.as_deref(), Some("Bearer secret"));
        request.refuse(404, "NotFound", "egressnodes.egret.dev \"kind-worker2\" not found");
    });
    assert_eq!(found.expect("an answer"), None);
}

#[tokio::test]
async fn who_reads_from_afar_takes_compressed_answers_and_what_runs_in_the_cluster_does_not() {
    let address = compressing().await;
    for (encoding, compressed) in [(Encoding::Plain, false), (Encoding::Gzip, true)] {
        let live = ApiClient::open(Config::new(address.parse().expect("an address")), encoding).expect("a client");
        let request = http::Request::get("/api/v1/nodes").body(Vec::new()).expect("a request");
        let read: Value = live.call("listing", Ok(request), Duration::from_secs(20)).await.expect("an answer");
        assert_eq!((&read["compressed"], read["padding"].as_str().map(str::len)), (&json!(compressed), Some(1 << 20)));
    }
}

#[tokio::test]
async fn an_event_is_about_its_object_and_in_the_namespace_of_those_that_are_in_none() {
    let mut fake = Fake::start();
    let mut recorder = fake.client().recorder("egret.dev/agent", "kind-worker2");
    let node = Regarding::Node { name: "kind-worker2".to_owned(), uid: "u".to_owned() };
    let (written, ()) =
        tokio::join!(recorder.event(&node, EventKind::Warning, Reason::KernelRefused, "net1 is gone"), async {
            let request = fake.next_request().await;
            assert_eq!(request.path, "/apis/events.k8s.io/v1/namespaces/default/events?");
            let event = body(&request);
            let reference = json!({"apiVersion": "v1", "kind": "Node", "name": "kind-worker2", "uid": "u"});
            assert_eq!(
                (&event["regarding"], &event["reason"], &event["type"]),
                (&reference, &json!("KernelRefused"), &json!("Warning"))
            );
            request.refuse(500, "InternalError", "etcd is away");
        });
    assert!(written.is_err());
    let (written, ()) =
        tokio::join!(recorder.event(&node, EventKind::Warning, Reason::KernelRefused, "net1 is gone"), async {
            let request = fake.next_request().await;
            assert_eq!(request.method, "POST", "it was not written, so it is new");
            request.answer(201, &json!({}));
        });
    written.expect("written");
}
