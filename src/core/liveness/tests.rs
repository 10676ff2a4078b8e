//! Tests of the paths' monitor on made-up times.

use super::*;
use crate::core::name::NodeName;
use crate::core::policy::Egress;

const TIMING: ProbeTiming = ProbeTiming { interval: Duration::from_millis(100), misses: 3 };

fn key(node: &str) -> PathKey {
    let exit = ExitKey { gateway: NodeName::parse(node).unwrap(), egress: Egress::DefaultRoute, next_hops: Vec::new() };
    (exit, AddressFamily::V4)
}

fn target(standby: bool) -> ProbeTarget {
    ProbeTarget { mark: 1, standby, replaced: false, left: false, standbys: Vec::new() }
}

fn monitor(targets: &[(&str, ProbeTarget)]) -> PathMonitor {
    let mut monitor = PathMonitor::default();
    monitor.set(&targets.iter().map(|(node, target)| (key(node), target.clone())).collect(), TIMING, Duration::ZERO);
    monitor
}

/// Runs from one time to another in steps of ten milliseconds; `answers` says who answers, at once.
fn run(monitor: &mut PathMonitor, from: u64, to: u64, answers: impl Fn(&PathKey) -> bool) -> usize {
    let mut sent = 0;
    for now in (from..to).step_by(10).map(Duration::from_millis) {
        for DueProbe { key, .. } in monitor.due(now) {
            sent += 1;
            if answers(&key) {
                monitor.answered(&key, now);
            }
        }
        monitor.judge(now);
    }
    sent
}

fn state(monitor: &PathMonitor, node: &str) -> PathState {
    let (exit, family) = key(node);
    monitor.view().of(&exit, family)
}

#[test]
fn a_gateway_that_stops_answering_is_silent_after_three_intervals_and_a_probe() {
    let mut monitor = monitor(&[("a", target(false))]);
    run(&mut monitor, 0, 1_000, |_| true);
    assert_eq!(state(&monitor, "a"), PathState::Answering);
    run(&mut monitor, 1_000, 1_300, |_| false);
    assert_eq!(state(&monitor, "a"), PathState::Answering, "the third answer may be on its way");
    run(&mut monitor, 1_300, 1_410, |_| false);
    assert_eq!(state(&monitor, "a"), PathState::Silent);
}

#[test]
fn one_that_never_answered_may_be_on_its_way_and_is_silent_later() {
    let mut monitor = monitor(&[("a", target(false))]);
    run(&mut monitor, 0, 4_900, |_| false);
    assert_eq!(state(&monitor, "a"), PathState::Unknown);
    run(&mut monitor, 4_900, 5_210, |_| false);
    assert_eq!(state(&monitor, "a"), PathState::Silent);
}

#[test]
fn a_process_that_stood_still_blames_nobody() {
    let mut monitor = monitor(&[("a", target(false))]);
    run(&mut monitor, 0, 500, |_| true);
    // It sent one probe, was stopped for a minute, and takes in the answer only then.
    assert_eq!(monitor.due(Duration::from_millis(500)).len(), 1);
    let later = Duration::from_mins(1);
    monitor.judge(later);
    assert_eq!(state(&monitor, "a"), PathState::Answering, "one probe is no three");
    monitor.answered(&key("a"), later);
    monitor.judge(later);
    assert_eq!(state(&monitor, "a"), PathState::Answering);
}

#[test]
fn a_probe_that_cannot_be_sent_makes_no_gateway_silent() {
    let mut monitor = monitor(&[("a", target(false))]);
    run(&mut monitor, 0, 1_000, |_| true);
    for now in (1_000..5_000).step_by(10).map(Duration::from_millis) {
        for due in monitor.due(now) {
            monitor.unsent(&due.key);
        }
        monitor.judge(now);
    }
    assert_eq!(state(&monitor, "a"), PathState::Answering);
    run(&mut monitor, 5_000, 6_000, |_| false);
    assert_eq!(state(&monitor, "a"), PathState::Silent);
}

#[test]
fn a_slow_path_answers_late_and_is_not_silent() {
    let mut monitor = monitor(&[("a", target(false))]);
    // Every answer takes 250 ms.
    let mut on_their_way: Vec<Duration> = Vec::new();
    for now in (0..5_000).step_by(10).map(Duration::from_millis) {
        on_their_way.retain(|at| {
            let here = *at <= now;
            if here {
                monitor.answered(&key("a"), now);
            }
            !here
        });
        on_their_way.extend(monitor.due(now).iter().map(|_| now + Duration::from_millis(250)));
        monitor.judge(now);
        assert_ne!(state(&monitor, "a"), PathState::Silent, "{now:?}");
    }
    assert_eq!(state(&monitor, "a"), PathState::Answering);
}

#[test]
fn after_a_silence_it_is_trusted_once_it_has_answered_for_a_while_and_later_each_time() {
    let mut monitor = monitor(&[("a", target(false))]);
    run(&mut monitor, 0, 1_000, |_| true);
    run(&mut monitor, 1_000, 2_000, |_| false);
    run(&mut monitor, 2_000, 11_000, |_| true);
    assert_eq!(state(&monitor, "a"), PathState::Recovering, "nine seconds");
    run(&mut monitor, 11_000, 14_000, |_| true);
    assert_eq!(state(&monitor, "a"), PathState::Answering);
    run(&mut monitor, 14_000, 15_000, |_| false);
    run(&mut monitor, 15_000, 33_000, |_| true);
    assert_eq!(state(&monitor, "a"), PathState::Recovering, "it flaps: twice as long");
    run(&mut monitor, 33_000, 38_000, |_| true);
    assert_eq!(state(&monitor, "a"), PathState::Answering);
}

#[test]
fn standbys_cost_a_probe_a_second_until_somebody_needs_them() {
    let with_standby = ProbeTarget { standbys: vec![key("b").0], ..target(false) };
    let mut monitor = monitor(&[("a", with_standby), ("b", target(true))]);
    let sent = run(&mut monitor, 0, 10_000, |_| true);
    assert_eq!(sent, 100 + 10);
    // The first two silent probes are trouble.
    let sent = run(&mut monitor, 10_000, 10_300, |(exit, _)| exit.gateway.as_str() == "b");
    assert!(sent >= 4, "{sent}");
    assert_eq!(state(&monitor, "b"), PathState::Answering);
    // No gateway answers any more: the first that does is seen at once.
    run(&mut monitor, 10_300, 12_000, |_| false);
    assert_eq!([state(&monitor, "a"), state(&monitor, "b")], [PathState::Silent; 2]);
    run(&mut monitor, 12_000, 12_110, |(exit, _)| exit.gateway.as_str() == "b");
    assert_eq!(state(&monitor, "b"), PathState::Recovering);
    assert!(state(&monitor, "b").answers());
}

#[test]
fn a_silent_path_is_probed_once_a_second_while_a_standby_answers_and_as_one_in_use_while_none_does() {
    let with_standby = ProbeTarget { standbys: vec![key("b").0], ..target(false) };
    let mut monitor = monitor(&[("a", with_standby), ("b", target(true))]);
    let to_a = |monitor: &mut PathMonitor, from: u64, answers: bool| {
        let (mut sent, mut idle) = (0, 0);
        for now in (from..from + 10_000).step_by(10).map(Duration::from_millis) {
            for due in monitor.due(now) {
                let is_a = due.key == key("a");
                (sent, idle) = (sent + u32::from(is_a), idle + u32::from(is_a && due.idle));
                if answers && !is_a {
                    monitor.answered(&due.key, now);
                }
            }
            monitor.judge(now);
        }
        (sent, idle)
    };
    to_a(&mut monitor, 0, true);
    let (sent, idle) = to_a(&mut monitor, 10_000, true);
    assert!((9..=11).contains(&sent) && idle == sent, "{sent}, {idle}");
    to_a(&mut monitor, 20_000, false);
    assert_eq!(to_a(&mut monitor, 30_000, false), (100, 0), "the gateway hears that it is wanted");
}

/// Gateways count the probes of paths in use: an address is where most of them arrive.
#[test]
fn only_the_path_that_packets_take_is_probed_as_in_use() {
    let with_standby = ProbeTarget { standbys: vec![key("b").0], ..target(false) };
    let ports = |targets: &[(&str, ProbeTarget)], answering: &[&str]| {
        let mut monitor = monitor(targets);
        run(&mut monitor, 0, 1_000, |(exit, _)| answering.contains(&exit.gateway.as_str()));
        let due = monitor.due(Duration::from_secs(3));
        due.into_iter().map(|due| (due.key.0.gateway.to_string(), due.idle)).collect::<BTreeMap<_, _>>()
    };
    let idle = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
    let both = [("a", with_standby.clone()), ("b", target(true))];
    assert_eq!(ports(&both, &["a", "b"]), idle(false, true));
    assert_eq!(ports(&both, &[]), idle(false, true), "it may be just on its way");
    assert_eq!(ports(&both, &["b"]), idle(true, true), "the address answers elsewhere: a detour follows");
    let replaced = ProbeTarget { replaced: true, ..with_standby.clone() };
    assert_eq!(ports(&[("a", replaced.clone()), ("b", target(false))], &["a", "b"]), idle(true, false), "it recovers");
    assert_eq!(ports(&[("a", replaced), ("b", target(false))], &["a"]), idle(false, false));
    let left = ProbeTarget { left: true, ..target(false) };
    assert_eq!(ports(&[("a", left), ("b", target(false))], &["a", "b"]), idle(true, false));
}

#[test]
fn a_path_that_a_former_process_replaced_is_not_trusted_at_its_first_answer() {
    let mut monitor = monitor(&[("a", ProbeTarget { replaced: true, ..target(false) })]);
    run(&mut monitor, 0, 5_000, |_| true);
    assert_eq!(state(&monitor, "a"), PathState::Recovering, "the detour stays");
    run(&mut monitor, 5_000, 11_000, |_| true);
    assert_eq!(state(&monitor, "a"), PathState::Answering);
}

#[test]
fn all_nodes_together_send_a_gateway_at_most_ten_thousand_probes_a_second() {
    assert_eq!(TIMING.in_cluster(3).interval, TIMING.interval);
    assert_eq!(TIMING.in_cluster(5_000).interval, Duration::from_millis(500));
}
