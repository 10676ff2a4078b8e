//! `egret explain` and `egret status` by a kubeconfig, from nothing but what the API server has.
//!
//! Deliberately absent: rights (`tests/chart`), and kernels (`outpost::explained`).

use super::stand::{Outcome, Stand};
use crate::harness::DEADLINE;
use crate::lab::{LabError, Options, wait_until};

impl Stand {
    /// Waits until the first line of an answer says all of this; the whole of it.
    fn await_asked(&self, words: &[&str], code: i32, says: &[&str]) -> Result<String, LabError> {
        let mut last = (None, String::new());
        let said = wait_until(DEADLINE, || {
            last = self.say(words).unwrap_or_default();
            let first = last.1.lines().next().unwrap_or_default();
            last.0 == Some(code) && says.iter().all(|part| first.contains(part))
        });
        if said { Ok(last.1) } else { Err(self.late(&format!("{says:?}"), &format!("{:?}\n{}", last.0, last.1))) }
    }
}

const EXPLAIN: [&str; 4] = ["explain", "batuu/tiefighter", "--to", "10.0.4.2"];

#[test]
fn a_pod_is_explained_and_a_cluster_shown_by_its_api_server() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let text = stand.await_asked(&EXPLAIN, 0, &["leaves as 10.0.3.42 through kind-worker2"])?;
    assert!(text.contains("policy  outpost, policies/outpost.yaml:1, published with "), "{text}");
    let nobody = "kernel  kind-worker2 did not answer: no agent's pod is on it in egret-system; it reports ";
    assert!(text.contains(nobody), "{text}");
    stand.await_asked(&["status"], 0, &["1 policy, 2 nodes: nothing is wrong"])?;
    // Its members are counted once their node has reported them.
    let row = "outpost  1     10.0.4.0/24";
    stand.await_that(row, || stand.say(&["status"]).is_ok_and(|(_, text)| text.contains(row)))?;
    let xwing = ["explain", "batuu/xwing", "--to", "10.0.4.2"];
    stand.await_asked(&xwing, 0, &["the pod has org=alliance, and org=empire is wanted"])?;
    let text = stand.await_asked(&["explain", "--address", "10.0.3.42"], 0, &["1 pod leaves as 10.0.3.42"])?;
    assert!(text.contains("pods    batuu/tiefighter"), "{text}");
    let gateway = stand.lab.node("kind-worker2")?;
    gateway.exec(["ip", "address", "del", "10.0.3.42/24", "dev", "net1"])?;
    let says = ["DROPPED on kind-worker2 since ", "net1 has no global IPv4 address"];
    let text = stand.await_asked(&EXPLAIN, 2, &says)?;
    assert!(text.contains("do      on kind-worker2: put the address on it"), "{text}");
    let says = ["1 policy DROPS: outpost: kind-worker2 dev net1: net1 has no global IPv4 address"];
    stand.await_asked(&["status"], 2, &says)?;
    let (code, json) = stand.say(&["status", "-o", "json"])?;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, json["urgency"].as_str()), (Some(2), Some("bad")));
    assert_eq!(json["policies"][0]["reason"], "EgressIPMissing");
    Ok(())
}

#[test]
fn of_a_pod_in_a_large_cluster_one_pod_is_read_and_those_with_its_addresses() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.await_asked(&EXPLAIN, 0, &["leaves as 10.0.3.42 through kind-worker2"])?;
    let before = stand.api.requests().len();
    stand.say(&EXPLAIN)?;
    let requests = stand.api.requests().split_off(before);
    let lists_of = |resource: &str| -> Vec<String> {
        let lists = requests.iter().filter(|one| one.resource == resource && one.verb == "list");
        lists.map(|one| one.query.clone()).collect()
    };
    let lists = lists_of("pods");
    let of = |what: &str| lists.iter().filter(|query| query.contains(what)).count();
    assert_eq!((of("metadata.name%3Dtiefighter"), of("status.podIP%3D10.0.4.2")), (1, 1), "{lists:?}");
    // The third is that of the release's agents.
    let narrow = |query: &&String| query.contains("fieldSelector=") || query.contains("labelSelector=");
    assert_eq!(lists.iter().find(|query| !narrow(query)), None);
    // What becomes of its packets does not depend on heartbeats.
    assert_eq!(lists_of("leases.coordination.k8s.io"), Vec::<String>::new());
    // Who is meant by a name that does not exist, all of them tell.
    assert_eq!(stand.failing(&["explain", "batuu/tiefigther", "--to", "10.0.4.2"])?, 1);
    Ok(())
}
