//! Checks `egret.dev/v1alpha1 EgressPool`, and reads ranges of addresses.
//!
//! Not here: what policies ask of pools (`catalogue::pools`).

use super::CheckedPool;
use super::address::address;
use crate::core::address_class::is_link_local;
use crate::core::cidr::{AddressRange, RangeSet};
use crate::core::policy::diagnostic_sink::{DiagnosticSink, Span, quoted};
use crate::core::policy::document::{Document, POOL_SPEC, ROOT};
use crate::core::policy::mapping_reader::{MappingReader, list, text};
use crate::core::policy::pool::{EgressPool, LARGEST, size};
use crate::core::policy::spans::PoolSpans;
use crate::core::policy::yaml::{MappingEntry, YamlNode};

pub(super) fn read(document: &Document<'_>, out: &mut DiagnosticSink<'_>) -> Option<CheckedPool> {
    let root = MappingReader::read(document.root, "an EgressPool", document.root.span.head(), ROOT, out)?;
    let spec = root.required("spec", out)?;
    let before = out.errors();
    let spec = MappingReader::read(&spec.value, "spec", spec.key_span, POOL_SPEC, out)?;
    let written = spec.required("addresses", out)?;
    let addresses = ranges(written, out);
    let reserved = spec.get("reserved").map(|entry| ranges(entry, out)).unwrap_or_default();
    let read = out.errors() == before;
    if addresses.is_empty() && read {
        out.error(written.key_span, "pool-empty", "`addresses` is empty: no policy gets an address")
            .hint("ranges, networks and single addresses: [10.0.3.40-10.0.3.47, 10.0.3.60]");
    }
    let all: RangeSet = addresses.iter().map(|(range, _)| *range).collect();
    let total = all.ranges().iter().fold(0_u128, |sum, range| sum.saturating_add(size(*range)));
    if total > LARGEST as u128 {
        out.error(
            written.key_span,
            "pool-too-large",
            format!("the pool has {total} addresses; {LARGEST} are the most"),
        )
        .hint("name the addresses that gateways really have, or that the network leads to them");
    }
    for (range, at) in &reserved {
        if !meets(&all, *range) && read {
            out.warning(
                *at,
                "idle-reservation",
                format!("{range} is outside of the pool: reserving it changes nothing"),
            )
            .hint("compare it with `addresses`, or take it out");
        }
    }
    let (addresses, places): (Vec<AddressRange>, Vec<Span>) = addresses.into_iter().unzip();
    let reserved = reserved.into_iter().map(|(range, _)| range).collect();
    let origin = document.origin.clone();
    let pool = EgressPool { name: document.name.clone()?, addresses, reserved, origin };
    if out.errors() == before && pool.usable().is_empty() {
        out.error(written.key_span, "pool-empty", "every address of the pool is reserved: no policy gets one");
    }
    Some(CheckedPool { pool, spans: PoolSpans { name: document.name_span, addresses: places } })
}

fn meets(set: &RangeSet, range: AddressRange) -> bool {
    set.first_within(range).is_some()
}

/// A list of ranges, networks and single addresses, with their locations.
fn ranges(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Vec<(AddressRange, Span)> {
    let what = quoted(&entry.key);
    let mut found: Vec<(AddressRange, Span)> = Vec::new();
    for node in list(&entry.value, &what, out).unwrap_or(&[]) {
        let Some(range) = range(node, out) else { continue };
        if let Some((other, _)) =
            found.iter().find(|(other, _)| other.first() <= range.last() && range.first() <= other.last())
        {
            out.warning(
                node.span,
                "duplicate-address",
                format!("{range} and {other} in {what} have addresses in common"),
            )
            .hint("take one out, or make it shorter");
        }
        found.push((range, node.span));
    }
    found
}

/// `10.0.3.40-10.0.3.47`, `10.0.3.40/29`, `10.0.3.60`.
fn range(node: &YamlNode, out: &mut DiagnosticSink<'_>) -> Option<AddressRange> {
    let written = text(node, "a range of addresses", out)?;
    let at = node.span;
    let range = if let Some((first, last)) = written.split_once('-') {
        let first = address(first.trim(), at, "the first address", out)?;
        let last = address(last.trim(), at, "the last address", out)?;
        let range = AddressRange::new(first, last);
        if range.is_none() {
            let hint =
                if first.is_ipv4() == last.is_ipv4() { format!("{last}-{first}") } else { "two entries".to_owned() };
            out.error(at, "bad-range", format!("{} is no range of addresses", quoted(written))).hint(hint);
        }
        range?
    } else if written.contains('/') {
        let net = super::address::cidr(node, "range of addresses", out)?;
        // Its ends have to be addresses of hosts as any other.
        address(&net.network().to_string(), at, "the first address", out)?;
        address(&net.broadcast().to_string(), at, "the last address", out)?;
        AddressRange::from(net)
    } else {
        AddressRange::from(address(written, at, "an address of the pool", out)?)
    };
    if is_link_local(range.first()) || is_link_local(range.last()) {
        let message = format!("{range} has addresses that no router forwards: they live on one link");
        out.error(at, "bad-address", message);
        return None;
    }
    Some(range)
}
