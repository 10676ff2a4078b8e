//! A small picture of who leaves through what, in Mermaid: dotted what is now, thick what will be.
//!
//! Forges draw so much and no more: Gitea stops at 5,000 characters of source, GitHub at 50,000 characters or 500 edges. A picture that is
//! larger than a glance shows nothing, so there is none. Where packets are bound for stands on the arrows: ways of
//! different pods must not seem to meet. Deliberately absent: what does not change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::named::towards;
use super::sentences::way;
use super::{Move, PreviewInput};
use crate::core::text::counted;

/// More arrows are no picture.
const MOST_MOVES: usize = 8;
/// Below the least that a forge draws.
const MOST_BYTES: usize = 4_500;

/// The picture; none where there is nothing to draw, or too much.
pub(super) fn picture(input: &PreviewInput<'_>, moves: &[Move]) -> Option<String> {
    // One move is one row of the table.
    if moves.len() < 2 || moves.len() > MOST_MOVES {
        return None;
    }
    let mut picture = Picture::default();
    let mut edges: BTreeSet<String> = BTreeSet::new();
    for one in moves {
        let pods = format!("{} · {} · {}", one.namespace, one.policy, counted(one.pods.len(), "pod"));
        let (who, from) =
            (picture.node("p", &pods), picture.node("w", &way(input, &one.from, &one.towards).to_string()));
        let to = picture.node("w", &way(input, &one.to, &one.towards).to_string());
        let towards = drawn(&towards(&one.towards).to_string());
        edges.insert(format!("  {who} -.->|\"now: {towards}\"| {from}"));
        edges.insert(format!("  {who} ==>|\"after: {towards}\"| {to}"));
    }
    let mut text = "flowchart LR\n".to_owned();
    for (name, (_, label)) in &picture.labels {
        let _ = writeln!(text, "  {name}[\"{label}\"]");
    }
    text.extend(edges.into_iter().map(|edge| edge + "\n"));
    (text.len() <= MOST_BYTES).then_some(text)
}

#[derive(Default)]
struct Picture {
    /// A node's kind and text, by the name it has in the source.
    labels: BTreeMap<String, (&'static str, String)>,
}

impl Picture {
    /// The name of a node with this text.
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

/// A text that Mermaid has no other meaning for.
fn drawn(text: &str) -> String {
    /// A longer label makes the others unreadable.
    const LONGEST: usize = 80;
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() || " .,:/-·=".contains(letter) { letter } else { '?' }
    };
    text.chars().take(LONGEST).map(plain).collect()
}
