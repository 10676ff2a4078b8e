//! The resources that are served and the paths they are served at.
//!
//! Deliberately absent: what a kind's objects look like when nobody says (`builtin`), deprecated paths, and apps, batch and all
//! the rest of Kubernetes.

use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};

use super::schema;
use super::shape::{self, Shape};
use super::status::Named;

/// A resource.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "discovery and the schema say each by itself")]
pub(crate) struct Resource {
    /// Empty for the core.
    pub(crate) group: String,
    /// `v1`.
    pub(crate) version: String,
    /// `nodes`.
    pub(crate) plural: String,
    /// `Node`.
    pub(crate) kind: String,
    /// `NodeList`.
    pub(crate) list_kind: String,
    /// Whether its objects are in namespaces.
    pub(crate) namespaced: bool,
    /// Whether it has the subresource `status`.
    pub(crate) status: bool,
    /// Whether its objects count the changes of what is asked for.
    pub(crate) generation: bool,
    /// The form of its objects.
    pub(crate) shape: Shape,
    /// The schema of a custom one.
    pub(crate) schema: Option<Value>,
    /// Whether the schema has rules.
    pub(crate) rules: bool,
    /// `nodes`, `gadgets.egret.dev`.
    id: String,
}

/// Group, plural, kind, whether in namespaces, whether with status, whether with generation.
type Row = (&'static str, &'static str, &'static str, bool, bool, bool);

const BUILTIN: &[Row] = &[
    ("", "nodes", "Node", false, true, false),
    ("", "namespaces", "Namespace", false, true, false),
    ("", "pods", "Pod", true, true, true),
    ("", "events", "Event", true, false, false),
    ("", "serviceaccounts", "ServiceAccount", true, false, false),
    ("", "secrets", "Secret", true, false, false),
    ("", "configmaps", "ConfigMap", true, false, false),
    ("events.k8s.io", "events", "Event", true, false, false),
    ("coordination.k8s.io", "leases", "Lease", true, false, false),
    ("authentication.k8s.io", "tokenreviews", "TokenReview", false, false, false),
    ("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition", false, true, true),
    ("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", false, false, false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", "ClusterRoleBinding", false, false, false),
    ("rbac.authorization.k8s.io", "roles", "Role", true, false, false),
    ("rbac.authorization.k8s.io", "rolebindings", "RoleBinding", true, false, false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false, true, true),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        false,
        false,
        true,
    ),
];

fn id_of(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

static RESOURCES: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| BUILTIN.iter().map(builtin).collect());

fn builtin((group, plural, kind, namespaced, status, generation): &Row) -> Arc<Resource> {
    Arc::new(Resource {
        group: (*group).to_owned(),
        version: "v1".to_owned(),
        plural: (*plural).to_owned(),
        kind: (*kind).to_owned(),
        list_kind: format!("{kind}List"),
        namespaced: *namespaced,
        status: *status,
        generation: *generation,
        shape: shape::builtin(kind),
        schema: None,
        rules: false,
        id: id_of(group, plural),
    })
}

impl Resource {
    /// What a CustomResourceDefinition defines, a resource for each version that is served.
    pub(crate) fn defined(definition: &Value) -> Vec<Arc<Self>> {
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let versions = spec["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true);
        let resource = |version: &Value| {
            let schema = version["schema"]["openAPIV3Schema"].clone();
            Arc::new(Self {
                group: text(&spec["group"]),
                version: text(&version["name"]),
                plural: text(&spec["names"]["plural"]),
                kind: text(&spec["names"]["kind"]),
                list_kind: text(&spec["names"]["listKind"]),
                namespaced: spec["scope"] == "Namespaced",
                status: version["subresources"]["status"].is_object(),
                generation: true,
                shape: shape::custom(&schema),
                rules: schema::has_rules(&schema),
                schema: Some(schema),
                id: id_of(
                    spec["group"].as_str().unwrap_or_default(),
                    spec["names"]["plural"].as_str().unwrap_or_default(),
                ),
            })
        };
        versions.map(resource).collect()
    }

    /// `nodes`, `gadgets.egret.dev`: what it is stored as, and what tests call it.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// `v1`, `egret.dev/v1alpha1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// What refusals call one of its objects, or all.
    pub(crate) fn named<'a>(&'a self, name: &'a str) -> Named<'a> {
        Named { group: &self.group, kind: &self.plural, name }
    }

    /// The same by its kind.
    pub(crate) fn of_kind<'a>(&'a self, name: &'a str) -> Named<'a> {
        Named { group: &self.group, kind: &self.kind, name }
    }

    /// How discovery describes it.
    pub(crate) fn described(&self) -> Vec<Value> {
        let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        let own = json!({
            "name": self.plural, "singularName": self.kind.to_lowercase(), "namespaced": self.namespaced,
            "kind": self.kind, "verbs": verbs,
        });
        let status = json!({
            "name": format!("{}/status", self.plural), "singularName": "", "namespaced": self.namespaced,
            "kind": self.kind, "verbs": ["get", "patch", "update"],
        });
        [own].into_iter().chain(self.status.then_some(status)).collect()
    }

    /// The path of its objects in a namespace, or of one of them.
    pub(crate) fn path(&self, namespace: &str, name: &str) -> String {
        let root = if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", self.group) };
        let within =
            if self.namespaced && !namespace.is_empty() { format!("/namespaces/{namespace}") } else { String::new() };
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        format!("{root}/{}{within}/{}{name}", self.version, self.plural)
    }
}

/// All that are served.
pub(crate) fn all(customs: &[Arc<Resource>]) -> impl Iterator<Item = &Arc<Resource>> {
    RESOURCES.iter().chain(customs)
}

/// What a path leads to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The resource.
    pub(crate) resource: Arc<Resource>,
    /// Empty for all, and where there are none.
    pub(crate) namespace: String,
    /// Empty for all objects.
    pub(crate) name: String,
    /// `status`, `token`, `finalize`, `proxy`, or empty.
    pub(crate) subresource: String,
}

/// Where a request to `pods/NAME:PORT/proxy` goes on: the path behind it.
pub(crate) fn behind_proxy(path: &str) -> &str {
    path.split_once("/proxy").map_or("/", |(_, rest)| if rest.is_empty() { "/" } else { rest })
}

impl Target {
    /// Reads a path. Nothing is there for the real server either where it gives nothing.
    pub(crate) fn parse(path: &str, customs: &[Arc<Resource>]) -> Option<Self> {
        let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version) = match (parts.first()?, parts.get(1)?) {
            (&"api", version) => ("", *version),
            (&"apis", group) => (*group, *parts.get(2)?),
            _ => return None,
        };
        parts.drain(..if group.is_empty() { 2 } else { 3 });
        let mut namespace = "";
        if parts.first() == Some(&"namespaces") && parts.len() > 2 && !["status", "finalize"].contains(&parts[2]) {
            namespace = parts[1];
            parts.drain(..2);
        }
        let plural = parts.first()?;
        let resource =
            all(customs).find(|one| one.group == group && one.version == version && one.plural == *plural)?;
        let (name, subresource) = (parts.get(1).unwrap_or(&""), parts.get(2).unwrap_or(&""));
        let known = match *subresource {
            "" => true,
            "status" => resource.status,
            "token" => resource.plural == "serviceaccounts",
            "proxy" => resource.group.is_empty() && resource.plural == "pods",
            "finalize" => resource.group.is_empty() && resource.plural == "namespaces",
            _ => false,
        };
        let fits =
            known && (parts.len() <= 3 || *subresource == "proxy") && (namespace.is_empty() || resource.namespaced);
        fits.then(|| Self {
            resource: Arc::clone(resource),
            namespace: namespace.to_owned(),
            name: (*name).to_owned(),
            subresource: (*subresource).to_owned(),
        })
    }
}
