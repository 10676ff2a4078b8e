//! Ports: sources choose them so that two rarely collide at a gateway, gateways keep them, and used ones are counted.
//!
//! Not here: the rule for a finding, and how counting stays within its memory (`core::ports`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};

use super::failover::transfers::tracked;
use super::metrics::fetch;
use super::stand::{DEADLINE, Outcome, Stand, with_pods};
use crate::lab::{EGRESS, LINES, LabError, OUTPOST, Options, Pod, wait_until};

const GATEWAY: &str = "kind-worker2";
/// Of each source.
const CONNECTIONS: usize = 500;

/// Opens connections from a pod; they stay.
fn open(stand: &Stand, pod: &str, count: usize) -> Result<Vec<TcpStream>, LabError> {
    let connect =
        || (0..count).map(|_| TcpStream::connect_timeout(&SocketAddr::new(OUTPOST, LINES), DEADLINE)).collect();
    let opened: std::io::Result<Vec<_>> = stand.lab.pod(pod)?.enter(connect)?;
    opened.map_err(LabError::doing(format!("connect from {pod}")))
}

/// The ports of both directions of a tracked connection: as it was opened, and as its replies come.
fn ports(line: &str) -> (u16, u16) {
    let number = |name: &str, place: usize| {
        let value = line.split(' ').filter_map(|word| word.strip_prefix(name)).nth(place);
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    };
    (number("sport=", 0), number("dport=", 1))
}

/// Two sources open 500 connections each to one server: the gateway keeps nearly all ports, so that another gateway keeps them too.
#[test]
fn ports_of_two_sources_rarely_collide_at_the_gateway() -> Outcome {
    let options = with_pods(&[Pod::new("cruiser", "kind-worker3", 51, &[("org", "empire")])]);
    let stand = Stand::applied(Options { workers: 2, ..options })?;
    stand.await_granted("cruiser")?;
    let _open = [open(&stand, "tiefighter", CONNECTIONS)?, open(&stand, "cruiser", CONNECTIONS)?];
    let at_gateway = tracked(&stand, GATEWAY, LINES)?;
    assert_eq!(at_gateway.len(), 2 * CONNECTIONS);
    let changed = at_gateway.iter().map(|line| ports(line)).filter(|(from, to)| from != to).count();
    report(&format!("of {} connections of two sources {changed} got another port at the gateway", 2 * CONNECTIONS));
    // By chance: 3.9 on average; more than 20 with a probability of less than one in a billion. With pods' own ports it would be 8.9.
    assert!(changed <= 20, "{changed} of {}", at_gateway.len());
    // Each source chooses among all ports that are not privileged.
    let chosen: BTreeSet<u16> = tracked(&stand, "kind-worker", LINES)?.iter().map(|line| ports(line).1).collect();
    assert_eq!(chosen.len(), CONNECTIONS);
    let by_quarter = chosen.iter().fold(BTreeMap::new(), |mut by, port| {
        *by.entry(port / 16_384).or_insert(0) += 1;
        by
    });
    assert_eq!(by_quarter.len(), 4, "{by_quarter:?}");
    assert!(chosen.iter().all(|port| *port >= 1024));
    Ok(())
}

#[test]
fn used_ports_are_a_metric_of_each_address_on_both_nodes() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let _open = open(&stand, "tiefighter", 40)?;
    for (node, address) in [(GATEWAY, EGRESS.to_string()), ("kind-worker", "10.1.1.254".to_owned())] {
        let line = format!("egret_ports_used{{address=\"{address}\"}} 4");
        let mut page = String::new();
        let counted = wait_until(DEADLINE, || {
            page = fetch(&stand, node, "/metrics").map(|(_, page)| page).unwrap_or_default();
            page.lines().any(|found| found.starts_with(&line) && found.len() == line.len() + 1)
        });
        assert!(counted, "{line}\n{page}");
        assert!(page.lines().any(|line| line == "egret_ports_limit 64512"), "{page}");
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "measured; the test harness takes what is printed so")]
fn report(what: &str) {
    println!("measured: {what}");
}
