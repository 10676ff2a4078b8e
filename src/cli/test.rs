//! `egret test`: sends a request from pods of this node to a server that says which address it sees, and compares that with what
//! `explain` promises.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::{GitArgs, OUTPUT, duration};
use super::exit::CHANGES;
use super::known::{Known, SourceArgs, pod_name};
use super::output::{self, Failure, Paint, TextOrJson, Verbosity, paint};
use super::{json, plan};
use crate::clock::Clock;
use crate::core::explain::{Explanation, Question, Verdict, explain, members_on, verdict_line};
use crate::core::facts::PodName;
use crate::core::name::NodeName;
use crate::core::policy::PolicyId;
use crate::core::text::wrapped;
use crate::https::echo::{EchoError, seen_by};
use crate::kernel::pod_namespace::PodNamespace;
use crate::telemetry::chain;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every address is the promised one, 2 one is not, or an answer is missing, 1 failure."
)]
pub(super) struct TestArgs {
    /// A server that answers with the address it sees: http://HOST[:PORT][/PATH]. A plain text, a sentence or JSON will do.
    #[arg(long, value_name = "URL", value_parser = echo)]
    echo: Echo,
    /// This pod alone: NAMESPACE/NAME [default: one member of each policy that has members on this node].
    #[arg(long, value_name = "NS/NAME", value_parser = pod_name)]
    pod: Option<PodName>,
    /// The pod's network namespace [default: the one that has the pod's address].
    #[arg(long, value_name = "FILE", requires = "pod")]
    netns: Option<PathBuf>,
    /// How long an answer may take.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = duration)]
    patience: Duration,
    #[command(flatten)]
    sources: SourceArgs,
    /// The form of the result.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = TextOrJson::Text, help_heading = OUTPUT)]
    output: TextOrJson,
    #[command(flatten)]
    git: GitArgs,
}

/// The server to ask.
#[derive(Debug, Clone)]
struct Echo {
    /// As the `Host` header has it.
    authority: String,
    path: String,
    addresses: BTreeSet<SocketAddr>,
}

fn echo(text: &str) -> Result<Echo, String> {
    let expected = "as in http://10.0.4.2/ or http://icanhazip.com; not https: what is compared is the address alone";
    let rest = text.strip_prefix("http://").ok_or(expected)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.is_empty() || authority.contains('@') || path.contains(char::is_whitespace) {
        return Err(expected.to_owned());
    }
    let with_port = match authority.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() && !authority.ends_with(']') => authority.to_owned(),
        _ => format!("{authority}:80"),
    };
    // Here, and not in the pod: its name servers are of no concern.
    let addresses = with_port.to_socket_addrs().map_err(|error| format!("look up {authority}: {error}"))?;
    let path = if path.is_empty() { "/" } else { path };
    Ok(Echo { authority: authority.to_owned(), path: path.to_owned(), addresses: addresses.collect() })
}

/// A pod, a destination, and what is promised.
struct Trial {
    to: SocketAddr,
    explanation: Explanation,
    result: Result<IpAddr, Miss>,
    took: Duration,
}

/// Why no address was seen.
#[derive(Debug)]
enum Miss {
    /// Nothing was sent.
    NotTried(String),
    /// The server was reached, and its answer has no address.
    Reached(String),
    /// Nothing came back.
    Lost(String),
}

impl Miss {
    fn why(&self) -> &str {
        let (Self::NotTried(why) | Self::Reached(why) | Self::Lost(why)) = self;
        why
    }
}

/// What a trial shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Judgement {
    /// As promised.
    AsPromised,
    /// Another address.
    WrongAddress,
    /// No answer, though one was promised.
    NoAnswer,
    /// An answer, though the packets are to be dropped.
    NotDropped,
    /// An answer, and nothing to compare it with: the packets are not steered, the gateway's address is not known, or the
    /// answer has none.
    NothingPromised,
    /// Nothing could be sent.
    NotTried,
}

impl Trial {
    fn judge(&self) -> Judgement {
        match (self.explanation.verdict.decided(), &self.result) {
            (Verdict::Leaves { address, .. }, Ok(seen)) if address == seen => Judgement::AsPromised,
            (Verdict::Leaves { .. }, Ok(_)) => Judgement::WrongAddress,
            (_, Err(Miss::NotTried(_))) => Judgement::NotTried,
            (Verdict::Dropped { .. }, Ok(_) | Err(Miss::Reached(_))) => Judgement::NotDropped,
            (Verdict::Dropped { .. }, Err(Miss::Lost(_))) => Judgement::AsPromised,
            (_, Ok(_) | Err(Miss::Reached(_))) => Judgement::NothingPromised,
            (_, Err(Miss::Lost(_))) => Judgement::NoAnswer,
        }
    }

    fn line(&self) -> String {
        let Explanation { question, verdict, claim, .. } = &self.explanation;
        let policy = claim.as_ref().map_or("no policy", |claim| claim.policy.name.as_str());
        let (to, took) = (self.to, self.took.as_millis());
        let seen = match &self.result {
            Ok(address) => format!("is seen as {address} after {took} ms"),
            Err(Miss::NotTried(why)) => format!("was not asked: {why}"),
            Err(Miss::Reached(why)) => format!("is reached, and its address is not seen: {why}"),
            Err(Miss::Lost(why)) => format!("has no answer: {why}"),
        };
        let word = match self.judge() {
            Judgement::AsPromised => "ok",
            Judgement::WrongAddress => "WRONG ADDRESS",
            Judgement::NoAnswer => "NO ANSWER",
            Judgement::NotDropped => "NOT DROPPED",
            Judgement::NothingPromised => "not compared",
            Judgement::NotTried => "not tried",
        };
        format!(
            "{word}  {policy}: {} → {to} {seen}; promised: {}",
            question.pod,
            verdict_line(verdict, Clock::system().now())
        )
    }
}

pub(super) fn run(args: &TestArgs, verbosity: &Verbosity) -> Result<ExitCode, Failure> {
    if args.sources.cluster.kubeconfig.is_some() || args.sources.cluster.offline {
        let hint = "it sends from pods of the machine that it runs on: run it on their node, as root";
        return Err(Failure::new("nothing can be sent from here", Some(hint.to_owned())));
    }
    let runtime = output::runtime()?;
    let scratch = plan::Scratch::new()?;
    let inputs = args.sources.inputs(&args.git, None, args.pod.as_ref());
    let (known, _) = Known::read(&inputs, &runtime, &scratch, verbosity)?;
    let node =
        known.inquiry.as_ref().and_then(|inquiry| inquiry.kernel.as_ref()).map(|reading| reading.kernel.node.clone());
    let node = node.ok_or_else(|| {
        let hint = "run it as root on a node where Egret runs, and give --node its name";
        Failure::new("this machine's kernel is not read, so nothing is promised", Some(hint.to_owned()))
    })?;
    let chosen = args.chosen(&known, &node)?;
    let mut trials = Vec::new();
    for (to, explanation) in chosen.trials {
        let begun = Instant::now();
        let result = args.ask(to, &explanation);
        trials.push(Trial { to, explanation, result, took: begun.elapsed() });
    }
    let text = match args.output {
        TextOrJson::Json => json::text(TestJson::new(&trials, &chosen.untested)),
        TextOrJson::Text => shown(&trials, &chosen.untested),
    };
    output::print(&text)?;
    if trials.iter().all(|trial| trial.judge() == Judgement::NotTried) {
        return Ok(ExitCode::FAILURE);
    }
    let good = trials.iter().all(|trial| matches!(trial.judge(), Judgement::AsPromised | Judgement::NothingPromised));
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
}

/// What is tried, and which policies of this node's members are not, as the server is none of their destinations.
struct Chosen {
    trials: Vec<(SocketAddr, Explanation)>,
    untested: BTreeSet<PolicyId>,
}

impl TestArgs {
    fn chosen(&self, known: &Known, node: &NodeName) -> Result<Chosen, Failure> {
        let pods: Vec<&PodName> = match &self.pod {
            Some(pod) => vec![pod],
            None => known
                .facts
                .pods
                .iter()
                .filter(|(_, pod)| pod.node.as_ref() == Some(node))
                .map(|(name, _)| name)
                .collect(),
        };
        let mut trials: BTreeMap<(Option<PolicyId>, SocketAddr), (SocketAddr, Explanation)> = BTreeMap::new();
        for pod in pods {
            for to in &self.echo.addresses {
                let question = Question { pod: pod.clone(), destination: to.ip() };
                let explained = known.with_situation(Some(pod), |situation| explain(&question, situation));
                let explanation = explained.map_err(|error| Failure::unknown_pod(error, &known.facts))?;
                if explanation.node.as_ref() != Some(node) {
                    let at = explanation.node.as_ref().map_or("no node", NodeName::as_str);
                    let hint = format!("run it there: this machine is {node}");
                    return Err(Failure::new(format!("{pod} is on {at}"), Some(hint)));
                }
                let policy = explanation.claim.as_ref().map(|claim| claim.policy.clone());
                if explanation.address.is_some() && (policy.is_some() || self.pod.is_some()) {
                    trials.entry((policy, *to)).or_insert((*to, explanation));
                }
            }
        }
        let tested: BTreeSet<PolicyId> = trials.keys().filter_map(|(policy, _)| policy.clone()).collect();
        let with_members = known.with_situation(None, |situation| members_on(node, situation));
        let untested: BTreeSet<PolicyId> = with_members.difference(&tested).cloned().collect();
        if trials.is_empty() {
            let hint =
                "choose a server among the destinations of a policy with members on this node, or name a pod by --pod";
            let what = format!("no policy with members on {node} has {} as a destination", self.echo.authority);
            return Err(Failure::new(what, Some(hint.to_owned())));
        }
        Ok(Chosen {
            trials: trials.into_values().collect(),
            untested: if self.pod.is_some() { BTreeSet::new() } else { untested },
        })
    }

    /// Asks from the pod's own network namespace.
    fn ask(&self, to: SocketAddr, explanation: &Explanation) -> Result<IpAddr, Miss> {
        let no_address = || Miss::NotTried("the pod has no address of this family".to_owned());
        let address = explanation.address.ok_or_else(no_address)?;
        let namespace = match &self.netns {
            Some(path) => PodNamespace::at(path),
            None => PodNamespace::of(address),
        };
        let namespace = namespace.map_err(|error| {
            let hint = "name it by --netns; a node's own processes are seen from the machine's process namespace alone";
            Miss::NotTried(format!("{} ({hint})", chain(&error)))
        })?;
        let (patience, echo) = (self.patience, self.echo.clone());
        let inside = move || {
            let runtime = output::runtime().map_err(|failure| Miss::NotTried(failure.parts().0))?;
            let asked = seen_by(to, (&echo.authority, &echo.path), patience);
            let miss = |error: EchoError| {
                let why = error.to_string();
                if error.reached() { Miss::Reached(why) } else { Miss::Lost(why) }
            };
            runtime.block_on(asked).map_err(miss)
        };
        namespace.enter(inside).map_err(|error| Miss::NotTried(chain(&error)))?
    }
}

fn shown(trials: &[Trial], untested: &BTreeSet<PolicyId>) -> String {
    let (colour, width) = (output::colour(), output::width());
    let mut text = String::new();
    for trial in trials {
        let style = match trial.judge() {
            Judgement::AsPromised => None,
            Judgement::NothingPromised | Judgement::NotTried => Some(Paint::Doubtful),
            _ => Some(Paint::Bad),
        };
        for line in wrapped(&trial.line(), 2, width).lines() {
            let painted = style.map_or_else(|| line.to_owned(), |style| paint(line, style, colour));
            text.push_str(&(painted + "\n"));
        }
    }
    if !untested.is_empty() {
        let names: Vec<String> = untested.iter().map(ToString::to_string).collect();
        let line = format!("not tested, as the server is none of their destinations: {}", names.join(", "));
        text.push_str(&wrapped(&line, 2, width));
    }
    text
}

/// The result for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TestJson {
    trials: Vec<TrialJson>,
    untested: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrialJson {
    pod: String,
    policy: Option<String>,
    to: String,
    promised: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    promised_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    result: Judgement,
    milliseconds: u64,
}

impl TestJson {
    fn new(trials: &[Trial], untested: &BTreeSet<PolicyId>) -> Self {
        let now = Clock::system().now();
        let one = |trial: &Trial| TrialJson {
            pod: trial.explanation.question.pod.to_string(),
            policy: trial.explanation.claim.as_ref().map(|claim| claim.policy.to_string()),
            to: trial.to.to_string(),
            promised: verdict_line(&trial.explanation.verdict, now),
            promised_address: match trial.explanation.verdict.decided() {
                Verdict::Leaves { address, .. } => Some(address.to_string()),
                _ => None,
            },
            seen: trial.result.as_ref().ok().map(ToString::to_string),
            error: trial.result.as_ref().err().map(|miss| miss.why().to_owned()),
            result: trial.judge(),
            milliseconds: u64::try_from(trial.took.as_millis()).unwrap_or(u64::MAX),
        };
        Self { trials: trials.iter().map(one).collect(), untested: untested.iter().map(ToString::to_string).collect() }
    }
}
