//! What stays, what is given, and what is given last.

use super::*;
use crate::core::policy::catalogue::{Catalogue, FileUpdate};

const POOL: &str =
    "apiVersion: egret.dev/v1alpha1\nkind: EgressPool\nmetadata: {name: outpost}\nspec: {addresses: [RANGES]}\n";

fn pool(ranges: &str) -> String {
    POOL.replace("RANGES", ranges)
}

fn policy(name: &str, addresses: usize, destinations: &str) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors: [{{podSelector: {{matchLabels: \
         {{app: {name}}}}}}}]\n  destinationCIDRs: [{destinations}]\n  egressGateway:\n    nodeSelector: {{matchLabels: {{gw: a}}}}\n    \
         egressPool: {{name: outpost, addresses: {addresses}}}\n"
    )
}

/// A set of policies by name, each asking for some IPv4 addresses of the pool.
fn asking(ranges: &str, policies: &[(&str, usize)]) -> PolicySet {
    let documents: Vec<String> = policies.iter().map(|(name, count)| policy(name, *count, "10.0.4.0/24")).collect();
    set(&[&[pool(ranges)], documents.as_slice()].concat())
}

fn set(documents: &[String]) -> PolicySet {
    let mut catalogue = Catalogue::new("prod");
    let text = documents.join("---\n");
    catalogue.update([("all.yaml".to_owned(), FileUpdate::Text(text))].into());
    catalogue.policies().clone()
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn commit(second: i64) -> AllocatedFor {
    AllocatedFor { commit: format!("{second:040x}"), committed: Some(time(second)) }
}

fn by(set: &PolicySet, second: i64) -> AllocationRequest {
    AllocationRequest { demand: Demand::of(set), by: commit(second) }
}

fn next(before: &Allocation, set: &PolicySet, second: i64) -> Allocation {
    before.next(&by(set, second), time(second))
}

/// `policy=address`, with `*` where the address is free.
fn shown(allocation: &Allocation) -> Vec<String> {
    let one = |(address, holding): (&IpAddr, &Holding)| {
        let free = if holding.freed.is_some() { "*" } else { "" };
        format!("{}{}={address}{free}", holding.slot.policy, holding.slot.number)
    };
    let mut all: Vec<String> = allocation.holdings.iter().map(one).collect();
    all.sort();
    all
}

fn egresses(set: &PolicySet, allocation: &Allocation, name: &str) -> Vec<String> {
    let resolved = allocation.resolve(set);
    let policy = resolved.policies.values().find(|policy| policy.id.name.as_str() == name).expect(name);
    policy.gateways.iter().map(|spec| spec.egress.to_string()).collect()
}

#[test]
fn what_is_allocated_stays_while_others_come_and_go() {
    let first = next(&Allocation::default(), &asking("10.0.3.40-10.0.3.47", &[("b", 1), ("d", 2)]), 1);
    let [b, d0, d1] = shown(&first).try_into().expect("three addresses");
    let more = next(&first, &asking("10.0.3.40-10.0.3.47", &[("a", 2), ("b", 1), ("c", 1), ("d", 2)]), 2);
    assert!([&b, &d0, &d1].into_iter().all(|one| shown(&more).contains(one)), "{:?}", shown(&more));
    assert_eq!(more.holdings.len(), 6);
    let fewer = next(&more, &asking("10.0.3.40-10.0.3.47", &[("d", 2)]), 3);
    let kept: Vec<String> = shown(&fewer).into_iter().filter(|one| !one.ends_with('*')).collect();
    assert_eq!(kept, [d0, d1]);
    assert_eq!(fewer.holdings.len(), 6, "the others are known to be free");
}

#[test]
fn an_address_that_was_freed_is_given_to_another_policy_last_and_back_to_its_own_at_once() {
    let ranges = "10.0.3.40-10.0.3.42";
    let first = next(&Allocation::default(), &asking(ranges, &[("a", 1), ("b", 1)]), 1);
    let a = shown(&first)[0].clone();
    let without = next(&first, &asking(ranges, &[("b", 1)]), 2);
    assert!(shown(&without).contains(&format!("{a}*")));
    let other = next(&without, &asking(ranges, &[("b", 1), ("c", 1)]), 3);
    assert!(shown(&other).contains(&format!("{a}*")), "the one that nobody had is given: {:?}", shown(&other));
    let again = next(&other, &asking(ranges, &[("a", 1), ("b", 1), ("c", 1)]), 4);
    assert!(shown(&again).contains(&a));
    let last = next(&other, &asking(ranges, &[("b", 1), ("c", 1), ("e", 1)]), 4);
    assert_eq!(shown(&last).iter().filter(|one| one.ends_with('*')).count(), 0, "no other is left");
    let back = next(&last, &asking(ranges, &[("a", 1), ("b", 1), ("c", 1), ("e", 1)]), 5);
    assert_eq!(egresses(&asking(ranges, &[("a", 1), ("b", 1), ("c", 1), ("e", 1)]), &back, "a"), ["pool outpost"]);
}

#[test]
fn of_freed_addresses_the_one_that_is_free_for_the_longest_time_is_given_first() {
    let ranges = "10.0.3.40-10.0.3.41";
    let both = next(&Allocation::default(), &asking(ranges, &[("a", 1), ("b", 1)]), 1);
    let b = both.holdings.iter().find(|(_, holding)| holding.slot.policy.as_str() == "b").map(|(address, _)| *address);
    let one = next(&both, &asking(ranges, &[("a", 1)]), 2);
    let none = next(&one, &asking(ranges, &[]), 3);
    let new = next(&none, &asking(ranges, &[("c", 1)]), 4);
    let c = new.holdings.iter().find(|(_, holding)| holding.slot.policy.as_str() == "c").map(|(address, _)| *address);
    assert_eq!(c, b);
}

#[test]
fn a_pool_that_is_too_small_serves_first_addresses_first_and_who_asked_before() {
    let ranges = "10.0.3.40-10.0.3.42";
    let set = asking(ranges, &[("a", 2), ("b", 2)]);
    let allocation = next(&Allocation::default(), &set, 1);
    let names: Vec<String> = shown(&allocation).iter().map(|one| one[..2].to_owned()).collect();
    assert_eq!(names, ["a0", "a1", "b0"]);
    assert_eq!(egresses(&set, &allocation, "b")[1..], ["pool outpost"]);
    let lacking = allocation.lacking(&Demand::of(&set)).into_keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(lacking, ["outpost/b/0/1"]);
    let earlier = asking(ranges, &[("0z", 1), ("a", 2), ("b", 2)]);
    let later = next(&allocation, &earlier, 2);
    assert_eq!(shown(&later), shown(&allocation), "a new policy takes nothing away");
    assert_eq!(egresses(&earlier, &later, "0z"), ["pool outpost"]);
}

#[test]
fn an_address_that_leaves_the_pool_is_replaced_and_one_of_a_lost_pool_is_kept() {
    let before = asking("10.0.3.40", &[("a", 1)]);
    let first = next(&Allocation::default(), &before, 1);
    assert_eq!(shown(&first), ["a0=10.0.3.40"]);
    let moved = asking("10.0.3.50", &[("a", 1)]);
    assert_eq!(egresses(&moved, &first, "a"), ["pool outpost"], "what the pool does not have any more is used no more");
    assert_eq!(shown(&next(&first, &moved, 2)), ["a0=10.0.3.50"]);
    let lost = set(&[policy("a", 1, "10.0.4.0/24")]);
    let kept = next(&first, &lost, 2);
    assert_eq!(shown(&kept), ["a0=10.0.3.40"]);
    assert_eq!(egresses(&lost, &kept, "a"), ["10.0.3.40"]);
    let unknown = set(&[policy("z", 1, "10.0.4.0/24")]);
    assert_eq!(egresses(&unknown, &next(&first, &unknown, 2), "z"), ["pool outpost"]);
}

#[test]
fn each_family_of_the_destinations_gets_as_many_addresses_in_pairs() {
    let both = "10.0.3.40-10.0.3.41, 2001:db8::40-2001:db8::41";
    let one_family = set(&[pool(both), policy("a", 2, "10.0.4.0/24")]);
    let first = next(&Allocation::default(), &one_family, 1);
    let v4 = egresses(&one_family, &first, "a");
    assert!(v4.iter().all(|one| one.starts_with("10.0.3.4") && !one.contains(',')), "{v4:?}");
    let dual = set(&[pool(both), policy("a", 2, "10.0.4.0/24, 2001:db8:4::/64")]);
    let second = next(&first, &dual, 2);
    let pairs = egresses(&dual, &second, "a");
    assert_eq!(pairs.len(), 2);
    for (pair, v4) in pairs.iter().zip(&v4) {
        assert!(pair.starts_with(&format!("{v4},2001:db8::4")), "{pair} has {v4}");
    }
}

#[test]
fn addresses_that_policies_name_or_that_two_pools_have_or_that_are_reserved_are_given_to_nobody() {
    let other = pool("10.0.3.41").replace("name: outpost", "name: other");
    let named =
        policy("named", 1, "10.0.5.0/24").replace("egressPool: {name: outpost, addresses: 1}", "egressIP: 10.0.3.42");
    let reserved = pool("10.0.3.40-10.0.3.44").replace("spec: {", "spec: {reserved: [10.0.3.43], ");
    let set = set(&[reserved, other, named, policy("a", 5, "10.0.4.0/24")]);
    let given: Vec<IpAddr> = next(&Allocation::default(), &set, 1).holdings.into_keys().collect();
    let addresses: Vec<String> = given.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.3.40", "10.0.3.44"]);
}

#[test]
fn a_process_with_an_older_commit_adds_and_frees_nothing() {
    let ranges = "10.0.3.40-10.0.3.47";
    let (old, new) = (asking(ranges, &[("a", 1), ("b", 1)]), asking(ranges, &[("b", 1), ("c", 1)]));
    let first = next(&Allocation::default(), &old, 1);
    let second = next(&first, &new, 2);
    let behind = second.next(&by(&old, 1), time(3));
    assert_eq!(behind, second, "a is free, and still its own");
    assert_eq!(egresses(&old, &second, "a"), egresses(&old, &first, "a"));
    let elsewhere = asking(ranges, &[("z", 1)]);
    let added = second.next(&by(&elsewhere, 1), time(3));
    assert_eq!(added.holdings.len(), second.holdings.len() + 1);
    assert!(shown(&second).iter().all(|one| shown(&added).contains(one)));
}

#[test]
fn the_file_is_read_back_and_a_bad_one_is_no_empty_allocation() {
    let set = set(&[pool("10.0.3.40-10.0.3.47, 2001:db8::/124"), policy("a", 2, "10.0.4.0/24, \"2001:db8:4::/64\"")]);
    let first = next(&Allocation::default(), &set, 1);
    let freed = next(&first, &asking("10.0.3.40-10.0.3.47", &[("b", 1)]), 2);
    for allocation in [Allocation::default(), first, freed] {
        assert_eq!(read(&write(&allocation)), Ok(allocation));
    }
    for text in [
        "",
        "pools: [1]",
        "pools: {outpost: {10.0.3: {policy: a}}}",
        "pools: {outpost: {10.0.3.40: {policy: A}}}",
        "<<<<<<<",
    ] {
        assert!(read(text).is_err(), "{text:?}");
    }
    let twice = "pools: {one: {10.0.3.40: {policy: a}}, other: {10.0.3.40: {policy: b}}}";
    assert_eq!(
        read(twice).map_err(|error| error.to_string()),
        Err("allocations.yaml of the reports branch cannot be read: 10.0.3.40 is in two pools".to_owned())
    );
}

mod random {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    /// Policies by number with what each asks, and how large the pool is.
    fn step() -> impl Strategy<Value = (BTreeMap<u8, usize>, u8)> {
        (btree_map(0_u8..8, 1_usize..4, 0..8), 1_u8..16)
    }

    fn held(allocation: &Allocation) -> BTreeMap<Slot, IpAddr> {
        let held = allocation.holdings.iter().filter(|(_, holding)| holding.freed.is_none());
        held.map(|(address, holding)| (holding.slot.clone(), *address)).collect()
    }

    proptest! {
        #[test]
        fn nothing_that_is_asked_and_there_is_ever_taken_and_no_address_has_two_holders(steps in vec(step(), 1..8)) {
            let mut allocation = Allocation::default();
            for (second, (policies, size)) in (1..).zip(steps) {
                let names: Vec<(String, usize)> = policies.iter().map(|(n, count)| (format!("p{n}"), *count)).collect();
                let names: Vec<(&str, usize)> = names.iter().map(|(name, count)| (name.as_str(), *count)).collect();
                let set = asking(&format!("10.0.3.0-10.0.3.{}", size - 1), &names);
                let demand = Demand::of(&set);
                let after = next(&allocation, &set, second);
                let (was, is) = (held(&allocation), held(&after));
                for (slot, address) in &was {
                    if demand.families(slot).is_some() && demand.may_keep(&slot.pool, *address) {
                        prop_assert_eq!(is.get(slot), Some(address), "{} keeps its address", slot);
                    }
                }
                let distinct: BTreeSet<&IpAddr> = is.values().collect();
                prop_assert_eq!(distinct.len(), is.len(), "an address has one holder");
                let asked: usize = policies.values().sum();
                prop_assert_eq!(is.len(), asked.min(size.into()), "no address is left while some policy has none");
                prop_assert_eq!(&next(&after, &set, second), &after, "the same again changes nothing");
                let again = read(&write(&after));
                prop_assert_eq!(again.as_ref(), Ok(&after));
                allocation = after;
            }
        }
    }
}
