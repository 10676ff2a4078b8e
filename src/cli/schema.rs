//! `egret schema`: the JSON schemas of documents, for editors and other checkers of YAML. They are made in `core::policy::schema`; those of
//! custom resources are in the chart.

use std::process::ExitCode;

use super::output::{self, Failure};
use crate::core::policy::schema;

/// Which documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// Policies and node labels.
    Document,
    /// egret.yaml.
    Config,
}

#[derive(Debug, clap::Args)]
pub(super) struct SchemaArgs {
    /// Which documents to print the schema of.
    #[arg(value_enum, default_value_t = Which::Document)]
    which: Which,
}

pub(super) fn run(args: &SchemaArgs) -> Result<ExitCode, Failure> {
    let name = match args.which {
        Which::Document => "document.json",
        Which::Config => "config.json",
    };
    let text = schema::files().into_iter().find(|(file, _)| *file == name).map(|(_, text)| text).unwrap_or_default();
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
