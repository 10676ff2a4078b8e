//! A preview for programs.
//!
//! Deliberately absent: sentences that a program would have to take apart; those that are there are for showing.

use serde_json::{Value, json};

use crate::core::compile::Disposition;
use crate::core::diagnostic::Diagnostic;
use crate::core::preview::{ConnectionFate, FailureOutcome, Preview, RiskLevel, Sentences};

/// The whole preview.
pub(super) fn json(preview: &Preview<'_>) -> Value {
    let words = Sentences(preview);
    let input = &preview.input;
    let found = input.validation.found.iter().map(|(one, known)| diagnostic(one, *known));
    json!({
        "cluster": input.cluster,
        "base": input.commits.0,
        "head": input.commits.1,
        "clusterAsOf": input.facts_from,
        "changes": preview.changes(),
        "concernsCluster": input.concerned,
        "verdict": words.verdict(),
        "validation": {
            "errors": input.validation.tally.errors,
            "warnings": input.validation.tally.warnings,
            "documents": input.validation.tally.documents,
            "found": found.collect::<Vec<_>>(),
            "held": input.validation.held.iter().map(|held| held.identity.to_string()).collect::<Vec<_>>(),
        },
        "policies": {
            "added": names(&preview.policies.added),
            "changed": names(&preview.policies.changed),
            "removed": names(&preview.policies.removed),
        },
        "podsMoved": preview.moved,
        "moves": moves(preview),
        "dangers": dangers(preview),
        "waits": preview.waits,
        "ifAGatewayDies": losses(preview),
        "nodes": nodes(preview),
        "configDiff": input.config_diff,
        "drift": preview.drift,
    })
}

fn moves(preview: &Preview<'_>) -> Vec<Value> {
    let words = Sentences(preview);
    let moves = preview.moves.iter().zip(&preview.fates).map(|(one, fate)| {
        let [from, to, _] = words.ways(one).map(|phrase| phrase.to_string());
        json!({
            "policy": one.policy.to_string(),
            "policyBefore": one.was.as_ref().map(ToString::to_string),
            "namespace": one.namespace,
            "from": {"way": kind(&one.from), "text": from},
            "to": {"way": kind(&one.to), "text": to},
            "towards": one.towards.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "openConnections": match fate {
                ConnectionFate::Cut => "cut",
                ConnectionFate::Drained => "keptForTenMinutes",
                ConnectionFate::Kept => "kept",
            },
            "pods": one.pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(),
        })
    });
    moves.collect()
}

fn dangers(preview: &Preview<'_>) -> Vec<Value> {
    let dangers = preview.dangers.iter().map(|danger| {
        let level = match danger.level {
            RiskLevel::Danger => "danger",
            RiskLevel::Warning => "warning",
            RiskLevel::Note => "note",
            RiskLevel::Waits => "waits",
        };
        json!({"level": level, "code": danger.code, "title": danger.title, "text": danger.text.to_string()})
    });
    dangers.collect()
}

fn names(policies: &[crate::core::policy::PolicyId]) -> Vec<String> {
    policies.iter().map(ToString::to_string).collect()
}

fn kind(way: &Disposition) -> &'static str {
    match way {
        Disposition::Exit(_) => "exit",
        Disposition::Drop => "dropped",
        Disposition::Own => "own",
    }
}

fn diagnostic(one: &Diagnostic, known: bool) -> Value {
    json!({
        "file": one.file,
        "line": one.start.line,
        "column": one.start.column,
        "severity": one.severity,
        "code": one.code,
        "message": one.message,
        "hint": one.hint,
        "new": !known,
    })
}

fn losses(preview: &Preview<'_>) -> Vec<Value> {
    let losses = preview.losses.iter().map(|loss| {
        let (then, exits) = match &loss.then {
            FailureOutcome::Through(exits) => ("through", exits.iter().map(ToString::to_string).collect()),
            FailureOutcome::Dropped => ("dropped", Vec::new()),
            FailureOutcome::Own => ("own", Vec::new()),
        };
        json!({
            "gateway": loss.gateway.as_str(),
            "policy": loss.policy.to_string(),
            "pods": loss.pods,
            "then": then,
            "exits": exits,
        })
    });
    losses.collect()
}

fn nodes(preview: &Preview<'_>) -> Value {
    let nodes = &preview.nodes;
    let shown = nodes.shown.iter().map(|one| {
        json!({
            "node": one.node.as_str(),
            "alike": one.alike.iter().map(crate::core::name::NodeName::as_str).collect::<Vec<_>>(),
            "title": one.title.to_string(),
            "diff": one.diff,
            "linesLeftOut": one.cut,
        })
    });
    json!({
        "total": nodes.total,
        "changed": nodes.changed,
        "shown": shown.collect::<Vec<_>>(),
        "more": nodes.more.iter().map(crate::core::name::NodeName::as_str).collect::<Vec<_>>(),
    })
}
