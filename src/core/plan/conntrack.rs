//! Connections that a change of pods' addresses takes with it: a connection keeps what it began with, its mark, its translation and
//! its being an old one, and conntrack knows it by addresses and ports alone. So it outlives its pod, and its group.
//!
//! What is forgotten follows from the maps of pods' addresses as they are and as they are to be. Deliberately absent: conntrack
//! itself (`kernel::conntrack`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::super::cidr::{AddressRange as Addresses, RangeSet};
use super::super::facts::PodName;
use super::super::state::nft::{
    AddressFamily, ElementData, ElementKey, Field, Ruleset, Statement, Table, TableFamily, Verdict,
};
use super::super::state::ownership::DatapathConfig;

/// So many addresses are named in a step's text; the rest is counted.
const NAMED: usize = 3;

/// Which connections are to be forgotten: by the address that opened them, whoever translated it since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConntrackFlush {
    /// Which ones of each address.
    pub addresses: BTreeMap<IpAddr, FlushScope>,
    /// Where the groups lead that [`Which`] names.
    pub ways: BTreeMap<String, GroupDestinations>,
    /// Where those lead now that pods leave.
    pub former: BTreeMap<String, GroupDestinations>,
    /// Destinations inside the cluster, which are never steered.
    pub inside: RangeSet,
    /// The bits of a connection's mark that are ours.
    pub mask: u32,
}

/// Which of an address's connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlushScope {
    /// All: no pod has the address any more.
    All,
    /// Those that the pod which has the address now cannot have: their mark is not the one that its group has there. None: no
    /// policy selects it, and it has no mark anywhere. Its own live connections, to Services or elsewhere, stay.
    Others(Option<String>),
    /// Of a pod whose group leads elsewhere now, what would not survive that: connections that nobody has answered yet and
    /// that will be steered, though their translation is that of their old way; and live ones that are to be reset. Since the
    /// switch each packet gives them the new mark, so where the old group leads elsewhere that mark spares none.
    Moved {
        /// Its group from now on.
        group: String,
        /// Until now.
        from: Option<String>,
    },
    /// Of the same pod, live ones that are to be reset and go where the old group leads, too: those of them that have another mark,
    /// while the old group still shows which these are.
    Reset {
        /// Its group from now on.
        group: String,
        /// Until now.
        from: Option<String>,
    },
}

/// Where a group's connections go, by their destination. What is in no range goes its own way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupDestinations {
    /// New ones. Disjoint and sorted.
    new: Vec<(Addresses, Mark)>,
    /// Live ones that are moved (`existingConnections: Reset`). Disjoint and sorted.
    live: Vec<(Addresses, Mark)>,
}

/// What the mark of a connection has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// An exit's; 0: none, it goes its own way.
    Is(u32),
    /// There is no gateway: no connection has the right one.
    Dropped,
}

/// A connection, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Who opened it, before any translation.
    pub source: IpAddr,
    /// Who answers: behind destination translation.
    pub destination: IpAddr,
    /// All bits of its mark.
    pub mark: u32,
    /// Whether an answer was seen.
    pub answered: bool,
}

/// Whose the pods' addresses are. The kernel knows the groups of addresses, not the pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressHolders {
    /// When all was last in force; none: this process has not seen that yet.
    pub before: Option<BTreeMap<IpAddr, PodName>>,
    /// Now.
    pub now: BTreeMap<IpAddr, PodName>,
}

impl AddressHolders {
    /// Whether the address is the same pod's as before; none where that is not known.
    fn same(&self, address: IpAddr) -> Option<bool> {
        let before = self.before.as_ref()?;
        let (before, now) = (before.get(&address), self.now.get(&address)?);
        Some(before == Some(now))
    }
}

impl ConntrackFlush {
    /// Whether this connection is one of those.
    pub fn include(&self, connection: &Connection) -> bool {
        let Some(which) = self.addresses.get(&connection.source) else { return false };
        let mark = connection.mark & self.mask;
        let inside = self.inside.contains(connection.destination);
        let ways = |group: &String| self.ways.get(group).filter(|_| !inside);
        match which {
            FlushScope::All => true,
            FlushScope::Others(group) => {
                let wanted = group.as_ref().and_then(ways).and_then(|ways| at(&ways.new, connection.destination));
                wanted.unwrap_or(Mark::Is(0)) != Mark::Is(mark)
            }
            FlushScope::Moved { group, from } => ways(group).is_some_and(|ways| {
                let unanswered = !connection.answered
                    && match at(&ways.new, connection.destination) {
                        Some(Mark::Is(to)) if to != 0 => {
                            mark == 0 || mark == to && !self.led(from.as_ref(), to, connection)
                        }
                        _ => false,
                    };
                // Where there is no gateway, the live ones are dropped like the new ones, until there is one.
                let reset = match at(&ways.live, connection.destination) {
                    Some(Mark::Is(wanted)) => {
                        wanted != mark || wanted != 0 && !self.led(from.as_ref(), wanted, connection)
                    }
                    _ => false,
                };
                unanswered || reset
            }),
            FlushScope::Reset { group, from } => ways(group).is_some_and(|ways| {
                let live = at(&ways.live, connection.destination);
                matches!(live, Some(Mark::Is(wanted)) if wanted != mark && self.led(from.as_ref(), wanted, connection))
            }),
        }
    }

    /// Whether the pod's old group leads there with this mark.
    fn led(&self, from: Option<&String>, mark: u32, connection: &Connection) -> bool {
        let former = from.and_then(|from| self.former.get(from));
        former.and_then(|ways| at(&ways.new, connection.destination)) == Some(Mark::Is(mark))
    }

    fn none(inside: RangeSet, range: DatapathConfig) -> Self {
        Self { inside, mask: range.mask, ..Self::default() }
    }

    fn add(&mut self, address: IpAddr, which: FlushScope, wanted: &mut Pods<'_>, found: &mut Pods<'_>) {
        if let FlushScope::Others(Some(group)) | FlushScope::Moved { group, .. } | FlushScope::Reset { group, .. } =
            &which
            && !self.ways.contains_key(group)
        {
            self.ways.insert(group.clone(), wanted.ways(group).clone());
        }
        if let FlushScope::Moved { from: Some(from), .. } | FlushScope::Reset { from: Some(from), .. } = &which
            && !self.former.contains_key(from)
        {
            self.former.insert(from.clone(), found.ways(from).clone());
        }
        self.addresses.insert(address, which);
    }
}

fn steers(mark: Option<Mark>) -> bool {
    matches!(mark, Some(Mark::Is(mark)) if mark != 0)
}

fn at(ways: &[(Addresses, Mark)], address: IpAddr) -> Option<Mark> {
    let behind = ways.partition_point(|(range, _)| range.first() <= address);
    let (range, mark) = ways.get(behind.checked_sub(1)?)?;
    range.contains(address).then_some(*mark)
}

impl GroupDestinations {
    fn lead_anywhere(&self) -> bool {
        !self.live.is_empty() || self.new.iter().any(|(_, mark)| steers(Some(*mark)))
    }
}

/// What a table says of pods.
struct Pods<'a> {
    table: Option<&'a Table>,
    ways: BTreeMap<String, GroupDestinations>,
}

impl<'a> Pods<'a> {
    fn of(ruleset: &'a Ruleset) -> Self {
        Self { table: ruleset.get(&TableFamily::Inet), ways: BTreeMap::new() }
    }

    fn elements(&self, name: &str, family: AddressFamily) -> Option<&'a BTreeMap<ElementKey, Option<ElementData>>> {
        self.table?.sets.get(&format!("{name}{}", family.suffix())).map(|set| &set.elements)
    }

    /// Every pod's address, and the chain of its group; none: no policy selects it. None at all where the table does not know
    /// pods of this family, which is not the same as that there are none.
    fn groups(&self, family: AddressFamily) -> Option<BTreeMap<IpAddr, Option<&'a String>>> {
        let (members, others) = (self.elements("group_of", family), self.elements("others", family));
        if members.is_none() && others.is_none() {
            return None;
        }
        let all = members.into_iter().flatten().chain(others.into_iter().flatten());
        let pods = all.filter_map(|(key, data)| match (key, data) {
            (ElementKey::Address(address), Some(ElementData::Verdict(Verdict::Goto(group) | Verdict::Jump(group)))) => {
                Some((*address, Some(group)))
            }
            (ElementKey::Address(address), _) => Some((*address, None)),
            _ => None,
        });
        Some(pods.collect())
    }

    /// Where a group leads. Its live connections are in a chain of their own, which the map `reset_of` leads its pods to.
    fn ways(&mut self, group: &String) -> &GroupDestinations {
        if !self.ways.contains_key(group) {
            let ways = self.look_up(group);
            self.ways.insert(group.clone(), ways);
        }
        &self.ways[group]
    }

    fn look_up(&self, group: &str) -> GroupDestinations {
        let mut ways = GroupDestinations { new: self.led(group), live: Vec::new() };
        let name = group.strip_prefix(super::super::compile::GROUP).unwrap_or(group);
        let live = format!("reset_{name}");
        let is_reset = |family| {
            let of_family = self.elements("reset_of", family).into_iter().flat_map(BTreeMap::values).flatten();
            of_family
                .into_iter()
                .any(|data| matches!(data, ElementData::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) if *to == live))
        };
        if AddressFamily::BOTH.into_iter().any(is_reset) {
            ways.live = self.led(&live);
        }
        ways
    }

    /// What the maps that a chain looks destinations up in lead to.
    fn led(&self, chain: &str) -> Vec<(Addresses, Mark)> {
        let Some(table) = self.table else { return Vec::new() };
        let rules = table.chains.get(chain).into_iter().flat_map(|chain| &chain.rules);
        let maps = rules.flat_map(|rule| &rule.0).filter_map(|statement| match statement {
            Statement::VerdictMap { map, .. } => table.sets.get(map),
            _ => None,
        });
        let led = maps.flat_map(|map| &map.elements).filter_map(|(key, data)| {
            let range = match key {
                ElementKey::Range(first, last) => Addresses::new(*first, *last)?,
                ElementKey::Address(address) => Addresses::from(*address),
                _ => return None,
            };
            let Some(ElementData::Verdict(verdict)) = data else { return None };
            Some((range, mark_of(table, verdict)))
        });
        let mut led: Vec<_> = led.collect();
        led.sort_by_key(|(range, _)| *range);
        led
    }

    fn set(&self, name: &str) -> RangeSet {
        let sets = AddressFamily::BOTH.into_iter().filter_map(|family| self.elements(name, family));
        let ranges = sets.flat_map(BTreeMap::keys).filter_map(|key| match key {
            ElementKey::Range(first, last) => Addresses::new(*first, *last),
            ElementKey::Address(address) => Some(Addresses::from(*address)),
            _ => None,
        });
        ranges.collect()
    }
}

/// The mark that a connection gets where this verdict leads: that of the exit whose chain it comes to.
fn mark_of(table: &Table, verdict: &Verdict) -> Mark {
    let (Verdict::Goto(first) | Verdict::Jump(first)) = verdict else {
        return if *verdict == Verdict::Drop { Mark::Dropped } else { Mark::Is(0) };
    };
    let mut seen = BTreeSet::new();
    let mut name = first;
    while let Some(chain) = table.chains.get(name).filter(|_| seen.insert(name)) {
        let statements = || chain.rules.iter().flat_map(|rule| &rule.0);
        let set = statements().find_map(|statement| match statement {
            Statement::SetMark { field: Field::CtMark, value, .. } => Some(*value),
            _ => None,
        });
        if let Some(mark) = set {
            return Mark::Is(mark);
        }
        let next = statements().find_map(|statement| match statement {
            Statement::Verdict(Verdict::Goto(next) | Verdict::Jump(next)) => Some(next),
            _ => None,
        });
        let Some(next) = next else { break };
        name = next;
    }
    Mark::Dropped
}

/// What is to be forgotten, and when.
#[derive(Debug, Default)]
pub(super) struct DueFlushes {
    /// Ahead of the switch: what was left of an address that a pod gets anew. Until the switch that pod is held back, so that
    /// nothing of this comes into being again, and its first packet finds none of it.
    pub(super) ahead: Option<ConntrackFlush>,
    /// When the packets are through that were on their way at the switch: they were still sent on by the old maps, and would
    /// bring such a connection back.
    pub(super) behind: Option<ConntrackFlush>,
}

/// What the change from one ruleset to the other takes with it.
pub(super) fn due(
    desired: &Ruleset,
    observed: &Ruleset,
    range: DatapathConfig,
    holders: &AddressHolders,
) -> DueFlushes {
    let (mut wanted, mut found) = (Pods::of(desired), Pods::of(observed));
    let inside = wanted.set("cluster");
    let (mut ahead, mut behind) = (ConntrackFlush::none(inside.clone(), range), ConntrackFlush::none(inside, range));
    let mut moves: BTreeMap<(Option<&String>, &String), bool> = BTreeMap::new();
    // What is named from now on was not held back until now.
    let newly_named = !wanted.set("guarded").subtract(&found.set("guarded")).is_empty();
    for family in AddressFamily::BOTH {
        // Where the family is not looked at any more, no address is gone: nothing of it is steered.
        let Some(new) = wanted.groups(family) else { continue };
        // And where it was not looked at until now, none is new: what there is began before any policy did.
        let looked_at = found.groups(family);
        let old = looked_at.clone().unwrap_or_default();
        for address in old.keys().filter(|address| !new.contains_key(*address)) {
            behind.add(*address, FlushScope::All, &mut wanted, &mut found);
        }
        for (address, group) in new {
            let same = holders.same(address);
            let before = old.get(&address);
            let from = before.copied().flatten();
            let moved = group.filter(|group| {
                *moves.entry((from, group)).or_insert_with(|| {
                    let to = wanted.ways(group);
                    let nowhere = GroupDestinations::default();
                    to.lead_anywhere() && to != from.map_or(&nowhere, |from| found.ways(from))
                })
            });
            let comes = looked_at.is_some() && before.is_none() && same != Some(true);
            // A member that was deleted while nobody looked: whoever got its address since was taken for it.
            let taken_for_a_member = matches!(before, Some(Some(_))) && group.is_none() && same.is_none();
            if comes {
                ahead.add(address, FlushScope::Others(group.cloned()), &mut wanted, &mut found);
            } else if before.is_some() && (same == Some(false) || taken_for_a_member) {
                behind.add(address, FlushScope::Others(group.cloned()), &mut wanted, &mut found);
                continue;
            }
            if let Some(group) = moved
                && (!comes || newly_named)
            {
                let (group, from) = (group.clone(), from.cloned());
                if !comes && from.is_some() && !wanted.ways(&group).live.is_empty() {
                    let reset = FlushScope::Reset { group: group.clone(), from: from.clone() };
                    ahead.add(address, reset, &mut wanted, &mut found);
                }
                behind.add(address, FlushScope::Moved { group, from }, &mut wanted, &mut found);
            }
        }
    }
    let some = |sources: ConntrackFlush| (!sources.addresses.is_empty()).then_some(sources);
    DueFlushes { ahead: some(ahead), behind: some(behind) }
}

impl fmt::Display for ConntrackFlush {
    /// One line for each kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: BTreeMap<&str, Vec<&IpAddr>> = BTreeMap::new();
        for (address, which) in &self.addresses {
            let live = |group: &String| self.ways.get(group).is_some_and(|ways| !ways.live.is_empty());
            let kind = match which {
                FlushScope::All => "all",
                FlushScope::Others(_) => "those of an earlier pod",
                FlushScope::Reset { .. } => "live ones that are reset",
                FlushScope::Moved { group, .. } if live(group) => {
                    "unanswered ones that are steered now, live ones that are reset"
                }
                FlushScope::Moved { .. } => "unanswered ones that are steered now",
            };
            kinds.entry(kind).or_default().push(address);
        }
        for (position, (kind, addresses)) in kinds.into_iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            let named: Vec<String> = addresses.iter().take(NAMED).map(ToString::to_string).collect();
            let more = addresses.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            write!(f, "from {}{more}: {kind}", named.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
