//! What goes wrong around controller and agents, with packets on their way: an API server that misbehaves, processes that die or stand
//! still between any two writes, news that come late, twice or never.
//!
//! The three kinds of fault that controllers are known to fall over have their names: a crash between two writes is in `crash`, a stale view
//! and a missed event in `news`.
//!
//! Each test moves the scenario from one gateway to the other and back while something fails. Always the same is asked for: no packet with
//! a wrong source, what was active or what is to come and no mixture, and everything as Git has it when the fault is gone.
//! Deliberately absent: what the double cannot do, as clocks that jump and disks that fill up.

mod answers;
mod away;
mod crash;
mod gateways;
mod leaders;
mod news;

use std::net::IpAddr;

use crate::apiserver::Filter;
use crate::lab::{Answer, Hammer, LabError, OUTPOST, OUTPOST6, Options};

use crate::harness::HELD_BACK;

use super::stand::{Outcome, Stand};

/// One of two states of the repository. They differ in two documents: the node that is labelled and the label, and the label that the
/// policy looks for. Half of a move is no gateway at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Second,
    Third,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Second, Self::Third];

    fn other(self) -> Self {
        if self == Self::Second { Self::Third } else { Self::Second }
    }

    fn gateway(self) -> &'static str {
        if self == Self::Second { "kind-worker2" } else { "kind-worker3" }
    }

    /// Its addresses, for the outpost in each family.
    fn ways(self) -> [(IpAddr, IpAddr); 2] {
        let [four, six] =
            if self == Self::Second { ["10.0.3.42", "fd00:10:3::42"] } else { ["10.0.3.43", "fd00:10:3::43"] };
        [(OUTPOST, four.parse().expect("an address")), (OUTPOST6, six.parse().expect("an address"))]
    }

    fn label(self) -> &'static str {
        if self == Self::Second { "second" } else { "third" }
    }

    fn labels(self) -> String {
        format!(
            "apiVersion: egret.dev/v1alpha1
kind: NodeLabels
metadata: {{name: gateways}}
spec:
  nodes: [{}]
  labels: {{egress-gw: {}}}
",
            self.gateway(),
            self.label()
        )
    }

    fn policy(self) -> String {
        super::stand::policy(&format!("egress-gw: {}", self.label()))
    }
}

/// Two gateways, a node with pods.
fn options() -> Options {
    Options { gateways: 2, ..Options::default() }
}

/// All writes that the controller makes, but for its lease.
fn controllers_writes() -> Filter {
    Filter::writes().resource("nodes").resource("publishedegresspolicies").resource("egressconfigs")
}

impl Stand {
    /// Everything active through this gateway, nobody's packets remembered.
    fn at(side: Side) -> Result<Self, LabError> {
        let stand = Self::up(options())?;
        let commit = stand.turn_to(side)?;
        stand.await_settled(side, &commit)?;
        stand.lab.forget()?;
        Ok(stand)
    }

    /// Pushes the two documents. Gives the commit.
    fn turn_to(&self, side: Side) -> Result<String, LabError> {
        self.lab.repository().write("nodes/gateways.yaml", &side.labels())?;
        self.lab.repository().write("policies/outpost.yaml", &side.policy())?;
        self.lab.repository().push(&format!("through {}", side.gateway()))
    }

    /// Waits until the packets go where the commit says, and everybody says so.
    fn await_settled(&self, side: Side, commit: &str) -> Outcome {
        for (outpost, egress) in side.ways() {
            self.await_answer("tiefighter", outpost, Answer::Granted(egress))?;
        }
        let awaited = format!("{commit} active on all nodes, and {}'s label alone", side.gateway());
        self.await_that(&awaited, || self.is_settled(side, commit))
    }

    /// Whether everybody says that a commit is active, and nothing else.
    fn is_settled(&self, side: Side, commit: &str) -> bool {
        let nodes = self.nodes();
        let head = self.object("egressconfigs", "default");
        let policy = self.object("publishedegresspolicies", "outpost");
        let said = |node: &String| self.object("egressnodes", node)["status"]["revision"] == *commit;
        head["spec"]["revision"] == *commit
            && head["status"]["nodeSummary"] == format!("{0}/{0}", nodes.len())
            && policy["status"]["observedGeneration"] == policy["metadata"]["generation"]
            && policy["status"]["gatewaySummary"] == side.gateway()
            && self.condition("publishedegresspolicies", "outpost", "Ready")
                == ("True".to_owned(), "Programmed".to_owned())
            && nodes.iter().all(|node| said(node) && self.condition("egressnodes", node, "Ready").0 == "True")
            && self.label(side.gateway()).as_deref() == Some(side.label())
            && self.label(side.other().gateway()).is_none()
    }

    fn label(&self, node: &str) -> Option<String> {
        let node = self.api.get("nodes", "", node)?;
        node["metadata"]["labels"]["egress-gw"].as_str().map(str::to_owned)
    }

    /// tiefighter is let in, through one of these.
    fn assert_through(&self, sides: &[Side]) -> Outcome {
        for family in 0..2 {
            let outpost = sides[0].ways()[family].0;
            let allowed: Vec<Answer> = sides.iter().map(|side| Answer::Granted(side.ways()[family].1)).collect();
            let answer = self.lab.ask("tiefighter", outpost)?;
            assert!(allowed.contains(&answer), "`{answer}` from {outpost}, not one of {allowed:?}\n{}", self.logs());
        }
        Ok(())
    }

    /// Requests without pause in both families.
    fn flow(&self) -> Result<Flow, LabError> {
        Ok(Flow([self.lab.hammer("tiefighter", OUTPOST)?, self.lab.hammer("tiefighter", OUTPOST6)?]))
    }
}

/// Requests of tiefighter to the outpost in both families, without pause.
struct Flow([Hammer; 2]);

impl Flow {
    /// All of them were let in, through one of these: not one was late.
    fn end(self, stand: &Stand, sides: &[Side]) {
        for (family, hammer) in self.0.into_iter().enumerate() {
            let requests = hammer.stop();
            let right = |answer| sides.iter().any(|side| answer == Answer::Granted(side.ways()[family].1));
            let wrong: Vec<_> = requests.iter().filter(|request| !right(request.answer)).collect();
            assert!(wrong.is_empty(), "of {} requests: {wrong:?}\n{}", requests.len(), stand.logs());
        }
    }
}
