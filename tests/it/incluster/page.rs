//! The controller's page, from nothing but what it watches and one pod that it reads for a question.
//!
//! Deliberately absent: kernels (`outpost::page`), and what is said by itself (`page`).

use super::answered::answering;
use super::stand::{Outcome, Stand};
use crate::harness::DEADLINE;
use crate::lab::{LabError, OUTPOST, Options, get, wait_until};

/// Where the page is served, beside the router.
const UI: &str = "127.0.0.1:9092";

impl Stand {
    /// Status and body of a page; nothing while nobody answers.
    fn ui(&self, path: &str) -> Result<(u16, String), LabError> {
        let listen = UI.parse().expect("an address and a port");
        Ok(self.lab.router().enter(|| get(listen, path))?.unwrap_or_default())
    }

    /// Waits until a page says all of this; the whole of it.
    fn await_ui(&self, path: &str, says: &[&str]) -> Result<String, LabError> {
        let mut last = (0, String::new());
        let said = wait_until(DEADLINE, || {
            last = self.ui(path).unwrap_or_default();
            last.0 == 200 && says.iter().all(|part| last.1.contains(part))
        });
        if said { Ok(last.1) } else { Err(self.late(&format!("{says:?}"), &format!("{}\n{}", last.0, last.1))) }
    }
}

#[test]
fn the_controller_shows_the_cluster_and_explains_a_pod_that_it_does_not_watch() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    stand.controller_with("shown", &["--ui", UI])?;
    let front = stand.await_ui("/", &["1 policy, 2 nodes: nothing is wrong", "policies/outpost.yaml:1"])?;
    assert!(front.contains("controller shown, which does not lead"), "another one leads: {front}");
    assert!(front.contains("let the empire through") || front.contains("became active"), "{front}");
    let asked = "/explain?pod=batuu/tiefighter&to=10.0.4.2";
    stand.await_ui(asked, &["leaves as 10.0.3.42 through kind-worker2"])?;
    stand.await_ui("/explain?pod=batuu/xwing&to=10.0.4.2", &["the pod has org=alliance, and org=empire is wanted"])?;
    for nobody in ["batuu/nobody", "nowhere/tiefighter", "a%2f..%2f..%2fnodes/b", "batuu/%2a"] {
        let (status, page) = stand.ui(&format!("/explain?pod={nobody}&to=10.0.4.2"))?;
        assert!(status == 404 && page.contains("there is no pod"), "{nobody}: {status} {page}");
    }
    stand.await_ui("/nodes?sort=heard", &["kind-worker", "kind-worker2"])?;
    let gateway = stand.lab.node("kind-worker2")?;
    gateway.exec(["ip", "address", "del", "10.0.3.42/24", "dev", "net1"])?;
    let says = ["verdict bad", "1 policy DROPS: outpost: kind-worker2 dev net1: net1 has no global IPv4 address"];
    stand.await_ui("/", &says)?;
    stand.await_ui(asked, &["DROPPED on kind-worker2 since "])?;
    Ok(())
}

#[test]
fn agents_tell_the_page_and_the_status_what_leaves_and_what_is_dropped() -> Outcome {
    let mut stand = answering(Options::default())?;
    stand.controller_with("shown", &["--ui", UI])?;
    let mut flow = stand.lab.long_datagrams("tiefighter", OUTPOST)?;
    let mut page = String::new();
    let told = wait_until(DEADLINE * 2, || {
        // Whether it comes back does not matter: it is counted.
        let _ = flow.echo();
        page = stand.ui("/").unwrap_or_default().1;
        page.contains(" packets/s</text>") && !page.contains(">0 B/s, 0 packets/s</text>")
    });
    assert!(told, "{page}");
    assert!(
        page.contains(" s, as the kernels of gateways and sources count them; each agent reports its node's."),
        "{page}"
    );
    let gateway = stand.lab.node("kind-worker2")?;
    gateway.exec(["ip", "address", "del", "10.0.3.42/24", "dev", "net1"])?;
    let mut status = serde_json::Value::Null;
    let told = wait_until(DEADLINE * 2, || {
        let _ = flow.echo();
        let (_, text) = stand.say(&["status", "-ojson"]).unwrap_or_default();
        status = serde_json::from_str(&text).unwrap_or_default();
        let nodes = status["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of = |name: &str| nodes.iter().find(|node| node["name"] == name).map(|node| &node["droppedPerMinute"]);
        let dropped = of("kind-worker2").and_then(serde_json::Value::as_u64);
        dropped > Some(0) && of("kind-worker").and_then(serde_json::Value::as_u64) == Some(0)
    });
    assert!(told, "{status:#}");
    stand.await_ui("/", &[" packets/s of members are dropped."])?;
    Ok(())
}
