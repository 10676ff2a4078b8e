//! Rules of Go's `net/netip` and of Kubernetes' `apimachinery/pkg/util/validation`, as their documentation has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::apiserver::schema::fits;

/// `netip.ParseAddr`: the address, and its zone.
pub(crate) fn parse_addr(text: &str) -> Option<(IpAddr, Option<&str>)> {
    if !text.contains(':') {
        return Some((IpAddr::V4(ipv4(text)?), None));
    }
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    if zone == Some("") {
        return None;
    }
    Some((IpAddr::V6(ipv6(address)?), zone))
}

/// Four decimal numbers up to 255, without leading zeros.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let octet = |part: &str| {
        let fits = part == "0" || (!part.starts_with('0') && part.bytes().all(|digit| digit.is_ascii_digit()));
        part.parse::<u8>().ok().filter(|_| fits)
    };
    let octets: Vec<u8> = text.split('.').map(octet).collect::<Option<_>>()?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?))
}

/// Eight groups of one to four hexadecimal digits; `::` stands for one or more of zeros, an IPv4 address for the last two.
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let groups = |part: &str, last: bool| -> Option<Vec<u16>> {
        let mut found = Vec::new();
        let parts: Vec<&str> = if part.is_empty() { Vec::new() } else { part.split(':').collect() };
        for (index, group) in parts.iter().enumerate() {
            if group.contains('.') && last && index + 1 == parts.len() {
                let [a, b, c, d] = ipv4(group)?.octets();
                found.extend([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]);
            } else {
                let fits = (1..=4).contains(&group.len()) && group.bytes().all(|digit| digit.is_ascii_hexdigit());
                found.push(u16::from_str_radix(group, 16).ok().filter(|_| fits)?);
            }
        }
        Some(found)
    };
    let all = match text.split_once("::") {
        Some((before, after)) => {
            let (before, after) = (groups(before, false)?, groups(after, true)?);
            let zeros = 8_usize.checked_sub(before.len() + after.len()).filter(|zeros| *zeros > 0)?;
            [before, vec![0; zeros], after].concat()
        }
        None => groups(text, true)?,
    };
    Some(Ipv6Addr::from(<[u16; 8]>::try_from(all).ok()?))
}

/// `netip.ParsePrefix`: no zone; the length has no sign and no leading zero. Host bits stay.
pub(crate) fn parse_prefix(text: &str) -> Option<IpNet> {
    let (address, bits) = text.rsplit_once('/')?;
    let (address, zone) = parse_addr(address)?;
    let is_length = bits == "0" || fits("^[1-9][0-9]*$", bits);
    let bits = bits.parse().ok().filter(|_| is_length && zone.is_none())?;
    IpNet::new(address, bits).ok()
}

/// `validation.IsDNS1123Subdomain`
pub(crate) fn is_subdomain(text: &str) -> bool {
    let pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
    text.len() <= 253 && fits(pattern, text)
}

/// `validation.IsQualifiedName`: what a label's key has to be.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let (prefix, name) = match parts[..] {
        [name] => (None, name),
        [prefix, name] => (Some(prefix), name),
        _ => return false,
    };
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// `validation.IsValidLabelValue`
pub(crate) fn is_label_value(text: &str) -> bool {
    let pattern = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
    text.len() <= 63 && fits(pattern, text)
}
