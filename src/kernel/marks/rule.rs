//! Finds which mark bits an nftables rule reads or sets.
//!
//! The rule is interpreted as the kernel would run it, with what is known of each register in place of a value. A value
//! that is not known (of another map's data, say) counts for no bits. Whether the rule is ever reached is not considered.

use std::collections::{BTreeMap, BTreeSet};

use super::super::foreign::{ForeignExpression, ForeignRule};
use crate::core::state::mask::touched;

/// include/uapi/linux/netfilter/nf_tables.h, of each expression that is interpreted.
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_META_SREG: u16 = 3;
const NFT_META_MARK: u32 = 3;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_CT_SREG: u16 = 4;
const NFT_CT_MARK: u32 = 3;
const NFTA_SOCKET_KEY: u16 = 1;
const NFTA_SOCKET_DREG: u16 = 2;
const NFT_SOCKET_MARK: u32 = 1;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_BITWISE_OP: u16 = 6;
const NFTA_BITWISE_DATA: u16 = 7;
const NFT_BITWISE_MASK_XOR: u32 = 0;
const NFT_BITWISE_LSHIFT: u32 = 1;
const NFT_BITWISE_RSHIFT: u32 = 2;
const NFTA_BYTEORDER_SREG: u16 = 1;
const NFTA_BYTEORDER_DREG: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
/// `NFT_CMP_EQ` and `NFT_CMP_NEQ`; higher values are ordering comparisons.
const NFT_CMP_NEQ: u32 = 1;
const NFTA_RANGE_SREG: u16 = 1;
const NFTA_RANGE_TO_DATA: u16 = 4;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_NG_MODULUS: u16 = 2;
const NFTA_NG_OFFSET: u16 = 4;
const NFTA_HASH_MODULUS: u16 = 4;
const NFTA_HASH_OFFSET: u16 = 6;
/// include/uapi/linux/netfilter/nf_tables_compat.h: `NFTA_MATCH_*` and `NFTA_TARGET_*` alike.
const NFTA_COMPAT_NAME: u16 = 1;
const NFTA_COMPAT_REV: u16 = 2;
const NFTA_COMPAT_INFO: u16 = 3;

/// A rule's use of marks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Bits read or set.
    pub(super) bits: u32,
    /// Sets whose elements contain further mark values.
    pub(super) sets: BTreeSet<InSet>,
}

/// Mark values in the elements of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct InSet {
    /// Its name.
    pub(super) set: String,
    /// In each element's data, otherwise in its key.
    pub(super) data: bool,
    /// Byte offset in the key.
    pub(super) offset: usize,
    /// In network order, as for range comparison.
    pub(super) swapped: bool,
}

/// Where a register's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    Packet,
    Connection,
    Socket,
    Constant(u32),
    /// Any number up to and including this one.
    UpTo(u32),
    Map(String),
}

/// A register's contents: the bits kept of its source, those inverted or set, and the shift to the right.
#[derive(Debug, Clone)]
struct Content {
    from: From,
    visible: u32,
    xor: u32,
    right: i32,
    swapped: bool,
}

impl Content {
    fn of(from: From) -> Self {
        Self { from, visible: u32::MAX, xor: 0, right: 0, swapped: false }
    }

    fn is_mark(&self) -> bool {
        matches!(self.from, From::Packet | From::Connection | From::Socket)
    }

    /// Maps bits of the register to their place in the source.
    fn in_place(&self, bits: u32) -> u32 {
        shift(bits, -self.right)
    }

    /// The bits that a comparison with this value uses.
    fn compared(&self, value: u32) -> u32 {
        touched(self.visible, self.in_place(if self.swapped { value.swap_bytes() } else { value }))
    }

    /// The same for a comparison with every number up to a value.
    fn compared_up_to(&self, value: u32) -> u32 {
        if self.visible == u32::MAX {
            up_to(self.in_place(if self.swapped { value.swap_bytes() } else { value }))
        } else {
            self.visible
        }
    }
}

fn shift(bits: u32, right: i32) -> u32 {
    let by = right.unsigned_abs();
    if right >= 0 { bits.checked_shr(by).unwrap_or(0) } else { bits.checked_shl(by).unwrap_or(0) }
}

/// All bits of the numbers up to this one.
fn up_to(number: u32) -> u32 {
    u32::MAX.checked_shr(number.leading_zeros()).unwrap_or(0)
}

/// A number in register (host) order.
fn host(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// The mark bits that a rule uses.
pub(super) fn uses(rule: &ForeignRule) -> Uses {
    let mut following = Following::default();
    for expression in &rule.expressions {
        following.step(expression);
    }
    following.uses
}

/// State while interpreting a rule.
#[derive(Default)]
struct Following {
    registers: BTreeMap<u32, Content>,
    uses: Uses,
}

impl Following {
    fn step(&mut self, expression: &ForeignExpression) {
        let is_mark = |kind, mark| expression.number(kind) == Some(mark);
        match expression.name.as_str() {
            "meta" => {
                let mark = is_mark(NFTA_META_KEY, NFT_META_MARK).then_some(From::Packet);
                self.move_in_or_out(expression, NFTA_META_DREG, NFTA_META_SREG, mark);
            }
            "ct" => {
                let mark = is_mark(NFTA_CT_KEY, NFT_CT_MARK).then_some(From::Connection);
                self.move_in_or_out(expression, NFTA_CT_DREG, NFTA_CT_SREG, mark);
            }
            "socket" => {
                let mark = is_mark(NFTA_SOCKET_KEY, NFT_SOCKET_MARK).then_some(From::Socket);
                self.load(expression.register(NFTA_SOCKET_DREG), mark);
            }
            "immediate" => {
                let value = expression.value(NFTA_IMMEDIATE_DATA).and_then(host);
                self.load(expression.register(NFTA_IMMEDIATE_DREG), value.map(From::Constant));
            }
            "numgen" => self.generated(expression, 1, (NFTA_NG_MODULUS, NFTA_NG_OFFSET)),
            "hash" => self.generated(expression, 2, (NFTA_HASH_MODULUS, NFTA_HASH_OFFSET)),
            // Their target register is their first attribute, that of `tunnel` its second.
            "payload" | "fib" | "rt" | "exthdr" | "osf" | "xfrm" => self.load(expression.register(1), None),
            "tunnel" => self.load(expression.register(2), None),
            "bitwise" => self.bitwise(expression),
            "byteorder" => {
                let content = self.content(expression, NFTA_BYTEORDER_SREG).cloned();
                let content = content.map(|content| Content { swapped: !content.swapped, ..content });
                self.put(expression.register(NFTA_BYTEORDER_DREG), content);
            }
            "cmp" => {
                let value = expression.value(NFTA_CMP_DATA).and_then(host);
                let of_size = expression.number(NFTA_CMP_OP).is_some_and(|how| how > NFT_CMP_NEQ);
                self.compare(expression, NFTA_CMP_SREG, value, of_size);
            }
            "range" => {
                let value = expression.value(NFTA_RANGE_TO_DATA).and_then(host);
                self.compare(expression, NFTA_RANGE_SREG, value, true);
            }
            "lookup" => self.lookup(expression),
            "match" | "target" => self.uses.bits |= compat(expression).unwrap_or(0),
            _ => {}
        }
    }

    fn content(&self, expression: &ForeignExpression, register: u16) -> Option<&Content> {
        self.registers.get(&expression.register(register)?)
    }

    fn put(&mut self, register: Option<u32>, content: Option<Content>) {
        let Some(register) = register else { return };
        match content {
            Some(content) => self.registers.insert(register, content),
            None => self.registers.remove(&register),
        };
    }

    fn load(&mut self, register: Option<u32>, from: Option<From>) {
        self.put(register, from.map(Content::of));
    }

    fn move_in_or_out(&mut self, expression: &ForeignExpression, load: u16, store: u16, mark: Option<From>) {
        self.load(expression.register(load), mark.clone());
        let (Some(content), Some(to)) = (self.content(expression, store), mark) else { return };
        let visible = content.visible;
        match content.from.clone() {
            // Writing a mark back to its own source changes only the bits that were masked out or set.
            from if from == to && content.right == 0 => self.uses.bits |= touched(!visible, content.xor),
            From::Packet | From::Connection | From::Socket => {
                let moved = shift(visible, content.right);
                // All of it, or what is left of all of it: no further bit.
                let source = if visible == u32::MAX { 0 } else { visible | moved };
                self.uses.bits |= source | content.xor;
            }
            From::Constant(value) => self.uses.bits |= value,
            From::UpTo(most) => self.uses.bits |= up_to(most),
            From::Map(set) => {
                self.uses.sets.insert(InSet { set, data: true, offset: 0, swapped: false });
            }
        }
    }

    fn generated(&mut self, expression: &ForeignExpression, register: u16, (modulus, offset): (u16, u16)) {
        let modulus = expression.number(modulus).unwrap_or(0);
        let offset = expression.number(offset).unwrap_or(0);
        let most = offset.saturating_add(modulus.saturating_sub(1));
        self.load(expression.register(register), Some(From::UpTo(most)));
    }

    fn bitwise(&mut self, expression: &ForeignExpression) {
        let to = expression.register(NFTA_BITWISE_DREG);
        let Some(mut content) = self.content(expression, NFTA_BITWISE_SREG).cloned() else {
            return self.put(to, None);
        };
        let value = |kind| expression.value(kind).and_then(host);
        match expression.number(NFTA_BITWISE_OP).unwrap_or(NFT_BITWISE_MASK_XOR) {
            NFT_BITWISE_MASK_XOR => {
                let (Some(mask), Some(xor)) = (value(NFTA_BITWISE_MASK), value(NFTA_BITWISE_XOR)) else {
                    return self.put(to, None);
                };
                content.visible &= content.in_place(mask);
                content.xor = (content.xor & mask) ^ xor;
            }
            operation @ (NFT_BITWISE_LSHIFT | NFT_BITWISE_RSHIFT) => {
                let by = value(NFTA_BITWISE_DATA).and_then(|by| i32::try_from(by).ok()).unwrap_or(0).min(31);
                let right = if operation == NFT_BITWISE_RSHIFT { by } else { -by };
                content.right += right;
                content.xor = shift(content.xor, right);
            }
            // Combines two registers (kernel 6.13): the value is not known.
            _ => return self.put(to, None),
        }
        // A constant combined with another constant is no longer tracked.
        if !content.is_mark() {
            return self.put(to, None);
        }
        self.put(to, Some(content));
    }

    fn compare(&mut self, expression: &ForeignExpression, register: u16, value: Option<u32>, of_size: bool) {
        if let (Some(content), Some(value)) = (self.content(expression, register), value)
            && content.is_mark()
        {
            self.uses.bits |= if of_size { content.compared_up_to(value) } else { content.compared(value) };
        }
    }

    fn lookup(&mut self, expression: &ForeignExpression) {
        let (Some(set), Some(key)) = (expression.text(NFTA_LOOKUP_SET), expression.register(NFTA_LOOKUP_SREG)) else {
            return;
        };
        // A concatenated key has its parts in consecutive registers; the key's length is known only from its elements.
        for (register, content) in self.registers.range(key..key + 4) {
            if !content.is_mark() {
                continue;
            }
            if content.visible == u32::MAX {
                let offset = usize::try_from(register - key).unwrap_or(0) * 4;
                let swapped = content.swapped;
                self.uses.sets.insert(InSet { set: set.to_owned(), data: false, offset, swapped });
            } else if *register == key {
                self.uses.bits |= content.visible;
            }
        }
        let found = Content::of(From::Map(set.to_owned()));
        self.put(expression.register(NFTA_LOOKUP_DREG), Some(found));
    }
}

/// The xtables matches and targets that use marks: include/uapi/linux/netfilter/xt_mark.h, xt_connmark.h, xt_TPROXY.h.
fn compat(expression: &ForeignExpression) -> Option<u32> {
    const CONNMARK_SET: u8 = 0;
    let info = expression.bytes(NFTA_COMPAT_INFO)?;
    let word = |index: usize| info.get(index * 4..index * 4 + 4).and_then(host);
    let revision = expression.number(NFTA_COMPAT_REV)?;
    Some(match (expression.text(NFTA_COMPAT_NAME)?, revision) {
        // `mark`, `mask`.
        ("mark" | "connmark", 1) | ("MARK", 2) => touched(word(1)?, word(0)?),
        // `ctmark`, `ctmask`, `nfmask`, and the mode: behind them, or, in revision 2, behind two bytes about shifting.
        ("CONNMARK", 1 | 2) => {
            let mode = *info.get(if revision == 1 { 12 } else { 14 })?;
            let (mark, of_connection, of_packet) = (word(0)?, word(1)?, word(2)?);
            if mode == CONNMARK_SET {
                touched(of_connection, mark)
            } else {
                touched(of_connection, 0) | touched(of_packet, 0)
            }
        }
        // `mark_mask`, `mark_value`.
        ("TPROXY", _) => touched(word(0)?, word(1)?),
        _ => return None,
    })
}
