//! What a lab looks like: its nodes, pods, addresses and routes, and the lines for `ip -batch` that make them.
//!
//! Deliberately absent: anything that touches the machine. These are values and texts; `mod` applies them.
//! The addresses are those of the outpost scenario, so that a document written for one lab fits them all.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::namespace::Namespace;

/// Where the outpost listens.
pub(crate) const OUTPOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 4, 2));
/// The same over IPv6.
pub(crate) const OUTPOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 4, 0, 0, 0, 0, 2));
/// The outpost's other address, which policies exclude.
pub(crate) const EXCLUDED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 4, 99));
/// The same over IPv6.
pub(crate) const EXCLUDED6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 4, 0, 0, 0, 0, 0x99));
/// The egress address of kind-worker2.
pub(crate) const EGRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 3, 42));
/// The same over IPv6.
pub(crate) const EGRESS6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 3, 0, 0, 0, 0, 0x42));

/// The MAC of the node's end of every pod's link. Pods have it as a fixed neighbour, as with Calico, so that no first packet waits:
/// proxy ARP answers after a random delay of up to 0.8 s (`proxy_delay` in the kernel's net/core/neighbour.c).
const POD_GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// What kind of lab is wanted.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, each with a meaning of its own")]
pub(crate) struct Options {
    /// Nodes with an interface net1: kind-worker2 with 10.0.3.42, kind-worker3 with 10.0.3.43 and so on.
    pub(crate) gateways: u8,
    /// Nodes without one: kind-worker, then those after the last gateway. At least 1.
    pub(crate) workers: u8,
    /// The pods there are from the start.
    pub(crate) pods: Vec<Pod>,
    /// `net.ipv4.conf.all.rp_filter` of the nodes, and that of every device made in them: 0 off, 1 strict, 2 loose.
    pub(crate) rp_filter: u8,
    /// `net.ipv4.conf.all.src_valid_mark` of the nodes: whether the reverse-path check looks at marks.
    pub(crate) src_valid_mark: bool,
    /// IPv6 everywhere, beside IPv4.
    pub(crate) ipv6: bool,
    /// Gateways have a second default route over net1, with metric 200. Without it only their rules can lead there.
    pub(crate) default_route_over_net1: bool,
    /// Nodes have a table `cni` that gives pods' packets the node's address where they leave the node for outside the cluster.
    pub(crate) masquerade: bool,
    /// Nodes have a table `kube` that has connections tracked, as kube-proxy's rules do on every node that has them.
    pub(crate) tracks: bool,
    /// The binary `egret`; none: the one that cargo built beside the test.
    pub(crate) program: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gateways: 1,
            workers: 1,
            pods: vec![
                Pod::new("tiefighter", "kind-worker", 177, &[("org", "empire"), ("class", "tiefighter")]),
                Pod::new("xwing", "kind-worker", 234, &[("org", "alliance"), ("class", "xwing")]),
            ],
            rp_filter: 0,
            src_valid_mark: false,
            ipv6: true,
            default_route_over_net1: false,
            masquerade: false,
            tracks: true,
            program: None,
        }
    }
}

impl Options {
    /// The nodes in the order of their names' numbers.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        let node = |index| Node {
            name: if index == 1 { "kind-worker".to_owned() } else { format!("kind-worker{index}") },
            index,
            gateway: (2..2 + self.gateways).contains(&index),
        };
        (1..=self.workers + self.gateways).map(node).collect()
    }

    /// Of two addresses of different families, those that this lab has.
    pub(crate) fn families(&self, addresses: [IpAddr; 2]) -> Vec<IpAddr> {
        addresses.into_iter().filter(|address| self.ipv6 || address.is_ipv4()).collect()
    }
}

/// A node of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its name, in Kubernetes and as the role of its namespace.
    pub(crate) name: String,
    /// Its number, from 1: part of all its addresses.
    pub(crate) index: u8,
    /// Whether it has net1.
    pub(crate) gateway: bool,
}

impl Node {
    /// InternalIP, on eth0: 172.18.0.2 and fd00:172:18::2 for kind-worker.
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        let last = self.index + 1;
        [Ipv4Addr::new(172, 18, 0, last).into(), written_alike([0xfd00, 0x172, 0x18, 0], last).into()]
    }

    /// The addresses on net1: 10.0.3.42 and fd00:10:3::42 for kind-worker2. Only a gateway has them.
    pub(crate) fn egress(&self) -> Option<[IpAddr; 2]> {
        let last = 40 + self.index;
        let addresses = [Ipv4Addr::new(10, 0, 3, last).into(), written_alike([0xfd00, 0x10, 3, 0], last).into()];
        self.gateway.then_some(addresses)
    }

    /// `spec.podCIDRs`: 10.1.1.0/24 and fd00:10:1:1::/64 for kind-worker.
    pub(crate) fn pod_cidrs(&self) -> [String; 2] {
        [format!("10.1.{}.0/24", self.index), format!("fd00:10:1:{:x}::/64", self.index)]
    }
}

/// A pod of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its name: 11 letters at most, as its link is called `lxc-NAME`.
    pub(crate) name: String,
    /// Its Kubernetes namespace.
    pub(crate) namespace: String,
    /// The name of its node.
    pub(crate) node: String,
    /// The last number of its addresses, 1 to 254.
    pub(crate) host: u8,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
}

impl Pod {
    /// A pod in the namespace `batuu`.
    pub(crate) fn new(name: &str, node: &str, host: u8, labels: &[(&str, &str)]) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "batuu".to_owned(),
            node: node.to_owned(),
            host,
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    /// Its addresses on this node: 10.1.1.177 and fd00:10:1:1::177 for tiefighter.
    pub(crate) fn addresses(&self, node: &Node) -> [IpAddr; 2] {
        let network = [0xfd00, 0x10, 1, node.index.into()];
        [Ipv4Addr::new(10, 1, node.index, self.host).into(), written_alike(network, self.host).into()]
    }

    /// The node's end of its link.
    pub(crate) fn link(&self) -> String {
        format!("lxc-{}", self.name)
    }

    /// Its own MAC, made of its IPv4 address as CNI's bridge plugin makes it.
    fn mac(&self, node: &Node) -> String {
        format!("0a:58:0a:01:{:02x}:{:02x}", node.index, self.host)
    }
}

/// The IPv6 address whose last group is written with the same digits as the decimal number: people find the pair at a glance.
fn written_alike(network: [u16; 4], number: u8) -> Ipv6Addr {
    let digits = [u16::from(number) / 100, u16::from(number) / 10 % 10, u16::from(number) % 10];
    let last = digits.into_iter().fold(0, |sum, digit| sum << 4 | digit);
    Ipv6Addr::new(network[0], network[1], network[2], network[3], 0, 0, 0, last)
}

/// Lines for `ip -batch`, those of IPv6 left out where the lab has none.
pub(crate) struct Batch {
    text: String,
    ipv6: bool,
}

impl Batch {
    /// Lines that bring `lo` up, to begin with.
    fn new(options: &Options) -> Self {
        Self { text: "link set lo up\n".to_owned(), ipv6: options.ipv6 }
    }

    fn line(&mut self, line: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn line6(&mut self, line: impl Display) {
        if self.ipv6 {
            self.line(line);
        }
    }

    /// Without duplicate address detection: nobody else is there, and a tentative address is not usable for a second.
    fn addresses(&mut self, device: &str, [four, six]: [(IpAddr, u8); 2]) {
        self.line(format_args!("address add {}/{} dev {device}", four.0, four.1));
        self.line6(format_args!("address add {}/{} dev {device} nodad", six.0, six.1));
    }

    fn default_routes(&mut self, via: [&str; 2], more: &str) {
        self.line(format_args!("route add 0.0.0.0/0 via {}{more}", via[0]));
        self.line6(format_args!("route add ::/0 via {}{more}", via[1]));
    }

    fn pod_cidr_routes(&mut self, node: &Node) {
        let ([four, six], [via, via6]) = (node.pod_cidrs(), node.addresses());
        self.line(format_args!("route add {four} via {via}"));
        self.line6(format_args!("route add {six} via {via6}"));
    }

    /// The lines.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// The router's lines: a bridge for the nodes' network, one for net1's, the outpost's link, and the routes to pods. They make the nodes'
/// and the outpost's own interfaces as well, straight into their namespaces: none ever stands in the machine's.
pub(crate) fn router(options: &Options, namespace: impl Fn(&str) -> Namespace) -> Batch {
    let mut batch = Batch::new(options);
    for (bridge, mac) in [("br0", "02:00:ac:12:00:01"), ("br1", "02:00:0a:00:03:01")] {
        // A fixed MAC: a bridge's own follows its ports, and neighbours would remember an old one.
        batch.line(format_args!("link add {bridge} address {mac} type bridge"));
        batch.line(format_args!("link set {bridge} up"));
    }
    batch.line("address add 172.18.0.1/24 dev br0");
    batch.line6("address add fd00:172:18::1/64 dev br0 nodad");
    batch.line("address add 10.0.3.1/24 dev br1");
    batch.line6("address add fd00:10:3::1/64 dev br1 nodad");
    for node in options.nodes() {
        let (name, inside) = (&node.name, namespace(&node.name));
        batch.line(format_args!("link add v-{name} type veth peer name eth0 netns {}", inside.name()));
        batch.line(format_args!("link set v-{name} master br0 up"));
        batch.pod_cidr_routes(&node);
        if node.gateway {
            batch.line(format_args!("link add n-{name} type veth peer name net1 netns {}", inside.name()));
            batch.line(format_args!("link set n-{name} master br1 up"));
        }
    }
    batch.line(format_args!("link add v-outpost type veth peer name eth0 netns {}", namespace("outpost").name()));
    batch.line("address add 10.0.4.1/24 dev v-outpost");
    batch.line6("address add fd00:10:4::1/64 dev v-outpost nodad");
    batch.line("link set v-outpost up");
    batch
}

/// The outpost's lines.
pub(crate) fn outpost(options: &Options) -> Batch {
    let mut batch = Batch::new(options);
    batch.addresses("eth0", [(OUTPOST, 24), (OUTPOST6, 64)]);
    batch.addresses("eth0", [(EXCLUDED, 24), (EXCLUDED6, 64)]);
    batch.line("link set eth0 up");
    batch.default_routes(["10.0.4.1", "fd00:10:4::1"], "");
    batch
}

/// A node's lines, without its pods.
pub(crate) fn node(options: &Options, node: &Node) -> Batch {
    let mut batch = Batch::new(options);
    let [four, six] = node.addresses();
    batch.addresses("eth0", [(four, 24), (six, 64)]);
    batch.line("link set eth0 up");
    batch.default_routes(["172.18.0.1", "fd00:172:18::1"], "");
    if let Some([four, six]) = node.egress() {
        batch.addresses("net1", [(four, 24), (six, 64)]);
        batch.line("link set net1 up");
        if options.default_route_over_net1 {
            batch.default_routes(["10.0.3.1", "fd00:10:3::1"], " dev net1 metric 200");
        }
    }
    for peer in options.nodes().iter().filter(|peer| *peer != node) {
        batch.pod_cidr_routes(peer);
    }
    batch
}

/// What a CNI puts on a pod's node: the link into the pod's namespace, and the route to it.
pub(crate) fn pod_on_node(options: &Options, pod: &Pod, node: &Node, inside: &Namespace) -> Batch {
    let mut batch = Batch { text: String::new(), ipv6: options.ipv6 };
    let (link, mac, [four, six]) = (pod.link(), pod.mac(node), pod.addresses(node));
    batch.line(format_args!(
        "link add {link} address {POD_GATEWAY_MAC} type veth peer name eth0 address {mac} netns {}",
        inside.name()
    ));
    batch.line(format_args!("link set {link} up"));
    batch.line(format_args!("route add {four}/32 dev {link}"));
    batch.line(format_args!("neighbour add {four} lladdr {mac} dev {link} nud permanent"));
    batch.line6(format_args!("route add {six}/128 dev {link}"));
    batch.line6(format_args!("neighbour add {six} lladdr {mac} dev {link} nud permanent"));
    batch
}

/// What a CNI puts inside a pod: its addresses, and default routes through a gateway that is only a neighbour entry.
pub(crate) fn pod_inside(options: &Options, pod: &Pod, node: &Node) -> Batch {
    let mut batch = Batch::new(options);
    let [four, six] = pod.addresses(node);
    batch.addresses("eth0", [(four, 32), (six, 128)]);
    batch.line("link set eth0 up");
    batch.line(format_args!("neighbour add 169.254.1.1 lladdr {POD_GATEWAY_MAC} dev eth0 nud permanent"));
    batch.line6(format_args!("neighbour add fe80::1 lladdr {POD_GATEWAY_MAC} dev eth0 nud permanent"));
    batch.line("route add 169.254.1.1/32 dev eth0 scope link");
    batch.default_routes(["169.254.1.1", "fe80::1"], " dev eth0");
    batch
}

/// The sysctls of a namespace, set before it has any device so that each begins with them. A new namespace takes IPv4's from the machine
/// (`devconf_inherit_init_net`), so nothing that matters is left to chance.
pub(crate) fn sysctls(options: &Options, forwards: bool, rp_filter: u8) -> Vec<(String, String)> {
    let mut settings = vec![("net.ipv4.ip_forward".to_owned(), u8::from(forwards).to_string())];
    for scope in ["all", "default"] {
        settings.extend([
            (format!("net.ipv4.conf.{scope}.rp_filter"), rp_filter.to_string()),
            (format!("net.ipv6.conf.{scope}.disable_ipv6"), u8::from(!options.ipv6).to_string()),
            (format!("net.ipv6.conf.{scope}.accept_dad"), "0".to_owned()),
            (format!("net.ipv6.conf.{scope}.accept_ra"), "0".to_owned()),
        ]);
    }
    settings.push(("net.ipv6.conf.all.forwarding".to_owned(), u8::from(forwards).to_string()));
    // A client without pause, which is the first to close, has used all its ports after half a minute.
    settings.push(("net.ipv4.tcp_tw_reuse".to_owned(), "1".to_owned()));
    settings
}

/// A rule that looks at connections, and does nothing.
pub(crate) const TRACK: &str = "
table inet kube {
  chain forward { type filter hook forward priority filter; policy accept;
    ct state established accept
  }
}
";

/// The table of a CNI that hides pods behind their node, as kindnet's and flannel's does; packets between pods keep their addresses.
pub(crate) const MASQUERADE: &str = r#"
table inet cni {
  chain hide { type nat hook postrouting priority srcnat; policy accept;
    ip saddr 10.1.0.0/16 ip daddr != 10.1.0.0/16 oifname != "lxc*" masquerade
    ip6 saddr fd00:10:1::/48 ip6 daddr != fd00:10:1::/48 oifname != "lxc*" masquerade
  }
}
"#;
