//! `egret support-bundle` on a standalone node: it needs no repository, and has no secret of the command's own options.
//!
//! Deliberately absent: a cluster (`incluster::bundle`).

use std::process::Command;

use super::stand::{Outcome, Stand};
use crate::incluster::bundle::{assert_nowhere, unpacked};
use crate::lab::{LabError, Options};

#[test]
fn a_bundle_of_a_node_needs_no_repository_and_has_no_secret_of_its_options() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let folder = stand.lab.folder().to_owned();
    let (archive, password) = (folder.join("case.tar.gz"), folder.join("password"));
    std::fs::write(&password, "correct horse battery staple").map_err(LabError::doing("write"))?;
    let (program, arguments) = (stand.lab.program()?, stand.lab.egret_arguments("kind-worker2")?);
    let mut command = Command::new(program);
    command.args(["support-bundle", "--repo", "https://ada:hunter2@127.0.0.1:1/x.git", "--out"]).arg(&archive);
    command.arg("--git-password-file").arg(&password).args(&arguments[2..]).env("DB_PASSWORD", "hunter2");
    let output = stand.lab.node("kind-worker2")?.enter(|| command.output())?.map_err(LabError::doing("run egret"))?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = unpacked(&archive)?;
    assert_nowhere(&files, &["hunter2", "horse", "xwing"]);
    for (file, says) in [
        ("nodes/kind-worker2/state.txt", "exit_1"),
        ("nodes/kind-worker2/desired.txt", "exit_1"),
        ("nodes/kind-worker2/doctor.txt", "ok     capabilities: NET_ADMIN"),
        ("options.txt", "repo https://***@127.0.0.1:1/x.git"),
        ("policies.json", "\"outpost\""),
        ("snapshot.yaml", "tiefighter"),
        ("status.txt", "POLICY"),
    ] {
        let text = files.get(file).unwrap_or_else(|| panic!("{file} in {:?}", files.keys()));
        assert!(text.contains(says), "{file} has no {says}:\n{text}");
    }
    Ok(())
}
