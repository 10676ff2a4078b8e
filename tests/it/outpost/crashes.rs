//! Processes that die, that come twice, that come back to a kernel somebody else has been at: the datapath is old or new, never a mixture,
//! and the next start heals it.
//!
//! Deliberately absent: faults of Git and of manifests (`mistakes`).

use std::time::Duration;

use super::listing::{difference, everything};
use super::stand::{DEADLINE, Document, HELD_BACK, Outcome, Stand, WAYS, labels};
use crate::lab::{Answer, Lab, LabError, Options, wait_until};

/// Xorshift (Marsaglia 2003): the same moments for the same seed.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: u64) -> u64 {
        for shift in [13, -7, 17] {
            self.0 ^= if shift > 0 { self.0 << shift } else { self.0 >> -shift };
        }
        self.0 % below
    }
}

/// Kills both processes at some moment of a change, over and over; every change goes to the other gateway or away or back.
fn survives(seed: u64) -> Outcome {
    let mut stand = Stand::applied(Options { gateways: 2, rp_filter: 1, ..Options::default() })?;
    let mut moments = Moments(seed);
    for turn in 0..6 {
        // Never without a policy, so that at no time is the pod's own way a right one.
        let through = Document::through(if turn % 2 == 0 { "kind-worker3" } else { "kind-worker2" });
        let excluded = if turn % 3 == 0 { "\"10.0.4.77/32\"" } else { through.excluded };
        stand.push("policies/outpost.yaml", &Document { excluded, ..through }.text())?;
        // Any moment will do, and each is another.
        std::thread::sleep(Duration::from_millis(moments.next(120)));
        let nodes = stand.nodes();
        for node in &nodes {
            stand.kill9(node)?;
            std::thread::sleep(Duration::from_millis(moments.next(15)));
        }
        let answer = stand.lab.ask_within("tiefighter", WAYS[0].0, HELD_BACK)?;
        assert!(matches!(answer, Answer::Granted(_) | Answer::NoAnswer), "with nobody at work: {answer}");
        for node in &nodes {
            stand.start(node)?;
        }
    }
    stand.push("policies/outpost.yaml", &Document::default().text())?;
    stand.await_granted("tiefighter")?;
    stand.await_settled()?;
    stand.assert_no_leak_but(&[])?;
    stand.await_own_way("xwing")?;
    stand.assert_no_leak_but(&stand.lab.pod_addresses("xwing")?)
}

#[test]
fn killed_in_the_middle_of_changes_it_heals_and_nothing_leaks() -> Outcome {
    survives(0x0e65_e7a1)
}

#[test]
fn killed_at_other_moments_it_heals_too() -> Outcome {
    survives(0x5eed_0002)
}

#[test]
fn killed_while_the_last_policy_goes_it_leaves_nothing_behind() -> Outcome {
    let lab = Lab::up(Options { rp_filter: 1, ..Options::default() })?;
    let nodes: Vec<_> = lab.nodes().iter().map(|node| lab.node(&node.name)).collect::<Result<_, _>>()?;
    let before: Vec<String> = nodes.iter().map(everything).collect::<Result<_, _>>()?;
    let mut stand = Stand::around(lab)?;
    for pause in [40, 60, 80, 100] {
        stand.push_outpost()?;
        stand.await_granted("tiefighter")?;
        for file in ["policies/outpost.yaml", "nodes/gateways.yaml"] {
            stand.lab.repository().remove(file)?;
        }
        stand.lab.repository().write("README.md", &format!("nothing is asked for after {pause} ms\n"))?;
        stand.lab.repository().push("no more policy")?;
        // Any moment will do, and each is another.
        std::thread::sleep(Duration::from_millis(pause));
        for node in stand.nodes() {
            stand.kill9(&node)?;
            stand.start(&node)?;
        }
        stand.await_own_way("tiefighter")?;
        stand.await_settled()?;
        for (node, before) in nodes.iter().zip(&before) {
            assert_eq!(difference(before, &everything(node)?), "");
        }
    }
    Ok(())
}

#[test]
fn a_second_egret_for_the_same_node_refuses_to_start() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    for words in [&["run"] as &[&str], &["run", "--once"], &["remove"]] {
        let output = stand.command("kind-worker", words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("another Egret is at work in this network namespace"), "{said}");
    }
    stand.await_granted("tiefighter")
}

#[test]
fn ended_by_sigterm_it_leaves_the_datapath_applied_and_finds_it_again() -> Outcome {
    let mut stand = Stand::applied(Options { rp_filter: 2, ..Options::default() })?;
    let nodes = stand.nodes();
    let listing = |stand: &Stand| -> Result<Vec<String>, LabError> {
        // A table that nobody owns is said to be nobody's; that is all that is different.
        let without_owner = |text: String| text.replace(" # progname egret", "");
        nodes.iter().map(|node| everything(&stand.lab.node(node)?).map(without_owner)).collect()
    };
    let before = listing(&stand)?;
    let mut connection = stand.lab.long_connection("tiefighter", WAYS[0].0)?;
    let first = connection.echo()?;
    for node in &nodes {
        assert_eq!(stand.terminate(node)?, Some(0));
    }
    stand.await_granted("tiefighter")?;
    assert_eq!(connection.echo()?, first);
    for node in &nodes {
        stand.start(node)?;
    }
    stand.await_settled()?;
    for (before, after) in before.iter().zip(listing(&stand)?) {
        assert_eq!(difference(before, &after), "");
    }
    for node in &nodes {
        let log = stand.log(node);
        let steps: Vec<&str> =
            log.lines().filter_map(|line| line.split_once("INFO   ")).map(|(_, step)| step).collect();
        assert!(steps.iter().all(|step| step.ends_with("add table { flags owner,persist; }")), "{log}");
    }
    assert_eq!(connection.echo()?, first);
    stand.assert_no_leak_but(&[])
}

/// As an older version could have left it: our names, other contents, and a map where there is now a set.
const OLDER: &str = r#"
table inet egret {
  set nodes4 { type ipv4_addr; elements = { 172.18.0.66 }; }
  map pods4 { type ipv4_addr : mark; elements = { 10.1.1.177 : 7 }; }
  map group_of4 { type ipv4_addr : verdict; elements = { 10.1.1.177 : goto group_1, 10.1.1.234 : goto group_1 }; }
  set odd { type inet_proto . inet_service; flags interval; elements = { tcp . 80-90 }; }
  counter packets_of_old { packets 7 bytes 77 }
  chain group_1 { meta mark set 0x3; ct mark set 0x3; accept; }
  chain exit_1 { drop; }
  chain exit_3 { comment "kind-worker9 dev net9"; accept; }
  chain steer { type filter hook prerouting priority -300; policy accept; ip saddr 10.1.1.9 drop; limit rate 5/second log prefix "old"; ip saddr vmap @group_of4; }
  chain guard { type nat hook postrouting priority 90; policy accept; ip saddr @nodes4 masquerade; }
}
table ip egret { chain kept { accept; }; }
"#;

const OLDER_ROUTING: &str = "
rule add priority 501 fwmark 0x3/0xff lookup 9044 protocol 180
rule add priority 9044 to 192.0.2.0/24 lookup 9044 protocol 180
route add 192.0.2.0/24 via 172.18.0.1 dev eth0 table 9044 proto 180
route add blackhole 198.51.101.0/24 table 9001 proto 180
route add 10.0.4.0/24 via 172.18.0.1 dev eth0 table 9001 proto 180
route add 198.51.100.0/24 via 172.18.0.1 dev eth0 table 9001 proto 201
link add egret7 type vxlan id 7 dstport 4790 nolearning
link set egret7 up
";

#[test]
fn what_an_older_version_left_is_healed_without_touching_what_is_others() -> Outcome {
    let lab = Lab::up(Options::default())?;
    for node in ["kind-worker", "kind-worker2"] {
        lab.node(node)?.ip_batch(OLDER_ROUTING)?;
        lab.node(node)?.nft(OLDER)?;
    }
    let stand = Stand::around(lab)?;
    stand.push_outpost()?;
    stand.await_granted("tiefighter")?;
    stand.await_own_way("xwing")?;
    stand.await_settled()?;
    let fresh = Stand::applied(Options::default())?;
    let ours = |line: &&str| line.contains("egret") || line.contains("9001") || line.contains("9044");
    let foreign = |line: &&str| !line.contains("table ip egret") && !line.contains("link-netns");
    let routing = |text: &str| -> String {
        let ours = text.lines().take_while(|line| *line != "# rp_filter").filter(ours).filter(foreign);
        ours.filter(|line| !line.contains("proto 201")).flat_map(|line| [line, "\n"]).collect()
    };
    for node in stand.nodes() {
        let (one, other) = (stand.lab.node(&node)?, fresh.lab.node(&node)?);
        // The kernel adds the routes of a link's own addresses a moment after the link is up.
        let differ =
            || -> Outcome<String> { Ok(difference(&routing(&everything(&one)?), &routing(&everything(&other)?))) };
        wait_until(DEADLINE, || differ().is_ok_and(|difference| difference.is_empty()));
        assert_eq!(differ()?, "", "{node}");
        let healed = everything(&one)?;
        assert!(healed.contains("unicast 198.51.100.0/24 via 172.18.0.1 dev eth0 table 9001 proto 201"), "{healed}");
        assert!(healed.contains("table ip egret {\n\tchain kept {\n\t\taccept\n\t}\n}\n"), "{healed}");
    }
    Ok(())
}

#[test]
fn tables_that_were_emptied_while_egret_was_away_are_there_again_after_its_start() -> Outcome {
    // Nobody else's table would come back.
    let mut stand = Stand::applied(Options { tracks: false, ..Options::default() })?;
    let nodes = stand.nodes();
    for node in &nodes {
        let namespace = stand.lab.node(node)?;
        let before = everything(&namespace)?;
        stand.kill9(node)?;
        namespace.exec(["nft", "flush", "ruleset"])?;
        namespace.exec(["ip", "link", "del", "egret0"])?;
        stand.start(node)?;
        stand.await_granted("tiefighter")?;
        stand.await_settled()?;
        assert_eq!(difference(&before, &everything(&namespace)?), "", "{node}");
    }
    // Its own restart is no drift of anybody's: what was found then is not held against a state that nobody saw.
    stand.push("nodes/gateways.yaml", &labels("kind-worker2, kind-worker2"))?;
    stand.await_granted("tiefighter")
}
