//! Set algebra of address ranges, for nftables' interval sets and maps, which have no longest-prefix match.
//!
//! Ranges are inclusive at both ends, so that `0.0.0.0/0` and `::/0` need no address behind the last one. IPv4 and IPv6
//! are disjoint: `::ffff:10.0.0.1` is not `10.0.0.1`. All results are sorted, IPv4 first. Ranges become prefixes only to
//! be shown: nftables takes them as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// Addresses from the first to the last, both included and of one family; never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// The prefixes that make it up; if they are more than so many, the range itself.
    pub fn prefixes(&self, most: usize) -> Vec<String> {
        let prefixes: Vec<String> = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(first, last, 0).take(most + 1).map(|net| net.to_string()).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                Ipv6Subnets::new(first, last, 0).take(most + 1).map(|net| net.to_string()).collect()
            }
            _ => Vec::new(),
        };
        if prefixes.len() > most { vec![self.to_string()] } else { prefixes }
    }

    /// From the first to the last address; `None` if they are of two families or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    /// The lowest address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether it contains an address.
    pub fn contains(&self, address: IpAddr) -> bool {
        // IpAddr's order puts every IPv4 address before every IPv6 one, so the family needs no separate check.
        self.first <= address && address <= self.last
    }
}

impl From<IpNet> for AddressRange {
    /// All addresses of a prefix, its network and broadcast address too. Host bits are ignored.
    fn from(net: IpNet) -> Self {
        Self { first: net.network(), last: net.broadcast() }
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        Self { first: address, last: address }
    }
}

impl std::fmt::Display for AddressRange {
    /// In nft's syntax; a single address without a range.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A set of addresses, stored as the fewest ranges: disjoint, sorted, no two of them adjacent.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RangeSet {
    ranges: Vec<AddressRange>,
}

impl RangeSet {
    /// The ranges, sorted, IPv4 first.
    pub fn ranges(&self) -> &[AddressRange] {
        &self.ranges
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether it contains an address. O(log n).
    pub fn contains(&self, address: IpAddr) -> bool {
        let behind = self.ranges.partition_point(|range| range.first <= address);
        behind > 0 && self.ranges[behind - 1].contains(address)
    }

    /// Whether it has an address of a network. O(log n).
    pub fn meets(&self, net: IpNet) -> bool {
        let other = AddressRange::from(net);
        let first = self.ranges.partition_point(|range| range.last < other.first);
        self.ranges.get(first).is_some_and(|range| range.first <= other.last)
    }

    /// Its lowest address within a range, if there is one. O(log n).
    pub fn first_within(&self, range: AddressRange) -> Option<IpAddr> {
        let begins = self.ranges.partition_point(|one| one.last < range.first);
        let found = self.ranges.get(begins).filter(|one| one.first <= range.last)?;
        Some(found.first.max(range.first))
    }

    /// The union. O(n log n).
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.ranges.iter().chain(&other.ranges).copied().collect()
    }

    /// This set without the addresses of the other. O(n + m).
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len());
        let mut holes = other.ranges.iter().peekable();
        for range in &self.ranges {
            let mut rest = Some(*range);
            while let (Some(left), Some(hole)) = (rest, holes.peek()) {
                if hole.last < left.first {
                    holes.next();
                    continue;
                }
                if hole.first > left.last {
                    break;
                }
                if let Some(before) = predecessor(hole.first)
                    && hole.first > left.first
                {
                    ranges.push(AddressRange { first: left.first, last: before });
                }
                // The hole is kept: if it ends behind this range, the next range may begin inside it.
                rest = successor(hole.last).and_then(|after| AddressRange::new(after, left.last));
            }
            ranges.extend(rest);
        }
        Self { ranges }
    }
}

impl FromIterator<AddressRange> for RangeSet {
    /// The union of ranges that may overlap and touch, in any order.
    fn from_iter<I: IntoIterator<Item = AddressRange>>(ranges: I) -> Self {
        let mut sorted: Vec<AddressRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut disjoint: Vec<AddressRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match disjoint.last_mut() {
                Some(last) if range.first <= last.last || successor(last.last) == Some(range.first) => {
                    last.last = last.last.max(range.last);
                }
                _ => disjoint.push(range),
            }
        }
        Self { ranges: disjoint }
    }
}

impl FromIterator<IpNet> for RangeSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        nets.into_iter().map(AddressRange::from).collect()
    }
}

/// One value for each family: an nft table's maps and key types are each of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    /// IPv4's.
    pub v4: T,
    /// IPv6's.
    pub v6: T,
}

/// Disjoint ranges with their values, sorted. Two adjacent ranges have different values.
pub type RangeMap<T> = Vec<(AddressRange, T)>;

/// Turns overlapping prefixes into disjoint ranges, each with the value of the longest prefix that covers it.
///
/// Among equal prefixes the lowest rank wins, and among equal ranks the first. O(n log n), and at most `2n - 1` ranges of
/// a family: each prefix begins one and lets the surrounding one begin again.
pub fn flatten<R: Ord, T: Clone + Eq>(entries: &[(IpNet, R, T)]) -> PerFamily<RangeMap<T>> {
    let mut sorted: Vec<&(IpNet, R, T)> = entries.iter().collect();
    // The wider prefix first where two begin at the same address. The sort is stable: the first of equals stays first.
    sorted.sort_by(|(a, a_rank, _), (b, b_rank, _)| {
        (a.network(), a.prefix_len(), a_rank).cmp(&(b.network(), b.prefix_len(), b_rank))
    });
    sorted.dedup_by(|(later, ..), (earlier, ..)| later.trunc() == earlier.trunc());
    let v6_begins = sorted.partition_point(|(net, ..)| net.network().is_ipv4());
    PerFamily { v4: sweep(&sorted[..v6_begins]), v6: sweep(&sorted[v6_begins..]) }
}

/// One pass over distinct prefixes of one family, sorted by first address, the wider first. Prefixes nest or are
/// disjoint, so those open at a point form a stack, and the top is the longest.
fn sweep<R, T: Clone + Eq>(sorted: &[&(IpNet, R, T)]) -> RangeMap<T> {
    let mut open: Vec<(AddressRange, &T)> = Vec::new();
    let mut flat = Flat { next: None, ranges: Vec::with_capacity(sorted.len()) };
    for (net, _, value) in sorted {
        let range = AddressRange::from(*net);
        while let Some((ended, ended_value)) = open.pop_if(|(ended, _)| ended.last < range.first) {
            flat.fill_to(ended.last, ended_value);
        }
        if let (Some((_, around)), Some(before)) = (open.last(), predecessor(range.first)) {
            flat.fill_to(before, around);
        }
        flat.next = Some(range.first);
        open.push((range, value));
    }
    while let Some((ended, value)) = open.pop() {
        flat.fill_to(ended.last, value);
    }
    flat.ranges
}

/// Where two maps of disjoint ranges differ: disjoint, sorted, with the value of each; `None`: no value. O(n log n).
pub fn differences<T: Eq>(
    before: &[(AddressRange, T)],
    after: &[(AddressRange, T)],
) -> Vec<(AddressRange, Option<usize>, Option<usize>)> {
    let ranges = || before.iter().map(|(range, _)| range).chain(after.iter().map(|(range, _)| range));
    let mut points: Vec<IpAddr> = ranges().map(|range| range.first).collect();
    points.extend(ranges().filter_map(|range| successor(range.last)));
    points.sort_unstable();
    points.dedup();
    let at = |map: &[(AddressRange, T)], point: IpAddr| {
        let behind = map.partition_point(|(range, _)| range.first <= point);
        (behind > 0 && map[behind - 1].0.contains(point)).then(|| behind - 1)
    };
    let mut found = Vec::new();
    for (position, point) in points.iter().enumerate() {
        let (old, new) = (at(before, *point), at(after, *point));
        let ends = [old.map(|index| before[index].0.last), new.map(|index| after[index].0.last)];
        let next = points.get(position + 1).and_then(|next| predecessor(*next));
        let next = next.filter(|next| next.is_ipv4() == point.is_ipv4());
        let Some(last) = ends.into_iter().flatten().chain(next).min() else { continue };
        let same = match (old, new) {
            (Some(old), Some(new)) => before[old].1 == after[new].1,
            (old, new) => old.is_none() && new.is_none(),
        };
        if !same {
            found.push((AddressRange { first: *point, last }, old, new));
        }
    }
    found
}

/// The output of a sweep so far.
struct Flat<T> {
    /// The first address that has no value yet; none behind the family's last address.
    next: Option<IpAddr>,
    ranges: RangeMap<T>,
}

impl<T: Clone + Eq> Flat<T> {
    /// Assigns a value to all addresses from the next one to `last`, if any.
    fn fill_to(&mut self, last: IpAddr, value: &T) {
        let Some(range) = self.next.and_then(|first| AddressRange::new(first, last)) else { return };
        match self.ranges.last_mut() {
            Some((before, same)) if same == value && successor(before.last) == Some(range.first) => before.last = last,
            _ => self.ranges.push((range, value.clone())),
        }
        self.next = successor(last);
    }
}

/// The next address of the same family; none after the last.
fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

/// The previous address of the same family; none before the first.
fn predecessor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect(text)
    }

    fn set(nets: &[&str]) -> RangeSet {
        nets.iter().map(|text| net(text)).collect()
    }

    fn texts(set: &RangeSet) -> Vec<String> {
        set.ranges().iter().map(ToString::to_string).collect()
    }

    fn lines<T: std::fmt::Display>(map: &RangeMap<T>) -> Vec<String> {
        map.iter().map(|(range, value)| format!("{range} {value}")).collect()
    }

    #[test]
    fn a_set_meets_every_network_that_has_one_of_its_addresses() {
        let set = set(&["10.0.4.0/24", "10.0.9.7/32", "2001:db8::/32"]);
        for meets in ["10.0.4.0/24", "10.0.4.255/32", "10.0.0.0/8", "10.0.9.7/32", "10.0.8.0/23", "0.0.0.0/0", "::/0"] {
            assert!(set.meets(net(meets)), "{meets}");
        }
        for apart in ["10.0.5.0/24", "10.0.3.0/24", "10.0.9.8/32", "255.255.255.255/32", "2001:db9::/32", "::/16"] {
            assert!(!set.meets(net(apart)), "{apart}");
        }
        assert!(!RangeSet::default().meets(net("0.0.0.0/0")));
    }

    #[test]
    fn the_longest_prefix_wins_and_the_wider_one_continues_behind_it() {
        let flat = flatten(&[
            (net("10.0.0.0/8"), 0, 'a'),
            (net("10.0.4.0/24"), 9, 'b'),
            (net("10.0.4.7/32"), 9, 'c'),
            (net("2001:db8::/32"), 0, 'd'),
        ]);
        assert_eq!(
            lines(&flat.v4),
            [
                "10.0.0.0-10.0.3.255 a",
                "10.0.4.0-10.0.4.6 b",
                "10.0.4.7 c",
                "10.0.4.8-10.0.4.255 b",
                "10.0.5.0-10.255.255.255 a"
            ]
        );
        assert_eq!(lines(&flat.v6), ["2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff d"]);
    }

    #[test]
    fn among_equal_prefixes_the_lowest_rank_wins_and_then_the_first() {
        let same = [(net("10.0.4.9/24"), 1, 'a'), (net("10.0.4.0/24"), 0, 'b'), (net("10.0.4.0/24"), 0, 'c')];
        assert_eq!(lines(&flatten(&same).v4), ["10.0.4.0-10.0.4.255 b"]);
    }

    #[test]
    fn neighbours_with_one_value_become_one_range() {
        let halves = [(net("10.0.0.0/25"), 0, 'a'), (net("10.0.0.128/25"), 0, 'a'), (net("10.0.0.200/32"), 0, 'a')];
        assert_eq!(lines(&flatten(&halves).v4), ["10.0.0.0-10.0.0.255 a"]);
        let apart = [(net("10.0.0.0/32"), 0, 'a'), (net("10.0.0.2/32"), 0, 'a')];
        assert_eq!(lines(&flatten(&apart).v4), ["10.0.0.0 a", "10.0.0.2 a"]);
    }

    #[test]
    fn the_ends_of_both_families_are_reached_and_not_passed() {
        let flat = flatten(&[
            (net("0.0.0.0/0"), 0, 'a'),
            (net("0.0.0.0/32"), 0, 'b'),
            (net("255.255.255.255/32"), 0, 'c'),
            (net("::/0"), 0, 'd'),
            (net("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"), 0, 'e'),
        ]);
        assert_eq!(lines(&flat.v4), ["0.0.0.0 b", "0.0.0.1-255.255.255.254 a", "255.255.255.255 c"]);
        assert_eq!(
            lines(&flat.v6),
            ["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe d", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff e"]
        );
        assert_eq!(flatten::<u8, char>(&[]), PerFamily::default());

        let all = set(&["0.0.0.0/0", "::/0"]);
        assert_eq!(texts(&all.subtract(&set(&["0.0.0.0/1", "128.0.0.0/1", "::/0"]))), Vec::<String>::new());
        assert_eq!(
            texts(&all.subtract(&set(&["0.0.0.0/32", "255.255.255.255/32", "8000::/1"]))),
            ["0.0.0.1-255.255.255.254", "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
        );
    }

    #[test]
    fn the_families_never_touch() {
        let ends = set(&["255.255.255.255/32", "::/128"]);
        assert_eq!(texts(&ends), ["255.255.255.255", "::"]);
        assert!(!set(&["10.0.0.0/8"]).contains(IpAddr::V6("::ffff:10.0.0.1".parse().expect("an address"))));
        assert_eq!(AddressRange::new(net("10.0.0.0/8").addr(), net("::/0").addr()), None);
    }

    #[test]
    fn one_hole_may_reach_over_several_ranges() {
        let from = set(&["10.0.0.0/30", "10.0.0.8/30", "10.0.0.16/30"]);
        let hole = AddressRange::new(net("10.0.0.2/32").addr(), net("10.0.0.17/32").addr());
        assert_eq!(texts(&from.subtract(&hole.into_iter().collect())), ["10.0.0.0-10.0.0.1", "10.0.0.18-10.0.0.19"]);
    }

    /// A prefix among the 64 addresses at one end of a family, where arithmetic may overflow.
    fn small_net() -> impl Strategy<Value = IpNet> {
        (any::<bool>(), any::<bool>(), 0_u8..64, 0_u8..=6).prop_map(|(v4, far, low, wide)| {
            let (address, length): (IpAddr, u8) = match (v4, far) {
                (true, false) => (Ipv4Addr::from_bits(low.into()).into(), 32),
                (true, true) => (Ipv4Addr::from_bits(u32::MAX - u32::from(low)).into(), 32),
                (false, false) => (Ipv6Addr::from_bits(low.into()).into(), 128),
                (false, true) => (Ipv6Addr::from_bits(u128::MAX - u128::from(low)).into(), 128),
            };
            IpNet::new(address, length - wide).expect("a prefix length of the family")
        })
    }

    /// Every address a `small_net` can have.
    fn small_space() -> Vec<IpAddr> {
        ["0.0.0.0/26", "255.255.255.192/26", "::/122", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffc0/122"]
            .iter()
            .flat_map(|text| {
                std::iter::successors(Some(net(text).network()), |address| {
                    successor(*address).filter(|next| net(text).contains(next))
                })
            })
            .collect()
    }

    proptest! {
        #[test]
        fn flattened_ranges_agree_with_the_prefixes_for_every_address(
            entries in proptest::collection::vec((small_net(), 0_u8..4, 0_u8..4), 0..24)
        ) {
            let flat = flatten(&entries);
            for address in small_space() {
                // `max_by` returns the last of equals, hence the reverse.
                let expected = entries.iter().rev().filter(|(net, ..)| net.contains(&address))
                    .max_by(|(a, a_rank, _), (b, b_rank, _)| (a.prefix_len(), b_rank).cmp(&(b.prefix_len(), a_rank)))
                    .map(|(_, _, value)| *value);
                let map = if address.is_ipv4() { &flat.v4 } else { &flat.v6 };
                let found: Vec<u8> = map.iter().filter(|(range, _)| range.contains(address)).map(|(_, value)| *value).collect();
                prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{}", address);
            }
            for map in [&flat.v4, &flat.v6] {
                for pair in map.windows(2) {
                    prop_assert!(pair[0].0.last < pair[1].0.first);
                    prop_assert!(pair[0].1 != pair[1].1 || successor(pair[0].0.last) != Some(pair[1].0.first), "not merged");
                }
            }
        }

        #[test]
        fn differences_are_the_addresses_where_two_maps_differ(
            a in proptest::collection::vec((small_net(), 0_u8..3, 0_u8..3), 0..12),
            b in proptest::collection::vec((small_net(), 0_u8..3, 0_u8..3), 0..12)
        ) {
            let map = |entries: &[(IpNet, u8, u8)]| {
                let flat = flatten(entries);
                flat.v4.into_iter().chain(flat.v6).collect::<RangeMap<u8>>()
            };
            let (a, b) = (map(&a), map(&b));
            let found = differences(&a, &b);
            for address in small_space() {
                let value_at = |map: &RangeMap<u8>| map.iter().find(|(range, _)| range.contains(address)).map(|(_, value)| *value);
                let hits: Vec<_> = found.iter().filter(|(range, ..)| range.contains(address)).collect();
                let expected = (value_at(&a), value_at(&b));
                let actual: Vec<_> = hits.iter().map(|(_, old, new)| (old.map(|at| a[at].1), new.map(|at| b[at].1))).collect();
                prop_assert_eq!(actual, if expected.0 == expected.1 { vec![] } else { vec![expected] }, "{}", address);
            }
        }

        #[test]
        fn sets_hold_exactly_the_addresses_of_their_algebra(
            a_nets in proptest::collection::vec(small_net(), 0..12),
            b_nets in proptest::collection::vec(small_net(), 0..12)
        ) {
            let in_a = |address: &IpAddr| a_nets.iter().any(|net| net.contains(address));
            let in_b = |address: &IpAddr| b_nets.iter().any(|net| net.contains(address));
            let a: RangeSet = a_nets.iter().copied().collect();
            let b: RangeSet = b_nets.iter().copied().collect();
            for address in small_space() {
                prop_assert_eq!(a.contains(address), in_a(&address));
                prop_assert_eq!(a.union(&b).contains(address), in_a(&address) || in_b(&address));
                prop_assert_eq!(a.subtract(&b).contains(address), in_a(&address) && !in_b(&address));
            }
            for range in b.ranges() {
                let within = small_space().into_iter().filter(|address| range.contains(*address) && in_a(address));
                prop_assert_eq!(a.first_within(*range), within.min());
            }
            for result in [a.union(&b), a.subtract(&b)] {
                // The fewest ranges are a unique form: collecting them again changes nothing.
                prop_assert_eq!(result.ranges.iter().copied().collect::<RangeSet>(), result);
            }
        }
    }
}
