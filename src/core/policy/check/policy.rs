//! Checks egress policies of both kinds: the same `spec`, with Egret's additions as fields or as annotations.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use super::CheckedPolicy;
use super::address::{address, cidrs};
use super::assign::{self, without_address};
use super::egress::{self, EntryOf};
use super::selector::{members, nodes};
use crate::core::address_class::is_no_host;
use crate::core::policy::diagnostic_sink::{DiagnosticSink, Span, quoted};
use crate::core::policy::document::{
    ANNOTATION_PREFIX, CILIUM_GATEWAY, CILIUM_SPEC, Document, EGRET_GATEWAY, EGRET_SPEC, PUBLISHED, ROOT, SUSPEND,
};
use crate::core::policy::mapping_reader::{
    MappingReader, choice, first_line, in_range, integer, list, text, wrong_type,
};
use crate::core::policy::spans::PolicySpans;
use crate::core::policy::yaml::{MappingEntry, YamlNode, YamlValue};
use crate::core::policy::{
    Assign, Egress, ExistingConnections, GatewaySpec, MemberSelector, OnNoGateway, Policy, PolicyId, PolicyKind,
    Suspend,
};

/// Values of `onNoGateway`.
pub(in crate::core::policy) const ON_NO_GATEWAY: [(&str, OnNoGateway); 2] =
    [("Drop", OnNoGateway::Drop), ("Passthrough", OnNoGateway::Passthrough)];
/// Values of `existingConnections`.
pub(in crate::core::policy) const EXISTING_CONNECTIONS: [(&str, ExistingConnections); 2] =
    [("Keep", ExistingConnections::Keep), ("Reset", ExistingConnections::Reset)];

/// A document's values beyond Cilium's fields.
#[derive(Default)]
struct Additions {
    priority: i32,
    on_no_gateway: Option<OnNoGateway>,
    existing_connections: Option<ExistingConnections>,
    next_hops: Vec<(IpAddr, Span)>,
    assign: Option<(Assign, Span)>,
    /// Whether the document comes from the cluster, where an older version may have accepted it: the gateway then reports
    /// what cannot work, so that one such policy does not keep an agent from applying all others.
    published: bool,
    suspend: Option<Suspend>,
    suspend_at: Option<Span>,
}

pub(super) fn read(document: &Document<'_>, kind: PolicyKind, out: &mut DiagnosticSink<'_>) -> Option<CheckedPolicy> {
    let fields = if kind == PolicyKind::Cilium { CILIUM_SPEC } else { EGRET_SPEC };
    let root = MappingReader::read(document.root, "a policy", document.root.span.head(), ROOT, out)?;
    let spec = root.required("spec", out)?;
    let spec = MappingReader::read_with(&spec.value, "spec", spec.key_span, fields, annotation_for, out)?;
    let mut spans = PolicySpans { name: document.name_span, ..PolicySpans::default() };
    let additions = match kind {
        PolicyKind::Cilium => from_annotations(document, out),
        PolicyKind::Egret => from_fields(&spec, out),
    };
    let additions = Additions { published: document.origin.file == PUBLISHED, ..additions };
    spans.suspend = additions.suspend_at;
    spans.acknowledged = document.acknowledged.clone();
    let selectors: Option<Vec<MemberSelector>> = spec.required("selectors", out).map(|entry| {
        spans.selectors = entry.key_span;
        members(entry, &mut spans, out)
    });
    let destinations = spec.required("destinationCIDRs", out).map(|entry| destinations(entry, &mut spans, out));
    let excluded = spec.get("excludedCIDRs").map(|entry| cidrs(entry, "exclusion", out)).unwrap_or_default();
    let (excluded, places) = excluded.into_iter().unzip();
    spans.excluded = places;
    let destinations = destinations.unwrap_or_default();
    let gateways = gateways(&spec, kind, &additions, &destinations, &mut spans, out);
    let policy = Policy {
        id: PolicyId { name: document.name.clone()?, kind },
        selectors: selectors.unwrap_or_default(),
        destinations,
        excluded,
        gateways,
        priority: additions.priority,
        on_no_gateway: additions.on_no_gateway.unwrap_or_default(),
        existing_connections: additions.existing_connections.unwrap_or_default(),
        suspend: additions.suspend,
        origin: document.origin.clone(),
    };
    Some(CheckedPolicy {
        policy,
        says_on_no_gateway: additions.on_no_gateway.is_some(),
        says_existing_connections: additions.existing_connections.is_some(),
        spans,
    })
}

/// The annotation of a Cilium document that corresponds to a field of EgressPolicy.
fn annotation_for(field: &str) -> Option<String> {
    let word = match field {
        "priority" => "priority",
        "onNoGateway" => "on-no-gateway",
        "existingConnections" => "existing-connections",
        "suspend" => "suspend-until",
        "nextHop" | "nextHops" => "next-hop",
        "assign" => "assign",
        "egressIPs" | "egressPool" => return Some("Cilium has no such field: write an EgressPolicy".to_owned()),
        _ => return None,
    };
    Some(format!("Cilium has no such field: write the annotation {ANNOTATION_PREFIX}{word}, or an EgressPolicy"))
}

fn destinations(entry: &MappingEntry, spans: &mut PolicySpans, out: &mut DiagnosticSink<'_>) -> Vec<IpNet> {
    if matches!(&entry.value.value, YamlValue::Sequence(items) if items.is_empty()) {
        out.error(entry.key_span, "no-destination", "`destinationCIDRs` is empty: the policy steers nothing")
            .hint("[0.0.0.0/0, \"::/0\"] is everything outside of the cluster");
    }
    let (nets, places) = cidrs(entry, "destination", out).into_iter().unzip();
    spans.destinations = places;
    nets
}

fn gateways(
    spec: &MappingReader<'_>,
    kind: PolicyKind,
    additions: &Additions,
    destinations: &[IpNet],
    spans: &mut PolicySpans,
    out: &mut DiagnosticSink<'_>,
) -> Vec<GatewaySpec> {
    let one = spec.get("egressGateway");
    let many = spec.get("egressGateways");
    let listed: &[YamlNode] = many.and_then(|entry| list(&entry.value, "`egressGateways`", out)).unwrap_or(&[]);
    let entries: Vec<(&YamlNode, Span)> = match (one, listed.is_empty()) {
        (_, false) => listed.iter().map(|node| (node, first_line(node))).collect(),
        (Some(entry), true) => vec![(&entry.value, entry.key_span)],
        (None, true) => {
            // A value of the wrong type was reported already.
            if many.is_none_or(|entry| matches!(entry.value.value, YamlValue::Sequence(_))) {
                spec.missing("egressGateway", out);
            }
            Vec::new()
        }
    };
    let mut found = Vec::new();
    for (node, at) in entries {
        for (gateway, place, egress) in gateway(node, at, kind, additions, destinations, out) {
            found.push(gateway);
            spans.gateways.push(place);
            spans.egresses.push(egress);
        }
    }
    if let Some(entry) = one.filter(|_| !listed.is_empty()) {
        // Its mistakes are reported all the same: Cilium's definition demands it there, and the API server checks it.
        gateway(&entry.value, entry.key_span, kind, additions, destinations, out);
        if kind == PolicyKind::Egret {
            out.warning(entry.key_span, "ignored-gateway", "`egressGateway` is ignored beside `egressGateways`")
                .hint("take it out, or make it an entry of `egressGateways`");
        }
    }
    found
}

/// One entry: an exit for each of its addresses, with the places of its selector and of its address.
fn gateway(
    node: &YamlNode,
    at: Span,
    kind: PolicyKind,
    additions: &Additions,
    destinations: &[IpNet],
    out: &mut DiagnosticSink<'_>,
) -> Vec<(GatewaySpec, Span, Span)> {
    let fields = if kind == PolicyKind::Cilium { CILIUM_GATEWAY } else { EGRET_GATEWAY };
    let Some(object) = MappingReader::read_with(node, "a gateway", at, fields, annotation_for, out) else {
        return Vec::new();
    };
    let selector = object.required("nodeSelector", out).map(|entry| (nodes(entry, out), entry.key_span));
    let of = EntryOf { kind, destinations, published: additions.published };
    let entry = egress::read(&object, at, of, out);
    let mut next_hops = additions.next_hops.clone();
    next_hops.extend(next_hops_of(&object, out));
    check_families_of_hops(&next_hops, object.get("nextHops").map_or(at, |entry| entry.key_span), out);
    let addresses: Vec<IpAddr> = entry.egresses.iter().flat_map(Egress::addresses).collect();
    for (hop, at) in next_hops.iter().filter(|_| !additions.published) {
        check_hop(*hop, *at, &addresses, destinations, &next_hops, out);
    }
    let next_hops: Vec<IpAddr> = next_hops.into_iter().map(|(hop, _)| hop).collect();
    let of_entry = object.get("assign").and_then(|entry| assign::read(entry, out));
    let (assign, assigned_at) = of_entry.or_else(|| additions.assign.clone()).unzip();
    let Some((node, place)) = selector else { return Vec::new() };
    if let Some(at) = assigned_at
        && entry.egresses.iter().any(|egress| matches!(egress, Egress::Interface(_) | Egress::DefaultRoute))
    {
        without_address(at, out);
        return Vec::new();
    }
    let specs = entry.egresses.into_iter().map(|egress| {
        let spec = GatewaySpec { node: node.clone(), egress, next_hops: next_hops.clone(), assign: assign.clone() };
        (spec, place, entry.at)
    });
    specs.collect()
}

/// Refuses a next hop that no gateway could use, as far as the document alone shows it; the gateway knows its own
/// networks ([`crate::core::host_network::HostNetwork::no_router`]).
fn check_hop(
    hop: IpAddr,
    at: Span,
    egress: &[IpAddr],
    destinations: &[IpNet],
    all: &[(IpAddr, Span)],
    out: &mut DiagnosticSink<'_>,
) {
    let family = |is_ipv4: bool| if is_ipv4 { "IPv4" } else { "IPv6" };
    let serves = |hop: IpAddr| destinations.iter().any(|net| net.addr().is_ipv4() == hop.is_ipv4());
    if is_no_host(hop) {
        out.error(at, "bad-next-hop", format!("the next hop {hop} is no address that a router has"))
            .hint("the address of the router in the network of the gateway's interface");
    } else if egress.contains(&hop) {
        out.error(at, "bad-next-hop", format!("the next hop {hop} is the egress address itself"))
            .hint("the address of the router behind the interface: a gateway cannot send on to itself");
    } else if !serves(hop) && !destinations.is_empty() {
        let message = format!("no destination is {}, so nothing is sent to the next hop {hop}", family(hop.is_ipv4()));
        let hint = format!("the {} address of the router", family(!hop.is_ipv4()));
        // Beside a next hop that is used it is merely unused.
        if all.iter().any(|(other, _)| serves(*other)) {
            out.warning(at, "idle-next-hop", message).hint("take it out");
        } else {
            out.error(at, "bad-next-hop", message).hint(hint);
        }
    }
}

fn check_families_of_hops(next_hops: &[(IpAddr, Span)], at: Span, out: &mut DiagnosticSink<'_>) {
    for is_ipv4 in [true, false] {
        if next_hops.iter().filter(|(hop, _)| hop.is_ipv4() == is_ipv4).count() > 1 {
            let family = if is_ipv4 { "IPv4" } else { "IPv6" };
            out.error(at, "next-hops", format!("a gateway has more than one {family} next hop"))
                .hint("one a family; a second gateway entry for a second router");
        }
    }
}

fn next_hops_of(object: &MappingReader<'_>, out: &mut DiagnosticSink<'_>) -> Vec<(IpAddr, Span)> {
    let mut found = Vec::new();
    let mut nodes: Vec<&YamlNode> = object.get("nextHop").map(|entry| &entry.value).into_iter().collect();
    if let Some(entry) = object.get("nextHops") {
        nodes.extend(list(&entry.value, "`nextHops`", out).unwrap_or(&[]));
    }
    for node in nodes {
        if let Some(written) = text(node, "a next hop", out) {
            found.extend(address(written, node.span, "a next hop", out).map(|hop| (hop, node.span)));
        }
    }
    found
}

fn from_fields(spec: &MappingReader<'_>, out: &mut DiagnosticSink<'_>) -> Additions {
    let priority = spec
        .get("priority")
        .and_then(|entry| integer(&entry.value, "`priority`", i32::MIN.into()..=i32::MAX.into(), out))
        .and_then(|number| i32::try_from(number).ok());
    let on_no_gateway =
        spec.get("onNoGateway").and_then(|entry| choice(&entry.value, "`onNoGateway`", &ON_NO_GATEWAY, out));
    let existing_connections = spec
        .get("existingConnections")
        .and_then(|entry| choice(&entry.value, "`existingConnections`", &EXISTING_CONNECTIONS, out));
    let suspend = spec.get("suspend").and_then(|entry| {
        let object = MappingReader::read(&entry.value, "suspend", entry.key_span, SUSPEND, out)?;
        let until = object.required("until", out).and_then(|entry| timestamp(&entry.value, out));
        let reason = object.required("reason", out).and_then(|entry| text(&entry.value, "`reason`", out));
        let owner = object.get("owner").and_then(|entry| text(&entry.value, "`owner`", out)).map(str::to_owned);
        Some(Suspend { until: until?, owner, reason: reason?.to_owned() })
    });
    Additions {
        priority: priority.unwrap_or_default(),
        on_no_gateway,
        existing_connections,
        next_hops: Vec::new(),
        assign: None,
        published: false,
        suspend,
        suspend_at: spec.get("suspend").map(|entry| entry.key_span),
    }
}

fn from_annotations(document: &Document<'_>, out: &mut DiagnosticSink<'_>) -> Additions {
    let mut additions = Additions::default();
    let (mut until, mut reason, mut owner) = (None, None, None);
    for entry in &document.annotations {
        match entry.key.strip_prefix(ANNOTATION_PREFIX).unwrap_or("") {
            "priority" => {
                let YamlValue::Scalar(scalar) = &entry.value.value else { continue };
                let range = i32::MIN.into()..=i32::MAX.into();
                let number = in_range(scalar, entry.value.span, "the priority", range, out);
                additions.priority = number.and_then(|number| i32::try_from(number).ok()).unwrap_or_default();
            }
            "on-no-gateway" => additions.on_no_gateway = choice(&entry.value, &quoted(&entry.key), &ON_NO_GATEWAY, out),
            "existing-connections" => {
                additions.existing_connections = choice(&entry.value, &quoted(&entry.key), &EXISTING_CONNECTIONS, out);
            }
            "next-hop" => {
                for written in text(&entry.value, &quoted(&entry.key), out).unwrap_or("").split(',') {
                    let at = entry.value.span;
                    additions.next_hops.extend(address(written.trim(), at, "a next hop", out).map(|hop| (hop, at)));
                }
            }
            "assign" => additions.assign = assign::of_annotation(entry, out),
            "suspend-until" => until = Some((entry.key_span, timestamp(&entry.value, out))),
            "suspend-owner" => owner = text(&entry.value, &quoted(&entry.key), out).map(str::to_owned),
            "suspend-reason" => reason = Some((entry.key_span, text(&entry.value, &quoted(&entry.key), out))),
            // Unknown annotations were reported with the head.
            _ => {}
        }
    }
    additions.suspend_at = until.map(|(at, _)| at);
    additions.suspend = match (until, reason) {
        (None, None) => None,
        (Some((_, until)), Some((_, reason))) => {
            until.zip(reason).map(|(until, reason)| Suspend { until, owner, reason: reason.to_owned() })
        }
        (Some((at, _)), None) => {
            out.error(at, "missing-field", "a suspended policy says why").hint("add egret.dev/suspend-reason");
            None
        }
        (None, Some((at, _))) => {
            out.error(at, "missing-field", "a suspended policy says until when").hint("add egret.dev/suspend-until");
            None
        }
    };
    additions
}

/// A node as a timestamp.
pub(super) fn timestamp(node: &YamlNode, out: &mut DiagnosticSink<'_>) -> Option<Timestamp> {
    let YamlValue::Scalar(scalar) = &node.value else {
        wrong_type(node, "a time", "text", out);
        return None;
    };
    let parsed = scalar.text.parse().ok();
    if parsed.is_none() {
        out.error(node.span, "bad-time", format!("{} is no point in time", quoted(&scalar.text)))
            .hint("with date, time and zone (RFC 3339): 2026-12-31T18:00:00Z, or 2026-12-31T18:00:00+01:00");
    }
    parsed
}
