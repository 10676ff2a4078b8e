//! Checks pools and what policies ask of them: pools that do not exist, are too small, overlap, or have not the families.
//!
//! Such a mistake lies between documents, so they stay active: a policy keeps the addresses that it has (`core::allocation`). Not here:
//! which policy gets which address.

use std::collections::BTreeMap;

use super::super::demand::{Demand, named};
use super::super::diagnostic_sink::{Span, diagnostic, nearest};
use super::super::pool::EgressPool;
use super::super::spans::Spans;
use super::super::{Egress, ObjectName, Policy, PolicySet, PoolRequest};
use crate::core::cidr::{AddressRange, RangeSet};
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::state::nft::AddressFamily;
use crate::core::text::counted;

/// The codes of mistakes that leave the document active.
pub const POOL_MISTAKES: [&str; 5] =
    ["address-of-a-pool", "pool-too-small", "pool-without-reports", "pools-overlap", "unknown-pool"];

/// Every mistake of the set.
pub(super) fn mistakes(set: &PolicySet, spans: &Spans) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = overlaps(set, spans);
    found.extend(set.policies.values().flat_map(|policy| of_policy(set, spans, policy)));
    found.extend(named_addresses(set, spans));
    let demand = Demand::of(set);
    found.extend(set.pools.values().filter_map(|pool| too_small(&demand, spans, pool)));
    found
}

fn error(file: &str, at: Span, code: &'static str, message: String, hint: String) -> Diagnostic {
    Diagnostic { hint: Some(hint), ..diagnostic(file, Severity::Error, at, code, message) }
}

/// The requests of one policy.
fn of_policy(set: &PolicySet, spans: &Spans, policy: &Policy) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let file = policy.origin.file.as_str();
    for (place, spec) in policy.gateways.iter().enumerate() {
        let Egress::Pool(PoolRequest { pool: name, .. }) = &spec.egress else { continue };
        // A held document has an error to be fixed first.
        let Some(at) = spans.policies.get(&policy.id).and_then(|spans| spans.egresses.get(place)).copied() else {
            continue;
        };
        if !set.config.reports {
            let message = "egret.yaml disables reports, and the addresses that pools give are kept on their branch";
            let hint = "reports: {enabled: true} in egret.yaml, or an egressIP";
            found.push(error(file, at, "pool-without-reports", message.to_owned(), hint.to_owned()));
        }
        match set.pools.get(name) {
            None => found.push(unknown(set, file, at, name)),
            Some(pool) => found.extend(wrong_family(policy, file, at, pool)),
        }
    }
    found
}

fn unknown(set: &PolicySet, file: &str, at: Span, name: &ObjectName) -> Diagnostic {
    let hint = match nearest(name.as_str(), set.pools.keys().map(ObjectName::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if set.pools.is_empty() => "write an EgressPool of this name".to_owned(),
        None => {
            let all: Vec<&str> = set.pools.keys().map(ObjectName::as_str).take(8).collect();
            format!("there are {}", all.join(", "))
        }
    };
    error(file, at, "unknown-pool", format!("there is no EgressPool {name}; the policy gets no address"), hint)
}

fn families(ranges: &RangeSet) -> [bool; 2] {
    AddressFamily::BOTH.map(|family| ranges.ranges().iter().any(|range| AddressFamily::of(range.first()) == family))
}

/// A pool without an address of the families that the policy's destinations have. With one of two, some packets are dropped, as with an
/// egressIP.
fn wrong_family(policy: &Policy, file: &str, at: Span, pool: &EgressPool) -> Option<Diagnostic> {
    let has = families(&pool.usable());
    let needs = families(&policy.destinations.iter().copied().collect());
    let lacking: Vec<AddressFamily> = AddressFamily::BOTH
        .into_iter()
        .zip(needs.into_iter().zip(has))
        .filter(|(_, (needs, has))| *needs && !has)
        .map(|(family, _)| family)
        .collect();
    let lacks = lacking.first()?.version();
    let serves = needs.into_iter().zip(has).any(|(needs, has)| needs && has);
    let severity = if serves { Severity::Warning } else { Severity::Error };
    let message = format!(
        "the pool {} ({}) has no {lacks} addresses: packets to {lacks} destinations have none to leave with",
        pool.name, pool.origin
    );
    let found = diagnostic(file, severity, at, "family-mismatch", message);
    Some(Diagnostic { hint: Some(format!("add {lacks} addresses to the pool, or ask another one")), ..found })
}

/// Addresses that two pools have.
fn overlaps(set: &PolicySet, spans: &Spans) -> Vec<Diagnostic> {
    let mut before: BTreeMap<&ObjectName, RangeSet> = BTreeMap::new();
    let mut found = Vec::new();
    for (name, pool) in &set.pools {
        let usable = pool.usable();
        for (place, range) in pool.addresses.iter().enumerate() {
            let shared = before.iter().find_map(|(other, theirs)| Some((*other, common(theirs, &usable, *range)?)));
            let Some((other, address)) = shared else { continue };
            let Some(at) = spans.pools.get(name).and_then(|spans| spans.addresses.get(place)).copied() else {
                continue;
            };
            let message = format!(
                "{address} is in the pool {other}, too ({}); neither gives it to a policy",
                set.pools[other].origin
            );
            let hint = "take it out of one, or reserve it there".to_owned();
            found.push(error(&pool.origin.file, at, "pools-overlap", message, hint));
        }
        before.insert(name, usable);
    }
    found
}

/// The first address of a range that both sets have.
fn common(one: &RangeSet, other: &RangeSet, range: AddressRange) -> Option<std::net::IpAddr> {
    let outside = one.subtract(other);
    let both = one.subtract(&outside);
    both.first_within(range)
}

/// Addresses of pools that policies name.
fn named_addresses(set: &PolicySet, spans: &Spans) -> Vec<Diagnostic> {
    let pools: Vec<(&EgressPool, RangeSet)> = set.pools.values().map(|pool| (pool, pool.usable())).collect();
    let found = named(set).filter_map(|(address, (policy, place))| {
        let (pool, _) = pools.iter().find(|(_, usable)| usable.contains(address))?;
        let at = spans.policies.get(&policy.id)?.egresses.get(place).copied()?;
        let message =
            format!("{address} belongs to the pool {} ({}), which gives it to policies", pool.name, pool.origin);
        let hint = format!(
            "ask the pool: egressPool: {{name: {}}}; or reserve the address there: reserved: [{address}]",
            pool.name
        );
        Some(error(&policy.origin.file, at, "address-of-a-pool", message, hint))
    });
    found.collect()
}

/// A pool of which policies ask more than it has.
fn too_small(demand: &Demand, spans: &Spans, pool: &EgressPool) -> Option<Diagnostic> {
    let at = spans.pools.get(&pool.name)?.name;
    AddressFamily::BOTH.into_iter().find_map(|family| {
        let (asked, has) = demand.balance(&pool.name, family);
        if asked <= has || has == 0 {
            return None;
        }
        let policies: Vec<&str> = demand.policies(&pool.name).into_iter().map(ObjectName::as_str).collect();
        let more = policies.len().saturating_sub(8);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let message = format!(
            "{} are asked of the pool, which has {has} to give: who asks last goes without",
            counted(asked, &format!("{} address", family.version()))
        );
        let hint = format!(
            "add addresses; it is asked by {}{more}",
            policies.iter().take(8).copied().collect::<Vec<_>>().join(", ")
        );
        Some(error(&pool.origin.file, at, "pool-too-small", message, hint))
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Catalogue, FileUpdate};

    fn pool(name: &str, spec: &str) -> String {
        format!("apiVersion: egret.dev/v1alpha1\nkind: EgressPool\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n")
    }

    fn policy(name: &str, destinations: &str, egress: &str) -> String {
        format!(
            "apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors: [{{podSelector: \
             {{matchLabels: {{app: a, io.kubernetes.pod.namespace: b}}}}}}]\n  destinationCIDRs: [{destinations}]\n  egressGateway: \
             {{nodeSelector: {{}}, {egress}}}\n---\n"
        )
    }

    fn asks(pool: &str, addresses: usize) -> String {
        format!("egressPool: {{name: {pool}, addresses: {addresses}}}")
    }

    /// `code line: message (hint)`
    fn found(documents: &[String], config: &str) -> Vec<String> {
        let mut catalogue = Catalogue::new("prod");
        let config = format!("apiVersion: egret.dev/v1alpha1\nkind: Config\n{config}");
        let files = [("a.yaml", documents.concat()), ("egret.yaml", config)];
        catalogue.update(files.map(|(path, text)| (path.to_owned(), FileUpdate::Text(text))).into());
        let found = catalogue.diagnostics().into_iter();
        found
            .map(|one| format!("{} {}: {} ({})", one.code, one.start.line, one.message, one.hint.unwrap_or_default()))
            .collect()
    }

    #[test]
    fn a_pool_that_serves_its_policies_is_no_mistake() {
        let both = "addresses: [10.0.3.40-10.0.3.47, 2001:db8::/124], reserved: [10.0.3.41]";
        let documents = [
            pool("outpost", both),
            policy("a", "10.0.4.0/24, 2001:db8:4::/64", &asks("outpost", 2)),
            policy("b", "10.0.5.0/24", &asks("outpost", 5)),
            policy("c", "10.0.6.0/24", "egressIP: 10.0.3.41"),
        ];
        assert_eq!(found(&documents, ""), Vec::<String>::new());
    }

    #[test]
    fn a_pool_that_is_not_there_is_told_with_the_one_that_was_likely_meant() {
        let documents = [pool("outpost", "addresses: [10.0.3.40]"), policy("a", "10.0.4.0/24", &asks("outpots", 1))];
        assert_eq!(
            found(&documents, ""),
            ["unknown-pool 12: there is no EgressPool outpots; the policy gets no address (did you mean `outpost`?)"]
        );
        assert_eq!(
            found(&documents[1..], ""),
            [
                "unknown-pool 7: there is no EgressPool outpots; the policy gets no address (write an EgressPool of this name)"
            ]
        );
    }

    #[test]
    fn an_address_belongs_to_one_pool_and_to_no_policy_by_name() {
        let documents = [
            pool("far", "addresses: [10.0.3.0/28]"),
            pool("near", "addresses: [10.0.2.0/24, 10.0.3.15-10.0.3.20]"),
            policy("a", "10.0.4.0/24", "egressIPs: [10.0.9.1, 10.0.3.3]"),
        ];
        assert_eq!(
            found(&documents, ""),
            [
                "pools-overlap 9: 10.0.3.15 is in the pool far, too (a.yaml:1); neither gives it to a policy (take it out of one, or reserve \
                 it there)",
                "address-of-a-pool 17: 10.0.3.3 belongs to the pool far (a.yaml:1), which gives it to policies (ask the pool: egressPool: \
                 {name: far}; or reserve the address there: reserved: [10.0.3.3])"
            ]
        );
    }

    #[test]
    fn a_pool_that_is_too_small_or_lacks_a_family_says_for_whom() {
        let documents = [
            pool("outpost", "addresses: [10.0.3.40-10.0.3.42]"),
            policy("a", "10.0.4.0/24", &asks("outpost", 2)),
            policy("b", "10.0.5.0/24, 2001:db8:4::/64", &asks("outpost", 2)),
            policy("c", "2001:db8:5::/64", &asks("outpost", 1)),
        ];
        assert_eq!(
            found(&documents, ""),
            [
                "pool-too-small 3: 4 IPv4 addresses are asked of the pool, which has 3 to give: who asks last goes without (add addresses; it \
                 is asked by a, b, c)",
                "family-mismatch 20: the pool outpost (a.yaml:1) has no IPv6 addresses: packets to IPv6 destinations have none to leave with \
                 (add IPv6 addresses to the pool, or ask another one)",
                "family-mismatch 28: the pool outpost (a.yaml:1) has no IPv6 addresses: packets to IPv6 destinations have none to leave with \
                 (add IPv6 addresses to the pool, or ask another one)"
            ]
        );
    }

    #[test]
    fn without_reports_there_is_no_place_for_what_is_allocated() {
        let documents = [pool("outpost", "addresses: [10.0.3.40]"), policy("a", "10.0.4.0/24", &asks("outpost", 1))];
        assert_eq!(
            found(&documents, "reports: {enabled: false}\n"),
            [
                "pool-without-reports 12: egret.yaml disables reports, and the addresses that pools give are kept on their branch (reports: \
                 {enabled: true} in egret.yaml, or an egressIP)"
            ]
        );
    }
}
