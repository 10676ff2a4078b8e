//! The rows from the custom resources of a cluster: what agents report and the controller makes of it.
//!
//! Not here: the statuses themselves (`core::status`), and a cluster without an API server (`standalone`).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{NodeRow, Overview, PolicyRow, Urgency, Way};
use crate::core::compile::detours::{SILENT, carrier, causes, silent_gateway};
use crate::core::facts::Node;
use crate::core::finding::Finding;
use crate::core::heartbeat::Heartbeat;
use crate::core::name::NodeName;
use crate::core::policy::{OnNoGateway, Policy};
use crate::core::rates::{Rates, ReportedRates};
use crate::core::report::history::DatedFinding;
use crate::core::status::{
    Condition, ConditionStatus, ConditionType, GatewayStatus, HeadStatus, NodeStatus, PolicyStatus, Reason, condition,
};

/// A policy as it is published, and what is reported of it.
#[derive(Debug, Clone)]
pub struct PublishedPolicy<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// Its status; none: the controller has written none yet.
    pub status: Option<&'a PolicyStatus>,
}

/// What the objects of a cluster say.
#[derive(Debug, Clone)]
pub struct ClusterState<'a> {
    /// The cluster's name in egret.yaml.
    pub cluster: &'a str,
    /// The published commit.
    pub revision: &'a str,
    /// The status of the EgressConfig.
    pub head: Option<&'a HeadStatus>,
    /// The published policies.
    pub policies: Vec<PublishedPolicy<'a>>,
    /// The nodes of the cluster.
    pub nodes: &'a BTreeMap<NodeName, Node>,
    /// What their agents report.
    pub statuses: BTreeMap<&'a NodeName, &'a NodeStatus>,
    /// Heartbeats of agents; none where they may not be read.
    pub heartbeats: Option<&'a BTreeMap<NodeName, Heartbeat>>,
    /// How old the newest heartbeat of an agent may be.
    pub silence: Duration,
    /// The time.
    pub now: Timestamp,
}

impl ClusterState<'_> {
    /// The cluster at a glance.
    pub fn overview(&self) -> Overview {
        Overview {
            cluster: self.cluster.to_owned(),
            revision: self.revision.to_owned(),
            waits: self.head.and_then(waits),
            rejected: self.head.map(|head| head.rejected.clone()).unwrap_or_default(),
            policies: {
                let silent = self.silent();
                self.policies.iter().map(|policy| self.policy_row(policy, &silent)).collect()
            },
            nodes: self.nodes.iter().map(|(name, node)| self.node_row(name, node)).collect(),
        }
        .sorted()
    }

    fn node_row(&self, name: &NodeName, node: &Node) -> NodeRow {
        let status = self.statuses.get(name).copied();
        let ready = status.and_then(|status| condition(&status.conditions, ConditionType::Ready));
        let mut row = NodeRow {
            urgency: Urgency::Fine,
            node: name.clone(),
            revision: status.map(|status| status.revision.clone()),
            exits: status
                .map(|status| status.exits.iter().flat_map(|exit| exit.egress_ips.clone()).collect())
                .unwrap_or_default(),
            drift: status.map_or(0, |status| status.drift),
            state: "ok",
            since: ready.map(|ready| ready.last_transition_time),
            cause: None,
            heard: self.heartbeat(name).and_then(|beat| beat.renewed),
            dropped_per_minute: None,
        };
        match (status, ready) {
            (None, _) => row.doubt("no agent", "no agent has reported from it"),
            (Some(status), Some(ready)) => self.judge(&mut row, name, status, ready),
            (Some(_), None) => row.doubt("unknown", "its agent has not said yet what it has"),
        }
        if let Some(why) = node.unfit() {
            row.doubt("not ready", why);
        }
        let report = status.and_then(|status| status.report.as_ref());
        let findings = report.into_iter().flat_map(|report| &report.findings);
        let findings = findings.filter(|dated| !self.is_consequence(&dated.finding));
        row.doubt_by_findings(findings.map(|dated| (&dated.finding, Some(dated.since))));
        row.dropped_per_minute = self.rates_of(name).map(ReportedRates::dropped_per_minute);
        row
    }

    /// Whether a finding only follows from another of the same exit.
    fn is_consequence(&self, finding: &Finding) -> bool {
        let gateway = silent_gateway(finding).and_then(|gateway| self.statuses.get(&gateway));
        let report = gateway.and_then(|status| status.report.as_ref());
        report.into_iter().flat_map(|report| &report.findings).any(|dated| causes(&dated.finding, finding))
    }

    fn status_of(&self, gateway: &GatewayStatus) -> Option<&NodeStatus> {
        self.statuses.iter().find(|(name, _)| name.as_str() == gateway.node).map(|(_, node)| *node)
    }

    /// What passes in a second, as those agents report that are heard.
    pub fn rates(&self) -> Option<Rates> {
        let heard = self.statuses.keys().filter_map(|name| self.rates_of(name));
        Rates::reported(heard, self.policies.iter().map(|published| &published.policy.id))
    }

    fn heartbeat(&self, name: &NodeName) -> Option<&Heartbeat> {
        self.heartbeats?.get(name)
    }

    /// What a node's agent reports of its rates, if it is heard: they are of now.
    fn rates_of(&self, name: &NodeName) -> Option<&ReportedRates> {
        let Heartbeat { renewed, rates } = self.heartbeat(name)?;
        let silent = self.statuses.get(name).is_some_and(|status| status.silence().is_some());
        rates.as_ref().filter(|_| !silent && renewed.is_some_and(|beat| !self.is_late(beat)))
    }

    /// Whether a heartbeat is too old, by this clock; that of the node may be ahead.
    fn is_late(&self, beat: Timestamp) -> bool {
        self.now.duration_since(beat).unsigned_abs() > self.silence && beat < self.now
    }

    fn judge(&self, row: &mut NodeRow, name: &NodeName, status: &NodeStatus, ready: &Condition) {
        let beat = self.heartbeat(name).and_then(|beat| beat.renewed);
        if ready.status == ConditionStatus::False {
            (row.urgency, row.state) = (Urgency::Bad, "FAILS");
            row.cause = Some(format!("{} ({})", ready.message, ready.reason));
        } else if status.drift > 0 {
            (row.urgency, row.state) = (Urgency::Bad, "DIFFERS");
            let drifted = condition(&status.conditions, ConditionType::Drifted);
            row.cause = drifted.map(|drifted| drifted.message.clone());
        } else if let Some(why) = status.silence() {
            row.doubt("unheard", why);
            row.since = Some(ready.last_transition_time);
        } else if let Some(beat) = beat.filter(|beat| self.is_late(*beat)) {
            // The controller says so only while one runs.
            row.doubt("unheard", &format!("its agent has not been heard since {beat:.0}"));
            row.since = Some(beat);
        } else if status.revision != self.revision {
            row.doubt("behind", "its agent has another commit");
        } else if !ready.is_true() {
            row.doubt("unknown", &ready.message);
        }
    }

    /// A policy is Ready once its gateways serve it in one family. What they drop in the other is worse.
    fn policy_row(&self, published: &PublishedPolicy<'_>, silent: &Silent<'_>) -> PolicyRow {
        let mut row = of_status(published);
        let gateways = published.status.map(|status| status.gateways.as_slice()).unwrap_or_default();
        let mut faults =
            gateways.iter().filter_map(|gateway| Some((gateway, fault(gateway, self.status_of(gateway)?)?)));
        if let Some((gateway, (dated, reason))) = faults.next().filter(|_| row.urgency == Urgency::Fine) {
            let message = dated.finding.message.trim_end_matches("; members' packets are dropped there");
            (row.urgency, row.state, row.since) = (Urgency::Bad, "DROPS", Some(dated.since));
            (row.reason, row.cause) = (reason.to_owned(), Some(format!("{}: {message}", gateway.exit)));
        }
        let reported = gateways.iter().filter_map(|gateway| silent.get(gateway.exit.as_str()));
        let reported = reported.min_by_key(|(_, dated)| carrier(&dated.finding).is_some());
        if let Some((source, dated)) = reported.filter(|_| row.urgency == Urgency::Fine) {
            let finding = &dated.finding;
            (row.urgency, row.state) =
                if carrier(finding).is_some() { (Urgency::Doubtful, "standby") } else { (Urgency::Bad, "DROPS") };
            (row.since, row.reason) = (Some(dated.since), "GatewaySilent".to_owned());
            row.cause = Some(format!("{} from {source}: {}", finding.subject, finding.message));
        }
        row
    }

    /// Exits whose gateway does not answer some source: a gateway that is gone reports nothing of itself. One whose members are
    /// lost comes before one whose members a standby carries.
    fn silent(&self) -> Silent<'_> {
        let mut silent = Silent::new();
        for (source, status) in self.statuses.iter().filter(|(_, status)| status.silence().is_none()) {
            let findings = status.report.iter().flat_map(|report| &report.findings);
            for dated in findings.filter(|dated| dated.finding.code == SILENT) {
                let known = silent.entry(dated.finding.subject.as_str()).or_insert((*source, dated));
                if carrier(&known.1.finding).is_some() && carrier(&dated.finding).is_none() {
                    *known = (*source, dated);
                }
            }
        }
        silent
    }
}

/// By exit: a source that its gateway does not answer, and the finding.
type Silent<'a> = BTreeMap<&'a str, (&'a NodeName, &'a DatedFinding)>;

/// What a gateway reports of an exit by which packets are dropped, and since when.
fn fault<'a>(gateway: &GatewayStatus, node: &'a NodeStatus) -> Option<(&'a DatedFinding, &'static str)> {
    let findings = node.report.iter().flat_map(|report| &report.findings);
    let of_exit = findings.filter(|dated| dated.finding.subject == gateway.exit && dated.finding.code != SILENT);
    // What is only reached in part is no drop of all.
    let mut reasons = of_exit.filter_map(|dated| Some((dated, dated.finding.drop_reason()?)));
    reasons.find(|(_, reason)| *reason != "NoRoute")
}

/// Why the newest commit is not published, or why something is not known.
fn waits(head: &HeadStatus) -> Option<String> {
    let kinds = [ConditionType::GitReachable, ConditionType::UpToDate, ConditionType::PoliciesAccepted];
    let wrong = kinds.iter().filter_map(|kind| condition(&head.conditions, *kind)).find(|one| !one.is_true());
    wrong.map(|one| format!("{} ({})", one.message, one.reason))
}

fn of_status(published: &PublishedPolicy<'_>) -> PolicyRow {
    let PublishedPolicy { policy, status } = published;
    let ready = status.and_then(|status| condition(&status.conditions, ConditionType::Ready));
    let (urgency, state) = match ready {
        None => (Urgency::Doubtful, "unknown"),
        Some(ready) => match (ready.status, ready.reason) {
            (ConditionStatus::True, _) => (Urgency::Fine, "ok"),
            (_, Reason::Suspended) => (Urgency::Doubtful, "suspended"),
            (_, Reason::NoGateway) if policy.on_no_gateway == OnNoGateway::Passthrough => (Urgency::Doubtful, "passes"),
            (ConditionStatus::False, _) => (Urgency::Bad, "DROPS"),
            (ConditionStatus::Unknown, _) => (Urgency::Doubtful, "unknown"),
        },
    };
    let gateways = status.map(|status| status.gateways.as_slice()).unwrap_or_default();
    let mut nodes: Vec<String> = gateways.iter().map(|gateway| gateway.node.clone()).collect();
    nodes.dedup();
    PolicyRow {
        urgency,
        policy: policy.id.clone(),
        pods: status.map_or(0, |status| status.members),
        destinations: policy.destinations.clone(),
        gateways: nodes,
        addresses: gateways.iter().flat_map(|gateway| gateway.egress_ips.clone()).collect(),
        ways: gateways.iter().map(way).collect(),
        state,
        since: ready.map(|ready| ready.last_transition_time),
        reason: ready.map_or("Pending", |ready| ready.reason.as_str()).to_owned(),
        cause: ready.filter(|ready| !ready.is_true()).map(|ready| ready.message.clone()),
    }
}

fn way(gateway: &GatewayStatus) -> Way {
    let GatewayStatus { exit, node, egress_ips, .. } = gateway;
    Way { exit: exit.clone(), gateway: node.clone(), addresses: egress_ips.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::finding::Finding;
    use crate::core::policy::catalogue::{Catalogue, FileUpdate};
    use crate::core::report::history::NodeReport;

    const POLICY: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {name: outpost}
spec:
  selectors: [{podSelector: {matchLabels: {org: empire}}}]
  destinationCIDRs: [10.88.4.0/24]
  egressGateway: {nodeSelector: {matchLabels: {egress-gw: 'true'}}, egressIP: 10.77.3.42}
";

    /// The row of a policy that is Ready, while a source reports this of its exit.
    fn row(consequence: &str) -> PolicyRow {
        let mut catalogue = Catalogue::new("default");
        let file = ("policies/outpost.yaml".to_owned(), FileUpdate::Text(POLICY.to_owned()));
        catalogue.update([file].into());
        let policy = catalogue.policies().policies.values().next().expect("a policy");
        let exit = "beta 10.77.3.42".to_owned();
        let (now, is) = (Timestamp::UNIX_EPOCH, ConditionStatus::True);
        let status = PolicyStatus {
            gateways: vec![GatewayStatus {
                node: "beta".to_owned(),
                exit: exit.clone(),
                ready: true,
                ..GatewayStatus::default()
            }],
            conditions: vec![Condition::new(ConditionType::Ready, is, Reason::Programmed, "members leave", now)],
            ..PolicyStatus::default()
        };
        let mut report = NodeReport::new("alpha");
        let message = format!("its gateway does not answer this node's probes; {consequence}");
        report.set_findings(vec![Finding::new(SILENT, exit, message)], now);
        let alpha = NodeName::parse("alpha").expect("a name");
        let source = NodeStatus { report: Some(report), ..NodeStatus::default() };
        let state = ClusterState {
            cluster: "default",
            revision: "",
            head: None,
            policies: vec![PublishedPolicy { policy, status: Some(&status) }],
            nodes: &BTreeMap::new(),
            statuses: BTreeMap::from([(&alpha, &source)]),
            heartbeats: None,
            silence: Duration::from_secs(42),
            now,
        };
        state.overview().policies.remove(0)
    }

    #[test]
    fn a_gateway_that_does_not_answer_a_source_is_shown_though_its_policy_is_ready() {
        let lost = row("no standby answers either; members' packets are lost on the way");
        assert_eq!((lost.urgency, lost.state, lost.reason.as_str()), (Urgency::Bad, "DROPS", "GatewaySilent"));
        let cause = lost.cause.expect("a cause");
        assert!(cause.starts_with("beta 10.77.3.42 from alpha: its gateway does not answer"), "{cause}");
        let carried = row("gamma 10.77.3.43 carries its members meanwhile");
        assert_eq!((carried.urgency, carried.state), (Urgency::Doubtful, "standby"));
    }

    #[test]
    fn what_an_agent_reported_before_it_fell_silent_is_not_of_now() {
        let [heard, late, ahead] = ["heard", "late", "ahead"].map(|name| NodeName::parse(name).expect("a name"));
        let rates = crate::core::rates::fixture::dropping(0.5);
        let at = |second| Timestamp::from_second(second).ok();
        let beats = [(&heard, at(990)), (&late, at(900)), (&ahead, at(1500))];
        let heartbeat =
            |(node, renewed): (&NodeName, _)| (node.clone(), Heartbeat { renewed, rates: Some(rates.clone()) });
        let heartbeats = beats.into_iter().map(heartbeat).collect();
        let status = NodeStatus::default();
        let nodes = [&heard, &late, &ahead].map(|node| (node.clone(), Node::default()));
        let state = ClusterState {
            cluster: "default",
            revision: "",
            head: None,
            policies: Vec::new(),
            nodes: &BTreeMap::from(nodes),
            statuses: [&heard, &late, &ahead].map(|node| (node, &status)).into(),
            heartbeats: Some(&heartbeats),
            silence: Duration::from_secs(42),
            now: at(1000).expect("a time"),
        };
        let dropped = state.overview().nodes.into_iter().map(|row| (row.node.to_string(), row.dropped_per_minute));
        let expected = [("heard", Some(30)), ("late", None), ("ahead", Some(30))];
        assert_eq!(
            dropped.collect::<BTreeMap<_, _>>(),
            expected.map(|(node, dropped)| (node.to_owned(), dropped)).into()
        );
        assert_eq!(state.rates().map(|rates| rates.dropped), Some(1.0));
    }
}
