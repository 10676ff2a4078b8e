//! The outpost's two documents, as the tests of commands push them. Deliberately absent: variants (`outpost::stand` makes those).

use std::time::Duration;

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
