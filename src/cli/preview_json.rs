//! A preview for programs: docs/commands.md describes the fields. Sentences in it are for showing.

use serde::Serialize;

use super::assertion_json::FailedAssertionJson;
use crate::core::admission::PendingReason;
use crate::core::compile::Disposition;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::name::NodeName;
use crate::core::policy::PolicyId;
use crate::core::preview::{ConnectionFate, FailureOutcome, Preview, RiskLevel, Sentences};

/// The whole preview.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PreviewJson<'p> {
    cluster: &'p str,
    base: &'p str,
    head: &'p str,
    cluster_as_of: &'p str,
    changes: bool,
    concerns_cluster: bool,
    verdict: String,
    validation: ValidationJson<'p>,
    policies: PoliciesJson,
    pods_moved: usize,
    moves: Vec<MoveJson<'p>>,
    dangers: Vec<RiskJson>,
    waits: Option<&'p PendingReason>,
    if_a_gateway_dies: Vec<GatewayFailureJson<'p>>,
    nodes: NodesJson<'p>,
    config_diff: &'p str,
    drift: &'p [String],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ValidationJson<'p> {
    errors: usize,
    warnings: usize,
    documents: usize,
    found: Vec<FoundJson<'p>>,
    held: Vec<String>,
    failed_assertions: Vec<FailedAssertionJson<'p>>,
}

#[derive(Debug, Serialize)]
struct FoundJson<'p> {
    file: &'p str,
    line: usize,
    column: usize,
    severity: Severity,
    code: &'static str,
    message: &'p str,
    hint: Option<&'p str>,
    new: bool,
}

#[derive(Debug, Serialize)]
struct PoliciesJson {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MoveJson<'p> {
    policy: String,
    policy_before: Option<String>,
    namespace: &'p str,
    from: WayJson,
    to: WayJson,
    towards: Vec<String>,
    open_connections: &'static str,
    pods: Vec<&'p str>,
}

#[derive(Debug, Serialize)]
struct WayJson {
    way: &'static str,
    text: String,
}

#[derive(Debug, Serialize)]
struct RiskJson {
    level: &'static str,
    code: &'static str,
    title: &'static str,
    text: String,
}

#[derive(Debug, Serialize)]
struct GatewayFailureJson<'p> {
    gateway: &'p str,
    policy: String,
    pods: usize,
    then: &'static str,
    exits: Vec<String>,
    /// Whether sources lead them there by themselves.
    standby: bool,
}

#[derive(Debug, Serialize)]
struct NodesJson<'p> {
    total: usize,
    changed: usize,
    shown: Vec<NodeJson<'p>>,
    more: Vec<&'p str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeJson<'p> {
    node: &'p str,
    alike: Vec<&'p str>,
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<&'p str>,
    lines_left_out: usize,
}

impl<'p> PreviewJson<'p> {
    /// Of a preview, with or without the diffs of nodes.
    pub(super) fn new(preview: &'p Preview<'p>, diff: bool) -> Self {
        let input = &preview.input;
        let names = |policies: &[PolicyId]| policies.iter().map(ToString::to_string).collect();
        Self {
            cluster: input.cluster,
            base: input.commits.0,
            head: input.commits.1,
            cluster_as_of: input.facts_from,
            changes: preview.changes(),
            concerns_cluster: input.concerned,
            verdict: Sentences(preview).verdict(),
            validation: ValidationJson {
                errors: input.validation.tally.errors,
                warnings: input.validation.tally.warnings,
                documents: input.validation.tally.documents,
                found: input.validation.found.iter().map(|(one, known)| found(one, *known)).collect(),
                held: input.validation.held.iter().map(|held| held.identity.to_string()).collect(),
                failed_assertions: input.validation.assertions.iter().map(FailedAssertionJson::from).collect(),
            },
            policies: PoliciesJson {
                added: names(&preview.policies.added),
                changed: names(&preview.policies.changed),
                removed: names(&preview.policies.removed),
            },
            pods_moved: preview.moved,
            moves: moves(preview),
            dangers: risks(preview),
            waits: preview.waits.as_ref(),
            if_a_gateway_dies: gateway_failures(preview),
            nodes: nodes(preview, diff),
            config_diff: input.config_diff,
            drift: &preview.drift,
        }
    }
}

fn found(one: &Diagnostic, known: bool) -> FoundJson<'_> {
    FoundJson {
        file: &one.file,
        line: one.start.line,
        column: one.start.column,
        severity: one.severity,
        code: one.code,
        message: &one.message,
        hint: one.hint.as_deref(),
        new: !known,
    }
}

fn moves<'p>(preview: &'p Preview<'p>) -> Vec<MoveJson<'p>> {
    let words = Sentences(preview);
    let moves = preview.moves.iter().zip(&preview.fates).map(|(one, fate)| {
        let [from, to, _] = words.exits(one).map(|phrase| phrase.to_string());
        MoveJson {
            policy: one.policy.to_string(),
            policy_before: one.was.as_ref().map(ToString::to_string),
            namespace: &one.namespace,
            from: WayJson { way: kind(&one.from), text: from },
            to: WayJson { way: kind(&one.to), text: to },
            towards: one.towards.iter().map(ToString::to_string).collect(),
            open_connections: match fate {
                ConnectionFate::Cut => "cut",
                ConnectionFate::Drained => "keptForTenMinutes",
                ConnectionFate::Kept => "kept",
            },
            pods: one.pods.iter().map(|pod| pod.name.as_str()).collect(),
        }
    });
    moves.collect()
}

fn kind(way: &Disposition) -> &'static str {
    match way {
        Disposition::Exit(_) => "exit",
        Disposition::Drop => "dropped",
        Disposition::Own => "own",
    }
}

fn risks(preview: &Preview<'_>) -> Vec<RiskJson> {
    let risks = preview.risks.iter().map(|risk| {
        let level = match risk.level {
            RiskLevel::Danger => "danger",
            RiskLevel::Warning => "warning",
            RiskLevel::Note => "note",
            RiskLevel::Waits => "waits",
        };
        RiskJson { level, code: risk.code, title: risk.title, text: risk.text.to_string() }
    });
    risks.collect()
}

fn gateway_failures<'p>(preview: &'p Preview<'p>) -> Vec<GatewayFailureJson<'p>> {
    let failures = preview.gateway_failures.iter().map(|failure| {
        let (then, exits) = match &failure.then {
            FailureOutcome::Through(exits) => ("through", exits.iter().map(ToString::to_string).collect()),
            FailureOutcome::Dropped => ("dropped", Vec::new()),
            FailureOutcome::Own => ("own", Vec::new()),
        };
        let (gateway, policy) = (failure.gateway.as_str(), failure.policy.to_string());
        let standby = failure.standby;
        GatewayFailureJson { gateway, policy, pods: failure.pods, then, exits, standby }
    });
    failures.collect()
}

fn nodes<'p>(preview: &'p Preview<'p>, diff: bool) -> NodesJson<'p> {
    let nodes = &preview.nodes;
    let shown = nodes.shown.iter().map(|one| NodeJson {
        node: one.node.as_str(),
        alike: one.alike.iter().map(NodeName::as_str).collect(),
        title: one.title.to_string(),
        diff: diff.then_some(one.diff.as_str()),
        lines_left_out: one.cut,
    });
    NodesJson {
        total: nodes.total,
        changed: nodes.changed,
        shown: shown.collect(),
        more: nodes.more.iter().map(NodeName::as_str).collect(),
    }
}
