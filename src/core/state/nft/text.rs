//! Renders tables, rules, sets and changes in nft's syntax, as `nft list table inet egret` prints them.
//!
//! The text is never parsed: the kernel's state comes over netlink.

use std::fmt;
use std::net::IpAddr;

use super::{
    AddressFamily, BaseChain, ChainKind, ChainPolicy, DataType, ElementData, ElementKey, Field, Hook, KeyType,
    MatchValue, NftChange, NftRule, Set, Statement, Table, TableFamily, Verdict,
};
use crate::core::state::ownership::TABLE;

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        };
        let policy = match self.policy {
            ChainPolicy::Accept => "accept",
            ChainPolicy::Drop => "drop",
        };
        write!(f, "type {kind} hook ")?;
        match &self.hook {
            Hook::Prerouting => f.write_str("prerouting")?,
            Hook::Input => f.write_str("input")?,
            Hook::Forward => f.write_str("forward")?,
            Hook::Output => f.write_str("output")?,
            Hook::Postrouting => f.write_str("postrouting")?,
            Hook::Ingress(device) => write!(f, "ingress device \"{device}\"")?,
        }
        write!(f, " priority {}; policy {policy};", self.priority)
    }
}

impl fmt::Display for NftRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, statement) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{statement}")?;
        }
        Ok(())
    }
}

/// Writes `FIELD`, or `FIELD & 0xMASK`.
fn masked(f: &mut fmt::Formatter<'_>, field: Field, mask: Option<u32>) -> fmt::Result {
    match mask {
        Some(mask) => write!(f, "{field} & {mask:#x}"),
        None => write!(f, "{field}"),
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare { field, mask, negated, value } => {
                masked(f, *field, *mask)?;
                match (negated, mask) {
                    (true, _) => f.write_str(" !=")?,
                    (false, Some(_)) => f.write_str(" ==")?,
                    (false, None) => {}
                }
                write!(f, " {value}")
            }
            Self::InSet { fields, mask, negated, set } => {
                for (position, field) in fields.iter().enumerate() {
                    if position == 0 {
                        masked(f, *field, *mask)?;
                    } else {
                        write!(f, " . {field}")?;
                    }
                }
                write!(f, "{} @{set}", if *negated { " !=" } else { "" })
            }
            Self::VerdictMap { field, mask, map } => {
                masked(f, *field, *mask)?;
                write!(f, " vmap @{map}")
            }
            Self::CtState { bits, negated } => {
                const NAMES: [(u32, &str); 5] =
                    [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
                let names: Vec<&str> = NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
                write!(f, "ct state {}{}", if *negated { "!= " } else { "" }, names.join(","))
            }
            Self::SetMark { field, keep, value } => {
                if *keep == 0 {
                    write!(f, "{field} set {value:#010x}")
                } else if *value == 0 {
                    write!(f, "{field} set {field} & {keep:#010x}")
                } else {
                    write!(f, "{field} set {field} & {keep:#010x} | {value:#010x}")
                }
            }
            Self::MarkFromMap { field, map } => write!(f, "meta mark set {field} map @{map}"),
            Self::SnatMap { family, mask, map } => write!(f, "snat {family} to ct mark & {mask:#x} map @{map}"),
            Self::SnatTo { address } => write!(f, "snat {} to {address}", AddressFamily::of(*address)),
            Self::SnatTcpTo { address } => {
                write!(f, "meta l4proto tcp snat {} to {address} fully-random", AddressFamily::of(*address))
            }
            Self::PacketForHost => f.write_str("meta pkttype set host"),
            Self::Reset => f.write_str("meta l4proto tcp reject with tcp reset"),
            Self::WithoutSyn => f.write_str("tcp flags ! syn"),
            Self::NoTrack => f.write_str("notrack"),
            Self::NoRouteBack => f.write_str("fib saddr . iif oif missing"),
            Self::FromThisHost => f.write_str("fib saddr type local"),
            Self::ToThisHost => f.write_str("fib daddr type local"),
            Self::ClampMss => f.write_str("tcp flags syn tcp option maxseg size set rt mtu"),
            Self::Counter => f.write_str("counter"),
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Unknown(text) => write!(f, "[{text}]"),
        }
    }
}

impl fmt::Display for AddressFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MetaMark => "meta mark",
            Self::CtMark => "ct mark",
            Self::CtDirection => "ct direction",
            Self::Iifname => "iifname",
            Self::Oifname => "oifname",
            Self::Ip4Saddr => "ip saddr",
            Self::Ip4Daddr => "ip daddr",
            Self::Ip6Saddr => "ip6 saddr",
            Self::Ip6Daddr => "ip6 daddr",
            Self::UdpDport => "udp dport",
            Self::TcpDport => "tcp dport",
            Self::EtherDaddr => "ether daddr",
            Self::Iifkind => "meta iifkind",
            Self::CtOriginal4 => "ct original ip saddr",
            Self::CtOriginal6 => "ct original ip6 saddr",
            Self::CtReply4 => "ct reply ip daddr",
            Self::CtReply6 => "ct reply ip6 daddr",
            Self::RtNexthop4 => "rt ip nexthop",
            Self::RtNexthop6 => "rt ip6 nexthop",
        })
    }
}

impl fmt::Display for MatchValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(mark) => write!(f, "{mark:#010x}"),
            Self::Reply(true) => f.write_str("reply"),
            Self::Reply(false) => f.write_str("original"),
            Self::Interface(name) => write!(f, "\"{name}\""),
            Self::Port(port) => write!(f, "{port}"),
            Self::Mac(mac) => write!(f, "{mac}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Return => f.write_str("return"),
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::Mark => "mark",
            Self::Ifname => "ifname",
            Self::EtherAddr => "ether_addr",
        })
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verdict => "verdict",
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::Mark => "mark",
        })
    }
}

impl Set {
    /// `type ipv4_addr : verdict; flags interval;`: the immutable part of a set.
    pub fn definition(&self) -> String {
        use fmt::Write;
        let mut text = String::from("type ");
        for (position, key) in self.key.iter().enumerate() {
            let _ = write!(text, "{}{key}", if position > 0 { " . " } else { "" });
        }
        if let Some(data) = self.data {
            let _ = write!(text, " : {data}");
        }
        text.push_str(if self.interval { "; flags interval;" } else { ";" });
        text
    }

    /// `map` or `set`.
    pub fn noun(&self) -> &'static str {
        if self.data.is_some() { "map" } else { "set" }
    }
}

impl fmt::Display for ElementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Range(first, last) => match prefix_of(*first, *last) {
                Some(length) if first == last => {
                    let _ = length;
                    write!(f, "{first}")
                }
                Some(length) => write!(f, "{first}/{length}"),
                None => write!(f, "{first}-{last}"),
            },
            Self::Mark(mark) => write!(f, "{mark:#010x}"),
            Self::MarkAddress(mark, address) => write!(f, "{mark:#010x} . {address}"),
            Self::Interface(name) => write!(f, "\"{name}\""),
            Self::Mac(mac) => write!(f, "{mac}"),
        }
    }
}

impl fmt::Display for ElementData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => write!(f, "{verdict}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Mark(mark) => write!(f, "{mark:#010x}"),
        }
    }
}

/// `KEY : DATA`, or `KEY` in a set.
pub fn element_text(key: &ElementKey, data: Option<&ElementData>) -> String {
    match data {
        Some(data) => format!("{key} : {data}"),
        None => key.to_string(),
    }
}

/// The prefix length when the range is exactly one prefix.
pub fn prefix_of(first: IpAddr, last: IpAddr) -> Option<u8> {
    let (first, last, width) = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
        _ => return None,
    };
    let host = first ^ last;
    // A prefix: the differing bits are the lowest ones, all 0 in the first address and all 1 in the last.
    let ones = host.count_ones();
    let contiguous = host.trailing_ones() == ones;
    (contiguous && first & host == 0).then(|| u8::try_from(width - ones).unwrap_or(0))
}

impl Table {
    /// The table as `nft list table` prints it, sets before chains, each in order of name.
    pub fn listing(&self, family: TableFamily) -> String {
        use fmt::Write;
        let mut text = format!("table {family} {TABLE} {{\n");
        if self.owned {
            text.push_str("\tflags owner,persist\n");
        }
        for (name, set) in &self.sets {
            let _ = writeln!(text, "\t{} {name} {{", set.noun());
            let _ = writeln!(text, "\t\t{}", set.definition());
            for (key, data) in &set.elements {
                let _ = writeln!(text, "\t\telement {}", element_text(key, data.as_ref()));
            }
            text.push_str("\t}\n");
        }
        for (name, chain) in &self.chains {
            let _ = writeln!(text, "\tchain {name} {{");
            if let Some(comment) = &chain.comment {
                let _ = writeln!(text, "\t\tcomment \"{comment}\"");
            }
            if let Some(base) = &chain.base {
                let _ = writeln!(text, "\t\t{base}");
            }
            for rule in &chain.rules {
                let _ = writeln!(text, "\t\t{rule}");
            }
            text.push_str("\t}\n");
        }
        text.push_str("}\n");
        text
    }
}

impl fmt::Display for NftChange {
    /// The change as a line of nft, without family and table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |elements: &[(ElementKey, Option<ElementData>)]| {
            let texts: Vec<String> = elements.iter().map(|(key, data)| element_text(key, data.as_ref())).collect();
            texts.join(", ")
        };
        match self {
            Self::AddTable { owned: true } => f.write_str("add table { flags owner,persist; }"),
            Self::AddTable { owned: false } => f.write_str("add table"),
            Self::DeleteTable => f.write_str("delete table"),
            Self::AddSet(name, set) => write!(f, "add {} {name} {{ {} }}", set.noun(), set.definition()),
            Self::DeleteSet(name) => write!(f, "delete set {name}"),
            Self::AddChain(name, Some(base), _) => write!(f, "add chain {name} {{ {base} }}"),
            Self::AddChain(name, None, Some(comment)) => write!(f, "add chain {name} {{ comment \"{comment}\"; }}"),
            Self::AddChain(name, None, None) => write!(f, "add chain {name}"),
            Self::DeleteChain(name) => write!(f, "delete chain {name}"),
            Self::FlushChain(name) => write!(f, "flush chain {name}"),
            Self::AddRule(chain, rule) => write!(f, "add rule {chain} {rule}"),
            Self::AddElements(set, elements) => write!(f, "add element {set} {{ {} }}", list(elements)),
            Self::DeleteElements(set, elements) => write!(f, "delete element {set} {{ {} }}", list(elements)),
        }
    }
}
