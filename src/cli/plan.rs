//! `egret plan`: what `run` would change on this node, in words and as a diff, without changing anything. `preview` compares two revisions
//! without a kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::args::{AdmissionArgs, GitArgs, NodeArgs, OUTPUT, RepoArgs, Repository};
use super::diagnostics::Colour;
use super::exit::{CHANGES, FAILED};
use super::json;
use super::output::{self, Failure, Form, Manifests, painted_diff};
use crate::clock::Clock;
use crate::core::admission::PendingReason;
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::plan::{Plan, Step, StepLine, summary, unified_diff};
use crate::core::policy::catalogue::{FileRefusal, FileUpdate};
use crate::core::policy::document::{is_config_name, is_read};
use crate::core::policy::foreign::bytes_may_be_ours;
use crate::core::preview::assertions::BROKEN;
use crate::core::text::wrapped;
use crate::git::mirror::{History, Mirror};
use crate::reconcile::gitops::repository;
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::node::dry_run::{DocumentSource, DryRun, DryRunOptions, dry_run};
use crate::reconcile::node::round::NodePlan;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing would change, 2 there are changes, 1 failure, or an assertion fails.")]
pub(super) struct PlanArgs {
    #[command(flatten)]
    repo: RepoArgs,
    /// The revision to compare with: a branch, a tag, a commit [default: the repository's default branch; of a folder without Git, the
    /// files as they are].
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    admission: AdmissionArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    git: GitArgs,
}

/// How the plan is printed.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = OUTPUT)]
struct OutputArgs {
    /// The form of the result.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Form::Text)]
    output: Form,
    /// Leave out the diff of the node's `ip` and `nft` objects.
    #[arg(long)]
    no_diff: bool,
}

/// Everything that is shown.
struct Shown {
    node: NodeName,
    revision: String,
    /// What happens with the revision.
    plan: NodePlan,
    /// The steps that come first, if the revision waits.
    now: Plan,
    findings: Vec<Finding>,
    /// Why none of it happens yet.
    waits: Option<PendingReason>,
}

pub(super) fn run(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let node = args.node.node()?;
    let scratch = Scratch::new()?;
    let following = following(args)?;
    let source = match plain_folder(args.repo.with(&args.git), args.rev.as_deref())? {
        Some(folder_without_git) => DocumentSource::Files(folder(&folder_without_git)?),
        None => DocumentSource::Git { rev: args.rev.clone(), mirror: scratch.path().to_path_buf() },
    };
    let facts = Manifests::read(&args.node.cluster)?.facts;
    if !facts.nodes.contains_key(&node) {
        return Err(Failure::unknown_node(node.as_str(), &args.node.cluster, &facts));
    }
    let state_folder = args.node.state_dir.clone();
    let options = DryRunOptions { following, source, facts, node: node.clone(), state_folder };
    let dry_run = dry_run(options, &output::runtime()?).map_err(|error| {
        let hint = error.hint();
        Failure::new(error, hint)
    })?;
    let shown = Shown::of(node, dry_run)?;
    let layout = Layout { colour: output::colour(), width: output::width(), diff: !args.output.no_diff };
    output::print(&shown.text(args.output.output, layout))?;
    Ok(ExitCode::from(shown.code()))
}

/// The repository as `egret run` would follow it.
fn following(args: &PlanArgs) -> Result<TrackedRepository, Failure> {
    let repository = args.repo.with(&args.git);
    Ok(TrackedRepository {
        source: repository.source()?,
        branch: None,
        access: repository.access()?,
        signatures: args.admission.flags(),
        windows: args.admission.windows()?,
        label_keys: args.admission.labels.keys(),
        cluster: args.node.cluster_name.clone(),
        poll: Duration::ZERO,
        max_lag: Duration::ZERO,
    })
}

/// How a plan is laid out.
#[derive(Debug, Clone, Copy)]
struct Layout {
    colour: Colour,
    /// The terminal's width; none in a pipe.
    width: Option<usize>,
    diff: bool,
}

/// A plan, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlanJson<'p> {
    node: &'p str,
    revision: &'p str,
    changes: bool,
    verdict: String,
    steps: Vec<StepLine>,
    /// Those that `run` takes at once: of what is active, if the revision waits.
    steps_now: Vec<StepLine>,
    findings: &'p [Finding],
    waits: Option<&'p PendingReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

impl Shown {
    fn of(node: NodeName, dry_run: DryRun) -> Result<Self, Failure> {
        let findings = dry_run.findings();
        let DryRun { revision, now, pending, .. } = dry_run;
        let (plan, now, waits) = match (pending, now) {
            (Some((commit, plan)), now) => (plan, now.map(|now| now.plan).unwrap_or_default(), Some(commit.why)),
            (None, Some(plan)) => (plan, Plan::default(), None),
            (None, None) => return Err(Failure::new(format!("{revision} has nothing for this cluster"), None)),
        };
        Ok(Self { node, revision, plan, now, findings, waits })
    }

    /// Whether a run would do anything, now or once the revision is let in.
    fn changes(&self) -> bool {
        !self.plan.plan.is_empty() || !self.now.is_empty()
    }

    /// The assertions of the repository that fail, as far as this node can tell.
    fn broken_assertions(&self) -> usize {
        self.findings.iter().filter(|finding| finding.code == BROKEN).count()
    }

    fn code(&self) -> u8 {
        match (self.broken_assertions(), self.changes()) {
            (1.., _) => FAILED,
            (0, true) => CHANGES,
            (0, false) => 0,
        }
    }

    fn text(&self, form: Form, layout: Layout) -> String {
        let diff = || {
            let (now, after) = (format!("{} now", self.node), format!("{} after {}", self.node, self.revision));
            unified_diff(&self.plan.observed, &self.plan.evaluation.compiled.desired, &now, &after)
        };
        let diff = if layout.diff { diff() } else { String::new() };
        match form {
            Form::Json => self.json(layout.diff.then_some(diff)),
            Form::Markdown if diff.is_empty() => format!("{}\n{}\n", self.summary(None), self.verdict()),
            Form::Markdown => {
                let fence = output::fence_for(&diff);
                format!("{}\n{fence}diff\n{diff}{fence}\n\n{}\n", self.summary(None), self.verdict())
            }
            Form::Text => {
                let diff = if diff.is_empty() { diff } else { format!("\n{}", painted_diff(&diff, layout.colour)) };
                let verdict = wrapped(&self.verdict(), 2, layout.width);
                format!("{}{diff}\n{verdict}", self.summary(layout.width))
            }
        }
    }

    fn summary(&self, width: Option<usize>) -> String {
        let NodePlan { plan, evaluation, .. } = &self.plan;
        let mut text = summary::text(self.node.as_str(), plan, &evaluation.compiled, &self.findings, width);
        if let Some(later) = self.later() {
            text.push('\n');
            text.push_str(&wrapped(&format!("  later   {later}"), 10, width));
        }
        text
    }

    /// Why the revision does not take effect at once, where it changes something.
    fn later(&self) -> Option<String> {
        let why = self.waits.as_ref().filter(|_| !self.plan.plan.is_empty())?;
        let until = match why {
            PendingReason::Unsigned { .. } | PendingReason::Removals(_) => "does not take effect",
            _ => "does not take effect until then",
        };
        Some(format!("{why}; {} {until}", self.revision))
    }

    /// The last line: what would change, how much of it, and the exit code.
    fn verdict(&self) -> String {
        let (node, revision, code) = (&self.node, &self.revision, self.code());
        let fails = match self.broken_assertions() {
            0 => String::new(),
            1 => ", and 1 assertion fails".to_owned(),
            many => format!(", and {many} assertions fail"),
        };
        if !self.changes() {
            return format!("{node}: nothing would change with {revision}{fails} (exit code {code})");
        }
        let (steps, counts) = (self.plan.plan.steps.len(), summary::counts(&self.plan.plan.steps));
        let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
        let counts = if counts.is_empty() { counts } else { format!(": {counts}") };
        let waits = if self.waits.is_some() { ", not yet" } else { "" };
        format!("{node}: {revision} would take {steps}{waits}{counts}{fails} (exit code {code})")
    }

    fn json(&self, diff: Option<String>) -> String {
        let lines = |plan: &Plan| plan.steps.iter().flat_map(Step::lines).collect();
        json::text(PlanJson {
            node: self.node.as_str(),
            revision: &self.revision,
            changes: self.changes(),
            verdict: self.verdict(),
            steps: lines(&self.plan.plan),
            steps_now: lines(if self.waits.is_some() { &self.now } else { &self.plan.plan }),
            findings: &self.findings,
            waits: self.waits.as_ref(),
            diff,
        })
    }
}

/// The files of a revision and its name; as they lie there, of a folder without Git.
pub(super) fn files(
    repository: Repository<'_>,
    rev: Option<&str>,
) -> Result<(BTreeMap<String, FileUpdate>, String), Failure> {
    if let Some(path) = plain_folder(repository, rev)? {
        return Ok((folder(&path)?, "the files as they are".to_owned()));
    }
    let scratch = Scratch::new()?;
    let mut mirror = Mirror::open_to_read(scratch.path(), repository.source()?, repository.access()?, History::Recent)?;
    let commit = mirror.resolve(rev.unwrap_or("HEAD"))?;
    Ok((repository::changes(mirror.files(commit, &[String::new()])?), commit.short()))
}

/// The repository, where it is a folder without Git and no revision of it is asked for.
pub(super) fn plain_folder(repository: Repository<'_>, rev: Option<&str>) -> Result<Option<PathBuf>, Failure> {
    let source = repository.source()?;
    // One that is not there is no repository either, and a folder's fault is the shorter one to read.
    let is_plain = |path: &&Path| !path.join(".git").exists() && !path.join("HEAD").exists();
    Ok(source.is_local().filter(|_| rev.is_none()).filter(is_plain).map(Path::to_path_buf))
}

/// The files of a folder, as they lie there. Hidden folders are passed over, and links and submodules refused, as in a commit.
pub(super) fn folder(root: &Path) -> Result<BTreeMap<String, FileUpdate>, Failure> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let fault = |error: std::io::Error| {
            let hint = "--repo takes a folder, a Git repository, or the address of one";
            Failure::new(format!("read {}: {error}", folder.display()), Some(hint.to_owned()))
        };
        for entry in std::fs::read_dir(&folder).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(fault)?);
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && (folder != root || !is_config_name(&name)) {
                continue;
            }
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            if kind.is_dir() && path.join(".git").exists() {
                files.insert(relative, FileUpdate::Refused(FileRefusal::Submodule));
            } else if kind.is_dir() {
                folders.push(path);
            } else if kind.is_symlink() || is_read(&name) {
                files.insert(relative, read_file(&path, kind.is_symlink()).map_err(fault)?);
            }
        }
    }
    Ok(files)
}

fn read_file(path: &Path, link: bool) -> std::io::Result<FileUpdate> {
    if link {
        return Ok(FileUpdate::Refused(FileRefusal::Symlink));
    }
    if path.metadata()?.len() > crate::git::files::LARGEST_FILE as u64 {
        return Ok(FileUpdate::Refused(FileRefusal::TooLarge));
    }
    Ok(match String::from_utf8(std::fs::read(path)?) {
        Ok(text) => FileUpdate::Text(text),
        Err(error) if bytes_may_be_ours(error.as_bytes()) => FileUpdate::Refused(FileRefusal::NotUtf8),
        Err(_) => FileUpdate::Refused(FileRefusal::Binary),
    })
}

/// A folder for a mirror that is only needed once; gone when it is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!(
            "egret-{}-{}",
            std::process::id(),
            Clock::system().now().as_nanosecond()
        ));
        std::fs::create_dir_all(&path).map_err(|error| {
            let hint = "TMPDIR names another place for it";
            Failure::new(format!("make the folder {}: {error}", path.display()), Some(hint.to_owned()))
        })?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
