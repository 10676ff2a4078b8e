//! Encodes and decodes the elements of sets and maps, and ranges as the kernel's interval sets store them.
//!
//! An interval is two elements: its first address, and one flagged as an end at the address behind its last. An interval
//! that reaches the top of the address space has no end, because there is no address behind it. Adjacent intervals have
//! an end and a start at the same address, the end first. Not here: set definitions (`sets`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::core::state::net::Mac;
use crate::core::state::nft::{DataType, ElementData, ElementKey, KeyType, Set};

use super::expression::{read_verdict, write_verdict};
use super::statement::{interface_bytes, interface_name, octets};
use super::uapi::*;
use super::wire::{self, Malformed, Writer};

/// One element in netlink form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RawElement {
    key: Vec<u8>,
    end: bool,
    data: Option<ElementData>,
}

/// The netlink elements of one element of Egret's: one, or two for a range. None if the key cannot be represented: an
/// interface name that is too long, or a range whose ends are in the wrong order or of two families.
pub(super) fn raw_elements(key: &ElementKey, data: Option<&ElementData>) -> Option<Vec<RawElement>> {
    let start = |key| RawElement { key, end: false, data: data.cloned() };
    match key {
        ElementKey::Range(first, last) => {
            if first > last || first.is_ipv4() != last.is_ipv4() {
                return None;
            }
            let mut elements = vec![start(octets(*first))];
            if let Some(behind) = successor(*last) {
                elements.push(RawElement { key: octets(behind), end: true, data: None });
            }
            Some(elements)
        }
        ElementKey::Address(address) => Some(vec![start(octets(*address))]),
        ElementKey::Mark(mark) => Some(vec![start(mark.to_ne_bytes().to_vec())]),
        ElementKey::MarkAddress(mark, address) => {
            Some(vec![start([&mark.to_ne_bytes(), &octets(*address)[..]].concat())])
        }
        ElementKey::Interface(name) => Some(vec![start(interface_bytes(name)?.to_vec())]),
        ElementKey::Mac(mac) => Some(vec![start(mac.0.to_vec())]),
    }
}

impl RawElement {
    /// Writes `NFTA_LIST_ELEM { key, flags, data }`.
    pub(super) fn write(&self, list: &mut Writer) {
        list.nested(NFTA_LIST_ELEM, |element| {
            if self.end {
                element.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            }
            element.nested(NFTA_SET_ELEM_KEY, |key| key.bytes(NFTA_DATA_VALUE, &self.key));
            if let Some(data) = &self.data {
                element.nested(NFTA_SET_ELEM_DATA, |nested| match data {
                    ElementData::Verdict(verdict) => write_verdict(nested, verdict),
                    ElementData::Address(address) => nested.bytes(NFTA_DATA_VALUE, &octets(*address)),
                    ElementData::Mark(mark) => nested.bytes(NFTA_DATA_VALUE, &mark.to_ne_bytes()),
                });
            }
        });
    }

    /// Decodes an element of a set with this definition; none if any part of it is unknown to Egret.
    pub(super) fn read(element: &[u8], set: &Set) -> Result<Option<Self>, Malformed> {
        let end = match wire::find_u32(element, NFTA_SET_ELEM_FLAGS)?.unwrap_or(0) {
            0 => false,
            NFT_SET_ELEM_INTERVAL_END if set.interval => true,
            _ => return Ok(None),
        };
        let Some(key) = wire::find(element, NFTA_SET_ELEM_KEY)? else { return Ok(None) };
        let Some(key) = wire::find(key, NFTA_DATA_VALUE)? else { return Ok(None) };
        let data = match (set.data, wire::find(element, NFTA_SET_ELEM_DATA)?) {
            (Some(kind), Some(data)) if !end => match read_data(kind, data)? {
                Some(data) => Some(data),
                None => return Ok(None),
            },
            (Some(_), _) if !end => return Ok(None),
            _ => None,
        };
        Ok(Some(Self { key: key.to_vec(), end, data }))
    }

    /// Whether it ends an interval.
    pub(super) fn is_end(element: &[u8]) -> bool {
        wire::find_u32(element, NFTA_SET_ELEM_FLAGS) == Ok(Some(NFT_SET_ELEM_INTERVAL_END))
    }
}

fn read_data(kind: DataType, data: &[u8]) -> Result<Option<ElementData>, Malformed> {
    if kind == DataType::Verdict {
        return Ok(read_verdict(data)?.map(ElementData::Verdict));
    }
    let Some(value) = wire::find(data, NFTA_DATA_VALUE)? else { return Ok(None) };
    Ok(match kind {
        DataType::Mark => wire::host_u32(value).ok().map(ElementData::Mark),
        DataType::Ipv4Addr => address(KeyType::Ipv4Addr, value).map(ElementData::Address),
        DataType::Ipv6Addr => address(KeyType::Ipv6Addr, value).map(ElementData::Address),
        DataType::Verdict => None,
    })
}

/// Why dumped elements do not form a set of Egret's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// A key that does not match the set's definition.
    Unknown,
    /// An element occurs twice, so another one is missing.
    ///
    /// The kernel dumps a hash set in pieces and resumes by counting (net/netfilter/nft_set_hash.c, `nft_rhash_walk`).
    /// While it still grows the table, in the background for some time after many elements were added, positions change:
    /// the number is right, the elements are not, and no flag reports it. Measured on Linux 6.18: 2,850 of 100,000.
    Torn,
}

/// Adds a whole set's elements to it.
pub(super) fn fill(set: &mut Set, raw: Vec<RawElement>) -> Result<(), Misfit> {
    if set.interval {
        return fill_ranges(set, raw);
    }
    for RawElement { key, data, .. } in raw {
        let key = read_key(&set.key, &key).ok_or(Misfit::Unknown)?;
        if set.elements.insert(key, data).is_some() {
            return Err(Misfit::Torn);
        }
    }
    Ok(())
}

/// Pairs each start with the end behind it, in address order, an end before a start at the same address.
fn fill_ranges(set: &mut Set, raw: Vec<RawElement>) -> Result<(), Misfit> {
    let [kind] = set.key.as_slice() else { return Err(Misfit::Unknown) };
    let mut borders = Vec::with_capacity(raw.len());
    for RawElement { key, end, data } in raw {
        let address = address(*kind, &key).ok_or(Misfit::Unknown)?;
        borders.push((address, !end, data));
    }
    borders.sort_by_key(|(address, start, _)| (*address, *start));
    if borders.windows(2).any(|pair| matches!(pair, [(a, c, _), (b, d, _)] if (a, c) == (b, d))) {
        return Err(Misfit::Torn);
    }
    let mut open: Option<(IpAddr, Option<ElementData>)> = None;
    for (address, start, data) in borders {
        // An end without a start is nft's own marker for the space below the first interval.
        if let (Some((first, data)), Some(last)) = (open.take(), predecessor(address)) {
            set.elements.insert(ElementKey::Range(first, last), data);
        }
        if start {
            open = Some((address, data));
        }
    }
    if let Some((first, data)) = open {
        let last = match first {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(u128::MAX)),
        };
        set.elements.insert(ElementKey::Range(first, last), data);
    }
    Ok(())
}

fn read_key(types: &[KeyType], bytes: &[u8]) -> Option<ElementKey> {
    match types {
        [KeyType::Mark] => wire::host_u32(bytes).ok().map(ElementKey::Mark),
        [KeyType::Ifname] => interface_name(bytes).map(ElementKey::Interface),
        [KeyType::EtherAddr] => <[u8; 6]>::try_from(bytes).ok().map(|mac| ElementKey::Mac(Mac(mac))),
        [kind] => address(*kind, bytes).map(ElementKey::Address),
        [KeyType::Mark, kind] => {
            let (mark, rest) = bytes.split_at_checked(4)?;
            Some(ElementKey::MarkAddress(wire::host_u32(mark).ok()?, address(*kind, rest)?))
        }
        _ => None,
    }
}

fn address(kind: KeyType, bytes: &[u8]) -> Option<IpAddr> {
    match kind {
        KeyType::Ipv4Addr => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        KeyType::Ipv6Addr => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        KeyType::Mark | KeyType::Ifname | KeyType::EtherAddr => None,
    }
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

fn predecessor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_sub(1).map(|before| Ipv4Addr::from(before).into()),
        IpAddr::V6(address) => u128::from(address).checked_sub(1).map(|before| Ipv6Addr::from(before).into()),
    }
}
