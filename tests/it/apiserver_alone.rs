//! The double of the API server by itself, without Egret: what the other tests stand on is tried here, against the words of a real server
//! and with kube's own client.
//!
//! Deliberately absent: anything of Egret's own.

mod client;
mod replay;
mod rules;
mod trouble;

use std::time::Duration;

use kube::{Client, Config};
use serde_json::{Value, json};

use crate::apiserver::ApiServer;

/// Long enough for a busy machine. No test passes by waiting it out.
const SOON: Duration = Duration::from_secs(20);

fn server() -> ApiServer {
    ApiServer::local().expect("a server")
}

/// A client that tells what it is answered. By default kube asks again by itself after 429, 503 and 504, also when it writes.
fn client(server: &ApiServer) -> Client {
    Client::try_from(config(server)).expect("a client")
}

fn config(server: &ApiServer) -> Config {
    let mut config = Config::new(server.url().parse().expect("a URL"));
    config.default_retry = false;
    config
}

fn client_with(server: &ApiServer, token: &str) -> Client {
    let mut config = config(server);
    config.auth_info.token = Some(token.to_owned().into());
    Client::try_from(config).expect("a client")
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": "10.1.1.0/24"}})
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none"}]},
        "status": {"phase": "Running", "podIP": "10.1.1.7", "podIPs": [{"ip": "10.1.1.7"}]},
    })
}

/// A definition in the manner of ours: lists by keys, rules about now and before, a status.
fn widgets() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.egret.dev"},
        "spec": {
            "group": "egret.dev", "scope": "Cluster",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wi"]},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {
                        "type": "object", "required": ["fence"],
                        "x-kubernetes-validations": [
                            {"rule": "self.fence >= oldSelf.fence", "message": "the fence never goes back"},
                            {"rule": "!(has(self.interface) && has(self.egressIP))", "message": "either interface or egressIP"},
                        ],
                        "properties": {
                            "fence": {"type": "integer", "format": "int64", "minimum": 1},
                            "interface": {"type": "string", "maxLength": 15, "pattern": "^[a-z0-9]+$"},
                            "egressIP": {
                                "type": "string", "x-kubernetes-validations": [{"rule": "isIP(self)", "message": "an address"}],
                            },
                            "mode": {"type": "string", "enum": ["Drop", "Passthrough"], "default": "Drop"},
                            "cidrs": {
                                "type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "string"},
                                "x-kubernetes-validations": [{"rule": "self.all(one, isCIDR(one))", "message": "networks"}],
                            },
                        },
                    },
                    "status": {"type": "object", "properties": {
                        "revision": {"type": "string"},
                        "conditions": {
                            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                            "items": {"type": "object", "required": ["type"], "properties": {
                                "type": {"type": "string"}, "status": {"type": "string"},
                            }},
                        },
                    }},
                }}},
            }],
        },
    })
}

fn widget(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "egret.dev/v1alpha1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}
