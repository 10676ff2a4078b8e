//! Escaped text: sentences with names of the world in them, written so that no name can be anything but a name.
//!
//! A preview stands in a forge's comment and a report in a repository, and most words in them come from a repository or a cluster that anybody
//! may have written to. A sentence knows which of its parts are ours; the others are shown, and never obeyed: no mention, no reference, no
//! link, no HTML, no end of a fence or of a table.

use std::fmt;

use super::text::shortened;

/// A sentence. Its `Display` is the plain text, safe for a terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EscapedText(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Our words.
    Words(String),
    /// A name of the world: of a pod, a file, a gateway.
    Name(String),
    /// A sentence that has texts of the world in it.
    Quote(String),
}

impl EscapedText {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds words of ours.
    #[must_use]
    pub fn words(mut self, words: impl Into<String>) -> Self {
        self.0.push(Part::Words(words.into()));
        self
    }

    /// Adds a name of the world.
    #[must_use]
    pub fn name(mut self, name: impl fmt::Display) -> Self {
        self.0.push(Part::Name(name.to_string()));
        self
    }

    /// Adds a sentence with texts of the world in it.
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
        /// So many are told by name.
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

/// A text of the world in one line without anything that a terminal or a page would obey: control characters, and those that turn the
/// direction of writing or take no room (<https://trojansource.codes>).
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

/// A name: as it is where it has nothing but what names are made of, else as [`inert`] has it.
pub fn inert_name(name: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | ' ' | '/' | ',' | '=');
    let short = name.chars().nth(LONGEST).is_none();
    let lower = name.to_ascii_lowercase();
    let word = name.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && name.chars().all(plain);
    if short && word && !lower.contains("www.") && !lower.contains("gh-") { name.to_owned() } else { inert(name) }
}

/// Any text as Markdown that shows exactly this text, in a line or in a cell of a table.
///
/// What CommonMark gives a meaning is escaped. What forges add to it is broken up by a character without width, because they look for it
/// in the text that is left once escapes and entities are resolved: `@name`, `#1`, `!1`, `&1`, `$1`, `%1`, `~label`, `:name:`, `[kind:1]`,
/// `GH-1`, `www.` and `://`.
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

/// Whether a word that a forge would make something of goes through this letter: `:name:`, `://`, `www.`, `GH-1`.
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
            // A time of the day; the only signs with a number for a name are :100: and :1234:.
            let time = word.len() == 2 && word.bytes().all(|letter| letter.is_ascii_digit());
            rest.starts_with("//") || (name.starts_with(':') && !word.is_empty() && !time)
        }
        '.' => ends("www"),
        '-' => ends("gh"),
        _ => false,
    }
}

/// A block whose text nothing in the text can end: the fence is longer than any run of backticks in it. Tabs stay.
pub fn fenced(language: &str, text: &str) -> String {
    /// A longer line of a repository's file says nothing in a comment.
    const LONGEST_LINE: usize = 500;
    let hidden = |letter: char| letter != '\t' && is_hidden(letter);
    let lines: String = text.lines().map(|line| visible(line, LONGEST_LINE, hidden) + "\n").collect();
    let (mut longest, mut run) = (0, 0);
    // Of what is shown: a line may have had a megabyte of them.
    for letter in lines.chars() {
        run = if letter == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}{language}\n{lines}{fence}\n")
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
