//! Policies and nodes as tables: filtered by a form, and in parts, so that 5,000 rows are no slow page.

use maud::{Markup, html};

use super::happenings;
use super::layout::{Pages, ago, badge, clock_time, commit, filter};
use super::query::Query;
use super::site::{PolicyLog, Seen};
use crate::core::escape::shown;
use crate::core::overview::{NodeRow, PolicyRow};
use crate::core::page::Knowledge;
use crate::core::policy::published::kind_name;
use crate::core::policy::{Policy, PolicyId};
use crate::core::text::{short_commit, url_part};

/// Columns of numbers.
const COUNTED: [&str; 4] = ["Pods", "Connections", "Drift", "Drops/min"];
/// Rows of one part.
const SIZE: usize = 100;
/// At most so many destinations or addresses of a row are named.
const NAMED: usize = 3;
/// A policy may have ten thousand destinations.
const LISTED: usize = 200;

/// The page of policies.
pub(super) fn policies(seen: &Seen, query: &Query) -> Markup {
    let wanted = query.get("q").to_lowercase();
    let state = query.get("state");
    let has = |row: &&PolicyRow| {
        let texts = [row.policy.name.as_str(), row.state, row.reason.as_str()];
        let named = texts.iter().any(|text| text.to_lowercase().contains(&wanted));
        let listed = || row.gateways.iter().chain(&row.addresses).any(|text| text.to_lowercase().contains(&wanted));
        let nets = || row.destinations.iter().any(|net| net.to_string().contains(&wanted));
        (state.is_empty() || row.state == state) && (wanted.is_empty() || named || listed() || nets())
    };
    let rows: Vec<&PolicyRow> = seen.model.overview.policies.iter().filter(has).collect();
    let pages = Pages::new(query, rows.len(), SIZE);
    html! {
        h1 { "Policies " span.count { (rows.len()) } }
        (filter(query, "name, gateway, address, destination or reason", &[]))
        (policy_table(seen, rows[pages.range.clone()].iter().copied()))
        (pages.links(query))
    }
}

/// The page of nodes.
pub(super) fn nodes(seen: &Seen, query: &Query) -> Markup {
    let wanted = query.get("q").to_lowercase();
    let state = query.get("state");
    let has = |row: &&NodeRow| {
        let named = row.node.as_str().contains(&wanted) || row.state.to_lowercase().contains(&wanted);
        let listed = || row.exits.iter().any(|text| text.contains(&wanted));
        let cause = || row.cause.as_ref().is_some_and(|cause| cause.to_lowercase().contains(&wanted));
        (state.is_empty() || row.state == state) && (wanted.is_empty() || named || listed() || cause())
    };
    let mut rows: Vec<&NodeRow> = seen.model.overview.nodes.iter().filter(has).collect();
    match query.get("sort") {
        // Those that were never heard first.
        "heard" => rows.sort_by_key(|row| row.heard),
        "name" => rows.sort_by_key(|row| &row.node),
        _ => {}
    }
    let pages = Pages::new(query, rows.len(), SIZE);
    html! {
        h1 { "Nodes " span.count { (rows.len()) } }
        (filter(query, "name, address, state or cause", &[("", "the worst first"), ("heard", "by last heard"), ("name", "by name")]))
        (node_table(seen, rows[pages.range.clone()].iter().copied()))
        (pages.links(query))
    }
}

/// Rows of policies.
pub(super) fn policy_table<'a>(seen: &Seen, rows: impl IntoIterator<Item = &'a PolicyRow>) -> Markup {
    let known = &seen.model.known;
    let titles = ["Policy", "State", "Since", "Pods", "To", "Gateway", "Address", "Connections", "Document"];
    html! {
        div.scroll role="region" aria-label="Policies" tabindex="0" {
            table {
                thead { tr { @for title in titles { th.number[COUNTED.contains(&title)] scope="col" { (title) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { a href=(page_of(&row.policy)) { (row.policy) } }
                            td {
                                (badge(row.urgency, row.state))
                                @if let Some(cause) = &row.cause { div.cause { (row.reason) ": " (shown(cause)) } }
                            }
                            td { (ago(row.since, known.now)) }
                            td.number { (row.pods) }
                            td { (few(row.destinations.iter().map(ToString::to_string))) }
                            td { (few(row.gateways.iter().cloned())) }
                            td { (few(row.addresses.iter().cloned())) }
                            td.number { (connections(seen, &row.policy)) }
                            td { @if let Some(policy) = known.set.policies.get(&row.policy) { (document(known, policy)) } }
                        }
                    }
                }
            }
        }
    }
}

/// Rows of nodes.
pub(super) fn node_table<'a>(seen: &Seen, rows: impl IntoIterator<Item = &'a NodeRow>) -> Markup {
    let known = &seen.model.known;
    let titles = ["Node", "State", "Since", "Heard", "Commit", "Serves", "Drift", "Drops/min"];
    html! {
        div.scroll role="region" aria-label="Nodes" tabindex="0" {
            table {
                thead { tr { @for title in titles { th.number[COUNTED.contains(&title)] scope="col" { (title) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { (row.node) }
                            td {
                                (badge(row.urgency, row.state))
                                @if let Some(cause) = &row.cause { div.cause { (shown(cause)) } }
                            }
                            td { (ago(row.since, known.now)) }
                            td { (ago(row.heard, known.now)) }
                            td { @if let Some(revision) = &row.revision { code { (short_commit(revision)) } } @else { span.none { "–" } } }
                            td { (few(row.exits.iter().cloned())) }
                            td.number { (row.drift) }
                            td.number { @match row.dropped_per_minute { Some(dropped) => (dropped), None => span.none { "–" } } }
                        }
                    }
                }
            }
        }
    }
}

/// The page of one policy; none if there is no such policy.
pub(super) fn policy(seen: &Seen, query: &Query, log: &dyn PolicyLog) -> Option<Markup> {
    let (model, known) = (&seen.model, &seen.model.known);
    let is_it = |id: &PolicyId| id.name.as_str() == query.get("name") && kind_name(id.kind) == query.get("kind");
    let row = model.overview.policies.iter().find(|row| is_it(&row.policy))?;
    let policy = known.set.policies.get(&row.policy);
    let change = policy.and_then(|policy| log.last_change(&policy.origin.file, &known.revision));
    let name = row.policy.name.as_str();
    let concerns = |subject: &str| subject == name || row.ways.iter().any(|way| way.exit == subject);
    let told: Vec<_> = model
        .timeline
        .iter()
        .filter(|one| one.text.split(": ").next().is_some_and(concerns))
        .take(SIZE)
        .cloned()
        .collect();
    Some(html! {
        h1 { (row.policy) " " (badge(row.urgency, row.state)) }
        dl {
            @if let Some(cause) = &row.cause { dt { "Cause" } dd { (row.reason) ": " (shown(cause)) } }
            @if let Some(since) = row.since { dt { "Since" } dd { (clock_time(since)) " (" (ago(Some(since), known.now)) ")" } }
            @if let Some(policy) = policy {
                dt { "Document" } dd { (document(known, policy)) " (" (kind_name(row.policy.kind)) ")" }
            }
            @if let Some(change) = change {
                dt { "Changed" }
                dd { (commit(known, &change.commit)) " " (shown(&format!("“{}” of {}", change.summary, change.author))) ", " (ago(Some(change.time), known.now)) }
            }
            dt { "Pods" } dd { (row.pods) }
            dt { "To" } dd {
                (row.destinations.iter().take(LISTED).map(ToString::to_string).collect::<Vec<_>>().join(", "))
                @if row.destinations.len() > LISTED { " and " (row.destinations.len() - LISTED) " more" }
            }
            dt { "Ways" }
            dd {
                @if row.ways.is_empty() { "none" } @else {
                    ul.plain {
                        @for way in row.ways.iter().take(LISTED) {
                            li {
                                code { (way.exit) } " as " (if way.addresses.is_empty() { "an address that is not known here".to_owned() } else { way.addresses.join(", ") })
                                @if let Some((rate, all)) = model.rates.as_ref().and_then(|rates| rates.of_exit(&way.exit)) {
                                    ": " (super::picture::rate_text(rate, all))
                                }
                            }
                        }
                    }
                }
            }
            @if let Some(rate) = model.connections(&row.policy) { dt { "Connections" } dd { (super::picture::per_second(rate)) " begin" @if known.kernel.is_some() { " on this node" } } }
        }
        h2 { "What nodes report of it" }
        (happenings::list(known, &told))
    })
}

fn page_of(policy: &PolicyId) -> String {
    format!("/policy?kind={}&name={}", kind_name(policy.kind), url_part(policy.name.as_str()))
}

/// Where a policy was written, as of the active commit.
fn document(known: &Knowledge, policy: &Policy) -> Markup {
    let place = shown(&policy.origin.to_string());
    let (pages, origin) = (known.pages.as_ref(), &policy.origin);
    let page = pages.and_then(|pages| pages.line(&known.revision, &origin.file, origin.line));
    html! {
        @if let Some(page) = page { a href=(page) rel="noreferrer" { code { (place) } } } @else { code { (place) } }
    }
}

fn connections(seen: &Seen, policy: &PolicyId) -> Markup {
    html! {
        @if let Some(rate) = seen.model.connections(policy) {
            (super::picture::per_second(rate))
        } @else { span.none { "–" } }
    }
}

/// The first ones, and how many more there are.
fn few(texts: impl Iterator<Item = String>) -> Markup {
    let mut texts: Vec<String> = texts.take(LISTED + 1).collect();
    let more = texts.len().saturating_sub(NAMED);
    texts.truncate(NAMED);
    html! {
        @if texts.is_empty() { span.none { "–" } }
        @for (position, text) in texts.iter().enumerate() { @if position > 0 { ", " } span.word { (text) } }
        @if more > 0 { " +" (more) @if more > LISTED - NAMED { " or more" } }
    }
}
