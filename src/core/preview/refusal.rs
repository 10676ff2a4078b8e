//! What a comment says where there is no preview.
//!
//! Deliberately absent: what a preview says.

use super::markdown::marker;
use crate::core::escape::{EscapedText, inert_name};

/// The comment of a change that cannot be previewed: it takes the place of an earlier preview, so that nobody takes that for this head's.
pub fn refusal(cluster: &str, head: &str, why: &str) -> String {
    let head = EscapedText::new().words("There is no preview of ").name(head).words(": ").quote(why);
    let cluster_name = inert_name(cluster);
    format!(
        "{}1}} -->\n### Egret · {cluster_name} · not previewed\n\n{}.\n",
        marker(cluster),
        head.markdown().trim_end_matches('.')
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_shown_and_never_obeyed() {
        let text = refusal("prod", "0123abc", "@all: <b>too large</b>");
        let expected = "<!-- egret-preview:{\"cluster\":\"prod\",\"v\":1} -->\n### Egret · prod · not previewed\n\n\
                        There is no preview of 0123abc: @\u{200b}all: &lt;b&gt;too large&lt;/b&gt;.\n";
        assert_eq!(text, expected);
    }
}
