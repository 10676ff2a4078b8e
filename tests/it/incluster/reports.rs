//! The reports branch of a cluster: a snapshot with what gateways tell of their kernels, and what is said while nobody can commit.
//!
//! Deliberately absent: what a report says of drift (`labels`, `way`).

use egret::core::name::NodeName;
use egret::core::snapshot;
use serde_json::Value;

use crate::lab::Options;

use super::stand::{Outcome, Stand, policy};

const BRANCH: &str = "egret/reports/default";

fn snapshot_of(stand: &Stand) -> String {
    stand.lab.repository().show(&format!("{BRANCH}:{}", snapshot::FILE)).unwrap_or_default()
}

#[test]
fn the_snapshot_has_the_cluster_and_the_gateways_interfaces_and_agents_of_other_nodes_report_none() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.await_that("a snapshot with the gateway's interfaces", || {
        !snapshot::host_networks(&snapshot_of(&stand)).is_empty()
    })?;
    let text = snapshot_of(&stand);
    assert!(snapshot::taken(&text).is_some(), "{text}");
    let (facts, faults) = egret::cluster::read_text("snapshot.yaml", &text).expect("a snapshot");
    assert_eq!((faults, facts.host_networks.len(), facts.nodes.len()), (Vec::new(), 1, 2), "{text}");
    assert_eq!(facts.host_networks, snapshot::host_networks(&text), "both readers read the same");
    let host_network = &facts.host_networks[&NodeName::parse("kind-worker2").expect("a node")];
    let addresses: Vec<String> = host_network.interfaces["net1"].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.3.42/24", "fd00:10:3::42/64"]);
    assert_eq!(host_network.holder("10.0.3.99".parse().expect("an address")), None);
    assert!(facts.pods.keys().any(|pod| pod.name == "tiefighter"), "{text}");
    let told = |node: &str| stand.object("egressnodes", node)["status"]["interfaces"].clone();
    assert_eq!(told("kind-worker"), Value::Null);
    assert_eq!(told("kind-worker2").as_array().map(Vec::is_empty), Some(false));
    Ok(())
}

#[test]
fn reports_that_are_not_taken_are_reported_in_the_status_until_they_are() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let published = || stand.condition("egressconfigs", "default", "ReportsPublished");
    stand.await_that("reports", || {
        published().0 == "True"
            && !stand.lab.repository().show(&format!("{BRANCH}:README.md")).unwrap_or_default().is_empty()
    })?;
    let hook = stand.lab.repository().path().join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().expect("a folder")).expect("a folder");
    std::fs::write(&hook, "#!/bin/sh\n! grep -q egret/reports\n").expect("a hook");
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("an executable hook");
    let drift = || {
        let path = "/api/v1/nodes/kind-worker2?fieldManager=kubectl-label";
        let patch = serde_json::json!({"metadata": {"labels": {"egress-gw": "maybe"}}});
        stand.api.send("PATCH", path, "application/merge-patch+json", &patch);
        stand.await_that("the label as Git has it", || {
            let node = stand.api.get("nodes", "", "kind-worker2").unwrap_or_default();
            node["metadata"]["labels"]["egress-gw"] == "true"
        })
    };
    drift()?;
    // The head's status is compared once a minute, and whenever something happens.
    let mut pushes = 0;
    let mut happen = || {
        pushes += 1;
        let text = format!("# {pushes}\n{}", policy("egress-gw: \"true\""));
        stand.lab.repository().write("policies/outpost.yaml", &text).expect("written");
        let commit = stand.lab.repository().push("another comment").expect("a push");
        let is_published = || stand.object("egressconfigs", "default")["spec"]["revision"] == *commit;
        stand.await_that("the commit published", is_published).expect("a controller that leads");
    };
    stand.await_that("a condition that says so", || {
        happen();
        published() == ("False".to_owned(), "PushFailed".to_owned())
    })?;
    let head = stand.object("egressconfigs", "default");
    let conditions = head["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let message =
        conditions.iter().find(|one| one["type"] == "ReportsPublished").expect("a condition")["message"].clone();
    let message = message.as_str().unwrap_or_default();
    assert!(message.contains("does not accept commits on the branch \"egret/reports/default\""), "{message}");
    assert!(message.contains("(hint: allow Egret's key to push to that branch"), "{message}");
    let wanted = |enabled: bool| {
        let text = format!("apiVersion: egret.dev/v1alpha1\nkind: Config\nreports: {{enabled: {enabled}}}\n");
        stand.push(&[("egret.yaml", &text)]).expect("a push");
    };
    wanted(false);
    stand.await_that("no condition, for nobody wants reports", || published() == (String::new(), String::new()))?;
    wanted(true);
    stand.await_that("a condition that says so again", || {
        happen();
        published() == ("False".to_owned(), "PushFailed".to_owned())
    })?;
    std::fs::remove_file(&hook).expect("the hook goes");
    stand.await_that("a condition that says that it works again", || {
        happen();
        published().0 == "True"
    })?;
    let report = stand.lab.repository().show(&format!("{BRANCH}:nodes/kind-worker2.yaml")).unwrap_or_default();
    assert!(report.contains("label egress-gw") && report.contains("kubectl-label"), "{report}");
    Ok(())
}
