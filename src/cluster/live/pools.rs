//! Watches CNI objects that define pod networks, if they are installed and Egret may read them.
//!
//! Not here: which of their fields count (see `core::pools`), and all other objects of a CNI.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::wire::{Identity, Meta, Watched};
use crate::core::pools::{Network, PoolKind, PoolSpec};

/// Calico's IPPools, with the Kubernetes API datastore.
pub(super) struct CalicoPools;
/// Cilium's pools.
pub(super) struct CiliumPools;
/// Cilium's nodes.
pub(super) struct CiliumNodes;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PoolWire {
    metadata: Meta<IgnoredAny>,
    spec: PoolSpec,
}

impl PoolWire {
    fn read(self) -> (String, Vec<Network>) {
        let networks = self.spec.networks().iter().filter_map(|text| text.parse().ok()).collect();
        (self.metadata.name, networks)
    }
}

/// The watch settings of a kind.
pub(super) trait Pools: Watched<Wire = PoolWire, Key = String, Value = Vec<Network>> {
    const KIND: PoolKind;
}

macro_rules! pools {
    ($type:ty, $kind:expr, $name:literal, $path:literal) => {
        impl Watched for $type {
            const NAME: &'static str = $name;
            const PATH: &'static str = $path;
            type Wire = PoolWire;
            type Key = String;
            type Value = Vec<Network>;

            fn read(wire: PoolWire) -> Option<(String, Vec<Network>)> {
                Some(wire.read())
            }

            fn identity(wire: &PoolWire) -> Identity<'_> {
                wire.metadata.identity()
            }
        }

        impl Pools for $type {
            const KIND: PoolKind = $kind;
        }
    };
}

pools!(CalicoPools, PoolKind::Calico, "ippools.crd.projectcalico.org", "/apis/crd.projectcalico.org/v1/ippools");
pools!(CiliumPools, PoolKind::Cilium, "ciliumpodippools.cilium.io", "/apis/cilium.io/v2alpha1/ciliumpodippools");
pools!(CiliumNodes, PoolKind::CiliumNode, "ciliumnodes.cilium.io", "/apis/cilium.io/v2/ciliumnodes");

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_read_of_one_is_left_out_of_it() {
        let pool = json!({
            "apiVersion": "cilium.io/v2alpha1", "kind": "CiliumPodIPPool",
            "metadata": {"name": "green", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"ipv4": {"cidrs": ["10.20.0.0/16", "nonsense"], "maskSize": 24}, "podSelector": {}},
        });
        let wire: PoolWire = serde_json::from_value(pool).expect("a pool");
        assert_eq!(CiliumPools::identity(&wire), Identity { namespace: None, name: "green", version: "7" });
        let networks = vec!["10.20.0.0/16".parse().expect("a network")];
        assert_eq!(CiliumPools::read(wire), Some(("green".to_owned(), networks)));
    }
}
