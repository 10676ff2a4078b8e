//! What one node knows of its policies, for metrics and logs: whether each works here, and why not.
//!
//! It only reads findings: what placement and compilation found is not judged anew. Not here: conditions of the custom resources, which
//! know all nodes (`core::status`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use super::compile::{Compiled, ExitPurpose, ExitRole};
use super::finding::Finding;
use super::policy::{Egress, PolicyId, PolicySet};

/// Whether a policy works on this node: `Programmed`, or the reason why not.
pub type Readiness = Result<(), &'static str>;

/// The policies that have members or exits here, and those that are suspended.
pub fn policies(compiled: &Compiled, set: &PolicySet, now: Timestamp) -> BTreeMap<PolicyId, Readiness> {
    let placed = compiled.exits.values().filter(|exit| exit.purpose == ExitPurpose::Placed);
    let here: BTreeSet<&PolicyId> = compiled.members.keys().chain(placed.flat_map(|exit| &exit.policies)).collect();
    let mut all: BTreeMap<PolicyId, Readiness> =
        here.into_iter().map(|policy| (policy.clone(), compiled.readiness(policy))).collect();
    let suspended = set.policies.values().filter(|policy| policy.suspended(now));
    all.extend(suspended.map(|policy| (policy.id.clone(), Err("Suspended"))));
    all
}

impl Compiled {
    fn readiness(&self, policy: &PolicyId) -> Readiness {
        let of_policy = |finding: &&Finding| finding.code == "no-gateway" && finding.subject == policy.name.as_str();
        // One entry of several may have no node; the others carry the members. What is kept for connections carries none.
        let placed = self.exits.values().filter(|exit| exit.purpose == ExitPurpose::Placed);
        let carried = { placed }.any(|exit| exit.policies.contains(policy));
        if !carried && self.findings.iter().any(|finding| of_policy(&finding)) {
            return Err("NoGateway");
        }
        match self.findings.iter().find_map(|finding| self.fault_of(policy, finding)) {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    /// Why packets of a policy are dropped at one of its exits.
    fn fault_of(&self, policy: &PolicyId, finding: &Finding) -> Option<&'static str> {
        self.policies_of(finding)?.contains(policy).then(|| finding.drop_reason())?
    }

    /// The policies of the exit that a finding is about.
    fn policies_of(&self, finding: &Finding) -> Option<&BTreeSet<PolicyId>> {
        let is_it = |exit: &super::placement::ExitKey| {
            exit.identity() == finding.subject || exit.to_string() == finding.subject
        };
        self.exits.iter().find(|(exit, _)| is_it(exit)).map(|(_, exit)| &exit.policies)
    }

    /// The egress addresses of the exits that this node is the gateway of, and whether it has them.
    pub fn addresses_held(&self) -> BTreeMap<IpAddr, bool> {
        let mut held = BTreeMap::new();
        for (key, exit) in self.exits.iter().filter(|(_, exit)| exit.purpose == ExitPurpose::Placed) {
            let ExitRole::Own { routes, .. } = &exit.role else { continue };
            held.extend(routes.values().map(|way| (way.address, true)));
            if let Egress::Address(address) = key.egress {
                held.entry(address).or_insert(false);
            }
        }
        held
    }

    /// A finding as people say it: `members of outpost are dropped: net1 has no global IPv4 address`.
    pub fn sentence(&self, finding: &Finding) -> String {
        let message = finding.message.trim_end_matches("; members' packets are dropped there");
        let policies =
            self.policies_of(finding).filter(|policies| !policies.is_empty() && finding.drop_reason().is_some());
        if let Some(policies) = policies {
            let names: Vec<String> = policies.iter().map(ToString::to_string).collect();
            return format!("members of {} are dropped: {}: {message}", names.join(" and "), finding.subject);
        }
        match finding.code.as_str() {
            "no-gateway" => format!("{} has no gateway: {message}", finding.subject),
            _ => format!("{}: {message}", finding.subject),
        }
    }
}
