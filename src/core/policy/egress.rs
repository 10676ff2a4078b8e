//! How a gateway entry says with which address packets leave.
//!
//! Not here: which address of a pool a policy gets (`core::allocation`), and the address of an interface, which only the gateway's own
//! kernel knows (`compile::own_exits`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ObjectName;
use crate::core::name::Interface;
use crate::core::state::nft::AddressFamily;

/// How a gateway finds the egress address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Egress {
    /// `egressIP`: this address, on whatever interface has it.
    Address(IpAddr),
    /// `egressIPs`: these addresses, one for each family.
    DualStack(Ipv4Addr, Ipv6Addr),
    /// `interface`: its first global address of each family.
    Interface(Interface),
    /// Neither: the first global address of the interface that has the default route.
    DefaultRoute,
    /// `egressPool`: addresses that the pool has not given yet. No exit has it: `core::allocation` puts addresses in its place.
    Pool(PoolRequest),
}

/// `egressPool`: what a gateway entry asks of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolRequest {
    /// The pool's name.
    pub pool: ObjectName,
    /// How many addresses, of each family that the policy's destinations have.
    pub addresses: usize,
}

impl Egress {
    /// The addresses that it names, at most one of each family.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (one, other) = match self {
            Self::Address(address) => (Some(*address), None),
            Self::DualStack(v4, v6) => (Some(IpAddr::V4(*v4)), Some(IpAddr::V6(*v6))),
            Self::Interface(_) | Self::DefaultRoute | Self::Pool(_) => (None, None),
        };
        one.into_iter().chain(other)
    }

    /// The address that it names in a family.
    pub fn address_in(&self, family: AddressFamily) -> Option<IpAddr> {
        self.addresses().find(|address| AddressFamily::of(*address) == family)
    }

    /// Whether it names addresses, which can move from node to node.
    pub fn is_named(&self) -> bool {
        self.addresses().next().is_some()
    }

    /// Reads what [`fmt::Display`] wrote of an exit.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix("dev ") {
            return Interface::parse(name).ok().map(Self::Interface);
        }
        match text.split_once(',') {
            _ if text == "default" => Some(Self::DefaultRoute),
            Some((v4, v6)) => Some(Self::DualStack(v4.parse().ok()?, v6.parse().ok()?)),
            None => text.parse().ok().map(Self::Address),
        }
    }

    /// Exits with these addresses: the first IPv4 address and the first IPv6 address are one exit's, then the second ones; what is left
    /// of one family has exits of its own.
    pub fn paired(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<Self> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
        let pairs = v4.iter().zip(&v6).map(|(v4, v6)| Self::DualStack(*v4, *v6));
        let rest4 = v4.iter().skip(v6.len()).map(|address| Self::Address((*address).into()));
        let rest6 = v6.iter().skip(v4.len()).map(|address| Self::Address((*address).into()));
        pairs.chain(rest4).chain(rest6).collect()
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::DualStack(v4, v6) => write!(f, "{v4},{v6}"),
            Self::Interface(name) => write!(f, "dev {name}"),
            Self::DefaultRoute => f.write_str("default"),
            Self::Pool(PoolRequest { pool, .. }) => write!(f, "pool {pool}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_exit_is_called_is_read_back() {
        let (v4, v6) = (Ipv4Addr::new(10, 0, 3, 42), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x42));
        let net1 = Interface::parse("net1").expect("a name");
        let all = [
            Egress::Address(v4.into()),
            Egress::Address(v6.into()),
            Egress::DualStack(v4, v6),
            Egress::Interface(net1),
            Egress::DefaultRoute,
        ];
        for egress in all {
            assert_eq!(Egress::parse(&egress.to_string()), Some(egress));
        }
        for text in ["", "10.0.3", "10.0.3.42,", "fd00::42,10.0.3.42", "pool outpost"] {
            assert_eq!(Egress::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn addresses_are_paired_in_their_order_and_none_is_left_out() {
        let address = |text: &str| text.parse::<IpAddr>().expect(text);
        let paired = |texts: &[&str]| -> Vec<String> {
            Egress::paired(texts.iter().map(|text| address(text))).iter().map(ToString::to_string).collect()
        };
        assert_eq!(paired(&["10.0.3.41", "10.0.3.40"]), ["10.0.3.41", "10.0.3.40"]);
        assert_eq!(
            paired(&["fd00::1", "10.0.3.40", "10.0.3.41", "fd00::2"]),
            ["10.0.3.40,fd00::1", "10.0.3.41,fd00::2"]
        );
        assert_eq!(paired(&["fd00::1", "fd00::2", "10.0.3.40"]), ["10.0.3.40,fd00::1", "fd00::2"]);
    }
}
