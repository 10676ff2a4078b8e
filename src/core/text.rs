//! Text formatting shared by all messages: plurals, lengths, line wrapping, commit ids, URL parts.
//!
//! Not here: escaping untrusted text (see `escape`).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm, wrap};

/// `1 pod`, `2 pods`, `2 policies`, `2 gateways`, `2 addresses`.
pub fn counted(count: usize, noun: &str) -> String {
    let stem = noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'i', 'o', 'u']));
    match (count, stem) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) if noun.ends_with('s') => format!("{count} {noun}es"),
        (_, None) => format!("{count} {noun}s"),
    }
}

/// A text of at most this many characters, the last of which is `…` if something is left out.
pub fn shortened(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The first 12 digits of a commit id, for display: enough to be unique in any repository that Egret will read.
pub fn short_commit(commit: &str) -> &str {
    &commit[..commit.floor_char_boundary(12)]
}

/// A text as one part of a URL's path or query: all but RFC 3986's unreserved characters (2.3) is percent-encoded.
pub fn url_part(text: &str) -> String {
    const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// The names and values of a URL's query, as [`url_part`] has encoded them.
pub fn query_pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(move |pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(move |(name, value)| (decoded(name), decoded(value)))
}

/// A value of a form as a browser sends it in a URL: a space is `+`, and other characters may be percent-encoded. Bytes that are not UTF-8
/// are replaced.
pub fn form_value(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// A line with a newline at the end, broken between words where it is wider than `width` columns. Continuation lines
/// are indented. A word that is too long stays whole, and so does the indentation of the line.
pub fn wrapped(line: &str, indent: usize, width: Option<usize>) -> String {
    let Some(width) = width else { return format!("{line}\n") };
    let text = line.trim_start_matches(' ');
    let (first, rest) = (" ".repeat(line.len() - text.len()), " ".repeat(indent));
    let options = Options::new(width)
        .initial_indent(&first)
        .subsequent_indent(&rest)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    wrap(text, options).iter().flat_map(|line| [line.as_ref(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_counted_in_english() {
        assert_eq!(counted(1, "policy"), "1 policy");
        assert_eq!((counted(0, "pod"), counted(2, "policy")), ("0 pods".to_owned(), "2 policies".to_owned()));
        assert_eq!(counted(2, "gateway"), "2 gateways");
    }

    #[test]
    fn a_text_is_shortened_by_characters_and_a_commit_to_twelve() {
        assert_eq!((shortened("äöü", 3), shortened("äöüß", 3)), ("äöü".to_owned(), "äö…".to_owned()));
        assert_eq!((shortened("", 0), shortened("a", 1)), (String::new(), "a".to_owned()));
        assert_eq!(short_commit("a41c9e2a41c9e2a41c9e2"), "a41c9e2a41c9");
        assert_eq!((short_commit("abc"), short_commit("0123456789aß")), ("abc", "0123456789a"));
    }

    #[test]
    fn whatever_is_not_unreserved_is_escaped_in_a_url() {
        assert_eq!(url_part("mos eisley/ä?"), "mos%20eisley%2F%C3%A4%3F");
        assert_eq!(url_part("aZ0-._~"), "aZ0-._~");
    }

    #[test]
    fn a_value_of_a_form_is_read_as_it_was_typed() {
        assert_eq!(form_value("batuu%2Ftie+1%2B"), "batuu/tie 1+");
        assert_eq!((form_value("%ff"), form_value("50%")), ("\u{fffd}".to_owned(), "50%".to_owned()));
    }

    #[test]
    fn lines_are_broken_between_words_and_never_lose_one() {
        assert_eq!(wrapped("short", 4, Some(100)), "short\n");
        assert_eq!(wrapped("", 4, Some(100)), "\n");
        let words = ["  add     route"].into_iter().chain(std::iter::repeat_n("0123456789", 20)).collect::<Vec<_>>();
        let line = words.join(" ");
        let text = wrapped(&line, 17, Some(100));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        let rejoined: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(rejoined, line.split_whitespace().collect::<Vec<_>>());
        let long = "é".repeat(150);
        assert_eq!(wrapped(&long, 4, Some(100)), format!("{long}\n"));
        assert_eq!(wrapped(&format!("  {long} b"), 4, Some(100)), format!("  {long}\n    b\n"));
    }

    #[test]
    fn without_a_width_a_line_stays_one() {
        let line = "word ".repeat(100);
        assert_eq!(wrapped(&line, 4, None), format!("{line}\n"));
    }

    #[test]
    fn a_letter_of_two_columns_counts_for_two() {
        assert_eq!(wrapped("出口 出口 出口", 2, Some(9)), "出口 出口\n  出口\n");
    }
}
