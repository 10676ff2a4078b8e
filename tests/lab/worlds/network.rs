//! The network of a world: namespaces, links, addresses, routes, and the checks of a cloud's port.
//!
//! Deliberately absent: rules of other programs on nodes (`rules`), and any process.

use std::fmt::Write;
use std::net::IpAddr;

use super::dimensions::{Addresses, Attachment, Family, Ipam, World};
use super::layout::{self, Node, Pod, full};
use crate::lab::{Claim, LabError, Namespace, Options, run, sysctls};

/// The node's end of every routed pod's link, as with Calico.
const POD_GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// Lines for `ip -batch`.
struct Lines(String);

impl Lines {
    fn new() -> Self {
        Self("link set lo up\n".to_owned())
    }

    fn add(&mut self, line: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn address(&mut self, address: IpAddr, length: u8, device: &str) {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        self.add(format_args!("address add {address}/{length} dev {device}{nodad}"));
    }
}

fn subnet(family: Family) -> u8 {
    if family == Family::V4 { 24 } else { 64 }
}

/// An address with its last part replaced: the router's in that network.
fn first_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(four) => {
            let [a, b, c, _] = four.octets();
            [a, b, c, 1].into()
        }
        IpAddr::V6(six) => {
            let mut parts = six.segments();
            parts[7] = 1;
            parts.into()
        }
    }
}

fn any(family: Family) -> &'static str {
    if family == Family::V4 { "0.0.0.0/0" } else { "::/0" }
}

/// Makes it all.
pub(super) fn build(world: World, claim: &Claim) -> Result<(), LabError> {
    let pods = world.pods();
    let roles =
        ["router", "outside"].into_iter().chain(Node::ALL.map(Node::name)).chain(pods.iter().map(|pod| pod.name));
    claim.make_namespaces(roles)?;
    let (router, outside) = (claim.namespace("router"), claim.namespace("outside"));
    let settings = |forwards| {
        let options = Options { ipv6: world.families().contains(&Family::V6), ..Options::default() };
        sysctls(&options, forwards, 0)
    };
    router.sysctls(&settings(true))?;
    for node in Node::ALL {
        let namespace = claim.namespace(node.name());
        namespace.sysctls(&settings(true))?;
        if world.attachment == Attachment::Bridge {
            // A kernel that has it as a module loads it for nobody who does not ask.
            if !std::path::Path::new("/proc/sys/net/bridge").exists() {
                run(std::process::Command::new("modprobe").arg("br_netfilter"), "")?;
            }
            let call = |program: &str| (format!("net.bridge.bridge-nf-call-{program}"), "1".to_owned());
            namespace.sysctls(&["iptables", "ip6tables"].map(call))?;
        }
    }
    for leaf in std::iter::once(&outside).cloned().chain(pods.iter().map(|pod| claim.namespace(pod.name))) {
        leaf.sysctls(&settings(false))?;
    }
    // The router's lines make everybody's links, so they come first.
    router.ip_batch(&router_lines(world, claim))?;
    router.nft(&watch_table(world))?;
    outside.ip_batch(&outside_lines(world))?;
    for node in Node::ALL {
        let namespace = claim.namespace(node.name());
        namespace.ip_batch(&node_lines(world, claim, node))?;
        world.put_rules(&namespace, node)?;
    }
    for pod in pods {
        claim.namespace(pod.name).ip_batch(&pod_lines(world, pod))?;
    }
    Ok(())
}

fn router_lines(world: World, claim: &Claim) -> String {
    let mut lines = Lines::new();
    let mtu = world.mtu();
    for (bridge, last) in [("br0", 1), ("br1", 2), ("br2", 3)] {
        // A fixed MAC: a bridge's own follows its ports, and neighbours would remember an old one.
        lines.add(format_args!("link add {bridge} address 02:00:00:00:01:0{last} type bridge"));
        lines.add(format_args!("link set {bridge} up"));
    }
    let link = |lines: &mut Lines, port: &str, bridge: &str, mtu: u32, name: &str, inside: &Namespace| {
        let inside = inside.name();
        lines.add(format_args!("link add {port} mtu {mtu} type veth peer name {name} mtu {mtu} netns {inside}"));
        lines.add(format_args!("link set {port} master {bridge} up"));
    };
    for node in Node::ALL {
        let (name, inside) = (node.name(), claim.namespace(node.name()));
        link(&mut lines, &format!("v-{name}"), "br0", mtu, "eth0", &inside);
        if world.addresses == Addresses::TwoNics {
            link(&mut lines, &format!("w-{name}"), "br2", mtu, "eth1", &inside);
        }
    }
    link(&mut lines, "e-n2", "br1", 1500, "net1", &claim.namespace("n2"));
    let outside = claim.namespace("outside");
    lines.add(format_args!("link add v-outside type veth peer name eth0 netns {}", outside.name()));
    lines.add("link set v-outside up");
    for family in world.families() {
        lines.address(first_of(world.internal(Node::N1, family)), subnet(family), "br0");
        lines.address(first_of(layout::egress(family)), subnet(family), "br1");
        for inside in [layout::named(family), layout::unnamed(family)] {
            lines.address(first_of(inside), subnet(family), "v-outside");
        }
        for pod in world.pods() {
            let (address, via) = (world.pod(pod, family), world.internal(pod.node, family));
            lines.add(format_args!("route add {address}/{} via {via}", full(family)));
        }
    }
    lines.0
}

fn outside_lines(world: World) -> String {
    let mut lines = Lines::new();
    for family in world.families() {
        for address in super::outside_of(family) {
            lines.address(address, subnet(family), "eth0");
        }
    }
    lines.add("link set eth0 up");
    for family in world.families() {
        lines.add(format_args!("route add {} via {}", any(family), first_of(layout::named(family))));
    }
    lines.0
}

fn node_lines(world: World, claim: &Claim, node: Node) -> String {
    let mut lines = Lines::new();
    for family in world.families() {
        node_addresses(&mut lines, world, node, family);
    }
    lines.add("link set eth0 up");
    if world.addresses == Addresses::TwoNics {
        lines.add("link set eth1 up");
    }
    if node == Node::N2 {
        lines.add("link set net1 up");
    }
    if world.attachment == Attachment::Bridge {
        lines.add(format_args!("link add cni0 mtu {} type bridge", world.mtu()));
        for family in world.families() {
            lines.address(layout::bridge_address(node, family), subnet(family), "cni0");
        }
        lines.add("link set cni0 up");
    }
    for family in world.families() {
        lines.add(format_args!("route add {} via {}", any(family), first_of(world.internal(node, family))));
        // One way over the second interface, the other over the first.
        if let (Node::N1, Some(via)) = (node, world.on_second_interface(Node::N2, family)) {
            let gateway = world.internal(Node::N2, family);
            lines.add(format_args!("route add {gateway}/{} via {via} dev eth1", full(family)));
        }
        for pod in world.pods().into_iter().filter(|pod| pod.node != node) {
            let (address, via) = (world.pod(pod, family), world.internal(pod.node, family));
            let way = if node == Node::N1 && pod.node == Node::N2 {
                world.on_second_interface(Node::N2, family)
            } else {
                None
            };
            lines.add(format_args!("route add {address}/{} via {}", full(family), way.unwrap_or(via)));
        }
    }
    for pod in world.pods().into_iter().filter(|pod| pod.node == node) {
        attach(&mut lines, world, claim, pod);
    }
    lines.0
}

/// What the kernel would choose as a source is the first address in IPv4, and in IPv6 that which came last (`ipv6_link_dev_addr` in the
/// kernel's net/ipv6/addrconf.c puts it in front).
fn node_addresses(lines: &mut Lines, world: World, node: Node, family: Family) {
    let internal = (world.internal(node, family), subnet(family));
    let second = world.second(node, family);
    let mut addresses = vec![internal];
    match (world.addresses, second) {
        (Addresses::Second, Some(second)) if family == Family::V4 => addresses.insert(0, (second, subnet(family))),
        (Addresses::Second, Some(second)) => addresses.push((second, subnet(family))),
        (_, Some(second)) => addresses.push((second, full(family))),
        (_, None) => {}
    }
    for (address, length) in addresses {
        lines.address(address, length, "eth0");
    }
    if let Some(address) = world.on_second_interface(node, family) {
        lines.address(address, subnet(family), "eth1");
    }
    if node == Node::N2 {
        lines.address(layout::egress(family), subnet(family), "net1");
    }
}

fn mac(pod: Pod) -> String {
    let place = pod.name.bytes().fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("0a:58:00:0{}:{:02x}:{:02x}", pod.node as u8, place >> 8, place & 0xff)
}

/// What a CNI puts on a pod's node.
fn attach(lines: &mut Lines, world: World, claim: &Claim, pod: Pod) {
    let (link, mac, mtu) = (format!("{}-{}", world.link_prefix(), pod.name), mac(pod), world.mtu());
    let inside = claim.namespace(pod.name);
    let peer = format!("peer name eth0 address {mac} mtu {mtu} netns {}", inside.name());
    if world.attachment == Attachment::Bridge {
        lines.add(format_args!("link add {link} mtu {mtu} type veth {peer}"));
        lines.add(format_args!("link set {link} master cni0 up"));
        return;
    }
    lines.add(format_args!("link add {link} address {POD_GATEWAY_MAC} mtu {mtu} type veth {peer}"));
    lines.add(format_args!("link set {link} up"));
    for family in world.families() {
        let address = world.pod(pod, family);
        lines.add(format_args!("route add {address}/{} dev {link}", full(family)));
        lines.add(format_args!("neighbour add {address} lladdr {mac} dev {link} nud permanent"));
    }
}

/// What a CNI puts inside a pod.
fn pod_lines(world: World, pod: Pod) -> String {
    let mut lines = Lines::new();
    let bridge = world.attachment == Attachment::Bridge;
    for family in world.families() {
        let length = if bridge { subnet(family) } else { full(family) };
        lines.address(world.pod(pod, family), length, "eth0");
    }
    lines.add("link set eth0 up");
    for family in world.families() {
        let via = if family == Family::V4 { "169.254.1.1" } else { "fe80::1" };
        if bridge {
            let via = layout::bridge_address(pod.node, family);
            lines.add(format_args!("route add {} via {via}", any(family)));
        } else {
            lines.add(format_args!("neighbour add {via} lladdr {POD_GATEWAY_MAC} dev eth0 nud permanent"));
            if family == Family::V4 {
                lines.add(format_args!("route add {via}/32 dev eth0 scope link"));
            }
            lines.add(format_args!("route add {} via {via} dev eth0", any(family)));
        }
    }
    lines.0
}

/// The watch at the router: every datagram to a watched port of the outside by its source, counted before anything has a say. In a VPC also
/// the checks of the nodes' ports.
fn watch_table(world: World) -> String {
    let (first, last) = (super::WATCHED.start, super::WATCHED.end - 1);
    let mut text = format!(
        "table inet watch {{
  set came4 {{ type inet_service . ipv4_addr; size 65535; flags dynamic; }}
  set came6 {{ type inet_service . ipv6_addr; size 65535; flags dynamic; }}
  chain watch {{ type filter hook prerouting priority raw; policy accept;
    ip daddr 10.88.0.0/16 udp dport {first}-{last} add @came4 {{ udp dport . ip saddr counter }}
    ip6 daddr fd00:10:88::/48 udp dport {first}-{last} add @came6 {{ udp dport . ip6 saddr counter }}
  }}
}}
"
    );
    if world.ipam != Ipam::Vpc {
        return text;
    }
    for node in Node::ALL {
        let name = node.name();
        let mut checks = [String::new(), String::new()];
        for family in world.families() {
            let ip = if family == Family::V4 { "ip" } else { "ip6" };
            let pods = world.pods().into_iter().filter(|pod| pod.node == node).map(|pod| world.pod(pod, family));
            let of_node = [Some(world.internal(node, family)), world.second(node, family)].into_iter().flatten();
            let own: Vec<String> = of_node.chain(pods).map(|address| address.to_string()).collect();
            let more = if family == Family::V4 { "255.255.255.255, 224.0.0.0/4" } else { "::, fe80::/10, ff00::/8" };
            for (check, field) in checks.iter_mut().zip(["saddr", "daddr"]) {
                let _ = writeln!(check, "    {ip} {field} != {{ {}, {more} }} counter drop", own.join(", "));
            }
        }
        let [from, to] = checks;
        let _ = write!(
            text,
            "table netdev port-{name} {{
  chain from {{ type filter hook ingress device \"v-{name}\" priority 0; policy accept;
{from}  }}
  chain to {{ type filter hook egress device \"v-{name}\" priority 0; policy accept;
{to}  }}
}}
"
        );
    }
    text
}
