//! How much of a change is too much for who must not be kept from other work, and that what is allowed is done.
//!
//! Deliberately absent: memory and time; both are the machine's.

use std::collections::BTreeMap;

use egret::cluster::Cluster;
use egret::core::facts::Facts;
use egret::core::preview::{CostLimits, DisplayLimits, exceeded_limit};

use super::{Case, USUAL, root};
use crate::golden::texts;

fn facts() -> Facts {
    let cluster = Cluster::open(&root().join(USUAL).join("cluster")).expect("the cluster");
    cluster.facts().clone()
}

fn policy(number: usize, labels: &str, networks: &[String]) -> String {
    let networks = networks.join(", ");
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: p{number}}}\nspec:\n  selectors:\n  \
         - podSelector: {{matchLabels: {{{labels}}}}}\n  destinationCIDRs: [{networks}]\n  egressGateway: {{nodeSelector: \
         {{matchLabels: {{egress-gw: \"true\"}}}}, egressIP: 10.0.3.42}}\n"
    )
}

/// The usual repository, and on top of it so many policies.
fn with(policies: impl Iterator<Item = String>) -> Case {
    let before = texts(&root().join(USUAL).join("both"));
    let before: BTreeMap<String, String> = before.into_iter().filter(|(path, _)| path.ends_with("yaml")).collect();
    let mut after = before.clone();
    after.extend(policies.enumerate().map(|(number, text)| (format!("policies/p{number}.yaml"), text)));
    Case::new(&before, &after, facts())
}

fn weighed(case: &Case, most: CostLimits) -> Option<&'static str> {
    let there = exceeded_limit(&case.before, &case.after, &case.facts, most);
    assert_eq!(
        exceeded_limit(&case.after, &case.before, &case.facts, most),
        there,
        "to take away is no less than to bring"
    );
    assert_eq!(exceeded_limit(&case.after, &case.after, &case.facts, most), None, "what stays is nobody's work");
    assert_eq!(exceeded_limit(&case.before, &case.after, &case.facts, CostLimits::ANY), None);
    there
}

#[test]
fn a_change_may_be_so_much_and_no_more() {
    let nets = |number: usize| [format!("11.0.{number}.0/24"), format!("11.1.{number}.0/24")];
    // Ten policies with two destinations each, that select six of the ten pods.
    let case =
        with((0..10).map(|number| policy(number, "org: empire, io.kubernetes.pod.namespace: batuu", &nets(number))));
    let pods = case.facts.pods.len();
    let members = 10 * case.facts.pods.keys().filter(|name| name.name.starts_with("tiefighter")).count();
    let most = CostLimits { documents: 10, networks: 20, questions: 10 * pods, members: members - pods };
    assert_eq!(weighed(&case, most), None);
    let less = [
        (CostLimits { documents: 9, ..most }, "it changes too many policies"),
        (CostLimits { networks: 19, ..most }, "policies that it changes have too many destinations"),
        (
            CostLimits { questions: most.questions - 1, ..most },
            "policies that it changes have too many selectors for so many pods",
        ),
        (
            CostLimits { members: most.members - 1, ..most },
            "policies that it changes select too many pods between them",
        ),
    ];
    for (most, what) in less {
        assert_eq!(weighed(&case, most), Some(what));
    }
}

#[test]
fn node_labels_are_counted_too() {
    let labels = |number: usize| {
        format!(
            "apiVersion: egret.dev/v1alpha1\nkind: NodeLabels\nmetadata: {{name: l{number}}}\nspec: {{nodes: [kind-worker], labels: {{l{number}: x}}}}\n"
        )
    };
    let case = with((0..3).map(labels));
    let most = |documents| CostLimits { documents, ..CostLimits::ANY };
    assert_eq!(weighed(&case, most(3)), None);
    assert_eq!(weighed(&case, most(2)), Some("it changes too many policies"));
}

#[test]
fn overlaps_without_end_are_not_all_listed_and_that_is_said() {
    let nets = |number: usize| ["11.0.0.0/8".to_owned(), format!("11.0.{number}.0/24")];
    let told = |count: usize| {
        let case = with((0..count).map(|number| policy(number, "org: empire", &nets(number))));
        let preview = case.preview(DisplayLimits::default());
        let overlaps: Vec<String> = preview
            .risks
            .iter()
            .filter(|danger| danger.code == "overlap")
            .map(|danger| danger.text.to_string())
            .collect();
        (overlaps.len(), overlaps.iter().any(|text| text.contains("were not all looked for")))
    };
    assert!(!told(3).1);
    let (overlaps, some) = told(60);
    assert!(some && overlaps < 2_000, "{overlaps}");
}
