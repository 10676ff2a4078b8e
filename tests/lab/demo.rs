//! The demo: the outpost scenario on this machine with the real program, real packets and a real `git push`, told step by step.
//!
//! Every scene says what is done, shows what was answered, and fails if it is not what was to be seen; the exit code is 0 only if all of
//! it was. However it ends, also by Ctrl-C, everything is taken down. `make demo` runs it; it needs root.
//! Deliberately absent: anything that is only printed and not looked at, and the network it plays on (the lab, beside it).

#[path = "demo/drift.rs"]
mod drift;
#[path = "demo/keep.rs"]
mod keep;
#[path = "mod.rs"]
mod lab;
#[path = "demo/screen.rs"]
mod screen;
#[path = "demo/traffic.rs"]
mod traffic;

use std::io;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lab::{Lab, LabError, NAMED, Namespace, Options, Process};
use screen::Screen;

/// Generous: only against hanging.
const DEADLINE: Duration = Duration::from_secs(20);

/// A signal may be taking the stage down at this moment, and the scene failed of that: then the process ends within this time, and no
/// failure is told that was none.
const CURTAIN_FALLS: Duration = Duration::from_secs(1);

/// The pods' node.
const WORKER: &str = "kind-worker";
/// The node with 10.0.3.42.
const GATEWAY: &str = "kind-worker2";

/// Why the demo ends early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The lab could not do its part.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Something else was seen than should be.
    #[error("expected: {expected}\nseen:     {seen}")]
    NotSeen {
        /// What should be.
        expected: String,
        /// What was.
        seen: String,
    },
    /// The terminal went away.
    #[error("cannot write to standard output: {0}")]
    Screen(#[from] io::Error),
}

/// Everything that stands while the demo plays.
struct Stage<'a> {
    screen: &'a Screen,
    /// Before the lab: fields are dropped in their order.
    worker: Process,
    gateway: Process,
    lab: Lab,
}

fn main() -> ExitCode {
    let screen = Screen::new();
    if !nix::unistd::geteuid().is_root() {
        let _ = screen.failed("the demo makes network namespaces, for which it must be root: sudo make demo");
        return ExitCode::FAILURE;
    }
    let stage = set(&screen).inspect_err(|_| std::thread::sleep(CURTAIN_FALLS));
    match stage.and_then(|stage| play(stage, &screen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A terminal that has gone away cannot be told.
            let _ = screen.failed(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Brings the lab up and starts Egret on both nodes.
fn set(screen: &Screen) -> Result<Stage<'_>, Failure> {
    lab::take_down_on_signals()?;
    let begun = Instant::now();
    // Nothing but Egret's is in nftables then, so that what is left of it can be seen at the end.
    let lab = Lab::up(Options { tracks: false, ..Options::default() })?;
    screen.title("The stage: two nodes, two pods, and an outpost that lets in nobody but 10.0.3.42")?;
    screen.quote(STAGE, usize::MAX)?;
    let ui = if keep::is_wanted() { &["--ui", keep::UI][..] } else { &[] };
    let options = [&["-v"], ui].concat();
    let (worker, gateway) = (lab.egret(WORKER, &options)?, lab.egret(GATEWAY, &options)?);
    for node in [WORKER, GATEWAY] {
        let ui = [&[""], ui].concat().join(" ");
        screen.command(node, &format!("egret run --repo policies.git --cluster manifests/ --node {node}{ui} &"))?;
    }
    let stage = Stage { screen, worker, gateway, lab };
    for (node, process) in [(WORKER, &stage.worker), (GATEWAY, &stage.gateway)] {
        process.wait_for("egret runs", DEADLINE)?;
        screen.seen(&format!("egret runs on {node}"))?;
    }
    let (took, name) = (begun.elapsed().as_secs_f64(), stage.lab.name());
    screen.seen(&format!(
        "all stands after {took:.1} s, in network namespaces of its own: ip netns list | grep {name}"
    ))?;
    Ok(stage)
}

const STAGE: &str = "\
 batuu/tiefighter 10.1.1.177 ─┐                 eth0
 org=empire                   ├─ kind-worker ────────┐
 batuu/xwing      10.1.1.234 ─┘  172.18.0.2          │
 org=alliance                                        ├─ router ── outpost 10.0.4.2:8000
                                 kind-worker2 ───────┤
                                 172.18.0.3    net1  │
                                    10.0.3.42 ───────┘";

/// All scenes in order, then the curtain. What Egret said last is shown where one fails.
fn play(stage: Stage<'_>, screen: &Screen) -> Result<(), Failure> {
    let begun = Instant::now();
    if let Err(failure) = stage.scenes() {
        std::thread::sleep(CURTAIN_FALLS);
        for (node, process) in [(WORKER, &stage.worker), (GATEWAY, &stage.gateway)] {
            let said = process.output()?;
            let telling = said.lines().filter(|line| traffic::step(traffic::message(line)).is_none());
            let last: Vec<&str> = telling.rev().take(15).collect();
            screen.failed(&format!("the last words of egret on {node}, without its plans:"))?;
            screen.quote(&last.into_iter().rev().collect::<Vec<_>>().join("\n"), 15)?;
        }
        return Err(failure);
    }
    screen.title("Curtain")?;
    let (name, folder) = (stage.lab.name(), stage.lab.folder().to_owned());
    drop(stage);
    let left = names_left(&name)?;
    expect("no namespace of the lab is left", left.is_empty() && !folder.exists(), || left.join(" "))?;
    screen.seen("processes, namespaces and files of the lab are gone")?;
    screen.seen(&format!("everything was seen, in {:.1} s", begun.elapsed().as_secs_f64()))?;
    if !keep::is_wanted() {
        screen.print("To play with it, and to look at its page in a browser: sudo make demo KEEP=1")?;
    }
    Ok(())
}

/// Named network namespaces of a lab.
fn names_left(lab: &str) -> io::Result<Vec<String>> {
    let prefix = format!("{lab}-");
    let names = std::fs::read_dir(NAMED)?.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into()));
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    Ok(names.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

/// Fails unless something holds, with what was seen instead, of which a screen's half is enough.
fn expect(expected: &str, holds: bool, seen: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        return Ok(());
    }
    let seen = seen().lines().take(12).collect::<Vec<_>>().join("\n");
    Err(Failure::NotSeen { expected: expected.to_owned(), seen })
}

impl Stage<'_> {
    fn scenes(&self) -> Result<(), Failure> {
        self.denied()?;
        self.pushed()?;
        self.applied()?;
        self.tampered()?;
        self.reported()?;
        if keep::is_wanted() {
            self.keep()?;
        }
        self.mistaken()?;
        self.removed()
    }

    /// The namespace of a node.
    fn node(&self, name: &str) -> Result<Namespace, Failure> {
        Ok(self.lab.node(name)?)
    }

    /// Asks the outpost by curl from inside a pod, and shows and checks the answer: `200 granted 10.0.3.42`.
    fn curl(&self, pod: &str, address: IpAddr, expected: &str) -> Result<(), Failure> {
        let url = match address {
            IpAddr::V4(address) => format!("http://{address}:8000/"),
            IpAddr::V6(address) => format!("http://[{address}]:8000/"),
        };
        let quiet = ["curl", "--silent", "--show-error", "--max-time", "5", "--write-out", "%{http_code}", "--globoff"];
        let answer = self.lab.pod(pod)?.exec(quiet.iter().copied().chain([url.as_str()]))?;
        let words: Vec<&str> = answer.split_whitespace().collect();
        let (code, body) = words.split_last().map_or(("", String::new()), |(code, body)| (*code, body.join(" ")));
        let answer = format!("{code} {body}");
        self.screen.command(pod, &format!("curl {url}"))?;
        expect(&format!("{pod} is answered `{expected}`"), answer == expected, || answer.clone())?;
        self.screen.seen(&answer)?;
        Ok(())
    }
}
