//! Devices, addresses, sysctls, rules, routes and neighbours, with iproute2's syntax as text form.
//!
//! A value that the kernel fills in (a scope, a default metric) is either a field here, with the kernel's value, or
//! normalised away in `kernel::observe`.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::AddressFamily;

/// The name of a device; any that the kernel accepts.
pub type LinkName = String;

/// A route's or rule's protocol number (`/etc/iproute2/rt_protos`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A tunnel device's MAC address, derived from its node's address: a peer's needs no lookup, and no two are equal.
    /// The kernel ignores packets whose source is the receiving device's own address, so one fixed address for all would
    /// not work.
    pub fn of_node(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                Self([0x02, 0, a, b, c, d])
            }
            IpAddr::V6(v6) => {
                let hash = fnv1a(&v6.octets()).to_be_bytes();
                Self([0x06, hash[3], hash[4], hash[5], hash[6], hash[7]])
            }
        }
    }

    /// The MAC address of an exit: 46 bits of a hash, unicast and locally administered (IEEE 802, 8.2). Every node
    /// derives the same one from the exit's identity, so none has to be distributed.
    pub fn of_exit(identity: &str) -> Self {
        let hash = mix(fnv1a(identity.as_bytes())).to_be_bytes();
        Self([hash[2] & 0xfc | 0x02, hash[3], hash[4], hash[5], hash[6], hash[7]])
    }

    /// Destination MAC address of replies inside the tunnel, for every node: the outer packet identifies the node.
    pub const REPLIES: Self = Self([0x02, 0xe9, 0, 0, 0, 0]);
}

/// FNV-1a, 64 bits: short, and stable across platforms and versions, which the standard library's hashers do not promise.
/// Nodes agree on exits' MAC addresses by it. <http://www.isthe.com/chongo/tech/comp/fnv/>
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014): FNV's high bits hardly depend on the last bytes; after this
/// they do.
pub fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A VXLAN device in external mode: one for all exits; each route has the peer and the VNI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// UDP destination port.
    pub port: u16,
    /// Hardware address.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// `external`: VNI and peer come from the route. Always true for Egret's; a device without it is replaced.
    pub external: bool,
}

/// An address on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The device.
    pub link: LinkName,
    /// Address and prefix length; the host bits are the address.
    pub address: IpNet,
}

/// A sysctl below `/proc/sys/net`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    /// `ipv4` or `ipv6`
    pub family: AddressFamily,
    /// The device.
    pub link: LinkName,
    /// Its name, for example `rp_filter`.
    pub name: &'static str,
}

/// A policy routing rule: packets with a mark, or with a source address, use a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingRule {
    /// IPv4 or IPv6 packets.
    pub family: AddressFamily,
    /// Lower values come first.
    pub priority: u32,
    /// The mark; 0 where the rule looks at the source.
    pub mark: u32,
    /// Mask of the mark.
    pub mask: u32,
    /// The source address, for rules of the node's own packets.
    pub from: Option<IpAddr>,
    /// The table.
    pub table: u32,
    /// A selector that Egret never writes (`to 10.0.0.0/8`, `iif eth0`); such a rule is replaced.
    pub odd: Option<String>,
}

/// The key of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// IPv4 or IPv6.
    pub family: AddressFamily,
    /// The table.
    pub table: u32,
    /// The destination; /0 is the default route.
    pub destination: IpNet,
    /// Lower wins. IPv6 routes without one have 1024.
    pub metric: u32,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Out of a device.
    Via {
        /// The device.
        link: LinkName,
        /// The next hop; none: the destination is on the link.
        gateway: Option<IpAddr>,
        /// `onlink`: the next hop need not be in a network of the device.
        onlink: bool,
        /// The tunnel encapsulation.
        encap: Option<Encap>,
    },
    /// Delivered to this host, although no interface has the address.
    Local {
        /// The device.
        link: LinkName,
    },
    /// ICMP unreachable: the end of a table, so that a packet with Egret's mark never falls through to the main table.
    Unreachable,
    /// The same without ICMP: the packet is lost, and its sender tries again.
    Blackhole,
    /// Continues with the next rule, for destinations that this table does not handle.
    Throw,
    /// A kind that Egret never writes: shown and replaced.
    Unknown(String),
}

/// `encap ip id VNI src OWN dst PEER`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encap {
    /// The network identifier, 24 bits.
    pub id: u32,
    /// The outer packet's source; none: the kernel's choice, which is the first address of the interface and not always
    /// the one by which the peer knows this node.
    pub source: Option<IpAddr>,
    /// The peer node.
    pub peer: IpAddr,
    /// `csum`: the outer UDP packet has a checksum. Required over IPv6 (RFC 8200 8.1); otherwise a receiver drops it.
    pub checksum: bool,
}

impl Encap {
    /// The encapsulation from one node to another.
    pub fn between(id: u32, own: IpAddr, peer: IpAddr) -> Self {
        Self { id, source: Some(own), peer, checksum: peer.is_ipv6() }
    }
}

/// A static neighbour: the MAC address of a next hop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The device.
    pub link: LinkName,
    /// The next hop.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: Mac,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            180 => f.write_str("egret"),
            2 => f.write_str("kernel"),
            3 => f.write_str("boot"),
            4 => f.write_str("static"),
            16 => f.write_str("dhcp"),
            186 => f.write_str("bgp"),
            other => write!(f, "{other}"),
        }
    }
}

/// As people write it, in logs as well.
impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if position > 0 { ":" } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Link {
    /// As behind `ip link add NAME`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "type vxlan {}dstport {} nolearning address {} mtu {} {}",
            if self.external { "external " } else { "" },
            self.port,
            self.mac,
            self.mtu,
            if self.up { "up" } else { "down" }
        )
    }
}

impl fmt::Display for InterfaceAddress {
    /// As behind `ip address add`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.address, self.link)
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            AddressFamily::V4 => "ipv4",
            AddressFamily::V6 => "ipv6",
        };
        write!(f, "net.{family}.conf.{}.{}", self.link, self.name)
    }
}

impl Sysctl {
    /// The file below `/proc/sys`. A device name contains neither `/` nor `..`, so the path stays there.
    pub fn path(&self) -> String {
        let family = match self.family {
            AddressFamily::V4 => "ipv4",
            AddressFamily::V6 => "ipv6",
        };
        format!("/proc/sys/net/{family}/conf/{}/{}", self.link, self.name)
    }
}

impl fmt::Display for RoutingRule {
    /// As `ip rule` lists it; IPv6 rules start with `-6`, as the option of `ip` that they need.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.family == AddressFamily::V6 {
            f.write_str("-6 ")?;
        }
        match self.from {
            Some(source) => write!(f, "{}: from {source}", self.priority)?,
            None => write!(f, "{}: from all fwmark {:#x}/{:#x}", self.priority, self.mark, self.mask)?,
        }
        if let Some(odd) = &self.odd {
            write!(f, " {odd}")?;
        }
        write!(f, " lookup {} proto egret", self.table)
    }
}

impl fmt::Display for RouteKey {
    /// `default`, `10.1.1.0/24`, with its metric unless it is the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination.prefix_len() {
            0 => f.write_str("default"),
            whole if whole == self.destination.max_prefix_len() => write!(f, "{}", self.destination.addr()),
            _ => write!(f, "{}", self.destination),
        }
    }
}

impl fmt::Display for Encap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.peer.is_ipv4() { "ip" } else { "ip6" };
        write!(f, "encap {word} id {}", self.id)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        write!(f, " dst {}{}", self.peer, if self.checksum { " csum" } else { "" })
    }
}

impl Route {
    /// Whether a packet goes no further.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Unreachable | Self::Blackhole)
    }
}

/// A route as behind `ip route add`.
pub fn route_text(key: &RouteKey, route: &Route) -> String {
    use fmt::Write;
    let mut text = String::new();
    if key.family == AddressFamily::V6 {
        text.push_str("-6 ");
    }
    match route {
        Route::Unreachable => text.push_str("unreachable "),
        Route::Blackhole => text.push_str("blackhole "),
        Route::Throw => text.push_str("throw "),
        Route::Local { .. } => text.push_str("local "),
        Route::Via { .. } | Route::Unknown(_) => {}
    }
    let _ = write!(text, "{key}");
    match route {
        Route::Via { link, gateway, onlink, encap } => {
            if let Some(encap) = encap {
                let _ = write!(text, " {encap}");
            }
            match gateway {
                Some(gateway) if AddressFamily::of(*gateway) != key.family => {
                    let _ = write!(text, " via inet6 {gateway}");
                }
                Some(gateway) => {
                    let _ = write!(text, " via {gateway}");
                }
                None => {}
            }
            let _ = write!(text, " dev {link}");
            if *onlink {
                text.push_str(" onlink");
            }
        }
        Route::Local { link } => {
            let _ = write!(text, " dev {link}");
        }
        Route::Unknown(what) => {
            let _ = write!(text, " [{what}]");
        }
        Route::Unreachable | Route::Blackhole | Route::Throw => {}
    }
    let _ = write!(text, " table {}", key.table);
    if key.metric != default_metric(key.family) {
        let _ = write!(text, " metric {}", key.metric);
    }
    text.push_str(" proto egret");
    text
}

/// The metric of a route that was given none: 0, and 1024 for IPv6 (`IP6_RT_PRIO_USER`, include/uapi/linux/ipv6_route.h).
pub fn default_metric(family: AddressFamily) -> u32 {
    match family {
        AddressFamily::V4 => 0,
        AddressFamily::V6 => 1024,
    }
}

impl fmt::Display for Neighbour {
    /// As behind `ip neigh add`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {} lladdr {} nud permanent", self.address, self.link, self.mac)
    }
}
