//! What an object is made of, as far as owning, comparing and merging its parts needs it: structured-merge-diff's schema.
//!
//! Deliberately absent: whether values are right (`schema`), and every list of the built-in kinds that nobody here merges: what the
//! tables do not name is one piece.

use std::collections::BTreeMap;

use serde_json::Value;

/// The form of a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    /// One piece: a scalar, or a map or list that is replaced as a whole. With the type that a scalar has to have.
    Leaf(Option<&'static str>),
    /// Fields with names. An open one has more than it knows.
    Struct { fields: BTreeMap<String, Shape>, open: bool },
    /// Keys of the user's.
    Map(Box<Shape>),
    /// A list whose items are told apart by some of their fields.
    Keyed { keys: Vec<String>, item: Box<Shape> },
    /// A list of different scalars.
    Set,
    /// Whatever is there: maps in parts, lists in one piece.
    Free,
}

use Shape::{Free, Keyed, Leaf, Map, Set, Struct};

/// What fields that no table names are.
pub(crate) static UNKNOWN: Shape = Struct { fields: BTreeMap::new(), open: true };
static FREE: Shape = Free;

impl Shape {
    /// The form of a field; nothing where it must not be there.
    pub(crate) fn field(&self, name: &str) -> Option<&Shape> {
        match self {
            Struct { fields, open } => fields.get(name).or(open.then_some(&UNKNOWN)),
            Map(element) => Some(element),
            Free => Some(&FREE),
            Leaf(_) | Keyed { .. } | Set => None,
        }
    }

    /// Whether a field is a member of a set by being there, as the keys of a map are and the fields of a struct are not.
    pub(crate) fn is_map(&self) -> bool {
        matches!(self, Map(_) | Free)
    }

    fn struct_of(fields: impl IntoIterator<Item = (String, Shape)>) -> Self {
        Struct { fields: fields.into_iter().collect(), open: true }
    }

    /// Sets the form at a path of fields; `[]` leads into a list's items.
    fn set(&mut self, path: &str, shape: Shape) {
        let (name, rest) = path.split_once('.').unwrap_or((path, ""));
        let (name, into) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
        let Struct { fields, .. } = self else { return };
        let mut at = fields.entry(name.to_owned()).or_insert_with(|| Shape::struct_of([]));
        if into && let Keyed { item, .. } = at {
            at = item;
        }
        if rest.is_empty() { *at = shape } else { at.set(rest, shape) }
    }
}

fn keyed(keys: &str) -> Shape {
    Keyed { keys: keys.split(',').map(str::to_owned).collect(), item: Box::new(UNKNOWN.clone()) }
}

fn map() -> Shape {
    Map(Box::new(Leaf(None)))
}

/// The form of `metadata`, the same for all.
fn metadata() -> Shape {
    Shape::struct_of([
        ("labels".to_owned(), map()),
        ("annotations".to_owned(), map()),
        ("finalizers".to_owned(), Set),
        ("ownerReferences".to_owned(), keyed("uid")),
    ])
}

/// Lists and maps of the built-in kinds that are not one piece. A list before what is in its items.
const TABLE: &[(&str, &[(&str, &str)])] = &[
    (
        "Node",
        &[
            ("spec.podCIDRs", "set"),
            ("status.addresses", "type"),
            ("status.conditions", "type"),
            ("status.capacity", "map"),
            ("status.allocatable", "map"),
        ],
    ),
    (
        "Pod",
        &[
            ("spec.containers", "name"),
            ("spec.containers[].ports", "containerPort,protocol"),
            ("spec.containers[].env", "name"),
            ("spec.containers[].volumeMounts", "mountPath"),
            ("spec.containers[].resources.limits", "map"),
            ("spec.containers[].resources.requests", "map"),
            ("spec.initContainers", "name"),
            ("spec.volumes", "name"),
            ("spec.hostAliases", "ip"),
            ("spec.imagePullSecrets", "name"),
            ("spec.nodeSelector", "atomic"),
            ("spec.readinessGates", "atomic"),
            ("status.conditions", "type"),
            ("status.podIPs", "ip"),
            ("status.hostIPs", "atomic"),
        ],
    ),
    ("Namespace", &[("status.conditions", "type")]),
    ("CustomResourceDefinition", &[("status.conditions", "type")]),
    ("ServiceAccount", &[("secrets", "name")]),
    ("Secret", &[("data", "map")]),
    ("ConfigMap", &[("data", "map"), ("binaryData", "map")]),
];

/// The form of a built-in kind.
pub(crate) fn builtin(kind: &str) -> Shape {
    let mut shape = Shape::struct_of([("metadata".to_owned(), metadata())]);
    for (path, form) in TABLE.iter().filter(|(name, _)| *name == kind).flat_map(|(_, rows)| *rows) {
        let form = match *form {
            "set" => Set,
            "map" => map(),
            "atomic" => Leaf(None),
            keys => keyed(keys),
        };
        shape.set(path, form);
    }
    shape
}

/// The form that a CustomResourceDefinition's schema gives its objects.
pub(crate) fn custom(schema: &Value) -> Shape {
    let mut shape = of_schema(schema);
    if let Struct { fields, .. } = &mut shape {
        fields.insert("metadata".to_owned(), metadata());
        for name in ["apiVersion", "kind"] {
            fields.insert(name.to_owned(), Leaf(Some("string")));
        }
    }
    shape
}

fn of_schema(schema: &Value) -> Shape {
    let preserves = schema["x-kubernetes-preserve-unknown-fields"] == true;
    if schema["x-kubernetes-int-or-string"] == true {
        return Leaf(None);
    }
    match schema["type"].as_str() {
        Some("object") if schema["x-kubernetes-map-type"] == "atomic" => Leaf(None),
        Some("object") => match (schema["properties"].as_object(), &schema["additionalProperties"]) {
            (None, more @ Value::Object(_)) => Map(Box::new(of_schema(more))),
            (None, _) if preserves => Free,
            (fields, _) => {
                let fields = fields.into_iter().flatten().map(|(name, field)| (name.clone(), of_schema(field)));
                Struct { fields: fields.collect(), open: preserves }
            }
        },
        Some("array") => match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Set,
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                let keys = keys.filter_map(Value::as_str).map(str::to_owned).collect();
                Keyed { keys, item: Box::new(of_schema(&schema["items"])) }
            }
            _ => Leaf(None),
        },
        Some("string") => Leaf(Some("string")),
        Some("boolean") => Leaf(Some("boolean")),
        Some("integer" | "number") => Leaf(Some("numeric")),
        _ => Free,
    }
}
