//! Writes labels on nodes by server-side apply: the manager `egret` owns exactly what was applied last, labels of
//! others stay.
//!
//! Applying to a node that is gone would create it: the uid in the request is a precondition. Not here: which labels
//! a node should have, and whether to force a conflict; the caller decides both.

use kube::core::Request;
use kube::core::params::{GetParams, Patch, PatchParams};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::error::{ApiError, ApiErrorCause, RefusedField};
use super::wire::Meta;
use super::{ANSWER, ApiClient};
use crate::core::labels::Labels;
use crate::core::name::NodeName;

/// The field manager of Egret's labels.
pub(super) const MANAGER: &str = "egret";
/// The path of nodes.
const NODES: &str = "/api/v1/nodes";

/// The result of an apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelOutcome {
    /// The labels are as requested.
    Applied {
        /// They were not before, or not owned by `egret`.
        changed: bool,
    },
    /// Other managers own some of them with other values; nothing was written.
    Conflict(Vec<FieldConflict>),
    /// The node is gone: there is none of that name, or another one with a new uid.
    Gone,
}

/// A label that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldConflict {
    /// The label's key.
    pub key: String,
    /// The owning manager.
    pub manager: String,
}

/// The identity and the version of a node.
#[derive(Deserialize)]
struct Identity {
    metadata: Meta<IgnoredAny>,
}

impl ApiClient {
    /// Applies exactly these labels as all that the manager `egret` owns on this node. Labels that it owned before
    /// and that are not among them are removed. With `force`, labels that others own are taken over.
    pub async fn apply_labels(
        &self,
        node: &NodeName,
        uid: &str,
        labels: &Labels,
        force: bool,
    ) -> Result<LabelOutcome, ApiError> {
        let doing = format!("labelling node {node}");
        let request = Request::new(NODES).get(node.as_str(), &GetParams::default());
        let before: Identity = match self.call(&doing, request, ANSWER).await {
            Ok(before) => before,
            Err(error) if error.code() == Some(404) => return Ok(LabelOutcome::Gone),
            Err(error) => return Err(error),
        };
        if before.metadata.uid != uid {
            return Ok(LabelOutcome::Gone);
        }
        let parameters = PatchParams { force, ..PatchParams::apply(MANAGER) };
        let request = Request::new(NODES).patch(node.as_str(), &parameters, &Patch::Apply(body(node, uid, labels)));
        match self.call::<Identity>(&doing, request, ANSWER).await {
            Ok(after) => {
                let changed = after.metadata.resource_version != before.metadata.resource_version;
                Ok(LabelOutcome::Applied { changed })
            }
            Err(error) => refused(error),
        }
    }
}

/// Without labels, the map itself is left out: then the server drops the manager's entry, and the node is as it was
/// before Egret.
fn body(node: &NodeName, uid: &str, labels: &Labels) -> Value {
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.as_str(), "uid": uid},
    });
    if !labels.is_empty() {
        body["metadata"]["labels"] = json!(labels);
    }
    body
}

/// Interprets a refusal. There are three kinds of 409, which differ in the details.
fn refused(error: ApiError) -> Result<LabelOutcome, ApiError> {
    let ApiErrorCause::Refused { code, message, fields, .. } = error.cause() else { return Err(error) };
    let gone =
        *code == 404 || *code == 409 && ["uid mismatch", "UID in precondition"].iter().any(|w| message.contains(w));
    let conflicts: Vec<FieldConflict> = fields.iter().filter_map(conflict).collect();
    if gone {
        Ok(LabelOutcome::Gone)
    } else if *code == 409 && !conflicts.is_empty() {
        Ok(LabelOutcome::Conflict(conflicts))
    } else {
        Err(error)
    }
}

/// `conflict with "kubectl-label" using v1` at `.metadata.labels.egress-gw`.
fn conflict(field: &RefusedField) -> Option<FieldConflict> {
    let key = field.field.strip_prefix(".metadata.labels.")?;
    let manager = field.message.split('"').nth(1).unwrap_or("somebody");
    let found = FieldConflict { key: key.to_owned(), manager: manager.to_owned() };
    (field.reason == "FieldManagerConflict").then_some(found)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn outcome(status: &Value) -> Result<LabelOutcome, ApiError> {
        let status: Status = serde_json::from_value(status.clone()).expect("a Status");
        refused(ApiError::new("labelling node kind-worker2", ApiErrorCause::from(status)))
    }

    #[test]
    fn a_conflict_names_the_label_and_who_owns_it() {
        // A real server's answer after `kubectl label`.
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Conflict", "code": 409,
            "message": "Apply failed with 1 conflict: conflict with \"kubectl-label\" using v1: .metadata.labels.egress-gw",
            "details": {"causes": [{
                "reason": "FieldManagerConflict", "message": "conflict with \"kubectl-label\" using v1",
                "field": ".metadata.labels.egress-gw",
            }, {
                "reason": "FieldManagerConflict", "message": "conflict with \"someone-else\"",
                "field": ".metadata.labels.example.com/a.b",
            }]},
        });
        let conflict = |key: &str, manager: &str| FieldConflict { key: key.to_owned(), manager: manager.to_owned() };
        let conflicts = vec![conflict("egress-gw", "kubectl-label"), conflict("example.com/a.b", "someone-else")];
        assert_eq!(outcome(&status).expect("an outcome"), LabelOutcome::Conflict(conflicts));
    }

    #[test]
    fn another_uid_is_another_node() {
        let of = |message: &str| json!({"status": "Failure", "message": message, "reason": "Conflict", "code": 409});
        let none = "Operation cannot be fulfilled on nodes \"ghost2\": uid mismatch: the provided object specified uid \
                    00000000-0000-0000-0000-000000000000, and no existing object was found";
        assert_eq!(outcome(&of(none)).expect("an outcome"), LabelOutcome::Gone);
        let later = "Precondition failed: UID in precondition: 1, UID in object meta: 2";
        assert_eq!(outcome(&of(later)).expect("an outcome"), LabelOutcome::Gone);
        let write = "Operation cannot be fulfilled on nodes \"a\": the object has been modified";
        assert!(outcome(&of(write)).is_err_and(|error| error.retryable()));
    }

    #[test]
    fn no_labels_are_no_field() {
        let node = NodeName::parse("kind-worker2").expect("a name");
        assert_eq!(body(&node, "u", &Labels::new())["metadata"], json!({"name": "kind-worker2", "uid": "u"}));
        let labels = Labels::from([("egress-gw".to_owned(), "true".to_owned())]);
        assert_eq!(body(&node, "u", &labels)["metadata"]["labels"], json!({"egress-gw": "true"}));
    }
}
