//! The claims that hold in every world, each with real packets.
//!
//! Deliberately absent: how a world is made (`tests/lab/worlds`), and which worlds there are.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::attacks::{foreign_mark, forged, nodes, tunnel};
use crate::lab::{Answer, HTTP, LabError, LongConnection, get, wait_until};
use crate::world::dimensions::{Family, Firewall, Ipam, Marks, Masquerade, Services, World};
use crate::world::forge::Secrets;
use crate::world::layout::{self, LATE, MEMBER, NEIGHBOUR, Node, OTHER, Pod, RESIDENT, SERVER, STRAY};
use crate::world::{HELD_BACK, PATIENCE, Standing, datagram};

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Holds,
    /// This world has nothing that it is about.
    NotHere,
    /// What was seen instead.
    Fails(String),
}

pub(super) type Judged = Result<Verdict, LabError>;

/// A claim: its column in the table, its sentence, its function.
pub(super) struct Claim {
    pub(super) column: &'static str,
    pub(super) sentence: &'static str,
    pub(super) hold: fn(&Standing, &Secrets) -> Judged,
}

/// All of them.
pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        column: "steered",
        sentence: "a member leaves with the egress address, or not at all and it is found",
        hold: steered,
    },
    Claim {
        column: "resident",
        sentence: "a member on the gateway itself leaves with the egress address",
        hold: resident,
    },
    Claim { column: "others", sentence: "a pod of no policy keeps its own way", hold: others },
    Claim {
        column: "unnamed",
        sentence: "a member goes its own way where no policy names the destination",
        hold: unnamed,
    },
    Claim {
        column: "held",
        sentence: "a pod of which nobody tells yet is held back from named destinations, and from nothing else",
        hold: held,
    },
    Claim {
        column: "replies",
        sentence: "a conversation goes on, also with large packets in both directions",
        hold: replies,
    },
    Claim {
        column: "svc-out",
        sentence: "a Service that leads out of the cluster leads a member out of its exit",
        hold: service_out,
    },
    Claim {
        column: "svc-in",
        sentence: "a LoadBalancer address, a ClusterIP and a NodePort that lead to a pod are not steered",
        hold: service_in,
    },
    Claim { column: "tunnel", sentence: "no pod can write to the tunnel", hold: tunnel },
    Claim { column: "forged", sentence: "no pod can forge an answer through the tunnel", hold: forged },
    Claim {
        column: "nodes",
        sentence: "a node cannot use the tunnel in another's name, nor for what no policy names",
        hold: nodes,
    },
    Claim { column: "notrack", sentence: "the tunnel's own packets are no connections", hold: untracked },
    Claim { column: "probes", sentence: "the gateway answers its source's probes, in every family", hold: probed },
    Claim { column: "ct-mark", sentence: "somebody else's connection mark steers nobody", hold: foreign_mark },
];

/// Those of them that hold without Egret, too, or the world itself is broken.
pub(super) const OF_THE_WORLD: [fn(&Standing, &Secrets) -> Judged; 3] = [others, unnamed, service_in];

/// Watched ports, so that no claim takes another's packets for its own.
const HELD_PORT: u16 = 4700;
const HELD_PORTS: std::ops::Range<u16> = HELD_PORT..HELD_PORT + 2;

/// The path of a request that may come from egress addresses alone, and of one that may not come at all.
pub(super) const STEERED: &str = "/steered";
pub(super) const HELD: &str = "/held";

pub(super) fn judge(seen: &[String]) -> Verdict {
    if seen.is_empty() { Verdict::Holds } else { Verdict::Fails(seen.join("; ")) }
}

/// The addresses that the outside may see of a pod that goes its own way.
pub(super) fn own_way(world: World, pod: Pod, family: Family) -> BTreeSet<IpAddr> {
    let mut node: BTreeSet<IpAddr> = world.all_of_node(pod.node, family).into_iter().collect();
    node.remove(&layout::egress(family));
    match world.masquerade {
        Masquerade::None => [world.pod(pod, family)].into(),
        // In no network that the CNI knows, so that it does not hide it.
        _ if pod == STRAY && world.ipam != Ipam::Vpc => [world.pod(pod, family)].into(),
        Masquerade::SnatAlsoNodes => [world.internal(pod.node, family)].into(),
        Masquerade::Outside | Masquerade::AlsoNodes => node,
    }
}

fn on_own_way(world: World, pod: Pod, family: Family, answer: Answer) -> Option<String> {
    let own = own_way(world, pod, family);
    let right = matches!(answer, Answer::Denied(seen) if own.contains(&seen));
    (!right).then(|| format!("{}: {answer}, not {own:?}", pod.name))
}

/// Whether members get through at all: `None` where either is right, since the packet mark is gone behind the routing decision.
pub(super) fn gets_through(world: World, pod: Pod, family: Family) -> Option<bool> {
    if world.marks == Marks::WipedBehind {
        None
    } else {
        // A pod on the gateway has its own address when it is forwarded there.
        Some(pod.node == Node::N2 || world.forwards(family))
    }
}

/// What is wrong with an answer that a member had from a named destination.
fn on_its_exit(world: World, pod: Pod, family: Family, answer: Option<IpAddr>) -> Option<String> {
    let egress = layout::egress(family);
    let right = match (gets_through(world, pod, family), answer) {
        (Some(true) | None, Some(seen)) => seen == egress,
        (Some(false) | None, None) => true,
        _ => false,
    };
    let shown = answer.map_or_else(|| "no answer".to_owned(), |seen| seen.to_string());
    (!right).then(|| format!("{} {family:?}: {shown}", pod.name))
}

fn seen(answer: Answer) -> Option<IpAddr> {
    match answer {
        Answer::Granted(seen) | Answer::Denied(seen) => Some(seen),
        Answer::NoAnswer => None,
    }
}

fn leaves_by_exit(standing: &Standing, pod: Pod) -> Result<Vec<String>, LabError> {
    let world = standing.world;
    let mut wrong = Vec::new();
    for family in world.families() {
        let tcp = seen(standing.ask(pod, layout::named(family), STEERED)?);
        let udp = standing.pod(pod).enter(|| datagram(0, layout::named(family), "one", HELD_BACK))?;
        wrong.extend(on_its_exit(world, pod, family, tcp).map(|what| format!("TCP {what}")));
        wrong.extend(on_its_exit(world, pod, family, udp).map(|what| format!("UDP {what}")));
    }
    Ok(wrong)
}

fn steered(standing: &Standing, _: &Secrets) -> Judged {
    let mut wrong = leaves_by_exit(standing, MEMBER)?;
    let world = standing.world;
    if world.families().into_iter().any(|family| gets_through(world, MEMBER, family) == Some(false)) {
        let said = standing.doctor(Node::N2)?;
        let found = said.lines().filter(|line| line.starts_with("warn") || line.starts_with("error"));
        let names_it = |line: &str| line.contains("a gateway forwards") || line.contains("forwarded packets");
        if !found.into_iter().any(names_it) {
            wrong.push(format!("the gateway's doctor says nothing of a firewall that drops: {said}"));
        }
    }
    Ok(judge(&wrong))
}

fn resident(standing: &Standing, _: &Secrets) -> Judged {
    Ok(judge(&leaves_by_exit(standing, RESIDENT)?))
}

fn others(standing: &Standing, _: &Secrets) -> Judged {
    let mut wrong = Vec::new();
    for family in standing.world.families() {
        for pod in [OTHER, NEIGHBOUR, SERVER] {
            for to in [layout::named(family), layout::unnamed(family)] {
                let answer = standing.ask(pod, to, "/other")?;
                wrong.extend(on_own_way(standing.world, pod, family, answer).map(|what| format!("{what} at {to}")));
            }
        }
    }
    Ok(judge(&wrong))
}

fn unnamed(standing: &Standing, _: &Secrets) -> Judged {
    let mut wrong = Vec::new();
    for family in standing.world.families() {
        for pod in [MEMBER, RESIDENT] {
            for to in [layout::unnamed(family), layout::excluded(family)] {
                let answer = standing.ask(pod, to, "/unnamed")?;
                wrong.extend(on_own_way(standing.world, pod, family, answer).map(|what| format!("{what} at {to}")));
            }
        }
        // The cluster itself, also a pod of another node.
        let to = standing.world.pod(SERVER, family);
        let answer = standing.ask(MEMBER, to, "/pod")?;
        if answer != Answer::Denied(standing.world.pod(MEMBER, family)) {
            wrong.push(format!("another pod answers a member with {answer}"));
        }
    }
    Ok(judge(&wrong))
}

fn held(standing: &Standing, _: &Secrets) -> Judged {
    let world = standing.world;
    let mut wrong = Vec::new();
    for family in world.families() {
        for (number, pod) in (0..).zip([LATE, STRAY]) {
            if !world.pods().contains(&pod) {
                continue;
            }
            let to = layout::named(family);
            let (tcp, udp) = standing.pod(pod).enter(|| {
                let udp = SocketAddr::new(to, HELD_PORT + number);
                let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
                let sent = UdpSocket::bind((any, 0)).and_then(|socket| socket.send_to(b"held", udp));
                (crate::lab::ask(to, HELD, HELD_BACK), sent)
            })?;
            if tcp != Answer::NoAnswer {
                wrong.push(format!("{} at {to}: {tcp}", pod.name));
            }
            if let Err(error) = udp {
                wrong.push(format!("{} cannot send: {error}", pod.name));
            }
            // A firewall of the host knows nothing of an address in no network of pods.
            if pod == LATE || world.firewall == Firewall::None {
                let answer = standing.ask(pod, layout::unnamed(family), "/late")?;
                wrong.extend(on_own_way(world, pod, family, answer).map(|what| format!("{what} at an unnamed one")));
            }
        }
    }
    let leaked = standing.watched()?.into_iter().filter(|((port, _), _)| HELD_PORTS.contains(port));
    wrong.extend(leaked.map(|((port, from), packets)| format!("{packets} packets to port {port} from {from}")));
    Ok(judge(&wrong))
}

fn replies(standing: &Standing, _: &Secrets) -> Judged {
    let world = standing.world;
    let mut wrong = Vec::new();
    let mut any = false;
    for family in world.families().into_iter().filter(|family| gets_through(world, MEMBER, *family) == Some(true)) {
        any = true;
        let (pod, to, egress) = (standing.pod(MEMBER), layout::named(family), layout::egress(family));
        let talk = || -> Result<[IpAddr; 3], LabError> {
            let mut line = LongConnection::tcp(&pod, to)?;
            Ok([line.echo()?, line.echo_large(200_000)?, line.echo()?])
        };
        match talk() {
            Ok(seen) if seen == [egress; 3] => {}
            other => wrong.push(format!("TCP {family:?}: {other:?}")),
        }
        // As large as the pod's own interface lets it be, so that the tunnel is too small for it.
        let size = usize::try_from(world.mtu()).unwrap_or_default() - if family == Family::V4 { 28 } else { 48 };
        let seen = pod.enter(|| datagram(0, to, &"x".repeat(size), PATIENCE / 5))?;
        if seen != Some(egress) {
            wrong.push(format!("a datagram of {size} bytes {family:?}: {seen:?}"));
        }
    }
    Ok(if any { judge(&wrong) } else { Verdict::NotHere })
}

fn service_out(standing: &Standing, _: &Secrets) -> Judged {
    let world = standing.world;
    if world.services == Services::None {
        return Ok(Verdict::NotHere);
    }
    let mut wrong = Vec::new();
    for family in world.families() {
        let to = layout::service_out(family);
        for pod in [MEMBER, RESIDENT] {
            let answer = seen(standing.ask(pod, to, STEERED)?);
            wrong.extend(on_its_exit(world, pod, family, answer));
        }
        let answer = standing.ask(OTHER, to, "/other")?;
        wrong.extend(on_own_way(world, OTHER, family, answer));
        if standing.pod(LATE).enter(|| crate::lab::ask(to, HELD, HELD_BACK))? != Answer::NoAnswer {
            wrong.push("a pod of which nobody tells is answered through a Service".to_owned());
        }
    }
    Ok(judge(&wrong))
}

fn service_in(standing: &Standing, _: &Secrets) -> Judged {
    let world = standing.world;
    if world.services == Services::None {
        return Ok(Verdict::NotHere);
    }
    let mut wrong = Vec::new();
    for family in world.families() {
        for pod in [MEMBER, RESIDENT] {
            // kube-proxy hides the pod behind its node where it takes it for a stranger.
            let mut own: BTreeSet<IpAddr> = world.all_of_node(pod.node, family).into_iter().collect();
            own.remove(&layout::egress(family));
            own.insert(world.pod(pod, family));
            for to in [layout::load_balancer(family), layout::service_in(family)] {
                let answer = standing.ask(pod, to, "/in")?;
                if !matches!(answer, Answer::Denied(seen) if own.contains(&seen)) {
                    wrong.push(format!("{} at {to}: {answer}", pod.name));
                }
            }
        }
        let port = |node| SocketAddr::new(world.internal(node, family), 30080);
        let from_member = standing.pod(MEMBER).enter(|| get(port(Node::N3), "/nodeport"))?;
        let from_outside = [Node::N1, Node::N2, Node::N3]
            .map(|node| standing.outside_namespace().enter(|| get(port(node), "/nodeport")));
        wrong.extend(from_member.err().map(|error| format!("{family:?} a member at a NodePort: {error}")));
        for (node, answer) in Node::ALL.into_iter().zip(from_outside) {
            let name = node.name();
            wrong.extend(
                answer?.err().map(|error| format!("{family:?} the outside at the NodePort of {name}: {error}")),
            );
        }
    }
    Ok(judge(&wrong))
}

/// A flow of a pod would otherwise be two entries on each node, and the outer one is never answered.
fn untracked(standing: &Standing, _: &Secrets) -> Judged {
    let world = standing.world;
    let nodes: BTreeSet<String> = world
        .families()
        .into_iter()
        .flat_map(|family| Node::ALL.map(|node| world.internal(node, family).to_string()))
        .collect();
    let mut wrong = Vec::new();
    for family in world.families() {
        let number = if family == Family::V4 { "ipv4" } else { "ipv6" };
        // Probes came before this node had its rules, and what was tracked then is remembered for half a minute.
        for node in [Node::N1, Node::N2] {
            // There may be none.
            let _ = standing.node(node).exec(["conntrack", "-D", "-f", number, "-p", "udp", "--dport", "4790"]);
        }
        standing.pod(MEMBER).enter(|| datagram(0, layout::named(family), "counted", HELD_BACK))?;
        for node in [Node::N1, Node::N2] {
            let list = ["conntrack", "-L", "-f", number, "-p", "udp", "--dport", "4790"];
            let listing = standing.node(node).exec(list)?;
            let between_nodes = |line: &&str| {
                let ends: Vec<&str> = line
                    .split_whitespace()
                    .filter_map(|word| word.strip_prefix("src=").or_else(|| word.strip_prefix("dst=")))
                    .take(2)
                    .collect();
                ends.len() == 2 && ends.iter().all(|end| nodes.contains(*end))
            };
            wrong.extend(listing.lines().find(between_nodes).map(|line| format!("{}: {line}", node.name())));
        }
    }
    Ok(judge(&wrong))
}

/// A gateway that never answers counts as silent after five seconds: then there is a finding where probes get lost.
#[expect(clippy::unnecessary_wraps, reason = "the form of a claim")]
fn probed(standing: &Standing, _: &Secrets) -> Judged {
    let silent = || standing.report(Node::N1).contains("gateway-silent");
    let lost = wait_until(Duration::from_secs(7), silent);
    Ok(judge(&if lost { vec![standing.report(Node::N1)] } else { Vec::new() }))
}

/// What came to the outside that must not have, whichever claim sent it.
pub(super) fn leaks(standing: &Standing) -> Result<Vec<String>, LabError> {
    let egress: BTreeSet<IpAddr> = standing.world.families().into_iter().map(layout::egress).collect();
    let visits = standing.outside().visits();
    let wrong = visits
        .iter()
        .filter(|visit| visit.port == HTTP)
        .filter(|visit| visit.text == HELD || (visit.text == STEERED && !egress.contains(&visit.caller)));
    let mut leaks: Vec<String> = wrong.map(|visit| format!("{} came from {}", visit.text, visit.caller)).collect();
    let watched = standing.watched()?;
    leaks.extend(watched.iter().map(|((port, from), packets)| format!("{packets} packets to port {port} from {from}")));
    Ok(leaks)
}
