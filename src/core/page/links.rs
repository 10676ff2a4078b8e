//! The pages of a repository at its forge: of a commit, and of a line of a file.
//!
//! Only links to HTTP servers are made, from parts that are checked or encoded. Not here: pages of pull requests, which the forge's API
//! knows (`forge`).

use crate::core::text::url_part;

/// How a forge names its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgeStyle {
    /// github.com and GitHub Enterprise.
    GitHub,
    /// gitlab.com and self-managed GitLab.
    GitLab,
    /// Gitea and Forgejo.
    Gitea,
}

/// The pages of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryPages {
    /// `https://github.com/empire/policies`
    base: String,
    style: ForgeStyle,
}

impl RepositoryPages {
    /// Of the repository at a host. `style`: of which kind its forge is, if that is known. None: nothing is known of it, and a guess might lead
    /// anywhere.
    pub fn at(host: &str, path: &str, style: Option<ForgeStyle>) -> Option<Self> {
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte))
        };
        let parts: Vec<&str> = path.split('/').collect();
        if !plain(host) || parts.len() < 2 || parts.contains(&"..") || parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        let style = style.or_else(|| style_of(host))?;
        let path: Vec<String> = parts.into_iter().map(url_part).collect();
        Some(Self { base: format!("https://{host}/{}", path.join("/")), style })
    }

    /// The page of a commit; none if it is no full id.
    pub fn commit(&self, commit: &str) -> Option<String> {
        let dash = if self.style == ForgeStyle::GitLab { "/-" } else { "" };
        is_id(commit).then(|| format!("{}{dash}/commit/{commit}", self.base))
    }

    /// A line of a file at a commit.
    pub fn line(&self, commit: &str, file: &str, line: usize) -> Option<String> {
        let at = match self.style {
            ForgeStyle::GitHub => "blob",
            ForgeStyle::GitLab => "-/blob",
            ForgeStyle::Gitea => "src/commit",
        };
        let path: Vec<String> = file.split('/').map(url_part).collect();
        is_id(commit).then(|| format!("{}/{at}/{commit}/{}#L{line}", self.base, path.join("/")))
    }
}

/// A forge that is known by its host's name.
fn style_of(host: &str) -> Option<ForgeStyle> {
    let labels: Vec<&str> = host.split('.').collect();
    let is = |name: &str| labels.contains(&name);
    match () {
        () if is("github") => Some(ForgeStyle::GitHub),
        () if is("gitlab") => Some(ForgeStyle::GitLab),
        () if is("gitea") || is("forgejo") || is("codeberg") => Some(ForgeStyle::Gitea),
        () => None,
    }
}

fn is_id(commit: &str) -> bool {
    matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "a41c9e2a41c9e2a41c9e2a41c9e2a41c9e2a41c9";

    #[test]
    fn each_forge_has_its_own_names_for_pages() {
        let of = |host: &str| {
            let pages = RepositoryPages::at(host, "empire/policies", None)?;
            Some((pages.commit(COMMIT)?, pages.line(COMMIT, "policies/out post.yaml", 3)?))
        };
        let base = "/empire/policies";
        let expected = |host: &str, commit: &str, file: &str| {
            let file = format!("https://{host}{base}/{file}/{COMMIT}/policies/out%20post.yaml#L3");
            Some((format!("https://{host}{base}/{commit}/{COMMIT}"), file))
        };
        assert_eq!(of("github.com"), expected("github.com", "commit", "blob"));
        assert_eq!(of("gitlab.example.com"), expected("gitlab.example.com", "-/commit", "-/blob"));
        assert_eq!(of("codeberg.org"), expected("codeberg.org", "commit", "src/commit"));
        assert_eq!(of("git.example.com"), None, "nothing is known of it");
    }

    #[test]
    fn no_link_leads_elsewhere() {
        let at = |host: &str, path: &str| RepositoryPages::at(host, path, Some(ForgeStyle::GitHub));
        assert_eq!(at("evil.example/x@github.com", "a/b"), None);
        assert_eq!(at("", "a/b"), None);
        assert_eq!((at("h", "a"), at("h", "a/../b"), at("h", "a//b")), (None, None, None));
        let pages = at("h:8443", "a/\"onclick=").expect("pages");
        assert_eq!(pages.commit(COMMIT), Some(format!("https://h:8443/a/%22onclick%3D/commit/{COMMIT}")));
        assert_eq!((pages.commit("HEAD"), pages.commit("")), (None, None));
        assert_eq!(pages.line("main", "a", 1), None);
    }
}
