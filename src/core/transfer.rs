//! Transfers: a source sends connections that began on another gateway to the gateway that takes their exit over.
//!
//! A connection whose client sends reaches the new gateway by its packets. One in which only the server sends does not,
//! and is not known there. The source knows it, in its own connection tracking. So when its packets of an exit take
//! another way, and the egress address stays the same, it sends the connections to the new gateway, inside the tunnel.
//! Not here: messages (`wire`), sockets (`kernel::transfer`), connection tracking (`kernel::conntrack`), and which way
//! packets take (`detours`).

pub mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::cidr::RangeSet;
use super::liveness::PathKey;
use super::name::NodeName;
use super::placement::ExitKey;
use super::state::net::Mac;
use super::state::nft::AddressFamily;
use super::state::ownership::DatapathConfig;

/// At most so many connections of one exit and family are transferred at once.
pub const MOST: usize = 65_536;
/// So many connections a gateway enters for a source at once, and [`PER_SECOND`] after that.
const BURST: f64 = 20_000.0;
/// See [`BURST`].
const PER_SECOND: f64 = 5_000.0;

/// The protocol of a connection that can be transferred: one with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowProtocol {
    /// An established TCP connection.
    Tcp,
    /// A UDP flow that was answered.
    Udp,
}

impl fmt::Display for FlowProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

impl FlowProtocol {
    /// Its number (`IPPROTO_TCP`, `IPPROTO_UDP`).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The protocol of a number.
    pub fn of(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp].into_iter().find(|protocol| protocol.number() == number)
    }
}

/// A connection of an exit as it is inside the tunnel. Its source address is left out: it is the address that the
/// message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExitConnection {
    /// The protocol.
    pub protocol: FlowProtocol,
    /// The port at the source's tunnel address. The gateway keeps it.
    pub port: u16,
    /// Where it leads.
    pub destination: SocketAddr,
}

/// What a node needs to know to give and to take connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransferPlan {
    /// The node's marks.
    pub range: DatapathConfig,
    /// The ways that this node's packets of each exit take.
    pub ways: BTreeMap<PathKey, Way>,
    /// The exits that this node is the gateway of, as other nodes name them.
    pub taken: BTreeMap<(Mac, AddressFamily), TakenExit>,
    /// The other nodes by their tunnel addresses.
    pub nodes: BTreeMap<IpAddr, NodeName>,
}

/// The way of an exit's packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The mark of the exit's connections.
    pub mark: u32,
    /// This node's tunnel address, which they are translated to.
    pub tunnel: IpAddr,
    /// The exit whose gateway carries them: itself, or a standby.
    pub carrier: ExitKey,
    /// How to reach that gateway; none: it is this node.
    pub reached: Option<Reached>,
}

/// How a gateway is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The packet mark that leads to it.
    pub mark: u32,
    /// The exit's MAC address, by which the gateway knows it.
    pub mac: Mac,
}

/// An exit that this node is the gateway of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenExit {
    /// The mark of its connections.
    pub mark: u32,
    /// Its egress address.
    pub address: IpAddr,
    /// The destinations that its policies name.
    pub allowed: RangeSet,
}

impl TakenExit {
    /// Whether a connection may leave by this exit, by the rule for its packets.
    pub fn accepts(&self, connection: &ExitConnection) -> bool {
        let to = connection.destination;
        connection.port > 0 && to.port() > 0 && self.allowed.contains(to.ip())
    }
}

/// An exit whose packets take another way from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedExit {
    /// The exit and family.
    pub path: PathKey,
    /// The new way.
    pub way: Way,
    /// What becomes of its connections.
    pub fate: Fate,
}

/// What becomes of connections whose packets take another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They keep their address: they are sent to the new gateway.
    Transferred(Reached),
    /// They get another address, so the other end does not know them: TCP clients are made to speak, and get a reset.
    Reset,
    /// This node is or was the gateway itself. Their translation is not that of the new way, so they are deleted here and begin anew
    /// with the next packet, of which TCP clients send one.
    Renewed,
}

/// The exits whose packets take another way than before. One that was not there before has no connections.
pub fn moved(before: &TransferPlan, now: &TransferPlan) -> Vec<MovedExit> {
    let changed = now.ways.iter().filter_map(|(path, way)| {
        let former = before.ways.get(path).filter(|former| former.carrier != way.carrier)?;
        let named = way.carrier.egress.is_named();
        let fate = match way.reached {
            Some(to) if former.reached.is_some() && named && former.carrier.egress == way.carrier.egress => {
                Fate::Transferred(to)
            }
            Some(_) if former.reached.is_some() => Fate::Reset,
            _ => Fate::Renewed,
        };
        Some(MovedExit { path: path.clone(), way: way.clone(), fate })
    });
    changed.collect()
}

/// How many connections each source may still enter: a source that misbehaves does not keep this node busy, nor fill its tables.
#[derive(Debug, Default)]
pub struct Allowance(BTreeMap<IpAddr, (f64, Duration)>);

impl Allowance {
    /// Takes so many from a source's allowance; false: it has too few. `now` is since any fixed time.
    pub fn take(&mut self, source: IpAddr, count: usize, now: Duration) -> bool {
        let (left, at) = self.0.entry(source).or_insert((BURST, now));
        *left = (*left + now.saturating_sub(*at).as_secs_f64() * PER_SECOND).min(BURST);
        *at = now;
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let enough = *left >= count;
        if enough {
            *left -= count;
        }
        enough
    }

    /// Forgets nodes that are gone.
    pub fn retain(&mut self, nodes: &BTreeMap<IpAddr, NodeName>) {
        self.0.retain(|source, _| nodes.contains_key(source));
    }
}

#[cfg(test)]
mod tests;
