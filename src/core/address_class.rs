//! Kinds of addresses that are no ordinary host's, for whoever asks of an address, a route or a document.
//!
//! Networks that are never steered are absent (`networks`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

/// A kind of address that no host beyond one link has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialAddress {
    /// 0.0.0.0, `::` and 255.255.255.255.
    Nobody,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
}

impl SpecialAddress {
    /// The kind of an address; none: an ordinary one.
    pub fn of(address: IpAddr) -> Option<Self> {
        let (link_local, broadcast) = match address {
            IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
            IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
        };
        if address.is_unspecified() || broadcast {
            Some(Self::Nobody)
        } else if address.is_loopback() {
            Some(Self::Loopback)
        } else if link_local {
            Some(Self::LinkLocal)
        } else if address.is_multicast() {
            Some(Self::Multicast)
        } else {
            None
        }
    }
}

/// Whether an address lives on one link: 169.254.0.0/16, fe80::/10.
pub fn is_link_local(address: IpAddr) -> bool {
    SpecialAddress::of(address) == Some(SpecialAddress::LinkLocal)
}

/// Whether a route leads to nothing but hosts of one link, or to a multicast group. Every interface has such routes of its own, and no
/// packet that is steered takes one.
pub fn stays_on_link(destination: IpNet) -> bool {
    matches!(SpecialAddress::of(destination.addr()), Some(SpecialAddress::LinkLocal | SpecialAddress::Multicast))
}

/// The IPv4 address that is written as an IPv6 one: `::ffff:10.0.0.1`. No packet on a wire has one, and the API server
/// takes none.
pub fn mapped_ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
    }
}

/// Reads an address that a person asks about, as packets have it: a dual-stack socket shows an IPv4 address as a mapped
/// IPv6 one (RFC 4291, 2.5.5.2). An error says what to give instead.
pub fn asked_address(text: &str) -> Result<IpAddr, String> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical());
    }
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return Err(format!("an address without a port, as in {}", with_port.ip().to_canonical()));
    }
    if text.contains(|character: char| character.is_ascii_alphabetic()) && !text.contains(':') {
        return Err(format!(
            "a name is looked up by the pod; give the address that `getent ahosts {text}` shows there"
        ));
    }
    Err("no IP address".to_owned())
}

/// Whether no host can have this address: 0.0.0.0/8, class E and the limited broadcast (`ipv4_is_zeronet`,
/// `ipv4_is_lbcast`, include/linux/in.h).
pub fn is_no_host(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_asked_about_as_packets_have_it() {
        let asked = |text| asked_address(text).map(|address| address.to_string());
        for (text, address) in [("10.0.4.2", "10.0.4.2"), (" fd00::2 ", "fd00::2"), ("::ffff:10.0.4.2", "10.0.4.2")] {
            assert_eq!(asked(text), Ok(address.to_owned()));
        }
        for text in ["10.0.4.2:443", "[::ffff:10.0.4.2]:443"] {
            assert_eq!(asked(text), Err("an address without a port, as in 10.0.4.2".to_owned()));
        }
        assert!(asked("api.example.com").is_err_and(|error| error.contains("getent ahosts api.example.com")));
        assert_eq!(asked("10.0.4"), Err("no IP address".to_owned()));
    }

    #[test]
    fn an_address_is_of_one_kind_in_both_families() {
        use SpecialAddress::{LinkLocal, Loopback, Multicast, Nobody};
        let kinds = [
            ("0.0.0.0", Some(Nobody)),
            ("255.255.255.255", Some(Nobody)),
            ("::", Some(Nobody)),
            ("127.9.0.1", Some(Loopback)),
            ("::1", Some(Loopback)),
            ("169.254.169.254", Some(LinkLocal)),
            ("fe80::1", Some(LinkLocal)),
            ("224.0.0.251", Some(Multicast)),
            ("ff02::fb", Some(Multicast)),
            ("169.253.255.255", None),
            ("240.0.0.1", None),
            ("fec0::1", None),
        ];
        for (text, kind) in kinds {
            assert_eq!(SpecialAddress::of(text.parse().unwrap()), kind, "{text}");
        }
    }

    #[test]
    fn a_route_to_one_link_is_told_from_others_in_both_families() {
        let on_link = |text: &str| stays_on_link(text.parse().unwrap());
        assert!(
            ["169.254.0.0/16", "169.254.169.254/32", "224.0.0.0/4", "fe80::/64", "ff00::/8"].into_iter().all(on_link)
        );
        assert!(!["0.0.0.0/0", "10.0.0.0/8", "::/0", "fd00::/8"].into_iter().any(on_link));
    }
}
