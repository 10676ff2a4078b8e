//! The addresses of pools, on README.md of the reports branch.

use std::fmt::Write;

use super::{Holding, read};
use crate::core::escape::inert_name;
use crate::core::text::counted;

/// Rows of the table; the file has all.
const ROWS: usize = 200;

/// The section, from the branch's file.
pub fn page(file: &str) -> String {
    let mut page = "\n## Addresses of pools\n\n".to_owned();
    let Ok(allocation) = read(file) else {
        return page + "`allocations.yaml` cannot be read. Restore it from this branch's history.\n";
    };
    page.push_str("| pool | address | policy | |\n|---|---|---|---|\n");
    for (address, Holding { slot, freed }) in allocation.holdings.iter().take(ROWS) {
        let since = freed.map(|since| format!("free since {}", since.strftime("%Y-%m-%d %H:%M:%S")));
        let (pool, policy) = (inert_name(slot.pool.as_str()), inert_name(slot.policy.as_str()));
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| {pool} | {address} | {policy} | {} |", since.unwrap_or_default());
    }
    if let Some(more) = allocation.holdings.len().checked_sub(ROWS).filter(|more| *more > 0) {
        let _ = writeln!(page, "\nand {} more in `allocations.yaml`.", counted(more, "address"));
    }
    page
}
