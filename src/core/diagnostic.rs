//! Diagnostics: what is wrong with a document, where, and what to do about it.
//!
//! Not here: their output on a terminal or in CI (`cli::diagnostics`).

use std::fmt;

/// Severity of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is not applied; its last good version stays active.
    Error,
    /// The document is applied, but should be reviewed.
    Warning,
}

/// One problem in one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diagnostic {
    /// Path in the repository, separated by `/`.
    pub file: String,
    /// The first byte of the text concerned.
    pub start: SpanPoint,
    /// The byte behind it; equal to `start` if something is missing there.
    pub end: SpanPoint,
    /// Error or warning.
    pub severity: Severity,
    /// A stable code for filters and SARIF: `host-bits`, `unknown-field`.
    pub code: &'static str,
    /// What is wrong, in one sentence, without the location.
    pub message: String,
    /// A short note shown below the text: "/24 leaves no room for the .7". May be empty.
    pub label: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SpanPoint {
    /// Byte offset from the file's start.
    pub offset: usize,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl SpanPoint {
    /// The point at a byte offset of a text; offsets behind its end, or inside a character, are moved back.
    pub fn at(text: &str, offset: usize) -> Self {
        let offset = text.floor_char_boundary(offset);
        let before = &text[..offset];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self { offset, line: before.matches('\n').count() + 1, column: before[start..].chars().count() + 1 }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Diagnostic {
    /// `file:line:column: error: message (hint)` in one line, for logs and reports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}", self.file, self.start.line, self.start.column, self.severity, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}
