//! Checks `egret.dev/v1alpha1 EgressAssertion`.
//!
//! Not here: whether it holds (`preview::assertions`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::CheckedAssertion;
use super::address::{address, cidrs};
use super::selector::members;
use crate::core::policy::assertion::{Assertion, Claim};
use crate::core::policy::diagnostic_sink::DiagnosticSink;
use crate::core::policy::document::{ASSERTION_SPEC, Document, ROOT};
use crate::core::policy::mapping_reader::{MappingReader, boolean, list, text};
use crate::core::policy::spans::{AssertionSpans, PolicySpans};
use crate::core::policy::yaml::{MappingEntry, YamlValue};

pub(super) fn read(document: &Document<'_>, out: &mut DiagnosticSink<'_>) -> Option<CheckedAssertion> {
    let root = MappingReader::read(document.root, "an EgressAssertion", document.root.span.head(), ROOT, out)?;
    let spec = root.required("spec", out)?;
    let spec = MappingReader::read(&spec.value, "spec", spec.key_span, ASSERTION_SPEC, out)?;
    let mut spans = AssertionSpans { name: document.name_span, ..AssertionSpans::default() };
    let selectors = spec.required("selectors", out).map(|entry| {
        spans.selectors = entry.key_span;
        members(entry, &mut PolicySpans::default(), out)
    });
    let destinations = spec.required("destinationCIDRs", out).map(|entry| {
        if is_empty_list(entry) {
            out.error(entry.key_span, "no-destination", "`destinationCIDRs` is empty: nothing is asserted")
                .hint("[0.0.0.0/0, \"::/0\"] is everything outside of the cluster");
        }
        cidrs(entry, "destination", out).into_iter().map(|(net, _)| net).collect()
    });
    let excluded = spec.get("excludedCIDRs").map(|entry| cidrs(entry, "exclusion", out)).unwrap_or_default();
    let claim = claim(&spec, &mut spans, out)?;
    let assertion = Assertion {
        name: document.name.clone()?,
        selectors: selectors?,
        destinations: destinations?,
        excluded: excluded.into_iter().map(|(net, _)| net).collect(),
        claim,
        origin: document.origin.clone(),
    };
    Some(CheckedAssertion { assertion, spans })
}

fn is_empty_list(entry: &MappingEntry) -> bool {
    matches!(&entry.value.value, YamlValue::Sequence(items) if items.is_empty())
}

/// The one claim that an assertion makes.
fn claim(spec: &MappingReader<'_>, spans: &mut AssertionSpans, out: &mut DiagnosticSink<'_>) -> Option<Claim> {
    let or_dropped = spec.get("orDropped").map(|entry| (entry, boolean(&entry.value, "`orDropped`", out)));
    let leaves_as = spec.get("leavesAs").map(|entry| (entry, addresses(entry, out)));
    match (leaves_as, spec.get("neverSteered")) {
        (Some((entry, addresses)), None) => {
            spans.claim = entry.key_span;
            let or_dropped = or_dropped.and_then(|(_, value)| value).unwrap_or_default();
            Some(Claim::LeavesAs { addresses, or_dropped })
        }
        (None, Some(entry)) => {
            spans.claim = entry.key_span;
            if let Some((extra, _)) = or_dropped {
                out.error(extra.key_span, "needless-field", "`orDropped` says nothing beside `neverSteered`")
                    .hint("take it out: what is not steered is not dropped by Egret");
            }
            if boolean(&entry.value, "`neverSteered`", out) == Some(false) {
                out.error(entry.value.span, "no-claim", "`neverSteered: false` asserts nothing")
                    .hint("neverSteered: true, or leavesAs with addresses");
            }
            Some(Claim::NeverSteered)
        }
        (Some(_), Some(entry)) => {
            out.error(entry.key_span, "two-claims", "leavesAs and neverSteered are both given")
                .hint("keep one, or write two documents");
            None
        }
        (None, None) => {
            out.error(spec.at(), "missing-field", "spec has neither leavesAs nor neverSteered")
                .hint("leavesAs: [10.0.3.42], or neverSteered: true");
            None
        }
    }
}

fn addresses(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> BTreeSet<IpAddr> {
    if is_empty_list(entry) {
        out.error(entry.key_span, "no-claim", "`leavesAs` is empty: no packet could leave")
            .hint("name the egress addresses: leavesAs: [10.0.3.42]");
    }
    let nodes = list(&entry.value, "`leavesAs`", out).unwrap_or(&[]);
    let mut found = BTreeSet::new();
    for node in nodes {
        if let Some(written) = text(node, "an entry of leavesAs", out) {
            found.extend(address(written, node.span, "an entry of leavesAs", out));
        }
    }
    found
}
