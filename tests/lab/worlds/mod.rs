//! Worlds: clusters of other people in network namespaces, each with the parts of the lab and with real packets.
//!
//! `dimensions` says in what worlds differ, `layout` which addresses that gives, `network` the lines that make it, `rules` what other
//! programs have put in, `forge` what an attacker sends. Deliberately absent: any claim, and anything of Egret's but its processes.

#![allow(dead_code, reason = "the parts of a world are named as a whole, also where no claim asks for one yet")]

pub(crate) mod dimensions;
pub(crate) mod forge;
pub(crate) mod layout;
mod network;
mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{
    Answer, Claim, DATAGRAMS, LabError, Namespace, Outpost, Process, Repository, ask, growing, replace, sweep,
    wait_until,
};
use dimensions::{Family, World};
use layout::{Node, Pod, SERVER};

/// Only against hanging: no claim holds by waiting it out.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long a claim waits for an answer that should come, and for one that should not. That nothing leaked is told by the watch at the
/// router, not by this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
pub(crate) const HELD_BACK: Duration = Duration::from_millis(400);

/// Datagrams that must not arrive have ports of this range: the watch counts them whoever they come from.
pub(crate) const WATCHED: std::ops::Range<u16> = 4700..4800;

/// A world that stands, with Egret on every node. Dropping it takes everything of it away.
pub(crate) struct Standing {
    pub(crate) world: World,
    processes: BTreeMap<Node, Process>,
    outside: Outpost,
    server: Outpost,
    repository: Repository,
    /// Last: fields are dropped in their order, and everything else leaves before its namespace goes.
    claim: Claim,
}

impl Standing {
    /// Builds a world, and starts Egret on every node.
    pub(crate) fn up(world: World) -> Result<Self, LabError> {
        let mut standing = Self::without_egret(world)?;
        for node in Node::ALL {
            let log = standing.claim.folder().join(format!("{}.log", node.name()));
            let words = [env!("CARGO_BIN_EXE_egret").to_owned(), "run".to_owned()];
            let words = words.into_iter().chain(standing.arguments(node));
            let home = standing.claim.folder().join("home");
            let process = Process::start(&standing.node(node), words, &home, log)?;
            standing.processes.insert(node, process);
        }
        Ok(standing)
    }

    /// Builds a world with the policy in the repository and its objects in a folder.
    pub(crate) fn without_egret(world: World) -> Result<Self, LabError> {
        sweep()?;
        let (claim, repository, outside, server) = {
            let _growing = growing();
            let claim = Claim::new()?;
            network::build(world, &claim)?;
            let families = world.families();
            let listens = families
                .iter()
                .flat_map(|family| [layout::named(*family), layout::excluded(*family), layout::unnamed(*family)]);
            let allowed = families.iter().map(|family| layout::egress(*family)).collect();
            let outside = Outpost::start(claim.namespace("outside"), listens.collect(), allowed)?;
            let at = families.iter().map(|family| world.pod(SERVER, *family)).collect();
            let server = Outpost::start(claim.namespace(SERVER.name), at, std::collections::BTreeSet::new())?;
            let repository = Repository::create(claim.folder())?;
            (claim, repository, outside, server)
        };
        repository.write("policies/world.yaml", &world.policy())?;
        repository.push("the policy of this world")?;
        let cluster = claim.folder().join("cluster");
        fs::create_dir(&cluster).map_err(LabError::doing(format!("make the folder {}", cluster.display())))?;
        for (name, objects) in [
            ("nodes.yaml", world.node_objects()),
            ("namespaces.yaml", World::namespace_objects()),
            ("pods.yaml", world.pod_objects()),
        ] {
            replace(&cluster.join(name), &format!("{objects:#}\n"), claim.folder())?;
        }
        Ok(Self { world, processes: BTreeMap::new(), outside, server, repository, claim })
    }

    fn arguments(&self, node: Node) -> Vec<String> {
        let folder = self.claim.folder();
        let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let state = path(&format!("state-{}", node.name()));
        let pairs = [
            ("--repo", self.repository.path().to_string_lossy().into_owned()),
            ("--cluster", path("cluster")),
            ("--node", node.name().to_owned()),
            ("--state-dir", state),
        ];
        pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
    }

    /// Runs another command of `egret` for a node to its end: its exit code, and what it said.
    pub(crate) fn egret(&self, node: Node, words: &[&str]) -> Result<(Option<i32>, String), LabError> {
        let arguments = self.arguments(node);
        let run = || Command::new(env!("CARGO_BIN_EXE_egret")).args(words).args(arguments).output();
        let doing = LabError::doing(format!("run egret {}", words.join(" ")));
        let output = self.node(node).enter(run)?.map_err(doing)?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// What `egret doctor` says on a node: it asks the kernel alone.
    pub(crate) fn doctor(&self, node: Node) -> Result<String, LabError> {
        let run = || Command::new(env!("CARGO_BIN_EXE_egret")).arg("doctor").output();
        let output = self.node(node).enter(run)?.map_err(LabError::doing("run egret doctor"))?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Waits until every node has nothing left to do, by its own word.
    pub(crate) fn await_settled(&self) -> Result<(), LabError> {
        for (node, process) in &self.processes {
            process.wait_for("egret runs", DEADLINE)?;
            let mut last = (None, String::new());
            let settled = wait_until(DEADLINE, || {
                last = self.egret(*node, &["plan"]).unwrap_or_default();
                last.0 == Some(0)
            });
            if !settled {
                let seen = format!("exit code {:?}\n{}\n{}", last.0, last.1, process.output()?);
                let awaited = format!("an empty plan of {}", node.name());
                return Err(LabError::Late { awaited, deadline: DEADLINE, seen });
            }
        }
        Ok(())
    }

    /// What Egret said on a node.
    pub(crate) fn log(&self, node: Node) -> String {
        self.processes.get(&node).and_then(|process| process.output().ok()).unwrap_or_default()
    }

    /// A file of the reports branch.
    pub(crate) fn report(&self, node: Node) -> String {
        self.repository.show(&format!("egret/reports/default:nodes/{}.yaml", node.name())).unwrap_or_default()
    }

    /// The namespace of a node.
    pub(crate) fn node(&self, node: Node) -> Namespace {
        self.claim.namespace(node.name())
    }

    /// The namespace of a pod.
    pub(crate) fn pod(&self, pod: Pod) -> Namespace {
        self.claim.namespace(pod.name)
    }

    /// The namespace of the outside.
    pub(crate) fn outside_namespace(&self) -> Namespace {
        self.claim.namespace("outside")
    }

    /// The router's rules with their counters: what came, and what the ports of a cloud dropped.
    pub(crate) fn router_rules(&self) -> Result<String, LabError> {
        self.claim.namespace("router").exec(["nft", "list", "ruleset"])
    }

    /// What came to the outside.
    pub(crate) fn outside(&self) -> &Outpost {
        &self.outside
    }

    /// Lets a pod ask a server once, with a path that says what it was about.
    pub(crate) fn ask(&self, pod: Pod, to: IpAddr, path: &str) -> Result<Answer, LabError> {
        self.pod(pod).enter(|| ask(to, path, PATIENCE))
    }

    /// The datagrams with watched ports that came to the router for the outside, and from whom.
    pub(crate) fn watched(&self) -> Result<BTreeMap<(u16, IpAddr), u64>, LabError> {
        let nonsense = || LabError::Nonsense { what: "the listing of the router's table `watch`" };
        let listing = self.claim.namespace("router").exec(["nft", "-j", "list", "table", "inet", "watch"])?;
        let listing: Value = serde_json::from_str(&listing).map_err(|_| nonsense())?;
        let objects = listing["nftables"].as_array().ok_or_else(nonsense)?;
        let elements = objects.iter().filter_map(|object| object["set"]["elem"].as_array()).flatten();
        let one = |element: &Value| {
            let (key, counter) = (&element["elem"]["val"]["concat"], &element["elem"]["counter"]["packets"]);
            let port = u16::try_from(key[0].as_u64()?).ok()?;
            Some(((port, key[1].as_str()?.parse().ok()?), counter.as_u64()?))
        };
        elements.map(|element| one(element).ok_or_else(nonsense)).collect()
    }

    /// What `ip` says inside of a node.
    pub(crate) fn ip(&self, node: Node, words: &[&str]) -> Result<String, LabError> {
        self.node(node).exec(["ip"].iter().chain(words))
    }
}

/// Sends a line to a server's datagram port from the calling thread's namespace and gives the address that the server saw, if it answers.
pub(crate) fn datagram(from_port: u16, to: IpAddr, line: &str, patience: Duration) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, from_port)).ok()?;
    socket.connect(SocketAddr::new(to, DATAGRAMS)).ok()?;
    echo(&socket, line, patience)
}

/// The same over a socket that is open.
pub(crate) fn echo(socket: &UdpSocket, line: &str, patience: Duration) -> Option<IpAddr> {
    socket.set_read_timeout(Some(patience)).ok()?;
    let mut buffer = [0; 9000];
    // It may be too large for the way, and then its answer: a kernel on the way says so to each of the two, who cut the next into fragments.
    // The error of the one before is reported by the socket, too.
    for _ in 0..5 {
        let _ = socket.send(line.as_bytes());
        if let Ok(length) = socket.recv(&mut buffer) {
            let reply = String::from_utf8_lossy(&buffer[..length]).into_owned();
            return reply.split_once(' ').and_then(|(seen, _)| seen.parse().ok());
        }
    }
    None
}

/// All addresses of a family in which something can be asked.
pub(crate) fn outside_of(family: Family) -> [IpAddr; 3] {
    [layout::named(family), layout::excluded(family), layout::unnamed(family)]
}
