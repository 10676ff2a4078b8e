//! What a support bundle says of a kernel, and what it leaves out.
//!
//! Not here: reading anything, and the archive (`cli::support_bundle`).

use std::fmt::Write as _;

use super::plan::StateListing;
use super::state::NodeState;
use super::state::nft::{RuleCounters, Table};

/// Sets with addresses of pods that no policy selects.
const OTHERS: [&str; 2] = ["others4", "others6"];

/// A kernel's state of Egret's objects, without the addresses of pods that no policy selects.
pub fn listing(state: &NodeState) -> String {
    let mut state = state.clone();
    let mut left_out = 0;
    for Table { sets, .. } in state.nft.values_mut() {
        for name in OTHERS {
            if let Some(set) = sets.get_mut(name) {
                left_out += set.elements.len();
                set.elements.clear();
            }
        }
    }
    let mut text = StateListing(&state).to_string();
    if left_out > 0 {
        let _ = writeln!(text, "# {left_out} addresses of pods that no policy selects are left out");
    }
    text
}

/// What rules have counted, a line each; rules that have counted nothing are left out.
pub fn counters(counters: &RuleCounters) -> String {
    let some = counters.iter().filter(|(_, counter)| counter.packets > 0);
    let line = |((family, chain, rule), counter): (&super::state::nft::CounterPlace, &super::state::nft::RuleCounter)| {
        format!("{family} {chain} rule {rule}: {} packets, {} bytes\n", counter.packets, counter.bytes)
    };
    some.map(line).collect()
}
