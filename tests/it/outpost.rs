//! The outpost scenario of DESIGN §1 with the real program, real packets and a real repository.
//!
//! Deliberately absent: what the lab does by itself (`lab_alone`).

use std::time::Duration;

use crate::lab::{Answer, EGRESS, EXCLUDED, Lab, OUTPOST, Options, wait_until};

/// Generous: only against hanging.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const LABELS: &str = "apiVersion: egret.dev/v1alpha1
kind: NodeLabels
metadata: {name: gateways}
spec:
  nodes: [kind-worker2]
  labels: {egress-gw: \"true\"}
";

pub(crate) const POLICY: &str = "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: outpost}
spec:
  selectors:
  - podSelector: {matchLabels: {org: empire, io.kubernetes.pod.namespace: batuu}}
  destinationCIDRs: [\"10.0.4.0/24\"]
  excludedCIDRs: [\"10.0.4.99/32\"]
  egressGateway: {nodeSelector: {matchLabels: {egress-gw: \"true\"}}, interface: net1}
";

#[test]
fn a_push_lets_the_empire_through_and_nobody_else() {
    let lab = Lab::up(Options::default()).unwrap();
    let _worker = lab.egret("kind-worker", &[]).unwrap();
    let _gateway = lab.egret("kind-worker2", &[]).unwrap();
    let repository = lab.repository();
    repository.write("nodes/gateways.yaml", LABELS).unwrap();
    repository.write("policies/outpost.yaml", POLICY).unwrap();
    repository.push("let the empire through").unwrap();
    let granted = wait_until(DEADLINE, || lab.ask("tiefighter", OUTPOST).unwrap() == Answer::Granted(EGRESS));
    assert!(granted);
    assert_eq!(lab.ask("xwing", OUTPOST).unwrap().to_string(), "denied 10.1.1.234");
    assert_eq!(lab.ask("tiefighter", EXCLUDED).unwrap().to_string(), "denied 10.1.1.177");
}
