//! Leaders that come late or stand still, objects that somebody edited, and Git that is away.
//!
//! Deliberately absent: leaders that die (`crash`, `way`), and an API server that misbehaves (`away`).

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::apiserver::{Fault, Filter};

use super::super::stand::{Outcome, Stand};
use super::Side;

const LEASE: (&str, &str, &str) = ("leases.coordination.k8s.io", "egret-system", "egret-controller");

impl Stand {
    fn signal(&mut self, process: &str, signal: Signal) -> Outcome {
        self.process_mut(process).signal(signal)
    }

    fn await_leader(&self, identity: &str) -> Outcome {
        self.await_that(&format!("{identity} as the leader"), || {
            let lease = self.api.get(LEASE.0, LEASE.1, LEASE.2).unwrap_or_default();
            lease["spec"]["holderIdentity"] == identity
        })
    }

    fn head(&self) -> Value {
        self.object("egressconfigs", "default")["spec"].clone()
    }
}

#[test]
fn a_leader_that_stood_still_moves_nothing_back_and_what_it_had_on_its_way_is_refused() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    stand.controller("two")?;
    let flow = stand.flow()?;
    // Its first write of a policy hangs in the network, and then it stands still for longer than its lease.
    let late = stand.api.fault_times(
        Filter::writes().verb("patch").resource("publishedegresspolicies.egret.dev/"),
        Fault::Hang,
        1,
    );
    stand
        .lab
        .repository()
        .write("policies/outpost.yaml", &Side::Second.policy().replace("10.0.4.0/24", "10.0.4.2/32"))?;
    stand.lab.repository().push("a commit that the first leader never brings about")?;
    stand.await_that("a write on its way", || stand.api.met(late) == Some(1))?;
    stand.signal("controller-one", Signal::SIGSTOP)?;
    let commit = stand.turn_to(Side::Third)?;
    stand.await_leader("two")?;
    stand.await_settled(Side::Third, &commit)?;
    let (fence, before) = (stand.head()["fence"].clone(), stand.api.version());
    stand.api.forget_requests();
    stand.api.clear(late);
    let arrived = || stand.api.requests().into_iter().find(|one| one.resource == "publishedegresspolicies.egret.dev");
    stand.await_that("the late write", || arrived().is_some())?;
    let arrived = arrived().expect("the late write");
    assert_eq!((arrived.status, arrived.wrote), (422, false), "{arrived:?}");
    stand.signal("controller-one", Signal::SIGCONT)?;
    stand.await_that("the first one to know that it leads no more", || {
        stand.log("controller-one").contains("this controller lost leadership")
    })?;
    stand.await_quiet()?;
    assert!(stand.api.version() > before, "the lease is renewed");
    assert_eq!(stand.head()["fence"], fence);
    // It follows: when the other one ends it leads again, with a greater fence.
    let commit = stand.turn_to(Side::Second)?;
    stand.await_settled(Side::Second, &commit)?;
    stand.terminate("controller-two")?;
    stand.await_leader("one")?;
    let commit = stand.turn_to(Side::Third)?;
    stand.await_settled(Side::Third, &commit)?;
    assert!(stand.head()["fence"].as_i64() > fence.as_i64());
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_policy_that_a_former_leader_makes_too_late_is_taken_away_again_and_changes_no_way() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    stand.controller("two")?;
    let flow = stand.flow()?;
    let of_it = || Filter::writes().verb("patch").resource("publishedegresspolicies.egret.dev/").name("aldhani");
    let late = stand.api.fault_times(of_it(), Fault::Hang, 1);
    let another = Side::Third.policy().replace("name: outpost", "name: aldhani").replace("third", "second");
    stand.push(&[("policies/aldhani.yaml", &another)])?;
    stand.await_that("a write on its way", || stand.api.met(late) == Some(1))?;
    stand.signal("controller-one", Signal::SIGSTOP)?;
    stand.lab.repository().remove("policies/aldhani.yaml")?;
    let commit = stand.turn_to(Side::Third)?;
    stand.await_leader("two")?;
    stand.await_settled(Side::Third, &commit)?;
    stand.api.forget_requests();
    stand.api.clear(late);
    // There is nothing that it could be compared with, so the server takes it.
    stand.await_that("the late policy, and its end", || {
        stand.api.writes(&of_it()) == 1 && stand.object("publishedegresspolicies", "aldhani") == Value::Null
    })?;
    stand.await_settled(Side::Third, &commit)?;
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_label_that_a_former_leader_sets_too_late_is_taken_away_again() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    stand.controller("two")?;
    let flow = stand.flow()?;
    let late = stand.api.fault_times(Filter::writes().resource("nodes"), Fault::Hang, 1);
    stand.turn_to(Side::Third)?;
    stand.await_that("a write on its way", || stand.api.met(late) == Some(1))?;
    stand.signal("controller-one", Signal::SIGSTOP)?;
    let commit = stand.turn_to(Side::Second)?;
    stand.await_leader("two")?;
    stand.await_settled(Side::Second, &commit)?;
    stand.api.forget_requests();
    stand.api.clear(late);
    // A Node is not ours, and bears no fence.
    stand.await_that("the late label, and its end", || {
        stand.api.writes(&Filter::writes().resource("nodes")) == 2 && stand.label("kind-worker3").is_none()
    })?;
    stand.signal("controller-one", Signal::SIGCONT)?;
    stand.await_quiet()?;
    flow.end(&stand, &[Side::Second]);
    stand.assert_no_leak_but(&[])
}

#[test]
fn what_a_former_leader_writes_is_refused_and_a_new_installation_is_followed() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    let flow = stand.flow()?;
    // A second term, so that there is a former one.
    stand.terminate("controller-one")?;
    stand.controller("one")?;
    let commit = stand.turn_to(Side::Third)?;
    stand.await_settled(Side::Third, &commit)?;
    stand.kill9("controller-one")?;
    let head = stand.object("egressconfigs", "default");
    let fence = head["spec"]["fence"].as_i64().expect("a fence");
    let path = "/apis/egret.dev/v1alpha1/egressconfigs/default?fieldManager=egret-controller&force=true";
    let mut former = json!({"apiVersion": head["apiVersion"], "kind": head["kind"], "metadata": {"name": "default"}});
    former["spec"] = head["spec"].clone();
    former["spec"]["fence"] = json!(fence - 1);
    former["spec"]["revision"] = json!("0123456789012345678901234567890123456789");
    let (code, answer) = stand.api.send("PATCH", path, "application/apply-patch+yaml", &former);
    assert!(code == 422 && answer.to_string().contains("fence never goes back"), "{code}: {answer}");
    for node in stand.nodes() {
        assert_eq!(stand.object("egressnodes", &node)["status"]["revision"], *commit);
    }
    stand.assert_through(&[Side::Third])?;
    // Everything of the controller's is gone, as where it is installed anew, and terms are counted from one again.
    stand.api.delete("egressconfigs.egret.dev", "", "default");
    stand.api.delete("publishedegresspolicies.egret.dev", "", "outpost");
    stand.api.delete(LEASE.0, LEASE.1, LEASE.2);
    let commit = stand.turn_to(Side::Second)?;
    stand.controller("one")?;
    stand.await_settled(Side::Second, &commit)?;
    assert_eq!(stand.head()["fence"].as_i64(), Some(1));
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_policy_that_somebody_edits_takes_no_packet_elsewhere_is_restored_and_the_editor_is_reported() -> Outcome {
    let stand = Stand::at(Side::Second)?;
    let flow = stand.flow()?;
    let fence = stand.head()["fence"].as_i64().expect("a fence");
    let elsewhere =
        json!([{"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "kind-worker3"}}, "interface": "net1"}]);
    let edits = [
        json!({"egressGateways": elsewhere}),
        json!({"destinationCIDRs": ["10.0.4.99/32"]}),
        json!({"source": {"kind": "EgressPolicy", "name": "another", "file": "policies/outpost.yaml", "line": 1}}),
        // A term that has not been: no controller's write would be taken any more.
        json!({"fence": fence + 7, "destinationCIDRs": ["10.0.4.99/32"]}),
    ];
    for edit in edits {
        let path = "/apis/egret.dev/v1alpha1/publishedegresspolicies/outpost?fieldManager=vader";
        let before = stand.object("publishedegresspolicies", "outpost")["spec"].clone();
        let (code, body) = stand.api.send("PATCH", path, "application/merge-patch+json", &json!({"spec": edit}));
        assert_eq!(code, 200, "{body}");
        let without_fence = |mut spec: Value| {
            spec["fence"] = Value::Null;
            spec
        };
        stand.await_that(&format!("the policy as it was before {edit}"), || {
            without_fence(stand.object("publishedegresspolicies", "outpost")["spec"].clone())
                == without_fence(before.clone())
        })?;
        stand.assert_through(&[Side::Second])?;
        let ready = ("True".to_owned(), "Programmed".to_owned());
        stand.await_that("agents that wait for nothing any more", || {
            stand.nodes().iter().all(|node| stand.condition("egressnodes", node, "Ready") == ready)
        })?;
    }
    stand.await_that("an event that says who it was", || {
        let notes = stand.api.list("events.events.k8s.io").into_iter().map(|event| event["note"].to_string());
        notes.into_iter().any(|note| note.contains("vader edited it"))
    })?;
    let commit = stand.turn_to(Side::Third)?;
    stand.await_settled(Side::Third, &commit)?;
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_leader_that_begins_while_git_is_away_says_so_and_moves_nothing() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    let head = stand.head();
    let (there, away) = (stand.lab.repository().path().to_owned(), stand.lab.folder().join("away.git"));
    stand.kill9("controller-one")?;
    fs::remove_dir_all(stand.state("controller-one")?).expect("a new machine has no state");
    fs::rename(&there, &away).expect("the repository elsewhere");
    stand.controller("two")?;
    let says = |kind| stand.condition("egressconfigs", "default", kind);
    let fault = ("False".to_owned(), "GitOperationFailed".to_owned());
    stand
        .await_that("a head that says that Git is away", || says("GitReachable") == fault && says("Ready") == fault)?;
    assert_eq!(stand.object("egressconfigs", "default")["status"]["leader"], "two");
    assert_eq!(says("PoliciesAccepted").0, "True", "the rest stays");
    assert_eq!(stand.head(), head);
    fs::rename(&away, &there).expect("the repository back");
    stand.await_that("a head that says that all is well", || says("Ready").0 == "True")?;
    let commit = stand.turn_to(Side::Third)?;
    stand.await_settled(Side::Third, &commit)?;
    stand.assert_no_leak_but(&[])
}

#[test]
fn while_git_is_away_what_is_published_stays_and_the_head_says_so() -> Outcome {
    let stand = Stand::at(Side::Second)?;
    let head = stand.head();
    let (there, away) = (stand.lab.repository().path().to_owned(), stand.lab.folder().join("away.git"));
    fs::rename(&there, &away).expect("the repository elsewhere");
    let git = || stand.condition("egressconfigs", "default", "GitReachable").0;
    stand.await_that("a head that says that Git is away", || git() == "False")?;
    assert_eq!(stand.head(), head);
    stand.assert_through(&[Side::Second])?;
    fs::rename(&away, &there).expect("the repository back");
    stand.await_that("a head that says that Git is back", || git() == "True")?;
    let commit = stand.turn_to(Side::Third)?;
    stand.await_settled(Side::Third, &commit)?;
    stand.assert_no_leak_but(&[])
}
