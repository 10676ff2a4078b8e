//! Lines for a terminal: wrapped between words at a width, or not at all where there is none.

use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm, wrap};

/// A line with a newline behind it, broken between words where it is wider than `width` columns. What follows is indented. A word that is
/// too long stays whole, and so do the spaces that a line begins with.
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
