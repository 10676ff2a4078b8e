//! `egret schema`: the JSON schemas of documents, for editors and whatever else checks YAML.
//!
//! Deliberately absent: the schemas themselves (`core::policy::schema`), and those of custom resources, which the chart has.

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
pub(super) struct Arguments {
    /// Which documents' schema is printed.
    #[arg(value_enum, default_value_t = Which::Document)]
    which: Which,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let name = match arguments.which {
        Which::Document => "document.json",
        Which::Config => "config.json",
    };
    let text = schema::files().into_iter().find(|(file, _)| *file == name).map(|(_, text)| text).unwrap_or_default();
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
