//! Asks agents through the API server, and lets them ask whether a question may be answered (decision 0031).
//!
//! The way is `pods/proxy`: the API server reaches pods in every cluster, whoever asks needs no network of their own. The proof is a token of
//! the account [`VIEWER`], which has no right to anything, for the audience of one node: a node that is compromised can use it nowhere
//! else. RBAC decides who may make one. Agents' answers are not trusted: they are bounded here. Not here: their content
//! (the caller brings paths and takes bytes).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use http::Request as HttpRequest;
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use kube::core::Request;
use kube::core::params::{ListParams, PostParams};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::error::ApiError;
use super::reflector::Page;
use super::wire::Meta;
use super::{ANSWER, ApiClient, PAGE};
use crate::core::escape::shown;
use crate::core::explain::TOKEN_HEADER;
use crate::core::name::NodeName;
use crate::core::text::shortened;
use crate::secret::Secret;

/// The account whose tokens let people ask. It has no right to anything.
pub const VIEWER: &str = "egret-viewer";
/// Selects the pods of agents in the release's namespace.
const AGENTS: &str = "app.kubernetes.io/name=egret,app.kubernetes.io/component=agent";
/// The lifetime of a token in seconds: the shortest that an API server gives.
const TOKEN_LIFE: u32 = 600;
/// How long one agent may take, with everything on the way.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// So many agents are asked at once.
const AT_ONCE: usize = 32;

/// The audience of a token for the agent of one node.
fn audience(node: &NodeName) -> String {
    format!("egret.dev/agent/{node}")
}

/// The API server's verdict on a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reviewed {
    /// It is one of the account's, for this node.
    Viewer,
    /// It is another account's or user's.
    Other,
    /// It is none, has expired, or is for another audience.
    Invalid,
}

/// Agents that can be asked: the pod of each node, and its port.
#[derive(Debug, Clone, Default)]
pub struct Agents {
    namespace: String,
    pods: BTreeMap<NodeName, AgentPod>,
}

#[derive(Debug, Clone)]
struct AgentPod {
    name: String,
    port: u16,
    running: bool,
}

/// Why an agent did not answer, in words.
pub type Unanswered = String;

#[derive(Deserialize)]
struct PodWire {
    metadata: Meta<IgnoredAny>,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    containers: Vec<Container>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Container {
    ports: Vec<Port>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: String,
    container_port: u16,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PodStatus {
    phase: String,
}

impl PodWire {
    fn agent(self) -> Option<(NodeName, AgentPod)> {
        let node = NodeName::parse(&self.spec.node_name?).ok()?;
        let mut ports = self.spec.containers.into_iter().flat_map(|container| container.ports);
        let port = ports.find(|port| port.name == "metrics")?.container_port;
        let running = self.status.phase == "Running";
        Some((node, AgentPod { name: self.metadata.name, port, running }))
    }
}

impl Agents {
    /// The nodes that have an agent's pod.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.pods.keys()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    status: TokenStatus,
}

#[derive(Deserialize)]
struct TokenStatus {
    token: String,
}

#[derive(Deserialize)]
struct ReviewAnswer {
    #[serde(default)]
    status: ReviewStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    user: ReviewedUser,
    audiences: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ReviewedUser {
    username: String,
}

impl ApiClient {
    /// Asks whether a token is one with which this node's agent may be asked. `namespace`: that of the release.
    pub async fn review_token(&self, token: &str, namespace: &str, node: &NodeName) -> Result<Reviewed, ApiError> {
        let audience = audience(node);
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let request = Request::new("/apis/authentication.k8s.io/v1/tokenreviews")
            .create(&PostParams::default(), body.to_string().into_bytes());
        let ReviewAnswer { status } = self.call("reviewing a token", request, ANSWER).await?;
        // A server that knows no audiences of its own answers with none: then the token was not checked for ours.
        if !status.authenticated || !status.audiences.contains(&audience) {
            return Ok(Reviewed::Invalid);
        }
        let viewer = status.user.username == format!("system:serviceaccount:{namespace}:{VIEWER}");
        Ok(if viewer { Reviewed::Viewer } else { Reviewed::Other })
    }

    /// The agents' pods in the release's namespace. Pods elsewhere are not looked at, whatever their labels: they would get tokens.
    pub async fn agents(&self, namespace: &str) -> Result<Agents, ApiError> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let mut agents = Agents { namespace: namespace.to_owned(), pods: BTreeMap::new() };
        let mut next: Option<String> = None;
        loop {
            let parameters = ListParams { limit: Some(500), continue_token: next.take(), ..ListParams::default() };
            let request = Request::new(&path).list(&parameters.labels(AGENTS));
            let page: Page<PodWire> =
                self.call(&format!("listing the pods of agents in {namespace}"), request, PAGE).await?;
            for (node, pod) in page.items.unwrap_or_default().into_iter().filter_map(PodWire::agent) {
                // During an update a node has two for a moment.
                if !agents.pods.get(&node).is_some_and(|known| known.running) {
                    agents.pods.insert(node, pod);
                }
            }
            next = page.metadata.next.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(agents);
            }
        }
    }

    /// A token with which the agent of this node can be asked.
    async fn viewer_token(&self, namespace: &str, node: &NodeName) -> Result<Secret, ApiError> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{VIEWER}/token");
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience(node)], "expirationSeconds": TOKEN_LIFE},
        });
        let request = Request::new(path).create(&PostParams::default(), body.to_string().into_bytes());
        let answer: TokenAnswer =
            self.call(&format!("requesting a token of {namespace}/{VIEWER}"), request, ANSWER).await?;
        Ok(Secret::new(answer.status.token))
    }

    /// Asks the agents of these nodes, some at once. `question`: a path with its query; `largest`: the most bytes of an answer. Each answers
    /// within `patience`, or there is a reason why it did not.
    pub async fn ask_agents(
        &self,
        agents: &Agents,
        questions: Vec<(NodeName, String)>,
        largest: usize,
        patience: Duration,
    ) -> BTreeMap<NodeName, Result<Vec<u8>, Unanswered>> {
        let ask = |(node, question): (NodeName, String)| async move {
            let asked = self.ask_agent(agents, &node, &question, largest);
            let answer = tokio::time::timeout(patience, asked).await;
            let late = || Err(format!("no answer within {} s", patience.as_secs()));
            (node, answer.unwrap_or_else(|_| late()))
        };
        futures::stream::iter(questions).map(ask).buffer_unordered(AT_ONCE).collect().await
    }

    async fn ask_agent(
        &self,
        agents: &Agents,
        node: &NodeName,
        question: &str,
        largest: usize,
    ) -> Result<Vec<u8>, Unanswered> {
        let namespace = &agents.namespace;
        let pod = agents.pods.get(node).ok_or_else(|| format!("no agent's pod is on it in {namespace}"))?;
        if !pod.running {
            return Err(format!("the agent's pod {} does not run", pod.name));
        }
        let token = self.viewer_token(namespace, node).await.map_err(|error| refused(&error, namespace))?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{}:{}/proxy{question}", pod.name, pod.port);
        for again in [true, false] {
            let request = HttpRequest::get(&path).header(TOKEN_HEADER, token.reveal()).body(Body::empty());
            let request = request.map_err(|error| error.to_string())?;
            let answer = self.client.send(request).await.map_err(|error| {
                let error = ApiError::of(format!("asking {}", pod.name), error);
                crate::telemetry::chain(&error)
            })?;
            let status = answer.status();
            let most = if status.is_success() { largest } else { 4 << 10 };
            let body = Limited::new(answer.into_body(), most).collect().await;
            let body = body.map_err(|_| format!("its answer breaks off, or has more than {most} bytes"))?.to_bytes();
            match status.as_u16() {
                200 => return Ok(body.to_vec()),
                // Others ask as well.
                429 | 503 if again && !is_status(&body) => tokio::time::sleep(Duration::from_millis(400)).await,
                code => return Err(said(code, &body)),
            }
        }
        Err("it is busy".to_owned())
    }
}

/// An answer of the API server itself, and not of the agent behind it.
#[derive(Deserialize)]
struct StatusWire {
    kind: String,
    #[serde(default)]
    message: String,
}

fn status_of(body: &[u8]) -> Option<StatusWire> {
    serde_json::from_slice::<StatusWire>(body).ok().filter(|status| status.kind == "Status")
}

fn is_status(body: &[u8]) -> bool {
    status_of(body).is_some()
}

/// What came in the place of an answer. Agents before 0.2 do not know the path.
fn said(code: u16, body: &[u8]) -> Unanswered {
    let text = match status_of(body) {
        Some(status) => status.message,
        None if code == 404 => "it is too old to answer, or was started without --namespace".to_owned(),
        None => String::from_utf8_lossy(body).trim().to_owned(),
    };
    shortened(&shown(&format!("{text} ({code})")), 300)
}

fn refused(error: &ApiError, namespace: &str) -> Unanswered {
    match error.code() {
        Some(403) => format!("this user may not ask agents: the Role egret-explain in {namespace} has the rights"),
        Some(404) => format!("there is no account {VIEWER} in {namespace}; is Egret installed there?"),
        _ => shortened(&crate::telemetry::chain(error), 300),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_in_the_place_of_an_answer_is_one_short_line_without_control_characters() {
        let status = br#"{"kind": "Status", "message": "error trying to reach service: dial tcp 10.0.0.1:9790: connect: connection refused"}"#;
        let text = said(503, status);
        assert_eq!(text, "error trying to reach service: dial tcp 10.0.0.1:9790: connect: connection refused (503)");
        assert_eq!(said(401, b"this token does not count here\n"), "this token does not count here (401)");
        let hostile = format!("\u{1b}[2J{}", "x".repeat(5000));
        let text = said(500, hostile.as_bytes());
        assert!(!text.contains('\u{1b}') && text.chars().count() <= 300, "{text}");
        assert_eq!(said(404, b""), "it is too old to answer, or was started without --namespace (404)");
    }
}
