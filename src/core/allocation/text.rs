//! The allocation as a file of the reports branch.
//!
//! A file that cannot be read is an error and never an empty allocation: policies would get other addresses.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;

use super::{AllocatedFor, Allocation, Holding};
use crate::core::name::ObjectName;
use crate::core::policy::demand::Slot;

/// Its path.
pub const FILE: &str = "allocations.yaml";

const HEAD: &str = "# The addresses of pools that policies have, and since when others are free. Egret writes this file and keeps to it.\n";

/// Why a file is no allocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{FILE} of the reports branch cannot be read: {0}")]
pub struct Unreadable(String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllocationFile {
    #[serde(default)]
    commit: Option<String>,
    #[serde(default)]
    committed: Option<Timestamp>,
    pools: BTreeMap<String, BTreeMap<IpAddr, Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    policy: String,
    #[serde(default)]
    gateway: usize,
    #[serde(default)]
    number: usize,
    #[serde(default)]
    freed: Option<Timestamp>,
}

/// The file's text: a line for each address, so that a difference is easily read. Names have no character that needs an escape.
pub fn write(allocation: &Allocation) -> String {
    let mut text = HEAD.to_owned();
    // Writing to a string cannot fail.
    if let Some(AllocatedFor { commit, committed }) = &allocation.revision {
        let _ = writeln!(text, "commit: \"{commit}\"");
        if let Some(committed) = committed {
            let _ = writeln!(text, "committed: \"{committed}\"");
        }
    }
    let mut pools: BTreeMap<&ObjectName, Vec<(&IpAddr, &Holding)>> = BTreeMap::new();
    for (address, holding) in &allocation.holdings {
        pools.entry(&holding.slot.pool).or_default().push((address, holding));
    }
    text.push_str(if pools.is_empty() { "pools: {}\n" } else { "pools:\n" });
    for (pool, holdings) in pools {
        let _ = writeln!(text, "  \"{pool}\":");
        for (address, Holding { slot, freed }) in holdings {
            let _ = write!(text, "    \"{address}\": {{policy: \"{}\"", slot.policy);
            for (field, value) in
                [("gateway", slot.entry), ("number", slot.number)].into_iter().filter(|(_, value)| *value > 0)
            {
                let _ = write!(text, ", {field}: {value}");
            }
            if let Some(freed) = freed {
                let _ = write!(text, ", freed: \"{freed}\"");
            }
            text.push_str("}\n");
        }
    }
    text
}

/// Reads a file's text.
pub fn read(text: &str) -> Result<Allocation, Unreadable> {
    let file: AllocationFile = serde_yaml::from_str(text).map_err(|error| Unreadable(error.to_string()))?;
    let name = |text: &str| ObjectName::parse(text).map_err(|error| Unreadable(format!("{text:?}: {error}")));
    let mut allocation = Allocation::default();
    for (pool, entries) in &file.pools {
        for (address, entry) in entries {
            let Entry { policy, gateway, number, freed } = entry;
            let slot = Slot { policy: name(policy)?, pool: name(pool)?, entry: *gateway, number: *number };
            let twice = allocation.holdings.insert(*address, Holding { slot, freed: *freed }).is_some();
            if twice {
                return Err(Unreadable(format!("{address} is in two pools")));
            }
        }
    }
    allocation.revision = file.commit.map(|commit| AllocatedFor { commit, committed: file.committed });
    Ok(allocation)
}
