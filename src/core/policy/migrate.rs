//! Egress gateway policies of other kinds that Egret does not read, translated: Cilium's former CiliumEgressNATPolicy, and
//! Isovalent's IsovalentEgressGatewayPolicy.
//!
//! The translation is an EgressPolicy, which Cilium's agents do not read, so that nothing is steered twice. Not here: the
//! files (`cli::migrate`), and the warning about such a document (`file`).

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::diagnostic_sink::DiagnosticSink;
use super::document::{CILIUM_FORMER, DocumentKind, field};
use super::yaml::{ScalarKind, YamlNode, YamlPart, YamlValue, parts};

/// A kind that can be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `cilium.io/v2alpha1 CiliumEgressNATPolicy`, in Cilium 1.10 to 1.12.
    EgressNat,
    /// `isovalent.com/v1 IsovalentEgressGatewayPolicy`
    Isovalent,
}

impl Source {
    /// `kind` in a document.
    pub fn name(self) -> &'static str {
        match self {
            Self::EgressNat => CILIUM_FORMER,
            Self::Isovalent => "IsovalentEgressGatewayPolicy",
        }
    }

    /// The kind of a document, if it is one of these, in any version.
    pub fn of(root: &YamlNode) -> Option<Self> {
        let text = |name: &str| match &field(root, name)?.value.value {
            YamlValue::Scalar(scalar) => Some(scalar.text.as_str()),
            _ => None,
        };
        let group = text("apiVersion")?.split('/').next()?;
        let known = [("cilium.io", Self::EgressNat), ("isovalent.com", Self::Isovalent)];
        let (_, source) = known.into_iter().find(|(of, source)| *of == group && text("kind") == Some(source.name()))?;
        Some(source)
    }
}

/// A file with its documents translated.
#[derive(Debug, PartialEq, Eq)]
pub struct Translated {
    /// The whole file. Documents of other kinds have not changed by a byte.
    pub file: String,
    /// The translations alone.
    pub documents: String,
    /// How many there are.
    pub count: usize,
    /// Documents that are not YAML or stand in a list, by line, with the reason: they are left as they are.
    pub left: Vec<(usize, &'static str)>,
}

/// Translates the documents of a file.
pub fn translate(text: &str) -> Translated {
    let mut found = Translated { file: String::new(), documents: String::new(), count: 0, left: Vec::new() };
    for part in parts(text) {
        match of_part(text, &part) {
            Some(Ok(document)) => {
                let start = if part.text.starts_with("---") { "---\n" } else { "" };
                let _ = write!(found.file, "{start}{document}");
                let _ = write!(found.documents, "{}{document}", if found.count > 0 { "---\n" } else { "" });
                found.count += 1;
            }
            Some(Err(why)) => {
                found.left.push((part.place(text, 0).start.line, why));
                found.file.push_str(part.text);
            }
            None => found.file.push_str(part.text),
        }
    }
    found
}

/// The translation of a part of a file; none if it has no document of these kinds.
fn of_part(text: &str, part: &YamlPart<'_>) -> Option<Result<String, &'static str>> {
    if ![Source::EgressNat, Source::Isovalent].iter().any(|source| part.text.contains(source.name())) {
        return None;
    }
    let mut sink = DiagnosticSink::new("");
    let trees = part.read(&mut 0, &mut sink);
    let roots: Vec<&YamlNode> = trees.iter().filter_map(|tree| tree.root.as_ref()).collect();
    let is_list = |root: &&YamlNode| {
        matches!(field(root, "items").map(|entry| &entry.value.value),
            Some(YamlValue::Sequence(items)) if items.iter().any(|item| Source::of(item).is_some()))
    };
    let source = roots.iter().find_map(|root| Source::of(root));
    let (source, root) = match (source, &roots[..]) {
        _ if roots.iter().any(is_list) => return Some(Err("it stands in a list: write it as a document of its own")),
        (None, _) => return None,
        (Some(_), _) if sink.errors() > 0 || text.is_empty() => return Some(Err("it is not valid YAML")),
        (Some(source), [root]) => (source, *root),
        (Some(_), _) => return Some(Err("write `---` between it and the document beside it")),
    };
    Some(Ok(document(source, &to_json(root))))
}

fn to_json(node: &YamlNode) -> Value {
    match &node.value {
        YamlValue::Scalar(scalar) => match scalar.kind() {
            ScalarKind::Null => Value::Null,
            ScalarKind::Boolean(value) => Value::Bool(value),
            ScalarKind::Number => scalar.integer().map_or_else(|| json!(scalar.text), Value::from),
            ScalarKind::Text => json!(scalar.text),
        },
        YamlValue::Sequence(items) => Value::Array(items.iter().map(to_json).collect()),
        YamlValue::Mapping(entries) => {
            Value::Object(entries.iter().map(|entry| (entry.key.clone(), to_json(&entry.value))).collect())
        }
    }
}

/// The document in YAML, behind comments about what has no translation.
fn document(source: Source, old: &Value) -> String {
    let mut notes = Vec::new();
    let spec = spec(source, &old["spec"], &mut notes);
    let mut metadata = Map::new();
    for name in ["name", "labels"] {
        metadata.extend(
            old["metadata"].get(name).filter(|value| !value.is_null()).map(|value| (name.to_owned(), value.clone())),
        );
    }
    if !old["metadata"]["annotations"].is_null() {
        notes.push("annotations were left out: most tell of the former object".to_owned());
    }
    let mut text = format!("# Translated from {} by `egret migrate`.\n", source.name());
    for note in notes {
        let _ = writeln!(text, "# NOTE {note}.");
    }
    let kind = DocumentKind::EgressPolicy;
    let _ = writeln!(text, "apiVersion: {}\nkind: {}", kind.api_version(), kind.name());
    for (key, value) in [("metadata", Value::Object(metadata)), ("spec", Value::Object(spec))] {
        text.push_str(key);
        text.push(':');
        write(&value, 2, &mut text);
    }
    text
}

fn spec(source: Source, old: &Value, notes: &mut Vec<String>) -> Map<String, Value> {
    let mut spec = Map::new();
    let (selectors, known): (&str, &[&str]) = match source {
        Source::EgressNat => ("egress", &["egress", "destinationCIDRs", "excludedCIDRs", "egressSourceIP"]),
        Source::Isovalent => (
            "selectors",
            &[
                "selectors",
                "destinationCIDRs",
                "excludedCIDRs",
                "egressGroups",
                "egressCIDRs",
                "azAffinity",
                "bgpEnabled",
            ],
        ),
    };
    for (new, former) in
        [("selectors", selectors), ("destinationCIDRs", "destinationCIDRs"), ("excludedCIDRs", "excludedCIDRs")]
    {
        spec.extend(old.get(former).filter(|value| !value.is_null()).map(|value| (new.to_owned(), value.clone())));
    }
    match source {
        Source::EgressNat => {
            spec.insert("egressGateway".to_owned(), json!({"nodeSelector": {}, "egressIP": old["egressSourceIP"]}));
            notes.push("`nodeSelector: {}` is every node: the one that has the address is the gateway, as before. A label keeps others from becoming it".to_owned());
        }
        Source::Isovalent => {
            spec.insert("egressGateways".to_owned(), groups(&old["egressGroups"], notes));
            about_the_rest(old, notes);
        }
    }
    for name in
        old.as_object().into_iter().flatten().map(|(name, _)| name).filter(|name| !known.contains(&name.as_str()))
    {
        notes.push(format!("`{name}` has no translation"));
    }
    spec
}

/// `egressGroups` as gateways.
fn groups(groups: &Value, notes: &mut Vec<String>) -> Value {
    let mut gateways = Vec::new();
    for (index, group) in groups.as_array().into_iter().flatten().enumerate() {
        let mut gateway = Map::new();
        for (name, value) in group.as_object().into_iter().flatten() {
            match name.as_str() {
                "nodeSelector" | "interface" | "egressIP" => {
                    gateway.insert(name.clone(), value.clone());
                }
                "maxGatewayNodes" => {}
                other => notes.push(format!("`egressGroups[{index}].{other}` has no translation")),
            }
        }
        if gateway.get("egressIP").is_none_or(Value::is_null) && group["maxGatewayNodes"] != 1 {
            notes.push(format!(
                "egressGroups[{index}] uses {} nodes that match at the same time; an entry of `egressGateways` uses one, and the \
                 next by name takes over. For several at once write an entry for each, with selectors that differ",
                group["maxGatewayNodes"].as_i64().filter(|most| *most > 0).map_or("all".to_owned(), |most| format!("up to {most}"))
            ));
        }
        gateways.push(Value::Object(gateway));
    }
    Value::Array(gateways)
}

/// What Isovalent's kind has beyond Egret's.
fn about_the_rest(old: &Value, notes: &mut Vec<String>) {
    if let Some(networks) = old["egressCIDRs"].as_array().filter(|networks| !networks.is_empty()) {
        let networks: Vec<&str> = networks.iter().filter_map(Value::as_str).collect();
        notes.push(format!(
            "`egressCIDRs` ({}) has no translation: Egret gives no addresses. Add them to the nodes, and name one in `egressIP` \
             of each gateway",
            networks.join(", ")
        ));
    }
    if let Some(affinity) = old["azAffinity"].as_str().filter(|affinity| !["", "disabled"].contains(affinity)) {
        notes.push(format!(
            "`azAffinity: {affinity}` has no translation. A policy for each zone does the same: `nodeSelector` with \
             topology.kubernetes.io/zone in its selectors and in its gateways"
        ));
    }
    if old["bgpEnabled"] == true {
        notes.push("`bgpEnabled` has no translation: Egret announces no address".to_owned());
    }
}

/// Writes a value behind its key, in block style; texts are in quotes, so that none is taken for a number.
fn write(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            for item in items {
                let mut text = String::new();
                write(item, indent + 2, &mut text);
                // A mapping begins on the line of its dash.
                let text = text.strip_prefix('\n').map_or(text.as_str(), |text| &text[indent + 1..]);
                let _ = write!(out, "{pad}-{text}");
            }
        }
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            for (key, value) in map {
                let _ = write!(out, "{pad}{}:", key_text(key));
                write(value, indent + 2, out);
            }
        }
        Value::Null => out.push_str(" null\n"),
        scalar => {
            let _ = writeln!(out, " {scalar}");
        }
    }
}

fn key_text(key: &str) -> String {
    let is_plain = key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        && !["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&key.to_ascii_lowercase().as_str());
    if is_plain { key.to_owned() } else { Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::policy::file::parse;

    const NAT: &str = "apiVersion: cilium.io/v2alpha1\nkind: CiliumEgressNATPolicy\nmetadata: {name: old}\nspec:\n  egress:\n  - podSelector:\n      matchLabels: {app: web, 'on': 'yes'}\n  destinationCIDRs: [192.0.2.0/24]\n  egressSourceIP: 198.51.100.7\n";

    #[test]
    fn a_nat_policy_becomes_an_egress_policy_that_is_valid() {
        let text = format!("# kept\na: 1 # as it is\n---\n{NAT}---\n{{b: 2}}\n");
        let found = translate(&text);
        let expected = "# Translated from CiliumEgressNATPolicy by `egret migrate`.\n\
            # NOTE `nodeSelector: {}` is every node: the one that has the address is the gateway, as before. A label keeps others from becoming it.\n\
            apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata:\n  name: \"old\"\nspec:\n  destinationCIDRs:\n    - \"192.0.2.0/24\"\n  \
            egressGateway:\n    egressIP: \"198.51.100.7\"\n    nodeSelector: {}\n  selectors:\n    - podSelector:\n        matchLabels:\n          \
            app: \"web\"\n          \"on\": \"yes\"\n";
        assert_eq!(found.documents, expected);
        assert_eq!(found.file, format!("# kept\na: 1 # as it is\n---\n{expected}---\n{{b: 2}}\n"));
        assert_eq!((found.count, found.left), (1, Vec::new()));
        let parsed = parse("p.yaml", &found.documents);
        assert_eq!((parsed.good.len(), parsed.diagnostics), (1, Vec::new()));
    }

    #[test]
    fn isovalents_policy_is_translated_as_far_as_egret_has_the_same_and_the_rest_is_told() {
        let text = "apiVersion: isovalent.com/v1\nkind: IsovalentEgressGatewayPolicy\nmetadata: {name: ha, labels: {advertise: bgp}, annotations: {a: b}}\n\
            spec:\n  azAffinity: localOnly\n  egressCIDRs: [203.0.113.0/28]\n  bgpEnabled: true\n  destinationCIDRs: [0.0.0.0/0]\n  \
            selectors: [{podSelector: {}}]\n  egressGroups:\n  - {nodeSelector: {matchLabels: {gw: a}}, interface: net0, maxGatewayNodes: 2}\n  \
            - {nodeSelector: {matchLabels: {gw: b}}, egressIP: 198.51.100.7}\n  spare: 1\n";
        let found = translate(text);
        let notes: Vec<&str> = found.documents.lines().filter(|line| line.starts_with("# NOTE")).collect();
        for (note, word) in notes.iter().zip([
            "up to 2 nodes",
            "egressCIDRs",
            "azAffinity: localOnly",
            "bgpEnabled",
            "spare",
            "annotations",
        ]) {
            assert!(note.contains(word), "{notes:?}");
        }
        assert_eq!(notes.len(), 6);
        let parsed = parse("p.yaml", &found.documents);
        let gateways = parsed.good[0].1.policy().unwrap().policy.gateways.clone();
        let gateways: Vec<String> = gateways.iter().map(|one| format!("{} {}", one.node, one.egress)).collect();
        assert_eq!(gateways, ["gw=a dev net0", "gw=b 198.51.100.7"]);
    }

    #[test]
    fn what_cannot_be_translated_is_left_and_named() {
        let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}", NAT.trim_end().replace('\n', "\n  "));
        let found = translate(&list);
        assert_eq!((found.file.as_str(), found.count), (list.as_str(), 0));
        assert_eq!(found.left, [(1, "it stands in a list: write it as a document of its own")]);
        let broken = format!("{NAT}---\n{NAT}  egress: 1\n");
        let found = translate(&broken);
        assert_eq!((found.count, found.left), (1, vec![(10, "it is not valid YAML")]));
        for other in
            ["kind: IsovalentEgressGatewayPolicy\napiVersion: example.com/v1\n", "# CiliumEgressNATPolicy\n", ""]
        {
            assert_eq!(
                translate(other),
                Translated { file: other.to_owned(), documents: String::new(), count: 0, left: Vec::new() }
            );
        }
    }
}
