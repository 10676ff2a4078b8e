//! Connections that connection tracking cannot enter: only its statistics tell, and Egret reads them.
//!
//! Deliberately absent: a full table, since its limit is the whole machine's (`core::conntrack` has the rules).

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use super::metrics::fetch;
use super::stand::{DEADLINE, Document, Outcome, Stand};
use crate::lab::{EGRESS, Options, wait_until};

const GATEWAY: &str = "kind-worker2";

/// In the gateway's network, and nobody's: a SYN without an answer keeps its port for two minutes.
const NOBODY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 3, 200));

fn value(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().expect("a whole number")
}

#[test]
fn ports_that_are_used_up_are_counted_and_a_finding() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let gateway = stand.lab.node(GATEWAY)?;
    let page = fetch(&stand, GATEWAY, "/metrics")?.1;
    let before = value(&page, "egret_conntrack_insert_failed_total");
    assert!(value(&page, "egret_conntrack_entries_limit") > 0, "{page}");
    // Four ports, so that forty connections are enough; the real sixty thousand behave alike.
    gateway.nft(&format!(
        "table ip few {{ chain ports {{ type nat hook postrouting priority 80; \
         ip daddr {NOBODY} tcp dport 9 snat to {EGRESS}:2000-2003; }}; }}"
    ))?;
    gateway.enter(|| {
        for _ in 0..40 {
            let error = TcpStream::connect_timeout(&SocketAddr::new(NOBODY, 9), Duration::from_millis(20));
            assert!(error.is_err(), "nobody answers there");
        }
    })?;
    let mut page = String::new();
    let counted = wait_until(DEADLINE, || {
        page = fetch(&stand, GATEWAY, "/metrics").map(|(_, page)| page).unwrap_or_default();
        !page.is_empty() && value(&page, "egret_conntrack_insert_failed_total") >= before + 30
    });
    assert!(counted, "{before} before\n{page}");
    assert!(value(&page, "egret_conntrack_entries") >= 4, "{page}");
    // A round is due in a minute at the latest, and with this at once.
    stand.push("policies/outpost.yaml", &Document { excluded: "", ..Document::default() }.text())?;
    stand.await_report(GATEWAY, "that connections are lost", |report| {
        let mut findings = report.findings.iter().map(|since| &since.finding);
        findings.any(|finding| finding.code == "connections-lost" && finding.subject == GATEWAY)
    });
    gateway.nft("delete table ip few")
}
