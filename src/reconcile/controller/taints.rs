//! Removes the startup taint from a node once its agent reports that the published policies are in the kernel since
//! this boot.
//!
//! This does not need Git: nodes join while Git is unavailable, and the published policies are in the cluster. The
//! controller never adds the taint: whatever creates nodes adds it before the first pod arrives; the controller would
//! see a boot only when the kubelet is already starting pods.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Controller;
use crate::cluster::live::resources::STARTUP_TAINT;
use crate::cluster::live::{ApiClient, ApiError, NodeMeta, TaintOutcome, View};
use crate::core::name::NodeName;
use crate::telemetry::chain;

/// The most taints removed in one batch. The resulting watch events trigger the rest.
const AT_ONCE: usize = 16;
/// The wait of all removals after one that failed.
const PAUSE: Duration = Duration::from_secs(5);

/// The state of taint removal.
#[derive(Debug)]
pub(super) struct TaintRemover {
    /// Whether the controller removes taints at all.
    pub(super) wanted: bool,
    /// No attempt before this time, because one failed.
    pause: Option<Instant>,
    /// Why the last attempt failed.
    last_error: Option<String>,
}

impl TaintRemover {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, pause: None, last_error: None }
    }

    /// When to try again; none if nothing failed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pause
    }
}

/// Nodes that have the taint and do not need it any more.
fn done(view: &View) -> Vec<(&NodeName, &NodeMeta)> {
    let Some(Ok(head)) = view.config.as_ref().map(|config| &config.spec) else { return Vec::new() };
    let in_place = |name: &NodeName, meta: &NodeMeta| {
        let status = view.egress_nodes.get(name).map(|node| &node.status);
        meta.starting.as_ref().zip(status).is_some_and(|(boot_id, status)| status.is_in_place(&head.revision, boot_id))
    };
    view.nodes.iter().filter(|(name, meta)| in_place(name, meta)).collect()
}

impl Controller {
    /// Removes the taint from every node that does not need it any more. A failure is retried, and blocks nothing
    /// else.
    pub(super) async fn untaint(&mut self) {
        if !self.taints.wanted || self.taints.pause.is_some_and(|pause| pause > Instant::now()) {
            return;
        }
        let nodes = done(self.watching.view());
        if nodes.is_empty() {
            (self.taints.pause, self.taints.last_error) = (None, None);
            return;
        }
        let tries: JoinSet<Result<(), ApiError>> = nodes
            .into_iter()
            .take(AT_ONCE)
            .map(|(name, meta)| take_off(self.live.clone(), name.clone(), meta.uid.clone()))
            .collect();
        let outcomes = tries.join_all().await;
        match outcomes.into_iter().find_map(Result::err) {
            None => (self.taints.pause, self.taints.last_error) = (None, None),
            Some(error) => {
                let why = chain(&error);
                if self.taints.last_error.as_ref() != Some(&why) {
                    tracing::warn!(
                        error = why,
                        hint = error.hint(),
                        "a node whose agent is done keeps its startup taint"
                    );
                }
                self.taints.last_error = Some(why);
                let pause = Instant::now() + PAUSE;
                self.taints.pause = Some(pause);
                self.due = Some(self.due.filter(|due| *due > Instant::now()).map_or(pause, |due| due.min(pause)));
            }
        }
    }
}

async fn take_off(live: ApiClient, name: NodeName, uid: String) -> Result<(), ApiError> {
    match live.remove_startup_taint(&name, &uid).await? {
        TaintOutcome::Removed => {
            tracing::info!(node = %name, taint = STARTUP_TAINT, "its agent is done: pods may come");
        }
        TaintOutcome::Absent => tracing::debug!(node = %name, "its startup taint was off already"),
        TaintOutcome::Gone => tracing::debug!(node = %name, "the node is gone"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::cluster::live::resources::{ConfigSpec, PolicyDigest};
    use crate::cluster::live::{ConfigObject, EgressNodeObject};
    use crate::core::status::{Condition, ConditionType, NodeStatus, Reason};

    fn head(revision: &str) -> ConfigObject {
        let spec = ConfigSpec {
            cluster: "default".to_owned(),
            revision: revision.to_owned(),
            committed: None,
            summary: String::new(),
            fence: 1,
            policies: PolicyDigest { count: 0, digest: String::new() },
            config: json!({}),
            pod_networks: Vec::new(),
        };
        ConfigObject {
            uid: "u".to_owned(),
            resource_version: "1".to_owned(),
            generation: 1,
            pushed: None,
            spec: Ok(spec),
            status: None,
        }
    }

    /// Adds a node: `starting` is its boot if it has the taint, `reported` the commit and the boot that its agent
    /// reports.
    fn put(view: &mut View, name: &str, starting: Option<&str>, reported: Option<(&str, &str)>) {
        let name = NodeName::parse(name).expect("a name");
        let meta = NodeMeta { uid: name.to_string(), starting: starting.map(str::to_owned), ..NodeMeta::default() };
        view.nodes.insert(name.clone(), meta);
        if let Some((revision, boot_id)) = reported {
            let ready = Condition::new(ConditionType::Ready, true, Reason::Programmed, "", Timestamp::UNIX_EPOCH);
            let (revision, boot_id) = (revision.to_owned(), boot_id.to_owned());
            let status = NodeStatus { revision, boot_id, conditions: vec![ready], ..NodeStatus::default() };
            view.egress_nodes.insert(name, EgressNodeObject { status, ..EgressNodeObject::default() });
        }
    }

    #[test]
    fn only_a_node_that_has_what_is_published_since_this_boot_is_done() {
        let mut view = View::default();
        put(&mut view, "done", Some("b2"), Some(("a", "b2")));
        put(&mut view, "without-the-taint", None, Some(("a", "b2")));
        put(&mut view, "as-before-its-boot", Some("b2"), Some(("a", "b1")));
        put(&mut view, "behind", Some("b2"), Some(("earlier", "b2")));
        put(&mut view, "silent", Some("b2"), None);
        put(&mut view, "unknown-boot", Some(""), Some(("a", "")));
        assert_eq!(done(&view), []);
        view.config = Some(head("a"));
        let names: Vec<&str> = done(&view).into_iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["done"]);
        view.config = Some(ConfigObject { spec: Err("another version wrote it".to_owned()), ..head("a") });
        assert_eq!(done(&view), []);
    }
}
