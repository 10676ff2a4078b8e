//! Pods that start, end, move and leave their address to others.
//!
//! Deliberately absent: the moment before a pod is announced, which is a claim of the datapath (`claims`).

use std::time::Instant;

use super::stand::{DEADLINE, Outcome, Stand, WAYS, print_figures};
use crate::lab::{Answer, OUTPOST, Options, Pod, wait_until};

#[test]
fn an_address_means_nothing_once_its_pod_is_gone_and_belongs_to_whoever_gets_it_next() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.lab.wire_pod(Pod::new("first", "kind-worker", 50, &[("org", "empire")]))?;
    stand.lab.announce_pod("first")?;
    stand.await_granted("first")?;
    stand.lab.remove_pod("first")?;
    stand.assert_no_leak_but(&[])?;

    // The address is on a new pod before anybody is told: as long as it is not known whose it is, it is not let out.
    stand.await_settled()?;
    let addresses = stand.lab.wire_pod(Pod::new("second", "kind-worker", 50, &[("org", "alliance")]))?;
    stand.assert_silence("second")?;
    stand.assert_no_leak_but(&[])?;
    stand.lab.announce_pod("second")?;
    stand.await_own_way("second")?;
    stand.lab.remove_pod("second")?;
    stand.await_settled()?;
    stand.lab.forget()?;

    stand.lab.wire_pod(Pod::new("third", "kind-worker", 50, &[("org", "empire")]))?;
    stand.assert_silence("third")?;
    stand.lab.announce_pod("third")?;
    stand.await_granted("third")?;
    assert_eq!(stand.lab.pod_addresses("third")?, addresses);
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_pod_that_moves_to_the_other_node_and_back_is_let_in_from_each() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.lab.add_pod("deathstar-0", "kind-worker", &[("org", "empire")])?;
    stand.await_granted("deathstar-0")?;
    for node in ["kind-worker2", "kind-worker"] {
        let before = stand.lab.pod_addresses("deathstar-0")?;
        let after = stand.lab.move_pod("deathstar-0", node)?;
        assert_ne!(before, after);
        stand.await_granted("deathstar-0")?;
        stand.await_settled()?;
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_pod_without_the_label_is_never_let_in_and_never_kept_from_its_own_way() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let addresses = stand.lab.add_pod("neutral", "kind-worker", &[])?;
    stand.await_own_way("neutral")?;
    for ((outpost, _, _), own) in WAYS.into_iter().zip(&addresses) {
        assert_eq!(stand.lab.ask("neutral", outpost)?, Answer::Denied(*own));
    }
    stand.assert_no_leak_but(&addresses)
}

#[test]
fn the_time_from_a_pods_announcement_to_its_first_packet_is_measured() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let egress = Answer::Granted(WAYS[0].2);
    let mut took = Vec::new();
    for host in 50..60 {
        stand.lab.wire_pod(Pod::new("newborn", "kind-worker", host, &[("org", "empire")]))?;
        let hammer_begun = Instant::now();
        stand.lab.announce_pod("newborn")?;
        let quick = std::time::Duration::from_millis(30);
        assert!(wait_until(DEADLINE, || stand
            .lab
            .ask_within("newborn", OUTPOST, quick)
            .is_ok_and(|seen| seen == egress)));
        took.push(hammer_begun.elapsed());
        stand.lab.remove_pod("newborn")?;
    }
    print_figures("a pod announced in the manifests to its first answer", took);
    stand.assert_no_leak_but(&[])
}
