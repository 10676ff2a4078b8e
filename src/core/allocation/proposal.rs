//! What a proposed change does to the addresses of pools, for previews and plans: it is what the reports branch will say once the change
//! is active.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;

use super::{Allocation, Holding};
use crate::core::name::ObjectName;
use crate::core::policy::PolicySet;
use crate::core::policy::demand::{Demand, Slot};
use crate::core::state::nft::AddressFamily;
use crate::core::text::counted;

/// Both sides of a change with addresses in place of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposal {
    /// The policies before the change.
    pub before: PolicySet,
    /// The policies after it.
    pub after: PolicySet,
    /// What differs, in order.
    pub changes: Vec<AddressChange>,
}

/// What a change does to addresses of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressChange {
    /// A policy gets less than it asks.
    Lacking {
        /// The policy.
        policy: ObjectName,
        /// The pool, which has no more.
        pool: ObjectName,
        /// How many are missing, by family.
        missing: BTreeMap<AddressFamily, usize>,
    },
    /// A policy gets an address that another one had.
    Reused {
        /// The policy.
        policy: ObjectName,
        /// The address.
        address: IpAddr,
        /// Who had it.
        former: ObjectName,
        /// Until when; none: until this change.
        until: Option<Timestamp>,
    },
    /// A policy gets addresses.
    Given {
        /// The policy.
        policy: ObjectName,
        /// The pool.
        pool: ObjectName,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// A policy does not have an address any more.
    Freed {
        /// The policy.
        policy: ObjectName,
        /// The pool.
        pool: ObjectName,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
}

impl fmt::Display for AddressChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lacking { policy, pool, missing } => {
                let missing: Vec<String> = missing
                    .iter()
                    .map(|(family, count)| counted(*count, &format!("{} address", family.version())))
                    .collect();
                write!(f, "{policy} goes without {}: the pool {pool} has no more to give", missing.join(" and "))
            }
            Self::Reused { policy, address, former, until } => {
                let until = until.map_or_else(|| "this change".to_owned(), |until| until.to_string());
                write!(
                    f,
                    "{policy} will have {address}, which {former} has had until {until}: firewalls may still let it in"
                )
            }
            Self::Given { policy, pool, addresses } => {
                write!(f, "{policy} will have {} of the pool {pool}", all(addresses))
            }
            Self::Freed { policy, pool, addresses } => {
                write!(f, "{policy} will not have {} of the pool {pool} any more", all(addresses))
            }
        }
    }
}

fn all(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// The policies that are active, with the addresses that they have or get now.
pub fn complete(known: &Allocation, set: &PolicySet, now: Timestamp) -> Proposal {
    let demand = Demand::of(set);
    let later = known.proposed(&demand, now);
    let mut changes = compare(known, &later);
    changes.extend(lacking(&later, &demand));
    changes.sort();
    let after = later.resolve(set);
    Proposal { before: after.clone(), after, changes }
}

/// Computes both sides of a change from the allocation that the reports branch has.
pub fn propose(known: &Allocation, before: &PolicySet, after: &PolicySet, now: Timestamp) -> Proposal {
    let demand = Demand::of(after);
    let earlier = known.proposed(&Demand::of(before), now);
    let later = earlier.proposed(&demand, now);
    let mut changes = compare(&earlier, &later);
    changes.extend(lacking(&later, &demand));
    changes.sort();
    Proposal { before: earlier.resolve(before), after: later.resolve(after), changes }
}

fn compare(earlier: &Allocation, later: &Allocation) -> Vec<AddressChange> {
    let mut changes = Vec::new();
    let mut given: BTreeMap<(&ObjectName, &ObjectName), Vec<IpAddr>> = BTreeMap::new();
    let mut freed: BTreeMap<(&ObjectName, &ObjectName), Vec<IpAddr>> = BTreeMap::new();
    let of = |slot: &Slot| (slot.policy.clone(), slot.pool.clone());
    for (address, Holding { slot, freed: since }) in &later.holdings {
        let before = earlier.holdings.get(address);
        let had = before.is_some_and(|before| before.freed.is_none() && of(&before.slot) == of(slot));
        if since.is_some() || had {
            continue;
        }
        given.entry((&slot.policy, &slot.pool)).or_default().push(*address);
        if let Some(before) = before.filter(|before| before.slot.policy != slot.policy) {
            let (policy, former) = (slot.policy.clone(), before.slot.policy.clone());
            changes.push(AddressChange::Reused { policy, address: *address, former, until: before.freed });
        }
    }
    for (address, Holding { slot, .. }) in earlier.holdings.iter().filter(|(_, before)| before.freed.is_none()) {
        let keeps = |after: &Holding| after.freed.is_none() && after.slot.policy == slot.policy;
        if !later.holdings.get(address).is_some_and(keeps) {
            freed.entry((&slot.policy, &slot.pool)).or_default().push(*address);
        }
    }
    changes.extend(given.into_iter().map(|((policy, pool), addresses)| AddressChange::Given {
        policy: policy.clone(),
        pool: pool.clone(),
        addresses,
    }));
    changes.extend(freed.into_iter().map(|((policy, pool), addresses)| AddressChange::Freed {
        policy: policy.clone(),
        pool: pool.clone(),
        addresses,
    }));
    changes
}

/// What policies do not get, whether or not they had it before.
fn lacking(allocation: &Allocation, demand: &Demand) -> Vec<AddressChange> {
    let mut lacking: BTreeMap<(&ObjectName, &ObjectName), BTreeMap<AddressFamily, usize>> = BTreeMap::new();
    for (slot, families) in allocation.lacking(demand) {
        for family in families {
            *lacking.entry((&slot.policy, &slot.pool)).or_default().entry(family).or_default() += 1;
        }
    }
    let change = |((policy, pool), missing): ((&ObjectName, &ObjectName), _)| AddressChange::Lacking {
        policy: policy.clone(),
        pool: pool.clone(),
        missing,
    };
    lacking.into_iter().map(change).collect()
}
