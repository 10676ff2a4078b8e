//! The scenes about traffic: denied, granted after a push, kept through a mistake, denied again after the policy is gone.
//!
//! Deliberately absent: drift (`drift`).

use std::process::Command;
use std::time::Instant;

use crate::lab::{Answer, EGRESS, OUTPOST, OUTPOST6, wait_until};
use crate::{DEADLINE, Failure, GATEWAY, Stage, WORKER, expect};

/// How long one of many attempts waits for an answer: while packets are dropped, it bounds by how much the moment is missed.
const GLANCE: std::time::Duration = std::time::Duration::from_millis(100);

const LABELS: &str = r#"apiVersion: egret.dev/v1alpha1
kind: NodeLabels
metadata: {name: gateways}
spec:
  nodes: [kind-worker2]
  labels: {egress-gw: "true"}
"#;

const POLICY: &str = r#"apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: outpost}
spec:
  selectors:
  - podSelector: {matchLabels: {org: empire, io.kubernetes.pod.namespace: batuu}}
  destinationCIDRs: ["10.0.4.0/24", "fd00:10:4::/64"]
  egressGateway: {nodeSelector: {matchLabels: {egress-gw: "true"}}, interface: net1}
"#;

impl Stage<'_> {
    /// Both pods are turned away, seen with their own addresses.
    pub(crate) fn denied(&self) -> Result<(), Failure> {
        self.screen.title("Without a policy both pods are denied, seen with their own addresses")?;
        self.curl("tiefighter", OUTPOST, "403 denied 10.1.1.177")?;
        self.curl("xwing", OUTPOST, "403 denied 10.1.1.234")
    }

    /// Two documents are pushed, and the moment is taken at which the outpost lets the right pod in.
    pub(crate) fn pushed(&self) -> Result<(), Failure> {
        self.screen.title("Somebody pushes two documents, and seconds later the empire is let in")?;
        for (path, text) in [("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", POLICY)] {
            self.lab.repository().write(path, text)?;
            self.screen.print(path)?;
            self.screen.quote(text, 20)?;
        }
        let typed = self.push("let the empire through")?;
        let granted = wait_until(DEADLINE, || self.answer() == Ok(Answer::Granted(EGRESS)));
        let took = typed.elapsed();
        expect("tiefighter is let in", granted, || format!("{:?} after {took:?}", self.answer()))?;
        self.screen.seen(&format!("let in {:.2} s after `git push` was typed", took.as_secs_f64()))?;
        self.curl("tiefighter", OUTPOST, "200 granted 10.0.3.42")?;
        self.curl("xwing", OUTPOST, "403 denied 10.1.1.234")?;
        wait_until(DEADLINE, || self.answer6() == "granted fd00:10:3::42");
        self.curl("tiefighter", OUTPOST6, "200 granted fd00:10:3::42")?;
        self.curl("xwing", OUTPOST6, "403 denied fd00:10:1:1::234")
    }

    /// What Egret says it did on each node.
    pub(crate) fn applied(&self) -> Result<(), Failure> {
        self.screen.title("The plans that were applied, as the nodes' logs tell them")?;
        for (node, process, marks) in [
            (GATEWAY, &self.gateway, ["add     label  egress-gw", "add     route  default via 10.0.3.1 dev net1"]),
            (WORKER, &self.worker, ["add     route  default encap ip id", "add     rule   501: from all fwmark 0x1"]),
        ] {
            let said = process.output()?;
            let steps = steps(&said);
            let (shown, rest): (Vec<&str>, Vec<&str>) = steps.iter().partition(|step| is_telling(step));
            self.screen.print(node)?;
            self.screen.quote(&shown.join("\n"), usize::MAX)?;
            self.screen.quote(&format!("… and {}: the same in IPv6, and the nft tables", told(&rest)), 1)?;
            for mark in marks {
                let there = shown.iter().any(|step| step.starts_with(mark));
                expect(&format!("the log of {node} has a step `{mark}`"), there, || shown.join("\n"))?;
            }
        }
        self.screen.seen("a label and routes on the gateway, a route and a rule on the pods' node")?;
        Ok(())
    }

    /// A document with a mistake changes nothing that is active.
    pub(crate) fn mistaken(&self) -> Result<(), Failure> {
        self.screen.title("A push with a mistake: it is named, and what was active stays active")?;
        let asking = self.lab.hammer("tiefighter", OUTPOST)?;
        self.lab.repository().write("policies/outpost.yaml", &POLICY.replace("10.0.4.0/24", "10.0.4.7/24"))?;
        self.push("let the empire through to one more")?;
        let rejected = "policies/outpost.yaml:7:";
        for process in [&self.worker, &self.gateway] {
            process.wait_for(rejected, DEADLINE)?;
        }
        let said = self.worker.output()?;
        let warned: Vec<&str> = said.lines().filter(|line| line.contains(rejected)).map(message).collect();
        self.screen.print("the log of kind-worker")?;
        self.screen.quote(&warned.join("\n"), 4)?;
        self.validate()?;
        let requests = asking.stop();
        let wrong: Vec<_> = requests.iter().filter(|request| request.answer != Answer::Granted(EGRESS)).collect();
        let expected = "every request meanwhile is granted as 10.0.3.42";
        expect(expected, wrong.is_empty() && !requests.is_empty(), || format!("{wrong:?} of {}", requests.len()))?;
        self.screen.seen(&format!("{} requests of tiefighter meanwhile, all granted as 10.0.3.42", requests.len()))?;
        Ok(())
    }

    /// `egret validate` finds the same in the repository, and says so by its exit code.
    fn validate(&self) -> Result<(), Failure> {
        self.screen.command("anywhere", "egret validate --repo policies.git")?;
        let mut command = Command::new(self.lab.program()?);
        let output = command.arg("validate").arg("--repo").arg(self.lab.repository().path()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.screen.quote(&text, 14)?;
        let right =
            output.status.code() == Some(1) && text.contains("╭▸ policies/outpost.yaml:7:") && text.contains("hint: ");
        expect("validate shows the line and a hint, and ends with 1", right, || format!("{}: {text}", output.status))?;
        self.screen.seen("exit code 1, with file, line, column and a hint")?;
        Ok(())
    }

    /// Without the documents all is as it was before, in the kernel and at the outpost.
    pub(crate) fn removed(&self) -> Result<(), Failure> {
        self.screen.title("A push that removes both documents: denied again, and nothing of Egret's is left")?;
        for path in ["nodes/gateways.yaml", "policies/outpost.yaml"] {
            self.lab.repository().remove(path)?;
        }
        // Without the trailer the commit would wait: it removes more than half of the policies.
        let typed =
            self.push_with("close the outpost", &["--trailer", "Egret-Confirm-Removals: the outpost is closed"])?;
        let denied = wait_until(DEADLINE, || matches!(self.answer(), Ok(Answer::Denied(_))));
        expect("tiefighter is denied", denied, || format!("{:?}", self.answer()))?;
        self.screen.seen(&format!("denied {:.2} s after `git push` was typed", typed.elapsed().as_secs_f64()))?;
        self.curl("tiefighter", OUTPOST, "403 denied 10.1.1.177")?;
        self.curl("xwing", OUTPOST, "403 denied 10.1.1.234")?;
        for node in [WORKER, GATEWAY] {
            wait_until(DEADLINE, || self.left_in_kernel(node).is_ok_and(|left| left.is_empty()));
            for (words, filter) in LISTINGS {
                let grep = if filter.is_empty() { String::new() } else { format!(" | grep '{filter}'") };
                self.screen.command(node, &format!("{words}{grep}"))?;
            }
            let left = self.left_in_kernel(node)?;
            expect(&format!("nothing of Egret's is left on {node}"), left.is_empty(), || left.clone())?;
            self.screen.seen("each of them lists nothing")?;
        }
        let labels = std::fs::read_to_string(self.lab.cluster_dir().join("nodes.yaml"))?;
        expect("the label is gone", !labels.contains("egress-gw"), || labels.clone())?;
        self.screen.seen("the label egress-gw is gone from the manifest of kind-worker2, too")?;
        Ok(())
    }

    /// What the kernel of a node lists for [`LISTINGS`].
    fn left_in_kernel(&self, node: &str) -> Result<String, Failure> {
        let namespace = self.node(node)?;
        let mut left = String::new();
        for (words, filter) in LISTINGS {
            let listing = namespace.exec(words.split(' '))?;
            left.extend(listing.lines().filter(|line| line.contains(filter)).map(|line| format!("{line}\n")));
        }
        Ok(left)
    }

    /// Commits and pushes everything; gives the moment at which `git push` was typed.
    pub(crate) fn push(&self, message: &str) -> Result<Instant, Failure> {
        self.push_with(message, &[])
    }

    fn push_with(&self, message: &str, more: &[&str]) -> Result<Instant, Failure> {
        let repository = self.lab.repository();
        let said: String = more
            .iter()
            .map(|word| if word.starts_with("--") { format!(" {word}") } else { format!(" '{word}'") })
            .collect();
        self.screen.command("someone", &format!("git commit --all --message '{message}'{said} && git push"))?;
        repository.in_clone(["add", "--all"])?;
        repository.in_clone([&["commit", "--quiet", "--message", message], more].concat())?;
        let typed = Instant::now();
        repository.in_clone(["push", "--quiet", "origin", "HEAD:main"])?;
        Ok(typed)
    }

    fn answer(&self) -> Result<Answer, String> {
        self.lab.ask_within("tiefighter", OUTPOST, GLANCE).map_err(|error| error.to_string())
    }

    fn answer6(&self) -> String {
        self.lab.ask_within("tiefighter", OUTPOST6, GLANCE).map_or_else(|error| error.to_string(), |it| it.to_string())
    }
}

/// What lists everything by which Egret knows its own, and the words of the lines that count: its tables are the only ones there.
const LISTINGS: [(&str, &str); 6] = [
    ("nft list tables", ""),
    ("ip -brief link", "egret"),
    ("ip rule", "proto 180"),
    ("ip -6 rule", "proto 180"),
    ("ip route list table all", "proto 180"),
    ("ip -6 route list table all", "proto 180"),
];

/// The message of a line of the log: what follows time and level.
pub(crate) fn message(line: &str) -> &str {
    [" INFO ", " WARN ", "ERROR ", "DEBUG "]
        .iter()
        .find_map(|level| line.split_once(level))
        .map_or(line, |(_, message)| message)
}

/// All steps in a log, in order: the lines that are set in.
fn steps(log: &str) -> Vec<&str> {
    log.lines().map(message).filter_map(step).collect()
}

/// The step in a message of the log, if it is one.
pub(crate) fn step(message: &str) -> Option<&str> {
    message.strip_prefix("  ")
}

/// Of a plan for both families and a hundred lines of nft, what says most in a few lines: IPv4, without nft.
fn is_telling(step: &str) -> bool {
    !["  nft  ", " -6 ", "fe80::", ".ipv6.", "and "].iter().any(|word| step.contains(word))
}

/// How many steps these lines stand for. The last line of a long plan only counts what it leaves out: `and 60 more`.
fn told(rest: &[&str]) -> String {
    let count =
        |line: &&str| line.strip_prefix("and ").and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or(1);
    let all: usize = rest.iter().map(count).sum();
    format!("{all} more lines")
}
