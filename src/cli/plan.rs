//! `egret plan`: what `run` would change on this node, in words and as a diff, without changing anything.
//!
//! Deliberately absent: comparing two revisions without a kernel, which is a preview.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::diagnostics::Colour;
use super::options::{AdmissionOptions, LabelOptions, NodeOptions, RepositoryOptions, SignatureOptions};
use super::output::{self, CHANGES, Failure, Form, painted_diff};
use crate::cluster::Cluster;
use crate::core::admission::{AdmissionDecision, AdmissionRules, ChangeWindows, PendingReason};
use crate::core::compile::exit_ids::ExitIds;
use crate::core::compile::{CompileInput, Compiled, RefusedParts, compile};
use crate::core::facts::Facts;
use crate::core::finding::Finding;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::placement::{Placement, place};
use crate::core::plan::{Plan, plan, summary, unified_diff};
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::{Catalogue, FileRefusal, FileUpdate};
use crate::core::policy::document::CONFIG_FILE;
use crate::core::state::NodeState;
use crate::git::CommitId;
use crate::git::mirror::Mirror;
use crate::git::signature::SignatureFlags;
use crate::kernel::{Kernel, Observed};
use crate::reconcile::gitops::repository;
use crate::reconcile::node::mark_mask::of_this_node;
use crate::reconcile::now;
use crate::reconcile::persistence::state_store::{PersistedState, StateStore};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    repository: RepositoryOptions,
    #[command(flatten)]
    signatures: SignatureOptions,
    #[command(flatten)]
    node: NodeOptions,
    /// The revision to compare with: a branch, a tag, a commit. The repository's default branch unless it is given; the files
    /// as they lie there where the repository is a folder without Git.
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    #[command(flatten)]
    admission: AdmissionOptions,
    #[command(flatten)]
    labels: LabelOptions,
    /// The form of the result.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Form::Text)]
    output: Form,
}

/// Everything that is shown.
struct Shown {
    node: NodeName,
    revision: String,
    plan: Plan,
    observed: NodeState,
    compiled: Compiled,
    findings: Vec<Finding>,
    /// Why none of it happens yet.
    waits: Option<PendingReason>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let node = arguments.node.node()?;
    let memory = memory(arguments, &node)?;
    let cluster_name = &arguments.node.cluster_name;
    let judge = Judge { flags: arguments.signatures.flags(), memory: &memory, cluster: cluster_name };
    let Read { files, revision, before, trailers, unsigned } =
        read(&arguments.repository, arguments.rev.as_deref(), Some(&judge))?;
    let mut catalogue = Catalogue::new(cluster_name).with_label_keys(arguments.labels.keys().as_deref());
    let given = arguments.admission.windows()?;
    let by_rules = before.and_then(|before| {
        let mut in_force = Catalogue::new(cluster_name);
        in_force.update(before);
        waits(&in_force, &files, &trailers, given)
    });
    let waits = unsigned.or(by_rules);
    catalogue.update(files);
    let cluster = Cluster::open(&arguments.node.cluster)?;
    if !cluster.facts().nodes.contains_key(&node) {
        return Err(Failure::unknown_node(node.as_str(), &arguments.node.cluster, cluster.facts()));
    }
    let runtime = output::runtime()?;
    let mut set = catalogue.policies().clone();
    if set.config.mask_is_auto {
        let choice = runtime.block_on(of_this_node(set.config.range.first, memory.range()));
        set.config.range.mask = choice.mask;
    }
    let observed = runtime.block_on(look(&memory.labels, &set, &node, cluster.facts()))?;
    let shown = Shown { waits, ..compare(&set, cluster.facts(), node, revision, observed) };
    output::print(&shown.text(arguments.output, output::colour()))?;
    Ok(if shown.plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
}

/// What Egret on this node remembers, if it has run.
fn memory(arguments: &Arguments, node: &NodeName) -> Result<PersistedState, Failure> {
    let folder = arguments.node.state_dir.join(node.as_str());
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
    // As it will be once every node has the labels that Git asks for: a plan that stops at the label would tell nothing.
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

impl Shown {
    fn text(&self, form: Form, colour: Colour) -> String {
        let diff = unified_diff(
            &self.observed,
            &self.compiled.desired,
            &format!("{} now", self.node),
            &format!("{} after {}", self.node, self.revision),
        );
        match form {
            Form::Json => self.json(&diff),
            Form::Markdown => {
                let fence = output::fence_for(&diff);
                format!("{}\n{fence}diff\n{diff}{fence}\n", self.summary())
            }
            Form::Text if diff.is_empty() => self.summary(),
            Form::Text => format!("{}\n{}", self.summary(), painted_diff(&diff, colour)),
        }
    }

    fn summary(&self) -> String {
        let mut text = summary::text(self.node.as_str(), &self.plan, &self.compiled, &self.findings);
        if let Some(why) = self.waits.as_ref().filter(|_| !self.plan.is_empty()) {
            text.push('\n');
            let until = match why {
                PendingReason::Unsigned { .. } => "does not come into force",
                _ => "is not in force until then",
            };
            text.push_str(&summary::broken(&format!("  later   {why}; {} {until}", self.revision), 10));
        }
        text
    }

    fn json(&self, diff: &str) -> String {
        let steps: Vec<String> = self.plan.steps.iter().map(ToString::to_string).collect();
        let value = serde_json::json!({
            "node": self.node.as_str(),
            "revision": self.revision,
            "changes": !self.plan.is_empty(),
            "steps": steps,
            "findings": self.findings,
            "waits": self.waits,
            "diff": diff,
        });
        format!("{value:#}\n")
    }
}

/// A revision, or a folder.
struct Read {
    files: BTreeMap<String, FileUpdate>,
    /// Its name.
    revision: String,
    /// What is in force, if that is known and another one.
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
    repository: &RepositoryOptions,
    rev: Option<&str>,
) -> Result<(BTreeMap<String, FileUpdate>, String), Failure> {
    read(repository, rev, None).map(|read| (read.files, read.revision))
}

fn read(repository: &RepositoryOptions, rev: Option<&str>, judge: Option<&Judge<'_>>) -> Result<Read, Failure> {
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
