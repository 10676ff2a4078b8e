//! Every mark by which Egret knows its own objects, on one screen.
//!
//! What does not bear one of these marks is never changed, never deleted, and not even seen by `kernel::observe`. Deliberately
//! absent: the objects themselves (`net`, `nft`).

use super::net::Protocol;

/// The name of our nftables table, in each family.
pub const TABLE: &str = "egret";

/// The protocol of our routes and rules (`rtm_protocol`; 128 to 255 are free for anyone, include/uapi/linux/rtnetlink.h).
pub const PROTOCOL: Protocol = Protocol(180);

/// The tunnel device. Every name that starts with [`LINK_PREFIX`] is ours.
pub const TUNNEL: &str = "egret0";

/// What the names of our devices start with.
pub const LINK_PREFIX: &str = "egret";

/// The tunnel's network identifier (VNI). It says nothing: the inner frame's destination MAC address tells the exit, which every
/// nftables can read (`tunnel id` needs CONFIG_NFT_TUNNEL, which RHEL's family does not build).
pub const TUNNEL_VNI: u32 = 1;

/// The priorities of our rules.
pub const PRIORITIES: std::ops::RangeInclusive<u32> = 500..=1023;

/// The part of ownership that a site can move out of somebody else's way (`datapath` in egret.yaml).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatapathConfig {
    /// The bits of the packet mark and connection mark that are ours: one run of bits. The others belong to the CNI and kube-proxy.
    pub mask: u32,
    /// The first routing table of ours. An exit with mark id 3 has table `first + 3`.
    pub first: u32,
    /// The UDP port of the tunnel.
    pub port: u16,
    /// The largest MTU of the tunnel device; it is smaller where the network below carries less.
    pub mtu: u32,
}

impl Default for DatapathConfig {
    fn default() -> Self {
        Self { mask: 0x1fff, first: 9000, port: 4790, mtu: 1450 }
    }
}

impl DatapathConfig {
    /// The bits of others.
    pub fn others(self) -> u32 {
        !self.mask
    }

    /// The mark of replies: all our bits.
    pub fn reply_mark(self) -> u32 {
        self.mask
    }

    /// The highest id an exit can have; the id above it is the replies'.
    pub fn last_id(self) -> u32 {
        (self.mask >> self.mask.trailing_zeros()) - 1
    }

    /// The mark of the exit with this id.
    pub fn mark(self, id: u32) -> u32 {
        id << self.mask.trailing_zeros()
    }

    /// The routing table of the exit with this id. Id 0 is the replies'.
    pub fn table(self, id: u32) -> u32 {
        self.first + id
    }

    /// The priority of the rule of the exit with this id. Ours stand ahead of those by which CNIs and VPNs look at marks of their
    /// own (AWS VPC CNI's 1024, Tailscale's 5210 to 5270): a member's packet may bear such a mark beside ours. Beyond the last
    /// priority rules share it; they differ by their marks.
    pub fn priority(self, id: u32) -> u32 {
        PRIORITIES.start() + id.min(PRIORITIES.end() - PRIORITIES.start())
    }

    /// Whether a table's number is in our range.
    pub fn owns(self, number: u32) -> bool {
        (self.first..=self.first + self.last_id()).contains(&number)
    }

    /// Whether a rule's priority is one of ours, or one of those that older versions took: the tables' numbers.
    pub fn owns_priority(self, priority: u32) -> bool {
        PRIORITIES.contains(&priority) || self.owns(priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_may_stand_anywhere() {
        let range = DatapathConfig { mask: 0x00ff_0000, ..DatapathConfig::default() };
        assert_eq!(range.last_id(), 254);
        assert_eq!(range.mark(3), 0x0003_0000);
        assert!(range.owns(9254) && !range.owns(9255));
        assert_eq!([0, 3, 523, 8190].map(|id| range.priority(id)), [500, 503, 1023, 1023]);
    }
}
