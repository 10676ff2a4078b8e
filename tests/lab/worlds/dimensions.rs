//! In what clusters differ as far as packets notice, and a small set of clusters in which every pair of differences meets.
//!
//! Deliberately absent: anything that touches the machine. A world is a value.

use std::collections::BTreeSet;
use std::fmt;

/// One of several kinds, in a fixed order, each with a short name for tables.
macro_rules! dimension {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// All there are.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    };
}

dimension! {
    /// Who gives pods their addresses, and what Node objects say of it.
    Ipam {
        /// Each node has a network of pods and tells it, and every pod is in its node's.
        PodCidr = "podcidr",
        /// As Calico: pods are in blocks of one pool, some of them borrowed from another node's block; the podCIDRs that Node objects tell
        /// are true of no pod but by chance.
        Blocks = "blocks",
        /// One pool for the cluster; Node objects tell nothing.
        Pool = "pool",
        /// Pods and nodes are in one network, and the router's port lets a frame pass only from and to the addresses of the port's node.
        Vpc = "vpc",
    }
}

dimension! {
    /// What addresses and interfaces nodes have.
    Addresses {
        /// InternalIP alone.
        First = "first",
        /// Another address is on the interface, and it is the one that the kernel would choose as a source.
        Second = "second",
        /// A virtual address that came later stands beside InternalIP.
        Vip = "vip",
        /// Node objects tell IPv6 addresses alone.
        Ipv6Only = "ipv6only",
        /// A second interface, over which the source reaches the gateway; the way back is the first.
        TwoNics = "twonics",
        /// An MTU of 1280, as over WireGuard.
        Mtu1280 = "mtu1280",
        /// An MTU of 9000 between nodes, 1500 behind them.
        Mtu9000 = "mtu9000",
    }
}

dimension! {
    /// Who carries out Services.
    Services { None = "none", KubeProxyNft = "nft", KubeProxyIptables = "iptables" }
}

dimension! {
    /// What the CNI does to the source of packets that leave for addresses that are no pod's.
    Masquerade {
        /// Nothing.
        None = "none",
        /// MASQUERADE, but not towards nodes.
        Outside = "outside",
        /// MASQUERADE, also towards nodes, as Calico, flannel and kindnet do.
        AlsoNodes = "nodes",
        /// `SNAT --to` InternalIP, also towards nodes.
        SnatAlsoNodes = "snat",
    }
}

dimension! {
    /// What a firewall of the host lets through its forward hook: what comes from pods' networks, what goes there, and what is known.
    Firewall { None = "none", Docker = "docker", Flannel = "flannel", Firewalld = "firewalld" }
}

dimension! {
    /// How pods are attached to their node.
    Attachment { Routed = "routed", Bridge = "bridge" }
}

dimension! {
    /// Which families nodes and pods have.
    Families { V4 = "v4", V6 = "v6", Both = "both" }
}

dimension! {
    /// Who else writes packet and connection marks on every node.
    Marks {
        /// Nobody.
        None = "none",
        /// Felix.
        Calico = "calico",
        /// The VPC CNI, in the version that writes the whole mark.
        Aws = "aws",
        /// tailscaled.
        Tailscale = "tailscale",
        /// All bits of what pods send are set before anybody routes.
        BitsSetInFront = "allset",
        /// The packet mark is cleared in the forward hook and set to all bits behind it.
        WipedBehind = "wiped",
    }
}

/// One kind of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct World {
    pub(crate) ipam: Ipam,
    pub(crate) addresses: Addresses,
    pub(crate) services: Services,
    pub(crate) masquerade: Masquerade,
    pub(crate) firewall: Firewall,
    pub(crate) attachment: Attachment,
    pub(crate) families: Families,
    pub(crate) marks: Marks,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ipam, addresses, services, masquerade, firewall, attachment, families, marks } = self;
        write!(f, "{ipam}/{addresses}/{services}/{masquerade}/{firewall}/{attachment}/{families}/{marks}")
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

/// How many values each dimension has, in the order of `World`'s fields.
const SIZES: [usize; 8] = [
    Ipam::ALL.len(),
    Addresses::ALL.len(),
    Services::ALL.len(),
    Masquerade::ALL.len(),
    Firewall::ALL.len(),
    Attachment::ALL.len(),
    Families::ALL.len(),
    Marks::ALL.len(),
];

impl World {
    /// The families that pods and nodes have.
    pub(crate) fn families(self) -> Vec<Family> {
        match self.families {
            Families::V4 => vec![Family::V4],
            Families::V6 => vec![Family::V6],
            Families::Both => vec![Family::V4, Family::V6],
        }
    }

    /// The world with these values, by their position.
    fn of(at: [usize; 8]) -> Self {
        Self {
            ipam: Ipam::ALL[at[0]],
            addresses: Addresses::ALL[at[1]],
            services: Services::ALL[at[2]],
            masquerade: Masquerade::ALL[at[3]],
            firewall: Firewall::ALL[at[4]],
            attachment: Attachment::ALL[at[5]],
            families: Families::ALL[at[6]],
            marks: Marks::ALL[at[7]],
        }
    }

    /// The values, as `dimension=value`.
    pub(crate) fn values(self) -> BTreeSet<String> {
        let Self { ipam, addresses, services, masquerade, firewall, attachment, families, marks } = self;
        [
            format!("ipam={ipam}"),
            format!("addresses={addresses}"),
            format!("services={services}"),
            format!("masquerade={masquerade}"),
            format!("firewall={firewall}"),
            format!("attachment={attachment}"),
            format!("families={families}"),
            format!("marks={marks}"),
        ]
        .into()
    }

    /// Every pair of values of different dimensions, as far as they can meet, met in at least one of these worlds. Each begins with the first
    /// pair that is still missing and takes, dimension by dimension, the value that brings most of the others.
    pub(crate) fn all_pairs() -> Vec<Self> {
        let mut missing = pairs();
        let mut worlds = Vec::new();
        while let Some(&(first, second)) = missing.first() {
            let mut chosen: [Option<usize>; 8] = [None; 8];
            chosen[first.0] = Some(first.1);
            chosen[second.0] = Some(second.1);
            for dimension in 0..SIZES.len() {
                if chosen[dimension].is_some() {
                    continue;
                }
                let with = |value: usize| {
                    chosen
                        .iter()
                        .enumerate()
                        .filter_map(move |(other, at)| at.map(|at| ordered((dimension, value), (other, at))))
                };
                let possible = (0..SIZES[dimension]).filter(|value| with(*value).all(|(a, b)| can_meet(a, b)));
                // The first of the best: the same input gives the same worlds.
                let best =
                    possible.rev().max_by_key(|value| with(*value).filter(|pair| missing.contains(pair)).count());
                chosen[dimension] = best;
            }
            let at = chosen.map(Option::unwrap_or_default);
            for (dimension, value) in at.iter().enumerate() {
                for (other, other_value) in at.iter().enumerate().skip(dimension + 1) {
                    missing.remove(&((dimension, *value), (other, *other_value)));
                }
            }
            worlds.push(Self::of(at));
        }
        worlds
    }
}

type Value = (usize, usize);

fn ordered(one: Value, other: Value) -> (Value, Value) {
    if one < other { (one, other) } else { (other, one) }
}

/// All pairs of values of different dimensions that can meet.
fn pairs() -> BTreeSet<(Value, Value)> {
    let values = SIZES.iter().enumerate().flat_map(|(dimension, size)| (0..*size).map(move |value| (dimension, value)));
    let values: Vec<Value> = values.collect();
    let all = values.iter().flat_map(|one| values.iter().map(move |other| (*one, *other)));
    all.filter(|(one, other)| one.0 < other.0 && can_meet(*one, *other)).collect()
}

/// Whether two values can be in one world. Some cannot: a node without any IPv6 has no IPv6 address to tell, IPv6 needs 1280 bytes inside of
/// the tunnel (RFC 8200, 5), a bridge's pods are in their node's network, and firewalld's reverse-path filter is strict: with it no packet of any
/// protocol comes in over the other of two interfaces.
fn can_meet(one: Value, other: Value) -> bool {
    let set = [one, other];
    let has = |dimension: usize, value: usize| set.contains(&(dimension, value));
    let (addresses, families) = (1, 6);
    let ipv6_only = Addresses::Ipv6Only as usize;
    let small = Addresses::Mtu1280 as usize;
    let no_ipv6 = has(addresses, ipv6_only) && has(families, Families::V4 as usize);
    let too_small =
        has(addresses, small) && (has(families, Families::V6 as usize) || has(families, Families::Both as usize));
    let off_bridge = has(5, Attachment::Bridge as usize)
        && set.iter().any(|value| value.0 == 0 && value.1 != Ipam::PodCidr as usize);
    let filtered = has(addresses, Addresses::TwoNics as usize) && has(4, Firewall::Firewalld as usize);
    !(no_ipv6 || too_small || off_bridge || filtered)
}

/// A few worlds that between them have every value of every dimension: those that `make test` tries.
pub(crate) fn share() -> Vec<World> {
    use {
        Addresses as A, Attachment as T, Families as F, Firewall as W, Ipam as I, Marks as M, Masquerade as Q,
        Services as S,
    };
    let world = |ipam, addresses, services, masquerade, firewall, attachment, families, marks| World {
        ipam,
        addresses,
        services,
        masquerade,
        firewall,
        attachment,
        families,
        marks,
    };
    vec![
        world(I::PodCidr, A::First, S::None, Q::None, W::None, T::Routed, F::Both, M::None),
        world(I::Blocks, A::Second, S::KubeProxyIptables, Q::AlsoNodes, W::None, T::Routed, F::Both, M::Calico),
        world(I::PodCidr, A::Vip, S::KubeProxyNft, Q::Outside, W::Flannel, T::Bridge, F::V4, M::WipedBehind),
        world(I::Pool, A::Ipv6Only, S::KubeProxyNft, Q::SnatAlsoNodes, W::None, T::Routed, F::V6, M::BitsSetInFront),
        world(I::Vpc, A::TwoNics, S::KubeProxyNft, Q::SnatAlsoNodes, W::None, T::Routed, F::Both, M::Aws),
        world(I::Pool, A::Mtu1280, S::None, Q::AlsoNodes, W::Docker, T::Routed, F::V4, M::Tailscale),
        world(I::PodCidr, A::Mtu9000, S::KubeProxyIptables, Q::Outside, W::Firewalld, T::Routed, F::Both, M::None),
    ]
}

#[test]
fn all_pairs_are_met_by_few_worlds_and_always_the_same() {
    let worlds = World::all_pairs();
    assert_eq!(worlds, World::all_pairs());
    assert!(worlds.len() <= 60, "{} worlds", worlds.len());
    let met = |one: &World| {
        let values: Vec<String> = one.values().into_iter().collect();
        let all = values.iter().flat_map(|a| values.iter().map(move |b| (a.clone(), b.clone())));
        all.filter(|(a, b)| a < b).collect::<BTreeSet<_>>()
    };
    let count: usize = worlds.iter().map(met).fold(BTreeSet::new(), |all, some| &all | &some).len();
    assert_eq!(count, pairs().len());
}

#[test]
fn the_share_has_every_value_of_every_dimension() {
    let of = |worlds: Vec<World>| worlds.iter().flat_map(|world| world.values()).collect::<BTreeSet<_>>();
    assert_eq!(of(share()), of(World::all_pairs()));
}
