//! The scenario applied: a lab, Egret on its nodes, the two documents pushed; and the questions that every test asks of it.
//!
//! Not here: what all stands do alike (`harness`), and texts of `ip` and `nft` (`listing`).

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::process::{Command, Output};
use std::time::Duration;

use egret::core::report::files::read_node_file;
use egret::core::report::history::{DriftRecord, NodeReport};

use crate::harness::Harness;
pub(super) use crate::harness::{DEADLINE, HELD_BACK, Outcome};
use crate::lab::{
    Answer, EGRESS, EGRESS6, EXCLUDED, EXCLUDED6, Lab, LabError, OUTPOST, OUTPOST6, Options, Pod, Process, wait_until,
};

/// The outpost in both families, with the address that is excluded beside it and the egress address it lets in.
pub(super) const WAYS: [(IpAddr, IpAddr, IpAddr); 2] = [(OUTPOST, EXCLUDED, EGRESS), (OUTPOST6, EXCLUDED6, EGRESS6)];

/// Where Egret serves metrics and health, in its node's namespace.
pub(super) const LISTEN: &str = "127.0.0.1:9090";

/// What Egret says once it listens to the kernel.
const RUNS: &str = "egret runs";

/// Where the reports of the cluster `default` are committed.
pub(super) const REPORTS: &str = "egret/reports/default";

/// The document that labels these nodes as gateways.
pub(super) fn labels(nodes: &str) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1
kind: NodeLabels
metadata: {{name: gateways}}
spec:
  nodes: [{nodes}]
  labels: {{egress-gw: \"true\"}}
"
    )
}

/// A policy for the pods of one `org`, for both families, with whatever else its spec and metadata have.
pub(super) struct Document {
    pub(super) name: &'static str,
    pub(super) org: &'static str,
    pub(super) excluded: &'static str,
    pub(super) egress: String,
    pub(super) annotations: &'static str,
}

impl Default for Document {
    /// The outpost's, as DESIGN §1 has it.
    fn default() -> Self {
        Self {
            name: "outpost",
            org: "empire",
            excluded: "\"10.0.4.99/32\", \"fd00:10:4::99/128\"",
            egress: "nodeSelector: {matchLabels: {egress-gw: \"true\"}}, interface: net1".to_owned(),
            annotations: "",
        }
    }
}

impl Document {
    /// Through one node by its name.
    pub(super) fn through(node: &str) -> Self {
        let egress = format!("nodeSelector: {{matchLabels: {{kubernetes.io/hostname: {node}}}}}, interface: net1");
        Self { egress, ..Self::default() }
    }

    /// As it stands in the repository.
    pub(super) fn text(&self) -> String {
        let Self { name, org, excluded, egress, annotations } = self;
        format!(
            "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata:
  name: {name}
  annotations: {{{annotations}}}
spec:
  selectors:
  - podSelector: {{matchLabels: {{org: {org}, io.kubernetes.pod.namespace: batuu}}}}
  destinationCIDRs: [\"10.0.4.0/24\", \"fd00:10:4::/64\"]
  excludedCIDRs: [{excluded}]
  egressGateway: {{{egress}}}
"
        )
    }
}

/// A lab with Egret on its nodes.
pub(super) struct Stand(Harness);

impl Deref for Stand {
    type Target = Harness;

    fn deref(&self) -> &Harness {
        &self.0
    }
}

impl DerefMut for Stand {
    fn deref_mut(&mut self) -> &mut Harness {
        &mut self.0
    }
}

impl Stand {
    /// A lab, with Egret on every node, and nothing in the repository.
    pub(super) fn up(options: Options) -> Result<Self, LabError> {
        Self::around(Lab::up(options)?)
    }

    /// Egret on every node of a lab that is there already.
    pub(super) fn around(lab: Lab) -> Result<Self, LabError> {
        let mut stand = Self(Harness::new(lab));
        for node in stand.nodes() {
            stand.launch(&node)?;
        }
        for node in stand.nodes() {
            stand.await_words(&node, RUNS)?;
        }
        Ok(stand)
    }

    /// The same with the two documents pushed and tiefighter let in, in both families.
    pub(super) fn applied(options: Options) -> Result<Self, LabError> {
        let stand = Self::up(options)?;
        stand.push_outpost()?;
        stand.await_granted("tiefighter")?;
        stand.lab.forget()?;
        Ok(stand)
    }

    /// Pushes the label and the policy.
    pub(super) fn push_outpost(&self) -> Outcome {
        let (labels, policy) = (labels("kind-worker2"), Document::default().text());
        let files = [("nodes/gateways.yaml", labels.as_str()), ("policies/outpost.yaml", policy.as_str())];
        self.push_saying("let the empire through", &files)
    }

    /// Pushes one file.
    pub(super) fn push(&self, path: &str, text: &str) -> Outcome {
        self.push_saying(&format!("another {path}"), &[(path, text)])
    }

    /// Starts Egret on a node and waits until it listens to the kernel.
    pub(super) fn start(&mut self, node: &str) -> Outcome {
        self.launch(node)?;
        self.await_words(node, RUNS)
    }

    fn launch(&mut self, node: &str) -> Outcome {
        let process = self.lab.egret(node, &["--listen", LISTEN])?;
        self.keep(node, process);
        Ok(())
    }

    /// Egret on a node.
    pub(super) fn egret(&self, node: &str) -> &Process {
        self.process(node)
    }

    /// Runs another command of `egret` for a node to its end.
    pub(super) fn command(&self, node: &str, words: &[&str]) -> Result<Output, LabError> {
        let (program, arguments) = (self.lab.program()?, self.lab.egret_arguments(node)?);
        // `remove` asks no repository.
        let arguments = if words == ["remove"] { arguments[2..].to_vec() } else { arguments };
        self.lab
            .node(node)?
            .enter(|| Command::new(program).args(words).args(arguments).output())?
            .map_err(LabError::doing(format!("run egret {}", words.join(" "))))
    }

    /// What `egret plan` prints for a node, and its exit code.
    pub(super) fn plan(&self, node: &str) -> Result<(Option<i32>, String), LabError> {
        let output = self.command(node, &["plan"])?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Waits until every node has nothing left to do, by its own word.
    pub(super) fn await_settled(&self) -> Outcome {
        for node in self.nodes() {
            let mut last = (None, String::new());
            let settled = wait_until(DEADLINE, || {
                last = self.plan(&node).unwrap_or_default();
                last.0 == Some(0)
            });
            if !settled {
                let awaited = format!("an empty plan of {node}");
                let seen = format!("exit code {:?}\n{}\n{}", last.0, last.1, self.log(&node));
                return Err(LabError::Late { awaited, deadline: DEADLINE, seen });
            }
        }
        Ok(())
    }

    /// A pod asks in both families and nobody answers; that nothing leaked is another question.
    pub(super) fn assert_silence(&self, pod: &str) -> Outcome {
        for (outpost, _, _) in WAYS {
            assert_eq!(self.lab.ask_within(pod, outpost, HELD_BACK)?, Answer::NoAnswer, "{pod} to {outpost}");
        }
        Ok(())
    }

    /// A node's report as it stands on the reports branch.
    pub(super) fn report(&self, node: &str) -> Option<NodeReport> {
        let text = self.lab.repository().show(&format!("{REPORTS}:nodes/{node}.yaml")).ok()?;
        read_node_file(&text)
    }

    /// Waits for a report that says something; the report.
    pub(super) fn await_report(&self, node: &str, what: &str, says: impl Fn(&NodeReport) -> bool) -> NodeReport {
        let mut last = None;
        wait_until(DEADLINE, || {
            last = self.report(node);
            last.as_ref().is_some_and(&says)
        });
        match last {
            Some(report) if says(&report) => report,
            other => panic!("no report of {node} says {what}: {other:#?}\n{}", self.log(node)),
        }
    }

    /// Waits until a drift was corrected that many times; its record.
    pub(super) fn await_corrected(&self, node: &str, object: &str, times: u32) -> DriftRecord {
        let of_it = |record: &&DriftRecord| record.object.starts_with(object) && record.times == times;
        let report = self.await_report(node, object, |report| report.corrected.iter().any(|record| of_it(&record)));
        report.corrected.iter().find(of_it).expect("it was just seen").clone()
    }
}

/// The default pods and more of them.
pub(super) fn with_pods(more: &[Pod]) -> Options {
    let mut options = Options::default();
    options.pods.extend_from_slice(more);
    options
}

/// Several figures as people compare them.
#[expect(clippy::print_stdout, reason = "measured, never asserted; the test harness takes what is printed so")]
pub(super) fn print_figures(what: &str, mut figures: Vec<Duration>) {
    figures.sort();
    if let (Some(least), Some(most)) = (figures.first(), figures.last()) {
        let middle = figures[figures.len() / 2];
        println!("measured: {what}: {least:.1?} at least, {middle:.1?} median, {most:.1?} at most, {}", figures.len());
    }
}
