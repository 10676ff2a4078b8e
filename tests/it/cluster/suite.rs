//! A lab whose nodes are in a cluster: everything put in, processes under the chart's accounts, and everything taken out again.
//!
//! Deliberately absent: what is claimed (`way`, `rules`, `labels`, `leaders`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::config::Kubeconfig;
use serde_json::{Value, json};

use super::account::{self, Server};
use super::api::{Api, JSON, Outcome, fault, name};
use super::chart::{self, Chart};
use super::host_network::{self, ALL, CUSTOM, Held};
use super::relay::Relay;
use crate::harness::{Harness, WAYS};
use crate::lab::{Answer, Lab, Options, wait_until_every};

/// Only against hanging: nothing passes by waiting it out.
pub(super) const DEADLINE: Duration = Duration::from_mins(1);
/// Seconds for which a leader may be silent. One that loses the lease on a busy machine, and leads again, begins fights over labels anew.
const LEASE: &str = "10";
/// How often an API server is asked that may be a real one.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Ends the API server, and starts it again with what it had stored.
pub(super) type Restart = Arc<dyn Fn() -> Outcome + Send + Sync>;

/// Everything of one run. Processes go first, then what is in the cluster, then the lab.
pub(super) struct Suite {
    harness: Harness,
    pub(super) api: Api,
    /// `egret-test-1a2b`: all names begin with it, in the cluster and in Git.
    pub(super) prefix: String,
    /// Labels of our nodes before Egret came.
    pub(super) labels_before: BTreeMap<String, Value>,
    /// Restarts the API server, if somebody can.
    pub(super) restart: Option<Restart>,
    server: Server,
    chart: Chart,
    held: Option<Held>,
    _relay: Relay,
    begun: Instant,
    strangers: BTreeMap<String, Value>,
}

impl Deref for Suite {
    type Target = Harness;

    fn deref(&self) -> &Harness {
        &self.harness
    }
}

impl DerefMut for Suite {
    fn deref_mut(&mut self) -> &mut Harness {
        &mut self.harness
    }
}

/// Our custom objects, for messages.
fn objects(api: &Api) -> String {
    let mut seen = String::new();
    for plural in ["egressconfigs", "publishedegresspolicies", "egressnodes"] {
        for mut object in api.list(&format!("{CUSTOM}/{plural}")).unwrap_or_default() {
            object["metadata"]["managedFields"].take();
            seen.extend(["--- ", plural, " ", name(&object), "\n", &object.to_string(), "\n"]);
        }
    }
    seen
}

impl Suite {
    /// Sweeps what dead runs left, and puts everything in but processes.
    pub(super) fn up(kubeconfig: Kubeconfig, restart: Option<Restart>) -> Outcome<Self> {
        let begun = Instant::now();
        let say = |text: &str| log_after(begun, text);
        let (server, api) = Server::of(kubeconfig)?;
        let version = api.done("GET", "/version", JSON, &Value::Null)?;
        let version = version["gitVersion"].as_str().unwrap_or_default().to_owned();
        say(&format!("{} is Kubernetes {version}", server.shown()));
        let prefix = format!("{ALL}{:04x}", jiff::Timestamp::now().as_millisecond() & 0xffff);
        let lab = Lab::up(Options::default())?;
        let held = Held::take(&api, &prefix, &say)?;
        let relay = Relay::start(&lab, server.host.clone(), server.port)?;
        let shown = api.clone();
        let mut suite = Self {
            harness: Harness::new(lab).within(DEADLINE).showing(move || objects(&shown)),
            api,
            labels_before: BTreeMap::new(),
            restart,
            server,
            chart: Chart::default(),
            held: Some(held),
            _relay: relay,
            begun,
            strangers: BTreeMap::new(),
            prefix,
        };
        suite.install()?;
        Ok(suite)
    }

    /// From here on a fault takes everything out again: the suite is dropped.
    fn install(&mut self) -> Outcome {
        let (found, faults) = host_network::sweep(&self.api, ALL);
        if !faults.is_empty() {
            return Err(fault(format!("what a dead run left cannot be taken away: {}", faults.join("; "))));
        }
        if found > 0 {
            self.log(&format!("a dead run had left {found} objects; they are gone"));
        }
        host_network::refuse_others(&self.api)?;
        for node in self.api.list("/api/v1/nodes")? {
            self.strangers.insert(name(&node).to_owned(), node["metadata"]["labels"].clone());
        }
        for namespace in [self.namespace(), format!("{}-batuu", self.prefix)] {
            host_network::make_namespace(&self.api, &self.prefix, &namespace)?;
        }
        let objects = chart::rendered(&self.namespace(), false)?;
        let is_definition = |object: &&Value| object["kind"] == "CustomResourceDefinition";
        for object in objects.iter().filter(is_definition) {
            self.chart.put(&self.api, &self.prefix, object)?;
        }
        Chart::await_kinds(&self.api)?;
        for object in objects.iter().filter(|object| !is_definition(object)) {
            self.chart.put(&self.api, &self.prefix, object)?;
        }
        self.log(&format!("{} objects of the chart are in place", objects.len()));
        for node in &self.lab.nodes().to_vec() {
            let made = host_network::make_node(&self.api, &self.prefix, node, true)?;
            if let Some(held) = &self.held {
                held.enliven(name(&made));
            }
            self.labels_before.insert(name(&made).to_owned(), made["metadata"]["labels"].clone());
        }
        for pod in Options::default().pods {
            host_network::make_pod(&self.api, &self.prefix, &pod, &self.lab)?;
        }
        self.log("2 nodes and 2 pods are in the cluster; their network is the lab's");
        self.mention_strangers()
    }

    /// `helm upgrade --set remove=true`: more rights for those that leave.
    pub(super) fn upgrade_to_remove(&mut self) -> Outcome {
        for object in chart::rendered(&self.namespace(), true)? {
            self.chart.put(&self.api, &self.prefix, &object)?;
        }
        Ok(())
    }

    /// Nodes that are not the suite's: nothing is done to them, but that Egret's agents here know their addresses.
    fn mention_strangers(&self) -> Outcome {
        if self.strangers.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.strangers.keys().map(String::as_str).take(5).collect();
        let (count, names) = (self.strangers.len(), names.join(", "));
        self.log(&format!("{count} other nodes are none of the suite's business: {names}"));
        for node in self.api.list("/api/v1/nodes")?.iter().filter(|node| self.strangers.contains_key(name(node))) {
            let addresses = node["status"]["addresses"].to_string();
            let networks = node["spec"]["podCIDRs"].to_string();
            let clash =
                addresses.contains("\"172.18.0.") || ["\"10.0.", "\"10.1."].iter().any(|net| networks.contains(net));
            if clash {
                self.log(&format!(
                    "note: {} has addresses that the lab has as well; packets stay in the lab",
                    name(node)
                ));
            }
        }
        Ok(())
    }

    /// A line for who watches.
    pub(super) fn log(&self, text: &str) {
        log_after(self.begun, text);
    }

    /// The release's namespace.
    pub(super) fn namespace(&self) -> String {
        format!("{}-system", self.prefix)
    }

    /// A name of the lab or of the scenario as the cluster has it.
    pub(super) fn named(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// The label by which the gateway is found.
    pub(super) fn gateway_label(&self) -> String {
        self.named("gw")
    }

    /// A Node.
    pub(super) fn node(&self, name: &str) -> Outcome<Option<Value>> {
        self.api.get(&format!("/api/v1/nodes/{}", self.named(name)))
    }

    /// Labels for nodes of the suite, as a document.
    pub(super) fn labels_document(&self, document: &str, nodes: &[&str], labels: &[(&str, &str)]) -> String {
        let nodes: Vec<String> = nodes.iter().map(|node| self.named(node)).collect();
        let labels: BTreeMap<String, &str> = labels.iter().map(|(key, value)| (self.named(key), *value)).collect();
        let object = json!({
            "apiVersion": "egret.dev/v1alpha1", "kind": "NodeLabels", "metadata": {"name": document},
            "spec": {"nodes": nodes, "labels": labels},
        });
        format!("{object:#}\n")
    }

    /// The outpost's policy.
    pub(super) fn policy(&self) -> String {
        let pods = json!({"org": "empire", "io.kubernetes.pod.namespace": self.named("batuu")});
        let object = json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumEgressGatewayPolicy", "metadata": {"name": self.named("outpost")},
            "spec": {
                "selectors": [{"podSelector": {"matchLabels": pods}}],
                "destinationCIDRs": ["10.0.4.0/24", "fd00:10:4::/64"],
                "egressGateway": {
                    "nodeSelector": {"matchLabels": {self.gateway_label(): "true"}}, "interface": "net1",
                },
            },
        });
        format!("{object:#}\n")
    }

    /// Pushes the two documents of the scenario.
    pub(super) fn push_scenario(&self) -> Outcome {
        let labels = self.labels_document("gateways", &["kind-worker2"], &[("gw", "true")]);
        self.push(&[("nodes/gateways.yaml", &labels), ("policies/outpost.yaml", &self.policy())])
    }

    // Processes.

    /// Somebody with a token of one of the chart's accounts, bound to a node of the lab where one is given.
    pub(super) fn account(&self, account: &str, node: Option<&str>) -> Outcome<(String, Api)> {
        let found = node.map(|node| self.node(node)).transpose()?.flatten();
        let uid = found.as_ref().and_then(|node| node["metadata"]["uid"].as_str());
        let bound = node.map(|node| self.named(node));
        let bound = bound.as_deref().zip(uid);
        let token = account::token(&self.api, &self.namespace(), account, bound)?;
        let api = self.api.with_token(&token)?;
        account::check(&api, &self.namespace(), account, bound.map(|(name, _)| name))?;
        Ok((token, api))
    }

    /// Waits until an account may read what everybody of Egret reads: the server learns of new bindings a moment after they are written.
    pub(super) fn await_rights(&self, account: &str, api: &Api) -> Outcome {
        self.await_that(&format!("{account}'s right to list nodes, as the chart gives it"), || {
            Ok(api.send("GET", "/api/v1/nodes?limit=1", JSON, &Value::Null)?.0 == 200)
        })
    }

    /// `env` gives the program what it needs to know of the cluster.
    fn words(&self, of: &str, token: &str, words: Vec<OsString>) -> Outcome<Vec<OsString>> {
        let file = self.lab.folder().join(format!("kubeconfig-{of}"));
        let text = self.server.kubeconfig(token)?.to_string();
        std::fs::write(&file, text).map_err(fault)?;
        let mut kubeconfig = OsString::from("KUBECONFIG=");
        kubeconfig.push(file);
        let first = [kubeconfig, "RUST_LOG=info,egret=debug".into(), self.lab.program()?.into_os_string()];
        Ok(first.into_iter().chain(words).collect())
    }

    /// A candidate's identity: it begins with the prefix, so that the events it wrote can be told from others' afterwards.
    pub(super) fn identity(&self, candidate: &str) -> String {
        format!("{}-{candidate}", self.prefix)
    }

    /// Starts a controller beside the router, as a candidate of this name.
    pub(super) fn controller(&mut self, identity: &str) -> Outcome {
        let repository = self.lab.repository().path().display().to_string();
        self.controller_with(identity, &["--repo".to_owned(), repository])
    }

    /// The same, with the repository and more arguments.
    pub(super) fn controller_with(&mut self, identity: &str, more: &[String]) -> Outcome {
        let (token, api) = self.account("egret-controller", None)?;
        self.await_rights("egret-controller", &api)?;
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/egret-controller", self.namespace());
        self.await_that("egret-controller's right to its lease, as the chart gives it", || {
            Ok(api.send("GET", &lease, JSON, &Value::Null)?.0 != 403)
        })?;
        let state = self.state(&format!("controller-{identity}"))?;
        let mut words: Vec<OsString> = vec![
            "controller".into(),
            "--state-dir".into(),
            state.into(),
            "--identity".into(),
            self.identity(identity).into(),
            "--namespace".into(),
            self.namespace().into(),
            "--cluster-name".into(),
            self.prefix.clone().into(),
            "--lease-duration".into(),
            LEASE.into(),
        ];
        words.extend(more.iter().map(OsString::from));
        let words = self.words(&format!("controller-{identity}"), &token, words)?;
        let process = self.lab.start_beside_router("env", words)?;
        let name = format!("controller-{identity}");
        self.keep(&name, process);
        self.await_words(&name, "controller runs")
    }

    /// Starts an agent on a node of the lab, under the node's name in the cluster.
    pub(super) fn agent(&mut self, node: &str, more: &[&str]) -> Outcome {
        let (token, api) = self.account("egret-agent", Some(node))?;
        self.await_rights("egret-agent", &api)?;
        let state = self.state(node)?;
        let mut words: Vec<OsString> =
            vec!["agent".into(), "--node".into(), self.named(node).into(), "--state-dir".into(), state.into()];
        words.extend(["--namespace".into(), self.namespace().into()]);
        words.extend(more.iter().map(OsString::from));
        let words = self.words(node, &token, words)?;
        let process = self.lab.start(node, "env", words)?;
        self.keep(node, process);
        Ok(())
    }

    /// `egret controller --remove` to its end.
    pub(super) fn remove(&mut self) -> Outcome {
        let (token, api) = self.account("egret-remove", None)?;
        self.await_rights("egret-remove", &api)?;
        let words = ["controller", "--remove", "--namespace"].map(OsString::from).into_iter();
        let words = words.chain([self.namespace().into()]).collect();
        let words = self.words("remove", &token, words)?;
        let process = self.lab.start_beside_router("env", words)?;
        self.keep("remove", process);
        self.await_good_end("remove")
    }

    /// Waits until a process ends on its own, well.
    pub(super) fn await_good_end(&mut self, name: &str) -> Outcome {
        match self.await_end(name)? {
            None | Some((Some(0), _)) => Ok(()),
            Some((code, output)) => Err(fault(format!("{name} ended with {code:?}:\n{output}"))),
        }
    }

    /// Ends a process as the kubelet does; it must end well.
    pub(super) fn end(&mut self, name: &str) -> Outcome {
        self.process_mut(name).terminate()?;
        self.await_good_end(name)
    }

    // What is so.

    /// Waits until something is so, and says what it waited for otherwise, with what went wrong last.
    pub(super) fn await_that(&self, awaited: &str, mut holds: impl FnMut() -> Outcome<bool>) -> Outcome {
        let mut last = String::new();
        let held = wait_until_every(PAUSE, DEADLINE, || {
            holds().unwrap_or_else(|fault| {
                last = format!("{fault:?}");
                false
            })
        });
        if held { Ok(()) } else { Err(self.late(awaited, &last)) }
    }

    /// Waits until a pod is let in, without waiting long for any answer, for measuring.
    pub(super) fn await_granted_soon(&self, pod: &str) -> Outcome {
        let soon = Duration::from_millis(20);
        self.await_that(&format!("a way out for {pod}"), || {
            let mut granted = true;
            for (outpost, egress) in WAYS {
                granted &= self.lab.ask_within(pod, outpost, soon)? == Answer::Granted(egress);
            }
            Ok(granted)
        })
    }

    /// A custom object, or nothing.
    pub(super) fn object(&self, plural: &str, name: &str) -> Outcome<Value> {
        Ok(self.api.get(&format!("{CUSTOM}/{plural}/{name}"))?.unwrap_or_default())
    }

    /// What refusals for want of rights everybody met so far. Logs of processes that ended are there too.
    pub(super) fn refusals(&self) -> Outcome<Vec<String>> {
        let mut refusals = Vec::new();
        for entry in std::fs::read_dir(self.lab.folder()).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            if path.extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let text = String::from_utf8_lossy(&std::fs::read(&path).map_err(fault)?).into_owned();
            let of = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let no = ["is forbidden", "Forbidden", "Unauthorized", "role lacks a rule", "denied request"];
            let lines = text.lines().filter(|line| no.iter().any(|word| line.contains(word)));
            refusals.extend(lines.map(|line| format!("{of}: {line}")));
        }
        Ok(refusals)
    }

    /// What became of nodes that are not the suite's: nothing may.
    pub(super) fn harmed(&self) -> Outcome<Vec<String>> {
        let nodes = self.api.list("/api/v1/nodes")?;
        let others = nodes.iter().filter(|node| self.strangers.contains_key(name(node)));
        let harmed =
            others.filter(|node| host_network::is_ours(node) || node["metadata"]["labels"].to_string().contains(ALL));
        Ok(harmed.map(|node| name(node).to_owned()).collect())
    }

    /// Takes everything out. Goes on after a fault; a second time there is nothing to do.
    pub(super) fn down(&mut self) -> Vec<String> {
        self.kill_all();
        let Some(mut held) = self.held.take() else { return Vec::new() };
        held.be_quiet();
        let (_, mut faults) = host_network::sweep(&self.api, &self.prefix);
        faults.extend(self.chart.take_out(&self.api));
        faults
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        // A panic or a fault came first; what it leaves is named, and the next run sweeps it.
        for fault in self.down() {
            self.log(&format!("left behind: {fault}"));
        }
    }
}

fn log_after(begun: Instant, text: &str) {
    // Standard error would do as well; this is what `--nocapture` shows in order with the test's result.
    #[expect(clippy::print_stdout, reason = "the suite tells people what it does")]
    {
        println!("{:6.1} s  {text}", begun.elapsed().as_secs_f32());
    }
}
