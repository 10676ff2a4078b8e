//! Document kinds and heads, and the fields that each kind may have.
//!
//! The tables of fields here are what the readers accept and what the editor schemas offer; a test compares the two. Not
//! here: the contents of a `spec` (`check`).
//!
//! The Cilium document is the CRD `ciliumegressgatewaypolicies.cilium.io`, version v2, as of Cilium 1.18
//! (`pkg/k8s/apis/cilium.io/v2/cegp_types.go`).

use super::acknowledged::{ACKNOWLEDGE, Acknowledged, CODES};
use super::diagnostic_sink::{DiagnosticSink, Span, is_slip, nearest, quoted};
use super::mapping_reader::{MappingReader, list, mapping, text};
use super::yaml::{MappingEntry, YamlNode, YamlValue};
use super::{ObjectName, Origin};

/// The path of the configuration. A document of kind Config is allowed only here.
pub const CONFIG_FILE: &str = "egret.yaml";

/// Whether a file's name was meant to be `egret.yaml`: `Egret.yml`, `.egret.yaml`, `egret.json`, `egert.yaml`.
pub fn is_config_name(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).trim_start_matches('.');
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    let (expected, _) = CONFIG_FILE.rsplit_once('.').unwrap_or((CONFIG_FILE, ""));
    ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        // `egress.yaml` is another name.
        && is_slip(stem, expected)
}

/// The names that Kustomize reads, of which a folder has one.
pub const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Whether a file of this name is read: YAML or JSON, what was meant to be egret.yaml, and kustomizations.
pub fn is_read(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    matches!(suffix, "yaml" | "yml" | "json") || is_config_name(name) || KUSTOMIZATIONS.contains(&name)
}

/// The kind that CiliumEgressGatewayPolicy replaced. It is no typing mistake.
pub const CILIUM_FORMER: &str = "CiliumEgressNATPolicy";

/// The kinds that Egret reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentKind {
    /// `cilium.io/v2 CiliumEgressGatewayPolicy`
    CiliumEgressGatewayPolicy,
    /// `egret.dev/v1alpha1 EgressPolicy`
    EgressPolicy,
    /// `egret.dev/v1alpha1 NodeLabels`
    NodeLabels,
    /// `egret.dev/v1alpha1 EgressAssertion`
    EgressAssertion,
    /// `egret.dev/v1alpha1 EgressPool`
    EgressPool,
    /// `egret.dev/v1alpha1 Config`
    Config,
}

impl DocumentKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::CiliumEgressGatewayPolicy,
        Self::EgressPolicy,
        Self::NodeLabels,
        Self::EgressAssertion,
        Self::EgressPool,
        Self::Config,
    ];

    /// `kind` in a document.
    pub fn name(self) -> &'static str {
        match self {
            Self::CiliumEgressGatewayPolicy => "CiliumEgressGatewayPolicy",
            Self::EgressPolicy => "EgressPolicy",
            Self::NodeLabels => "NodeLabels",
            Self::EgressAssertion => "EgressAssertion",
            Self::EgressPool => "EgressPool",
            Self::Config => "Config",
        }
    }

    /// `apiVersion` in a document.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::CiliumEgressGatewayPolicy => "cilium.io/v2",
            Self::EgressPolicy | Self::NodeLabels | Self::EgressAssertion | Self::EgressPool | Self::Config => {
                "egret.dev/v1alpha1"
            }
        }
    }

    fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }
}

/// Placeholder for a file name: the document is a custom resource of the cluster. No path in Git begins like this.
pub(in crate::core::policy) const PUBLISHED: &str = "//spec.json";

/// Fields of a document other than a Config.
pub const ROOT: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
/// Fields of `metadata`: those of Kubernetes' ObjectMeta, since users commit the output of `kubectl get -o yaml`.
pub const METADATA: &[&str] = &[
    "name",
    "labels",
    "annotations",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "managedFields",
    "ownerReferences",
    "selfLink",
];
/// Fields of a CiliumEgressGatewayPolicy's `spec`.
pub const CILIUM_SPEC: &[&str] = &["selectors", "destinationCIDRs", "excludedCIDRs", "egressGateway", "egressGateways"];
/// Fields of an EgressPolicy's `spec`.
pub const EGRET_SPEC: &[&str] =
    &joined::<9>(&[CILIUM_SPEC, &["priority", "onNoGateway", "existingConnections", "suspend"]]);
/// Fields of a gateway entry in a CiliumEgressGatewayPolicy.
pub const CILIUM_GATEWAY: &[&str] = &["nodeSelector", "interface", "egressIP"];
/// Fields of a gateway entry in an EgressPolicy.
pub const EGRET_GATEWAY: &[&str] =
    &joined::<8>(&[CILIUM_GATEWAY, &["egressIPs", "egressPool", "nextHop", "nextHops", "assign"]]);
/// Fields of `egressPool`.
pub const EGRESS_POOL: &[&str] = &["name", "addresses"];
/// Fields of `assign`.
pub const ASSIGN: &[&str] = &["interface", "failback"];
/// Fields of an entry of `selectors`.
pub const MEMBER_SELECTOR: &[&str] = &["namespaceSelector", "podSelector", "nodeSelector"];
/// Fields of a label selector.
pub const LABEL_SELECTOR: &[&str] = &["matchLabels", "matchExpressions"];
/// Fields of an entry of `matchExpressions`.
pub const EXPRESSION: &[&str] = &["key", "operator", "values"];
/// Fields of `suspend`, of a policy and of a Config.
pub const SUSPEND: &[&str] = &["until", "owner", "reason"];
/// Fields of a NodeLabels' `spec`.
pub const NODE_LABELS_SPEC: &[&str] = &["nodes", "nodeSelector", "labels"];
/// Fields of an EgressAssertion's `spec`.
pub const ASSERTION_SPEC: &[&str] =
    &["selectors", "destinationCIDRs", "excludedCIDRs", "leavesAs", "orDropped", "neverSteered"];
/// Fields of an EgressPool's `spec`.
pub const POOL_SPEC: &[&str] = &["addresses", "reserved"];
/// Fields of `signatures`.
pub const SIGNATURES: &[&str] = &["require", "allowedSigners", "openPGPKeys"];
/// Fields of a Config that an entry of `clusters` may have too.
pub const CONFIG_VALUES: &[&str] = &[
    "paths",
    "reports",
    "schedule",
    "changeWindows",
    "suspend",
    "signatures",
    "onNoGateway",
    "existingConnections",
    "onLabelDrift",
    "gateways",
    "nodeLabels",
    "maxRemovals",
    "requireNamespace",
    "podCIDRs",
    "serviceCIDRs",
    "exclusions",
    "datapath",
    "failover",
];
/// Fields of a Config.
pub const CONFIG: &[&str] = &joined::<22>(&[&["apiVersion", "kind", "metadata"], CONFIG_VALUES, &["clusters"]]);
/// Fields of `reports`.
pub const REPORTS: &[&str] = &["branch", "enabled", "keep", "snapshot"];
/// Fields of `reports.snapshot`.
pub const SNAPSHOT: &[&str] = &["enabled", "every"];
/// Fields of `gateways`.
pub const GATEWAYS: &[&str] = &["onlyLabelledFromGit"];
/// Fields of `nodeLabels`.
pub const NODE_LABELS: &[&str] = &["allowedKeys"];
/// Fields of `schedule`.
pub const SCHEDULE: &[&str] = &["cron", "timeZone"];
/// Fields of `changeWindows`.
pub const CHANGE_WINDOWS: &[&str] = &["open", "emergencyTrailer"];
/// Fields of an entry of `changeWindows.open`.
pub const CHANGE_WINDOW: &[&str] = &["name", "cron", "timeZone", "duration"];
/// Fields of `datapath`.
pub const DATAPATH: &[&str] = &["markMask", "firstTable", "port", "mtu"];
/// Fields of `failover`.
pub const FAILOVER: &[&str] = &["enabled", "interval", "misses"];
/// Prefix of Egret's annotations.
pub const ANNOTATION_PREFIX: &str = "egret.dev/";
/// Annotations of a CiliumEgressGatewayPolicy, without their prefix.
pub const ANNOTATIONS: &[&str] = &[
    "priority",
    "on-no-gateway",
    "existing-connections",
    "next-hop",
    "assign",
    "suspend-until",
    "suspend-owner",
    "suspend-reason",
];

/// Concatenates lists of fields. A wrong length does not compile.
const fn joined<const N: usize>(lists: &[&[&'static str]]) -> [&'static str; N] {
    let mut all = [""; N];
    let (mut at, mut list) = (0, 0);
    while list < lists.len() {
        let mut field = 0;
        while field < lists[list].len() {
            all[at] = lists[list][field];
            (at, field) = (at + 1, field + 1);
        }
        list += 1;
    }
    assert!(at == N, "the length is that of all lists");
    all
}

/// A document of Egret's with its head parsed.
#[derive(Debug)]
pub struct Document<'n> {
    /// What it is.
    pub kind: DocumentKind,
    /// `metadata.name`; none if it is missing or invalid, which was reported.
    pub name: Option<ObjectName>,
    /// The location of the name, or where it should be.
    pub name_span: Span,
    /// Annotations that start with `egret.dev/`.
    pub annotations: Vec<&'n MappingEntry>,
    /// The warnings that annotations acknowledge.
    pub acknowledged: Acknowledged,
    /// The whole document.
    pub root: &'n YamlNode,
    /// Where it is.
    pub origin: Origin,
}

/// What a YAML document is.
#[derive(Debug)]
pub enum Recognised<'n> {
    /// One of Egret's.
    Ours(DocumentKind),
    /// A list of objects, with its items.
    List(&'n [YamlNode]),
    /// An object of another API.
    Foreign,
    /// Not a Kubernetes object.
    Nothing,
    /// Meant to be one of Egret's; the mistake was reported.
    Mistaken,
}

/// An entry of a mapping.
pub(super) fn field<'n>(node: &'n YamlNode, name: &str) -> Option<&'n MappingEntry> {
    match &node.value {
        YamlValue::Mapping(entries) => entries.iter().find(|entry| entry.key == name),
        _ => None,
    }
}

fn word(entry: Option<&MappingEntry>) -> Option<&str> {
    match &entry?.value.value {
        YamlValue::Scalar(scalar) => Some(&scalar.text),
        _ => None,
    }
}

/// Classifies a document by `apiVersion` and `kind`.
pub fn recognise<'n>(root: &'n YamlNode, out: &mut DiagnosticSink<'_>) -> Recognised<'n> {
    let (version_entry, kind_entry) = (field(root, "apiVersion"), field(root, "kind"));
    let (version, kind) = (word(version_entry), word(kind_entry));
    let group = version.and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
    let known = DocumentKind::ALL.into_iter().find(|known| kind == Some(known.name()));
    match (version_entry, kind_entry, known) {
        (_, _, Some(known)) if version == Some(known.api_version()) => Recognised::Ours(known),
        (Some(entry), _, Some(known)) if meant(known, group) => {
            out.error(entry.value.span, "unknown-version", format!("{} is of no known version here", known.name()))
                .hint(format!("apiVersion: {}", known.api_version()));
            Recognised::Mistaken
        }
        // Many programs' settings are a Config.
        (None, Some(entry), Some(known)) if known != DocumentKind::Config || is_config_name(out.file()) => {
            out.error(entry.key_span, "missing-field", "the document has no `apiVersion`")
                .hint(format!("apiVersion: {}", known.api_version()));
            Recognised::Mistaken
        }
        (Some(_), Some(entry), None)
            if !is_list(version, kind) && (group == "egret.dev" || near_cilium(group, kind)) =>
        {
            let names = DocumentKind::ALL.iter().filter(|known| known.group() == group).map(|known| known.name());
            let hint = match kind {
                Some("PublishedEgressPolicy") => Some(
                    "the controller writes that kind into the cluster; in Git it is an EgressPolicy, without `source` and `fence`"
                        .to_owned(),
                ),
                _ => nearest(kind.unwrap_or(""), names).map(|name| format!("did you mean `{name}`?")),
            };
            let message = format!("{group} has no kind {}", quoted(kind.unwrap_or("")));
            out.error(entry.value.span, "unknown-kind", message).hint_if(hint);
            Recognised::Mistaken
        }
        (Some(entry), None, _) if group == "egret.dev" => {
            let names: Vec<&str> = DocumentKind::ALL[1..].iter().map(|known| known.name()).collect();
            out.error(entry.key_span, "missing-field", "the document has no `kind`").hint(names.join(", "));
            Recognised::Mistaken
        }
        _ if is_list(version, kind) => match field(root, "items") {
            Some(entry) => Recognised::List(list(&entry.value, "`items`", out).unwrap_or(&[])),
            None => Recognised::List(&[]),
        },
        (Some(_), Some(_), _) if version.is_some() && kind.is_some() => Recognised::Foreign,
        _ => Recognised::Nothing,
    }
}

/// The list that `kubectl get -o yaml` prints, and the one that the API server sends.
fn is_list(version: Option<&str>, kind: Option<&str>) -> bool {
    [("v1", "List"), ("cilium.io/v2", "CiliumEgressGatewayPolicyList")]
        .into_iter()
        .any(|list| (version, kind) == (Some(list.0), Some(list.1)))
}

/// Whether a document with one of Egret's kinds and another apiVersion was meant to be Egret's. EgressPolicy and Config
/// exist in other APIs too (Spidernet, kubectl); CiliumEgressGatewayPolicy does not.
fn meant(kind: DocumentKind, group: &str) -> bool {
    kind == DocumentKind::CiliumEgressGatewayPolicy || group == kind.group() || nearest(group, [kind.group()]).is_some()
}

fn near_cilium(group: &str, kind: Option<&str>) -> bool {
    group == "cilium.io"
        && kind != Some(CILIUM_FORMER)
        && kind.is_some_and(|kind| nearest(kind, [DocumentKind::CiliumEgressGatewayPolicy.name()]).is_some())
}

/// Parses the head of a document of Egret's.
pub fn head<'n>(kind: DocumentKind, root: &'n YamlNode, out: &mut DiagnosticSink<'_>) -> Document<'n> {
    let at = root.span.head();
    let origin = Origin { file: out.file().to_owned(), line: root.span.start.line };
    let (annotations, acknowledged) = (Vec::new(), Acknowledged::default());
    let mut document = Document { kind, name: None, name_span: at, annotations, acknowledged, root, origin };
    let Some(entry) = field(root, "metadata").filter(|entry| !entry.value.is_null()) else {
        if kind != DocumentKind::Config {
            let place = field(root, "kind").map_or(at, |entry| entry.key_span);
            out.error(place, "missing-field", "the document has no `metadata`").hint("metadata: {name: …}");
        }
        return document;
    };
    let Some(metadata) = MappingReader::read(&entry.value, "metadata", entry.key_span, METADATA, out) else {
        return document;
    };
    document.name_span = entry.key_span;
    if let Some(name) = name_field(kind, &metadata, out) {
        document.name_span = name.value.span;
        document.name = object_name(&name.value, out);
    }
    if let Some(entry) = metadata.get("namespace")
        && kind != DocumentKind::Config
    {
        out.warning(entry.key_span, "cluster-scoped", format!("a {} belongs to no namespace", kind.name()))
            .hint("take `namespace` out; it holds for the whole cluster");
    }
    if let Some(entry) = metadata.get("labels") {
        text_map(&entry.value, "`labels`", out);
    }
    if let Some(entry) = metadata.get("annotations") {
        let ours = text_map(&entry.value, "`annotations`", out).into_iter();
        let ours = ours.filter(|entry| entry.key.starts_with(ANNOTATION_PREFIX));
        let (acknowledging, others) = ours.partition(|entry| code_of(entry).is_some() && kind != DocumentKind::Config);
        document.acknowledged = acknowledged_by(acknowledging, out);
        document.annotations = others;
        check_annotations(kind, &document.annotations, out);
    }
    document
}

fn name_field<'n>(
    kind: DocumentKind,
    metadata: &MappingReader<'n>,
    out: &mut DiagnosticSink<'_>,
) -> Option<&'n MappingEntry> {
    // The configuration is identified by its path; a name is allowed.
    if kind == DocumentKind::Config { metadata.get("name") } else { metadata.required("name", out) }
}

fn object_name(node: &YamlNode, out: &mut DiagnosticSink<'_>) -> Option<ObjectName> {
    let name = text(node, "`name`", out)?;
    match ObjectName::parse(name) {
        Ok(name) => Some(name),
        Err(error) => {
            out.error(node.span, "bad-name", format!("{} is no name", quoted(name))).hint(error.to_string());
            None
        }
    }
}

/// Entries of a mapping whose values are text. Null is none.
fn text_map<'n>(node: &'n YamlNode, what: &str, out: &mut DiagnosticSink<'_>) -> Vec<&'n MappingEntry> {
    let entries = mapping(node, what, out).unwrap_or(&[]);
    let entries = entries.iter().filter(|entry| !entry.value.is_null());
    entries.filter(|entry| text(&entry.value, &quoted(&entry.key), out).is_some()).collect()
}

/// The code of the warning that an annotation acknowledges.
fn code_of(entry: &MappingEntry) -> Option<&str> {
    entry.key.strip_prefix(ANNOTATION_PREFIX)?.strip_prefix(ACKNOWLEDGE)
}

/// The warnings that annotations acknowledge. A mistake in one is no error: it changes only which warnings are shown.
fn acknowledged_by(annotations: Vec<&MappingEntry>, out: &mut DiagnosticSink<'_>) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    for (entry, code) in annotations.into_iter().filter_map(|entry| Some((entry, code_of(entry)?))) {
        let Some(known) = CODES.into_iter().find(|known| *known == code) else {
            let hint = match nearest(code, CODES) {
                Some(near) => format!("did you mean `{ANNOTATION_PREFIX}{ACKNOWLEDGE}{near}`?"),
                None => format!("there are {}", CODES.join(", ")),
            };
            out.warning(entry.key_span, "unknown-warning", format!("no warning is called {}", quoted(code))).hint(hint);
            continue;
        };
        if word(Some(entry)).is_none_or(|reason| reason.trim().is_empty()) {
            let message = format!("{} gives no reason", quoted(&entry.key));
            out.warning(entry.key_span, "no-reason", message).hint("its value says why that is meant");
            continue;
        }
        acknowledged.insert(known);
    }
    acknowledged
}

fn check_annotations(kind: DocumentKind, annotations: &[&MappingEntry], out: &mut DiagnosticSink<'_>) {
    for entry in annotations {
        let word = entry.key.strip_prefix(ANNOTATION_PREFIX).unwrap_or("");
        if kind != DocumentKind::CiliumEgressGatewayPolicy {
            out.warning(entry.key_span, "idle-annotation", format!("{} says nothing in this kind", quoted(&entry.key)))
                .hint("an EgressPolicy has fields of its own for it");
        } else if !ANNOTATIONS.contains(&word) {
            let hint = match nearest(word, ANNOTATIONS.iter().copied()) {
                Some(candidate) => format!("did you mean `{ANNOTATION_PREFIX}{candidate}`?"),
                None => format!("there are {}, each behind {ANNOTATION_PREFIX}", ANNOTATIONS.join(", ")),
            };
            out.error(entry.key_span, "unknown-field", format!("{} is no annotation of Egret", quoted(&entry.key)))
                .hint(hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_were_meant_to_be_egret_yaml() {
        for name in
            ["egret.yaml", "egret.yml", "Egret.yaml", "EGRET.YML", ".egret.yaml", "deploy/egret.json", "egert.yaml"]
        {
            assert!(is_config_name(name), "{name}");
        }
        for name in [
            "egret",
            "egret.yaml.bak",
            "egret-values.yaml",
            "egress.yaml",
            "secret.yaml",
            "policies/outpost.yaml",
            "kustomization.yaml",
        ] {
            assert!(!is_config_name(name), "{name}");
        }
    }
}
