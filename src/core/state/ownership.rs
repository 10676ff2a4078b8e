//! All marks by which Egret recognises its own objects: names, protocol number, priorities, tables, mark bits.
//!
//! An object without one of these is never changed or deleted, and `kernel::observe` does not report it.

use super::net::{InterfaceAddress, Protocol};

/// The name of Egret's nftables table, in each family.
pub const TABLE: &str = "egret";

/// The protocol of Egret's routes and rules (`rtm_protocol`; 128 to 255 are free for any program,
/// include/uapi/linux/rtnetlink.h).
pub const PROTOCOL: Protocol = Protocol(180);

/// The tunnel device. Every device name that starts with [`LINK_PREFIX`] is Egret's.
pub const TUNNEL: &str = "egret0";

/// Prefix of the names of Egret's devices.
pub const LINK_PREFIX: &str = "egret";

/// Whether an address is on a device of Egret's, and not an egress address on one of the node's.
pub fn is_of_tunnel(address: &InterfaceAddress) -> bool {
    address.link.starts_with(LINK_PREFIX)
}

/// The tunnel's network identifier (VNI). It carries no information: the inner frame's destination MAC address identifies
/// the exit, which every nftables can match (`tunnel id` needs CONFIG_NFT_TUNNEL, which RHEL's family does not build).
pub const TUNNEL_VNI: u32 = 1;

/// The priorities of Egret's rules.
pub const PRIORITIES: std::ops::RangeInclusive<u32> = 500..=1023;

/// The marks, tables, port and MTU that a site can change to avoid conflicts (`datapath` in egret.yaml).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatapathConfig {
    /// The bits of the packet mark and connection mark that are Egret's: one contiguous run. The others belong to the CNI
    /// and kube-proxy.
    pub mask: u32,
    /// Egret's first routing table. An exit with id 3 has table `first + 3`.
    pub first: u32,
    /// The UDP port of the tunnel.
    pub port: u16,
    /// The maximum MTU of the tunnel device in bytes; it is smaller where the underlay carries less.
    pub mtu: u32,
}

impl Default for DatapathConfig {
    fn default() -> Self {
        Self { mask: 0x1fff, first: 9000, port: 4790, mtu: 1450 }
    }
}

impl DatapathConfig {
    /// The mark bits that are not Egret's.
    pub fn others(self) -> u32 {
        !self.mask
    }

    /// The mark of replies: all of Egret's bits.
    pub fn reply_mark(self) -> u32 {
        self.mask
    }

    /// The mark of what comes from a pod that is not classified, as long as it is on its way through this host's own
    /// input and output: all our bits but the lowest. None where the mask has only two bits, which exits need more.
    pub fn unknown_mark(self) -> Option<u32> {
        (self.mask.count_ones() > 2).then_some(self.mask & (self.mask - 1))
    }

    /// The connection mark of a flushed connection whose entry still lives (`plan::conntrack`). It may have the value of
    /// [`Self::unknown_mark`]: that one only ever marks packets.
    pub fn flushed_mark(self) -> Option<u32> {
        self.unknown_mark()
    }

    /// The highest id an exit can have; above it are the replies' and that of [`Self::unknown_mark`].
    pub fn last_id(self) -> u32 {
        (self.mask >> self.mask.trailing_zeros()) - 1 - u32::from(self.unknown_mark().is_some())
    }

    /// The mark of the exit with this id.
    pub fn mark(self, id: u32) -> u32 {
        id << self.mask.trailing_zeros()
    }

    /// The routing table of the exit with this id. Id 0 is that of replies.
    pub fn table(self, id: u32) -> u32 {
        self.first + id
    }

    /// The priority of the rule of the exit with this id. Egret's rules come before those of CNIs and VPNs that match
    /// their own marks (AWS VPC CNI's 1024, Tailscale's 5210 to 5270): a member's packet may have such a mark beside
    /// Egret's. Beyond the last priority rules share it; they differ by their marks.
    pub fn priority(self, id: u32) -> u32 {
        PRIORITIES.start() + id.min(PRIORITIES.end() - PRIORITIES.start())
    }

    /// Whether a table is in Egret's range.
    pub fn owns(self, number: u32) -> bool {
        (self.first..=self.first + self.last_id()).contains(&number)
    }

    /// Whether a rule's priority is Egret's, or one that older versions used: the tables' numbers.
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
        assert_eq!(range.last_id(), 253);
        assert_eq!(range.mark(3), 0x0003_0000);
        assert_eq!(range.unknown_mark(), Some(0x00fe_0000));
        let narrow = DatapathConfig { mask: 0x30, ..range };
        assert_eq!((narrow.unknown_mark(), narrow.last_id()), (None, 2), "two bits are two exits and the replies");
        assert!(range.owns(9253) && !range.owns(9254));
        assert_eq!([0, 3, 523, 8189].map(|id| range.priority(id)), [500, 503, 1023, 1023]);
    }
}
