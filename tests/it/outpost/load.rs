//! A push, a change and a removal while clients ask without pause and others keep their connections: nobody is answered under a wrong
//! address, and whose policy did not change does not notice.
//!
//! Deliberately absent: crashes in between (`crashes`).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::stand::{DEADLINE, Document, Outcome, Stand, WAYS, labels, print_figures};
use crate::lab::{Answer, EGRESS, Hammer, OUTPOST, OUTPOST6, Options, Request, wait_until};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The answers in order, each once for as long as it lasts, without the silence between them.
fn course(requests: &[Request]) -> Vec<Answer> {
    let mut answers: Vec<Answer> =
        requests.iter().map(|request| request.answer).filter(|answer| *answer != Answer::NoAnswer).collect();
    answers.dedup();
    answers
}

/// Waits until a client has this answer; how long after `begun` the first request with it was begun.
fn first_with(hammer: &Hammer, answer: Answer, begun: Instant, stand: &Stand) -> Duration {
    let found = || hammer.requests().into_iter().find(|request| request.begun >= begun && request.answer == answer);
    assert!(wait_until(DEADLINE, || found().is_some()), "{answer} never came\n{}", stand.log("kind-worker"));
    found().map(|request| request.begun.duration_since(begun)).unwrap_or_default()
}

#[test]
fn under_load_every_answer_is_the_old_one_or_the_new_one_or_none() -> Outcome {
    let stand = Stand::up(Options { gateways: 2, ..Options::default() })?;
    let (own, other) = (stand.lab.pod_addresses("tiefighter")?, stand.lab.pod_addresses("xwing")?);
    let third = [ip("10.0.3.43"), ip("fd00:10:3::43")];
    let ways = [(OUTPOST, WAYS[0].2), (OUTPOST6, WAYS[1].2)];
    let members: Vec<Hammer> =
        ways.iter().map(|(to, _)| stand.lab.hammer("tiefighter", *to)).collect::<Result<_, _>>()?;
    let bystanders: Vec<Hammer> =
        ways.iter().map(|(to, _)| stand.lab.hammer("xwing", *to)).collect::<Result<_, _>>()?;
    let phase = |answer: fn(usize, [IpAddr; 2]) -> Answer, of: [IpAddr; 2], begun: Instant| {
        members
            .iter()
            .enumerate()
            .map(|(family, hammer)| first_with(hammer, answer(family, of), begun, &stand))
            .collect()
    };
    let granted = |family: usize, of: [IpAddr; 2]| Answer::Granted(of[family]);
    let denied = |family: usize, of: [IpAddr; 2]| Answer::Denied(of[family]);

    let begun = Instant::now();
    stand.push_outpost()?;
    print_figures("a push under load, to the first request let in", phase(granted, [ways[0].1, ways[1].1], begun));
    stand.await_settled()?;
    stand.push(
        "policies/outpost.yaml",
        &Document { excluded: "\"10.0.4.99/32\", \"fd00:10:4::99/128\", \"10.0.4.128/25\"", ..Document::default() }
            .text(),
    )?;
    stand.await_settled()?;
    let begun = Instant::now();
    stand.push("nodes/gateways.yaml", &labels("kind-worker3"))?;
    print_figures("a gateway moved under load, to the first request through the other", phase(granted, third, begun));
    stand.await_settled()?;
    let removal = Instant::now();
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.lab.repository().push("no more policy")?;
    print_figures(
        "a policy removed under load, to the first request turned away",
        phase(denied, [own[0], own[1]], removal),
    );
    stand.await_settled()?;

    for (family, hammer) in members.into_iter().enumerate() {
        let requests = hammer.stop();
        let expected = [
            Answer::Denied(own[family]),
            granted(family, [ways[0].1, ways[1].1]),
            granted(family, third),
            Answer::Denied(own[family]),
        ];
        assert_eq!(course(&requests), expected, "the member's answers in order");
        let lost = requests.iter().filter(|request| request.answer == Answer::NoAnswer).count();
        println!("measured: of {} requests of the member {lost} were lost over three changes", requests.len());
    }
    for (family, hammer) in bystanders.into_iter().enumerate() {
        let requests = hammer.stop();
        assert_eq!(course(&requests), [Answer::Denied(other[family])], "the bystander's answers in order");
        let lost: Vec<_> = requests.iter().filter(|request| request.answer == Answer::NoAnswer).collect();
        assert_eq!(lost, Vec::<&Request>::new(), "of {} requests of the bystander", requests.len());
    }
    stand.assert_no_leak_but(&[own, other].concat())
}

#[test]
fn while_a_policy_is_active_its_changes_never_let_a_packet_out_under_another_address() -> Outcome {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let hammers = [stand.lab.hammer("tiefighter", OUTPOST)?, stand.lab.hammer("tiefighter", OUTPOST6)?];
    for turn in 0..4 {
        let node = if turn % 2 == 0 { "kind-worker3" } else { "kind-worker2" };
        let begun = Instant::now();
        stand.push("policies/outpost.yaml", &Document::through(node).text())?;
        let address = if turn % 2 == 0 { ip("10.0.3.43") } else { EGRESS };
        first_with(&hammers[0], Answer::Granted(address), begun, &stand);
        stand.await_settled()?;
    }
    for hammer in hammers {
        let requests = hammer.stop();
        assert!(requests.iter().all(|request| !matches!(request.answer, Answer::Denied(_))), "{:?}", course(&requests));
        let lost = requests.iter().filter(|request| request.answer == Answer::NoAnswer).count();
        println!("measured: of {} requests {lost} were lost over four moves of the gateway", requests.len());
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn connections_of_pods_whose_policy_did_not_change_live_on() -> Outcome {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    stand.push(
        "policies/alliance.yaml",
        &Document { name: "alliance", org: "alliance", ..Document::through("kind-worker3") }.text(),
    )?;
    stand.await_answer("xwing", OUTPOST, Answer::Granted(ip("10.0.3.43")))?;
    let mut kept = Vec::new();
    for (outpost, address) in [(OUTPOST, ip("10.0.3.43")), (OUTPOST6, ip("fd00:10:3::43"))] {
        kept.push((stand.lab.long_connection("xwing", outpost)?, address));
        kept.push((stand.lab.long_datagrams("xwing", outpost)?, address));
    }
    let mut all_echo = || -> Outcome {
        for (connection, address) in &mut kept {
            assert_eq!(connection.echo()?, *address);
        }
        Ok(())
    };
    all_echo()?;
    stand.push("policies/outpost.yaml", &Document { excluded: "\"10.0.4.128/25\"", ..Document::default() }.text())?;
    stand.await_settled()?;
    all_echo()?;
    stand.push("policies/outpost.yaml", &Document::through("kind-worker3").text())?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(ip("10.0.3.43")))?;
    stand.await_settled()?;
    all_echo()?;
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.lab.repository().push("the empire has no policy any more")?;
    stand.await_own_way("tiefighter")?;
    stand.await_settled()?;
    all_echo()
}

/// Moves the outpost's policy to the other gateway while a pod of another policy keeps the first one's exit alive, and says from where the
/// pod's live conversation and its next one are seen.
fn moved(annotations: &'static str) -> Result<[IpAddr; 2], crate::lab::LabError> {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    stand.push(
        "policies/alliance.yaml",
        &Document { name: "alliance", org: "alliance", ..Document::default() }.text(),
    )?;
    stand.await_granted("xwing")?;
    stand.lab.forget()?;
    let mut live = stand.lab.long_datagrams("tiefighter", OUTPOST)?;
    assert_eq!(live.echo()?, EGRESS);
    stand.push("policies/outpost.yaml", &Document { annotations, ..Document::through("kind-worker3") }.text())?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(ip("10.0.3.43")))?;
    stand.await_settled()?;
    stand.assert_no_leak_but(&[])?;
    Ok([live.echo()?, stand.lab.long_datagrams("tiefighter", OUTPOST)?.echo()?])
}

#[test]
fn a_live_connection_stays_on_its_exit_when_its_policy_moves() -> Outcome {
    assert_eq!(moved("")?, [EGRESS, ip("10.0.3.43")]);
    Ok(())
}

#[test]
fn a_live_connection_moves_with_its_policy_where_that_is_asked_for() -> Outcome {
    assert_eq!(moved("egret.dev/existing-connections: Reset")?, [ip("10.0.3.43"); 2]);
    Ok(())
}

#[test]
fn a_connection_older_than_any_policy_stays_as_it_is() -> Outcome {
    let stand = Stand::up(Options::default())?;
    let own = stand.lab.pod_addresses("tiefighter")?[0];
    let mut old = stand.lab.long_connection("tiefighter", OUTPOST)?;
    assert_eq!(old.echo()?, own);
    stand.push_outpost()?;
    stand.await_granted("tiefighter")?;
    assert_eq!(old.echo()?, own);
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.lab.repository().push("no more policy")?;
    stand.await_own_way("tiefighter")?;
    assert_eq!(old.echo()?, own);
    Ok(())
}

#[test]
fn the_time_from_a_push_to_the_first_request_let_in_is_measured() -> Outcome {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let hammer = stand.lab.hammer("tiefighter", OUTPOST)?;
    let mut took = Vec::new();
    for turn in 0..10 {
        let (node, address) = if turn % 2 == 0 { ("kind-worker3", ip("10.0.3.43")) } else { ("kind-worker2", EGRESS) };
        stand.lab.repository().write("policies/outpost.yaml", &Document::through(node).text())?;
        stand.lab.repository().in_clone(["commit", "--quiet", "--all", "--message", "the other gateway"])?;
        let begun = Instant::now();
        stand.lab.repository().in_clone(["push", "--quiet", "origin", "HEAD:main"])?;
        took.push(first_with(&hammer, Answer::Granted(address), begun, &stand));
    }
    print_figures("`git push` begun to the first request let in by the other gateway", took);
    stand.assert_no_leak_but(&[])
}
