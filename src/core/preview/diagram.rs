//! The Mermaid diagram of a preview: which pods leave through which exit, dotted for now, thick for after the change.
//!
//! Forges limit diagrams: Gitea stops at 5,000 characters of source, GitHub at 50,000 characters or 500 edges. A
//! diagram that is too large to take in at a glance is left out, as is everything that does not change. The
//! destinations are on the arrows, so that paths of different pods do not seem to meet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::named::towards;
use super::sentences::way;
use super::{Move, PreviewInput};
use crate::core::text::counted;

/// With more arrows the diagram is unreadable.
const MOST_MOVES: usize = 8;
/// Below the smallest limit of any forge.
const MOST_BYTES: usize = 4_500;

/// The diagram; none if there is nothing to draw, or too much.
pub(super) fn diagram(input: &PreviewInput<'_>, moves: &[Move]) -> Option<String> {
    // A single move is one row of the table already.
    if moves.len() < 2 || moves.len() > MOST_MOVES {
        return None;
    }
    let mut diagram = Diagram::default();
    let mut edges: BTreeSet<String> = BTreeSet::new();
    for one in moves {
        let pods = format!("{} · {} · {}", one.namespace, one.policy, counted(one.pods.len(), "pod"));
        let (who, from) =
            (diagram.node("p", &pods), diagram.node("w", &way(input, &one.from, &one.towards).to_string()));
        let to = diagram.node("w", &way(input, &one.to, &one.towards).to_string());
        let towards = drawn(&towards(&one.towards).to_string());
        edges.insert(format!("  {who} -.->|\"now: {towards}\"| {from}"));
        edges.insert(format!("  {who} ==>|\"after: {towards}\"| {to}"));
    }
    let mut text = "flowchart LR\n".to_owned();
    for (name, (_, label)) in &diagram.labels {
        let _ = writeln!(text, "  {name}[\"{label}\"]");
    }
    text.extend(edges.into_iter().map(|edge| edge + "\n"));
    (text.len() <= MOST_BYTES).then_some(text)
}

#[derive(Default)]
struct Diagram {
    /// A node's kind and text, by its name in the source.
    labels: BTreeMap<String, (&'static str, String)>,
}

impl Diagram {
    /// The name of the node with this text.
    fn node(&mut self, kind: &'static str, text: &str) -> String {
        let label = (kind, drawn(text));
        if let Some((name, _)) = self.labels.iter().find(|(_, known)| **known == label) {
            return name.clone();
        }
        let name = format!("{kind}{}", self.labels.len());
        self.labels.insert(name.clone(), label);
        name
    }
}

/// A text without characters that have a meaning in Mermaid.
fn drawn(text: &str) -> String {
    /// A longer label makes the others unreadable.
    const LONGEST: usize = 80;
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() || " .,:/-·=".contains(letter) { letter } else { '?' }
    };
    text.chars().take(LONGEST).map(plain).collect()
}
