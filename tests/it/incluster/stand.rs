//! A lab whose nodes are those of an API server's double: it listens beside the router, and knows the lab's nodes, namespaces and pods.
//!
//! Not here: what all stands do alike (`harness`).

use std::ffi::OsString;
use std::net::TcpListener;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::apiserver::{ApiServer, Filter};
pub(super) use crate::documents::LABELS;
use crate::harness::Harness;
pub(super) use crate::harness::{DEADLINE, Outcome, WAYS};
use crate::lab::{Lab, LabError, Options, wait_until_every};

/// What processes say once they are at work; a controller says so whether it leads or not.
const CONTROLS: &str = "controller runs";
const RUNS: &str = "egret runs";

/// The custom resource definitions, as the chart installs them.
const DEFINITIONS: [&str; 3] = [
    include_str!("../../../charts/egret/crds/egressconfigs.yaml"),
    include_str!("../../../charts/egret/crds/egressnodes.yaml"),
    include_str!("../../../charts/egret/crds/publishedegresspolicies.yaml"),
];

/// The outpost's policy, through the nodes that a selector matches.
pub(super) fn policy(node_selector: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {{name: outpost}}
spec:
  selectors:
  - podSelector: {{matchLabels: {{org: empire, io.kubernetes.pod.namespace: batuu}}}}
  destinationCIDRs: [\"10.0.4.0/24\", \"fd00:10:4::/64\"]
  egressGateway: {{nodeSelector: {{matchLabels: {{{node_selector}}}}}, interface: net1}}
"
    )
}

/// Processes of a lab, and the API server they talk to.
pub(super) struct Stand {
    pub(super) api: Arc<ApiServer>,
    /// The last to hold the server: the processes go before it, and it before the lab.
    harness: Harness,
}

impl Deref for Stand {
    type Target = Harness;

    fn deref(&self) -> &Harness {
        &self.harness
    }
}

impl DerefMut for Stand {
    fn deref_mut(&mut self) -> &mut Harness {
        &mut self.harness
    }
}

/// Egret's objects, for messages.
fn objects(api: &ApiServer) -> String {
    let resources = ["egressconfigs.egret.dev", "publishedegresspolicies.egret.dev", "egressnodes.egret.dev"];
    let objects = resources.iter().flat_map(|resource| api.list(resource));
    objects.map(|object| format!("{object:#}")).collect::<Vec<_>>().join("\n")
}

impl Stand {
    /// A lab, its API server with everything in it, and no process yet.
    pub(super) fn empty(options: Options) -> Result<Self, LabError> {
        let lab = Lab::up(options)?;
        let listening = lab.router().enter(|| ApiServer::start(TcpListener::bind(("172.18.0.1", 6443))?))?;
        let api = listening.map_err(LabError::doing("start the API server"))?;
        let api = Arc::new(api);
        let shown = Arc::clone(&api);
        let stand = Self { api, harness: Harness::new(lab).showing(move || objects(&shown)) };
        for definition in DEFINITIONS {
            stand.api.create(&yaml(definition));
        }
        stand.api.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "egret-system"}}));
        stand.announce(&["nodes.yaml", "namespaces.yaml", "pods.yaml"]);
        let path = stand.kubeconfig();
        std::fs::write(&path, stand.api.kubeconfig(None)).map_err(LabError::doing("write the kubeconfig"))?;
        Ok(stand)
    }

    /// The same with a controller and an agent on every node.
    pub(super) fn up(options: Options) -> Result<Self, LabError> {
        let mut stand = Self::empty(options)?;
        stand.launch_controller("one", &[])?;
        for node in stand.nodes() {
            stand.launch_agent(&node, &[])?;
        }
        stand.await_words("controller-one", CONTROLS)?;
        for node in stand.nodes() {
            stand.await_words(&node, RUNS)?;
        }
        Ok(stand)
    }

    /// The same with the two documents pushed and tiefighter let in, in both families.
    pub(super) fn applied(options: Options) -> Result<Self, LabError> {
        let stand = Self::up(options)?;
        stand.push(&[("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
        stand.await_granted("tiefighter")?;
        stand.lab.forget()?;
        Ok(stand)
    }

    /// Tells the server of every object in these manifests of the lab that it does not know, and of those that are gone.
    pub(super) fn announce(&self, files: &[&str]) {
        for file in files {
            let text = std::fs::read_to_string(self.lab.cluster_dir().join(file)).expect("a manifest of the lab");
            let resource = file.trim_end_matches(".yaml");
            let items = yaml(&text)["items"].as_array().cloned().unwrap_or_default();
            let name = |object: &Value| {
                let metadata = &object["metadata"];
                (
                    metadata["namespace"].as_str().unwrap_or("").to_owned(),
                    metadata["name"].as_str().unwrap_or("").to_owned(),
                )
            };
            for known in self.api.list(resource) {
                let gone = !items.iter().any(|item| name(item) == name(&known));
                if gone && resource == "pods" {
                    let (namespace, name) = name(&known);
                    self.api.delete(resource, &namespace, &name);
                }
            }
            for mut item in items {
                let (namespace, name) = name(&item);
                if self.api.get(resource, &namespace, &name).is_none() {
                    for field in ["uid", "resourceVersion", "creationTimestamp"] {
                        item["metadata"].as_object_mut().expect("metadata").remove(field);
                    }
                    self.api.create(&item);
                }
            }
        }
    }

    /// Makes a node Ready, or lets it be silent, as the node controller has it.
    #[track_caller]
    pub(super) fn set_ready(&self, node: &str, ready: bool) {
        let status = if ready { "True" } else { "Unknown" };
        let mut object = self.api.get("nodes", "", node).expect("a node");
        let conditions = object["status"]["conditions"].as_array_mut().expect("conditions");
        conditions.iter_mut().filter(|one| one["type"] == "Ready").for_each(|one| one["status"] = json!(status));
        let patch = json!({"status": {"conditions": object["status"]["conditions"]}});
        let path = format!("/api/v1/nodes/{node}/status");
        let (code, body) = self.api.send("PATCH", &path, "application/strategic-merge-patch+json", &patch);
        assert_eq!(code, 200, "{body}");
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.lab.folder().join("kubeconfig")
    }

    /// Starts a controller beside the router, as a candidate of this name.
    pub(super) fn controller(&mut self, identity: &str) -> Outcome {
        self.controller_with(identity, &[])
    }

    /// The same, with more arguments.
    pub(super) fn controller_with(&mut self, identity: &str, more: &[&str]) -> Outcome {
        self.launch_controller(identity, more)?;
        self.await_words(&format!("controller-{identity}"), CONTROLS)
    }

    pub(super) fn launch_controller(&mut self, identity: &str, more: &[&str]) -> Outcome {
        let state = self.state(&format!("controller-{identity}"))?;
        let mut words: Vec<OsString> = vec![
            "controller".into(),
            "--repo".into(),
            self.lab.repository().path().into(),
            "--state-dir".into(),
            state.into(),
            "--identity".into(),
            identity.into(),
            "--lease-duration".into(),
            "3".into(),
        ];
        words.extend(more.iter().map(OsString::from));
        let process = self.lab.start_beside_router(self.program()?, self.words(words))?;
        self.keep(&format!("controller-{identity}"), process);
        Ok(())
    }

    /// Starts an agent on a node.
    pub(super) fn agent(&mut self, node: &str) -> Outcome {
        self.agent_with(node, &[])
    }

    /// The same, with more arguments.
    pub(super) fn agent_with(&mut self, node: &str, more: &[&str]) -> Outcome {
        self.launch_agent(node, more)?;
        self.await_words(node, RUNS)
    }

    pub(super) fn launch_agent(&mut self, node: &str, more: &[&str]) -> Outcome {
        let state = self.state(node)?;
        let mut words: Vec<OsString> =
            vec!["agent".into(), "--node".into(), node.into(), "--state-dir".into(), state.into()];
        words.extend(more.iter().map(OsString::from));
        let process = self.lab.start(node, self.program()?, self.words(words))?;
        self.keep(node, process);
        Ok(())
    }

    /// `env` gives a program of the lab the one variable that it needs.
    fn program(&self) -> Result<OsString, LabError> {
        self.lab.program().map(|_| OsString::from("env"))
    }

    fn words(&self, words: Vec<OsString>) -> Vec<OsString> {
        let mut variable = OsString::from("KUBECONFIG=");
        variable.push(self.kubeconfig());
        let program = self.lab.program().unwrap_or_default();
        [variable, program.into_os_string()].into_iter().chain(words).collect()
    }

    /// Waits until nobody has anything left to write but leases: what bursts gather is written within less than this pause.
    pub(super) fn await_quiet(&self) -> Outcome {
        let mut begun = false;
        let quiet = wait_until_every(Duration::from_millis(800), DEADLINE, || {
            let leases = self.api.writes(&Filter::writes().resource("leases"));
            let quiet = begun && self.api.writes(&Filter::writes()) == leases;
            begun = true;
            self.api.forget_requests();
            quiet
        });
        if quiet { Ok(()) } else { Err(self.late("an end of all writes", "")) }
    }

    /// A custom object, or nothing.
    pub(super) fn object(&self, resource: &str, name: &str) -> Value {
        self.api.get(&format!("{resource}.egret.dev"), "", name).unwrap_or_default()
    }

    /// The status of a condition.
    pub(super) fn condition(&self, resource: &str, name: &str, kind: &str) -> (String, String) {
        let object = self.object(resource, name);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }
}

/// One YAML document as JSON.
pub(super) fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).expect("a YAML document")
}
