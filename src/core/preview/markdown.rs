//! Renders a preview as a comment on a pull request.
//!
//! The comment always fits the forge's limit: if the whole is too long, sections are shortened, the least important
//! first, and the comment says what it leaves out. Only [`markdown`] checks the length. The output has no HTML around
//! text from a repository or cluster, no times and no run numbers: the same preview is the same comment, so that it
//! is not posted twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::diagram::diagram;
use super::risks::{Risk, RiskLevel};
use super::sentences::Sentences;
use super::{GatewayFailure, Move, Preview};
use crate::core::diagnostic::Diagnostic;
use crate::core::escape::{EscapedText, fenced, inert, inert_name};
use crate::core::facts::PodName;
use crate::core::name::NodeName;
use crate::core::text::counted;

/// The level of detail of one attempt.
#[derive(Debug, Clone, Copy)]
struct Detail {
    /// Exact changes; otherwise only the nodes' titles.
    diffs: bool,
    /// The number of nodes that are named.
    nodes: usize,
    /// Pods by name.
    pods: bool,
    /// The diagram.
    diagram: bool,
    /// Rows of a table or a list.
    rows: usize,
}

/// From full detail to counts only.
const LADDER: [Detail; 6] = [
    Detail { diffs: true, nodes: 100, pods: true, diagram: true, rows: 50 },
    Detail { diffs: false, nodes: 100, pods: true, diagram: true, rows: 50 },
    Detail { diffs: false, nodes: 20, pods: false, diagram: true, rows: 50 },
    Detail { diffs: false, nodes: 20, pods: false, diagram: false, rows: 20 },
    Detail { diffs: false, nodes: 0, pods: false, diagram: false, rows: 8 },
    Detail { diffs: false, nodes: 0, pods: false, diagram: false, rows: 0 },
];

/// The comment, with as much detail as fits.
pub fn markdown(preview: &Preview<'_>) -> String {
    let limit = preview.input.limits.comment;
    for (rung, detail) in LADDER.into_iter().enumerate() {
        let comment = Comment { preview, words: Sentences(preview), detail, whole: rung == 0 }.text();
        if comment.len() <= limit {
            return comment;
        }
    }
    let [.., detail] = LADDER;
    Comment { preview, words: Sentences(preview), detail, whole: false }.cut(limit)
}

/// A function that writes one section.
type Section<'p> = fn(&Comment<'p>, &mut String);

struct Comment<'p> {
    preview: &'p Preview<'p>,
    words: Sentences<'p>,
    detail: Detail,
    whole: bool,
}

impl<'p> Comment<'p> {
    fn text(&self) -> String {
        let mut text = String::new();
        self.head(&mut text);
        self.validation(&mut text);
        self.moves(&mut text);
        self.risks(&mut text);
        self.gateway_failures(&mut text);
        self.diagram(&mut text);
        self.config(&mut text);
        self.nodes(&mut text);
        self.pods(&mut text);
        self.drift(&mut text);
        self.foot(&mut text);
        text
    }

    fn head(&self, text: &mut String) {
        let cluster = self.preview.input.cluster;
        let _ = writeln!(text, "{}1}} -->", marker(cluster));
        let sign = match self.words.level() {
            Some(RiskLevel::Danger) => "⛔ ",
            Some(RiskLevel::Warning) => "⚠️ ",
            Some(RiskLevel::Waits) => "🕑 ",
            Some(RiskLevel::Note) | None => "",
        };
        let _ = writeln!(text, "### Egret · {} · {sign}{}\n", inert_name(cluster), self.words.verdict());
        let subtitle: Vec<String> = self.words.subtitle().iter().map(EscapedText::markdown).collect();
        let _ = writeln!(text, "{}  \n{}", subtitle.join(" · "), self.words.counts());
    }

    /// The fallback below the ladder, where names and texts from the repository or cluster alone are too long: whole
    /// sections are replaced by two or three words, the least important first. What remains has a few names of
    /// bounded length and no list that a repository or cluster can grow: it is far shorter than every forge's limit.
    fn cut(&self, limit: usize) -> String {
        let sections: [(Section<'p>, Section<'p>); 5] = [
            (Self::validation, Self::validation_in_short),
            (Self::risks, Self::risks_in_short),
            (Self::moves, |_, _| {}),
            (Self::gateway_failures, |_, _| {}),
            (Self::config, |_, _| {}),
        ];
        let render = |whole: &BTreeSet<usize>| {
            let mut text = String::new();
            self.head(&mut text);
            for (position, (long, short)) in sections.iter().enumerate() {
                (if whole.contains(&position) { long } else { short })(self, &mut text);
            }
            self.foot(&mut text);
            text
        };
        let mut whole = BTreeSet::new();
        for position in 0..sections.len() {
            whole.insert(position);
            if render(&whole).len() > limit {
                whole.remove(&position);
            }
        }
        render(&whole)
    }

    fn validation_in_short(&self, text: &mut String) {
        let [documents, asserted] = self.preview.input.validation.errors();
        for (title, errors) in [("An assertion fails", asserted), ("It does not validate", documents)] {
            if !errors.is_empty() {
                let _ = writeln!(text, "\n**{title}**: {}", counted(errors.len(), "error"));
            }
        }
    }

    fn risks_in_short(&self, text: &mut String) {
        let risks: Vec<&Risk> = self.preview.risks.iter().collect();
        if !risks.is_empty() {
            let _ = writeln!(text, "\n**Look at this before you merge**: {}", kinds(&risks));
        }
    }

    fn validation(&self, text: &mut String) {
        let validation = self.preview.input.validation;
        let [documents, asserted] = validation.errors();
        let fails_only_assertions = documents.is_empty();
        for (title, errors) in [("An assertion fails", asserted), ("It does not validate", documents)] {
            if errors.is_empty() {
                continue;
            }
            let line = |(one, known): &(Diagnostic, bool)| {
                format!("{one}{}", if *known { " [not of this change]" } else { "" })
            };
            let lines: Vec<String> = errors.into_iter().map(line).collect();
            let _ = writeln!(text, "\n**{title}**\n");
            let shown = lines.len().min(self.detail.rows.max(3));
            text.push_str(&fenced("text", &lines[..shown].join("\n")));
            if lines.len() > shown {
                let _ = writeln!(text, "\nand {} more; `egret validate` lists them all", lines.len() - shown);
            }
        }
        if fails_only_assertions {
            return;
        }
        if !validation.held.is_empty() {
            let held = validation.held.iter().map(|held| format!("{} ({})", held.identity, held.path));
            let phrase = EscapedText::new()
                .words("If it is merged all the same, these stay active as they were before, and the rest is applied: ")
                .names(held)
                .words(". Git and the cluster then differ");
            let _ = writeln!(text, "\n{}.", phrase.markdown());
        }
    }

    fn moves(&self, text: &mut String) {
        let moves = &self.preview.moves;
        if moves.is_empty() {
            return;
        }
        if self.detail.rows > 0 {
            text.push_str(
                "\n| namespace · policy | address now | address after | pods | towards |\n|---|---|---|---:|---|\n",
            );
        }
        for one in moves.iter().take(self.detail.rows) {
            let [from, to, towards] = self.words.exits(one).map(|phrase| phrase.markdown());
            let who = format!("**{}** · {}", inert_name(&one.namespace), self.words.deciding(one).markdown());
            let _ = writeln!(text, "| {who} | {from} | **{to}** | {} | {towards} |", one.pods.len());
        }
        self.left_out(text, moves.len(), moves[self.detail.rows.min(moves.len())..].iter().flat_map(|one| &one.pods));
        for remark in self.words.remarks() {
            let _ = writeln!(text, "\n{remark}");
        }
        if let Some(connections) = self.words.connections() {
            let _ = writeln!(text, "\n{}", connections.markdown());
        }
    }

    fn left_out<'m>(&self, text: &mut String, rows: usize, pods: impl Iterator<Item = &'m PodName>) {
        if rows > self.detail.rows {
            let pods = pods.collect::<BTreeSet<_>>().len();
            let _ =
                writeln!(text, "\nand {} more with {}", counted(rows - self.detail.rows, "row"), counted(pods, "pod"));
        }
    }

    fn risks(&self, text: &mut String) {
        let risks = &self.preview.risks;
        if risks.is_empty() {
            return;
        }
        text.push_str("\n**Look at this before you merge**\n\n");
        let shown = risks.len().min(self.detail.rows.max(5));
        // When the change becomes active is never left out.
        let (waits, rest): (Vec<&Risk>, Vec<&Risk>) =
            risks[shown..].iter().partition(|risk| risk.level == RiskLevel::Waits);
        for Risk { level, title, text: phrase, .. } in risks[..shown].iter().chain(waits) {
            let sign = match level {
                RiskLevel::Danger => "⛔",
                RiskLevel::Warning => "⚠️",
                RiskLevel::Note => "ℹ️",
                RiskLevel::Waits => "🕑",
            };
            let _ = writeln!(text, "- {sign} **{title}:** {}", phrase.markdown());
        }
        if !rest.is_empty() {
            let _ = writeln!(text, "- and {} more: {}", rest.len(), kinds(&rest));
        }
    }

    fn gateway_failures(&self, text: &mut String) {
        let failures = &self.preview.gateway_failures;
        if failures.is_empty() {
            return;
        }
        text.push_str("\n**If a gateway dies after this change**\n\n");
        let mut gateways: BTreeMap<&NodeName, Vec<&GatewayFailure>> = BTreeMap::new();
        for failure in failures {
            gateways.entry(&failure.gateway).or_default().push(failure);
        }
        let all = gateways.len() + self.preview.losses_left_out;
        let mut shown = 0;
        for (gateway, failures) in gateways.into_iter().take(self.detail.rows.max(3)) {
            const POLICIES: usize = 5;
            shown += 1;
            let sentences: Vec<String> =
                failures.iter().take(POLICIES).map(|failure| self.words.gateway_failure(failure).markdown()).collect();
            let more = failures.len().saturating_sub(POLICIES);
            let more = if more > 0 { format!("; and {more} more policies") } else { String::new() };
            let _ = writeln!(text, "- {}: {}{more}", inert_name(gateway.as_str()), sentences.join("; "));
        }
        if all > shown {
            let _ = writeln!(text, "- and {} more", counted(all - shown, "gateway"));
        }
    }

    fn diagram(&self, text: &mut String) {
        if let Some(diagram) = diagram(&self.preview.input, &self.preview.moves).filter(|_| self.detail.diagram) {
            let _ = write!(text, "\n{}", fenced("mermaid", &diagram));
        }
    }

    fn config(&self, text: &mut String) {
        let diff = self.preview.input.config_diff;
        if diff.is_empty() {
            return;
        }
        let shown: Vec<&str> = diff.lines().take(self.preview.input.limits.lines).collect();
        text.push_str("\n⚠️ **`egret.yaml` changes.** Everything here is computed with the new settings; of change windows and signatures the active ones apply.\n");
        if self.detail.rows > 0 {
            let _ = write!(
                text,
                "\n<details><summary>egret.yaml</summary>\n\n{}\n</details>\n",
                fenced("diff", &shown.join("\n"))
            );
        }
    }

    fn nodes(&self, text: &mut String) {
        let nodes = &self.preview.nodes;
        if nodes.changed == 0 || self.detail.nodes == 0 {
            return;
        }
        let total = nodes.total;
        let _ = write!(
            text,
            "\n<details><summary>Exact changes on {} of {}</summary>\n",
            nodes.changed,
            counted(total, "node")
        );
        for one in nodes.shown.iter().take(self.detail.nodes) {
            let _ = writeln!(text, "\n**{}**: {}", self.words.nodes(one).markdown(), one.title.markdown());
            if self.detail.diffs {
                let _ = write!(text, "\n{}", fenced("diff", &one.diff));
                if one.cut > 0 {
                    let _ = writeln!(
                        text,
                        "\nand {} more; the command at the end shows them with `--limit 100`",
                        counted(one.cut, "line")
                    );
                }
            }
        }
        if !nodes.more.is_empty() {
            let phrase = EscapedText::new().words("Each in its own way: ").names(&nodes.more);
            let _ = writeln!(text, "\n{}", phrase.markdown());
        }
        text.push_str(
            "\nNumbers of exits (`exit_1`, mark `0x1`, table 9001) are examples: a real node may count otherwise. What open connections \
             still use goes up to 10 minutes after the rest.\n\n</details>\n",
        );
    }

    fn pods(&self, text: &mut String) {
        let by_namespace = by_namespace(&self.preview.moves);
        if by_namespace.is_empty() || !self.detail.pods {
            return;
        }
        let _ =
            write!(text, "\n<details><summary>Pods that change, by namespace ({})</summary>\n\n", self.preview.moved);
        let names = self.preview.input.limits.names;
        for (namespace, pods) in by_namespace.iter().take(self.detail.rows) {
            let listed: Vec<String> = pods.iter().take(names).map(|name| inert(name)).collect();
            let more = if pods.len() > names { format!(" and {} more", pods.len() - names) } else { String::new() };
            let _ = writeln!(text, "- **{}** {}: {}{more}", inert_name(namespace), pods.len(), listed.join(", "));
        }
        if by_namespace.len() > self.detail.rows {
            let _ = writeln!(text, "- and {} more", counted(by_namespace.len() - self.detail.rows, "namespace"));
        }
        text.push_str("\n</details>\n");
    }

    fn drift(&self, text: &mut String) {
        let drift = &self.preview.drift;
        if drift.is_empty() || !self.detail.pods {
            return;
        }
        text.push_str("\n<details><summary>Live drift on the same objects (not of this change)</summary>\n\n");
        for line in drift.iter().take(self.detail.rows) {
            let _ = writeln!(text, "- {}", inert(line));
        }
        text.push_str("\n</details>\n");
    }

    fn foot(&self, text: &mut String) {
        let (base, head) = self.preview.input.commits;
        let cluster = self.preview.input.cluster;
        text.push('\n');
        if !self.whole {
            text.push_str("Shortened to fit into a comment; the command below shows everything.\n\n");
        }
        let plain = |word: &str| word.chars().all(|letter| letter.is_ascii_alphanumeric() || ".-_/".contains(letter));
        if [base, head, cluster].into_iter().all(plain) {
            let _ = writeln!(
                text,
                "<sub>The same on your machine, in a clone with both commits and the reports branch: `egret preview --base {base} --head {head} --cluster-name {cluster}`</sub>"
            );
        }
    }
}

/// `Address missing 2, Firewall 1`
fn kinds(risks: &[&Risk]) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for risk in risks {
        *kinds.entry(risk.title).or_default() += 1;
    }
    let kinds: Vec<String> = kinds.iter().map(|(title, count)| format!("{title} {count}")).collect();
    kinds.join(", ")
}

/// Pod names by namespace.
pub(super) fn by_namespace(moves: &[Move]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut by_namespace: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for pod in moves.iter().flat_map(|one| &one.pods) {
        by_namespace.entry(&pod.namespace).or_default().insert(&pod.name);
    }
    by_namespace
}

/// The first characters of a comment on this cluster, in every version of Egret: `<!--
/// egret-preview:{"cluster":"prod","v":`.
pub fn marker(cluster: &str) -> String {
    format!("<!-- egret-preview:{{\"cluster\":\"{}\",\"v\":", marker_name(cluster))
}

/// The name was validated already; characters with a meaning in JSON or HTML are removed all the same.
fn marker_name(cluster: &str) -> String {
    cluster.chars().filter(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_')).collect()
}
