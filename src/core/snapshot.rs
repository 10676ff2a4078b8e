//! A snapshot: what a preview has to know of a cluster and nothing else, as manifests that `--cluster` takes.
//!
//! Of nodes: labels, addresses, pod networks, whether they are ready and cordoned. Of namespaces: labels. Of pods: labels, node, addresses,
//! whether they share the node's network or have finished. One object is one line, so that a changed pod is a changed line in Git.
//! Deliberately absent: annotations, environments, images, and everything else that could be a secret or changes without a reason.

use std::fmt::{self, Display, Write};

use super::facts::{Facts, Node, Pod, PodName};
use super::labels::Labels;
use super::name::NodeName;

/// Its name on the reports branch.
pub const FILE: &str = "snapshot.yaml";

/// The text. The same facts are the same bytes.
pub fn snapshot(facts: &Facts) -> String {
    let mut text = "# What `egret preview` has to know of the cluster. Egret writes this file.\n\
                    apiVersion: v1\nkind: List\nitems:"
        .to_owned();
    if facts.nodes.is_empty() && facts.namespaces.is_empty() && facts.pods.is_empty() {
        text.push_str(" []");
    }
    text.push('\n');
    // Writing to a string cannot fail.
    for (name, node) in &facts.nodes {
        let _ = writeln!(text, "- {}", line_of_node(name, node));
    }
    for (name, labels) in &facts.namespaces {
        let _ = writeln!(text, "- {{kind: Namespace, metadata: {{name: {}, labels: {}}}}}", Word(name), Map(labels));
    }
    for (name, pod) in &facts.pods {
        let _ = writeln!(text, "- {}", line_of_pod(name, pod));
    }
    text
}

fn line_of_node(name: &NodeName, node: &Node) -> String {
    let Node { labels, addresses, pod_cidrs, ready, unschedulable } = node;
    let addresses = list(addresses.iter().map(|address| format!("{{type: InternalIP, address: \"{address}\"}}")));
    let pod_cidrs = list(pod_cidrs.iter().map(|net| format!("\"{net}\"")));
    let unschedulable = if *unschedulable { ", unschedulable: true" } else { "" };
    let ready = if *ready { "True" } else { "False" };
    format!(
        "{{kind: Node, metadata: {{name: {}, labels: {}}}, spec: {{podCIDRs: {pod_cidrs}{unschedulable}}}, \
         status: {{addresses: {addresses}, conditions: [{{type: Ready, status: \"{ready}\"}}]}}}}",
        Word(name.as_str()),
        Map(labels)
    )
}

fn line_of_pod(name: &PodName, pod: &Pod) -> String {
    let Pod { labels, node, addresses, host_network, finished } = pod;
    let mut spec: Vec<String> = node.iter().map(|node| format!("nodeName: {}", Word(node.as_str()))).collect();
    if *host_network {
        spec.push("hostNetwork: true".to_owned());
    }
    let addresses = list(addresses.iter().map(|address| format!("{{ip: \"{address}\"}}")));
    let finished = if *finished { ", phase: Succeeded" } else { "" };
    format!(
        "{{kind: Pod, metadata: {{namespace: {}, name: {}, labels: {}}}, spec: {{{}}}, status: {{podIPs: {addresses}{finished}}}}}",
        Word(&name.namespace),
        Word(&name.name),
        Map(labels),
        spec.join(", ")
    )
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

struct Map<'a>(&'a Labels);

impl Display for Map<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|(key, value)| format!("{}: {}", Word(key), Word(value))).collect();
        write!(f, "{{{}}}", pairs.join(", "))
    }
}

/// A text as YAML has it: plain where nobody could take it for anything else, else between quotes as in JSON.
struct Word<'a>(&'a str);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const OTHERS: [&str; 12] =
            ["true", "false", "yes", "no", "on", "off", "null", "y", "n", "nan", "inf", "infinity"];
        let text = self.0;
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '/' | '_');
        let word = text.starts_with(|letter: char| letter.is_ascii_alphabetic()) && text.chars().all(plain);
        if word && !OTHERS.contains(&text.to_ascii_lowercase().as_str()) {
            return f.write_str(text);
        }
        f.write_char('"')?;
        for letter in text.chars() {
            match letter {
                '"' | '\\' => write!(f, "\\{letter}")?,
                _ if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                    write!(f, "\\u{:04x}", u32::from(letter))?;
                }
                _ => f.write_char(letter)?,
            }
        }
        f.write_char('"')
    }
}
