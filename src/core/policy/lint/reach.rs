//! Warns of destinations and exclusions that do nothing, and of destinations so wide that they may take in Services of the
//! cluster, while it is not known which addresses those have.
//!
//! Not here: destinations that take in what is known to be the cluster's (`coverage`).

use ipnet::IpNet;

use super::super::spans::PolicySpans;
use super::super::{Policy, PolicySet};
use super::warning;
use crate::core::address_class::SpecialAddress;
use crate::core::cidr::RangeSet;
use crate::core::diagnostic::Diagnostic;

/// The networks that clusters have their Services in: RFC 1918 and RFC 4193.
const PRIVATE: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// Checks the destinations and exclusions of a policy.
pub(super) fn check(set: &PolicySet, policy: &Policy, file: &str, places: &PolicySpans) -> Vec<Diagnostic> {
    let mut found = idle_exclusions(policy, file, places);
    found.extend(idle_destinations(set, policy, file, places));
    found.extend(services_unknown(set, policy, file, places));
    found
}

fn idle_exclusions(policy: &Policy, file: &str, places: &PolicySpans) -> Vec<Diagnostic> {
    let destinations: RangeSet = policy.destinations.iter().copied().collect();
    let idle = policy.excluded.iter().zip(&places.excluded).filter(|(net, _)| !destinations.meets(**net));
    let idle = idle.map(|(net, span)| {
        let message = format!("{net} is outside of all destinations: excluding it changes nothing");
        warning(file, *span, "idle-exclusion", message, "compare it with `destinationCIDRs`, or take it out")
    });
    idle.collect()
}

fn idle_destinations(set: &PolicySet, policy: &Policy, file: &str, places: &PolicySpans) -> Vec<Diagnostic> {
    let excluded = || policy.excluded.iter().chain(&set.config.exclusions).copied();
    let destinations: RangeSet = policy.destinations.iter().copied().collect();
    let left = destinations.subtract(&excluded().collect());
    let all = policy.destinations.iter().zip(&places.destinations);
    let found = all.filter_map(|(net, span)| {
        if is_never_forwarded(*net) {
            let message = format!("no router forwards packets to {net}: they are never steered");
            return Some(warning(file, *span, "never-forwarded", message, "take it out"));
        }
        if left.meets(*net) {
            return None;
        }
        let whole = |nets: &[IpNet]| nets.iter().find(|excluded| excluded.contains(net)).copied();
        let by = match (whole(&policy.excluded), whole(&set.config.exclusions)) {
            (Some(one), _) => format!("{one} of `excludedCIDRs`"),
            (None, Some(one)) => format!("{one} of `exclusions` in egret.yaml"),
            (None, None) => "the exclusions together".to_owned(),
        };
        let message = format!("{net} is excluded as a whole, by {by}: nothing to it is steered");
        Some(warning(file, *span, "excluded-destination", message, "narrow the exclusion, or take the destination out"))
    });
    found.collect()
}

/// Whether a network has only addresses that no router forwards to.
fn is_never_forwarded(net: IpNet) -> bool {
    let first = SpecialAddress::of(net.network());
    // 0.0.0.0/0 begins and ends with such an address.
    net.prefix_len() > 0 && first.is_some() && first == SpecialAddress::of(net.broadcast())
}

/// The first destination that takes in a private network of a family whose Services' networks are not known.
fn services_unknown(set: &PolicySet, policy: &Policy, file: &str, places: &PolicySpans) -> Option<Diagnostic> {
    let private: Vec<IpNet> = PRIVATE.iter().filter_map(|net| net.parse().ok()).collect();
    let is_known = |private: &IpNet| {
        let same_family = |net: &&IpNet| net.addr().is_ipv4() == private.addr().is_ipv4();
        set.config.service_cidrs.iter().any(|net| same_family(&net))
            || policy.excluded.iter().chain(&set.config.exclusions).any(|net| net.contains(private))
    };
    let takes_in = |net: &IpNet| private.iter().find(|private| net.contains(*private) && !is_known(private)).copied();
    let mut all = policy.destinations.iter().zip(&places.destinations);
    let (net, span, private) = all.find_map(|(net, span)| Some((net, *span, takes_in(net)?)))?;
    let takes_in = if *net == private { String::new() } else { format!(" takes in {private}, which") };
    let message = format!(
        "{net}{takes_in} may have addresses of the cluster's Services: what is sent to one that is not translated on its node \
         leaves through the gateway"
    );
    let hint =
        "name the Services' networks in egret.yaml: `serviceCIDRs` (--service-cluster-ip-range of the API server)";
    Some(warning(file, span, "services-unknown", message, hint))
}
