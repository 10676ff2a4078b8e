//! Renders plans and states as text: steps as lines of `ip` and `nft`, states as listings, two states as a unified diff.
//! The only file that uses `similar`.

use std::fmt;

use super::super::state::NodeState;
use super::super::state::net::route_text;
use super::super::state::nft::{NftChange, TableFamily};
use super::Step;

/// A step as people and programs read it: what is done to which kind of object, and to which one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StepLine {
    /// `add`, `change`, `set`, `remove`, `flush` or `wait`.
    pub action: &'static str,
    /// `label`, `link`, `addr`, `sysctl`, `neigh`, `route`, `rule`, `nft`, `conn` or `packet`.
    pub kind: &'static str,
    /// The object, in the syntax of `ip` and `nft`.
    pub object: String,
}

impl fmt::Display for StepLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<7} {:<6} {}", self.action, self.kind, self.object)
    }
}

impl Step {
    /// The step as lines: one, but for a transaction of nftables and for connections that are flushed for several reasons.
    pub fn lines(&self) -> Vec<StepLine> {
        let line = |action, kind, object: String| StepLine { action, kind, object };
        vec![match self {
            Self::SetLabel(key, value, None) => line("add", "label", format!("{key}: \"{value}\"")),
            Self::SetLabel(key, value, Some(was)) => line("change", "label", format!("{key}: \"{was}\" → \"{value}\"")),
            Self::RemoveLabel(key, value) => line("remove", "label", format!("{key}: \"{value}\"")),
            Self::AddLink(name, link) => line("add", "link", format!("{name} {link}")),
            Self::ChangeLink(name, link) => line("change", "link", format!("{name} {link}")),
            Self::DeleteLink(name) => line("remove", "link", name.clone()),
            Self::AddAddress(address) => line("add", "addr", address.to_string()),
            Self::DeleteAddress(address) => line("remove", "addr", address.to_string()),
            Self::SetSysctl(sysctl, value, Some(was)) => line("change", "sysctl", format!("{sysctl}: {was} → {value}")),
            Self::SetSysctl(sysctl, value, None) => line("set", "sysctl", format!("{sysctl} = {value}")),
            Self::SetNeighbour(neighbour) => line("set", "neigh", neighbour.to_string()),
            Self::DeleteNeighbour(neighbour) => line("remove", "neigh", neighbour.to_string()),
            Self::SetRoute(key, route, None) => line("add", "route", route_text(key, route)),
            Self::SetRoute(key, route, Some(_)) => line("change", "route", route_text(key, route)),
            Self::DeleteRoute(key, route) => line("remove", "route", route_text(key, route)),
            Self::AddRule(rule) => line("add", "rule", rule.to_string()),
            Self::DeleteRule(rule) => line("remove", "rule", rule.to_string()),
            Self::FlushConntrack { mark, mask } => line("flush", "conn", format!("mark {mark:#x}/{mask:#x}")),
            Self::FlushTranslated { mark, mask, keep } => {
                line("flush", "conn", format!("mark {mark:#x}/{mask:#x}, translated to another address than {keep}"))
            }
            Self::FlushSources(sources) => {
                return sources.to_string().lines().map(|of| line("flush", "conn", of.to_owned())).collect();
            }
            Self::Notice => line("wait", "conn", "until live ones are seen".to_owned()),
            Self::RcuBarrier => line("wait", "packet", "until those in flight have passed".to_owned()),
            Self::Nft(transaction) => {
                return transaction.changes.iter().map(|(family, change)| nft_line(*family, change)).collect();
            }
        }]
    }
}

/// `add     nft    inet element group_of4 { 10.1.1.177 : goto group_1 }`
pub(super) fn nft_line(family: TableFamily, change: &NftChange) -> StepLine {
    let text = change.to_string();
    let object = text.split_once(' ').map_or("", |(_, object)| object);
    let action = match change {
        NftChange::AddTable { .. }
        | NftChange::AddSet(..)
        | NftChange::AddChain(..)
        | NftChange::AddRule(..)
        | NftChange::AddElements(..) => "add",
        NftChange::FlushChain(_) => "flush",
        NftChange::DeleteTable
        | NftChange::DeleteSet(_)
        | NftChange::DeleteChain(_)
        | NftChange::DeleteElements(..) => "remove",
    };
    StepLine { action, kind: "nft", object: format!("{family} {object}") }
}

impl fmt::Display for Step {
    /// Its lines. Those of a transaction begin as nft's own commands do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = match self {
            Self::Nft(transaction) => {
                let all = transaction.changes.iter();
                all.map(|(family, change)| format!("change  nft    {family} {change}")).collect()
            }
            other => other.lines().iter().map(ToString::to_string).collect(),
        };
        f.write_str(&lines.join("\n"))
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
