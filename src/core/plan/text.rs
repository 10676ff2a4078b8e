//! Renders plans and states as text: steps as lines of `ip` and `nft`, states as listings, two states as a unified diff.
//! The only file that uses `similar`.

use std::fmt;

use super::super::state::NodeState;
use super::super::state::net::route_text;
use super::Step;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetLabel(key, value, None) => write!(f, "add     label  {key}: \"{value}\""),
            Self::SetLabel(key, value, Some(was)) => write!(f, "change  label  {key}: \"{was}\" → \"{value}\""),
            Self::RemoveLabel(key, value) => write!(f, "remove  label  {key}: \"{value}\""),
            Self::AddLink(name, link) => write!(f, "add     link   {name} {link}"),
            Self::ChangeLink(name, link) => write!(f, "change  link   {name} {link}"),
            Self::DeleteLink(name) => write!(f, "remove  link   {name}"),
            Self::AddAddress(address) => write!(f, "add     addr   {address}"),
            Self::DeleteAddress(address) => write!(f, "remove  addr   {address}"),
            Self::SetSysctl(sysctl, value, Some(was)) => write!(f, "change  sysctl {sysctl}: {was} → {value}"),
            Self::SetSysctl(sysctl, value, None) => write!(f, "set     sysctl {sysctl} = {value}"),
            Self::SetNeighbour(neighbour) => write!(f, "set     neigh  {neighbour}"),
            Self::DeleteNeighbour(neighbour) => write!(f, "remove  neigh  {neighbour}"),
            Self::SetRoute(key, route, None) => write!(f, "add     route  {}", route_text(key, route)),
            Self::SetRoute(key, route, Some(_)) => write!(f, "change  route  {}", route_text(key, route)),
            Self::DeleteRoute(key, route) => write!(f, "remove  route  {}", route_text(key, route)),
            Self::AddRule(rule) => write!(f, "add     rule   {rule}"),
            Self::DeleteRule(rule) => write!(f, "remove  rule   {rule}"),
            Self::FlushConntrack { mark, mask } => write!(f, "forget  conn   mark {mark:#x}/{mask:#x}"),
            Self::FlushSources(sources) => sources.fmt(f),
            Self::Notice => f.write_str("wait    conn   until live ones have been seen"),
            Self::RcuBarrier => f.write_str("wait    packet until those on their way are through"),
            Self::Nft(transaction) => {
                for (position, (family, change)) in transaction.changes.iter().enumerate() {
                    if position > 0 {
                        f.write_str("\n")?;
                    }
                    write!(f, "change  nft    {family} {change}")?;
                }
                Ok(())
            }
        }
    }
}

/// A node's state as text, in sections; equal states give equal text.
#[derive(Debug)]
pub struct StateListing<'a>(pub &'a NodeState);

impl fmt::Display for StateListing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No `..`, so that a new field must be added here.
        let NodeState { labels, links, addresses, sysctls, rules, routes, neighbours, nft } = self.0;
        section(f, "labels", labels.iter().map(|(key, value)| format!("{key}: \"{value}\"")))?;
        section(f, "ip link", links.iter().map(|(name, link)| format!("{name} {link}")))?;
        section(f, "ip address", addresses.iter().map(ToString::to_string))?;
        section(f, "sysctl", sysctls.iter().map(|(sysctl, value)| format!("{sysctl} = {value}")))?;
        section(f, "ip neigh", neighbours.iter().map(ToString::to_string))?;
        section(f, "ip rule", rules.iter().map(ToString::to_string))?;
        section(f, "ip route", routes.iter().map(|(key, route)| route_text(key, route)))?;
        for (family, table) in nft {
            f.write_str(&table.listing(*family))?;
        }
        Ok(())
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, lines: impl Iterator<Item = String>) -> fmt::Result {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    writeln!(f, "{title}")?;
    lines.try_for_each(|line| writeln!(f, "\t{line}"))
}

/// A unified diff of two states with three lines of context; empty if they are the same.
pub fn unified_diff(before: &NodeState, after: &NodeState, before_name: &str, after_name: &str) -> String {
    let (before, after) = (StateListing(before).to_string(), StateListing(after).to_string());
    text_diff(&before, &after, before_name, after_name)
}

/// A unified diff of two texts with three lines of context; empty if they are the same.
pub fn text_diff(before: &str, after: &str, before_name: &str, after_name: &str) -> String {
    similar::TextDiff::from_lines(before, after)
        .unified_diff()
        .context_radius(3)
        .header(before_name, after_name)
        .to_string()
}
