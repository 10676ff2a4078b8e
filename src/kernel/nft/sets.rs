//! Encodes and decodes the definitions of sets and maps.
//!
//! The kernel only needs lengths and flags; the type numbers and the byte order in the user data are for the nft program,
//! which formats marks and addresses by them (nftables include/datatype.h, `enum datatypes`; libnftnl
//! include/libnftnl/udata.h, `enum nftnl_udata_set_types`). Not here: elements (`elements`).

use std::collections::BTreeMap;

use crate::core::state::nft::{DataType, KeyType, Set};

use super::uapi::*;
use super::wire::{self, Malformed, Writer};

/// `NFTNL_UDATA_SET_KEYBYTEORDER` and `NFTNL_UDATA_SET_DATABYTEORDER`.
const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;

/// nft's `enum byteorder`: none for a concatenated key, otherwise host or network order.
const NO_ORDER: u32 = 0;
const HOST_ORDER: u32 = 1;
const NETWORK_ORDER: u32 = 2;

/// The bits that one type takes in the number of a concatenated type, nft's `TYPE_BITS`.
const TYPE_BITS: u32 = 6;

const KEY_TYPES: [KeyType; 5] =
    [KeyType::Ipv4Addr, KeyType::Ipv6Addr, KeyType::Mark, KeyType::Ifname, KeyType::EtherAddr];
const VALUE_TYPES: [DataType; 3] = [DataType::Ipv4Addr, DataType::Ipv6Addr, DataType::Mark];

/// The keys that elements can have; only addresses can be ranges.
fn is_known_key(key: &[KeyType], interval: bool) -> bool {
    match key {
        [KeyType::Ipv4Addr | KeyType::Ipv6Addr] => true,
        [KeyType::Mark | KeyType::Ifname | KeyType::EtherAddr]
        | [KeyType::Mark, KeyType::Ipv4Addr | KeyType::Ipv6Addr] => !interval,
        _ => false,
    }
}

/// Number, length in bytes and byte order of a key's part.
fn key_numbers(key: KeyType) -> (u32, u32, u32) {
    match key {
        KeyType::Ipv4Addr => (7, 4, NETWORK_ORDER),
        KeyType::Ipv6Addr => (8, 16, NETWORK_ORDER),
        KeyType::Mark => (19, 4, HOST_ORDER),
        KeyType::Ifname => (41, 16, HOST_ORDER),
        KeyType::EtherAddr => (9, 6, NETWORK_ORDER),
    }
}

/// Number, length in bytes and byte order of a map's data.
fn data_numbers(data: DataType) -> (u32, u32, u32) {
    match data {
        DataType::Verdict => (NFT_DATA_VERDICT, 0, NO_ORDER),
        DataType::Ipv4Addr => key_numbers(KeyType::Ipv4Addr),
        DataType::Ipv6Addr => key_numbers(KeyType::Ipv6Addr),
        DataType::Mark => key_numbers(KeyType::Mark),
    }
}

fn joined_type(key: &[KeyType]) -> u32 {
    key.iter().fold(0, |joined, part| joined << TYPE_BITS | key_numbers(*part).0)
}

/// Writes a set's definition, behind its table. `id` must be unique within a batch. Returns `false` and writes nothing
/// for a set whose key type no element of Egret's can have.
pub(super) fn write_definition(message: &mut Writer, name: &str, set: &Set, id: u32) -> bool {
    if !is_known_key(&set.key, set.interval) {
        return false;
    }
    let flags = if set.interval { NFT_SET_INTERVAL } else { 0 } | if set.data.is_some() { NFT_SET_MAP } else { 0 };
    message.text(NFTA_SET_NAME, name);
    message.number(NFTA_SET_FLAGS, flags);
    message.number(NFTA_SET_KEY_TYPE, joined_type(&set.key));
    message.number(NFTA_SET_KEY_LEN, set.key.iter().map(|part| key_numbers(*part).1).sum());
    if let Some(data) = set.data {
        let (number, length, _) = data_numbers(data);
        message.number(NFTA_SET_DATA_TYPE, number);
        message.number(NFTA_SET_DATA_LEN, length);
    }
    message.number(NFTA_SET_ID, id);
    message.bytes(NFTA_SET_USERDATA, &user_data(set));
    true
}

/// nft's user data: type and length in one byte each, and the value in host order.
fn user_data(set: &Set) -> Vec<u8> {
    let order = match set.key.as_slice() {
        [key] => key_numbers(*key).2,
        _ => NO_ORDER,
    };
    let mut bytes = vec![KEY_BYTE_ORDER, 4];
    bytes.extend_from_slice(&order.to_ne_bytes());
    if let Some(data) = set.data {
        bytes.extend_from_slice(&[DATA_BYTE_ORDER, 4]);
        bytes.extend_from_slice(&data_numbers(data).2.to_ne_bytes());
    }
    bytes
}

/// The name and definition, without elements. A set of a kind that Egret never makes gets no key types, and so differs
/// from every desired set.
pub(super) fn read_definition(attributes: &[u8]) -> Result<(String, Set), Malformed> {
    let name = wire::find_text(attributes, NFTA_SET_NAME)?.ok_or(Malformed { what: "set without a name" })?;
    let unknown = Set { key: Vec::new(), data: None, interval: false, elements: BTreeMap::new() };
    Ok((name.to_owned(), known_definition(attributes)?.unwrap_or(unknown)))
}

fn known_definition(attributes: &[u8]) -> Result<Option<Set>, Malformed> {
    let flags = wire::find_u32(attributes, NFTA_SET_FLAGS)?.unwrap_or(0);
    let interval = flags & NFT_SET_INTERVAL != 0;
    let is_map = flags & NFT_SET_MAP != 0;
    let Some(key) = known_key(wire::find_u32(attributes, NFTA_SET_KEY_TYPE)?.unwrap_or(0)) else { return Ok(None) };
    if flags & !(NFT_SET_INTERVAL | NFT_SET_MAP) != 0 || !is_known_key(&key, interval) {
        return Ok(None);
    }
    let data = match wire::find_u32(attributes, NFTA_SET_DATA_TYPE)? {
        Some(number) if is_map => known_data(number),
        _ => None,
    };
    Ok((data.is_some() == is_map).then(|| Set { key, data, interval, elements: BTreeMap::new() }))
}

fn known_key(joined: u32) -> Option<Vec<KeyType>> {
    let mut key = Vec::new();
    let mut rest = joined;
    while rest != 0 {
        let number = rest & ((1 << TYPE_BITS) - 1);
        key.push(KEY_TYPES.into_iter().find(|known| key_numbers(*known).0 == number)?);
        rest >>= TYPE_BITS;
    }
    key.reverse();
    Some(key)
}

fn known_data(number: u32) -> Option<DataType> {
    match number {
        NFT_DATA_VERDICT => Some(DataType::Verdict),
        _ => VALUE_TYPES.into_iter().find(|known| data_numbers(*known).0 == number),
    }
}
