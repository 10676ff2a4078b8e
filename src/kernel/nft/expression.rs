//! Encodes and decodes nftables expressions, the instructions that a rule is compiled to.
//!
//! The text form is the bytecode that `nft --debug=netlink` prints. An expression of another kind, or with options Egret
//! never uses, is [`Expression::Other`]. Not here: which expressions make up a statement (`statement`, `recognise`).

use std::fmt;

use crate::core::state::nft::{AddressFamily, Verdict};

use super::mss;
use super::uapi::*;
use super::wire::{self, Attributes, Malformed, Writer};

/// A register, as the index of its first 32-bit word: 0 to 15. Sixteen bytes take four words.
///
/// On the wire a word that starts a 128-bit register has that register's number, as in the kernel's dumps
/// (`nft_dump_register`): word 4 is `NFT_REG_2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Register(pub(super) u32);

impl Register {
    /// The register that a statement with one field uses.
    pub(super) const FIRST: Self = Self(0);

    fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { 1 + self.0 / 4 } else { 8 + self.0 }
    }

    fn of_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number - 1) * 4)),
            8..=23 => Some(Self(number - 8)),
            _ => None,
        }
    }
}

/// The number of the verdict register, `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

/// Where a lookup stores its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nowhere: a set lookup, which only tests membership.
    Nowhere,
    /// A verdict, executed at once.
    Verdict,
    /// A value for the next expression.
    Register(Register),
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Loads a `NFT_META_*` key.
    Meta { key: u32, register: Register },
    /// Stores into a `NFT_META_*` key.
    SetMeta { key: u32, register: Register },
    /// Loads a `NFT_CT_*` key of the connection.
    Ct { key: u32, register: Register },
    /// Loads a `NFT_CT_*` key of the reply or the original direction.
    CtOf { key: u32, reply: bool, register: Register },
    /// Stores into a `NFT_CT_*` key.
    SetCt { key: u32, register: Register },
    /// Loads bytes of the packet; `base` is one of `NFT_PAYLOAD_*_HEADER`.
    Payload { base: u32, offset: u32, length: u32, register: Register },
    /// A routing lookup (`fib`): one of `NFT_FIB_RESULT_*`, by `NFTA_FIB_F_*`.
    Fib { result: u32, flags: u32, register: Register },
    /// Loads a `NFT_RT_*` key of the packet's route.
    Rt { key: u32, register: Register },
    /// Puts a value into a register.
    Value { register: Register, value: Vec<u8> },
    /// Answers a TCP segment with a reset.
    Reset,
    /// Exempts the packet from connection tracking.
    NoTrack,
    /// Ends the rule unless the register equals these bytes (or, negated, differs).
    Compare { register: Register, negated: bool, value: Vec<u8> },
    /// `register = (register & mask) ^ xor`, on 32 bits in host order.
    Bitwise { register: Register, mask: u32, xor: u32 },
    /// Ends the rule unless the set contains the key (or, negated, does not).
    Lookup { set: String, key: Register, found: Found, negated: bool },
    /// A verdict.
    Verdict(Verdict),
    /// Source translation to the address in a register.
    Snat { family: AddressFamily, register: Register, random: bool },
    /// A counter.
    Counter { packets: u64, bytes: u64 },
    /// An expression that occurs only in the MSS clamping statement.
    Mss(mss::Part),
    /// Anything else, as text.
    Other(String),
}

impl Expression {
    /// Writes `NFTA_LIST_ELEM { name, data }`. `Other` writes nothing: no statement is built from it.
    pub(super) fn write(&self, list: &mut Writer) {
        let Some(name) = self.name() else { return };
        list.nested(NFTA_LIST_ELEM, |element| {
            element.text(NFTA_EXPR_NAME, name);
            element.nested(NFTA_EXPR_DATA, |data| self.write_data(data));
        });
    }

    fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Ct { .. } | Self::CtOf { .. } | Self::SetCt { .. } => "ct",
            Self::Payload { .. } => "payload",
            Self::Fib { .. } => "fib",
            Self::Rt { .. } => "rt",
            Self::Reset => "reject",
            Self::NoTrack => "notrack",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Verdict(_) | Self::Value { .. } => "immediate",
            Self::Snat { .. } => "nat",
            Self::Counter { .. } => "counter",
            Self::Mss(part) => part.name(),
            Self::Other(_) => return None,
        })
    }

    fn write_data(&self, data: &mut Writer) {
        match self {
            Self::Meta { key, register } => numbers(data, [(NFTA_META_DREG, register.number()), (NFTA_META_KEY, *key)]),
            Self::SetMeta { key, register } => {
                numbers(data, [(NFTA_META_KEY, *key), (NFTA_META_SREG, register.number())]);
            }
            Self::Ct { key, register } => numbers(data, [(NFTA_CT_DREG, register.number()), (NFTA_CT_KEY, *key)]),
            Self::CtOf { key, reply, register } => {
                numbers(data, [(NFTA_CT_DREG, register.number()), (NFTA_CT_KEY, *key)]);
                data.bytes(NFTA_CT_DIRECTION, &[u8::from(*reply)]);
            }
            Self::SetCt { key, register } => numbers(data, [(NFTA_CT_KEY, *key), (NFTA_CT_SREG, register.number())]),
            Self::Payload { base, offset, length, register } => numbers(
                data,
                [
                    (NFTA_PAYLOAD_DREG, register.number()),
                    (NFTA_PAYLOAD_BASE, *base),
                    (NFTA_PAYLOAD_OFFSET, *offset),
                    (NFTA_PAYLOAD_LEN, *length),
                ],
            ),
            Self::Fib { result, flags, register } => numbers(
                data,
                [(NFTA_FIB_DREG, register.number()), (NFTA_FIB_RESULT, *result), (NFTA_FIB_FLAGS, *flags)],
            ),
            Self::Rt { key, register } => numbers(data, [(NFTA_RT_DREG, register.number()), (NFTA_RT_KEY, *key)]),
            Self::Value { register, value } => {
                data.number(NFTA_IMMEDIATE_DREG, register.number());
                data.nested(NFTA_IMMEDIATE_DATA, |nested| nested.bytes(NFTA_DATA_VALUE, value));
            }
            Self::Compare { register, negated, value } => {
                let operation = if *negated { NFT_CMP_NEQ } else { NFT_CMP_EQ };
                numbers(data, [(NFTA_CMP_SREG, register.number()), (NFTA_CMP_OP, operation)]);
                data.nested(NFTA_CMP_DATA, |nested| nested.bytes(NFTA_DATA_VALUE, value));
            }
            Self::Bitwise { register, mask, xor } => {
                let register = register.number();
                numbers(data, [(NFTA_BITWISE_SREG, register), (NFTA_BITWISE_DREG, register), (NFTA_BITWISE_LEN, 4)]);
                data.nested(NFTA_BITWISE_MASK, |nested| nested.bytes(NFTA_DATA_VALUE, &mask.to_ne_bytes()));
                data.nested(NFTA_BITWISE_XOR, |nested| nested.bytes(NFTA_DATA_VALUE, &xor.to_ne_bytes()));
            }
            Self::Lookup { set, key, found, negated } => {
                write_lookup(data, set, *key, *found, *negated);
            }
            Self::Verdict(verdict) => {
                data.number(NFTA_IMMEDIATE_DREG, VERDICT_REGISTER);
                data.nested(NFTA_IMMEDIATE_DATA, |nested| write_verdict(nested, verdict));
            }
            Self::Snat { family, register, random } => {
                let (family, register) = (u32::from(protocol(*family)), register.number());
                numbers(
                    data,
                    [(NFTA_NAT_TYPE, NFT_NAT_SNAT), (NFTA_NAT_FAMILY, family), (NFTA_NAT_REG_ADDR_MIN, register)],
                );
                if *random {
                    data.number(NFTA_NAT_FLAGS, NF_NAT_RANGE_PROTO_RANDOM_FULLY);
                }
            }
            Self::Mss(part) => part.write(data),
            Self::Reset => numbers(data, [(NFTA_REJECT_TYPE, NFT_REJECT_TCP_RST)]),
            Self::NoTrack | Self::Counter { .. } | Self::Other(_) => {}
        }
    }

    /// Decodes all of `NFTA_RULE_EXPRESSIONS`.
    pub(super) fn read_all(list: &[u8]) -> Result<Vec<Self>, Malformed> {
        Attributes(list).map(|element| Self::read(element?.1)).collect()
    }

    fn read(element: &[u8]) -> Result<Self, Malformed> {
        let name = wire::find_text(element, NFTA_EXPR_NAME)?.ok_or(Malformed { what: "expression without a name" })?;
        let bytes = wire::find(element, NFTA_EXPR_DATA)?.unwrap_or_default();
        let data = Data::parse(bytes)?;
        let known = match name {
            "meta" => read_meta(&data),
            "ct" => read_ct(&data),
            "payload" => read_payload(&data),
            "fib" => read_fib(&data),
            "rt" => read_rt(&data),
            "reject" => read_reject(&data),
            "notrack" => Some(Self::NoTrack),
            "cmp" => read_compare(&data),
            "bitwise" => read_bitwise(&data),
            "lookup" => read_lookup(&data),
            "immediate" => read_immediate(&data),
            "nat" => read_nat(&data),
            "counter" => read_counter(&data),
            _ => None,
        };
        let known = known.or_else(|| mss::Part::read(name, bytes).map(Self::Mss));
        Ok(known.unwrap_or_else(|| Self::Other(format!("{name} {}", Hexadecimal(bytes)))))
    }
}

fn write_lookup(data: &mut Writer, set: &str, key: Register, found: Found, negated: bool) {
    data.text(NFTA_LOOKUP_SET, set);
    data.number(NFTA_LOOKUP_SREG, key.number());
    match found {
        Found::Nowhere => {}
        Found::Verdict => data.number(NFTA_LOOKUP_DREG, VERDICT_REGISTER),
        Found::Register(register) => data.number(NFTA_LOOKUP_DREG, register.number()),
    }
    if negated {
        data.number(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
    }
}

fn numbers<const N: usize>(data: &mut Writer, attributes: [(u16, u32); N]) {
    for (kind, number) in attributes {
        data.number(kind, number);
    }
}

/// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
pub(super) fn protocol(family: AddressFamily) -> u8 {
    match family {
        AddressFamily::V4 => NFPROTO_IPV4,
        AddressFamily::V6 => NFPROTO_IPV6,
    }
}

/// The attributes of one expression, in order. Attributes read are counted, so that an unexpected option is noticed.
struct Data<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Data<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Ok(Self(Attributes(bytes).collect::<Result<_, _>>()?))
    }

    fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().find(|(found, _)| *found == kind).map(|(_, payload)| *payload)
    }

    fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind).and_then(|payload| wire::network_u32(payload).ok())
    }

    fn register(&self, kind: u16) -> Option<Register> {
        self.number(kind).and_then(Register::of_number)
    }

    /// `NFTA_DATA_VALUE` inside of an attribute.
    fn value(&self, kind: u16) -> Option<&'a [u8]> {
        wire::find(self.get(kind)?, NFTA_DATA_VALUE).ok().flatten()
    }

    /// Whether there is no attribute besides these.
    fn only(&self, kinds: &[u16]) -> bool {
        self.0.iter().all(|(kind, _)| kinds.contains(kind))
    }
}

fn read_meta(data: &Data<'_>) -> Option<Expression> {
    let key = data.number(NFTA_META_KEY)?;
    match (data.register(NFTA_META_DREG), data.register(NFTA_META_SREG)) {
        (Some(register), None) => Some(Expression::Meta { key, register }),
        (None, Some(register)) => Some(Expression::SetMeta { key, register }),
        _ => None,
    }
}

fn read_ct(data: &Data<'_>) -> Option<Expression> {
    let key = data.number(NFTA_CT_KEY)?;
    if let Some(direction) = data.get(NFTA_CT_DIRECTION) {
        let reply = match direction {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        return Some(Expression::CtOf { key, reply, register: data.register(NFTA_CT_DREG)? });
    }
    match (data.register(NFTA_CT_DREG), data.register(NFTA_CT_SREG)) {
        (Some(register), None) => Some(Expression::Ct { key, register }),
        (None, Some(register)) => Some(Expression::SetCt { key, register }),
        _ => None,
    }
}

fn read_payload(data: &Data<'_>) -> Option<Expression> {
    Some(Expression::Payload {
        base: data.number(NFTA_PAYLOAD_BASE)?,
        offset: data.number(NFTA_PAYLOAD_OFFSET)?,
        length: data.number(NFTA_PAYLOAD_LEN)?,
        register: data.register(NFTA_PAYLOAD_DREG)?,
    })
}

fn read_fib(data: &Data<'_>) -> Option<Expression> {
    Some(Expression::Fib {
        result: data.number(NFTA_FIB_RESULT)?,
        flags: data.number(NFTA_FIB_FLAGS).unwrap_or(0),
        register: data.register(NFTA_FIB_DREG)?,
    })
}

fn read_reject(data: &Data<'_>) -> Option<Expression> {
    (data.number(NFTA_REJECT_TYPE)? == NFT_REJECT_TCP_RST).then_some(Expression::Reset)
}

fn read_rt(data: &Data<'_>) -> Option<Expression> {
    Some(Expression::Rt { key: data.number(NFTA_RT_KEY)?, register: data.register(NFTA_RT_DREG)? })
}

fn read_compare(data: &Data<'_>) -> Option<Expression> {
    let negated = match data.number(NFTA_CMP_OP)? {
        NFT_CMP_EQ => false,
        NFT_CMP_NEQ => true,
        _ => return None,
    };
    let value = data.value(NFTA_CMP_DATA)?.to_vec();
    Some(Expression::Compare { register: data.register(NFTA_CMP_SREG)?, negated, value })
}

fn read_bitwise(data: &Data<'_>) -> Option<Expression> {
    let register = data.register(NFTA_BITWISE_SREG)?;
    let mask_and_xor = data.number(NFTA_BITWISE_OP).unwrap_or(0) == 0;
    if !mask_and_xor || data.register(NFTA_BITWISE_DREG)? != register || data.number(NFTA_BITWISE_LEN)? != 4 {
        return None;
    }
    let mask = wire::host_u32(data.value(NFTA_BITWISE_MASK)?).ok()?;
    let xor = wire::host_u32(data.value(NFTA_BITWISE_XOR)?).ok()?;
    Some(Expression::Bitwise { register, mask, xor })
}

fn read_lookup(data: &Data<'_>) -> Option<Expression> {
    let set = wire::text(data.get(NFTA_LOOKUP_SET)?).ok()?.to_owned();
    let found = match data.number(NFTA_LOOKUP_DREG) {
        None => Found::Nowhere,
        Some(VERDICT_REGISTER) => Found::Verdict,
        Some(number) => Found::Register(Register::of_number(number)?),
    };
    let negated = match data.number(NFTA_LOOKUP_FLAGS).unwrap_or(0) {
        0 => false,
        NFT_LOOKUP_F_INV => true,
        _ => return None,
    };
    Some(Expression::Lookup { set, key: data.register(NFTA_LOOKUP_SREG)?, found, negated })
}

fn read_immediate(data: &Data<'_>) -> Option<Expression> {
    if data.number(NFTA_IMMEDIATE_DREG)? != VERDICT_REGISTER {
        let value = data.value(NFTA_IMMEDIATE_DATA)?.to_vec();
        return Some(Expression::Value { register: data.register(NFTA_IMMEDIATE_DREG)?, value });
    }
    read_verdict(data.get(NFTA_IMMEDIATE_DATA)?).ok().flatten().map(Expression::Verdict)
}

fn read_nat(data: &Data<'_>) -> Option<Expression> {
    let register = data.register(NFTA_NAT_REG_ADDR_MIN)?;
    // One address: the kernel dumps it as both ends of the range.
    let one = data.number(NFTA_NAT_REG_ADDR_MAX).and_then(Register::of_number).is_none_or(|end| end == register);
    let without_ports = data.get(NFTA_NAT_REG_PROTO_MIN).is_none() && data.get(NFTA_NAT_REG_PROTO_MAX).is_none();
    // NF_NAT_RANGE_MAP_IPS: the kernel adds it automatically where there is an address.
    let flags = data.number(NFTA_NAT_FLAGS).unwrap_or(0) & !1;
    let (random, plain) = (flags == NF_NAT_RANGE_PROTO_RANDOM_FULLY, flags == 0);
    if data.number(NFTA_NAT_TYPE)? != NFT_NAT_SNAT || !one || !without_ports || !(plain || random) {
        return None;
    }
    let wanted = data.number(NFTA_NAT_FAMILY)?;
    let family = AddressFamily::BOTH.into_iter().find(|family| u32::from(protocol(*family)) == wanted)?;
    Some(Expression::Snat { family, register, random })
}

fn read_counter(data: &Data<'_>) -> Option<Expression> {
    let number = |kind| match data.get(kind) {
        Some(payload) => wire::network_u64(payload).ok(),
        None => Some(0),
    };
    // NFTA_COUNTER_PAD (3) is there for alignment only.
    let known = data.only(&[NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS, 3]);
    known.then_some(Expression::Counter { packets: number(NFTA_COUNTER_PACKETS)?, bytes: number(NFTA_COUNTER_BYTES)? })
}

/// Writes `NFTA_DATA_VERDICT { code, chain }`.
pub(super) fn write_verdict(data: &mut Writer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (NF_DROP, None),
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Jump(chain) => (NFT_JUMP.cast_unsigned(), Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO.cast_unsigned(), Some(chain)),
        Verdict::Return => (NFT_RETURN.cast_unsigned(), None),
    };
    data.nested(NFTA_DATA_VERDICT, |nested| {
        nested.number(NFTA_VERDICT_CODE, code);
        if let Some(chain) = chain {
            nested.text(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// The verdict in a data attribute; none if it is missing or of a kind Egret does not use.
pub(super) fn read_verdict(data: &[u8]) -> Result<Option<Verdict>, Malformed> {
    let Some(verdict) = wire::find(data, NFTA_DATA_VERDICT)? else { return Ok(None) };
    let Some(code) = wire::find_u32(verdict, NFTA_VERDICT_CODE)? else { return Ok(None) };
    let chain = wire::find_text(verdict, NFTA_VERDICT_CHAIN)?.map(str::to_owned);
    Ok(match (code, code.cast_signed(), chain) {
        (NF_DROP, _, None) => Some(Verdict::Drop),
        (NF_ACCEPT, _, None) => Some(Verdict::Accept),
        (_, NFT_JUMP, Some(chain)) => Some(Verdict::Jump(chain)),
        (_, NFT_GOTO, Some(chain)) => Some(Verdict::Goto(chain)),
        (_, NFT_RETURN, None) => Some(Verdict::Return),
        _ => None,
    })
}

/// Bytes as `0x0a0b`: the first 64 of them.
pub(super) struct Hexadecimal<'a>(pub(super) &'a [u8]);

impl fmt::Display for Hexadecimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(&self.0[..self.0.len().min(64)]))
    }
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reg {}", self.number())
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta { key, register } => write!(f, "meta load key {key} => {register}"),
            Self::SetMeta { key, register } => write!(f, "meta set key {key} with {register}"),
            Self::Ct { key, register } => write!(f, "ct load key {key} => {register}"),
            Self::CtOf { key, reply, register } => {
                write!(f, "ct load key {key} => {register} , dir {}", if *reply { "reply" } else { "original" })
            }
            Self::SetCt { key, register } => write!(f, "ct set key {key} with {register}"),
            Self::Payload { base, offset, length, register } => {
                write!(f, "payload load {length}b @ header {base} + {offset} => {register}")
            }
            Self::Fib { result, flags, register } => write!(f, "fib result {result} flags {flags:#x} => {register}"),
            Self::Rt { key, register } => write!(f, "rt load key {key} => {register}"),
            Self::Value { register, value } => write!(f, "immediate {register} {}", Hexadecimal(value)),
            Self::Reset => f.write_str("reject type 1"),
            Self::NoTrack => f.write_str("notrack"),
            Self::Compare { register, negated, value } => {
                write!(f, "cmp {} {register} {}", if *negated { "neq" } else { "eq" }, Hexadecimal(value))
            }
            Self::Bitwise { register, mask, xor } => {
                write!(f, "bitwise {register} = ( {register} & {mask:#010x} ) ^ {xor:#010x}")
            }
            Self::Lookup { set, key, found, negated } => {
                write!(f, "lookup {key} set {set}")?;
                match found {
                    Found::Nowhere => {}
                    Found::Verdict => f.write_str(" dreg 0")?,
                    Found::Register(register) => write!(f, " d{register}")?,
                }
                f.write_str(if *negated { " 0x1" } else { "" })
            }
            Self::Verdict(verdict) => write!(f, "immediate reg 0 {verdict}"),
            Self::Snat { family, register, random } => {
                let ports = if *random { " fully-random" } else { "" };
                write!(f, "nat snat {family} addr_min {register}{ports}")
            }
            Self::Counter { .. } => f.write_str("counter"),
            Self::Mss(part) => write!(f, "{part}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}
