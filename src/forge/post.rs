//! What is said at a pull request, whatever the forge.
//!
//! Deliberately absent: how it is said to which forge, and the words, which are `core::preview`'s.

use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::preview::{Preview, RiskLevel, Sentences, markdown};

/// What a preview comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckConclusion {
    /// It is being made. No comment is written.
    Pending,
    /// A document has an error, or the preview could not be made.
    Failed,
    /// Something changes.
    Changes,
    /// Nothing changes. No comment is written where there is none of ours.
    NoChanges,
}

/// What is to be said at a pull request about one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// The cluster: one comment, one status and one check each.
    pub cluster: String,
    /// The comment, with the marker as its first line.
    pub body: String,
    /// What it comes to.
    pub verdict: CheckConclusion,
    /// A line for the check run's head.
    pub title: String,
    /// A line for the status; it is cut where the forge takes no more.
    pub summary: String,
    /// Where more is told: the CI run's page.
    pub details: Option<String>,
    /// What is to be said beside lines of files, where the forge has check runs.
    pub annotations: Vec<Annotation>,
}

/// So many words beside lines of files: two requests. The comment tells how many there are; who writes the head must not be able to use up
/// the forge's limit for everybody.
const MOST_ANNOTATIONS: usize = 100;

impl Post {
    /// What a preview says, in the places that a forge has for it.
    pub fn of(preview: &Preview<'_>, details: Option<String>) -> Self {
        let words = Sentences(preview);
        let (validation, cluster) = (preview.input.validation, preview.input.cluster);
        let verdict = match (validation.fails(), preview.changes()) {
            (true, _) => CheckConclusion::Failed,
            (false, true) => CheckConclusion::Changes,
            (false, false) => CheckConclusion::NoChanges,
        };
        let dangers = preview.dangers.iter().filter(|danger| danger.level == RiskLevel::Danger).count();
        let dangers = match dangers {
            0 => String::new(),
            1 => "; 1 danger".to_owned(),
            many => format!("; {many} dangers"),
        };
        Self {
            cluster: cluster.to_owned(),
            body: markdown(preview),
            verdict,
            title: format!("{cluster}: {}", words.verdict()),
            summary: format!("{}{dangers} ({})", words.verdict(), words.counts()),
            details,
            annotations: validation.found.iter().take(MOST_ANNOTATIONS).map(|(one, _)| Annotation::from(one)).collect(),
        }
    }
}

/// A word beside lines of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Path in the repository.
    pub file: String,
    /// The first line, from 1.
    pub line: usize,
    /// The last line.
    pub end_line: usize,
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing it is.
    pub title: String,
    /// What is wrong.
    pub message: String,
}

impl From<&Diagnostic> for Annotation {
    fn from(one: &Diagnostic) -> Self {
        let hint = one.hint.as_ref().map(|hint| format!("\n{hint}")).unwrap_or_default();
        // A span that ends with a line's end ends on that line.
        let end_line =
            if one.end.column <= 1 && one.end.line > one.start.line { one.end.line - 1 } else { one.end.line };
        Self {
            file: one.file.clone(),
            line: one.start.line.max(1),
            end_line: end_line.max(one.start.line).max(1),
            severity: one.severity,
            title: one.code.to_owned(),
            message: format!("{}{hint}", one.message),
        }
    }
}
