//! How long `egret preview` takes, as a whole process: 1,000 policies, 1,000 nodes, 10,000 pods, from a Git repository and the snapshot on
//! its reports branch.
//!
//! Prints the median of several runs of the real program. Deliberately absent: limits; times on shared machines are for reading.

mod world;

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use egret::core::snapshot::{FILE, snapshot};

use self::world::{path, policy, world};

const POLICIES: usize = 1_000;
const NODES: usize = 1_000;
const PODS: usize = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let repository = folder.path();
    write(repository, "egret.yaml", "apiVersion: egret.dev/v1alpha1\nkind: Config\npaths: [policies]\n")?;
    git(repository, &["init", "-q", "-b", "main"])?;
    for number in 0..POLICIES {
        write(repository, &path(number), &policy(number, 24))?;
    }
    commit(repository, "as it is")?;
    git(repository, &["checkout", "-q", "--orphan", "egret/reports/default"])?;
    git(repository, &["rm", "-rfq", "."])?;
    write(repository, FILE, &snapshot(&world(NODES, PODS, POLICIES)))?;
    commit(repository, "a snapshot")?;
    for (branch, changed) in [("none", 0), ("one", 1), ("all", POLICIES)] {
        git(repository, &["checkout", "-q", "-b", branch, "main"])?;
        for number in 0..changed {
            write(repository, &path(number), &policy(number, 25))?;
        }
        commit(repository, branch)?;
    }
    writeln!(io::stdout(), "egret preview: {POLICIES} policies, {NODES} nodes, {PODS} pods; medians of 9 runs\n")?;
    for (what, head, code) in
        [("nothing changed", "none", 0), ("one policy changed", "one", 2), ("all changed", "all", 2)]
    {
        let mut runs = (0..9).map(|_| run(repository, head, code)).collect::<Result<Vec<_>, _>>()?;
        runs.sort_unstable();
        let (time, length) = runs[runs.len() / 2];
        writeln!(io::stdout(), "{what:<24} {:>10.1} ms {length:>10} bytes", time.as_secs_f64() * 1000.0)?;
    }
    Ok(())
}

fn run(repository: &Path, head: &str, code: i32) -> Result<(Duration, usize), Box<dyn Error>> {
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_egret"))
        .args(["preview", "--output=markdown", "--base=main", "--head", head, "--repo"])
        .arg(repository)
        .stderr(Stdio::inherit())
        .output()?;
    let time = began.elapsed();
    assert_eq!(output.status.code(), Some(code), "{head}: {}", String::from_utf8_lossy(&output.stdout));
    Ok((time, output.stdout.len()))
}

fn write(repository: &Path, path: &str, text: &str) -> io::Result<()> {
    let path = repository.join(path);
    fs::create_dir_all(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
    fs::write(path, text)
}

fn commit(repository: &Path, message: &str) -> io::Result<()> {
    git(repository, &["add", "-A"])?;
    let who = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
    git(repository, &[&who[..], &["commit", "-q", "--allow-empty", "-m", message]].concat())
}

fn git(repository: &Path, arguments: &[&str]) -> io::Result<()> {
    let status = Command::new("git").arg("-C").arg(repository).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("git {arguments:?}: {status}"))) }
}
