//! Parses addresses, CIDRs and interface names.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::core::address_class::{SpecialAddress, mapped_ipv4};
use crate::core::name::Interface;
use crate::core::policy::diagnostic_sink::{DiagnosticSink, Span, quoted};
use crate::core::policy::mapping_reader::{list, text};
use crate::core::policy::yaml::{MappingEntry, YamlNode};

/// A list of CIDRs with their locations. `noun` is used in messages: "destination".
pub(super) fn cidrs(entry: &MappingEntry, noun: &str, out: &mut DiagnosticSink<'_>) -> Vec<(IpNet, Span)> {
    let what = quoted(&entry.key);
    let mut found: Vec<(IpNet, Span)> = Vec::new();
    let mut seen = BTreeSet::new();
    for node in list(&entry.value, &what, out).unwrap_or(&[]) {
        let Some(net) = cidr(node, noun, out) else { continue };
        if seen.insert(net) {
            found.push((net, node.span));
        } else {
            out.warning(node.span, "duplicate-cidr", format!("{net} stands in {what} already")).hint("take one out");
        }
    }
    found
}

/// A network without host bits.
pub(super) fn cidr(node: &YamlNode, noun: &str, out: &mut DiagnosticSink<'_>) -> Option<IpNet> {
    let written = text(node, &format!("each {noun}"), out)?;
    let Some(net) = network(written) else {
        let hint = match (written.parse::<IpAddr>(), written.parse::<IpNet>()) {
            (Ok(address), _) => format!("{} for this one address", IpNet::from(address)),
            (_, Ok(net)) => format!("without leading zeros, which some programs read as octal: {net}"),
            _ => "an address and the length of its prefix, as in 10.0.4.0/24 or 2001:db8::/32".to_owned(),
        };
        out.error(node.span, "bad-cidr", format!("{} is no CIDR", quoted(written))).hint(hint);
        return None;
    };
    if net != net.trunc() {
        out.error(node.span, "host-bits", format!("{} {noun} has host bits set", article(noun)))
            .label(format!("/{} leaves no room for the {}", net.prefix_len(), host_part(net)))
            .hint(format!("{} for the network, {} for the host", net.trunc(), IpNet::from(net.addr())));
        return None;
    }
    if let Some(v4) = mapped_ipv4(net.addr()) {
        out.error(node.span, "bad-cidr", format!("{net} is an IPv4 network in the form of IPv6"))
            .hint(format!("{v4}/{}", net.prefix_len().saturating_sub(96)));
        return None;
    }
    Some(net)
}

/// A network as Go reads it (`netip.ParsePrefix`), and so Kubernetes: ipnet takes leading zeros as well.
fn network(written: &str) -> Option<IpNet> {
    let (address, length) = written.split_once('/')?;
    let is_plain = length == "0" || length.starts_with(|digit: char| ('1'..='9').contains(&digit));
    IpNet::new(address.parse().ok()?, length.parse().ok().filter(|_| is_plain)?).ok()
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The host bits of an address: `.7` of 10.0.4.7/24, `::7` of 2001:db8::7/32.
fn host_part(net: IpNet) -> String {
    match (net.addr(), net.hostmask()) {
        (IpAddr::V4(address), _) => {
            let whole_octets = usize::from(net.prefix_len() / 8);
            let rest: Vec<String> = address.octets()[whole_octets..].iter().map(ToString::to_string).collect();
            format!(".{}", rest.join("."))
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) => Ipv6Addr::from_bits(address.to_bits() & mask.to_bits()).to_string(),
        (address, IpAddr::V4(_)) => address.to_string(),
    }
}

/// An address that packets can leave with, or be sent to.
pub(super) fn address(written: &str, at: Span, what: &str, out: &mut DiagnosticSink<'_>) -> Option<IpAddr> {
    let Ok(address) = written.parse::<IpAddr>() else {
        let hint = written.split_once('/').map(|(address, _)| format!("an address without prefix: {address}"));
        out.error(at, "bad-address", format!("{what} is {}, which is no IP address", quoted(written))).hint_if(hint);
        return None;
    };
    if let Some(v4) = mapped_ipv4(address) {
        out.error(at, "bad-address", format!("{what} is {address}, an IPv4 address in the form of IPv6"))
            .hint(v4.to_string());
        return None;
    }
    let why = SpecialAddress::of(address).and_then(|special| match special {
        SpecialAddress::Nobody => Some("is no address of a host"),
        SpecialAddress::Loopback => Some("never leaves its node"),
        SpecialAddress::Multicast => Some("is a multicast group"),
        // A router may have one.
        SpecialAddress::LinkLocal => None,
    });
    if let Some(why) = why {
        out.error(at, "bad-address", format!("{what} is {address}, which {why}"));
        return None;
    }
    Some(address)
}

/// The name of an interface.
pub(super) fn interface(node: &YamlNode, out: &mut DiagnosticSink<'_>) -> Option<Interface> {
    let written = text(node, "`interface`", out)?;
    match Interface::parse(written) {
        Ok(name) => Some(name),
        Err(error) => {
            out.error(node.span, "bad-interface", format!("{} is no name of an interface", quoted(written)))
                .hint(error.to_string());
            None
        }
    }
}
