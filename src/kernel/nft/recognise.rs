//! Decodes nftables expressions into statements.
//!
//! A statement is only recognised in the form that `statement` builds: every guess is built again and compared, so that
//! nothing that looks alike but means something else passes. Remaining expressions become [`Statement::Unknown`], one
//! each.

use std::net::IpAddr;

use crate::core::state::net::Mac;
use crate::core::state::nft::{Field, MatchValue, NftRule, Statement, TableFamily};

use super::expression::{Expression, Found, Register};
use super::statement::{self, Dependency, Established};
use super::uapi::*;
use super::wire;

const FIELDS: [Field; 18] = [
    Field::MetaMark,
    Field::CtMark,
    Field::CtDirection,
    Field::Iifname,
    Field::Oifname,
    Field::Ip4Saddr,
    Field::Ip4Daddr,
    Field::Ip6Saddr,
    Field::Ip6Daddr,
    Field::UdpDport,
    Field::EtherDaddr,
    Field::Iifkind,
    Field::CtOriginal4,
    Field::CtOriginal6,
    Field::CtReply4,
    Field::CtReply6,
    Field::RtNexthop4,
    Field::RtNexthop6,
];

/// The rule that these expressions represent.
pub(super) fn rule_of(family: TableFamily, expressions: &[Expression]) -> NftRule {
    let mut established = Established::nothing(family);
    let mut statements = Vec::new();
    let mut rest = expressions;
    while let Some(first) = rest.first() {
        if let Some((statement, behind)) = with_dependencies(&mut established, rest) {
            statements.push(statement);
            rest = behind;
        } else {
            statements.push(Statement::Unknown(first.to_string()));
            rest = &rest[1..];
        }
    }
    NftRule(statements)
}

/// One statement with exactly the dependencies that were missing before it, and the remaining expressions.
fn with_dependencies<'a>(
    established: &mut Established,
    expressions: &'a [Expression],
) -> Option<(Statement, &'a [Expression])> {
    let mut rest = expressions;
    let mut dependencies = Vec::new();
    while let Some((dependency, behind)) = dependency(rest) {
        dependencies.push(dependency);
        rest = behind;
    }
    let (statement, length) = guess(rest)?;
    // Both are loaded alike.
    let statement = match statement {
        Statement::Compare { field: Field::UdpDport, mask, negated, value }
            if dependencies.contains(&Dependency::Tcp) =>
        {
            Statement::Compare { field: Field::TcpDport, mask, negated, value }
        }
        other => other,
    };
    let (own, behind) = rest.split_at_checked(length)?;
    let mut after = *established;
    let expected = after.missing_for(&statement::fields(&statement));
    let same = statement::own_expressions(&statement).is_some_and(|built| equal_but_for_counts(&built, own));
    if expected != dependencies || !same {
        return None;
    }
    *established = after;
    Some((statement, behind))
}

fn equal_but_for_counts(built: &[Expression], found: &[Expression]) -> bool {
    built.len() == found.len()
        && built.iter().zip(found).all(|pair| match pair {
            (Expression::Counter { .. }, Expression::Counter { .. }) => true,
            (built, found) => built == found,
        })
}

fn dependency(expressions: &[Expression]) -> Option<(Dependency, &[Expression])> {
    let (two, behind) = expressions.split_at_checked(2)?;
    // Some statements about TCP begin like this.
    let of_port = || behind.first() == Some(&statement::load_plain(Field::TcpDport, Register(0)));
    Dependency::ALL
        .into_iter()
        .filter(|dependency| *dependency != Dependency::Tcp || of_port())
        .find(|dependency| dependency.expressions() == two)
        .map(|dependency| (dependency, behind))
}

/// A guess at the statement that begins here, and its number of expressions.
fn guess(expressions: &[Expression]) -> Option<(Statement, usize)> {
    match expressions {
        [Expression::Counter { .. }, ..] => Some((Statement::Counter, 1)),
        [
            Expression::Meta { key: NFT_META_L4PROTO, .. },
            _,
            Expression::Payload { .. },
            Expression::Mss(_),
            Expression::Compare { negated: false, .. },
            ..,
        ] => Some((Statement::WithoutSyn, statement::without_syn().len())),
        [Expression::Meta { key: NFT_META_L4PROTO, .. }, _, Expression::Payload { .. }, Expression::Mss(_), ..] => {
            Some((Statement::ClampMss, statement::clamp_mss().len()))
        }
        [Expression::Meta { key: NFT_META_L4PROTO, .. }, _, Expression::Reset, ..] => {
            Some((Statement::Reset, statement::reset().len()))
        }
        [Expression::Verdict(verdict), ..] => Some((Statement::Verdict(verdict.clone()), 1)),
        [
            Expression::Ct { key: NFT_CT_STATE, .. },
            Expression::Bitwise { mask, .. },
            Expression::Compare { negated, .. },
            ..,
        ] => Some((Statement::CtState { bits: *mask, negated: !negated }, 3)),
        [Expression::NoTrack, ..] => Some((Statement::NoTrack, 1)),
        [Expression::Fib { result: NFT_FIB_RESULT_OIF, .. }, ..] => Some((Statement::NoRouteBack, 2)),
        [Expression::Fib { flags: NFTA_FIB_F_DADDR, .. }, ..] => Some((Statement::ToThisHost, 2)),
        [Expression::Fib { .. }, ..] => Some((Statement::FromThisHost, 2)),
        [
            Expression::Ct { .. },
            Expression::Bitwise { mask, .. },
            Expression::Lookup { set, found: Found::Register(_), .. },
            Expression::Snat { family, .. },
            ..,
        ] => Some((Statement::SnatMap { family: *family, mask: *mask, map: set.clone() }, 4)),
        [
            Expression::Meta { key: NFT_META_L4PROTO, .. },
            _,
            Expression::Value { value, .. },
            Expression::Snat { .. },
            ..,
        ] => Some((Statement::SnatTcpTo { address: address_of(value)? }, 4)),
        [Expression::Value { value, .. }, Expression::Snat { .. }, ..] => {
            Some((Statement::SnatTo { address: address_of(value)? }, 2))
        }
        [Expression::Value { .. }, Expression::SetMeta { key: NFT_META_PKTTYPE, .. }, ..] => {
            Some((Statement::PacketForHost, 2))
        }
        [Expression::Value { value, .. }, Expression::SetMeta { .. }, ..] => {
            let value = wire::host_u32(value).ok()?;
            Some((Statement::SetMark { field: Field::MetaMark, keep: 0, value }, 2))
        }
        [Expression::Value { value, .. }, Expression::SetCt { .. }, ..] => {
            let value = wire::host_u32(value).ok()?;
            Some((Statement::SetMark { field: Field::CtMark, keep: 0, value }, 2))
        }
        [_, Expression::Bitwise { mask, xor, .. }, Expression::SetMeta { .. }, ..] => {
            Some((Statement::SetMark { field: Field::MetaMark, keep: *mask, value: *xor }, 3))
        }
        [_, Expression::Bitwise { mask, xor, .. }, Expression::SetCt { .. }, ..] => {
            Some((Statement::SetMark { field: Field::CtMark, keep: *mask, value: *xor }, 3))
        }
        _ => guess_match(expressions),
    }
}

/// A statement that loads fields and compares or looks them up.
fn guess_match(expressions: &[Expression]) -> Option<(Statement, usize)> {
    let (fields, mask, length) = loaded_fields(expressions)?;
    let first = *fields.first()?;
    let statement = match expressions.get(length)? {
        Expression::Compare { negated, value, .. } => {
            Statement::Compare { field: first, mask, negated: *negated, value: value_of(first, value)? }
        }
        Expression::Lookup { set, found: Found::Nowhere, negated, .. } => {
            Statement::InSet { fields, mask, negated: *negated, set: set.clone() }
        }
        Expression::Lookup { set, found: Found::Verdict, .. } => {
            Statement::VerdictMap { field: first, mask, map: set.clone() }
        }
        Expression::Lookup { set, found: Found::Register(_), .. } => {
            return Some((Statement::MarkFromMap { field: first, map: set.clone() }, length + 2));
        }
        _ => return None,
    };
    Some((statement, length + 1))
}

/// The fields loaded consecutively from here on, the first one's mask, and the number of expressions.
fn loaded_fields(expressions: &[Expression]) -> Option<(Vec<Field>, Option<u32>, usize)> {
    let mut fields = Vec::new();
    let mut mask = None;
    let mut word = 0;
    let mut length = 0;
    while let Some(load) = expressions.get(length) {
        let Some(field) = FIELDS.into_iter().find(|field| statement::load_plain(*field, Register(word)) == *load)
        else {
            break;
        };
        length += 1;
        if let (0, Some(Expression::Bitwise { mask: bits, .. })) = (word, expressions.get(length)) {
            mask = Some(*bits);
            length += 1;
        }
        fields.push(field);
        word += statement::words(field);
    }
    (!fields.is_empty()).then_some((fields, mask, length))
}

fn value_of(field: Field, bytes: &[u8]) -> Option<MatchValue> {
    match field {
        Field::MetaMark | Field::CtMark => wire::host_u32(bytes).ok().map(MatchValue::Mark),
        Field::CtDirection => match bytes {
            [0] => Some(MatchValue::Reply(false)),
            [1] => Some(MatchValue::Reply(true)),
            _ => None,
        },
        Field::EtherDaddr => bytes.try_into().ok().map(|mac| MatchValue::Mac(Mac(mac))),
        Field::Iifname | Field::Oifname | Field::Iifkind => statement::interface_name(bytes).map(MatchValue::Interface),
        Field::UdpDport | Field::TcpDport => {
            bytes.try_into().ok().map(|port| MatchValue::Port(u16::from_be_bytes(port)))
        }
        Field::Ip4Saddr
        | Field::Ip4Daddr
        | Field::Ip6Saddr
        | Field::Ip6Daddr
        | Field::CtOriginal4
        | Field::CtOriginal6
        | Field::CtReply4
        | Field::CtReply6
        | Field::RtNexthop4
        | Field::RtNexthop6 => address_of(bytes).map(MatchValue::Address),
    }
}

/// An address in network order. Rebuilding the statement checks that it is of the field's family.
fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
