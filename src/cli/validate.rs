//! `egret validate`: every document of a policy repository, every mistake at once. The rules are in `core::policy`, the forms of a
//! diagnostic in `diagnostics`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::args::{CLUSTER, GitArgs, LabelArgs, OUTPUT, RepoArgs, Repository};
use super::assertion_json::FailedAssertionJson;
use super::diagnostics::{self, Colour, DiagnosticJson};
use super::output::{self, Failure, Manifests};
use super::{json, plan};
use crate::clock::Clock;
use crate::core::allocation::{Allocation, complete};
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::policy::catalogue::{Catalogue, DiagnosticCounts, FileUpdate, RepositoryContents};
use crate::core::policy::document::CONFIG_FILE;
use crate::core::policy::file::parse;
use crate::core::policy::lint::{lint, suspensions};
use crate::core::preview::assertions::{AssertionInput, FailedAssertion, failed};

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
    /// The cluster's name: its entry in egret.yaml is used [default: every cluster that egret.yaml has, each by itself].
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", help_heading = CLUSTER)]
    cluster_name: Option<String>,
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
    let files = read(args)?;
    let clusters = match &args.cluster_name {
        Some(name) => vec![name.clone()],
        None => clusters(&files),
    };
    let cluster = args.cluster.as_deref().map(Manifests::read).transpose()?;
    let facts = cluster.as_ref().map(|cluster| &cluster.facts);
    let now = Clock::system().now();
    let (mut found, mut assertions) = (Vec::new(), Vec::new());
    let mut catalogues = Vec::new();
    for name in clusters {
        let mut catalogue = Catalogue::new(&name).with_label_keys(args.labels.keys().as_deref());
        catalogue.update(files.clone());
        found.extend(catalogue.diagnostics());
        found.extend(lint(catalogue.policies(), facts, catalogue.spans()));
        found.extend(suspensions(catalogue.policies(), catalogue.spans(), now));
        // Which addresses of pools policies have is not known here: those are taken that they would get if none had any.
        let set = &complete(&Allocation::default(), catalogue.policies(), now).after;
        let host_networks = facts.map(|facts| &facts.host_networks);
        let asserted = facts
            .zip(host_networks)
            .map(|(facts, host_networks)| failed(&AssertionInput { set, before: set, facts, host_networks, now }));
        let asserted = asserted.unwrap_or_default();
        found.extend(asserted.iter().map(|one| one.diagnostic(catalogue.spans())));
        assertions.extend(asserted);
        catalogues.push((name, catalogue));
    }
    found.sort();
    found.dedup();
    output::print(&text(&catalogues, (&found, &assertions), args.output)?)?;
    let bad = found.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The clusters that egret.yaml names; the default name, if it names none.
fn clusters(files: &BTreeMap<String, FileUpdate>) -> Vec<String> {
    let named: Vec<String> = match files.get(CONFIG_FILE) {
        Some(FileUpdate::Text(text)) => {
            let documents = parse(CONFIG_FILE, text).good;
            let config = documents.iter().find_map(|(_, document)| document.config());
            config.map(|config| config.clusters.keys().cloned().collect()).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    if named.is_empty() { vec!["default".to_owned()] } else { named }
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

/// The clusters that were checked, and the files of each.
type Catalogues = [(String, Catalogue)];

fn text(
    catalogues: &Catalogues,
    (found, assertions): (&[Diagnostic], &[FailedAssertion]),
    form: Form,
) -> Result<String, Failure> {
    let contents = contents(catalogues);
    let mut summary = diagnostics::summary(tally(catalogues, found));
    let is_empty = |catalogue: &Catalogue| {
        let set = catalogue.policies();
        set.policies.is_empty() && set.node_labels.is_empty() && set.assertions.is_empty()
    };
    if found.is_empty() {
        for (name, _) in catalogues.iter().filter(|(_, catalogue)| is_empty(catalogue)) {
            summary = format!("nothing for the cluster {name}: its paths have no document\n{summary}");
        }
    }
    if catalogues.len() > 1 {
        let names: Vec<&str> = catalogues.iter().map(|(name, _)| name.as_str()).collect();
        summary = format!("{summary}, in the clusters {}", names.join(", "));
    }
    let summary = format!("{summary}\n{contents}");
    match form {
        Form::Json => return Ok(json(catalogues, found, assertions)),
        Form::Sarif => return Ok(diagnostics::sarif::to_sarif(found)),
        Form::Github => return Ok(format!("{}{summary}\n", diagnostics::to_github(found))),
        Form::Text | Form::Markdown => {}
    }
    // A page gets no escape sequences, wherever the output goes.
    let colour = if form == Form::Markdown { Colour::No } else { output::colour() };
    let mut bytes = Vec::new();
    let text_of = |path: &str| catalogues.iter().find_map(|(_, catalogue)| catalogue.text(path));
    diagnostics::write_text(&mut bytes, found, text_of, colour).map_err(|error| Failure::new(error, None))?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if form == Form::Markdown && !text.is_empty() {
        let fence = output::fence_for(&text);
        text = format!("{fence}text\n{text}{fence}\n\n");
    } else if !text.is_empty() {
        text.push('\n');
    }
    Ok(text + &summary + "\n")
}

fn contents(catalogues: &Catalogues) -> RepositoryContents {
    catalogues.iter().fold(RepositoryContents::default(), |all, (_, catalogue)| all.with(catalogue.contents()))
}

/// Totals over all clusters. A file that several of them read counts once.
fn tally(catalogues: &Catalogues, found: &[Diagnostic]) -> DiagnosticCounts {
    let mut of_all = DiagnosticCounts::default();
    let mut files: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, catalogue) in catalogues {
        files.extend(catalogue.documents());
    }
    of_all.documents = files.values().sum();
    let errors = found.iter().filter(|one| one.severity == Severity::Error).count();
    (of_all.errors, of_all.warnings) = (errors, found.len() - errors);
    let touched = |one: &Diagnostic| {
        let place = catalogues.iter().find_map(|(_, catalogue)| catalogue.document_of(one));
        (one.file.clone(), place.unwrap_or(1))
    };
    of_all.touched = found.iter().map(touched).collect::<BTreeSet<_>>().len();
    of_all.documents = of_all.documents.max(of_all.touched);
    of_all
}

/// What was found, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ValidationJson<'d> {
    clusters: Vec<&'d str>,
    documents: usize,
    errors: usize,
    warnings: usize,
    policies: usize,
    node_labels: usize,
    assertions: usize,
    failed_assertions: Vec<FailedAssertionJson<'d>>,
    files: usize,
    foreign_files: BTreeSet<String>,
    diagnostics: Vec<DiagnosticJson<'d>>,
}

fn json(catalogues: &Catalogues, found: &[Diagnostic], failed: &[FailedAssertion]) -> String {
    let DiagnosticCounts { errors, warnings, documents, .. } = tally(catalogues, found);
    let RepositoryContents { policies, node_labels, assertions, files, foreign, .. } = contents(catalogues);
    json::text(ValidationJson {
        clusters: catalogues.iter().map(|(name, _)| name.as_str()).collect(),
        documents,
        errors,
        warnings,
        policies: policies.len(),
        node_labels: node_labels.len(),
        assertions: assertions.len(),
        failed_assertions: failed.iter().map(FailedAssertionJson::from).collect(),
        files: files.len(),
        foreign_files: foreign,
        diagnostics: found.iter().map(DiagnosticJson::from).collect(),
    })
}
