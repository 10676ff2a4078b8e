//! Answers that are no: `Status` objects with the texts of the real server.
//!
//! Deliberately absent: when to give which.

use serde_json::{Value, json};

/// A refusal: its code and its body.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) code: u16,
    /// The `Status` object, or a text.
    pub(crate) body: Value,
}

/// What may be refused.
pub(crate) type Outcome<T> = Result<T, Refusal>;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// `FieldValueInvalid` and its like.
    pub(crate) reason: &'static str,
    /// `spec.egressIP`.
    pub(crate) field: String,
    /// What is wrong.
    pub(crate) message: String,
}

impl Mistake {
    /// A value that is not right.
    pub(crate) fn invalid(field: impl Into<String>, value: &Value, why: impl std::fmt::Display) -> Self {
        let message = format!("Invalid value: {value}: {why}");
        Self { reason: "FieldValueInvalid", field: field.into(), message }
    }

    /// A value that has to be there.
    pub(crate) fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }
}

/// The names that refusals speak of: `nodes`, `leases.coordination.k8s.io`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    /// The group, empty for the core.
    pub(crate) group: &'a str,
    /// The resource, or the kind where the refusal names that.
    pub(crate) kind: &'a str,
    /// The object, empty for all.
    pub(crate) name: &'a str,
}

impl Named<'_> {
    fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.to_owned() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// `nodes "a"`, or `nodes` alone.
    fn text(&self) -> String {
        if self.name.is_empty() { self.qualified() } else { format!("{} {:?}", self.qualified(), self.name) }
    }

    /// `details`, without what is empty.
    pub(crate) fn details(&self) -> Value {
        let mut details = json!({"name": self.name, "group": self.group, "kind": self.kind});
        if let Some(details) = details.as_object_mut() {
            details.retain(|_, value| value != "");
        }
        details
    }
}

fn status(code: u16, reason: &str, message: &str, details: Option<Value>) -> Refusal {
    let mut body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code,
    });
    if !reason.is_empty() {
        body["reason"] = json!(reason);
    }
    if let Some(details) = details {
        body["details"] = details;
    }
    Refusal { code, body }
}

/// 400.
pub(crate) fn bad_request(message: impl AsRef<str>) -> Refusal {
    status(400, "BadRequest", message.as_ref(), None)
}

/// 401.
pub(crate) fn unauthorized() -> Refusal {
    status(401, "Unauthorized", "Unauthorized", None)
}

/// 403.
pub(crate) fn forbidden(named: Named<'_>, why: &str) -> Refusal {
    status(403, "Forbidden", &format!("{} is forbidden: {why}", named.text()), Some(named.details()))
}

/// 404 of an object.
pub(crate) fn not_found(named: Named<'_>) -> Refusal {
    status(404, "NotFound", &format!("{} not found", named.text()), Some(named.details()))
}

/// 404 of a path.
pub(crate) fn no_page() -> Refusal {
    Refusal { code: 404, body: json!("404 page not found\n") }
}

/// 405.
pub(crate) fn not_allowed() -> Refusal {
    let message = "the server does not allow this method on the requested resource";
    status(405, "MethodNotAllowed", message, Some(json!({})))
}

/// 409 of a name that is taken.
pub(crate) fn already_exists(named: Named<'_>) -> Refusal {
    status(409, "AlreadyExists", &format!("{} already exists", named.text()), Some(named.details()))
}

/// 409 of a precondition.
pub(crate) fn conflict(named: Named<'_>, why: &str) -> Refusal {
    let message = format!("Operation cannot be fulfilled on {}: {why}", named.text());
    status(409, "Conflict", &message, Some(named.details()))
}

/// 409 of an apply.
pub(crate) fn apply_conflict(causes: &[Value], message: &str) -> Refusal {
    status(409, "Conflict", message, Some(json!({"causes": causes})))
}

/// 410 of a list or a watch.
pub(crate) fn expired(message: &str) -> Refusal {
    status(410, "Expired", message, None)
}

/// 415.
pub(crate) fn unsupported(accepted: &str) -> Refusal {
    let message =
        format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    status(415, "UnsupportedMediaType", &message, Some(json!({})))
}

/// 422 of an object; `named.kind` is its kind.
pub(crate) fn invalid(named: Named<'_>, mistakes: &[Mistake]) -> Refusal {
    let cause = |one: &Mistake| json!({"reason": one.reason, "message": one.message, "field": one.field});
    let mut texts: Vec<String> = Vec::new();
    for text in mistakes.iter().map(|one| format!("{}: {}", one.field, one.message)) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let text = if let [only] = &texts[..] { only.clone() } else { format!("[{}]", texts.join(", ")) };
    let mut details = named.details();
    details["causes"] = mistakes.iter().map(cause).collect();
    status(422, "Invalid", &format!("{} is invalid: {text}", named.text()), Some(details))
}

/// 422 of a JSON patch.
pub(crate) fn rejected() -> Refusal {
    status(422, "Invalid", "the server rejected our request due to an error in our request", Some(json!({})))
}

/// 429, as priority and fairness answers.
pub(crate) fn too_many(seconds: u64) -> Refusal {
    let message = "too many requests, please try again later";
    status(429, "TooManyRequests", message, Some(json!({"retryAfterSeconds": seconds})))
}

/// 500 without a reason, as errors come that nobody wrapped.
pub(crate) fn internal(message: &str) -> Refusal {
    status(500, "", message, None)
}

/// 503.
pub(crate) fn unavailable() -> Refusal {
    let message = "the server is currently unable to handle the request";
    status(503, "ServiceUnavailable", message, Some(json!({})))
}

/// 503 of a pod that a proxy does not reach.
pub(crate) fn service_unavailable(message: &str) -> Refusal {
    status(503, "ServiceUnavailable", message, None)
}

/// A body that the server does not read.
pub(crate) fn body_too_large(most: usize) -> Refusal {
    status(413, "RequestEntityTooLarge", &format!("Request entity too large: limit is {most}"), None)
}

/// 504 of a list that asks for what has not happened yet.
pub(crate) fn too_large(wanted: u64, current: u64) -> Refusal {
    let details = json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    });
    let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
    status(504, "Timeout", &message, Some(details))
}

/// 403 of a validating webhook.
pub(crate) fn denied(why: &str) -> Refusal {
    let message = format!("admission webhook \"policies.example.com\" denied the request: {why}");
    status(403, "Forbidden", &message, None)
}

/// Any other code.
pub(crate) fn any(code: u16) -> Refusal {
    match code {
        429 => too_many(1),
        500 => status(500, "InternalError", "Internal error occurred: as the test wishes", Some(json!({}))),
        410 => expired("too old resource version"),
        503 => unavailable(),
        code => status(code, "", "as the test wishes", None),
    }
}
