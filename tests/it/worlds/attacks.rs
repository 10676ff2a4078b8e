//! The claims about attackers, who sit in pods beside a member, on a third node and on the gateway, or are a node themselves.
//!
//! Deliberately absent: what they send, byte by byte (`forge`).

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::claims::{Judged, Verdict, gets_through, judge, own_way};
use crate::lab::{DATAGRAMS, LabError};
use crate::world::dimensions::{Family, World};
use crate::world::forge::{Outer, Secrets, goals, packet, send};
use crate::world::layout::{self, MEMBER, NEIGHBOUR, Node, OTHER, Pod, RESIDENT, SERVER};
use crate::world::{HELD_BACK, PATIENCE, Standing, datagram, echo};

/// Watched ports of these claims, so that none takes another's packets for its own.
const TUNNEL_PORT: u16 = 4710;
const NODES_PORT: u16 = 4720;
const OWN_SOCKET: u16 = 4799;
/// Source ports that get a foreign mark.
const MARKED_FROM: u16 = 4800;

/// Where attackers sit: beside a member, on a node that is neither, on the gateway.
const ATTACKERS: [Pod; 3] = [OTHER, SERVER, NEIGHBOUR];

/// All ways to send an outer packet: as it is, and with the address of a node that has a right to.
fn outers(world: World) -> Vec<(Outer, Option<Family>)> {
    let nodes = [Node::N1, Node::N3];
    let spoofed = world
        .families()
        .into_iter()
        .flat_map(|family| nodes.map(|node| (Outer::Spoofed(world.internal(node, family)), Some(family))));
    [(Outer::Plain, None)].into_iter().chain(spoofed).collect()
}

fn attack(
    standing: &Standing,
    secrets: &Secrets,
    node: Node,
    inner: impl Fn(Pod) -> Vec<Vec<u8>>,
) -> Result<usize, LabError> {
    let mut sent = 0;
    for attacker in ATTACKERS {
        let inner = inner(attacker);
        for (outer, family) in outers(standing.world) {
            let mut targets = standing.targets(node);
            targets.retain(|target| family.is_none_or(|family| target.is_ipv4() == (family == Family::V4)));
            sent += standing.pod(attacker).enter(|| send(secrets, outer, &targets, &inner))?;
        }
    }
    Ok(sent)
}

pub(super) fn tunnel(standing: &Standing, secrets: &Secrets) -> Judged {
    let world = standing.world;
    // Whatever comes out of the tunnel for the gateway's own sockets would arrive here.
    let open = || {
        let own: Vec<IpAddr> = world.families().into_iter().map(|family| world.internal(Node::N2, family)).collect();
        own.into_iter().map(|address| UdpSocket::bind((address, OWN_SOCKET))).collect::<Result<Vec<_>, _>>()
    };
    let sockets = standing.node(Node::N2).enter(open)?.map_err(LabError::doing("listen on the gateway"))?;
    let inner = |attacker: Pod| {
        let mut all = Vec::new();
        for family in world.families() {
            let own = SocketAddr::new(world.internal(Node::N2, family), OWN_SOCKET);
            for source in standing.inner_sources(secrets, Some(attacker), family) {
                let goals = goals(family, TUNNEL_PORT);
                let to = goals.into_iter().chain([own]);
                all.extend(to.filter_map(|to| packet(SocketAddr::new(source, 4444), to, b"FORGED")));
            }
        }
        all
    };
    let sent = attack(standing, secrets, Node::N2, inner)?;
    let mut wrong = Vec::new();
    if sent == 0 {
        wrong.push("nothing could be sent".to_owned());
    }
    fence(standing)?;
    let came = standing.watched()?.into_iter().filter(|((port, _), _)| *port == TUNNEL_PORT);
    wrong.extend(came.map(|((_, from), packets)| format!("{packets} of {sent} packets came to the outside as {from}")));
    for socket in sockets {
        let _ = socket.set_nonblocking(true);
        let mut buffer = [0; 64];
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            wrong.push(format!("the gateway's own socket heard {from}"));
        }
    }
    Ok(judge(&wrong))
}

/// The third node has no member. It is believed what it says of itself, and nothing else.
pub(super) fn nodes(standing: &Standing, secrets: &Secrets) -> Judged {
    let world = standing.world;
    let tells = world.told_addresses(Node::N3);
    let mut inner = Vec::new();
    for family in world.families() {
        let own = world.internal(Node::N3, family);
        let leads_here = |source: &IpAddr| {
            secrets.inside.get(source).and_then(|node| *node).is_some_and(|node| tells.contains(&node))
        };
        for source in standing.inner_sources(secrets, None, family) {
            let is_own = source == own || leads_here(&source);
            let named = (!is_own).then(|| SocketAddr::new(layout::named(family), NODES_PORT));
            let goals = named.into_iter().chain([SocketAddr::new(layout::unnamed(family), NODES_PORT + 1)]);
            inner.extend(goals.filter_map(|to| packet(SocketAddr::new(source, 4444), to, b"FORGED")));
        }
    }
    // By a raw socket as well: a node may take any of its addresses.
    let mut sent = 0;
    for target in standing.targets(Node::N2) {
        let family = if target.is_ipv4() { Family::V4 } else { Family::V6 };
        for outer in [Outer::Plain, Outer::Spoofed(world.internal(Node::N3, family))] {
            sent += standing.node(Node::N3).enter(|| send(secrets, outer, &[target], &inner))?;
        }
    }
    fence(standing)?;
    let came = standing.watched()?.into_iter().filter(|((port, _), _)| (NODES_PORT..NODES_PORT + 2).contains(port));
    let what = |port| if port == NODES_PORT { "in another's name" } else { "to what no policy names" };
    let shown: Vec<String> = came
        .map(|((port, from), packets)| format!("{packets} of {sent} packets {} came as {from}", what(port)))
        .collect();
    Ok(judge(&shown))
}

/// A question and its answer on each way, behind which everything that was sent before has arrived or never will.
fn fence(standing: &Standing) -> Result<(), LabError> {
    for family in standing.world.families() {
        for pod in ATTACKERS.into_iter().chain([MEMBER, RESIDENT]) {
            standing.pod(pod).enter(|| datagram(0, layout::named(family), "fence", HELD_BACK / 2))?;
        }
    }
    Ok(())
}

pub(super) fn forged(standing: &Standing, secrets: &Secrets) -> Judged {
    let world = standing.world;
    let mut wrong = Vec::new();
    let mut any = false;
    for family in world.families().into_iter().filter(|family| gets_through(world, MEMBER, *family) == Some(true)) {
        any = true;
        let to = SocketAddr::new(layout::named(family), DATAGRAMS);
        let connect = || {
            let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0)).ok()?;
            socket.connect(to).ok()?;
            echo(&socket, "first", PATIENCE).map(|_| socket)
        };
        let Some(socket) = standing.pod(MEMBER).enter(connect)? else {
            wrong.push(format!("{family:?}: a member has no connection to begin with"));
            continue;
        };
        let port = socket.local_addr().map_err(LabError::doing("find the port of a member"))?.port();
        let inner = |attacker: Pod| {
            let towards = standing.inner_sources(secrets, Some(attacker), family);
            towards.into_iter().filter_map(|at| packet(to, SocketAddr::new(at, port), b"FORGED ")).collect()
        };
        attack(standing, secrets, Node::N1, inner)?;
        // Nor can a node that is nobody's gateway.
        let towards = standing.inner_sources(secrets, None, family).into_iter();
        let inner: Vec<Vec<u8>> = towards.filter_map(|at| packet(to, SocketAddr::new(at, port), b"FORGED ")).collect();
        let targets = standing.targets(Node::N1);
        standing.node(Node::N3).enter(|| send(secrets, Outer::Plain, &targets, &inner))?;
        let _ = socket.send(b"second");
        let mut buffer = [0; 64];
        loop {
            let length = match socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) => {
                    wrong.push(format!("{family:?}: the connection is dead: {error}"));
                    break;
                }
            };
            if buffer.starts_with(b"FORGED") {
                wrong.push(format!("{family:?}: a forged answer arrived"));
                break;
            }
            if buffer[..length].trim_ascii_end().ends_with(b"second") {
                break;
            }
        }
    }
    Ok(if any { judge(&wrong) } else { Verdict::NotHere })
}

pub(super) fn foreign_mark(standing: &Standing, secrets: &Secrets) -> Judged {
    let world = standing.world;
    let destinations = || {
        world
            .families()
            .into_iter()
            .flat_map(|family| [layout::named(family), layout::unnamed(family)].map(|to| (family, to)))
    };
    // No port twice: a program that another claim starts may hold a socket for a moment after it was closed here.
    let tries: Vec<_> = (MARKED_FROM..)
        .zip(secrets.marks.iter().flat_map(|mark| destinations().map(move |(family, to)| (*mark, family, to))))
        .collect();
    let rules: Vec<String> =
        tries.iter().map(|(port, (mark, ..))| format!("    udp sport {port} ct mark set {mark:#x}\n")).collect();
    let chain = "chain marking { type filter hook prerouting priority -190; policy accept;\n";
    standing.node(Node::N1).nft(&format!("table inet stranger {{ {chain}{} }}\n}}", rules.concat()))?;
    let mut wrong = Vec::new();
    if tries.is_empty() {
        wrong.push("no exit has a mark".to_owned());
    }
    for (port, (mark, family, to)) in tries {
        let seen = standing.pod(OTHER).enter(|| datagram(port, to, "marked", HELD_BACK))?;
        let own = own_way(world, OTHER, family);
        if !seen.is_some_and(|seen| own.contains(&seen)) {
            wrong.push(format!("with the mark {mark:#x} at {to}: {seen:?}, not {own:?}"));
        }
    }
    Ok(judge(&wrong))
}
