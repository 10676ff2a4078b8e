//! Finds which bits of packet and connection marks other programs on this node use: from policy routing rules, nftables
//! (including iptables-nft), and devices by which known programs are recognised.
//!
//! Not here: choosing a mask (`core::state::mask`); the rules of iptables-legacy, which cannot be read without `unsafe`
//! (`known` lists programs that have some); marks of traffic control, IPsec and sockets.

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

/// How often a dump is restarted because the ruleset changed meanwhile.
const ATTEMPTS: usize = 5;

/// Mark bits in use on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarkSurvey {
    /// What other programs use.
    pub used: MarkUsage,
    /// The mask of our own rules, if there are any.
    pub own: Option<u32>,
}

/// Why marks could not be read completely.
#[derive(Debug, thiserror::Error)]
pub enum MarkSurveyError {
    /// Links or rules could not be listed.
    #[error("read policy routing rules")]
    Rules(#[source] RouteError),
    /// nftables could not be listed.
    #[error("read the nftables rules of other programs")]
    Nft(#[source] ExchangeError),
}

/// Reads all marks in use, in the network namespace of the calling thread and within a tokio runtime. `first` is the
/// first priority of Egret's rules.
pub async fn survey(first: u32) -> Result<MarkSurvey, MarkSurveyError> {
    let (mut found, devices) = rules_and_devices(first).await.map_err(MarkSurveyError::Rules)?;
    let (rules, sets) = nftables().await.map_err(MarkSurveyError::Nft)?;
    let mut names: BTreeSet<String> = BTreeSet::new();
    for rule in &rules {
        names.insert(rule.table.clone());
        names.insert(rule.chain.clone());
        found.used.add(owner(rule), rule::uses(rule).bits);
    }
    for (user, bits) in sets {
        found.used.add(user, bits);
    }
    let (devices, names): (Vec<_>, Vec<_>) = (devices, names.into_iter().collect());
    for (user, bits) in known::there(&devices, &names) {
        found.used.add(user, bits);
    }
    Ok(found)
}

/// The owner, by its table: a CNI has hundreds of chains.
fn owner(rule: &ForeignRule) -> String {
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
        // While objects move from one range to another there are rules of both; the persisted state knows which was
        // active.
        found.own.get_or_insert(rule.mask);
    }
}

/// The rules of other programs, and the mark values in their sets' elements.
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
            // A set that was deleted or is being changed is read in the next round.
            let elements = listing.elements(rule, &part.set).await.unwrap_or_default();
            found.push((
                owner(rule),
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
