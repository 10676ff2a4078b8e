//! Which policy has which addresses of a pool: from the former allocation and what policies ask to the next one.
//!
//! What is allocated stays, whatever other policies come and go. A new request gets the free address that its name prefers, so that a
//! preview is right even if another change is merged first; an address that was freed is given to another policy last, because
//! firewalls may still let it in. Not here: where the allocation is kept (`reconcile::gitops`), and which gateway has an address
//! (`placement`).

mod page;
mod proposal;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

pub use self::page::page;
pub use self::proposal::{AddressChange, Proposal, complete, propose};
pub use self::text::{FILE, Unreadable, read, write};
use super::name::ObjectName;
use super::policy::demand::{self, Demand, Slot};
use super::policy::{Egress, GatewaySpec, Policy, PolicySet, PoolRequest};
use super::state::net::{fnv1a, mix};
use super::state::nft::AddressFamily;
use super::text::counted;

/// Which addresses of pools policies have, and which they had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocation {
    /// By address.
    pub holdings: BTreeMap<IpAddr, Holding>,
    /// The commit whose policies it was last changed for.
    pub revision: Option<AllocatedFor>,
}

/// The commit that an allocation is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllocatedFor {
    /// Its id.
    pub commit: String,
    /// Its time, by which a process finds whether what it knows is older.
    pub committed: Option<Timestamp>,
}

/// What a process asks to have allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationRequest {
    /// What its policies ask of pools.
    pub demand: Demand,
    /// The commit that they are of.
    pub by: AllocatedFor,
}

/// Who has an address, or had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The request.
    pub slot: Slot,
    /// Since when the address is free; none: it is not.
    pub freed: Option<Timestamp>,
}

/// How much a request prefers an address: of several the one with the highest value. It depends on no other request and on no other
/// address.
fn preference(slot: &Slot, address: IpAddr) -> u64 {
    mix(fnv1a(format!("{slot}\0{address}").as_bytes()))
}

impl Allocation {
    /// The next allocation.
    ///
    /// A process whose commit is older than the one that this allocation was made for adds what its policies lack, and frees nothing:
    /// several nodes of a cluster without an API server write the same file, and not all are at the same commit.
    #[must_use]
    pub fn next(&self, request: &AllocationRequest, now: Timestamp) -> Self {
        let AllocationRequest { demand, by } = request;
        let mut next = if self.is_newer_than(by) { self.clone() } else { self.released(demand, now) };
        next.give(demand);
        if next.holdings != self.holdings {
            next.revision = Some(by.clone());
        }
        next
    }

    /// The allocation once a proposed change is active.
    #[must_use]
    pub fn proposed(&self, demand: &Demand, now: Timestamp) -> Self {
        let mut next = self.released(demand, now);
        next.give(demand);
        next
    }

    fn give(&mut self, demand: &Demand) {
        for (slot, families) in demand.in_order() {
            for family in families {
                if self.address_of(demand, slot, *family).is_none()
                    && let Some(address) = self.choose(demand, slot, *family)
                {
                    self.holdings.insert(address, Holding { slot: slot.clone(), freed: None });
                }
            }
        }
    }

    fn is_newer_than(&self, by: &AllocatedFor) -> bool {
        self.revision.as_ref().is_some_and(|known| known.commit != by.commit && known.committed > by.committed)
    }

    /// Notes which addresses are free, and forgets those that are in no pool any more.
    fn released(&self, demand: &Demand, now: Timestamp) -> Self {
        let kept: BTreeSet<IpAddr> = demand
            .in_order()
            .flat_map(|(slot, families)| families.iter().map(move |family| (slot, *family)))
            .filter_map(|(slot, family)| self.address_of(demand, slot, family))
            .collect();
        let mut next = self.clone();
        next.holdings.retain(|address, holding| {
            if kept.contains(address) {
                holding.freed = None;
                return true;
            }
            holding.freed.get_or_insert(now);
            demand.is_in_a_pool(*address)
        });
        next
    }

    /// The address that a request has in a family. One that it had and that no other got meanwhile is its own again.
    pub fn address_of(&self, demand: &Demand, slot: &Slot, family: AddressFamily) -> Option<IpAddr> {
        let own = self.holdings.iter().filter(|(address, holding)| {
            holding.slot == *slot && AddressFamily::of(**address) == family && demand.may_keep(&slot.pool, **address)
        });
        // The one that is not free, or was freed last.
        own.max_by_key(|(_, holding)| (holding.freed.is_none(), holding.freed)).map(|(address, _)| *address)
    }

    /// The free address for a request: one that no policy had before, or else the one that is free for the longest time.
    fn choose(&self, demand: &Demand, slot: &Slot, family: AddressFamily) -> Option<IpAddr> {
        let mut unused: Option<(u64, IpAddr)> = None;
        let mut freed: Option<(Timestamp, IpAddr)> = None;
        for address in demand.addresses(&slot.pool, family) {
            match self.holdings.get(&address) {
                None => unused = unused.max(Some((preference(slot, address), address))),
                Some(Holding { freed: Some(since), .. }) if freed.is_none_or(|known| (*since, address) < known) => {
                    freed = Some((*since, address));
                }
                Some(_) => {}
            }
        }
        unused.map(|(_, address)| address).or(freed.map(|(_, address)| address))
    }

    /// What another allocation changes, in a line: `outpost has 10.0.3.44; 10.0.3.40 is free`. None: nothing.
    pub fn difference(&self, after: &Self) -> Option<String> {
        /// More are counted.
        const NAMED: usize = 3;
        let mut given: BTreeMap<&ObjectName, Vec<String>> = BTreeMap::new();
        let mut free = Vec::new();
        for (address, holding) in &after.holdings {
            let before = self.holdings.get(address);
            match holding.freed {
                None if before.is_none_or(|before| before.freed.is_some() || before.slot != holding.slot) => {
                    given.entry(&holding.slot.policy).or_default().push(address.to_string());
                }
                Some(_) if before.is_some_and(|before| before.freed.is_none()) => free.push(address.to_string()),
                _ => {}
            }
        }
        free.extend(self.holdings.keys().filter(|one| !after.holdings.contains_key(*one)).map(IpAddr::to_string));
        let all = given.values().map(Vec::len).sum::<usize>();
        let given = if all > NAMED {
            vec![format!("{} get {} of pools", counted(given.len(), "policy"), counted(all, "address"))]
        } else {
            given.into_iter().map(|(policy, addresses)| format!("{policy} has {}", addresses.join(" and "))).collect()
        };
        let free = match free.as_slice() {
            [] => None,
            [only] => Some(format!("{only} is free")),
            few if few.len() <= NAMED => Some(format!("{} are free", few.join(" and "))),
            many => Some(format!("{} are free", counted(many.len(), "address"))),
        };
        let parts: Vec<String> = given.into_iter().chain(free).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// What of the requests has no address.
    pub fn lacking<'d>(&self, demand: &'d Demand) -> BTreeMap<&'d Slot, BTreeSet<AddressFamily>> {
        let mut lacking: BTreeMap<&Slot, BTreeSet<AddressFamily>> = BTreeMap::new();
        for (slot, families) in demand.in_order() {
            let without = families.iter().filter(|family| self.address_of(demand, slot, **family).is_none());
            let without: BTreeSet<AddressFamily> = without.copied().collect();
            if !without.is_empty() {
                lacking.insert(slot, without);
            }
        }
        lacking
    }

    /// The policies with addresses in place of what they ask of pools. What has no address yet stays a request.
    pub fn resolve(&self, set: &PolicySet) -> PolicySet {
        let mut set = set.clone();
        let demand = Demand::of(&set);
        if demand.is_empty() {
            return set;
        }
        for policy in set.policies.values_mut() {
            policy.gateways = self.gateways(policy, &demand);
        }
        set
    }

    fn gateways(&self, policy: &Policy, demand: &Demand) -> Vec<GatewaySpec> {
        let mut resolved = Vec::new();
        for (spec, request, entry) in demand::entries(policy) {
            let Some(request) = request else {
                resolved.push(spec.clone());
                continue;
            };
            let mut waiting = 0;
            for number in 0..request.addresses {
                let slot = demand::slot(policy, request, entry, number);
                let families = demand.families(&slot).into_iter().flatten();
                let addresses = families.filter_map(|family| self.address_of(demand, &slot, *family));
                let found = Egress::paired(addresses);
                waiting += usize::from(found.is_empty());
                resolved.extend(found.into_iter().map(|egress| GatewaySpec { egress, ..spec.clone() }));
            }
            if waiting > 0 {
                let request = PoolRequest { addresses: waiting, ..request.clone() };
                resolved.push(GatewaySpec { egress: Egress::Pool(request), ..spec.clone() });
            }
        }
        resolved
    }
}

#[cfg(test)]
mod tests;
