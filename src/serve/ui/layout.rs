//! What all pages have: the head, the bar with the verdict, navigation; and how times, commits and states are written.
//!
//! Nothing is shown by colour alone: each state has its word, and the urgent ones a sign. Not here: the contents.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::query::Query;
use super::site::Seen;
use crate::core::escape::shown;
use crate::core::explain::age;
use crate::core::overview::Urgency;
use crate::core::page::Knowledge;
use crate::core::text::short_commit;

/// The only style. Its digest is in the Content-Security-Policy.
pub(super) const STYLE: &str = include_str!("style.css");

/// The sign of Egret's page in a tab of the browser.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M2 8h9M8 4l4 4-4 4' \
                    fill='none' stroke='%231f6feb' stroke-width='2.4'/%3E%3C/svg%3E";

/// The pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Policies,
    Nodes,
    Changes,
    Explain,
    None,
}

const TABS: [(Tab, &str, &str); 5] = [
    (Tab::Overview, "/", "Overview"),
    (Tab::Policies, "/policies", "Policies"),
    (Tab::Nodes, "/nodes", "Nodes"),
    (Tab::Changes, "/changes", "Changes"),
    (Tab::Explain, "/explain", "Explain"),
];

/// How often a page may load itself again, in seconds.
const REFRESH: [&str; 3] = ["5", "15", "60"];

/// A page around its contents.
pub(super) struct Frame<'a> {
    pub(super) tab: Tab,
    /// None where nothing is known.
    pub(super) seen: Option<&'a Seen>,
    pub(super) query: &'a Query,
}

impl Frame<'_> {
    /// The whole page.
    pub(super) fn page(&self, body: &Markup) -> Markup {
        let name = TABS.iter().find(|(tab, _, _)| *tab == self.tab).map_or("Egret", |(_, _, name)| name);
        let cluster = self.seen.map(|seen| shown(&seen.model.known.cluster));
        let sign = self.seen.map_or("", |seen| mark(seen.model.urgency()));
        let refresh = REFRESH.iter().find(|seconds| **seconds == self.query.get("refresh"));
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    @if let Some(seconds) = refresh { meta http-equiv="refresh" content=(seconds); }
                    title { (sign) (name) @if let Some(cluster) = &cluster { " · " (cluster) } " · Egret" }
                    link rel="icon" href=(PreEscaped(ICON));
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    a.skip href="#main" { "To the content" }
                    header {
                        nav aria-label="Pages" {
                            strong { "Egret" }
                            @for (tab, path, name) in TABS {
                                @if tab == self.tab {
                                    a href=(path) aria-current="page" { (name) }
                                } @else {
                                    a href=(path) { (name) }
                                }
                            }
                        }
                        @if let Some(seen) = self.seen { (self.verdict(seen)) }
                    }
                    main #main tabindex="-1" { (body) }
                    footer {
                        @if let Some(seen) = self.seen {
                            p { "Told by the " (seen.model.known.teller) ". Nothing can be changed here." }
                        }
                        p { "Egret " (env!("CARGO_PKG_VERSION")) }
                    }
                }
            }
        }
    }

    /// The one line that matters, and how fresh it is.
    fn verdict(&self, seen: &Seen) -> Markup {
        let (model, known) = (&seen.model, &seen.model.known);
        let urgency = model.urgency();
        html! {
            section.verdict.(class(urgency)) aria-label="Verdict" {
                p.line { (badge(urgency, word(urgency))) " " span { (shown(&model.headline())) } }
                @for (urgency, fault) in &known.faults {
                    p { (badge(*urgency, word(*urgency))) " " (shown(fault)) }
                }
                @if model.overview.waits.is_some() {
                    p { (badge(Urgency::Doubtful, "waits")) " " a href="/#waits" { "something waits" } " that would change what is active" }
                }
                @if let Some(age) = seen.stale {
                    p { (badge(Urgency::Bad, "old")) " the process does not answer; this was known " (age.as_secs()) " s ago" }
                }
                p.fresh {
                    @if known.revision.is_empty() { "no commit is active" } @else { "commit " (commit(known, &known.revision)) }
                    " · as of " (clock_time(known.now)) " · load again: "
                    a href=(self.query.with("refresh", "")) { "now" }
                    @for seconds in REFRESH {
                        ", "
                        @if self.query.get("refresh") == seconds {
                            strong aria-current="true" { "every " (seconds) " s" }
                        } @else {
                            a href=(self.query.with("refresh", seconds)) { "every " (seconds) " s" }
                        }
                    }
                }
            }
        }
    }
}

/// A class of the style.
pub(super) fn class(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Bad => "bad",
        Urgency::Doubtful => "doubtful",
        Urgency::Fine => "fine",
    }
}

/// A sign, for whoever sees no colours.
pub(super) fn mark(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Bad => "✕ ",
        Urgency::Doubtful => "! ",
        Urgency::Fine => "",
    }
}

/// The whole in a word.
fn word(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Bad => "bad",
        Urgency::Doubtful => "look",
        Urgency::Fine => "fine",
    }
}

/// A state in a word, with its sign.
pub(super) fn badge(urgency: Urgency, state: &str) -> Markup {
    html! { span.badge.(class(urgency)) { span aria-hidden="true" { (mark(urgency)) } (state) } }
}

/// How long ago a time is, and the time itself for a pointer and for programs.
pub(super) fn ago(time: Option<Timestamp>, now: Timestamp) -> Markup {
    html! {
        @if let Some(time) = time {
            time datetime=(time) title=(format!("{time:.0}")) { (age(time, now)) }
        } @else { span.none { "–" } }
    }
}

/// A time of day in UTC.
pub(super) fn clock_time(time: Timestamp) -> Markup {
    let text = format!("{time:.0}");
    html! { time datetime=(time) { (text.replace('T', " ").replace('Z', " UTC")) } }
}

/// A commit, with its page at the forge if that is known.
pub(super) fn commit(known: &Knowledge, commit: &str) -> Markup {
    let short = short_commit(commit);
    let page = known.pages.as_ref().and_then(|pages| pages.commit(commit));
    html! {
        @if let Some(page) = page { a href=(page) rel="noreferrer" { code { (short) } } } @else { code { (short) } }
    }
}

/// A form that filters a list.
pub(super) fn filter(query: &Query, what: &str, orders: &[(&str, &str)]) -> Markup {
    html! {
        form.filter method="get" role="search" {
            label for="q" { "Filter" }
            input #q type="search" name="q" value=(query.get("q")) aria-describedby="filter-hint";
            @if !orders.is_empty() {
                label for="sort" { "Order" }
                select #sort name="sort" {
                    @for (value, text) in orders { option value=(value) selected[*value == query.get("sort")] { (text) } }
                }
            }
            @if !query.get("state").is_empty() {
                input type="hidden" name="state" value=(query.get("state"));
                span { "only " code { (query.get("state")) } " (" a href=(query.with("state", "")) { "all" } ")" }
            }
            button { "Show" }
            span.hint #filter-hint { (what) }
        }
    }
}

/// A page of a list, and the links to the others.
pub(super) struct Pages {
    /// The rows of this page.
    pub(super) range: std::ops::Range<usize>,
    number: usize,
    of: usize,
}

impl Pages {
    /// Of a list with so many rows.
    pub(super) fn new(query: &Query, rows: usize, size: usize) -> Self {
        let of = rows.div_ceil(size).max(1);
        let number = query.number("page").min(of);
        let first = (number - 1) * size;
        Self { range: first..(first + size).min(rows), number, of }
    }

    /// The links.
    pub(super) fn links(&self, query: &Query) -> Markup {
        html! {
            @if self.of > 1 {
                nav.pages aria-label="Parts of the list" {
                    @if self.number > 1 { a href=(query.with("page", &(self.number - 1).to_string())) rel="prev" { "← before" } }
                    span { "part " (self.number) " of " (self.of) }
                    @if self.number < self.of { a href=(query.with("page", &(self.number + 1).to_string())) rel="next" { "more →" } }
                }
            }
        }
    }
}
