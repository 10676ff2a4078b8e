//! Edits a node's labels in the text of its manifest without changing any other byte: comments, order, quoting, line
//! ends, other documents and other items of a list stay.
//!
//! Pure. The parser's exact positions of keys and values determine what to cut; the result is then parsed again and
//! compared, and an edit that would have changed anything else is refused. Two kinds of comments are removed with a
//! label: one in its line, and within braces one between it and its neighbour.
//!
//! Not here: file access (see `manifests::write`). Unusual YAML (anchors, tags, merge keys, block scalars as label
//! values, explicit `? key`) is refused with its line.

mod events;
mod outline;
mod quote;
mod splice;

use std::collections::{BTreeMap, BTreeSet};

use outline::{MetadataEntries, Outline};

use crate::core::labels;
use crate::core::name::NodeName;

/// Why a text was not edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is not YAML.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// The parser's message.
        message: String,
    },
    /// It has no manifest of the node.
    #[error("the file has no manifest of this node")]
    NoSuchNode,
    /// The YAML cannot be edited safely.
    #[error("line {line}: {what}: change these labels by hand")]
    Unusual {
        /// From 1.
        line: usize,
        /// What was found there.
        what: &'static str,
    },
    /// A label to set breaks Kubernetes' rules.
    #[error("`{label}` cannot be set: {rule}")]
    Label {
        /// The key, or the value.
        label: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The edited text, read again, was not the old one with other labels.
    #[error("the edit would have changed more than the labels")]
    NotOnlyLabels,
}

/// Sets and removes labels of one node in a text of manifests: YAML or JSON, with any number of documents and lists.
///
/// A key that is both set and removed is set. Labels that already have the wanted values are not touched; if all
/// have, the text is returned unchanged. If the node is there more than once, the last one is edited: it is the one
/// that counts when facts are read.
pub fn edit_labels(
    text: &str,
    node: &NodeName,
    set: &BTreeMap<String, String>,
    remove: &BTreeSet<String>,
) -> Result<String, EditError> {
    check(set)?;
    let before = Outline::read(text)?;
    let target = before.find(node).ok_or(EditError::NoSuchNode)?;
    let had = before.labels(&target)?;
    let mut wanted = had.clone();
    wanted.retain(|key, _| !remove.contains(key));
    wanted.extend(set.iter().map(|(key, value)| (key.clone(), value.clone())));
    if wanted == had {
        return Ok(text.to_owned());
    }
    let edited = splice::apply(text, splice::splices(&before, &target, &wanted)?)?;
    verify(&before, &target, &edited, node, &wanted)?;
    Ok(edited)
}

fn check(set: &BTreeMap<String, String>) -> Result<(), EditError> {
    for (key, value) in set {
        for (text, error) in [(key, labels::key_error(key)), (value, labels::value_error(value))] {
            if let Some(rule) = error {
                return Err(EditError::Label { label: text.clone(), rule });
            }
        }
    }
    Ok(())
}

/// Parses the edited text again: the labels must be the wanted ones, and everything else the same as before.
fn verify(
    before: &Outline<'_>,
    target: &MetadataEntries,
    edited: &str,
    node: &NodeName,
    wanted: &BTreeMap<String, String>,
) -> Result<(), EditError> {
    // Invalid YAML as a result is an error of the edit, not of the file: its positions would mislead.
    let after = Outline::read(edited).map_err(|_| EditError::NotOnlyLabels)?;
    let found = after.find(node).ok_or(EditError::NotOnlyLabels)?;
    let ours = before.labels_events(target);
    // Where there were no labels, the edit added the key too.
    let theirs = after.labels_events(&found);
    let theirs = if target.labels.is_none() { theirs.start.saturating_sub(1)..theirs.end } else { theirs };
    if before.same_around(&ours, &after, &theirs) && after.labels(&found).as_ref() == Ok(wanted) {
        Ok(())
    } else {
        Err(EditError::NotOnlyLabels)
    }
}

#[cfg(test)]
mod tests;
