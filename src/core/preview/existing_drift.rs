//! Drift that the cluster already has, of the objects that a change touches. It is listed separately: the change
//! neither causes nor corrects it.
//!
//! Not here: drift that was corrected, and drift of other objects; the reports branch has both.

use std::collections::BTreeSet;

use super::{NodeChanges, PodMoves, PolicyDifference};
use crate::core::name::NodeName;
use crate::core::report::drift::DriftClass;
use crate::core::report::history::NodeReport;

/// Open drift and findings of the nodes whose changes are not shared with every node, and of the policies that the
/// change touches.
pub(super) fn drift(
    reports: &[NodeReport],
    policies: &PolicyDifference,
    moves: &PodMoves,
    nodes: &NodeChanges,
) -> Vec<String> {
    let own = nodes.shown.iter().filter(|shown| shown.alike.is_empty()).map(|shown| shown.node.as_str());
    let own: BTreeSet<&str> = own.chain(nodes.more.iter().map(NodeName::as_str)).collect();
    let named = policies.changed.iter().chain(&policies.removed).chain(moves.moves.iter().map(|one| &one.policy));
    let named: BTreeSet<&str> = named.map(|id| id.name.as_str()).collect();
    let mut lines = Vec::new();
    for report in reports {
        let here = own.contains(report.node.as_str());
        for record in &report.drift {
            if !here && !record.wanted_by.iter().any(|wanted| named.contains(wanted.policy.as_str())) {
                continue;
            }
            let how = match record.class {
                DriftClass::Missing => "is gone",
                DriftClass::Extra => "does not belong there",
                DriftClass::Changed => "is changed",
            };
            lines.push(format!("{}: {} {how} since {}", report.node, record.object, record.first_seen));
        }
        let problems = report.findings.iter().filter(|since| since.finding.is_problem());
        for since in problems.filter(|since| here || named.contains(since.finding.subject.as_str())) {
            let (subject, message) = (&since.finding.subject, &since.finding.message);
            lines.push(format!("{}: {subject}: {message}, since {}", report.node, since.since));
        }
    }
    lines.sort();
    lines
}
