//! The content to post to a pull request, independent of the forge.
//!
//! Not here: the forges' formats (see `dialect`), and the text (see `core::preview`).

use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::preview::{Preview, RiskLevel, Sentences, markdown};

/// The conclusion of a preview.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckConclusion {
    /// The preview is being made. No comment is written.
    Pending,
    /// A document has an error, or the preview could not be made.
    Failed,
    /// Something changes.
    Changes,
    /// Nothing changes. No comment is written if none exists.
    NoChanges,
}

/// What to post to a pull request about one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// The cluster: one comment, one status and one check each.
    pub cluster: String,
    /// The comment, with the marker as its first line.
    pub body: String,
    /// The conclusion.
    pub verdict: CheckConclusion,
    /// The title of the check run.
    pub title: String,
    /// One line for the status; truncated to the forge's limit.
    pub summary: String,
    /// The page with details: the CI run's.
    pub details: Option<String>,
    /// Annotations at lines of files, if the forge has check runs.
    pub annotations: Vec<Annotation>,
}

/// The most annotations: two requests. The comment has their total number; a pull request's author must not be able
/// to use up the forge's rate limit for all users.
const MOST_ANNOTATIONS: usize = 100;

impl Post {
    /// The post for a preview.
    pub fn of(preview: &Preview<'_>, details: Option<String>) -> Self {
        let words = Sentences(preview);
        let (validation, cluster) = (preview.input.validation, preview.input.cluster);
        let verdict = match (validation.fails(), preview.changes()) {
            (true, _) => CheckConclusion::Failed,
            (false, true) => CheckConclusion::Changes,
            (false, false) => CheckConclusion::NoChanges,
        };
        let count = preview.risks.iter().filter(|risk| risk.level == RiskLevel::Danger).count();
        let risks = match count {
            0 => String::new(),
            1 => "; 1 danger".to_owned(),
            many => format!("; {many} dangers"),
        };
        Self {
            cluster: cluster.to_owned(),
            body: markdown(preview),
            verdict,
            title: format!("{cluster}: {}", words.verdict()),
            summary: format!("{}{risks} ({})", words.verdict(), words.counts()),
            details,
            annotations: validation.found.iter().take(MOST_ANNOTATIONS).map(|(one, _)| Annotation::from(one)).collect(),
        }
    }
}

/// An annotation at lines of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Path in the repository.
    pub file: String,
    /// The first line, from 1.
    pub line: usize,
    /// The last line.
    pub end_line: usize,
    /// Its severity.
    pub severity: Severity,
    /// The kind of problem.
    pub title: String,
    /// The message.
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
