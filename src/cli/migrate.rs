//! `egret migrate FILE…`: policies of kinds that Egret does not read, translated. The translation is in `core::policy::migrate`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{self, Failure};
use crate::core::policy::migrate::{Translated, translate};

#[derive(Debug, clap::Args)]
pub(super) struct MigrateArgs {
    /// Files with CiliumEgressNATPolicy or IsovalentEgressGatewayPolicy documents; other documents are left as they are.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Write the translations into the files, in place of the documents, instead of printing them.
    #[arg(long)]
    write: bool,
}

pub(super) fn run(args: &MigrateArgs) -> Result<ExitCode, Failure> {
    let (mut printed, mut left) = (String::new(), Vec::new());
    for path in &args.files {
        let found = read(path)?;
        left.extend(found.left.iter().map(|(line, why)| format!("{}:{line}: {why}", path.display())));
        if args.write && found.count > 0 {
            write(path, &found.file)?;
        }
        match (args.write, found.count) {
            (true, 1) => writeln!(printed, "{}: 1 document translated", path.display()),
            (true, count) => writeln!(printed, "{}: {count} documents translated", path.display()),
            (false, 0) => Ok(()),
            (false, _) => write!(printed, "{}{}", if printed.is_empty() { "" } else { "---\n" }, found.documents),
        }
        .unwrap_or_default();
    }
    output::print(&printed)?;
    match &left[..] {
        [] => Ok(ExitCode::SUCCESS),
        some => Err(Failure::new(format!("not translated: {}", some.join("; ")), None)),
    }
}

fn read(path: &Path) -> Result<Translated, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("read {}: {error}", path.display()), None))?;
    Ok(translate(&text))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if path.extension().is_some_and(|extension| extension == "json") {
        let hint = "without --write the translation is printed, in YAML".to_owned();
        return Err(Failure::new(format!("{} is JSON, which has no comments", path.display()), Some(hint)));
    }
    // The file of a working tree: it keeps its owner and mode, and Git has the former one.
    std::fs::write(path, text).map_err(|error| Failure::new(format!("write {}: {error}", path.display()), None))
}
