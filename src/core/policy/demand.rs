//! What policies ask of pools, and what pools have.
//!
//! Not here: who gets what (`core::allocation`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::pool::each;
use super::{Egress, GatewaySpec, ObjectName, Policy, PolicySet, PoolRequest};
use crate::core::cidr::{AddressRange, RangeSet};
use crate::core::state::nft::AddressFamily;

/// One of the addresses that a policy asks for, or one of each family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The policy.
    pub policy: ObjectName,
    /// The pool.
    pub pool: ObjectName,
    /// The place of the gateway entry among those of the policy that ask this pool, from 0.
    pub entry: usize,
    /// The number of the address within the entry, from 0.
    pub number: usize,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.pool, self.policy, self.entry, self.number)
    }
}

/// The requests of a set's policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    pools: BTreeMap<ObjectName, PoolAddresses>,
    /// With the families that the policy needs and the pool has.
    slots: BTreeMap<Slot, BTreeSet<AddressFamily>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PoolAddresses {
    /// Those that a policy may keep.
    usable: RangeSet,
    /// Those of them that are given: no other pool has them, and no policy names them.
    given: RangeSet,
}

impl Demand {
    /// The requests of these policies. Suspended ones keep theirs.
    pub fn of(set: &PolicySet) -> Self {
        let named: RangeSet = named(set).map(|(address, _)| AddressRange::from(address)).collect();
        let usable: BTreeMap<&ObjectName, RangeSet> =
            set.pools.iter().map(|(name, pool)| (name, pool.usable())).collect();
        let pools = usable.iter().map(|(name, own)| {
            let others = usable.iter().filter(|(other, _)| other != &name).map(|(_, others)| others);
            let others = others.fold(named.clone(), |all, one| all.union(one));
            ((*name).clone(), PoolAddresses { usable: own.clone(), given: own.subtract(&others) })
        });
        let mut demand = Self { pools: pools.collect(), slots: BTreeMap::new() };
        for policy in set.policies.values() {
            let needed: BTreeSet<AddressFamily> =
                policy.destinations.iter().map(|net| AddressFamily::of(net.addr())).collect();
            for (_, request, entry) in entries(policy) {
                let Some(request) = request else { continue };
                let families = demand.families_of(&request.pool);
                let families: BTreeSet<_> = needed.iter().copied().filter(|family| families.contains(family)).collect();
                for number in 0..request.addresses {
                    demand.slots.insert(slot(policy, request, entry, number), families.clone());
                }
            }
        }
        demand
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The families of which a pool has addresses; both for one that is not there, whose policies keep what they have.
    fn families_of(&self, pool: &ObjectName) -> BTreeSet<AddressFamily> {
        let Some(pool) = self.pools.get(pool) else { return AddressFamily::BOTH.into() };
        pool.usable.ranges().iter().map(|range| AddressFamily::of(range.first())).collect()
    }

    /// The requests in the order in which they are served: every policy gets its first address before any gets a second.
    pub fn in_order(&self) -> impl Iterator<Item = (&Slot, &BTreeSet<AddressFamily>)> {
        let mut all: Vec<_> = self.slots.iter().collect();
        all.sort_by_key(|(slot, _)| (slot.number, slot.entry, *slot));
        all.into_iter()
    }

    /// The families in which a request needs an address; none: there is no such request.
    pub fn families(&self, slot: &Slot) -> Option<&BTreeSet<AddressFamily>> {
        self.slots.get(slot)
    }

    /// Whether a policy may keep an address of a pool. A pool that is gone takes nothing back: its document may be missing by mistake.
    pub fn may_keep(&self, pool: &ObjectName, address: IpAddr) -> bool {
        self.pools.get(pool).is_none_or(|pool| pool.usable.contains(address))
    }

    /// Whether some pool has an address.
    pub fn is_in_a_pool(&self, address: IpAddr) -> bool {
        self.pools.values().any(|pool| pool.usable.contains(address))
    }

    /// The addresses of a pool that may be given.
    pub fn addresses(&self, pool: &ObjectName, family: AddressFamily) -> impl Iterator<Item = IpAddr> {
        let given = self.pools.get(pool).map(|pool| &pool.given).into_iter();
        given.flat_map(each).filter(move |address| AddressFamily::of(*address) == family)
    }

    /// How many addresses of a family are asked of a pool, and how many it can give.
    pub fn balance(&self, pool: &ObjectName, family: AddressFamily) -> (usize, usize) {
        let of_pool = self.slots.iter().filter(|(slot, families)| slot.pool == *pool && families.contains(&family));
        (of_pool.count(), self.addresses(pool, family).count())
    }

    /// The policies that ask a pool.
    pub fn policies(&self, pool: &ObjectName) -> BTreeSet<&ObjectName> {
        self.slots.keys().filter(|slot| slot.pool == *pool).map(|slot| &slot.policy).collect()
    }
}

/// The addresses that policies name, with the policy and the place of the gateway entry.
pub fn named(set: &PolicySet) -> impl Iterator<Item = (IpAddr, (&Policy, usize))> {
    set.policies.values().flat_map(|policy| {
        let specs = policy.gateways.iter().enumerate();
        specs.flat_map(move |(place, spec)| spec.egress.addresses().map(move |address| (address, (policy, place))))
    })
}

/// The gateway entries of a policy with what each asks of a pool, and which of the requests to that pool it is.
pub fn entries(policy: &Policy) -> impl Iterator<Item = (&GatewaySpec, Option<&PoolRequest>, usize)> {
    let mut before: BTreeMap<&ObjectName, usize> = BTreeMap::new();
    policy.gateways.iter().map(move |spec| {
        let Egress::Pool(request) = &spec.egress else { return (spec, None, 0) };
        let next = before.entry(&request.pool).or_default();
        let entry = *next;
        *next += 1;
        (spec, Some(request), entry)
    })
}

/// The request for one address, or one of each family.
pub fn slot(policy: &Policy, request: &PoolRequest, entry: usize, number: usize) -> Slot {
    Slot { policy: policy.id.name.clone(), pool: request.pool.clone(), entry, number }
}
