//! An exit: one gateway node and one way to find its egress address.
//!
//! Not here: the exit's id, mark and table, which each node assigns itself (`compile::exit_ids`).

use std::fmt;
use std::net::IpAddr;

use crate::core::name::NodeName;
use crate::core::policy::Egress;
use crate::core::state::net::{Mac, fnv1a};
use crate::core::state::nft::COMMENT_LIMIT;

/// The identity of an exit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExitKey {
    /// The gateway node, which translates.
    pub gateway: NodeName,
    /// How the gateway finds the egress address.
    pub egress: Egress,
    /// The routers behind the interface, where the policy names them.
    pub next_hops: Vec<IpAddr>,
}

/// The cluster-wide properties of an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Destination MAC address of the inner frame.
    pub mac: Mac,
}

impl ExitKey {
    /// `kind-worker2 dev net1`, `kind-worker2 10.0.3.42 via 10.0.3.1`: the comment of the exit's chain, by which a new
    /// process finds the exit's mark.
    pub fn identity(&self) -> String {
        let text = self.to_string();
        if text.len() <= COMMENT_LIMIT {
            return text;
        }
        let cut = text.floor_char_boundary(COMMENT_LIMIT - 17);
        format!("{}#{:016x}", &text[..cut], fnv1a(text.as_bytes()))
    }

    /// Whether its gateway reports that it could not serve it.
    pub fn is_among(&self, unfit: &super::UnfitExits) -> bool {
        unfit.get(&self.gateway).is_some_and(|exits| exits.contains_key(&self.identity()))
    }

    /// The destination MAC address of the inner frame. It is derived from the identity, so that every node computes the
    /// same one; it only has to be unique among the exits of one gateway, as the outer packet is addressed to that
    /// gateway.
    pub fn mac(&self) -> Mac {
        Mac::of_exit(&self.to_string())
    }
}

impl fmt::Display for ExitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.gateway, self.egress)?;
        for hop in &self.next_hops {
            write!(f, " via {hop}")?;
        }
        Ok(())
    }
}
