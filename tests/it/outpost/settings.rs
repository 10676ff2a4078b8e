//! Settings below `/proc/sys/net` that somebody changes: Egret's own are put back, others' are said.
//!
//! Every wait here ends before the minute after which everything is looked at: what is waited for is seen by the kernel's own word.
//! Deliberately absent: whom it was, which the kernel does not tell.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use egret::core::finding::Finding;

use super::stand::{Outcome, Stand, WAYS, print_figures};
use crate::lab::{Answer, EGRESS, Lab, Namespace, OUTPOST, OUTPOST6, Options, wait_until};

const SOURCE: &str = "kind-worker";
const GATEWAY: &str = "kind-worker2";
/// Less than the minute after which everything is looked at, and only against hanging.
const DEADLINE: Duration = Duration::from_secs(30);

fn read(node: &Namespace, setting: &str) -> String {
    let file = format!("/proc/sys/{}", setting.replace('.', "/"));
    node.exec(["cat", &file]).unwrap_or_default().trim().to_owned()
}

/// Writes a setting and waits until it is what it was before; the time that it took.
fn put_back(stand: &Stand, node: &str, setting: &str, value: &str) -> Result<Duration, crate::lab::LabError> {
    let namespace = stand.lab.node(node)?;
    let before = read(&namespace, setting);
    assert_ne!(before, value, "{setting}");
    let written = Instant::now();
    namespace.sysctl(setting, value)?;
    let back = wait_until(DEADLINE, || read(&namespace, setting) == before);
    assert!(back, "{setting} of {node} stays {value}\n{}", stand.log(node));
    Ok(written.elapsed())
}

fn await_finding(stand: &Stand, node: &str, code: &str, subject: &str) -> Finding {
    let is_it = |finding: &Finding| finding.code == code && finding.subject == subject;
    let report = stand.await_report(node, &format!("{code} of {subject}"), |report| {
        report.findings.iter().any(|since| is_it(&since.finding))
    });
    report.findings.into_iter().map(|since| since.finding).find(is_it).expect("it was just seen")
}

fn await_no_finding(stand: &Stand, node: &str, code: &str) {
    stand.await_report(node, &format!("nothing of {code}"), |report| {
        !report.findings.iter().any(|since| since.finding.code == code)
    });
}

#[test]
fn settings_of_egrets_own_are_put_back_as_soon_as_somebody_changes_them() -> Outcome {
    // Strict filters: Egret has loosened net1's.
    let stand = Stand::applied(Options { rp_filter: 1, ..Options::default() })?;
    let mut took = Vec::new();
    for (node, setting, value) in [
        (GATEWAY, "net.ipv4.conf.net1.rp_filter", "1"),
        (GATEWAY, "net.ipv4.conf.net1.rp_filter", "0"),
        (GATEWAY, "net.ipv4.conf.egret0.rp_filter", "1"),
        (SOURCE, "net.ipv4.conf.egret0.rp_filter", "1"),
        (SOURCE, "net.ipv4.conf.egret0.forwarding", "0"),
        (GATEWAY, "net.ipv4.conf.egret0.forwarding", "0"),
        (GATEWAY, "net.ipv6.conf.egret0.disable_ipv6", "1"),
    ] {
        took.push(put_back(&stand, node, setting, value)?);
    }
    print_figures("settings, written to put back", took);
    stand.await_settled()?;
    let record = stand.await_corrected(GATEWAY, "sysctl net.ipv4.conf.egret0.forwarding", 1);
    assert_eq!(record.observed.as_deref(), Some("net.ipv4.conf.egret0.forwarding = 0"));
    stand.await_granted("tiefighter")?;
    stand.assert_no_leak_but(&[])
}

#[test]
fn the_tunnel_forwards_whatever_devices_are_made_with() -> Outcome {
    let lab = Lab::up(Options::default())?;
    for node in [SOURCE, GATEWAY] {
        lab.node(node)?.sysctl("net.ipv4.conf.default.forwarding", "0")?;
    }
    let stand = Stand::around(lab)?;
    stand.push_outpost()?;
    stand.await_granted("tiefighter")
}

/// Switches a setting of others off at a node: who is heard of it, nobody is answered, and all is well when it is on again.
fn switched_off(
    stand: &Stand,
    node: &str,
    setting: &str,
    subject: &str,
    way: (IpAddr, IpAddr),
) -> Result<Finding, crate::lab::LabError> {
    let namespace = stand.lab.node(node)?;
    namespace.sysctl(setting, "0")?;
    let finding = await_finding(stand, node, "not-forwarding", subject);
    assert_eq!(stand.lab.ask("tiefighter", way.0)?, Answer::NoAnswer);
    assert_eq!(read(&namespace, setting), "0", "it is not ours to switch on");
    namespace.sysctl(setting, "1")?;
    stand.await_answer("tiefighter", way.0, Answer::Granted(way.1))?;
    await_no_finding(stand, node, "not-forwarding");
    Ok(finding)
}

#[test]
fn where_somebody_switched_forwarding_off_is_reported_with_the_setting_and_what_to_do() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let exit = "kind-worker2 dev net1";
    let four = (OUTPOST, EGRESS);
    let finding = switched_off(&stand, GATEWAY, "net.ipv4.conf.net1.forwarding", exit, four)?;
    assert_eq!(
        finding.message,
        "net.ipv4.conf.net1.forwarding is 0: kind-worker2 forwards no reply, so it does not serve; members' packets are dropped there"
    );
    assert!(finding.hint.is_some_and(|hint| hint.contains("sysctl -w net.ipv4.conf.")));
    switched_off(&stand, GATEWAY, "net.ipv4.ip_forward", exit, four)?;
    let finding = switched_off(&stand, SOURCE, "net.ipv4.conf.lxc-tiefighter.forwarding", SOURCE, four)?;
    assert_eq!(
        finding.message,
        "net.ipv4.conf.lxc-tiefighter.forwarding is 0: what batuu/tiefighter sends ends on this node"
    );
    switched_off(&stand, GATEWAY, "net.ipv6.conf.all.forwarding", exit, (OUTPOST6, WAYS[1].2))?;
    switched_off(&stand, SOURCE, "net.ipv6.conf.all.forwarding", SOURCE, (OUTPOST6, WAYS[1].2))?;
    stand.assert_no_leak_but(&[])
}
