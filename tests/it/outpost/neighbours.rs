//! Objects of others right beside ours: the same numbers, almost the same names, the same kinds. They stay as they are, byte for byte, while
//! Egret comes, works, repairs and goes.
//!
//! Deliberately absent: objects that bear our marks, which are drift (`drift`).

use super::listing::{difference, everything};
use super::stand::{Outcome, Stand};
use crate::lab::{Lab, LabError, Namespace, Options, Pod};

/// What others have: rules at our priorities without our protocol and with it outside our range, routes in our tables, tables of our name in
/// other families, a device whose name is ours without its last letter, on the port beside ours.
const RULES_AND_ROUTES: &str = "
rule add priority 501 fwmark 0x77 lookup 77
rule add priority 501 fwmark 0x1/0x1fff lookup 9001 protocol 201
rule add priority 8999 fwmark 0x78 lookup 78 protocol 180
rule add priority 30000 from 198.51.100.7 lookup 9001 protocol 180
route add 198.51.100.0/24 via 172.18.0.1 dev eth0 table 9001 proto static
route add 198.51.100.0/24 via 172.18.0.1 dev eth0 table 77 proto 180
route add 203.0.113.0/24 via 172.18.0.1 dev eth0 proto 180
link add egre0 type vxlan external dstport 4791 nolearning
link set egre0 up
address add 169.254.90.1/32 dev egre0
neighbour add 172.18.0.99 lladdr 02:00:ac:12:00:63 dev eth0 nud permanent
";

const TABLES: &str = r#"
table ip egret { chain c { type filter hook forward priority 0; policy accept; ip daddr 203.0.113.9 counter drop; }; }
table ip6 egret { set s { type ipv6_addr; elements = { fd00::1 }; }; }
table inet egret2 { map m { type mark : verdict; elements = { 0x1 : accept }; }; chain steer { meta mark vmap @m; }; }
table netdev egress { chain arrive { type filter hook ingress device "eth0" priority 0; policy accept; }; }
"#;

fn put_beside(node: &Namespace) -> Outcome {
    node.ip_batch(RULES_AND_ROUTES)?;
    node.nft(TABLES)
}

/// What the listing has now that it had not before, without anything of it that is ours.
fn gone_or_changed(before: &str, node: &Namespace) -> Result<String, LabError> {
    let lines = difference(before, &everything(node)?);
    Ok(lines.split_inclusive('\n').filter(|line| line.starts_with('-')).collect())
}

#[test]
fn what_is_not_ours_stays_byte_for_byte_from_before_we_come_until_after_we_go() -> Outcome {
    let lab = Lab::up(Options { rp_filter: 1, ..Options::default() })?;
    let nodes: Vec<_> =
        ["kind-worker", "kind-worker2"].into_iter().map(|node| lab.node(node)).collect::<Result<_, _>>()?;
    nodes.iter().try_for_each(put_beside)?;
    let before: Vec<String> = nodes.iter().map(everything).collect::<Result<_, _>>()?;
    let manifest = std::fs::read_to_string(lab.cluster_dir().join("nodes.yaml")).expect("nodes.yaml");

    let mut stand = Stand::around(lab)?;
    stand.push_outpost()?;
    stand.await_granted("tiefighter")?;
    for (node, before) in nodes.iter().zip(&before) {
        node.exec(["ip", "rule", "del", "priority", "501", "protocol", "180"])?;
        node.exec(["ip", "link", "del", "egret0"])?;
        // The only setting of others that is changed, and put back when we go.
        let gone = gone_or_changed(before, node)?;
        let gone: Vec<&str> = gone.lines().filter(|line| !line.contains("net1.rp_filter")).collect();
        assert_eq!(gone, Vec::<&str>::new());
    }
    stand.await_granted("tiefighter")?;
    stand.await_settled()?;

    for (number, node) in stand.nodes().into_iter().enumerate() {
        assert_eq!(stand.terminate(&node)?, Some(0));
        // Both ways of saying it.
        let words: &[&str] = if number == 0 { &["remove"] } else { &["run", "--remove"] };
        let output = stand.command(&node, words)?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let after = everything(&nodes[number])?;
        assert_eq!(difference(&before[number], &after), "", "{node}");
        assert_eq!(before[number], after, "{node}");
    }
    let after = std::fs::read_to_string(stand.lab.cluster_dir().join("nodes.yaml")).expect("nodes.yaml");
    assert_eq!(after, manifest);
    stand.await_own_way("tiefighter")
}

#[test]
fn the_last_policy_takes_everything_of_ours_with_it() -> Outcome {
    let member = Pod::new("deathstar", "kind-worker2", 60, &[("org", "empire")]);
    let mut options = Options { rp_filter: 1, ..Options::default() };
    options.pods.push(member);
    let stand = Stand::up(options)?;
    let nodes: Vec<_> = stand.nodes().iter().map(|node| stand.lab.node(node)).collect::<Result<_, _>>()?;
    let before: Vec<String> = nodes.iter().map(everything).collect::<Result<_, _>>()?;
    let manifest = std::fs::read_to_string(stand.lab.cluster_dir().join("nodes.yaml")).expect("nodes.yaml");
    stand.push_outpost()?;
    stand.await_granted("tiefighter")?;
    stand.await_granted("deathstar")?;
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.lab.repository().remove("nodes/gateways.yaml")?;
    stand.lab.repository().write("README.md", "nothing is asked for\n")?;
    stand.lab.repository().push("no more policy")?;
    stand.await_own_way("tiefighter")?;
    stand.await_own_way("deathstar")?;
    stand.await_settled()?;
    for (node, before) in nodes.iter().zip(&before) {
        assert_eq!(difference(before, &everything(node)?), "");
    }
    assert_eq!(std::fs::read_to_string(stand.lab.cluster_dir().join("nodes.yaml")).expect("nodes.yaml"), manifest);
    Ok(())
}
