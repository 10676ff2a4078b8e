//! JSON Schemas of the documents, for editors: completion, and most mistakes underlined while typing.
//!
//! Egret does not validate with them: the readers (`check`) are stricter than a schema can be; a schema only must not
//! reject what the readers accept. `tests/it/descriptions.rs` compares the fields of readers, schemas and custom resource
//! definitions.
//!
//! Draft 7, which the editors' YAML language server reads.

use serde_json::{Value, json};

use super::acknowledged::{ACKNOWLEDGE, CODES};
use super::document::ANNOTATIONS;
use super::limits::max_gateways;

/// The schemas, each with its file name in `schemas/`.
pub fn files() -> [(&'static str, String); 2] {
    [("config.json", format!("{:#}\n", config())), ("document.json", format!("{:#}\n", document()))]
}

fn object(description: &str, required: &[&str], properties: &Value) -> Value {
    let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !description.is_empty() {
        schema["description"] = json!(description);
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn list(description: &str, items: &Value) -> Value {
    json!({"type": "array", "description": description, "items": items})
}

fn word(description: &str, words: &[&str]) -> Value {
    json!({"description": description, "enum": words})
}

fn on_no_gateway() -> Value {
    word(
        "What happens to packets while no gateway is fit: dropped (the default), or sent as if there were no policy.",
        &["Drop", "Passthrough"],
    )
}

fn existing_connections() -> Value {
    word(
        "What happens to live connections when their exit changes: they stay on it (the default), or are reset.",
        &["Keep", "Reset"],
    )
}

/// `egret.yaml`.
fn config() -> Value {
    let values = json!({
        "paths": list("Folders and files with documents, or patterns with * and **; everything if left out.", &json!({"type": "string"})),
        "reports": reports(),
        "schedule": object("When to compare everything even though nothing changed.", &[], &json!({
            "cron": text("Five fields of crontab: minute, hour, day of the month, month, day of the week."),
            "timeZone": text("An IANA name as Europe/Berlin; UTC if left out."),
        })),
        "changeWindows": change_windows(),
        "suspend": object("Commits wait until then; the active ones stay applied.", &["until", "owner", "reason"], &json!({
            "until": text("RFC 3339: 2026-12-31T18:00:00Z."),
            "owner": text("The contact."),
            "reason": text("The reason, shown in reports."),
        })),
        "signatures": signatures(),
        "onNoGateway": on_no_gateway(),
        "existingConnections": existing_connections(),
        "onLabelDrift": word(
            "What happens to a node label that another writer changed: corrected and reported (the default), or only reported.",
            &["Correct", "Report"],
        ),
        "gateways": gateways(),
        "nodeLabels": node_labels(),
        "maxRemovals": {"type": "string", "pattern": "^([0-9]{1,2}|100)%$", "description":
            "The share of policies, and of their members, that a commit may remove without the trailer Egret-Confirm-Removals; 50% if left out."},
        "requireNamespace": {"type": "boolean", "description":
            "true: a policy's selectors must say which namespaces its members are in; false if left out."},
        "podCIDRs": list("Pod networks, where Node objects do not have them.", &cidr()),
        "serviceCIDRs": list("Service networks.", &cidr()),
        "exclusions": list("Destinations that are never steered, whatever a policy says.", &cidr()),
        "datapath": datapath(),
        "failover": failover(),
    });
    let mut properties = values.clone();
    properties["apiVersion"] = json!({"const": "egret.dev/v1alpha1"});
    properties["kind"] = json!({"const": "Config"});
    properties["metadata"] = json!({"type": "object"});
    properties["clusters"] = json!({
        "type": "object",
        "description": "Values of one cluster, by its name; they win over those above.",
        "additionalProperties": object("", &[], &values),
    });
    let mut schema = object("Egret's configuration of this repository.", &["apiVersion", "kind"], &properties);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("egret.yaml");
    schema
}

fn reports() -> Value {
    object(
        "Drift reports.",
        &[],
        &json!({
            "branch": text("The branch they are committed to; `<cluster>` is replaced. egret/reports/<cluster> if left out."),
            "enabled": {"type": "boolean", "description": "Whether they are committed; true if left out."},
            "keep": duration("How long each report stays a commit of its own; older ones are folded into one. 90d if left out."),
            "snapshot": object("The cluster facts that previews need, on the same branch.", &[], &json!({
                "enabled": {"type": "boolean", "description": "Whether it is kept there; true if left out."},
                "every": duration("Its maximum age once the cluster has changed; 1h if left out."),
            })),
        }),
    )
}

fn signatures() -> Value {
    object(
        "The signatures that a commit needs to be activated.",
        &["require"],
        &json!({
            "require": word(
                "Which commits: only the one that is activated, or every one that comes with it.",
                &["Head", "Every"],
            ),
            "allowedSigners": list(
                "Lines of OpenSSH's allowed_signers: NAME [namespaces=\"git\"] KIND KEY.",
                &json!({"type": "string"}),
            ),
            "openPGPKeys": list("Armored OpenPGP public keys.", &json!({"type": "string"})),
        }),
    )
}

fn datapath() -> Value {
    object(
        "The marks, tables and port that Egret uses. Change them where another program uses the same.",
        &[],
        &json!({
            "markMask": {
                "type": ["integer", "string"],
                "description": "The bits of packet and connection marks that are Egret's, 2 to 15 in one run, as 0x1fff; or auto, which it is if left out: each node chooses bits that no other program on it uses.",
            },
            "firstTable": number("The first routing table and rule priority; 9000 if left out.", 1, 32766),
            "port": number("The UDP port of the tunnel; 4790 if left out.", 1, 65535),
            "mtu": number("The MTU of the tunnel; 1450 if left out.", 1280, 65535),
        }),
    )
}

fn failover() -> Value {
    object(
        "How nodes probe the gateways of their members, and when a standby stands in for one that does not answer.",
        &[],
        &json!({
            "enabled": {"type": "boolean", "description": "false: gateways are not probed; true if left out."},
            "interval": text("The time between two probes of a gateway: 20ms to 10s; 75ms if left out. Large clusters use longer ones."),
            "misses": number("How many probes in a row without an answer make a gateway silent; 3 if left out.", 2, 100),
        }),
    )
}

fn gateways() -> Value {
    object(
        "Which nodes may be gateways.",
        &[],
        &json!({"onlyLabelledFromGit": {"type": "boolean", "description":
            "true: only nodes that NodeLabels of this repository give the labels of a gateway's nodeSelector. A kubelet can set most \
             labels on its own node; false if left out."}}),
    )
}

fn node_labels() -> Value {
    let keys = list(
        "Keys that NodeLabels may have; a `*` at the end stands for the rest of the name. All that the cluster's operator allows if \
         left out, which is all but Kubernetes' own.",
        &json!({"type": "string", "maxLength": 317}),
    );
    object("Labels of nodes that Egret writes.", &[], &json!({"allowedKeys": keys}))
}

fn change_windows() -> Value {
    let window = object(
        "",
        &["cron", "duration"],
        &json!({
            "name": text("Its name in messages."),
            "cron": text("When it opens. Five fields of crontab: minute, hour, day of the month, month, day of the week."),
            "timeZone": text("An IANA name as Europe/Berlin; UTC if left out."),
            "duration": text("For how long: 4h, 90m, 2d; 7d at most."),
        }),
    );
    object(
        "When commits may be activated; always if left out.",
        &[],
        &json!({
            "open": list("It is open while one of them is.", &window),
            "emergencyTrailer": text(
                "A commit with this trailer and a reason behind it is activated outside the windows too: Egret-Emergency."),
        }),
    )
}

/// Every kind but the Config, distinguished by `kind`.
fn document() -> Value {
    let kinds = [
        ("CiliumEgressGatewayPolicy", "cilium.io/v2", policy_spec(false)),
        ("EgressPolicy", "egret.dev/v1alpha1", policy_spec(true)),
        ("NodeLabels", "egret.dev/v1alpha1", node_labels_spec()),
        ("EgressAssertion", "egret.dev/v1alpha1", assertion_spec()),
        ("EgressPool", "egret.dev/v1alpha1", pool_spec()),
    ];
    let branches: Vec<Value> = kinds
        .into_iter()
        .map(|(kind, version, spec)| {
            let whole = object(
                "",
                &["apiVersion", "kind", "metadata", "spec"],
                &json!({
                    "apiVersion": {"const": version},
                    "kind": {"const": kind},
                    "metadata": metadata(),
                    "spec": spec,
                    "status": {"type": "object"},
                }),
            );
            json!({"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": whole})
        })
        .collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A document of Egret",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {
            "apiVersion": {"enum": ["cilium.io/v2", "egret.dev/v1alpha1"]},
            "kind": {"enum": ["CiliumEgressGatewayPolicy", "EgressPolicy", "NodeLabels", "EgressAssertion", "EgressPool"]},
        },
        "allOf": branches,
    })
}

fn metadata() -> Value {
    let own = ANNOTATIONS.iter().map(|word| (format!("egret.dev/{word}"), json!({"type": "string"})));
    let acknowledged = CODES.iter().map(|code| {
        let why = json!({"type": "string", "description": "Why this warning is meant; it is not reported."});
        (format!("egret.dev/{ACKNOWLEDGE}{code}"), why)
    });
    let annotations: serde_json::Map<String, Value> = own.chain(acknowledged).collect();
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"},
            "annotations": {"type": "object", "properties": annotations, "additionalProperties": {"type": "string"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    })
}

fn policy_spec(egret: bool) -> Value {
    let gateway = gateway(egret);
    let mut properties = json!({
        "selectors": selectors(),
        "destinationCIDRs": {"type": "array", "minItems": 1, "items": cidr(), "description": "Packets to where."},
        "excludedCIDRs": list("Destinations that are not steered.", &cidr()),
        "egressGateway": gateway,
        "egressGateways": {
            "type": "array", "maxItems": max_gateways(), "items": gateway,
            "description": "Several gateways; members are spread over them.",
        },
    });
    if egret {
        properties["priority"] =
            number("Between policies with the same prefix the higher one wins.", i32::MIN.into(), i32::MAX.into());
        properties["onNoGateway"] = on_no_gateway();
        properties["existingConnections"] = existing_connections();
        properties["suspend"] = object(
            "Deactivates the policy for a while.",
            &["until", "reason"],
            &json!({
                "until": {"type": "string", "description": "RFC 3339: 2026-12-31T18:00:00Z."},
                "owner": text("The contact."),
                "reason": text("The reason, shown in reports."),
            }),
        );
    }
    object(
        "Whose packets to where leave through which node, with which address.",
        &["selectors", "destinationCIDRs"],
        &properties,
    )
}

fn selectors() -> Value {
    let member = object(
        "All that are given must match; one of the first two must be given.",
        &[],
        &json!({
            "namespaceSelector": label_selector("By labels of the pod's namespace; {} is every one."),
            "podSelector": label_selector(
                "By labels of the pod; {} is every one. The key io.kubernetes.pod.namespace is its namespace's name."),
            "nodeSelector": label_selector("By labels of the node the pod is on."),
        }),
    );
    json!({"type": "array", "minItems": 1, "items": member, "description": "Which pods: any of these."})
}

fn assertion_spec() -> Value {
    object(
        "What has to be true of the pods' packets, whatever the policies say: leavesAs, or neverSteered.",
        &["selectors", "destinationCIDRs"],
        &json!({
            "selectors": selectors(),
            "destinationCIDRs": {"type": "array", "minItems": 1, "items": cidr(), "description": "Packets to where."},
            "excludedCIDRs": list("Destinations that nothing is asserted of.", &cidr()),
            "leavesAs": {"type": "array", "minItems": 1, "items": {"type": "string"}, "description":
                "Every packet leaves with one of these addresses, also while any one gateway is lost."},
            "orDropped": {"type": "boolean", "description": "true: a packet may be dropped, too; false if left out."},
            "neverSteered": {"const": true, "description": "No packet is steered or dropped; it leaves by its node's own routing."},
        }),
    )
}

fn pool_spec() -> Value {
    let ranges = |description: &str| list(description, &json!({"type": "string", "pattern": "^[0-9a-fA-F:./-]+$"}));
    object(
        "Addresses that gateways have, of which policies ask for some.",
        &["addresses"],
        &json!({
            "addresses": ranges("Ranges, networks and single addresses, 4096 at most: 10.0.3.40-10.0.3.47, 2001:db8::/124, 10.0.3.60."),
            "reserved": ranges("Those of them that no policy gets."),
        }),
    )
}

fn gateway(egret: bool) -> Value {
    let mut properties = json!({
        "nodeSelector": label_selector("The first fit node of these, by name, is the gateway."),
        "interface": text("Packets leave with its first address. Not together with egressIP."),
        "egressIP": text("Packets leave with this address; some interface of the node has it."),
    });
    if egret {
        properties["egressIPs"] = list(
            "Packets leave with these addresses; each pod keeps to one, or to one of each family.",
            &json!({"type": "string"}),
        );
        properties["egressPool"] = object(
            "Packets leave with addresses that Egret takes from an EgressPool.",
            &["name"],
            &json!({
                "name": text("The pool's name."),
                "addresses": number("How many addresses, of each family; 1 if left out. Each pod keeps to one.", 1, 64),
            }),
        );
        properties["nextHop"] = text("The router behind the interface.");
        properties["nextHops"] = list("One router for each family.", &json!({"type": "string"}));
        let fields = json!({
            "interface": text("The interface; left out: the one with the network that contains the address."),
            "failback": {"type": "boolean", "description":
                "The address returns to the first fit node when that is back; false if left out."},
        });
        properties["assign"] = json!({
            "description": "Egret puts egressIP on an interface of the gateway, and moves it when the gateway fails.",
            "type": ["boolean", "object"],
            "properties": fields,
            "additionalProperties": false,
        });
    }
    object(
        "A gateway. Without interface and egressIP: the address of the default route's interface.",
        &["nodeSelector"],
        &properties,
    )
}

fn node_labels_spec() -> Value {
    object(
        "Labels for nodes, by name or by selector.",
        &["labels"],
        &json!({
            "nodes": {"type": "array", "minItems": 1, "items": {"type": "string"}, "description": "Names of nodes."},
            "nodeSelector": label_selector("Nodes with these labels."),
            "labels": {
                "type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "maxLength": 63},
                "description": "The labels they get. Labels removed here are removed from the nodes.",
            },
        }),
    )
}

fn label_selector(description: &str) -> Value {
    let expression = object(
        "",
        &["key", "operator"],
        &json!({
            "key": {"type": "string"},
            "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            "values": {"type": "array", "items": {"type": "string"}},
        }),
    );
    object(
        description,
        &[],
        &json!({
            "matchLabels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
            "matchExpressions": {"type": "array", "items": expression},
        }),
    )
}

fn cidr() -> Value {
    json!({"type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]{1,3}$"})
}

fn duration(description: &str) -> Value {
    json!({"type": "string", "description": description, "examples": ["90d", "1h 30m", "45m"]})
}

fn number(description: &str, minimum: i64, maximum: i64) -> Value {
    json!({"type": "integer", "description": description, "minimum": minimum, "maximum": maximum})
}
