//! Counts failed requests and watches, for metrics. All clones of an [`ApiClient`](super::ApiClient) share the
//! counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::ApiError;

/// The counters of a process.
#[derive(Debug, Clone, Default)]
pub struct ErrorCounts(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<String, u64>,
    watches: BTreeMap<&'static str, u64>,
}

impl ErrorCounts {
    /// Failed requests, by operation: `patch egressnodes/status`. 404 and 409 are answers that callers act on, and do
    /// not count.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.with(|counts| counts.requests.clone())
    }

    /// Lists and watches that broke, or lost an event, and were restarted, by resource. A watched resource is listed from the start.
    pub fn watches(&self) -> BTreeMap<&'static str, u64> {
        self.with(|counts| counts.watches.clone())
    }

    pub(super) fn request(&self, operation: &str, error: &ApiError) {
        if !matches!(error.code(), Some(404 | 409)) {
            self.with(|counts| *counts.requests.entry(operation.to_owned()).or_default() += 1);
        }
    }

    /// Adds a watched resource.
    pub(super) fn watched(&self, resource: &'static str) {
        self.with(|counts| {
            counts.watches.entry(resource).or_default();
        });
    }

    pub(super) fn watch(&self, resource: &'static str) {
        self.with(|counts| *counts.watches.entry(resource).or_default() += 1);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Counts) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A request's operation and resource, without names: labels of a metric have to be bounded.
pub(super) fn operation(method: &str, path: &str) -> String {
    // /api/VERSION/… or /apis/GROUP/VERSION/…, then namespaces/NAME/ or nothing, then RESOURCE/NAME/SUBRESOURCE.
    let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
    let before = if parts.next() == Some("api") { 1 } else { 2 };
    let mut rest: Vec<&str> = parts.skip(before).collect();
    if rest.len() > 2 && rest[0] == "namespaces" {
        rest.drain(..2);
    }
    let resource = rest.first().copied().unwrap_or_default();
    let verb = match method {
        "GET" if rest.len() > 1 => "get",
        "GET" => "list",
        "POST" => "create",
        "PATCH" => "patch",
        "PUT" => "update",
        "DELETE" => "delete",
        _ => "other",
    };
    match rest.get(2) {
        Some(part) => format!("{verb} {resource}/{part}"),
        None => format!("{verb} {resource}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_a_verb_and_a_resource_without_names() {
        assert_eq!(operation("PATCH", "/apis/egret.dev/v1alpha1/egressnodes/a/status"), "patch egressnodes/status");
        assert_eq!(operation("GET", "/api/v1/nodes"), "list nodes");
        assert_eq!(operation("GET", "/api/v1/namespaces"), "list namespaces");
        assert_eq!(operation("POST", "/apis/events.k8s.io/v1/namespaces/default/events"), "create events");
        assert_eq!(operation("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b"), "update leases");
        assert_eq!(operation("DELETE", "/apis/egret.dev/v1alpha1/egressconfigs/default"), "delete egressconfigs");
    }
}
