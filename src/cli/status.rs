//! `egret status`: a cluster at a glance, the worst first. `core::overview` has its contents.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::args::{GitArgs, OUTPUT, duration};
use super::cluster::ApiCluster;
use super::exit::CHANGES;
use super::known::{Known, SourceArgs};
use super::output::{self, Failure, Paint, TextOrJson, Verbosity, paint};
use super::{json, plan};
use crate::clock::Clock;
use crate::cluster::live::PodsRead;
use crate::core::overview::{NodeRow, Overview, PolicyRow, Urgency, lines};
use crate::core::report::history::Rejected;
use crate::core::text::wrapped;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing is dropped, 2 something is, or a kernel differs, 1 failure.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    sources: SourceArgs,
    /// The form of the result.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = TextOrJson::Text, help_heading = OUTPUT)]
    output: TextOrJson,
    /// Show it again and again, until interrupted; with a duration as often as that [default: 2s].
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "2s", value_parser = duration, help_heading = OUTPUT)]
    watch: Option<Duration>,
    #[command(flatten)]
    git: GitArgs,
}

pub(super) fn run(args: &StatusArgs, verbosity: &Verbosity) -> Result<ExitCode, Failure> {
    let runtime = output::runtime()?;
    loop {
        let overview = args.overview(&runtime, verbosity)?;
        let text = match args.output {
            TextOrJson::Json => json::text(OverviewJson::new(&overview)),
            TextOrJson::Text => shown(&overview),
        };
        let Some(pause) = args.watch else {
            output::print(&text)?;
            let bad = overview.urgency() == Urgency::Bad;
            return Ok(if bad { ExitCode::from(CHANGES) } else { ExitCode::SUCCESS });
        };
        // A terminal is cleared; what reads a pipe gets one result after another.
        let clear = if output::width().is_some() && args.output == TextOrJson::Text { "\u{1b}[H\u{1b}[2J" } else { "" };
        output::print(&format!("{clear}{text}"))?;
        std::thread::sleep(pause);
    }
}

impl StatusArgs {
    fn overview(&self, runtime: &output::Runtime, verbosity: &Verbosity) -> Result<Overview, Failure> {
        let cluster = &self.sources.cluster;
        if let Some(kubeconfig) = &cluster.kubeconfig {
            let api = ApiCluster::read(&PathBuf::from(kubeconfig), &cluster.namespace, PodsRead::None, runtime)?;
            return Ok(api.state.overview());
        }
        let scratch = plan::Scratch::new()?;
        let (known, _) = Known::read(&self.sources.inputs(&self.git, None, None), runtime, &scratch, verbosity)?;
        let (cluster, revision) = (self.sources.cluster.cluster_name.as_str(), known.revision.as_str());
        Ok(known.with_situation(None, |situation| Overview::of_situation(cluster, revision, situation)))
    }
}

fn shown(overview: &Overview) -> String {
    let (colour, width) = (output::colour(), output::width());
    let painted = lines(overview, Clock::system().now()).into_iter().map(|(urgency, line)| {
        let style = match urgency {
            None => Paint::Title,
            Some(Urgency::Bad) => Paint::Bad,
            Some(Urgency::Doubtful) => Paint::Doubtful,
            Some(Urgency::Fine) => return wrapped(&line, 2, width),
        };
        wrapped(&line, 2, width).lines().map(|line| paint(line, style, colour) + "\n").collect()
    });
    painted.collect()
}

/// A cluster at a glance, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OverviewJson<'a> {
    cluster: &'a str,
    revision: &'a str,
    urgency: &'static str,
    waits: Option<&'a str>,
    rejected: &'a [Rejected],
    policies: Vec<PolicyJson<'a>>,
    nodes: Vec<NodeJson<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyJson<'a> {
    name: &'a str,
    urgency: &'static str,
    pods: u64,
    destinations: Vec<String>,
    gateways: &'a [String],
    addresses: &'a [String],
    state: &'static str,
    since: Option<String>,
    reason: &'a str,
    cause: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeJson<'a> {
    name: &'a str,
    urgency: &'static str,
    revision: Option<&'a str>,
    addresses: &'a [String],
    drift: u64,
    state: &'static str,
    since: Option<String>,
    cause: Option<&'a str>,
    heard: Option<String>,
    dropped_per_minute: Option<u64>,
}

impl<'a> OverviewJson<'a> {
    fn new(overview: &'a Overview) -> Self {
        Self {
            cluster: &overview.cluster,
            revision: &overview.revision,
            urgency: word(overview.urgency()),
            waits: overview.waits.as_deref(),
            rejected: &overview.rejected,
            policies: overview.policies.iter().map(PolicyJson::from).collect(),
            nodes: overview.nodes.iter().map(NodeJson::from).collect(),
        }
    }
}

fn word(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Bad => "bad",
        Urgency::Doubtful => "doubtful",
        Urgency::Fine => "fine",
    }
}

impl<'a> From<&'a PolicyRow> for PolicyJson<'a> {
    fn from(row: &'a PolicyRow) -> Self {
        Self {
            name: row.policy.name.as_str(),
            urgency: word(row.urgency),
            pods: row.pods,
            destinations: row.destinations.iter().map(ToString::to_string).collect(),
            gateways: &row.gateways,
            addresses: &row.addresses,
            state: row.state,
            since: row.since.map(|since| since.to_string()),
            reason: &row.reason,
            cause: row.cause.as_deref(),
        }
    }
}

impl<'a> From<&'a NodeRow> for NodeJson<'a> {
    fn from(row: &'a NodeRow) -> Self {
        Self {
            name: row.node.as_str(),
            urgency: word(row.urgency),
            revision: row.revision.as_deref(),
            addresses: &row.exits,
            drift: row.drift,
            state: row.state,
            since: row.since.map(|since| since.to_string()),
            cause: row.cause.as_deref(),
            heard: row.heard.map(|heard| heard.to_string()),
            dropped_per_minute: row.dropped_per_minute,
        }
    }
}
