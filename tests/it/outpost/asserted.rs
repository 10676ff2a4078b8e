//! An assertion that the active policies break: in `egret plan` and in the report of a node that runs.

use egret::core::report::history::NodeReport;

use super::stand::{Document, Outcome, Stand};
use crate::lab::Options;

const ASSERTION: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressAssertion
metadata: {name: one-address}
spec:
  selectors: [{podSelector: {matchLabels: {org: empire, io.kubernetes.pod.namespace: batuu}}}]
  destinationCIDRs: [10.0.4.0/24]
  leavesAs: [10.0.3.42]
  orDropped: true
";

#[test]
fn a_broken_assertion_fails_the_plan_and_is_in_the_report_until_it_is_mended() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.push("assertions/outpost.yaml", ASSERTION)?;
    let because = "does not hold: batuu/tiefighter to 10.0.4.99 leaves without a gateway, as it is excluded, by the policy outpost \
                   (policies/outpost.yaml:1) (assertions/outpost.yaml:1)";
    // Both nodes know the pods, and this needs no kernel but the gateway's.
    let is_broken = |report: &NodeReport| report.findings.iter().any(|one| one.finding.is_problem());
    let report = stand.await_report("kind-worker2", "what is broken", is_broken);
    let found: Vec<_> = report.findings.iter().map(|one| &one.finding).filter(|one| one.is_problem()).collect();
    assert_eq!(
        found.iter().map(|one| (&*one.code, &*one.subject, &*one.message)).collect::<Vec<_>>(),
        [("assertion-broken", "one-address", because)]
    );
    let (code, plan) = stand.plan("kind-worker2")?;
    assert_eq!(code, Some(1), "{plan}");
    assert!(plan.contains(because) && plan.contains("1 assertion fails"), "{plan}");
    // It holds nothing back.
    stand.await_granted("tiefighter")?;
    stand.push("policies/outpost.yaml", &Document { excluded: "", ..Document::default() }.text())?;
    stand.await_report("kind-worker2", "nothing", |report| !is_broken(report));
    stand.await_settled()?;
    stand.assert_no_leak_but(&[])
}
