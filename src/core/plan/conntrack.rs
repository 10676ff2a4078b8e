//! Computes which tracked connections must be flushed when pods' addresses change.
//!
//! A connection keeps its mark, its translation and its age, and conntrack knows it by addresses and ports alone, so it
//! outlives its pod and the pod's group. What to flush follows from the maps of pods' addresses, current and desired. Not
//! here: conntrack itself (`kernel::conntrack`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::super::cidr::{AddressRange as Addresses, RangeSet};
use super::super::facts::PodName;
use super::super::state::nft::{
    AddressFamily, ElementData, ElementKey, Field, Ruleset, Statement, Table, TableFamily, Verdict,
};
use super::super::state::ownership::DatapathConfig;

/// At most this many addresses are named in a step's text; the rest is counted.
const NAMED: usize = 3;

/// Connections to flush, by their original source address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConntrackFlush {
    /// Which connections of each address.
    pub addresses: BTreeMap<IpAddr, FlushScope>,
    /// The destinations of the groups that [`FlushScope`] names.
    pub destinations: BTreeMap<String, GroupDestinations>,
    /// The current destinations of groups that pods leave.
    pub former: BTreeMap<String, GroupDestinations>,
    /// Destinations inside the cluster, which are never steered.
    pub inside: RangeSet,
    /// The bits of a connection's mark that are Egret's.
    pub mask: u32,
}

/// Which of an address's connections to flush.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlushScope {
    /// All: no pod has the address any more.
    All,
    /// Those that the pod which has the address now cannot have: their mark is not the one that its group has for the
    /// destination. None: no policy selects it, so it has no mark anywhere. Its own live connections, to Services or
    /// elsewhere, stay.
    Others(Option<String>),
    /// Of a pod whose group changes, connections that would be steered wrongly: those without a reply that will be
    /// steered although their translation is that of the old exit; and live ones to be reset. Since the switch each
    /// packet gives them the new mark, so where the old group leads to another exit the new mark exempts none.
    Moved {
        /// Its group after the change.
        group: String,
        /// Its group before.
        from: Option<String>,
    },
    /// Of the same pod, live connections to be reset to destinations that the old group steers as well: those with
    /// another mark, while the old group's rules still show which these are.
    Reset {
        /// Its group after the change.
        group: String,
        /// Its group before.
        from: Option<String>,
    },
}

/// The mark of a group's connections, by destination. A destination in no range is not steered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupDestinations {
    /// Of new connections. Disjoint and sorted.
    new: Vec<(Addresses, Mark)>,
    /// Of live connections that are reset (`existingConnections: Reset`). Disjoint and sorted.
    live: Vec<(Addresses, Mark)>,
}

/// The mark that a connection must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// An exit's mark; 0: none, it is not steered.
    Is(u32),
    /// There is no gateway: any mark is wrong.
    Dropped,
}

/// The relevant fields of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The original source, before any translation.
    pub source: IpAddr,
    /// The address that replies, after destination translation.
    pub destination: IpAddr,
    /// All bits of its mark.
    pub mark: u32,
    /// Whether a reply was seen.
    pub answered: bool,
    /// Where the replies are sent to, after source translation.
    pub replies_to: IpAddr,
}

/// The pod of each pod address. The kernel knows the groups of addresses, not the pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressHolders {
    /// When the state was last applied completely; none: this process has not seen that yet.
    pub before: Option<BTreeMap<IpAddr, PodName>>,
    /// Now.
    pub now: BTreeMap<IpAddr, PodName>,
}

impl AddressHolders {
    /// Whether the address belongs to the same pod as before; none where that is not known.
    fn same(&self, address: IpAddr) -> Option<bool> {
        let before = self.before.as_ref()?;
        let (before, now) = (before.get(&address), self.now.get(&address)?);
        Some(before == Some(now))
    }
}

impl ConntrackFlush {
    /// The mark that a flushed connection gets instead of being deleted at once; its packets are then dropped until its
    /// entry ends. None: it is deleted.
    ///
    /// If the pod's own address is what the server sees, a reply that is in flight when the entry goes would find none, and
    /// connection tracking would take it for a connection that the server opens: everything that the pod sends afterwards
    /// would count as replies, which are not steered. Replies to a translated address do not reach the pod without the
    /// entry.
    pub fn lingers(&self, connection: &Connection) -> Option<u32> {
        self.flushed_mark().filter(|_| connection.replies_to == connection.source)
    }

    fn flushed_mark(&self) -> Option<u32> {
        DatapathConfig { mask: self.mask, ..DatapathConfig::default() }.flushed_mark()
    }

    /// Whether this connection is to be flushed; not one that is flushed already and ends soon.
    pub fn include(&self, connection: &Connection) -> bool {
        let Some(which) = self.addresses.get(&connection.source) else { return false };
        let mark = connection.mark & self.mask;
        if self.flushed_mark() == Some(mark) {
            return false;
        }
        let inside = self.inside.contains(connection.destination);
        let destinations = |group: &String| self.destinations.get(group).filter(|_| !inside);
        match which {
            FlushScope::All => true,
            FlushScope::Others(group) => {
                let wanted = group.as_ref().and_then(destinations).and_then(|destinations| at(&destinations.new, connection.destination));
                wanted.unwrap_or(Mark::Is(0)) != Mark::Is(mark)
            }
            FlushScope::Moved { group, from } => destinations(group).is_some_and(|destinations| {
                let unanswered = !connection.answered
                    && match at(&destinations.new, connection.destination) {
                        Some(Mark::Is(to)) if to != 0 => {
                            mark == 0 || mark == to && !self.marks_of(from.as_ref(), to, connection)
                        }
                        _ => false,
                    };
                // Without a gateway live connections are dropped like new ones, until there is one.
                let reset = match at(&destinations.live, connection.destination) {
                    Some(Mark::Is(wanted)) => {
                        wanted != mark || wanted != 0 && !self.marks_of(from.as_ref(), wanted, connection)
                    }
                    _ => false,
                };
                unanswered || reset
            }),
            FlushScope::Reset { group, from } => destinations(group).is_some_and(|destinations| {
                let live = at(&destinations.live, connection.destination);
                matches!(live, Some(Mark::Is(wanted)) if wanted != mark && self.marks_of(from.as_ref(), wanted, connection))
            }),
        }
    }

    /// Whether the pod's old group has this mark for the connection's destination.
    fn marks_of(&self, from: Option<&String>, mark: u32, connection: &Connection) -> bool {
        let former = from.and_then(|from| self.former.get(from));
        former.and_then(|destinations| at(&destinations.new, connection.destination)) == Some(Mark::Is(mark))
    }

    fn none(inside: RangeSet, range: DatapathConfig) -> Self {
        Self { inside, mask: range.mask, ..Self::default() }
    }

    fn add(&mut self, address: IpAddr, which: FlushScope, wanted: &mut Pods<'_>, found: &mut Pods<'_>) {
        if let FlushScope::Others(Some(group)) | FlushScope::Moved { group, .. } | FlushScope::Reset { group, .. } =
            &which
            && !self.destinations.contains_key(group)
        {
            self.destinations.insert(group.clone(), wanted.destinations(group).clone());
        }
        if let FlushScope::Moved { from: Some(from), .. } | FlushScope::Reset { from: Some(from), .. } = &which
            && !self.former.contains_key(from)
        {
            self.former.insert(from.clone(), found.destinations(from).clone());
        }
        self.addresses.insert(address, which);
    }
}

fn steers(mark: Option<Mark>) -> bool {
    matches!(mark, Some(Mark::Is(mark)) if mark != 0)
}

fn at(destinations: &[(Addresses, Mark)], address: IpAddr) -> Option<Mark> {
    let behind = destinations.partition_point(|(range, _)| range.first() <= address);
    let (range, mark) = destinations.get(behind.checked_sub(1)?)?;
    range.contains(address).then_some(*mark)
}

impl GroupDestinations {
    fn lead_anywhere(&self) -> bool {
        !self.live.is_empty() || self.new.iter().any(|(_, mark)| steers(Some(*mark)))
    }
}

/// Pods and groups as read from a table.
struct Pods<'a> {
    table: Option<&'a Table>,
    destinations: BTreeMap<String, GroupDestinations>,
}

impl<'a> Pods<'a> {
    fn of(ruleset: &'a Ruleset) -> Self {
        Self { table: ruleset.get(&TableFamily::Inet), destinations: BTreeMap::new() }
    }

    fn elements(&self, name: &str, family: AddressFamily) -> Option<&'a BTreeMap<ElementKey, Option<ElementData>>> {
        self.table?.sets.get(&format!("{name}{}", family.suffix())).map(|set| &set.elements)
    }

    /// Every pod's address, and the chain of its group; none: no policy selects it. `None` where the table does not
    /// classify pods of this family, which differs from there being no pods.
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

    /// A group's destinations. Its live connections are in a chain of their own, which the map `reset_of` leads its pods
    /// to.
    fn destinations(&mut self, group: &String) -> &GroupDestinations {
        if !self.destinations.contains_key(group) {
            let destinations = self.look_up(group);
            self.destinations.insert(group.clone(), destinations);
        }
        &self.destinations[group]
    }

    fn look_up(&self, group: &str) -> GroupDestinations {
        let mut destinations = GroupDestinations { new: self.marks_of(group), live: Vec::new() };
        let name = group.strip_prefix(super::super::compile::GROUP).unwrap_or(group);
        let live = format!("reset_{name}");
        let is_reset = |family| {
            let of_family = self.elements("reset_of", family).into_iter().flat_map(BTreeMap::values).flatten();
            of_family
                .into_iter()
                .any(|data| matches!(data, ElementData::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) if *to == live))
        };
        if AddressFamily::BOTH.into_iter().any(is_reset) {
            destinations.live = self.marks_of(&live);
        }
        destinations
    }

    /// The destinations in the maps that a chain looks up.
    fn marks_of(&self, chain: &str) -> Vec<(Addresses, Mark)> {
        let Some(table) = self.table else { return Vec::new() };
        let rules = table.chains.get(chain).into_iter().flat_map(|chain| &chain.rules);
        let maps = rules.flat_map(|rule| &rule.0).filter_map(|statement| match statement {
            Statement::VerdictMap { map, .. } => table.sets.get(map),
            _ => None,
        });
        let marks_of = maps.flat_map(|map| &map.elements).filter_map(|(key, data)| {
            let range = match key {
                ElementKey::Range(first, last) => Addresses::new(*first, *last)?,
                ElementKey::Address(address) => Addresses::from(*address),
                _ => return None,
            };
            let Some(ElementData::Verdict(verdict)) = data else { return None };
            Some((range, mark_of(table, verdict)))
        });
        let mut marks_of: Vec<_> = marks_of.collect();
        marks_of.sort_by_key(|(range, _)| *range);
        marks_of
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

/// The mark that a connection gets by this verdict: that of the exit whose chain it reaches.
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

/// What to flush, and when.
#[derive(Debug, Default)]
pub(super) struct DueFlushes {
    /// Before the switch: what is left of an address that a new pod gets. That pod's packets are dropped until the
    /// switch, so that no such connection is created again, and its first packet finds none.
    pub(super) ahead: Option<ConntrackFlush>,
    /// After the packets in flight at the switch have passed: the old maps still steered them, and they would recreate
    /// such a connection.
    pub(super) behind: Option<ConntrackFlush>,
}

/// The connections to flush when one ruleset replaces the other.
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
    // Destinations that are named from now on were not guarded until now.
    let newly_named = !wanted.set("guarded").subtract(&found.set("guarded")).is_empty();
    for family in AddressFamily::BOTH {
        // Where the family is not classified any more, no address is gone: none of it is steered.
        let Some(new) = wanted.groups(family) else { continue };
        // Where it was not classified until now, no address is new: existing connections began before any policy.
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
                    let to = wanted.destinations(group);
                    let nowhere = GroupDestinations::default();
                    to.lead_anywhere() && to != from.map_or(&nowhere, |from| found.destinations(from))
                })
            });
            let comes = looked_at.is_some() && before.is_none() && same != Some(true);
            // A member that was deleted unseen: a pod that got its address since was flushed for it.
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
                if !comes && from.is_some() && !wanted.destinations(&group).live.is_empty() {
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
            let live =
                |group: &String| self.destinations.get(group).is_some_and(|destinations| !destinations.live.is_empty());
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
