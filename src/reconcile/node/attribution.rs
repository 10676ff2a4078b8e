//! Attribution: finds which process caused a drift, from the kernel's events, and which policies want the object that
//! drifted.
//!
//! Not here: what has drifted (`core::report::drift`).

use std::collections::BTreeSet;

use crate::core::compile::Compiled;
use crate::core::report::drift::DriftPlace;
use crate::core::report::history::{DriftActor, RequestedBy};
use crate::kernel::watch::{Actor, EventSubject, KernelEvent};
use crate::reconcile::gitops::repository::DesiredRevision;

/// Who changed an object, by the kernel's events.
pub(in crate::reconcile) fn who(place: &DriftPlace, events: &[KernelEvent]) -> Option<DriftActor> {
    let about = |event: &&KernelEvent| match (place, &event.subject) {
        (DriftPlace::Rule(priority), EventSubject::Rule(of)) => priority == of,
        (DriftPlace::Route(table), EventSubject::Route(of)) => table == of,
        (DriftPlace::Link(name), EventSubject::Link(of)) => name == of,
        (DriftPlace::Link(_), EventSubject::Address(_))
        | (DriftPlace::Neighbour, EventSubject::Neighbour)
        | (DriftPlace::Nft(_), EventSubject::Nft) => true,
        _ => false,
    };
    // One manual change has consequences by the kernel itself, whose events may arrive first.
    let by_process = |event: &&KernelEvent| matches!(event.actor, Actor::Process(..));
    let of_it = || events.iter().filter(about);
    let event = of_it().find(by_process).or_else(|| of_it().next())?;
    Some(match &event.actor {
        // The kernel reports every change of a link's flags as its own (`dev_change_flags`, net/core/dev.c), so this
        // actor proves nothing.
        Actor::Kernel if matches!(place, DriftPlace::Link(_)) => return None,
        Actor::Kernel => {
            DriftActor { guess: "the kernel".to_owned(), because: "its device or address went away or down".to_owned() }
        }
        Actor::Process(id, Some(name)) => {
            DriftActor { guess: name.clone(), because: format!("the change's netlink message names process {id}") }
        }
        Actor::Process(id, None) => DriftActor {
            guess: format!("process {id}"),
            because: "the change's netlink message names it; it is gone by now, as a command typed by hand is"
                .to_owned(),
        },
        Actor::Unknown => return None,
    })
}

/// The policies that want an object: those of its exit or group, or all that this node serves.
pub(in crate::reconcile) fn wanted_by(
    place: &DriftPlace,
    known: &Compiled,
    compiled: &Compiled,
    intent: &DesiredRevision,
) -> Vec<RequestedBy> {
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
        let chain = known.policy_chains.get(name).map(|of| &of.policy).or_else(|| known.drop_chains.get(name));
        groups.flat_map(|(_, policies)| policies).chain(chain).collect::<BTreeSet<_>>()
    };
    let all = || known.exits.values().flat_map(|exit| exit.policies.iter()).collect::<BTreeSet<_>>();
    let policies = match place {
        DriftPlace::Label => return labels_wanted_by(known, intent),
        DriftPlace::Rule(number) | DriftPlace::Route(number) => of_id(*number),
        DriftPlace::Nft(name) => of_name(name),
        DriftPlace::Link(_) | DriftPlace::Neighbour => BTreeSet::new(),
    };
    let policies = if policies.is_empty() { all() } else { policies };
    policies
        .into_iter()
        .filter_map(|id| intent.set.policies.get(id))
        .map(|policy| RequestedBy {
            policy: policy.id.to_string(),
            file: policy.origin.to_string(),
            commit: intent.commit.id.to_string(),
        })
        .collect()
}

fn labels_wanted_by(known: &Compiled, intent: &DesiredRevision) -> Vec<RequestedBy> {
    intent
        .set
        .node_labels
        .values()
        .filter(|document| document.labels.keys().any(|key| known.desired.labels.contains_key(key)))
        .map(|document| RequestedBy {
            policy: document.name.to_string(),
            file: document.origin.to_string(),
            commit: intent.commit.id.to_string(),
        })
        .collect()
}
