//! Whose doing a drift is, by the kernel's events, and which policies want what drifted.
//!
//! Deliberately absent: what has drifted (`core::report::drift`).

use std::collections::BTreeSet;

use super::repository::Intent;
use crate::core::compile::Compiled;
use crate::core::report::drift::Place;
use crate::core::report::history::{By, WantedBy};
use crate::kernel::watch::{Actor, Event, Subject};

/// Who touched an object, by the events of the kernel.
pub(super) fn who(place: &Place, events: &[Event]) -> Option<By> {
    let about = |event: &&Event| match (place, &event.subject) {
        (Place::Rule(priority), Subject::Rule(of)) => priority == of,
        (Place::Route(table), Subject::Route(of)) => table == of,
        (Place::Link(name), Subject::Link(of)) => name == of,
        (Place::Link(_), Subject::Address(_))
        | (Place::Neighbour, Subject::Neighbour)
        | (Place::Nft(_), Subject::Nft) => true,
        _ => false,
    };
    // One act by hand has consequences that are the kernel's own, and these may be told first.
    let by_process = |event: &&Event| matches!(event.actor, Actor::Process(..));
    let of_it = || events.iter().filter(about);
    let event = of_it().find(by_process).or_else(|| of_it().next())?;
    Some(match &event.actor {
        // The kernel signs what anybody does to a link's flags itself (`dev_change_flags`, net/core/dev.c): it says nothing.
        Actor::Kernel if matches!(place, Place::Link(_)) => return None,
        Actor::Kernel => {
            By { guess: "the kernel".to_owned(), because: "its device or address went away or down".to_owned() }
        }
        Actor::Process(id, Some(name)) => {
            By { guess: name.clone(), because: format!("the change's netlink message names process {id}") }
        }
        Actor::Process(id, None) => By {
            guess: format!("process {id}"),
            because: "the change's netlink message names it; it is gone by now, as a command typed by hand is"
                .to_owned(),
        },
        Actor::Unknown => return None,
    })
}

/// The policies that want an object: those of its exit or group, or all that this node serves.
pub(super) fn wanted_by(place: &Place, known: &Compiled, compiled: &Compiled, intent: &Intent) -> Vec<WantedBy> {
    let range = intent.set.config.range;
    let of_id = |number: u32| {
        let exits = known.exits.values().chain(compiled.exits.values());
        exits
            .filter(|exit| range.table(exit.id) == number)
            .flat_map(|exit| exit.policies.iter())
            .collect::<BTreeSet<_>>()
    };
    let of_name = |name: &str| {
        let groups = known.groups.iter().filter(|(group, _)| name.ends_with(group.as_str()));
        let chain = known.policy_chains.get(name).map(|of| &of.policy);
        groups.flat_map(|(_, policies)| policies).chain(chain).collect::<BTreeSet<_>>()
    };
    let all = || known.exits.values().flat_map(|exit| exit.policies.iter()).collect::<BTreeSet<_>>();
    let policies = match place {
        Place::Label => return labels_wanted_by(known, intent),
        Place::Rule(number) | Place::Route(number) => of_id(*number),
        Place::Nft(name) => of_name(name),
        Place::Link(_) | Place::Neighbour => BTreeSet::new(),
    };
    let policies = if policies.is_empty() { all() } else { policies };
    policies
        .into_iter()
        .filter_map(|id| intent.set.policies.get(id))
        .map(|policy| WantedBy {
            policy: policy.id.to_string(),
            file: policy.origin.to_string(),
            commit: intent.commit.id.to_string(),
        })
        .collect()
}

fn labels_wanted_by(known: &Compiled, intent: &Intent) -> Vec<WantedBy> {
    intent
        .set
        .node_labels
        .values()
        .filter(|document| document.labels.keys().any(|key| known.desired.labels.contains_key(key)))
        .map(|document| WantedBy {
            policy: document.name.to_string(),
            file: document.origin.to_string(),
            commit: intent.commit.id.to_string(),
        })
        .collect()
}
