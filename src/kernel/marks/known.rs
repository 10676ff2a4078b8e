//! Who uses which bits of marks, known by the devices, tables and chains they have on a node: what they set at a later time, by eBPF, or in
//! iptables' old engine is in no listing.
//!
//! Deliberately absent: whoever is known by nothing but rules. Those are read (`rule`).

/// Somebody who keeps bits for itself.
struct Known {
    /// Its name.
    who: &'static str,
    /// The bits.
    bits: u32,
    /// What the names of its devices start with.
    devices: &'static [&'static str],
    /// What the names of its tables or chains start with.
    chains: &'static [&'static str],
}

/// From their sources and documentation.
const KNOWN: [Known; 8] = [
    // `iptables.masqueradeBit`, and the former mark of dropped packets.
    Known {
        who: "kube-proxy",
        bits: crate::core::state::mask::KUBE_PROXY,
        devices: &["kube-ipvs"],
        chains: &["KUBE-", "kube-proxy"],
    },
    // Felix' `iptablesMarkMask` unless somebody changed it.
    Known { who: "Calico", bits: 0xffff_0000, devices: &["cali", "vxlan.calico"], chains: &["cali-", "calico"] },
    // A magic number and, above, the identity (bpf/lib/common.h, `MARK_MAGIC_*`).
    Known { who: "Cilium", bits: 0xffff_0f00, devices: &["cilium_"], chains: &["CILIUM_"] },
    // pkg/agent/types/marks.go: `HostLocalSourceBit`, which was 0 and is 31, and `SNATIPMarkMask`.
    Known { who: "Antrea", bits: 0x8000_00ff, devices: &["antrea-"], chains: &["ANTREA-"] },
    // `AWS_VPC_K8S_CNI_CONNMARK`.
    Known { who: "the AWS VPC CNI", bits: 0x80, devices: &["eni"], chains: &["AWS-"] },
    // What its network policies let through, and what they have looked at.
    Known { who: "kube-router", bits: 0x3_0000, devices: &["kube-bridge", "kube-dummy-if"], chains: &["KUBE-ROUTER-"] },
    // Its network policies' bits.
    Known { who: "Weave", bits: 0x6_0000, devices: &["weave"], chains: &["WEAVE-"] },
    // util/linuxfw: `TailscaleFwmarkMask`.
    Known { who: "Tailscale", bits: 0xff_0000, devices: &["tailscale"], chains: &["ts-"] },
];

/// Those who are there: their names and bits. `devices` are names of devices, `chains` of tables and chains.
pub(super) fn there<'a>(
    devices: &'a [String],
    chains: &'a [String],
) -> impl Iterator<Item = (&'static str, u32)> + use<'a> {
    let begins =
        |names: &[String], with: &[&str]| names.iter().any(|name| with.iter().any(|text| name.starts_with(text)));
    KNOWN
        .iter()
        .filter(move |known| begins(devices, known.devices) || begins(chains, known.chains))
        .map(|known| (known.who, known.bits))
}
