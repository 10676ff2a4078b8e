//! The part of nftables that Egret speaks: tables, chains, rules made of a few kinds of statement, sets, maps and their elements.
//!
//! The text form is nft's own syntax, so what a report says can be compared with `nft list table inet egret`.
//! Deliberately absent: handles, counters and positions (the kernel's own affair), and netlink (`kernel::nft`).

mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::net::Mac;

pub use text::{element_text, prefix_of};

/// How many bytes a comment can have (`NFTNL_UDATA_COMMENT_MAXLEN`, 128 with its NUL, libnftnl/udata.h).
pub const COMMENT_LIMIT: usize = 127;

/// Everything of ours in nftables: the tables by family. Two at most: `inet egret` and `netdev egret`.
pub type Ruleset = BTreeMap<TableFamily, Table>;

/// The families that Egret has a table in (include/uapi/linux/netfilter.h, `NFPROTO_INET` 1 and `NFPROTO_NETDEV` 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableFamily {
    /// IPv4 and IPv6 together: steering, translation, guards.
    Inet,
    /// A device's ingress: where what comes out of the tunnel is checked before anything else of the node sees it.
    Netdev,
}

/// A table of ours. Its name is always [`super::ownership::TABLE`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The table belongs to the netlink socket of the process that made it: nobody else can change or flush it.
    /// Desired where the kernel has both `owner` and `persist`; without `persist` a crash would take the table away.
    pub owned: bool,
    /// It was owned, its owner has ended, and it waits for the next one. Found after a restart, never desired: a table that
    /// is neither owned nor abandoned cannot be taken over (the kernel refuses the flags), only replaced.
    pub abandoned: bool,
    /// Chains by name, in any order; rules within one chain are in order.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name. They share one name space in the kernel.
    pub sets: BTreeMap<String, Set>,
}

/// A chain: a base chain when it hangs in a hook, else one that is only jumped to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where it hangs in the packet's way.
    pub base: Option<BaseChain>,
    /// `comment "..."`: [`COMMENT_LIMIT`] bytes at most. An exit's chain says here which exit it is, so that a new process finds its marks again.
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
    /// Lower comes first. `mangle` is -150, `filter` 0, `srcnat` 100.
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

/// Where a base chain hangs.
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
    /// Go on.
    Accept,
    /// Drop.
    Drop,
}

/// A rule: statements evaluated in order; the first match that fails ends the rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NftRule(pub Vec<Statement>);

/// A counter in our tables: family, chain, and the index of its rule in the chain.
pub type CounterPlace = (TableFamily, String, usize);

/// What the counters in our tables say.
pub type RuleCounters = BTreeMap<CounterPlace, RuleCounter>;

/// What one counter says.
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
        /// What is looked at.
        field: Field,
        /// Bits that count; only for marks.
        mask: Option<u32>,
        /// `true` for `!=`.
        negated: bool,
        /// What it is compared with.
        value: MatchValue,
    },
    /// `FIELD [& MASK] [. FIELD] @SET` or `!= @SET`.
    InSet {
        /// The fields of the key, joined by ` . ` if there are two; the mask is the first one's.
        fields: Vec<Field>,
        /// Bits of the first field that count; only for marks.
        mask: Option<u32>,
        /// `true` for `!= @SET`.
        negated: bool,
        /// The set's name, without `@`.
        set: String,
    },
    /// `FIELD [& MASK] vmap @MAP`: goes on with the next rule where the map has no such key.
    VerdictMap {
        /// The key.
        field: Field,
        /// Bits that count; only for marks.
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
        /// Whose mark: [`Field::MetaMark`] or [`Field::CtMark`].
        field: Field,
        /// Bits that are kept.
        keep: u32,
        /// Bits that are set; disjoint from `keep`.
        value: u32,
    },
    /// `meta mark set FIELD map @MAP`: goes on with the next rule where the map has no such key.
    MarkFromMap {
        /// The key.
        field: Field,
        /// The map's name, without `@`.
        map: String,
    },
    /// `snat ip to ct mark & MASK map @MAP`: goes on with the next rule where the map has no such key.
    ///
    /// The connection's mark, not the packet's: a CNI may write the packet's mark between our chain in prerouting and this one.
    SnatMap {
        /// `ip` or `ip6`.
        family: AddressFamily,
        /// Bits of the connection mark that are the key.
        mask: u32,
        /// The map's name, without `@`.
        map: String,
    },
    /// `snat ip to ADDRESS`: of the address's family; goes on with the next rule for packets of the other.
    SnatTo {
        /// The source that the connection's packets get.
        address: IpAddr,
    },
    /// `meta pkttype set host`: the packet is for this host, whatever its destination MAC address says.
    PacketForHost,
    /// `notrack`: connection tracking passes the packet by.
    NoTrack,
    /// `fib saddr . iif oif missing`: the route back to the source does not lead through the interface that the packet came in by.
    NoRouteBack,
    /// `fib saddr type local`: the source is an address of this host.
    FromThisHost,
    /// `tcp flags syn tcp option maxseg size set rt mtu`: a TCP connection's segments are made to fit its way, both ways.
    ClampMss,
    /// `counter`. Packets and bytes are never compared.
    Counter,
    /// The rule's verdict; always last.
    Verdict(Verdict),
    /// Something Egret never writes: found in the kernel, shown, and replaced.
    Unknown(String),
}

/// What a statement looks at.
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
    /// `ether daddr`: the destination MAC address; matches only what came in by an Ethernet device.
    EtherDaddr,
    /// `meta iifkind`: the kind of device that it came in by, as behind `ip link add type`.
    Iifkind,
    /// `ct original ip saddr`: who began the connection; matches only tracked IPv4 packets.
    CtOriginal4,
    /// `ct original ip6 saddr`
    CtOriginal6,
    /// `ct reply ip daddr`: whom the other end answers, which is the source that our end was translated to.
    CtReply4,
    /// `ct reply ip6 daddr`
    CtReply6,
}

/// A value that a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatchValue {
    /// A mark.
    Mark(u32),
    /// `original` (false) or `reply` (true).
    Reply(bool),
    /// An interface's whole name, or a kind of interface.
    Interface(String),
    /// A MAC address.
    Mac(Mac),
    /// A port.
    Port(u16),
    /// An address.
    Address(IpAddr),
}

/// `ip` or `ip6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFamily {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl AddressFamily {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `4` or `6`, as our sets' names end.
    pub fn suffix(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// This base chain is done with it; the next one goes on.
    Accept,
    /// Gone.
    Drop,
    /// On in that chain, and back to the base chain's policy at its end.
    Goto(String),
    /// On in that chain, and back behind this rule at its end.
    Jump(String),
    /// Back to where this chain was jumped to from.
    Return,
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// The key's fields, joined when there are two.
    pub key: Vec<KeyType>,
    /// What a map's keys lead to; none for a set.
    pub data: Option<DataType>,
    /// `flags interval`: elements are ranges. They are kept disjoint: interval maps know no longest prefix.
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
    /// Both ends belong to it; `first <= last`, same family. Only in interval sets, and there always (`first == last` for one).
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

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementData {
    /// A verdict.
    Verdict(Verdict),
    /// An address.
    Address(IpAddr),
    /// A number kept as a mark.
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

/// The unspecified address of a family, for code that needs one of the right width.
pub fn unspecified(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// One change of a transaction. All of them happen at once or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftChange {
    /// Make the table, or take over one that has no owner.
    AddTable {
        /// Whether it is to belong to this process.
        owned: bool,
    },
    /// Take the table away with all that is in it.
    DeleteTable,
    /// Make a set or map with the given definition; its elements are added apart.
    AddSet(String, Set),
    /// Take a set away; nothing may use it any more.
    DeleteSet(String),
    /// Make a chain; its rules are added apart.
    AddChain(String, Option<BaseChain>, Option<String>),
    /// Take an empty chain away; nothing may lead to it any more.
    DeleteChain(String),
    /// Take all rules of a chain away.
    FlushChain(String),
    /// Add a rule at the end of a chain.
    AddRule(String, NftRule),
    /// Add elements to a set.
    AddElements(String, Vec<(ElementKey, Option<ElementData>)>),
    /// Take elements out of a set. The data is of no account to the kernel; it is kept for the text.
    DeleteElements(String, Vec<(ElementKey, Option<ElementData>)>),
}

/// What is changed in one table in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftTransaction {
    /// The changes, in the order they are put into the batch; families may mix.
    pub changes: Vec<(TableFamily, NftChange)>,
}
