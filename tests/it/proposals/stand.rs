//! The real `egret controller`, a double of the API server, a double of the forge, and a real HTTPS server with the repository.
//!
//! Deliberately absent: nodes with agents, and any claim of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use egret::forge::ForgeKind;
use serde_json::{Value, json};

use crate::apiserver::ApiServer;
use crate::forge_double::{Double, TOKEN};
use crate::git::crooked::free_port;
use crate::git::fixture::{Origin, PROGRAM};
use crate::git::https::Https;
use crate::lab::wait_until;

/// Only against hanging.
pub(super) const DEADLINE: Duration = Duration::from_mins(1);

const DEFINITIONS: [&str; 3] = [
    include_str!("../../../charts/egret/crds/egressconfigs.yaml"),
    include_str!("../../../charts/egret/crds/egressnodes.yaml"),
    include_str!("../../../charts/egret/crds/publishedegresspolicies.yaml"),
];
const CLUSTER: &str = include_str!("../../scenarios/the_outpost/cluster.yaml");

pub(super) const LABELS: (&str, &str) = ("nodes/gateways.yaml", crate::documents::LABELS);

/// A policy for pods of an organisation.
pub(super) fn policy(name: &str, organisation: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {{name: {name}}}
spec:
  selectors:
  - podSelector: {{matchLabels: {{org: {organisation}, io.kubernetes.pod.namespace: batuu}}}}
  destinationCIDRs: [\"10.0.4.0/24\"]
  egressGateway: {{nodeSelector: {{matchLabels: {{egress-gw: \"true\"}}}}, interface: net1}}
"
    )
}

/// A process that is killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processes go before what they talk to.
pub(super) struct Stand {
    controllers: BTreeMap<String, (Process, u16)>,
    pub(super) api: ApiServer,
    pub(super) forge: Double,
    pub(super) server: Https,
    pub(super) origin: Origin,
}

impl Stand {
    /// Everything but a controller. The repository has the gateways' labels.
    pub(super) fn empty(kind: ForgeKind) -> Self {
        let origin = Origin::new();
        let server = Https::start(&origin);
        let (forge, api) = (Double::start(kind), ApiServer::local().expect("an API server"));
        {
            let mut world = forge.world();
            "git/policies".clone_into(&mut world.project);
            world.pulls.clear();
        }
        for definition in DEFINITIONS {
            api.create(&serde_yaml::from_str(definition).expect("YAML"));
        }
        api.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "egret-system"}}));
        for object in CLUSTER.split("\n---\n") {
            api.create(&serde_yaml::from_str::<Value>(object).expect("YAML"));
        }
        fs::write(origin.path().join("kubeconfig"), api.kubeconfig(None)).expect("a file");
        fs::write(origin.path().join("webhook"), "secret\n").expect("a file");
        fs::write(origin.path().join("token"), format!("{TOKEN}\n")).expect("a file");
        fs::write(server.folder.join("password"), "hunter2\n").expect("a file");
        origin.push(&[LABELS, ("policies/empire.yaml", &policy("empire", "empire"))], "the empire");
        Self { controllers: BTreeMap::new(), api, forge, server, origin }
    }

    /// On GitHub, with a controller that leads.
    pub(super) fn up() -> Self {
        let mut stand = Self::empty(ForgeKind::GitHub);
        stand.controller("one");
        stand
    }

    /// Starts a controller by token.
    pub(super) fn controller(&mut self, identity: &str) {
        let words = self.by_token();
        self.controller_with(identity, &words);
    }

    /// Starts a controller by token that serves metrics. Gives where.
    pub(super) fn controller_with_metrics(&mut self, identity: &str) -> SocketAddr {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let words = [self.by_token(), vec![format!("--listen={listen}")]].concat();
        self.controller_with(identity, &words);
        listen
    }

    /// A controller with a page, and where it is.
    pub(super) fn controller_with_page(&mut self, identity: &str) -> SocketAddr {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let words = [self.by_token(), vec![format!("--ui={listen}")]].concat();
        self.controller_with(identity, &words);
        listen
    }

    fn by_token(&self) -> Vec<String> {
        let (password, token) = (self.server.folder.join("password"), self.origin.path().join("token"));
        vec![
            "--git-user=ada".to_owned(),
            format!("--git-password-file={}", password.display()),
            format!("--forge-token-file={}", token.display()),
        ]
    }

    /// Starts a controller, and waits until it listens to webhooks.
    pub(super) fn controller_with(&mut self, identity: &str, more: &[String]) {
        let port = free_port();
        let at = |name: &str| self.origin.path().join(name);
        let mut command = Command::new(PROGRAM);
        command.arg("controller").env("KUBECONFIG", at("kubeconfig")).args(more);
        command.args(["--repo", &self.server.source, "--previews", self.as_str(), "--forge-url", &self.forge.url()]);
        command.arg("--git-ca-file").arg(self.server.folder.join("ca.pem"));
        command.arg("--state-dir").arg(at(&format!("state-{identity}")));
        command.args(["--identity", identity, "--lease-duration", "3", "--poll", "3600"]);
        command.args(["--webhook", &format!("127.0.0.1:{port}")]).arg("--webhook-secret-file").arg(at("webhook"));
        let log = File::create(self.log_of(identity)).expect("a file");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("egret starts");
        self.controllers.insert(identity.to_owned(), (Process(child), port));
        self.await_that("a controller that runs", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Kills a controller where it stands.
    pub(super) fn kill9(&mut self, identity: &str) {
        self.controllers.remove(identity).expect("such a controller");
    }

    fn log_of(&self, identity: &str) -> PathBuf {
        self.origin.path().join(format!("{identity}.log"))
    }

    /// The forge's name as an option has it.
    fn as_str(&self) -> &'static str {
        match self.forge.world().kind {
            ForgeKind::GitHub => "github",
            ForgeKind::GitLab => "gitlab",
            ForgeKind::Gitea => "gitea",
        }
    }

    /// The forge tells every controller of an event, by GitHub's name for it.
    pub(super) fn send_webhook(&self, event: &str, body: &Value) {
        self.tell_some(event, body, |_| true);
    }

    /// The forge tells some of the controllers.
    pub(super) fn tell_some(&self, event: &str, body: &Value, to: impl Fn(&str) -> bool) {
        let event = match (self.forge.world().kind, event) {
            (ForgeKind::GitHub, event) => format!("X-GitHub-Event: {event}"),
            (ForgeKind::GitLab, "push") => "X-Gitlab-Event: Push Hook".to_owned(),
            (ForgeKind::GitLab, _) => "X-Gitlab-Event: Merge Request Hook".to_owned(),
            (ForgeKind::Gitea, event) => format!("X-Gitea-Event: {event}"),
        };
        for (_, (_, port)) in self.controllers.iter().filter(|(identity, _)| to(identity)) {
            let body = body.to_string();
            let mut stream = TcpStream::connect(("127.0.0.1", *port)).expect("a webhook");
            let head = format!("{event}\r\nX-Gitlab-Token: secret\r\nContent-Length: {}", body.len());
            write!(stream, "POST /webhook HTTP/1.1\r\nHost: egret\r\n{head}\r\n\r\n{body}").expect("it is sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        }
    }

    /// Commits on a branch that begins at a commit, and pushes it as the head of a pull request, as its author would.
    pub(super) fn propose(&self, number: u64, from: &str, files: &[(&str, &str)]) -> String {
        self.origin.git(&["checkout", "--quiet", "-B", "proposal", from]);
        let commit = self.origin.commit(files, &format!("proposal {number}")).to_string();
        self.publish(number, &commit);
        commit
    }

    /// What a forge does when somebody pushed to the branch of a pull request.
    pub(super) fn publish(&self, number: u64, commit: &str) {
        let heads = if self.forge.world().kind == ForgeKind::GitLab { "merge-requests" } else { "pull" };
        self.origin.git(&["push", "--quiet", "--force", "origin", &format!("{commit}:refs/{heads}/{number}/head")]);
        self.origin.git(&["checkout", "--quiet", "main"]);
        self.forge.open(number, commit);
    }

    /// A pull request, told of by the forge.
    pub(super) fn open(&self, number: u64, files: &[(&str, &str)]) -> String {
        let commit = self.propose(number, "main", files);
        self.send_webhook("pull_request", &json!({ "action": "opened", "number": number }));
        commit
    }

    /// What everybody said, for messages.
    pub(super) fn logs(&self) -> String {
        let of = |identity: &String| fs::read_to_string(self.log_of(identity)).unwrap_or_default();
        let all = self
            .controllers
            .keys()
            .flat_map(|identity| ["--- ".to_owned(), identity.clone(), "\n".to_owned(), of(identity)]);
        all.collect()
    }

    pub(super) fn await_that(&self, awaited: &str, mut holds: impl FnMut() -> bool) {
        if !wait_until(DEADLINE, &mut holds) {
            let status = self.config()["status"].clone();
            panic!("no {awaited}\n{}\n{:#?}\n{status:#}", self.logs(), self.forge.world());
        }
    }

    pub(super) fn config(&self) -> Value {
        self.api.get("egressconfigs.egret.dev", "", "default").unwrap_or_default()
    }

    /// Status and message of a condition of the EgressConfig.
    pub(super) fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.config()["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("message"))
    }

    /// Names of what is published.
    pub(super) fn published(&self) -> Vec<String> {
        let policies = self.api.list("publishedegresspolicies.egret.dev");
        policies.iter().map(|policy| policy["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits for the only comment under a pull request, with these words in it.
    pub(super) fn await_comment(&self, number: u64, words: &str) -> String {
        self.await_that(&format!("comment under {number} with `{words}`"), || {
            self.forge.comments(number).iter().any(|comment| comment.contains(words))
        });
        let comments = self.forge.comments(number);
        let [comment] = &comments[..] else { panic!("one comment, and not {comments:#?}") };
        comment.clone()
    }
}
