//! Pools: addresses of which policies ask for some.
//!
//! Not here: which policy has which (`core::allocation`). Unrelated: `core::pools`, from which CNIs give pods their addresses.

use std::net::IpAddr;

use super::{ObjectName, Origin};
use crate::core::cidr::{AddressRange, RangeSet};

/// The most addresses of a pool.
pub const LARGEST: usize = 4096;

/// `egret.dev/v1alpha1 EgressPool`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressPool {
    /// `metadata.name`
    pub name: ObjectName,
    /// Its addresses, as written. Never empty.
    pub addresses: Vec<AddressRange>,
    /// Those of them that no policy gets.
    pub reserved: Vec<AddressRange>,
    /// Its document.
    pub origin: Origin,
}

impl EgressPool {
    /// The addresses that policies may have.
    pub fn usable(&self) -> RangeSet {
        let all: RangeSet = self.addresses.iter().copied().collect();
        all.subtract(&self.reserved.iter().copied().collect())
    }
}

/// How many addresses a range has.
pub fn size(range: AddressRange) -> u128 {
    let size = match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => u128::from(last.to_bits().saturating_sub(first.to_bits())),
        (IpAddr::V6(first), IpAddr::V6(last)) => last.to_bits().saturating_sub(first.to_bits()),
        _ => return 0,
    };
    size.saturating_add(1)
}

/// The addresses of a set, one by one, in order.
pub fn each(set: &RangeSet) -> impl Iterator<Item = IpAddr> {
    set.ranges().iter().flat_map(|range| {
        let (v4, v6) = match (range.first(), range.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => (Some(first.to_bits()..=last.to_bits()), None),
            (IpAddr::V6(first), IpAddr::V6(last)) => (None, Some(first.to_bits()..=last.to_bits())),
            _ => (None, None),
        };
        let v4 = v4.into_iter().flatten().map(|bits| IpAddr::V4(bits.into()));
        v4.chain(v6.into_iter().flatten().map(|bits| IpAddr::V6(bits.into())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: &str, last: &str) -> AddressRange {
        AddressRange::new(first.parse().expect(first), last.parse().expect(last)).expect("a range")
    }

    #[test]
    fn a_pool_has_its_addresses_without_the_reserved_ones() {
        let pool = EgressPool {
            name: ObjectName::parse("outpost").expect("a name"),
            addresses: vec![
                range("10.0.3.255", "10.0.4.2"),
                range("10.0.4.1", "10.0.4.3"),
                range("fd00::fe", "fd00::100"),
            ],
            reserved: vec![range("10.0.4.1", "10.0.4.1"), range("fd00::", "fd00::ff")],
            origin: Origin::default(),
        };
        let all: Vec<String> = each(&pool.usable()).map(|address| address.to_string()).collect();
        assert_eq!(all, ["10.0.3.255", "10.0.4.0", "10.0.4.2", "10.0.4.3", "fd00::100"]);
    }

    #[test]
    fn sizes_of_ranges_are_those_of_both_families() {
        assert_eq!(size(range("10.0.3.40", "10.0.3.47")), 8);
        assert_eq!(size(range("fd00::", "fd00::")), 1);
        assert_eq!(size(range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), u128::MAX);
    }
}
