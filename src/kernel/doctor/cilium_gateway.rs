//! Whether Cilium's own egress gateway steers on this node as well. Pure.
//!
//! Its eBPF programs at the pods' interfaces redirect a packet before netfilter sees it, so that of two gateways that select
//! the same packets Cilium's wins. Not here: how Cilium routes all other packets (`cilium`).

use std::collections::BTreeMap;

use super::survey::Survey;
use super::{Check, DoctorInput};

/// What turns it on: since Cilium 1.18, and before.
const SWITCHES: [&str; 2] = ["enable-egress-gateway", "enable-ipv4-egress-gateway"];

/// The check; none unless Cilium's gateway is found to be on.
pub(super) fn cilium_gateway(survey: &Survey, input: &DoctorInput) -> Option<Check> {
    let mut settings = input.cilium.clone().unwrap_or_default();
    settings.extend(survey.cilium.clone().unwrap_or_default());
    let is_on = is_on(&settings).unwrap_or(!survey.egress_maps.is_empty());
    if !is_on {
        return None;
    }
    let all: Vec<&str> = input.cilium_policies.iter().map(String::as_str).collect();
    let both: Vec<&str> = all.iter().copied().filter(|name| input.own_policies.contains(*name)).collect();
    let hint = |names: &[&str]| {
        format!("`kubectl delete ciliumegressgatewaypolicies {}`; docs/cilium.md has the order", names.join(" "))
    };
    Some(if !both.is_empty() {
        let names = both.join(", ");
        let message =
            format!("Cilium's egress gateway steers too, by the policies {names}: their packets never reach Egret");
        Check::error("both-gateways", message, hint(&both))
    } else if !all.is_empty() {
        let names = all.join(", ");
        let message =
            format!("Cilium's egress gateway steers by the policies {names}; what Egret selects as well is Cilium's");
        Check::warn("both-gateways", message, hint(&all))
    } else {
        let map = survey.egress_maps.first().map(|map| format!(" ({map} is there)")).unwrap_or_default();
        let message = format!("Cilium's egress gateway is on{map}; what its policies select never reaches Egret");
        let hint = "`kubectl get ciliumegressgatewaypolicies` lists them; with `-o yaml` among the manifests of --cluster they are compared";
        Check::warn("both-gateways", message, hint)
    })
}

/// Whether the configuration turns it on; none without a switch.
fn is_on(settings: &BTreeMap<String, String>) -> Option<bool> {
    let said: Vec<&String> = SWITCHES.iter().filter_map(|name| settings.get(*name)).collect();
    (!said.is_empty()).then(|| said.iter().any(|value| *value == "true"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kernel::doctor::CheckStatus::{self, Error, Warn};

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn judged(switch: Option<(&str, &str)>, maps: &[&str], theirs: &[&str]) -> Option<CheckStatus> {
        let mut survey = Survey::healthy();
        survey.egress_maps = names(maps).into_iter().collect();
        let input = DoctorInput {
            cilium: switch.map(|(key, value)| BTreeMap::from([(key.to_owned(), value.to_owned())])),
            own_policies: names(&["outpost"]),
            cilium_policies: names(theirs),
            ..DoctorInput::default()
        };
        cilium_gateway(&survey, &input).map(|check| check.severity)
    }

    #[test]
    fn two_gateways_for_one_policy_are_an_error_and_two_at_all_a_warning() {
        let on = Some(("enable-egress-gateway", "true"));
        for (switch, maps, theirs, expected) in [
            (None, &[][..], &[][..], None),
            (on, &[], &[], Some(Warn)),
            (Some(("enable-ipv4-egress-gateway", "true")), &[], &["outpost", "other"], Some(Error)),
            (on, &[], &["other"], Some(Warn)),
            (None, &["cilium_egress_gw_policy_v4"], &["outpost"], Some(Error)),
            (None, &["cilium_egress_gw_policy_v4"], &[], Some(Warn)),
            (Some(("enable-egress-gateway", "false")), &["cilium_egress_gw_policy_v4"], &["outpost"], None),
            (None, &[], &["outpost"], None),
        ] {
            assert_eq!(judged(switch, maps, theirs), expected, "{switch:?} {maps:?} {theirs:?}");
        }
    }

    #[test]
    fn the_running_agent_decides_before_its_config_map() {
        let settings = |value: &str| BTreeMap::from([("enable-egress-gateway".to_owned(), value.to_owned())]);
        let input = DoctorInput { cilium: Some(settings("true")), ..DoctorInput::default() };
        let mut survey = Survey::healthy();
        assert!(cilium_gateway(&survey, &input).is_some());
        survey.cilium = Some(settings("false"));
        assert_eq!(cilium_gateway(&survey, &input), None);
    }
}
