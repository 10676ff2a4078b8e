//! CNIs that can take pods' packets past netfilter, where a policy of ours would steer nothing while everything looks well: Cilium by
//! its eBPF host routing, Calico by its eBPF dataplane.
//!
//! Pure. Deliberately absent: asking their APIs. Cilium's configuration and devices say enough, or it is said that they don't.

use std::collections::BTreeMap;

use super::survey::Survey;
use super::{Check, DoctorInput};

/// One end of the pair of devices that Calico's eBPF dataplane makes.
const CALICO_BPF: &str = "bpfin.cali";

/// How Cilium's packets of pods leave the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostRouting {
    /// Through the kernel's stack, and so through netfilter.
    Legacy,
    /// Past it.
    Bpf,
    /// It can't be told from here.
    Unknown,
}

/// The CNI: Cilium's lines, or one line with the name of another.
pub(super) fn cilium(survey: &Survey, asked: &DoctorInput) -> Vec<Check> {
    let device = survey.devices.keys().any(|name| name == "cilium_host" || name == "cilium_net");
    if !device && asked.cilium.is_none() {
        return another(survey).into_iter().collect();
    }
    // What the agent here runs with counts more than what a ConfigMap wants of it.
    let mut settings = asked.cilium.clone().unwrap_or_default();
    settings.extend(survey.cilium.clone().unwrap_or_default());
    vec![match host_routing(&settings) {
        HostRouting::Legacy => Check::ok("cilium-host-routing", "CNI: Cilium, with host routing by the kernel's stack"),
        HostRouting::Bpf => Check::error(
            "cilium-host-routing",
            "Cilium routes by eBPF (host routing: BPF): pods' packets never reach netfilter, nothing would be steered",
            "bpf.hostLegacyRouting=true in Cilium's Helm values, then restart its agents",
        ),
        HostRouting::Unknown => Check::warn(
            "cilium-host-routing",
            "Cilium is here, and whether it routes by eBPF, past netfilter, can't be told",
            "`cilium status | grep 'Host Routing'` should say Legacy; if not: bpf.hostLegacyRouting=true",
        ),
    }]
}

/// A CNI that is known by its devices.
fn another(survey: &Survey) -> Option<Check> {
    let known = [("cali", "Calico"), ("vxlan.calico", "Calico"), ("flannel.", "flannel"), ("weave", "Weave")];
    if survey.devices.contains_key(CALICO_BPF) {
        let message =
            format!("Calico's eBPF dataplane has been here ({CALICO_BPF}): pods' packets may never reach netfilter");
        let hint = "`kubectl get felixconfiguration default -o yaml | grep bpfEnabled` should not say true";
        return Some(Check::warn("calico-ebpf", message, hint));
    }
    let there = |prefix: &str| survey.devices.keys().any(|name| name.starts_with(prefix));
    let (_, name) = known.into_iter().find(|(prefix, _)| there(prefix))?;
    Some(Check::ok("cni", format!("CNI: {name}")))
}

/// As its agent decides (pkg/kpr/initializer in its sources): without its own kube-proxy, or with masquerading by iptables, it falls
/// back to the kernel's stack whatever it was told.
fn host_routing(settings: &BTreeMap<String, String>) -> HostRouting {
    let of = |key: &str| settings.get(key).map(String::as_str);
    let masquerades = of("enable-ipv4-masquerade") != Some("false");
    match (of("enable-host-legacy-routing"), of("kube-proxy-replacement"), of("enable-bpf-masquerade")) {
        (Some("true"), _, _) | (_, Some("false" | "disabled"), _) => HostRouting::Legacy,
        (_, _, Some("false")) if masquerades => HostRouting::Legacy,
        (_, Some("true" | "strict"), Some("true")) => HostRouting::Bpf,
        (_, Some("true" | "strict"), _) if !masquerades => HostRouting::Bpf,
        _ => HostRouting::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::doctor::CheckStatus;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn severities(found: &[Check]) -> Vec<(&str, CheckStatus)> {
        found.iter().map(|check| (check.code, check.severity)).collect()
    }

    #[test]
    fn cilium_routes_past_netfilter_only_with_its_own_kube_proxy_and_masquerading() {
        let (legacy, kube_proxy, masquerade) =
            ("enable-host-legacy-routing", "kube-proxy-replacement", "enable-bpf-masquerade");
        for (pairs, expected) in [
            (&[][..], HostRouting::Unknown),
            (&[(legacy, "true"), (kube_proxy, "true"), (masquerade, "true")], HostRouting::Legacy),
            (&[(legacy, "false"), (kube_proxy, "true"), (masquerade, "true")], HostRouting::Bpf),
            (&[(kube_proxy, "strict"), (masquerade, "true")], HostRouting::Bpf),
            (&[(kube_proxy, "false"), (masquerade, "true")], HostRouting::Legacy),
            (&[(kube_proxy, "true"), (masquerade, "false")], HostRouting::Legacy),
            (&[(kube_proxy, "true"), ("enable-ipv4-masquerade", "false")], HostRouting::Bpf),
            (&[(legacy, "false"), (kube_proxy, "true")], HostRouting::Unknown),
        ] {
            assert_eq!(host_routing(&settings(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn the_agent_here_counts_more_than_the_config_map() {
        let wanted = settings(&[("kube-proxy-replacement", "true"), ("enable-bpf-masquerade", "true")]);
        let asked = DoctorInput { cilium: Some(wanted), ..DoctorInput::default() };
        let mut survey = Survey::healthy();
        assert_eq!(severities(&cilium(&survey, &asked)), [("cilium-host-routing", CheckStatus::Error)]);
        survey.cilium = Some(settings(&[("enable-host-legacy-routing", "true")]));
        assert_eq!(severities(&cilium(&survey, &asked)), [("cilium-host-routing", CheckStatus::Ok)]);
    }

    #[test]
    fn without_settings_its_devices_are_a_warning() {
        let mut survey = Survey::healthy();
        survey.device("cilium_host", 0);
        let found = cilium(&survey, &DoctorInput::default());
        assert_eq!(severities(&found), [("cilium-host-routing", CheckStatus::Warn)]);
    }

    #[test]
    fn another_cni_is_named() {
        let mut survey = Survey::healthy();
        assert_eq!(cilium(&survey, &DoctorInput::default()), []);
        survey.device("cali12ab34", 0);
        assert_eq!(cilium(&survey, &DoctorInput::default()), [Check::ok("cni", "CNI: Calico")]);
        survey.device(CALICO_BPF, 0);
        assert_eq!(severities(&cilium(&survey, &DoctorInput::default())), [("calico-ebpf", CheckStatus::Warn)]);
    }
}
