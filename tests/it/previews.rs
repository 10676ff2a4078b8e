//! Previews: each folder of tests/previews is a repository before and after a change, and a cluster, with the whole comment and the whole
//! text that a reviewer sees.
//!
//! A folder has `base` and `head` (what is in neither is in both: `both`), `cluster`, and perhaps `ground` (kernels that were looked at),
//! `reports` (of nodes), `allocation` (of pools, on the reports branch), `message` (the trailers of the head) and
//! `signature` (what is wrong with one). What it lacks of `both` and `cluster` it takes from `a_gateway_moves`.
//! Not here: Git (see `command`).

mod asserted;
mod burden;
mod command;
mod effects;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use egret::cluster::Cluster;
use egret::core::allocation::{AddressChange, Allocation, Proposal, propose, read};
use egret::core::assignment::holding::HoldingView;
use egret::core::compile::RefusedParts;
use egret::core::diagnostic::{Diagnostic, Severity, SpanPoint};
use egret::core::evaluation::{NodeInput, evaluate};
use egret::core::facts::Facts;
use egret::core::host_network::{HostNetwork, KernelFeatures};
use egret::core::liveness::LivenessView;
use egret::core::name::NodeName;
use egret::core::plan::text_diff;
use egret::core::policy::PolicySet;
use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::policy::document::CONFIG_FILE;
use egret::core::policy::lint::lint;
use egret::core::preview::assertions::{AssertionInput, failed};
use egret::core::preview::{DisplayLimits, Preview, PreviewInput, TextForm, Validation, lines, markdown, preview};
use egret::core::report::files::read_node_file;
use egret::core::report::history::NodeReport;
use egret::core::snapshot::snapshot;
use egret::core::state::NodeState;
use jiff::Timestamp;

use crate::golden::{Differences, texts};
use crate::scenarios::host_network;

/// The folder that lends the others what they lack.
const USUAL: &str = "a_gateway_moves";

/// As on a terminal of a hundred columns.
const FORM: TextForm = TextForm { width: Some(100), diff: true };

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/previews")
}

fn now() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().expect("a time")
}

/// What a preview is made from.
pub(crate) struct Case {
    pub(crate) before: PolicySet,
    pub(crate) after: PolicySet,
    pub(crate) addresses: Vec<AddressChange>,
    pub(crate) facts: Facts,
    pub(crate) host_networks: BTreeMap<NodeName, HostNetwork>,
    pub(crate) validation: Validation,
    pub(crate) config_diff: String,
    pub(crate) settings_change: bool,
    pub(crate) concerned: bool,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) unsigned: Option<(String, String)>,
    pub(crate) reports: Vec<NodeReport>,
}

impl Case {
    pub(crate) fn new(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>, facts: Facts) -> Self {
        Self::with(before, after, facts, &Allocation::default())
    }

    /// With an allocation of pools on the reports branch.
    fn with(
        before: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
        facts: Facts,
        allocation: &Allocation,
    ) -> Self {
        let mut catalogue = Catalogue::new("prod");
        catalogue.update(before.iter().map(|(path, text)| (path.clone(), FileUpdate::Text(text.clone()))).collect());
        let earlier = catalogue.policies().clone();
        let failing = |catalogue: &Catalogue| {
            let Proposal { before, after, .. } = propose(allocation, &earlier, catalogue.policies(), now());
            let host_networks = &facts.host_networks;
            failed(&AssertionInput { set: &after, before: &before, facts: &facts, host_networks, now: now() })
        };
        let found = |catalogue: &Catalogue| {
            let mut found = catalogue.diagnostics();
            found.extend(lint(catalogue.policies(), Some(&facts), catalogue.spans()));
            found.extend(failing(catalogue).iter().map(|one| one.diagnostic(catalogue.spans())));
            found.sort();
            found.dedup();
            found
        };
        let found_before = found(&catalogue);
        let gone =
            before.keys().filter(|path| !after.contains_key(*path)).map(|path| (path.clone(), FileUpdate::Removed));
        let other = after.iter().filter(|(path, text)| before.get(*path) != Some(text));
        let changes = other.map(|(path, text)| (path.clone(), FileUpdate::Text(text.clone()))).chain(gone);
        let changes = changes.collect();
        let concerned = catalogue.concerned(&changes);
        catalogue.update(changes);
        let found_after = found(&catalogue);
        let tally = catalogue.tally(&found_after);
        let validation = Validation::new(&found_before, found_after, tally, catalogue.held(), failing(&catalogue));
        let config = |files: &BTreeMap<String, String>| files.get(CONFIG_FILE).cloned().unwrap_or_default();
        let diff = text_diff(&config(before), &config(after), "", "");
        let config_diff = diff.lines().skip(2).flat_map(|line| [line, "\n"]).collect();
        let Proposal { before, after, changes } = propose(allocation, &earlier, catalogue.policies(), now());
        Self {
            settings_change: !before.config.has_the_effect_of(&after.config),
            before,
            after,
            addresses: changes,
            facts,
            host_networks: BTreeMap::new(),
            validation,
            config_diff,
            concerned,
            trailers: Vec::new(),
            unsigned: None,
            reports: Vec::new(),
        }
    }

    fn read(folder: &Path) -> Self {
        let usual = root().join(USUAL);
        let part =
            |name: &str| Some(folder.join(name)).filter(|path| path.exists()).unwrap_or_else(|| usual.join(name));
        let both = texts(&part("both"));
        let side = |name: &str| -> BTreeMap<String, String> {
            both.clone()
                .into_iter()
                .chain(texts(&folder.join(name)))
                .filter(|(path, _)| path.ends_with("yaml"))
                .collect()
        };
        let cluster = Cluster::open(&part("cluster")).expect("the cluster");
        assert_eq!(cluster.faults(), [], "{}", folder.display());
        let allocation = texts(&folder.join("allocation")).into_values().next();
        let allocation = allocation.map(|text| read(&text).expect("an allocation")).unwrap_or_default();
        let mut case = Self::with(&side("base"), &side("head"), cluster.facts().clone(), &allocation);
        case.host_networks.clone_from(&cluster.facts().host_networks);
        for (file, text) in texts(&folder.join("ground")) {
            let name = NodeName::parse(file.strip_suffix(".yaml").expect("a node's name and .yaml")).expect("a node");
            case.host_networks.insert(name, host_network::read(&file, &text));
        }
        case.reports =
            texts(&folder.join("reports")).values().map(|text| read_node_file(text).expect("a report")).collect();
        let trailers = texts(&folder.join("message"));
        let lines = trailers.values().flat_map(|text| text.lines()).filter_map(|line| line.split_once(": "));
        case.trailers = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let signature = texts(&folder.join("signature")).into_values().next();
        case.unsigned = signature
            .map(|text| text.trim_end().split_once(": ").map(|(commit, what)| (commit.to_owned(), what.to_owned())))
            .map(|said| said.expect("a commit and what is wrong with it"));
        case
    }

    pub(crate) fn preview(&self, limits: DisplayLimits) -> Preview<'_> {
        preview(PreviewInput {
            cluster: "prod",
            commits: ("77d02fb0c1de", "a41c9e2b7f00"),
            before: &self.before,
            after: &self.after,
            addresses: &self.addresses,
            facts: &self.facts,
            facts_from: "2026-06-01T11:56:00Z",
            host_networks: &self.host_networks,
            now: now(),
            concerned: self.concerned,
            trailers: &self.trailers,
            unsigned: self.unsigned.as_ref().map(|(commit, what)| (commit.as_str(), what.as_str())),
            validation: &self.validation,
            config_diff: &self.config_diff,
            settings_change: self.settings_change,
            reports: &self.reports,
            limits,
        })
    }
}

fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root()).expect("the previews");
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a folder").path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

#[test]
fn every_preview_says_what_its_folder_expects() {
    let mut differences = Differences::default();
    for folder in folders() {
        let case = Case::read(&folder);
        let preview = case.preview(DisplayLimits::default());
        let text: String = lines(&preview, FORM).into_iter().map(|line| line.text + "\n").collect();
        let given = BTreeMap::from([("comment.md".to_owned(), markdown(&preview)), ("terminal.txt".to_owned(), text)]);
        differences.folder(&folder.join("expect"), &given);
    }
    differences.assert_none();
}

#[test]
fn nodes_said_to_change_are_exactly_those_whose_compiled_state_differs() {
    for folder in folders() {
        let case = Case::read(&folder);
        let limits = DisplayLimits { nodes: 1_000, ..DisplayLimits::default() };
        let preview = case.preview(limits);
        let said: BTreeSet<NodeName> = preview.nodes.shown.iter().map(|one| one.node.clone()).collect();
        let alike: usize = preview.nodes.shown.iter().map(|one| one.alike.len()).sum();
        let differs: BTreeSet<NodeName> =
            case.facts.nodes.keys().filter(|node| state_differs(&case, node)).cloned().collect();
        assert_eq!(preview.nodes.changed, differs.len(), "{}", folder.display());
        assert_eq!(said.len() + alike, differs.len(), "{}", folder.display());
        assert!(said.is_subset(&differs), "{}: {said:?} {differs:?}", folder.display());
    }
}

fn state_differs(case: &Case, node: &NodeName) -> bool {
    let features = KernelFeatures { owned_tables: true, interface_kinds: true, resets: true, ipv6: true };
    let empty = HostNetwork { features, ..HostNetwork::default() };
    let host_network = case.host_networks.get(node).unwrap_or(&empty);
    let state = |set: &PolicySet, observed: &NodeState| {
        let mut facts = case.facts.clone();
        for (name, known) in &mut facts.nodes {
            let old = case.before.labels_of(name, &known.labels);
            let new = set.labels_of(name, &known.labels);
            known.labels.retain(|key, value| new.contains_key(key) || old.get(key) != Some(value));
            known.labels.extend(new);
        }
        let input = NodeInput {
            node,
            set,
            facts: &facts,
            host_network,
            observed,
            refused: RefusedParts::NOTHING,
            liveness: LivenessView::NOTHING,
            holding: HoldingView::PLACED,
        };
        evaluate(&input, None, now()).compiled.desired
    };
    let before = state(&case.before, &NodeState::default());
    state(&case.after, &before) != before
}

/// Nodes of the huge cluster, and policies; each node has five pods. More of them would be cut off alike, and cost their square.
const HUGE: usize = 300;

/// A repository of so many policies for so many nodes in which everything changes; every text of the world is as long and wide as it may be.
fn huge() -> Case {
    let policy = |number: usize, address: &str| {
        let text = format!(
            "apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: policy-{number}-{long}}}\nspec:\n  selectors:\n  \
             - podSelector: {{matchLabels: {{app: app-{number}}}}}\n  destinationCIDRs: [100.64.{}.0/24]\n  egressGateways:\n  \
             - {{nodeSelector: {{matchLabels: {{gateway: g{}}}}}, egressIP: {address}}}\n",
            number % 250,
            number % 50,
            long = "x".repeat(200)
        );
        (format!("policies/{number}.yaml"), text)
    };
    let mut facts = Facts::default();
    for number in 0..HUGE {
        let name = NodeName::parse(&format!("node-{number}-{}", "n".repeat(50))).expect("a node");
        let node = egret::core::facts::Node {
            labels: BTreeMap::from([("gateway".to_owned(), format!("g{number}"))]),
            addresses: vec![format!("172.16.{}.{}", number / 250, number % 250).parse().expect("an address")],
            pod_cidrs: vec![format!("10.{}.{}.0/24", number / 250, number % 250).parse().expect("a network")],
            ready: true,
            unschedulable: false,
        };
        for host in 0..5 {
            let pod = egret::core::facts::Pod {
                labels: BTreeMap::from([("app".to_owned(), format!("app-{}", (number + host * HUGE / 5) % HUGE))]),
                node: Some(name.clone()),
                addresses: vec![
                    format!("10.{}.{}.{}", number / 250, number % 250, host + 2).parse().expect("an address"),
                ],
                ..egret::core::facts::Pod::default()
            };
            // Hostile, too: three bytes for each letter.
            let pod_name = format!("pod-{number}-{host}-{}", "日@".repeat(100));
            let namespace = format!("namespace-{}", number % 300);
            facts.pods.insert(egret::core::facts::PodName { namespace, name: pod_name }, pod);
        }
        facts.nodes.insert(name, node);
    }
    let side = |address: &str| (0..HUGE).map(|number| policy(number, address)).collect();
    Case::new(&side("192.0.2.1"), &side("192.0.2.2"), facts)
}

#[test]
fn a_comment_fits_whatever_changes_and_says_that_it_was_shortened() {
    let case = huge();
    let preview = case.preview(DisplayLimits::default());
    assert_eq!((preview.moved, preview.nodes.changed), (5 * HUGE, HUGE));
    for limit in [65_000, 30_000, 12_000] {
        let limits = DisplayLimits { comment: limit, ..DisplayLimits::default() };
        let preview = Preview { input: PreviewInput { limits, ..preview.input }, ..preview.clone() };
        let comment = markdown(&preview);
        assert!(comment.len() <= limit, "{} bytes of {limit}", comment.len());
        assert!(comment.contains("1500 pods would come from another address"), "{comment}");
        assert!(comment.contains("Shortened to fit"), "{comment}");
        assert_eq!(comment.matches("<details>").count(), comment.matches("</details>").count());
        assert_eq!(comment.lines().filter(|line| line.starts_with("```")).count() % 2, 0);
    }
}

#[test]
fn a_comment_fits_whatever_texts_a_head_has() {
    let mut case = huge();
    let point = SpanPoint::default();
    let found = ["`".repeat(100_000), "\u{e0001}".repeat(5_000), "@all <b>".repeat(5_000)].into_iter().cycle();
    let found = found.take(300).enumerate().map(|(number, message)| Diagnostic {
        file: format!("{number:03}.yaml"),
        start: point,
        end: point,
        severity: Severity::Error,
        code: "unknown-field",
        message,
        label: String::new(),
        hint: None,
    });
    case.validation.found = found.map(|one| (one, false)).collect();
    case.validation.tally.errors = 300;
    case.unsigned = Some(("a41c9e2b7f00".to_owned(), "\u{e0001}".repeat(5_000)));
    let preview = case.preview(DisplayLimits::default());
    for limit in [65_000, 12_000, 6_000] {
        let limits = DisplayLimits { comment: limit, ..DisplayLimits::default() };
        let comment = markdown(&Preview { input: PreviewInput { limits, ..preview.input }, ..preview.clone() });
        assert!(comment.len() <= limit, "{} bytes of {limit}", comment.len());
        assert!(comment.starts_with("<!-- egret-preview:{\"cluster\":\"prod\",\"v\":1} -->\n### "), "{comment}");
        for words in ["**It does not validate**", "**Look at this before you merge**", "Shortened to fit"] {
            assert!(comment.contains(words), "{words} is not in {comment}");
        }
        assert_eq!(comment.lines().filter(|line| line.starts_with("```")).count() % 2, 0, "{comment}");
    }
}

#[test]
fn nothing_of_a_hostile_repository_is_a_mention_a_link_or_html() {
    let comment = markdown(&Case::read(&root().join("hostile_text_has_no_power")).preview(DisplayLimits::default()));
    let mut fence: Option<String> = None;
    for line in comment.lines() {
        let ticks: String = line.chars().take_while(|letter| *letter == '`').collect();
        match &fence {
            Some(open) if ticks == *open && line == open => fence = None,
            Some(_) => {}
            None if ticks.len() >= 3 => fence = Some(ticks),
            None => {
                for word in ["@everyone", "@all", "#1", "https://", "www.evil", "](", "<script", "<b>", "<img"] {
                    let escaped = line.replace("\\](", "");
                    assert!(!escaped.contains(word), "{word} in {line}");
                }
                let allowed = ["<details><summary>", "</summary>", "</details>", "<sub>", "</sub>", "<!-- ", " -->"];
                let rest = allowed.iter().fold(line.to_owned(), |line, tag| line.replace(tag, ""));
                assert!(!rest.contains(['<', '>']), "{line}");
            }
        }
    }
    assert_eq!(fence, None);
}

#[test]
fn a_snapshot_reads_back_as_what_it_was_made_from() {
    let mut facts = Case::read(&root().join("hostile_text_has_no_power")).facts;
    let odd = [
        "",
        "true",
        "null",
        "1e3",
        "0x10",
        "~",
        "a: b",
        "# no",
        "\"\\\u{7}\n",
        "\u{feff}\u{2028}é日",
        "- x",
        "no",
        "1_000",
        ".5",
        "=",
    ];
    for (number, text) in odd.iter().enumerate() {
        facts
            .namespaces
            .insert(format!("ns-{number}"), BTreeMap::from([(format!("key-{number}"), (*text).to_owned())]));
    }
    facts.pod_networks = ["10.48.0.0/16", "fd20::/104"].map(|net| net.parse().expect("a network")).to_vec();
    let text = snapshot(&facts);
    assert_eq!(egret::cluster::read_text("snapshot.yaml", &text), Ok((facts.clone(), Vec::new())), "{text}");
    assert_eq!(snapshot(&facts), text);
}

#[test]
fn no_line_on_a_terminal_is_wider_than_a_hundred_columns_unless_it_cannot_be_broken() {
    for folder in folders() {
        let case = Case::read(&folder);
        for line in lines(&case.preview(DisplayLimits::default()), FORM) {
            let long = line.text.trim_start_matches(['+', '-', ' ']).contains(' ') && !line.text.starts_with("    ");
            assert!(!long || line.text.chars().count() <= 100, "{}: {}", folder.display(), line.text);
        }
    }
}
