//! What the doctor knows of a machine before it judges: plain values, so that every judgement can be tested without a machine.
//!
//! Deliberately absent: how they are gathered (`gather`), and what they mean (`checks`, `others`, `cilium`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::state::mask::MaskChoice;
use crate::core::state::net::{Protocol, RoutingRule};

use super::super::foreign;
use super::super::marks::MarkSurvey;
use super::networkd::Networkd;

/// Everything that was found. A part that could not be looked at is none, or says why.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    /// `uname -r`
    pub(super) release: String,
    /// What became of trying the kernel's features; the text says why nothing could be tried.
    pub(super) trial: Result<Vec<Attempt>, String>,
    /// The effective capabilities of this process, one bit each (include/uapi/linux/capability.h).
    pub(super) capabilities: Option<u64>,
    /// Settings below `/proc/sys/net`.
    pub(super) settings: SysctlSurvey,
    /// All devices, ours too, by name.
    pub(super) devices: BTreeMap<String, Device>,
    /// Addresses, routes of the main table, filters of interfaces that are not ours.
    pub(super) host_network: HostNetwork,
    /// All policy routing rules.
    pub(super) rules: Vec<(RoutingRule, Protocol)>,
    /// Routes of others in tables of our range, as `ip route add` would take them.
    pub(super) foreign_routes: Vec<String>,
    /// What others use of marks; the text says why that is not known.
    pub(super) marks: Result<MarkSurvey, String>,
    /// The mark bits that this node takes; none where egret.yaml says which.
    pub(super) choice: Option<MaskChoice>,
    /// The other nodes with the addresses that tunnels lead to, and the kernel's way there, or its word against it.
    pub(super) ways: Vec<(NodeName, IpAddr, Result<PeerRoute, String>)>,
    /// The nftables rules of others; empty where they cannot be listed.
    pub(super) foreign: Vec<foreign::ForeignRule>,
    /// All nftables chains, of all tables; none where they cannot be listed.
    pub(super) chains: Option<Vec<ForeignChain>>,
    /// UDP ports that some socket of this namespace is bound to, the kernel's own sockets among them.
    pub(super) udp_ports: BTreeSet<u16>,
    /// Tables of iptables' old engine (`/proc/net/ip_tables_names`, `ip6_tables_names`).
    pub(super) legacy_tables: BTreeSet<String>,
    /// What systemd-networkd does to the rules and routes of others; none where it does not run.
    pub(super) networkd: Option<Networkd>,
    /// What Cilium's agent on this machine runs with, by the names of `cilium-config`.
    pub(super) cilium: Option<BTreeMap<String, String>>,
}

/// One feature that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    /// `vxlan`, `policy routing`
    pub(super) feature: &'static str,
    /// The kernel's word, if it refused.
    pub(super) refusal: Option<String>,
    /// What does not work without it, and what to do; none: nothing works without it.
    pub(super) optional: Option<&'static str>,
    /// What to do about a refusal.
    pub(super) hint: &'static str,
}

/// Settings below `/proc/sys/net`; none where a file is not there.
#[derive(Debug, Clone, Default)]
pub(super) struct SysctlSurvey {
    /// Why they cannot be written, if so.
    pub(super) read_only: Option<String>,
    /// `net.ipv4.ip_forward`
    pub(super) forwards4: Option<bool>,
    /// `net.ipv6.conf.all.forwarding`
    pub(super) forwards6: Option<bool>,
    /// `net.ipv4.conf.all.src_valid_mark`
    pub(super) src_valid_mark: Option<bool>,
}

/// The kernel's way to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PeerRoute {
    /// Where it leaves.
    pub(super) interface: String,
    /// The largest packet: the route's MTU, or the interface's.
    pub(super) mtu: u32,
    /// It ends here: the address is one of this machine's.
    pub(super) local: bool,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// MTU in bytes.
    pub(super) mtu: u32,
    /// The UDP port of a VXLAN device; 0 for any other.
    pub(super) vxlan_port: u16,
    /// Bears our name.
    pub(super) ours: bool,
}

/// A chain of nftables, whosever it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ForeignChain {
    /// `ip`, `ip6`, `inet`, or a number for the rest.
    pub(super) family: String,
    /// Its table.
    pub(super) table: String,
    /// Its name.
    pub(super) name: String,
    /// It hangs in the forward hook of an IP family.
    pub(super) forward: bool,
    /// Its policy is drop.
    pub(super) drops: bool,
}

#[cfg(test)]
impl Survey {
    /// A machine on which everything is as it should be, and nobody else is at work.
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
                    ipv6: true,
                },
                ..HostNetwork::default()
            },
            rules: Vec::new(),
            foreign_routes: Vec::new(),
            marks: Ok(MarkSurvey::default()),
            choice: Some(crate::core::state::mask::choose(&crate::core::state::mask::MarkUsage::default(), None)),
            ways: Vec::new(),
            foreign: Vec::new(),
            chains: Some(Vec::new()),
            udp_ports: BTreeSet::new(),
            legacy_tables: BTreeSet::new(),
            networkd: None,
            cilium: None,
        }
    }

    /// Adds a device.
    pub(super) fn device(&mut self, name: &str, vxlan_port: u16) {
        let ours = name.starts_with(crate::core::state::ownership::LINK_PREFIX);
        self.devices.insert(name.to_owned(), Device { mtu: 1500, vxlan_port, ours });
    }
}
