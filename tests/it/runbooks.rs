//! Runbooks: there is one for every reason that needs a person and for every alert, each says the same five things, and what they name
//! exists: pages, commands, metrics.
//!
//! Not here: whether an alert fires (tests/monitoring), and links of other pages (`pages`).

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use egret::core::status::Reason;
use egret::serve::{FAMILIES, MetricFamily};
use serde::Deserialize;

const ALERTS: &str = include_str!("../../charts/egret/rules/egret.yaml");
const DASHBOARD: &str = include_str!("../../charts/egret/dashboards/egret.json");
const CONDITIONS: &str = include_str!("../../docs/conditions.md");

/// Reasons that say that all is well.
const WELL: [Reason; 8] = [
    Reason::Programmed,
    Reason::NoPolicies,
    Reason::Accepted,
    Reason::Fetched,
    Reason::Published,
    Reason::Pushed,
    Reason::Posted,
    Reason::AssertionsKept,
];

/// What each runbook says, in this order.
const HEADINGS: [&str; 5] = ["What it means", "What is dropped", "Look", "Mend", "It is over when"];

/// Families that no alert needs and that say nothing to look at in a graph.
const NOT_SHOWN: [&str; 1] = ["egret_build_info"];

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn rules() -> Vec<Rule> {
    let file: File = serde_yaml::from_str(ALERTS).unwrap();
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks")
}

/// The runbooks by name.
fn runbooks() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let runbooks = files.map(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    });
    runbooks.filter(|(name, _)| name != "README").collect()
}

/// The runbooks that an alert leads to. One of a pending commit has the reason in its address.
fn pages_of(rule: &Rule) -> Vec<String> {
    let page = rule.annotations["runbook"].strip_prefix("docs/runbooks/").and_then(|page| page.strip_suffix(".md"));
    let page = page.unwrap_or_else(|| panic!("{}: {:?}", rule.alert, rule.annotations));
    if page != "{{ $labels.reason }}" {
        return vec![page.to_owned()];
    }
    let (_, reasons) = rule.expr.split_once("reason=~\"").unwrap();
    reasons.split('"').next().unwrap().split('|').map(str::to_owned).collect()
}

#[test]
fn every_reason_that_needs_a_person_and_every_alert_has_a_runbook_and_no_runbook_is_idle() {
    let reasons = Reason::ALL.iter().filter(|reason| !WELL.contains(reason)).map(ToString::to_string);
    let alerts = rules().iter().flat_map(pages_of).collect::<Vec<_>>();
    let wanted: BTreeSet<String> = reasons.chain(alerts).collect();
    let found: BTreeSet<String> = runbooks().into_keys().collect();
    assert_eq!(found, wanted, "docs/runbooks has a page for each of them");
}

#[test]
fn the_page_of_conditions_leads_to_the_runbook_of_each_reason() {
    for reason in Reason::ALL {
        let start = format!("| `{reason}` | ");
        let row = CONDITIONS.lines().rfind(|line| line.starts_with(&start)).unwrap();
        let leads = row.contains(&format!("[runbook](runbooks/{reason}.md)"));
        assert_eq!(leads, !WELL.contains(reason), "{row}");
    }
}

#[test]
fn every_runbook_says_the_same_five_things() {
    for (name, text) in runbooks() {
        assert!(text.starts_with(&format!("# {name}\n")), "{name}");
        let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, HEADINGS, "{name}");
        let sections: Vec<&str> = text.split("\n## ").skip(1).collect();
        for section in sections {
            let (heading, body) = section.split_once('\n').unwrap();
            assert!(body.trim().len() > 5, "{name}: {heading} is empty");
        }
        assert!(text.lines().any(|line| line.starts_with("    ")), "{name} has no command to look with");
    }
}

#[test]
fn the_list_of_runbooks_has_every_alert_and_every_page() {
    let page = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for rule in rules() {
        let links: Vec<String> = pages_of(&rule).iter().map(|page| format!("[{page}]({page}.md)")).collect();
        let row = format!("| `{}` | {} |", rule.alert, links.join(", "));
        assert!(page.lines().any(|line| line == row), "docs/runbooks/README.md lacks: {row}");
    }
    for name in runbooks().keys() {
        assert!(page.contains(&format!("({name}.md)")), "docs/runbooks/README.md does not name {name}");
    }
}

#[test]
fn alerts_have_a_severity_a_threshold_and_words() {
    let mut names = BTreeSet::new();
    for rule in rules() {
        assert!(names.insert(rule.alert.clone()), "{} is there twice", rule.alert);
        assert!(rule.alert.starts_with("Egret"), "{}", rule.alert);
        assert!(["critical", "warning", "info"].contains(&rule.labels["severity"].as_str()), "{}", rule.alert);
        let keys: Vec<&str> = rule.annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["description", "runbook", "summary"], "{}", rule.alert);
        // What the chart's values replace.
        let threshold = rule.expr.rsplit(' ').next().unwrap();
        assert!(threshold.parse::<f64>().is_ok(), "{} ends in no number: {}", rule.alert, rule.expr);
    }
}

/// The names of metrics in a text, without the suffixes of a histogram.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    words.filter(|word| word.starts_with("egret_")).map(|word| word.trim_end_matches("_bucket")).collect()
}

#[test]
fn alerts_and_runbooks_ask_for_metrics_that_there_are() {
    let known: BTreeSet<String> = FAMILIES.iter().map(MetricFamily::sample).collect();
    let mut texts: BTreeMap<String, String> = runbooks();
    for rule in rules() {
        texts.insert(rule.alert, rule.expr);
    }
    for (name, text) in texts {
        let unknown: Vec<&str> = metrics_in(&text).into_iter().filter(|metric| !known.contains(*metric)).collect();
        assert_eq!(unknown, Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn every_metric_is_in_an_alert_or_on_the_dashboard() {
    let expressions = rules().into_iter().map(|rule| rule.expr).collect::<Vec<_>>().join(" ");
    let used: BTreeSet<&str> = metrics_in(DASHBOARD).union(&metrics_in(&expressions)).copied().collect();
    let unused: Vec<String> =
        FAMILIES.iter().map(MetricFamily::sample).filter(|name| !used.contains(name.as_str())).collect();
    assert_eq!(unused, NOT_SHOWN);
}
