//! A cluster and a policy repository of any size, for the benchmarks, as users have them: many namespaces with the same few labels on
//! their pods, pods without labels, policies that select by labels of pods and of namespaces or by expressions, some of them nothing;
//! destinations that lie in each other, and everything with exclusions.
//!
//! Deliberately absent: measuring.

use std::fmt::Write as _;

use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::labels::Labels;
use egret::core::name::NodeName;

pub(crate) const APPS: [&str; 10] = ["api", "web", "worker", "db", "cache", "cron", "auth", "mail", "search", "proxy"];
const TIERS: [&str; 3] = ["frontend", "backend", "data"];

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) policies: usize,
    pub(crate) nodes: usize,
    pub(crate) pods: usize,
}

impl Size {
    /// How many times as much it is.
    pub(crate) fn ratio(self, less: Self) -> f64 {
        let pods = |size: Self| u32::try_from(size.pods).map_or(f64::INFINITY, f64::from);
        pods(self) / pods(less)
    }

    pub(crate) fn namespaces(self) -> usize {
        self.policies.div_ceil(5)
    }

    /// Gateways come in pools of two.
    fn pools(self) -> usize {
        self.nodes.div_ceil(40)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} policies, {} nodes, {} pods", self.policies, self.nodes, self.pods)
    }
}

fn team(namespace: usize) -> String {
    format!("team-{}", namespace / 2)
}

fn environment(namespace: usize) -> &'static str {
    if namespace.is_multiple_of(2) { "prod" } else { "staging" }
}

pub(crate) fn namespace(number: usize) -> String {
    format!("{}-{}", team(number), environment(number))
}

pub(crate) fn path(number: usize) -> String {
    format!("policies/team-{}/policy-{number}.yaml", number % 100)
}

/// One policy; `changed` in its destination.
pub(crate) fn policy(size: Size, number: usize, changed: bool) -> String {
    let home = number % size.namespaces();
    let (name, team, app) = (namespace(home), team(home), APPS[number / size.namespaces() % APPS.len()]);
    let of = format!("io.kubernetes.pod.namespace: {name}");
    let selector = match number % 10 {
        0..=4 => format!("podSelector: {{matchLabels: {{app: {app}, {of}}}}}"),
        5 => format!(
            "namespaceSelector: {{matchLabels: {{team: {team}}}}}\n    podSelector: {{matchLabels: {{app: {app}}}}}"
        ),
        6 => format!("namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}"),
        7 => format!(
            "podSelector:\n      matchLabels: {{{of}}}\n      matchExpressions:\n      - {{key: app, operator: In, values: [{app}, web]}}\n      - {{key: tier, operator: NotIn, values: [data]}}"
        ),
        8 => format!(
            "namespaceSelector: {{matchLabels: {{env: prod}}}}\n    podSelector: {{matchLabels: {{tier: backend, team: {team}}}}}"
        ),
        _ if number % 50 == 9 => format!("podSelector: {{matchLabels: {{app: {app}x, {of}}}}}"),
        _ => format!(
            "podSelector:\n      matchLabels: {{{of}}}\n      matchExpressions: [{{key: app, operator: Exists}}]"
        ),
    };
    let (high, low) = (number / 256, number % 256);
    let length = if changed { 25 } else { 24 };
    let mut destinations = format!("\"44.{high}.{low}.0/{length}\", \"44.{high}.{low}.9/32\"");
    if number.is_multiple_of(3) {
        let _ = write!(destinations, ", \"44.{high}.0.0/16\"");
    }
    let everything = "destinationCIDRs: [\"0.0.0.0/0\"]\n  excludedCIDRs: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10]";
    let destinations = match (number % 5, changed) {
        (4, false) => everything.to_owned(),
        (4, true) => format!("{everything}\n").replace("192.168.0.0/16", "192.168.0.0/17").trim_end().to_owned(),
        _ => format!("destinationCIDRs: [{destinations}]"),
    };
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {{name: policy-{number}}}
spec:
  selectors:
  - {selector}
  {destinations}
  egressGateway: {{nodeSelector: {{matchLabels: {{kubernetes.io/os: linux, egress-gateway: pool-{}}}}}, interface: net1}}
",
        number % size.pools()
    )
}

pub(crate) fn node_name(number: usize) -> NodeName {
    NodeName::parse(&format!("node-{number:05}")).expect("a name")
}

pub(crate) fn world(size: Size) -> Facts {
    let mut facts = Facts::default();
    for number in 0..size.nodes {
        facts.nodes.insert(node_name(number), node(size, number));
    }
    for number in 0..size.namespaces() {
        let labels = [
            ("kubernetes.io/metadata.name", namespace(number).as_str()),
            ("team", &team(number)),
            ("env", environment(number)),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        facts.namespaces.insert(namespace(number), Labels::from(labels));
    }
    for number in 0..size.pods {
        let (name, pod) = pod(size, number);
        facts.pods.insert(name, pod);
    }
    facts
}

fn node(size: Size, number: usize) -> Node {
    let name = node_name(number).to_string();
    let zone = format!("zone-{}", number % 3);
    let mut labels = vec![
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", "amd64"),
        ("topology.kubernetes.io/zone", &zone),
    ];
    let pool = format!("pool-{}", number / 20 % size.pools());
    if number.is_multiple_of(20) {
        labels.push(("egress-gateway", &pool));
    }
    // Every other address of eight networks: sets of addresses do not shrink to a few ranges.
    let (network, host) = (number % 8, number / 8);
    Node {
        labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        addresses: vec![
            format!("10.{}.{}.{}", 20 + network, host / 100, 2 * (host % 100) + 10).parse().expect("an address"),
        ],
        pod_cidrs: vec![format!("100.{}.{}.0/24", 64 + number / 256, number % 256).parse().expect("a network")],
        ready: true,
        unschedulable: false,
    }
}

/// Of two hundred pods one has no labels in ten, one is of its node's network, and three have finished.
pub(crate) fn pod(size: Size, number: usize) -> (PodName, Pod) {
    let (home, node) = (number % size.namespaces(), number % size.nodes);
    let app = APPS[number / size.namespaces() % APPS.len()];
    let labels =
        [("app", app), ("tier", TIERS[number % TIERS.len()]), ("team", &team(home)), ("pod-template-hash", "6d4b9c")];
    let labels = labels.into_iter().filter(|_| !number.is_multiple_of(10));
    let pod = Pod {
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        node: Some(node_name(node)),
        addresses: vec![
            format!("100.{}.{}.{}", 64 + node / 256, node % 256, number / size.nodes % 250 + 2)
                .parse()
                .expect("an address"),
        ],
        host_network: number.is_multiple_of(200),
        finished: number % 67 == 1,
        terminating: false,
    };
    (PodName { namespace: namespace(home), name: format!("{app}-{number}") }, pod)
}
