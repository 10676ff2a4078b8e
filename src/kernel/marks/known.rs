//! Known users of mark bits, recognised by their devices, tables and chains: marks set later, by eBPF or in
//! iptables-legacy appear in no dump.
//!
//! Not here: programs recognised by their rules alone (`rule`).

/// A program that reserves mark bits.
struct Known {
    /// Its name.
    name: &'static str,
    /// The bits.
    bits: u32,
    /// Prefixes of its devices' names.
    devices: &'static [&'static str],
    /// Prefixes of its tables' or chains' names.
    chains: &'static [&'static str],
}

/// From each program's sources and documentation.
const KNOWN: [Known; 8] = [
    // `iptables.masqueradeBit`, and the former mark of dropped packets.
    Known {
        name: "kube-proxy",
        bits: crate::core::state::mask::KUBE_PROXY,
        devices: &["kube-ipvs"],
        chains: &["KUBE-", "kube-proxy"],
    },
    // Felix' default `iptablesMarkMask`.
    Known { name: "Calico", bits: 0xffff_0000, devices: &["cali", "vxlan.calico"], chains: &["cali-", "calico"] },
    // A magic number and, above it, the identity (bpf/lib/common.h, `MARK_MAGIC_*`).
    Known { name: "Cilium", bits: 0xffff_0f00, devices: &["cilium_"], chains: &["CILIUM_"] },
    // pkg/agent/types/marks.go: `HostLocalSourceBit`, which was 0 and is 31, and `SNATIPMarkMask`.
    Known { name: "Antrea", bits: 0x8000_00ff, devices: &["antrea-"], chains: &["ANTREA-"] },
    // `AWS_VPC_K8S_CNI_CONNMARK`.
    Known { name: "the AWS VPC CNI", bits: 0x80, devices: &["eni"], chains: &["AWS-"] },
    // Marks of traffic that its network policies accepted, and of traffic they have checked.
    Known {
        name: "kube-router",
        bits: 0x3_0000,
        devices: &["kube-bridge", "kube-dummy-if"],
        chains: &["KUBE-ROUTER-"],
    },
    // Its network policies' bits.
    Known { name: "Weave", bits: 0x6_0000, devices: &["weave"], chains: &["WEAVE-"] },
    // util/linuxfw: `TailscaleFwmarkMask`.
    Known { name: "Tailscale", bits: 0xff_0000, devices: &["tailscale"], chains: &["ts-"] },
];

/// The known programs that are present: names and bits. `devices` are device names, `chains` table and chain names.
pub(super) fn there<'a>(
    devices: &'a [String],
    chains: &'a [String],
) -> impl Iterator<Item = (&'static str, u32)> + use<'a> {
    let begins =
        |names: &[String], with: &[&str]| names.iter().any(|name| with.iter().any(|text| name.starts_with(text)));
    KNOWN
        .iter()
        .filter(move |known| begins(devices, known.devices) || begins(chains, known.chains))
        .map(|known| (known.name, known.bits))
}
