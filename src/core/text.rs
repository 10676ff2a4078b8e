//! Rules of text that messages of every kind share: numbers of things, lengths, names of commits, parts of URLs.
//!
//! Deliberately absent: making texts of others harmless (`escape`).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// `1 pod`, `2 pods`, `2 policies`, `2 gateways`.
pub fn counted(count: usize, noun: &str) -> String {
    let stem = noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'i', 'o', 'u']));
    match (count, stem) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

/// A text of so many characters at most, the last of which is `…` where something is left out.
pub fn shortened(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// The first 12 digits of a commit's name, for people: enough to be the only one in any repository that Egret will read.
pub fn short_commit(commit: &str) -> &str {
    &commit[..commit.floor_char_boundary(12)]
}

/// A text as one part of a URL's path or query: all but RFC 3986's unreserved characters (2.3) is percent-encoded.
pub fn url_part(text: &str) -> String {
    const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, &RESERVED).to_string()
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
}
