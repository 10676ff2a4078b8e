//! The form of a record: segments that can each be read alone, of frames that can each be left out.
//!
//! A frame is a length of two bytes, a kind of one byte, and a body; numbers are in network order. Texts stand in frames of their own,
//! once in each segment, and others refer to them by number. A segment may end in the middle of a frame: its process was killed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use jiff::Timestamp;

use super::{Owner, RecordEntry, Translation};
use crate::core::transfer::FlowProtocol;

const TEXT: u8 = 1;
const BEGAN: u8 = 2;
const BEFORE: u8 = 3;
const ENDED: u8 = 4;
const LOST: u8 = 5;
const STARTED: u8 = 6;
/// Longer texts are cut.
const LONGEST_TEXT: usize = 4096;

/// Writes a segment.
#[derive(Debug, Default)]
pub struct SegmentWriter {
    texts: HashMap<String, u32>,
}

impl SegmentWriter {
    /// Appends an entry.
    pub fn write(&mut self, entry: &RecordEntry, to: &mut Vec<u8>) {
        match entry {
            RecordEntry::Began { at, before, translation, owner } => {
                let number = self.text(&owner_text(owner), to);
                let mut body = time(*at);
                ends(translation, &mut body);
                socket(translation.opened_by, &mut body);
                body.extend(number.to_be_bytes());
                frame(if *before { BEFORE } else { BEGAN }, &body, to);
            }
            RecordEntry::Ended { at, translation } => {
                let mut body = time(*at);
                ends(translation, &mut body);
                frame(ENDED, &body, to);
            }
            RecordEntry::Lost { at } => frame(LOST, &time(*at), to),
            RecordEntry::Started { at } => frame(STARTED, &time(*at), to),
        }
    }

    fn text(&mut self, text: &str, to: &mut Vec<u8>) -> u32 {
        if let Some(number) = self.texts.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.insert(text.to_owned(), number);
        frame(TEXT, &text.as_bytes()[..text.floor_char_boundary(LONGEST_TEXT)], to);
        number
    }
}

/// Reads a segment's entries in order, as far as they are whole.
pub fn read(mut bytes: &[u8], mut each: impl FnMut(RecordEntry)) {
    let mut texts: Vec<Owner> = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([header[0], header[1]]));
        let Some((body, behind)) = rest.split_at_checked(length) else { return };
        bytes = behind;
        if header[2] == TEXT {
            texts.push(owner_of(&String::from_utf8_lossy(body)));
        } else if let Some(entry) = entry(header[2], body, &texts) {
            each(entry);
        }
    }
}

fn entry(kind: u8, body: &[u8], texts: &[Owner]) -> Option<RecordEntry> {
    let (at, rest) = body.split_first_chunk::<8>()?;
    let at = Timestamp::from_millisecond(i64::from_be_bytes(*at)).ok()?;
    match kind {
        LOST => Some(RecordEntry::Lost { at }),
        STARTED => Some(RecordEntry::Started { at }),
        BEGAN | BEFORE | ENDED => {
            let ([protocol], rest) = rest.split_first_chunk::<1>()?;
            let protocol = FlowProtocol::of(*protocol)?;
            let (destination, rest) = read_socket(rest)?;
            let (translated, rest) = read_socket(rest)?;
            if kind == ENDED {
                let opened_by = translated;
                return Some(RecordEntry::Ended {
                    at,
                    translation: Translation { protocol, opened_by, destination, translated },
                });
            }
            let (opened_by, rest) = read_socket(rest)?;
            let number = u32::from_be_bytes(rest.try_into().ok()?);
            let owner = texts.get(usize::try_from(number).ok()?)?.clone();
            let translation = Translation { protocol, opened_by, destination, translated };
            Some(RecordEntry::Began { at, before: kind == BEFORE, translation, owner })
        }
        _ => None,
    }
}

fn frame(kind: u8, body: &[u8], to: &mut Vec<u8>) {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    to.extend(length.to_be_bytes());
    to.push(kind);
    to.extend(&body[..usize::from(length)]);
}

fn time(at: Timestamp) -> Vec<u8> {
    at.as_millisecond().to_be_bytes().to_vec()
}

fn ends(translation: &Translation, to: &mut Vec<u8>) {
    to.push(translation.protocol.number());
    socket(translation.destination, to);
    socket(translation.translated, to);
}

fn socket(address: SocketAddr, to: &mut Vec<u8>) {
    match address.ip() {
        IpAddr::V4(v4) => {
            to.push(4);
            to.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            to.push(6);
            to.extend(v6.octets());
        }
    }
    to.extend(address.port().to_be_bytes());
}

fn read_socket(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let ([family], rest) = bytes.split_first_chunk::<1>()?;
    let (address, rest): (IpAddr, &[u8]) = match family {
        4 => rest.split_first_chunk::<4>().map(|(octets, rest)| (Ipv4Addr::from(*octets).into(), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(octets, rest)| (Ipv6Addr::from(*octets).into(), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    Some((SocketAddr::new(address, u16::from_be_bytes(*port)), rest))
}

/// One line for each part; no name has a line break.
fn owner_text(owner: &Owner) -> String {
    [
        &[owner.pod.as_str(), &owner.node, &owner.exit],
        owner.policies.iter().map(String::as_str).collect::<Vec<_>>().as_slice(),
    ]
    .concat()
    .join("\n")
}

fn owner_of(text: &str) -> Owner {
    let mut lines = text.split('\n').map(str::to_owned);
    let mut next = || lines.next().unwrap_or_default();
    let (pod, node, exit) = (next(), next(), next());
    Owner { pod, node, exit, policies: lines.collect() }
}
