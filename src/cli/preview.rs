//! `egret preview`: what a change of the repository would do to a cluster, without the cluster and without a kernel.
//!
//! Deliberately absent: where it is posted to (`posting`), its making (`reconcile::previewing`), and what it says (`core::preview`).

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;

use super::diagnostics::Colour;
use super::options::{self, AdmissionOptions, LabelOptions, RepositoryOptions, SignatureOptions};
use super::output::{self, CHANGES, Failure, Form, Paint, paint};
use super::plan::Scratch;
use super::posting::PostOptions;
use crate::cluster::{Cluster, read_text};
use crate::core::facts::Facts;
use crate::core::preview::{CostLimits, DisplayLimits, LineStyle, Preview, lines, markdown};
use crate::core::report::files::read_node_file;
use crate::core::report::history::NodeReport;
use crate::core::snapshot;
use crate::git::CommitId;
use crate::git::files::{FileChange, MOST_TEXT};
use crate::git::mirror::Mirror;
use crate::reconcile::gitops::preview::{ClusterContext, MergeBase, ProposedChange};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    repository: RepositoryOptions,
    #[command(flatten)]
    signatures: SignatureOptions,
    #[command(flatten)]
    admission: AdmissionOptions,
    #[command(flatten)]
    labels: LabelOptions,
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
    #[command(flatten)]
    posting: PostOptions,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let target = arguments.posting.target()?;
    let scratch = Scratch::new()?;
    let source = arguments.repository.source()?;
    let mut mirror = Mirror::open(scratch.path(), source, arguments.repository.access()?)?;
    let (tip, base, head) = commits(&mut mirror, arguments)?;
    if base == head {
        output::note("note: both are the same commit; a preview is of commits, and of nothing that is not committed\n");
    }
    let first = MergeBase::read(&mirror, base, tip, &arguments.cluster_name, arguments.labels.keys().as_deref())?;
    // What the head says of the reports branch is not asked: who writes the head would choose the snapshot.
    let branch = first.config().reports_branch.clone();
    let (facts, facts_from, taken) = facts(arguments, &mut mirror, &branch)?;
    let reports = reports(&mut mirror, &branch);
    let time = mirror.commit_info(head)?.time;
    let now = arguments.at.unwrap_or_else(|| taken.map_or(time, |taken| taken.max(time)));
    let facts_from = taken
        .and_then(|taken| snapshot::age(taken, now))
        .map_or(facts_from.clone(), |age| format!("{facts_from}, {age} old"));
    let (flags, windows) = (arguments.signatures.flags(), arguments.admission.windows()?);
    let surroundings = ClusterContext {
        facts: &facts,
        facts_from: &facts_from,
        host_networks: &facts.host_networks,
        reports: &reports,
        now,
        signatures: &flags,
        windows: windows.as_ref(),
        limits: limits(arguments.limit),
        most: MOST_TEXT,
        work: CostLimits::ANY,
    };
    let change = ProposedChange::read(&mirror, &arguments.cluster_name, first, head, surroundings)?;
    let preview = change.preview(surroundings);
    output::print(&shown(&preview, arguments.output, output::colour()))?;
    if let Some(target) = target {
        target.post(&preview, &head.to_string())?;
    }
    Ok(match (change.validation().fails(), preview.changes()) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(CHANGES),
        (false, false) => ExitCode::SUCCESS,
    })
}

fn limits(limit: Option<usize>) -> DisplayLimits {
    let usual = DisplayLimits::default();
    limit.map_or(usual, |limit| DisplayLimits { names: limit, nodes: limit, lines: usize::MAX, ..usual })
}

/// The tip that the change is for, where it began, and its head.
fn commits(mirror: &mut Mirror, arguments: &Arguments) -> Result<(CommitId, CommitId, CommitId), Failure> {
    let (base, head) = (mirror.resolve_here(&arguments.base)?, mirror.resolve_here(&arguments.head)?);
    let parted = mirror.merge_base(base, head)?.ok_or_else(|| {
        let message = format!("compare {} with {}: they have no common history", arguments.head, arguments.base);
        Failure::new(message, Some("in CI, check out the whole history: fetch-depth: 0".to_owned()))
    })?;
    Ok((base, parted, head))
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
                    LineStyle::Title => Paint::Title,
                    LineStyle::Bad => Paint::Bad,
                    LineStyle::Doubtful => Paint::Doubtful,
                    LineStyle::Added => Paint::Good,
                    LineStyle::Removed => Paint::Gone,
                    LineStyle::Place => Paint::Place,
                    LineStyle::Plain => return line.text + "\n",
                };
                paint(&line.text, look, colour) + "\n"
            });
            painted.collect()
        }
    }
}
