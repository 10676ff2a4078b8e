//! The part of nftables that Egret uses: tables, chains, rules made of a few kinds of statement, sets, maps and their
//! elements.
//!
//! The text form is nft's own syntax, so that a report can be compared with `nft list table inet egret`. Not here:
//! handles, counters and positions, which the kernel assigns, and netlink (`kernel::nft`).

mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use super::AddressFamily;
use super::net::Mac;

pub use text::{element_text, prefix_of};

/// Maximum length of a comment in bytes (`NFTNL_UDATA_COMMENT_MAXLEN`, 128 with its NUL, libnftnl/udata.h).
pub const COMMENT_LIMIT: usize = 127;

/// Egret's tables by family: at most `inet egret` and `netdev egret`.
pub type Ruleset = BTreeMap<TableFamily, Table>;

/// The families in which Egret has a table (include/uapi/linux/netfilter.h, `NFPROTO_INET` 1 and `NFPROTO_NETDEV` 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableFamily {
    /// IPv4 and IPv6 together: steering, translation, guards.
    Inet,
    /// A device's ingress: checks packets from the tunnel before anything else of the node sees them.
    Netdev,
}

/// A table of Egret's. Its name is always [`super::ownership::TABLE`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Whether it belongs to the netlink socket of the process that created it: no other process can change or flush it.
    /// Desired where the kernel has both `owner` and `persist`; without `persist` a crash would delete the table.
    pub owned: bool,
    /// It was owned and its owner has ended: the next process can take it over. Found after a restart, never desired. A
    /// table that is neither owned nor abandoned cannot be taken over (the kernel refuses the flags), only replaced.
    pub abandoned: bool,
    /// Chains by name, in any order; rules within one chain are in order.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name. They share one namespace in the kernel.
    pub sets: BTreeMap<String, Set>,
}

/// A chain: a base chain if it is attached to a hook, otherwise one that rules jump to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// The hook, if it is a base chain.
    pub base: Option<BaseChain>,
    /// `comment "..."`: [`COMMENT_LIMIT`] bytes at most. An exit's chain has the exit's identity here, so that a new
    /// process finds its marks again.
    pub comment: Option<String>,
    /// The rules, in the order they are evaluated.
    pub rules: Vec<NftRule>,
}

/// The hook of a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// `filter`, `nat` or `route`.
    pub kind: ChainKind,
    /// Which hook.
    pub hook: Hook,
    /// Lower values come first. `mangle` is -150, `filter` 0, `srcnat` 100.
    pub priority: i32,
    /// What happens to a packet that reaches the end of the chain.
    pub policy: ChainPolicy,
}

/// The type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of a connection.
    Nat,
    /// Sees every packet that leaves the host itself; one whose mark it changes is routed again. Only in [`Hook::Output`].
    Route,
}

/// The hook of a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// `NF_INET_PRE_ROUTING`
    Prerouting,
    /// `NF_INET_LOCAL_IN`
    Input,
    /// `NF_INET_FORWARD`
    Forward,
    /// `NF_INET_LOCAL_OUT`
    Output,
    /// `NF_INET_POST_ROUTING`
    Postrouting,
    /// `NF_NETDEV_INGRESS` of one device.
    Ingress(String),
}

/// A base chain's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainPolicy {
    /// The packet continues.
    Accept,
    /// The packet is dropped.
    Drop,
}

/// A rule: statements evaluated in order; the first that does not match ends the rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NftRule(pub Vec<Statement>);

/// The place of a counter in Egret's tables: family, chain, and the index of its rule in the chain.
pub type CounterPlace = (TableFamily, String, usize);

/// The counters in Egret's tables.
pub type RuleCounters = BTreeMap<CounterPlace, RuleCounter>;

/// The value of one counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleCounter {
    /// Packets that reached it.
    pub packets: u64,
    /// Their bytes, from the network header on.
    pub bytes: u64,
}

/// One statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `FIELD [& MASK] == VALUE` or `!=`.
    Compare {
        /// The field compared.
        field: Field,
        /// The mask; only for marks.
        mask: Option<u32>,
        /// `true` for `!=`.
        negated: bool,
        /// The value.
        value: MatchValue,
    },
    /// `FIELD [& MASK] [. FIELD] @SET` or `!= @SET`.
    InSet {
        /// The fields of the key, concatenated by ` . ` if there are two; the mask applies to the first.
        fields: Vec<Field>,
        /// The mask of the first field; only for marks.
        mask: Option<u32>,
        /// `true` for `!= @SET`.
        negated: bool,
        /// The set's name, without `@`.
        set: String,
    },
    /// `FIELD [& MASK] vmap @MAP`: continues with the next rule if the map has no such key.
    VerdictMap {
        /// The key.
        field: Field,
        /// The mask; only for marks.
        mask: Option<u32>,
        /// The map's name, without `@`.
        map: String,
    },
    /// `ct state != new` / `ct state new` as a bitmask test: matches if any of the bits is set (or, negated, if none is).
    CtState {
        /// `NF_CT_STATE_*` bits: invalid 1, established 2, related 4, new 8, untracked 64.
        bits: u32,
        /// `true`: matches when none of the bits is set.
        negated: bool,
    },
    /// `meta mark set meta mark & KEEP | VALUE`, or the same with `ct mark`.
    SetMark {
        /// [`Field::MetaMark`] or [`Field::CtMark`].
        field: Field,
        /// Bits that are kept.
        keep: u32,
        /// Bits that are set; disjoint from `keep`.
        value: u32,
    },
    /// `meta mark set FIELD map @MAP`: continues with the next rule if the map has no such key.
    MarkFromMap {
        /// The key.
        field: Field,
        /// The map's name, without `@`.
        map: String,
    },
    /// `snat ip to ct mark & MASK map @MAP`: continues with the next rule if the map has no such key.
    ///
    /// The connection's mark, not the packet's: a CNI may write the packet's mark between our chain in prerouting and
    /// this one.
    SnatMap {
        /// `ip` or `ip6`.
        family: AddressFamily,
        /// The bits of the connection mark that are the key.
        mask: u32,
        /// The map's name, without `@`.
        map: String,
    },
    /// `snat ip to ADDRESS`: for packets of the address's family; continues with the next rule for others.
    SnatTo {
        /// The new source address.
        address: IpAddr,
    },
    /// `meta l4proto tcp snat ip to ADDRESS fully-random`: the same for TCP, with a port of all, by chance.
    SnatTcpTo {
        /// The new source address.
        address: IpAddr,
    },
    /// `meta pkttype set host`: treats the packet as addressed to this host, whatever its destination MAC address.
    PacketForHost,
    /// `meta l4proto tcp reject with tcp reset`: answers a TCP segment with a reset, and drops it.
    Reset,
    /// `tcp flags ! syn`: a TCP segment that begins no connection.
    WithoutSyn,
    /// `notrack`: exempts the packet from connection tracking.
    NoTrack,
    /// `fib saddr . iif oif missing`: the route back to the source does not use the incoming interface.
    NoRouteBack,
    /// `fib saddr type local`: the source is an address of this host.
    FromThisHost,
    /// `fib daddr type local`: the destination is an address of this host.
    ToThisHost,
    /// `tcp flags syn tcp option maxseg size set rt mtu`: a TCP connection's segments are made to fit its way, both ways.
    ClampMss,
    /// `counter`. Its values are not compared.
    Counter,
    /// The rule's verdict; always last.
    Verdict(Verdict),
    /// A statement that Egret never writes: shown and replaced.
    Unknown(String),
}

/// The field that a statement reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// `meta mark`
    MetaMark,
    /// `ct mark`
    CtMark,
    /// `ct direction`
    CtDirection,
    /// `iifname`
    Iifname,
    /// `oifname`
    Oifname,
    /// `ip saddr`; matches only IPv4 packets.
    Ip4Saddr,
    /// `ip daddr`
    Ip4Daddr,
    /// `ip6 saddr`; matches only IPv6 packets.
    Ip6Saddr,
    /// `ip6 daddr`
    Ip6Daddr,
    /// `udp dport`; matches only UDP packets.
    UdpDport,
    /// `tcp dport`; matches only TCP packets.
    TcpDport,
    /// `ether daddr`: the destination MAC address; matches only packets from an Ethernet device.
    EtherDaddr,
    /// `meta iifkind`: the kind of the incoming device, as in `ip link add type`.
    Iifkind,
    /// `ct original ip saddr`: the connection's original source; matches only tracked IPv4 packets.
    CtOriginal4,
    /// `ct original ip6 saddr`
    CtOriginal6,
    /// `ct reply ip daddr`: the destination of replies, which is the address that the source was translated to.
    CtReply4,
    /// `ct reply ip6 daddr`
    CtReply6,
    /// `rt ip nexthop`: the router that the packet's route leads to, or its destination where it leads to none; matches only
    /// routed IPv4 packets.
    RtNexthop4,
    /// `rt ip6 nexthop`
    RtNexthop6,
}

/// A value that a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatchValue {
    /// A mark.
    Mark(u32),
    /// `original` (false) or `reply` (true).
    Reply(bool),
    /// An interface's name, or a kind of interface.
    Interface(String),
    /// A MAC address.
    Mac(Mac),
    /// A port.
    Port(u16),
    /// An address.
    Address(IpAddr),
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Ends this base chain; the next one sees the packet.
    Accept,
    /// Drops the packet.
    Drop,
    /// Continues in that chain; at its end the base chain's policy applies.
    Goto(String),
    /// Continues in that chain; at its end behind this rule.
    Jump(String),
    /// Returns to the calling chain.
    Return,
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The key's fields, concatenated if there are two.
    pub key: Vec<KeyType>,
    /// The type of a map's data; none for a set.
    pub data: Option<DataType>,
    /// `flags interval`: elements are ranges. They are kept disjoint: interval maps have no longest-prefix match.
    pub interval: bool,
    /// The elements.
    pub elements: BTreeMap<ElementKey, Option<ElementData>>,
}

/// The type of (a part of) a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// `ipv4_addr`
    Ipv4Addr,
    /// `ipv6_addr`
    Ipv6Addr,
    /// `mark`: host byte order.
    Mark,
    /// `ifname`
    Ifname,
    /// `ether_addr`
    EtherAddr,
}

/// The type of a map's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// `verdict`
    Verdict,
    /// `ipv4_addr`
    Ipv4Addr,
    /// `ipv6_addr`
    Ipv6Addr,
    /// `mark`
    Mark,
}

/// An element's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementKey {
    /// One address.
    Address(IpAddr),
    /// A range, both ends included; `first <= last`, same family. Used only in interval sets, and for all their elements
    /// (`first == last` for one address).
    Range(IpAddr, IpAddr),
    /// A mark.
    Mark(u32),
    /// A mark and an address.
    MarkAddress(u32, IpAddr),
    /// An interface's name.
    Interface(String),
    /// A MAC address.
    Mac(Mac),
}

/// The data of a map element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementData {
    /// A verdict.
    Verdict(Verdict),
    /// An address.
    Address(IpAddr),
    /// A number in the form of a mark.
    Mark(u32),
}

impl TableFamily {
    /// `inet` or `netdev`
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Netdev => "netdev",
        }
    }
}

/// The unspecified address of a family.
pub fn unspecified(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// One change of a transaction, which is atomic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftChange {
    /// Creates the table, or takes over one that has no owner.
    AddTable {
        /// Whether this process owns it.
        owned: bool,
    },
    /// Deletes the table with its contents.
    DeleteTable,
    /// Creates a set or map with this definition; its elements are added separately.
    AddSet(String, Set),
    /// Deletes a set that nothing refers to any more.
    DeleteSet(String),
    /// Creates a chain; its rules are added separately.
    AddChain(String, Option<BaseChain>, Option<String>),
    /// Deletes an empty chain that nothing refers to any more.
    DeleteChain(String),
    /// Deletes all rules of a chain.
    FlushChain(String),
    /// Appends a rule to a chain.
    AddRule(String, NftRule),
    /// Adds elements to a set.
    AddElements(String, Vec<(ElementKey, Option<ElementData>)>),
    /// Deletes elements of a set. The kernel ignores the data; it is kept for the text.
    DeleteElements(String, Vec<(ElementKey, Option<ElementData>)>),
}

/// Changes that are committed atomically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftTransaction {
    /// The changes in batch order; families may mix.
    pub changes: Vec<(TableFamily, NftChange)>,
}
