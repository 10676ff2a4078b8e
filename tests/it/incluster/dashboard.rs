//! The dashboard's numbers: what a controller and agents serve while packets go is scraped by a real Prometheus, and each panel's
//! expressions have the values that the pages give when they are summed up without Prometheus.
//!
//! Run by `make monitoring`, which fetches Prometheus. Not here: that names are right (`descriptions`), and the alerts (tests/monitoring).

mod pages;
mod picture;
mod prometheus;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::SystemTime;

use serde_json::Value;

use self::pages::{Joined, Of, Pages};
use self::picture::Drawn;
use self::prometheus::Prometheus;
use super::metrics::{LISTEN, SUSPENDED, page};
use super::stand::{LABELS, Outcome, Stand, policy};
use crate::apiserver::{Fault, Filter};
use crate::lab::{DATAGRAMS, LabError, OUTPOST, Options};

const DASHBOARD: &str = include_str!("../../../charts/egret/dashboards/egret.json");

const GATEWAY: &str = "kind-worker2";
const EXIT: &str = "kind-worker2 dev net1";

/// The datagrams before each page: nothing before the range of two minutes begins, then more and more.
const DATAGRAMS_SENT: [u64; 7] = [0, 0, 0, 12, 24, 36, 48];

/// Seconds in the picture: a multiple of its step, so that it ends with the last pages.
const SHOWN: f64 = 175.0;

/// A header of IPv4, one of UDP, and `hear me`.
const BYTES: u64 = 35;

/// A member's socket. It stays open: the outpost answers, and a pod without the socket would send errors, which are packets as well.
fn socket_of_a_member(stand: &Stand) -> Outcome<UdpSocket> {
    stand.lab.pod("tiefighter")?.enter(|| UdpSocket::bind("0.0.0.0:0"))?.map_err(LabError::doing("open a socket"))
}

fn shout(socket: &UdpSocket, times: u64) -> Outcome {
    let sent = (0..times).try_for_each(|_| socket.send_to(b"hear me", (OUTPOST, DATAGRAMS)).map(|_| ()));
    sent.map_err(LabError::doing("send datagrams"))
}

/// What all processes serve in this moment, once it is as it should be.
fn read(stand: &Stand, pages: &mut Pages, awaited: &str, holds: impl Fn(&BTreeMap<String, String>) -> bool) -> Outcome {
    let names: Vec<String> = stand.nodes().into_iter().chain(["controller".to_owned()]).collect();
    let mut seen = BTreeMap::new();
    stand.await_that(awaited, || {
        seen = names.iter().filter_map(|name| Some((name.clone(), page(stand, name).ok()?))).collect();
        seen.len() == names.len() && holds(&seen)
    })?;
    for (name, page) in seen {
        pages.processes.entry(name).or_default().push(page);
    }
    Ok(())
}

/// The packets that the gateway has counted.
fn counted(pages: &BTreeMap<String, String>) -> Option<u64> {
    let series = format!("egret_exit_packets_total{{exit=\"{EXIT}\",role=\"gateway\"}} ");
    pages[GATEWAY].lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
}

fn is_silent(pages: &BTreeMap<String, String>) -> bool {
    pages["kind-worker"].contains(&format!("egret_gateway_silent{{exit=\"{EXIT}\"}} 1\n"))
}

/// A cluster in which everything happens that the dashboard shows, read seven times.
fn happenings() -> Result<(Stand, Pages), LabError> {
    let mut stand = Stand::empty(Options::default())?;
    let listen = ["--listen", LISTEN];
    stand.controller_with("one", &listen)?;
    for node in stand.nodes() {
        stand.agent_with(&node, &listen)?;
    }
    // One request that fails.
    stand.api.fault_times(Filter::writes().resource("egressnodes/status"), Fault::Status(500), 1);
    stand.push(&[
        ("nodes/gateways.yaml", LABELS),
        ("policies/outpost.yaml", &policy("egress-gw: \"true\"")),
        ("policies/aldhani.yaml", SUSPENDED),
    ])?;
    // No member has sent anything: the end of a connection, or its retransmissions, would be counted later.
    stand.await_that("a policy in all kernels", || {
        stand.condition("publishedegresspolicies", "outpost", "Ready").0 == "True"
    })?;
    // Each round has a connection of its own, and the first one is older than the range: a counter that appears within it has gained nothing yet.
    let mut sockets = vec![socket_of_a_member(&stand)?];
    shout(&sockets[0], 1)?;
    let mut pages = Pages::default();
    let failed = "egret_api_errors_total{operation=\"patch egressnodes/status\"} 1\n";
    read(&stand, &mut pages, "the error of the API server", |pages| {
        pages.values().any(|page| page.contains(failed)) && counted(pages) == Some(1)
    })?;
    let mut sent = 1;
    for (index, more) in DATAGRAMS_SENT.iter().enumerate().skip(1) {
        if *more > 0 {
            sockets.push(socket_of_a_member(&stand)?);
        }
        shout(&sockets[sockets.len() - 1], *more)?;
        sent += more;
        read(&stand, &mut pages, "the gateway's counter", |pages| counted(pages) == Some(sent))?;
        if index == DATAGRAMS_SENT.len() - 3 {
            // Drift that is corrected.
            stand.lab.node("kind-worker")?.exec(["ip", "rule", "del", "priority", "500"])?;
        }
    }
    // The last page again, with a gateway that does not answer.
    stand.lab.node(GATEWAY)?.exec(["ip", "link", "set", "net1", "down"])?;
    for all in pages.processes.values_mut() {
        all.pop();
    }
    read(&stand, &mut pages, "a silent gateway", is_silent)?;
    Ok((stand, pages))
}

/// What the expressions of each panel have to give, in the order of the dashboard.
#[expect(clippy::too_many_lines, reason = "a list, one entry for each panel")]
fn expected(pages: &Pages, now: f64) -> Vec<(&'static str, Vec<(String, f64)>)> {
    use Joined::{Max, Sum};
    use Of::{Increase, Last, Rate};
    let by = |name: &str, with: &[(&str, &str)], label: &str, of, joined| pages.by(name, with, label, of, joined);
    let only = |values: Vec<(String, f64)>| values.first().map_or(0.0, |(_, value)| *value);
    let one = |value: f64| vec![(String::new(), value)];
    let named = |name: &str, values: Vec<(String, f64)>| vec![(name.to_owned(), only(values))];
    let prefixed = |prefix: &str, values: Vec<(String, f64)>| -> Vec<(String, f64)> {
        values.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)).collect()
    };
    let count = |values: Vec<(String, f64)>, counts: fn(f64) -> bool| {
        one(f64::from(u32::try_from(values.iter().filter(|(_, value)| counts(*value)).count()).expect("few")))
    };
    let gateway = [("role", "gateway")];
    let dropped = |name: &str| only(by(name, &[], "", Rate, Sum));
    let full = {
        let entries = by("egret_conntrack_entries", &[], "node", Last, Max);
        let limits = by("egret_conntrack_entries_limit", &[], "node", Last, Max);
        entries.into_iter().zip(limits).map(|((node, entries), (_, limit))| (node, entries / limit)).collect()
    };
    let used = {
        let limit = only(by("egret_ports_limit", &[], "", Last, Max));
        let used = by("egret_ports_used", &[], "address", Last, Max);
        used.into_iter().map(|(address, used)| (address, used / limit)).collect()
    };
    let revisions = by("egret_revision_info", &[], "revision", Last, Sum);
    let round = "egret_reconcile_duration_seconds";
    vec![
        ("Leaders", by("egret_leader", &[], "", Last, Sum)),
        (
            "Time since Git answered",
            one(now - only(by("egret_git_last_success_timestamp_seconds", &[], "", Last, Max))),
        ),
        ("Active revisions", count(revisions.clone(), |_| true)),
        ("Nodes with open drift", count(by("egret_drift_open", &[], "node", Last, Sum), |open| open > 0.0)),
        ("Members", by("egret_members", &[], "", Last, Sum)),
        ("Exits", by("egret_exits", &gateway, "", Last, Sum)),
        ("Silent gateways", one(1.0)),
        ("Commits that wait", one(0.0)),
        ("Suspended", one(1.0)),
        (
            "Dropped",
            one(dropped("egret_leak_guard_dropped_packets_total")
                + dropped("egret_start_guard_dropped_packets_total")
                + dropped("egret_tunnel_dropped_packets_total")),
        ),
        ("Bytes by exit", by("egret_exit_bytes_total", &gateway, "exit", Rate, Sum)),
        ("Packets by exit", by("egret_exit_packets_total", &gateway, "exit", Rate, Sum)),
        ("New connections by policy", by("egret_policy_connections_total", &[], "policy", Rate, Sum)),
        (
            "Dropped by guards",
            [
                prefixed("leak guard ", by("egret_leak_guard_dropped_packets_total", &[], "node", Rate, Sum)),
                prefixed("start guard ", by("egret_start_guard_dropped_packets_total", &[], "node", Rate, Sum)),
            ]
            .concat(),
        ),
        ("Dropped at the tunnel", by("egret_tunnel_dropped_packets_total", &[], "reason", Rate, Sum)),
        ("Silent gateways, by exit", vec![(EXIT.to_owned(), 1.0)]),
        ("Connection tracking", full),
        (
            "Connections that are lost",
            [
                named("not entered", by("egret_conntrack_insert_failed_total", &[], "", Rate, Sum)),
                named("dropped", by("egret_conntrack_dropped_packets_total", &[], "", Rate, Sum)),
                named("given up", by("egret_conntrack_early_drop_total", &[], "", Rate, Sum)),
            ]
            .concat(),
        ),
        (
            "Drift",
            [
                by("egret_drift_total", &[], "class", Increase, Sum),
                named("open", by("egret_drift_open", &[], "", Last, Sum)),
            ]
            .concat(),
        ),
        (
            "API errors",
            [
                by("egret_api_errors_total", &[], "operation", Rate, Sum),
                prefixed("watch ", by("egret_watch_errors_total", &[], "resource", Rate, Sum)),
            ]
            .concat(),
        ),
        ("Reconciliation rounds", by("egret_reconcile_total", &[], "result", Rate, Sum)),
        (
            "Duration of a round",
            vec![
                ("half".to_owned(), pages.quantile(0.5, round)),
                ("99 of 100".to_owned(), pages.quantile(0.99, round)),
            ],
        ),
        ("Commits that wait, by reason", by("egret_commit_pending", &[], "reason", Last, Max)),
        (
            "Failures beside the datapath",
            named("state folder", by("egret_state_write_failures_total", &[], "", Increase, Sum)),
        ),
        ("Which revision is where", revisions),
        ("Suspended until", by("egret_suspended_until_timestamp_seconds", &[], "what", Last, Max)),
        ("Nodes where a policy works", by("egret_policy_ready", &[], "policy", Last, Sum)),
        (
            "Members' packets that are dropped, by policy",
            by("egret_policy_dropped_packets_total", &[], "policy", Rate, Sum),
        ),
        ("Gateways with an egress address", by("egret_egress_address_held", &[], "address", Last, Sum)),
        ("Latency of probes", by("egret_probe_latency_seconds", &[], "exit", Last, Max)),
        ("Ports in use", used),
    ]
}

/// The same within what extrapolation makes of a range that is a tenth of a second longer than the pages, and times rounded to milliseconds.
fn is_close(one: &[(String, f64)], other: &[(String, f64)]) -> bool {
    let close = |one: f64, other: f64| (one - other).abs() <= 0.002 * one.abs().max(other.abs()) + 0.0005;
    one.len() == other.len()
        && one.iter().zip(other).all(|((name, one), (same, other))| name == same && close(*one, *other))
}

#[test]
#[ignore = "needs Prometheus: make monitoring"]
fn every_panel_of_the_dashboard_shows_what_the_processes_counted() -> Outcome {
    let program = std::env::var("EGRET_PROMETHEUS").expect("EGRET_PROMETHEUS names the program");
    let picture = std::env::var("EGRET_DASHBOARD_SVG").expect("EGRET_DASHBOARD_SVG names the picture's file");
    let (stand, pages) = happenings()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let prometheus = Prometheus::start(&stand.lab, &program, &pages, now)?;
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let targets = |panel: &Value| -> Vec<(String, String)> {
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.iter().map(|target| (text(&target["expr"]), text(&target["legendFormat"]))).collect()
    };
    let expected = expected(&pages, prometheus.now);
    let titles: Vec<String> = panels.iter().map(|panel| text(&panel["title"])).collect();
    assert_eq!(titles, expected.iter().map(|(title, _)| (*title).to_owned()).collect::<Vec<_>>());
    let mut wrong = Vec::new();
    for (panel, (title, wanted)) in panels.iter().zip(&expected) {
        let mut found = Vec::new();
        for (expression, legend) in targets(panel) {
            found.extend(prometheus.values(&expression, &legend)?);
        }
        if !is_close(&found, wanted) {
            wrong.push(format!("{title}: Prometheus has {found:?}, the pages give {wanted:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    // What was sent left once, and is shown once.
    let sent: u64 = DATAGRAMS_SENT.iter().sum();
    let seconds = 120.0;
    let sent = [("Packets by exit", sent), ("Bytes by exit", sent * BYTES)];
    for (title, sent) in sent {
        let (_, shown) = expected.iter().find(|(found, _)| *found == title).expect("a panel");
        let sent = f64::from(u32::try_from(sent).expect("a small number")) / seconds;
        assert!(is_close(shown, &[(EXIT.to_owned(), sent)]), "{title}: {shown:?}, sent were {sent}");
    }
    let drawn: Vec<Drawn<'_>> = panels
        .iter()
        .map(|panel| {
            let lines = targets(panel)
                .into_iter()
                .flat_map(|(expression, legend)| prometheus.lines(&expression, &legend, SHOWN).expect("an answer"));
            Drawn { panel, lines: lines.collect() }
        })
        .collect();
    std::fs::write(&picture, picture::draw(&drawn)).map_err(LabError::doing(format!("write {picture}")))
}
