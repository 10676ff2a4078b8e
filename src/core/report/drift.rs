//! Drift detection: compares the desired with the observed state object by object, and describes the differences in
//! the syntax of `ip` and `nft`.
//!
//! The comparison takes the state that was last applied, not a plan: what Egret itself applies is no drift. Not here:
//! who caused it and when (see `history`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::core::state::NodeState;
use crate::core::state::net::{LinkName, RouteKey, route_text};
use crate::core::state::nft::{Chain, ElementData, ElementKey, Set, Table, TableFamily, element_text};
use crate::core::text::counted;

/// The kind of difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftClass {
    /// The object was there and is gone.
    Missing,
    /// The object has Egret's marks and Egret did not create it.
    Extra,
    /// The object is there and differs.
    Changed,
}

/// The kind of an object, and the number or name by which kernel events identify it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftPlace {
    /// A label of the node.
    Label,
    /// A device, its addresses and settings.
    Link(LinkName),
    /// A static neighbour.
    Neighbour,
    /// A rule's priority.
    Rule(u32),
    /// A route's table.
    Route(u32),
    /// An nftables object; the chain's or set's name.
    Nft(String),
}

/// One object that differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drift {
    /// `ip rule 501`, `nft inet egret map group_of4`: the object's name, the same each time it drifts.
    pub object: String,
    /// The kind of difference.
    pub class: DriftClass,
    /// The desired form.
    pub desired: Option<String>,
    /// The observed form.
    pub observed: Option<String>,
    /// Identifies the process that caused it and the policy that needs the object.
    pub place: DriftPlace,
}

/// How an object differs, in words behind its name. `desired` and `observed`: whether it has to be there, and is.
pub fn how(desired: bool, observed: bool) -> &'static str {
    match (desired, observed) {
        (true, false) => "is missing",
        (false, true) => "is not Egret's",
        _ => "differs",
    }
}

/// All differences, sorted.
pub fn between(desired: &NodeState, observed: &NodeState) -> Vec<Drift> {
    // No `..`: a new field of the state must be compared too.
    let NodeState { labels, links, addresses, sysctls, rules, routes, neighbours, nft } = desired;
    let mut found = Found::default();
    found.maps(labels, &observed.labels, |key, value| Entry {
        object: format!("label {key}"),
        text: format!("{key}: \"{value}\""),
        place: DriftPlace::Label,
    });
    found.maps(links, &observed.links, |name, link| Entry {
        object: format!("ip link {name}"),
        text: format!("{name} {link}"),
        place: DriftPlace::Link(name.clone()),
    });
    found.sets(addresses, &observed.addresses, |address| Entry {
        object: format!("ip address {address}"),
        text: address.to_string(),
        place: DriftPlace::Link(address.link.clone()),
    });
    found.maps(sysctls, &observed.sysctls, |sysctl, value| Entry {
        object: format!("sysctl {sysctl}"),
        text: format!("{sysctl} = {value}"),
        place: DriftPlace::Link(sysctl.link.clone()),
    });
    found.sets(rules, &observed.rules, |rule| Entry {
        object: format!("ip rule {rule}"),
        text: rule.to_string(),
        place: DriftPlace::Rule(rule.priority),
    });
    found.maps(routes, &observed.routes, |key, route| Entry {
        object: format!("ip route {}", route_name(key)),
        text: route_text(key, route),
        place: DriftPlace::Route(key.table),
    });
    found.sets(neighbours, &observed.neighbours, |neighbour| Entry {
        object: format!("ip neigh {} dev {}", neighbour.address, neighbour.link),
        text: neighbour.to_string(),
        place: DriftPlace::Neighbour,
    });
    for (family, table) in nft {
        found.table(*family, table, observed.nft.get(family));
    }
    for (family, table) in observed.nft.iter().filter(|(family, _)| !nft.contains_key(family)) {
        found.table(*family, &Table::default(), Some(table));
    }
    found.0.sort();
    found.0
}

fn route_name(key: &RouteKey) -> String {
    let family = if key.family == crate::core::state::nft::AddressFamily::V6 { "-6 " } else { "" };
    let metric = if key.metric == crate::core::state::net::default_metric(key.family) {
        String::new()
    } else {
        format!(" metric {}", key.metric)
    };
    format!("{family}{key} table {}{metric}", key.table)
}

/// An object as text.
struct Entry {
    object: String,
    text: String,
    place: DriftPlace,
}

#[derive(Default)]
struct Found(Vec<Drift>);

impl Found {
    fn push(&mut self, object: String, place: DriftPlace, desired: Option<String>, observed: Option<String>) {
        let class = match (&desired, &observed) {
            (Some(_), None) => DriftClass::Missing,
            (None, _) => DriftClass::Extra,
            (Some(_), Some(_)) => DriftClass::Changed,
        };
        self.0.push(Drift { object, class, desired, observed, place });
    }

    fn maps<K: Ord, V: PartialEq>(
        &mut self,
        desired: &BTreeMap<K, V>,
        observed: &BTreeMap<K, V>,
        describe: impl Fn(&K, &V) -> Entry,
    ) {
        for (key, value) in desired.iter().filter(|(key, value)| observed.get(key) != Some(value)) {
            let Entry { object, text, place } = describe(key, value);
            self.push(object, place, Some(text), observed.get(key).map(|found| describe(key, found).text));
        }
        for (key, value) in observed.iter().filter(|(key, _)| !desired.contains_key(key)) {
            let Entry { object, text, place } = describe(key, value);
            self.push(object, place, None, Some(text));
        }
    }

    fn sets<K: Ord>(&mut self, desired: &BTreeSet<K>, observed: &BTreeSet<K>, describe: impl Fn(&K) -> Entry) {
        for key in desired.difference(observed) {
            let Entry { object, text, place } = describe(key);
            self.push(object, place, Some(text), None);
        }
        for key in observed.difference(desired) {
            let Entry { object, text, place } = describe(key);
            self.push(object, place, None, Some(text));
        }
    }

    fn table(&mut self, family: TableFamily, desired: &Table, observed: Option<&Table>) {
        let object = |noun: &str, name: &str| format!("nft {family} egret {noun} {name}");
        let Some(observed) = observed else {
            let (chains, sets) = (desired.chains.len(), desired.sets.len());
            let sets = if sets == 1 { "1 set or map".to_owned() } else { format!("{sets} sets and maps") };
            let text = format!("{}, {sets}", counted(chains, "chain"));
            self.push(format!("nft table {family} egret"), DriftPlace::Nft(String::new()), Some(text), None);
            return;
        };
        if desired.owned && !observed.owned {
            let text = |owned: bool| if owned { "flags owner,persist" } else { "no owner" }.to_owned();
            let object = format!("nft table {family} egret");
            self.push(object, DriftPlace::Nft(String::new()), Some(text(true)), Some(text(false)));
        }
        self.maps(&desired.chains, &observed.chains, |name, chain| Entry {
            object: object("chain", name),
            text: chain_text(chain),
            place: DriftPlace::Nft(name.clone()),
        });
        for (name, set) in &desired.sets {
            match observed.sets.get(name) {
                None => {
                    let text = format!("{} {}", set.definition(), counted(set.elements.len(), "element"));
                    self.push(object(set.noun(), name), DriftPlace::Nft(name.clone()), Some(text), None);
                }
                Some(found) => self.elements(&object(set.noun(), name), name, set, found),
            }
        }
        for (name, set) in observed.sets.iter().filter(|(name, _)| !desired.sets.contains_key(*name)) {
            self.push(object(set.noun(), name), DriftPlace::Nft(name.clone()), None, Some(set.definition()));
        }
    }

    /// A set differs as one object: missing and extra elements, the first few of each by name.
    fn elements(&mut self, object: &str, name: &str, desired: &Set, observed: &Set) {
        if desired.definition() != observed.definition() {
            let (wanted, found) = (desired.definition(), observed.definition());
            self.push(object.to_owned(), DriftPlace::Nft(name.to_owned()), Some(wanted), Some(found));
            return;
        }
        let of = |from: &BTreeMap<ElementKey, Option<ElementData>>,
                  without: &BTreeMap<ElementKey, Option<ElementData>>| {
            let texts: Vec<String> = from
                .iter()
                .filter(|(key, data)| without.get(*key) != Some(*data))
                .map(|(key, data)| element_text(key, data.as_ref()))
                .collect();
            (!texts.is_empty()).then(|| few(&texts))
        };
        let missing = of(&desired.elements, &observed.elements);
        let extra = of(&observed.elements, &desired.elements);
        if missing.is_some() || extra.is_some() {
            self.push(object.to_owned(), DriftPlace::Nft(name.to_owned()), missing, extra);
        }
    }
}

/// The first five, and how many more: reports are read by users.
fn few<T: Display>(texts: &[T]) -> String {
    let shown: Vec<String> = texts.iter().take(5).map(ToString::to_string).collect();
    let rest = texts.len().saturating_sub(5);
    let more = if rest > 0 { format!(", and {rest} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn chain_text(chain: &Chain) -> String {
    let base = chain.base.as_ref().map(|base| base.to_string().trim_end_matches(';').to_owned());
    let rules = chain.rules.iter().map(ToString::to_string);
    base.into_iter().chain(rules).collect::<Vec<_>>().join("; ")
}
