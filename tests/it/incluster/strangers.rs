//! A node that labels itself, as its kubelet may: a gateway where any label counts, and none where only Git's do.
//!
//! Deliberately absent: the rule's cases (`strangers`, `core::policy::grants`).

use serde_json::json;

use crate::lab::{Answer, OUTPOST, Options};

use super::stand::{LABELS, Outcome, Stand, WAYS, policy};

#[test]
fn a_node_that_labels_itself_takes_no_packets_where_only_labels_from_git_count() -> Outcome {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let label = json!({"metadata": {"labels": {"exit": "here"}}});
    let path = "/api/v1/nodes/kind-worker3?fieldManager=kubelet";
    let (code, answer) = stand.api.send("PATCH", path, "application/merge-patch+json", &label);
    assert_eq!(code, 200, "{answer}");
    let wanted = policy("exit: here");
    stand.push(&[("policies/outpost.yaml", &wanted)])?;
    // The attack, where nothing keeps it off.
    let evil = Answer::Granted("10.0.3.43".parse().expect("an address"));
    stand.await_answer("tiefighter", OUTPOST, evil)?;

    let only_git = "apiVersion: egret.dev/v1alpha1\nkind: Config\ngateways: {onlyLabelledFromGit: true}\n";
    stand.push(&[("egret.yaml", only_git)])?;
    stand.await_that("a policy that says that nobody answers", || {
        stand.condition("publishedegresspolicies", "outpost", "Ready") == ("False".to_owned(), "NoGateway".to_owned())
    })?;
    stand.await_answer("tiefighter", OUTPOST, Answer::NoAnswer)?;

    // By name, by Git: another node, while the one that labelled itself still has the label.
    let given = LABELS.replace("egress-gw: \"true\"", "egress-gw: \"true\", exit: here");
    stand.push(&[("nodes/gateways.yaml", &given)])?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(WAYS[0].1))?;
    let still = stand.api.get("nodes", "", "kind-worker3").unwrap_or_default();
    assert_eq!(still["metadata"]["labels"]["exit"], "here");
    let gateways = &stand.object("egressconfigs", "default")["spec"]["config"]["gateways"];
    assert_eq!(
        *gateways,
        json!({"onlyLabelledFromGit": true, "labelled": [{"nodes": ["kind-worker2"], "labels": {"exit": "here"}}]})
    );
    stand.assert_no_leak_but(&["10.0.3.43".parse().expect("an address")])
}
