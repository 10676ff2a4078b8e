//! What becomes of a packet, once it is decided which policy has it: with which address it leaves, or why not.
//!
//! Assertions and `egret explain` both ask here. Not here: who is a member (`policy::members`), and which of several policies has a
//! destination (`compile::groups`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::compile::{Disposition, egress_address};
use super::host_network::HostNetwork;
use super::name::NodeName;
use super::placement::ExitKey;
use super::state::nft::AddressFamily;

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PacketFate {
    /// It leaves with this address, through this gateway.
    As(IpAddr, NodeName),
    /// It leaves through this exit, whose address is not known.
    Unknown(ExitKey),
    /// It is dropped: there is no gateway, or this gateway has no address for it.
    Dropped(Option<ExitKey>),
    /// It leaves by its node's own routing, for this reason.
    Own(OwnReason),
}

/// Why a packet is not steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnReason {
    /// No policy of the pod has the destination.
    NoPolicy,
    /// The policy excludes it.
    Excluded,
    /// No gateway of the policy is fit, and it says `Passthrough`.
    PassedThrough,
    /// The destination belongs to the cluster, or egret.yaml excludes it.
    NeverSteered,
}

/// The fate of a packet that a policy has, by the interfaces of the gateways that are known. `passes`: the policy as a whole is passed
/// through, so that a packet which is not steered is not excluded by it.
pub(crate) fn fate(
    way: &Disposition,
    passes: bool,
    destination: IpAddr,
    host_networks: &BTreeMap<NodeName, HostNetwork>,
) -> PacketFate {
    let exit = match way {
        Disposition::Drop => return PacketFate::Dropped(None),
        Disposition::Own => {
            return PacketFate::Own(if passes { OwnReason::PassedThrough } else { OwnReason::Excluded });
        }
        Disposition::Exit(exit) => exit,
    };
    let family = AddressFamily::of(destination);
    match (host_networks.get(&exit.gateway), &exit.egress) {
        (Some(host_network), _) => match egress_address(exit, family, host_network) {
            Ok(Some((_, address))) => PacketFate::As(address, exit.gateway.clone()),
            Ok(None) | Err(_) => PacketFate::Dropped(Some(exit.clone())),
        },
        (None, egress) => match egress.address_in(family) {
            Some(address) => PacketFate::As(address, exit.gateway.clone()),
            None if egress.is_named() => PacketFate::Dropped(Some(exit.clone())),
            None => PacketFate::Unknown(exit.clone()),
        },
    }
}
