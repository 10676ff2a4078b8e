//! Mistakes of people and faults of what Egret reads from: the last good version stays active, packets flow, and it is reported.
//!
//! Deliberately absent: which mistakes there are and how each is shown (`policy`).

use std::fs;

use super::stand::{DEADLINE, Document, Outcome, Stand, WAYS};
use crate::lab::{Answer, Options};

#[test]
fn a_push_with_a_mistake_leaves_the_last_good_version_active_until_one_mends_it() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    let wrong = Document::default().text().replace("destinationCIDRs", "destinationCIDR");
    stand.push("policies/outpost.yaml", &wrong)?;
    let report = stand.await_report("kind-worker", "what is not active", |report| !report.rejected.is_empty());
    assert_eq!(
        report.rejected.iter().map(|rejected| rejected.instead.as_str()).collect::<std::collections::BTreeSet<_>>(),
        ["The last good version of CiliumEgressGatewayPolicy outpost stays active"].into()
    );
    assert!(report.rejected.iter().all(|rejected| rejected.place.starts_with("policies/outpost.yaml:")), "{report:?}");
    let page = stand.lab.repository().show("egret/reports/default:README.md")?;
    assert!(page.contains("The last good version of"), "{page}");
    stand.await_granted("tiefighter")?;
    stand.await_own_way("xwing")?;
    stand.lab.forget()?;

    // What was good is remembered over a restart.
    for node in stand.nodes() {
        stand.kill9(&node)?;
        stand.start(&node)?;
    }
    stand.await_report("kind-worker", "what is not active", |report| !report.rejected.is_empty());
    stand.await_granted("tiefighter")?;
    stand.push("policies/outpost.yaml", &Document { excluded: "", ..Document::default() }.text())?;
    stand.await_report("kind-worker", "that all is active", |report| report.rejected.is_empty());
    stand.await_granted("tiefighter")?;
    for (_, excluded, egress) in WAYS {
        stand.await_answer("tiefighter", excluded, Answer::Granted(egress))?;
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn while_the_repository_is_away_the_kernel_stays_and_what_is_pushed_then_is_picked_up_after() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let path = stand.lab.repository().path().to_owned();
    let away = path.with_extension("away");
    fs::rename(&path, &away).expect("moved away");
    stand.egret("kind-worker").wait_for("Git failed; the active revision stays applied", DEADLINE)?;
    stand.await_granted("tiefighter")?;
    fs::rename(&away, &path).expect("moved back");
    stand.push("policies/outpost.yaml", &Document { excluded: "", ..Document::default() }.text())?;
    stand.await_answer("tiefighter", WAYS[0].1, Answer::Granted(WAYS[0].2))?;
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_broken_manifest_changes_nothing_and_a_mended_one_counts() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let pods = stand.lab.cluster_dir().join("pods.yaml");
    let good = fs::read_to_string(&pods).expect("pods.yaml");
    for broken in ["", "{\"items\": [", "apiVersion: v1\nkind: List\nitems:\n- kind: Pod\n  metadata: [\n"] {
        fs::write(&pods, broken).expect("written");
        stand.lab.set_ready("kind-worker2", true)?;
        // A look that changes nothing leaves nothing to wait for.
        std::thread::sleep(std::time::Duration::from_millis(300));
        stand.await_granted("tiefighter")?;
    }
    fs::write(&pods, good).expect("written");
    stand.lab.add_pod("newborn", "kind-worker", &[("org", "empire")])?;
    stand.await_granted("newborn")?;
    stand.await_own_way("xwing")?;
    stand.assert_no_leak_but(&stand.lab.pod_addresses("xwing")?)
}
