//! Everything at once, for as long as one likes: pushes, pods, deaths of gateways and of Egret, links, drift, cordons, moved labels and
//! moved addresses, in an order that a seed decides, while clients never stop. Whatever happens, no packet arrives with an address that is not the policy's, who is no member
//! notices nothing, and once it is over everything is as it should be.
//!
//! `make soak MINUTES=10 SEED=7`; without, some seconds. Deliberately absent: one cause for one effect, which the other modules have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use egret::core::state::net::mix;
use nix::sys::signal::Signal;

use super::stand::{Document, Outcome, Stand, WAYS, labels, with_pods};
use crate::lab::{Answer, Hammer, Node, OUTPOST, OUTPOST6, Options, Pod, wait_until};

/// The node with the clients, whose kernel and processes are left alone but for drift and restarts.
const SOURCE: &str = "kind-worker";
const GATEWAYS: [&str; 3] = ["kind-worker2", "kind-worker3", "kind-worker4"];
/// Without `make soak`.
const SHORT: Duration = Duration::from_secs(12);
/// Everything has to be well again this long after the last event: a gateway is trusted after ten seconds, twice as long each time.
const CALM: Duration = Duration::from_mins(2);

/// The last numbers of the addresses that pods come and go with: nobody else's in the lab.
const HOSTS: RangeInclusive<u8> = 20..=89;

/// What Egret assigns to one of the gateways, for the pod [`ROVER`].
const ASSIGNED: [&str; 2] = ["10.0.3.100", "fd00:10:3::100"];
const ROVER: &str = "rover";
const ASSIGNS: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {name: rover}
spec:
  selectors: [{podSelector: {matchLabels: {org: rovers, io.kubernetes.pod.namespace: batuu}}}]
  destinationCIDRs: [10.0.4.0/24]
  egressGateway: {nodeSelector: {matchLabels: {egress-gw: \"true\"}}, egressIP: 10.0.3.100, assign: true}
---
apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {name: rover6}
spec:
  selectors: [{podSelector: {matchLabels: {org: rovers, io.kubernetes.pod.namespace: batuu}}}]
  destinationCIDRs: [\"fd00:10:4::/64\"]
  egressGateway: {nodeSelector: {matchLabels: {egress-gw: \"true\"}}, egressIP: \"fd00:10:3::100\", assign: true}
";

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        usize::try_from(mix(self.0) >> 33).unwrap_or_default() % sides
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

/// What has to be undone before the end.
#[derive(Default)]
struct Broken {
    /// Nodes without a running Egret.
    agents: BTreeSet<&'static str>,
    /// Nodes whose Egret stands still.
    stopped: BTreeSet<&'static str>,
    /// Interfaces that are down.
    links: BTreeSet<(&'static str, &'static str)>,
    /// Cordoned nodes.
    cordoned: BTreeSet<&'static str>,
    /// Pods that were added, and the last number of their addresses.
    pods: Vec<(String, u8)>,
}

fn minutes() -> Duration {
    let minutes = std::env::var("EGRET_SOAK_MINUTES").ok().and_then(|minutes| minutes.parse().ok());
    minutes.map_or(SHORT, Duration::from_mins)
}

/// One event. Returns its name, for the message of a failure.
fn event(stand: &mut Stand, dice: &mut Dice, broken: &mut Broken, number: usize) -> Outcome<String> {
    match dice.below(7) {
        0 => a_push(stand, dice, number),
        1 => a_pod(stand, dice, broken, number),
        2 | 3 => a_process(stand, dice, broken),
        4 => a_link(stand, dice, broken),
        5 => a_cordon(stand, dice, broken),
        _ => some_drift(stand, dice),
    }
}

fn a_push(stand: &Stand, dice: &mut Dice, number: usize) -> Outcome<String> {
    const EXCLUDED: [&str; 3] =
        ["\"10.0.4.99/32\"", "\"10.0.4.99/32\", \"10.0.4.128/25\"", "\"10.0.4.64/26\", \"fd00:10:4::99/128\""];
    const LABELLED: [&str; 4] = [
        "kind-worker2, kind-worker3",
        "kind-worker3, kind-worker4",
        "kind-worker2, kind-worker3, kind-worker4",
        "kind-worker4, kind-worker2",
    ];
    // The same text again would be no commit.
    if dice.below(2) == 0 {
        let excluded = dice.one(&EXCLUDED);
        let text = Document { excluded, ..Document::default() }.text();
        stand.push("policies/outpost.yaml", &format!("{text}# {number}\n"))?;
        return Ok(format!("push with {excluded} excluded"));
    }
    let nodes = dice.one(&LABELLED);
    stand.push("nodes/gateways.yaml", &format!("{}# {number}\n", labels(nodes)))?;
    Ok(format!("labels for {nodes}"))
}

fn a_pod(stand: &Stand, dice: &mut Dice, broken: &mut Broken, number: usize) -> Outcome<String> {
    if broken.pods.len() < 3 && dice.below(2) == 0 {
        let name = format!("extra-{number}");
        // In turn, so that an address comes back as another pod's. Some pods live for as long.
        let mut hosts = HOSTS.cycle().skip(number % HOSTS.count());
        let host =
            hosts.find(|host| broken.pods.iter().all(|(_, taken)| taken != host)).expect("three are taken at most");
        stand.lab.wire_pod(Pod::new(&name, SOURCE, host, &[("org", "empire")]))?;
        stand.lab.announce_pod(&name)?;
        broken.pods.push((name.clone(), host));
        return Ok(format!("pod {name} starts"));
    }
    let Some((name, _)) = broken.pods.pop() else { return Ok("nothing".to_owned()) };
    stand.lab.remove_pod(&name)?;
    Ok(format!("pod {name} ends"))
}

/// Egret is killed, started, stopped or continued on a gateway, or restarted on the source.
fn a_process(stand: &mut Stand, dice: &mut Dice, broken: &mut Broken) -> Outcome<String> {
    let node = dice.one(&GATEWAYS);
    match dice.below(4) {
        0 => {
            stand.kill9(SOURCE)?;
            stand.start(SOURCE)?;
            Ok("restart on the source".to_owned())
        }
        1 if broken.agents.remove(node) => {
            stand.start(node)?;
            Ok(format!("start on {node}"))
        }
        1 => {
            broken.agents.insert(node);
            broken.stopped.remove(node);
            stand.kill9(node)?;
            Ok(format!("kill -9 on {node}"))
        }
        _ if broken.agents.contains(node) => Ok("nothing".to_owned()),
        _ if broken.stopped.remove(node) => {
            stand.process_mut(node).signal(Signal::SIGCONT)?;
            Ok(format!("Egret on {node} goes on"))
        }
        _ => {
            broken.stopped.insert(node);
            stand.process_mut(node).signal(Signal::SIGSTOP)?;
            Ok(format!("Egret on {node} stands still"))
        }
    }
}

fn a_link(stand: &Stand, dice: &mut Dice, broken: &mut Broken) -> Outcome<String> {
    let link = (dice.one(&GATEWAYS), dice.one(&["eth0", "net1"]));
    if broken.links.len() < 2 && broken.links.insert(link) {
        stand.lab.node(link.0)?.ip_batch(&format!("link set {} down\n", link.1))?;
        return Ok(format!("{} of {} goes down", link.1, link.0));
    }
    let Some(link) = broken.links.pop_first() else { return Ok("nothing".to_owned()) };
    mend(stand, link)?;
    Ok(format!("{} of {} comes up", link.1, link.0))
}

fn a_cordon(stand: &Stand, dice: &mut Dice, broken: &mut Broken) -> Outcome<String> {
    if !broken.cordoned.is_empty() {
        uncordon(stand, broken)?;
        return Ok("nothing is cordoned any more".to_owned());
    }
    let node = dice.one(&GATEWAYS);
    stand.lab.cordon(node)?;
    broken.cordoned.insert(node);
    Ok(format!("{node} is cordoned"))
}

fn uncordon(stand: &Stand, broken: &mut Broken) -> Outcome {
    broken.cordoned.clear();
    stand.lab.edit_nodes(|text| Ok(text.replace("    unschedulable: true\n", "")))
}

/// Somebody deletes what is Egret's.
fn some_drift(stand: &Stand, dice: &mut Dice) -> Outcome<String> {
    const ACTS: [&str; 7] = [
        "ip addr del 10.0.3.100/32 dev net1",
        "ip -6 addr del fd00:10:3::100/128 dev net1",
        "ip rule del priority 501",
        "ip -6 rule del priority 501",
        "ip route flush table 9001",
        "ip link set egret0 down",
        "ip neigh flush dev egret0 nud permanent",
    ];
    let node = dice.one(&[SOURCE, GATEWAYS[0], GATEWAYS[1], GATEWAYS[2]]);
    let what = dice.one(&ACTS);
    // It may not be there.
    let _ = stand.lab.node(node)?.exec(what.split(' '));
    Ok(format!("`{what}` on {node}"))
}

/// An interface comes up, with what the kernel took away with it.
fn mend(stand: &Stand, (node, link): (&str, &str)) -> Outcome {
    let known = stand.lab.nodes().iter().find(|known| known.name == node).expect("a node of the lab");
    let namespace = stand.lab.node(node)?;
    namespace.ip_batch(&format!("link set {link} up\n"))?;
    let (network, routers) = if link == "eth0" {
        (known.addresses(), ["172.18.0.1", "fd00:172:18::1"])
    } else {
        (known.egress().expect("a gateway"), ["", ""])
    };
    namespace.ip_batch(&format!("addr replace {}/64 dev {link} nodad\n", network[1]))?;
    if link == "eth0" {
        namespace.ip_batch(&format!("route replace default via {}\n", routers[0]))?;
        namespace.ip_batch(&format!("route replace default via {} dev eth0\n", routers[1]))?;
    }
    Ok(())
}

fn assigned() -> [IpAddr; 2] {
    ASSIGNED.map(|address| address.parse().expect("an address"))
}

/// A lab with both policies in force, of which nothing is remembered yet.
fn applied() -> Outcome<Stand> {
    let rover = Pod::new(ROVER, SOURCE, 90, &[("org", "rovers")]);
    let stand = Stand::up(Options { gateways: 3, ..with_pods(&[rover]) })?;
    let (labels, policy) = (labels("kind-worker2, kind-worker3"), Document::default().text());
    let assigned = assigned();
    let fixed: Vec<IpAddr> = stand.lab.nodes().iter().filter_map(Node::egress).flatten().collect();
    stand.lab.outpost().allow(fixed.into_iter().chain(assigned));
    stand.push_saying(
        "the first",
        &[
            ("nodes/gateways.yaml", labels.as_str()),
            ("policies/outpost.yaml", policy.as_str()),
            ("policies/rover.yaml", ASSIGNS),
        ],
    )?;
    stand.await_granted("tiefighter")?;
    for (to, address) in [OUTPOST, OUTPOST6].into_iter().zip(assigned) {
        stand.await_answer(ROVER, to, Answer::Granted(address))?;
    }
    stand.await_settled()?;
    stand.lab.forget()?;
    Ok(stand)
}

/// Each assigned address is on one gateway in the end.
fn one_holder(stand: &Stand, told: &str) {
    for address in ASSIGNED {
        let holders = || {
            let has = |node: &&&str| {
                let listed =
                    stand.lab.node(node).and_then(|node| node.exec(["ip", "-o", "addr", "show", "to", address]));
                listed.is_ok_and(|listed| !listed.trim().is_empty())
            };
            GATEWAYS.iter().filter(has).copied().collect::<Vec<_>>()
        };
        assert!(wait_until(CALM, || holders().len() == 1), "{address} is on {:?}; {}", holders(), told);
    }
}

/// Whoever answered a rover saw the assigned address.
fn promised(rovers: &[Hammer], told: &str) {
    for (rover, address) in rovers.iter().zip(assigned()) {
        let requests = rover.requests();
        let other = requests
            .iter()
            .find(|one| !matches!(one.answer, Answer::NoAnswer) && one.answer != Answer::Granted(address));
        assert!(other.is_none(), "{other:?}; {told}");
    }
}

#[test]
fn whatever_happens_no_packet_has_a_wrong_address_and_who_is_no_member_notices_nothing() -> Outcome {
    let seed = std::env::var("EGRET_SOAK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let (mut dice, mut broken, mut done) = (Dice(seed), Broken::default(), Vec::new());
    let mut stand = applied()?;
    let members: Vec<Hammer> =
        [OUTPOST, OUTPOST6].iter().map(|to| stand.lab.hammer("tiefighter", *to)).collect::<Result<_, _>>()?;
    let rovers: Vec<Hammer> =
        [OUTPOST, OUTPOST6].iter().map(|to| stand.lab.hammer(ROVER, *to)).collect::<Result<_, _>>()?;
    let bystanders: Vec<Hammer> =
        [OUTPOST, OUTPOST6].iter().map(|to| stand.lab.hammer("xwing", *to)).collect::<Result<_, _>>()?;
    let bystander = stand.lab.pod_addresses("xwing")?;
    let assigned = assigned();
    let own: Vec<IpAddr> = bystander.iter().copied().chain(assigned).collect();
    let until = Instant::now() + minutes();
    let told = |done: &[String]| {
        format!("seed {seed}, {} events, the last: {:?}", done.len(), &done[done.len().saturating_sub(12)..])
    };
    let mut number = 0;
    while Instant::now() < until {
        number += 1;
        done.push(event(&mut stand, &mut dice, &mut broken, number)?);
        // Some events meet, some don't.
        let pause = Instant::now() + Duration::from_millis(20 << dice.below(6));
        let leak = || {
            WAYS.iter().any(|(to, ..)| {
                stand.lab.wrong_sources(*to).is_ok_and(|wrong| wrong.keys().any(|source| !own.contains(source)))
            })
        };
        assert!(
            !wait_until(pause.saturating_duration_since(Instant::now()), leak),
            "a packet leaves with a wrong address; {}\n{}",
            told(&done),
            stand.logs()
        );
    }
    calm(&mut stand, &mut broken)?;
    let well =
        |hammer: &Hammer| hammer.requests().last().is_some_and(|request| matches!(request.answer, Answer::Granted(_)));
    assert!(
        wait_until(CALM, || members.iter().chain(&rovers).all(well)),
        "members are not let in again; {}\n{}",
        told(&done),
        stand.logs()
    );
    stand.await_settled()?;
    one_holder(&stand, &told(&done));
    promised(&rovers, &told(&done));
    report(&done, members.into_iter().chain(rovers).collect(), bystanders, &bystander, &told(&done));
    stand.assert_no_leak_but(&own)
}

/// Everything that was broken is mended.
fn calm(stand: &mut Stand, broken: &mut Broken) -> Outcome {
    for node in std::mem::take(&mut broken.stopped) {
        stand.process_mut(node).signal(Signal::SIGCONT)?;
    }
    for link in std::mem::take(&mut broken.links) {
        mend(stand, link)?;
    }
    uncordon(stand, broken)?;
    for node in std::mem::take(&mut broken.agents) {
        stand.start(node)?;
    }
    Ok(())
}

/// What the clients saw.
#[expect(clippy::print_stdout, reason = "measured, never asserted; the test harness takes what is printed so")]
fn report(done: &[String], members: Vec<Hammer>, bystanders: Vec<Hammer>, own: &[IpAddr], told: &str) {
    for hammer in members {
        let requests = hammer.stop();
        let denied: Vec<_> = requests.iter().filter(|request| matches!(request.answer, Answer::Denied(_))).collect();
        assert!(denied.is_empty(), "{denied:?}; {told}");
        let lost = requests.iter().filter(|request| request.answer == Answer::NoAnswer).count();
        println!("measured: of {} requests of a member {lost} were lost over {} events", requests.len(), done.len());
    }
    for (hammer, own) in bystanders.into_iter().zip(own) {
        let other: Vec<_> =
            hammer.stop().into_iter().filter(|request| request.answer != Answer::Denied(*own)).collect();
        assert!(other.is_empty(), "who is no member noticed: {other:?}; {told}");
    }
}
