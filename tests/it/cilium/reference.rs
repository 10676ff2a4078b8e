//! What Cilium makes of a document: the custom resource definition as the API server applies it, then the agent's parser.
//!
//! Written from Cilium's documentation and sources (`pkg/egressgateway/policy.go`), not from Egret's. A policy that the
//! API server takes and the agent refuses is refused: it steers nothing, and the agent says so in its log.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::go::{is_label_value, is_qualified_name, is_subdomain, parse_addr, parse_prefix};
use crate::apiserver::schema;

/// The versions that differ in what they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cilium {
    /// 1.18 and 1.19: `egressIP` is IPv4.
    V1_18,
    /// 1.20: `egressIP` is of either family (cilium/cilium#44524).
    V1_20,
}

/// A label selector: requirements by key, operator and values. None matches nothing: the agent logs that it cannot be parsed.
pub(crate) type Selector = Option<BTreeSet<(String, String, BTreeSet<String>)>>;

/// The meaning of a policy. Endpoints are those that any of `endpoints` matches, on nodes that any of `nodes` matches, if
/// there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) name: String,
    pub(crate) endpoints: BTreeSet<Selector>,
    pub(crate) nodes: BTreeSet<Selector>,
    pub(crate) destinations: BTreeSet<IpNet>,
    pub(crate) excluded: BTreeSet<IpNet>,
    /// Selector and `dev NAME`, an address, or `default`.
    pub(crate) gateways: Vec<(Selector, String)>,
}

/// The definition of a version.
fn definition(version: Cilium) -> &'static Value {
    static BOTH: LazyLock<BTreeMap<Cilium, Value>> = LazyLock::new(|| {
        let read = || serde_json::from_str::<Value>(include_str!("schema.json")).expect("a schema");
        let mut newer = read();
        let spec = &mut newer["properties"]["spec"]["properties"];
        spec["egressGateways"]["maxItems"] = json!(64);
        for pointer in ["/egressGateway", "/egressGateways/items"] {
            let gateway = spec.pointer_mut(pointer).expect("a gateway");
            gateway["properties"]["egressIP"] = json!({"type": "string", "maxLength": 39});
        }
        BTreeMap::from([(Cilium::V1_18, read()), (Cilium::V1_20, newer)])
    });
    &BOTH[&version]
}

/// The meaning of a document, or every reason why it has none.
pub(crate) fn read(sent: &Result<Value, String>, version: Cilium) -> Result<Meaning, Vec<String>> {
    let mut object = sent.clone().map_err(|why| vec![format!("yaml: {why}")])?;
    if object["apiVersion"] != "cilium.io/v2" || object["kind"] != "CiliumEgressGatewayPolicy" {
        return Err(vec!["kind: it is another one".to_owned()]);
    }
    let mut reasons = metadata(&object["metadata"]);
    let schema = definition(version);
    schema::prune(schema, &mut object);
    schema::fill(schema, &mut object);
    match schema::validate(schema, &object, None) {
        Ok(mistakes) => reasons.extend(mistakes.iter().map(|one| format!("schema: {}: {}", one.field, one.message))),
        Err(why) => panic!("{why}"),
    }
    reasons.extend(wrong_addresses(&object["spec"], version));
    if !reasons.is_empty() {
        return Err(reasons);
    }
    parse(&object).map_err(|why| vec![format!("agent: {why}")])
}

/// The `spec` of what is sent as the definition of 1.18 sees it, and whether that takes it; none where an empty `egressIP` or
/// no mapping leaves nothing to say.
pub(crate) fn of_definition(sent: &Value) -> Option<(Value, bool)> {
    let mut object = json!({"metadata": {}, "spec": sent.get("spec")?});
    let schema = definition(Cilium::V1_18);
    schema::prune(schema, &mut object);
    schema::fill(schema, &mut object);
    let spec = object["spec"].clone();
    let mistakes = schema::validate(schema, &object, None).expect("there is no rule to evaluate");
    let is_clear = spec.is_object() && !spec.to_string().contains("\"egressIP\":\"\"");
    is_clear.then(|| (spec.clone(), mistakes.is_empty() && wrong_addresses(&spec, Cilium::V1_18).is_empty()))
}

/// Rules that hold for the metadata of every object.
fn metadata(metadata: &Value) -> Vec<String> {
    let mut reasons = Vec::new();
    if !metadata["name"].as_str().is_some_and(is_subdomain) {
        reasons.push(format!("metadata: name: {}", metadata["name"]));
    }
    for (field, is_value) in [("labels", is_label_value as fn(&str) -> bool), ("annotations", |_| true)] {
        match &metadata[field] {
            Value::Null => {}
            Value::Object(map) => {
                for (key, value) in map {
                    let key_fits = is_qualified_name(&if field == "labels" { key.clone() } else { key.to_lowercase() });
                    // Null becomes an empty text.
                    let value_fits = value.is_null() || value.as_str().is_some_and(is_value);
                    if !key_fits || !value_fits {
                        reasons.push(format!("metadata: {field}: {key}: {value}"));
                    }
                }
            }
            other => reasons.push(format!("metadata: {field}: {other}")),
        }
    }
    reasons
}

/// `format: ipv4`, then the rule `self == '' || isIP(self)`, which takes neither zones nor IPv4 in the form of IPv6. Whether
/// an empty text is of that format is not claimed.
fn wrong_addresses(spec: &Value, version: Cilium) -> Vec<String> {
    let many = spec["egressGateways"].as_array().into_iter().flatten();
    let gateways = many.chain([&spec["egressGateway"]]);
    let written = gateways.filter_map(|gateway| gateway["egressIP"].as_str()).filter(|text| !text.is_empty());
    let judge = |text: &str| match parse_addr(text) {
        Some((IpAddr::V4(_), _)) => None,
        Some((IpAddr::V6(address), None)) if address.to_ipv4_mapped().is_none() => {
            (version == Cilium::V1_18).then(|| format!("schema: egressIP is not ipv4: {text}"))
        }
        _ => Some(format!("schema: egressIP is no address: {text}")),
    };
    written.filter_map(judge).collect()
}

/// `ParseCEGP`
fn parse(object: &Value) -> Result<Meaning, String> {
    let spec = &object["spec"];
    if spec["destinationCIDRs"].is_null() {
        return Err("destinationCIDRs is null".to_owned());
    }
    let many = spec["egressGateways"].as_array().filter(|many| !many.is_empty());
    let gateways = match many {
        Some(many) => many.iter().map(gateway).collect::<Result<_, _>>()?,
        None => vec![gateway(&spec["egressGateway"])?],
    };
    let (mut endpoints, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    for rule in spec["selectors"].as_array().into_iter().flatten() {
        let namespace = &rule["namespaceSelector"];
        if namespace.is_null() && rule["podSelector"].is_null() {
            return Err("a selector has neither namespaceSelector nor podSelector".to_owned());
        }
        let namespace = selector(namespace, "io.cilium.k8s.namespace.labels.");
        let pod = selector(&rule["podSelector"], "");
        endpoints.insert(namespace.zip(pod).map(|(namespace, pod)| namespace.into_iter().chain(pod).collect()));
        if !rule["nodeSelector"].is_null() {
            nodes.insert(selector(&rule["nodeSelector"], ""));
        }
    }
    Ok(Meaning {
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        endpoints,
        nodes,
        destinations: prefixes(&spec["destinationCIDRs"])?,
        excluded: prefixes(&spec["excludedCIDRs"])?,
        gateways,
    })
}

/// The networks; how they are written does not matter for what they match.
fn prefixes(list: &Value) -> Result<BTreeSet<IpNet>, String> {
    let written = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    written.map(|text| parse_prefix(text).map(|net| net.trunc()).ok_or(format!("prefix {text}"))).collect()
}

fn gateway(gateway: &Value) -> Result<(Selector, String), String> {
    let text = |field: &str| gateway[field].as_str().filter(|text| !text.is_empty());
    let egress = match (text("interface"), text("egressIP")) {
        (Some(_), Some(_)) => return Err("interface and egressIP".to_owned()),
        (Some(interface), None) => format!("dev {interface}"),
        (None, Some(address)) => parse_addr(address).ok_or(format!("egressIP {address}"))?.0.to_string(),
        (None, None) => "default".to_owned(),
    };
    Ok((selector(&gateway["nodeSelector"], ""), egress))
}

/// A label selector, each key behind a prefix. One that is missing has no requirement.
fn selector(value: &Value, prefix: &str) -> Selector {
    let mut found = BTreeSet::new();
    let texts = |value: &Value| -> BTreeSet<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let labels = value["matchLabels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| (key.clone(), "In", texts(&json!([value]))));
    let expressions = value["matchExpressions"].as_array().into_iter().flatten().map(|one| {
        (
            one["key"].as_str().unwrap_or_default().to_owned(),
            one["operator"].as_str().unwrap_or_default(),
            texts(&one["values"]),
        )
    });
    for (key, operator, values) in labels.chain(expressions) {
        let takes_values = ["In", "NotIn"].contains(&operator);
        if takes_values == values.is_empty()
            || !is_qualified_name(&key)
            || !values.iter().all(|value| is_label_value(value))
        {
            return None;
        }
        found.insert((format!("{prefix}{key}"), operator.to_owned(), values));
    }
    Some(found)
}
