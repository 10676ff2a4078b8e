//! The first page: everything that may be wrong, and the way to the rest.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::layout::{ago, badge, clock_time, commit};
use super::picture;
use super::query::Query;
use super::site::Seen;
use super::{explained, happenings, tables};
use crate::core::escape::shown;
use crate::core::overview::{NodeRow, Urgency};
use crate::core::page::{Knowledge, OpenPull};

/// So many policies, nodes and events are shown here; their own pages have the rest.
const POLICIES: usize = 12;
/// See [`POLICIES`].
const NODES: usize = 8;
/// See [`POLICIES`].
const EVENTS: usize = 10;
/// A forge may have any number.
const PULLS: usize = 20;

/// The contents.
pub(super) fn front(seen: &Seen, query: &Query) -> Markup {
    let (model, known) = (&seen.model, &seen.model.known);
    let overview = &model.overview;
    html! {
        h1.hidden { "Overview of " (shown(&known.cluster)) }
        (waits(known, overview.waits.as_deref()))
        section aria-labelledby="ask" {
            h2 #ask { "Why is this pod denied?" }
            (explained::fields(query, known))
        }
        section aria-labelledby="ways" {
            h2 #ways { "Who leaves where" }
            (picture::figure(model))
        }
        section aria-labelledby="policies" {
            h2 #policies { "Policies " span.count { (overview.policies.len()) } }
            (tables::policy_table(seen, &overview.policies[..overview.policies.len().min(POLICIES)]))
            (rest(overview.policies.len(), POLICIES, "/policies", "all policies"))
        }
        section aria-labelledby="nodes" {
            h2 #nodes { "Nodes " span.count { (overview.nodes.len()) } }
            (states(&overview.nodes))
            (tables::node_table(seen, &overview.nodes[..overview.nodes.len().min(NODES)]))
            (rest(overview.nodes.len(), NODES, "/nodes", "all nodes"))
        }
        @if let Some(pulls) = &known.pulls { (proposed(known, pulls)) }
        section aria-labelledby="changes" {
            h2 #changes { "Drift and changes" }
            (happenings::list(known, &model.timeline[..model.timeline.len().min(EVENTS)]))
            (rest(model.timeline.len(), EVENTS, "/changes", "all that is known"))
        }
    }
}

/// What waits, with its opening, and documents whose newest version is not active.
fn waits(known: &Knowledge, waits: Option<&str>) -> Markup {
    let suspended: Vec<_> = known.set.policies.values().filter(|policy| policy.suspended(known.now)).collect();
    let any = waits.is_some() || !known.rejected.is_empty() || !suspended.is_empty();
    html! {
        @if any {
            section aria-labelledby="waits" {
                h2 #waits { "What waits" }
                ul.plain {
                    @if let Some(pending) = &known.pending {
                        li {
                            (badge(Urgency::Doubtful, pending.why.as_str())) " "
                            (commit(known, &pending.commit)) " " (shown(&format!("“{}” of {}", pending.summary, pending.author)))
                            ": " (shown(&pending.why.to_string()))
                            @if let Some(ends) = pending.why.ends() { ". Opens " (clock_time(ends)) }
                        }
                    } @else if let Some(waits) = waits {
                        li { (badge(Urgency::Doubtful, "waits")) " " (shown(waits)) }
                    }
                    @for rejected in known.rejected.iter().take(PULLS) {
                        li {
                            (badge(Urgency::Doubtful, "rejected")) " " code { (shown(&rejected.place)) } " "
                            (shown(&rejected.message)) ". " (shown(&rejected.instead))
                        }
                    }
                    @for policy in suspended.iter().take(PULLS) {
                        @if let Some(suspension) = &policy.suspend {
                            li {
                                (badge(Urgency::Doubtful, "suspended")) " " (policy.id) " until " (clock_time(suspension.until))
                                @if let Some(owner) = &suspension.owner { " by " (shown(owner)) } ": " (shown(&suspension.reason))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How many nodes are in which state.
fn states(nodes: &[NodeRow]) -> Markup {
    let mut counts: BTreeMap<(Urgency, &str), usize> = BTreeMap::new();
    for row in nodes {
        *counts.entry((row.urgency, row.state)).or_default() += 1;
    }
    html! {
        p.states {
            @for ((urgency, state), count) in &counts {
                a href=(format!("/nodes?state={}", crate::core::text::url_part(state))) { (count) " " (badge(*urgency, state)) } " "
            }
        }
    }
}

fn rest(all: usize, here: usize, path: &str, what: &str) -> Markup {
    html! {
        p.rest {
            @if all > here { "and " (all - here) " more: " }
            a href=(path) { (what) }
        }
    }
}

/// Open pull requests, with what their previews say.
fn proposed(known: &Knowledge, pulls: &[OpenPull]) -> Markup {
    html! {
        section aria-labelledby="pulls" {
            h2 #pulls { "Open pull requests " span.count { (pulls.len()) } }
            @if pulls.is_empty() { p.none { "None is open." } } @else {
                div.scroll role="region" aria-labelledby="pulls" tabindex="0" {
                    table {
                        thead { tr { th scope="col" { "Request" } th scope="col" { "Preview" } th scope="col" { "Commit" } th scope="col" { "Changed" } } }
                        tbody {
                            @for pull in pulls.iter().take(PULLS) {
                                tr {
                                    th scope="row" {
                                        @let title = format!("#{} {}", pull.number, pull.title);
                                        @if pull.page.starts_with("https://") || pull.page.starts_with("http://") {
                                            a href=(pull.page) rel="noreferrer" { (shown(&title)) }
                                        } @else { (shown(&title)) }
                                        @if pull.draft { " " span.badge { "draft" } }
                                    }
                                    td {
                                        @match &pull.summary {
                                            Some(summary) => { (badge(pull.urgency, if pull.urgency == Urgency::Fine { "previewed" } else { "look" })) " " (shown(summary)) }
                                            None => { span.none { "not previewed yet" } }
                                        }
                                    }
                                    td { (commit(known, &pull.head)) }
                                    td { (ago(Some(pull.updated), known.now)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
