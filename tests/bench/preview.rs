//! How long `egret preview` and `egret validate` take, as whole processes, and how that grows: with the cluster, read from a dump of
//! kubectl's, and with a repository's history.
//!
//! Prints medians, and how many times more ten times as much takes. `EGRET_BENCH_BEFORE` names another build of the program: then each
//! line also says how many times as long that one takes. Deliberately absent: limits; times on shared machines are for reading.

#[path = "preview/dump.rs"]
mod dump;
#[path = "preview/history.rs"]
mod history;
mod world;

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::dump::dump;
use self::world::{Size, path, policy, world};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The size of the report that asked for this.
const REPORTED: Size = Size { policies: 1_000, nodes: 1_000, pods: 20_000 };
const GROWING: [Size; 3] = [
    Size { policies: 1_000, nodes: 500, pods: 10_000 },
    Size { policies: 3_000, nodes: 1_500, pods: 30_000 },
    Size { policies: 10_000, nodes: 5_000, pods: 100_000 },
];

fn main() -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    clusters(folder.path(), &[REPORTED])?;
    clusters(folder.path(), &GROWING)?;
    history::measure(folder.path())
}

/// Previews in clusters of several sizes.
fn clusters(folder: &Path, sizes: &[Size]) -> Outcome<()> {
    let mut all: Vec<[Measured; 3]> = Vec::new();
    for size in sizes {
        let repository = folder.join(format!("{}-{}", size.policies, size.pods));
        prepare(&repository, *size)?;
        let dump = repository.join("dump.json");
        let run = |head: &str| {
            let arguments =
                ["preview", "--output=markdown", "--base=main", "--head", head, "--cluster"].map(AsRef::as_ref);
            measured(&[&arguments[..], &[dump.as_ref(), "--repo".as_ref(), repository.as_ref()]].concat())
        };
        writeln!(io::stdout(), "\negret preview: {size}, a dump of {} MB", fs::metadata(&dump)?.len() >> 20)?;
        let measured = [run("none")?, run("one")?, run("all")?];
        for (what, measured) in ["nothing changed", "one policy changed", "all changed"].iter().zip(&measured) {
            measured.show(what)?;
        }
        all.push(measured);
        fs::remove_dir_all(&repository)?;
    }
    for (pair, sizes) in all.windows(2).zip(sizes.windows(2)) {
        let more = sizes[1].ratio(sizes[0]);
        let growth: Vec<String> =
            pair[0].iter().zip(&pair[1]).map(|(less, more)| format!("{:.1}", more.ratio(less))).collect();
        writeln!(io::stdout(), "{more:.1} times as much of everything takes {} times as long", growth.join(", "))?;
    }
    Ok(())
}

/// A repository with the policies, three branches that change them, and a dump of the cluster beside.
fn prepare(repository: &Path, size: Size) -> Outcome<()> {
    write(repository, "egret.yaml", "apiVersion: egret.dev/v1alpha1\nkind: Config\npaths: [policies]\n")?;
    git(repository, &["init", "-q", "-b", "main"])?;
    for number in 0..size.policies {
        write(repository, &path(number), &policy(size, number, false))?;
    }
    commit(repository, "as it is")?;
    for (branch, changed) in [("none", 0), ("one", 1), ("all", size.policies)] {
        git(repository, &["checkout", "-q", "-b", branch, "main"])?;
        for number in 0..changed {
            write(repository, &path(number), &policy(size, number, true))?;
        }
        commit(repository, branch)?;
    }
    Ok(write(repository, "dump.json", &dump(&world(size)))?)
}

/// The median of this build, and of the other one if there is one.
#[derive(Debug, Clone, Copy)]
struct Measured {
    now: Duration,
    before: Option<Duration>,
}

impl Measured {
    fn ratio(&self, less: &Self) -> f64 {
        self.now.as_secs_f64() / less.now.as_secs_f64()
    }

    fn show(&self, what: &str) -> io::Result<()> {
        let before = self.before.map(|before| before.as_secs_f64() / self.now.as_secs_f64());
        let before = before.map(|ratio| format!("   before: {ratio:.1} times as long")).unwrap_or_default();
        writeln!(io::stdout(), "  {what:<44} {:>9.1} ms{before}", self.now.as_secs_f64() * 1000.0)
    }
}

/// Runs the program with these arguments, in turn with the other build.
fn measured(arguments: &[&std::ffi::OsStr]) -> Outcome<Measured> {
    const RUNS: usize = 3;
    let other = env::var_os("EGRET_BENCH_BEFORE");
    let mut times: [Vec<Duration>; 2] = Default::default();
    for _ in 0..RUNS {
        times[0].push(run(env!("CARGO_BIN_EXE_egret").as_ref(), arguments)?);
        if let Some(other) = &other {
            times[1].push(run(other, arguments)?);
        }
    }
    let [now, before] = times.map(|mut times| {
        times.sort_unstable();
        times.get(RUNS / 2).copied()
    });
    Ok(Measured { now: now.ok_or("no run")?, before })
}

fn run(program: &std::ffi::OsStr, arguments: &[&std::ffi::OsStr]) -> Outcome<Duration> {
    let began = Instant::now();
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output()?;
    let time = began.elapsed();
    // 2: there are changes.
    if !matches!(output.status.code(), Some(0 | 2)) {
        return Err(format!("{arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stdout)).into());
    }
    Ok(time)
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
