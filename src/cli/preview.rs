//! `egret preview`: what a change of the repository would do to a cluster, without the cluster and without a kernel. `core::preview` has its
//! contents, `reconcile::previewing` makes it, `post` posts it.

use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;

use super::args::{AdmissionArgs, CLUSTER, GitArgs, OUTPUT, RepoArgs, cluster_name};
use super::exit::{self, CHANGES};
use super::json;
use super::output::{self, Failure, Form, Manifests, Paint, Verbosity, is_standard_input, paint};
use super::plan::Scratch;
use super::post::PostArgs;
use super::preview_json::PreviewJson;
use crate::cluster::read_text;
use crate::core::allocation::{self, Allocation};
use crate::core::diagnostic::Severity;
use crate::core::facts::Facts;
use crate::core::preview::{CostLimits, DisplayLimits, LineStyle, Preview, TextForm, lines, markdown};
use crate::core::report::files::read_node_file;
use crate::core::report::history::NodeReport;
use crate::core::snapshot;
use crate::git::CommitId;
use crate::git::files::{FileChange, MOST_TEXT};
use crate::git::mirror::{History, Mirror};
use crate::reconcile::gitops::preview::{ClusterContext, MergeBase, ProposedChange};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 nothing would change, 2 there are changes, 1 failure, a document has an error, or an assertion fails."
)]
pub(super) struct PreviewArgs {
    #[command(flatten)]
    repo: RepoArgs,
    /// The branch that the change is to be merged into, or a commit of it.
    #[arg(long, value_name = "REV", default_value = "main")]
    base: String,
    /// The change: a branch, a tag, a commit.
    #[arg(long, value_name = "REV", default_value = "HEAD")]
    head: String,
    /// The time to preview for, which decides which suspended policies are active [default: the later of the times of the head and of
    /// the snapshot's commit, so that the same commits give the same preview].
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    admission: AdmissionArgs,
    #[command(flatten)]
    posting: PostArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    git: GitArgs,
}

/// The cluster that the preview is for.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = CLUSTER)]
struct ClusterArgs {
    /// A snapshot, or manifests as `kubectl get nodes,namespaces,pods -A -o yaml` prints them, or - for standard input [default: the
    /// snapshot on the cluster's reports branch].
    #[arg(long, value_name = "PATH", env = "EGRET_CLUSTER")]
    cluster: Option<PathBuf>,
    /// The cluster's name: its entry in egret.yaml, and its reports branch.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default", value_parser = cluster_name)]
    cluster_name: String,
}

/// How the preview is printed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = OUTPUT)]
struct OutputArgs {
    /// The form of the result; `markdown` is a comment that fits into a pull request.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Form::Text)]
    output: Form,
    /// How many names of pods a list has, and for how many nodes the exact changes are shown, then with all their lines.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Leave out the diff of nodes' `ip` and `nft` objects.
    #[arg(long)]
    no_diff: bool,
}

pub(super) fn run(args: &PreviewArgs, verbosity: &Verbosity) -> Result<ExitCode, Failure> {
    let target = args.posting.target()?;
    let scratch = Scratch::new()?;
    let repository = args.repo.with(&args.git);
    let mut mirror = Mirror::open_to_read(scratch.path(), repository.source()?, repository.access()?, History::Recent)?;
    let (tip, base, head) = commits(&mut mirror, args)?;
    if base == head {
        let note = "note: both are the same commit; a preview compares commits, and nothing that is not committed\n";
        output::note(note, verbosity);
    }
    let name = &args.cluster.cluster_name;
    let first = MergeBase::read(&mirror, base, tip, name, args.admission.labels.keys().as_deref())?;
    // The head's reports branch is not read: who writes the head would choose the snapshot.
    let branch = first.config().reports_branch.clone();
    let (facts, facts_from, taken) = facts(args, &mut mirror, &branch)?;
    let reports = reports(&mut mirror, &branch);
    let allocation = allocation(&mut mirror, &branch)?;
    let time = mirror.commit_info(head)?.time;
    let now = args.at.unwrap_or_else(|| taken.map_or(time, |taken| taken.max(time)));
    let facts_from = taken
        .and_then(|taken| snapshot::age(taken, now))
        .map_or(facts_from.clone(), |age| format!("{facts_from}, {age} old"));
    let (flags, windows) = (args.admission.flags(), args.admission.windows()?);
    let surroundings = ClusterContext {
        facts: &facts,
        facts_from: &facts_from,
        host_networks: &facts.host_networks,
        reports: &reports,
        allocation: &allocation,
        now,
        signatures: &flags,
        windows: windows.as_ref(),
        limits: limits(args.output.limit),
        most: MOST_TEXT,
        work: CostLimits::ANY,
    };
    let change = ProposedChange::read(&mirror, name, first, head, surroundings)?;
    let preview = change.preview(surroundings);
    let [documents, _] = change.validation().errors();
    let (code, meaning) = match (change.validation().fails(), preview.changes()) {
        (true, _) if documents.is_empty() => (exit::FAILED, "an assertion fails"),
        (true, _) => (exit::FAILED, "a document has an error"),
        (false, true) => (CHANGES, "there are changes"),
        (false, false) => (0, "nothing would change"),
    };
    output::print(&shown(&preview, &args.output, code, meaning))?;
    if let Some(target) = target {
        target.post(&preview, &head.to_string(), verbosity)?;
    }
    Ok(ExitCode::from(code))
}

fn limits(limit: Option<usize>) -> DisplayLimits {
    let usual = DisplayLimits::default();
    limit.map_or(usual, |limit| DisplayLimits { names: limit, nodes: limit, lines: usize::MAX, ..usual })
}

/// The tip that the change is for, where it began, and its head.
fn commits(mirror: &mut Mirror, args: &PreviewArgs) -> Result<(CommitId, CommitId, CommitId), Failure> {
    let (base, head) = (mirror.resolve(&args.base)?, mirror.resolve(&args.head)?);
    let parted = mirror.parted(base, head)?.ok_or_else(|| {
        let message = format!("compare {} with {}: they have no common history", args.head, args.base);
        Failure::new(message, Some("name a branch or a commit from which the change started by --base".to_owned()))
    })?;
    Ok((base, parted, head))
}

/// What nodes report, where it is on the reports branch. It is shown beside the preview, which does not depend on it.
fn reports(mirror: &mut Mirror, branch: &str) -> Vec<NodeReport> {
    let commit = mirror.resolve(branch);
    let files = commit.and_then(|commit| mirror.files(commit, &["nodes".to_owned()])).unwrap_or_default();
    let texts = files.into_values().filter_map(|file| match file {
        FileChange::Text(text) => read_node_file(&text),
        FileChange::Removed | FileChange::Refused(_) => None,
    });
    texts.collect()
}

/// Which policies have which addresses of pools. Without a reports branch none has any yet.
fn allocation(mirror: &mut Mirror, branch: &str) -> Result<Allocation, Failure> {
    let Ok(commit) = mirror.resolve(branch) else { return Ok(Allocation::default()) };
    let text = mirror.text(commit, allocation::FILE, snapshot::LARGEST)?;
    text.map_or_else(|| Ok(Allocation::default()), |text| allocation::read(&text)).map_err(|error| {
        let hint = "restore the file from the branch's history: `git log --follow allocations.yaml`";
        Failure::new(error, Some(hint.to_owned()))
    })
}

/// The cluster, its source, and the time it was recorded, where that is known.
fn facts(args: &PreviewArgs, mirror: &mut Mirror, branch: &str) -> Result<(Facts, String, Option<Timestamp>), Failure> {
    if let Some(path) = &args.cluster.cluster {
        let Manifests { facts, faults } = Manifests::read(path)?;
        if let Some(fault) = faults.iter().find(|fault| fault.severity == Severity::Error) {
            return Err(Failure::new(format!("read the manifests: {fault}"), None));
        }
        let name = match path.file_name() {
            _ if is_standard_input(path) => "standard input".to_owned(),
            Some(name) => name.to_string_lossy().into_owned(),
            None => path.to_string_lossy().into_owned(),
        };
        return Ok((facts, name, None));
    }
    let hint = || Some("give a snapshot by --cluster; `egret snapshot` writes one".to_owned());
    let commit = mirror.resolve(branch).map_err(|error| Failure::new(error, hint()))?;
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

fn shown(preview: &Preview<'_>, args: &OutputArgs, code: u8, meaning: &str) -> String {
    match args.output {
        Form::Markdown => markdown(preview),
        Form::Json => json::text(PreviewJson::new(preview, !args.no_diff)),
        Form::Text => {
            let colour = output::colour();
            let form = TextForm { width: output::width(), diff: !args.no_diff };
            let painted = lines(preview, form).into_iter().map(|line| {
                let style = match line.style {
                    LineStyle::Title => Paint::Title,
                    LineStyle::Bad => Paint::Bad,
                    LineStyle::Doubtful => Paint::Doubtful,
                    LineStyle::Added => Paint::Good,
                    LineStyle::Removed => Paint::Gone,
                    LineStyle::Place => Paint::Place,
                    LineStyle::Plain => return line.text + "\n",
                };
                paint(&line.text, style, colour) + "\n"
            });
            painted.collect::<String>() + &format!("exit code {code}: {meaning}\n")
        }
    }
}
