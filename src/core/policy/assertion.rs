//! Assertions: what the repository demands of the ways out of pods, whatever its policies say.
//!
//! Not here: whether they hold (`preview::assertions`). They are checked and reported; they steer nothing and are not
//! published.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{MemberSelector, ObjectName, Origin};
use crate::core::facts::{Facts, Pod, PodName};

/// `egret.dev/v1alpha1 EgressAssertion`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// `metadata.name`
    pub name: ObjectName,
    /// The pods that it is about: those that any selector matches. Never empty.
    pub selectors: Vec<MemberSelector>,
    /// The destinations that it is about. Never empty; without host bits.
    pub destinations: Vec<IpNet>,
    /// Destinations that it is not about.
    pub excluded: Vec<IpNet>,
    /// What it demands.
    pub claim: Claim,
    /// Its document.
    pub origin: Origin,
}

/// What an assertion demands of every packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It leaves with one of these addresses.
    LeavesAs {
        /// The addresses. Never empty.
        addresses: BTreeSet<IpAddr>,
        /// Whether it may be dropped, too.
        or_dropped: bool,
    },
    /// It leaves by its node's own routing.
    NeverSteered,
}

impl Assertion {
    /// Whether it is about a pod. A pod that shares its node's network has no packets of its own.
    pub fn selects(&self, name: &PodName, pod: &Pod, facts: &Facts) -> bool {
        pod.routable() && self.selectors.iter().any(|selector| selector.matches(name, pod, facts))
    }
}
