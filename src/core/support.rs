//! What a support bundle has, and what it leaves out: secrets always, names of those who have nothing to do with policies unless asked.
//!
//! Not here: reading anything, and the archive (`cli::support_bundle`).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::facts::{Facts, PodName};
use super::labels::{Labels, Selector};
use super::plan::StateListing;
use super::policy::members::Members;
use super::policy::{MemberSelector, PolicySet};
use super::state::NodeState;
use super::state::nft::{CounterPlace, RuleCounter, RuleCounters, Table};
use super::text::counted;

/// Sets with addresses of pods that no policy selects.
const OTHERS: [&str; 2] = ["others4", "others6"];
/// Labels of nodes that are kept whatever selects them.
const OF_NODES: [&str; 3] = ["kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch"];
/// Words whose value is a secret, wherever they end a name.
const SECRET_WORDS: [&str; 8] =
    ["password", "passwd", "passphrase", "token", "secret", "apikey", "api_key", "authorization"];
/// What tokens of well-known kinds begin with.
const TOKENS: [&str; 12] =
    ["ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-", "gldt-", "xoxb-", "xoxp-", "AKIA", "ASIA", "eyJ"];
/// What stands in the place of a secret.
const HIDDEN: &str = "***";

/// A kernel's state of Egret's objects, without the addresses of pods that no policy selects.
pub fn listing(state: &NodeState) -> String {
    let mut state = state.clone();
    let mut left_out = 0;
    for Table { sets, .. } in state.nft.values_mut() {
        for name in OTHERS {
            if let Some(set) = sets.get_mut(name) {
                left_out += set.elements.len();
                set.elements.clear();
            }
        }
    }
    let mut text = StateListing(&state).to_string();
    if left_out > 0 {
        let _ = writeln!(text, "# {left_out} addresses of pods that no policy selects are left out");
    }
    text
}

/// What rules have counted, a line each; rules that have counted nothing are left out.
pub fn counters(counters: &RuleCounters) -> String {
    let some = counters.iter().filter(|(_, counter)| counter.packets > 0);
    let line = |((family, chain, rule), counter): (&CounterPlace, &RuleCounter)| {
        format!("{family} {chain} rule {rule}: {} packets, {} bytes\n", counter.packets, counter.bytes)
    };
    some.map(line).collect()
}

/// The part of a cluster that is included, and what was left out.
#[derive(Debug, Default)]
pub struct Reduced {
    /// The facts.
    pub facts: Facts,
    /// The pods that are left out, as `NAMESPACE/NAME`.
    pub pods: BTreeSet<String>,
    /// How many namespaces are left out.
    pub namespaces: usize,
    /// How many labels are left out, of pods, namespaces and nodes.
    pub labels: usize,
}

impl Reduced {
    /// The cluster without pods and namespaces that no policy selects, and without labels that no selector asks about. `named`: pods that
    /// the case is about stay.
    pub fn of(facts: &Facts, set: &PolicySet, named: &BTreeSet<PodName>) -> Self {
        let members = Members::new(set.policies.values(), facts);
        let asserted = Members::new(set.assertions.values(), facts);
        let keys = Keys::of(set);
        let mut reduced = Self { facts: facts.of_nodes(), ..Self::default() };
        for (name, pod) in &facts.pods {
            let concerned = named.contains(name)
                || !members.selecting(name, pod, facts).is_empty()
                || !asserted.selecting(name, pod, facts).is_empty();
            if !concerned {
                reduced.pods.insert(name.to_string());
                continue;
            }
            let mut pod = pod.clone();
            reduced.labels += keep(&mut pod.labels, |key| keys.pods.contains(key));
            reduced.facts.pods.insert(name.clone(), pod);
        }
        let used: BTreeSet<&str> = reduced.facts.pods.keys().map(|pod| pod.namespace.as_str()).collect();
        for (name, labels) in &facts.namespaces {
            if used.contains(name.as_str()) {
                let mut labels = labels.clone();
                reduced.labels += keep(&mut labels, |key| keys.namespaces.contains(key));
                reduced.facts.namespaces.insert(name.clone(), labels);
            } else {
                reduced.namespaces += 1;
            }
        }
        let mut dropped = 0;
        for node in reduced.facts.nodes.values_mut() {
            dropped += keep(&mut node.labels, |key| keys.nodes.contains(key) || OF_NODES.contains(&key));
        }
        reduced.labels += dropped;
        reduced
    }

    /// What was left out, a sentence each.
    pub fn left_out(&self) -> Vec<String> {
        let pods = (self.pods.len(), counted(self.pods.len(), "pod"), "that no policy or assertion selects");
        let namespaces = (self.namespaces, counted(self.namespaces, "namespace"), "without such a pod");
        let labels = (self.labels, counted(self.labels, "label"), "that no selector asks about");
        let all = [pods, namespaces, labels].into_iter().filter(|(count, ..)| *count > 0);
        all.map(|(_, what, which)| format!("{what} {which}")).collect()
    }

    /// A text without the names of pods that are left out.
    pub fn without_names(&self, text: &str) -> String {
        if self.pods.is_empty() {
            return text.to_owned();
        }
        let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '/');
        let mut clean = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_of_name) {
            clean.push_str(&rest[..start]);
            let word = &rest[start..];
            let word = &word[..word.find(|letter| !is_of_name(letter)).unwrap_or(word.len())];
            let name = word.trim_end_matches('.');
            clean.push_str(if self.pods.contains(name) { "[a pod left out]" } else { word });
            rest = &rest[start + word.len()..];
        }
        clean.push_str(rest);
        clean
    }
}

/// Takes labels away; how many.
fn keep(labels: &mut Labels, wanted: impl Fn(&str) -> bool) -> usize {
    let before = labels.len();
    labels.retain(|key, _| wanted(key));
    before - labels.len()
}

/// The keys that selectors ask about.
#[derive(Default)]
struct Keys<'a> {
    pods: BTreeSet<&'a str>,
    namespaces: BTreeSet<&'a str>,
    nodes: BTreeSet<&'a str>,
}

impl<'a> Keys<'a> {
    fn of(set: &'a PolicySet) -> Self {
        let mut keys = Self::default();
        let policies = set.policies.values().flat_map(|policy| &policy.selectors);
        for MemberSelector { namespace, namespace_name: _, pod, node } in
            policies.chain(set.assertions.values().flat_map(|assertion| &assertion.selectors))
        {
            add(&mut keys.pods, pod);
            add(&mut keys.namespaces, namespace);
            add(&mut keys.nodes, node);
        }
        for gateway in set.policies.values().flat_map(|policy| &policy.gateways) {
            add(&mut keys.nodes, &gateway.node);
        }
        for labels in set.node_labels.values() {
            keys.nodes.extend(labels.labels.keys().map(|key| -> &str { key }));
            labels.node_selector.iter().for_each(|selector| add(&mut keys.nodes, selector));
        }
        keys
    }
}

fn add<'a>(keys: &mut BTreeSet<&'a str>, selector: &'a Selector) {
    keys.extend(selector.requirements.iter().map(|requirement| requirement.key.as_str()));
}

/// A text without secrets: passwords in addresses, values of what is called a password or token, tokens of well-known kinds, private keys.
/// Rather too much is hidden than too little.
pub fn scrubbed(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        if line.contains("-----BEGIN ") && line.contains("PRIVATE KEY-----") {
            in_key = true;
            clean.push_str("*** a private key\n");
        }
        if !in_key {
            clean.push_str(&without_tokens(&without_values(&without_userinfo(line))));
        }
        if in_key && line.contains("-----END ") {
            in_key = false;
        }
    }
    clean
}

/// `https://user:password@host/` as `https://***@host/`.
fn without_userinfo(line: &str) -> String {
    let mut clean = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end =
            after.find(|letter: char| letter.is_whitespace() || "/\"'<>`,;".contains(letter)).unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(host) => {
                clean.push_str(HIDDEN);
                rest = &after[host..];
            }
            None => rest = after,
        }
    }
    clean + rest
}

/// `password: x`, `EGRET_TOKEN=x`, `"secret": "x"` without the value.
fn without_values(line: &str) -> String {
    // Lower case letters of ASCII are as long as the others: places are the same in both.
    let lower = line.to_ascii_lowercase().replace('-', "_");
    let mut clean = String::new();
    let mut done = 0;
    while let Some((end, value)) = SECRET_WORDS.iter().filter_map(|word| next_value(&lower, done, word)).min() {
        clean.push_str(&line[done..end]);
        clean.push_str(HIDDEN);
        done = value;
    }
    clean + &line[done..]
}

/// Where the next value of something with this name begins and ends.
fn next_value(lower: &str, from: usize, word: &str) -> Option<(usize, usize)> {
    lower[from..].match_indices(word).find_map(|(at, _)| {
        let after = from + at + word.len();
        let rest = &lower[after..];
        let sign = rest.find(|letter: char| !matches!(letter, '"' | '\'' | ' '))?;
        if !rest[sign..].starts_with([':', '=']) {
            return None;
        }
        let value = &rest[sign + 1..];
        let start = value.find(|letter: char| !matches!(letter, '"' | '\'' | ' ' | '='))?;
        let scheme = ["bearer ", "basic "]
            .iter()
            .find(|scheme| value[start..].starts_with(*scheme))
            .map_or(0, |scheme| scheme.len());
        let length = value[start + scheme..]
            .find(|letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | ',' | '}' | ';' | '&'))
            .unwrap_or(value.len() - start - scheme);
        let begin = after + sign + 1 + start;
        (length > 0).then_some((begin, begin + scheme + length))
    })
}

/// `ghp_…` and its like, hidden.
fn without_tokens(line: &str) -> String {
    let is_of_token = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.' | '+' | '/');
    let mut clean = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_of_token) {
        clean.push_str(&rest[..start]);
        let word = &rest[start..];
        let word = &word[..word.find(|letter| !is_of_token(letter)).unwrap_or(word.len())];
        let is_token = word.len() >= 20 && TOKENS.iter().any(|begin| word.starts_with(begin));
        clean.push_str(if is_token { HIDDEN } else { word });
        rest = &rest[start + word.len()..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_stays() {
        for (text, expected) in [
            ("clone https://ada:hunter2@git.example.com/x.git now", "clone https://***@git.example.com/x.git now"),
            ("https://a@b@c/d https://e/f", "https://***@c/d https://e/f"),
            ("password: hunter2\nnext: 1\n", "password: ***\nnext: 1\n"),
            ("{\"gitPassword\": \"hunter2\", \"a\": 1}", "{\"gitPassword\": \"***\", \"a\": 1}"),
            ("EGRET_FORGE_TOKEN=abc EGRET_NODE=beta", "EGRET_FORGE_TOKEN=*** EGRET_NODE=beta"),
            ("Authorization: Bearer abc.def", "Authorization: ***"),
            ("use ghp_0123456789abcdef0123 here", "use *** here"),
            (
                "a -----BEGIN OPENSSH PRIVATE KEY-----\nxyz\n-----END OPENSSH PRIVATE KEY-----\nb\n",
                "*** a private key\nb\n",
            ),
            ("a token that is not valid", "a token that is not valid"),
            ("policy outpost has 10.0.4.0/24", "policy outpost has 10.0.4.0/24"),
        ] {
            assert_eq!(scrubbed(text), expected);
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        for text in ["://", "token=", "é://ä@ö", "secret:\u{1F600}", "password=\"", "token: bearer ", "@://@://"] {
            let _ = scrubbed(text);
        }
    }
}
