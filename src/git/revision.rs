//! Revisions: `main`, `v1.2`, `HEAD~3`, a full or abbreviated id.
//!
//! The rest of gitrevisions(7) is not supported: `:/regex`, `@{date}` and the like reach parsers of libgit2 that had vulnerabilities
//! (CVE-2024-24575: an endless loop in `git_revparse_single`), and text from a pull request must never get there.

use git2::Reference;

use super::commit::CommitId;
use super::error::{Error, Result};

/// How many steps back `~n` may go.
const FURTHEST: usize = 10_000;

/// A revision, of which only the syntax was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Where to start.
    pub base: Base,
    /// How many first parents to go back from there.
    pub back: usize,
}

/// Where a revision starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The default branch of the remote repository.
    Head,
    /// A branch, a tag, or, if there is neither, an abbreviated id.
    Name(String),
    /// A full id, 40 digits.
    Id(CommitId),
}

impl Revision {
    /// Parses a revision. Error: [`Error::BadRevision`].
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why| Error::BadRevision { revision: text.escape_debug().to_string(), why };
        let (base, back) = match text.split_once('~') {
            None => (text, 0),
            Some((base, "")) => (base, 1),
            Some((base, steps)) => (base, steps.parse().map_err(|_| bad("what follows `~` is no number"))?),
        };
        if back > FURTHEST {
            return Err(bad("`~` goes back 10000 commits at most"));
        }
        let base = if base == "HEAD" {
            Base::Head
        } else if let Some(id) = CommitId::parse(base) {
            Base::Id(id)
        } else if is_branch_name(base) {
            Base::Name(base.to_owned())
        } else {
            return Err(bad("it is neither the name of a branch or tag, nor an id, nor HEAD"));
        };
        Ok(Self { base, back })
    }

    /// Whether it may be a commit that is not the tip of a branch or a tag.
    pub(super) fn may_be_old(&self) -> bool {
        match &self.base {
            _ if self.back > 0 => true,
            Base::Head => false,
            Base::Name(name) => is_short_id(name),
            Base::Id(_) => true,
        }
    }
}

/// Whether a name could be a branch's or a tag's (git-check-ref-format(1)), and cannot be taken for an option.
pub(super) fn is_branch_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('-') && Reference::is_valid_name(&format!("refs/heads/{name}"))
}

/// Whether a text could be an abbreviated id: 4 to 39 hexadecimal digits.
pub(super) fn is_short_id(text: &str) -> bool {
    (4..40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ids_and_steps_back_are_understood() {
        let name = |name: &str, back| Revision { base: Base::Name(name.to_owned()), back };
        assert_eq!(Revision::parse("main").expect("a branch"), name("main", 0));
        assert_eq!(Revision::parse("feature/a.b").expect("a branch"), name("feature/a.b", 0));
        assert_eq!(Revision::parse("v1~2").expect("a tag"), name("v1", 2));
        assert_eq!(Revision::parse("HEAD~").expect("HEAD"), Revision { base: Base::Head, back: 1 });
        let id = "0123456789abcdef0123456789abcdef01234567";
        let base = Base::Id(crate::git::CommitId::parse(id).expect("an id"));
        assert_eq!(Revision::parse(id).expect("an id"), Revision { base, back: 0 });
    }

    #[test]
    fn every_other_syntax_of_gitrevisions_is_refused() {
        for text in [
            "",
            "-x",
            ":/fix",
            "main@{1}",
            "@{-1}",
            "a..b",
            "main^",
            "main^{/x}",
            "a b",
            "a:b",
            "HEAD~x",
            "HEAD~10001",
            "a\nb",
        ] {
            assert!(Revision::parse(text).is_err(), "{text:?}");
        }
    }
}
