//! Every claim in every world: clusters with other address plans, node addresses, Services, masquerading, firewalls and marks than the lab's.
//!
//! `make worlds` tries every pair of differences and prints a table; `make test` tries a few worlds that have each difference once.
//! Deliberately absent: claims about one mechanism (`outpost`, `semantics`).

mod attacks;
mod claims;

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::lab::LabError;
use crate::world::Standing;
use crate::world::dimensions::{World, share};
use crate::world::forge::Secrets;
use crate::world::layout::Node;
use claims::{CLAIMS, OF_THE_WORLD, Verdict, leaks};

type Outcome = Result<(), LabError>;

/// What was seen in a world.
struct Seen {
    world: World,
    verdicts: Vec<Verdict>,
    leaks: Vec<String>,
    /// What Egret said, where something failed.
    logs: String,
    took: Duration,
}

impl Seen {
    fn holds(&self) -> bool {
        self.leaks.is_empty() && self.verdicts.iter().all(|verdict| !matches!(verdict, Verdict::Fails(_)))
    }

    /// A world that could not be built.
    fn unbuilt(world: World, error: &LabError) -> Self {
        let leaks = vec![format!("(not built) {error}")];
        Self { world, verdicts: vec![Verdict::NotHere; CLAIMS.len()], leaks, logs: String::new(), took: Duration::ZERO }
    }

    /// Every claim that fails, with what was seen.
    fn failures(&self) -> String {
        let mut text = String::new();
        for (claim, verdict) in CLAIMS.iter().zip(&self.verdicts) {
            if let Verdict::Fails(what) = verdict {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{}: {}\n    {what}", self.world, claim.sentence);
            }
        }
        for leak in &self.leaks {
            let _ = writeln!(text, "{}: leaked: {leak}", self.world);
        }
        text
    }
}

/// Tries all claims in a world at the same time.
fn see(world: World) -> Result<Seen, LabError> {
    let begun = Instant::now();
    let standing = Standing::up(world)?;
    let settled = standing.await_settled();
    let secrets = Secrets::read(&standing)?;
    let verdicts = std::thread::scope(|scope| {
        let tries: Vec<_> = CLAIMS.iter().map(|claim| scope.spawn(|| (claim.hold)(&standing, &secrets))).collect();
        tries
            .into_iter()
            .map(|one| match one.join() {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(error)) => Verdict::Fails(format!("{error}: {error:?}")),
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect::<Vec<_>>()
    });
    let mut leaks = leaks(&standing)?;
    leaks.extend(settled.err().map(|error| format!("(not active) {error}")));
    let mut seen = Seen { world, verdicts, leaks, logs: String::new(), took: begun.elapsed() };
    if !seen.holds() {
        seen.logs = format!("--- router\n{}\n", standing.router_rules()?);
        for node in Node::ALL {
            let rules = standing.node(node).exec(["nft", "list", "ruleset"])?;
            let _ = writeln!(seen.logs, "--- {}\n{}\n{rules}", node.name(), standing.log(node));
        }
    }
    Ok(seen)
}

/// Asserts that all claims hold in the world of this number in the share.
fn hold(number: usize) -> Outcome {
    let seen = see(share()[number])?;
    assert!(seen.holds(), "{}{}", seen.failures(), seen.logs);
    Ok(())
}

/// The table of worlds and claims.
fn table(all: &[Seen]) -> String {
    let width = all.iter().map(|seen| seen.world.to_string().len()).max().unwrap_or_default();
    let mut text = format!("{:width$}", "ipam/addresses/services/masquerade/firewall/attachment/families/marks");
    for claim in CLAIMS {
        let _ = write!(text, "  {:8}", claim.column);
    }
    text += "  leaks\n";
    for seen in all {
        let _ = write!(text, "{:width$}", seen.world.to_string());
        for verdict in &seen.verdicts {
            let cell = match verdict {
                Verdict::Holds => "ok",
                Verdict::NotHere => "-",
                Verdict::Fails(_) => "FAILS",
            };
            let _ = write!(text, "  {cell:8}");
        }
        let _ = writeln!(text, "  {:5}  {:.1?}", seen.leaks.len(), seen.took);
    }
    text
}

/// `make worlds`. `EGRET_WORLDS` in the environment picks those whose name contains it.
#[test]
#[ignore = "`make worlds`: every pair of differences, some minutes"]
fn every_claim_holds_in_every_world() {
    let wanted = std::env::var("EGRET_WORLDS").unwrap_or_default();
    let worlds: Vec<World> =
        World::all_pairs().into_iter().chain(share()).filter(|one| one.to_string().contains(&wanted)).collect();
    let (next, seen) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let at_once = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            while let Some(world) = worlds.get(next.fetch_add(1, Ordering::Relaxed)) {
                let one = see(*world).unwrap_or_else(|error| Seen::unbuilt(*world, &error));
                seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(one);
            }
        };
        // The scope waits for all, and hands on their panics.
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    let mut seen = seen.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    seen.sort_by_key(|seen| seen.world);
    println!("{}", table(&seen));
    let failures: String = seen.iter().map(Seen::failures).collect();
    if wanted.is_empty() {
        assert!(failures.is_empty(), "{failures}");
    } else {
        let logs: String = seen.iter().map(|seen| seen.logs.as_str()).collect();
        assert!(failures.is_empty(), "{failures}\n{logs}");
    }
}

#[test]
fn without_egret_pods_of_every_world_go_their_own_way() -> Outcome {
    for world in share() {
        let standing = Standing::without_egret(world)?;
        for hold in OF_THE_WORLD {
            let verdict = hold(&standing, &Secrets::default())?;
            assert!(!matches!(verdict, Verdict::Fails(_)), "{world}: {verdict:?}");
        }
    }
    Ok(())
}

#[test]
fn all_claims_hold_where_every_node_has_its_pods_network() -> Outcome {
    hold(0)
}

#[test]
fn all_claims_hold_beside_calico_with_pods_in_other_nodes_networks() -> Outcome {
    hold(1)
}

#[test]
fn all_claims_hold_on_a_bridge_where_marks_are_wiped_behind_us() -> Outcome {
    hold(2)
}

#[test]
fn all_claims_hold_between_nodes_with_ipv6_alone() -> Outcome {
    hold(3)
}

#[test]
fn all_claims_hold_in_a_vpc_with_asymmetric_ways_and_the_vpc_cni() -> Outcome {
    hold(4)
}

#[test]
fn all_claims_hold_with_an_mtu_of_1280_and_a_firewall_that_knows_pods_alone() -> Outcome {
    hold(5)
}

#[test]
fn all_claims_hold_with_an_mtu_of_9000_behind_firewalld() -> Outcome {
    hold(6)
}
