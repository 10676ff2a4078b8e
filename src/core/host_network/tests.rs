//! Tests of the host network: an interface's own address, the holder of an address, and addresses that cannot be a
//! router.

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().expect(text)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn listed(text: &str) -> ListedAddress {
    ListedAddress {
        net: net(text),
        global: true,
        deprecated: false,
        secondary_or_temporary: false,
        tentative: false,
        duplicate: false,
    }
}

fn arranged(listed: &[ListedAddress]) -> Interface {
    Interface { up: true, ..Interface::default() }.arrange(listed)
}

fn own(listed: &[ListedAddress], family: AddressFamily) -> Option<String> {
    arranged(listed).own_address(family).map(|address| address.to_string())
}

#[test]
fn the_oldest_address_is_the_interfaces_own_in_both_families() {
    let secondary = ListedAddress { secondary_or_temporary: true, ..listed("10.77.3.3/24") };
    assert_eq!(own(&[listed("10.77.3.2/24"), secondary], AddressFamily::V4).as_deref(), Some("10.77.3.2"));
    assert_eq!(own(&[secondary, listed("10.77.3.2/24")], AddressFamily::V4).as_deref(), Some("10.77.3.2"));
    // IPv6 lists the newest first.
    let listing = [listed("fd00:3::9/64"), listed("fd00:3::2/64")];
    assert_eq!(own(&listing, AddressFamily::V6).as_deref(), Some("fd00:3::2"));
}

#[test]
fn a_single_host_address_comes_after_one_with_a_network() {
    let v4 = [listed("10.77.3.9/32"), listed("10.77.3.2/24")];
    assert_eq!(own(&v4, AddressFamily::V4).as_deref(), Some("10.77.3.2"));
    let v6 = [listed("fd00:3::2/64"), listed("fd00:3::9/128")];
    assert_eq!(own(&v6, AddressFamily::V6).as_deref(), Some("fd00:3::2"));
    assert_eq!(own(&v4[..1], AddressFamily::V4).as_deref(), Some("10.77.3.9"), "where there is no other");
}

#[test]
fn deprecated_temporary_and_narrow_addresses_are_used_only_by_name() {
    let listing = [
        ListedAddress { secondary_or_temporary: true, ..listed("fd00:3::aaaa/64") },
        ListedAddress { deprecated: true, ..listed("fd00:3::9/128") },
        ListedAddress { global: false, ..listed("10.77.3.4/24") },
    ];
    let interface = arranged(&listing);
    assert_eq!((interface.own_address(AddressFamily::V4), interface.own_address(AddressFamily::V6)), (None, None));
    let host_network = HostNetwork { interfaces: [("net1".to_owned(), interface)].into(), ..HostNetwork::default() };
    for address in ["fd00:3::aaaa", "fd00:3::9", "10.77.3.4"] {
        assert_eq!(host_network.holder(ip(address)), Some("net1"), "{address}");
    }
}

#[test]
fn an_address_that_another_host_has_or_may_have_is_not_used() {
    let listing = [
        ListedAddress { tentative: true, ..listed("fd00:3::2/64") },
        ListedAddress { tentative: true, duplicate: true, ..listed("fd00:3::3/64") },
    ];
    let interface = arranged(&listing);
    assert_eq!(interface.addresses, []);
    let expected = [(ip("fd00:3::2"), Unusable::Tentative), (ip("fd00:3::3"), Unusable::Duplicate)];
    assert_eq!(interface.unusable, BTreeMap::from(expected));
}

#[test]
fn link_local_addresses_are_never_egress_addresses() {
    let listing = ["169.254.7.7/16", "127.0.0.1/8", "fe80::1/64", "::1/128"].map(listed);
    assert_eq!(arranged(&listing), Interface { up: true, ..Interface::default() });
}

#[test]
fn of_several_holders_the_one_that_can_send_is_used() {
    let with = |up: bool, no_carrier: bool, kind: InterfaceKind| {
        let addresses = vec![net("10.77.3.9/32")];
        Interface { up, no_carrier, kind, addresses, ..Interface::default() }
    };
    let mut host_network = HostNetwork::default();
    let mut add = |name: &str, interface| drop(host_network.interfaces.insert(name.to_owned(), interface));
    add("a-down", with(false, false, InterfaceKind::Device));
    add("b-pulled", with(true, true, InterfaceKind::Device));
    add("c-lo", with(true, false, InterfaceKind::Loopback));
    add("kube-ipvs0", with(true, false, InterfaceKind::Dummy));
    assert_eq!(host_network.holder(ip("10.77.3.9")), Some("c-lo"));
    host_network.interfaces.insert("z".to_owned(), with(true, false, InterfaceKind::Device));
    assert_eq!(host_network.holder(ip("10.77.3.9")), Some("z"));
    let names: Vec<&str> = host_network.holders(ip("10.77.3.9")).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["z", "c-lo", "a-down", "b-pulled"], "kube-proxy's is no holder");
}

#[test]
fn an_interface_is_found_by_its_alternative_name() {
    let renamed = Interface { other_names: ["net1".to_owned()].into(), ..Interface::default() };
    let host_network = HostNetwork { interfaces: [("enp3s0".to_owned(), renamed)].into(), ..HostNetwork::default() };
    assert_eq!(host_network.interface("net1").map(|(name, _)| name), Some("enp3s0"));
    assert_eq!(host_network.interface("net2"), None);
}

#[test]
fn next_hops_that_the_kernel_refuses_are_detected() {
    let interface = Interface {
        addresses: ["10.77.3.2/24", "10.77.5.0/31", "fd00:3::2/64"].map(net).to_vec(),
        unusable: [(ip("fd00:3::7"), Unusable::Tentative)].into(),
        ..Interface::default()
    };
    let host_network = HostNetwork { interfaces: [("net1".to_owned(), interface)].into(), ..HostNetwork::default() };
    let bad = ["10.77.3.2", "10.77.3.0", "10.77.3.255", "10.77.5.0", "fd00:3::", "fd00:3::7"];
    assert!(bad.iter().all(|hop| host_network.no_router(ip(hop)).is_some()));
    let good = ["10.77.3.1", "10.77.5.1", "fd00:3::1", "fd00:3::ffff:ffff:ffff:ffff", "10.88.0.255", "fe80::1"];
    assert!(good.iter().all(|hop| host_network.no_router(ip(hop)).is_none()));
    let reason = host_network.no_router(ip("10.77.3.255")).expect("a reason");
    assert_eq!(reason, "is the broadcast address of the network 10.77.3.0/24 of net1");
}
