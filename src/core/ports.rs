//! How many ports of each translated address are in use towards its busiest destination.
//!
//! One address has 64,512 ports for each destination, protocol and port there; when they are used up, new connections to that destination
//! are lost, while others still begin. Connections are counted in memory that is bounded, however many destinations there are. Not here:
//! listing connections (`kernel::conntrack`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::finding::Finding;
use super::name::NodeName;
use super::transfer::FlowProtocol;

/// Ports that the kernel gives to connections that do not begin on a privileged one: 1024 to 65535.
pub const PORTS: u32 = 64_512;
/// So many destinations of an address are counted at once.
const COUNTED: usize = 4096;
/// From this share of the ports on, in percent, a destination is almost used up, until it is below [`ROOMY`] again.
const ALMOST: u32 = 80;
/// See [`ALMOST`].
const ROOMY: u32 = 70;

/// What ports are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortUse {
    /// The protocol.
    pub protocol: FlowProtocol,
    /// Where the connections lead.
    pub destination: SocketAddr,
}

/// Counts the connections of each address by destination.
///
/// With more than [`COUNTED`] destinations the least used are forgotten (Misra and Gries, 1982): of N connections of an address, a
/// destination's count is too small by N/4097 at most, which for a million is 244.
#[derive(Debug, Default)]
pub struct PortCount(BTreeMap<IpAddr, HashMap<PortUse, u32>>);

/// The busiest destination of each address, with the ports in use.
pub type BusiestPorts = BTreeMap<IpAddr, (PortUse, u32)>;

impl PortCount {
    /// Counts one connection that is translated to an address.
    pub fn add(&mut self, address: IpAddr, to: PortUse) {
        let counted = self.0.entry(address).or_default();
        if let Some(count) = counted.get_mut(&to) {
            *count += 1;
        } else if counted.len() < COUNTED {
            counted.insert(to, 1);
        } else {
            counted.retain(|_, count| {
                *count -= 1;
                *count > 0
            });
        }
    }

    /// The busiest destination of each address.
    pub fn busiest(self) -> BusiestPorts {
        let busiest = |counted: HashMap<PortUse, u32>| counted.into_iter().max_by_key(|(to, count)| (*count, *to));
        self.0.into_iter().filter_map(|(address, counted)| Some((address, busiest(counted)?))).collect()
    }
}

/// Follows the counts.
#[derive(Debug, Default)]
pub struct PortWatch {
    busiest: BusiestPorts,
    almost: BTreeMap<IpAddr, PortUse>,
}

impl PortWatch {
    /// Takes in a count.
    pub fn read(&mut self, busiest: BusiestPorts) {
        let before = std::mem::take(&mut self.almost);
        for (address, (to, used)) in &busiest {
            let limit = if before.contains_key(address) { ROOMY } else { ALMOST };
            if *used * 100 >= PORTS * limit {
                self.almost.insert(*address, *to);
            }
        }
        self.busiest = busiest;
    }

    /// The last count.
    pub fn busiest(&self) -> &BusiestPorts {
        &self.busiest
    }

    /// The message about each address whose ports are almost used up.
    pub fn almost(&self) -> BTreeSet<String> {
        self.almost.iter().map(message).collect()
    }

    /// What an operator should know. The texts have no figures, so that they stay the same while the cause does.
    pub fn findings(&self, node: &NodeName) -> Vec<Finding> {
        let finding = |one| {
            Finding::new(PORTS_ALMOST_USED_UP, node, message(one)).hint(
                "use more egress addresses: each has 64,512 ports for each destination; reuse connections; or let them end sooner \
                 (net.netfilter.nf_conntrack_*_timeout*)",
            )
        };
        self.almost.iter().map(finding).collect()
    }
}

fn message((address, PortUse { protocol, destination }): (&IpAddr, &PortUse)) -> String {
    format!(
        "the ports of {address} towards {destination} ({protocol}) are almost used up; when they are, new connections there are lost"
    )
}

/// Code of the finding.
pub const PORTS_ALMOST_USED_UP: &str = "ports-almost-used-up";

#[cfg(test)]
mod tests {
    use super::*;

    fn to(last: u8, port: u16) -> PortUse {
        PortUse { protocol: FlowProtocol::Tcp, destination: SocketAddr::from(([10, 0, 4, last], port)) }
    }

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 3, 42));

    #[test]
    fn the_busiest_destination_of_each_address_is_found_among_more_than_are_counted() {
        let mut count = PortCount::default();
        let mut all = 0;
        for round in 0..3_u16 {
            for port in 1..=20_000_u16 {
                count.add(ADDRESS, to(2, 30_000 + (port % 20_000)));
                all += 1;
                if port.is_multiple_of(2) {
                    count.add(ADDRESS, to(3, 443));
                    all += 1;
                }
            }
            count.add(IpAddr::from([10, 0, 3, 43]), to(4, 443 + round));
        }
        assert!(count.0.values().all(|counted| counted.len() <= COUNTED));
        let busiest = count.busiest();
        let (destination, used) = busiest[&ADDRESS];
        assert_eq!(destination, to(3, 443));
        assert!((30_000 - all / 4097..=30_000).contains(&used), "{used} of 30,000");
        assert_eq!(busiest.len(), 2);
    }

    #[test]
    fn ports_are_almost_used_up_from_four_fifths_on_and_until_there_is_room_again() {
        let node = NodeName::parse("worker").expect("a name");
        let mut watch = PortWatch::default();
        let mut almost = |used| {
            watch.read([(ADDRESS, (to(2, 443), used))].into());
            watch.findings(&node).into_iter().map(|finding| finding.message).collect::<Vec<_>>()
        };
        assert_eq!(almost(51_609), Vec::<String>::new());
        let message = "the ports of 10.0.3.42 towards 10.0.4.2:443 (TCP) are almost used up; when they are, new connections there are lost";
        assert_eq!(almost(51_610), [message]);
        assert_eq!(almost(45_159), [message]);
        assert_eq!(almost(45_158), Vec::<String>::new());
        assert_eq!(almost(51_609), Vec::<String>::new());
    }
}
