//! `egret validate`: every document of a policy repository, every mistake in one go.
//!
//! Deliberately absent: the rules (`core::policy`), and how a diagnostic looks (`diagnostics`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use super::diagnostics::{self, Colour};
use super::options::{LabelOptions, RepositoryOptions};
use super::output::{self, Failure};
use super::plan;
use crate::cluster::Cluster;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::policy::catalogue::{Catalogue, FileUpdate};
use crate::core::policy::lint::{lint, suspensions};
use crate::reconcile::now;

/// The form of what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For comments and pages.
    Markdown,
    /// Workflow commands: annotations in a pull request's files on GitHub.
    Github,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    repository: RepositoryOptions,
    #[command(flatten)]
    labels: LabelOptions,
    /// The revision to check: a branch, a tag, a commit. The files as they lie in a local folder unless it is given.
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// The cluster's name: its entry in egret.yaml counts.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default")]
    cluster_name: String,
    /// Manifests of the cluster, for warnings that depend on its nodes and pods.
    #[arg(long, value_name = "PATH")]
    cluster: Option<PathBuf>,
    /// The form of the result.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Form::Text)]
    output: Form,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut catalogue = Catalogue::new(&arguments.cluster_name).with_label_keys(arguments.labels.keys().as_deref());
    catalogue.update(read(arguments)?);
    let cluster = arguments.cluster.as_deref().map(Cluster::open).transpose()?;
    let facts = cluster.as_ref().map(Cluster::facts);
    let mut found = catalogue.diagnostics();
    found.extend(lint(catalogue.policies(), facts, catalogue.spans()));
    found.extend(suspensions(catalogue.policies(), catalogue.spans(), now()));
    found.sort();
    found.dedup();
    output::print(&text(&catalogue, &found, &arguments.cluster_name, arguments.output)?)?;
    let bad = found.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The files: of a revision, or as they lie in a folder, so that a mistake is found before it is committed.
fn read(arguments: &Arguments) -> Result<BTreeMap<String, FileUpdate>, Failure> {
    let source = arguments.repository.source()?;
    if let (Some(folder), None) = (source.is_local(), &arguments.rev)
        && folder.join("HEAD").metadata().is_err()
    {
        return plan::folder(folder);
    }
    plan::files(&arguments.repository, arguments.rev.as_deref()).map(|(files, _)| files)
}

fn text(catalogue: &Catalogue, found: &[Diagnostic], cluster: &str, form: Form) -> Result<String, Failure> {
    let set = catalogue.policies();
    let mut summary = diagnostics::summary(catalogue.tally(found));
    if found.is_empty() && set.policies.is_empty() && set.node_labels.is_empty() {
        summary = format!("nothing for the cluster {cluster}: no document stands in its paths\n{summary}");
    }
    match form {
        Form::Json => return Ok(diagnostics::to_json(found)),
        Form::Sarif => return Ok(diagnostics::sarif::to_sarif(found)),
        Form::Github => return Ok(format!("{}{summary}\n", diagnostics::to_github(found))),
        Form::Text | Form::Markdown => {}
    }
    // Escape sequences are nothing for a page, wherever the output goes.
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
