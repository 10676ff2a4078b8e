//! The kernel edge: the only folder that speaks netlink and writes below `/proc/sys/net`.
//!
//! It looks ([`Kernel::observe`]), does ([`Kernel::apply`]) and listens ([`watch`]); all three see only what [`ownership`] says is
//! ours, and the ground we stand on. Deliberately absent: any decision. What to do is in the plan.
//!
//! [`ownership`]: crate::core::state::ownership

mod apply;
pub mod conntrack;
pub mod doctor;
mod encode;
mod foreign;
mod host_network;
mod links;
pub mod marks;
mod netconf;
pub mod nft;
mod observe;
mod routes;
mod socket;
mod sysctl;
pub mod watch;

use std::io::ErrorKind;

use crate::core::host_network::HostNetwork;
use crate::core::state::NodeState;
use crate::core::state::ownership::DatapathConfig;

pub use socket::RouteError;

/// One look at a node's kernel.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What is ours.
    pub state: NodeState,
    /// What is not, and matters.
    pub host_network: HostNetwork,
    /// The generation of nftables that was seen: a transaction planned on it is refused once somebody has changed anything.
    pub generation: nft::Generation,
}

/// What went wrong at the kernel: what was being done to which object, in the syntax of `ip` and `nft`.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Netlink could not be spoken at all.
    #[error("open a netlink socket")]
    Open(#[source] std::io::Error),
    /// A look failed.
    #[error("look at {what}")]
    Observe {
        /// `routes`, `rules`.
        what: &'static str,
        /// The kernel's word.
        #[source]
        source: RouteError,
    },
    /// A step failed.
    #[error("{step}")]
    Step {
        /// The step, as the plan shows it.
        step: String,
        /// The kernel's word.
        #[source]
        source: RouteError,
    },
    /// A setting could not be read or written.
    #[error("{doing}")]
    Sysctl {
        /// `set net.ipv4.conf.net1.rp_filter = 2`
        doing: String,
        /// The kernel's word.
        #[source]
        source: std::io::Error,
    },
    /// nftables refused.
    #[error("nftables")]
    Nft(#[source] nft::NftError),
    /// Connection tracking refused to forget connections of pods' addresses.
    #[error("forget connections of pods that are gone or changed")]
    Connections(#[source] conntrack::ConntrackError),
    /// Connection tracking refused.
    #[error("forget connections with mark {mark:#x}")]
    Conntrack {
        /// The mark.
        mark: u32,
        /// The kernel's word.
        #[source]
        source: conntrack::ConntrackError,
    },
}

impl KernelError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let source = match self {
            Self::Observe { source, .. } | Self::Step { source, .. } => source,
            // `conf/DEVICE` is there, or the folder of a family is not: below the smallest MTU that a family stands the kernel takes it off
            // the device (net/ipv6/addrconf.c, `addrconf_notify`: below 1280).
            Self::Sysctl { doing, source } if source.kind() == std::io::ErrorKind::NotFound => {
                return Some(missing_setting(doing));
            }
            Self::Open(_) | Self::Sysctl { .. } => {
                return Some("Egret needs CAP_NET_ADMIN and a writable /proc/sys/net".into());
            }
            Self::Nft(_) | Self::Conntrack { .. } | Self::Connections(_) => return None,
        };
        source.is_permission().then(|| "Egret needs CAP_NET_ADMIN in this network namespace".to_owned())
    }

    /// The kernel says no to one thing, and would say so to nobody else's: not for want of rights, and not because it cannot be asked.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Step { source, .. } => !source.is_permission() && !matches!(source, RouteError::Closed),
            Self::Sysctl { source, .. } => matches!(source.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput),
            Self::Open(_) | Self::Observe { .. } | Self::Nft(_) | Self::Conntrack { .. } | Self::Connections(_) => {
                false
            }
        }
    }

    /// Somebody changed nftables between the look and the transaction: look again, nothing is wrong.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Nft(nft::NftError::Stale | nft::NftError::AnswerLost))
    }
}

/// What to do where a device has no such setting.
fn missing_setting(doing: &str) -> String {
    if doing.contains("net.ipv6.") {
        "the device has no IPv6: the kernel takes it off a device whose MTU is below 1280. The network below the tunnel has to carry 1330 bytes \
         between nodes with IPv4 addresses, 1350 between ones with IPv6 addresses, for policies with IPv6 destinations; `ip link` shows its MTU"
            .to_owned()
    } else {
        "the device is gone, or /proc/sys/net is another network namespace's".to_owned()
    }
}

/// One node's kernel. Holds the netlink sockets; the nftables one for as long as Egret runs, because our tables belong to it.
pub struct Kernel {
    routes: socket::RouteSocket,
    nft: nft::Nft,
    features: nft::NftFeatures,
    ranges: Vec<DatapathConfig>,
}

impl Kernel {
    /// Opens the sockets in the network namespace of this thread, and finds out what the kernel can do.
    pub async fn open(range: DatapathConfig) -> Result<Self, KernelError> {
        let routes = socket::RouteSocket::open().map_err(KernelError::Open)?;
        let mut nft = nft::Nft::open().map_err(KernelError::Nft)?;
        let features = nft.probe().await.map_err(KernelError::Nft)?;
        Ok(Self { routes, nft, features, ranges: vec![range] })
    }

    /// The ranges of marks and tables that are ours: two while objects move from one to the other.
    pub fn set_ranges(&mut self, ranges: Vec<DatapathConfig>) {
        self.ranges = ranges;
    }

    /// For who looks and changes nothing: what another Egret on this node owns is as it should be.
    pub fn look_only(&mut self) {
        self.nft.look_only();
    }

    fn owns(&self, number: u32) -> bool {
        self.ranges.iter().any(|range| range.owns(number))
    }

    fn owns_priority(&self, priority: u32) -> bool {
        self.ranges.iter().any(|range| range.owns_priority(priority))
    }

    /// What the kernel's nftables can do.
    pub fn features(&self) -> &nft::NftFeatures {
        &self.features
    }

    /// The port numbers of our netlink sockets: events that bear them are our own doing.
    pub fn ports(&self) -> Vec<u32> {
        vec![self.routes.port()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_not_there_is_no_want_of_rights() {
        let hint = |doing: &str, errno| {
            let source = std::io::Error::from_raw_os_error(errno);
            KernelError::Sysctl { doing: doing.to_owned(), source }.hint().unwrap()
        };
        let (missing, refused) = (nix::errno::Errno::ENOENT as i32, nix::errno::Errno::EACCES as i32);
        let narrow = hint("set    sysctl net.ipv6.conf.egret0.disable_ipv6 = 0", missing);
        assert!(narrow.starts_with("the device has no IPv6"), "{narrow}");
        let gone = hint("set    sysctl net.ipv4.conf.egret0.rp_filter = 2", missing);
        assert!(gone.starts_with("the device is gone"), "{gone}");
        let rights = "Egret needs CAP_NET_ADMIN and a writable /proc/sys/net";
        assert_eq!(hint("set    sysctl net.ipv6.conf.egret0.disable_ipv6 = 0", refused), rights);
    }
}
