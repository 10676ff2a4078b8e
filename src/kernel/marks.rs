//! Which bits of packet and connection marks others on this node use: policy routing rules, nftables, iptables as far as it is kept in
//! nftables, and those who are known by their devices.
//!
//! Deliberately absent: choosing (`core::state::mask`); the rules of iptables' old engine, which can't be read without `unsafe` (who is known
//! to have some is in `known`); and marks of traffic control, IPsec and sockets.

mod known;
mod rule;

use std::collections::BTreeSet;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::rule::RuleMessage;

use super::foreign::{self, ForeignElement, ForeignRule, RulesetDump};
use super::nft::socket::ExchangeError;
use super::socket::{RouteError, RouteSocket};
use super::{encode, links, routes};
use crate::core::state::mask::{MarkUsage, touched};
use crate::core::state::net::Protocol;
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::PROTOCOL;
use rule::InSet;

/// How often a listing is begun anew because somebody changed it meanwhile.
const ATTEMPTS: usize = 5;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarkSurvey {
    /// What others use.
    pub used: MarkUsage,
    /// The mask of our own rules, if there are any.
    pub own: Option<u32>,
}

/// Why not all could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum MarkSurveyError {
    /// Links or rules.
    #[error("look at policy routing rules")]
    Rules(#[source] RouteError),
    /// nftables.
    #[error("look at the nftables rules of others")]
    Nft(#[source] ExchangeError),
}

/// Looks, in the network namespace of the calling thread and within a tokio runtime. `first` is the first priority of our rules.
pub async fn look(first: u32) -> Result<MarkSurvey, MarkSurveyError> {
    let (mut found, devices) = rules_and_devices(first).await.map_err(MarkSurveyError::Rules)?;
    let (rules, sets) = nftables().await.map_err(MarkSurveyError::Nft)?;
    let mut names: BTreeSet<String> = BTreeSet::new();
    for rule in &rules {
        names.insert(rule.table.clone());
        names.insert(rule.chain.clone());
        found.used.add(whose(rule), rule::uses(rule).bits);
    }
    for (who, bits) in sets {
        found.used.add(who, bits);
    }
    let (devices, names): (Vec<_>, Vec<_>) = (devices, names.into_iter().collect());
    for (who, bits) in known::there(&devices, &names) {
        found.used.add(who, bits);
    }
    Ok(found)
}

/// By its table: a CNI has hundreds of chains.
fn whose(rule: &ForeignRule) -> String {
    format!("the nftables table {} {}", foreign::family_name(rule.family), rule.table)
}

async fn rules_and_devices(first: u32) -> Result<(MarkSurvey, Vec<String>), RouteError> {
    let socket = RouteSocket::open().map_err(|_| RouteError::Closed)?;
    let mut found = MarkSurvey::default();
    for family in AddressFamily::BOTH {
        let mut request = RuleMessage::default();
        request.header.family = encode::family(family);
        for answer in socket.dump(RouteNetlinkMessage::GetRule(request)).await? {
            let RouteNetlinkMessage::NewRule(message) = answer else { continue };
            if let Some((rule, protocol)) = routes::rule(&message) {
                take_rule(&mut found, &rule, protocol, first);
            }
        }
    }
    let answers = socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
    let devices = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => links::decode(message).map(|(_, seen)| seen.name),
        _ => None,
    });
    Ok((found, devices.collect()))
}

fn take_rule(found: &mut MarkSurvey, rule: &crate::core::state::net::RoutingRule, protocol: Protocol, first: u32) {
    // `fwmark 0/0xffffffff` is how a rule without a mark is listed.
    if rule.mark == 0 && rule.mask == u32::MAX {
        return;
    }
    if protocol != PROTOCOL {
        found.used.add(format!("the ip rule {}", rule.priority), touched(rule.mask, rule.mark));
    } else if rule.priority >= first {
        // While one range is left for another there are rules of both: memory knows which it was.
        found.own.get_or_insert(rule.mask);
    }
}

/// The rules of others, and what the elements of their sets have of marks.
async fn nftables() -> Result<(Vec<ForeignRule>, Vec<(String, u32)>), ExchangeError> {
    let mut listing = RulesetDump::open()?;
    let mut attempt = 1;
    let rules = loop {
        match listing.rules().await {
            Err(ExchangeError::Interrupted | ExchangeError::Lost) if attempt < ATTEMPTS => attempt += 1,
            other => break other?,
        }
    };
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for rule in &rules {
        for part in rule::uses(rule).sets {
            if !seen.insert((rule.family, rule.table.clone(), part.clone())) {
                continue;
            }
            // A set that went away meanwhile, or is just being changed, is looked at the next time.
            let elements = listing.elements(rule, &part.set).await.unwrap_or_default();
            found.push((
                whose(rule),
                elements.iter().filter_map(|element| in_element(element, &part)).fold(0, |all, bits| all | bits),
            ));
        }
    }
    Ok((rules, found))
}

fn in_element(element: &ForeignElement, part: &InSet) -> Option<u32> {
    let bytes = if part.data { &element.data } else { &element.key };
    let number = u32::from_ne_bytes(bytes.get(part.offset..part.offset + 4)?.try_into().ok()?);
    Some(if part.swapped { number.swap_bytes() } else { number })
}
