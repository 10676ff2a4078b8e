//! The nftables part of a plan: compares two rulesets and returns the changes as transactions.
//!
//! Not here: netlink encoding (`kernel::nft`), and the meaning of the tables (`compile`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::assignment;
use super::super::compile::exit_ids::EXIT_CHAIN;
use super::super::compile::{EXITS, GROUP, LEAVES, RP_FILTER_BEFORE};
use super::super::state::nft::{
    AddressFamily, Chain, ElementData, ElementKey, Field, Hook, NftChange, NftRule, NftTransaction, Ruleset, Set,
    Statement, Table, TableFamily, Verdict,
};
use super::super::state::ownership::DatapathConfig;

/// The transactions of one plan, by time.
pub(super) struct Transactions {
    /// Takes over abandoned tables to which base chains are added later.
    pub(super) adopt: Option<NftTransaction>,
    /// Values to record beforehand.
    pub(super) record: Option<NftTransaction>,
    /// Sets and chains that nothing leads to yet. A packet reads rules by the generation at its start, and elements by
    /// the one current at each lookup (`nft_do_chain` and `nft_genmask_cur`): a packet in flight while a chain becomes
    /// active together with an element that leads to it finds that chain empty, and is not steered.
    pub(super) prepare: Option<NftTransaction>,
    /// The switch.
    pub(super) switch: Option<NftTransaction>,
    /// Deletions that must wait until the packets which the old rules passed on have left: unreferenced chains and sets,
    /// removed exits' marks, and tables, which also wait for the tunnel device to be deleted.
    pub(super) last: Option<NftTransaction>,
}

/// Compares two rulesets.
pub(super) fn transactions(desired: &Ruleset, observed: &Ruleset) -> Transactions {
    let (mut adopt, mut record) = (Vec::new(), Vec::new());
    let mut observed = observed.clone();
    for (family, found) in &mut observed {
        if desired.get(family).is_some_and(|wanted| is_adopted_first(wanted, found)) {
            adopt.push((*family, NftChange::AddTable { owned: true }));
            (found.owned, found.abandoned) = (true, false);
        }
    }
    if let Some(wanted) = desired.get(&TableFamily::Inet) {
        let assigned = AddressFamily::BOTH.map(assignment::record);
        for name in [RP_FILTER_BEFORE].into_iter().chain(assigned.iter().map(String::as_str)) {
            if let Some(set) = wanted.sets.get(name) {
                write_down(wanted, (name, set), &mut observed, &mut record);
            }
        }
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
            // While the device exists other nodes may still send to it: without rules its chain drops everything.
            (None, Some(found)) if family == TableFamily::Netdev => {
                let filled = found.chains.iter().filter(|(_, chain)| !chain.rules.is_empty());
                switch.extend(filled.map(|(name, _)| (family, NftChange::FlushChain(name.clone()))));
                last.push((family, NftChange::DeleteTable));
            }
            // A packet in flight through the table must find all sets as they were: if they were deleted, a pod that is
            // not found would count as not known yet, and its packet be dropped.
            (None, Some(found)) => {
                let first = found.chains.iter().filter(|(_, chain)| is_prerouting(chain) && !chain.rules.is_empty());
                switch.extend(first.map(|(name, _)| (family, NftChange::FlushChain(name.clone()))));
                last.push((family, NftChange::DeleteTable));
            }
            (None, None) => {}
        }
    }
    Transactions {
        adopt: transaction(adopt),
        record: transaction(record),
        prepare: transaction(prepare),
        switch: transaction(switch),
        last: transaction(last),
    }
}

/// Adds new sets and chains to a table, complete; nothing existing leads to them. Base chains wait for the switch:
/// packets reach those without any reference.
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

/// The desired table, plus what packets that the old rules passed on may still need: chains and sets to be deleted,
/// complete, which nothing new leads to; and the translation and guards of removed exits.
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
            // The switch decides where a mark leads.
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

/// The chain that drops everything on a device that is about to come up: until the switch, packets that other nodes
/// already send would be routed on with the pods' own addresses. None where the device has a chain already.
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

/// A rule whose only effect is to enable connection tracking (`nft_ct_get_init`, net/netfilter/nft_ct.c), in the chain
/// that will steer; added before the first table, on nodes where pods will be steered.
///
/// Without it a kernel that tracks nothing yet would take the next packet of every live connection for the first of a new
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

/// Replaces a table of another shape, as an older version of Egret leaves, in one transaction.
fn become_table(
    family: TableFamily,
    wanted: &Table,
    found: Option<&Table>,
    changes: &mut Vec<(TableFamily, NftChange)>,
) {
    match found {
        Some(found) if can_grow_into(wanted, found) && !is_adopted_first(wanted, found) => {
            change(family, wanted, found, changes);
        }
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

/// Adds the elements of the map of original sysctls ahead of everything else, in a table that may not exist yet.
fn write_down(
    wanted: &Table,
    (name, set): (&str, &Set),
    observed: &mut Ruleset,
    record: &mut Vec<(TableFamily, NftChange)>,
) {
    if observed.get(&TableFamily::Inet).is_some_and(|found| !can_grow_into(wanted, found)) {
        return;
    }
    let found = observed.get(&TableFamily::Inet);
    let known = found.and_then(|table| table.sets.get(name)).map(|set| &set.elements);
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
    let kept = table.sets.entry(name.to_owned()).or_insert_with(|| {
        let empty = Set { elements: BTreeMap::new(), ..set.clone() };
        push(NftChange::AddSet(name.to_owned(), empty.clone()));
        empty
    });
    kept.elements.extend(missing.iter().cloned());
    push(NftChange::AddElements(name.to_owned(), missing));
}

/// Whether the table can be changed in place: the immutable parts of its sets and chains are equal.
fn can_grow_into(wanted: &Table, found: &Table) -> bool {
    let sets = wanted
        .sets
        .iter()
        .all(|(name, set)| found.sets.get(name).is_none_or(|found| found.definition() == set.definition()));
    let chains = wanted.chains.iter().all(|(name, chain)| {
        found.chains.get(name).is_none_or(|found| found.base == chain.base && found.comment == chain.comment)
    });
    // The kernel accepts the owner flag on an abandoned table, not on one that never had an owner; and never removes it.
    let tenure = if wanted.owned { found.owned || found.abandoned } else { !found.owned };
    sets && chains && tenure
}

/// Whether the table must be taken over in a transaction of its own: the kernel refuses a new base chain (EINVAL) in the
/// transaction that gives an abandoned table an owner (`__NFT_TABLE_F_WAS_ORPHAN` in `nf_tables_addchain`,
/// net/netfilter/nf_tables_api.c). A process that was killed between two transactions leaves such a table, and so does a
/// version with fewer chains.
fn is_adopted_first(wanted: &Table, found: &Table) -> bool {
    let base_chain_is_new =
        wanted.chains.iter().any(|(name, chain)| chain.base.is_some() && !found.chains.contains_key(name));
    found.abandoned && wanted.owned && base_chain_is_new && can_grow_into(wanted, found)
}

/// The changes from one table to another: first additions, then rules and elements, then deletions of what nothing leads
/// to any more.
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
    // References first: chains that refer to each other are all flushed before any is deleted.
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

/// Elements that are in the first and missing, or have other data, in the second.
fn difference(from: &Elements, to: &Elements) -> Vec<(ElementKey, Option<ElementData>)> {
    from.iter()
        .filter(|(key, data)| to.get(*key) != Some(*data))
        .map(|(key, data)| (key.clone(), data.clone()))
        .collect()
}

/// Marks of connections under a mask other than the current one, from before the mask was moved. Under the new mask they
/// have no mark and would not be steered.
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

/// Marks of exits that are no longer wanted. A live connection with such a mark keeps its original translation while it
/// is tracked, so no later chain would translate it for its new route; hence it is flushed.
///
/// The guard's set keeps these marks until all steps are done, in case they are interrupted.
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

/// The egress addresses that own exits have from now on: by mark, and by family where there is one of each. Not those that
/// they had.
pub(super) fn moved_addresses(desired: &Ruleset, observed: &Ruleset) -> BTreeSet<(u32, IpAddr)> {
    let addresses = |ruleset: &Ruleset| -> BTreeSet<(u32, IpAddr)> {
        let table = ruleset.get(&TableFamily::Inet);
        let set =
            |family: AddressFamily| table.and_then(|table| table.sets.get(&format!("{LEAVES}{}", family.suffix())));
        let keys = AddressFamily::BOTH.into_iter().filter_map(set).flat_map(|set| set.elements.keys());
        keys.filter_map(|key| match key {
            ElementKey::MarkAddress(mark, address) => Some((*mark, *address)),
            _ => None,
        })
        .collect()
    };
    addresses(desired).difference(&addresses(observed)).copied().collect()
}

/// Marks whose exit's chain does not exist yet, or has another exit's identity.
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
