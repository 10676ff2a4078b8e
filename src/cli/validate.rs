//! `egret validate`: every document of a policy repository, every mistake in one go.
//!
//! Deliberately absent: the rules (`core::policy`), and how a diagnostic looks (`diagnostics`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use super::diagnostics;
use super::options::RepositoryOptions;
use super::output::{self, Failure, Form};
use crate::cluster::Cluster;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::policy::catalogue::{Catalogue, Change};
use crate::core::policy::lint::lint;
use crate::git::mirror::Mirror;
use crate::reconcile::repository;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    repository: RepositoryOptions,
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
    let mut catalogue = Catalogue::new(&arguments.cluster_name);
    catalogue.update(read(arguments)?);
    let cluster = match &arguments.cluster {
        Some(path) => Some(Cluster::open(path).map_err(|error| Failure::new(error, None))?),
        None => None,
    };
    let facts = cluster.as_ref().map(Cluster::facts);
    let mut found = catalogue.diagnostics();
    found.extend(lint(catalogue.policies(), facts, catalogue.spans()));
    found.sort();
    found.dedup();
    output::print(&text(&catalogue, &found, arguments.output)?)?;
    let bad = found.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The files: of a revision, or as they lie in a folder, so that a mistake is found before it is committed.
fn read(arguments: &Arguments) -> Result<BTreeMap<String, Change>, Failure> {
    let source = arguments.repository.source()?;
    if let (Some(folder), None) = (source.is_local(), &arguments.rev)
        && folder.join("HEAD").metadata().is_err()
    {
        return super::plan::folder(folder);
    }
    let hinted = |error: crate::git::Error| {
        let hint = error.hint();
        Failure::new(error, hint)
    };
    let scratch = super::plan::Scratch::new()?;
    let mut mirror = Mirror::open(scratch.path(), source, arguments.repository.credentials()).map_err(hinted)?;
    let commit = mirror.resolve(arguments.rev.as_deref().unwrap_or("HEAD")).map_err(hinted)?;
    Ok(repository::changes(mirror.files(commit, &[String::new()]).map_err(hinted)?))
}

fn text(catalogue: &Catalogue, found: &[Diagnostic], form: Form) -> Result<String, Failure> {
    if form == Form::Json {
        return Ok(diagnostics::to_json(found));
    }
    let mut bytes = Vec::new();
    diagnostics::write_text(&mut bytes, found, |path| catalogue.text(path), output::colour())
        .map_err(|error| Failure::new(error, None))?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if form == Form::Markdown {
        text = format!("```text\n{text}```\n");
    } else if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&diagnostics::summary(catalogue.tally(found)));
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
