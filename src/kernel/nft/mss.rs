//! `tcp flags syn tcp option maxseg size set rt mtu`: the expressions that clamp a TCP connection's MSS to its route's
//! MTU, and those of `tcp flags ! syn`.
//!
//! Three kinds of expression occur only in these statements, always with the same operands, so each is known as a whole. Not
//! here: the whole statement (`statement`), and why the MSS is clamped (`core::compile::table`).

use std::fmt;

use super::uapi::*;
use super::wire::{self, Writer};

/// `NFTA_BYTEORDER_*`, `NFTA_EXTHDR_*` (include/uapi/linux/netfilter/nf_tables.h).
const NFTA_BYTEORDER_SREG: u16 = 1;
const NFTA_BYTEORDER_DREG: u16 = 2;
const NFTA_BYTEORDER_OP: u16 = 3;
const NFTA_BYTEORDER_LEN: u16 = 4;
const NFTA_BYTEORDER_SIZE: u16 = 5;
const NFT_BYTEORDER_HTON: u32 = 1;
const NFTA_EXTHDR_TYPE: u16 = 2;
const NFTA_EXTHDR_OFFSET: u16 = 3;
const NFTA_EXTHDR_LEN: u16 = 4;
const NFTA_EXTHDR_OP: u16 = 6;
const NFTA_EXTHDR_SREG: u16 = 7;
const NFT_EXTHDR_OP_TCPOPT: u32 = 1;
/// `NFT_REG_1`, as `Register::FIRST` of `expression`.
const FIRST: u32 = 1;
/// `IPPROTO_TCP`
pub(super) const TCP: u8 = 6;
/// TCP's flags are the 14th byte of its header, and SYN is their second bit (RFC 9293, 3.1).
pub(super) const FLAGS_OFFSET: u32 = 13;
const SYN: u8 = 2;
/// The option's number, and where its value begins (RFC 9293, 3.2).
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// An expression that occurs only in these statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// `bitwise reg 1 = ( reg 1 & 0x02 ) ^ 0x00`, one byte
    SynFlag,
    /// `byteorder reg 1 = hton(reg 1, 2, 2)`
    NetworkOrder,
    /// `exthdr write tcpopt reg 1 => 2b @ 2 + 2`; the kernel only ever lowers this option.
    Write,
}

impl Part {
    const ALL: [Self; 3] = [Self::SynFlag, Self::NetworkOrder, Self::Write];

    /// The kernel's name of the expression.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SynFlag => "bitwise",
            Self::NetworkOrder => "byteorder",
            Self::Write => "exthdr",
        }
    }

    /// Writes its attributes.
    pub(super) fn write(self, data: &mut Writer) {
        let mut numbers =
            |attributes: &[(u16, u32)]| attributes.iter().for_each(|(kind, number)| data.number(*kind, *number));
        match self {
            Self::SynFlag => {
                numbers(&[(NFTA_BITWISE_SREG, FIRST), (NFTA_BITWISE_DREG, FIRST), (NFTA_BITWISE_LEN, 1)]);
                data.nested(NFTA_BITWISE_MASK, |nested| nested.bytes(NFTA_DATA_VALUE, &[SYN]));
                data.nested(NFTA_BITWISE_XOR, |nested| nested.bytes(NFTA_DATA_VALUE, &[0]));
            }
            Self::NetworkOrder => numbers(&[
                (NFTA_BYTEORDER_SREG, FIRST),
                (NFTA_BYTEORDER_DREG, FIRST),
                (NFTA_BYTEORDER_OP, NFT_BYTEORDER_HTON),
                (NFTA_BYTEORDER_LEN, 2),
                (NFTA_BYTEORDER_SIZE, 2),
            ]),
            Self::Write => {
                numbers(&[(NFTA_EXTHDR_SREG, FIRST)]);
                data.bytes(NFTA_EXTHDR_TYPE, &[MAXIMUM_SEGMENT_SIZE]);
                data.number(NFTA_EXTHDR_OFFSET, 2);
                data.number(NFTA_EXTHDR_LEN, 2);
                data.number(NFTA_EXTHDR_OP, NFT_EXTHDR_OP_TCPOPT);
            }
        }
    }

    /// The part with this name and these attributes. The kernel's dump may have attributes in another order, and
    /// redundant ones.
    pub(super) fn read(name: &str, attributes: &[u8]) -> Option<Self> {
        let number = |kind| wire::find_u32(attributes, kind).ok().flatten();
        let byte = |kind, value: u8| {
            let found = wire::find(attributes, kind).ok().flatten();
            found.and_then(|data| wire::find(data, NFTA_DATA_VALUE).ok().flatten()) == Some(&[value][..])
        };
        let part = Self::ALL.into_iter().find(|part| part.name() == name)?;
        let same = match part {
            Self::SynFlag => {
                [NFTA_BITWISE_SREG, NFTA_BITWISE_DREG, NFTA_BITWISE_LEN].map(number)
                    == [Some(FIRST), Some(FIRST), Some(1)]
                    && byte(NFTA_BITWISE_MASK, SYN)
                    && byte(NFTA_BITWISE_XOR, 0)
            }
            Self::NetworkOrder => {
                let kinds = [
                    NFTA_BYTEORDER_SREG,
                    NFTA_BYTEORDER_DREG,
                    NFTA_BYTEORDER_OP,
                    NFTA_BYTEORDER_LEN,
                    NFTA_BYTEORDER_SIZE,
                ];
                kinds.map(number) == [Some(FIRST), Some(FIRST), Some(NFT_BYTEORDER_HTON), Some(2), Some(2)]
            }
            Self::Write => {
                let kind = wire::find(attributes, NFTA_EXTHDR_TYPE).ok().flatten();
                let kinds = [NFTA_EXTHDR_SREG, NFTA_EXTHDR_OFFSET, NFTA_EXTHDR_LEN, NFTA_EXTHDR_OP];
                kind == Some(&[MAXIMUM_SEGMENT_SIZE][..])
                    && kinds.map(number) == [Some(FIRST), Some(2), Some(2), Some(NFT_EXTHDR_OP_TCPOPT)]
            }
        };
        same.then_some(part)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SynFlag => "bitwise reg 1 = ( reg 1 & 0x02 ) ^ 0x00",
            Self::NetworkOrder => "byteorder reg 1 = hton(reg 1, 2, 2)",
            Self::Write => "exthdr write tcpopt reg 1 => 2b @ 2 + 2",
        })
    }
}
