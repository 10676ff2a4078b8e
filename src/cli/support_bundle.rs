//! `egret support-bundle`: everything that an engineer needs to understand a case, as one archive, without secrets. `core::support` says what is
//! left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::args::{GitArgs, OUTPUT};
use super::cluster::{ApiCluster, ask};
use super::known::{ClusterArgs, Known, SourceArgs, pod_name};
use super::output::{self, Failure, Verbosity};
use super::plan;
use crate::clock::Clock;
use crate::cluster::live::PodsRead;
use crate::core::address_class::asked_address;
use crate::core::escape::shown;
use crate::core::explain::{Question, explain, lines as explained};
use crate::core::facts::PodName;
use crate::core::name::NodeName;
use crate::core::overview::{Overview, lines};
use crate::core::policy::published::Published;
use crate::core::report::files::node_file;
use crate::core::snapshot::stamped;
use crate::core::support::{self, Reduced, scrubbed};
use crate::kernel::doctor::{self, DoctorInput};

/// The most bytes of one file, and of all. An attachment of a ticket is seldom larger, once it is compressed.
const LARGEST_FILE: usize = 4 << 20;
const LARGEST: usize = 48 << 20;
/// The most nodes of a cluster whose agents are asked: the worst first, then gateways.
const NODES: usize = 40;
/// The largest answer of an agent in bytes, and how long one may take.
const ANSWER: usize = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// What is left out beside secrets, which always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Redact {
    /// Pods and namespaces that no policy selects, and labels that no selector asks about.
    Others,
    /// Nothing else.
    Secrets,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Secrets are never in it. Look into it before you send it: the file MANIFEST says what is in and what was left out."
)]
pub(super) struct SupportBundleArgs {
    /// What is left out beside secrets: names of others, or nothing.
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Redact::Others)]
    redact: Redact,
    /// A pod that the case is about: it stays in, also if no policy selects it.
    #[arg(long, value_name = "NS/NAME", value_parser = pod_name)]
    pod: Vec<PodName>,
    /// The destination that the case is about: what becomes of packets of these pods to it is explained.
    #[arg(long, value_name = "ADDRESS", value_parser = asked_address, requires = "pod")]
    to: Option<IpAddr>,
    #[command(flatten)]
    sources: SourceArgs,
    /// The archive to write; an existing file is left as it is [default: egret-support-TIME.tar.gz in this folder].
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    out: Option<PathBuf>,
    #[command(flatten)]
    git: GitArgs,
}

pub(super) fn run(args: &SupportBundleArgs, verbosity: &Verbosity) -> Result<ExitCode, Failure> {
    let now = Clock::system().now();
    let (runtime, scratch) = (output::runtime()?, plan::Scratch::new()?);
    let inputs = args.sources.inputs(&args.git, None, args.pod.first());
    let (mut known, _) = Known::of(&inputs, PodsRead::All, &runtime, &scratch, verbosity)?;
    let named: BTreeSet<PodName> = args.pod.iter().cloned().collect();
    let reduced = match args.redact {
        Redact::Others => Reduced::of(&known.facts, &known.set, &named),
        Redact::Secrets => Reduced { facts: known.facts.clone(), ..Reduced::default() },
    };
    let mut bundle = Bundle::new(reduced);
    args.general(&known, &mut bundle);
    args.explanations(&mut known, &mut bundle, &runtime);
    match &known.api {
        Some(api) => args.of_agents(api, &mut bundle, &runtime),
        None => of_this_node(&known, &mut bundle, &runtime),
    }
    let name = format!("egret-support-{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let files = bundle.files.len() + 1;
    bundle.write(&path, &name, u64::try_from(now.as_second()).unwrap_or_default())?;
    output::print(&format!(
        "{}: {files} files; look into MANIFEST, and at the rest, before you send it\n",
        path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

impl SupportBundleArgs {
    /// What is known of the cluster as a whole.
    fn general(&self, known: &Known, bundle: &mut Bundle) {
        let now = Clock::system().now();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let version = format!(
            "egret {} (commit {})\nkernel {} ({})\ntaken {now}\n",
            env!("CARGO_PKG_VERSION"),
            option_env!("EGRET_COMMIT").unwrap_or("not known"),
            release.trim(),
            std::env::consts::ARCH,
        );
        bundle.add("version.txt", "the program, the kernel, the time", &version);
        let overview = match &known.api {
            Some(api) => api.state.overview(),
            None => known.with_situation(None, |situation| {
                Overview::of_situation(&self.sources.cluster.cluster_name, &known.revision, situation)
            }),
        };
        let table: String = lines(&overview, now).into_iter().map(|(_, line)| line + "\n").collect();
        bundle.add("status.txt", "`egret status`", &table);
        let published = Published::of(&known.set);
        let policies = json!({"revision": known.revision, "config": published.config, "policies": published.policies});
        bundle.add("policies.json", "the active policies, and egret.yaml as it takes effect", &pretty(&policies));
        let snapshot = stamped(&bundle.reduced.facts, now);
        bundle.add(
            "snapshot.yaml",
            "nodes, namespaces and pods: `egret explain --cluster snapshot.yaml` reads it",
            &snapshot,
        );
        let rejected =
            known.rejected.iter().map(|one| format!("{}: {}; active is {}", one.place, one.message, one.instead));
        let rejected = in_lines(rejected);
        bundle.add("rejected.txt", "documents whose newest version is not active", &rejected);
        for (node, report) in &known.reports {
            let file = node_file(report).unwrap_or_else(|error| format!("# not written: {error}\n"));
            bundle.add(&format!("reports/{node}.yaml"), "what the node reports", &file);
        }
        bundle.add("options.txt", "what this command was given", &self.options());
        bundle.add("logs.txt", "how to get the logs, which are not in here", LOGS);
    }

    /// The options of this command; those with secrets are files' names at most.
    fn options(&self) -> String {
        let ClusterArgs { cluster, cluster_name, node, state_dir, offline, kubeconfig, namespace } =
            &self.sources.cluster;
        let path = |path: &Option<PathBuf>| path.as_ref().map_or("-".to_owned(), |path| path.display().to_string());
        format!(
            "repo {}\ncluster {}\ncluster-name {cluster_name}\nnode {}\nstate-dir {}\noffline {offline}\nkubeconfig {}\nnamespace {namespace}\n",
            self.sources.repo.repo,
            path(cluster),
            node.as_deref().unwrap_or("-"),
            state_dir.display(),
            path(kubeconfig),
        )
    }

    /// What becomes of the packets that the case is about.
    fn explanations(&self, known: &mut Known, bundle: &mut Bundle, runtime: &output::Runtime) {
        let Some(destination) = self.to else { return };
        for pod in &self.pod {
            let question = Question { pod: pod.clone(), destination };
            if !self.sources.cluster.offline {
                known.ask_kernels(&question, false, &self.sources.cluster.namespace, runtime);
            }
            let text = known.with_situation(Some(pod), |situation| match explain(&question, situation) {
                Ok(explanation) => {
                    let (head, lines) = explained(&explanation, None, situation.now);
                    lines.into_iter().fold(head, |text, (label, line)| format!("{text}\n  {label:<8}{line}")) + "\n"
                }
                Err(error) => format!("{error}\n"),
            });
            bundle.add(&format!("explain/{}-{}.txt", pod.namespace, pod.name), "`egret explain`", &text);
            known.told.clear();
        }
    }

    /// What agents answer: those of the worst nodes first, then those of gateways.
    fn of_agents(&self, api: &ApiCluster, bundle: &mut Bundle, runtime: &output::Runtime) {
        if self.sources.cluster.offline {
            return;
        }
        let mut nodes = api.worst_nodes();
        let left = nodes.len().saturating_sub(NODES);
        nodes.truncate(NODES);
        if left > 0 {
            bundle.left_out.push(format!("kernels of {left} nodes: the worst {NODES} and gateways are in"));
        }
        for (path, file, what) in [
            ("/v1/node", "node.json", "the agent's state: its kernel's objects of Egret's, counters, findings, status"),
            ("/v1/doctor", "doctor.json", "the doctor's checks"),
            ("/metrics", "metrics.txt", "metrics"),
        ] {
            let questions = nodes.iter().map(|node| (node.clone(), path.to_owned())).collect();
            let answers =
                runtime.block_on(ask(api.client(), &self.sources.cluster.namespace, questions, ANSWER, PATIENCE));
            for (node, answer) in answers {
                match answer {
                    Ok(bytes) => bundle.add(&format!("nodes/{node}/{file}"), what, &readable(&bytes)),
                    Err(why) => bundle.left_out.push(format!("{file} of {node}: {}", shown(&why))),
                }
            }
        }
    }
}

/// What this machine's kernel holds, if it is a node, and its doctor's checks.
fn of_this_node(known: &Known, bundle: &mut Bundle, runtime: &output::Runtime) {
    let reading = known.inquiry.as_ref().and_then(|inquiry| inquiry.kernel.as_ref());
    let Some(reading) = reading else {
        bundle.left_out.push("kernels: this machine is no node of the cluster, or nothing is active on it".to_owned());
        return;
    };
    let node = &reading.kernel.node;
    bundle.add(
        &format!("nodes/{node}/state.txt"),
        "Egret's objects in the kernel",
        &support::listing(&reading.kernel.state),
    );
    let desired = support::listing(&reading.kernel.compiled.desired);
    bundle.add(&format!("nodes/{node}/desired.txt"), "the same as they have to be", &desired);
    bundle.add(
        &format!("nodes/{node}/counters.txt"),
        "what rules have counted",
        &support::counters(&reading.kernel.counters),
    );
    let findings = in_lines(reading.kernel.compiled.findings.iter().map(ToString::to_string));
    bundle.add(&format!("nodes/{node}/findings.txt"), "what was found", &findings);
    let input = DoctorInput { range: reading.kernel.range, mask_is_given: true, ..DoctorInput::default() };
    let checks = runtime.block_on(doctor::examine(&input));
    let checks = in_lines(checks.iter().map(|check| format!("{:<5}  {check}", check.severity)));
    bundle.add(&format!("nodes/{node}/doctor.txt"), "the doctor's checks", &checks);
    bundle.left_out.push("metrics: `curl` the address of --listen".to_owned());
}

const LOGS: &str = "On a standalone node: journalctl -u egret --since '2 hours ago'\n\
                    In a cluster:         kubectl logs -n egret-system ds/egret-agent --prefix --since 2h\n\
                    \u{20}                     kubectl logs -n egret-system deploy/egret-controller --since 2h\n\
                    Events:               kubectl get events.events.k8s.io -n default\n\
                    Logs name policies, nodes and exits, and pods where two have one address. They have no secrets of Egret's.\n";

fn in_lines(lines: impl Iterator<Item = String>) -> String {
    lines.flat_map(|line| [line, "\n".to_owned()]).collect()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// An agent's answer: JSON in lines, with its texts broken where they break; anything else as it is, without what a terminal obeys.
fn readable(bytes: &[u8]) -> String {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => pretty(&value),
        Err(_) => {
            String::from_utf8_lossy(bytes).chars().filter(|letter| *letter == '\n' || !letter.is_control()).collect()
        }
    }
}

/// The files of an archive.
struct Bundle {
    reduced: Reduced,
    /// By path: what it is, and its text.
    files: BTreeMap<String, (&'static str, String)>,
    size: usize,
    left_out: Vec<String>,
}

impl Bundle {
    fn new(reduced: Reduced) -> Self {
        let left_out = reduced.left_out();
        Self { reduced, files: BTreeMap::new(), size: 0, left_out }
    }

    /// Adds a file, without secrets, within bounds.
    fn add(&mut self, path: &str, what: &'static str, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut text = self.reduced.without_names(&scrubbed(text));
        if text.len() > LARGEST_FILE {
            text.truncate(text.floor_char_boundary(LARGEST_FILE));
            text.push_str("\n[cut off]\n");
            self.left_out.push(format!("the end of {path}: it has more than {} MiB", LARGEST_FILE >> 20));
        }
        if self.size + text.len() > LARGEST {
            self.left_out.push(format!("{path}: the bundle has {} MiB already", self.size >> 20));
            return;
        }
        self.size += text.len();
        self.files.insert(path.to_owned(), (what, text));
    }

    /// The first file: what is in, and what is not.
    fn manifest(&self) -> String {
        let mut text = "This bundle has:\n\n".to_owned();
        for (path, (what, content)) in &self.files {
            let _ = writeln!(text, "  {path:<40} {what} ({} bytes)", content.len());
        }
        text.push_str(
            "\nIt does not have passwords, tokens, private keys, and passwords in addresses; nor Secrets, environments, images and\n\
             annotations of pods, NAT records, and contents of packets, which Egret never reads for it.\n",
        );
        if !self.left_out.is_empty() {
            text.push_str("\nLeft out:\n\n");
            for one in &self.left_out {
                let _ = writeln!(text, "  {one}");
            }
        }
        text
    }

    fn write(&self, path: &Path, name: &str, time: u64) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            let hint = (error.kind() == std::io::ErrorKind::AlreadyExists).then(|| "name another by --out".to_owned());
            Failure::new(format!("write {}: {error}", path.display()), hint)
        };
        // Only the user may read it.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        let manifest = self.manifest();
        let first = [("MANIFEST", manifest.as_str())].into_iter();
        for (file, text) in first.chain(self.files.iter().map(|(path, (_, text))| (path.as_str(), text.as_str()))) {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(time);
            archive.append_data(&mut header, format!("{name}/{file}"), text.as_bytes()).map_err(failed)?;
        }
        let mut file = archive.into_inner().and_then(GzEncoder::finish).map_err(failed)?;
        file.flush().map_err(failed)
    }
}

impl ApiCluster {
    /// The nodes, those with something wrong first, then gateways, then the others.
    fn worst_nodes(&self) -> Vec<NodeName> {
        let exits = self.state.placement.policies.values().flat_map(|policy| &policy.exits);
        let gateways: BTreeSet<&NodeName> = exits.map(|exit| &exit.gateway).collect();
        let overview = self.state.overview();
        let mut rows: Vec<_> = overview.nodes.iter().collect();
        rows.sort_by_key(|row| (row.urgency, !gateways.contains(&row.node)));
        rows.into_iter().map(|row| row.node.clone()).collect()
    }
}
