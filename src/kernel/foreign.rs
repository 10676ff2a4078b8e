//! Reads the nftables rules of other programs as far as Egret needs them: expressions by name, with their raw attributes.
//!
//! This includes `iptables-nft`: what nftables has no expression for is a `match` or a `target` that holds an xtables
//! structure. Not here: the meaning of expressions (`marks`, `doctor::forward`), and iptables-legacy, whose rules only a
//! `getsockopt` returns that needs `unsafe`.

use super::nft::socket::{self, ExchangeError, NetfilterSocket};
use super::nft::uapi::{NLM_F_DUMP, NLM_F_REQUEST};
use super::nft::wire::{self, Attributes, Malformed, Message, Writer};
use crate::core::state::ownership::TABLE;

/// include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWRULE: u8 = 6;
const NFT_MSG_GETRULE: u8 = 7;
const NFT_MSG_NEWSETELEM: u8 = 12;
const NFT_MSG_GETSETELEM: u8 = 13;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
/// include/uapi/linux/netfilter.h
const NFPROTO_UNSPEC: u8 = 0;

/// A rule of another program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ForeignRule {
    /// The family of its table, `NFPROTO_*`.
    pub(super) family: u8,
    /// Its table.
    pub(super) table: String,
    /// Its chain.
    pub(super) chain: String,
    /// Its expressions, in order.
    pub(super) expressions: Vec<ForeignExpression>,
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ForeignExpression {
    /// For example `meta`, `cmp`, `match`.
    pub(super) name: String,
    attributes: Vec<u8>,
}

/// A set element: the bytes of its key and, in a map, of its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ForeignElement {
    pub(super) key: Vec<u8>,
    pub(super) data: Vec<u8>,
}

impl ForeignExpression {
    /// An attribute's bytes.
    pub(super) fn bytes(&self, kind: u16) -> Option<&[u8]> {
        wire::find(&self.attributes, kind).ok().flatten()
    }

    /// An attribute's number.
    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        self.bytes(kind).and_then(|bytes| wire::network_u32(bytes).ok())
    }

    /// An attribute's text.
    pub(super) fn text(&self, kind: u16) -> Option<&str> {
        wire::find_text(&self.attributes, kind).ok().flatten()
    }

    /// The value nested in an attribute (`NFTA_DATA_VALUE`).
    pub(super) fn value(&self, kind: u16) -> Option<&[u8]> {
        wire::find(self.bytes(kind)?, NFTA_DATA_VALUE).ok().flatten()
    }

    /// A register that an attribute names, as the index of its first 32-bit word.
    pub(super) fn register(&self, kind: u16) -> Option<u32> {
        match self.number(kind)? {
            number @ 1..=4 => Some((number - 1) * 4),
            number @ 8..=23 => Some(number - 8),
            _ => None,
        }
    }
}

/// `ip`, `inet`; other families by number.
pub(super) fn family_name(family: u8) -> String {
    match family {
        1 => "inet".to_owned(),
        2 => "ip".to_owned(),
        3 => "arp".to_owned(),
        5 => "netdev".to_owned(),
        7 => "bridge".to_owned(),
        10 => "ip6".to_owned(),
        other => other.to_string(),
    }
}

/// Dumps foreign rules over its own socket, so that answers do not mix with those of other requests.
pub(super) struct RulesetDump(NetfilterSocket);

impl RulesetDump {
    /// Opens the socket in the network namespace of the calling thread, within a tokio runtime.
    pub(super) fn open() -> Result<Self, ExchangeError> {
        NetfilterSocket::open(socket::LARGE_BUFFER).map(Self).map_err(ExchangeError::Socket)
    }

    /// All rules of all tables that are not Egret's, each chain's in order.
    pub(super) async fn rules(&mut self) -> Result<Vec<ForeignRule>, ExchangeError> {
        let mut rules = Vec::new();
        self.dump((NFT_MSG_GETRULE, NFPROTO_UNSPEC), &[], |message| {
            rules.extend(rule(message)?);
            Ok(())
        })
        .await?;
        Ok(rules)
    }

    /// The elements of a set.
    pub(super) async fn elements(&mut self, of: &ForeignRule, set: &str) -> Result<Vec<ForeignElement>, ExchangeError> {
        let names = [(NFTA_SET_ELEM_LIST_TABLE, of.table.as_str()), (NFTA_SET_ELEM_LIST_SET, set)];
        let mut found = Vec::new();
        self.dump((NFT_MSG_GETSETELEM, of.family), &names, |message| {
            found.extend(elements(message)?);
            Ok(())
        })
        .await?;
        Ok(found)
    }

    async fn dump(
        &mut self,
        (kind, family): (u8, u8),
        names: &[(u16, &str)],
        answer: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), ExchangeError> {
        let request = |sequence| {
            let kind = NFNL_SUBSYS_NFTABLES << 8 | u16::from(kind);
            let mut writer = Writer::default();
            writer.message((kind, NLM_F_REQUEST | NLM_F_DUMP, sequence), (family, 0), |attributes| {
                for (kind, text) in names {
                    attributes.text(*kind, text);
                }
            });
            writer.finish().unwrap_or_default()
        };
        self.0.ask(request, answer).await
    }
}

fn rule(message: &Message<'_>) -> Result<Option<ForeignRule>, Malformed> {
    if message.of_subsystem(NFNL_SUBSYS_NFTABLES) != Some(NFT_MSG_NEWRULE) {
        return Ok(None);
    }
    let (family, attributes) = message.netfilter()?;
    let table = wire::find_text(attributes, NFTA_RULE_TABLE)?.unwrap_or_default();
    if table == TABLE {
        return Ok(None);
    }
    let mut rule = ForeignRule {
        family,
        table: table.to_owned(),
        chain: wire::find_text(attributes, NFTA_RULE_CHAIN)?.unwrap_or_default().to_owned(),
        expressions: Vec::new(),
    };
    for element in Attributes(wire::find(attributes, NFTA_RULE_EXPRESSIONS)?.unwrap_or_default()) {
        let (_, element) = element?;
        rule.expressions.push(ForeignExpression {
            name: wire::find_text(element, NFTA_EXPR_NAME)?.unwrap_or_default().to_owned(),
            attributes: wire::find(element, NFTA_EXPR_DATA)?.unwrap_or_default().to_vec(),
        });
    }
    Ok(Some(rule))
}

fn elements(message: &Message<'_>) -> Result<Vec<ForeignElement>, Malformed> {
    if message.of_subsystem(NFNL_SUBSYS_NFTABLES) != Some(NFT_MSG_NEWSETELEM) {
        return Ok(Vec::new());
    }
    let (_, attributes) = message.netfilter()?;
    let mut found = Vec::new();
    for element in Attributes(wire::find(attributes, NFTA_SET_ELEM_LIST_ELEMENTS)?.unwrap_or_default()) {
        let (_, element) = element?;
        let value = |kind| -> Result<Vec<u8>, Malformed> {
            let nested = wire::find(element, kind)?.unwrap_or_default();
            Ok(wire::find(nested, NFTA_DATA_VALUE)?.unwrap_or_default().to_vec())
        };
        found.push(ForeignElement { key: value(NFTA_SET_ELEM_KEY)?, data: value(NFTA_SET_ELEM_DATA)? });
    }
    Ok(found)
}
