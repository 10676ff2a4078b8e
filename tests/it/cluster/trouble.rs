//! What a cluster goes through: a restarted API server, a webhook to the wrong replica, a token in bad hands, and an installation anew.
//!
//! Deliberately absent: answers that get lost, watches that lie (`incluster`).

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api::{Outcome, fault};
use super::host_network::CUSTOM;
use super::suite::Suite;
use super::way::{condition, settle};

/// A drift that an agent corrects, and tells.
pub(super) fn drift(suite: &mut Suite) -> Outcome {
    suite.await_granted("tiefighter")?;
    suite.lab.node("kind-worker")?.exec(["ip", "route", "del", "default", "table", "9000"])?;
    suite.await_granted("tiefighter")?;
    let node = suite.named("kind-worker");
    suite.await_that("an event that tells of the route", || {
        let events = suite.api.list("/apis/events.k8s.io/v1/namespaces/default/events")?;
        Ok(events.iter().any(|event| {
            event["reason"] == "DriftCorrected"
                && event["reportingController"] == "egret.dev/agent"
                && event["regarding"]["name"] == *node
        }))
    })
}

/// Everybody goes on after it, and packets never stopped.
pub(super) fn restart(suite: &mut Suite) -> Outcome {
    let Some(restart) = suite.restart.clone() else {
        suite.log("      skipped: RESTART_API, a command that restarts the API server, is not set");
        return Ok(());
    };
    suite.await_granted("tiefighter")?;
    let hammer = suite.lab.hammer("tiefighter", crate::harness::WAYS[0].0)?;
    restart()?;
    suite.await_that("the API server again", || Ok(suite.api.get("/version")?.is_some()))?;
    let begun = Instant::now();
    suite.lab.repository().remove("policies/outpost.yaml")?;
    suite.push(&[])?;
    let through = hammer.stop();
    suite.await_own_way("tiefighter")?;
    suite.log(&format!("      measured: an API server that is back, and a push in force: {:.2?}", begun.elapsed()));
    let other = through.iter().filter(|one| one.answer != crate::lab::Answer::Granted(crate::harness::WAYS[0].1));
    match other.count() {
        // The push itself may have come before the last request was answered.
        0 | 1 => {}
        many => return Err(fault(format!("{many} of {} requests went astray meanwhile", through.len()))),
    }
    suite.push_scenario()?;
    suite.await_granted("tiefighter")
}

/// The replica that does not lead is told of a push; the one that leads publishes it. Both read Git over SSH, and hardly ever by themselves.
pub(super) fn webhook(suite: &mut Suite) -> Outcome {
    suite.end("controller-two")?;
    let folder = suite.lab.folder().join("ssh");
    let config = crate::git::ssh::configure(&folder, &["ed25519"], "ed25519", SSH);
    let words: Vec<OsString> = ["-D", "-e", "-f"].map(OsString::from).into_iter().chain([config.into()]).collect();
    let sshd = suite.lab.start_beside_router("/usr/sbin/sshd", words)?;
    suite.keep("sshd", sshd);
    suite.await_words("sshd", "Server listening")?;
    std::fs::write(folder.join("secret"), "secret\n").map_err(fault)?;
    let repository = format!("ssh://root@127.0.0.1:{SSH}{}", suite.lab.repository().path().display());
    let at = |name: &str| folder.join(name).display().to_string();
    for (identity, port) in [("three", 9301), ("four", 9302)] {
        let more = [
            "--repo",
            &repository,
            "--git-ssh-key",
            &at("user"),
            "--git-known-hosts",
            &at("known_hosts"),
            "--poll",
            "1h",
            "--webhook",
            &format!("127.0.0.1:{port}"),
            "--webhook-secret-file",
            &at("secret"),
        ]
        .map(str::to_owned);
        suite.controller_with(identity, &more)?;
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/egret-controller", suite.namespace());
        suite.await_that("a leader", || {
            Ok(suite.api.get(&lease)?.unwrap_or_default()["spec"]["holderIdentity"] == suite.identity("three"))
        })?;
    }
    settle(suite)?;
    suite.lab.repository().remove("policies/outpost.yaml")?;
    let commit = suite.lab.repository().push("a push that a webhook tells of")?;
    let begun = Instant::now();
    let answer = suite.lab.router().enter(|| told(9302))?.map_err(fault)?;
    if !answer.starts_with("HTTP/1.1 202") {
        return Err(fault(format!("the webhook was answered {answer}")));
    }
    suite.await_that("the pushed commit in the head", || {
        Ok(suite.object("egressconfigs", "default")?["spec"]["revision"] == *commit)
    })?;
    let took = begun.elapsed();
    suite.log(&format!("      measured: a webhook to the replica that does not lead, to the head: {took:.2?}"));
    // Without the webhook the leader compares everything once a minute.
    if took > Duration::from_secs(3) {
        return Err(fault(format!("the leader heard nothing of the webhook: it took {took:.1?}")));
    }
    suite.push_scenario()?;
    suite.lab.router().enter(|| told(9302))?.map_err(fault)?;
    suite.await_granted("tiefighter")?;
    for process in ["controller-four", "controller-three"] {
        suite.end(process)?;
    }
    suite.controller("two")
}

/// A port of the lab's router.
const SSH: u16 = 2222;

fn told(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let body = json!({"ref": "refs/heads/main", "object_kind": "push"}).to_string();
    write!(
        stream,
        "POST /webhook HTTP/1.1\r\nHost: egret\r\nX-Gitlab-Event: Push Hook\r\nX-Gitlab-Token: secret\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Whoever has an agent's token says that it followed a leader of the far future.
pub(super) fn liar(suite: &mut Suite) -> Outcome {
    let (_, agent) = suite.account("egret-agent", Some("kind-worker"))?;
    let path = format!("{CUSTOM}/egressnodes/{}/status", suite.named("kind-worker"));
    // A status has no such field, since nobody has to believe it.
    let kept = agent.merge(&path, &json!({"status": {"fence": 1_073_741_823}}))?;
    if !kept["status"]["fence"].is_null() {
        return Err(fault(format!("the lie is kept: {}", kept["status"]["fence"])));
    }
    goes_on(suite)?;
    let fence = suite.object("egressconfigs", "default")?["spec"]["fence"].as_i64().unwrap_or_default();
    if fence < 1000 { Ok(()) } else { Err(fault(format!("the leaders' generation is {fence} after the lie"))) }
}

/// A push out of force and into force again, and agents that follow it.
fn goes_on(suite: &mut Suite) -> Outcome {
    suite.lab.repository().remove("policies/outpost.yaml")?;
    suite.push(&[])?;
    suite.await_own_way("tiefighter")?;
    suite.push_scenario()?;
    suite.await_granted("tiefighter")?;
    for node in ["kind-worker", "kind-worker2"] {
        suite.await_that(&format!("an EgressNode {node} in force"), || {
            Ok(condition(&suite.object("egressnodes", &suite.named(node))?, "Ready").0 == "True")
        })?;
    }
    Ok(())
}

/// Everything that controllers wrote is gone, the lease too, as where the namespace was made anew. Agents stayed.
pub(super) fn reinstallation(suite: &mut Suite) -> Outcome {
    suite.kill9("controller-two")?;
    suite.api.delete(&format!("{CUSTOM}/egressconfigs/default"))?;
    for policy in suite.api.list(&format!("{CUSTOM}/publishedegresspolicies"))? {
        suite.api.delete(&format!("{CUSTOM}/publishedegresspolicies/{}", super::api::name(&policy)))?;
    }
    suite
        .api
        .delete(&format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/egret-controller", suite.namespace()))?;
    suite.await_granted("tiefighter")?;
    suite.controller("five")?;
    goes_on(suite)
}

/// As `kubectl wait --for=condition=Ready` decides.
pub(super) fn kubectl_waits(suite: &mut Suite) -> Outcome {
    suite.await_that("an EgressConfig that kubectl wait finds Ready", || {
        let head = suite.object("egressconfigs", "default")?;
        let conditions = head["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|one| one["type"] == "Ready").unwrap_or(Value::Null);
        Ok(ready["status"] == "True" && ready["observedGeneration"] == head["metadata"]["generation"])
    })
}
