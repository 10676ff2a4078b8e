//! Connections of exits, whole: listed by mark, entered as if they had begun here, deleted.
//!
//! Not here: which ones (`core::transfer`).

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use super::super::nft::socket::{self, ExchangeError, NetfilterSocket};
use super::super::nft::uapi::{NFPROTO_UNSPEC, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use super::super::nft::wire::{self, Malformed, Message, Writer};
use super::entries::{
    CTA_IP_V4_DST, CTA_IP_V4_SRC, CTA_IP_V6_DST, CTA_IP_V6_SRC, CTA_STATUS, CTA_TIMEOUT, CTA_TUPLE_IP, CTA_TUPLE_ORIG,
    CTA_TUPLE_REPLY, Entry, IPS_ASSURED, IPS_SEEN_REPLY, NFPROTO_IPV4, NFPROTO_IPV6, delete, entry, family_of,
};
use super::{
    CTA_MARK, CTA_MARK_MASK, ConntrackError, IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_NEW, NFNL_SUBSYS_CTNETLINK, missing,
};
use crate::core::transfer::FlowProtocol;

/// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const CTA_PROTOINFO: u16 = 4;
const CTA_NAT_SRC: u16 = 6;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
const CTA_NAT_V4_MINIP: u16 = 1;
const CTA_NAT_V4_MAXIP: u16 = 2;
const CTA_NAT_PROTO: u16 = 3;
const CTA_NAT_V6_MINIP: u16 = 4;
const CTA_NAT_V6_MAXIP: u16 = 5;
const CTA_PROTONAT_PORT_MIN: u16 = 1;
const CTA_PROTONAT_PORT_MAX: u16 = 2;
/// include/uapi/linux/netfilter/nf_conntrack_common.h.
const IPS_CONFIRMED: u32 = 1 << 3;
/// include/uapi/linux/netfilter/nf_conntrack_tcp.h: segments outside of the window that was seen do not count as invalid. The windows
/// of a connection that began elsewhere are not known here.
const IP_CT_TCP_FLAG_BE_LIBERAL: u8 = 0x08;
/// `TCP_CONNTRACK_*` of the same header.
const TCP_ESTABLISHED: u8 = 3;
/// Data may still come in these: established, and one end has said that it sends no more.
const TCP_OPEN: std::ops::RangeInclusive<u8> = TCP_ESTABLISHED..=5;
/// How many seconds an entered connection is kept without a packet. The first packet gives it the time that its state has here.
const ENTERED: u32 = 300;

/// Both ends of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ends {
    /// The source.
    pub source: SocketAddr,
    /// The destination.
    pub destination: SocketAddr,
}

/// A tracked TCP connection or UDP flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The protocol.
    pub protocol: FlowProtocol,
    /// As it was opened.
    pub original: Ends,
    /// As its replies come: to the address that the source was translated to.
    pub reply: Ends,
    /// The connection mark.
    pub mark: u32,
    /// Whether data may still come: an established TCP connection, an answered UDP flow.
    pub open: bool,
}

/// What changes one tracked connection.
pub struct Handle(Entry);

/// A connection to enter.
#[derive(Debug, Clone, Copy)]
pub struct NewFlow {
    /// The protocol.
    pub protocol: FlowProtocol,
    /// As its packets come here.
    pub original: Ends,
    /// The address that its source is translated to; the port stays.
    pub translated_to: IpAddr,
    /// The connection mark.
    pub mark: u32,
}

/// What became of a connection that was to be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It is entered.
    New,
    /// It, or another connection with its translated port, is there already.
    Exists,
}

/// Reads and enters connections, in the network namespace of the thread that opened it.
pub struct FlowTable {
    socket: NetfilterSocket,
}

impl FlowTable {
    /// Opens it. Must be called within a tokio runtime.
    pub fn open() -> Result<Self, ConntrackError> {
        let failed = |error| ConntrackError::Sources { doing: "open", source: ExchangeError::Socket(error) };
        Ok(Self { socket: NetfilterSocket::open(socket::LARGE_BUFFER).map_err(failed)? })
    }

    /// Passes on every TCP connection and UDP flow whose mark has one of the bits of `mask`.
    pub async fn list(&mut self, mask: u32, mut each: impl FnMut(Flow)) -> Result<(), ConntrackError> {
        let each = |_, _: &[u8], flow| {
            each(flow);
            Ok(())
        };
        self.dump(None, mask, each).await
    }

    /// Those whose mark under `mask` is `mark` and that are wanted. The kernel leaves out those with another mark.
    pub async fn pick(
        &mut self,
        (mark, mask): (u32, u32),
        mut wanted: impl FnMut(&Flow) -> bool,
    ) -> Result<Vec<(Flow, Handle)>, ConntrackError> {
        let mut picked = Vec::new();
        let each = |family, attributes: &[u8], flow| {
            if wanted(&flow) {
                picked.push((flow, Handle(entry(family, attributes)?)));
            }
            Ok(())
        };
        self.dump(Some(mark), mask, each).await?;
        Ok(picked)
    }

    async fn dump(
        &mut self,
        mark: Option<u32>,
        mask: u32,
        mut each: impl FnMut(u8, &[u8], Flow) -> Result<(), Malformed>,
    ) -> Result<(), ConntrackError> {
        let request = |sequence| {
            let kind = NFNL_SUBSYS_CTNETLINK << 8 | u16::from(IPCTNL_MSG_CT_GET);
            let mut writer = Writer::default();
            writer.message((kind, NLM_F_REQUEST | NLM_F_DUMP, sequence), (NFPROTO_UNSPEC, 0), |message| {
                if let Some(mark) = mark {
                    message.number(CTA_MARK, mark);
                    message.number(CTA_MARK_MASK, mask);
                }
            });
            writer.finish().unwrap_or_default()
        };
        let answer = |message: &Message<'_>| {
            if message.of_subsystem(NFNL_SUBSYS_CTNETLINK) == Some(IPCTNL_MSG_CT_NEW) {
                let (family, attributes) = message.netfilter()?;
                let found = wire::find_u32(attributes, CTA_MARK)?.unwrap_or(0) & mask;
                if found != 0
                    && mark.is_none_or(|mark| mark == found)
                    && let Some(flow) = flow(family, attributes)?
                {
                    each(family, attributes, flow)?;
                }
            }
            Ok(())
        };
        match self.socket.ask(request, answer).await {
            // What came and went meanwhile is no fault.
            Ok(()) | Err(ExchangeError::Interrupted) => Ok(()),
            Err(source) => Err(missing("list", source)),
        }
    }

    /// Enters a connection as if its packets had been seen from the start.
    ///
    /// Unanswered packets of the other end, since the address came here, may have made a conntrack entry with the same
    /// addresses and ports (those of UDP always do): it is deleted. An entry from the time before the connection went
    /// elsewhere has TCP windows of that time: it is loosened.
    pub async fn enter(&mut self, new: &NewFlow) -> Result<Entered, ConntrackError> {
        let mut entered = self.try_enter(new).await?;
        if entered == Entered::Exists && self.delete_unanswered(new).await? {
            entered = self.try_enter(new).await?;
        }
        if entered == Entered::Exists && new.protocol == FlowProtocol::Tcp {
            let Ends { source, destination } = new.original;
            let known = |message: &mut Writer| {
                write_tuple(message, CTA_TUPLE_ORIG, new.protocol, (source, destination));
            };
            self.change_tcp(family_of(source.ip()), known).await?;
        }
        Ok(entered)
    }

    /// Deletes a connection that the other end has opened to the translated address and port, if it is unanswered.
    /// Returns whether there was one.
    async fn delete_unanswered(&mut self, new: &NewFlow) -> Result<bool, ConntrackError> {
        let translated = SocketAddr::new(new.translated_to, new.original.source.port());
        let mut unanswered = None;
        let request = |sequence| {
            let kind = NFNL_SUBSYS_CTNETLINK << 8 | u16::from(IPCTNL_MSG_CT_GET);
            let family = family_of(translated.ip());
            let mut writer = Writer::default();
            writer.message((kind, NLM_F_REQUEST | NLM_F_ACK, sequence), (family, 0), |message| {
                write_tuple(message, CTA_TUPLE_ORIG, new.protocol, (new.original.destination, translated));
            });
            writer.finish().unwrap_or_default()
        };
        let answer = |message: &Message<'_>| {
            if message.of_subsystem(NFNL_SUBSYS_CTNETLINK) == Some(IPCTNL_MSG_CT_NEW) {
                let (family, attributes) = message.netfilter()?;
                let answered = wire::find_u32(attributes, CTA_STATUS)?.unwrap_or(0) & IPS_SEEN_REPLY != 0;
                // The kernel finds a connection by either of its tuples.
                let theirs = ends(attributes, CTA_TUPLE_ORIG)?.is_some_and(|(_, ends)| ends.destination == translated);
                if theirs && !answered {
                    unanswered = Some(Handle(entry(family, attributes)?));
                }
            }
            Ok(())
        };
        match self.socket.ask(request, answer).await {
            Ok(()) => {}
            // Its port is another connection's.
            Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::ENOENT) => return Ok(false),
            Err(source) => return Err(missing("look up", source)),
        }
        let Some(handle) = unanswered else { return Ok(false) };
        self.delete(&handle).await?;
        Ok(true)
    }

    async fn try_enter(&mut self, new: &NewFlow) -> Result<Entered, ConntrackError> {
        let request = |sequence| {
            let kind = NFNL_SUBSYS_CTNETLINK << 8 | u16::from(IPCTNL_MSG_CT_NEW);
            let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
            let mut writer = Writer::default();
            writer.message((kind, flags, sequence), (family_of(new.original.source.ip()), 0), |message| {
                write_new(message, new);
            });
            writer.finish().unwrap_or_default()
        };
        match self.socket.ask(request, |_| Ok(())).await {
            Ok(()) => Ok(Entered::New),
            Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::EEXIST) => Ok(Entered::Exists),
            Err(source) => Err(missing("enter", source)),
        }
    }

    /// Accepts segments of a TCP connection outside of the window that was seen. One that has ended meanwhile is no error.
    pub async fn loosen(&mut self, Handle(entry): &Handle) -> Result<(), ConntrackError> {
        self.change_tcp(entry.family, |message| entry.identify(message)).await
    }

    async fn change_tcp(&mut self, family: u8, identify: impl Fn(&mut Writer)) -> Result<(), ConntrackError> {
        let request = |sequence| {
            let kind = NFNL_SUBSYS_CTNETLINK << 8 | u16::from(IPCTNL_MSG_CT_NEW);
            let mut writer = Writer::default();
            writer.message((kind, NLM_F_REQUEST | NLM_F_ACK, sequence), (family, 0), |message| {
                identify(message);
                write_tcp(message, None);
            });
            writer.finish().unwrap_or_default()
        };
        match self.socket.ask(request, |_| Ok(())).await {
            Ok(()) => Ok(()),
            Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::ENOENT) => Ok(()),
            Err(source) => Err(missing("loosen", source)),
        }
    }

    /// Deletes a connection; one that has ended meanwhile is no error.
    pub async fn delete(&mut self, Handle(entry): &Handle) -> Result<(), ConntrackError> {
        delete(&mut self.socket, entry).await.map_err(|source| missing("delete", source))
    }
}

fn write_new(message: &mut Writer, new: &NewFlow) {
    let Ends { source, destination } = new.original;
    write_tuple(message, CTA_TUPLE_ORIG, new.protocol, (source, destination));
    // As it would be without a translation: the kernel then sets the translation up.
    write_tuple(message, CTA_TUPLE_REPLY, new.protocol, (destination, source));
    message.nested(CTA_NAT_SRC, |nat| {
        match new.translated_to {
            IpAddr::V4(v4) => [CTA_NAT_V4_MINIP, CTA_NAT_V4_MAXIP].map(|kind| nat.bytes(kind, &v4.octets())),
            IpAddr::V6(v6) => [CTA_NAT_V6_MINIP, CTA_NAT_V6_MAXIP].map(|kind| nat.bytes(kind, &v6.octets())),
        };
        nat.nested(CTA_NAT_PROTO, |ports| {
            let port = source.port().to_be_bytes();
            ports.bytes(CTA_PROTONAT_PORT_MIN, &port);
            ports.bytes(CTA_PROTONAT_PORT_MAX, &port);
        });
    });
    message.number(CTA_STATUS, IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED);
    message.number(CTA_TIMEOUT, ENTERED);
    message.number(CTA_MARK, new.mark);
    if new.protocol == FlowProtocol::Tcp {
        write_tcp(message, Some(TCP_ESTABLISHED));
    }
}

fn write_tcp(message: &mut Writer, state: Option<u8>) {
    message.nested(CTA_PROTOINFO, |info| {
        info.nested(CTA_PROTOINFO_TCP, |tcp| {
            if let Some(state) = state {
                tcp.bytes(CTA_PROTOINFO_TCP_STATE, &[state]);
            }
            // struct nf_ct_tcp_flags: the flags, and which of them are set by this.
            let liberal = [IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_BE_LIBERAL];
            tcp.bytes(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &liberal);
            tcp.bytes(CTA_PROTOINFO_TCP_FLAGS_REPLY, &liberal);
        });
    });
}

fn write_tuple(message: &mut Writer, kind: u16, protocol: FlowProtocol, (from, to): (SocketAddr, SocketAddr)) {
    message.nested(kind, |tuple| {
        tuple.nested(CTA_TUPLE_IP, |addresses| {
            for (address, v4, v6) in
                [(from.ip(), CTA_IP_V4_SRC, CTA_IP_V6_SRC), (to.ip(), CTA_IP_V4_DST, CTA_IP_V6_DST)]
            {
                match address {
                    IpAddr::V4(address) => addresses.bytes(v4, &address.octets()),
                    IpAddr::V6(address) => addresses.bytes(v6, &address.octets()),
                }
            }
        });
        tuple.nested(CTA_TUPLE_PROTO, |ports| {
            ports.bytes(CTA_PROTO_NUM, &[protocol.number()]);
            ports.bytes(CTA_PROTO_SRC_PORT, &from.port().to_be_bytes());
            ports.bytes(CTA_PROTO_DST_PORT, &to.port().to_be_bytes());
        });
    });
}

/// A TCP connection or UDP flow; none: another protocol.
pub(super) fn flow(family: u8, attributes: &[u8]) -> Result<Option<Flow>, Malformed> {
    if ![NFPROTO_IPV4, NFPROTO_IPV6].contains(&family) {
        return Ok(None);
    }
    let (Some((protocol, original)), Some((_, reply))) =
        (ends(attributes, CTA_TUPLE_ORIG)?, ends(attributes, CTA_TUPLE_REPLY)?)
    else {
        return Ok(None);
    };
    let status = wire::find_u32(attributes, CTA_STATUS)?.unwrap_or(0);
    let open = match protocol {
        FlowProtocol::Udp => status & IPS_SEEN_REPLY != 0,
        FlowProtocol::Tcp => tcp_state(attributes)?.is_some_and(|state| TCP_OPEN.contains(&state)),
    };
    let mark = wire::find_u32(attributes, CTA_MARK)?.unwrap_or(0);
    Ok(Some(Flow { protocol, original, reply, mark, open }))
}

fn tcp_state(attributes: &[u8]) -> Result<Option<u8>, Malformed> {
    let Some(info) = wire::find(attributes, CTA_PROTOINFO)? else { return Ok(None) };
    let Some(tcp) = wire::find(info, CTA_PROTOINFO_TCP)? else { return Ok(None) };
    Ok(wire::find(tcp, CTA_PROTOINFO_TCP_STATE)?.and_then(|state| state.first().copied()))
}

fn ends(attributes: &[u8], kind: u16) -> Result<Option<(FlowProtocol, Ends)>, Malformed> {
    let Some(tuple) = wire::find(attributes, kind)? else { return Ok(None) };
    let (Some(addresses), Some(ports)) = (wire::find(tuple, CTA_TUPLE_IP)?, wire::find(tuple, CTA_TUPLE_PROTO)?) else {
        return Ok(None);
    };
    let number = wire::find(ports, CTA_PROTO_NUM)?.and_then(|number| number.first().copied());
    let Some(protocol) = number.and_then(FlowProtocol::of) else { return Ok(None) };
    let end = |v4, v6, port| -> Result<Option<SocketAddr>, Malformed> {
        let malformed = |_| Malformed { what: "connection" };
        let address: IpAddr = if let Some(octets) = wire::find(addresses, v4)? {
            <[u8; 4]>::try_from(octets).map_err(malformed)?.into()
        } else if let Some(octets) = wire::find(addresses, v6)? {
            <[u8; 16]>::try_from(octets).map_err(malformed)?.into()
        } else {
            return Ok(None);
        };
        let Some(port) = wire::find(ports, port)? else { return Ok(None) };
        let port = u16::from_be_bytes(port.try_into().map_err(malformed)?);
        Ok(Some(SocketAddr::new(address, port)))
    };
    let source = end(CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)?;
    let destination = end(CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)?;
    Ok(source.zip(destination).map(|(source, destination)| (protocol, Ends { source, destination })))
}
