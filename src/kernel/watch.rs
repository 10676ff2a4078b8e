//! Watch: what happens in the kernel, as it happens, so that drift is seen by event and not by waiting for a poll.
//!
//! An event only says that somebody should look, and who did it where the kernel says so. Deliberately absent: what follows.

use std::collections::BTreeSet;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::sys::SocketAddr;

use super::netconf::{Netconf, SettingEvent};
use super::nft::{self, NftEvents};
use super::{KernelError, links, routes};
use crate::core::state::ownership::PROTOCOL;

/// What something happened to. Precise enough to tell who touched an object of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventSubject {
    /// A link, by name.
    Link(String),
    /// An address on a link, by its number.
    Address(u32),
    /// A neighbour on one of our links.
    Neighbour,
    /// A rule, by priority.
    Rule(u32),
    /// A route, by table.
    Route(u32),
    /// nftables.
    Nft,
    /// A setting below `/proc/sys/net`.
    Setting,
    /// More happened than could be kept.
    Everything,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// The kernel itself: a route that went with its device.
    Kernel,
    /// A process: its number, and its name if it could be had.
    Process(u32, Option<String>),
    /// Not known.
    Unknown,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEvent {
    /// To what.
    pub subject: EventSubject,
    /// By whom.
    pub actor: Actor,
    /// The generation of nftables it made, to tell our own changes.
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
    task: tokio::task::JoinHandle<()>,
}

impl Drop for KernelWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KernelWatch {
    /// Begins to listen, in the network namespace of this thread. What bears one of `own_ports` is our own doing.
    pub fn open(own_ports: Vec<u32>) -> Result<Self, KernelError> {
        let (connection, _, route) = rtnetlink::new_multicast_connection(&GROUPS).map_err(KernelError::Open)?;
        let nft = NftEvents::open().map_err(KernelError::Nft)?;
        let netconf = Netconf::open().map_err(KernelError::Open)?;
        Ok(Self { route, nft, netconf, own_ports, own_links: BTreeSet::new(), task: tokio::spawn(connection) })
    }

    /// Waits for the next event that matters. Giving up waiting loses nothing.
    pub async fn next(&mut self) -> Result<KernelEvent, KernelError> {
        loop {
            let event = tokio::select! {
                message = self.route.next() => match message {
                    Some((message, _)) => self.route_event(&message),
                    None => return Err(KernelError::Open(std::io::ErrorKind::BrokenPipe.into())),
                },
                event = self.nft.next() => Some(nft_event(event.map_err(KernelError::Nft)?)),
                heard = self.netconf.next() => Some(setting_event(heard.map_err(KernelError::Open)?)),
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

    /// What a message is about; nothing if it cannot concern us.
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
            // Every ARP answer on every other link is a message here.
            RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour) => {
                self.own_links.contains(&neighbour.header.ifindex).then_some(EventSubject::Neighbour)
            }
            RouteNetlinkMessage::NewRule(rule) | RouteNetlinkMessage::DelRule(rule) => {
                // Of others only those that may say by which table an egress address goes.
                let looks_at_source = routes::source_rule(rule).is_some();
                let (rule, of) = routes::rule(rule)?;
                // Of others also those that look at marks: the bits may be ours (`marks`).
                let looks_at_marks = rule.mark != 0 || rule.mask != u32::MAX;
                (of == PROTOCOL || looks_at_source || looks_at_marks).then_some(EventSubject::Rule(rule.priority))
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                let table = routes::table(route);
                // Which tables of others a rule leads to is known at the look; what nobody needs is the kernel's own table.
                let matters = table != routes::LOCAL || routes::protocol(route.header.protocol) == PROTOCOL;
                matters.then_some(EventSubject::Route(table))
            }
            _ => None,
        }
    }
}

/// The kernel does not say who writes a setting, so that ours are events, too: a round that finds nothing to do.
fn setting_event(heard: SettingEvent) -> KernelEvent {
    let subject = match heard {
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

/// A socket's port number is its process's number unless the process has several; a short-lived process is gone by now.
fn process_name(port: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{port}/comm")).ok()?;
    Some(name.trim().to_owned())
}
