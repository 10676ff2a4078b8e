//! What a node needs to know to give connections to other gateways, and to take them.
//!
//! Not here: what is done with it (`core::transfer`).

use std::collections::BTreeMap;

use super::{ClusterNetworks, CompileInput, ExitRole, NodeExit, allowed};
use crate::core::placement::ExitKey;
use crate::core::state::nft::AddressFamily;
use crate::core::transfer::{Reached, TakenExit, TransferPlan, Way};

pub(super) fn plan(
    input: &CompileInput<'_>,
    networks: &ClusterNetworks,
    exits: &BTreeMap<ExitKey, NodeExit>,
) -> TransferPlan {
    let range = input.set.config.range;
    let mut plan = TransferPlan { range, ..TransferPlan::default() };
    let others = networks.others.iter();
    plan.nodes = others.flat_map(|(name, end)| end.inner.map(|address| (address, name.clone()))).collect();
    let Some(own) = networks.own.as_ref().filter(|_| input.set.config.failover.is_some()) else { return plan };
    for (key, exit) in exits.iter().filter(|(_, exit)| !exit.refused) {
        for family in AddressFamily::BOTH {
            let carrier = exit.detours.get(&family).unwrap_or(key);
            let reached = match exits.get(carrier).map(|carrier| (carrier.id, &carrier.role)) {
                Some((id, ExitRole::Remote { mac, outer: Some(_) })) => {
                    Some(Reached { mark: range.mark(id), mac: *mac })
                }
                Some((_, ExitRole::Own { .. })) => None,
                _ => continue,
            };
            if exit.families.contains(&family) {
                let (mark, tunnel, carrier) = (range.mark(exit.id), own.inner(family), carrier.clone());
                plan.ways.insert((key.clone(), family), Way { mark, tunnel, carrier, reached });
            }
        }
        if let ExitRole::Own { mac, routes } = &exit.role {
            for (family, way) in routes {
                let allowed = allowed(input.set, &exit.policies);
                let taken = TakenExit { mark: range.mark(exit.id), address: way.address, allowed };
                plan.taken.insert((*mac, *family), taken);
            }
        }
    }
    plan
}
