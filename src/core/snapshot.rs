//! A snapshot: the cluster facts that a preview needs, as manifests that `--cluster` accepts.
//!
//! Of nodes: labels, addresses, pod networks, ready, cordoned. Of namespaces: labels. Of pods: labels, node, addresses,
//! `hostNetwork`, finished. Of gateways: their interfaces. Pod networks from CNIs. One object is one line, so that a
//! changed pod is a changed line in Git. The first line has the time it was taken; [`worth`] decides whether it is
//! committed. Everything that could be a secret or changes without a reason is left out: annotations, environments,
//! images.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::facts::{Facts, Node, Pod, PodName};
use super::gateway_interfaces::{self, GatewayInterface};
use super::host_network::HostNetwork;
use super::labels::Labels;
use super::name::NodeName;

/// Its name on the reports branch.
pub const FILE: &str = "snapshot.yaml";

/// Maximum size in bytes of a snapshot that is written or read from a branch: some 500,000 pods.
pub const LARGEST: usize = 128 << 20;

/// With a report that is committed anyway, a changed snapshot may follow after the interval divided by this.
pub const RIDING: u32 = 10;

/// Prefix of the line with the time it was taken.
const TAKEN: &str = "# Taken ";
/// Prefix of the line of a gateway's interfaces.
const GATEWAY: &str = "- {kind: EgressNode, ";

/// The text, with the time of its facts.
pub fn stamped(facts: &Facts, taken: Timestamp) -> String {
    let second = Timestamp::from_second(taken.as_second()).unwrap_or(taken);
    format!("{TAKEN}{second}\n{}", snapshot(facts))
}

/// The time a snapshot was taken, if it has one.
pub fn taken(text: &str) -> Option<Timestamp> {
    text.strip_prefix(TAKEN)?.lines().next()?.parse().ok()
}

/// Its age at a time, in words; none if below a minute. The time is that of the preview, so that the same commits give
/// the same text.
pub fn age(taken: Timestamp, now: Timestamp) -> Option<String> {
    let seconds = now.duration_since(taken).as_secs();
    Some(match seconds {
        ..60 => return None,
        60..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    })
}

/// Its content, without the time.
fn content(text: &str) -> &str {
    if !text.starts_with(TAKEN) {
        return text;
    }
    text.split_once('\n').map_or("", |(_, content)| content)
}

/// Whether to replace a snapshot.
///
/// A changed one is written once `every` has passed; with a commit that is made anyway (`riding`) after a tenth of that,
/// so that a burst of drift does not carry the whole cluster each time, and at once where gateways' interfaces differ. An
/// unchanged one is written every 24 times `every`: its age shows whether it is still maintained.
pub fn worth(there: Option<&str>, new: &str, every: Duration, riding: bool) -> bool {
    let Some(there) = there else { return true };
    let (Some(before), Some(now)) = (taken(there), taken(new)) else { return true };
    // A clock that was ahead must not keep other writers from writing.
    let age = now.duration_since(before).unsigned_abs();
    if content(there) == content(new) {
        return age >= every.saturating_mul(24);
    }
    age >= every || riding && (age >= every / RIDING || host_networks(there) != host_networks(new))
}

/// The interfaces in a snapshot, parsed line by line: a node that rewrites it keeps what other nodes reported.
pub fn host_networks(text: &str) -> BTreeMap<NodeName, HostNetwork> {
    #[derive(Deserialize)]
    struct Item {
        metadata: Metadata,
        status: Status,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
    }
    #[derive(Deserialize)]
    struct Status {
        interfaces: Vec<GatewayInterface>,
    }
    let lines = text.lines().filter(|line| line.starts_with(GATEWAY));
    let items = lines.filter_map(|line| serde_yaml::from_str::<Item>(line.get(2..)?).ok());
    items
        .filter_map(|item| {
            Some((
                NodeName::parse(&item.metadata.name).ok()?,
                gateway_interfaces::host_network(&item.status.interfaces)?,
            ))
        })
        .collect()
}

/// The text. Equal facts give equal bytes.
pub fn snapshot(facts: &Facts) -> String {
    let mut text = "# What `egret preview` has to know of the cluster. Egret writes this file.\n\
                    apiVersion: v1\nkind: List\nitems:"
        .to_owned();
    if *facts == Facts::default() {
        text.push_str(" []");
    }
    text.push('\n');
    // Writing to a string cannot fail.
    for (name, node) in &facts.nodes {
        let _ = writeln!(text, "- {}", line_of_node(name, node));
    }
    for (name, host_network) in &facts.host_networks {
        let _ = writeln!(text, "{}", line_of_gateway(name, host_network));
    }
    if !facts.pod_networks.is_empty() {
        let networks = list(facts.pod_networks.iter().map(|net| format!("\"{net}\"")));
        let _ =
            writeln!(text, "- {{kind: EgressConfig, metadata: {{name: default}}, spec: {{podNetworks: {networks}}}}}");
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

fn line_of_gateway(name: &NodeName, host_network: &HostNetwork) -> String {
    let quoted = |text: &str| format!("\"{text}\"");
    let reported = gateway_interfaces::of(host_network, &host_network.interfaces.keys().map(String::as_str).collect());
    let all = reported.iter().map(|interface| {
        let GatewayInterface { name, addresses, routes, mtu, strict, only_named, traits } = interface;
        let mut line =
            format!("{{name: {}, addresses: {}", Word(name), list(addresses.iter().map(|text| quoted(text))));
        if !routes.is_empty() {
            let routes = routes.iter().map(|route| {
                let via = if route.via.is_empty() { String::new() } else { format!(", via: {}", quoted(&route.via)) };
                let metric = if route.metric == 0 { String::new() } else { format!(", metric: {}", route.metric) };
                format!("{{to: {}{via}{metric}}}", quoted(&route.to))
            });
            let _ = write!(line, ", routes: {}", list(routes));
        }
        if let Some(mtu) = mtu {
            let _ = write!(line, ", mtu: {mtu}");
        }
        if *strict {
            line.push_str(", strict: true");
        }
        if !only_named.is_empty() {
            let _ = write!(line, ", onlyNamed: {}", list(only_named.iter().map(|text| quoted(text))));
        }
        if !traits.is_empty() {
            let _ = write!(line, ", traits: {}", list(traits.iter().map(|text| quoted(text))));
        }
        line + "}"
    });
    format!("{GATEWAY}metadata: {{name: {}}}, status: {{interfaces: {}}}}}", Word(name.as_str()), list(all))
}

fn line_of_pod(name: &PodName, pod: &Pod) -> String {
    // That a pod is being deleted at this moment is irrelevant to a reviewer.
    let Pod { labels, node, addresses, host_network, finished, terminating: _ } = pod;
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

/// A YAML scalar: plain if it cannot be read as anything but this string, otherwise quoted as in JSON.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::host_network;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    fn facts(namespace: &str, address: &str) -> Facts {
        let interface = host_network::Interface {
            up: true,
            addresses: vec![address.parse().unwrap()],
            rp_filter: 1,
            mtu: 9000,
            ..host_network::Interface::default()
        };
        let reported =
            HostNetwork { interfaces: BTreeMap::from([("net1".to_owned(), interface)]), ..HostNetwork::default() };
        let reported =
            gateway_interfaces::host_network(&gateway_interfaces::of(&reported, &std::collections::BTreeSet::new()))
                .unwrap();
        Facts {
            namespaces: BTreeMap::from([(namespace.to_owned(), Labels::new())]),
            host_networks: BTreeMap::from([(NodeName::parse("kind-worker2").unwrap(), reported)]),
            ..Facts::default()
        }
    }

    #[test]
    fn a_snapshot_has_its_time_and_interfaces() {
        let facts = facts("batuu", "10.0.3.42/24");
        let text = stamped(&facts, at(0));
        assert_eq!((taken(&text), content(&text)), (Some(at(0)), snapshot(&facts).as_str()));
        assert_eq!(taken(&snapshot(&facts)), None);
        let ages = [0, 59, 60, 119, 120, 2_880].map(|minutes| age(at(0), at(minutes)));
        let words = [None, Some("59 min"), Some("60 min"), Some("119 min"), Some("2 h"), Some("2 days")];
        assert_eq!(ages, words.map(|words| words.map(str::to_owned)));
        assert_eq!(host_networks(&text), facts.host_networks);
        let line = "- {kind: EgressNode, metadata: {name: kind-worker2}, status: {interfaces: [{name: net1, addresses: \
                    [\"10.0.3.42/24\"], mtu: 9000, strict: true}]}}";
        assert_eq!(text.lines().find(|text| text.starts_with(GATEWAY)), Some(line));
    }

    #[test]
    fn a_snapshot_is_written_once_an_interval_however_often_it_changes() {
        const HOUR: Duration = Duration::from_hours(1);
        let worth = |before: (&str, i64), after: (&str, i64), riding| {
            let text = |(namespace, minute): (&str, i64)| stamped(&facts(namespace, "10.0.3.42/24"), at(minute));
            super::worth(Some(&text(before)), &text(after), HOUR, riding)
        };
        assert!(super::worth(None, &stamped(&facts("a", "10.0.3.42/24"), at(0)), HOUR, false));
        assert!(!worth(("a", 0), ("b", 59), false), "an interval has not passed");
        assert!(worth(("a", 0), ("b", 60), false));
        assert!(!worth(("a", 0), ("b", 5), true));
        assert!(worth(("a", 0), ("b", 6), true), "a commit is made anyway");
        assert!(!worth(("a", 0), ("a", 120), true), "nothing new");
        assert!(worth(("a", 0), ("a", 24 * 60), false), "somebody still looks");
        assert!(worth(("a", 600), ("b", 0), false), "a clock that was ahead holds nobody up");
        let (before, after) = (facts("a", "10.0.3.42/24"), facts("a", "10.0.3.43/24"));
        assert!(super::worth(Some(&stamped(&before, at(0))), &stamped(&after, at(1)), HOUR, true), "an address moved");
        assert!(super::worth(Some("somebody's notes"), &stamped(&after, at(1)), HOUR, false));
    }
}
