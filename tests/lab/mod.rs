//! The lab: the outpost scenario on one Linux machine, in network namespaces of its own, with real links, a real HTTP server and a real
//! repository. Tests and the demo share it.
//!
//! Two nodes on a network 172.18.0.0/24, pods on kind-worker, 10.0.3.42 on net1 of kind-worker2, a router between all, and behind it the
//! outpost 10.0.4.2; the same in IPv6. What a CNI would do is done; of Egret's datapath there is nothing: that is for the program.
//! Several labs stand beside each other, and each is taken down however it ends: on drop, also of a panic; on a signal, where
//! [`take_down_on_signals`] was called; and after kill -9 by the next lab that comes up.
//! Deliberately absent: anything in the machine's own network namespace, and any sysctl of the machine.

#![allow(dead_code, unused_imports, reason = "each user of the lab, a test or the demo, uses a part of it")]

mod claim;
mod client;
mod error;
mod listener;
mod manifests;
mod namespace;
mod outpost;
mod pods;
mod process;
mod repository;
mod topology;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(crate) use claim::{Claim, growing, sweep, take_down_on_signals};
pub(crate) use client::{Answer, Hammer, LongConnection, PATIENCE, Request, ask, get};
pub(crate) use error::{LabError, run};
pub(crate) use listener::{Heard, Listener};
pub(crate) use manifests::replace;
pub(crate) use namespace::{NAMED, Namespace};
pub(crate) use outpost::{DATAGRAMS, HTTP, LINES, Outpost, TICKS, Visit};
pub(crate) use process::{Process, ended_by, wait_until, wait_until_every};
pub(crate) use repository::Repository;
pub(crate) use topology::{EGRESS, EGRESS6, EXCLUDED, EXCLUDED6, Node, OUTPOST, OUTPOST6, Options, Pod, sysctls};

use pods::Wired;

/// A lab that stands. Dropping it takes everything of it away.
pub(crate) struct Lab {
    options: Options,
    nodes: Vec<Node>,
    pods: Mutex<BTreeMap<String, Wired>>,
    repository: Repository,
    processes: AtomicU32,
    /// Before the claim: fields are dropped in their order, and the outpost's thread leaves before its namespace goes.
    outpost: Outpost,
    claim: Claim,
}

impl Lab {
    /// Takes away what dead labs left, then builds one and tries it: every pod reaches the outpost when this returns.
    pub(crate) fn up(options: Options) -> Result<Self, LabError> {
        claim::sweep()?;
        let lab = Self::without_pods(options)?;
        for pod in &lab.options.pods {
            lab.wire_pod(pod.clone())?;
        }
        for pod in &lab.options.pods {
            lab.announce_pod(&pod.name)?;
        }
        lab.wait_for_ways()?;
        Ok(lab)
    }

    /// Everything but pods. The lab's pods come after it, in the way that all pods come.
    fn without_pods(options: Options) -> Result<Self, LabError> {
        let _growing = claim::growing();
        let claim = Claim::new()?;
        let nodes = options.nodes();
        build(&options, &nodes, &claim)?;
        let repository = Repository::create(claim.folder())?;
        let allowed = nodes.iter().filter_map(Node::egress).flatten().collect();
        let listens = [[OUTPOST, OUTPOST6], [EXCLUDED, EXCLUDED6]].into_iter().flat_map(|pair| options.families(pair));
        let outpost = Outpost::start(claim.namespace("outpost"), listens.collect(), allowed)?;
        let cluster = claim.folder().join("cluster");
        fs::create_dir(&cluster).map_err(LabError::doing(format!("make the folder {}", cluster.display())))?;
        manifests::replace(&cluster.join("nodes.yaml"), &manifests::nodes(&options), claim.folder())?;
        let (pods, processes) = (Mutex::default(), AtomicU32::new(0));
        Ok(Self { options, nodes, pods, repository, processes, outpost, claim })
    }

    /// The prefix of the names of its namespaces, and the name of its folder.
    pub(crate) fn name(&self) -> String {
        self.claim.folder().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Its folder in the system's temporary one, gone with it. Tests may keep things here.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.claim.folder()
    }

    /// The namespace of a node.
    pub(crate) fn node(&self, name: &str) -> Result<Namespace, LabError> {
        self.known_node(name).map(|node| self.claim.namespace(&node.name))
    }

    /// The nodes, with their addresses.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The namespace of the router between nodes and outpost.
    pub(crate) fn router(&self) -> Namespace {
        self.claim.namespace("router")
    }

    /// The namespace of the outpost.
    pub(crate) fn outpost_namespace(&self) -> Namespace {
        self.claim.namespace("outpost")
    }

    /// The outpost, with what it remembers.
    pub(crate) fn outpost(&self) -> &Outpost {
        &self.outpost
    }

    /// The policy repository.
    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The folder with nodes.yaml, namespaces.yaml and pods.yaml, as `--cluster` takes it. The lab writes nodes.yaml once, and later only
    /// where a test calls [`Self::set_ready`] or [`Self::edit_nodes`]: labels that the program wrote stay.
    pub(crate) fn cluster_dir(&self) -> PathBuf {
        self.claim.folder().join("cluster")
    }

    /// Sets a node's condition Ready in nodes.yaml.
    pub(crate) fn set_ready(&self, node: &str, ready: bool) -> Result<(), LabError> {
        let unknown = || LabError::Unknown { kind: "node in nodes.yaml:", name: node.to_owned() };
        self.edit_nodes(|text| manifests::with_ready(text, node, ready).ok_or_else(unknown))
    }

    /// Cordons a node.
    pub(crate) fn cordon(&self, node: &str) -> Result<(), LabError> {
        let unknown = || LabError::Unknown { kind: "node in nodes.yaml:", name: node.to_owned() };
        self.edit_nodes(|text| manifests::cordoned(text, node).ok_or_else(unknown))
    }

    /// Changes nodes.yaml, in one step for those who read it.
    pub(crate) fn edit_nodes(&self, change: impl FnOnce(&str) -> Result<String, LabError>) -> Result<(), LabError> {
        let file = self.cluster_dir().join("nodes.yaml");
        let text = fs::read_to_string(&file).map_err(LabError::doing(format!("read {}", file.display())))?;
        manifests::replace(&file, &change(&text)?, self.claim.folder())
    }

    /// Lets a pod ask the outpost once.
    pub(crate) fn ask(&self, pod: &str, address: IpAddr) -> Result<Answer, LabError> {
        self.ask_within(pod, address, PATIENCE)
    }

    /// The same with another patience: how long the connection, and then the answer, may take.
    pub(crate) fn ask_within(&self, pod: &str, address: IpAddr, patience: Duration) -> Result<Answer, LabError> {
        self.pod(pod)?.enter(|| client::ask(address, &format!("/{pod}"), patience))
    }

    /// Lets a pod ask the outpost without pause from now on.
    pub(crate) fn hammer(&self, pod: &str, address: IpAddr) -> Result<Hammer, LabError> {
        Hammer::start(&self.pod(pod)?, address)
    }

    /// The same where a request is given up sooner.
    pub(crate) fn hasty_hammer(&self, pod: &str, address: IpAddr, patience: Duration) -> Result<Hammer, LabError> {
        Hammer::start_with(&self.pod(pod)?, address, patience)
    }

    /// Opens a TCP connection from a pod to the outpost, to be kept.
    pub(crate) fn long_connection(&self, pod: &str, address: IpAddr) -> Result<LongConnection, LabError> {
        LongConnection::tcp(&self.pod(pod)?, address)
    }

    /// The same over UDP.
    pub(crate) fn long_datagrams(&self, pod: &str, address: IpAddr) -> Result<LongConnection, LabError> {
        LongConnection::udp(&self.pod(pod)?, address)
    }

    /// Opens a connection from a pod on which the outpost speaks and the pod is silent.
    pub(crate) fn listener(&self, pod: &str, address: IpAddr) -> Result<Listener, LabError> {
        Listener::tcp(&self.pod(pod)?, address)
    }

    /// The same over UDP.
    pub(crate) fn datagram_listener(&self, pod: &str, address: IpAddr) -> Result<Listener, LabError> {
        Listener::udp(&self.pod(pod)?, address)
    }

    /// Packets that came to the router for this address of the outpost, by their source. None that ever came is missing.
    pub(crate) fn sources_towards(&self, address: IpAddr) -> Result<BTreeMap<IpAddr, u64>, LabError> {
        let seen = watch::seen(&self.router())?;
        let to_it = seen.into_iter().filter(|((destination, _), _)| *destination == address);
        Ok(to_it.map(|((_, source), packets)| (source, packets)).collect())
    }

    /// Those of them that are not the egress address of any gateway.
    pub(crate) fn wrong_sources(&self, address: IpAddr) -> Result<BTreeMap<IpAddr, u64>, LabError> {
        let right: Vec<_> = self.nodes.iter().filter_map(Node::egress).flatten().collect();
        let mut sources = self.sources_towards(address)?;
        sources.retain(|source, _| !right.contains(source));
        Ok(sources)
    }

    /// Forgets all callers, requests and sources seen so far.
    pub(crate) fn forget(&self) -> Result<(), LabError> {
        self.outpost.forget();
        watch::forget(&self.router())
    }

    /// Starts any program in a node's namespace.
    pub(crate) fn start(
        &self,
        node: &str,
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Process, LabError> {
        let namespace = self.node(node)?;
        let words = [program.into()].into_iter().chain(arguments.into_iter().map(Into::into));
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let (home, log) = (self.claim.folder().join("home"), self.claim.folder().join(format!("{node}-{number}.log")));
        Process::start(&namespace, words, &home, log)
    }

    /// Starts any program beside the router, where every node can reach it.
    pub(crate) fn start_beside_router(
        &self,
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Process, LabError> {
        let words = [program.into()].into_iter().chain(arguments.into_iter().map(Into::into));
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let (home, log) = (self.claim.folder().join("home"), self.claim.folder().join(format!("router-{number}.log")));
        Process::start(&self.router(), words, &home, log)
    }

    /// Starts `egret run` for a node, with more arguments behind those it needs.
    pub(crate) fn egret(&self, node: &str, more: &[&str]) -> Result<Process, LabError> {
        let arguments = self.egret_arguments(node)?.into_iter().chain(more.iter().map(OsString::from));
        self.start(node, self.program()?, [OsString::from("run")].into_iter().chain(arguments))
    }

    /// What every command of `egret` needs to know about a node of this lab. The state folder stays the same over restarts.
    pub(crate) fn egret_arguments(&self, node: &str) -> Result<Vec<OsString>, LabError> {
        let node = self.known_node(node)?;
        let state = self.claim.folder().join(format!("state-{}", node.name));
        fs::create_dir_all(&state).map_err(LabError::doing(format!("make the folder {}", state.display())))?;
        let pairs: [(&str, OsString); 4] = [
            ("--repo", self.repository.path().into()),
            ("--cluster", self.cluster_dir().into()),
            ("--node", node.name.into()),
            ("--state-dir", state.into()),
        ];
        Ok(pairs.into_iter().flat_map(|(option, value)| [option.into(), value]).collect())
    }

    /// The binary `egret`: what the options say, else what cargo built for this test, else what lies above the running example.
    pub(crate) fn program(&self) -> Result<PathBuf, LabError> {
        let built = option_env!("CARGO_BIN_EXE_egret").map(PathBuf::from);
        if let Some(program) = self.options.program.clone().or(built) {
            return Ok(program);
        }
        let example = std::env::current_exe().map_err(LabError::doing("find the running program"))?;
        let beside = example.ancestors().skip(1).take(2).map(|folder| folder.join("egret")).find(|path| path.is_file());
        beside.ok_or_else(|| LabError::Unknown { kind: "program", name: "egret".to_owned() })
    }

    fn known_node(&self, name: &str) -> Result<Node, LabError> {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.cloned().ok_or_else(|| LabError::Unknown { kind: "node", name: name.to_owned() })
    }

    /// Waits until every pod has been answered in every family, then forgets that anybody asked.
    fn wait_for_ways(&self) -> Result<(), LabError> {
        let (deadline, haste) = (Duration::from_secs(10), Duration::from_millis(200));
        let ways = || {
            self.options
                .pods
                .iter()
                .flat_map(|pod| self.options.families([OUTPOST, OUTPOST6]).into_iter().map(move |to| (pod, to)))
        };
        for (pod, address) in ways() {
            let namespace = self.claim.namespace(&pod.name);
            let answered = || client::ask(address, "/ready", haste) != Answer::NoAnswer;
            if !namespace.enter(|| wait_until(deadline, answered))? {
                let seen = namespace.exec(["ip", "address"])?;
                return Err(LabError::Late {
                    awaited: format!("the way from {} to {address}", pod.name),
                    deadline,
                    seen,
                });
            }
        }
        self.forget()
    }
}

/// Makes the namespaces and the network in them, without pods.
fn build(options: &Options, nodes: &[Node], claim: &Claim) -> Result<(), LabError> {
    claim.make_namespaces(["router", "outpost"].into_iter().chain(nodes.iter().map(|node| node.name.as_str())))?;
    let (router, outpost) = (claim.namespace("router"), claim.namespace("outpost"));
    router.sysctls(&topology::sysctls(options, true, 0))?;
    outpost.sysctls(&topology::sysctls(options, false, 0))?;
    for node in nodes {
        let namespace = claim.namespace(&node.name);
        namespace.sysctls(&topology::sysctls(options, true, options.rp_filter))?;
        namespace.sysctl("net.ipv4.conf.all.src_valid_mark", if options.src_valid_mark { "1" } else { "0" })?;
    }
    // The router's lines make everybody's links, so they come first.
    router.ip_batch(topology::router(options, |role| claim.namespace(role)).text())?;
    outpost.ip_batch(topology::outpost(options).text())?;
    watch::begin(&router)?;
    for node in nodes {
        let namespace = claim.namespace(&node.name);
        namespace.ip_batch(topology::node(options, node).text())?;
        if options.tracks {
            namespace.nft(topology::TRACK)?;
        }
        if options.masquerade {
            namespace.nft(topology::MASQUERADE)?;
        }
    }
    Ok(())
}
