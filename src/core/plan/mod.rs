//! Computes the steps from a kernel's current state to the desired one, in make-before-break order.
//!
//! A plan contains every decision; `kernel::apply` only carries it out. An empty plan means the state is reached.

pub mod conntrack;
mod nft;
mod refused;
pub mod simulate;
pub mod summary;
mod text;

use std::fmt;
use std::net::IpAddr;

use super::state::NodeState;
use super::state::net::{InterfaceAddress, Link, LinkName, Neighbour, Route, RouteKey, RoutingRule, Sysctl};
use super::state::nft::{ElementData, ElementKey, NftTransaction, TableFamily};
use super::state::ownership::{DatapathConfig, is_of_tunnel};

use self::conntrack::{AddressHolders, ConntrackFlush};

pub use text::{StateListing, StepLine, text_diff, unified_diff};

/// Steps in execution order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a plan changes nothing until it is applied"]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One reversible change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Sets a label of the node; the last field is the previous value, for the text.
    SetLabel(String, String, Option<String>),
    /// Removes a label that came from Git from the node; with its value.
    RemoveLabel(String, String),
    /// Creates a tunnel device; it is brought up once a chain protects it.
    AddLink(LinkName, Link),
    /// Changes an existing device's MTU or state.
    ChangeLink(LinkName, Link),
    /// Deletes a tunnel device and all routes through it.
    DeleteLink(LinkName),
    /// Adds an address to a tunnel device, or an egress address to an interface.
    AddAddress(InterfaceAddress),
    /// Deletes an address.
    DeleteAddress(InterfaceAddress),
    /// Writes a sysctl; the last field is the previous value, for the text.
    SetSysctl(Sysctl, String, Option<String>),
    /// Adds or replaces a static neighbour.
    SetNeighbour(Neighbour),
    /// Deletes a static neighbour.
    DeleteNeighbour(Neighbour),
    /// Adds or replaces a route; the last field is the previous route, for the text.
    SetRoute(RouteKey, Route, Option<Route>),
    /// Deletes a route.
    DeleteRoute(RouteKey, Route),
    /// Adds a rule.
    AddRule(RoutingRule),
    /// Deletes a rule.
    DeleteRule(RoutingRule),
    /// Flushes connections with a mark that is reassigned or no longer used, so that they do not take another exit.
    FlushConntrack {
        /// The mark.
        mark: u32,
        /// Its mask.
        mask: u32,
    },
    /// Flushes an exit's connections in the family of its new egress address that are translated to another one. The guard
    /// drops their packets, and each packet would keep the connection's entry alive.
    FlushTranslated {
        /// The exit's mark.
        mark: u32,
        /// The bits that count.
        mask: u32,
        /// The egress address.
        keep: IpAddr,
    },
    /// Flushes connections by the pod address that opened them: the address was released, reassigned, or its group has
    /// changed.
    FlushSources(ConntrackFlush),
    /// Waits a bounded time for connection tracking to see live connections: it was just enabled, and the first packet it
    /// sees of a connection counts as new, however old the connection is.
    Notice,
    /// Waits until the packets in flight in this kernel have left: the rules that earlier steps removed passed them on,
    /// and they may still need objects that later steps delete.
    RcuBarrier,
    /// Changes nftables in one transaction.
    Nft(NftTransaction),
}

impl Plan {
    /// Whether the plan has no steps.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// Inputs of a plan that are in neither state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanContext {
    /// The pods that have and had each address.
    pub holders: AddressHolders,
    /// Nothing in this kernel has enabled connection tracking yet.
    pub untracked: bool,
}

/// The steps from observed to desired, without further context.
pub fn plan(desired: &NodeState, observed: &NodeState, range: DatapathConfig) -> Plan {
    plan_with(desired, observed, range, &PlanContext::default())
}

/// The steps from observed to desired.
///
/// Make before break: devices, neighbours, routes and rules come first, then the one transaction that steers packets
/// there, then, when the packets in flight have passed, unused objects are deleted. So the packets of a flow take the old
/// route or the new one, or are dropped where there is neither; they never take the main table's route with the pod's own
/// address.
pub fn plan_with(desired: &NodeState, observed: &NodeState, range: DatapathConfig, beside: &PlanContext) -> Plan {
    let mut steps = Vec::new();
    let due = conntrack::due(&desired.nft, &observed.nft, range, &beside.holders);
    let mut observed = links(desired, observed, &mut steps);
    let woken = if beside.untracked { nft::wake(&desired.nft, &observed.nft).map(Step::Nft) } else { None };
    if let Some(step) = &woken {
        simulate::apply(step, &mut observed);
    }
    let observed = &observed;
    let nft = nft::transactions(&desired.nft, &observed.nft);
    let mut order = Order::default();
    order.labels(desired, observed);
    order.addresses(desired, observed);
    order.neighbours(desired, observed);
    order.routes(desired, observed);
    order.rules(desired, observed);
    // An interface's original filter is recorded before it is changed, so that a crash in between does not lose it.
    // Where the table is replaced, only the switch records it.
    let (own, mut foreign, restore) = sysctls(desired, observed);
    // So is an address that Egret puts on an interface, and it is forgotten only when it is gone.
    foreign.append(&mut order.assign);
    let (early, late) = if nft.record.is_some() { (foreign, Vec::new()) } else { (Vec::new(), foreign) };
    let fresh = nft::fresh_exits(&desired.nft, &observed.nft, range);
    // Only once no rule sets such marks any more: a connection flushed too early gets its old mark again.
    let mut stale = nft::stale_marks(&observed.nft, range);
    if stale.is_empty() {
        let gone = nft::gone_exits(&desired.nft, &observed.nft, range);
        stale.extend(gone.into_iter().map(|mark| (mark, range.mask)));
    }
    let moved = nft::moved_addresses(&desired.nft, &observed.nft);
    let moved: Vec<(u32, IpAddr)> = moved.into_iter().filter(|(mark, _)| !fresh.contains(mark)).collect();
    let mut all = order.labels;
    all.append(&mut steps);
    // A device takes no IPv6 address before IPv6 is switched on there.
    all.extend(own.into_iter().chain(order.add_addresses));
    all.extend(nft.adopt.map(Step::Nft));
    all.extend(nft.record.map(Step::Nft));
    all.extend(early);
    all.extend(order.set_neighbours.into_iter().chain(order.set_routes).chain(order.add_rules));
    all.extend(fresh.into_iter().map(|mark| Step::FlushConntrack { mark, mask: range.mask }));
    all.extend(restore.into_iter().chain(order.unassign));
    all.extend(due.ahead.map(Step::FlushSources));
    all.extend(woken.into_iter().flat_map(|step| [step, Step::Notice]));
    all.extend(nft.prepare.map(Step::Nft));
    all.extend(nft.switch.map(Step::Nft));
    all.extend(late);
    if !stale.is_empty() || !moved.is_empty() || due.behind.is_some() || nft.last.is_some() {
        all.push(Step::RcuBarrier);
    }
    all.extend(due.behind.map(Step::FlushSources));
    all.extend(stale.into_iter().map(|(mark, mask)| Step::FlushConntrack { mark, mask }));
    all.extend(moved.into_iter().map(|(mark, keep)| Step::FlushTranslated { mark, mask: range.mask, keep }));
    all.extend(order.delete_rules.into_iter().chain(order.delete_routes).chain(order.delete_neighbours));
    all.extend(order.delete_addresses);
    all.extend(observed.links.keys().filter(|name| !desired.links.contains_key(*name)).cloned().map(Step::DeleteLink));
    all.extend(nft.last.map(Step::Nft));
    Plan { steps: all }
}

/// Links first, as everything else depends on them. A link that cannot be changed into the desired one is recreated; what
/// is deleted with it is then missing, and the rest of the plan adds it again. A device that comes up is shut until the
/// switch.
fn links(desired: &NodeState, observed: &NodeState, steps: &mut Vec<Step>) -> NodeState {
    let mut state = observed.clone();
    let mut take = |step: Step, state: &mut NodeState| {
        simulate::apply(&step, state);
        steps.push(step);
    };
    for (name, link) in &desired.links {
        let found = state.links.get(name).cloned();
        if found.as_ref() == Some(link) {
            continue;
        }
        let changeable =
            |found: &Link| found.port == link.port && found.mac == link.mac && found.external == link.external;
        if !found.as_ref().is_some_and(changeable) {
            if found.is_some() {
                take(Step::DeleteLink(name.clone()), &mut state);
            }
            take(Step::AddLink(name.clone(), Link { up: false, ..link.clone() }), &mut state);
        }
        if let Some(gate) = nft::gate(&desired.nft, &state.nft) {
            take(Step::Nft(gate), &mut state);
        }
        // A device of an older version has the UDP port until it is gone: the kernel refuses to bring up the second one
        // (`vxlan_sock_add`, drivers/net/vxlan/vxlan_core.c: EADDRINUSE).
        let unused = |(other, held): &(&LinkName, &Link)| held.port == link.port && !desired.links.contains_key(*other);
        let unused: Vec<LinkName> = state.links.iter().filter(unused).map(|(other, _)| other.clone()).collect();
        for other in unused {
            take(Step::DeleteLink(other), &mut state);
        }
        take(Step::ChangeLink(name.clone(), link.clone()), &mut state);
    }
    state
}

/// Steps by kind, each in its own order; [`plan`] concatenates the kinds.
#[derive(Default)]
struct Order {
    labels: Vec<Step>,
    add_addresses: Vec<Step>,
    delete_addresses: Vec<Step>,
    /// Egress addresses, on interfaces that are not Egret's.
    assign: Vec<Step>,
    unassign: Vec<Step>,
    set_neighbours: Vec<Step>,
    delete_neighbours: Vec<Step>,
    set_routes: Vec<Step>,
    delete_routes: Vec<Step>,
    add_rules: Vec<Step>,
    delete_rules: Vec<Step>,
}

impl Order {
    fn labels(&mut self, desired: &NodeState, observed: &NodeState) {
        for (key, value) in &desired.labels {
            let found = observed.labels.get(key);
            if found != Some(value) {
                self.labels.push(Step::SetLabel(key.clone(), value.clone(), found.cloned()));
            }
        }
        for (key, value) in observed.labels.iter().filter(|(key, _)| !desired.labels.contains_key(*key)) {
            self.labels.push(Step::RemoveLabel(key.clone(), value.clone()));
        }
    }

    fn addresses(&mut self, desired: &NodeState, observed: &NodeState) {
        let new = desired.addresses.difference(&observed.addresses).cloned();
        let (own, assigned): (Vec<_>, Vec<_>) = new.partition(is_of_tunnel);
        self.add_addresses.extend(own.into_iter().map(Step::AddAddress));
        self.assign.extend(assigned.into_iter().map(Step::AddAddress));
        let gone = observed.addresses.difference(&desired.addresses).cloned();
        let (own, assigned): (Vec<_>, Vec<_>) = gone.partition(is_of_tunnel);
        let own = own.into_iter().filter(|address| desired.links.contains_key(&address.link));
        self.delete_addresses.extend(own.map(Step::DeleteAddress));
        self.unassign.extend(assigned.into_iter().map(Step::DeleteAddress));
    }

    fn neighbours(&mut self, desired: &NodeState, observed: &NodeState) {
        self.set_neighbours
            .extend(desired.neighbours.difference(&observed.neighbours).cloned().map(Step::SetNeighbour));
        // A neighbour whose MAC address changes is replaced in place; one whose device is deleted is deleted with it.
        let stays = |gone: &&Neighbour| {
            desired.links.contains_key(&gone.link)
                && !desired.neighbours.iter().any(|kept| kept.link == gone.link && kept.address == gone.address)
        };
        self.delete_neighbours.extend(
            observed.neighbours.difference(&desired.neighbours).filter(stays).cloned().map(Step::DeleteNeighbour),
        );
    }

    /// A table's last route is added before its others and deleted after them: a table with a rule always ends
    /// with it.
    fn routes(&mut self, desired: &NodeState, observed: &NodeState) {
        let mut set: Vec<(&RouteKey, &Route)> =
            desired.routes.iter().filter(|(key, route)| observed.routes.get(key) != Some(route)).collect();
        set.sort_by_key(|(key, route)| (!route.is_end(), *key));
        self.set_routes.extend(
            set.into_iter()
                .map(|(key, route)| Step::SetRoute(key.clone(), route.clone(), observed.routes.get(key).cloned())),
        );
        let mut gone: Vec<(&RouteKey, &Route)> =
            observed.routes.iter().filter(|(key, _)| !desired.routes.contains_key(key)).collect();
        gone.sort_by_key(|(key, route)| (route.is_end(), *key));
        self.delete_routes.extend(gone.into_iter().map(|(key, route)| Step::DeleteRoute(key.clone(), route.clone())));
    }

    fn rules(&mut self, desired: &NodeState, observed: &NodeState) {
        self.add_rules.extend(desired.rules.difference(&observed.rules).cloned().map(Step::AddRule));
        self.delete_rules.extend(observed.rules.difference(&desired.rules).cloned().map(Step::DeleteRule));
    }
}

/// Sysctls of Egret's own devices, of other interfaces, and of interfaces whose original value is restored.
fn sysctls(desired: &NodeState, observed: &NodeState) -> (Vec<Step>, Vec<Step>, Vec<Step>) {
    let set = |(sysctl, value): (&Sysctl, &String)| {
        let found = observed.sysctls.get(sysctl);
        (found != Some(value)).then(|| Step::SetSysctl(sysctl.clone(), value.clone(), found.cloned()))
    };
    let (own, foreign): (Vec<_>, Vec<_>) =
        desired.sysctls.iter().partition(|(sysctl, _)| desired.links.contains_key(&sysctl.link));
    let restore = observed
        .sysctls
        .iter()
        .filter(|(sysctl, _)| !desired.sysctls.contains_key(*sysctl))
        .filter_map(|(sysctl, found)| {
            let before = value_before(observed, &sysctl.link)?;
            (before != *found).then(|| Step::SetSysctl(sysctl.clone(), before, Some(found.clone())))
        })
        .collect();
    (own.into_iter().filter_map(set).collect(), foreign.into_iter().filter_map(set).collect(), restore)
}

/// An interface's filter before Egret, as recorded in our table.
fn value_before(observed: &NodeState, interface: &str) -> Option<String> {
    let table = observed.nft.get(&TableFamily::Inet)?;
    let map = table.sets.get(super::compile::RP_FILTER_BEFORE)?;
    match map.elements.get(&ElementKey::Interface(interface.to_owned()))? {
        Some(ElementData::Mark(before)) => Some(before.to_string()),
        _ => None,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
