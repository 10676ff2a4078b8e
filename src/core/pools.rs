//! Reads pod networks from CNIs' objects, where a node's podCIDRs do not have them: Calico's IPPools, Cilium's pools,
//! CiliumNodes.
//!
//! One struct reads all kinds, since no field means different things in two of them. Not here: which pods are in which
//! network (`compile`), and watching the objects (`cluster`).

use ipnet::IpNet;
use serde::Deserialize;

/// A network.
pub type Network = IpNet;

/// One list for the type, `ALL` and the names in manifests: a kind cannot be in one of them and not in the others.
macro_rules! pool_kinds {
    ($($(#[$doc:meta])* $variant:ident = $kind:literal,)+) => {
        /// A kind of object with pod networks.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum PoolKind {
            $($(#[$doc])* $variant,)+
        }

        impl PoolKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The `kind` in manifests.
            pub fn kind(self) -> &'static str {
                match self {
                    $(Self::$variant => $kind,)+
                }
            }
        }
    };
}

pool_kinds! {
    /// Calico's IPPool.
    Calico = "IPPool",
    /// CiliumPodIPPool: the pools of Cilium's IPAM mode multi-pool.
    Cilium = "CiliumPodIPPool",
    /// CiliumNode: a node's share of the cluster's pool.
    CiliumNode = "CiliumNode",
}

/// The fields of a `spec` that contain networks. `T` is a network's text, with its place in the file where needed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, bound = "T: Deserialize<'de>")]
pub struct PoolSpec<T = String> {
    /// Of an IPPool.
    pub cidr: Option<T>,
    /// Of an IPPool: no pod gets an address from it. Such pools are commonly created, disabled, to exempt external
    /// networks from masquerading, and those are the ones that policies have as destinations.
    pub disabled: Option<bool>,
    /// Of an IPPool: `Workload`, `Tunnel`, `LoadBalancer`.
    pub allowed_uses: Option<Vec<String>>,
    /// Of a CiliumPodIPPool.
    pub ipv4: Option<PoolFamily<T>>,
    /// Of a CiliumPodIPPool.
    pub ipv6: Option<PoolFamily<T>>,
    /// Of a CiliumNode.
    pub ipam: Option<Ipam<T>>,
}

/// One family of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, bound = "T: Deserialize<'de>")]
pub struct PoolFamily<T = String> {
    /// Its networks.
    pub cidrs: Option<Vec<T>>,
}

/// A node's share of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, bound = "T: Deserialize<'de>")]
pub struct Ipam<T = String> {
    /// Its networks.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Option<Vec<T>>,
}

impl<T> Default for PoolSpec<T> {
    fn default() -> Self {
        Self { cidr: None, disabled: None, allowed_uses: None, ipv4: None, ipv6: None, ipam: None }
    }
}

impl<T> Default for PoolFamily<T> {
    fn default() -> Self {
        Self { cidrs: None }
    }
}

impl<T> Default for Ipam<T> {
    fn default() -> Self {
        Self { pod_cidrs: None }
    }
}

impl<T> PoolSpec<T> {
    /// The networks from which pods get addresses.
    pub fn networks(self) -> Vec<T> {
        // Empty means the default, which includes Workload.
        let uses = self.allowed_uses.unwrap_or_default();
        let of_pods = uses.is_empty() || uses.iter().any(|one| one == "Workload");
        let pool = self.cidr.filter(|_| of_pods && !self.disabled.unwrap_or_default());
        let families = [self.ipv4, self.ipv6].into_iter().flatten().flat_map(|family| family.cidrs.unwrap_or_default());
        let node = self.ipam.and_then(|ipam| ipam.pod_cidrs).unwrap_or_default();
        pool.into_iter().chain(families).chain(node).collect()
    }
}

/// The same addresses in as few networks as possible, sorted: thousands of nodes' /24s are often one network. A network
/// with all addresses is left out: nothing would be steered otherwise.
pub fn union(networks: impl IntoIterator<Item = IpNet>) -> Vec<IpNet> {
    let all: Vec<IpNet> = networks.into_iter().filter(|net| net.prefix_len() > 0).map(|net| net.trunc()).collect();
    let mut all = IpNet::aggregate(&all);
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn networks(spec: Value) -> Vec<String> {
        serde_json::from_value::<PoolSpec>(spec).expect("a spec").networks()
    }

    #[test]
    fn a_calico_pool_has_its_network_unless_no_pod_gets_addresses_from_it() {
        assert_eq!(networks(json!({"cidr": "10.48.0.0/16", "blockSize": 26, "natOutgoing": true})), ["10.48.0.0/16"]);
        assert_eq!(networks(json!({"cidr": "10.48.0.0/16", "disabled": false, "allowedUses": []})), ["10.48.0.0/16"]);
        let uses = json!({"cidr": "10.48.0.0/16", "allowedUses": ["Workload", "Tunnel"]});
        assert_eq!(networks(uses), ["10.48.0.0/16"]);
        assert_eq!(networks(json!({"cidr": "10.88.4.0/24", "disabled": true})), [""; 0], "a network outside");
        assert_eq!(networks(json!({"cidr": "10.9.0.0/24", "allowedUses": ["LoadBalancer"]})), [""; 0]);
    }

    #[test]
    fn cilium_pools_have_both_families_and_cilium_nodes_their_share() {
        let pool = json!({"ipv4": {"cidrs": ["10.20.0.0/16", "10.21.0.0/16"], "maskSize": 24}, "ipv6": {"cidrs": ["fd20::/104"]}});
        assert_eq!(networks(pool), ["10.20.0.0/16", "10.21.0.0/16", "fd20::/104"]);
        let node = json!({"addresses": [], "ipam": {"podCIDRs": ["10.0.1.0/24"], "pool": {"10.0.1.7": {}}}});
        assert_eq!(networks(node), ["10.0.1.0/24"]);
        assert_eq!(networks(json!({"ipam": {"pools": {}}, "ipv4": null})), [""; 0]);
        assert_eq!(networks(json!({"range": "192.168.2.0/24"})), [""; 0], "an IPPool of another project");
    }

    #[test]
    fn a_union_is_minimal_and_never_has_all_addresses() {
        let nets = ["10.0.1.0/24", "10.0.0.0/24", "10.0.1.64/26", "fd00::1/64", "0.0.0.0/0", "10.0.0.0/24"];
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().expect("a network")).collect();
        let shown: Vec<String> = union(nets).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/23", "fd00::/64"]);
    }
}
