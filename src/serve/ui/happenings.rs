//! Drift and changes as one list.

use maud::{Markup, html};

use super::layout::{Pages, ago, badge, class, clock_time, commit, filter};
use super::query::Query;
use super::site::Seen;
use crate::core::escape::shown;
use crate::core::overview::Urgency;
use crate::core::page::{Happening, Knowledge};
use crate::core::text::shortened;

/// Events of one part.
const SIZE: usize = 100;
/// An object's text may be an nftables rule.
const LONGEST: usize = 400;

/// The page.
pub(super) fn changes(seen: &Seen, query: &Query) -> Markup {
    let (model, wanted) = (&seen.model, query.get("q").to_lowercase());
    let has = |one: &&Happening| {
        let node = one.node.as_deref().unwrap_or_default();
        let commit = one.commit.as_deref().unwrap_or_default();
        wanted.is_empty()
            || [one.text.as_str(), node, commit, one.kind.word()]
                .iter()
                .any(|text| text.to_lowercase().contains(&wanted))
    };
    let found: Vec<&Happening> = model.timeline.iter().filter(has).collect();
    let pages = Pages::new(query, found.len(), SIZE);
    let part: Vec<Happening> = found[pages.range.clone()].iter().map(|one| (*one).clone()).collect();
    html! {
        h1 { "Drift and changes " span.count { (found.len()) } }
        (filter(query, "node, object, process, commit, or one of: commit, active, drift, finding", &[]))
        (list(&model.known, &part))
        (pages.links(query))
        p.hint { "The reports branch has what is older." }
    }
}

/// Events, the newest first.
pub(super) fn list(known: &Knowledge, events: &[Happening]) -> Markup {
    html! {
        @if events.is_empty() { p.none { "Nothing is known." } } @else {
            ol.timeline {
                @for one in events {
                    li.(class(one.urgency)) {
                        span.when { (clock_time(one.at)) " (" (ago(Some(one.at), known.now)) ")" }
                        " " (badge(one.urgency, one.kind.word())) " "
                        @if let Some(node) = &one.node { strong { (shown(node)) } " " }
                        @if let Some(of) = &one.commit { (commit(known, of)) " " }
                        span { (shown(&shortened(&one.text, LONGEST))) }
                        @if one.urgency == Urgency::Bad { strong.bad { " – open" } }
                        @if let Some(detail) = &one.detail { div.cause { (shown(&shortened(detail, LONGEST))) } }
                    }
                }
            }
        }
    }
}
