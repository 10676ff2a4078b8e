//! Texts for policies, destinations and the source addresses of exits in a preview.
//!
//! Not here: whole sentences (see `sentences`).

use std::collections::BTreeSet;

use super::PreviewInput;
use crate::core::cidr::AddressRange;
use crate::core::compile::egress_address;
use crate::core::escape::EscapedText;
use crate::core::placement::ExitKey;
use crate::core::policy::{Egress, PolicyId, PolicyKind, PolicySet};
use crate::core::state::nft::AddressFamily;

/// The source of an exit's packets: the address if it is known, otherwise the interface it is taken from.
pub(super) fn leaves_as(input: &PreviewInput<'_>, exit: &ExitKey, towards: &[AddressRange]) -> String {
    let families: BTreeSet<AddressFamily> = towards.iter().map(|range| AddressFamily::of(range.first())).collect();
    let known = input.host_networks.get(&exit.gateway);
    let addresses: Vec<String> = families
        .into_iter()
        .filter_map(|family| match egress_address(exit, family, known?) {
            Ok(Some((_, address))) => Some(address.to_string()),
            Ok(None) | Err(_) => None,
        })
        .collect();
    match &exit.egress {
        _ if !addresses.is_empty() => addresses.join(" and "),
        Egress::Address(_) | Egress::DualStack(..) | Egress::Pool(_) => joined(&exit.egress, " and "),
        Egress::Interface(name) => name.to_string(),
        Egress::DefaultRoute => "its default address".to_owned(),
    }
}

/// The addresses that an entry names.
pub(super) fn joined(egress: &Egress, between: &str) -> String {
    egress.addresses().map(|address| address.to_string()).collect::<Vec<_>>().join(between)
}

/// The source of an exit's packets as part of a sentence: the address, or a description of it if the node's kernel
/// was not read.
pub(super) fn source(input: &PreviewInput<'_>, exit: &ExitKey, towards: &[AddressRange]) -> EscapedText {
    let address = leaves_as(input, exit, towards);
    if address.starts_with(|letter: char| letter.is_ascii_digit()) || address.contains(':') {
        return EscapedText::new().name(address);
    }
    let of = match &exit.egress {
        Egress::Interface(name) => EscapedText::new().words("the address of ").name(name),
        _ => EscapedText::new().words("the default address"),
    };
    of.words(" on ").name(&exit.gateway)
}

/// The first few destinations, as prefixes.
pub(super) fn towards(ranges: &[AddressRange]) -> EscapedText {
    /// Further prefixes are only counted.
    const LISTED: usize = 4;
    let texts: Vec<String> = ranges.iter().flat_map(|range| range.prefixes(LISTED)).collect();
    let more = texts.len().saturating_sub(LISTED);
    let listed = texts.iter().take(LISTED).enumerate().fold(EscapedText::new(), |phrase, (position, text)| {
        if position > 0 { phrase.words(", ").name(text) } else { phrase.name(text) }
    });
    if more > 0 { listed.words(format!(" and {more} more")) } else { listed }
}

/// A policy's name. Two policies of different kinds may share one.
pub(super) fn policy(input: &PreviewInput<'_>, id: &PolicyId) -> EscapedText {
    let kinds = [PolicyKind::Cilium, PolicyKind::Egret];
    let has = |set: &PolicySet, kind| set.policies.contains_key(&PolicyId { name: id.name.clone(), kind });
    let twins = |set: &PolicySet| kinds.into_iter().all(|kind| has(set, kind));
    let phrase = EscapedText::new().name(id);
    if !twins(input.before) && !twins(input.after) {
        return phrase;
    }
    phrase.words(match id.kind {
        PolicyKind::Cilium => " (Cilium)",
        PolicyKind::Egret => " (EgressPolicy)",
    })
}
