//! Decodes links and addresses from rtnetlink dumps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Prop, State,
};

use crate::core::host_network::{InterfaceKind, ListedAddress};
use crate::core::state::net::{InterfaceAddress, Link, Mac};
use crate::core::state::ownership::LINK_PREFIX;

/// A link's properties, common to all kinds.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's, and none depends on another")]
pub(super) struct LinkState {
    pub(super) name: String,
    pub(super) up: bool,
    /// Administratively up, without a carrier.
    pub(super) no_carrier: bool,
    pub(super) kind: InterfaceKind,
    /// A bridge.
    pub(super) bridge: bool,
    pub(super) point_to_point: bool,
    pub(super) other_names: BTreeSet<String>,
    pub(super) mtu: u32,
    /// As a tunnel device of Egret's; `port` is 0 for any other kind of device.
    pub(super) link: Link,
}

impl LinkState {
    /// Whether it is Egret's, by its name: a device bears no other mark of ownership.
    pub(super) fn is_ours(&self) -> bool {
        is_ours(&self.name)
    }
}

/// Whether a device of this name is Egret's.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(LINK_PREFIX)
}

/// A link's index and state.
pub(super) fn decode(message: &LinkMessage) -> Option<(u32, LinkState)> {
    let flags = message.header.flags;
    let up = flags.contains(LinkFlags::Up);
    let mut bridge = false;
    let mut kind = if flags.contains(LinkFlags::Loopback) { InterfaceKind::Loopback } else { InterfaceKind::Device };
    let mut carrier = flags.contains(LinkFlags::LowerUp);
    let mut other_names = BTreeSet::new();
    let mut link = Link { port: 0, mac: Mac([0; 6]), mtu: 0, up, external: false };
    let mut name = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                if let Ok(mac) = <[u8; 6]>::try_from(bytes.as_slice()) {
                    link.mac = Mac(mac);
                }
            }
            LinkAttribute::LinkInfo(infos) => {
                vxlan(infos, &mut link);
                bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                if infos.contains(&LinkInfo::Kind(InfoKind::Dummy)) {
                    kind = InterfaceKind::Dummy;
                }
            }
            // Many drivers only ever report Unknown. Dormant is a port that waits for 802.1X (RFC 2863, 3.1.12).
            LinkAttribute::OperState(State::NotPresent | State::Down | State::LowerLayerDown | State::Dormant) => {
                carrier = false;
            }
            LinkAttribute::PropList(props) => other_names.extend(props.iter().filter_map(|prop| match prop {
                Prop::AltIfName(name) => Some(name.clone()),
                _ => None,
            })),
            _ => {}
        }
    }
    let seen = LinkState {
        name: name?,
        up,
        no_carrier: up && !carrier,
        kind,
        bridge,
        point_to_point: flags.contains(LinkFlags::Pointopoint),
        other_names,
        mtu: link.mtu,
        link,
    };
    Some((message.header.index, seen))
}

fn vxlan(infos: &[LinkInfo], link: &mut Link) {
    let parts = infos.iter().filter_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(parts)) => Some(parts),
        _ => None,
    });
    for part in parts.flatten() {
        match part {
            InfoVxlan::Port(port) => link.port = *port,
            InfoVxlan::CollectMetadata(external) => link.external = *external,
            _ => {}
        }
    }
}

/// An address as the kernel lists it, with its link.
pub(super) struct SeenAddress {
    pub(super) index: u32,
    pub(super) listed: ListedAddress,
    /// The kernel gives every IPv6 link one of these automatically.
    pub(super) link_local: bool,
}

pub(super) fn decode_address(message: &AddressMessage) -> Option<SeenAddress> {
    let mut address = None;
    let mut local = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Flags(found) => flags = *found,
            _ => {}
        }
    }
    // On a point-to-point link `Address` is the peer's.
    let own: IpAddr = local.or(address)?;
    let listed = ListedAddress {
        net: IpNet::new(own, message.header.prefix_len).ok()?,
        global: message.header.scope == AddressScope::Universe,
        deprecated: flags.contains(AddressFlags::Deprecated),
        // One bit for both (`IFA_F_TEMPORARY` is `IFA_F_SECONDARY`, include/uapi/linux/if_addr.h).
        secondary_or_temporary: flags.contains(AddressFlags::Secondary),
        // With optimistic detection (RFC 4429) the kernel already answers for it.
        tentative: flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic),
        duplicate: flags.contains(AddressFlags::Dadfailed),
    };
    Some(SeenAddress {
        index: message.header.index,
        listed,
        link_local: matches!(own, IpAddr::V6(v6) if v6.is_unicast_link_local()),
    })
}

/// The address, if it is on one of Egret's links, or if Egret's table records that it was put on another.
pub(super) fn own_address(
    seen: &SeenAddress,
    links: &BTreeMap<u32, LinkState>,
    assigned: &BTreeSet<IpAddr>,
) -> Option<InterfaceAddress> {
    let (link, net) = (links.get(&seen.index)?, seen.listed.net);
    let put = || net.prefix_len() == net.max_prefix_len() && assigned.contains(&net.addr());
    let own = if link.is_ours() { !seen.link_local } else { put() };
    own.then(|| InterfaceAddress { link: link.name.clone(), address: net })
}
