//! Encodes an nftables transaction as one batch of netlink messages, and maps the kernel's errors back to the change that
//! caused them.

use thiserror::Error;

use crate::core::state::nft::{
    BaseChain, COMMENT_LIMIT, Chain, ChainKind, ChainPolicy, ElementData, ElementKey, Hook, NftChange, NftRule,
    NftTransaction, Set, TableFamily,
};
use crate::core::state::ownership::TABLE;

use super::elements::{self, RawElement};
use super::statement;
use super::uapi::*;
use super::wire::{self, AttributeTooLong, Attributes, Messages, Writer};
use super::{Generation, sets};

/// Maximum size in bytes of a message's element list: well below the 65,535 bytes that an attribute can have.
const LIST_LIMIT: usize = 60_000;

/// `NFTNL_UDATA_CHAIN_COMMENT` of libnftnl: where `nft list` finds a chain's comment.
const CHAIN_COMMENT: u8 = 0;

/// A change that netlink cannot represent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A statement, set or element without a netlink representation.
    #[error("`{change}` cannot be expressed: {what}")]
    Inexpressible {
        /// The change, as a line of nft.
        change: String,
        /// Which part of it.
        what: String,
    },
    /// A name or comment exceeds an attribute's size.
    #[error("encode the transaction")]
    TooLong(#[source] AttributeTooLong),
}

/// Where a message of a batch comes from.
#[derive(Debug, Clone, Copy)]
struct Origin {
    /// The message's first byte in the batch.
    offset: usize,
    /// The index of its change.
    change: usize,
    /// The index, in that change, of its first element.
    first_element: usize,
}

/// An encoded transaction, to be sent in one piece.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    first_sequence: u32,
    origins: Vec<Origin>,
}

impl Batch {
    /// Encodes a transaction. The kernel refuses it if the ruleset's generation is not `expected` by then. Messages are
    /// numbered from `first_sequence` on.
    pub fn encode(
        transaction: &NftTransaction,
        expected: Option<Generation>,
        first_sequence: u32,
    ) -> Result<Self, EncodeError> {
        let mut encoder = Encoder { writer: Writer::default(), first_sequence, origins: Vec::new(), sets: 0 };
        encoder.begin(expected);
        for (index, (family, change)) in transaction.changes.iter().enumerate() {
            encoder
                .change(index, *family, change)
                .map_err(|what| EncodeError::Inexpressible { change: describe(*family, &shortened(change)), what })?;
        }
        encoder.end()
    }

    /// The messages.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of messages, including the batch's begin and end.
    pub(super) fn length(&self) -> u32 {
        u32::try_from(self.origins.len()).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// The sequence number of the batch's begin message: errors about the whole batch bear it.
    pub(super) fn first_sequence(&self) -> u32 {
        self.first_sequence
    }

    /// The sequence number of the last change's last message, which requests the acknowledgement.
    pub(super) fn last_sequence(&self) -> u32 {
        self.first_sequence.wrapping_add(u32::try_from(self.origins.len()).unwrap_or(u32::MAX))
    }

    /// The change, as a line of nft, that an error with this sequence number and message offset is about. Of a long
    /// element list only the element at the offset is shown, if known.
    pub(super) fn blame(&self, transaction: &NftTransaction, sequence: u32, offset: Option<u32>) -> Option<String> {
        let position = sequence.wrapping_sub(self.first_sequence).checked_sub(1)? as usize;
        let origin = self.origins.get(position)?;
        let (family, change) = transaction.changes.get(origin.change)?;
        let element = offset
            .and_then(|offset| self.blamed_element(origin.offset, offset as usize))
            .map(|within| origin.first_element + within);
        let only =
            |elements: &[(ElementKey, Option<ElementData>)]| element.and_then(|index| elements.get(index).cloned());
        let text = match change {
            NftChange::AddElements(set, elements) => {
                only(elements).map(|one| NftChange::AddElements(set.clone(), vec![one]).to_string())
            }
            NftChange::DeleteElements(set, elements) => {
                only(elements).map(|one| NftChange::DeleteElements(set.clone(), vec![one]).to_string())
            }
            _ => None,
        };
        Some(describe(*family, &text.unwrap_or_else(|| shortened(change))))
    }

    /// The number of Egret's elements before this offset of the message; a range's end element does not count.
    fn blamed_element(&self, message_offset: usize, offset: usize) -> Option<usize> {
        let bytes = self.bytes.get(message_offset..)?;
        let message = Messages(bytes).next()?.ok()?;
        let (_, attributes) = message.netfilter().ok()?;
        let list = wire::find(attributes, NFTA_SET_ELEM_LIST_ELEMENTS).ok()??;
        // The list is the message's last attribute, so it ends where the message does.
        let list_offset = (message.body.len() + 16).checked_sub(wire::align(list.len()))?;
        let mut position = list_offset;
        let mut starts = 0_usize;
        for element in Attributes(list) {
            let (_, element) = element.ok()?;
            if !RawElement::is_end(element) {
                starts += 1;
            }
            position += 4 + wire::align(element.len());
            if offset < position {
                return (offset >= list_offset).then(|| starts.saturating_sub(1));
            }
        }
        None
    }
}

/// `inet egret: add chain steer`
fn describe(family: TableFamily, change: &str) -> String {
    format!("{family} {TABLE}: {change}")
}

/// The change's text, with at most three of its elements.
fn shortened(change: &NftChange) -> String {
    const SHOWN: usize = 3;
    let first = |elements: &[(ElementKey, Option<ElementData>)]| elements[..SHOWN].to_vec();
    let (short, total) = match change {
        NftChange::AddElements(set, elements) if elements.len() > SHOWN => {
            (NftChange::AddElements(set.clone(), first(elements)), elements.len())
        }
        NftChange::DeleteElements(set, elements) if elements.len() > SHOWN => {
            (NftChange::DeleteElements(set.clone(), first(elements)), elements.len())
        }
        _ => return change.to_string(),
    };
    format!("{short} (the first {SHOWN} of {total})")
}

/// `NFPROTO_INET` or `NFPROTO_NETDEV`.
pub(super) fn protocol(family: TableFamily) -> u8 {
    match family {
        TableFamily::Inet => NFPROTO_INET,
        TableFamily::Netdev => NFPROTO_NETDEV,
    }
}

struct Encoder {
    writer: Writer,
    first_sequence: u32,
    origins: Vec<Origin>,
    sets: u32,
}

impl Encoder {
    fn begin(&mut self, expected: Option<Generation>) {
        let header = (NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, self.first_sequence);
        self.writer.message(header, (NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES), |begin| {
            if let Some(Generation(number)) = expected {
                begin.number(NFNL_BATCH_GENID, number);
            }
        });
    }

    /// Only the last change requests an acknowledgement: one for each would overrun the socket's buffer.
    fn end(mut self) -> Result<Batch, EncodeError> {
        if let Some(last) = self.origins.last() {
            self.writer.add_flag(last.offset, NLM_F_ACK);
        }
        let sequence = self.next_sequence();
        let header = (NFNL_MSG_BATCH_END, NLM_F_REQUEST, sequence);
        self.writer.message(header, (NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES), |_| {});
        let bytes = self.writer.finish().map_err(EncodeError::TooLong)?;
        Ok(Batch { bytes, first_sequence: self.first_sequence, origins: self.origins })
    }

    fn next_sequence(&self) -> u32 {
        let messages = u32::try_from(self.origins.len()).unwrap_or(u32::MAX);
        self.first_sequence.wrapping_add(messages).wrapping_add(1)
    }

    fn message(
        &mut self,
        (change, first_element): (usize, usize),
        (kind, flags): (u8, u16),
        family: TableFamily,
        attributes: impl FnOnce(&mut Writer),
    ) {
        let sequence = self.next_sequence();
        self.origins.push(Origin { offset: self.writer.len(), change, first_element });
        let kind = NFNL_SUBSYS_NFTABLES << 8 | u16::from(kind);
        self.writer.message((kind, NLM_F_REQUEST | flags, sequence), (protocol(family), 0), attributes);
    }

    /// Writes one change; the error is the part that netlink cannot represent.
    fn change(&mut self, index: usize, family: TableFamily, change: &NftChange) -> Result<(), String> {
        let at = (index, 0);
        let create = NLM_F_CREATE | NLM_F_EXCL;
        match change {
            // Without NLM_F_EXCL an existing table is accepted. Without flags the kernel keeps its flags.
            NftChange::AddTable { owned } => self.message(at, (NFT_MSG_NEWTABLE, NLM_F_CREATE), family, |message| {
                message.text(NFTA_TABLE_NAME, TABLE);
                if *owned {
                    message.number(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST);
                }
            }),
            NftChange::DeleteTable => self.message(at, (NFT_MSG_DELTABLE, 0), family, |message| {
                message.text(NFTA_TABLE_NAME, TABLE);
            }),
            NftChange::AddSet(name, set) => return self.add_set(at, family, name, set),
            NftChange::DeleteSet(name) => self.message(at, (NFT_MSG_DELSET, 0), family, |message| {
                message.text(NFTA_SET_TABLE, TABLE);
                message.text(NFTA_SET_NAME, name);
            }),
            NftChange::AddChain(name, base, comment) => {
                let chain = Chain { base: base.clone(), comment: comment.clone(), rules: Vec::new() };
                return self.add_chain(at, family, name, &chain);
            }
            NftChange::DeleteChain(name) => self.message(at, (NFT_MSG_DELCHAIN, 0), family, |message| {
                message.text(NFTA_CHAIN_TABLE, TABLE);
                message.text(NFTA_CHAIN_NAME, name);
            }),
            // Deleting a rule without a handle deletes all of the chain's rules.
            NftChange::FlushChain(name) => self.message(at, (NFT_MSG_DELRULE, 0), family, |message| {
                message.text(NFTA_RULE_TABLE, TABLE);
                message.text(NFTA_RULE_CHAIN, name);
            }),
            NftChange::AddRule(chain, rule) => return self.add_rule(at, family, chain, rule),
            NftChange::AddElements(set, elements) => {
                return self.elements(index, (NFT_MSG_NEWSETELEM, create), family, set, elements, true);
            }
            NftChange::DeleteElements(set, elements) => {
                return self.elements(index, (NFT_MSG_DELSETELEM, 0), family, set, elements, false);
            }
        }
        Ok(())
    }

    fn add_set(&mut self, at: (usize, usize), family: TableFamily, name: &str, set: &Set) -> Result<(), String> {
        self.sets += 1;
        let id = self.sets;
        let mut known = true;
        self.message(at, (NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL), family, |message| {
            message.text(NFTA_SET_TABLE, TABLE);
            known = sets::write_definition(message, name, set, id);
        });
        if known { Ok(()) } else { Err("a key that no element of ours can have".to_owned()) }
    }

    fn add_rule(&mut self, at: (usize, usize), family: TableFamily, chain: &str, rule: &NftRule) -> Result<(), String> {
        let expressions = statement::expressions_of(family, rule).map_err(|statement| format!("`{statement}`"))?;
        self.message(at, (NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND), family, |message| {
            message.text(NFTA_RULE_TABLE, TABLE);
            message.text(NFTA_RULE_CHAIN, chain);
            message.nested(NFTA_RULE_EXPRESSIONS, |list| expressions.iter().for_each(|one| one.write(list)));
        });
        Ok(())
    }

    fn add_chain(&mut self, at: (usize, usize), family: TableFamily, name: &str, chain: &Chain) -> Result<(), String> {
        if chain.comment.as_ref().is_some_and(|comment| comment.len() > COMMENT_LIMIT) {
            return Err(format!("a comment of more than {COMMENT_LIMIT} bytes"));
        }
        let create = NLM_F_CREATE | NLM_F_EXCL;
        self.message(at, (NFT_MSG_NEWCHAIN, create), family, |message| {
            message.text(NFTA_CHAIN_TABLE, TABLE);
            message.text(NFTA_CHAIN_NAME, name);
            if let Some(base) = &chain.base {
                write_base(message, base);
            }
            if let Some(comment) = &chain.comment {
                message.bytes(NFTA_CHAIN_USERDATA, &comment_bytes(comment));
            }
        });
        Ok(())
    }

    /// Splits elements over as many messages as the size limit requires. A range's two elements stay together.
    fn elements(
        &mut self,
        index: usize,
        kind: (u8, u16),
        family: TableFamily,
        set: &str,
        elements: &[(ElementKey, Option<ElementData>)],
        with_data: bool,
    ) -> Result<(), String> {
        let mut done = 0;
        while done < elements.len() {
            let first = done;
            let mut inexpressible = None;
            self.message((index, first), kind, family, |message| {
                message.text(NFTA_SET_ELEM_LIST_TABLE, TABLE);
                message.text(NFTA_SET_ELEM_LIST_SET, set);
                message.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    let start = list.len();
                    while let Some((key, data)) = elements.get(done).filter(|_| list.len() - start < LIST_LIMIT) {
                        match elements::raw_elements(key, data.as_ref().filter(|_| with_data)) {
                            Some(raw) => raw.iter().for_each(|element| element.write(list)),
                            None => inexpressible = Some(key),
                        }
                        done += 1;
                    }
                });
            });
            if let Some(key) = inexpressible {
                return Err(format!("`{key}`"));
            }
        }
        Ok(())
    }
}

fn write_base(message: &mut Writer, base: &BaseChain) {
    message.text(
        NFTA_CHAIN_TYPE,
        match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
            ChainKind::Route => "route",
        },
    );
    message.number(
        NFTA_CHAIN_POLICY,
        match base.policy {
            ChainPolicy::Accept => NF_ACCEPT,
            ChainPolicy::Drop => NF_DROP,
        },
    );
    message.nested(NFTA_CHAIN_HOOK, |hook| {
        hook.number(NFTA_HOOK_HOOKNUM, hook_number(&base.hook));
        hook.number(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
        if let Hook::Ingress(device) = &base.hook {
            hook.text(NFTA_HOOK_DEV, device);
        }
    });
}

/// `enum nf_inet_hooks`, or `NF_NETDEV_INGRESS`.
pub(super) fn hook_number(hook: &Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
        Hook::Ingress(_) => NF_NETDEV_INGRESS,
    }
}

/// Type, length with the NUL, text, NUL. `comment` is at most [`COMMENT_LIMIT`] bytes long.
fn comment_bytes(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    [&[CHAIN_COMMENT, length], comment.as_bytes(), &[0]].concat()
}

/// The comment in a chain's user data.
pub(super) fn comment_of(mut user_data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = user_data {
        let (value, behind) = rest.split_at_checked(usize::from(*length))?;
        if *kind == CHAIN_COMMENT {
            return wire::text(value).ok().map(str::to_owned);
        }
        user_data = behind;
    }
    None
}
