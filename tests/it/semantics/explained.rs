//! What `explain` says of a pod and a destination is what its packet does, for random policies, pods and gateways; and the prefix that it
//! names is the longest.
//!
//! Absent: what an explanation reads like (`explain`).

use std::collections::BTreeMap;

use egret::core::explain::{LostBecause, LostClaim, Question, Situation, Verdict, explain};
use egret::core::state::nft::AddressFamily;
use proptest::prelude::*;

use super::evaluate::{Memory, Outcome, Sent};
use super::generate::two_revisions;
use super::world::States;

proptest! {
    #[test]
    fn what_is_explained_is_what_the_packet_does((world, _) in two_revisions()) {
        let reports = BTreeMap::new();
        let situation = Situation {
            set: &world.set,
            facts: &world.facts,
            host_networks: &world.host_networks,
            placement: None,
            reports: &reports,
            kernel: None,
            told: &BTreeMap::new(),
            pending: None,
            waits: None,
            rejected: &[],
            now: world.now,
        };
        let states = world.desired(&States::new());
        let cluster = world.cluster(&states);
        for (name, pod) in &world.facts.pods {
            let Some(node) = pod.node.as_ref().filter(|_| pod.routable()) else { continue };
            for destination in world.destinations() {
                let of_family = |address: &&std::net::IpAddr| AddressFamily::of(**address) == AddressFamily::of(destination);
                let Some(source) = pod.addresses.iter().copied().find(|address| of_family(&address)) else { continue };
                let question = Question { pod: name.clone(), destination };
                let found = explain(&question, &situation).expect("the pod is there");
                let said = match &found.verdict {
                    Verdict::Leaves { address, .. } => address.to_string(),
                    Verdict::Dropped { .. } => "dropped".to_owned(),
                    Verdict::NotSteered { .. } => "own".to_owned(),
                    other => panic!("every kernel is known: {other:?}"),
                };
                let journey = cluster.send(&Sent { node, source, destination, reply: false }, &Memory::new());
                let done = match &journey.outcome {
                    Outcome::As { address, .. } => address.to_string(),
                    Outcome::Own => "own".to_owned(),
                    _ => "dropped".to_owned(),
                };
                prop_assert_eq!(said, done, "{}: {:?}", destination, found);
                if let Some(claim) = &found.claim {
                    prop_assert!(claim.net.contains(&destination));
                    // A suspended policy has lost whatever its prefix.
                    let compared = |lost: &&LostClaim| !matches!(lost.because, LostBecause::Suspended(_));
                    let mut lost = found.lost.iter().filter(compared);
                    prop_assert!(lost.all(|lost| lost.net.prefix_len() <= claim.net.prefix_len()), "{:?}", found);
                }
            }
        }
    }
}
