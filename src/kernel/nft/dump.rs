//! Decodes the kernel's nftables dump into a [`Ruleset`], of Egret's tables only.
//!
//! The messages of a batch that creates a ruleset have the same form as those of a dump, so what `batch` writes is read
//! here too. Not here: requesting the dump and making sure it is consistent (`super::Nft::observe`).

use std::collections::BTreeMap;

use crate::core::state::nft::{
    BaseChain, Chain, ChainKind, ChainPolicy, Hook, NftRule, RuleCounter, Ruleset, Set, Statement, Table, TableFamily,
};
use crate::core::state::ownership::TABLE;

use super::batch::{comment_of, hook_number};
use super::elements::{self, Misfit, RawElement};
use super::expression::Expression;
use super::uapi::*;
use super::wire::{self, Attributes, Malformed, Message, Messages};
use super::{recognise, sets};

/// Decodes netlink messages as a dump of the tables named `egret`; other tables are skipped. A table counts as owned if
/// it belongs to the netlink port `port`, or if the message names no owner.
pub fn decode(messages: &[u8], port: u32) -> Result<Ruleset, Malformed> {
    let mut listing = TableListing::new(Some(port));
    for message in Messages(messages) {
        listing.read(&message?)?;
    }
    listing.finish().map_err(|InterruptedDump| Malformed { what: "listing: an element is in it twice" })
}

/// A dump in which an element occurs twice, so that another may be missing; see [`Misfit::Torn`]. Dumping again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InterruptedDump;

/// What has been read so far.
#[derive(Debug)]
pub(super) struct TableListing {
    /// The port whose tables count as owned; none: any owner.
    port: Option<u32>,
    tables: Ruleset,
    elements: BTreeMap<(TableFamily, String), Elements>,
}

/// A set's elements before range ends are paired.
#[derive(Debug, Default)]
struct Elements {
    raw: Vec<RawElement>,
    unknown: bool,
}

impl TableListing {
    pub(super) fn new(port: Option<u32>) -> Self {
        Self { port, tables: Ruleset::new(), elements: BTreeMap::new() }
    }

    /// Families that have a table of Egret's.
    pub(super) fn families(&self) -> Vec<TableFamily> {
        self.tables.keys().copied().collect()
    }

    /// The sets read so far whose element types Egret knows.
    pub(super) fn known_sets(&self) -> Vec<(TableFamily, String)> {
        let sets_of = |(family, table): (&TableFamily, &Table)| {
            let family = *family;
            let known = table.sets.iter().filter(|(_, set)| !set.key.is_empty());
            known.map(|(name, _)| (family, name.clone())).collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(sets_of).collect()
    }

    /// Decodes one message. Tables have to come before their contents, and sets before their elements; a message without
    /// its container belongs to another program's table and is skipped.
    pub(super) fn read(&mut self, message: &Message<'_>) -> Result<(), Malformed> {
        let Some(kind) = message.of_subsystem(NFNL_SUBSYS_NFTABLES) else { return Ok(()) };
        let (family, attributes) = message.netfilter()?;
        let Some(family) = family_of(family) else { return Ok(()) };
        // The table's name is the first attribute of each kind of message: NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and so on are all 1.
        if wire::find_text(attributes, NFTA_TABLE_NAME)? != Some(TABLE) {
            return Ok(());
        }
        if kind == NFT_MSG_NEWTABLE {
            let table = self.tables.entry(family).or_default();
            table.owned = is_owned(attributes, self.port)?;
            table.abandoned = is_abandoned(attributes)?;
            return Ok(());
        }
        let Some(table) = self.tables.get_mut(&family) else { return Ok(()) };
        match kind {
            NFT_MSG_NEWCHAIN => {
                let (name, chain) = read_chain(attributes)?;
                table.chains.insert(name, chain);
            }
            NFT_MSG_NEWRULE => {
                let (chain, rule) = read_rule(family, attributes)?;
                table.chains.entry(chain).or_default().rules.push(rule);
            }
            NFT_MSG_NEWSET => {
                let (name, set) = sets::read_definition(attributes)?;
                table.sets.insert(name, set);
            }
            NFT_MSG_NEWSETELEM => {
                let name = wire::find_text(attributes, NFTA_SET_ELEM_LIST_SET)?.unwrap_or_default();
                let Some(set) = table.sets.get(name) else { return Ok(()) };
                let elements = self.elements.entry((family, name.to_owned())).or_default();
                read_elements(attributes, set, elements)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The complete ruleset.
    pub(super) fn finish(mut self) -> Result<Ruleset, InterruptedDump> {
        for ((family, name), Elements { raw, unknown }) in self.elements {
            let Some(set) = self.tables.get_mut(&family).and_then(|table| table.sets.get_mut(&name)) else { continue };
            let filled = if unknown { Err(Misfit::Unknown) } else { elements::fill(set, raw) };
            match filled {
                Ok(()) => {}
                Err(Misfit::Torn) => return Err(InterruptedDump),
                // Elements that Egret cannot express: the set becomes one that differs from any desired set.
                Err(Misfit::Unknown) => {
                    *set = Set { key: Vec::new(), data: None, interval: false, elements: BTreeMap::new() };
                }
            }
        }
        Ok(self.tables)
    }
}

fn family_of(protocol: u8) -> Option<TableFamily> {
    match protocol {
        NFPROTO_INET => Some(TableFamily::Inet),
        NFPROTO_NETDEV => Some(TableFamily::Netdev),
        _ => None,
    }
}

fn is_owned(attributes: &[u8], port: Option<u32>) -> Result<bool, Malformed> {
    const BOTH: u32 = NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST;
    let flags = wire::find_u32(attributes, NFTA_TABLE_FLAGS)?.unwrap_or(0);
    let owner = wire::find_u32(attributes, NFTA_TABLE_OWNER)?;
    Ok(flags & BOTH == BOTH && owner.is_none_or(|owner| port.is_none_or(|port| owner == port)))
}

/// When the owner ends, the kernel clears the owner flag and keeps the persist flag (net/netfilter/nf_tables_api.c,
/// `nft_rcv_nl_event`).
fn is_abandoned(attributes: &[u8]) -> Result<bool, Malformed> {
    let flags = wire::find_u32(attributes, NFTA_TABLE_FLAGS)?.unwrap_or(0);
    Ok(flags & (NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST) == NFT_TABLE_F_PERSIST)
}

fn read_chain(attributes: &[u8]) -> Result<(String, Chain), Malformed> {
    let name = wire::find_text(attributes, NFTA_CHAIN_NAME)?.ok_or(Malformed { what: "chain without a name" })?;
    let comment = wire::find(attributes, NFTA_CHAIN_USERDATA)?.and_then(comment_of);
    let mut chain = Chain { base: None, comment, rules: Vec::new() };
    if let Some(hook) = wire::find(attributes, NFTA_CHAIN_HOOK)? {
        match read_base(attributes, hook)? {
            Ok(base) => chain.base = Some(base),
            // A hook that Egret never uses must not compare equal to a chain without one.
            Err(text) => chain.rules.push(NftRule(vec![Statement::Unknown(text)])),
        }
    }
    Ok((name.to_owned(), chain))
}

/// The base chain, or its description where Egret has no type for it.
fn read_base(attributes: &[u8], hook: &[u8]) -> Result<Result<BaseChain, String>, Malformed> {
    let kind = wire::find_text(attributes, NFTA_CHAIN_TYPE)?.unwrap_or_default();
    let number = wire::find_u32(hook, NFTA_HOOK_HOOKNUM)?.unwrap_or(0);
    let priority = wire::find_u32(hook, NFTA_HOOK_PRIORITY)?.unwrap_or(0).cast_signed();
    let device = wire::find_text(hook, NFTA_HOOK_DEV)?;
    let unknown = || format!("type {kind} hook {number} priority {priority}");
    let chain_kind = match kind {
        "filter" => ChainKind::Filter,
        "nat" => ChainKind::Nat,
        "route" => ChainKind::Route,
        _ => return Ok(Err(unknown())),
    };
    let policy = match wire::find_u32(attributes, NFTA_CHAIN_POLICY)? {
        Some(NF_DROP) => ChainPolicy::Drop,
        Some(NF_ACCEPT) | None => ChainPolicy::Accept,
        Some(_) => return Ok(Err(unknown())),
    };
    let hooks = match device {
        Some(device) => vec![Hook::Ingress(device.to_owned())],
        None => vec![Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting],
    };
    Ok(match hooks.into_iter().find(|hook| hook_number(hook) == number) {
        Some(hook) => Ok(BaseChain { kind: chain_kind, hook, priority, policy }),
        None => Err(unknown()),
    })
}

fn read_rule(family: TableFamily, attributes: &[u8]) -> Result<(String, NftRule), Malformed> {
    let (chain, expressions) = read_expressions(attributes)?;
    Ok((chain, recognise::rule_of(family, &expressions)))
}

fn read_expressions(attributes: &[u8]) -> Result<(String, Vec<Expression>), Malformed> {
    let chain = wire::find_text(attributes, NFTA_RULE_CHAIN)?.ok_or(Malformed { what: "rule without a chain" })?;
    let expressions = wire::find(attributes, NFTA_RULE_EXPRESSIONS)?.unwrap_or_default();
    Ok((chain.to_owned(), Expression::read_all(expressions)?))
}

/// The chain and counter value of a rule, if the message is a rule of Egret's with a counter.
pub(super) fn read_counter(
    message: &Message<'_>,
) -> Result<Option<(TableFamily, String, Option<RuleCounter>)>, Malformed> {
    if message.of_subsystem(NFNL_SUBSYS_NFTABLES) != Some(NFT_MSG_NEWRULE) {
        return Ok(None);
    }
    let (family, attributes) = message.netfilter()?;
    let Some(family) = family_of(family) else { return Ok(None) };
    if wire::find_text(attributes, NFTA_RULE_TABLE)? != Some(TABLE) {
        return Ok(None);
    }
    let (chain, expressions) = read_expressions(attributes)?;
    let counter = expressions.iter().find_map(|expression| match expression {
        Expression::Counter { packets, bytes } => Some(RuleCounter { packets: *packets, bytes: *bytes }),
        _ => None,
    });
    Ok(Some((family, chain, counter)))
}

fn read_elements(attributes: &[u8], set: &Set, elements: &mut Elements) -> Result<(), Malformed> {
    let list = wire::find(attributes, NFTA_SET_ELEM_LIST_ELEMENTS)?.unwrap_or_default();
    for element in Attributes(list) {
        match RawElement::read(element?.1, set)? {
            Some(raw) => elements.raw.push(raw),
            None => elements.unknown = true,
        }
    }
    Ok(())
}
