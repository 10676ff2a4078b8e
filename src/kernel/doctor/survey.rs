//! Facts about a machine that the doctor's checks judge: plain values, so that every check can be tested without a
//! machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::state::mask::MaskChoice;
use crate::core::state::net::{Protocol, RoutingRule};

use super::super::foreign;
use super::super::marks::MarkSurvey;
use super::networkd::Networkd;

/// Everything that was found. A part that could not be read is none, or holds the reason.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    /// `uname -r`
    pub(super) release: String,
    /// The result of each kernel feature tried; the error is why nothing could be tried.
    pub(super) trial: Result<Vec<Attempt>, String>,
    /// The effective capabilities of this process, one bit each (include/uapi/linux/capability.h).
    pub(super) capabilities: Option<u64>,
    /// Sysctls below `/proc/sys/net`.
    pub(super) settings: SysctlSurvey,
    /// All devices by name, Egret's included.
    pub(super) devices: BTreeMap<String, Device>,
    /// Addresses, routes of the main table, filters of interfaces that are not ours.
    pub(super) host_network: HostNetwork,
    /// All policy routing rules.
    pub(super) rules: Vec<(RoutingRule, Protocol)>,
    /// Routes of other programs in tables of our range, in `ip route add` syntax.
    pub(super) foreign_routes: Vec<String>,
    /// Mark bits that other programs use; the error is why they are not known.
    pub(super) marks: Result<MarkSurvey, String>,
    /// The mark bits that this node takes; none where egret.yaml sets them.
    pub(super) choice: Option<MaskChoice>,
    /// The other nodes with their tunnel addresses, and the kernel's route to each, or the error of looking it up.
    pub(super) peer_routes: Vec<(NodeName, IpAddr, Result<PeerRoute, String>)>,
    /// The nftables rules of other programs; empty where they cannot be listed.
    pub(super) foreign: Vec<foreign::ForeignRule>,
    /// All nftables chains, of all tables; none where they cannot be listed.
    pub(super) chains: Option<Vec<ForeignChain>>,
    /// UDP ports that sockets of this namespace are bound to, the kernel's own sockets included.
    pub(super) udp_ports: BTreeSet<u16>,
    /// Tables of iptables-legacy (`/proc/net/ip_tables_names`, `ip6_tables_names`).
    pub(super) legacy_tables: BTreeSet<String>,
    /// What systemd-networkd does to foreign rules and routes; none where it does not run.
    pub(super) networkd: Option<Networkd>,
    /// The running configuration of Cilium's agent on this machine, keyed as in `cilium-config`.
    pub(super) cilium: Option<BTreeMap<String, String>>,
    /// The eBPF maps of Cilium's egress gateway that are pinned here.
    pub(super) egress_maps: Vec<String>,
}

/// One feature that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    /// `vxlan`, `policy routing`
    pub(super) feature: &'static str,
    /// The kernel's error, if it refused.
    pub(super) refusal: Option<String>,
    /// What does not work without the feature, and what to do; none: nothing works without it.
    pub(super) optional: Option<&'static str>,
    /// What to do about a refusal.
    pub(super) hint: &'static str,
}

/// Sysctls below `/proc/sys/net`; none where a file is missing.
#[derive(Debug, Clone, Default)]
pub(super) struct SysctlSurvey {
    /// Why they cannot be written, if they cannot.
    pub(super) read_only: Option<String>,
    /// `net.ipv4.ip_forward`
    pub(super) forwards4: Option<bool>,
    /// `net.ipv6.conf.all.forwarding`
    pub(super) forwards6: Option<bool>,
    /// `net.ipv4.conf.all.src_valid_mark`
    pub(super) src_valid_mark: Option<bool>,
}

/// The kernel's route to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PeerRoute {
    /// The outgoing interface.
    pub(super) interface: String,
    /// The route's MTU, otherwise the interface's, in bytes.
    pub(super) mtu: u32,
    /// Whether the address is one of this machine's own.
    pub(super) local: bool,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// MTU in bytes.
    pub(super) mtu: u32,
    /// The UDP port of a VXLAN device; 0 for any other.
    pub(super) vxlan_port: u16,
    /// Whether it has an Egret name.
    pub(super) ours: bool,
}

/// A hook in which Egret's packets are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    /// What comes to this node.
    Input,
    /// What passes through it.
    Forward,
    /// What it sends.
    Output,
}

/// An nftables chain, of any owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ForeignChain {
    /// `ip`, `ip6`, `inet`; other families by number.
    pub(super) family: String,
    /// Its table.
    pub(super) table: String,
    /// Its name.
    pub(super) name: String,
    /// The hook of a base chain of an IP family, if it is one in which Egret's packets are looked at.
    pub(super) hook: Option<Hook>,
    /// Whether its policy is drop.
    pub(super) drops: bool,
}

#[cfg(test)]
impl Survey {
    /// A machine on which every check passes and no other program interferes.
    pub(super) fn healthy() -> Self {
        let feature = |feature| Attempt { feature, refusal: None, optional: None, hint: "" };
        Self {
            release: "6.18.0".to_owned(),
            trial: Ok(vec![feature("nf_tables"), feature("vxlan")]),
            capabilities: Some(u64::MAX),
            settings: SysctlSurvey {
                read_only: None,
                forwards4: Some(true),
                forwards6: Some(true),
                src_valid_mark: Some(false),
            },
            devices: BTreeMap::new(),
            host_network: HostNetwork {
                features: crate::core::host_network::KernelFeatures {
                    owned_tables: true,
                    interface_kinds: true,
                    resets: true,
                    ipv6: true,
                },
                ..HostNetwork::default()
            },
            rules: Vec::new(),
            foreign_routes: Vec::new(),
            marks: Ok(MarkSurvey::default()),
            choice: Some(crate::core::state::mask::choose(&crate::core::state::mask::MarkUsage::default(), None)),
            peer_routes: Vec::new(),
            foreign: Vec::new(),
            chains: Some(Vec::new()),
            udp_ports: BTreeSet::new(),
            legacy_tables: BTreeSet::new(),
            networkd: None,
            cilium: None,
            egress_maps: Vec::new(),
        }
    }

    /// Adds a device.
    pub(super) fn device(&mut self, name: &str, vxlan_port: u16) {
        let ours = name.starts_with(crate::core::state::ownership::LINK_PREFIX);
        self.devices.insert(name.to_owned(), Device { mtu: 1500, vxlan_port, ours });
    }
}
