//! Which addresses the nodes, pods and servers of a world have, and what Node and Pod objects say of them.
//!
//! n1 is the source, n2 the gateway with net1, n3 another node. Deliberately absent: anything that touches the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::dimensions::{Addresses, Attachment, Family, Ipam, World};

/// A node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    /// The source.
    N1 = 1,
    /// The gateway.
    N2 = 2,
    /// A node that is neither.
    N3 = 3,
}

impl Node {
    pub(crate) const ALL: [Self; 3] = [Self::N1, Self::N2, Self::N3];

    /// Its name, in Kubernetes and as the role of its namespace.
    pub(crate) fn name(self) -> &'static str {
        ["n1", "n2", "n3"][self as usize - 1]
    }
}

/// A pod: its name, its node, whether the policy selects it, whether an object tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) node: Node,
    pub(crate) member: bool,
    pub(crate) told: bool,
    /// The last part of its addresses.
    host: u8,
    /// The network of its addresses where a pool is cut into blocks, and where there is only a pool.
    block: u8,
    pool: u8,
}

/// A member on the source.
pub(crate) const MEMBER: Pod = pod("member", Node::N1, true, true, 10, 3, 77);
/// Another pod beside it.
pub(crate) const OTHER: Pod = pod("other", Node::N1, false, true, 11, 1, 77);
/// A pod of which no object tells yet.
pub(crate) const LATE: Pod = pod("late", Node::N1, true, false, 12, 2, 90);
/// The same with an address that is in no network that anybody tells.
pub(crate) const STRAY: Pod = pod("stray", Node::N1, true, false, 13, 0, 0);
/// A member on the gateway.
pub(crate) const RESIDENT: Pod = pod("resident", Node::N2, true, true, 14, 1, 77);
/// Another pod beside it.
pub(crate) const NEIGHBOUR: Pod = pod("neighbour", Node::N2, false, true, 15, 200, 91);
/// A pod of no policy on the third node, which answers Services.
pub(crate) const SERVER: Pod = pod("server", Node::N3, false, true, 16, 200, 92);

const fn pod(name: &'static str, node: Node, member: bool, told: bool, host: u8, block: u8, pool: u8) -> Pod {
    Pod { name, node, member, told, host, block, pool }
}

/// The outside, at a named destination.
pub(crate) fn named(family: Family) -> IpAddr {
    of(family, [10, 88, 4, 2], "fd00:10:88:4::2")
}

/// The outside, at an address that the policy excludes.
pub(crate) fn excluded(family: Family) -> IpAddr {
    of(family, [10, 88, 4, 99], "fd00:10:88:4::99")
}

/// The outside, at an address that no policy names.
pub(crate) fn unnamed(family: Family) -> IpAddr {
    of(family, [10, 88, 5, 2], "fd00:10:88:5::2")
}

/// An address inside the named destination that is a Service's LoadBalancer address, and leads to a pod.
pub(crate) fn load_balancer(family: Family) -> IpAddr {
    of(family, [10, 88, 4, 200], "fd00:10:88:4::200")
}

/// A ClusterIP whose endpoint is the outside.
pub(crate) fn service_out(family: Family) -> IpAddr {
    of(family, [10, 96, 0, 50], "fd00:10:96::50")
}

/// A ClusterIP whose endpoint is a pod.
pub(crate) fn service_in(family: Family) -> IpAddr {
    of(family, [10, 96, 0, 10], "fd00:10:96::10")
}

/// The egress address: the gateway's on net1.
pub(crate) fn egress(family: Family) -> IpAddr {
    of(family, [10, 77, 3, 2], "fd00:10:77:3::2")
}

fn of(family: Family, four: [u8; 4], six: &str) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(four).into(),
        Family::V6 => six.parse::<Ipv6Addr>().unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
    }
}

/// The length of a prefix that is one address.
pub(crate) fn full(family: Family) -> u8 {
    if family == Family::V4 { 32 } else { 128 }
}

impl World {
    /// InternalIP of a node, whether its object tells it or not.
    pub(crate) fn internal(self, node: Node, family: Family) -> IpAddr {
        self.node_address(family, 10 + node as u8)
    }

    /// The address beside InternalIP, where nodes have one.
    pub(crate) fn second(self, node: Node, family: Family) -> Option<IpAddr> {
        match self.addresses {
            Addresses::Second => Some(self.node_address(family, 200 + node as u8)),
            Addresses::Vip => Some(self.node_address(family, 240 + node as u8)),
            _ => None,
        }
    }

    /// The address on a second interface, where nodes have one.
    pub(crate) fn on_second_interface(self, node: Node, family: Family) -> Option<IpAddr> {
        let last = 10 + node as u8;
        (self.addresses == Addresses::TwoNics)
            .then(|| of(family, [172, 20, 7, last], &format!("fd00:172:20:7::{last}")))
    }

    /// Everything that a node answers to.
    pub(crate) fn all_of_node(self, node: Node, family: Family) -> Vec<IpAddr> {
        let gateway = (node == Node::N2).then(|| egress(family));
        let more = [self.second(node, family), self.on_second_interface(node, family), gateway];
        [self.internal(node, family)].into_iter().chain(more.into_iter().flatten()).collect()
    }

    #[expect(clippy::unused_self, reason = "nodes have one network in every world; this is where another would begin")]
    fn node_address(self, family: Family, last: u8) -> IpAddr {
        of(family, [172, 19, 7, last], &format!("fd00:172:19:7::{last}"))
    }

    /// The addresses that Node objects tell.
    pub(crate) fn told_addresses(self, node: Node) -> Vec<IpAddr> {
        let families = self.families();
        let told = families.iter().filter(|family| self.addresses != Addresses::Ipv6Only || **family == Family::V6);
        told.map(|family| self.internal(node, *family)).collect()
    }

    /// The pod networks that Node objects tell.
    pub(crate) fn told_pod_cidrs(self, node: Node) -> Vec<String> {
        match self.ipam {
            Ipam::PodCidr | Ipam::Blocks => self.families().into_iter().map(|family| pod_cidr(node, family)).collect(),
            Ipam::Pool | Ipam::Vpc => Vec::new(),
        }
    }

    /// The pods of this world.
    pub(crate) fn pods(self) -> Vec<Pod> {
        let mut pods = vec![MEMBER, OTHER, LATE, RESIDENT, NEIGHBOUR, SERVER];
        // A bridge's pods are in its network.
        if self.attachment == Attachment::Routed {
            pods.push(STRAY);
        }
        pods
    }

    /// A pod's address.
    pub(crate) fn pod(self, pod: Pod, family: Family) -> IpAddr {
        let host = pod.host;
        if pod == STRAY {
            return of(family, [10, 66, 0, host], &format!("fd00:10:66::{host}"));
        }
        let block = match self.ipam {
            Ipam::PodCidr => pod.node as u8,
            Ipam::Blocks => pod.block,
            Ipam::Pool => pod.pool,
            Ipam::Vpc => return self.node_address(family, 100 + host),
        };
        of(family, [10, 61, block, host], &format!("fd00:10:61:{block}::{host}"))
    }

    /// The networks that the CNI and the host's firewall know as the pods'.
    pub(crate) fn pod_networks(self, family: Family) -> &'static str {
        match (self.ipam, family) {
            (Ipam::Vpc, Family::V4) => "172.19.7.0/24",
            (Ipam::Vpc, Family::V6) => "fd00:172:19:7::/64",
            (_, Family::V4) => "10.61.0.0/16",
            (_, Family::V6) => "fd00:10:61::/48",
        }
    }

    /// Whether a gateway's firewall forwards what comes out of the tunnel: the inner source is of the source's podCIDR where its object tells
    /// one, else its InternalIP.
    pub(crate) fn forwards(self, family: Family) -> bool {
        use super::dimensions::Firewall;
        let told_cidr = matches!(self.ipam, Ipam::PodCidr | Ipam::Blocks);
        let told_internal = self.addresses != Addresses::Ipv6Only || family == Family::V6;
        self.firewall == Firewall::None || told_cidr || (self.ipam == Ipam::Vpc && told_internal)
    }

    /// The MTU between nodes, and that of pods.
    pub(crate) fn mtu(self) -> u32 {
        match self.addresses {
            Addresses::Mtu1280 => 1280,
            Addresses::Mtu9000 => 9000,
            _ => 1500,
        }
    }

    /// Node objects.
    pub(crate) fn node_objects(self) -> Value {
        let node = |node: Node| {
            let addresses: Vec<Value> =
                self.told_addresses(node).iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
            let cidrs = self.told_pod_cidrs(node);
            let mut spec = json!({});
            if let Some(first) = cidrs.first() {
                spec = json!({"podCIDR": first, "podCIDRs": cidrs});
            }
            let gateway = if node == Node::N2 { "a" } else { "none" };
            json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node.name(), "labels": {"kubernetes.io/hostname": node.name(), "gw": gateway}},
                "spec": spec,
                "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]}})
        };
        list(&Node::ALL.map(node))
    }

    /// Namespace objects.
    pub(crate) fn namespace_objects() -> Value {
        let labels = json!({"kubernetes.io/metadata.name": "batuu"});
        list(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "batuu", "labels": labels}})])
    }

    /// Pod objects, of those pods of which there are any.
    pub(crate) fn pod_objects(self) -> Value {
        let object = |pod: Pod| {
            let families = self.families();
            let addresses: Vec<Value> = families.iter().map(|family| json!({"ip": self.pod(pod, *family)})).collect();
            let app = if pod.member { "member" } else { "other" };
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod.name, "namespace": "batuu", "labels": {"app": app}},
                "spec": {"nodeName": pod.node.name()},
                "status": {"phase": "Running", "podIP": addresses[0]["ip"], "podIPs": addresses}})
        };
        list(&self.pods().into_iter().filter(|pod| pod.told).map(object).collect::<Vec<_>>())
    }

    /// The policy: members to the named destination through the gateway's net1.
    pub(crate) fn policy(self) -> String {
        let families = self.families();
        let each = |four: &str, six: &str| -> String {
            let texts: Vec<String> = families
                .iter()
                .map(|family| format!("\"{}\"", if *family == Family::V4 { four } else { six }))
                .collect();
            texts.join(", ")
        };
        format!(
            "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {{name: world}}
spec:
  selectors:
  - podSelector: {{matchLabels: {{app: member, io.kubernetes.pod.namespace: batuu}}}}
  destinationCIDRs: [{}]
  excludedCIDRs: [{}]
  egressGateway: {{nodeSelector: {{matchLabels: {{gw: a}}}}, interface: net1}}
",
            each("10.88.4.0/24", "fd00:10:88:4::/64"),
            each("10.88.4.99/32", "fd00:10:88:4::99/128"),
        )
    }
}

/// The network of a node's pods, where nodes have one.
pub(crate) fn pod_cidr(node: Node, family: Family) -> String {
    let number = node as u8;
    match family {
        Family::V4 => format!("10.61.{number}.0/24"),
        Family::V6 => format!("fd00:10:61:{number}::/64"),
    }
}

/// The address of a node's bridge, in its pods' network.
pub(crate) fn bridge_address(node: Node, family: Family) -> IpAddr {
    let number = node as u8;
    of(family, [10, 61, number, 1], &format!("fd00:10:61:{number}::1"))
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
