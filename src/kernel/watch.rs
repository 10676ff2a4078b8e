//! Subscribes to netlink events, so that drift is detected at once instead of by polling.
//!
//! An event carries its subject and, where the kernel names it, the process that caused it; the next round reads the
//! state itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::PoisonError;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::neighbour::{NeighbourMessage, NeighbourState};
use rtnetlink::sys::SocketAddr;

use super::netconf::{Netconf, SettingEvent};
use super::nft::{self, NftEvents};
use super::{AskedNeighbours, Kernel, KernelError, links, routes};
use crate::core::state::ownership::PROTOCOL;

/// What changed, precise enough to attribute a change of Egret's objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventSubject {
    /// A link, by name.
    Link(String),
    /// An address on a link, by its number.
    Address(u32),
    /// A neighbour on one of our links.
    Neighbour,
    /// A neighbour that the kernel was asked for has not answered, or answers again.
    NextHop,
    /// A rule, by priority.
    Rule(u32),
    /// A route, by table.
    Route(u32),
    /// nftables.
    Nft,
    /// A sysctl below `/proc/sys/net`.
    Setting,
    /// The socket overran: anything may have changed.
    Everything,
}

/// Who caused an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// The kernel itself, for example a route deleted with its device.
    Kernel,
    /// A process: its id, and its name if known.
    Process(u32, Option<String>),
    /// Not known.
    Unknown,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEvent {
    /// What changed.
    pub subject: EventSubject,
    /// Who changed it.
    pub actor: Actor,
    /// The nftables generation that the change made, to recognise this process's own transactions.
    pub generation: Option<nft::Generation>,
}

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// The event sockets.
pub struct KernelWatch {
    route: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    nft: NftEvents,
    netconf: Netconf,
    own_ports: Vec<u32>,
    own_links: BTreeSet<u32>,
    asked: AskedNeighbours,
    silent: BTreeSet<(u32, IpAddr)>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for KernelWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KernelWatch {
    /// Subscribes, in the network namespace of this thread. What `kernel` changes itself is no event.
    pub fn open(kernel: &Kernel) -> Result<Self, KernelError> {
        let (connection, _, route) = rtnetlink::new_multicast_connection(&GROUPS).map_err(KernelError::Open)?;
        let nft = NftEvents::open().map_err(KernelError::Nft)?;
        let netconf = Netconf::open().map_err(KernelError::Open)?;
        Ok(Self {
            route,
            nft,
            netconf,
            own_ports: vec![kernel.routes.port()],
            own_links: BTreeSet::new(),
            asked: kernel.asked.clone(),
            silent: BTreeSet::new(),
            task: tokio::spawn(connection),
        })
    }

    /// Waits for the next event that matters. Cancel-safe.
    pub async fn next(&mut self) -> Result<KernelEvent, KernelError> {
        loop {
            let event = tokio::select! {
                message = self.route.next() => match message {
                    Some((message, _)) => self.route_event(&message),
                    None => return Err(KernelError::Open(std::io::ErrorKind::BrokenPipe.into())),
                },
                event = self.nft.next() => Some(nft_event(event.map_err(KernelError::Nft)?)),
                event = self.netconf.next() => Some(setting_event(event.map_err(KernelError::Open)?)),
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    fn route_event(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<KernelEvent> {
        let port = message.header.port_number;
        let subject = match &message.payload {
            NetlinkPayload::InnerMessage(inner) => self.subject(inner)?,
            NetlinkPayload::Overrun(_) => EventSubject::Everything,
            _ => return None,
        };
        if self.own_ports.contains(&port) {
            return None;
        }
        let actor = if port == 0 { Actor::Kernel } else { Actor::Process(port, process_name(port)) };
        Some(KernelEvent { subject, actor, generation: None })
    }

    /// Whether a neighbour that the kernel was asked for has just failed, or answers again. While it is asked for in vain, the kernel
    /// reports its failure again and again.
    fn is_news_of_next_hop(&mut self, neighbour: &NeighbourMessage) -> bool {
        let Some(address) = routes::neighbour_address(neighbour) else { return false };
        let key = (neighbour.header.ifindex, address);
        if !self.asked.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return false;
        }
        match neighbour.header.state {
            NeighbourState::Failed => self.silent.insert(key),
            NeighbourState::Incomplete => false,
            _ => self.silent.remove(&key),
        }
    }

    /// The subject of a message; none if it cannot concern Egret.
    fn subject(&mut self, message: &RouteNetlinkMessage) -> Option<EventSubject> {
        match message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                let name = link.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                })?;
                if links::is_ours(&name) {
                    self.own_links.insert(link.header.index);
                }
                Some(EventSubject::Link(name))
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                Some(EventSubject::Address(address.header.index))
            }
            // Every ARP reply on any other link arrives here as a message.
            RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour)
                if self.own_links.contains(&neighbour.header.ifindex) =>
            {
                Some(EventSubject::Neighbour)
            }
            RouteNetlinkMessage::DelNeighbour(neighbour) => {
                let address = routes::neighbour_address(neighbour)?;
                self.silent.remove(&(neighbour.header.ifindex, address));
                None
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                self.is_news_of_next_hop(neighbour).then_some(EventSubject::NextHop)
            }
            RouteNetlinkMessage::NewRule(rule) | RouteNetlinkMessage::DelRule(rule) => {
                // Of foreign rules, those that may decide which table an egress address uses.
                let looks_at_source = routes::source_rule(rule).is_some();
                let (rule, of) = routes::rule(rule)?;
                // Also foreign rules that match marks: the bits may be Egret's (`marks`).
                let looks_at_marks = rule.mark != 0 || rule.mask != u32::MAX;
                (of == PROTOCOL || looks_at_source || looks_at_marks).then_some(EventSubject::Rule(rule.priority))
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                let table = routes::table(route);
                // Only the next dump knows which foreign tables a rule leads to; only the kernel's local table never
                // matters.
                let matters = table != routes::LOCAL || routes::protocol(route.header.protocol) == PROTOCOL;
                matters.then_some(EventSubject::Route(table))
            }
            _ => None,
        }
    }
}

/// The kernel does not name who writes a sysctl, so Egret's own writes are events, too: their round finds nothing to do.
fn setting_event(event: SettingEvent) -> KernelEvent {
    let subject = match event {
        SettingEvent::Changed => EventSubject::Setting,
        SettingEvent::Overrun => EventSubject::Everything,
    };
    KernelEvent { subject, actor: Actor::Unknown, generation: None }
}

fn nft_event(event: nft::NftEvent) -> KernelEvent {
    match event {
        nft::NftEvent::Changed(change) => KernelEvent {
            subject: EventSubject::Nft,
            actor: Actor::Process(change.process_id, Some(change.process_name)),
            generation: Some(change.generation),
        },
        nft::NftEvent::Overrun => {
            KernelEvent { subject: EventSubject::Everything, actor: Actor::Unknown, generation: None }
        }
    }
}

/// A socket's port number is its process's id unless the process has several; a short-lived process may have ended by
/// now.
fn process_name(port: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{port}/comm")).ok()?;
    Some(name.trim().to_owned())
}
