//! The scenes about drift: somebody deletes by hand what Egret put in; it is put back, and written down.
//!
//! How long it took is measured from outside, by another listener to the kernel's events (`ip monitor`).
//! Deliberately absent: how Egret sees it.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use crate::lab::{OUTPOST, Process, wait_until};
use crate::{DEADLINE, Failure, Stage, WORKER, expect};

/// The branch that Egret commits reports to.
const REPORTS: &str = "egret/reports/default";

/// What is deleted: the command, and how `ip monitor` begins the line that tells of it.
const DELETIONS: [(&str, &str); 2] =
    [("ip rule delete priority 501", "501:"), ("ip route delete default dev egret0 table 9001", "default ")];

impl Stage<'_> {
    /// A rule and a route are deleted, each put back at once, while a client asks without pause.
    pub(crate) fn tampered(&self) -> Result<(), Failure> {
        self.screen.title("Somebody deletes Egret's ip rule, then its route, by hand: both are back at once")?;
        self.lab.forget()?;
        let asking = self.lab.hammer("tiefighter", OUTPOST)?;
        for (command, begin) in DELETIONS {
            let namespace = self.node(WORKER)?;
            let monitor = self.monitor()?;
            self.screen.command(WORKER, command)?;
            namespace.exec(command.split(' '))?;
            let mut times = (None, None);
            let back = wait_until(DEADLINE, || {
                times = monitor.output().map_or((None, None), |events| gone_and_back(&events, begin));
                times.1.is_some()
            });
            expect("it is deleted and then there again", back, || monitor.output().unwrap_or_default())?;
            self.screen.quote(&monitor.output()?, 6)?;
            if let (Some(gone), Some(back)) = times {
                let took = back.saturating_sub(gone).as_secs_f64() * 1000.0;
                self.screen.seen(&format!("back after {took:.1} ms, by the kernel's own events"))?;
            }
        }
        self.curl("tiefighter", OUTPOST, "200 granted 10.0.3.42")?;
        let requests = asking.stop().len();
        let sources = self.lab.sources_towards(OUTPOST)?;
        let right = sources.keys().all(|source| source.to_string() == "10.0.3.42");
        expect("no packet reaches the router with another source", right, || format!("{sources:?}"))?;
        self.screen
            .seen(&format!("{requests} requests meanwhile: not one packet towards the outpost with another source"))?;
        Ok(())
    }

    /// Drift is a commit on a branch of its own.
    pub(crate) fn reported(&self) -> Result<(), Failure> {
        self.screen.title("What was found is committed to the reports branch, never to the one people push to")?;
        let repository = self.lab.repository();
        let (branch, file) = (REPORTS, format!("nodes/{WORKER}.yaml"));
        let report = || repository.show(&format!("{branch}:{file}")).unwrap_or_default();
        let told = wait_until(DEADLINE, || report().matches("action: corrected").count() == DELETIONS.len());
        expect("the report tells of both, and that they were corrected", told, report)?;
        self.screen.command("someone", &format!("git fetch && git show origin/{REPORTS}"))?;
        let commit = repository.in_bare(["log", "--max-count=1", "--format=%H", branch, "--", &file])?;
        let shown = repository.show(commit.trim())?;
        self.screen.quote(&shown, 90)?;
        for words in ["class: missing", "policies/outpost.yaml", "firstSeen: ", "corrected: "] {
            expect(&format!("the commit says `{words}`"), shown.contains(words), || shown.clone())?;
        }
        self.screen.seen("what, where, since when, corrected after how long, and which policy wants it")?;
        Ok(())
    }

    /// `ip monitor` on kind-worker, once it listens.
    fn monitor(&self) -> Result<Process, Failure> {
        let monitor = self.lab.start(WORKER, "ip", ["-tshort", "monitor", "rule", "route"])?;
        let listens = wait_until(DEADLINE, || is_listening(monitor.id()).unwrap_or_default());
        expect("ip monitor listens", listens, || monitor.output().unwrap_or_default())?;
        Ok(monitor)
    }
}

/// Whether a process has a netlink socket that is in some group: /proc/PID/net/netlink has the groups in its fourth column and the
/// socket's inode in its last (net/netlink/af_netlink.c).
fn is_listening(process: u32) -> io::Result<bool> {
    let folder = PathBuf::from("/proc").join(process.to_string());
    let mut own = Vec::new();
    for entry in fs::read_dir(folder.join("fd"))? {
        own.push(fs::read_link(entry?.path())?.to_string_lossy().into_owned());
    }
    let sockets = fs::read_to_string(folder.join("net/netlink"))?;
    Ok(sockets.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|columns| {
        let is_own = columns.last().is_some_and(|inode| own.contains(&format!("socket:[{inode}]")));
        is_own && columns.get(3).is_some_and(|groups| *groups != "00000000")
    }))
}

/// When something was deleted and when it was there again, as times of day.
fn gone_and_back(events: &str, begin: &str) -> (Option<Duration>, Option<Duration>) {
    let mut times = (None, None);
    for event in events.lines() {
        let Some((time, what)) = event.strip_prefix('[').and_then(|event| event.split_once("] ")) else { continue };
        match what.strip_prefix("Deleted ") {
            Some(what) if what.starts_with(begin) => times.0 = time_of_day(time),
            None if what.starts_with(begin) && times.0.is_some() => times.1 = times.1.or(time_of_day(time)),
            _ => {}
        }
    }
    times
}

/// Of `2026-11-22T22:19:01.123456`, what follows the date.
fn time_of_day(time: &str) -> Option<Duration> {
    let mut parts = time.split_once('T')?.1.split(':');
    let (hours, minutes): (u64, u64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    Some(Duration::from_secs((hours * 60 + minutes) * 60) + Duration::try_from_secs_f64(seconds).ok()?)
}
