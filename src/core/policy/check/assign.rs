//! Checks `assign` of a gateway entry: `true`, or the interface that Egret puts the egress address on.

use super::address::interface;
use crate::core::policy::Assign;
use crate::core::policy::diagnostic_sink::{DiagnosticSink, Span, quoted};
use crate::core::policy::document::ASSIGN;
use crate::core::policy::mapping_reader::{MappingReader, boolean, choice};
use crate::core::policy::yaml::{MappingEntry, YamlValue};

/// The field of an EgressPolicy: a truth value, or a mapping. None: it is false, or has a mistake.
pub(super) fn read(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Option<(Assign, Span)> {
    let at = entry.key_span;
    if !matches!(entry.value.value, YamlValue::Mapping(_)) {
        let given = boolean(&entry.value, "`assign`", out)?;
        return given.then(|| (Assign::default(), at));
    }
    let object = MappingReader::read(&entry.value, "assign", at, ASSIGN, out)?;
    let interface = match object.get("interface") {
        Some(entry) => Some(interface(&entry.value, out)?),
        None => None,
    };
    let failback = object.get("failback").and_then(|entry| boolean(&entry.value, "`failback`", out));
    Some((Assign { interface, failback: failback.unwrap_or_default() }, at))
}

/// The annotation of a Cilium document, for all its gateways.
pub(super) fn of_annotation(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Option<(Assign, Span)> {
    const WORDS: [(&str, bool); 2] = [("true", true), ("false", false)];
    let given = choice(&entry.value, &quoted(&entry.key), &WORDS, out)?;
    given.then(|| (Assign::default(), entry.key_span))
}

/// Only an address that the policy names can be assigned.
pub(super) fn without_address(at: Span, out: &mut DiagnosticSink<'_>) {
    out.error(at, "assign-without-address", "`assign` without `egressIP`: there is no address to assign")
        .hint("name the address by egressIP; or take assign out: the interface's own address is used");
}
