//! `egret doctor` in namespaces: one where all is well, one that somebody has made a mess of. Whole outputs.
//!
//! Deliberately absent: each judgement by itself (`kernel::doctor`), and what depends on the machine the tests run on: its kernel's
//! release, and whether systemd-networkd runs.

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::ffi::OsString;
use std::fs;

use crate::commands::{Said, egret};
use crate::lab::{Lab, Namespace, Options};

/// What a node of the lab has, and a doctor's look must leave.
fn everything(node: &Namespace) -> String {
    let listings = [&["ip", "-d", "link"][..], &["ip", "rule"], &["ip", "route", "show", "table", "all"]];
    let mut text: String = listings.iter().map(|words| node.exec(*words).unwrap()).collect();
    text.push_str(&node.exec(["nft", "list", "ruleset"]).unwrap());
    text
}

fn doctor(node: &Namespace, more: &[OsString]) -> Said {
    let words = [OsString::from("doctor")].into_iter().chain(more.iter().cloned());
    let mut said = node.enter(|| egret(words)).unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    said.stdout = said.stdout.replace(&format!("kernel {}: ", release.trim()), "kernel RELEASE: ");
    // Two lines where networkd runs on the machine and is not told to leave others alone.
    let of_networkd = |line: &str| line.contains("systemd-networkd") || line.contains("ManageForeign");
    said.stdout = said.stdout.split_inclusive('\n').filter(|line| !of_networkd(line)).collect();
    said
}

fn of_the_cluster(lab: &Lab, node: &str) -> Vec<OsString> {
    let repository: OsString = lab.repository().path().into();
    let cluster: OsString = lab.cluster_dir().into();
    [("--repo", repository), ("--cluster", cluster), ("--node", node.into())]
        .into_iter()
        .flat_map(|(option, value)| [option.into(), value])
        .collect()
}

#[test]
fn a_healthy_node_has_nothing_but_good_lines_and_is_left_as_it_was() {
    let lab = Lab::up(Options::default()).unwrap();
    lab.repository().write("nodes/gateways.yaml", crate::documents::LABELS).unwrap();
    let commit = lab.repository().push("label the gateway").unwrap();
    let node = lab.node("kind-worker2").unwrap();
    let before = everything(&node);
    let said = doctor(&node, &of_the_cluster(&lab, "kind-worker2"));
    let repository = lab.repository().path().display();
    let commit = &commit[..12];
    let expected = format!(
        "\
ok     {repository} ({commit}): 1 document is fine
ok     kernel RELEASE: nf_tables, policy routing, IPv6 policy routing, vxlan, lwtunnel, interface kinds, owned tables, conntrack netlink
ok     capabilities: NET_ADMIN
ok     settings: /proc/sys/net is writable, IPv4 and IPv6 are forwarded
ok     reverse path filters: none is strict; they ignore marks
ok     UDP port 4790: it is free
ok     MTU: 1450 in the tunnel, 1500 on eth0
ok     kind-worker2 is here: 172.18.0.3 on eth0
ok     routes to the other node: from 172.18.0.3 through eth0
ok     marks 0x1fff (auto: the default, otherwise unused), tables 9000 to 17189, rules from priority 500 on, UDP port 4790
ok     other firewalls: none drops forwarded packets, nor the tunnel's
"
    );
    assert_eq!(said, Said { code: Some(0), stdout: expected, stderr: String::new() });
    assert_eq!(everything(&node), before);
}

#[test]
fn everything_that_somebody_put_in_the_way_is_named_with_what_to_do() {
    let lab = Lab::up(Options::default()).unwrap();
    let node = lab.node("kind-worker").unwrap();
    node.exec(["ip", "link", "add", "vxlan7", "type", "vxlan", "id", "7", "dstport", "4790", "dev", "eth0"]).unwrap();
    // Without an address of its own, which would come at a moment of its own.
    node.exec(["ip", "link", "set", "vxlan7", "addrgenmode", "none", "up"]).unwrap();
    node.exec(["ip", "link", "add", "cilium_host", "type", "bridge"]).unwrap();
    node.exec(["ip", "link", "set", "eth0", "mtu", "1400"]).unwrap();
    node.exec(["ip", "rule", "add", "priority", "90", "lookup", "100"]).unwrap();
    node.exec(["ip", "rule", "add", "priority", "9", "fwmark", "0x200/0xf00", "lookup", "2004"]).unwrap();
    node.exec(["ip", "route", "add", "10.9.0.0/16", "dev", "eth0", "table", "9003"]).unwrap();
    node.nft("table inet site { chain forward { type filter hook forward priority 0; policy drop; }; }").unwrap();
    node.sysctl("net.ipv4.ip_forward", "0").unwrap();
    let before = everything(&node);
    let said = doctor(&node, &[]);
    let expected = "\
ok     kernel RELEASE: nf_tables, policy routing, IPv6 policy routing, vxlan, lwtunnel, interface kinds, owned tables, conntrack netlink
ok     capabilities: NET_ADMIN
error  net.ipv4.ip_forward is 0: no pod's packet leaves this node
       hint: `sysctl -w net.ipv4.ip_forward=1`
ok     reverse path filters: none is strict; they ignore marks
error  UDP port 4790 is the tunnel port of vxlan7, which is not ours: two cannot share it
       hint: set another datapath.port in egret.yaml, the same for all nodes
warn   MTU: tunnel packets of 1450 bytes need 1500 with encapsulation, and eth0 takes 1400
       hint: set datapath.mtu to 1350 in egret.yaml, or raise the MTU of eth0
ok     routes to the other nodes: not checked without --cluster and --node
ok     marks 0xff (auto: the default is in use), tables 9000 to 9253, rules from priority 500 on, UDP port 4790; marks of other programs: Cilium 0xffff0f00, the ip rule 9 0xf00
warn   an ip rule of another program precedes Egret's and matches every packet: 90: lookup 100
       hint: members' packets use its table where it has a route for them; move it behind 753
error  a foreign route is in one of Egret's tables: 10.9.0.0/16 dev eth0 table 9003
       hint: `ip route del 10.9.0.0/16 dev eth0 table 9003`, or set datapath.firstTable in egret.yaml
warn   the chain inet site forward drops packets that a gateway forwards out of egret0
       hint: `nft insert rule inet site forward iifname egret0 accept`, and the same with oifname; nothing to do on nodes that are never gateways
warn   Cilium is here; it is unknown whether it routes by eBPF, bypassing netfilter
       hint: `cilium status | grep 'Host Routing'` should say Legacy; if not: bpf.hostLegacyRouting=true
";
    assert_eq!(said, Said { code: Some(1), stdout: expected.to_owned(), stderr: String::new() });
    let json: serde_json::Value = serde_json::from_str(&doctor(&node, &["--output=json".into()]).stdout).unwrap();
    assert_eq!(json["formatVersion"], 1);
    let json = json["checks"].as_array().unwrap();
    let errors: Vec<&str> =
        json.iter().filter(|check| check["severity"] == "error").filter_map(|check| check["code"].as_str()).collect();
    assert_eq!(errors, ["forwarding", "tunnel-port", "foreign-route"]);
    assert_eq!(everything(&node), before);
}

#[test]
fn a_program_on_the_tunnels_port_is_seen_and_a_cluster_that_is_none() {
    let lab = Lab::up(Options::default()).unwrap();
    let node = lab.node("kind-worker2").unwrap();
    let socket = node.enter(|| std::net::UdpSocket::bind("0.0.0.0:4790").unwrap()).unwrap();
    let more = ["--repo=/nonexistent", "--cluster=/nonexistent", "--node=kind-worker2"].map(OsString::from);
    let said = doctor(&node, &more);
    drop(socket);
    let bad: Vec<&str> = said.stdout.lines().filter(|line| !line.starts_with("ok ")).collect();
    let expected = [
        "error  read /nonexistent: No such file or directory (os error 2)",
        "       hint: --repo takes a folder, a Git repository, or the address of one",
        "error  listing the manifests in /nonexistent: No such file or directory (os error 2)",
        "       hint: --cluster takes a file or folder, as `kubectl get nodes,namespaces,pods -A -o yaml` prints it, or - for standard input",
        "error  UDP port 4790, the tunnel's, is in use by a program",
        "       hint: `ss -ulpn sport = :4790` names it; or set another datapath.port in egret.yaml",
    ];
    assert_eq!(bad, expected);
    assert_eq!(said.code, Some(1));
}

#[test]
fn a_node_the_manifests_do_not_know_is_reported_with_those_they_know() {
    let lab = Lab::up(Options::default()).unwrap();
    let node = lab.node("kind-worker").unwrap();
    let map = "kind: ConfigMap\nmetadata: {name: cilium-config}\ndata: {kube-proxy-replacement: \"true\", enable-bpf-masquerade: \"true\"}\n";
    fs::write(lab.cluster_dir().join("cilium.yaml"), map).unwrap();
    let more = ["--cluster".into(), lab.cluster_dir().into(), "--node=kind-worker9".into()];
    let said = doctor(&node, &more);
    let bad: Vec<&str> = said.stdout.lines().filter(|line| !line.starts_with("ok ")).collect();
    let expected = [
        "error  kind-worker9 is not among the nodes of FOLDER",
        "       hint: they have kind-worker, kind-worker2",
        "error  Cilium routes by eBPF (host routing: BPF): pods' packets never reach netfilter, nothing would be steered",
        "       hint: bpf.hostLegacyRouting=true in Cilium's Helm values, then restart its agents",
    ];
    assert_eq!(bad, expected.map(|line| line.replace("FOLDER", &lab.cluster_dir().display().to_string())));
    assert_eq!(said.code, Some(1));
}

/// The one line of a doctor's output that begins with this.
fn line(said: &Said, begins: &str) -> String {
    let line = said.stdout.lines().find(|line| line.get(7..).is_some_and(|text| text.starts_with(begins)));
    line.unwrap_or_else(|| panic!("no line begins with {begins}: {}", said.stdout)).to_owned()
}

/// What a node of another cluster's kind does with marks, the bits of it, and the mask that Egret takes there.
const MARKS: [(&str, &[&str], u32, &str); 12] = [
    ("ip rule, as AWS' CNI has it", &["ip rule add priority 1024 fwmark 0x80/0x80 lookup main"], 0x80, "0x1fff0000"),
    ("ip -6 rule", &["ip -6 rule add priority 70 fwmark 0x3/0x3 lookup main"], 0x3, "0x1fff0000"),
    ("ip rule without a mask", &["ip rule add priority 71 not fwmark 51820 lookup 51820"], 51820, "0x1fff0000"),
    (
        "nft: comparison and change, in place and from the connection",
        &[
            "nft add table ip a",
            "nft add chain ip a p { type filter hook prerouting priority 0 ; }",
            "nft add rule ip a p meta mark and 0x40 == 0x40 ct mark set ct mark or 0x100",
            "nft add rule ip a p meta mark set ct mark and 0x800",
        ],
        0x940,
        "0x1fff0000",
    ),
    (
        "nft: constants, sets and maps",
        &[
            "nft add table inet a",
            "nft add chain inet a p { type filter hook prerouting priority 0 ; }",
            "nft add rule inet a p meta mark { 1, 4 } accept",
            "nft add rule inet a p meta mark set ip saddr map { 192.0.2.1 : 0x10, 192.0.2.2 : 0x20 }",
            "nft add rule inet a p ct mark set 0x200",
        ],
        0x235,
        "0x1fff0000",
    ),
    (
        "nft: ranges and numbers",
        &[
            "nft add table netdev a",
            "nft add table ip a",
            "nft add chain ip a p { type filter hook prerouting priority 0 ; }",
            "nft add rule ip a p meta mark 16-18 accept",
            "nft add rule ip a p meta mark set numgen inc mod 4 offset 64",
        ],
        0x7f,
        "0x1fff0000",
    ),
    (
        "nft: shifted",
        &[
            "nft add table ip a",
            "nft add chain ip a p { type filter hook prerouting priority 0 ; }",
            "nft add rule ip a p meta mark set (ct mark >> 8) & 0x3",
        ],
        0x303,
        "0x1fff0000",
    ),
    (
        "iptables: match and target",
        &[
            "iptables-nft -t mangle -A PREROUTING -m mark --mark 0x10/0x30 -j MARK --set-xmark 0x400/0x400",
            "iptables-nft -t mangle -A PREROUTING -m connmark --mark 0x2/0x2",
        ],
        0x432,
        "0x1fff0000",
    ),
    (
        "iptables: as AWS' CNI has it",
        &[
            "iptables-nft -t mangle -A PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
            "iptables-nft -t nat -N AWS-CONNMARK-CHAIN-0",
            "iptables-nft -t nat -A AWS-CONNMARK-CHAIN-0 -j CONNMARK --set-xmark 0x80/0x80",
        ],
        0x80,
        "0x1fff0000",
    ),
    (
        "ip6tables and TPROXY",
        &["ip6tables-nft -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 15001 --tproxy-mark 0x1/0x1"],
        0x1,
        "0x3ffe",
    ),
    (
        "Calico's devices beside the rule",
        &["ip link add cali1234 type bridge", "ip rule add priority 1024 fwmark 0x80/0x80 lookup main"],
        0xffff_0080,
        "0x7f",
    ),
    (
        "whole marks that come and go are nobody's bits",
        &[
            "iptables-nft -t mangle -A PREROUTING -j CONNMARK --restore-mark",
            "nft add table ip a",
            "nft add chain ip a p { type filter hook prerouting priority 0 ; }",
            "nft add rule ip a p ct mark set meta mark",
        ],
        0,
        "0x1fff",
    ),
];

#[test]
fn bits_that_anything_on_a_node_uses_are_left_to_it() {
    for (what, commands, bits, mask) in MARKS {
        let lab = Lab::up(Options::default()).unwrap();
        let node = lab.node("kind-worker2").unwrap();
        for command in commands {
            node.exec(command.split(' ')).unwrap();
        }
        let said = doctor(&node, &[]);
        let line = line(&said, "marks 0x");
        assert!(line.contains(&format!(" marks {mask} (auto: ")), "{what}: {line}");
        let named = line.split_once("marks of other programs: ").map_or("", |(_, others)| others);
        let seen = named
            .split(", ")
            .filter_map(|one| one.rsplit_once(" 0x"))
            .fold(0, |all, (_, bits)| all | u32::from_str_radix(bits, 16).unwrap_or_else(|_| panic!("{what}: {line}")));
        // The known users' bits are theirs, whichever rules they have.
        assert_eq!(seen, bits, "{what}: {line}");
    }
}

/// Firewalls that drop packets, and what the doctor says of what a gateway forwards and of the tunnel's own packets.
const FIREWALLS: [(&str, &[&str], &str); 17] = [
    (
        "hardening that takes the tunnel's port",
        &[
            "nft add table inet hardening",
            "nft add chain inet hardening in { type filter hook input priority -5 ; policy accept ; }",
            "nft add rule inet hardening in udp dport 4790 drop",
        ],
        "warn   the chain inet hardening in drops the tunnel's packets from 172.18.0.2, UDP port 4790",
    ),
    (
        "what may come in is listed, without the tunnel",
        &[
            "iptables-nft -P INPUT DROP",
            "iptables-nft -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables-nft -A INPUT -i lo -j ACCEPT",
            "iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT",
            "iptables-nft -A INPUT -p udp --dport 4789 -j ACCEPT",
        ],
        "warn   the chain ip filter INPUT drops the tunnel's packets from 172.18.0.2, UDP port 4790",
    ),
    (
        "what may come in is listed, with the tunnel",
        &[
            "iptables-nft -P INPUT DROP",
            "iptables-nft -A INPUT -p tcp --dport 22 -j ACCEPT",
            "iptables-nft -A INPUT -s 172.18.0.0/16 -p udp -m udp --dport 4700:4800 -j ACCEPT",
        ],
        "ok     other firewalls: none drops forwarded packets, nor the tunnel's",
    ),
    (
        "what kube-proxy and kubelet drop is no packet of the tunnel's",
        &[
            "iptables-nft -N KUBE-FIREWALL",
            "iptables-nft -A INPUT -j KUBE-FIREWALL",
            "iptables-nft -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
            "iptables-nft -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP",
        ],
        "ok     other firewalls: none drops forwarded packets, nor the tunnel's",
    ),
    (
        "ufw, which looks at kinds of addresses first, with the port allowed",
        &[
            "iptables-nft -P INPUT DROP",
            "iptables-nft -N ufw-not-local",
            "iptables-nft -N ufw-user-input",
            "iptables-nft -A INPUT -p udp --sport 67 --dport 68 -j ACCEPT",
            "iptables-nft -A INPUT -j ufw-not-local",
            "iptables-nft -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN",
            "iptables-nft -A ufw-not-local -j DROP",
            "iptables-nft -A INPUT -j ufw-user-input",
            "iptables-nft -A ufw-user-input -p udp -m multiport --dports 4790 -j ACCEPT",
        ],
        "ok     other firewalls: none drops forwarded packets, nor the tunnel's",
    ),
    (
        "ufw without the port",
        &[
            "iptables-nft -P INPUT DROP",
            "iptables-nft -N ufw-user-input",
            "iptables-nft -A INPUT -i lo -j ACCEPT",
            "iptables-nft -A INPUT -p udp --sport 67 --dport 68 -j ACCEPT",
            "iptables-nft -A INPUT -j ufw-user-input",
            "iptables-nft -A ufw-user-input -p tcp --dport 22 -j ACCEPT",
        ],
        "warn   the chain ip filter INPUT drops the tunnel's packets from 172.18.0.2, UDP port 4790",
    ),
    (
        "a port in a set, and packets without a connection",
        &[
            "nft add table inet site",
            "nft add chain inet site in { type filter hook input priority 0 ; policy drop ; }",
            "nft add rule inet site in udp dport { 4790, 8472 } accept",
            "iptables-nft -P INPUT DROP",
            "iptables-nft -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED,UNTRACKED -j ACCEPT",
        ],
        "ok     other firewalls: none drops forwarded packets, nor the tunnel's",
    ),
    (
        "what the node sends",
        &["iptables-nft -A OUTPUT -p udp --dport 4790 -j REJECT"],
        "warn   the chain ip filter OUTPUT drops the tunnel's packets to 172.18.0.2, UDP port 4790",
    ),
    (
        "firewalld, which rejects what no rule of it lets through behind a policy of accept",
        &[
            "nft add table inet firewalld",
            "nft add chain inet firewalld filter_FORWARD { type filter hook forward priority 10 ; policy accept ; }",
            "nft add rule inet firewalld filter_FORWARD ct state { established, related } accept",
            "nft add rule inet firewalld filter_FORWARD ct status dnat accept",
            "nft add rule inet firewalld filter_FORWARD reject with icmpx type admin-prohibited",
        ],
        "warn   the chain inet firewalld filter_FORWARD may drop packets that a gateway forwards out of egret0 from 10.1.1.0/24",
    ),
    (
        "flannel and kube-proxy beside a policy of drop",
        &[
            "iptables-nft -P FORWARD DROP",
            "iptables-nft -N KUBE-FORWARD",
            "iptables-nft -N FLANNEL-FWD",
            "iptables-nft -A FORWARD -m comment --comment kubernetes -j KUBE-FORWARD",
            "iptables-nft -A FORWARD -j FLANNEL-FWD",
            "iptables-nft -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
            "iptables-nft -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
            "iptables-nft -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables-nft -A FLANNEL-FWD -s 10.1.0.0/16 -m comment --comment flanneld -j ACCEPT",
            "iptables-nft -A FLANNEL-FWD -d 10.1.0.0/16 -j ACCEPT",
        ],
        "ok     the chain ip filter FORWARD drops forwarded packets by policy, and accepts packets from egret0 and the replies",
    ),
    (
        "Docker alone",
        &[
            "iptables-nft -P FORWARD DROP",
            "iptables-nft -N DOCKER-USER",
            "iptables-nft -A FORWARD -j DOCKER-USER",
            "iptables-nft -A DOCKER-USER -j RETURN",
            "iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        ],
        "warn   the chain ip filter FORWARD drops packets that a gateway forwards out of egret0 from 10.1.1.0/24",
    ),
    (
        "Docker, and what the hint says",
        &[
            "iptables-nft -P FORWARD DROP",
            "iptables-nft -N DOCKER-USER",
            "iptables-nft -A FORWARD -j DOCKER-USER",
            "iptables-nft -I DOCKER-USER -i egret0 -j ACCEPT",
            "iptables-nft -I DOCKER-USER -o egret0 -j ACCEPT",
        ],
        "ok     the chain ip filter FORWARD drops",
    ),
    (
        "pods' packets, but not the replies",
        &["iptables-nft -P FORWARD DROP", "iptables-nft -A FORWARD -s 10.1.1.0/24 -j ACCEPT"],
        "warn   the chain ip filter FORWARD may drop replies that a gateway forwards into egret0 to 10.1.1.0/24",
    ),
    (
        "another network",
        &[
            "nft add table inet site",
            "nft add chain inet site onward { type filter hook forward priority 0 ; policy drop ; }",
            "nft add rule inet site onward ct state established,related accept",
            "nft add rule inet site onward ip saddr 10.1.2.0/23 accept",
        ],
        "warn   the chain inet site onward drops packets that a gateway forwards out of egret0 from 10.1.1.0/24",
    ),
    (
        "nftables, let through by the network it is in, after a jump",
        &[
            "nft add table inet site",
            "nft add chain inet site onward { type filter hook forward priority 0 ; policy drop ; }",
            "nft add chain inet site pods",
            "nft add rule inet site onward ct state vmap { established : accept, invalid : drop }",
            "nft add rule inet site onward ct state established accept",
            "nft add rule inet site onward jump pods",
            "nft add rule inet site pods ip saddr 10.1.0.0/20 accept",
            "nft add rule inet site pods meta nfproto ipv6 accept",
        ],
        // A map of verdicts cannot be judged; what comes behind it lets them through.
        "ok     the chain inet site onward drops forwarded packets by policy, and accepts packets from egret0 and the replies",
    ),
    (
        "the same without a map of verdicts",
        &[
            "nft add table inet site",
            "nft add chain inet site onward { type filter hook forward priority 0 ; policy drop ; }",
            "nft add chain inet site pods",
            "nft add rule inet site onward ct state established accept",
            "nft add rule inet site onward jump pods",
            "nft add rule inet site pods ip saddr 10.1.0.0/20 accept",
            "nft add rule inet site pods meta nfproto ipv6 accept",
        ],
        "ok     the chain inet site onward drops",
    ),
    (
        "a rule that rejects all that is left, behind a policy of accept",
        &[
            "iptables-nft -A FORWARD -i eth0 -j ACCEPT",
            "iptables-nft -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "iptables-nft -A FORWARD -j REJECT",
        ],
        "warn   the chain ip filter FORWARD drops packets that a gateway forwards out of egret0 from 10.1.1.0/24",
    ),
];

#[test]
fn a_firewall_is_named_where_it_drops_what_a_gateway_forwards_and_not_where_it_lets_it_through() {
    for (what, commands, expected) in FIREWALLS {
        let lab = Lab::up(Options::default()).unwrap();
        let node = lab.node("kind-worker2").unwrap();
        for command in commands {
            node.exec(command.split(' ')).unwrap();
        }
        let said = doctor(&node, &of_the_cluster(&lab, "kind-worker2"));
        assert!(said.stdout.contains(&format!("\n{expected}")), "{what}: {}", said.stdout);
    }
}

#[test]
fn the_kernel_is_asked_for_the_way_to_each_other_node() {
    let lab = Lab::up(Options::default()).unwrap();
    let node = lab.node("kind-worker2").unwrap();
    let of_peers = |expected: &str| {
        let said = doctor(&node, &of_the_cluster(&lab, "kind-worker2"));
        assert!(said.stdout.contains(&format!("\n{expected}")), "{}", said.stdout);
    };
    node.exec(["ip", "route", "add", "172.18.0.2/32", "dev", "eth0", "mtu", "1300"]).unwrap();
    of_peers(
        "warn   the route to kind-worker takes packets of 1300 bytes: IPv6 policies need 1330, IPv4 policies work",
    );
    node.exec(["ip", "route", "replace", "172.18.0.2/32", "dev", "net1"]).unwrap();
    of_peers(
        "warn   the route from 172.18.0.3 to kind-worker is through net1, and 172.18.0.3 is on eth0: replies may come in elsewhere",
    );
    node.exec(["ip", "route", "replace", "unreachable", "172.18.0.2/32"]).unwrap();
    of_peers("error  no route from 172.18.0.3 to kind-worker: ");
    node.exec(["ip", "route", "del", "unreachable", "172.18.0.2/32"]).unwrap();
    node.exec(["ip", "address", "add", "172.18.0.2/16", "dev", "eth0"]).unwrap();
    of_peers("error  the InternalIP of kind-worker is an address of this machine");
}
