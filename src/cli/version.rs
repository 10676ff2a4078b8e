//! `egret version`: which program this is.

use std::process::ExitCode;

use serde::Serialize;

use super::args::OUTPUT;
use super::json;
use super::output::{self, Failure, TextOrJson};

#[derive(Debug, clap::Args)]
pub(super) struct VersionArgs {
    /// The form of the result.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = TextOrJson::Text, help_heading = OUTPUT)]
    output: TextOrJson,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    commit: Option<&'static str>,
}

/// This program. `make static` and `make image` set EGRET_COMMIT; another build does not know its commit.
const THIS: Version = Version { version: env!("CARGO_PKG_VERSION"), commit: option_env!("EGRET_COMMIT") };

pub(super) fn run(args: &VersionArgs) -> Result<ExitCode, Failure> {
    let version = THIS;
    output::print(&match args.output {
        TextOrJson::Text => format!("egret {}\n", line(&version)),
        TextOrJson::Json => json::text(version),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn line(version: &Version) -> String {
    match version.commit {
        Some(commit) => format!("{} (commit {commit})", version.version),
        None => version.version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_named_where_the_build_knows_it() {
        let of = |commit| line(&Version { version: "0.1.0", commit });
        assert_eq!([of(None), of(Some("85cc403"))], ["0.1.0", "0.1.0 (commit 85cc403)"]);
    }
}
