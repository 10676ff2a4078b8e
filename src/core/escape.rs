//! Escaped text: sentences that contain untrusted names, written so that a name can never act as markup.
//!
//! Previews are posted to forges and reports are committed, and most names in them come from a repository or a
//! cluster that untrusted users may write to. A sentence knows which of its parts are Egret's own text; all others
//! are displayed without any effect: no mention, no reference, no link, no HTML, no end of a code fence or of a
//! table.

use std::fmt::{self, Write};

use super::text::shortened;

/// A sentence. Its `Display` is the plain text, safe for a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EscapedText(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Egret's own text.
    Words(String),
    /// An untrusted name: of a pod, a file, a gateway.
    Name(String),
    /// A sentence that contains untrusted text.
    Quote(String),
}

impl EscapedText {
    /// An empty text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds Egret's own text.
    #[must_use]
    pub fn words(mut self, words: impl Into<String>) -> Self {
        self.0.push(Part::Words(words.into()));
        self
    }

    /// Adds an untrusted name.
    #[must_use]
    pub fn name(mut self, name: impl fmt::Display) -> Self {
        self.0.push(Part::Name(name.to_string()));
        self
    }

    /// Adds a sentence that contains untrusted text.
    #[must_use]
    pub fn quote(mut self, text: impl Into<String>) -> Self {
        self.0.push(Part::Quote(text.into()));
        self
    }

    /// Adds another sentence's parts.
    #[must_use]
    pub fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Adds names, `LISTED` at most, with commas between them.
    #[must_use]
    pub fn names<T: fmt::Display>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        /// The most names in a list.
        const LISTED: usize = 6;
        let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
        for (position, name) in names.iter().take(LISTED).enumerate() {
            if position > 0 {
                self = self.words(", ");
            }
            self = self.name(name);
        }
        if names.len() > LISTED { self.words(format!(" and {} more", names.len() - LISTED)) } else { self }
    }

    /// As Markdown, for a line or a cell of a table.
    pub fn markdown(&self) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Words(words) => words.clone(),
            Part::Name(name) => inert_name(name),
            Part::Quote(text) => inert(text),
        });
        parts.collect()
    }
}

impl fmt::Display for EscapedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Words(text) => f.write_str(text),
            Part::Name(text) | Part::Quote(text) => f.write_str(&shown(text)),
        })
    }
}

/// The longest name or quote that is shown whole, in characters.
const LONGEST: usize = 300;

/// Untrusted text in one line, without anything that a terminal or a page would interpret: control characters, and
/// those that change the direction of writing or are invisible (<https://trojansource.codes>).
pub fn shown(text: &str) -> String {
    visible(text, LONGEST, is_hidden)
}

/// The beginning of a text, with what is hidden written as `\u{…}`.
fn visible(text: &str, longest: usize, hidden: impl Fn(char) -> bool) -> String {
    let mut visible = String::with_capacity(text.len());
    for letter in shortened(text, longest + 1).chars() {
        if hidden(letter) {
            visible.extend(letter.escape_unicode());
        } else {
            visible.push(letter);
        }
    }
    visible
}

fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A name: unchanged if it has only characters that are usual in names, otherwise escaped by [`inert`].
pub fn inert_name(name: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | ' ' | '/' | ',' | '=');
    let short = name.chars().nth(LONGEST).is_none();
    let lower = name.to_ascii_lowercase();
    let word = name.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && name.chars().all(plain);
    if short && word && !lower.contains("www.") && !lower.contains("gh-") { name.to_owned() } else { inert(name) }
}

/// Any text as Markdown that displays exactly this text, in a line or in a cell of a table.
///
/// Characters with a meaning in CommonMark are escaped. The syntax that forges add is broken up by a zero-width
/// character, because forges search for it in the text that is left once escapes and entities are resolved: `@name`,
/// `#1`, `!1`, `&1`, `$1`, `%1`, `~label`, `:name:`, `[kind:1]`, `GH-1`, `www.` and `://`.
pub fn inert(text: &str) -> String {
    const NOTHING: char = '\u{200b}';
    let text = shown(text);
    let mut safe = String::with_capacity(text.len() + 8);
    for (at, letter) in text.char_indices() {
        let rest = &text[at + letter.len_utf8()..];
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' => {
                safe.push('\\');
                safe.push(letter);
            }
            _ => safe.push(letter),
        }
        if matches!(letter, '@' | '#' | '!' | '$' | '%' | '~' | '&' | '[') || breaks(&text[..at], letter, rest) {
            safe.push(NOTHING);
        }
    }
    safe
}

/// Whether forge syntax goes through this character: `:name:`, `://`, `www.`, `GH-1`.
fn breaks(before: &str, letter: char, rest: &str) -> bool {
    let ends = |word: &str| {
        before
            .len()
            .checked_sub(word.len())
            .and_then(|at| before.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(word))
    };
    match letter {
        ':' => {
            let name = rest.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || "_+-".contains(letter));
            let word = &rest[..rest.len() - name.len()];
            // A time of day; the only emoji names that are numbers are :100: and :1234:.
            let time = word.len() == 2 && word.bytes().all(|letter| letter.is_ascii_digit());
            rest.starts_with("//") || (name.starts_with(':') && !word.is_empty() && !time)
        }
        '.' => ends("www"),
        '-' => ends("gh"),
        _ => false,
    }
}

/// A code block that its text cannot end: the fence is longer than any run of backticks in it. Tabs stay.
pub fn fenced(language: &str, text: &str) -> String {
    /// Longer lines of a file are useless in a comment.
    const LONGEST_LINE: usize = 500;
    let hidden = |letter: char| letter != '\t' && is_hidden(letter);
    let lines: String = text.lines().map(|line| visible(line, LONGEST_LINE, hidden) + "\n").collect();
    let (mut longest, mut run) = (0, 0);
    // Count in the shortened text: a line may have had a megabyte of them.
    for letter in lines.chars() {
        run = if letter == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}{language}\n{lines}{fence}\n")
}

/// JSON that is read as YAML: readers of YAML refuse control characters that JSON may have in strings, and take some for
/// ends of lines.
pub fn json_as_yaml(json: &str) -> String {
    let special = |letter: &char| {
        matches!(letter, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        if special(&letter) {
            let _ = write!(text, "\\u{:04x}", u32::from(letter));
        } else {
            text.push(letter);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_stay_as_they_are_and_others_lose_their_power() {
        assert_eq!(inert_name("kind-worker2"), "kind-worker2");
        assert_eq!(inert_name("10.0.4.0/24"), "10.0.4.0/24");
        assert_eq!(inert_name("fd00::1"), "fd00::1");
        assert_eq!(inert_name("2026-06-01T11:56:00Z"), "2026-06-01T11:56:00Z");
        assert_eq!(inert_name("fd00:100::1"), "fd00:\u{200b}100::1");
        assert_eq!(inert_name("www.example.org"), "www.\u{200b}example.org");
        assert_eq!(inert_name("high-1 gh-1"), "high-1 gh-\u{200b}1".replace("high-", "high-\u{200b}"));
        assert_eq!(inert("@everyone see #1"), "@\u{200b}everyone see \\#\u{200b}1");
        assert_eq!(inert("</details><img src=x>"), "&lt;/details&gt;&lt;img src=x&gt;");
        assert_eq!(inert("a|b\n# c"), "a\\|b\\\\u{a}\\#\u{200b} c");
        assert_eq!(inert("https://x.y [x](y)"), "https:\u{200b}//x.y \\[\u{200b}x\\](y)");
        assert_eq!(shown("a\u{202e}b\u{1b}[31m"), "a\\u{202e}b\\u{1b}[31m");
    }

    #[test]
    fn a_fence_is_longer_than_any_in_the_text() {
        assert_eq!(fenced("diff", "a\n"), "```diff\na\n```\n");
        assert_eq!(fenced("text", "````\n@all\n"), "`````text\n````\n@all\n`````\n");
        assert_eq!(fenced("text", "a\rb\u{202e}\tc"), "```text\na\\u{d}b\\u{202e}\tc\n```\n");
    }
}
