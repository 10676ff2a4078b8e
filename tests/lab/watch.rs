//! The watch at the router: which source addresses packets towards the outpost's network bore. It finds even a single SYN that leaked and
//! was never answered, which the outpost's own record cannot.
//!
//! Deliberately absent: a capture of packets. A set in the kernel misses none and keeps no more than what is asked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::error::LabError;
use super::namespace::Namespace;
use super::process::wait_until_every;

/// Counted as packets come in, before the router's own connection tracking or routing has a say.
///
/// Not counted: a node that forwards what came for an address that has just moved away, and says so as itself: nobody has it, or somebody
/// who is nearer (RFC 1812, 5.2.7; RFC 4443, 3.1). It has no other address to say it with, and nothing of a pod's is in it.
const TABLE: &str = "
table inet lab {
  set towards4 { type ipv4_addr . ipv4_addr; size 65535; flags dynamic; }
  set towards6 { type ipv6_addr . ipv6_addr; size 65535; flags dynamic; }
  chain watch { type filter hook prerouting priority raw; policy accept;
    ip saddr 172.18.0.0/16 icmp type destination-unreachable icmp code host-unreachable accept
    ip saddr 172.18.0.0/16 icmp type redirect accept
    ip6 saddr fd00:172:18::/64 icmpv6 type destination-unreachable icmpv6 code addr-unreachable accept
    ip daddr 10.0.4.0/24 add @towards4 { ip daddr . ip saddr counter }
    ip6 daddr fd00:10:4::/64 add @towards6 { ip6 daddr . ip6 saddr counter }
  }
}
";

/// A moment without a packet, on a busy machine too.
const QUIET: Duration = Duration::from_millis(100);
/// Somebody may be asking all the time.
const QUIET_TRIES: u32 = 10;

/// Begins to watch in the router's namespace.
pub(crate) fn begin(router: &Namespace) -> Result<(), LabError> {
    router.nft(TABLE)
}

/// Forgets all that was seen. The last packets of a connection come after its client has gone on: a moment without any is waited for, where
/// there is one.
pub(crate) fn forget(router: &Namespace) -> Result<(), LabError> {
    let mut before = None;
    wait_until_every(QUIET, QUIET * QUIET_TRIES, || {
        let now = seen(router).ok();
        std::mem::replace(&mut before, now.clone()) == now
    });
    router.nft("flush set inet lab towards4\nflush set inet lab towards6\n")
}

/// Packets seen by destination and source.
pub(crate) fn seen(router: &Namespace) -> Result<BTreeMap<(IpAddr, IpAddr), u64>, LabError> {
    let nonsense = || LabError::Nonsense { what: "the listing of the router's table `lab`" };
    let listing = router.exec(["nft", "-j", "list", "table", "inet", "lab"])?;
    let listing: Value = serde_json::from_str(&listing).map_err(|_| nonsense())?;
    let objects = listing["nftables"].as_array().ok_or_else(nonsense)?;
    // An empty set has no `elem` at all.
    let elements = objects.iter().filter_map(|object| object["set"]["elem"].as_array()).flatten();
    elements.map(|element| pair(&element["elem"]).ok_or_else(nonsense)).collect()
}

fn pair(element: &Value) -> Option<((IpAddr, IpAddr), u64)> {
    let address = |position: usize| element["val"]["concat"][position].as_str()?.parse().ok();
    Some(((address(0)?, address(1)?), element["counter"]["packets"].as_u64()?))
}
