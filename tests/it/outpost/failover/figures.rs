//! `make failover`: how long members are without an answer when a gateway dies, over many deaths of several kinds, and a picture of it.
//!
//! Deliberately absent: any judgement but on addresses. How fast a machine is says nothing about right or wrong.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{GATEWAY, OTHER, Outcome, Stand, ip, with_standby};
use crate::lab::{Answer, EGRESS, Hammer, OUTPOST, wait_until};

/// A lost packet is seen as one after this time; an answer takes a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(40);
/// Clients that ask at the same time, so that some request begins soon after the standby serves.
const CLIENTS: usize = 4;

/// A way to die: its name, whether Egret is killed there first, and the death.
type Death = (&'static str, bool, fn(&Stand) -> Outcome);

const DEATHS: [Death; 6] = [
    ("power", true, |stand| stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\nlink set net1 down\n")),
    ("link to the nodes", false, |stand| stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\n")),
    ("egress interface", false, |stand| stand.lab.node(GATEWAY)?.ip_batch("link set net1 down\n")),
    ("egress interface, no agent", true, |stand| stand.lab.node(GATEWAY)?.ip_batch("link set net1 down\n")),
    ("nft delete, no agent", true, |stand| {
        stand.lab.node(GATEWAY)?.nft("delete table inet egret; delete table netdev egret")
    }),
    ("tunnel device, no agent", true, |stand| stand.lab.node(GATEWAY)?.ip_batch("link del egret0\n")),
];

/// From the death to the end of the first request that was begun after it and answered.
fn one(death: Death) -> Result<Duration, crate::lab::LabError> {
    let mut stand = with_standby()?;
    let hammers: Vec<Hammer> =
        (0..CLIENTS).map(|_| stand.lab.hasty_hammer("tiefighter", OUTPOST, PATIENCE)).collect::<Result<_, _>>()?;
    let answered = |answer: Answer, since: Instant| {
        let requests = hammers.iter().flat_map(Hammer::requests);
        let good = requests.filter(|request| request.begun >= since && request.answer == answer);
        good.map(|request| (request.begun + request.took).duration_since(since)).min()
    };
    let begun = Instant::now();
    assert!(wait_until(super::DEADLINE, || answered(Answer::Granted(EGRESS), begun).is_some()), "nobody is let in");
    // The gateway serves without Egret.
    if death.1 {
        stand.kill9(GATEWAY)?;
    }
    let dead = Instant::now();
    death.2(&stand)?;
    let other = Answer::Granted(ip(OTHER));
    assert!(
        wait_until(super::DEADLINE, || answered(other, dead).is_some()),
        "{}: {}",
        death.0,
        stand.log("kind-worker")
    );
    let took = answered(other, dead).unwrap_or_default();
    for hammer in hammers {
        let wrong: Vec<_> =
            hammer.stop().into_iter().filter(|request| matches!(request.answer, Answer::Denied(_))).collect();
        assert_eq!(wrong, [], "{}", death.0);
    }
    stand.assert_no_leak_but(&[])?;
    Ok(took)
}

#[test]
#[ignore = "`make failover`: some minutes"]
fn figures() -> Outcome {
    let kills: usize = std::env::var("EGRET_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(DEATHS.len());
    let mut all: Vec<(usize, Duration)> = Vec::new();
    for kill in 0..kills {
        let death = kill % DEATHS.len();
        all.push((death, one(DEATHS[death])?));
    }
    println!("| death | times | median | 99 of 100 | longest |\n|---|---|---|---|---|");
    for (number, (name, ..)) in DEATHS.iter().enumerate() {
        let of_kind = all.iter().filter(|(death, _)| *death == number).map(|(_, took)| *took).collect();
        println!("{}", row(name, of_kind));
    }
    let every: Vec<Duration> = all.iter().map(|(_, took)| *took).collect();
    println!("{}", row("all", every));
    if kills >= 100 {
        let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reliability.svg");
        std::fs::write(picture, plot(&all)).map_err(crate::lab::LabError::doing(format!("write {picture}")))?;
    }
    Ok(())
}

fn row(name: &str, mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: usize| {
        let place = (times.len() * share).div_ceil(100).clamp(1, times.len().max(1)) - 1;
        times.get(place).map_or_else(String::new, |time| format!("{} ms", time.as_millis()))
    };
    format!("| {name} | {} | {} | {} | {} |", times.len(), at(50), at(99), at(100))
}

/// Every death as a point: by kind from top to bottom, by time from left to right.
fn plot(all: &[(usize, Duration)]) -> String {
    const LEFT: usize = 190;
    const ROW: usize = 34;
    let scale = |milliseconds: usize| LEFT + milliseconds;
    let bottom = ROW * DEATHS.len() + 20;
    let (width, height) = (scale(620), bottom + 40);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>Time from the death of a gateway to the first answered request</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for tick in (0..=600).step_by(100) {
        let _ = writeln!(
            svg,
            "<line x1=\"{0}\" y1=\"10\" x2=\"{0}\" y2=\"{bottom}\" stroke=\"{1}\"/><text x=\"{0}\" y=\"{2}\" text-anchor=\"middle\" fill=\"#333\">{tick}</text>",
            scale(tick),
            if tick == 500 { "#c33" } else { "#ddd" },
            bottom + 16
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#333\">milliseconds</text>",
        scale(300),
        bottom + 34
    );
    for (number, (name, ..)) in DEATHS.iter().enumerate() {
        let middle = ROW * number + 30;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#333\">{name}</text>",
            LEFT - 10,
            middle + 4
        );
        for (place, (_, took)) in all.iter().filter(|(death, _)| *death == number).enumerate() {
            let x = scale(usize::try_from(took.as_millis()).unwrap_or(usize::MAX).min(610));
            let y = middle - 8 + place * 7 % 17;
            let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"2.5\" fill=\"#2563a8\" fill-opacity=\"0.6\"/>");
        }
    }
    svg.push_str("</svg>\n");
    svg
}
