//! The NAT record: which pod had an address and port at the outpost, from the records of the gateway and of the source.
//!
//! Not here: what a record says of several connections (`core::nat_record`), and its files (`persistence::record_files`).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::failover::transfers::tracked;
use super::stand::{DEADLINE, LISTEN, Outcome, Stand};
use crate::lab::{EGRESS, LINES, LabError, OUTPOST, Options, wait_until};

const GATEWAY: &str = "kind-worker2";

/// Starts Egret on a node anew, with a record.
fn recording(stand: &mut Stand, node: &str) -> Outcome {
    stand.kill9(node)?;
    let process = stand.lab.egret(node, &["--listen", LISTEN, "--nat-record", "1Mi"])?;
    stand.keep(node, process);
    stand.await_words(node, "egret runs")
}

/// The state folders of both nodes in one, as if they had been collected.
fn collected(stand: &Stand) -> Result<PathBuf, LabError> {
    let all = stand.lab.folder().join("collected");
    let doing = || LabError::doing("collect records");
    std::fs::create_dir_all(&all).map_err(doing())?;
    for node in ["kind-worker", GATEWAY] {
        let state = stand.lab.folder().join(format!("state-{node}")).join(node);
        std::os::unix::fs::symlink(state, all.join(node)).map_err(doing())?;
    }
    Ok(all)
}

/// What `egret who` says, and its exit code.
fn who(stand: &Stand, words: &[&str]) -> Result<(Option<i32>, String), LabError> {
    let output = Command::new(stand.lab.program()?).arg("who").args(words).output();
    let output = output.map_err(LabError::doing("run egret who"))?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

fn forget_connections(stand: &Stand, node: &str) -> Outcome {
    stand.lab.node(node)?.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(egret::kernel::conntrack::flush(1, 0x1fff)).expect("connections can be deleted");
    })
}

#[test]
fn an_address_and_port_lead_to_the_pod_that_had_them() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    recording(&mut stand, "kind-worker")?;
    recording(&mut stand, GATEWAY)?;
    stand.await_settled()?;
    let records = collected(&stand)?;
    let state = records.to_string_lossy().into_owned();
    let folder = records.join(GATEWAY).join("nat-record");
    assert!(wait_until(DEADLINE, || folder.is_dir()), "{}", stand.log(GATEWAY));
    let mut connection = stand.lab.long_connection("tiefighter", OUTPOST)?;
    assert_eq!(connection.echo()?, EGRESS);
    let lines = tracked(&stand, GATEWAY, LINES)?;
    let port = lines.iter().find_map(|line| line.rsplit(" dport=").next()?.split(' ').next()).unwrap_or_default();
    let asked = format!("{EGRESS}:{port}");
    let mut said = (None, String::new());
    let named = wait_until(DEADLINE, || {
        said = who(&stand, &[&asked, "--state-dir", &state, "-o", "json"]).unwrap_or_default();
        said.0 == Some(0) && said.1.contains("tiefighter")
    });
    assert!(named, "{said:?}\n{}\n{}", stand.log("kind-worker"), stand.log(GATEWAY));
    let answer: Value = serde_json::from_str(&said.1).map_err(|_| LabError::Nonsense { what: "egret who's answer" })?;
    let one = &answer["connections"][0];
    let opened_by = one["openedBy"].as_str().unwrap_or_default().to_owned();
    let start = one["start"].as_str().unwrap_or_default().to_owned();
    assert!(opened_by.starts_with("10.1.1.254:"), "{answer}");
    let expected = json!([{
        "protocol": "TCP", "pod": "batuu/tiefighter", "policies": ["outpost"],
        "exit": "kind-worker2 dev net1", "recordedBy": GATEWAY, "sourceNode": "kind-worker", "openedBy": opened_by,
        "translated": asked, "destination": "10.0.4.2:9000", "start": start, "beganBefore": false, "end": null,
        "endUnseenAfter": null
    }]);
    assert_eq!(answer["connections"], expected);
    // The gateway alone knows the node, and says where to go on.
    std::fs::remove_file(records.join("kind-worker")).map_err(LabError::doing("leave one record out"))?;
    let (code, text) = who(&stand, &[&asked, "--state-dir", &state])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&format!("`egret who {opened_by}` on kind-worker names the pod")), "{text}");
    // Before it began nobody had them.
    let (code, text) = who(&stand, &[&asked, "--state-dir", &state, "--at", "2020-01-01T00:00:00Z"])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("nobody is recorded with {asked}")), "{text}");
    forget_connections(&stand, GATEWAY)?;
    let ended = || {
        let (_, text) = who(&stand, &[&asked, "--state-dir", &state, "-o", "json"]).unwrap_or_default();
        serde_json::from_str::<Value>(&text).is_ok_and(|answer| answer["connections"][0]["end"].is_string())
    };
    assert!(wait_until(DEADLINE, ended), "{:?}", who(&stand, &[&asked, "--state-dir", &state]));
    // What a restart may have missed is said.
    recording(&mut stand, GATEWAY)?;
    let said = || who(&stand, &[&asked, "--state-dir", &state]).unwrap_or_default().1;
    assert!(wait_until(DEADLINE, || said().contains("recording was interrupted before")), "{}", said());
    let mode = std::fs::metadata(&folder).map_err(LabError::doing("read a mode"))?.permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "nobody else reads who speaks with whom");
    Ok(())
}

#[test]
fn without_a_record_the_answer_says_how_to_switch_it_on() -> Outcome {
    let stand = Stand::up(Options::default())?;
    let state = stand.lab.folder().join("state-kind-worker").to_string_lossy().into_owned();
    let (code, text) = who(&stand, &["10.0.3.42:40000", "--state-dir", &state])?;
    assert_eq!(code, Some(1));
    assert!(text.contains("no node has a NAT record in") && text.contains("--nat-record"), "{text}");
    Ok(())
}
