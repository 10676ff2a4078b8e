//! The two messages of a transfer: connections offered to a gateway, and its answer.
//!
//! Each is one datagram. Numbers are in network order:
//!
//! ```text
//! offer    "egt1" 1  transfer:4 number:2  exit's MAC:6  then for each connection  protocol:1 port:2 port there:2 address there:4 or 16
//! answer   "egt1" 2  transfer:4 number:2  entered:2 known:2 refused:2
//! ```
//!
//! Both ends are of one family, and so are the connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ExitConnection, FlowProtocol};
use crate::core::state::net::Mac;
use crate::core::state::nft::AddressFamily;

const MAGIC: &[u8; 4] = b"egt1";
const OFFER: u8 = 1;
const ANSWER: u8 = 2;
const OFFER_HEADER: usize = 17;
/// Fits into the smallest tunnel.
const LARGEST: usize = 1000;

/// Some connections of an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The transfer that it is a part of; the source's choice.
    pub transfer: u32,
    /// Which part.
    pub number: u16,
    /// The exit.
    pub exit: Mac,
    /// The connections.
    pub connections: Vec<ExitConnection>,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    /// As in the offer.
    pub transfer: u32,
    /// As in the offer.
    pub number: u16,
    /// Connections that were entered.
    pub entered: u16,
    /// Connections that the gateway knows already.
    pub known: u16,
    /// Connections that it refused: their port is taken, or no policy names where they lead.
    pub refused: u16,
}

/// How many connections an offer holds.
pub fn capacity(family: AddressFamily) -> usize {
    (LARGEST - OFFER_HEADER) / length(family)
}

fn length(family: AddressFamily) -> usize {
    match family {
        AddressFamily::V4 => 9,
        AddressFamily::V6 => 21,
    }
}

impl Offer {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = header(OFFER, self.transfer, self.number);
        bytes.extend(self.exit.0);
        for connection in &self.connections {
            bytes.push(connection.protocol.number());
            bytes.extend(connection.port.to_be_bytes());
            bytes.extend(connection.destination.port().to_be_bytes());
            match connection.destination.ip() {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes
    }

    /// Reads one; none: it is not a whole one.
    pub fn decode(bytes: &[u8], family: AddressFamily) -> Option<Self> {
        let (transfer, number, rest) = read_header(bytes, OFFER)?;
        let (exit, rest) = rest.split_first_chunk::<6>()?;
        let (whole, []) = (rest.chunks_exact(length(family)), rest.chunks_exact(length(family)).remainder()) else {
            return None;
        };
        let connections = whole.map(connection).collect::<Option<Vec<_>>>()?;
        Some(Self { transfer, number, exit: Mac(*exit), connections })
    }
}

fn connection(bytes: &[u8]) -> Option<ExitConnection> {
    let (&[protocol, port0, port1, there0, there1], address) = bytes.split_first_chunk::<5>()?;
    let address: IpAddr = match address.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into(),
    };
    let destination = SocketAddr::new(address, u16::from_be_bytes([there0, there1]));
    let port = u16::from_be_bytes([port0, port1]);
    Some(ExitConnection { protocol: FlowProtocol::of(protocol)?, port, destination })
}

impl Answer {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = header(ANSWER, self.transfer, self.number);
        for count in [self.entered, self.known, self.refused] {
            bytes.extend(count.to_be_bytes());
        }
        bytes
    }

    /// Reads one; none: it is not a whole one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (transfer, number, rest) = read_header(bytes, ANSWER)?;
        let (entered, rest) = rest.split_first_chunk::<2>()?;
        let (known, rest) = rest.split_first_chunk::<2>()?;
        let refused: &[u8; 2] = rest.try_into().ok()?;
        let [entered, known, refused] = [entered, known, refused].map(|count| u16::from_be_bytes(*count));
        Some(Self { transfer, number, entered, known, refused })
    }
}

fn header(kind: u8, transfer: u32, number: u16) -> Vec<u8> {
    [&MAGIC[..], &[kind], &transfer.to_be_bytes(), &number.to_be_bytes()].concat()
}

fn read_header(bytes: &[u8], kind: u8) -> Option<(u32, u16, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(&[kind])?;
    let (transfer, rest) = rest.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<2>()?;
    Some((u32::from_be_bytes(*transfer), u16::from_be_bytes(*number), rest))
}
