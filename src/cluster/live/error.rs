//! Errors of the API server: the operation, its object, the server's message, and a hint for the user.
//!
//! Not here: retries. `retryable` reports whether one could help; the caller decides when, and whether at all.

use std::error::Error;
use std::time::Duration;

use kube::core::Status;
use kube::core::response::StatusCause;

use crate::core::text::shortened;

/// The most characters of a server's message. A refused document can be quoted in it whole.
const LONGEST: usize = 800;

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
    /// How long the server asks to wait.
    retry_after: Option<Duration>,
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
        /// Its message with those about single fields, as one line.
        message: String,
        /// Its messages about single fields.
        fields: Vec<RefusedField>,
    },
    /// An answer that cannot be read.
    #[error("the answer cannot be read")]
    Answer(#[source] serde_json::Error),
    /// A watch that the server ends at once.
    #[error("the server ends the watch at once")]
    Ended,
    /// A watch that did not report a change: a list shows it.
    #[error("a change of {first}{} did not arrive; everything is listed anew", others(*.count))]
    EventsLost {
        /// `namespace/name` of one of the objects.
        first: String,
        /// How many objects.
        count: usize,
    },
}

/// ` and of 3 more`
fn others(count: usize) -> String {
    if count > 1 { format!(" and of {} more", count - 1) } else { String::new() }
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

impl RefusedField {
    /// The server mostly repeats what it says of fields in its message.
    fn is_in(&self, message: &str) -> bool {
        let said = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        message.contains(&said)
    }
}

impl std::fmt::Display for RefusedField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        if self.field.is_empty() { f.write_str(&said) } else { write!(f, "{}: {said}", self.field) }
    }
}

impl ApiError {
    pub(super) fn new(doing: impl Into<String>, cause: ApiErrorCause) -> Self {
        Self { doing: doing.into(), cause, retry_after: None }
    }

    /// Converts an error of kube.
    pub(super) fn of(doing: impl Into<String>, error: kube::Error) -> Self {
        let seconds = match &error {
            kube::Error::Api(status) => status.details.as_ref().map_or(0, |details| details.retry_after_seconds),
            _ => 0,
        };
        let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Self { retry_after, ..Self::new(doing, ApiErrorCause::from(error)) }
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

    /// The same with what the answer's header says, if its text says nothing.
    pub(super) fn or_retry_after(self, header: Option<Duration>) -> Self {
        Self { retry_after: self.retry_after.or(header), ..self }
    }

    /// How long the server asks to wait. A long time is no server's: the kind would be forgotten.
    pub(super) fn retry_after(&self) -> Duration {
        self.retry_after.unwrap_or_default().min(Duration::from_mins(1))
    }

    /// Whether there is no server, or something before it says so: it will concern every request.
    pub fn is_outage(&self) -> bool {
        match &self.cause {
            ApiErrorCause::Unreachable(_) | ApiErrorCause::Timeout(_) => true,
            ApiErrorCause::Refused { code: 502..=504, reason, .. } => reason.is_empty(),
            _ => false,
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
            ApiErrorCause::Unreachable(_)
            | ApiErrorCause::Timeout(_)
            | ApiErrorCause::Ended
            | ApiErrorCause::EventsLost { .. } => true,
        }
    }

    /// Whether the server refused the write because a newer leader has written already: a validation rule of the
    /// CRDs.
    pub fn fenced(&self) -> bool {
        matches!(&self.cause, ApiErrorCause::Refused { code: 422, fields, message, .. }
            if message.contains("fence never goes back") || fields.iter().any(|field| field.field == "spec.fence"))
    }

    /// Whether the server refused this very object, and may accept another one: by its schema, for its size, or by an
    /// admission policy or webhook.
    pub fn refuses_content(&self) -> bool {
        match &self.cause {
            ApiErrorCause::Refused { code: 413 | 422, .. } => !self.fenced(),
            ApiErrorCause::Refused { code: 400 | 403, message, .. } => {
                message.contains("denied the request") || message.contains("denied request")
            }
            ApiErrorCause::Refused { code: 500, message, .. } => message.contains("request is too large"),
            _ => false,
        }
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
            // Its own text has the file or program, and the cause.
            kube::Error::Auth(error) => Self::Configuration(error.to_string()),
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
        let fields: Vec<RefusedField> =
            status.details.map(|details| details.causes.into_iter().map(field).collect()).unwrap_or_default();
        // Of a page only the first line means something; webhooks write several.
        let lines = status.message.lines().take(if reason.is_empty() { 1 } else { usize::MAX });
        let mut message = lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
        if message.is_empty() {
            message = format!("HTTP status {}", status.code);
        }
        let unsaid: Vec<String> =
            fields.iter().filter(|one| !one.is_in(&message)).map(RefusedField::to_string).collect();
        let message = shortened(&[&[message], unsaid.as_slice()].concat().join("; "), LONGEST);
        Self::Refused { code: status.code, reason, message, fields }
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
    use kube::core::response::StatusDetails;

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
    fn the_servers_words_are_told_to_the_end() {
        let told = |error: &ApiError| crate::telemetry::chain(error);
        let message = "PublishedEgressPolicy.egret.dev \"x\" is invalid: \n* spec.egressIP: Invalid value: \"nonsense\"\n\
                       * spec.destinations: Too many: 1001: must have at most 1000 items\n";
        let expected = "doing something: PublishedEgressPolicy.egret.dev \"x\" is invalid: * spec.egressIP: Invalid value: \
                        \"nonsense\" * spec.destinations: Too many: 1001: must have at most 1000 items";
        assert_eq!(told(&refused(422, message)), expected);

        let status = serde_json::json!({"code": 422, "reason": "Invalid", "details": {"causes": [
            {"field": "spec", "message": "the fence never goes back", "reason": "FieldValueInvalid"},
        ]}});
        let status: Status = serde_json::from_value(status).expect("a Status");
        let error = ApiError::of("doing something", kube::Error::Api(Box::new(status)));
        assert_eq!(told(&error), "doing something: HTTP status 422; spec: the fence never goes back");

        let page = Status::failure("<html>\n<p>no</p>", "Failed to parse error data").with_code(502);
        let error = ApiError::of("doing something", kube::Error::Api(Box::new(page)));
        assert_eq!(told(&error), "doing something: <html>");
        assert!(error.is_outage(), "that is a proxy's");
        assert!(!refused(503, "conversion webhook failed").is_outage());
        assert_eq!(told(&refused(500, "")), "doing something: HTTP status 500");
    }

    #[test]
    fn a_leader_that_came_late_knows_it_from_the_refusal() {
        let message =
            "PublishedEgressPolicy.egret.dev \"outpost\" is invalid: spec: Invalid value: the fence never goes back";
        assert!(refused(422, message).fenced());
        assert!(!refused(422, "spec.egressIP must be an IP address").fenced());
        assert!(!refused(422, "PublishedEgressPolicy.egret.dev \"over-the-fence\" is invalid: spec: no").fenced());
    }

    #[test]
    fn what_is_refused_for_its_content_is_told_from_what_is_refused_to_everybody() {
        let webhook = "admission webhook \"policies.example.com\" denied the request: not on a Friday";
        for (code, message) in [
            (422, "spec.selectors: Too many: 1001: must have at most 1000 items"),
            (403, webhook),
            (400, webhook),
            (422, "ValidatingAdmissionPolicy 'hours' with binding 'hours' denied request: not on a Friday"),
            (413, "Request entity too large: limit is 3145728"),
            (500, "etcdserver: request is too large"),
        ] {
            assert!(refused(code, message).refuses_content(), "{code} {message}");
        }
        let fenced = "spec.fence: Invalid value: fence never goes back; a newer leader has written since";
        let rights = "is forbidden: User \"egret\" cannot patch resource \"publishedegresspolicies\"";
        for (code, message) in [(422, fenced), (403, rights), (500, "etcd leader changed"), (429, "busy")] {
            assert!(!refused(code, message).refuses_content(), "{code} {message}");
        }
    }

    #[test]
    fn the_servers_words_are_one_line_with_those_about_fields_and_of_bounded_length() {
        let cause = |field: &str, message: &str| StatusCause {
            field: field.to_owned(),
            message: message.to_owned(),
            reason: "FieldValueInvalid".to_owned(),
        };
        let told = |message: &str, causes: Vec<StatusCause>| {
            let details = StatusDetails {
                name: String::new(),
                group: String::new(),
                kind: String::new(),
                uid: String::new(),
                causes,
                retry_after_seconds: 0,
            };
            ApiErrorCause::from(Status::failure(message, "Invalid").with_code(422).with_details(details)).to_string()
        };
        let said = "x is invalid: spec.a: Invalid value: no";
        assert_eq!(told(said, vec![cause("spec.a", "Invalid value: no")]), said);
        assert_eq!(
            told("denied:\n  one\n  two\n", vec![cause("spec.b", "and\nthree")]),
            "denied: one two; spec.b: and three"
        );
        assert_eq!(told(&"long ".repeat(1000), vec![]).chars().count(), LONGEST);
        assert_eq!(told("", vec![]), "HTTP status 422");
        let page = Status::failure("<html>\n<body>", "Failed to parse error data").with_code(502);
        assert_eq!(ApiErrorCause::from(page).to_string(), "<html>");
    }
}
