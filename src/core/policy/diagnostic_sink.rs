//! Collects the diagnostics of one file with their locations.
//!
//! A reader that finds a mistake reports it and continues, so that all mistakes of a document are reported at once.

use crate::core::diagnostic::{Diagnostic, Severity, SpanPoint};
use crate::core::text::shortened;

/// Maximum number of diagnostics of one file.
pub const MAX_FINDINGS: usize = 200;

/// A range of text, from its first byte to the byte behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    pub start: SpanPoint,
    /// The byte behind it.
    pub end: SpanPoint,
}

impl Span {
    /// The empty span at its beginning: for something that is missing there.
    #[must_use]
    pub fn head(self) -> Self {
        Self { start: self.start, end: self.start }
    }
}

/// The diagnostics of one file.
#[derive(Debug)]
pub struct DiagnosticSink<'f> {
    file: &'f str,
    list: Vec<Diagnostic>,
    errors: usize,
    dropped: usize,
}

/// The diagnostic just reported, to add a label and a hint.
#[derive(Debug)]
pub struct DiagnosticBuilder<'d>(Option<&'d mut Diagnostic>);

#[expect(
    clippy::return_self_not_must_use,
    reason = "the finding is reported already; what is added to it is added in place"
)]
impl DiagnosticBuilder<'_> {
    /// A short note shown below the text.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.0 {
            diagnostic.label = label.into();
        }
        self
    }

    /// What to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.0 {
            diagnostic.hint = Some(hint.into());
        }
        self
    }

    /// What to do about it, if known.
    pub fn hint_if(self, hint: Option<String>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }
}

impl<'f> DiagnosticSink<'f> {
    /// An empty sink for the file with this path.
    pub fn new(file: &'f str) -> Self {
        Self { file, list: Vec::new(), errors: 0, dropped: 0 }
    }

    /// Path of the file in the repository.
    pub fn file(&self) -> &'f str {
        self.file
    }

    /// The number of errors so far, including those beyond [`MAX_FINDINGS`]: a document is good if reading it adds none.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Takes back those warnings that were added after the first `kept` diagnostics and have such codes.
    pub fn drop_warnings(&mut self, kept: usize, takes: impl Fn(&str) -> bool) {
        let added = self.list.split_off(kept.min(self.list.len()));
        self.list.extend(added.into_iter().filter(|one| one.severity != Severity::Warning || !takes(one.code)));
    }

    /// Adds an error: the document is not applied.
    pub fn error(&mut self, span: Span, code: &'static str, message: impl Into<String>) -> DiagnosticBuilder<'_> {
        self.errors += 1;
        self.push(Severity::Error, span, code, message.into())
    }

    /// Adds a warning: the document is applied, but should be reviewed.
    pub fn warning(&mut self, span: Span, code: &'static str, message: impl Into<String>) -> DiagnosticBuilder<'_> {
        self.push(Severity::Warning, span, code, message.into())
    }

    /// Takes over what was found in a part of the file.
    pub fn absorb(&mut self, part: DiagnosticSink<'_>) {
        let room = MAX_FINDINGS.saturating_sub(self.list.len()).min(part.list.len());
        self.errors += part.errors;
        self.dropped += part.dropped + part.list.len() - room;
        self.list.extend(part.list.into_iter().take(room));
    }

    fn push(&mut self, severity: Severity, span: Span, code: &'static str, message: String) -> DiagnosticBuilder<'_> {
        if self.list.len() >= MAX_FINDINGS {
            self.dropped += 1;
            return DiagnosticBuilder(None);
        }
        self.list.push(diagnostic(self.file, severity, span, code, message));
        DiagnosticBuilder(self.list.last_mut())
    }

    /// All diagnostics in file order. Beyond [`MAX_FINDINGS`] a last one has the number of the rest.
    pub fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        if self.dropped > 0 {
            let message = format!("there are {} more findings in this file", self.dropped);
            let place = self.list.last().map_or_else(Span::default, |last| Span { start: last.end, end: last.end });
            self.list.push(diagnostic(self.file, Severity::Error, place, "too-many-findings", message));
        }
        self.list.sort();
        self.list
    }
}

/// A diagnostic without label and hint.
pub fn diagnostic(file: &str, severity: Severity, span: Span, code: &'static str, message: String) -> Diagnostic {
    Diagnostic {
        file: file.to_owned(),
        start: span.start,
        end: span.end,
        severity,
        code,
        message,
        label: String::new(),
        hint: None,
    }
}

/// External text between quotes, truncated where it is too long to read.
pub fn quoted(text: &str) -> String {
    format!("`{}`", shortened(text, 81))
}

/// The candidate nearest to a misspelt word, if one is near enough.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(4).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Whether a word is another one with a slip of a finger at most: a letter too many, too few or wrong, or two exchanged.
pub fn is_slip(word: &str, meant: &str) -> bool {
    word.len() <= meant.len() + 1 && strsim::osa_distance(&word.to_lowercase(), &meant.to_lowercase()) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_candidate_of_a_misspelt_word_is_suggested() {
        let fields = ["excludedCIDRs", "destinationCIDRs", "egressGateway", "egressGateways"];
        assert_eq!(nearest("excludeCIDRs", fields), Some("excludedCIDRs"));
        assert_eq!(nearest("egressgateway", fields), Some("egressGateway"));
        assert_eq!(nearest("banana", fields), None);
        assert_eq!(nearest(&"e".repeat(100_000), fields), None);
    }

    #[test]
    fn findings_beyond_the_limit_are_counted_and_still_make_the_document_bad() {
        let mut findings = DiagnosticSink::new("a.yaml");
        for _ in 0..MAX_FINDINGS + 3 {
            findings.error(Span::default(), "code", "message").label("label").hint("hint");
        }
        assert_eq!(findings.errors(), MAX_FINDINGS + 3);
        let list = findings.into_diagnostics();
        assert_eq!(list.len(), MAX_FINDINGS + 1);
        assert!(list.iter().any(|one| one.message == "there are 3 more findings in this file"));
    }
}
