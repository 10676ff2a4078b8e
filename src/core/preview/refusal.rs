//! The comment that reports why a change has no preview.

use super::markdown::marker;
use crate::core::escape::{EscapedText, inert_name};

/// The comment for a change that cannot be previewed. It replaces an earlier preview, which would otherwise be taken
/// for one of this head.
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
