//! What is published in the cluster means what the repository says: an agent that reads it back does the same as a node that reads Git.
//!
//! Deliberately absent: the resource around a spec, and the API server.

use std::collections::BTreeSet;

use egret::core::placement::place;
use egret::core::policy::PolicySet;
use egret::core::policy::published::{Published, Unreadable, read_config, read_grants, read_policy};
use proptest::prelude::*;

use super::generate::world;
use super::world::{States, World};

/// As agents read it.
fn read(published: &Published) -> Result<PolicySet, Unreadable> {
    let policies = published.policies.iter().map(|(name, spec)| read_policy(name, spec));
    let policies = policies.map(|policy| policy.map(|policy| (policy.id.clone(), policy))).collect::<Result<_, _>>()?;
    let (config, grants) = (read_config(&published.config)?, read_grants(&published.config)?);
    Ok(PolicySet { policies, config, grants, ..PolicySet::default() })
}

proptest! {
    #[test]
    fn what_is_published_is_read_back_as_what_it_was(mut world in world()) {
        // A document that says a prefix twice is active with it once.
        for policy in world.set.policies.values_mut() {
            for nets in [&mut policy.destinations, &mut policy.excluded] {
                let mut seen = BTreeSet::new();
                nets.retain(|net| seen.insert(*net));
            }
        }
        let published = Published::of(&world.set);
        let back = read(&published).map_err(|fault| {
            TestCaseError::fail(format!("{fault:?}\n{:#?}", published.policies))
        })?;
        prop_assert_eq!(&Published::of(&back).policies, &published.policies);
        prop_assert_eq!(Published::of(&back).digest(), published.digest());
        let again = World { set: back, ..world.clone() };
        prop_assert_eq!(place(&again.set, &world.facts, world.now), place(&world.set, &world.facts, world.now));
        prop_assert_eq!(again.desired(&States::new()), world.desired(&States::new()));
    }

    #[test]
    fn another_set_has_another_digest(old in world(), new in world()) {
        let (old, new) = (Published::of(&old.set), Published::of(&new.set));
        prop_assert_eq!(old.policies == new.policies, old.digest() == new.digest());
    }
}
