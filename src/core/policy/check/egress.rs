//! Reads how a gateway entry says with which address packets leave: `interface`, `egressIP`, `egressIPs` or `egressPool`.
//!
//! Not here: whether the pool exists (`catalogue::pools`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{address, interface};
use crate::core::address_class::is_link_local;
use crate::core::policy::diagnostic_sink::{DiagnosticSink, Span, quoted};
use crate::core::policy::document::EGRESS_POOL;
use crate::core::policy::mapping_reader::{MappingReader, integer, list, text};
use crate::core::policy::yaml::{MappingEntry, YamlValue};
use crate::core::policy::{Egress, ObjectName, PolicyKind, PoolRequest};

/// What an entry says, and where.
pub(super) struct EgressEntry {
    /// An exit each. Empty after an error.
    pub(super) egresses: Vec<Egress>,
    /// The value, or its key where that says more.
    pub(super) at: Span,
}

/// Whose entry it is.
#[derive(Clone, Copy)]
pub(super) struct EntryOf<'a> {
    pub(super) kind: PolicyKind,
    /// The policy's.
    pub(super) destinations: &'a [IpNet],
    /// From the cluster, where an older version may have accepted it.
    pub(super) published: bool,
}

/// Reads the fields of an entry, of which one may be given.
pub(super) fn read(object: &MappingReader<'_>, at: Span, of: EntryOf<'_>, out: &mut DiagnosticSink<'_>) -> EgressEntry {
    let fields = ["interface", "egressIP", "egressIPs", "egressPool"];
    let given: Vec<&MappingEntry> = fields.into_iter().filter_map(|field| set(object, field, of.kind, out)).collect();
    let mut entries = given.iter().map(|entry| field(entry, of, out));
    let Some(first) = entries.next() else { return EgressEntry { egresses: vec![Egress::DefaultRoute], at } };
    // Each is read, so that all mistakes are reported.
    entries.for_each(drop);
    let [one, other, ..] = given.as_slice() else { return first };
    let (code, hint) = match (one.key.as_str(), other.key.as_str()) {
        ("interface", "egressIP") => {
            ("interface-and-address", "keep egressIP for one fixed address, or interface for whatever address it has")
        }
        _ => ("two-egresses", "keep one; another gateway entry may have the other"),
    };
    out.error(other.key_span, code, format!("{} and {} are both given", one.key, other.key)).hint(hint);
    EgressEntry { egresses: Vec::new(), at }
}

fn field(entry: &MappingEntry, of: EntryOf<'_>, out: &mut DiagnosticSink<'_>) -> EgressEntry {
    let at = entry.value.span;
    match entry.key.as_str() {
        "interface" => {
            EgressEntry { egresses: interface(&entry.value, out).map(Egress::Interface).into_iter().collect(), at }
        }
        "egressIP" => {
            let written = text(&entry.value, "`egressIP`", out);
            let found = written.and_then(|written| egress_address(written, at, of, out));
            check_family(found.as_slice(), at, of.destinations, out);
            EgressEntry { egresses: found.map(Egress::Address).into_iter().collect(), at }
        }
        "egressIPs" => EgressEntry { egresses: several(entry, of, out), at: entry.key_span },
        _ => EgressEntry { egresses: pool(entry, out).map(Egress::Pool).into_iter().collect(), at },
    }
}

/// A field with a value. Cilium takes an empty text for none, and templates leave such texts behind.
fn set<'n>(
    object: &MappingReader<'n>,
    name: &str,
    kind: PolicyKind,
    out: &mut DiagnosticSink<'_>,
) -> Option<&'n MappingEntry> {
    let entry = object.get(name)?;
    let is_empty = matches!(&entry.value.value, YamlValue::Scalar(scalar) if scalar.text.is_empty());
    if kind != PolicyKind::Cilium || !is_empty {
        return Some(entry);
    }
    out.warning(entry.value.span, "empty-value", format!("{} is empty: it counts as missing", quoted(name)))
        .hint("take it out; without both, the address is that of the interface with the default route");
    None
}

fn egress_address(written: &str, at: Span, of: EntryOf<'_>, out: &mut DiagnosticSink<'_>) -> Option<IpAddr> {
    let found = address(written, at, "egressIP", out)?;
    if is_link_local(found) && !of.published {
        out.error(at, "bad-address", format!("egressIP is {found}, which no router forwards: it lives on one link"));
    }
    Some(found)
}

/// `egressIPs`: the first address of each family is one exit's, then the second.
fn several(entry: &MappingEntry, of: EntryOf<'_>, out: &mut DiagnosticSink<'_>) -> Vec<Egress> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let errors = out.errors();
    for node in list(&entry.value, "`egressIPs`", out).unwrap_or(&[]) {
        let written = text(node, "an entry of egressIPs", out);
        let Some(address) = written.and_then(|written| egress_address(written, node.span, of, out)) else { continue };
        if seen.insert(address) {
            found.push(address);
        } else {
            out.error(node.span, "duplicate-address", format!("{address} stands in `egressIPs` already"))
                .hint("take one out");
        }
    }
    if found.is_empty() && out.errors() == errors {
        out.error(entry.key_span, "no-address", "`egressIPs` is empty: no packet could leave")
            .hint("egressIPs: [10.0.3.40, 10.0.3.41]");
    }
    check_family(&found, entry.key_span, of.destinations, out);
    let of_family = |is_ipv4: bool| found.iter().filter(|address| address.is_ipv4() == is_ipv4).count();
    let (v4, v6) = (of_family(true), of_family(false));
    if v4 > 0 && v6 > 0 && v4 != v6 {
        let message =
            format!("`egressIPs` has {v4} IPv4 and {v6} IPv6 addresses: some members would have only one family");
        out.error(entry.key_span, "unpaired-addresses", message).hint("as many of one family as of the other");
    }
    Egress::paired(found)
}

/// `egressPool: {name: outpost, addresses: 2}`
fn pool(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Option<PoolRequest> {
    /// With an exit for each, a node has marks for no more.
    const MOST: i64 = 64;
    let object = MappingReader::read(&entry.value, "egressPool", entry.key_span, EGRESS_POOL, out)?;
    let addresses = match object.get("addresses") {
        Some(entry) => {
            integer(&entry.value, "`addresses`", 1..=MOST, out).and_then(|count| usize::try_from(count).ok())
        }
        None => Some(1),
    };
    let name = object.required("name", out)?;
    let written = text(&name.value, "`name`", out)?;
    match ObjectName::parse(written) {
        Ok(pool) => Some(PoolRequest { pool, addresses: addresses? }),
        Err(error) => {
            out.error(name.value.span, "bad-name", format!("{} is no name", quoted(written))).hint(error.to_string());
            None
        }
    }
}

/// Members' packets of the other family would have no address to leave with, and be dropped.
fn check_family(egress: &[IpAddr], at: Span, destinations: &[IpNet], out: &mut DiagnosticSink<'_>) {
    let Some(first) = egress.first() else { return };
    let lacks = |net: &&IpNet| egress.iter().all(|address| address.is_ipv4() != net.addr().is_ipv4());
    let other: Vec<String> = destinations.iter().filter(lacks).map(ToString::to_string).take(3).collect();
    if !other.is_empty() {
        let (has, lacks) = if first.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        out.warning(at, "family-mismatch", format!("packets to {} have no address to leave with", other.join(", ")))
            .label(format!("this is {has}"))
            .hint(format!("a second gateway entry with an {lacks} address, or an interface that has both"));
    }
}
