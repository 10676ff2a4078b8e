//! Prefixes that are searched by containment: thousands of destinations are compared with thousands of networks.
//!
//! Not here: sets of addresses (`cidr`). A prefix that two others cover together lies in neither of them.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// A set of prefixes, without host bits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// By first address, the wider before the narrower.
    sorted: Vec<IpNet>,
    /// The lengths that occur, IPv4's and IPv6's, the shortest first.
    lengths: [Vec<u8>; 2],
}

impl FromIterator<IpNet> for Prefixes {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut sorted: Vec<IpNet> = nets.into_iter().map(|net| net.trunc()).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let lengths = [true, false].map(|v4| {
            let family = sorted.iter().filter(|net| net.addr().is_ipv4() == v4);
            family.map(IpNet::prefix_len).collect::<BTreeSet<_>>().into_iter().collect()
        });
        Self { sorted, lengths }
    }
}

impl Prefixes {
    /// Whether it has none of a prefix's family.
    pub fn has_none_like(&self, net: IpNet) -> bool {
        self.lengths_like(net).is_empty()
    }

    /// The widest that contains the whole of a prefix.
    pub fn around(&self, net: IpNet) -> Option<IpNet> {
        self.all_around(net).next()
    }

    /// The first that a prefix contains or lies in, except those that lie in one of `except`.
    pub fn first_that_meets(&self, net: IpNet, except: &Self) -> Option<IpNet> {
        if let Some(around) = self.all_around(net).find(|around| except.around(*around).is_none()) {
            return Some(around);
        }
        let mut position = self.sorted.partition_point(|inner| *inner < net.trunc());
        while let Some(inner) = self.sorted.get(position).filter(|inner| net.contains(*inner)) {
            match except.around(*inner) {
                None => return Some(*inner),
                // Whatever else lies in there is skipped with it.
                Some(excepted) => {
                    position += self.sorted[position..].partition_point(|inner| excepted.contains(inner));
                }
            }
        }
        None
    }

    /// Those that contain the whole of a prefix, the widest first.
    fn all_around(&self, net: IpNet) -> impl Iterator<Item = IpNet> {
        let lengths = self.lengths_like(net).iter().take_while(move |length| **length <= net.prefix_len());
        let around = lengths.filter_map(move |length| Some(IpNet::new(net.addr(), *length).ok()?.trunc()));
        around.filter(|around| self.sorted.binary_search(around).is_ok())
    }

    fn lengths_like(&self, net: IpNet) -> &[u8] {
        &self.lengths[usize::from(!net.addr().is_ipv4())]
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// Few enough that they nest, touch and are equal.
    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (0_u8..=32, any::<[bool; 4]>()).prop_map(|(length, bits)| {
            let bits = bits.iter().fold(0_u32, |all, bit| all << 8 | u32::from(*bit));
            IpNet::new(Ipv4Addr::from_bits(bits).into(), length).expect("a length").trunc()
        });
        let v6 = (0_u8..=128, any::<[bool; 4]>()).prop_map(|(length, bits)| {
            let bits = bits.iter().fold(0_u128, |all, bit| all << 32 | u128::from(*bit));
            IpNet::new(Ipv6Addr::from_bits(bits).into(), length).expect("a length").trunc()
        });
        prop_oneof![3 => v4, 1 => v6]
    }

    proptest! {
        #[test]
        fn searching_finds_what_comparing_each_finds(
            nets in prop::collection::vec(net(), 0..20),
            except in prop::collection::vec(net(), 0..4),
            wanted in net(),
        ) {
            let prefixes: Prefixes = nets.iter().copied().collect();
            let excepted: Prefixes = except.iter().copied().collect();
            let out = |net: &IpNet| except.iter().any(|except| except.contains(net));
            let meets = |net: &&IpNet| (net.contains(&wanted) || wanted.contains(*net)) && !out(net);
            prop_assert_eq!(prefixes.first_that_meets(wanted, &excepted), nets.iter().filter(meets).min().copied());
            let around = nets.iter().filter(|net| net.contains(&wanted)).min_by_key(|net| net.prefix_len());
            prop_assert_eq!(prefixes.around(wanted), around.copied());
            let like = nets.iter().any(|net| net.addr().is_ipv4() == wanted.addr().is_ipv4());
            prop_assert_eq!(prefixes.has_none_like(wanted), !like);
        }
    }
}
