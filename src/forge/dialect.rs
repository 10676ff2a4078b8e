//! The interface that all forges implement: paths, bodies, and fields of answers. Values in, values out.
//!
//! Not here: sending requests (see `api`), and what to post (see `posting`).

use jiff::Timestamp;
use serde_json::Value;

use super::error::ForgeErrorKind;
use super::{CheckConclusion, Post, Pull};
use crate::https::Method;

/// One request, below the API's root.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Value>,
}

impl Call {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None }
    }

    pub(super) fn new(method: Method, path: String, body: Value) -> Self {
        Self { method, path, body: Some(body) }
    }
}

/// A comment on a pull request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Comment {
    pub(super) id: u64,
    pub(super) author: String,
    pub(super) body: String,
    pub(super) url: String,
}

/// A commit status with our context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    /// Later ones have larger ids; a list is sorted by seconds, and two may have the same.
    pub(super) id: u64,
    pub(super) context: String,
    pub(super) state: String,
    pub(super) description: String,
    /// The login that set it, if the forge reports it.
    pub(super) author: Option<String>,
}

/// The most characters of a status' description. GitHub has the lowest limit: "description is too long (maximum is
/// 140 characters)".
pub(super) const LONGEST_DESCRIPTION: usize = 140;

/// The API of one forge.
pub(super) trait Dialect: Send + Sync {
    /// Headers beside the usual ones; the first is the token's.
    fn headers(&self, token: &str) -> Vec<(&'static str, String)>;
    /// Requests the token's user.
    fn identity(&self) -> Call;
    /// The login in the answer to `identity`.
    fn login(&self, answer: &Value) -> Result<String, ForgeErrorKind>;
    fn pull(&self, number: u64) -> Call;
    fn pulls(&self, base: &str) -> Call;
    fn read_pull(&self, answer: &Value) -> Result<Pull, ForgeErrorKind>;
    fn comments(&self, pull: u64) -> Call;
    /// None if it is not a comment of a user or a program.
    fn read_comment(&self, answer: &Value, pull: &str) -> Result<Option<Comment>, ForgeErrorKind>;
    fn create_comment(&self, pull: u64, body: &str) -> Call;
    fn update_comment(&self, pull: u64, comment: u64, body: &str) -> Call;
    /// Statuses of a commit.
    fn statuses(&self, sha: &str, context: &str) -> Call;
    fn read_status(&self, answer: &Value) -> Result<Status, ForgeErrorKind>;
    fn create_status(&self, sha: &str, context: &str, post: &Post) -> Call;
    /// The forge's state for a verdict.
    fn state(&self, verdict: CheckConclusion) -> &'static str;
    /// The web page of a pull request.
    fn address(&self, pull: u64) -> String;
}

/// A text field of an answer.
pub(super) fn text(answer: &Value, pointer: &str) -> Result<String, ForgeErrorKind> {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| ForgeErrorKind::Answer(format!("it has no text at {pointer}")))
}

/// A text that may be missing or null.
pub(super) fn text_or_empty(answer: &Value, pointer: &str) -> String {
    answer.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A number field of an answer.
pub(super) fn number(answer: &Value, pointer: &str) -> Result<u64, ForgeErrorKind> {
    let found = answer.pointer(pointer).and_then(Value::as_u64);
    found.ok_or_else(|| ForgeErrorKind::Answer(format!("it has no number at {pointer}")))
}

/// A time field of an answer.
pub(super) fn time(answer: &Value, pointer: &str) -> Result<Timestamp, ForgeErrorKind> {
    let found = text(answer, pointer)?;
    found.parse().map_err(|error| ForgeErrorKind::Answer(format!("{pointer} is no time: {error}")))
}

/// A full commit id, in the form that forges take.
pub(super) fn sha(answer: &Value, pointer: &str) -> Result<String, ForgeErrorKind> {
    let found = text(answer, pointer)?;
    let hexadecimal = matches!(found.len(), 40 | 64) && found.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hexadecimal { Ok(found) } else { Err(ForgeErrorKind::Answer(format!("{pointer} is no commit"))) }
}
