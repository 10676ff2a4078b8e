//! What a packet does in a cluster whose nodes hold given states: chains, rules, routes, the tunnel, and the gateway's chains.
//!
//! Written from what Linux does with such a state (ip-rule(8), ip-route(8), nft(8)), not from what Egret means by it.
//! Deliberately absent: what should become of the packet (`oracle`), reverse-path filters, MTU, time.

mod chains;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egret::core::host_network::HostNetwork;
use egret::core::name::NodeName;
use egret::core::state::NodeState;
use egret::core::state::net::{Encap, Mac, Route};
use egret::core::state::nft::{AddressFamily, Hook, TableFamily};
use egret::core::state::ownership::{DatapathConfig, TUNNEL};
use ipnet::IpNet;

pub(crate) use chains::{Foreign, Written};
use chains::{Packet, hook, hook_until};

/// The nodes that a packet may meet.
#[derive(Debug)]
pub(crate) struct Cluster<'a> {
    /// By name.
    pub(crate) hosts: BTreeMap<NodeName, Host<'a>>,
    /// Marks and tables that are Egret's.
    pub(crate) range: DatapathConfig,
}

/// One node.
#[derive(Debug, Clone)]
#[expect(clippy::struct_field_names, reason = "the field has its type's name")]
pub(crate) struct Host<'a> {
    /// What is Egret's in its kernel, as the packet comes in.
    pub(crate) state: &'a NodeState,
    /// The same when it is routed and sent. Much may have changed for a packet that had to wait in between.
    pub(crate) later: &'a NodeState,
    /// What is not.
    pub(crate) host_network: &'a HostNetwork,
    /// The node's own addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// What others do to packets there; whether the CNI masquerades stands beside it, as it depends on the family.
    pub(crate) foreign: Foreign,
    /// Whether its CNI translates what leaves it to its own address.
    pub(crate) masquerade: bool,
}

impl Host<'_> {
    /// The addresses that routing delivers to the host itself: IPVS works for those of its Services alone, so whoever uses it
    /// gives them to an interface (kube-proxy to kube-ipvs0).
    fn local(&self) -> BTreeSet<IpAddr> {
        let of_interfaces = self.host_network.interfaces.values().flat_map(|interface| &interface.addresses);
        let services = self.foreign.services.iter().filter(|_| self.foreign.ipvs).map(|(service, _)| *service);
        self.addresses.iter().copied().chain(of_interfaces.map(IpNet::addr)).chain(services).collect()
    }

    /// What others do to a packet of this family.
    fn others(&self, family: AddressFamily) -> Foreign {
        let own = self.addresses.iter().copied().find(|address| AddressFamily::of(*address) == family);
        let told = self.foreign.masquerade.filter(|address| AddressFamily::of(*address) == family);
        Foreign { masquerade: told.or(own.filter(|_| self.masquerade)), ..self.foreign.clone() }
    }
}

/// What connection tracking remembers of one connection on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tracked {
    /// `ct mark`
    pub(crate) mark: u32,
    /// The source that its packets are given.
    pub(crate) translated: IpAddr,
}

/// What the nodes remember of one connection.
pub(crate) type Memory = BTreeMap<NodeName, Tracked>;

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// It left the pod's node by the main table, with the pod's address or what the CNI makes of it.
    Own,
    /// It left by an exit's table.
    As {
        /// The node that it left.
        node: NodeName,
        /// The interface.
        interface: String,
        /// The source that the world sees.
        address: IpAddr,
    },
    /// Nobody got it, and why.
    Dropped(&'static str),
    /// It left with a mark of ours by the main table, or a gateway by the main table.
    Leaked {
        /// The node that it left.
        node: NodeName,
        /// The source that the world sees.
        address: IpAddr,
    },
}

impl Outcome {
    /// Whether nobody got it, for whatever reason.
    pub(crate) fn is_dropped(&self) -> bool {
        matches!(self, Self::Dropped(_))
    }
}

/// A packet's journey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Journey {
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// The exit that the pod's node chose, by the identity that its chain bears.
    pub(crate) exit: Option<String>,
    /// What the nodes remember afterwards.
    pub(crate) memory: Memory,
    /// It was sent into the tunnel.
    pub(crate) tunnelled: bool,
    /// The node and the source that it left with, by whatever way; none where it was dropped.
    pub(crate) left: Option<(NodeName, IpAddr)>,
}

/// A packet as a pod sends it.
#[derive(Debug, Clone)]
pub(crate) struct Sent<'a> {
    /// The pod's node.
    pub(crate) node: &'a NodeName,
    /// The pod's address.
    pub(crate) source: IpAddr,
    /// Where to.
    pub(crate) destination: IpAddr,
    /// It answers what somebody else began.
    pub(crate) reply: bool,
}

/// Bits of the packet mark that are a CNI's: they must come out as they went in.
const CNI_MARK: u32 = 0x4000_0000;
/// Bits of the connection mark that are a CNI's.
const CNI_CONNECTION_MARK: u32 = 0x2000_0000;

/// A packet as it comes to a node, with what the node remembers of its connection.
fn incoming((node, host): (&NodeName, &Host<'_>), source: IpAddr, destination: IpAddr, memory: &Memory) -> Packet {
    let known = memory.get(node);
    // In a connection of ours the other end answers the translated source, and connection tracking knows whose that is.
    Packet {
        iif: String::new(),
        oif: String::new(),
        source,
        destination,
        udp_port: None,
        untracked: false,
        iif_kind: "",
        ether_destination: None,
        for_host: false,
        from_this_host: false,
        local: host.local(),
        next_hop: None,
        no_route_back: false,
        mark: CNI_MARK,
        rerouted: false,
        connection_mark: known.map_or(CNI_CONNECTION_MARK, |known| known.mark | CNI_CONNECTION_MARK),
        reply: false,
        new: known.is_none(),
        translated: known.map(|known| known.translated),
        begun_by: source,
        back_to: None,
    }
}

/// Where IPVS takes packets out of the input hook (`ip_vs_ops4`, net/netfilter/ipvs/ip_vs_core.c).
const IPVS: i32 = 98;

/// Where routing leads.
enum Hop {
    Main,
    Tunnel(Encap, Mac, IpAddr),
    Interface(String, Option<IpAddr>),
    Nowhere(&'static str),
}

impl Cluster<'_> {
    /// Sends a packet. `memory` is what the nodes know of its connection: nothing for a first packet.
    pub(crate) fn send(&self, sent: &Sent<'_>, memory: &Memory) -> Journey {
        let outcome = Outcome::Dropped("on its way");
        let mut journey = Journey { outcome, exit: None, memory: memory.clone(), tunnelled: false, left: None };
        let on = (sent.node, &self.hosts[sent.node]);
        let mut packet = incoming(on, sent.source, sent.destination, &journey.memory);
        packet.reply = sent.reply;
        // A node's own packets come out of no pod's device.
        packet.from_this_host = self.hosts[sent.node].addresses.contains(&sent.source);
        if !packet.from_this_host {
            "lxc-pod".clone_into(&mut packet.iif);
            packet.iif_kind = "veth";
        }
        journey.outcome = self.through_node(sent.node, packet, &mut journey, true);
        journey
    }

    #[expect(clippy::too_many_lines, reason = "one hook after the other, in the order of the kernel")]
    fn through_node(&self, name: &NodeName, mut packet: Packet, journey: &mut Journey, first: bool) -> Outcome {
        let host = &self.hosts[name];
        let (nft, later) = (&host.state.nft, &host.later.nft);
        let family = AddressFamily::of(packet.source);
        if family == AddressFamily::V6 && !host.host_network.features.ipv6 {
            return Outcome::Dropped("the node has no IPv6");
        }
        let foreign = host.others(family);
        let inward = if packet.from_this_host { Hook::Output } else { Hook::Prerouting };
        if !hook(nft, TableFamily::Inet, &inward, &mut packet, &foreign) {
            return Outcome::Dropped("prerouting");
        }
        let mut hop = None;
        // IPVS: the address of a service is the host's own. The endpoint's route is looked up without a mark (`do_output_route4`,
        // net/netfilter/ipvs/ip_vs_xmit.c).
        let endpoint = foreign.endpoint(packet.destination);
        let by_ipvs =
            first && foreign.ipvs && !packet.reply && !packet.from_this_host && endpoint != packet.destination;
        if by_ipvs {
            let nobody = Foreign::default();
            if !hook_until(nft, TableFamily::Inet, &Hook::Input, IPVS, &mut packet, &nobody) {
                return Outcome::Dropped("input");
            }
            packet.destination = endpoint;
            packet.iif.clear();
            packet.iif_kind = "";
            if !hook(nft, TableFamily::Inet, &Hook::Output, &mut packet, &nobody) {
                return Outcome::Dropped("output");
            }
            hop = (!packet.rerouted).then_some(Hop::Main);
        }
        if first {
            journey.exit = self.exit_of(host, packet.mark);
        }
        let hop = hop.unwrap_or_else(|| route(host, packet.mark, family, packet.destination));
        (packet.oif, packet.next_hop) = match &hop {
            Hop::Main => ("eth0".to_owned(), None),
            Hop::Tunnel(.., router) => (TUNNEL.to_owned(), Some(*router)),
            Hop::Interface(name, router) => (name.clone(), *router),
            Hop::Nowhere(why) => return Outcome::Dropped(why),
        };
        if !by_ipvs && !hook(later, TableFamily::Inet, &Hook::Forward, &mut packet, &foreign) {
            return Outcome::Dropped("forward");
        }
        let marked = packet.mark & self.range.mask != 0;
        if !hook(later, TableFamily::Inet, &Hook::Postrouting, &mut packet, &foreign) {
            return Outcome::Dropped("postrouting");
        }
        // What came out of the tunnel begins with no bits of anybody's.
        if first && [foreign.mark_before, foreign.mark_behind, foreign.mark_leaving].iter().all(Option::is_none) {
            assert_eq!(packet.mark & self.range.others(), CNI_MARK, "the packet mark's other bits are somebody else's");
        }
        let others = packet.connection_mark & self.range.others();
        // Of what others set in a connection's first packet the memory of the next has nothing.
        let set = if packet.new { foreign.connection_bits } else { 0 };
        let expected = (CNI_CONNECTION_MARK | set) & self.range.others();
        assert_eq!(others, expected, "the connection mark's other bits are somebody else's");
        if let Some(translated) = packet.translated {
            let tracked = Tracked { mark: packet.connection_mark & self.range.mask, translated };
            journey.memory.insert(name.clone(), tracked);
        }
        let address = packet.source;
        match &hop {
            Hop::Tunnel(..) => journey.tunnelled = true,
            _ => journey.left = Some((name.clone(), address)),
        }
        match hop {
            Hop::Main if first && !marked => Outcome::Own,
            Hop::Main => Outcome::Leaked { node: name.clone(), address },
            Hop::Interface(interface, _) => Outcome::As { node: name.clone(), interface, address },
            Hop::Tunnel(..) if packet.mark & self.range.mask != 0 => Outcome::Dropped("the tunnel's own packet loops"),
            Hop::Tunnel(encap, mac, _) => {
                let out = self.out_of_tunnel(host, &packet, encap, mac, &journey.memory);
                out.map_or_else(|lost| lost, |(peer, packet)| self.through_node(&peer, packet, journey, false))
            }
            Hop::Nowhere(why) => Outcome::Dropped(why),
        }
    }

    /// The way back of what left `gateway` by `interface` with `address`: the node that hands the answer to its main table, which
    /// knows the pod or the CNI's way to it; none if it is lost.
    pub(crate) fn answer(&self, sent: &Sent<'_>, left: (&NodeName, &str, IpAddr), memory: &Memory) -> Option<NodeName> {
        let (gateway, interface, address) = left;
        let host = &self.hosts[gateway];
        let family = AddressFamily::of(address);
        let foreign = host.others(family);
        let mut packet = Packet { reply: true, ..incoming((gateway, host), sent.destination, address, memory) };
        // On the gateway the connection was begun by what stands for the pod's node.
        let begun_by = if gateway == sent.node { sent.source } else { memory.get(sent.node)?.translated };
        (packet.back_to, packet.begun_by) = (Some(begun_by), begun_by);
        interface.clone_into(&mut packet.iif);
        if !hook(&host.state.nft, TableFamily::Inet, &Hook::Prerouting, &mut packet, &foreign) {
            return None;
        }
        let (encap, mac) = match route(host, packet.mark, family, packet.destination) {
            Hop::Main => return Some(gateway.clone()),
            Hop::Tunnel(encap, mac, _) => (encap, mac),
            Hop::Interface(..) | Hop::Nowhere(_) => return None,
        };
        TUNNEL.clone_into(&mut packet.oif);
        let passes = hook(&host.later.nft, TableFamily::Inet, &Hook::Postrouting, &mut packet, &foreign);
        if !passes || packet.mark & self.range.mask != 0 {
            return None;
        }
        let (name, mut packet) = self.out_of_tunnel(host, &packet, encap, mac, memory).ok()?;
        packet.reply = true;
        (packet.back_to, packet.begun_by) = (Some(sent.source), sent.source);
        let host = &self.hosts[&name];
        let passes = hook(&host.state.nft, TableFamily::Inet, &Hook::Prerouting, &mut packet, &host.others(family));
        let hop = route(host, packet.mark, family, packet.destination);
        (passes && matches!(hop, Hop::Main)).then_some(name)
    }

    /// The other end of the tunnel: the outer packet's input, the device, its ingress.
    fn out_of_tunnel(
        &self,
        from: &Host<'_>,
        sent: &Packet,
        encap: Encap,
        mac: Mac,
        memory: &Memory,
    ) -> Result<(NodeName, Packet), Outcome> {
        let peer = self.hosts.iter().find(|(_, host)| host.addresses.contains(&encap.peer));
        let Some((name, host)) = peer else { return Err(Outcome::Dropped("no such peer")) };
        let outer = encap.source.expect("the outer source is named");
        assert!(from.addresses.contains(&outer), "the outer source {outer} is the sender's");
        assert_eq!(encap.checksum, encap.peer.is_ipv6(), "a UDP packet over IPv6 has a checksum");
        let nobody = Foreign::default();
        let mut carrier = incoming((name, host), outer, encap.peer, &Memory::new());
        carrier.udp_port = Some(self.range.port);
        "eth0".clone_into(&mut carrier.iif);
        let comes_in = [Hook::Prerouting, Hook::Input]
            .iter()
            .all(|place| hook(&host.state.nft, TableFamily::Inet, place, &mut carrier, &nobody));
        if !comes_in {
            return Err(Outcome::Dropped("a tunnel packet of a stranger"));
        }
        let device = match host.state.links.get(TUNNEL) {
            Some(link) if link.up && link.port == self.range.port => link,
            _ => return Err(Outcome::Dropped("the peer has no such device")),
        };
        let mut packet = incoming((name, host), sent.source, sent.destination, memory);
        TUNNEL.clone_into(&mut packet.iif);
        packet.iif_kind = "vxlan";
        packet.ether_destination = Some(mac);
        packet.for_host = device.mac == mac;
        // The outer packet's mark is still there behind the device.
        packet.mark = carrier.mark;
        if !hook(&host.state.nft, TableFamily::Netdev, &Hook::Ingress(TUNNEL.to_owned()), &mut packet, &nobody) {
            return Err(Outcome::Dropped("ingress"));
        }
        if !packet.for_host {
            return Err(Outcome::Dropped("a frame for another host"));
        }
        Ok((name.clone(), packet))
    }

    /// The identity of the exit that a mark stands for on a node.
    fn exit_of(&self, host: &Host<'_>, mark: u32) -> Option<String> {
        let id = (mark & self.range.mask) >> self.range.mask.trailing_zeros();
        host.state.nft.get(&TableFamily::Inet)?.chains.get(&format!("exit_{id}"))?.comment.clone()
    }
}

/// Rules in the order of their priorities, each with its table: the longest prefix, then the lowest metric. Then the main table.
fn route(host: &Host<'_>, mark: u32, family: AddressFamily, destination: IpAddr) -> Hop {
    let state = host.later;
    let mut rules: Vec<_> = state.rules.iter().filter(|rule| rule.family == family).collect();
    rules.sort_by_key(|rule| rule.priority);
    // Nothing but answers to probes has a source that a rule names.
    for rule in rules.into_iter().filter(|rule| rule.from.is_none() && mark & rule.mask == rule.mark) {
        let fits = state.routes.iter().filter(|(key, _)| {
            key.family == family && key.table == rule.table && key.destination.contains(&destination)
        });
        let best = fits.max_by_key(|(key, _)| (key.destination.prefix_len(), std::cmp::Reverse(key.metric)));
        match best {
            None | Some((_, Route::Throw)) => {}
            Some((_, Route::Local { .. })) => return Hop::Nowhere("this host itself"),
            Some((_, Route::Unreachable | Route::Blackhole)) => return Hop::Nowhere("unreachable"),
            Some((_, Route::Unknown(text))) => panic!("Egret wrote a route that it does not know: {text}"),
            Some((_, Route::Via { link, encap: None, .. })) if link == TUNNEL => {
                return Hop::Nowhere("the device is not told which peer");
            }
            Some((_, Route::Via { link, gateway, encap: None, .. })) => return Hop::Interface(link.clone(), *gateway),
            Some((_, Route::Via { link, gateway, encap: Some(encap), .. })) => {
                let neighbours = &state.neighbours;
                let known = neighbours.iter().find(|known| known.link == *link && Some(known.address) == *gateway);
                return match (state.links.get(link), known) {
                    (Some(device), Some(known)) if device.up => Hop::Tunnel(*encap, known.mac, known.address),
                    _ => Hop::Nowhere("no device or neighbour to send by"),
                };
            }
        }
    }
    Hop::Main
}
