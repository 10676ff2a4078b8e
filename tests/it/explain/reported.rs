//! What nodes and agents report, and what follows from it in an explanation: a silent gateway, a fault, a commit that brought it.
//!
//! Deliberately absent: what a kernel holds (`outpost::explained`).

use std::collections::BTreeMap;
use std::time::Duration;

use egret::core::explain::{
    ANSWER_FORMAT, ConnectionAnswer, Counted, Difference, DocumentChange, ExitAnswer, KernelAnswer, KernelWay,
    LiveConnection, LiveOutcome, Situation, Told, explain, lines,
};
use egret::core::name::NodeName;
use egret::core::policy::PolicySet;
use egret::core::report::history::{NodeReport, Rejected};
use jiff::Timestamp;

use super::{facts, now, outpost, question, set, with, with_reports};

/// What an agent answers whose kernel holds nothing of the way, and has so many differences.
fn answer(differences: usize) -> KernelAnswer {
    let difference = Difference { object: "rule 501".to_owned(), desired: Some("a".to_owned()), observed: None };
    KernelAnswer {
        format_version: ANSWER_FORMAT,
        at: now(),
        revision: "d93c4a6d93c4a6".to_owned(),
        way: KernelWay::default(),
        leads_to: None,
        counted: Counted::default(),
        differs: vec![difference; differences],
        exit: None,
        connections: None,
    }
}

/// Two gateways of one policy, each with an address of its own; the pod leaves by the second, which a source reports as silent.
fn while_gamma_is_silent<T>(consequence: &str, ask: impl FnOnce(&Situation<'_>) -> T) -> T {
    let mut both = outpost();
    let [beta, gamma] = [("true", "10.77.3.42"), ("second", "10.77.3.43")].map(|(label, address)| {
        format!("{{nodeSelector: {{matchLabels: {{egress-gw: \"{label}\"}}}}, egressIP: {address}}}")
    });
    let one = both.lines().find(|line| line.contains("egressGateway:")).unwrap().to_owned();
    both = both.replace(&one, &format!("  egressGateways: [{beta}, {gamma}]"));
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: gamma, labels: {egress-gw: \"second\"}}\n\
                spec: {podCIDRs: [10.61.3.0/24]}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0.4}]}\n";
    let (set, facts) = (set(&[both]), facts(|text| text + node));
    let mut report = NodeReport::new("alpha");
    let finding = egret::core::finding::Finding::new("gateway-silent", "gamma 10.77.3.43", consequence);
    let finding = finding.hint("look at the gateway");
    report.set_findings(vec![finding], "2026-11-30T11:56:00Z".parse().unwrap());
    with_reports(&set, &facts, (&[report], &BTreeMap::new()), ask)
}

#[test]
fn while_a_standby_carries_members_the_first_line_has_its_address_by_the_sources_report() {
    let said = |consequence: &str| {
        while_gamma_is_silent(consequence, |situation| {
            let head = lines(&explain(&question("batuu/tie", "10.88.4.2"), situation).unwrap(), None, now()).0;
            let row = egret::core::overview::Overview::of_situation("default", "", situation).policies.remove(0);
            (head.split_once("   ").unwrap().1.to_owned(), row.state, row.reason)
        })
    };
    let silent = "its gateway does not answer this node's probes";
    let (head, state, _) = said(&format!("{silent}; beta 10.77.3.42 carries its members meanwhile"));
    assert_eq!(
        (head.as_str(), state),
        ("leaves as 10.77.3.42 through beta, in the place of gamma 10.77.3.43, which does not answer", "standby")
    );
    let (head, state, reason) =
        said(&format!("{silent}; no standby answers either; members' packets are lost on the way"));
    assert!(head.starts_with(&format!("DROPPED on alpha since 11:56:00 (4 min): {silent}")), "{head}");
    assert_eq!((state, reason.as_str()), ("DROPS", "GatewaySilent"));
    let (head, state, _) = said(&format!("{silent} over IPv6; beta 10.77.3.42 carries its members meanwhile"));
    assert_eq!(
        (head.as_str(), state),
        ("leaves as 10.77.3.43 through gamma", "ok"),
        "the destination is of the other family"
    );
}

#[test]
fn what_is_known_of_a_silent_gateway_tells_a_node_that_is_down_from_a_tunnel_that_is_blocked() {
    let lost = "its gateway does not answer this node's probes; no standby answers either; members' packets are lost on the way";
    let advice = |answer: Option<Told>| {
        let told: BTreeMap<_, _> =
            answer.into_iter().map(|answer| (NodeName::parse("gamma").unwrap(), answer)).collect();
        while_gamma_is_silent(lost, |situation| {
            let asked = explain(&question("batuu/tie", "10.88.4.2"), &Situation { told: &told, ..*situation }).unwrap();
            let (_, lines) = lines(&asked, None, now());
            lines.into_iter().find(|(label, _)| *label == "do").unwrap().1
        })
    };
    assert_eq!(advice(None), "between alpha and gamma 10.77.3.43: look at the gateway");
    let up = advice(Some(Ok(answer(0))));
    assert!(up.contains("; gamma is up and its agent answers, so the tunnel's packets are lost: look"), "{up}");
    let away = advice(Some(Err("no answer within 2 s".to_owned())));
    assert!(away.contains("; gamma is Ready and its agent does not answer (no answer within 2 s): look"), "{away}");
}

#[test]
fn a_table_that_leads_nowhere_counts_at_the_gateway_that_has_the_packets_alone() {
    let way = KernelWay { exit: Some(1), route: Some("table 9001 unreachable".to_owned()), ..KernelWay::default() };
    let nowhere = KernelAnswer { way, ..answer(0) };
    let carried = "its gateway does not answer this node's probes; beta 10.77.3.42 carries its members meanwhile";
    let head = |node: &str| {
        let told = BTreeMap::from([(NodeName::parse(node).unwrap(), Ok(nowhere.clone()))]);
        while_gamma_is_silent(carried, |situation| {
            let asked = explain(&question("batuu/tie", "10.88.4.2"), &Situation { told: &told, ..*situation }).unwrap();
            lines(&asked, None, now()).0.split_once("   ").unwrap().1.to_owned()
        })
    };
    assert!(head("gamma").starts_with("leaves as 10.77.3.42 through beta, in the place of gamma"), "{}", head("gamma"));
    // On the pod's own node it is the way of its packets.
    assert!(!head("alpha").starts_with("leaves as"), "{}", head("alpha"));
}

#[test]
fn what_a_long_list_leaves_out_is_counted() {
    let (set, facts) = (set(&[outpost()]), facts(|text| text));
    let of_kernel = |differences: usize| {
        let told = BTreeMap::from([(NodeName::parse("alpha").unwrap(), Ok(answer(differences)))]);
        let all = with_reports(&set, &facts, (&[], &told), |situation| {
            lines(&explain(&question("batuu/tie", "10.88.4.2"), situation).unwrap(), None, now()).1
        });
        all.into_iter().find(|(label, _)| *label == "kernel").unwrap().1
    };
    let (eight, ten) = (of_kernel(8), of_kernel(10));
    assert_eq!(eight.matches("rule 501").count(), 8);
    assert_eq!(ten, format!("{eight}; 2 other differences"));
}

#[test]
fn a_member_on_a_node_that_no_agent_ever_reported_from_is_not_steered() {
    let (set, facts) = (set(&[outpost()]), facts(|text| text));
    let alpha = NodeName::parse("alpha").unwrap();
    let told = BTreeMap::from([(alpha, Err("no agent's pod is on it in egret-system".to_owned()))]);
    let head = |reports: &[NodeReport]| {
        with_reports(&set, &facts, (reports, &told), |situation| {
            let explanation = explain(&question("batuu/tie", "10.88.4.2"), situation).unwrap();
            lines(&explanation, None, now()).0.split_once("   ").unwrap().1.to_owned()
        })
    };
    let never = head(&[]);
    assert!(never.starts_with("DIFFERS on alpha: no agent has ever reported from it"), "{never}");
    assert!(never.ends_with("what is decided: leaves as 10.77.3.42 through beta"), "{never}");
    let mut report = NodeReport::new("alpha");
    report.set_active("d93c4a6d93c4a6", "let the empire through", now());
    assert_eq!(head(&[report]), "leaves as 10.77.3.42 through beta", "its kernel goes on without an agent");
}

#[test]
fn a_node_that_reports_is_named_where_its_kernel_is_not_read() {
    let (set, facts) = (set(&[outpost()]), facts(|text| text));
    let mut report = NodeReport::new("beta");
    report.set_active("d93c4a6d93c4a6", "let the empire through", now());
    let finding = egret::core::finding::Finding::new(
        "not-forwarding",
        "beta 10.77.3.42",
        "net.ipv4.conf.net1.forwarding is 0: beta forwards no reply, so it does not serve; members' packets are dropped there",
    )
    .hint("`sysctl -w net.ipv4.ip_forward=1`");
    report.set_findings(vec![finding], "2026-11-30T11:56:00Z".parse().unwrap());
    let (head, lines) = with_reports(&set, &facts, (&[report], &BTreeMap::new()), |situation| {
        lines(&explain(&question("batuu/tie", "10.88.4.2"), situation).unwrap(), None, now())
    });
    let expected = "batuu/tie (10.61.1.177, alpha) → 10.88.4.2   DROPPED on beta since 11:56:00 (4 min): \
                    net.ipv4.conf.net1.forwarding is 0: beta forwards no reply, so it does not serve";
    assert_eq!(head, expected);
    let of = |wanted: &str| lines.iter().find(|(label, _)| *label == wanted).map(|(_, text)| text.as_str());
    assert_eq!(of("kernel"), Some("beta: not read here; it reports d93c4a6d93c4 as active"));
    assert_eq!(of("do"), Some("on beta: `sysctl -w net.ipv4.ip_forward=1`"));
}

/// What is said with these findings of a node.
fn with_finding(node: &str, finding: (&str, &str, &str), pod: &str, to: &str) -> String {
    let (set, facts) = (set(&[outpost()]), facts(|text| text));
    let mut report = NodeReport::new(node);
    report.set_active("d93c4a6d93c4a6", "let the empire through", now());
    let (code, subject, message) = finding;
    report.set_findings(vec![egret::core::finding::Finding::new(code, subject, message)], now());
    with_reports(&set, &facts, (&[report], &BTreeMap::new()), |situation| {
        lines(&explain(&question(pod, to), situation).unwrap(), None, now()).0
    })
}

#[test]
fn what_is_wrong_in_one_family_is_no_fault_of_the_other() {
    let head = |message| {
        with_finding("beta", ("egress-address-missing", "beta 10.77.3.42", message), "batuu/tie", "10.88.4.2")
    };
    let wrong = head("net1 has no global IPv4 address; members' packets are dropped there");
    assert!(wrong.contains("DROPPED on beta"), "{wrong}");
    let of_the_other = head("net1 has no global IPv6 address; members' packets are dropped there");
    assert!(of_the_other.ends_with("leaves as 10.77.3.42 through beta"), "{of_the_other}");
}

#[test]
fn a_pod_whose_own_node_forwards_nothing_of_it_is_dropped_there() {
    let message = |pods: &str| format!("net.ipv4.conf.lxc1.forwarding is 0: what {pods} sends ends on this node");
    let head =
        |pods: &str| with_finding("alpha", ("not-forwarding", "alpha", &message(pods)), "batuu/tie", "10.88.4.2");
    let expected = "DROPPED on alpha since 12:00:00 (0 s): net.ipv4.conf.lxc1.forwarding is 0: what batuu/other, batuu/tie sends ends on this node";
    assert!(head("batuu/other, batuu/tie").ends_with(expected), "{}", head("batuu/other, batuu/tie"));
    assert!(head("batuu/tiefighter").ends_with("leaves as 10.77.3.42 through beta"));
}

#[test]
fn a_document_whose_newest_version_is_not_active_is_mended_before_any_label() {
    let of = |file: &str, pod: &str| {
        let rejected = Rejected {
            place: format!("{file}:7:3"),
            message: "an error".to_owned(),
            instead: "No earlier version is active".to_owned(),
        };
        with(&set(&[outpost()]), &facts(|text| text), |situation| {
            let rejected = [rejected];
            let mut explanation =
                explain(&question(pod, "10.88.4.2"), &Situation { rejected: &rejected, ..*situation }).unwrap();
            explanation.changed = Some(DocumentChange {
                commit: "d93c4a6d93c4a6".to_owned(),
                summary: "oops".to_owned(),
                author: "Ada <ada@example.com>".to_owned(),
                time: now(),
            });
            lines(&explanation, None, now()).1
        })
    };
    let line = |lines: &[(&str, String)], wanted: &str| {
        lines.iter().find(|(label, _)| *label == wanted).map(|(_, text)| text.clone()).unwrap_or_default()
    };
    let others = of("policies/rebel.yaml", "batuu/xwing");
    assert_eq!(line(&others, "stale"), "policies/rebel.yaml:7:3: an error. No earlier version is active");
    assert_eq!(line(&others, "do"), "mend policies/rebel.yaml:7:3, whose newest version is not active: an error");
    // The commit that last changed the file is not the one that is active.
    let own = of("policies/0.yaml", "batuu/tie");
    let expected = "outpost, policies/0.yaml:1, its last good version; its newest, d93c4a6d93c4 \"oops\" (Ada, 0 s), has a mistake";
    assert_eq!(line(&own, "policy"), expected);
    assert_eq!(line(&own, "do"), "correct policies/0.yaml:7:3, or `git revert d93c4a6d93c4`");
}

#[test]
fn a_connection_that_nobody_answers_says_where_to_look_by_what_was_counted() {
    let (alpha, beta) = (NodeName::parse("alpha").unwrap(), NodeName::parse("beta").unwrap());
    let advice = |outcome: LiveOutcome, counted: [Option<u64>; 2]| {
        with(&set(&[outpost()]), &facts(|text| text), |situation| {
            let mut explanation = explain(&question("batuu/tie", "10.88.4.2"), situation).unwrap();
            let counted = [&alpha, &beta].into_iter().cloned().zip(counted).collect();
            explanation.live = Some(LiveConnection { port: 443, outcome, took: Duration::ZERO, counted });
            let (_, lines) = lines(&explanation, None, now());
            lines.into_iter().find(|(label, _)| *label == "do").map(|(_, text)| text).unwrap_or_default()
        })
    };
    let lost = || LiveOutcome::Failed("nothing came within 3 s".to_owned());
    assert_eq!(advice(LiveOutcome::Connected, [Some(4), Some(4)]), "");
    let beyond = "look at the firewall and the routes beyond beta: do they let 10.77.3.42 in";
    assert!(advice(lost(), [Some(3), Some(3)]).contains(beyond), "the gateway had them");
    assert!(advice(lost(), [Some(3), Some(0)]).starts_with("the packets are lost between the nodes"));
    assert!(advice(lost(), [Some(0), Some(0)]).starts_with("the packets are lost on the pod's own node"));
    assert!(advice(lost(), [Some(3), None]).starts_with("run `egret explain` twice on beta"));
    assert!(advice(LiveOutcome::Refused, [Some(3), Some(3)]).starts_with("something answers and refuses"));
}

#[test]
fn a_node_is_not_blamed_for_what_another_reports_and_is_for_its_own_pods() {
    let since: Timestamp = "2026-11-30T11:56:00Z".parse().unwrap();
    let report = |node: &str, code: &str, subject: &str, message: &str| {
        let mut report = NodeReport::new(node);
        report.set_active("d93c4a6d93c4a6", "let the empire through", now());
        report.set_findings(vec![egret::core::finding::Finding::new(code, subject, message)], since);
        report
    };
    let rows = |reports: &[NodeReport]| {
        let (set, facts) = (set(&[outpost()]), facts(|text| text));
        with_reports(&set, &facts, (reports, &BTreeMap::new()), |situation| {
            let overview = egret::core::overview::Overview::of_situation("default", "", situation);
            let rows = overview.nodes.into_iter().map(|row| (row.node.to_string(), (row.state, row.since)));
            rows.collect::<BTreeMap<_, _>>()
        })
    };
    let silent = report("alpha", "gateway-silent", "beta 10.77.3.42", "its gateway does not answer this node's probes");
    let missing = report("beta", "egress-address-missing", "beta 10.77.3.42", "net1 has no global IPv4 address");
    let alone = rows(std::slice::from_ref(&silent));
    assert_eq!(alone["alpha"], ("finding", Some(since)));
    let both = rows(&[silent, missing]);
    assert_eq!((both["alpha"].0, both["beta"]), ("ok", ("finding", Some(since))), "beta has the cause");
    let what = "net.ipv4.conf.lxc1.forwarding is 0: what batuu/tie sends ends on this node";
    assert_eq!(rows(&[report("alpha", "not-forwarding", "alpha", what)])["alpha"], ("DROPS", Some(since)));
}

#[test]
fn a_commit_that_has_just_brought_a_fault_is_named_with_the_way_back() {
    let changed = |time: &str| DocumentChange {
        commit: "d93c4a6d93c4a6".to_owned(),
        summary: "tidy".to_owned(),
        author: "Ada <ada@example.com>".to_owned(),
        time: time.parse().unwrap(),
    };
    let advice = |set: &PolicySet, reports: &[NodeReport], time: &str| {
        with_reports(set, &facts(|text| text), (reports, &BTreeMap::new()), |situation| {
            let mut explanation = explain(&question("batuu/tie", "10.88.4.2"), situation).unwrap();
            explanation.changed = Some(changed(time));
            let (_, lines) = lines(&explanation, None, now());
            lines.into_iter().find(|(label, _)| *label == "do").map(|(_, text)| text).unwrap_or_default()
        })
    };
    let excluded = outpost().replace("  egressGateway", "  excludedCIDRs: [10.88.4.0/29]\n  egressGateway");
    let back = "policies/0.yaml was changed 20 s ago: `git revert d93c4a6d93c4` takes that back";
    assert_eq!(advice(&set(std::slice::from_ref(&excluded)), &[], "2026-11-30T11:59:40Z"), back);
    assert_eq!(advice(&set(&[excluded]), &[], "2026-11-01T00:00:00Z"), "", "that is how it has been for long");
    let mut report = NodeReport::new("beta");
    report.set_active("d93c4a6d93c4a6", "tidy", now());
    let finding =
        egret::core::finding::Finding::new("egress-address-missing", "beta 10.77.3.42", "beta has no interface net2");
    report.set_findings(vec![finding.hint("it may have another name")], "2026-11-30T11:59:41Z".parse().unwrap());
    let of = |time: &str| advice(&set(&[outpost()]), &[report.clone()], time);
    assert_eq!(of("2026-11-30T11:59:40Z"), format!("on beta: it may have another name; {back}"));
    assert_eq!(of("2026-11-30T09:59:40Z"), "on beta: it may have another name", "that commit was fine for two hours");
    assert_eq!(of("2026-11-30T11:59:50Z"), "on beta: it may have another name", "it came after the fault");
}

#[test]
fn no_answer_is_longer_than_its_bounds() {
    let long = "x".repeat(100_000);
    let difference = Difference { object: long.clone(), desired: Some(long.clone()), observed: None };
    let answer = KernelAnswer {
        format_version: ANSWER_FORMAT,
        at: now(),
        revision: long.clone(),
        way: KernelWay { route: Some(long.clone()), ..KernelWay::default() },
        leads_to: Some(long.clone()),
        counted: Counted::default(),
        differs: vec![difference; 1000],
        exit: Some(ExitAnswer {
            fault: Some(egret::core::finding::Finding::new("code", &long, long.clone())),
            ..ExitAnswer::default()
        }),
        connections: Some(vec![
            ConnectionAnswer {
                replies_to: [10, 0, 0, 1].into(),
                answered: true,
                exit: Some(long.clone()),
                gateway: None
            };
            1000
        ]),
    };
    let text = serde_json::to_string(&answer.bounded()).unwrap();
    assert!(text.len() < 64 << 10, "{} bytes", text.len());
}
