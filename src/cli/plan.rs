//! `egret plan`: what `run` would change on this node, in words and as a diff, without changing anything.
//!
//! Deliberately absent: comparing two revisions without a kernel, which is a preview.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::diagnostics::Colour;
use super::options::{AdmissionOptions, LabelOptions, NodeOptions, RepositoryOptions, SignatureOptions};
use super::output::{self, CHANGES, Failure, Form, painted_diff};
use crate::cluster::Cluster;
use crate::core::admission::PendingReason;
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::plan::{Plan, summary, unified_diff};
use crate::core::policy::catalogue::{FileRefusal, FileUpdate};
use crate::git::mirror::Mirror;
use crate::reconcile::gitops::repository;
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::node::dry_run::{DocumentSource, DryRun, DryRunOptions, dry_run};
use crate::reconcile::node::round::NodePlan;
use crate::reconcile::now;

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
    /// What happens with the revision.
    plan: NodePlan,
    /// The steps that come first, if the revision waits.
    now: Plan,
    findings: Vec<Finding>,
    /// Why none of it happens yet.
    waits: Option<PendingReason>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let node = arguments.node.node()?;
    let scratch = Scratch::new()?;
    let following = following(arguments)?;
    let source = match plain_folder(&arguments.repository, arguments.rev.as_deref())? {
        Some(folder_without_git) => DocumentSource::Files(folder(&folder_without_git)?),
        None => DocumentSource::Git { rev: arguments.rev.clone(), mirror: scratch.path().to_path_buf() },
    };
    let facts = Cluster::open(&arguments.node.cluster)?.facts().clone();
    if !facts.nodes.contains_key(&node) {
        return Err(Failure::unknown_node(node.as_str(), &arguments.node.cluster, &facts));
    }
    let state_folder = arguments.node.state_dir.clone();
    let options = DryRunOptions { following, source, facts, node: node.clone(), state_folder };
    let dry_run = dry_run(options, &output::runtime()?).map_err(|error| {
        let hint = error.hint();
        Failure::new(error, hint)
    })?;
    let shown = Shown::of(node, dry_run)?;
    output::print(&shown.text(arguments.output, output::colour()))?;
    Ok(if shown.plan.plan.is_empty() && shown.now.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
}

/// The repository as `egret run` would follow it.
fn following(arguments: &Arguments) -> Result<TrackedRepository, Failure> {
    Ok(TrackedRepository {
        source: arguments.repository.source()?,
        branch: None,
        access: arguments.repository.access()?,
        signatures: arguments.signatures.flags(),
        windows: arguments.admission.windows()?,
        label_keys: arguments.labels.keys(),
        cluster: arguments.node.cluster_name.clone(),
        poll: Duration::ZERO,
    })
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

    fn text(&self, form: Form, colour: Colour) -> String {
        let diff = unified_diff(
            &self.plan.observed,
            &self.plan.evaluation.compiled.desired,
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
        let mut text =
            summary::text(self.node.as_str(), &self.plan.plan, &self.plan.evaluation.compiled, &self.findings);
        if let Some(why) = self.waits.as_ref().filter(|_| !self.plan.plan.is_empty()) {
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
        let steps = |plan: &Plan| plan.steps.iter().map(ToString::to_string).collect::<Vec<String>>();
        let value = serde_json::json!({
            "node": self.node.as_str(),
            "revision": self.revision,
            "changes": !self.plan.plan.is_empty() || !self.now.is_empty(),
            "steps": steps(&self.plan.plan),
            "stepsNow": steps(if self.waits.is_some() { &self.now } else { &self.plan.plan }),
            "findings": self.findings,
            "waits": self.waits,
            "diff": diff,
        });
        format!("{value:#}\n")
    }
}

/// The files of a revision and its name; as they lie there, of a folder without Git.
pub(super) fn files(
    repository: &RepositoryOptions,
    rev: Option<&str>,
) -> Result<(BTreeMap<String, FileUpdate>, String), Failure> {
    if let Some(path) = plain_folder(repository, rev)? {
        return Ok((folder(&path)?, "the files as they are".to_owned()));
    }
    let scratch = Scratch::new()?;
    let mut mirror = Mirror::open(scratch.path(), repository.source()?, repository.access()?)?;
    let commit = mirror.resolve(rev.unwrap_or("HEAD"))?;
    Ok((repository::changes(mirror.files(commit, &[String::new()])?), commit.short()))
}

/// The repository, where it is a folder without Git and no revision of it is asked for.
fn plain_folder(repository: &RepositoryOptions, rev: Option<&str>) -> Result<Option<PathBuf>, Failure> {
    let source = repository.source()?;
    // One that is not there is no repository either, and a folder's fault is the shorter one to read.
    let is_plain = |path: &&Path| !path.join(".git").exists() && !path.join("HEAD").exists();
    Ok(source.is_local().filter(|_| rev.is_none()).filter(is_plain).map(Path::to_path_buf))
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
