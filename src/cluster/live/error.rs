//! Errors of the API server: the operation, its object, the server's message, and a hint for the user.
//!
//! Not here: retries. `retryable` reports whether one could help; the caller decides when, and whether at all.

use std::error::Error;
use std::time::Duration;

use kube::core::Status;
use kube::core::response::StatusCause;

/// Installs and updates the definitions. By force, because helm owns the fields of those that it installed, and never
/// updates them.
const DEFINITIONS: &str = "kubectl apply --server-side --force-conflicts -f charts/egret/crds/";

/// A failed operation and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct ApiError {
    doing: String,
    #[source]
    cause: ApiErrorCause,
}

/// The cause of a failed operation.
#[derive(Debug, thiserror::Error)]
pub enum ApiErrorCause {
    /// The API server's address or our credentials are not known.
    #[error("{0}")]
    Configuration(String),
    /// No connection, or it broke. Whether a write happened is not known.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in time. Whether a write happened is not known.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The server refused.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// Kubernetes' reason: `Forbidden`, `Conflict`. Empty if the answer is not an API server's.
        reason: String,
        /// Its message.
        message: String,
        /// Its messages about single fields.
        fields: Vec<RefusedField>,
    },
    /// An answer that cannot be read.
    #[error("the answer is not understood")]
    Answer(#[source] serde_json::Error),
    /// A watch that the server ends at once.
    #[error("the server ends the watch at once")]
    Ended,
}

/// The server's message about one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedField {
    /// `.metadata.labels.egress-gw`
    pub field: String,
    /// `FieldManagerConflict`, `FieldValueInvalid`.
    pub reason: String,
    /// Its message.
    pub message: String,
}

impl ApiError {
    pub(super) fn new(doing: impl Into<String>, cause: ApiErrorCause) -> Self {
        Self { doing: doing.into(), cause }
    }

    /// Converts an error of kube.
    pub(super) fn of(doing: impl Into<String>, error: kube::Error) -> Self {
        Self::new(doing, ApiErrorCause::from(error))
    }

    /// The cause.
    pub fn cause(&self) -> &ApiErrorCause {
        &self.cause
    }

    /// The HTTP status, if there was an answer.
    pub fn code(&self) -> Option<u16> {
        match &self.cause {
            ApiErrorCause::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same request may be answered otherwise later.
    pub fn retryable(&self) -> bool {
        match &self.cause {
            // An apply of a field that the schema lacks is answered 500, every time.
            ApiErrorCause::Refused { code: 500, message, .. } => {
                !message.contains("failed to create typed patch object")
            }
            // Permissions and missing kinds can be added while the process runs: 401, 403 and 404 are retried.
            ApiErrorCause::Refused { code, .. } => !matches!(code, 400 | 405 | 406 | 413 | 415 | 422),
            ApiErrorCause::Configuration(_) | ApiErrorCause::Answer(_) => false,
            ApiErrorCause::Unreachable(_) | ApiErrorCause::Timeout(_) | ApiErrorCause::Ended => true,
        }
    }

    /// Whether the server refused the write because a newer leader has written already: a validation rule of the
    /// CRDs.
    pub fn fenced(&self) -> bool {
        matches!(&self.cause, ApiErrorCause::Refused { code: 422, fields, message, .. }
            if message.contains("fence") || fields.iter().any(|field| field.field.ends_with("fence")))
    }

    /// A hint for the user.
    pub fn hint(&self) -> Option<String> {
        match &self.cause {
            ApiErrorCause::Configuration(_) => Some(
                "set KUBECONFIG to a file with a cluster and a user, or run in a pod with a service account".into(),
            ),
            ApiErrorCause::Refused { code: 401, .. } => {
                Some("the token is not valid (any more): is the service account still there?".into())
            }
            ApiErrorCause::Refused { code: 403, message, .. } => missing_right(message),
            ApiErrorCause::Refused { code: 404, message, .. } if kind_is_missing(message) => {
                Some(format!("the custom resources are not installed: {DEFINITIONS}"))
            }
            ApiErrorCause::Refused { code: 500, .. } if !self.retryable() => {
                Some(format!("the installed custom resources are of another version than this program: {DEFINITIONS}"))
            }
            ApiErrorCause::Refused { code: 429, .. } => Some("the API server is busy".to_owned()),
            _ => None,
        }
    }
}

/// `... User "x" cannot patch resource "nodes" in API group "" at the cluster scope`: the RBAC rule that is missing.
fn missing_right(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(" cannot ")?;
    let (verb, rest) = rest.split_once(" resource ")?;
    let mut quoted = rest.split('"').skip(1).step_by(2);
    let (resource, group) = (quoted.next()?, quoted.next().unwrap_or(""));
    Some(format!("its role lacks a rule with apiGroups [\"{group}\"], resources [\"{resource}\"], verbs [\"{verb}\"]"))
}

/// The server answers an unknown path in plain text, and a missing object with a Status.
fn kind_is_missing(message: &str) -> bool {
    message.contains("page not found") || message.contains("could not find the requested")
}

impl From<kube::Error> for ApiErrorCause {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(*status),
            kube::Error::SerdeError(error) => Self::Answer(error),
            kube::Error::Auth(error) => Self::Configuration(innermost(&error)),
            other => Self::Unreachable(innermost(&other)),
        }
    }
}

impl From<Status> for ApiErrorCause {
    fn from(status: Status) -> Self {
        let field =
            |cause: StatusCause| RefusedField { field: cause.field, reason: cause.reason, message: cause.message };
        // kube's placeholder for an answer that is not a Status: a proxy's page, or an unknown path.
        let reason = if status.reason == "Failed to parse error data" { String::new() } else { status.reason };
        let message = match status.message.lines().next() {
            Some(line) if !line.is_empty() => line.to_owned(),
            _ => format!("HTTP status {}", status.code),
        };
        let fields = status.details.map(|details| details.causes.into_iter().map(field).collect());
        Self::Refused { code: status.code, reason, message, fields: fields.unwrap_or_default() }
    }
}

/// The innermost cause: kube's errors repeat it in every layer above.
fn innermost(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, message: &str) -> ApiError {
        ApiError::new("doing something", ApiErrorCause::from(Status::failure(message, "Reason").with_code(code)))
    }

    #[test]
    fn a_missing_right_is_named_as_a_rule_has_it() {
        let message = "nodes \"kind-worker2\" is forbidden: User \"system:serviceaccount:default:egret-agent\" cannot \
                       patch resource \"nodes\" in API group \"\" at the cluster scope";
        let hint = "its role lacks a rule with apiGroups [\"\"], resources [\"nodes\"], verbs [\"patch\"]";
        assert_eq!(refused(403, message).hint().as_deref(), Some(hint));
        assert_eq!(refused(403, "no").hint(), None);
    }

    #[test]
    fn a_kind_that_is_not_there_is_another_thing_than_an_object_that_is_not_there() {
        assert!(refused(404, "404 page not found").hint().is_some_and(|hint| hint.contains("not installed")));
        assert_eq!(refused(404, "nodes \"ghost\" not found").hint(), None);
    }

    #[test]
    fn what_will_always_be_refused_is_not_worth_another_try() {
        assert!(refused(409, "conflict").retryable() && refused(503, "busy").retryable());
        assert!(refused(403, "not yet").retryable(), "a right may be given");
        assert!(!refused(422, "invalid").retryable());
        let typed = "failed to create typed patch object (/one; egret.dev/v1alpha1, Kind=Gadget): .spec.nope: field not \
                     declared in schema";
        assert!(!refused(500, typed).retryable() && refused(500, "etcd leader changed").retryable());
    }

    #[test]
    fn a_leader_that_came_late_knows_it_from_the_refusal() {
        let message =
            "PublishedEgressPolicy.egret.dev \"outpost\" is invalid: spec: Invalid value: the fence never goes back";
        assert!(refused(422, message).fenced());
        assert!(!refused(422, "spec.egressIP must be an IP address").fenced());
    }
}
