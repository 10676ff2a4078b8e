//! Node label keys: which of them a kubelet cannot set on its own node, and which Egret may write.
//!
//! Not here: where the allow-lists come from (`policy::config`, `cli`), and the same rule in the API server
//! (`charts/egret/templates/admission.yaml`; a test compares the two).

use std::fmt;

use super::key_error;

/// A kubelet may not change labels in this domain. They exist to state what a node must not claim about itself.
pub const NODE_RESTRICTION: &str = "node-restriction.kubernetes.io";
/// Kubernetes' own domains. Schedulers, clouds and load balancers give their labels a meaning.
const KUBERNETES: [&str; 2] = ["kubernetes.io", "k8s.io"];
/// Kubernetes' domains in which a kubelet may set any label on its own node.
const KUBELET_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels of Kubernetes' that a kubelet may set on its own node (kubelet/pkg/apis/well_known_labels.go of Kubernetes 1.33).
const KUBELET_KEYS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

fn domain(key: &str) -> &str {
    key.split_once('/').map_or("", |(domain, _)| domain)
}

/// Whether a domain equals another one or is below it.
fn within(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn of_kubernetes(key: &str) -> bool {
    KUBERNETES.iter().any(|parent| within(domain(key), parent))
}

/// Whether the API server prevents a kubelet from setting, changing or removing this label on its own node: the admission
/// plugin `NodeRestriction` (plugin/pkg/admission/noderestriction/admission.go). Any other label can be set by the node
/// itself.
pub fn kept_from_kubelets(key: &str) -> bool {
    let kubelets = KUBELET_KEYS.contains(&key) || KUBELET_DOMAINS.iter().any(|parent| within(domain(key), parent));
    of_kubernetes(key) && !kubelets
}

/// Whether a label is Kubernetes' own. Egret writes one only where the cluster's operator lists it.
fn reserved(key: &str) -> bool {
    of_kubernetes(key) && !within(domain(key), NODE_RESTRICTION)
}

/// A pattern of keys: `egress-gw`, or with a `*` at the end for the rest of the name: `example.com/*`, `egress-*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPattern(String);

impl KeyPattern {
    /// Parses a pattern; the error says why it is invalid.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let example = match text.strip_suffix('*') {
            // A `*` may stand for one letter, and is never empty where nothing precedes it.
            Some(start) => format!("{start}x"),
            None => text.to_owned(),
        };
        if example.contains('*') {
            return Err("a `*` stands at the end, and for the rest of the name: example.com/*, egress-*");
        }
        match key_error(&example) {
            Some(why) => Err(why),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// Whether a key matches. A `*` never matches a `/`: `*` alone matches every key without a domain.
    pub fn matches(&self, key: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => key.strip_prefix(start).is_some_and(|rest| !rest.contains('/')),
            None => key == self.0,
        }
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The node labels that Egret may write. A key must be on both lists: Git can only narrow what the operator allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelKeys {
    /// The operator's list, from an option or the chart's value; none: all but Kubernetes' own labels.
    pub operator: Option<Vec<KeyPattern>>,
    /// egret.yaml's list; none: all.
    pub git: Option<Vec<KeyPattern>>,
}

/// Why a key is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRefusal<'k> {
    /// It is Kubernetes' own.
    Reserved,
    /// It is not on the operator's list.
    Operator(&'k [KeyPattern]),
    /// It is not on egret.yaml's list.
    Git(&'k [KeyPattern]),
}

impl LabelKeys {
    /// Why Egret does not write a label with this key; `None` if it does.
    pub fn refuses(&self, key: &str) -> Option<KeyRefusal<'_>> {
        let lacks = |list: &[KeyPattern]| !list.iter().any(|pattern| pattern.matches(key));
        match &self.operator {
            None if reserved(key) => return Some(KeyRefusal::Reserved),
            Some(list) if lacks(list) => return Some(KeyRefusal::Operator(list)),
            _ => {}
        }
        self.git.as_deref().filter(|list| lacks(list)).map(KeyRefusal::Git)
    }

    /// Whether the API server lets Egret set, change or remove a label with this key, independent of Git.
    pub fn within_reach(&self, key: &str) -> bool {
        let operators = Self { operator: self.operator.clone(), git: None };
        operators.refuses(key).is_none()
    }
}

impl KeyRefusal<'_> {
    /// What to do about the refusal.
    pub fn hint(&self) -> String {
        let list = |patterns: &[KeyPattern]| match patterns {
            [] => "nothing".to_owned(),
            some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        match self {
            Self::Reserved => format!(
                "labels of kubernetes.io and k8s.io are Kubernetes' own; take one of {NODE_RESTRICTION}/, which no node can set \
                 itself, or one of a domain of yours"
            ),
            Self::Operator(patterns) => format!(
                "the cluster's operator allows {} (--allowed-label-keys, or the chart's nodeLabels.allowedKeys)",
                list(patterns)
            ),
            Self::Git(patterns) => format!("nodeLabels.allowedKeys of egret.yaml has {}", list(patterns)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Vec<KeyPattern> {
        list.iter().map(|text| KeyPattern::parse(text).unwrap()).collect()
    }

    #[test]
    fn only_keys_of_node_restriction_are_kept_from_kubelets() {
        for key in [
            "node-restriction.kubernetes.io/egress-gateway",
            "rack.node-restriction.kubernetes.io/a",
            "node-role.kubernetes.io/control-plane",
            "node.cluster.x-k8s.io.kubernetes.io/a",
            "example.k8s.io/a",
            "kubernetes.io/a",
        ] {
            assert!(kept_from_kubelets(key), "{key}");
        }
        for key in [
            "egress-gw",
            "example.com/egress-gw",
            "notkubernetes.io/a",
            "kubernetes.io.example.com/a",
            "kubernetes.io",
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/anything",
            "a.kubelet.kubernetes.io/b",
        ] {
            assert!(!kept_from_kubelets(key), "{key}");
        }
    }

    #[test]
    fn kubernetes_own_labels_are_refused_unless_the_operator_lists_them() {
        let keys = LabelKeys::default();
        let own = [
            "node-role.kubernetes.io/control-plane",
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
            "a.k8s.io/b",
        ];
        for key in own {
            assert_eq!(keys.refuses(key), Some(KeyRefusal::Reserved), "{key}");
        }
        for key in
            ["egress-gw", "example.com/a", "node-restriction.kubernetes.io/a", "x.node-restriction.kubernetes.io/a"]
        {
            assert_eq!(keys.refuses(key), None, "{key}");
        }
        let keys = LabelKeys { operator: Some(patterns(&["node-role.kubernetes.io/egress"])), git: None };
        assert_eq!(keys.refuses("node-role.kubernetes.io/egress"), None);
        assert!(matches!(keys.refuses("egress-gw"), Some(KeyRefusal::Operator(_))));
    }

    #[test]
    fn the_rule_agrees_with_the_charts() {
        let lines =
            include_str!("../../../tests/chart/samples/label_keys.txt").lines().filter(|line| !line.starts_with('#'));
        let mut seen = 0;
        for line in lines {
            let [allowed, key, answer] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let operator = (allowed != "-").then(|| patterns(&allowed.split(',').collect::<Vec<_>>()));
            let keys = LabelKeys { operator, git: None };
            assert_eq!(keys.refuses(key).is_none(), answer == "yes", "{line}");
            seen += 1;
        }
        assert!(seen > 20, "{seen} lines");
    }

    #[test]
    fn git_narrows_what_the_operator_allows_and_adds_nothing() {
        let keys = LabelKeys {
            operator: Some(patterns(&["example.com/*", "*"])),
            git: Some(patterns(&["egress-*", "kubernetes.io/*"])),
        };
        assert_eq!(keys.refuses("egress-gw"), None);
        assert!(matches!(keys.refuses("example.com/a"), Some(KeyRefusal::Git(_))));
        assert!(matches!(keys.refuses("kubernetes.io/hostname"), Some(KeyRefusal::Operator(_))));
        assert!(keys.within_reach("example.com/a") && !keys.within_reach("kubernetes.io/hostname"));
    }

    #[test]
    fn a_star_matches_the_rest_of_the_name_without_a_slash() {
        let matches = |pattern: &str, key: &str| KeyPattern::parse(pattern).unwrap().matches(key);
        assert!(matches("egress-*", "egress-gw") && matches("example.com/*", "example.com/a") && matches("*", "rack"));
        assert!(
            !matches("*", "kubernetes.io/os") && !matches("example.com*", "example.com/a") && !matches("rack", "racks")
        );
        for bad in ["", "a*b", "**", "*/a", "-a", "Example.com/*", "a/b/*", "/*"] {
            assert!(KeyPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
