//! Parses the text of one manifest file into objects, in the form that `kubectl get nodes,namespaces,pods -A -o yaml`
//! (or json) prints.
//!
//! Pure. The YAML parser reads JSON too, and so its errors have positions; JSON without an error is read by `json`,
//! which is ten times as fast. A document is read whole before any of it counts, because `kind` may come last: a
//! truncated `List` of kubectl's has none.
//!
//! Not here: reading files and retaining earlier content (see `manifests`). Fields that decide nothing are skipped
//! without being built; other kinds are skipped whatever their form.

mod json;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_yaml::{Location, Spanned};

use crate::cluster::LISTS;
use crate::core::diagnostic::{Diagnostic, Severity, SpanPoint};
use crate::core::facts::{Node, Pod, PodName};
use crate::core::gateway_interfaces::{self, GatewayInterface};
use crate::core::host_network::HostNetwork;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::pools::{Ipam, Network, PoolFamily, PoolKind, PoolSpec};

/// The static name of a kind, if it is one that is read.
fn known(kind: &str) -> Option<&'static str> {
    let pools = PoolKind::ALL.iter().map(|pool| pool.kind());
    ["Node", "Namespace", "Pod", "EgressNode", "EgressConfig"].into_iter().chain(pools).find(|known| *known == kind)
}

/// An object's key. Its text form is `node kind-worker`, `pod batuu/xwing`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ManifestKey {
    /// A node.
    Node(NodeName),
    /// A namespace.
    Namespace(String),
    /// A pod.
    Pod(PodName),
    /// A node's reported interfaces.
    EgressNode(NodeName),
    /// An object that defines pod networks, by its kind and name.
    Networks(&'static str, String),
}

impl fmt::Display for ManifestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Pod(name) => write!(f, "pod {name}"),
            Self::EgressNode(name) => write!(f, "egressnode {name}"),
            Self::Networks(kind, name) => write!(f, "{} {name}", kind.to_lowercase()),
        }
    }
}

/// One object of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestObject {
    /// The position of its name.
    pub place: SpanPoint,
    /// Its content.
    pub value: ManifestValue,
}

/// An object's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ManifestValue {
    /// A node.
    Node(Node),
    /// A namespace's labels.
    Namespace(Labels),
    /// A pod.
    Pod(Pod),
    /// A node's interfaces; none if it reports none.
    EgressNode(Option<HostNetwork>),
    /// Networks of pods.
    Networks(Vec<Network>),
}

/// The content of one file.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// The valid objects. Of two with one name the later counts.
    pub objects: BTreeMap<ManifestKey, ManifestObject>,
    /// Objects that have an error.
    pub broken: Vec<ManifestKey>,
    /// Errors of single objects.
    pub faults: Vec<Diagnostic>,
}

/// Parses one file's text. `Err`: nothing of the text can be trusted, not even which objects it leaves out.
pub(crate) fn parse(file: &str, text: &str) -> Result<Parsed, Box<Diagnostic>> {
    json::parse(file, text).map_or_else(|| parse_yaml(file, text), Ok)
}

fn parse_yaml(file: &str, text: &str) -> Result<Parsed, Box<Diagnostic>> {
    let documents: Vec<Document<Spanned<String>>> = serde_yaml::from_multiple_with_options(text, options())
        .map_err(|error| Box::new(syntax_fault(file, text, &error)))?;
    if documents.is_empty() {
        let fault = fault(file, SpanPoint::at(text, 0), "empty", "the file has no document".to_owned());
        let hint = "a file is empty while it is being written; to remove its objects, remove the file";
        return Err(Box::new(Diagnostic { hint: Some(hint.to_owned()), ..fault }));
    }
    let mut reader =
        Reader { file, parsed: Parsed::default(), place_of: |name: &Spanned<String>| point(name.referenced) };
    for document in documents {
        reader.document(document, text)?;
    }
    Ok(reader.parsed)
}

/// Sufficient for a dump of some 20,000 pods (each of 400 YAML nodes); the remaining limits protect against alias
/// bombs.
fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_events: 100_000_000,
            max_nodes: 50_000_000,
            max_documents: 1_000_000,
            max_total_scalar_bytes: 2 << 30,
        },
        with_snippet: false,
    }
}

/// Takes in documents whose names the parser has in the form `N`.
struct Reader<'a, F> {
    file: &'a str,
    parsed: Parsed,
    /// Where a name stands.
    place_of: F,
}

/// A name as a parser has it.
trait ParsedName {
    fn text(&self) -> &str;
}

impl ParsedName for Spanned<String> {
    fn text(&self) -> &str {
        &self.value
    }
}

impl<F> Reader<'_, F> {
    fn document<N: ParsedName>(&mut self, document: Document<N>, text: &str) -> Result<(), Box<Diagnostic>>
    where
        F: FnMut(&N) -> SpanPoint,
    {
        match document {
            Document { kind: None, place, .. } => {
                let place = place.map_or_else(|| SpanPoint::at(text, 0), point);
                let fault = fault(self.file, place, "no-kind", "the document has no kind".to_owned());
                let hint = "kubectl writes a list's kind behind its items: is the file cut off?";
                return Err(Box::new(Diagnostic { hint: Some(hint.to_owned()), ..fault }));
            }
            Document { kind: Some(kind), items: Some(items), .. } if LISTS.contains(&kind.as_str()) => {
                // The API server leaves `kind` out of the items of a NodeList.
                let of_items = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
                for item in items {
                    let kind = item.kind.clone().or_else(|| of_items.map(str::to_owned));
                    self.object(kind.as_deref().unwrap_or_default(), item);
                }
            }
            mut document => {
                let kind = document.kind.take().unwrap_or_default();
                self.object(&kind, document);
            }
        }
        Ok(())
    }

    /// Adds one object, or its error.
    fn object<N: ParsedName>(&mut self, kind: &str, document: Document<N>)
    where
        F: FnMut(&N) -> SpanPoint,
    {
        let Some(kind) = known(kind) else { return };
        let Some(name) = document.metadata.name else {
            let place = document.place.map(point).unwrap_or_default();
            self.parsed.faults.push(fault(self.file, place, "no-name", format!("a {kind} has no metadata.name")));
            return;
        };
        let place = (self.place_of)(&name);
        let name = name.text().to_owned();
        let labels =
            document.metadata.labels.0.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
        let (key, value) = match kind {
            "Node" | "EgressNode" => match NodeName::parse(&name) {
                // Another version may report interfaces in another form: then they are unknown.
                Ok(name) if kind == "EgressNode" => {
                    let network = gateway_interfaces::host_network(&document.status.interfaces);
                    (ManifestKey::EgressNode(name), Ok(ManifestValue::EgressNode(network)))
                }
                Ok(name) => {
                    (ManifestKey::Node(name), node(labels, document.spec, &document.status).map(ManifestValue::Node))
                }
                Err(error) => {
                    self.parsed.faults.push(fault(
                        self.file,
                        place,
                        "bad-name",
                        format!("`{name}` is no node: {error}"),
                    ));
                    return;
                }
            },
            "Namespace" => (ManifestKey::Namespace(name), Ok(ManifestValue::Namespace(labels))),
            "Pod" => {
                // kubectl also assumes `default` for a manifest without a namespace.
                let namespace = document.metadata.namespace.unwrap_or_else(|| "default".to_owned());
                let key = ManifestKey::Pod(PodName { namespace, name });
                let terminating = document.metadata.deletion_timestamp.is_some();
                (key, pod(labels, terminating, document.spec, document.status).map(ManifestValue::Pod))
            }
            // An EgressConfig, or a CNI object.
            _ => (ManifestKey::Networks(kind, name), networks(document.spec).map(ManifestValue::Networks)),
        };
        match value {
            Ok(value) => self.insert(key, ManifestObject { place, value }),
            Err(Unusable { location, message }) => {
                self.parsed.faults.push(fault(self.file, point(location), "bad-value", format!("{key}: {message}")));
                self.parsed.broken.push(key);
            }
        }
    }

    fn insert(&mut self, key: ManifestKey, object: ManifestObject) {
        let place = object.place;
        match self.parsed.objects.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(object);
            }
            Entry::Occupied(mut earlier) => {
                let line = earlier.get().place.line;
                let message = format!("{} is in this file already, in line {line}; this one counts", earlier.key());
                let fault = fault(self.file, place, "twice", message);
                self.parsed.faults.push(Diagnostic { severity: Severity::Warning, ..fault });
                earlier.insert(object);
            }
        }
    }
}

/// A value of the right type that is invalid.
struct Unusable {
    location: Location,
    message: String,
}

fn value_of<T: FromStr<Err: fmt::Display>>(text: &Spanned<String>, what: &str) -> Result<T, Unusable> {
    text.value.parse().map_err(|error| Unusable {
        location: text.referenced,
        message: format!("{what} `{}` cannot be used: {error}", text.value),
    })
}

fn node(labels: Labels, spec: Spec, status: &Status) -> Result<Node, Unusable> {
    let internal = status.addresses.iter().filter(|address| address.kind == "InternalIP");
    // The API server keeps `podCIDR` equal to the first of `podCIDRs`; manifests written by hand may have it alone.
    let cidrs = if spec.pod_cidrs.is_empty() { spec.pod_cidr.into_iter().collect() } else { spec.pod_cidrs };
    Ok(Node {
        labels,
        addresses: internal.map(|address| value_of(&address.address, "the InternalIP")).collect::<Result<_, _>>()?,
        pod_cidrs: cidrs.iter().map(|cidr| value_of(cidr, "the pod CIDR")).collect::<Result<_, _>>()?,
        ready: status
            .conditions
            .iter()
            .find(|condition| condition.kind == "Ready")
            .is_none_or(|ready| ready.status == "True"),
        unschedulable: spec.unschedulable.unwrap_or(false),
    })
}

/// The pod networks that an EgressConfig publishes, or that a CNI object defines.
fn networks(spec: Spec) -> Result<Vec<Network>, Unusable> {
    let Spec { cidr, disabled, allowed_uses, ipv4, ipv6, ipam, pod_networks, .. } = spec;
    let networks = PoolSpec { cidr, disabled, allowed_uses, ipv4, ipv6, ipam }.networks();
    networks.iter().chain(&pod_networks).map(|net| value_of(net, "the pod network")).collect()
}

fn pod(labels: Labels, terminating: bool, spec: Spec, status: Status) -> Result<Pod, Unusable> {
    let node = spec.node_name.filter(|name| !name.value.is_empty());
    let node = node.map(|name| {
        NodeName::parse(&name.value).map_err(|error| Unusable {
            location: name.referenced,
            message: format!("the node `{}` cannot be one: {error}", name.value),
        })
    });
    // A pod without an address yet has none of these, or an empty one.
    let listed: Vec<_> = status.pod_ips.into_iter().filter_map(|entry| entry.ip).collect();
    let addresses = if listed.is_empty() { status.pod_ip.into_iter().collect() } else { listed };
    let addresses = addresses.iter().filter(|address| !address.value.is_empty());
    Ok(Pod {
        labels,
        node: node.transpose()?,
        addresses: addresses
            .map(|address| value_of::<IpAddr>(address, "the pod's address"))
            .collect::<Result<_, _>>()?,
        host_network: spec.host_network.unwrap_or(false),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        terminating,
    })
}

fn point(location: Location) -> SpanPoint {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    SpanPoint {
        offset: number(location.span().byte_offset().unwrap_or_default()),
        line: number(location.line()).max(1),
        column: number(location.column()).max(1),
    }
}

fn fault(file: &str, place: SpanPoint, code: &'static str, message: String) -> Diagnostic {
    Diagnostic {
        file: file.to_owned(),
        start: place,
        end: place,
        severity: Severity::Error,
        code,
        message,
        label: String::new(),
        hint: None,
    }
}

fn syntax_fault(file: &str, text: &str, error: &serde_yaml::Error) -> Diagnostic {
    let place = error.location().map_or_else(|| SpanPoint::at(text, text.len()), point);
    fault(file, place, "unreadable", message_without_place(error))
}

/// The parser's messages end with the position, which a diagnostic has separately.
fn message_without_place(error: &serde_yaml::Error) -> String {
    let message = error.to_string();
    let first_line = message.lines().next().unwrap_or_default();
    first_line.split(" at line ").next().unwrap_or_default().to_owned()
}

/// The keys of a document that are read.
const READ: [&str; 5] = ["kind", "metadata", "spec", "status", "items"];

/// A document or an item of a list: the few fields that are read, of all kinds at once.
struct Document<N> {
    kind: Option<String>,
    /// The position of the first key.
    place: Option<Location>,
    metadata: Metadata<N>,
    spec: Spec,
    status: Status,
    items: Option<Vec<Document<N>>>,
}

#[derive(Deserialize)]
#[serde(bound = "N: Deserialize<'de>")]
struct Metadata<N> {
    name: Option<N>,
    namespace: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    labels: UniqueLabels,
    #[serde(rename = "deletionTimestamp")]
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<Spanned<String>>,
    host_network: Option<bool>,
    unschedulable: Option<bool>,
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<Spanned<String>>,
    #[serde(default, rename = "podCIDRs", deserialize_with = "null_is_default")]
    pod_cidrs: Vec<Spanned<String>>,
    // Fields of kinds that define pod networks.
    cidr: Option<Spanned<String>>,
    disabled: Option<bool>,
    allowed_uses: Option<Vec<String>>,
    ipv4: Option<PoolFamily<Spanned<String>>>,
    ipv6: Option<PoolFamily<Spanned<String>>>,
    ipam: Option<Ipam<Spanned<String>>>,
    #[serde(default, deserialize_with = "null_is_default")]
    pod_networks: Vec<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<Spanned<String>>,
    #[serde(default, rename = "podIPs", deserialize_with = "null_is_default")]
    pod_ips: Vec<PodIp>,
    #[serde(default, deserialize_with = "null_is_default")]
    addresses: Vec<Address>,
    #[serde(default, deserialize_with = "null_is_default")]
    conditions: Vec<Condition>,
    #[serde(default, deserialize_with = "null_is_default")]
    interfaces: Vec<GatewayInterface>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: Option<Spanned<String>>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: Spanned<String>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The YAML parser refuses a key that comes twice, and the JSON parser takes the last.
fn twice<E: serde::de::Error>(key: &str) -> E {
    E::custom(format_args!("the key {key:?} comes twice"))
}

/// Labels, each once.
#[derive(Default)]
struct UniqueLabels(BTreeMap<String, Option<String>>);

impl<'de> Deserialize<'de> for UniqueLabels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueLabelsVisitor)
    }
}

struct UniqueLabelsVisitor;

impl<'de> Visitor<'de> for UniqueLabelsVisitor {
    type Value = UniqueLabels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueLabels, A::Error> {
        let mut labels = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, Option<String>>()? {
            match labels.entry(key) {
                Entry::Occupied(taken) => return Err(twice(taken.key())),
                Entry::Vacant(free) => free.insert(value),
            };
        }
        Ok(UniqueLabels(labels))
    }
}

impl<N> Default for Metadata<N> {
    fn default() -> Self {
        Self { name: None, namespace: None, labels: UniqueLabels::default(), deletion_timestamp: None }
    }
}

impl<'de, N: Deserialize<'de>> Deserialize<'de> for Document<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor(PhantomData))
    }
}

/// Reads a document's fields, and skips those of other kinds as soon as the kind is known.
///
/// `kind` comes first in what kubectl and users write. Where it does not, an object of another kind whose `spec`
/// resembles a pod's but has other types is an error; buffering for that case would cost every document its
/// positions.
struct DocumentVisitor<N>(PhantomData<N>);

impl<'de, N: Deserialize<'de>> Visitor<'de> for DocumentVisitor<N> {
    type Value = Document<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document<N>, A::Error> {
        let (metadata, spec, status) = (Metadata::default(), Spec::default(), Status::default());
        let mut document = Document { kind: None, place: None, metadata, spec, status, items: None };
        let mut seen = [false; READ.len()];
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            document.place.get_or_insert(key.referenced);
            if let Some(at) = READ.iter().position(|read| *read == key.value)
                && mem::replace(&mut seen[at], true)
            {
                return Err(twice(&key.value));
            }
            let ours = document.kind.as_deref().is_none_or(|kind| known(kind).is_some());
            let list = document.kind.as_deref().is_none_or(|kind| LISTS.contains(&kind));
            match key.value.as_str() {
                "kind" => document.kind = map.next_value()?,
                "metadata" if ours => document.metadata = map.next_value::<Option<_>>()?.unwrap_or_default(),
                "spec" if ours => document.spec = map.next_value::<Option<_>>()?.unwrap_or_default(),
                "status" if ours => document.status = map.next_value::<Option<_>>()?.unwrap_or_default(),
                "items" if list => document.items = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(document)
    }
}
