//! The metrics' names and texts, and the page that Prometheus reads: OpenMetrics.
//!
//! All labels are bounded: by what is written here, and by the exits and policies that the node has now. Deliberately absent:
//! the values (`metrics`).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;
use super::metrics::Values;
use crate::core::compile::counters::{CountedExit, Counters, TunnelDrop};
use crate::core::policy::PolicyKind;
use crate::core::report::drift::DriftClass;
use crate::core::state::nft::RuleCounter;

/// The format's name (OpenMetrics 1.0.0, "Overall Structure").
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes the page.
pub(super) fn write(metrics: &Metrics) -> Result<String, fmt::Error> {
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
        let age = self.0.git_age();
        self.0.tell(|values| {
            let mut page = Writer(&mut encoder);
            page.info("build", "The version of Egret.", [("version", env!("CARGO_PKG_VERSION"))])?;
            page.reconciling(values)?;
            page.node(values)?;
            page.edges(values)?;
            page.waiting(values)?;
            if let Some(age) = age {
                let help = "Since Git last answered, with news or without.";
                page.gauge("git_age", help, Some(&Unit::Seconds), age.as_secs_f64())?;
            }
            values.counters.as_ref().map_or(Ok(()), |counters| page.counted(counters))
        })
    }
}

/// What a family of counters has: the labels of each, and its value.
type Series<'a, const LABELS: usize> = Vec<([(&'a str, &'a str); LABELS], u64)>;

struct Writer<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Writer<'_, '_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        each: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        each(&mut self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn counters<const LABELS: usize>(&mut self, name: &str, help: &str, series: &Series<'_, LABELS>) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |family| {
            series
                .iter()
                .try_for_each(|(labels, value)| ConstCounter::new(*value).encode(family.encode_family(labels)?))
        })
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Counter, |one| one.encode_counter::<NoLabelSet, _, u64>(&value, None))
    }

    fn gauges(&mut self, name: &str, help: &str, series: &Series<'_, 1>) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, |family| {
            series.iter().try_for_each(|(labels, value)| {
                ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(family.encode_family(labels)?)
            })
        })
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?)
    }

    fn number(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        value.encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn info(&mut self, name: &str, help: &str, labels: [(&str, &str); 1]) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    /// Rounds and drift.
    fn reconciling(&mut self, values: &Values) -> fmt::Result {
        if let Some(reconciled) = &values.reconciled {
            let series =
                vec![([("result", "succeeded")], reconciled.succeeded), ([("result", "failed")], reconciled.failed)];
            self.counters("reconcile", "Rounds: a look, and what had to be done.", &series)?;
            let help = "From a round's first look to its last.";
            let kind = MetricType::Histogram;
            let family = self.0.encode_descriptor("reconcile_duration", help, Some(&Unit::Seconds), kind)?;
            reconciled.took.encode(family)?;
        }
        if let Some(drift) = &values.drift {
            let name = |class: &DriftClass| match class {
                DriftClass::Missing => "missing",
                DriftClass::Extra => "extra",
                DriftClass::Changed => "changed",
            };
            let series = drift.iter().map(|(class, objects)| ([("class", name(class))], *objects)).collect();
            self.counters("drift", "Objects that somebody else changed, took away or added.", &series)?;
        }
        if let Some(open) = values.drift_open {
            self.number("drift_open", "Objects that drifted and are not put right yet.", open)?;
        }
        if let Some(revision) = &values.revision {
            self.info("revision", "The commit that is in force.", [("revision", revision)])?;
        }
        Ok(())
    }

    /// What the node has to do.
    fn node(&mut self, values: &Values) -> fmt::Result {
        if let Some((gateway, source)) = values.exits {
            let number = |exits| u64::try_from(exits).unwrap_or(u64::MAX);
            let series = vec![([("role", "gateway")], number(gateway)), ([("role", "source")], number(source))];
            let help = "Exits that this node is the gateway of, and those of others that its pods use.";
            self.gauges("exits", help, &series)?;
        }
        if let Some(pods) = values.members {
            self.number("members", "Pods of this node that some policy selects.", pods)?;
        }
        Ok(())
    }

    /// The API server.
    fn edges(&mut self, values: &Values) -> fmt::Result {
        if let Some(leads) = values.leader {
            self.number("leader", "1 if this process leads, 0 if it follows.", usize::from(leads))?;
        }
        if let Some(previews) = &values.previews {
            let of = previews.iter().map(|(result, count)| ([("result", *result)], *count)).collect();
            self.counters("previews", "Previews of pull requests, by what became of them.", &of)?;
        }
        if !values.api_faults.is_empty() {
            let of = values.api_faults.iter().map(|(operation, faults)| ([("operation", *operation)], *faults));
            self.counters("api_faults", "Requests that the API server did not carry out.", &of.collect())?;
        }
        if !values.watch_faults.is_empty() {
            let of = values.watch_faults.iter().map(|(resource, faults)| ([("resource", *resource)], *faults));
            self.counters("watch_faults", "Watches of the API server that broke and were begun anew.", &of.collect())?;
        }
        Ok(())
    }

    /// Commits that wait, and what somebody suspended.
    fn waiting(&mut self, values: &Values) -> fmt::Result {
        if !values.waits.is_empty() {
            let series =
                values.waits.iter().map(|(reason, waits)| ([("reason", *reason)], u64::from(*waits))).collect();
            self.gauges("commit_waits", "1 while the newest commit is not in force but waits.", &series)?;
        }
        if !values.suspended.is_empty() {
            let series = values.suspended.iter().map(|(what, until)| ([("what", what.as_str())], *until)).collect();
            let help = "When the suspension of the cluster or of a policy ends.";
            self.gauges("suspended_until_timestamp_seconds", help, &series)?;
        }
        Ok(())
    }

    /// What the kernel counted.
    fn counted(&mut self, counters: &Counters) -> fmt::Result {
        let Counters { leak_guard, start_guard, tunnel, exits, policies } = counters;
        let help = "Packets that would have left with a wrong address.";
        self.counter("leak_guard_dropped_packets", help, leak_guard.packets)?;
        let help = "Packets of pods that nobody had classified yet.";
        self.counter("start_guard_dropped_packets", help, start_guard.packets)?;
        let reasons = [
            (TunnelDrop::Node, "node"),
            (TunnelDrop::Source, "source"),
            (TunnelDrop::Exit, "exit"),
            (TunnelDrop::Destination, "destination"),
            (TunnelDrop::Host, "host"),
        ];
        let dropped = |why| tunnel.get(&why).map_or(0, |counter| counter.packets);
        let series = reasons.map(|(why, reason)| ([("reason", reason)], dropped(why))).to_vec();
        let help = "Packets not taken from the tunnel, or meant for it and not from a node, by reason.";
        self.counters("tunnel_dropped_packets", help, &series)?;
        let of_exits = |value: fn(&RuleCounter) -> u64| -> Series<'_, 2> {
            exits.iter().map(|(exit, counter)| (exit_labels(exit), value(counter))).collect()
        };
        let help = "Packets of members by exit, there and not back. Those through the tunnel are counted at both ends.";
        self.counters("exit_packets", help, &of_exits(|counter| counter.packets))?;
        let help = "Bytes of members' packets by exit, from the network header on.";
        self.counters("exit_bytes", help, &of_exits(|counter| counter.bytes))?;
        let series = policies.iter().map(|((policy, exit), connections)| {
            let kind = match policy.kind {
                PolicyKind::Cilium => "CiliumEgressGatewayPolicy",
                PolicyKind::Egret => "EgressPolicy",
            };
            ([("policy", policy.name.as_str()), ("kind", kind), ("exit", exit.as_str())], *connections)
        });
        let help = "Connections of this node's pods that a policy led to an exit.";
        self.counters("policy_connections", help, &series.collect())
    }
}

fn exit_labels(exit: &CountedExit) -> [(&str, &str); 2] {
    [("exit", &exit.identity), ("role", if exit.gateway { "gateway" } else { "source" })]
}
