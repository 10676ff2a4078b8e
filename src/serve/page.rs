//! The metrics' names and help texts, and the page in OpenMetrics format that Prometheus scrapes.
//!
//! All labels are bounded: by the values in this file, by the operations and resources of the API server that Egret
//! knows, and by the exits and policies that the node has now. Not here: the values (`metrics`).

use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;
use super::metrics::Values;
use crate::core::compile::counters::{CountedExit, Counters, TunnelDrop};
use crate::core::conntrack::ConntrackTotals;
use crate::core::policy::{PolicyId, PolicyKind};
use crate::core::ports::PORTS;
use crate::core::report::drift::DriftClass;
use crate::core::state::nft::RuleCounter;

/// The format's name (OpenMetrics 1.0.0, "Overall Structure").
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A metric family: all series of one name.
#[derive(Debug)]
pub struct MetricFamily {
    stem: &'static str,
    unit: Option<Unit>,
    kind: MetricType,
    /// The labels of each series.
    pub labels: &'static [&'static str],
    /// The help text.
    pub help: &'static str,
}

impl MetricFamily {
    const fn new(
        kind: MetricType,
        stem: &'static str,
        unit: Option<Unit>,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { stem, unit, kind, labels, help }
    }

    /// The name as in `# TYPE`: without the suffix of a sample.
    pub fn name(&self) -> String {
        let unit = self.unit.as_ref().map_or("", |unit| unit.as_str());
        let sep = if unit.is_empty() { "" } else { "_" };
        format!("egret_{}{sep}{unit}", self.stem)
    }

    /// The name as in a query: with the suffix of a counter or of an info. A histogram has three.
    pub fn sample(&self) -> String {
        let suffix = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        format!("{}{suffix}", self.name())
    }
}

use MetricType::{Counter, Gauge, Histogram, Info};

/// Every family that a process can have. docs/metrics.md lists them, and a test compares the two.
#[rustfmt::skip]
pub static FAMILIES: [MetricFamily; 34] = [
    MetricFamily::new(Info, "build", None, &["version"], "The version of Egret."),
    MetricFamily::new(Counter, "reconcile", None, &["result"], "Reconciliation rounds, by result."),
    MetricFamily::new(Histogram, "reconcile_duration", Some(Unit::Seconds), &[], "Duration of reconciliation rounds."),
    MetricFamily::new(Counter, "drift", None, &["class"], "Objects that another process changed, removed or added."),
    MetricFamily::new(Gauge, "drift_open", None, &[], "Drifted objects that are not corrected yet."),
    MetricFamily::new(Counter, "state_write_failures", None, &[], "Writes to the state folder that failed."),
    MetricFamily::new(Info, "revision", None, &["revision"], "The active commit."),
    MetricFamily::new(Gauge, "gateway_silent", None, &["exit"], "By exit that members here use: 1 while its gateway does not answer probes."),
    MetricFamily::new(Gauge, "exits", None, &["role"], "Exits that this node is the gateway of, and exits of other nodes that its pods use."),
    MetricFamily::new(Gauge, "members", None, &[], "Pods of this node that a policy selects."),
    MetricFamily::new(Gauge, "policy_ready", None, &["policy", "kind", "reason"], "By policy with members or exits here: 1 if it works on this node, else 0, with the reason."),
    MetricFamily::new(Gauge, "egress_address_held", None, &["address"], "By egress address that this node is to serve: 1 if it has it, else 0."),
    MetricFamily::new(Gauge, "probe_latency", Some(Unit::Seconds), &["exit", "family"], "How long the gateway of an exit took to answer this node's last probe."),
    MetricFamily::new(Counter, "policy_dropped_packets", None, &["policy", "reason"], "Members' packets that were dropped on this node, by policy and reason."),
    MetricFamily::new(Gauge, "leader", None, &[], "1 if this controller leads, else 0."),
    MetricFamily::new(Counter, "previews", None, &["result"], "Previews of pull requests, by result."),
    MetricFamily::new(Counter, "api_errors", None, &["operation"], "Requests that the API server did not carry out, by operation."),
    MetricFamily::new(Counter, "watch_errors", None, &["resource"], "Watches of the API server that broke and were restarted, by resource."),
    MetricFamily::new(Gauge, "commit_pending", None, &["reason"], "1 while the newest commit is pending, by reason."),
    MetricFamily::new(Gauge, "suspended_until_timestamp", Some(Unit::Seconds), &["what"], "When the suspension of the cluster or of a policy ends."),
    MetricFamily::new(Gauge, "git_last_success_timestamp", Some(Unit::Seconds), &[], "When Git last answered, with a new commit or without; before that, when the process started."),
    MetricFamily::new(Counter, "leak_guard_dropped_packets", None, &[], "Packets that would have left with a wrong address."),
    MetricFamily::new(Counter, "start_guard_dropped_packets", None, &[], "Packets of pods that are not classified yet."),
    MetricFamily::new(Counter, "tunnel_dropped_packets", None, &["reason"], "Packets not accepted from the tunnel, by reason."),
    MetricFamily::new(Counter, "conntrack_insert_failed", None, &[], "Connections that connection tracking could not enter, most likely for want of a free port."),
    MetricFamily::new(Counter, "conntrack_dropped_packets", None, &[], "Packets dropped because connection tracking could not make or enter a connection."),
    MetricFamily::new(Counter, "conntrack_early_drop", None, &[], "Connections without an answer that a full table gave up for new ones."),
    MetricFamily::new(Gauge, "conntrack_entries", None, &[], "Connections that the node tracks."),
    MetricFamily::new(Gauge, "conntrack_entries_limit", None, &[], "The most connections that the node can track."),
    MetricFamily::new(Gauge, "ports_used", None, &["address"], "By address that this node translates to: ports in use towards its busiest destination."),
    MetricFamily::new(Gauge, "ports_limit", None, &[], "The ports of one address towards one destination."),
    MetricFamily::new(Counter, "exit_packets", None, &["exit", "role"], "Outgoing packets of members, by exit. The source and the gateway each count them."),
    MetricFamily::new(Counter, "exit", Some(Unit::Bytes), &["exit", "role"], "Bytes of members' outgoing packets from the network header on, by exit."),
    MetricFamily::new(Counter, "policy_connections", None, &["policy", "kind", "exit"], "Connections of this node's pods that a policy led to an exit."),
];

/// The page, with counters as fresh as the loop can give them within a second.
pub(super) async fn page(metrics: &Metrics) -> Result<String, fmt::Error> {
    metrics.refresh().await;
    let mut registry = Registry::with_prefix("egret");
    registry.register_collector(Box::new(Page(metrics.clone())));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Page(Metrics);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let api = self.0.api_error_counts();
        self.0.with(|values| {
            let mut page = Writer(&mut encoder);
            page.info("build", [("version", env!("CARGO_PKG_VERSION"))])?;
            page.reconciling(values)?;
            page.node(values)?;
            page.policies(values)?;
            page.controller(values)?;
            page.git(values)?;
            if let Some(api) = api {
                let series =
                    api.requests.iter().map(|(operation, errors)| ([("operation", operation.as_str())], *errors));
                page.counters("api_errors", &series.collect())?;
                let series = api.watches.iter().map(|(resource, errors)| ([("resource", *resource)], *errors));
                page.counters("watch_errors", &series.collect())?;
            }
            values.counters.as_ref().map_or(Ok(()), |counters| page.counted(counters))
        })
    }
}

/// The series of a family of counters: the labels of each, and its value.
type Series<'a, const LABELS: usize> = Vec<([(&'a str, &'a str); LABELS], u64)>;

struct Writer<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Writer<'_, '_> {
    /// The only place where a name is written to the page: one that is not in [`FAMILIES`] is an error.
    fn family(&mut self, stem: &str) -> Result<MetricEncoder<'_>, fmt::Error> {
        let family = FAMILIES.iter().find(|family| family.stem == stem).ok_or(fmt::Error)?;
        self.0.encode_descriptor(family.stem, family.help, family.unit.as_ref(), family.kind)
    }

    fn counters<const LABELS: usize>(&mut self, stem: &str, series: &Series<'_, LABELS>) -> fmt::Result {
        let mut family = self.family(stem)?;
        series.iter().try_for_each(|(labels, value)| ConstCounter::new(*value).encode(family.encode_family(labels)?))
    }

    fn counter(&mut self, stem: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.family(stem)?)
    }

    fn gauges<const LABELS: usize>(&mut self, stem: &str, series: &Series<'_, LABELS>) -> fmt::Result {
        let mut family = self.family(stem)?;
        series.iter().try_for_each(|(labels, value)| {
            ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(family.encode_family(labels)?)
        })
    }

    fn gauge(&mut self, stem: &str, value: usize) -> fmt::Result {
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(self.family(stem)?)
    }

    fn info(&mut self, stem: &str, labels: [(&str, &str); 1]) -> fmt::Result {
        self.family(stem)?.encode_info(&labels)
    }

    /// Rounds and drift.
    fn reconciling(&mut self, values: &Values) -> fmt::Result {
        if let Some(reconciled) = &values.reconciled {
            let series =
                vec![([("result", "succeeded")], reconciled.succeeded), ([("result", "failed")], reconciled.failed)];
            self.counters("reconcile", &series)?;
            reconciled.took.encode(self.family("reconcile_duration")?)?;
        }
        if let Some(drift) = &values.drift {
            let name = |class: &DriftClass| match class {
                DriftClass::Missing => "missing",
                DriftClass::Extra => "extra",
                DriftClass::Changed => "changed",
            };
            let series = drift.iter().map(|(class, objects)| ([("class", name(class))], *objects)).collect();
            self.counters("drift", &series)?;
        }
        if let Some(open) = values.drift_open {
            self.gauge("drift_open", open)?;
        }
        if let Some(failures) = values.state_write_failures {
            self.counter("state_write_failures", failures)?;
        }
        if let Some(revision) = &values.revision {
            self.info("revision", [("revision", revision)])?;
        }
        Ok(())
    }

    /// Whether policies work on the node, which of its egress addresses it has, and how fast gateways answer.
    fn policies(&mut self, values: &Values) -> fmt::Result {
        if !values.policies.is_empty() {
            let series = values.policies.iter().map(|(policy, ready)| {
                let reason = ready.err().unwrap_or("Programmed");
                let labels = [("policy", policy.name.as_str()), ("kind", kind_of(policy)), ("reason", reason)];
                (labels, u64::from(ready.is_ok()))
            });
            self.gauges("policy_ready", &series.collect())?;
        }
        if !values.held.is_empty() {
            let texts: Vec<(String, bool)> = values.held.iter().map(|(one, held)| (one.to_string(), *held)).collect();
            let series =
                texts.iter().map(|(address, held)| ([("address", address.as_str())], u64::from(*held))).collect();
            self.gauges("egress_address_held", &series)?;
        }
        if !values.latencies.is_empty() {
            let mut family = self.family("probe_latency")?;
            for (exit, version, latency) in &values.latencies {
                let labels = [("exit", exit.as_str()), ("family", *version)];
                ConstGauge::new(latency.as_secs_f64()).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// The node's duties.
    fn node(&mut self, values: &Values) -> fmt::Result {
        if let Some((gateway, source)) = values.exits {
            let number = |exits| u64::try_from(exits).unwrap_or(u64::MAX);
            let series = vec![([("role", "gateway")], number(gateway)), ([("role", "source")], number(source))];
            self.gauges("exits", &series)?;
        }
        if let Some(silent) = &values.silent {
            let series = silent.iter().map(|(exit, silent)| ([("exit", exit.as_str())], u64::from(*silent))).collect();
            self.gauges("gateway_silent", &series)?;
        }
        if let Some(pods) = values.members {
            self.gauge("members", pods)?;
        }
        if !values.ports.is_empty() {
            let used: Vec<(String, u64)> =
                values.ports.iter().map(|(address, (_, used))| (address.to_string(), u64::from(*used))).collect();
            let series = used.iter().map(|(address, used)| ([("address", address.as_str())], *used)).collect();
            self.gauges("ports_used", &series)?;
            self.gauge("ports_limit", usize::try_from(PORTS).unwrap_or(usize::MAX))?;
        }
        values.conntrack.as_ref().map_or(Ok(()), |totals| self.conntrack(totals))
    }

    fn conntrack(&mut self, totals: &ConntrackTotals) -> fmt::Result {
        self.counter("conntrack_insert_failed", totals.insert_failed)?;
        self.counter("conntrack_dropped_packets", totals.dropped)?;
        self.counter("conntrack_early_drop", totals.early_dropped)?;
        self.gauge("conntrack_entries", usize::try_from(totals.entries).unwrap_or(usize::MAX))?;
        totals
            .limit
            .map_or(Ok(()), |limit| self.gauge("conntrack_entries_limit", usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    fn controller(&mut self, values: &Values) -> fmt::Result {
        if let Some(leads) = values.leader {
            self.gauge("leader", usize::from(leads))?;
        }
        if let Some(previews) = &values.previews {
            let series = previews.iter().map(|(result, count)| ([("result", *result)], *count)).collect();
            self.counters("previews", &series)?;
        }
        Ok(())
    }

    /// Git, pending commits and suspensions.
    fn git(&mut self, values: &Values) -> fmt::Result {
        if !values.pending.is_empty() {
            let series =
                values.pending.iter().map(|(reason, pending)| ([("reason", *reason)], u64::from(*pending))).collect();
            self.gauges("commit_pending", &series)?;
        }
        if !values.suspended.is_empty() {
            let series = values.suspended.iter().map(|(what, until)| ([("what", what.as_str())], *until)).collect();
            self.gauges("suspended_until_timestamp", &series)?;
        }
        if let Some(at) = values.git_fetched {
            let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            ConstGauge::new(seconds).encode(self.family("git_last_success_timestamp")?)?;
        }
        Ok(())
    }

    /// The kernel's counters.
    fn counted(&mut self, counters: &Counters) -> fmt::Result {
        let Counters { leak_guard, start_guard, tunnel, exits, policies, dropped: of_policies } = counters;
        self.counter("leak_guard_dropped_packets", leak_guard.packets)?;
        self.counter("start_guard_dropped_packets", start_guard.packets)?;
        let reasons = [
            (TunnelDrop::Node, "node"),
            (TunnelDrop::Source, "source"),
            (TunnelDrop::Exit, "exit"),
            (TunnelDrop::Destination, "destination"),
            (TunnelDrop::Host, "host"),
        ];
        let dropped = |why| tunnel.get(&why).map_or(0, |counter| counter.packets);
        let series = reasons.map(|(why, reason)| ([("reason", reason)], dropped(why))).to_vec();
        self.counters("tunnel_dropped_packets", &series)?;
        let of_exits = |value: fn(&RuleCounter) -> u64| -> Series<'_, 2> {
            exits.iter().map(|(exit, counter)| (exit_labels(exit), value(counter))).collect()
        };
        self.counters("exit_packets", &of_exits(|counter| counter.packets))?;
        self.counters("exit", &of_exits(|counter| counter.bytes))?;
        let series = of_policies.iter().map(|((policies, reason), counter)| {
            ([("policy", policies.as_str()), ("reason", *reason)], counter.packets)
        });
        self.counters("policy_dropped_packets", &series.collect())?;
        let series = policies.iter().map(|((policy, exit), connections)| {
            let labels = [("policy", policy.name.as_str()), ("kind", kind_of(policy)), ("exit", exit.as_str())];
            (labels, *connections)
        });
        self.counters("policy_connections", &series.collect())
    }
}

fn kind_of(policy: &PolicyId) -> &'static str {
    match policy.kind {
        PolicyKind::Cilium => "CiliumEgressGatewayPolicy",
        PolicyKind::Egret => "EgressPolicy",
    }
}

fn exit_labels(exit: &CountedExit) -> [(&str, &str); 2] {
    [("exit", &exit.identity), ("role", if exit.gateway { "gateway" } else { "source" })]
}
