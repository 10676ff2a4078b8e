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
ok     reverse path filters: none is strict; they do not look at marks
ok     UDP port 4790: it is free
ok     MTU: 1450 in the tunnel, 1500 on eth0
ok     kind-worker2 is here: 172.18.0.3 on eth0
ok     marks 0x1fff, tables and priorities 9000 to 17190: nobody else's
ok     firewalls of others: none drops forwarded packets by policy
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
    node.exec(["ip", "link", "set", "vxlan7", "up"]).unwrap();
    node.exec(["ip", "link", "add", "cilium_host", "type", "bridge"]).unwrap();
    node.exec(["ip", "link", "set", "eth0", "mtu", "1400"]).unwrap();
    node.exec(["ip", "rule", "add", "priority", "9003", "from", "10.9.0.0/16", "lookup", "100"]).unwrap();
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
ok     reverse path filters: none is strict; they do not look at marks
error  UDP port 4790 is the tunnel port of vxlan7, which is not ours: two cannot share it
       hint: set another datapath.port in egret.yaml, the same for all nodes
warn   MTU: tunnel packets of 1450 bytes need 1500 with what is put around them, and eth0 takes 1400
       hint: set datapath.mtu to 1350 in egret.yaml, or raise the MTU of eth0
warn   an ip rule of somebody else looks at marks of ours (0x1fff): 9: fwmark 0x200/0xf00 lookup 2004
       hint: `ip rule show priority 9` shows it whole; set datapath.markMask in egret.yaml to bits nobody uses
warn   an ip rule of somebody else has a priority of ours: 9003: lookup 100
       hint: `ip rule show priority 9003` shows it whole; move it, or set datapath.firstTable in egret.yaml
error  a route of somebody else is in a table of ours: 10.9.0.0/16 dev eth0 table 9003
       hint: `ip route del 10.9.0.0/16 dev eth0 table 9003`, or set datapath.firstTable in egret.yaml
warn   the chain inet site forward drops forwarded packets by policy; the tunnel's may be among them
       hint: let pass what comes in or goes out by egret0: `nft insert rule inet site forward iifname egret0 accept`, and oifname
warn   Cilium is here, and whether it routes by eBPF, past netfilter, can't be told
       hint: `cilium status | grep 'Host Routing'` should say Legacy; if not: bpf.hostLegacyRouting=true
warn   Cilium uses marks 0xffff0f00, of which 0xf00 are in our mask 0x1fff
       hint: set datapath.markMask to 0xff in egret.yaml
";
    assert_eq!(said, Said { code: Some(1), stdout: expected.to_owned(), stderr: String::new() });
    let json: Vec<serde_json::Value> = serde_json::from_str(&doctor(&node, &["--output=json".into()]).stdout).unwrap();
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
        "       hint: --cluster takes a file or folder, as `kubectl get nodes,namespaces,pods -A -o yaml` prints it",
        "error  UDP port 4790, the tunnel's, is in use by a program",
        "       hint: `ss -ulpn sport = :4790` names it; or set another datapath.port in egret.yaml",
    ];
    assert_eq!(bad, expected);
    assert_eq!(said.code, Some(1));
}

#[test]
fn a_node_the_manifests_do_not_know_is_told_which_they_know() {
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
        "warn   Cilium uses marks 0xffff0f00, of which 0xf00 are in our mask 0x1fff",
        "       hint: set datapath.markMask to 0xff in egret.yaml",
    ];
    assert_eq!(bad, expected.map(|line| line.replace("FOLDER", &lab.cluster_dir().display().to_string())));
    assert_eq!(said.code, Some(1));
}
