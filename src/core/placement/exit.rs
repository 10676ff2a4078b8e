//! An exit: one gateway node and one way to find its egress address.
//!
//! Deliberately absent: the exit's mark and table, which each node gives out for itself (`compile::marks`).

use std::fmt;
use std::net::IpAddr;

use crate::core::name::NodeName;
use crate::core::policy::Egress;
use crate::core::state::net::{Mac, fnv1a};
use crate::core::state::nft::COMMENT_LIMIT;

/// What makes an exit this exit and no other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExitKey {
    /// The node that translates.
    pub gateway: NodeName,
    /// How it finds the address.
    pub egress: Egress,
    /// The routers behind the interface, where the policy names them.
    pub next_hops: Vec<IpAddr>,
}

/// What all nodes know of an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What the inner frame is addressed to.
    pub mac: Mac,
}

impl ExitKey {
    /// `kind-worker2 dev net1`, `kind-worker2 10.0.3.42 via 10.0.3.1`: stands as the comment of the exit's chain, so that a
    /// process that starts anew knows which mark belongs to which exit.
    pub fn identity(&self) -> String {
        let text = self.to_string();
        if text.len() <= COMMENT_LIMIT {
            return text;
        }
        let cut = text.floor_char_boundary(COMMENT_LIMIT - 17);
        format!("{}#{:016x}", &text[..cut], fnv1a(text.as_bytes()))
    }

    /// Whether its gateway says that it could not serve it.
    pub fn is_among(&self, unfit: &super::UnfitExits) -> bool {
        unfit.get(&self.gateway).is_some_and(|exits| exits.contains_key(&self.identity()))
    }

    /// The destination MAC address of the inner frame. It is derived from what every node knows, so nobody has to give it out,
    /// and only has to be unique among the exits of one gateway: the outer packet is addressed to that gateway.
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
