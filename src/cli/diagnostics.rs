//! The forms of diagnostics: excerpts of the text for a terminal, JSON, workflow commands, and the line that counts. The commands choose the
//! form and the colour.

pub(crate) mod sarif;

use std::fmt::Write;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};

use serde::Serialize;

use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::policy::catalogue::DiagnosticCounts;
use crate::core::text::counted;

/// The longest line that is shown whole, in bytes. Of a longer one, as in minified JSON, only the place is named.
const LONGEST_LINE: usize = 400;

/// Whether the text goes to a terminal that shows colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Escape sequences.
    Yes,
    /// Plain text.
    No,
}

/// Writes each diagnostic with the lines it is about. `text_of` gives a file's text; a file without one is only named.
pub fn write_text<'t>(
    out: &mut impl std::io::Write,
    diagnostics: &[Diagnostic],
    text_of: impl Fn(&str) -> Option<&'t str>,
    colour: Colour,
) -> std::io::Result<()> {
    let renderer = match colour {
        Colour::Yes => Renderer::styled(),
        Colour::No => Renderer::plain(),
    };
    let renderer = renderer.decor_style(DecorStyle::Unicode);
    for diagnostic in diagnostics {
        let group = group(diagnostic, text_of(&diagnostic.file));
        writeln!(out, "{}", renderer.render(&[group]))?;
    }
    Ok(())
}

fn group<'d>(diagnostic: &'d Diagnostic, text: Option<&'d str>) -> Group<'d> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    // Messages quote what stands in a repository: its control characters must not reach a terminal.
    let title = level.primary_title(normalize_untrusted_str(&diagnostic.message));
    let path = normalize_untrusted_str(&diagnostic.file);
    let group = match text.and_then(|text| excerpt(text, diagnostic)) {
        Some(Excerpt { lines, first_line, span }) => {
            let mut annotation = AnnotationKind::Primary.span(span);
            if !diagnostic.label.is_empty() {
                annotation = annotation.label(normalize_untrusted_str(&diagnostic.label));
            }
            title.element(Snippet::source(lines).line_start(first_line).path(path).annotation(annotation))
        }
        None if diagnostic.start.line == 0 => title.element(Origin::path(path)),
        None => title.element(Origin::path(path).line(diagnostic.start.line).char_column(diagnostic.start.column)),
    };
    match &diagnostic.hint {
        Some(hint) => group.element(Level::HELP.with_name("hint").message(normalize_untrusted_str(hint))),
        None => group,
    }
}

/// The part of a text that a diagnostic shows.
struct Excerpt<'t> {
    lines: &'t str,
    first_line: usize,
    /// In `lines`.
    span: std::ops::Range<usize>,
}

/// The line that a diagnostic begins on; a span over several lines is cut at its end. `None` if the text is not the one that
/// the diagnostic was made from, or there is nothing to show.
fn excerpt<'t>(text: &'t str, diagnostic: &Diagnostic) -> Option<Excerpt<'t>> {
    let at = diagnostic.start.offset;
    if diagnostic.start.line == 0 {
        return None;
    }
    let (before, after) = text.split_at_checked(at)?;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    // The byte order mark is no character of the first line.
    let start = if text[start..].starts_with('\u{feff}') { (start + '\u{feff}'.len_utf8()).min(at) } else { start };
    let end = at + after.find(['\n', '\r']).unwrap_or(after.len());
    if end - start > LONGEST_LINE {
        return None;
    }
    let until = text.floor_char_boundary(diagnostic.end.offset.clamp(at, end));
    Some(Excerpt { lines: &text[start..end], first_line: diagnostic.start.line, span: at - start..until - start })
}

/// A diagnostic in JSON. Lines and columns count from 1; 0 is "the whole file".
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DiagnosticJson<'d> {
    file: &'d str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
    severity: Severity,
    code: &'static str,
    message: &'d str,
    label: &'d str,
    hint: Option<&'d str>,
}

impl<'d> From<&'d Diagnostic> for DiagnosticJson<'d> {
    fn from(diagnostic: &'d Diagnostic) -> Self {
        let Diagnostic { file, start, end, severity, code, message, label, hint } = diagnostic;
        Self {
            file,
            line: start.line,
            column: start.column,
            end_line: end.line,
            end_column: end.column,
            severity: *severity,
            code,
            message,
            label,
            hint: hint.as_deref(),
        }
    }
}

/// The diagnostics as GitHub's workflow commands, one a line: annotations in the files of a pull request.
/// <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>
pub fn to_github(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(github_line).collect()
}

fn github_line(diagnostic: &Diagnostic) -> String {
    let Diagnostic { file, start, end, severity, code, message, label, hint } = diagnostic;
    let mut place = format!("file={}", github_property(file));
    if start.line > 0 {
        let _ = write!(place, ",line={},endLine={}", start.line, end.line.max(start.line));
        // GitHub shows columns only of one line, and its last one is that of the last character.
        if end.line == start.line {
            let last = end.column.saturating_sub(1).max(start.column);
            let _ = write!(place, ",col={},endColumn={last}", start.column);
        }
    }
    let mut text = message.clone();
    if !label.is_empty() {
        let _ = write!(text, " ({label})");
    }
    if let Some(hint) = hint {
        let _ = write!(text, "\nhint: {hint}");
    }
    format!("::{severity} {place},title={}::{}\n", github_property(code), github_data(&text))
}

/// What stands behind `::`, escaped as GitHub's own toolkit does (`escapeData` in actions/toolkit, packages/core/src/command.ts).
fn github_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// What stands behind `=` (`escapeProperty`, there).
fn github_property(text: &str) -> String {
    github_data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The last line of a validation: `2 errors, 1 warning in 2 of 41 documents; the other 39 are fine`.
pub fn summary(tally: DiagnosticCounts) -> String {
    let DiagnosticCounts { errors, warnings, touched, documents } = tally;
    let all = counted(documents, "document");
    if errors + warnings == 0 {
        return match documents {
            0 => "there is no document".to_owned(),
            1 => format!("{all} is fine"),
            _ => format!("{all} are fine"),
        };
    }
    let parts = [(errors, "error"), (warnings, "warning")].into_iter().filter(|(count, _)| *count > 0);
    let found = parts.map(|(count, word)| counted(count, word)).collect::<Vec<_>>().join(", ");
    match documents.saturating_sub(touched) {
        0 => format!("{found} in {all}"),
        1 => format!("{found} in {touched} of {all}; the other one is fine"),
        rest => format!("{found} in {touched} of {all}; the other {rest} are fine"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::diagnostic::SpanPoint;

    const TEXT: &str = "spec:\n  destinationCIDRs:\n  - 10.0.4.7/24\n";

    fn host_bits(text: &str) -> Diagnostic {
        let at = text.find("10.0").unwrap();
        Diagnostic {
            file: "policies/outpost.yaml".to_owned(),
            start: SpanPoint::at(text, at),
            end: SpanPoint::at(text, at + "10.0.4.7/24".len()),
            severity: Severity::Error,
            code: "host-bits",
            message: "a destination has host bits set".to_owned(),
            label: "/24 leaves no room for the .7".to_owned(),
            hint: Some("10.0.4.0/24 for the network, 10.0.4.7/32 for the host".to_owned()),
        }
    }

    fn rendered(diagnostic: &Diagnostic, text: Option<&str>) -> String {
        let mut bytes = Vec::new();
        write_text(&mut bytes, std::slice::from_ref(diagnostic), |_| text, Colour::No).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_error_shows_its_line_the_text_and_a_hint() {
        let expected = "\
error: a destination has host bits set
  ╭▸ policies/outpost.yaml:3:5
  │
3 │   - 10.0.4.7/24
  │     ━━━━━━━━━━━ /24 leaves no room for the .7
  │
  ╰ hint: 10.0.4.0/24 for the network, 10.0.4.7/32 for the host
";
        assert_eq!(rendered(&host_bits(TEXT), Some(TEXT)), expected);
    }

    #[test]
    fn without_its_text_or_on_a_very_long_line_the_place_is_named() {
        let expected = "\
error: a destination has host bits set
 ╭▸ policies/outpost.yaml:3:5
 ╰ hint: 10.0.4.0/24 for the network, 10.0.4.7/32 for the host
";
        assert_eq!(rendered(&host_bits(TEXT), None), expected);
        let long = TEXT.replace("10.0.4.7/24", &format!("10.0.4.7/24{}", " ".repeat(LONGEST_LINE)));
        assert_eq!(rendered(&host_bits(TEXT), Some(&long)), expected);
    }

    #[test]
    fn control_characters_of_a_repository_never_reach_the_terminal() {
        let text = TEXT.replace("10.0.4.7/24", "10.0.4.7/24\u{1b}[31m");
        let mut diagnostic = host_bits(&text);
        diagnostic.message = "`\u{1b}]0;title\u{7}` is no CIDR".to_owned();
        diagnostic.hint = Some("\u{1b}[2J".to_owned());
        assert!(!rendered(&diagnostic, Some(&text)).contains(['\u{1b}', '\u{7}']));
        assert!(!rendered(&diagnostic, None).contains(['\u{1b}', '\u{7}']));
    }

    #[test]
    fn any_place_in_any_text_is_rendered_without_a_panic() {
        bolero::check!().with_type::<(String, u16, u16)>().for_each(|(text, start, end)| {
            let start = SpanPoint::at(text, usize::from(*start));
            let end = SpanPoint::at(text, usize::from(*end));
            let diagnostic = Diagnostic { start: start.min(end), end: start.max(end), ..host_bits(TEXT) };
            rendered(&diagnostic, Some(text));
            let of_another_text = Diagnostic { start: end, end: start, ..diagnostic };
            rendered(&of_another_text, Some(&text[end.offset..]));
        });
    }

    #[test]
    fn a_span_over_several_lines_shows_its_first() {
        let mut diagnostic = host_bits(TEXT);
        diagnostic.start = SpanPoint::at(TEXT, 0);
        diagnostic.label = String::new();
        diagnostic.hint = None;
        let expected = "\
error: a destination has host bits set
  ╭▸ policies/outpost.yaml:1:1
  │
1 │ spec:
  ╰╴━━━━━
";
        assert_eq!(rendered(&diagnostic, Some(TEXT)), expected);
    }

    #[test]
    fn json_has_stable_names() {
        let expected = serde_json::json!({
            "file": "policies/outpost.yaml", "line": 3, "column": 5, "endLine": 3, "endColumn": 16,
            "severity": "error", "code": "host-bits", "message": "a destination has host bits set",
            "label": "/24 leaves no room for the .7", "hint": "10.0.4.0/24 for the network, 10.0.4.7/32 for the host",
        });
        assert_eq!(serde_json::to_value(DiagnosticJson::from(&host_bits(TEXT))).unwrap(), expected);
    }

    #[test]
    fn githubs_workflow_commands_have_everything_escaped_that_would_end_them() {
        let mut diagnostic = host_bits(TEXT);
        let expected = "::error file=policies/outpost.yaml,line=3,endLine=3,col=5,endColumn=15,title=host-bits::a destination \
                        has host bits set (/24 leaves no room for the .7)%0Ahint: 10.0.4.0/24 for the network, \
                        10.0.4.7/32 for the host\n";
        assert_eq!(to_github(std::slice::from_ref(&diagnostic)), expected);
        diagnostic.file = "a,b:100%\n::error::.yaml".to_owned();
        diagnostic.message = "100%\r\n::stop-commands::x".to_owned();
        diagnostic.severity = Severity::Warning;
        (diagnostic.label, diagnostic.hint) = (String::new(), None);
        (diagnostic.start, diagnostic.end) = (SpanPoint::default(), SpanPoint::default());
        let expected =
            "::warning file=a%2Cb%3A100%25%0A%3A%3Aerror%3A%3A.yaml,title=host-bits::100%25%0D%0A::stop-commands::x\n";
        assert_eq!(to_github(&[diagnostic]), expected);
    }

    #[test]
    fn the_last_line_counts() {
        let tally = |errors, warnings, touched, documents| DiagnosticCounts { errors, warnings, touched, documents };
        for (tally, expected) in [
            (tally(2, 1, 2, 41), "2 errors, 1 warning in 2 of 41 documents; the other 39 are fine"),
            (tally(0, 1, 1, 2), "1 warning in 1 of 2 documents; the other one is fine"),
            (tally(1, 0, 1, 1), "1 error in 1 document"),
            (tally(0, 0, 0, 3), "3 documents are fine"),
            (tally(0, 0, 0, 1), "1 document is fine"),
            (tally(0, 0, 0, 0), "there is no document"),
        ] {
            assert_eq!(summary(tally), expected);
        }
    }
}
