//! `egret explain`: what becomes of a pod's packets to an address, and why; or who leaves with an address. `core::explain` answers.
//!
//! On a node its kernel and its own memory are read; elsewhere the repository, the cluster's manifests or snapshot, and what nodes report.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use super::args::{GitArgs, OUTPUT};
use super::diagnostics::Colour;
use super::exit::CHANGES;
use super::explain_json::{AddressJson, ExplanationJson};
use super::known::{Inputs, Known, SourceArgs, pod_name};
use super::output::{self, Failure, Paint, TextOrJson, Verbosity, paint};
use super::{json, live, plan};
use crate::clock::Clock;
use crate::cluster::live::PodsRead;
use crate::core::address_class::asked_address;
use crate::core::explain::{
    ExplainedLines, Explanation, LiveConnection, LiveOutcome, Question, Verdict, address_lines, counted_between,
    explain, leaving_as, lines, seen_as,
};
use crate::core::facts::PodName;
use crate::core::name::NodeName;
use crate::core::text::wrapped;
use crate::git::mirror::Mirror;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 the packets leave or are not steered, 2 they are dropped, a kernel differs or --live was not accepted, 1 failure."
)]
pub(super) struct ExplainArgs {
    /// The pod: NAMESPACE/NAME.
    #[arg(value_name = "NS/NAME", value_parser = pod_name)]
    of: Option<PodName>,
    /// The same as an option.
    #[arg(long, value_name = "NS/NAME", value_parser = pod_name, conflicts_with = "of")]
    pod: Option<PodName>,
    /// The destination's address.
    #[arg(long, value_name = "ADDRESS", value_parser = asked_address)]
    to: Option<IpAddr>,
    /// The source address that a server has seen: whose it is.
    #[arg(long, value_name = "ADDRESS", value_parser = asked_address, requires = "to")]
    seen_as: Option<IpAddr>,
    /// The reverse question: who leaves with this address.
    #[arg(long, value_name = "ADDRESS", value_parser = asked_address, conflicts_with_all = ["of", "pod", "to"])]
    address: Option<IpAddr>,
    /// List the pod's open connections to the destination, of which some may be older than what is active; on the pod's node, or by
    /// --kubeconfig.
    #[arg(long, requires = "to")]
    connections: bool,
    /// Open a TCP connection to this port from the pod itself, and show what came of it and what the kernels on the way counted meanwhile. On
    /// the pod's node only, as root.
    #[arg(long, value_name = "PORT", requires = "to")]
    live: Option<u16>,
    /// The pod's network namespace [default: the one that has the pod's address].
    #[arg(long, value_name = "FILE", requires = "live")]
    netns: Option<PathBuf>,
    /// The revision that counts where no node is read: a branch, a tag, a commit [default: what the pod's node reports as active, else the
    /// default branch].
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    #[command(flatten)]
    sources: SourceArgs,
    /// The form of the result.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = TextOrJson::Text, help_heading = OUTPUT)]
    output: TextOrJson,
    #[command(flatten)]
    git: GitArgs,
}

pub(super) fn run(args: &ExplainArgs, verbosity: &Verbosity) -> Result<ExitCode, Failure> {
    let question = args.question()?;
    let pod = question.as_ref().map(|question| &question.pod);
    let inputs = args.sources.inputs(&args.git, args.rev.as_deref(), pod);
    let runtime = output::runtime()?;
    let scratch = plan::Scratch::new()?;
    let read = || args.know(&inputs, question.as_ref(), &runtime, &scratch, verbosity);
    let (mut known, mut mirror) = read()?;
    let now = Clock::system().now();
    let Some(question) = &question else {
        let address = args.address.ok_or_else(Failure::no_question)?;
        let found = known.with_situation(None, |situation| leaving_as(address, situation));
        let text = match args.output {
            TextOrJson::Json => json::text(AddressJson::new(address, &found)),
            TextOrJson::Text => shown(address_lines(address, &found), None),
        };
        output::print(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    let live = match args.live {
        Some(port) => Some(args.try_live(port, question, &known)?),
        None => None,
    };
    if live.is_some() {
        // What was counted meanwhile is in the kernels now.
        (known, mirror) = read()?;
    }
    let explained = known.with_situation(pod, |situation| {
        let seen = args.seen_as.map(|address| (address, seen_as(address, question, situation)));
        explain(question, situation).map(|explanation| (explanation, seen))
    });
    let (mut explanation, seen) = explained.map_err(|error| Failure::unknown_pod(error, &known.facts))?;
    explanation.changed = known.changed(&explanation, mirror.as_mut());
    explanation.live = live.map(|(before, live)| {
        let counted = counted_between(&before, &explanation);
        LiveConnection { counted, ..live }
    });
    if known.api.is_some() {
        explanation.connections = known.connections_told(&explanation);
    } else if args.connections {
        let reading = known.inquiry.as_ref().and_then(|inquiry| inquiry.kernel.as_ref());
        let here = reading.filter(|reading| explanation.node.as_ref() == Some(&reading.kernel.node));
        let reading = here.zip(explanation.address).ok_or_else(|| {
            let hint = "run it on the pod's node, and give --node its name there";
            Failure::new("list the connections: the kernel of the pod's node is not read here", Some(hint.to_owned()))
        })?;
        let found = reading.0.connections((reading.1, question.destination), &explanation.verdict, &runtime);
        explanation.connections = Some(found.map_err(|error| Failure::new(error, None))?);
    }
    let text = match args.output {
        TextOrJson::Json => json::text(ExplanationJson::new(&explanation, &known.revision, seen.as_ref())),
        TextOrJson::Text => shown(lines(&explanation, seen.as_ref(), now), Some(&explanation.verdict)),
    };
    output::print(&text)?;
    let unanswered = explanation.live.as_ref().is_some_and(|live| live.outcome != LiveOutcome::Connected);
    let bad = unanswered || matches!(explanation.verdict, Verdict::Dropped { .. } | Verdict::Differs { .. });
    Ok(if bad { ExitCode::from(CHANGES) } else { ExitCode::SUCCESS })
}

impl ExplainArgs {
    /// Everything that is known now, with the kernels on the packets' way.
    fn know(
        &self,
        inputs: &Inputs<'_>,
        question: Option<&Question>,
        runtime: &output::Runtime,
        scratch: &plan::Scratch,
        verbosity: &Verbosity,
    ) -> Result<(Known, Option<Mirror>), Failure> {
        // Who leaves with an address is known only from all pods.
        let pods = match question {
            Some(Question { pod, destination }) if self.seen_as.is_none() => {
                PodsRead::Of { pod, destination: *destination }
            }
            _ => PodsRead::All,
        };
        let (mut known, mirror) = Known::of(inputs, pods, runtime, scratch, verbosity)?;
        if let Some(question) = question.filter(|_| !inputs.cluster.offline) {
            known.ask_kernels(question, self.connections, &inputs.cluster.namespace, runtime);
        }
        Ok((known, mirror))
    }

    /// Opens a connection from the pod; returns what was known before, and what came of it.
    fn try_live(
        &self,
        port: u16,
        question: &Question,
        known: &Known,
    ) -> Result<(Explanation, LiveConnection), Failure> {
        let explained = known.with_situation(Some(&question.pod), |situation| explain(question, situation));
        let before = explained.map_err(|error| Failure::unknown_pod(error, &known.facts))?;
        let address = before.address.ok_or_else(|| {
            Failure::new(format!("{} has no address of the destination's family", question.pod), None)
        })?;
        let to = SocketAddr::new(question.destination, port);
        let (outcome, took) = live::connect(address, self.netns.as_deref(), to).map_err(|error| {
            let at = before.node.as_ref().map_or("its node", NodeName::as_str);
            Failure::new(error, Some(format!("run it as root on {at}, outside of containers; or name it by --netns")))
        })?;
        Ok((before, LiveConnection { port, outcome, took, counted: Vec::new() }))
    }

    /// The question about a pod; none: who leaves with an address.
    fn question(&self) -> Result<Option<Question>, Failure> {
        match (self.of.as_ref().or(self.pod.as_ref()), self.to, self.address) {
            (Some(pod), Some(destination), None) => Ok(Some(Question { pod: pod.clone(), destination })),
            (None, None, Some(_)) => Ok(None),
            _ => Err(Failure::no_question()),
        }
    }
}

impl Failure {
    fn no_question() -> Self {
        let hint = "`egret explain NAMESPACE/NAME --to ADDRESS`, or `egret explain --address ADDRESS`";
        Self::new("a pod and a destination are asked about, or an address", Some(hint.to_owned()))
    }
}

/// The first line in colour, the others with their labels.
fn shown((head, lines): ExplainedLines, verdict: Option<&Verdict>) -> String {
    let (colour, width) = (output::colour(), output::width());
    let style = match verdict {
        Some(Verdict::Leaves { instead_of: None, .. }) => Paint::Good,
        Some(Verdict::Dropped { .. } | Verdict::Differs { .. }) => Paint::Bad,
        Some(_) => Paint::Doubtful,
        None => Paint::Title,
    };
    let first: String = wrapped(&head, 2, width);
    let painted: String = first.lines().map(|line| paint(line, style, colour) + "\n").collect();
    let rest: String = lines
        .into_iter()
        .map(|(label, text)| {
            let line = wrapped(&format!("  {label:<8}{text}"), 10, width);
            match colour {
                Colour::Yes => line.replacen(label, &paint(label, Paint::Place, colour), 1),
                Colour::No => line,
            }
        })
        .collect();
    painted + &rest
}
