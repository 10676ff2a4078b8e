//! What a preview says of pods is what happens to their packets: its moves are the difference of evaluated packets on both sides.
//!
//! Drawn comments are absent (`previews`), and so is what becomes of open connections (`transition`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use egret::core::compile::Disposition;
use egret::core::facts::PodName;
use egret::core::preview::{DisplayLimits, Move, Preview, PreviewInput, Sentences, Validation, preview};
use egret::core::state::nft::AddressFamily;
use proptest::prelude::*;

use super::evaluate::{Journey, Memory, Outcome, Sent};
use super::generate::two_revisions;
use super::world::{States, World};

/// Destinations that no router forwards. Policies for everything do not mean them.
const SPECIAL: [&str; 8] =
    ["127.0.0.1", "169.254.169.254", "224.0.0.251", "255.255.255.255", "::1", "fe80::1", "ff02::fb", "fd99::9"];

proptest! {
    #[test]
    fn a_previews_moves_are_the_difference_of_packets_before_and_after((before, after) in two_revisions()) {
        let validation = Validation::default();
        let limits = DisplayLimits { nodes: 0, gateways: 0, ..DisplayLimits::default() };
        let preview = preview(PreviewInput { limits, ..input(&before, &after, &validation) });
        let old = before.desired(&States::new());
        let new = after.desired(&old);
        let (was, is) = (before.cluster(&old), after.cluster(&new));
        let destinations = destinations(&before, &after, &preview);
        let mut moved: BTreeSet<&PodName> = BTreeSet::new();
        for (name, pod) in before.facts.pods.iter().filter(|(_, pod)| pod.routable()) {
            let Some(node) = &pod.node else { continue };
            for source in pod.addresses.iter().copied() {
                let family = AddressFamily::of(source);
                for destination in destinations.iter().copied().filter(|address| AddressFamily::of(*address) == family) {
                    let sent = Sent { node, source, destination, reply: false };
                    let (was, is) = (was.send(&sent, &Memory::new()), is.send(&sent, &Memory::new()));
                    let said: Vec<&Move> = preview.moves.iter().filter(|one| concerns(one, name, destination)).collect();
                    let context = format!("{name} to {destination}: {was:?}, then {is:?}, but {said:?}");
                    match said.as_slice() {
                        [] => prop_assert_eq!(path(&was), path(&is), "{}", context),
                        [one] => {
                            moved.insert(name);
                            prop_assert_ne!(path(&was), path(&is), "{}", context);
                            let [from, to, _] = Sentences(&preview).exits(one).map(|phrase| phrase.to_string());
                            prop_assert!(agrees(&one.from, &from, &was, family), "from {}: {}", from, context);
                            prop_assert!(agrees(&one.to, &to, &is, family), "to {}: {}", to, context);
                        }
                        _ => return Err(TestCaseError::fail(format!("said twice: {context}"))),
                    }
                }
            }
        }
        // A pod of one family may be said to move for destinations of the other: it has no such packets.
        let unseen = |name: &PodName| before.facts.pods[name].addresses.len() < 2;
        let said = preview.moves.iter().flat_map(|one| &one.pods);
        prop_assert!(said.clone().all(|name| moved.contains(name) || unseen(name)), "{:?}", preview.moves);
    }
}

fn input<'a>(before: &'a World, after: &'a World, validation: &'a Validation) -> PreviewInput<'a> {
    PreviewInput {
        cluster: "prod",
        commits: ("before", "after"),
        before: &before.set,
        after: &after.set,
        facts: &before.facts,
        facts_from: "the test",
        host_networks: &before.host_networks,
        now: before.now,
        concerned: true,
        trailers: &[],
        unsigned: None,
        addresses: &[],
        validation,
        config_diff: "",
        settings_change: false,
        reports: &[],
        limits: DisplayLimits::default(),
    }
}

/// Destinations worth a packet: edges of what anybody wrote and of what the preview says, every pod, and what is special.
fn destinations(before: &World, after: &World, preview: &Preview<'_>) -> BTreeSet<IpAddr> {
    let mut all: BTreeSet<IpAddr> = SPECIAL.iter().map(|text| text.parse().expect("an address")).collect();
    all.extend(before.destinations().into_iter().chain(after.destinations()));
    all.extend(before.facts.pods.values().flat_map(|pod| pod.addresses.iter().copied()));
    all.extend(preview.moves.iter().flat_map(|one| &one.towards).flat_map(|range| [range.first(), range.last()]));
    // What a node itself has is delivered there, whatever policies say, and its kernel knows best what that is. A preview says nothing of
    // such addresses but InternalIPs.
    let of_a_node = |address: IpAddr| {
        let interfaces = before.host_networks.values().flat_map(|host_network| host_network.interfaces.values());
        { interfaces }.any(|interface| interface.has(address))
    };
    all.retain(|address| !of_a_node(*address));
    all
}

fn concerns(one: &Move, pod: &PodName, destination: IpAddr) -> bool {
    one.pods.contains(pod) && one.towards.iter().any(|range| range.contains(destination))
}

/// Where a packet went: the exit that its node chose, dropped, or its own path.
fn path(journey: &Journey) -> String {
    match (&journey.exit, &journey.outcome) {
        (Some(exit), _) => exit.clone(),
        (None, Outcome::Own) => "own".to_owned(),
        (None, Outcome::Dropped(_)) => "dropped".to_owned(),
        (None, other) => panic!("it left through no exit: {other:?}"),
    }
}

/// Whether what a preview says of a packet, as a value and in words, is what happened to it.
fn agrees(said: &Disposition, words: &str, journey: &Journey, family: AddressFamily) -> bool {
    let of_family = |address: &IpAddr| AddressFamily::of(*address) == family;
    let addresses = words.split(" · ").next().into_iter().flat_map(|named| named.split(" and "));
    let named: Vec<IpAddr> = addresses.filter_map(|text| text.parse().ok()).filter(of_family).collect();
    match (said, &journey.outcome) {
        (Disposition::Own, _) => path(journey) == "own" && words == "no gateway",
        (Disposition::Drop, _) => path(journey) == "dropped" && words == "dropped",
        (Disposition::Exit(exit), outcome) if journey.exit.as_ref() == Some(&exit.identity()) => match outcome {
            Outcome::As { node, address, .. } => *node == exit.gateway && named == [*address],
            // An exit without an address of this family.
            outcome => outcome.is_dropped() && named.is_empty(),
        },
        (Disposition::Exit(_), _) => false,
    }
}
