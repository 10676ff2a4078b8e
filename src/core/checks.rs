//! The doctor's checks of many nodes as one list: the worst first, alike ones together, bounded however many nodes there are.
//!
//! Agents' answers are not trusted: they are bounded when they are read, and escaped when they are shown. Not here: the
//! checks (`kernel::doctor`), and asking for them (`cluster`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use super::escape::shown;
use super::name::NodeName;
use super::text::{counted, shortened};

/// The most checks of one node that are looked at, and the most characters of a text in one.
const CHECKS: usize = 64;
const LONGEST: usize = 500;
/// So many wordings of one check are kept apart; nodes put their own names and addresses into some.
const WORDINGS: usize = 3;
/// So many problems are shown, and so many nodes are named beside each.
const SHOWN: usize = 40;
const NAMED: usize = 6;
/// Of nodes that did not answer more are named: nothing else says which they are.
const SILENT_NAMED: usize = 20;

/// How bad it is; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Some or all packets would not be steered.
    Error,
    /// The agent did not answer.
    #[serde(skip_deserializing)]
    Silent,
    /// Steering works, but something may disturb it.
    Warn,
    /// As it should be.
    Ok,
}

/// One check of one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckAnswer {
    /// How bad it is.
    pub severity: Severity,
    /// A stable identifier.
    pub code: String,
    /// One line.
    pub message: String,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
}

/// What an agent answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChecksAnswer {
    /// The version of this form.
    pub format_version: u32,
    /// The checks.
    pub checks: Vec<CheckAnswer>,
}

impl ChecksAnswer {
    /// Its checks, within bounds.
    pub fn bounded(self) -> Vec<CheckAnswer> {
        let bound = |check: CheckAnswer| CheckAnswer {
            severity: check.severity,
            code: shortened(&check.code, 60),
            message: shortened(&check.message, LONGEST),
            hint: check.hint.map(|hint| shortened(&hint, LONGEST)),
        };
        self.checks.into_iter().take(CHECKS).map(bound).collect()
    }
}

/// What became of the question to one node: its checks, or why there are none.
pub type Examined = Result<Vec<CheckAnswer>, String>;

/// A problem, and the nodes that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// A stable identifier; `no-answer` of agents that did not answer.
    pub code: String,
    /// One line; of several wordings the one that most nodes have.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// How many other wordings are in it.
    pub wordings: usize,
    /// The nodes.
    #[serde(serialize_with = "names")]
    pub nodes: Vec<NodeName>,
}

fn names<S: Serializer>(nodes: &[NodeName], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(nodes.iter().map(NodeName::as_str))
}

/// The nodes of a cluster, by their doctors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClusterHealth {
    /// How many nodes were asked.
    pub nodes: usize,
    /// How many have an error.
    pub errors: usize,
    /// How many have a warning and no error.
    pub warnings: usize,
    /// How many did not answer.
    pub silent: usize,
    /// What is wrong, the worst first; of two that are as bad, the one that more nodes have.
    pub problems: Vec<Problem>,
    /// Problems that are left out.
    pub more: usize,
}

impl ClusterHealth {
    /// Puts the answers of all nodes together.
    pub fn of(examined: &BTreeMap<NodeName, Examined>) -> Self {
        let mut health = Self { nodes: examined.len(), ..Self::default() };
        let mut found: BTreeMap<(Severity, &str), Wordings<'_>> = BTreeMap::new();
        for (node, answer) in examined {
            match answer {
                Ok(checks) => {
                    let worst = checks.iter().map(|check| check.severity).min();
                    health.errors += usize::from(worst == Some(Severity::Error));
                    health.warnings += usize::from(worst == Some(Severity::Warn));
                    for check in
                        checks.iter().filter(|check| matches!(check.severity, Severity::Error | Severity::Warn))
                    {
                        let of_code = found.entry((check.severity, &check.code)).or_default();
                        let nodes = of_code.entry((&check.message, check.hint.as_deref())).or_default();
                        // An agent may say the same twice.
                        if nodes.last() != Some(node) {
                            nodes.push(node.clone());
                        }
                    }
                }
                Err(why) => {
                    health.silent += 1;
                    let of_code = found.entry((Severity::Silent, "no-answer")).or_default();
                    of_code.entry((why, None)).or_default().push(node.clone());
                }
            }
        }
        for ((severity, code), wordings) in found {
            health.problems.extend(problems(severity, code, wordings));
        }
        health.problems.sort_by(|a, b| {
            let rank = |one: &Problem| (one.severity, std::cmp::Reverse(one.nodes.len()));
            rank(a).cmp(&rank(b)).then_with(|| (&a.code, &a.message).cmp(&(&b.code, &b.message)))
        });
        health.more = health.problems.len().saturating_sub(SHOWN);
        health.problems.truncate(SHOWN);
        health
    }

    /// Whether something was found that keeps packets from being steered, or may be: who does not answer may have it.
    pub fn is_bad(&self) -> bool {
        self.errors + self.silent > 0
    }

    /// The first line.
    pub fn summary(&self) -> String {
        let all = counted(self.nodes, "node");
        let parts =
            [(self.errors, "with errors"), (self.silent, "without an answer"), (self.warnings, "with warnings")];
        let parts: Vec<String> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if parts.is_empty() { format!("{all}: nothing is wrong") } else { format!("{all}: {}", parts.join(", ")) }
    }
}

/// Messages and hints of one check, and the nodes that have each.
type Wordings<'a> = BTreeMap<(&'a str, Option<&'a str>), Vec<NodeName>>;

/// The problems of one check: a few wordings separately, the others together.
fn problems(severity: Severity, code: &str, wordings: Wordings<'_>) -> Vec<Problem> {
    let mut wordings: Vec<_> = wordings.into_iter().collect();
    wordings.sort_by_key(|(_, nodes)| std::cmp::Reverse(nodes.len()));
    let mut problems: Vec<Problem> = Vec::new();
    for ((message, hint), nodes) in wordings {
        // Why agents did not answer is always shown.
        let full = problems.len() > WORDINGS && severity != Severity::Silent;
        if let Some(last) = problems.last_mut().filter(|_| full) {
            last.wordings += 1;
            last.nodes.extend(nodes);
        } else {
            let (message, hint) = (message.to_owned(), hint.map(str::to_owned));
            problems.push(Problem { severity, code: code.to_owned(), message, hint, wordings: 0, nodes });
        }
    }
    for problem in &mut problems {
        problem.nodes.sort();
        problem.nodes.dedup();
    }
    problems
}

impl Problem {
    /// Its nodes, in words: `beta`, `3 nodes (alpha, beta, gamma)`. Names are not trusted.
    pub fn where_it_is(&self) -> String {
        let most = if self.severity == Severity::Silent { SILENT_NAMED } else { NAMED };
        if let [only] = &self.nodes[..] {
            return shown(only.as_str());
        }
        let names: Vec<String> = self.nodes.iter().take(most).map(|node| shown(node.as_str())).collect();
        let more = self.nodes.len().saturating_sub(most);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{} ({}{more})", counted(self.nodes.len(), "node"), names.join(", "))
    }

    /// Its line, and its hint. Both are safe for a terminal.
    pub fn lines(&self) -> (String, Option<String>) {
        let others = match self.wordings {
            0 => String::new(),
            others => format!(" (and {} of the same kind)", counted(others, "other message")),
        };
        let line = format!("{}: {}{others}", self.where_it_is(), shown(&self.message));
        (line, self.hint.as_deref().map(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeName {
        NodeName::parse(&format!("node-{number:04}")).unwrap()
    }

    fn check(severity: Severity, code: &str, message: &str) -> CheckAnswer {
        CheckAnswer { severity, code: code.to_owned(), message: message.to_owned(), hint: Some("do it".to_owned()) }
    }

    #[test]
    fn the_worst_comes_first_and_five_thousand_nodes_are_a_page() {
        let mut examined: BTreeMap<NodeName, Examined> = BTreeMap::new();
        for number in 0..5000 {
            let mut checks = vec![check(Severity::Ok, "kernel", "fine")];
            if number % 2 == 0 {
                checks.push(check(Severity::Warn, "forward-drop", "a firewall drops"));
            }
            if number == 4711 {
                checks.push(check(Severity::Error, "tunnel-port", "the port is taken"));
            }
            // Each in its own words.
            checks.push(check(Severity::Warn, "mtu", &format!("{number} is small")));
            let answer = if number % 1000 == 7 { Err("no answer within 2 s".to_owned()) } else { Ok(checks) };
            examined.insert(node(number), answer);
        }
        let health = ClusterHealth::of(&examined);
        assert_eq!(health.summary(), "5000 nodes: 1 with errors, 5 without an answer, 4994 with warnings");
        let lines: Vec<String> = health.problems.iter().map(|problem| problem.lines().0).collect();
        assert_eq!(lines[0], "node-4711: the port is taken");
        let silent = "5 nodes (node-0007, node-1007, node-2007, node-3007, node-4007): no answer within 2 s";
        assert_eq!(lines[1], silent);
        assert!(lines[2].starts_with("4992 nodes ("), "{}", lines[2]);
        assert!(
            lines.iter().any(|line| line.starts_with("2500 nodes (") && line.ends_with("a firewall drops")),
            "{lines:?}"
        );
        assert!(lines.len() < 10, "{lines:?}");
        assert!(health.is_bad());
    }

    #[test]
    fn a_hostile_answer_is_bounded_and_shows_no_control_character() {
        let checks = (0..10_000).map(|number| check(Severity::Error, &format!("c{number}"), &"\u{1b}[2J".repeat(1000)));
        let answer = ChecksAnswer { format_version: 1, checks: checks.collect() };
        let health = ClusterHealth::of(&BTreeMap::from([(node(1), Ok(answer.bounded()))]));
        assert_eq!((health.problems.len(), health.more), (SHOWN, CHECKS - SHOWN));
        for problem in &health.problems {
            let (line, _) = problem.lines();
            assert!(!line.contains('\u{1b}') && line.chars().count() < 4000, "{line}");
        }
    }
}
