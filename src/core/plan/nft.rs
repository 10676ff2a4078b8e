//! The nftables part of a plan: two rulesets compared, as the changes of one transaction.
//!
//! Deliberately absent: netlink, and what the tables mean (`compile`).

use std::collections::{BTreeMap, BTreeSet};

use super::super::compile::exit_ids::EXIT_CHAIN;
use super::super::compile::{EXITS, GROUP, RP_FILTER_BEFORE};
use super::super::state::nft::{
    Chain, ElementData, ElementKey, Field, Hook, NftChange, NftRule, NftTransaction, Ruleset, Set, Statement, Table,
    TableFamily, Verdict,
};
use super::super::state::ownership::DatapathConfig;

/// The transactions of one plan, by when they are due.
pub(super) struct Transactions {
    /// What has to be written down beforehand.
    pub(super) record: Option<NftTransaction>,
    /// What nothing leads to yet. A packet reads rules by the generation that it began with, and elements by the one that is
    /// current at each lookup (`nft_do_chain` and `nft_genmask_cur`): one that is on its way while a chain comes into force
    /// together with an element that leads to it finds that chain empty, and goes its own way.
    pub(super) prepare: Option<NftTransaction>,
    /// The switch.
    pub(super) switch: Option<NftTransaction>,
    /// What may go only when no packet can have been sent on by the rules before the switch: what nothing leads to any more, gone exits'
    /// marks, and tables, which also wait for the tunnel device to be gone.
    pub(super) last: Option<NftTransaction>,
}

/// Compares two rulesets.
pub(super) fn transactions(desired: &Ruleset, observed: &Ruleset) -> Transactions {
    let mut record = Vec::new();
    let mut observed = observed.clone();
    if let Some(wanted) = desired.get(&TableFamily::Inet)
        && let Some(set) = wanted.sets.get(RP_FILTER_BEFORE)
    {
        write_down(wanted, set, &mut observed, &mut record);
    }
    let (mut prepare, mut switch, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for family in [TableFamily::Inet, TableFamily::Netdev] {
        match (desired.get(&family), observed.get_mut(&family)) {
            (Some(wanted), Some(found)) if can_grow_into(wanted, found) => {
                lay_out(family, wanted, found, &mut prepare);
                let kept = with_what_is_on_its_way(wanted, found);
                change(family, &kept, found, &mut switch);
                change(family, wanted, &kept, &mut last);
            }
            (Some(wanted), found) => become_table(family, wanted, found.as_deref(), &mut switch),
            // While the device is there, other nodes may still send to it: with no rule left its chain lets nothing in.
            (None, Some(found)) if family == TableFamily::Netdev => {
                let filled = found.chains.iter().filter(|(_, chain)| !chain.rules.is_empty());
                switch.extend(filled.map(|(name, _)| (family, NftChange::FlushChain(name.clone()))));
                last.push((family, NftChange::DeleteTable));
            }
            // A packet that is on its way through the table finds all sets as they were: were they gone under it, what it
            // is not found in would be taken for a pod that nobody has classified, and dropped.
            (None, Some(found)) => {
                let first = found.chains.iter().filter(|(_, chain)| is_prerouting(chain) && !chain.rules.is_empty());
                switch.extend(first.map(|(name, _)| (family, NftChange::FlushChain(name.clone()))));
                last.push((family, NftChange::DeleteTable));
            }
            (None, None) => {}
        }
    }
    Transactions {
        record: transaction(record),
        prepare: transaction(prepare),
        switch: transaction(switch),
        last: transaction(last),
    }
}

/// Puts new sets and new chains into a table, whole; nothing of what is there leads to them. Base chains wait for the switch:
/// packets come to those by themselves.
fn lay_out(family: TableFamily, wanted: &Table, found: &mut Table, prepare: &mut Vec<(TableFamily, NftChange)>) {
    let mut laid = found.clone();
    for (name, set) in &wanted.sets {
        laid.sets.entry(name.clone()).or_insert_with(|| set.clone());
    }
    for (name, chain) in wanted.chains.iter().filter(|(_, chain)| chain.base.is_none()) {
        laid.chains.entry(name.clone()).or_insert_with(|| chain.clone());
    }
    let led_to = |name: &String| wanted.sets.values().any(|set| leads_to(set, name));
    let news = wanted.chains.keys().filter(|name| !found.chains.contains_key(*name));
    if news.into_iter().any(led_to) {
        laid.owned = wanted.owned;
        change(family, &laid, found, prepare);
        (laid.owned, laid.abandoned) = (wanted.owned, false);
        *found = laid;
    }
}

fn leads_to(set: &Set, chain: &str) -> bool {
    set.elements.values().flatten().any(|data| match data {
        ElementData::Verdict(Verdict::Goto(name) | Verdict::Jump(name)) => name == chain,
        _ => false,
    })
}

/// What is wanted, and what a packet may still need that was sent on by the rules before the switch: chains and sets that go, whole, which
/// nothing new leads to; and of exits that go, what translates and guards.
fn with_what_is_on_its_way(wanted: &Table, found: &Table) -> Table {
    let mut kept = wanted.clone();
    for (name, chain) in found.chains.iter().filter(|(_, chain)| chain.base.is_none()) {
        kept.chains.entry(name.clone()).or_insert_with(|| chain.clone());
    }
    for (name, set) in &found.sets {
        kept.sets.entry(name.clone()).or_insert_with(|| set.clone());
    }
    let marks = |table: &Table| table.sets.get(EXITS).map(|set| set.elements.clone()).unwrap_or_default();
    let (known, stay) = (marks(found), marks(wanted));
    let goes =
        |mark: &u32| known.contains_key(&ElementKey::Mark(*mark)) && !stay.contains_key(&ElementKey::Mark(*mark));
    for (name, set) in found.sets.iter().filter(|(name, _)| wanted.sets.contains_key(*name)) {
        let of_gone = set.elements.iter().filter(|(key, data)| {
            let of_mark = matches!(key, ElementKey::Mark(mark) | ElementKey::MarkAddress(mark, _) if goes(mark));
            // Where a mark leads to is the switch's to say.
            of_mark && !matches!(data, Some(ElementData::Verdict(_)))
        });
        let of_gone: Vec<_> = of_gone.map(|(key, data)| (key.clone(), data.clone())).collect();
        if let Some(set) = kept.sets.get_mut(name) {
            set.elements.extend(of_gone);
        }
    }
    kept
}

fn is_prerouting(chain: &Chain) -> bool {
    chain.base.as_ref().is_some_and(|base| base.hook == Hook::Prerouting)
}

/// The chain that lets nothing in, for a device that is about to come up: until the switch, what other nodes send already
/// would be routed on with the pods' own addresses. Nothing where a chain hangs there already.
pub(super) fn gate(desired: &Ruleset, observed: &Ruleset) -> Option<NftTransaction> {
    let mut shut = desired.get(&TableFamily::Netdev)?.clone();
    shut.chains.values_mut().for_each(|chain| chain.rules.clear());
    let found = observed.get(&TableFamily::Netdev);
    let hangs = |(name, chain): (&String, &Chain)| {
        found.and_then(|table| table.chains.get(name)).is_some_and(|found| found.base == chain.base)
    };
    if shut.chains.iter().all(hangs) {
        return None;
    }
    let mut changes = Vec::new();
    become_table(TableFamily::Netdev, &shut, found, &mut changes);
    transaction(changes)
}

/// A rule that does nothing but have connections tracked (`nft_ct_get_init` asks for it, net/netfilter/nft_ct.c), in the chain that
/// will steer; before a table of ours is there, and where pods will be steered.
///
/// Without it a kernel that tracks nothing yet would take the next packet of every live connection for a new connection's first
/// one, and the switch would steer it.
pub(super) fn wake(desired: &Ruleset, observed: &Ruleset) -> Option<NftTransaction> {
    let wanted = desired.get(&TableFamily::Inet).filter(|_| !observed.contains_key(&TableFamily::Inet))?;
    let (name, chain) = wanted.chains.iter().find(|(_, chain)| is_prerouting(chain))?;
    let members = wanted.chains.keys().any(|name| name.starts_with(GROUP));
    let new = Statement::CtState { bits: 8, negated: false };
    let rule = NftRule(vec![new, Statement::Verdict(Verdict::Accept)]);
    let changes = vec![
        (TableFamily::Inet, NftChange::AddTable { owned: wanted.owned }),
        (TableFamily::Inet, NftChange::AddChain(name.clone(), chain.base.clone(), chain.comment.clone())),
        (TableFamily::Inet, NftChange::AddRule(name.clone(), rule)),
    ];
    members.then_some(NftTransaction { changes })
}

/// A table of another shape, as an older version of Egret leaves, is replaced: the new one takes its place at once.
fn become_table(
    family: TableFamily,
    wanted: &Table,
    found: Option<&Table>,
    changes: &mut Vec<(TableFamily, NftChange)>,
) {
    match found {
        Some(found) if can_grow_into(wanted, found) => change(family, wanted, found, changes),
        _ => {
            if found.is_some() {
                changes.push((family, NftChange::DeleteTable));
            }
            changes.push((family, NftChange::AddTable { owned: wanted.owned }));
            change(family, wanted, &Table { owned: wanted.owned, ..Table::default() }, changes);
        }
    }
}

fn transaction(changes: Vec<(TableFamily, NftChange)>) -> Option<NftTransaction> {
    (!changes.is_empty()).then_some(NftTransaction { changes })
}

/// Elements of the map of former settings go ahead of everything else, in a table that may not be there yet.
fn write_down(wanted: &Table, set: &Set, observed: &mut Ruleset, record: &mut Vec<(TableFamily, NftChange)>) {
    if observed.get(&TableFamily::Inet).is_some_and(|found| !can_grow_into(wanted, found)) {
        return;
    }
    let found = observed.get(&TableFamily::Inet);
    let known = found.and_then(|table| table.sets.get(RP_FILTER_BEFORE)).map(|set| &set.elements);
    let missing: Vec<_> = set
        .elements
        .iter()
        .filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)))
        .map(|(key, data)| (key.clone(), data.clone()))
        .collect();
    if missing.is_empty() {
        return;
    }
    let mut push = |change| record.push((TableFamily::Inet, change));
    if found.is_none_or(|table| table.owned != wanted.owned) {
        push(NftChange::AddTable { owned: wanted.owned });
    }
    let table = observed.entry(TableFamily::Inet).or_insert_with(|| Table { owned: wanted.owned, ..Table::default() });
    (table.owned, table.abandoned) = (wanted.owned, false);
    let kept = table.sets.entry(RP_FILTER_BEFORE.to_owned()).or_insert_with(|| {
        let empty = Set { elements: BTreeMap::new(), ..set.clone() };
        push(NftChange::AddSet(RP_FILTER_BEFORE.to_owned(), empty.clone()));
        empty
    });
    kept.elements.extend(missing.iter().cloned());
    push(NftChange::AddElements(RP_FILTER_BEFORE.to_owned(), missing));
}

/// Whether the table can be changed in place: what cannot be changed of sets and chains is the same.
fn can_grow_into(wanted: &Table, found: &Table) -> bool {
    let sets = wanted
        .sets
        .iter()
        .all(|(name, set)| found.sets.get(name).is_none_or(|found| found.definition() == set.definition()));
    let chains = wanted.chains.iter().all(|(name, chain)| {
        found.chains.get(name).is_none_or(|found| found.base == chain.base && found.comment == chain.comment)
    });
    // The kernel takes the owner flag on an abandoned table, not on one that never had an owner; and never off again.
    let tenure = if wanted.owned { found.owned || found.abandoned } else { !found.owned };
    sets && chains && tenure
}

/// The changes from one table to another: first all that is new, then rules and elements, then what nothing leads to any more.
fn change(family: TableFamily, wanted: &Table, found: &Table, changes: &mut Vec<(TableFamily, NftChange)>) {
    let mut push = |change| changes.push((family, change));
    if wanted.owned != found.owned {
        push(NftChange::AddTable { owned: wanted.owned });
    }
    for (name, set) in wanted.sets.iter().filter(|(name, _)| !found.sets.contains_key(*name)) {
        push(NftChange::AddSet(name.clone(), Set { elements: BTreeMap::new(), ..set.clone() }));
    }
    for (name, chain) in wanted.chains.iter().filter(|(name, _)| !found.chains.contains_key(*name)) {
        push(NftChange::AddChain(name.clone(), chain.base.clone(), chain.comment.clone()));
    }
    let empty = Chain::default();
    for (name, chain) in &wanted.chains {
        let now = found.chains.get(name).unwrap_or(&empty);
        if now.rules != chain.rules {
            if !now.rules.is_empty() {
                push(NftChange::FlushChain(name.clone()));
            }
            chain.rules.iter().for_each(|rule| push(NftChange::AddRule(name.clone(), rule.clone())));
        }
    }
    // What goes leads nowhere first: chains that refer to each other are all flushed before any is deleted.
    for (name, chain) in gone(&wanted.chains, &found.chains) {
        if !chain.rules.is_empty() {
            push(NftChange::FlushChain(name.clone()));
        }
    }
    let none = BTreeMap::new();
    for (name, set) in &found.sets {
        let kept = wanted.sets.get(name).map_or(&none, |set| &set.elements);
        let out = difference(&set.elements, kept);
        if !out.is_empty() {
            push(NftChange::DeleteElements(name.clone(), out));
        }
    }
    for (name, set) in &wanted.sets {
        let new = difference(&set.elements, found.sets.get(name).map_or(&none, |set| &set.elements));
        if !new.is_empty() {
            push(NftChange::AddElements(name.clone(), new));
        }
    }
    gone(&wanted.chains, &found.chains).for_each(|(name, _)| push(NftChange::DeleteChain(name.clone())));
    gone(&wanted.sets, &found.sets).for_each(|(name, _)| push(NftChange::DeleteSet(name.clone())));
}

fn gone<'a, T>(
    wanted: &'a BTreeMap<String, T>,
    found: &'a BTreeMap<String, T>,
) -> impl Iterator<Item = (&'a String, &'a T)> {
    found.iter().filter(|(name, _)| !wanted.contains_key(*name))
}

type Elements = BTreeMap<ElementKey, Option<ElementData>>;

/// Elements that are in the first and not, or with other data, in the second.
fn difference(from: &Elements, to: &Elements) -> Vec<(ElementKey, Option<ElementData>)> {
    from.iter()
        .filter(|(key, data)| to.get(*key) != Some(*data))
        .map(|(key, data)| (key.clone(), data.clone()))
        .collect()
}

/// Marks under another mask than now, as connections remember them from before the mask was moved. Under the new one they have
/// no mark and would go their own way.
pub(super) fn stale_marks(observed: &Ruleset, range: DatapathConfig) -> Vec<(u32, u32)> {
    let chains = observed.get(&TableFamily::Inet).into_iter().flat_map(|table| &table.chains);
    let exits = chains.filter(|(name, _)| name.starts_with(EXIT_CHAIN));
    exits
        .flat_map(|(_, chain)| chain.rules.iter().flat_map(|rule| &rule.0))
        .filter_map(|statement| match statement {
            Statement::SetMark { field: Field::CtMark, keep, value } if !keep != range.mask => Some((*value, !keep)),
            _ => None,
        })
        .collect()
}

/// Marks of exits that are no longer wanted. A live connection that still has one keeps the translation it began with, as long
/// as it is remembered: here to itself, so that nobody behind us would translate it on its new way.
///
/// The guard's set remembers them until all is done, for those who were interrupted.
pub(super) fn gone_exits(desired: &Ruleset, observed: &Ruleset, range: DatapathConfig) -> BTreeSet<u32> {
    let marks = |ruleset: &Ruleset| -> BTreeSet<u32> {
        let set = ruleset.get(&TableFamily::Inet).and_then(|table| table.sets.get(EXITS));
        let keys = set.into_iter().flat_map(|set| set.elements.keys());
        keys.filter_map(|key| if let ElementKey::Mark(mark) = key { Some(*mark) } else { None }).collect()
    };
    let mut gone: BTreeSet<u32> = fresh_exits(observed, desired, range).into_iter().collect();
    gone.extend(marks(observed).difference(&marks(desired)));
    gone
}

/// Marks whose exit's chain is not there yet, or bears another exit's name.
pub(super) fn fresh_exits(desired: &Ruleset, observed: &Ruleset, range: DatapathConfig) -> Vec<u32> {
    let chains =
        |ruleset: &Ruleset| ruleset.get(&TableFamily::Inet).map(|table| table.chains.clone()).unwrap_or_default();
    let known = chains(observed);
    chains(desired)
        .into_iter()
        .filter_map(|(name, chain)| {
            let id: u32 = name.strip_prefix(EXIT_CHAIN)?.parse().ok()?;
            let same = known.get(&name).is_some_and(|found| found.comment == chain.comment);
            (!same).then(|| range.mark(id))
        })
        .collect()
}
