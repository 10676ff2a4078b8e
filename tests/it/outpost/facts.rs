//! Manifests in every form that tools write them, changed while rounds go on.
//!
//! Deliberately absent: what is read of a manifest, and when it is believed (`manifests`).

use std::fs;
use std::time::Duration;

use super::stand::{Document, Outcome, Stand, labels};
use crate::lab::{Answer, EGRESS, Lab, LabError, OUTPOST, Options, wait_until};

/// A text of YAML in another form: its file's name and its bytes.
type Form = (&'static str, fn(&str) -> String);

fn json(text: &str) -> serde_json::Value {
    serde_yaml::from_str(text).expect("YAML")
}

/// As people and programs write them. `json.dump` writes no newline.
const FORMS: [Form; 6] = [
    ("nodes.yaml", |text| text.trim_end().to_owned()),
    ("nodes.yaml", |text| text.replace('\n', "\r\n")),
    ("nodes.yaml", |text| text.trim_end().replace('\n', "\r\n")),
    ("nodes.json", |text| json(text).to_string()),
    ("nodes.json", |text| format!("{}\n", json(text))),
    ("nodes.json", |text| serde_json::to_string_pretty(&json(text)).expect("JSON")),
];

#[test]
fn a_first_start_finds_no_drift_however_the_manifests_end() -> Outcome {
    for (name, form) in FORMS {
        let lab = Lab::up(Options { ipv6: false, ..Options::default() })?;
        let folder = lab.cluster_dir();
        let text = fs::read_to_string(folder.join("nodes.yaml")).map_err(LabError::doing("read the nodes"))?;
        fs::remove_file(folder.join("nodes.yaml")).map_err(LabError::doing("take the nodes away"))?;
        fs::write(folder.join(name), form(&text)).map_err(LabError::doing("write the nodes"))?;
        let stand = Stand::around(lab)?;
        // Both nodes write their label, into the one file and at once.
        stand.lab.repository().write("nodes/gateways.yaml", &labels("kind-worker, kind-worker2"))?;
        stand.lab.repository().write("policies/outpost.yaml", &Document::through("kind-worker2").text())?;
        let commit = stand.lab.repository().push("let the empire through")?;
        stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
        stand.await_settled()?;
        for node in stand.nodes() {
            let report = stand.await_report(&node, "the commit", |report| {
                report.active.as_ref().is_some_and(|active| active.commit == commit.trim())
            });
            let log = stand.log(&node);
            assert_eq!((report.drift, report.corrected), (Vec::new(), Vec::new()), "{node}, {name}:\n{log}");
            assert!(!log.contains("not applied error="), "{node}, {name}:\n{log}");
        }
    }
    Ok(())
}

#[test]
fn a_loss_in_a_manifest_is_seen_though_rounds_succeed_meanwhile() -> Outcome {
    let stand = Stand::up(Options { ipv6: false, ..Options::default() })?;
    stand.push_outpost()?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    let own = stand.lab.pod_addresses("tiefighter")?[0];
    let file = stand.lab.cluster_dir().join("pods.yaml");
    let before = fs::read_to_string(&file).map_err(LabError::doing("read the pods"))?;
    let less = before.replacen("      org: \"empire\"\n", "", 1);
    assert_ne!(before, less);
    let worker = stand.lab.node("kind-worker")?;
    for (text, answer) in [(&less, Answer::Denied(own)), (&before, Answer::Granted(EGRESS))].into_iter().cycle().take(4)
    {
        fs::write(&file, text).map_err(LabError::doing("write the pods"))?;
        // Rounds that have something to do, and end well, while the loss is not believed yet: half a dozen in its first 100 ms.
        for _ in 0..10 {
            worker.exec(["ip", "rule", "del", "priority", "501"])?;
            let back = || worker.exec(["ip", "rule", "show", "priority", "501"]).is_ok_and(|rule| !rule.is_empty());
            assert!(wait_until(Duration::from_secs(5), back), "{}", stand.log("kind-worker"));
        }
        stand.await_answer("tiefighter", OUTPOST, answer)?;
    }
    Ok(())
}
