//! Checks for CNIs whose pod packets can bypass netfilter, so that a policy would steer nothing although every object is
//! in place: Cilium by eBPF host routing, Calico by its eBPF dataplane. Pure.
//!
//! Cilium's configuration and devices decide; its API is not queried.

use std::collections::BTreeMap;

use super::survey::Survey;
use super::{Check, DoctorInput};

/// One end of the veth pair that Calico's eBPF dataplane creates.
const CALICO_BPF: &str = "bpfin.cali";

/// How Cilium forwards pods' packets out of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostRouting {
    /// Through the kernel's stack, and so through netfilter.
    Legacy,
    /// Bypassing it.
    Bpf,
    /// Not known.
    Unknown,
}

/// The CNI's checks: Cilium's, or one that names another CNI.
pub(super) fn cilium(survey: &Survey, input: &DoctorInput) -> Vec<Check> {
    let device = survey.devices.keys().any(|name| name == "cilium_host" || name == "cilium_net");
    if !device && input.cilium.is_none() {
        return another(survey).into_iter().collect();
    }
    // The running configuration of the agent overrides the ConfigMap.
    let mut settings = input.cilium.clone().unwrap_or_default();
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
            "Cilium is here; it is unknown whether it routes by eBPF, bypassing netfilter",
            "`cilium status | grep 'Host Routing'` should say Legacy; if not: bpf.hostLegacyRouting=true",
        ),
    }]
}

/// A CNI recognised by its devices.
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

/// As Cilium's agent decides (pkg/kpr/initializer in its sources): without its kube-proxy replacement, or with iptables
/// masquerading, it falls back to the kernel's stack whatever its configuration asks for.
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
    fn cilium_bypasses_netfilter_only_with_its_own_kube_proxy_and_masquerading() {
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
    fn the_running_agent_overrides_the_config_map() {
        let wanted = settings(&[("kube-proxy-replacement", "true"), ("enable-bpf-masquerade", "true")]);
        let input = DoctorInput { cilium: Some(wanted), ..DoctorInput::default() };
        let mut survey = Survey::healthy();
        assert_eq!(severities(&cilium(&survey, &input)), [("cilium-host-routing", CheckStatus::Error)]);
        survey.cilium = Some(settings(&[("enable-host-legacy-routing", "true")]));
        assert_eq!(severities(&cilium(&survey, &input)), [("cilium-host-routing", CheckStatus::Ok)]);
    }

    #[test]
    fn ciliums_devices_without_its_configuration_are_a_warning() {
        let mut survey = Survey::healthy();
        survey.device("cilium_host", 0);
        let found = cilium(&survey, &DoctorInput::default());
        assert_eq!(severities(&found), [("cilium-host-routing", CheckStatus::Warn)]);
    }

    #[test]
    fn another_cni_is_recognised() {
        let mut survey = Survey::healthy();
        assert_eq!(cilium(&survey, &DoctorInput::default()), []);
        survey.device("cali12ab34", 0);
        assert_eq!(cilium(&survey, &DoctorInput::default()), [Check::ok("cni", "CNI: Calico")]);
        survey.device(CALICO_BPF, 0);
        assert_eq!(severities(&cilium(&survey, &DoctorInput::default())), [("calico-ebpf", CheckStatus::Warn)]);
    }
}
