//! `egret doctor --kubeconfig`: every agent's own checks, put together. `core::checks` does that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::cluster::{ask, connect, refused};
use super::diagnostics::Colour;
use super::json;
use super::output::{self, Failure, Form, Paint, paint};
use crate::core::checks::{CheckAnswer, ChecksAnswer, ClusterHealth, Examined, Severity};
use crate::core::name::NodeName;

/// How long one agent may take: its checks try features of the kernel.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer in bytes.
const LARGEST: usize = 256 << 10;

pub(super) fn run(kubeconfig: &Path, namespace: &str, form: Form) -> Result<ExitCode, Failure> {
    let runtime = output::runtime()?;
    let client = connect(kubeconfig, &runtime)?;
    let nodes = runtime.block_on(client.linux_nodes()).map_err(refused)?;
    let questions = nodes.into_iter().map(|node| (node, "/v1/doctor".to_owned())).collect();
    let answers = runtime.block_on(ask(&client, namespace, questions, LARGEST, PATIENCE));
    let examined: BTreeMap<NodeName, Examined> =
        answers.into_iter().map(|(node, answer)| (node, answer.and_then(|bytes| checks(&bytes)))).collect();
    let health = ClusterHealth::of(&examined);
    output::print(&match form {
        Form::Json => json::text(HealthJson::new(&health, &examined)),
        form => shown(&health, form, output::colour()),
    })?;
    Ok(if health.is_bad() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn checks(bytes: &[u8]) -> Examined {
    let answer: ChecksAnswer =
        serde_json::from_slice(bytes).map_err(|_| "its answer cannot be read by this version of egret".to_owned())?;
    if answer.format_version == 1 { Ok(answer.bounded()) } else { Err("it answers in a newer form".to_owned()) }
}

/// The result for programs.
#[derive(Serialize)]
struct HealthJson<'a> {
    #[serde(flatten)]
    health: &'a ClusterHealth,
    checks: BTreeMap<&'a str, &'a [CheckAnswer]>,
}

impl<'a> HealthJson<'a> {
    fn new(health: &'a ClusterHealth, examined: &'a BTreeMap<NodeName, Examined>) -> Self {
        let answered = examined.iter().filter_map(|(node, answer)| Some((node.as_str(), answer.as_deref().ok()?)));
        Self { health, checks: answered.collect() }
    }
}

fn shown(health: &ClusterHealth, form: Form, colour: Colour) -> String {
    let mut text = format!("{}\n", health.summary());
    for problem in &health.problems {
        let (word, style) = match problem.severity {
            Severity::Error => ("error", Paint::Bad),
            Severity::Silent => ("silent", Paint::Bad),
            Severity::Warn | Severity::Ok => ("warn", Paint::Doubtful),
        };
        let (line, hint) = problem.lines();
        let _ = match form {
            Form::Markdown => writeln!(text, "- **{word}** {line}"),
            _ => writeln!(text, "{} {line}", paint(&format!("{word:<6}"), style, colour)),
        };
        if let Some(hint) = hint {
            let _ = match form {
                Form::Markdown => writeln!(text, "  <br>hint: {hint}"),
                _ => writeln!(text, "       hint: {hint}"),
            };
        }
    }
    if health.more > 0 {
        let _ = writeln!(text, "and {} more; `-o json` has what each node says", health.more);
    }
    text
}
