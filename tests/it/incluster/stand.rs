//! A lab whose nodes are those of an API server's double: it listens beside the router, and knows the lab's nodes, namespaces and pods.
//!
//! Deliberately absent: any claim of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::apiserver::ApiServer;
use crate::lab::{Answer, EGRESS, EGRESS6, Lab, LabError, OUTPOST, OUTPOST6, Options, Process, wait_until};

pub(super) type Outcome = Result<(), LabError>;

/// Only against hanging: no test passes by waiting it out.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// How long a pod waits for an answer that should not come.
const HELD_BACK: Duration = Duration::from_millis(600);

/// The outpost in both families, with the egress address it lets in.
pub(super) const WAYS: [(IpAddr, IpAddr); 2] = [(OUTPOST, EGRESS), (OUTPOST6, EGRESS6)];

/// The custom resource definitions, as the chart installs them.
const DEFINITIONS: [&str; 3] = [
    include_str!("../../../charts/egret/crds/egressconfigs.yaml"),
    include_str!("../../../charts/egret/crds/egressnodes.yaml"),
    include_str!("../../../charts/egret/crds/publishedegresspolicies.yaml"),
];

/// The two documents of the scenario.
pub(super) const LABELS: &str = "apiVersion: egret.dev/v1alpha1
kind: NodeLabels
metadata: {name: gateways}
spec:
  nodes: [kind-worker2]
  labels: {egress-gw: \"true\"}
";

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

/// The processes go before the server, and that before the lab.
pub(super) struct Stand {
    pub(super) processes: BTreeMap<String, Process>,
    pub(super) api: ApiServer,
    pub(super) lab: Lab,
}

impl Stand {
    /// A lab, its API server with everything in it, and no process yet.
    pub(super) fn empty(options: Options) -> Result<Self, LabError> {
        let lab = Lab::up(options)?;
        let listening = lab.router().enter(|| ApiServer::start(TcpListener::bind(("172.18.0.1", 6443))?))?;
        let api = listening.map_err(LabError::doing("start the API server"))?;
        let stand = Self { processes: BTreeMap::new(), api, lab };
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
        stand.controller("one")?;
        for node in stand.nodes() {
            stand.agent(&node)?;
        }
        Ok(stand)
    }

    /// The same with the two documents pushed and tiefighter let in, in both families.
    pub(super) fn in_force(options: Options) -> Result<Self, LabError> {
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

    fn kubeconfig(&self) -> PathBuf {
        self.lab.folder().join("kubeconfig")
    }

    /// The names of the nodes.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.lab.nodes().iter().map(|node| node.name.clone()).collect()
    }

    /// Starts a controller beside the router, as a candidate of this name.
    pub(super) fn controller(&mut self, identity: &str) -> Outcome {
        self.controller_with(identity, &[])
    }

    /// The same, with more arguments.
    pub(super) fn controller_with(&mut self, identity: &str, more: &[&str]) -> Outcome {
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
        process.wait_for("controller runs", DEADLINE)?;
        self.processes.insert(format!("controller-{identity}"), process);
        Ok(())
    }

    /// Starts an agent on a node.
    pub(super) fn agent(&mut self, node: &str) -> Outcome {
        self.agent_with(node, &[])
    }

    /// The same, with more arguments.
    pub(super) fn agent_with(&mut self, node: &str, more: &[&str]) -> Outcome {
        let state = self.state(node)?;
        let mut words: Vec<OsString> =
            vec!["agent".into(), "--node".into(), node.into(), "--state-dir".into(), state.into()];
        words.extend(more.iter().map(OsString::from));
        let process = self.lab.start(node, self.program()?, self.words(words))?;
        process.wait_for("egret runs", DEADLINE)?;
        self.processes.insert(node.to_owned(), process);
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

    fn state(&self, of: &str) -> Result<PathBuf, LabError> {
        let folder = self.lab.folder().join(format!("state-{of}"));
        std::fs::create_dir_all(&folder).map_err(LabError::doing("make a state folder"))?;
        Ok(folder)
    }

    /// Kills a process where it stands.
    pub(super) fn kill9(&mut self, name: &str) -> Outcome {
        match self.processes.remove(name) {
            Some(mut process) => process.kill9(),
            None => Ok(()),
        }
    }

    /// Ends a process as the kubelet does.
    pub(super) fn terminate(&mut self, name: &str) -> Outcome {
        let Some(mut process) = self.processes.remove(name) else { return Ok(()) };
        process.terminate()?;
        process.wait_exit(DEADLINE).map(|_| ())
    }

    /// Pushes files.
    pub(super) fn push(&self, files: &[(&str, &str)]) -> Outcome {
        for (path, text) in files {
            self.lab.repository().write(path, text)?;
        }
        self.lab.repository().push("another state of things").map(|_| ())
    }

    /// What everybody said, for messages.
    pub(super) fn logs(&self) -> String {
        let said = self
            .processes
            .iter()
            .map(|(name, process)| format!("--- {name}\n{}\n", process.output().unwrap_or_default()));
        said.collect()
    }

    /// Waits until something is so, and says what it waited for otherwise.
    pub(super) fn await_that(&self, awaited: &str, mut holds: impl FnMut() -> bool) -> Outcome {
        if wait_until(DEADLINE, &mut holds) {
            return Ok(());
        }
        let objects: Vec<String> =
            ["egressconfigs.egret.dev", "publishedegresspolicies.egret.dev", "egressnodes.egret.dev"]
                .iter()
                .flat_map(|resource| self.api.list(resource))
                .map(|object| serde_json::to_string_pretty(&object).unwrap_or_default())
                .collect();
        let seen = format!("{}\n{}", self.logs(), objects.join("\n"));
        Err(LabError::Late { awaited: awaited.to_owned(), deadline: DEADLINE, seen })
    }

    /// Waits until a pod gets exactly this answer.
    pub(super) fn await_answer(&self, pod: &str, address: IpAddr, answer: Answer) -> Outcome {
        self.await_that(&format!("`{answer}` for {pod} from {address}"), || {
            self.lab.ask_within(pod, address, HELD_BACK).is_ok_and(|found| found == answer)
        })
    }

    /// Waits until a pod is let in as the first gateway's egress address, in both families.
    pub(super) fn await_granted(&self, pod: &str) -> Outcome {
        WAYS.iter().try_for_each(|(outpost, egress)| self.await_answer(pod, *outpost, Answer::Granted(*egress)))
    }

    /// Waits until a pod is turned away as itself, in both families.
    pub(super) fn await_own_way(&self, pod: &str) -> Outcome {
        let own = self.lab.pod_addresses(pod)?;
        WAYS.iter().zip(own).try_for_each(|((outpost, _), own)| self.await_answer(pod, *outpost, Answer::Denied(own)))
    }

    /// Nobody's packet reached the outpost but from egress addresses and from these.
    pub(super) fn assert_no_leak_but(&self, allowed: &[IpAddr]) -> Outcome {
        for (outpost, _) in WAYS {
            let mut wrong: Vec<IpAddr> = self.lab.wrong_sources(outpost)?.into_keys().collect();
            wrong.retain(|source| !allowed.contains(source));
            assert_eq!(wrong, Vec::<IpAddr>::new(), "sources seen towards {outpost}\n{}", self.logs());
        }
        Ok(())
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
