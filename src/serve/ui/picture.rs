//! The picture as SVG: policies on the left, gateways in the middle, addresses on the right. Read aloud it is a list.
//!
//! Positions are whole numbers, so that the same picture gives the same bytes. Not here: what is in it (`core::page`).

use maud::{Markup, html};

use super::layout::{class, mark};
use crate::core::escape::shown;
use crate::core::overview::Urgency;
use crate::core::page::{Model, Picture};
use crate::core::rates::Rate;
use crate::core::text::{counted, shortened};

/// The height of a box, and of the space between two.
const BOX: usize = 44;
const GAP: usize = 12;
/// The left edges of the columns, and their widths.
const COLUMNS: [(usize, usize); 3] = [(0, 250), (365, 220), (700, 300)];
const WIDTH: usize = 1000;

/// The picture with its caption.
pub(super) fn figure(model: &Model) -> Markup {
    let picture = &model.picture;
    html! {
        @if picture.sources.is_empty() { p.none { "No policy is active." } } @else {
            figure {
                div.scroll role="region" aria-label="Picture" tabindex="0" { (drawing(picture)) }
                figcaption {
                    @match &model.rates {
                        Some(rates) => {
                            @let own = model.known.kernel.is_some();
                            "Rates over the last " (format!("{:.0}", rates.over.as_secs_f64())) " s, as "
                            @if own { "this node's kernel counts them. " } @else { "the kernels of gateways and sources count them; each agent reports its node's. " }
                            @if rates.dropped > 0.0 {
                                strong.bad { (mark(Urgency::Bad)) (per_second(rates.dropped).replace("/s", " packets/s")) " of members are dropped" @if own { " here" } "." }
                            }
                        }
                        None if model.known.kernel.is_some() => { "Rates are there when the page is loaded again." }
                        None if model.known.overview.is_some() => { "No agent has reported rates yet." }
                        None => { "Rates are there once this node's kernel has been read twice." }
                    }
                    @if picture.more > 0 { " " (counted(picture.more, "policy")) " more " a href="/policies" { "in the list" } "." }
                }
            }
        }
    }
}

/// The middle of a box.
fn middle(position: usize, boxes: usize, most: usize) -> usize {
    let free = (most - boxes) * (BOX + GAP) / 2;
    free + position * (BOX + GAP) + BOX / 2
}

fn drawing(picture: &Picture) -> Markup {
    let counts = [picture.sources.len(), picture.gateways.len(), picture.exits.len()];
    let most = counts.into_iter().max().unwrap_or(1).max(1);
    let height = most * (BOX + GAP);
    let at = |column: usize, position: usize| middle(position, counts[column], most);
    let mut to_gateways: Vec<(usize, usize)> = picture
        .lines
        .iter()
        .filter_map(|(source, exit)| Some((*source, picture.exits.get((*exit)?)?.gateway)))
        .collect();
    to_gateways.sort_unstable();
    to_gateways.dedup();
    html! {
        svg viewBox=(format!("-4 -4 {} {}", WIDTH + 8, height + 4)) role="img" aria-labelledby="picture-title" {
            title #picture-title { (aloud(picture)) }
            g aria-hidden="true" {
                @for (source, gateway) in &to_gateways {
                    (line((0, at(0, *source)), (1, at(1, *gateway)), picture.sources[*source].urgency))
                }
                @for (position, exit) in picture.exits.iter().enumerate() {
                    (line((1, at(1, exit.gateway)), (2, at(2, position)), picture.gateways[exit.gateway].urgency.min(served(picture, position))))
                }
                @for (source, _) in picture.lines.iter().filter(|(_, exit)| exit.is_none()) {
                    @let (y, x) = (at(0, *source), COLUMNS[0].0 + COLUMNS[0].1);
                    path.way.bad d=(format!("M{x} {y}h60")) {}
                    text.bad x=(x + 68) y=(y + 5) { "✕ no gateway" }
                }
                @for (position, one) in picture.sources.iter().enumerate() {
                    @let pods = counted(usize::try_from(one.pods).unwrap_or(usize::MAX), "pod");
                    @let rate = one.connections.map(|rate| format!(" · {} conn.", per_second(rate))).unwrap_or_default();
                    (boxed(0, at(0, position), one.urgency, &one.name, &format!("{}{} · {pods}{rate}", mark(one.urgency), one.state)))
                }
                @for (position, one) in picture.gateways.iter().enumerate() {
                    (boxed(1, at(1, position), one.urgency, &one.node, &format!("{}{}", mark(one.urgency), one.state)))
                }
                @for (position, one) in picture.exits.iter().enumerate() {
                    @let addresses = if one.addresses.is_empty() { "address not known here".to_owned() } else { one.addresses.join(", ") };
                    @let rate = one.rate.map_or_else(|| one.exit.clone(), |(rate, all)| rate_text(rate, all));
                    (boxed(2, at(2, position), served(picture, position), &addresses, &rate))
                }
            }
        }
    }
}

/// How urgent the best policy of an exit is: one that drops for another reason says nothing of it.
fn served(picture: &Picture, exit: usize) -> Urgency {
    let of_it = picture.lines.iter().filter(|(_, to)| *to == Some(exit));
    of_it.map(|(source, _)| picture.sources[*source].urgency).max().unwrap_or(Urgency::Fine)
}

fn boxed(column: usize, y: usize, urgency: Urgency, first: &str, second: &str) -> Markup {
    let (x, width) = COLUMNS[column];
    // A letter takes some 8 units.
    let fits = width / 8 - 2;
    html! {
        rect.box.(class(urgency)) x=(x) y=(y - BOX / 2) width=(width) height=(BOX) rx="6" {}
        text.name x=(x + 12) y=(y - 4) { (shortened(&shown(first), fits)) }
        text.more x=(x + 12) y=(y + 14) { (shortened(&shown(second), fits + 4)) }
    }
}

fn line((from, y): (usize, usize), (to, end): (usize, usize), urgency: Urgency) -> Markup {
    let (x, until) = (COLUMNS[from].0 + COLUMNS[from].1, COLUMNS[to].0);
    let turn = usize::midpoint(x, until);
    html! { path.way.(class(urgency)) d=(format!("M{x} {y}C{turn} {y} {turn} {end} {until} {end}")) {} }
}

/// The same in words.
fn aloud(picture: &Picture) -> String {
    let ways = picture.lines.iter().map(|(source, exit)| {
        let (one, exit) = (&picture.sources[*source], exit.and_then(|exit| picture.exits.get(exit)));
        let end = exit.map_or("has no gateway".to_owned(), |exit| {
            let gateway = &picture.gateways[exit.gateway].node;
            match exit.addresses.as_slice() {
                [] => format!("is led to {gateway}"),
                addresses => format!("leaves through {gateway} as {}", addresses.join(", ")),
            }
        });
        format!("{}, {}: {end}", one.name, one.state)
    });
    shown(&ways.collect::<Vec<_>>().join("; "))
}

/// `1.2 kB/s, 14 packets/s`. `all`: of all nodes; else of this one.
pub(super) fn rate_text(rate: Rate, all: bool) -> String {
    let (bytes, unit) = match rate.bytes {
        bytes if bytes >= 1e9 => (bytes / 1e9, "GB/s"),
        bytes if bytes >= 1e6 => (bytes / 1e6, "MB/s"),
        bytes if bytes >= 1e3 => (bytes / 1e3, "kB/s"),
        bytes => (bytes, "B/s"),
    };
    let digits = usize::from(bytes < 10.0 && unit != "B/s");
    let whose = if all { "" } else { " from this node" };
    format!("{bytes:.digits$} {unit}, {}{whose}", per_second(rate.packets).replace("/s", " packets/s"))
}

/// `0.4/s`, `1.2k/s`.
pub(super) fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.1}M/s", rate / 1e6),
        rate if rate >= 1e4 => format!("{:.0}k/s", rate / 1e3),
        rate if rate >= 1e3 => format!("{:.1}k/s", rate / 1e3),
        rate if rate >= 10.0 || rate == 0.0 => format!("{rate:.0}/s"),
        rate => format!("{rate:.1}/s"),
    }
}
