//! Renders a preview for a terminal: lines, each with a style. The command line adds the colours.

use std::collections::BTreeMap;

use super::Preview;
use super::markdown::by_namespace;
use super::risks::RiskLevel;
use super::sentences::Sentences;
use crate::core::escape::shown;
use crate::core::name::NodeName;
use crate::core::text::{counted, wrapped};

/// The style of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineStyle {
    /// A title.
    Title,
    /// Normal text.
    Plain,
    /// An error, or a loss of packets.
    Bad,
    /// Something to check.
    Doubtful,
    /// Added.
    Added,
    /// Removed.
    Removed,
    /// A position in a listing.
    Place,
}

/// The layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextForm {
    /// The width to wrap lines at; none: lines are not wrapped.
    pub width: Option<usize>,
    /// Whether the exact changes of nodes are shown.
    pub diff: bool,
}

/// One line, without a line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its style.
    pub style: LineStyle,
    /// Its text.
    pub text: String,
}

struct Page {
    lines: Vec<Line>,
    width: Option<usize>,
}

impl Page {
    /// Adds a line, wrapped if it is too wide; continuation lines are indented.
    fn line(&mut self, style: LineStyle, text: &str, indent: usize) {
        let wrapped = wrapped(text, indent, self.width);
        self.lines.extend(wrapped.lines().map(|line| Line { style, text: line.to_owned() }));
    }

    fn title(&mut self, text: &str) {
        self.line(LineStyle::Plain, "", 0);
        self.line(LineStyle::Title, text, 0);
    }

    fn diff(&mut self, diff: &str) {
        for line in diff.lines() {
            let style = match line.as_bytes().first() {
                Some(b'+') => LineStyle::Added,
                Some(b'-') => LineStyle::Removed,
                Some(b'@') => LineStyle::Place,
                _ => LineStyle::Plain,
            };
            let text: String = line
                .chars()
                .flat_map(|letter| if letter == '\t' { "  ".chars().collect() } else { vec![letter] })
                .collect();
            self.lines.push(Line { style, text: format!("    {}", shown(&text)) });
        }
    }
}

/// The whole preview, wrapped at a width if there is one. The last line repeats the verdict, as the first has
/// scrolled away by then.
pub fn lines(preview: &Preview<'_>, form: TextForm) -> Vec<Line> {
    let mut page = Page { lines: Vec::new(), width: form.width };
    let words = Sentences(preview);
    page.line(LineStyle::Title, &format!("{} · {}", shown(preview.input.cluster), words.verdict()), 2);
    let subtitle: Vec<String> = words.subtitle().iter().map(ToString::to_string).collect();
    let (last, first) =
        subtitle.split_last().map_or((String::new(), String::new()), |(last, first)| (last.clone(), first.join(" · ")));
    page.line(LineStyle::Plain, &first, 2);
    page.line(LineStyle::Plain, &format!("{last} · {}", words.counts()), 2);
    validation(&mut page, preview);
    moves(&mut page, preview, words);
    risks(&mut page, preview);
    gateway_failures(&mut page, preview, words);
    rest(&mut page, preview, words, form.diff);
    page.line(LineStyle::Plain, "", 0);
    page.line(LineStyle::Title, &format!("{}: {}", shown(preview.input.cluster), words.verdict()), 2);
    page.lines
}

fn validation(page: &mut Page, preview: &Preview<'_>) {
    let [documents, asserted] = preview.input.validation.errors();
    for (title, errors) in [("An assertion fails", asserted), ("It does not validate", documents.clone())] {
        if !errors.is_empty() {
            page.title(title);
        }
        for (one, known) in errors {
            let of = if *known { " [not of this change]" } else { "" };
            page.line(LineStyle::Bad, &format!("  {}{of}", shown(&one.to_string())), 6);
        }
    }
    if documents.is_empty() {
        return;
    }
    for held in &preview.input.validation.held {
        let text = format!("  If it is merged all the same, {} stays as it was ({})", held.identity, shown(&held.path));
        page.line(LineStyle::Plain, &text, 6);
    }
}

fn moves(page: &mut Page, preview: &Preview<'_>, words: Sentences<'_>) {
    const ROWS: usize = 50;
    if preview.moves.is_empty() {
        return;
    }
    page.title("Pods that leave another way");
    for one in preview.moves.iter().take(ROWS) {
        let [from, to, towards] = words.exits(one);
        let names: Vec<String> = one.pods.iter().take(3).map(|pod| shown(&pod.name)).collect();
        let more = if one.pods.len() > 3 { ", …" } else { "" };
        let pods = counted(one.pods.len(), "pod");
        let who =
            format!("  {} · {} · {pods} ({}{more})", shown(&one.namespace), words.deciding(one), names.join(", "));
        page.line(LineStyle::Plain, &who, 6);
        page.line(LineStyle::Removed, &format!("    - {from}"), 6);
        page.line(LineStyle::Added, &format!("    + {to}"), 6);
        page.line(LineStyle::Plain, &format!("    towards {towards}"), 6);
    }
    if preview.moves.len() > ROWS {
        page.line(LineStyle::Plain, &format!("  and {} more", preview.moves.len() - ROWS), 2);
    }
    for remark in words.remarks() {
        page.line(LineStyle::Plain, &format!("  {remark}"), 2);
    }
    if let Some(connections) = words.connections() {
        page.line(LineStyle::Plain, &format!("  {connections}"), 2);
    }
}

fn risks(page: &mut Page, preview: &Preview<'_>) {
    const ROWS: usize = 50;
    if preview.risks.is_empty() {
        return;
    }
    page.title("Look at this before you merge");
    for risk in preview.risks.iter().take(ROWS) {
        let (word, style) = match risk.level {
            RiskLevel::Danger => ("danger", LineStyle::Bad),
            RiskLevel::Warning => ("warn  ", LineStyle::Doubtful),
            RiskLevel::Note => ("note  ", LineStyle::Plain),
            RiskLevel::Waits => ("later ", LineStyle::Doubtful),
        };
        page.line(style, &format!("  {word}  {}: {}", risk.title, risk.text), 10);
    }
    if preview.risks.len() > ROWS {
        page.line(LineStyle::Plain, &format!("  and {} more", preview.risks.len() - ROWS), 2);
    }
}

fn gateway_failures(page: &mut Page, preview: &Preview<'_>, words: Sentences<'_>) {
    if preview.gateway_failures.is_empty() {
        return;
    }
    page.title("If a gateway dies after this change");
    let mut gateways: BTreeMap<&NodeName, Vec<String>> = BTreeMap::new();
    for failure in &preview.gateway_failures {
        gateways.entry(&failure.gateway).or_default().push(words.gateway_failure(failure).to_string());
    }
    for (gateway, sentences) in gateways {
        page.line(LineStyle::Plain, &format!("  {gateway}: {}", sentences.join("; ")), 6);
    }
    if preview.losses_left_out > 0 {
        page.line(LineStyle::Plain, &format!("  and {} more", counted(preview.losses_left_out, "gateway")), 2);
    }
}

fn rest(page: &mut Page, preview: &Preview<'_>, words: Sentences<'_>, diff: bool) {
    let names = preview.input.limits.names;
    if preview.moved > 3 {
        page.title(&format!("Pods that change, by namespace ({})", preview.moved));
        for (namespace, pods) in by_namespace(&preview.moves) {
            let listed: Vec<String> = pods.iter().take(names).map(|name| shown(name)).collect();
            let more = if pods.len() > names { format!(" and {} more", pods.len() - names) } else { String::new() };
            page.line(
                LineStyle::Plain,
                &format!("  {} {}: {}{more}", shown(namespace), pods.len(), listed.join(", ")),
                6,
            );
        }
    }
    if !preview.input.config_diff.is_empty() {
        page.title("egret.yaml changes; everything here is computed with the new settings, except change windows and signatures");
        page.diff(preview.input.config_diff);
    }
    let nodes = &preview.nodes;
    if nodes.changed > 0 {
        page.title(&format!("Exact changes on {} of {}", nodes.changed, counted(nodes.total, "node")));
    }
    for one in &nodes.shown {
        page.line(LineStyle::Plain, &format!("  {}: {}", words.nodes(one), one.title), 6);
        if !diff {
            continue;
        }
        page.diff(&one.diff);
        if one.cut > 0 {
            page.line(
                LineStyle::Plain,
                &format!("    and {} more; --limit 100 shows them", counted(one.cut, "line")),
                4,
            );
        }
    }
    if !nodes.more.is_empty() {
        page.line(
            LineStyle::Plain,
            &format!("  and {} more, each in its own way", counted(nodes.more.len(), "node")),
            2,
        );
    }
    if !preview.drift.is_empty() {
        page.title("Live drift on the same objects (not of this change)");
    }
    for line in &preview.drift {
        page.line(LineStyle::Plain, &format!("  {}", shown(line)), 6);
    }
}
