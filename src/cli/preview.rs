//! `egret preview`: what a change of the repository would do to a cluster, without the cluster and without a kernel.
//!
//! Deliberately absent: posting it, and what it says (`core::preview`).

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;

use super::diagnostics::Colour;
use super::options::{self, RepositoryOptions, SignatureOptions};
use super::output::{self, CHANGES, Failure, Form, Paint, paint};
use super::plan::Scratch;
use crate::cluster::{Cluster, read_text};
use crate::core::diagnostic::Diagnostic;
use crate::core::facts::Facts;
use crate::core::plan::text_diff;
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::Catalogue;
use crate::core::policy::document::CONFIG_FILE;
use crate::core::policy::lint::{lint, suspensions};
use crate::core::preview::{Input, Limits, Look, Preview, Validation, lines, markdown, preview};
use crate::core::report::files::read_node_file;
use crate::core::report::history::NodeReport;
use crate::core::snapshot;
use crate::git::CommitId;
use crate::git::files::FileChange;
use crate::git::mirror::Mirror;
use crate::reconcile::repository;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    repository: RepositoryOptions,
    #[command(flatten)]
    signatures: SignatureOptions,
    /// The branch that the change is to be merged into, or a commit of it.
    #[arg(long, value_name = "REV", default_value = "main")]
    base: String,
    /// The change: a branch, a tag, a commit.
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    head: String,
    /// A snapshot, or manifests as `kubectl get nodes,namespaces,pods -A -o yaml` prints them. The snapshot on the cluster's
    /// reports branch unless it is given.
    #[arg(long, value_name = "PATH", env = "EGRET_CLUSTER")]
    cluster: Option<PathBuf>,
    /// The cluster's name: its entry in egret.yaml and its reports branch.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default",
          value_parser = options::cluster_name)]
    cluster_name: String,
    /// The form of the result; `markdown` is a comment that fits into a pull request.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Form::Text)]
    output: Form,
    /// How many names of pods a list has, and on how many nodes the exact changes are shown, then with every line of theirs.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The time to preview for: it decides which suspended policies are in force. The later one of the times of the head and of
    /// the snapshot's commit unless it is given, so that the same commits give the same preview.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
}

/// The two commits and what they say.
struct Change {
    base: CommitId,
    head: CommitId,
    before: PolicySet,
    found_before: Vec<Diagnostic>,
    catalogue: Catalogue,
    config_diff: String,
    concerned: bool,
    trailers: Vec<(String, String)>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let scratch = Scratch::new()?;
    let source = arguments.repository.source()?;
    let mut mirror = Mirror::open(scratch.path(), source, arguments.repository.access())?;
    let (base, head) = commits(&mut mirror, arguments)?;
    let first = read(&mirror, base, &arguments.cluster_name)?;
    // What the head says of the reports branch is not asked: who writes the head would choose the snapshot.
    let branch = first.policies().config.reports_branch.clone();
    let (facts, facts_from, taken) = facts(arguments, &mut mirror, &branch)?;
    let time = mirror.commit_info(head)?.time;
    let now = arguments.at.unwrap_or_else(|| taken.map_or(time, |taken| taken.max(time)));
    let change = change(&mirror, (base, head), first, &facts, now)?;
    let after = change.catalogue.policies();
    let demanded = change.before.config.signatures.as_ref();
    let unsigned = arguments.signatures.flags().judge(&mirror, demanded, Some(change.base), change.head)?.err();
    let unsigned = unsigned.map(|unsigned| (unsigned.commit.to_string(), unsigned.what));
    let mut found = change.catalogue.diagnostics();
    found.extend(lint(after, Some(&facts), change.catalogue.spans()));
    found.extend(suspensions(after, change.catalogue.spans(), now));
    found.sort();
    found.dedup();
    let tally = change.catalogue.tally(&found);
    let validation = Validation::new(&change.found_before, found, tally, change.catalogue.held());
    let facts_from = taken
        .and_then(|taken| snapshot::age(taken, now))
        .map_or(facts_from.clone(), |age| format!("{facts_from}, {age} old"));
    let (base, head) = (change.base.short(), change.head.short());
    let reports = reports(&mut mirror, &branch);
    let preview = preview(Input {
        cluster: &arguments.cluster_name,
        commits: (&base, &head),
        before: &change.before,
        after,
        facts: &facts,
        facts_from: &facts_from,
        grounds: &facts.grounds,
        now,
        concerned: change.concerned,
        trailers: &change.trailers,
        unsigned: unsigned.as_ref().map(|(commit, what)| (commit.as_str(), what.as_str())),
        validation: &validation,
        config_diff: &change.config_diff,
        reports: &reports,
        limits: limits(arguments.limit),
    });
    output::print(&shown(&preview, arguments.output, output::colour()))?;
    Ok(match (validation.fails(), preview.changes()) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(CHANGES),
        (false, false) => ExitCode::SUCCESS,
    })
}

fn limits(limit: Option<usize>) -> Limits {
    let usual = Limits::default();
    limit.map_or(usual, |limit| Limits { names: limit, nodes: limit, lines: usize::MAX, ..usual })
}

/// Where the change began, and its head.
fn commits(mirror: &mut Mirror, arguments: &Arguments) -> Result<(CommitId, CommitId), Failure> {
    let (base, head) = (mirror.resolve_here(&arguments.base)?, mirror.resolve_here(&arguments.head)?);
    let parted = mirror.merge_base(base, head)?.ok_or_else(|| {
        let message = format!("compare {} with {}: they have no common history", arguments.head, arguments.base);
        Failure::new(message, Some("in CI, check out the whole history: fetch-depth: 0".to_owned()))
    })?;
    Ok((parted, head))
}

fn read(mirror: &Mirror, commit: CommitId, cluster: &str) -> Result<Catalogue, Failure> {
    let mut catalogue = Catalogue::new(cluster);
    catalogue.update(repository::changes(mirror.files(commit, &[String::new()])?));
    Ok(catalogue)
}

/// Takes the head's files on top of the base's, as a cluster will: a document that is bad keeps its version of before.
fn change(
    mirror: &Mirror,
    (base, head): (CommitId, CommitId),
    mut catalogue: Catalogue,
    facts: &Facts,
    now: Timestamp,
) -> Result<Change, Failure> {
    let before = catalogue.policies().clone();
    let mut found_before = catalogue.diagnostics();
    found_before.extend(lint(&before, Some(facts), catalogue.spans()));
    found_before.extend(suspensions(&before, catalogue.spans(), now));
    let config = |catalogue: &Catalogue| catalogue.text(CONFIG_FILE).unwrap_or_default().to_owned();
    let config_before = config(&catalogue);
    let changes = repository::changes(mirror.changes(Some(base), head, &[String::new()])?);
    let (concerned, trailers) = (catalogue.concerned(&changes), mirror.trailers(head)?);
    catalogue.update(changes);
    let diff = text_diff(&config_before, &config(&catalogue), "", "");
    let config_diff = diff.lines().skip(2).flat_map(|line| [line, "\n"]).collect();
    Ok(Change { base, head, before, found_before, catalogue, config_diff, concerned, trailers })
}

/// What nodes report, where somebody has put it. It is told beside the preview; without it, nothing is missing from that.
fn reports(mirror: &mut Mirror, branch: &str) -> Vec<NodeReport> {
    let commit = mirror.resolve_here(branch);
    let files = commit.and_then(|commit| mirror.files(commit, &["nodes".to_owned()])).unwrap_or_default();
    let texts = files.into_values().filter_map(|file| match file {
        FileChange::Text(text) => read_node_file(&text),
        FileChange::Removed | FileChange::Refused(_) => None,
    });
    texts.collect()
}

/// The cluster, where that is from, and when it was written down, where somebody says.
fn facts(
    arguments: &Arguments,
    mirror: &mut Mirror,
    branch: &str,
) -> Result<(Facts, String, Option<Timestamp>), Failure> {
    if let Some(path) = &arguments.cluster {
        let cluster = Cluster::open(path)?;
        if let Some(fault) =
            cluster.faults().iter().find(|fault| fault.severity == crate::core::diagnostic::Severity::Error)
        {
            return Err(Failure::new(format!("read the manifests: {fault}"), None));
        }
        let name = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
        return Ok((cluster.facts().clone(), name.into_owned(), None));
    }
    let hint = || Some("give a snapshot by --cluster; `egret snapshot` writes one".to_owned());
    let commit = mirror.resolve_here(branch).map_err(|error| Failure::new(error, hint()))?;
    let text = mirror.text(commit, snapshot::FILE, snapshot::LARGEST)?.ok_or_else(|| {
        Failure::new(format!("read {} of the branch {branch}: there is none", snapshot::FILE), hint())
    })?;
    let (facts, faults) = read_text(snapshot::FILE, &text).map_err(|fault| Failure::new(fault.to_string(), hint()))?;
    if let Some(fault) = faults.first() {
        return Err(Failure::new(format!("read the snapshot of the branch {branch}: {fault}"), hint()));
    }
    // A report's commit may be later than the snapshot in it.
    let taken = snapshot::taken(&text).map_or_else(|| mirror.commit_info(commit).map(|info| info.time), Ok)?;
    Ok((facts, format!("{taken}, {branch} at {}", commit.short()), Some(taken)))
}

fn shown(preview: &Preview<'_>, form: Form, colour: Colour) -> String {
    match form {
        Form::Markdown => markdown(preview),
        Form::Json => format!("{:#}\n", super::preview_json::json(preview)),
        Form::Text => {
            let painted = lines(preview).into_iter().map(|line| {
                let look = match line.look {
                    Look::Title => Paint::Title,
                    Look::Bad => Paint::Bad,
                    Look::Doubtful => Paint::Doubtful,
                    Look::Added => Paint::Good,
                    Look::Removed => Paint::Gone,
                    Look::Place => Paint::Place,
                    Look::Plain => return line.text + "\n",
                };
                paint(&line.text, look, colour) + "\n"
            });
            painted.collect()
        }
    }
}
