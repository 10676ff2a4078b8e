//! What a text says about itself before it is parsed: whether it can have a document of Egret's, and whether it is a
//! Kubernetes object at all.
//!
//! Repositories hold much that is none of Egret's: objects of other kinds, Helm templates, encrypted files, programs'
//! settings. Such a text is neither an error nor a warning, whether it is YAML or not. Not here: documents that were
//! parsed (`document`).

use super::diagnostic_sink::Span;
use super::document::DocumentKind;
use super::yaml::parts;

/// Parts of the kinds and API groups. A document of Egret's, or one that was meant to be one, has at least one of them.
const WORDS: [&str; 7] =
    ["egret.dev", "cilium.io", "EgressPolicy", "EgressGatewayPolicy", "NodeLabels", "EgressAssertion", "EgressPool"];

/// Whether a text may have a document of Egret's. A word can be hidden only behind an escape sequence.
pub fn may_be_ours(text: &str) -> bool {
    text.contains('\\') || WORDS.iter().any(|word| text.contains(word))
}

/// The same for bytes that are not UTF-8, such as UTF-16.
pub fn bytes_may_be_ours(bytes: &[u8]) -> bool {
    let letters: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    WORDS.iter().any(|word| letters.windows(word.len()).any(|part| part == word.as_bytes()))
}

/// Whether a text that is not YAML was meant to be a document of Egret's.
pub fn was_meant(text: &str) -> bool {
    let (versions, kinds) = (values(text, "apiVersion"), values(text, "kind"));
    let ours = |version: &&str| version.starts_with("egret.dev/");
    let named = DocumentKind::ALL.into_iter().filter(|known| *known != DocumentKind::Config);
    let named = named.filter(|known| kinds.contains(&known.name()));
    versions.iter().any(ours)
        || named.into_iter().any(|known| {
            let group = |version: &&str| version.split('/').next() == known.api_version().split('/').next();
            versions.iter().any(group) || versions.iter().all(|version| is_placeholder(version))
        })
}

/// The documents of a text that are no Kubernetes objects: pointers of Git LFS, encrypted ones, what a failed program
/// left behind, with their places. Empty ones are left out.
pub fn shapeless(text: &str) -> Vec<(Span, &str)> {
    let found = parts(text).into_iter().filter(|part| !is_empty(part.text) && !is_object(part.text));
    found.map(|part| (part.place(text, 0), part.text.trim_start_matches("---").trim())).collect()
}

fn is_empty(part: &str) -> bool {
    let mut lines = part.lines().map(|line| line.trim_start_matches('\u{feff}').trim_start());
    lines.all(|line| line.is_empty() || line.starts_with('#') || matches!(line.trim_end(), "---" | "..."))
}

fn is_object(part: &str) -> bool {
    ["apiVersion", "kind"].iter().all(|key| values(part, key).iter().any(|value| !is_placeholder(value)))
}

/// Whether a value stands for another one, which a program has to put in its place.
pub fn is_placeholder(value: &str) -> bool {
    placeholder(value).is_some()
}

/// The notation in a value that stands for another one, and where it begins: `${NAME}`, `{{ .Values.x }}`, `ENC[…]`.
pub fn placeholder(value: &str) -> Option<(Placeholder, usize)> {
    let all = [
        (Placeholder::Encrypted, "ENC[", "]"),
        (Placeholder::Template, "{{", "}}"),
        (Placeholder::Variable, "${", "}"),
    ];
    let found = all.into_iter().filter_map(|(what, open, close)| {
        let at = value.find(open)?;
        value[at..].contains(close).then_some((what, at))
    });
    found.min_by_key(|(_, at)| *at)
}

/// A notation that has to be replaced before a document can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// `${NAME}`, as Flux' postBuild and envsubst replace it.
    Variable,
    /// `{{ … }}`: Helm, and other template engines.
    Template,
    /// `ENC[…]`, as SOPS encrypts values.
    Encrypted,
}

impl Placeholder {
    /// What it is, for a message.
    pub fn what(self) -> &'static str {
        match self {
            Self::Variable => "a variable that has to be substituted",
            Self::Template => "a template that has to be rendered",
            Self::Encrypted => "a value that is encrypted",
        }
    }
}

/// What stands behind a key at any place of a text, in YAML or JSON, comments excepted.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        for (at, _) in line.match_indices(key) {
            let before = line[..at].trim_end_matches(['"', '\'']);
            let is_key = before.is_empty() || before.ends_with([' ', '\t', '{', ',', '\u{feff}']);
            let rest = line[at + key.len()..].trim_start_matches(['"', '\'']).trim_start();
            if let Some(value) = rest.strip_prefix(':').filter(|_| is_key) {
                found.push(word(value.trim_start()));
            }
        }
    }
    found
}

/// The value that a text begins with.
fn word(text: &str) -> &str {
    match text.chars().next() {
        Some(quote @ ('"' | '\'')) => text[1..].split(quote).next().unwrap_or_default(),
        _ if text.starts_with("ENC[") => text.trim_end(),
        Some('{' | '$') => text.trim_end(),
        _ => text.split([' ', '\t', ',', '}', '#']).next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_yaml_is_egrets_only_by_kind_and_group() {
        for text in [
            "apiVersion: egret.dev/v1alpha1\nkind: {{ .Values.kind }}\n",
            "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nspec: [\n",
            "{\"kind\": \"EgressPolicy\", \"apiVersion\": \"egret.dev/v1alpha1\", ",
            "{{ if .x }}\nkind: NodeLabels\n",
            "apiVersion: {{ .api }}\nkind: \"CiliumEgressGatewayPolicy\"\n",
            "- apiVersion: ${API}\n  kind: EgressPolicy\n{",
        ] {
            assert!(was_meant(text), "{text}");
        }
        for text in [
            "rules:\n- apiGroups: [egret.dev]\n  resources: [\"{{ .x }}\"]\n{{ end }}",
            "apiVersion: egressgateway.spidernet.io/v1beta1\nkind: EgressPolicy\n{{",
            "apiVersion: v1\nkind: Config\n{{",
            "# kind: EgressPolicy\napiVersion: v1\nkind: Secret\n{",
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n{{",
            "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nspec: {group: egret.dev, {{",
        ] {
            assert!(!was_meant(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_kubernetes_object_has_no_shape() {
        let of = |text| shapeless(text).into_iter().map(|(_, part)| part).collect::<Vec<_>>();
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345";
        for text in
            [pointer, "garbage: 1", "apiVersion: ENC[AES256_GCM,data:x]\nkind: ENC[AES256_GCM,data:y]", "kind: x"]
        {
            assert_eq!(of(text), [text]);
        }
        for text in [
            "",
            "# a comment\n---\n---\n",
            "\u{feff}\n",
            "apiVersion: v1\nkind: Secret\n",
            "{\"apiVersion\":\"v1\",\"kind\":\"List\"}",
        ] {
            assert_eq!(of(text), [""; 0], "{text}");
        }
        assert_eq!(shapeless("apiVersion: v1\nkind: A\n---\nA: {R: !Ref B}\n--- \nb: 1\n").len(), 2);
    }

    #[test]
    fn placeholders_are_recognised_by_their_notation() {
        assert_eq!(placeholder("${ip}/32"), Some((Placeholder::Variable, 0)));
        assert_eq!(placeholder("a: {{ .Values.x }} ${y}"), Some((Placeholder::Template, 3)));
        assert_eq!(placeholder("ENC[AES256_GCM,data:x,iv:y]"), Some((Placeholder::Encrypted, 0)));
        for value in ["$", "$x", "10.0.0.1", "ENC", "{a: {b: c}}", "}}{{"] {
            assert_eq!(placeholder(value), None, "{value}");
        }
    }
}
