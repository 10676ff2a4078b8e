//! `egret validate`: every document of a policy repository, every mistake at once. The rules are in `core::policy`, the forms of a
//! diagnostic in `diagnostics`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::args::{CLUSTER, GitArgs, LabelArgs, OUTPUT, RepoArgs, Repository};
use super::diagnostics::{self, Colour, DiagnosticJson};
use super::output::{self, Failure, Manifests};
use super::{json, plan};
use crate::clock::Clock;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::policy::catalogue::{Catalogue, DiagnosticCounts, FileUpdate};
use crate::core::policy::lint::{lint, suspensions};

/// The form of what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// For reading on a terminal.
    Text,
    /// For programs: an object with `formatVersion`.
    Json,
    /// For comments and pages.
    Markdown,
    /// Workflow commands: annotations in a pull request's files on GitHub.
    Github,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
}

#[derive(Debug, clap::Args)]
pub(super) struct ValidateArgs {
    /// The folder or repository to check, in the place of --repo.
    #[arg(value_name = "DIR")]
    folder: Option<String>,
    #[command(flatten)]
    repo: RepoArgs,
    /// The revision to check: a branch, a tag, a commit [default: the files in a local folder as they are, else the default branch].
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    #[command(flatten)]
    labels: LabelArgs,
    /// The cluster's name: its entry in egret.yaml is used.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default", help_heading = CLUSTER)]
    cluster_name: String,
    /// Manifests of the cluster, or - for standard input: for warnings that depend on its nodes and pods.
    #[arg(long, value_name = "PATH", help_heading = CLUSTER)]
    cluster: Option<PathBuf>,
    /// The form of the result.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Form::Text, help_heading = OUTPUT)]
    output: Form,
    #[command(flatten)]
    git: GitArgs,
}

impl ValidateArgs {
    fn repository(&self) -> Repository<'_> {
        Repository { address: self.folder.as_deref().unwrap_or(&self.repo.repo), git: &self.git }
    }
}

pub(super) fn run(args: &ValidateArgs) -> Result<ExitCode, Failure> {
    let mut catalogue = Catalogue::new(&args.cluster_name).with_label_keys(args.labels.keys().as_deref());
    catalogue.update(read(args)?);
    let cluster = args.cluster.as_deref().map(Manifests::read).transpose()?;
    let facts = cluster.as_ref().map(|cluster| &cluster.facts);
    let mut found = catalogue.diagnostics();
    found.extend(lint(catalogue.policies(), facts, catalogue.spans()));
    found.extend(suspensions(catalogue.policies(), catalogue.spans(), Clock::system().now()));
    found.sort();
    found.dedup();
    output::print(&text(&catalogue, &found, &args.cluster_name, args.output)?)?;
    let bad = found.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The files: of a revision, or as they lie in a folder, so that a mistake is found before it is committed.
fn read(args: &ValidateArgs) -> Result<BTreeMap<String, FileUpdate>, Failure> {
    let source = args.repository().source()?;
    if let (Some(folder), None) = (source.is_local(), &args.rev)
        && folder.join("HEAD").metadata().is_err()
    {
        return plan::folder(folder);
    }
    plan::files(args.repository(), args.rev.as_deref()).map(|(files, _)| files)
}

fn text(catalogue: &Catalogue, found: &[Diagnostic], cluster: &str, form: Form) -> Result<String, Failure> {
    let set = catalogue.policies();
    let mut summary = diagnostics::summary(catalogue.tally(found));
    if found.is_empty() && set.policies.is_empty() && set.node_labels.is_empty() {
        summary = format!("nothing for the cluster {cluster}: its paths have no document\n{summary}");
    }
    match form {
        Form::Json => return Ok(json(&catalogue.tally(found), found, cluster)),
        Form::Sarif => return Ok(diagnostics::sarif::to_sarif(found)),
        Form::Github => return Ok(format!("{}{summary}\n", diagnostics::to_github(found))),
        Form::Text | Form::Markdown => {}
    }
    // A page gets no escape sequences, wherever the output goes.
    let colour = if form == Form::Markdown { Colour::No } else { output::colour() };
    let mut bytes = Vec::new();
    diagnostics::write_text(&mut bytes, found, |path| catalogue.text(path), colour)
        .map_err(|error| Failure::new(error, None))?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if form == Form::Markdown && !text.is_empty() {
        let fence = output::fence_for(&text);
        text = format!("{fence}text\n{text}{fence}\n\n");
    } else if !text.is_empty() {
        text.push('\n');
    }
    Ok(text + &summary + "\n")
}

/// What was found, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ValidationJson<'d> {
    cluster: &'d str,
    documents: usize,
    errors: usize,
    warnings: usize,
    diagnostics: Vec<DiagnosticJson<'d>>,
}

fn json(tally: &DiagnosticCounts, found: &[Diagnostic], cluster: &str) -> String {
    let DiagnosticCounts { errors, warnings, documents, .. } = *tally;
    let diagnostics = found.iter().map(DiagnosticJson::from).collect();
    json::text(ValidationJson { cluster, documents, errors, warnings, diagnostics })
}
