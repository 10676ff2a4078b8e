//! Chooses an exit's egress address and the interface that has it, from what `ip address` shows.
//!
//! Not here: the order of an interface's addresses (`core::host_network`), and routes (`routes`).

use std::net::IpAddr;

use crate::core::finding::Finding;
use crate::core::host_network::{HostNetwork, Interface, InterfaceKind, Unusable, is_of_services};
use crate::core::placement::ExitKey;
use crate::core::policy::Egress;
use crate::core::state::nft::AddressFamily;

/// The interface and address; none where the exit does not use the family.
pub(crate) fn egress_address(
    exit: &ExitKey,
    family: AddressFamily,
    host_network: &HostNetwork,
) -> Result<Option<(String, IpAddr)>, Finding> {
    match &exit.egress {
        Egress::Address(_) | Egress::DualStack(..) | Egress::Pool(_) => match exit.egress.address_in(family) {
            Some(address) => named(exit, address, host_network),
            None => Ok(None),
        },
        Egress::Interface(name) => of_interface(exit, name.as_str(), family, host_network),
        Egress::DefaultRoute => of_default_route(exit, family, host_network),
    }
    .map(|found| found.map(|(interface, address)| (interface.to_owned(), address)))
}

type Found<'g> = Result<Option<(&'g str, IpAddr)>, Finding>;

fn no_way_out(code: &str, exit: &ExitKey, message: &str, hint: &str) -> Finding {
    Finding::new(code, exit, format!("{message}; members' packets are dropped there")).hint(hint)
}

fn missing<'g>(exit: &ExitKey, message: &str, hint: &str) -> Found<'g> {
    Err(no_way_out("egress-address-missing", exit, message, hint))
}

fn named<'g>(exit: &ExitKey, address: IpAddr, host_network: &'g HostNetwork) -> Found<'g> {
    let holders = host_network.holders(address);
    if let Some((name, interface)) = holders.first() {
        can_send(exit, name, interface, Some(address))?;
        return Ok(Some((name, address)));
    }
    let with = |wanted: &dyn Fn(&str, &Interface) -> bool| {
        host_network.interfaces.iter().find(|(name, interface)| wanted(name, interface)).map(|(name, _)| name)
    };
    if let Some(name) = with(&|_, interface| interface.unusable.contains_key(&address)) {
        return Err(unusable(exit, name, address, host_network.interfaces[name].unusable[&address]));
    }
    if let Some(name) = with(&|name, interface| is_of_services(name) && interface.has(address)) {
        let message = format!("{address} is only on {name}, where kube-proxy keeps the addresses of Services");
        return missing(exit, &message, "put the address on an interface of the gateway; Egret follows at once");
    }
    let message = format!("{address} is on no interface of {}", exit.gateway);
    missing(exit, &message, "put the address on the gateway's interface; Egret follows at once")
}

fn unusable(exit: &ExitKey, name: &str, address: IpAddr, why: Unusable) -> Finding {
    let (message, hint) = match why {
        Unusable::Tentative => (
            format!("{address} on {name} is tentative: the kernel still asks whether another host has it"),
            "it is used as soon as `ip` no longer shows `tentative`; without an end to it the link is down",
        ),
        Unusable::Duplicate => (
            format!("{address} on {name} is another host's: duplicate address detection failed (dadfailed)"),
            "take the address off the other host, then delete it here and add it again",
        ),
    };
    no_way_out("egress-address-missing", exit, &message, hint)
}

/// Whether an interface can send. The kernel refuses a route through one that is down, and drops packets on one without
/// carrier.
fn can_send(exit: &ExitKey, name: &str, interface: &Interface, address: Option<IpAddr>) -> Result<(), Finding> {
    let with = address.map(|address| format!(", which has {address},")).unwrap_or_default();
    if !interface.up {
        let hint = format!("`ip link set {name} up` on the gateway; Egret follows at once");
        return Err(no_way_out("interface-down", exit, &format!("{name}{with} is down"), &hint));
    }
    if interface.no_carrier {
        let message = format!("{name}{with} is up and has no carrier");
        let hint = "check the cable, the switch's port, or the device below it; Egret follows at once";
        return Err(no_way_out("no-carrier", exit, &message, hint));
    }
    Ok(())
}

fn of_interface<'g>(exit: &ExitKey, name: &str, family: AddressFamily, host_network: &'g HostNetwork) -> Found<'g> {
    if is_of_services(name) {
        let message = format!("{name} is where kube-proxy keeps the addresses of Services; no packet leaves by it");
        return missing(exit, &message, "name an interface of the gateway");
    }
    let Some((found, interface)) = host_network.interface(name) else {
        let message = format!("{} has no interface {name}", exit.gateway);
        let others = host_network
            .interfaces
            .iter()
            .filter(|(_, one)| one.kind == InterfaceKind::Device && !one.addresses.is_empty());
        let others: Vec<&str> = others.map(|(name, _)| name.as_str()).take(8).collect();
        let hint = if others.is_empty() {
            "`ip link` on the gateway shows its interfaces".to_owned()
        } else {
            format!("it may have another name now; with an address there are {}", others.join(", "))
        };
        return missing(exit, &message, &hint);
    };
    can_send(exit, found, interface, None)?;
    match interface.own_address(family) {
        Some(address) => Ok(Some((found, address))),
        None => Err(without_address(exit, found, family, host_network, "put the address on it; Egret follows at once")),
    }
}

/// The finding for an interface without a usable address in a family; it names the address there is instead.
fn without_address(
    exit: &ExitKey,
    name: &str,
    family: AddressFamily,
    host_network: &HostNetwork,
    hint: &str,
) -> Finding {
    let interface = &host_network.interfaces[name];
    let of_family = |address: &&IpAddr| AddressFamily::of(**address) == family;
    if let Some((address, why)) = interface.unusable.iter().find(|(address, _)| of_family(address)) {
        return unusable(exit, name, *address, *why);
    }
    let message = format!("{name} has no global {} address", family.version());
    match interface.only_named.iter().find(of_family) {
        Some(address) => {
            let message = format!("{message} but {address}, which is deprecated, temporary or not of global scope");
            let hint = format!("name it in the policy if it is meant: egressIP: {address}");
            no_way_out("egress-address-missing", exit, &message, &hint)
        }
        None => no_way_out("egress-address-missing", exit, &message, hint),
    }
}

/// The address that the node's own packets leave with: `src` of the default route, otherwise the interface's own; where
/// it has none, as between routers without addresses (RFC 5549), the one on `lo`, as the kernel does (`inet_select_addr`,
/// net/ipv4/devinet.c).
fn of_default_route<'g>(exit: &ExitKey, family: AddressFamily, host_network: &'g HostNetwork) -> Found<'g> {
    let hint = "name an interface or an egressIP in the policy";
    let Some(route) = host_network.default_route(family) else {
        return missing(exit, &format!("{} has no {} default route", exit.gateway, family.version()), hint);
    };
    let Some(interface) = host_network.interfaces.get(&route.interface) else {
        return missing(exit, &format!("{} has no interface {}", exit.gateway, route.interface), hint);
    };
    let name = route.interface.as_str();
    can_send(exit, &format!("{name}, which has the default route,"), interface, None)?;
    let source = route.source.filter(|source| host_network.holder(*source).is_some());
    let of_loopback = || {
        let mut loopbacks =
            host_network.interfaces.values().filter(|one| one.kind == InterfaceKind::Loopback && one.works());
        loopbacks.find_map(|one| one.own_address(family))
    };
    match source.or_else(|| interface.own_address(family)).or_else(of_loopback) {
        Some(address) => Ok(Some((name, address))),
        None if interface.only_named.is_empty() && interface.unusable.is_empty() => {
            let version = family.version();
            missing(exit, &format!("{name}, which has the default route, has no global {version} address"), hint)
        }
        None => Err(without_address(exit, name, family, host_network, hint)),
    }
}

/// Findings about an address that is used.
pub(super) fn remarks(exit: &ExitKey, interface: &str, address: IpAddr, host_network: &HostNetwork) -> Vec<Finding> {
    let mut found = Vec::new();
    let holders = host_network.holders(address);
    if let [(taken, _), others @ ..] = holders.as_slice()
        && !others.is_empty()
    {
        let others: Vec<&str> = others.iter().map(|(name, _)| *name).collect();
        let message = format!("{address} is on {taken} and on {}; {taken} is taken", others.join(" and "));
        let hint = "leave it on one: of several, one that is up and has carrier is taken, then by name";
        found.push(Finding::new("egress-address-twice", exit, message).hint(hint));
    }
    if let Egress::Interface(name) = &exit.egress
        && name.as_str() != interface
    {
        let message = format!("{name} is another name of {interface}, which is taken");
        found.push(Finding::new("interface-renamed", exit, message).hint("name it in the policy as `ip link` does"));
    }
    found
}
