//! Checks `egret.yaml`: values for every cluster, and overrides for single clusters.
//!
//! Not here: crontab lines and time zones (`schedule`), and what delays commits (`admission`).

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::address::cidrs;
use super::admission::{change_windows, suspension};
use super::duration::{duration, within};
use super::policy::{EXISTING_CONNECTIONS, ON_NO_GATEWAY};
use super::schedule::{crontab, time_zone};
use super::signatures::signatures;
use crate::core::admission::{ChangeWindows, Suspension};
use crate::core::labelling::OnLabelDrift;
use crate::core::labels::keys::{KeyPattern, LabelKeys};
use crate::core::policy::config::{Config, ProbeTiming, Schedule};
use crate::core::policy::diagnostic_sink::{DiagnosticSink, Span, quoted};
use crate::core::policy::document::{
    CONFIG, CONFIG_VALUES, DATAPATH, Document, FAILOVER, GATEWAYS, NODE_LABELS, REPORTS, SCHEDULE, SNAPSHOT,
};
use crate::core::policy::mapping_reader::{
    MappingReader, boolean, choice, in_range, integer, list, mapping, text, wrong_type,
};
use crate::core::policy::yaml::{MappingEntry, YamlNode, YamlValue};
use crate::core::policy::{ExistingConnections, OnNoGateway};
use crate::core::signature::Signatures;
use crate::core::state::mask::{KUBE_PROXY, WIDEST};
use crate::core::state::ownership::DatapathConfig;

/// Values of `onLabelDrift`.
const ON_LABEL_DRIFT: [(&str, OnLabelDrift); 2] =
    [("Correct", OnLabelDrift::Correct), ("Report", OnLabelDrift::Report)];
/// Placeholder of the cluster's name in `reports.branch`.
const CLUSTER: &str = "<cluster>";
/// The default branch.
const REPORTS_BRANCH: &str = "egret/reports/<cluster>";
/// UDP ports of other tunnels: IANA's VXLAN, Linux' and Cilium's VXLAN, Spidernet's.
const FOREIGN_PORTS: [u16; 3] = [4789, 8472, 7789];
/// Value of `markMask` with which each node chooses its bits.
const AUTO: &str = "auto";
/// The priority of the kernel's rule for the main table. Rules behind it would never be evaluated.
const MAIN_RULE: u32 = 32766;
/// The kernel's tables `default`, `main` and `local`.
const KERNEL_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

/// egret.yaml, checked for every cluster in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigDocument {
    /// Values for clusters without an override.
    pub common: ConfigFields,
    /// Overrides by cluster.
    pub clusters: BTreeMap<String, ConfigFields>,
    /// The location of `clusters`.
    pub clusters_at: Span,
}

/// The values a Config, or a cluster in it, may set. `None`: not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigFields {
    paths: Option<Vec<(String, Span)>>,
    reports_branch: Option<String>,
    reports: Option<bool>,
    reports_keep: Option<Duration>,
    snapshot: Option<bool>,
    snapshot_every: Option<Duration>,
    cron: Option<String>,
    time_zone: Option<String>,
    change_windows: Option<ChangeWindows>,
    suspend: Option<(Suspension, Span)>,
    signatures: Option<Signatures>,
    on_no_gateway: Option<OnNoGateway>,
    existing_connections: Option<ExistingConnections>,
    on_label_drift: Option<OnLabelDrift>,
    only_labelled_from_git: Option<(bool, Span)>,
    allowed_keys: Option<Vec<KeyPattern>>,
    max_removals: Option<u8>,
    require_namespace: Option<bool>,
    pod_cidrs: Option<Vec<IpNet>>,
    service_cidrs: Option<Vec<IpNet>>,
    exclusions: Option<Vec<IpNet>>,
    mask: Option<Mask>,
    first: Option<u32>,
    port: Option<u16>,
    mtu: Option<u32>,
    failover: Option<bool>,
    interval: Option<Duration>,
    misses: Option<u32>,
}

/// The value of `markMask`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mask {
    /// Each node chooses its own.
    Auto,
    /// These bits, on every node.
    Bits(u32),
}

impl ConfigDocument {
    /// The location of the cluster's suspension, if it has one.
    pub fn suspend_at(&self, cluster: &str) -> Option<Span> {
        self.suspend_of(cluster).map(|(_, at)| *at)
    }

    fn suspend_of(&self, cluster: &str) -> Option<&(Suspension, Span)> {
        let own = self.clusters.get(cluster).and_then(|own| own.suspend.as_ref());
        own.or(self.common.suspend.as_ref())
    }

    /// The location of the cluster's `onlyLabelledFromGit`, if it is set.
    pub fn only_labelled_at(&self, cluster: &str) -> Option<Span> {
        self.only_labelled_of(cluster).map(|(_, at)| at)
    }

    fn only_labelled_of(&self, cluster: &str) -> Option<(bool, Span)> {
        let own = self.clusters.get(cluster).and_then(|own| own.only_labelled_from_git);
        own.or(self.common.only_labelled_from_git)
    }

    /// The cluster's `paths` and their locations, if they are set.
    pub fn paths_of(&self, cluster: &str) -> &[(String, Span)] {
        let own = self.clusters.get(cluster).and_then(|own| own.paths.as_ref());
        own.or(self.common.paths.as_ref()).map_or(&[], Vec::as_slice)
    }

    /// The configuration of one cluster.
    pub fn of(&self, cluster: &str) -> Config {
        fn pick<T: Clone>(own: Option<&T>, common: Option<&T>) -> Option<T> {
            own.or(common).cloned()
        }
        let none = ConfigFields::default();
        let (own, common) = (self.clusters.get(cluster).unwrap_or(&none), &self.common);
        let defaults = Config::default();
        let branch = pick(own.reports_branch.as_ref(), common.reports_branch.as_ref());
        let cron = pick(own.cron.as_ref(), common.cron.as_ref());
        let time_zone = pick(own.time_zone.as_ref(), common.time_zone.as_ref());
        let DatapathConfig { mask, first, port, mtu } = defaults.range;
        let given = match own.mask.or(common.mask) {
            Some(Mask::Bits(bits)) => Some(bits),
            Some(Mask::Auto) | None => None,
        };
        Config {
            paths: match own.paths.as_ref().or(common.paths.as_ref()) {
                Some(_) => self.paths_of(cluster).iter().map(|(entry, _)| entry.clone()).collect(),
                None => defaults.paths,
            },
            reports_branch: branch.unwrap_or_else(|| REPORTS_BRANCH.to_owned()).replace(CLUSTER, cluster),
            reports: own.reports.or(common.reports).unwrap_or(defaults.reports),
            reports_keep: own.reports_keep.or(common.reports_keep).unwrap_or(defaults.reports_keep),
            snapshot_every: own
                .snapshot
                .or(common.snapshot)
                .unwrap_or(true)
                .then(|| own.snapshot_every.or(common.snapshot_every).or(defaults.snapshot_every))
                .flatten(),
            schedule: cron.map(|cron| Schedule { cron, time_zone: time_zone.unwrap_or_else(|| "UTC".to_owned()) }),
            change_windows: pick(own.change_windows.as_ref(), common.change_windows.as_ref()).unwrap_or_default(),
            suspend: self.suspend_of(cluster).map(|(suspension, _)| suspension.clone()),
            signatures: pick(own.signatures.as_ref(), common.signatures.as_ref()),
            on_no_gateway: own.on_no_gateway.or(common.on_no_gateway).unwrap_or_default(),
            existing_connections: own.existing_connections.or(common.existing_connections).unwrap_or_default(),
            on_label_drift: own.on_label_drift.or(common.on_label_drift).unwrap_or_default(),
            only_labelled_from_git: self.only_labelled_of(cluster).is_some_and(|(only, _)| only),
            // The operator's list does not come from egret.yaml.
            label_keys: LabelKeys {
                operator: None,
                git: pick(own.allowed_keys.as_ref(), common.allowed_keys.as_ref()),
            },
            max_removals: own.max_removals.or(common.max_removals).unwrap_or(defaults.max_removals),
            require_namespace: own.require_namespace.or(common.require_namespace).unwrap_or_default(),
            pod_cidrs: pick(own.pod_cidrs.as_ref(), common.pod_cidrs.as_ref()).unwrap_or_default(),
            service_cidrs: pick(own.service_cidrs.as_ref(), common.service_cidrs.as_ref()).unwrap_or_default(),
            exclusions: pick(own.exclusions.as_ref(), common.exclusions.as_ref()).unwrap_or_default(),
            range: DatapathConfig {
                mask: given.unwrap_or(mask),
                first: own.first.or(common.first).unwrap_or(first),
                port: own.port.or(common.port).unwrap_or(port),
                mtu: own.mtu.or(common.mtu).unwrap_or(mtu),
            },
            mask_is_auto: given.is_none(),
            failover: own.failover.or(common.failover).unwrap_or(true).then(|| {
                let ProbeTiming { interval, misses } = ProbeTiming::default();
                ProbeTiming {
                    interval: own.interval.or(common.interval).unwrap_or(interval),
                    misses: own.misses.or(common.misses).unwrap_or(misses),
                }
            }),
        }
    }
}

pub(super) fn read(document: &Document<'_>, out: &mut DiagnosticSink<'_>) -> Option<ConfigDocument> {
    let at = document.root.span.head();
    let root = MappingReader::read(document.root, "a Config", at, CONFIG, out)?;
    let mut found = ConfigDocument { common: settings(&root, true, out), ..ConfigDocument::default() };
    if let Some(entry) = root.get("clusters") {
        found.clusters_at = entry.key_span;
        for cluster in mapping(&entry.value, "`clusters`", out).unwrap_or(&[]) {
            // `prod:` without a value is a cluster without overrides.
            let own = if cluster.value.is_null() {
                Some(ConfigFields::default())
            } else {
                MappingReader::read(&cluster.value, "a cluster", cluster.key_span, CONFIG_VALUES, out)
                    .map(|object| settings(&object, false, out))
            };
            if let Some(own) = own {
                found.clusters.insert(cluster.key.clone(), own);
            }
        }
    }
    check_ranges(&found, &root, out);
    Some(found)
}

/// Checks marks and tables after merging: each may be given in another place.
fn check_ranges(found: &ConfigDocument, root: &MappingReader<'_>, out: &mut DiagnosticSink<'_>) {
    let at = root.get("datapath").map_or(root.at(), |entry| entry.key_span);
    let clusters = root.get("clusters").map_or(&[][..], |entry| match &entry.value.value {
        YamlValue::Mapping(clusters) => clusters.as_slice(),
        YamlValue::Scalar(_) | YamlValue::Sequence(_) => &[],
    });
    let places = clusters.iter().map(|cluster| (cluster.key.as_str(), cluster.key_span));
    let mut seen = Vec::new();
    for (name, place) in std::iter::once(("", at)).chain(places) {
        let range = found.of(name).range;
        let last = range.first.saturating_add(range.last_id());
        let meets = last >= MAIN_RULE || (range.first..=last).any(|table| KERNEL_TABLES.contains(&table));
        // Mistakes at the top level are not repeated for every cluster.
        if meets && !seen.contains(&range) {
            seen.push(range);
            let message = format!("the tables and rules {} to {last} meet those of the kernel", range.first);
            out.error(place, "bad-tables", message)
                .hint("keep datapath.firstTable above 255 and low, or give datapath.markMask fewer bits");
        }
    }
}

/// Reads the values at the top level, or those of a cluster.
fn settings(object: &MappingReader<'_>, top: bool, out: &mut DiagnosticSink<'_>) -> ConfigFields {
    let mut found = ConfigFields::default();
    let nets = |name: &str, noun: &str, out: &mut DiagnosticSink<'_>| {
        object.get(name).map(|entry| cidrs(entry, noun, out).into_iter().map(|(net, _)| net).collect())
    };
    found.pod_cidrs = nets("podCIDRs", "pod network", out);
    found.service_cidrs = nets("serviceCIDRs", "service network", out);
    found.exclusions = nets("exclusions", "exclusion", out);
    found.paths = object.get("paths").map(|entry| paths(entry, out));
    found.on_no_gateway =
        object.get("onNoGateway").and_then(|entry| choice(&entry.value, "`onNoGateway`", &ON_NO_GATEWAY, out));
    found.existing_connections = object
        .get("existingConnections")
        .and_then(|entry| choice(&entry.value, "`existingConnections`", &EXISTING_CONNECTIONS, out));
    found.on_label_drift =
        object.get("onLabelDrift").and_then(|entry| choice(&entry.value, "`onLabelDrift`", &ON_LABEL_DRIFT, out));
    found.require_namespace =
        object.get("requireNamespace").and_then(|entry| boolean(&entry.value, "`requireNamespace`", out));
    found.max_removals = object.get("maxRemovals").and_then(|entry| percentage(&entry.value, "`maxRemovals`", out));
    found.change_windows = object.get("changeWindows").and_then(|entry| change_windows(entry, out));
    found.suspend = object.get("suspend").and_then(|entry| Some((suspension(entry, out)?, entry.key_span)));
    found.signatures = object.get("signatures").and_then(|entry| signatures(entry, out));
    read_gateways(object, &mut found, out);
    read_reports(object, &mut found, out);
    read_schedule(object, top, &mut found, out);
    read_datapath(object, &mut found, out);
    read_failover(object, &mut found, out);
    found
}

fn paths(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Vec<(String, Span)> {
    let items = list(&entry.value, "`paths`", out);
    if items.is_some_and(<[YamlNode]>::is_empty) {
        out.error(entry.key_span, "no-path", "`paths` is empty: no document would be read")
            .hint("[\".\"] is everything");
    }
    let mut found = Vec::new();
    for node in items.unwrap_or(&[]) {
        let Some(written) = text(node, "a path", out) else { continue };
        let parts: Vec<&str> = written.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            out.error(node.span, "bad-path", format!("{} leaves the repository", quoted(written)));
        }
        found.push((parts.join("/"), node.span));
    }
    found
}

fn read_gateways(object: &MappingReader<'_>, found: &mut ConfigFields, out: &mut DiagnosticSink<'_>) {
    if let Some(entry) = object.get("gateways")
        && let Some(gateways) = MappingReader::read(&entry.value, "gateways", entry.key_span, GATEWAYS, out)
    {
        found.only_labelled_from_git = gateways
            .get("onlyLabelledFromGit")
            .and_then(|entry| Some((boolean(&entry.value, "`onlyLabelledFromGit`", out)?, entry.key_span)));
    }
    if let Some(entry) = object.get("nodeLabels")
        && let Some(labels) = MappingReader::read(&entry.value, "nodeLabels", entry.key_span, NODE_LABELS, out)
    {
        found.allowed_keys = labels.get("allowedKeys").map(|entry| allowed_keys(entry, out));
    }
}

/// An empty list is valid: no label is written.
fn allowed_keys(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Vec<KeyPattern> {
    let mut found = Vec::new();
    for node in list(&entry.value, "`allowedKeys`", out).unwrap_or(&[]) {
        let Some(written) = text(node, "a label's key", out) else { continue };
        match KeyPattern::parse(written) {
            Ok(pattern) => found.push(pattern),
            Err(why) => {
                out.error(node.span, "bad-label-key", format!("{} is no label's key", quoted(written))).hint(why);
            }
        }
    }
    found
}

fn read_reports(object: &MappingReader<'_>, found: &mut ConfigFields, out: &mut DiagnosticSink<'_>) {
    let Some(entry) = object.get("reports") else { return };
    let Some(reports) = MappingReader::read(&entry.value, "reports", entry.key_span, REPORTS, out) else { return };
    found.reports = reports.get("enabled").and_then(|entry| boolean(&entry.value, "`enabled`", out));
    found.reports_keep = reports.get("keep").and_then(|entry| duration(entry, 86_400, out));
    if let Some(entry) = reports.get("snapshot")
        && let Some(snapshot) = MappingReader::read(&entry.value, "reports.snapshot", entry.key_span, SNAPSHOT, out)
    {
        found.snapshot = snapshot.get("enabled").and_then(|entry| boolean(&entry.value, "`enabled`", out));
        found.snapshot_every = snapshot.get("every").and_then(|entry| duration(entry, 60, out));
    }
    let Some(entry) = reports.get("branch") else { return };
    let Some(branch) = text(&entry.value, "`branch`", out) else { return };
    if is_branch(&branch.replace(CLUSTER, "cluster")) {
        found.reports_branch = Some(branch.to_owned());
    } else {
        out.error(entry.value.span, "bad-branch", format!("{} is no name of a branch", quoted(branch)))
            .hint("as in egret/reports/<cluster>; `git check-ref-format` has the rules");
    }
}

/// The rules of `git check-ref-format --branch` about names.
fn is_branch(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && part.strip_suffix(".lock").is_none()
    };
    !name.starts_with('-')
        && name != "@"
        && !name.contains("..")
        && !name.contains("@{")
        && name.split('/').all(part)
        && !name.chars().any(|c| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\'))
}

fn read_schedule(object: &MappingReader<'_>, top: bool, found: &mut ConfigFields, out: &mut DiagnosticSink<'_>) {
    let Some(entry) = object.get("schedule") else { return };
    let Some(schedule) = MappingReader::read(&entry.value, "schedule", entry.key_span, SCHEDULE, out) else { return };
    // A cluster may override only the time zone.
    let cron = if top { schedule.required("cron", out) } else { schedule.get("cron") };
    if let Some(line) = cron.and_then(|entry| crontab(&entry.value, out)) {
        found.cron = Some(line.to_owned());
    }
    if let Some(name) = schedule.get("timeZone").and_then(|entry| time_zone(&entry.value, out)) {
        found.time_zone = Some(name.to_owned());
    }
}

fn read_datapath(object: &MappingReader<'_>, found: &mut ConfigFields, out: &mut DiagnosticSink<'_>) {
    let Some(entry) = object.get("datapath") else { return };
    let Some(datapath) = MappingReader::read(&entry.value, "datapath", entry.key_span, DATAPATH, out) else { return };
    found.mask = datapath.get("markMask").and_then(|entry| mask(&entry.value, out));
    found.first = number(&datapath, "firstTable", 1..=i64::from(MAIN_RULE), out);
    found.mtu = number(&datapath, "mtu", 1280..=65535, out);
    found.port = number(&datapath, "port", 1..=65535, out).and_then(|port| u16::try_from(port).ok());
    if let Some(port) = found.port
        && FOREIGN_PORTS.contains(&port)
        && let Some(entry) = datapath.get("port")
    {
        out.warning(entry.value.span, "foreign-port", format!("other tunnels use the UDP port {port}"))
            .hint("4790 is Egret's own choice");
    }
}

fn read_failover(object: &MappingReader<'_>, found: &mut ConfigFields, out: &mut DiagnosticSink<'_>) {
    let limits = Duration::from_millis(20)..=Duration::from_secs(10);
    let Some(entry) = object.get("failover") else { return };
    let Some(failover) = MappingReader::read(&entry.value, "failover", entry.key_span, FAILOVER, out) else { return };
    found.failover = failover.get("enabled").and_then(|entry| boolean(&entry.value, "`enabled`", out));
    found.interval = failover
        .get("interval")
        .and_then(|entry| within(entry, limits, "a duration from 20ms to 10s, as in 75ms", out));
    found.misses = number(&failover, "misses", 2..=100, out);
}

/// A share as Kubernetes writes it: `25%`.
fn percentage(node: &YamlNode, what: &str, out: &mut DiagnosticSink<'_>) -> Option<u8> {
    let written = text(node, what, out)?;
    let digits = written.strip_suffix('%').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
    let found = digits.and_then(|digits| digits.parse().ok()).filter(|share| *share <= 100);
    if found.is_none() {
        out.error(node.span, "out-of-range", format!("{what} is {}", quoted(written))).hint("a share from 0% to 100%");
    }
    found
}

fn number(
    object: &MappingReader<'_>,
    name: &str,
    range: std::ops::RangeInclusive<i64>,
    out: &mut DiagnosticSink<'_>,
) -> Option<u32> {
    let entry = object.get(name)?;
    integer(&entry.value, &quoted(name), range, out).and_then(|number| u32::try_from(number).ok())
}

fn mask(node: &YamlNode, out: &mut DiagnosticSink<'_>) -> Option<Mask> {
    let YamlValue::Scalar(scalar) = &node.value else {
        wrong_type(node, "`markMask`", "a number or `auto`", out);
        return None;
    };
    if scalar.text == AUTO {
        return Some(Mask::Auto);
    }
    let number = in_range(scalar, node.span, "`markMask`", 1..=i64::from(u32::MAX), out)?;
    let mask = u32::try_from(number).ok()?;
    let run = mask >> mask.trailing_zeros();
    if run & run.wrapping_add(1) != 0 || run.count_ones() < 2 {
        out.error(node.span, "bad-mask", "the bits of `markMask` must be two or more in one run")
            .hint("0x1fff or 0x00ff0000, for example; or auto");
        return None;
    }
    if run.count_ones() > WIDEST {
        let message = format!("`markMask` has {} bits; an exit's number has at most {WIDEST}", run.count_ones());
        out.error(node.span, "bad-mask", message).hint("0x1fff or 0x00ff0000, for example; or auto");
        return None;
    }
    if mask & KUBE_PROXY != 0 {
        out.warning(node.span, "foreign-mark", "kube-proxy uses the mark bits 0x4000 and 0x8000")
            .hint("leave 0xc000 out of the mask");
    }
    Some(Mask::Bits(mask))
}
