//! `egret plan`: what `run` would change on this node, in words and as a diff, without changing anything. `preview` compares two revisions
//! without a kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use super::args::{AdmissionArgs, GitArgs, NodeArgs, OUTPUT, RepoArgs, Repository};
use super::diagnostics::Colour;
use super::exit::CHANGES;
use super::json;
use super::output::{self, Failure, Form, Manifests, painted_diff};
use crate::core::admission::{AdmissionDecision, AdmissionRules, ChangeWindows, PendingReason};
use crate::core::compile::exit_ids::ExitIds;
use crate::core::compile::{CompileInput, Compiled, RefusedParts, compile};
use crate::core::facts::Facts;
use crate::core::finding::Finding;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::placement::{Placement, place};
use crate::core::plan::{Plan, Step, StepLine, plan, summary, unified_diff};
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::{Catalogue, FileRefusal, FileUpdate};
use crate::core::policy::document::CONFIG_FILE;
use crate::core::state::NodeState;
use crate::core::text::wrapped;
use crate::git::CommitId;
use crate::git::mirror::Mirror;
use crate::git::signature::SignatureFlags;
use crate::kernel::{Kernel, Observed};
use crate::reconcile::gitops::repository;
use crate::reconcile::node::mark_mask::of_this_node;
use crate::reconcile::now;
use crate::reconcile::persistence::state_store::{PersistedState, StateStore};

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing would change, 2 there are changes, 1 failure.")]
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
    plan: Plan,
    observed: NodeState,
    compiled: Compiled,
    findings: Vec<Finding>,
    /// PendingReason none of it happens yet.
    waits: Option<PendingReason>,
}

pub(super) fn run(args: &PlanArgs) -> Result<ExitCode, Failure> {
    let node = args.node.node()?;
    let memory = memory(args, &node)?;
    let cluster_name = &args.node.cluster_name;
    let judge = Judge { flags: args.admission.flags(), memory: &memory, cluster: cluster_name };
    let Read { files, revision, before, trailers, unsigned } =
        read(args.repo.with(&args.git), args.rev.as_deref(), Some(&judge))?;
    let mut catalogue = Catalogue::new(cluster_name).with_label_keys(args.admission.labels.keys().as_deref());
    let given = args.admission.windows()?;
    let by_rules = before.and_then(|before| {
        let mut in_force = Catalogue::new(cluster_name);
        in_force.update(before);
        waits(&in_force, &files, &trailers, given)
    });
    let waits = unsigned.or(by_rules);
    catalogue.update(files);
    let facts = Manifests::read(&args.node.cluster)?.facts;
    if !facts.nodes.contains_key(&node) {
        return Err(Failure::unknown_node(node.as_str(), &args.node.cluster, &facts));
    }
    let runtime = output::runtime()?;
    let mut set = catalogue.policies().clone();
    if set.config.mask_is_auto {
        let choice = runtime.block_on(of_this_node(set.config.range.first, memory.range()));
        set.config.range.mask = choice.mask;
    }
    let observed = runtime.block_on(look(&memory.labels, &set, &node, &facts))?;
    let shown = Shown { waits, ..compare(&set, &facts, node, revision, observed) };
    let layout = Layout { colour: output::colour(), width: output::width(), diff: !args.output.no_diff };
    output::print(&shown.text(args.output.output, layout))?;
    Ok(if shown.plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
}

/// What Egret on this node has stored, if it has run.
fn memory(args: &PlanArgs, node: &NodeName) -> Result<PersistedState, Failure> {
    let folder = args.node.state_dir.join(node.as_str());
    if !folder.is_dir() {
        return Ok(PersistedState::default());
    }
    Ok(StateStore::open(&folder).map_err(|error| Failure::new(error, None))?.kept().clone())
}

/// What the revision waits for, judged as the node will: by what egret.yaml in force says of windows. On a node where nothing was ever
/// in force nothing waits.
fn waits(
    in_force: &Catalogue,
    files: &BTreeMap<String, FileUpdate>,
    trailers: &[(String, String)],
    given: Option<ChangeWindows>,
) -> Option<PendingReason> {
    let windows = given.unwrap_or_else(|| in_force.policies().config.change_windows.clone());
    let without = BTreeMap::from([(CONFIG_FILE.to_owned(), FileUpdate::Removed)]);
    let config =
        files.get(CONFIG_FILE).map_or(without, |file| BTreeMap::from([(CONFIG_FILE.to_owned(), file.clone())]));
    let suspension = in_force.config_after(&config).and_then(|config| config.suspend);
    match (AdmissionRules { windows: &windows, suspension: suspension.as_ref(), trailers }).judge(now()) {
        AdmissionDecision::Withheld(why) => Some(why),
        AdmissionDecision::Admitted | AdmissionDecision::Emergency { .. } => None,
    }
}

/// What the kernel holds, with the labels that Git asks for or that Egret wrote.
async fn look(written: &Labels, set: &PolicySet, node: &NodeName, facts: &Facts) -> Result<Observed, Failure> {
    let mut kernel = Kernel::open(set.config.range).await?;
    kernel.look_only();
    let mut observed = kernel.observe().await?;
    // Nor is it a difference to show that no Egret runs just now: the next one takes the tables over.
    for table in observed.state.nft.values_mut().filter(|table| table.abandoned) {
        (table.owned, table.abandoned) = (true, false);
    }
    if let Some(known) = facts.nodes.get(node) {
        let wanted = set.labels_of(node, &known.labels);
        observed.state.labels = known
            .labels
            .iter()
            .filter(|(key, value)| wanted.contains_key(*key) || written.get(*key) == Some(*value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
    }
    Ok(observed)
}

fn compare(set: &PolicySet, facts: &Facts, node: NodeName, revision: String, observed: Observed) -> Shown {
    // As it will be once every node has the labels that Git asks for: a plan that stops at the label would show nothing.
    let facts = set.labelled(facts);
    let placement: Placement = place(set, &facts, now());
    let marks = ExitIds::observed(&observed.state.nft, set.config.range);
    let input = CompileInput {
        node: &node,
        set,
        placement: &placement,
        facts: &facts,
        host_network: &observed.host_network,
        marks: &marks,
        refused: RefusedParts::NOTHING,
    };
    let compiled = compile(&input);
    let plan = plan(&compiled.desired, &observed.state, set.config.range);
    let mut findings = placement.findings;
    findings.extend(compiled.findings.iter().cloned());
    findings.sort();
    findings.dedup();
    Shown { node, revision, plan, observed: observed.state, compiled, findings, waits: None }
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
    findings: &'p [Finding],
    waits: Option<&'p PendingReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

impl Shown {
    fn text(&self, form: Form, layout: Layout) -> String {
        let diff = || {
            let (now, after) = (format!("{} now", self.node), format!("{} after {}", self.node, self.revision));
            unified_diff(&self.observed, &self.compiled.desired, &now, &after)
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
        let mut text = summary::text(self.node.as_str(), &self.plan, &self.compiled, &self.findings, width);
        if let Some(later) = self.later() {
            text.push('\n');
            text.push_str(&wrapped(&format!("  later   {later}"), 10, width));
        }
        text
    }

    /// PendingReason the revision does not take effect at once, where it changes something.
    fn later(&self) -> Option<String> {
        let why = self.waits.as_ref().filter(|_| !self.plan.is_empty())?;
        let until = match why {
            PendingReason::Unsigned { .. } => "does not take effect",
            _ => "does not take effect until then",
        };
        Some(format!("{why}; {} {until}", self.revision))
    }

    /// The last line: what would change, how much of it, and the exit code.
    fn verdict(&self) -> String {
        let (node, revision) = (&self.node, &self.revision);
        if self.plan.is_empty() {
            return format!("{node}: nothing would change with {revision} (exit code 0)");
        }
        let (steps, counts) = (self.plan.steps.len(), summary::counts(&self.plan.steps));
        let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
        let counts = if counts.is_empty() { counts } else { format!(": {counts}") };
        let waits = if self.waits.is_some() { ", not yet" } else { "" };
        format!("{node}: {revision} would take {steps}{waits}{counts} (exit code {CHANGES})")
    }

    fn json(&self, diff: Option<String>) -> String {
        json::text(PlanJson {
            node: self.node.as_str(),
            revision: &self.revision,
            changes: !self.plan.is_empty(),
            verdict: self.verdict(),
            steps: self.plan.steps.iter().flat_map(Step::lines).collect(),
            findings: &self.findings,
            waits: self.waits.as_ref(),
            diff,
        })
    }
}

/// A revision, or a folder.
struct Read {
    files: BTreeMap<String, FileUpdate>,
    /// Its name.
    revision: String,
    /// What is active, if that is known and another one.
    before: Option<BTreeMap<String, FileUpdate>>,
    /// Trailers of its message.
    trailers: Vec<(String, String)>,
    /// That it is not signed as demanded.
    unsigned: Option<PendingReason>,
}

/// What a revision is judged by.
struct Judge<'a> {
    flags: SignatureFlags,
    memory: &'a PersistedState,
    cluster: &'a str,
}

impl Judge<'_> {
    /// Whether a commit is signed as the node will demand it: by egret.yaml in force, and by the commit's own where nothing is.
    fn unsigned(&self, mirror: &Mirror, commit: CommitId) -> Result<Option<PendingReason>, Failure> {
        let known = self.memory.commit.as_deref().and_then(CommitId::parse);
        let from = known.unwrap_or(commit);
        let demanded = if mirror.has(from) {
            let mut catalogue = Catalogue::new(self.cluster);
            catalogue.import_good(&self.memory.good);
            catalogue.update(repository::changes(mirror.files(from, &[String::new()])?));
            catalogue.policies().config.signatures.clone()
        } else {
            None
        };
        let demanded = demanded.or_else(|| self.memory.signatures.clone());
        let judged = self.flags.judge(mirror, demanded.as_ref(), known, commit)?;
        Ok(judged
            .err()
            .map(|unsigned| PendingReason::Unsigned { commit: unsigned.commit.to_string(), what: unsigned.what }))
    }
}

/// The files of a revision and its name; as they lie there, of a folder without Git.
pub(super) fn files(
    repository: Repository<'_>,
    rev: Option<&str>,
) -> Result<(BTreeMap<String, FileUpdate>, String), Failure> {
    read(repository, rev, None).map(|read| (read.files, read.revision))
}

fn read(repository: Repository<'_>, rev: Option<&str>, judge: Option<&Judge<'_>>) -> Result<Read, Failure> {
    let source = repository.source()?;
    if let (Some(path), None) = (source.is_local(), rev)
        // One that is not there is no repository either, and a folder's fault is the shorter one to read.
        && !path.join(".git").exists()
        && !path.join("HEAD").exists()
    {
        let revision = "the files as they are".to_owned();
        return Ok(Read { files: folder(path)?, revision, before: None, trailers: Vec::new(), unsigned: None });
    }
    let scratch = Scratch::new()?;
    let mut mirror = Mirror::open(scratch.path(), source, repository.access()?)?;
    let commit = mirror.resolve(rev.unwrap_or("HEAD"))?;
    let files = |commit| mirror.files(commit, &[String::new()]).map(repository::changes);
    let in_force = judge
        .and_then(|judge| judge.memory.commit.as_deref())
        .and_then(CommitId::parse)
        .filter(|known| *known != commit && mirror.has(*known));
    Ok(Read {
        files: files(commit)?,
        revision: commit.short(),
        before: in_force.map(files).transpose()?,
        trailers: mirror.trailers(commit)?,
        unsigned: judge.map_or(Ok(None), |judge| judge.unsigned(&mirror, commit))?,
    })
}

/// The files of a folder, as they lie there. Links and hidden folders are passed over, as they are in a commit.
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
            if name.starts_with('.') {
                continue;
            }
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            let document = [".yaml", ".yml", ".json"].iter().any(|suffix| name.ends_with(suffix));
            if kind.is_dir() {
                folders.push(path);
            } else if document {
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
        Err(_) => FileUpdate::Refused(FileRefusal::NotUtf8),
    })
}

/// A folder for a mirror that is only needed once; gone when it is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("egret-{}-{}", std::process::id(), now().as_nanosecond()));
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
