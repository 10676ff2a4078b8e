//! What other programs make of Egret: the template's workflows and its hook are run as far as one machine can, with the real program and real
//! repositories, and what is printed for forges is read as they read it.
//!
//! Absent: forges themselves; `forge_double` stands in for their API.

mod annotations;
mod hook;
mod rendered;
mod sarif;
mod workflows;

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::commands::{Said, egret};

/// The documents with every mistake that there is, one under a name that every format has to escape, and one that is fine.
pub(crate) fn mistakes() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/documents");
    fs::create_dir(folder.path().join("100%, a:b")).expect("a folder");
    for (from, to) in [("mistakes.yaml", "mistakes.yaml"), ("mistakes_config.yaml", "egret.yaml")] {
        fs::copy(documents.join(from), folder.path().join(to)).expect("a copy");
    }
    fs::copy(documents.join("mistakes.yaml"), folder.path().join("100%, a:b/ä\u{1f600}.yaml")).expect("a copy");
    folder
}

pub(crate) fn validate(folder: &Path, form: &str) -> Said {
    let folder = folder.to_str().expect("a path in UTF-8");
    egret(["validate", "--repo", folder, "--output", form])
}
