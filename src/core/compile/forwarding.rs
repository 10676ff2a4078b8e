//! Finds interfaces on which the kernel does not forward packets and would drop members' traffic silently, and reports
//! them.
//!
//! IPv4 checks the incoming interface (`IN_DEV_FORWARD` in net/ipv4/route.c, `ip_route_input_slow`): the pod's for
//! packets from the pod, the egress interface for replies. IPv6 checks `conf.all` (`ip6_forward` in
//! net/ipv6/ip6_output.c). Egret does not enable forwarding on interfaces that are not its own; on the tunnel device
//! `routing` does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{CompileInput, EgressRoute, own_exits};
use crate::core::facts::PodName;
use crate::core::finding::Finding;
use crate::core::host_network::HostNetwork;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::placement::ExitKey;
use crate::core::policy::{PolicyId, PolicySet};
use crate::core::state::nft::AddressFamily;

/// Code of the findings.
const CODE: &str = "not-forwarding";
/// How the message about pods ends.
const ENDS_HERE: &str = " sends ends on this node";
/// At most this many pods are named.
const NAMED: usize = 3;

/// Whether a finding names a pod whose packets end on its own node ([`of_pods`]).
pub(crate) fn names_pod(finding: &Finding, pod: &PodName) -> bool {
    let pods = || finding.message.split_once(": what ")?.1.strip_suffix(ENDS_HERE);
    let name = pod.to_string();
    finding.code == CODE && pods().is_some_and(|pods| pods.split(", ").any(|one| one == name))
}

/// Whether what pods of the node send is dropped there by it, whatever becomes of their exits.
pub(crate) fn drops_pods(finding: &Finding) -> bool {
    finding.code == CODE && finding.message.ends_with(ENDS_HERE)
}

/// Removes a gateway's routes out through an interface that does not forward: replies would be dropped there.
pub(super) fn close(
    exit: &ExitKey,
    routes: &mut BTreeMap<AddressFamily, EgressRoute>,
    host_network: &HostNetwork,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    routes.retain(|family, way| {
        let open = forwards(host_network, &way.interface, *family);
        if !open {
            let setting = setting(&way.interface, *family);
            let message = format!(
                "{setting} is 0: {} forwards no reply, so it does not serve; members' packets are dropped there",
                exit.gateway
            );
            findings.push(Finding::new(CODE, exit, message).hint(hint(&way.interface, *family)));
        }
        open
    });
    findings
}

/// Reports pods of this node that a policy selects and whose interface does not forward.
pub(super) fn of_pods(
    input: &CompileInput<'_>,
    members: &BTreeMap<PolicyId, Vec<PodName>>,
    families: &[AddressFamily],
) -> Vec<Finding> {
    let host_network = input.host_network;
    let off = &host_network.forwarding;
    if off.off4.is_empty() && !off.off6 {
        return Vec::new();
    }
    let mut pods: BTreeMap<(AddressFamily, &str), BTreeSet<&PodName>> = BTreeMap::new();
    for name in members.values().flatten() {
        let addresses = input.facts.pods.get(name).map(|pod| pod.addresses.as_slice()).unwrap_or_default();
        for address in addresses {
            let family = AddressFamily::of(*address);
            if let Some(interface) = towards(host_network, *address)
                && families.contains(&family)
                && !forwards(host_network, interface, family)
            {
                pods.entry((family, interface)).or_default().insert(name);
            }
        }
    }
    let finding = |((family, interface), pods): ((AddressFamily, &str), BTreeSet<&PodName>)| {
        let mut names: Vec<String> = pods.iter().take(NAMED).map(ToString::to_string).collect();
        if pods.len() > NAMED {
            names.push(format!("{} more", pods.len() - NAMED));
        }
        let message = format!("{} is 0: what {}{ENDS_HERE}", setting(interface, family), names.join(", "));
        Finding::new(CODE, input.node, message).hint(hint(interface, family))
    };
    pods.into_iter().map(finding).collect()
}

/// The exits that this node could be asked to serve but whose packets its kernel would not forward, with the reason. The
/// current placement is ignored: otherwise the result would change its own input.
pub fn unfit(
    node: &NodeName,
    labels: &Labels,
    set: &PolicySet,
    host_network: &HostNetwork,
) -> BTreeMap<String, String> {
    let mut unfit = BTreeMap::new();
    for policy in set.policies.values() {
        let families: BTreeSet<AddressFamily> =
            policy.destinations.iter().map(|net| AddressFamily::of(net.addr())).collect();
        for spec in policy.gateways.iter().filter(|spec| spec.node.matches(labels)) {
            let exit =
                ExitKey { gateway: node.clone(), egress: spec.egress.clone(), next_hops: spec.next_hops.clone() };
            for family in &families {
                if let Ok(Some((interface, _))) = own_exits::egress_address(&exit, *family, host_network)
                    && !forwards(host_network, &interface, *family)
                {
                    unfit.entry(exit.identity()).or_insert_with(|| format!("{} is 0", setting(&interface, *family)));
                }
            }
        }
    }
    unfit
}

fn forwards(host_network: &HostNetwork, interface: &str, family: AddressFamily) -> bool {
    match family {
        AddressFamily::V4 => !host_network.forwarding.off4.contains(interface),
        AddressFamily::V6 => !host_network.forwarding.off6,
    }
}

fn setting(interface: &str, family: AddressFamily) -> String {
    match family {
        AddressFamily::V4 => format!("net.ipv4.conf.{interface}.forwarding"),
        AddressFamily::V6 => "net.ipv6.conf.all.forwarding".to_owned(),
    }
}

fn hint(interface: &str, family: AddressFamily) -> String {
    // `ip_forward` changes interfaces only if it changes itself (`devinet_sysctl_forward`, net/ipv4/devinet.c).
    let all = match family {
        AddressFamily::V4 => ", or net.ipv4.ip_forward=1 if that is 0",
        AddressFamily::V6 => "",
    };
    format!("`sysctl -w {}=1`{all}; a file in /etc/sysctl.d may have disabled it", setting(interface, family))
}

/// The interface through which the main table routes to an address.
fn towards(host_network: &HostNetwork, address: IpAddr) -> Option<&str> {
    let routes = host_network.routes.iter().filter(|route| route.destination.contains(&address));
    routes.max_by_key(|route| route.destination.prefix_len()).map(|route| route.interface.as_str())
}
