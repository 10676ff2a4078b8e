//! Reports nodes that cannot be tunnel peers because another node claims their address.
//!
//! Not here: the choice of gateways (`placement`), and tunnel addresses (`tunnel`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::CompileInput;
use crate::core::facts::AddressOwner;
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::placement::ExitKey;

/// The finding for an exit whose gateway cannot be reached by the tunnel.
pub(super) fn unreachable(input: &CompileInput<'_>, exit: &ExitKey) -> Finding {
    let addresses = input.facts.nodes.get(&exit.gateway).map(|node| node.addresses.as_slice()).unwrap_or_default();
    if let Some(own) = addresses.iter().find(|address| is_own(input, **address)) {
        let message = format!(
            "{own}, the InternalIP of its gateway, is an address of this node itself; members here are dropped"
        );
        return Finding::new("peer-is-own-address", exit, message).hint("each node needs an InternalIP of its own");
    }
    let message = format!(
        "{} and this node have no InternalIP of one family that is theirs alone; members here are dropped",
        exit.gateway
    );
    let hint = "`kubectl get nodes -o wide` shows the addresses; two nodes must not have the same";
    Finding::new("no-tunnel-address", exit, message).hint(hint)
}

/// Whether an address is this node's own, by its Node object or its kernel.
pub(super) fn is_own(input: &CompileInput<'_>, address: IpAddr) -> bool {
    let says_node = input.facts.nodes.get(input.node).is_some_and(|node| node.addresses.contains(&address));
    says_node || input.host_network.interfaces.values().any(|interface| interface.has(address))
}

/// Reports nodes with an InternalIP that is this node's own, and, on a gateway, nodes that share one: nothing can be sent
/// back to them.
pub(super) fn findings(input: &CompileInput<'_>, is_gateway: bool) -> Vec<Finding> {
    const HINT: &str = "each node needs an InternalIP of its own: delete Node objects of machines that are gone, and give the kubelet \
                        --node-ip where every machine has the same address, as behind VirtualBox's NAT (10.0.2.15)";
    const SHOWN: usize = 4;
    let owners = input.facts.owners();
    let mut by_address: BTreeMap<IpAddr, Vec<&NodeName>> = BTreeMap::new();
    for (name, node) in &input.facts.nodes {
        let Some(address) = node.tunnel_address() else { continue };
        let own = name != input.node && is_own(input, address);
        // A node that is not Ready and has the address of a Ready one is a stale object; it does not affect the other
        // node.
        if own || is_gateway && matches!(owners.of(name, address), AddressOwner::Shared(_)) {
            by_address.entry(address).or_default().push(name);
        }
    }
    let finding = |(address, mut nodes): (IpAddr, Vec<&NodeName>)| {
        if is_own(input, address) && !nodes.contains(&input.node) {
            nodes.insert(0, input.node);
        }
        let more = nodes.len().saturating_sub(SHOWN);
        let mut names: Vec<String> = nodes.iter().take(SHOWN).map(ToString::to_string).collect();
        if more > 0 {
            names.push(format!("{more} more"));
        }
        let message = format!("{address} is the InternalIP of {}; no tunnel leads there", names.join(" and "));
        Finding::new("node-address-shared", input.node, message).hint(HINT)
    };
    by_address.into_iter().map(finding).collect()
}
