//! Reads and changes the kernel: the only module that uses netlink and writes below `/proc/sys/net`.
//!
//! [`Kernel::observe`] reads the state, [`Kernel::apply`] carries out a step, [`watch`] reports events. All three touch
//! only what [`ownership`] marks as Egret's; besides it they read the host network. Decisions are in the plan, not here.
//!
//! [`ownership`]: crate::core::state::ownership

mod apply;
pub mod conflict;
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
pub mod pod_namespace;
pub mod probe;
pub mod provoke;
mod routes;
mod socket;
mod sysctl;
pub mod transfer;
pub mod watch;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::core::host_network::HostNetwork;
use crate::core::state::NodeState;
use crate::core::state::ownership::DatapathConfig;

pub use socket::RouteError;

/// A snapshot of a node's kernel state.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Egret's objects.
    pub state: NodeState,
    /// The rest that matters: interfaces, routes and filters of the host.
    pub host_network: HostNetwork,
    /// The nftables generation of the snapshot: the kernel refuses a transaction planned on it once anything has changed.
    pub generation: nft::Generation,
}

/// A failed kernel operation: what was being done to which object, in `ip` and `nft` syntax.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A netlink socket could not be opened.
    #[error("open a netlink socket")]
    Open(#[source] std::io::Error),
    /// A dump failed.
    #[error("read {what}")]
    Observe {
        /// For example `routes`, `rules`.
        what: &'static str,
        /// The kernel's error.
        #[source]
        source: RouteError,
    },
    /// A step failed.
    #[error("{step}")]
    Step {
        /// The step, as the plan shows it.
        step: String,
        /// The kernel's error.
        #[source]
        source: RouteError,
    },
    /// A sysctl could not be read or written.
    #[error("{doing}")]
    Sysctl {
        /// `set net.ipv4.conf.net1.rp_filter = 2`
        doing: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// nftables refused.
    #[error("nftables")]
    Nft(#[source] nft::NftError),
    /// Connections of pods' addresses could not be deleted.
    #[error("flush connections of pods that are gone or changed")]
    Connections(#[source] conntrack::ConntrackError),
    /// Connections with a mark could not be deleted.
    #[error("flush connections with mark {mark:#x}")]
    Conntrack {
        /// The mark.
        mark: u32,
        /// The cause.
        #[source]
        source: conntrack::ConntrackError,
    },
}

impl KernelError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let source = match self {
            Self::Observe { source, .. } | Self::Step { source, .. } => source,
            // Either `conf/DEVICE` exists or the folder of the family does not: below a family's minimum MTU the kernel
            // removes it from the device (net/ipv6/addrconf.c, `addrconf_notify`: below 1280).
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

    /// Whether the kernel refused this one operation: not for lack of permission, and not because netlink failed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Step { source, .. } => !source.is_permission() && !matches!(source, RouteError::Closed),
            Self::Sysctl { source, .. } => matches!(source.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput),
            Self::Open(_) | Self::Observe { .. } | Self::Nft(_) | Self::Conntrack { .. } | Self::Connections(_) => {
                false
            }
        }
    }

    /// Whether nftables changed between the dump and the transaction: observe again, nothing is wrong.
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

/// One node's kernel. Holds the netlink sockets; the nftables one for as long as Egret runs, because Egret's tables are
/// owned by it.
pub struct Kernel {
    routes: socket::RouteSocket,
    nft: nft::Nft,
    features: nft::NftFeatures,
    ranges: Vec<DatapathConfig>,
    asked: AskedNeighbours,
}

/// The interfaces, by number, and addresses of neighbours that the kernel was asked for.
type AskedNeighbours = Arc<Mutex<BTreeSet<(u32, IpAddr)>>>;

impl Kernel {
    /// Opens the sockets in the network namespace of this thread, and probes the kernel's features.
    pub async fn open(range: DatapathConfig) -> Result<Self, KernelError> {
        let routes = socket::RouteSocket::open().map_err(KernelError::Open)?;
        let mut nft = nft::Nft::open().map_err(KernelError::Nft)?;
        let features = nft.probe().await.map_err(KernelError::Nft)?;
        Ok(Self { routes, nft, features, ranges: vec![range], asked: AskedNeighbours::default() })
    }

    /// Sets the ranges of marks and tables that are Egret's: two while objects move from one to the other.
    pub fn set_ranges(&mut self, ranges: Vec<DatapathConfig>) {
        self.ranges = ranges;
    }

    /// For read-only commands: tables owned by another Egret process count as owned.
    pub fn read_only(&mut self) {
        self.nft.read_only();
    }

    fn owns(&self, number: u32) -> bool {
        self.ranges.iter().any(|range| range.owns(number))
    }

    fn owns_priority(&self, priority: u32) -> bool {
        self.ranges.iter().any(|range| range.owns_priority(priority))
    }

    /// The features of the kernel's nftables.
    pub fn features(&self) -> &nft::NftFeatures {
        &self.features
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_sysctl_is_not_a_permission_problem() {
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
