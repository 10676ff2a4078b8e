//! `egret plan` names the steps that `egret run` then takes: also with a broken document, with a commit that waits, after drift, and for an
//! exit whose gateway has no address.
//!
//! How a plan is printed is absent (`commands`).

use std::path::PathBuf;
use std::time::Duration;

use egret::cluster::Cluster;
use egret::core::admission::PendingReason;
use egret::core::name::NodeName;
use egret::core::plan::Step;
use egret::git::access::Access;
use egret::git::signature::SignatureFlags;
use egret::git::source::{Insecure, Source};
use egret::reconcile::gitops::tracked_repository::TrackedRepository;
use egret::reconcile::node::dry_run::{DocumentSource, DryRun, DryRunOptions, dry_run};
use egret::reconcile::node::{self, StandaloneOptions};
use tempfile::TempDir;

use super::stand::{Document, Outcome, labels};
use crate::lab::{Lab, LabError, Options};

/// Open in the first minute of a year alone.
const CLOSED: &str = "apiVersion: egret.dev/v1alpha1
kind: Config
changeWindows:
  open: [{name: new year, cron: 0 0 1 1 *, timeZone: Europe/Berlin, duration: 1m}]
";

/// A lab in which nothing of Egret runs but what a test calls.
struct Bench {
    lab: Lab,
}

impl Bench {
    fn push(&self, files: &[(&str, &str)]) -> Outcome {
        for (path, text) in files {
            self.lab.repository().write(path, text)?;
        }
        self.lab.repository().push("a change").map(|_| ())
    }

    fn option(&self, node: &str, name: &str) -> Result<PathBuf, LabError> {
        let arguments = self.lab.egret_arguments(node)?;
        let value = arguments.iter().skip_while(|one| *one != name).nth(1).expect("the lab gives it");
        Ok(PathBuf::from(value))
    }

    fn following(&self, node: &str) -> Result<TrackedRepository, LabError> {
        let path = self.option(node, "--repo")?;
        Ok(TrackedRepository {
            source: Source::parse(path.to_str().expect("UTF-8"), Insecure::Refuse).expect("a source"),
            branch: None,
            access: Access::default(),
            signatures: SignatureFlags::default(),
            windows: None,
            label_keys: None,
            cluster: "default".to_owned(),
            poll: Duration::from_mins(1),
            max_lag: Duration::ZERO,
        })
    }

    /// What `egret plan` finds.
    fn plan(&self, node: &str) -> Result<DryRun, LabError> {
        self.plan_with(node, self.option(node, "--state-dir")?)
    }

    fn plan_with(&self, node: &str, state_folder: PathBuf) -> Result<DryRun, LabError> {
        let mirror = TempDir::new().expect("a folder");
        let options = DryRunOptions {
            following: self.following(node)?,
            source: DocumentSource::Git { rev: None, mirror: mirror.path().join("mirror") },
            facts: Cluster::open(&self.option(node, "--cluster")?).expect("the cluster").facts().clone(),
            node: NodeName::parse(node).expect("a name"),
            state_folder,
        };
        self.lab.node(node)?.enter(|| dry_run(options, &runtime()).expect("a plan"))
    }

    /// What `egret run --once` does.
    fn run(&self, node: &str) -> Result<Vec<Step>, LabError> {
        let options = StandaloneOptions {
            nat_record: None,
            following: self.following(node)?,
            signing_key: None,
            cluster: self.option(node, "--cluster")?,
            node: NodeName::parse(node).expect("a name"),
            state_folder: self.option(node, "--state-dir")?,
            once: true,
            remove: false,
            listen: None,
            ui: None,
            webhook: None,
        };
        self.lab.node(node)?.enter(|| runtime().block_on(node::run(options)).expect("a run").unwrap_or_default())
    }

    /// Plans, runs, and compares both. The plan.
    fn planned_and_done(&self, node: &str) -> Result<DryRun, LabError> {
        let planned = self.plan(node)?;
        let steps = planned.now.as_ref().map(|now| lines(&now.plan.steps)).unwrap_or_default();
        assert_eq!(steps, lines(&self.run(node)?), "planned and done on {node}");
        let again = self.plan(node)?.now.map(|now| lines(&now.plan.steps)).unwrap_or_default();
        assert_eq!(again, [""; 0], "nothing is left to do on {node}");
        Ok(planned)
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The lines of all steps. That a table changes hands, as no Egret runs meanwhile, is no change to a user.
fn lines(steps: &[Step]) -> Vec<String> {
    let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let lines = text.iter().flat_map(|step| step.lines());
    lines.filter(|line| !line.contains("flags owner")).map(str::to_owned).collect()
}

fn codes(plan: &DryRun) -> Vec<String> {
    plan.findings().into_iter().map(|finding| finding.code).collect()
}

#[test]
fn a_plan_is_what_a_run_then_does_whatever_the_documents_are() -> Outcome {
    let bench = Bench { lab: Lab::up(Options::default())? };
    let document = Document::default().text();
    // A first start. The gateway gives itself the label that makes it one, and the plan of the other node expects that.
    bench.push(&[("nodes/gateways.yaml", &labels("kind-worker2")), ("policies/outpost.yaml", &document)])?;
    for node in ["kind-worker2", "kind-worker"] {
        let planned = bench.planned_and_done(node)?;
        assert!(!planned.now.expect("a plan").plan.is_empty());
    }
    // A document breaks, and another comes.
    let rebels = Document { name: "rebels", ..Document::default() }.text().replace("10.0.4.0/24", "10.0.5.0/24");
    let broken = document.replace("destinationCIDRs", "destinations");
    bench.push(&[("policies/outpost.yaml", &broken), ("policies/rebels.yaml", &rebels)])?;
    for node in ["kind-worker2", "kind-worker"] {
        let planned = bench.planned_and_done(node)?;
        assert!(codes(&planned).contains(&"rejected-document".to_owned()), "{:?}", planned.findings());
    }
    // It is still broken: of its last good version only the state store knows any more.
    bench.push(&[("policies/rebels.yaml", &rebels.replace("10.0.5.0/24", "10.0.6.0/24"))])?;
    let planned = bench.planned_and_done("kind-worker")?;
    let now = planned.now.as_ref().expect("a plan");
    assert!(!now.plan.is_empty());
    let members = &now.evaluation.compiled.members;
    assert!(members.keys().any(|policy| policy.name.as_str() == "outpost"), "{members:?}");
    let instead = planned.rejected.iter().map(|rejected| rejected.instead.as_str()).collect::<Vec<_>>().join("\n");
    assert!(instead.contains("The last good version of") && instead.contains("outpost"), "{instead}");
    // Without a state store nothing is known of it.
    let other = bench.plan_with("kind-worker", PathBuf::from("/nonexistent"))?;
    let members = other.now.expect("a plan").evaluation.compiled.members;
    assert!(!members.keys().any(|policy| policy.name.as_str() == "outpost"), "{members:?}");
    Ok(())
}

#[test]
fn a_plan_is_what_a_run_then_does_while_a_commit_waits_and_after_drift() -> Outcome {
    let bench = Bench { lab: Lab::up(Options::default())? };
    let document = Document::default().text();
    let first = [("nodes/gateways.yaml", labels("kind-worker2")), ("policies/outpost.yaml", document.clone())];
    bench.push(&first.each_ref().map(|(path, text)| (*path, text.as_str())))?;
    bench.push(&[("egret.yaml", CLOSED)])?;
    for node in ["kind-worker2", "kind-worker"] {
        bench.planned_and_done(node)?;
    }
    bench.push(&[("policies/outpost.yaml", &document.replace("10.0.4.0/24", "10.0.4.0/25"))])?;
    let planned = bench.planned_and_done("kind-worker")?;
    assert!(planned.now.as_ref().is_some_and(|now| now.plan.is_empty()), "what is active is applied");
    let (commit, later) = planned.pending.as_ref().expect("it waits");
    assert!(matches!(&commit.why, PendingReason::Window { window, .. } if window == "new year"), "{commit:?}");
    assert!(!later.plan.is_empty());
    // An egret.yaml that cannot be read opens no window.
    bench.push(&[("egret.yaml", "kind: [")])?;
    assert!(bench.planned_and_done("kind-worker")?.pending.is_some());
    bench.lab.node("kind-worker")?.exec(["ip", "rule", "del", "priority", "501"])?;
    let planned = bench.planned_and_done("kind-worker")?;
    assert!(codes(&planned).contains(&"due-now".to_owned()), "{:?}", planned.findings());
    assert!(planned.now.is_some_and(|now| !now.plan.is_empty()));
    Ok(())
}

#[test]
fn a_plan_is_what_a_run_then_does_for_an_exit_whose_gateway_has_no_address() -> Outcome {
    let bench = Bench { lab: Lab::up(Options::default())? };
    let egress = "nodeSelector: {matchLabels: {egress-gw: \"true\"}}, interface: net9".to_owned();
    let document = Document { egress, ..Document::default() }.text();
    bench.push(&[("nodes/gateways.yaml", &labels("kind-worker2")), ("policies/outpost.yaml", &document)])?;
    let planned = bench.planned_and_done("kind-worker2")?;
    assert!(codes(&planned).contains(&"egress-address-missing".to_owned()), "{:?}", planned.findings());
    let planned = bench.planned_and_done("kind-worker")?;
    assert!(!planned.now.expect("a plan").plan.is_empty());
    Ok(())
}
