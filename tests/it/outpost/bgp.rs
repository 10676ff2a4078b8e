//! Egress addresses on `lo` that routing daemons announce: the configurations of docs/bgp.md as they stand there, with real BIRD and FRR on
//! gateways and router, while gateways are drained, die and come back.
//!
//! Not here: when an address is on a gateway's `lo` (`core::assignment::holding`), and addresses on an Ethernet (`assign`).

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::stand::{DEADLINE, Outcome, Stand, labels, print_figures};
use crate::lab::{Answer, Hammer, LabError, LongConnection, OUTPOST, OUTPOST6, Options, Process, wait_until};

const GATEWAY: &str = "kind-worker2";
const STANDBY: &str = "kind-worker3";
const ADDRESS: &str = "198.51.100.7";
const ADDRESS6: &str = "2001:db8:100::7";
/// The gateways' own addresses on the router's network. A route of IPv6 may lead to the last, which the lab does not make.
const OWN: [(&str, [&str; 3]); 2] =
    [(GATEWAY, ["10.0.3.42", "fd00:10:3::42", "fe80::42"]), (STANDBY, ["10.0.3.43", "fd00:10:3::43", "fe80::43"])];
/// A first packet that is lost on the way is sent again after a second (RFC 6298, 2.1).
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Bird,
    Frr,
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A configuration of docs/bgp.md.
fn example(language: &str) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bgp.md")).expect("the page");
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("the example");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// Starts the daemons on a node, or on the router without one.
fn start(stand: &Stand, node: Option<&str>, daemon: Daemon) -> Outcome<Vec<Process>> {
    let root = PathBuf::from(std::env::var_os("EGRET_BGP").expect("EGRET_BGP: make bgp sets it"));
    let place = stand.lab.folder().join(format!("bgp-{}", node.unwrap_or("router")));
    fs::create_dir_all(&place).map_err(LabError::doing("make a folder"))?;
    let (language, file) = match daemon {
        Daemon::Bird => ("bird", "bird.conf"),
        Daemon::Frr => ("frr", "frr.conf"),
    };
    let language = if node.is_some() { language.to_owned() } else { format!("{language}-router") };
    let mut text = example(&language);
    if let Some((_, [v4, v6, _])) = OWN.iter().find(|(name, _)| Some(*name) == node) {
        // As somebody would who sets up the second gateway.
        text = text.replace(OWN[0].1[1], v6).replace(OWN[0].1[0], v4);
    }
    // There is no syslog here.
    let text = text.replace("log syslog all;", "log stderr all;").replace("log syslog", "log stdout");
    for (file, text) in [(file, text.as_str()), ("vtysh.conf", "")] {
        fs::write(place.join(file), text).map_err(LabError::doing("write a configuration"))?;
    }
    let (root, place) = (root.display(), place.display());
    // `ip netns exec` has a mount namespace of its own.
    let files = format!("mount --bind {root}/passwd /etc/passwd && mount --bind {root}/group /etc/group");
    let libraries = format!("LD_LIBRARY_PATH={root}/usr/lib/x86_64-linux-gnu:{root}/usr/lib/aarch64-linux-gnu");
    let frr = |name: &str| {
        let files = format!("-f /dev/null -z {place}/zserv -i {place}/{name}.pid --vty_socket {place}");
        format!("exec {root}/usr/lib/frr/{name} {files} -u root -g root")
    };
    // As frrinit.sh does: all daemons, and then the one configuration for all of them.
    let sockets = ["zebra", "bfdd", "bgpd"].map(|name| format!("[ -S {place}/{name}.vty ]")).join(" && ");
    let configure = format!("{root}/usr/bin/vtysh --config_dir {place} --vty_socket {place} -b");
    let commands = match daemon {
        Daemon::Bird => vec![format!("exec {root}/usr/sbin/bird -f -c {place}/bird.conf -s {place}/bird.ctl")],
        Daemon::Frr => vec![
            frr("zebra"),
            frr("bfdd").replace("-u root", &format!("--bfdctl {place}/bfdd.sock -u root")),
            frr("bgpd"),
            format!("until {sockets}; do sleep 0.1; done; {configure}"),
        ],
    };
    let run = |command: &String| {
        let line = format!("{files}; export {libraries}; {command}");
        match node {
            Some(node) => stand.lab.start(node, "sh", ["-c", line.as_str()]),
            None => stand.lab.start_beside_router("sh", ["-c", line.as_str()]),
        }
    };
    commands.iter().map(run).collect()
}

fn policy() -> String {
    let one = |name: &str, address: &str, destination: &str| {
        format!(
            "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  selectors: [{{podSelector: {{matchLabels: {{org: empire, io.kubernetes.pod.namespace: batuu}}}}}}]
  destinationCIDRs: [\"{destination}\"]
  egressGateway:
    nodeSelector: {{matchLabels: {{egress-gw: \"true\"}}}}
    egressIP: \"{address}\"
    assign: {{interface: lo}}
"
        )
    };
    format!("{}---\n{}", one("outpost", ADDRESS, "10.0.4.0/24"), one("outpost6", ADDRESS6, "fd00:10:4::/64"))
}

/// A lab with daemons on everything.
struct Network {
    stand: Stand,
    gateways: Vec<(&'static str, Vec<Process>)>,
    router: Vec<Process>,
}

impl Network {
    fn up(gateway: Daemon, router: Daemon) -> Outcome<Self> {
        let stand = Stand::up(Options { gateways: 2, ..Options::default() })?;
        stand.lab.outpost().allow([ip(ADDRESS), ip(ADDRESS6)]);
        stand.lab.router().ip_batch("address add fe80::1/64 dev br1 nodad\n")?;
        for (node, [.., link_local]) in OWN {
            stand.lab.node(node)?.ip_batch(&format!("address add {link_local}/64 dev net1 nodad\n"))?;
        }
        let router = start(&stand, None, router)?;
        let gateways = OWN.iter().map(|(node, _)| Ok((*node, start(&stand, Some(node), gateway)?)));
        let gateways = gateways.collect::<Outcome<_>>()?;
        let network = Self { stand, gateways, router };
        let (labels, policy) = (labels(&format!("{GATEWAY}, {STANDBY}")), policy());
        let files = [("nodes/gateways.yaml", labels.as_str()), ("policies/outpost.yaml", policy.as_str())];
        network.stand.push_saying("addresses that daemons announce", &files)?;
        for address in [ADDRESS, ADDRESS6] {
            assert!(wait_until(3 * DEADLINE, || !network.routes(address).is_empty()), "{address}: {}", network.said());
        }
        network.stand.await_answer("tiefighter", OUTPOST, Answer::Granted(ip(ADDRESS)))?;
        network.stand.await_answer("tiefighter", OUTPOST6, Answer::Granted(ip(ADDRESS6)))?;
        // Which of the two was ready first, and has it, is not said.
        if !network.announces_alone(GATEWAY, ADDRESS) || !network.announces_alone(GATEWAY, ADDRESS6) {
            network.stand.lab.cordon(STANDBY)?;
            network.await_route(GATEWAY);
            network.uncordon()?;
        }
        network.await_route(GATEWAY);
        network.stand.await_settled()?;
        network.stand.lab.forget()?;
        Ok(network)
    }

    fn uncordon(&self) -> Outcome {
        self.stand.lab.edit_nodes(|text| Ok(text.replace("    unschedulable: true\n", "")))
    }

    /// Where the router sends packets for an egress address.
    fn routes(&self, address: &str) -> String {
        let family = if address.contains(':') { "-6" } else { "-4" };
        self.stand.lab.router().exec(["ip", family, "route", "show", address]).unwrap_or_default()
    }

    /// Waits until both routes lead to one gateway alone.
    fn await_route(&self, node: &str) {
        let own = OWN.iter().find(|(name, _)| *name == node).expect("a gateway").1;
        let other = OWN.iter().find(|(name, _)| *name != node).expect("the other").1;
        for (place, address) in [ADDRESS, ADDRESS6].into_iter().enumerate() {
            let via = |hops: &[&str; 3]| {
                let routes = self.routes(address);
                hops[place..].iter().any(|hop| routes.contains(&format!("via {hop} ")))
            };
            let leads = || via(&own) && !via(&other) && self.announces_alone(node, address);
            assert!(wait_until(3 * DEADLINE, leads), "{node}, {address}: {}\n{}", self.routes(address), self.said());
        }
    }

    /// Whether this node alone has the address.
    fn announces_alone(&self, node: &str, address: &str) -> bool {
        OWN.iter().all(|(name, _)| {
            let listed =
                self.stand.lab.node(name).and_then(|node| node.exec(["ip", "-o", "address", "show", "to", address]));
            listed.is_ok_and(|listed| listed.trim().is_empty() != (*name == node))
        })
    }

    fn said(&self) -> String {
        let of = |processes: &[Process]| processes.iter().filter_map(|one| one.output().ok()).collect::<String>();
        let gateways = self.gateways.iter().map(|(node, processes)| format!("{node}: {}", of(processes)));
        let egret = OWN.iter().map(|(node, _)| format!("egret on {node}: {}", self.stand.log(node)));
        format!("router: {}\n{}", of(&self.router), gateways.chain(egret).collect::<Vec<_>>().join("\n"))
    }

    fn hammers(&self) -> Outcome<[Hammer; 2]> {
        Ok([
            self.stand.lab.hasty_hammer("tiefighter", OUTPOST, PATIENCE)?,
            self.stand.lab.hasty_hammer("tiefighter", OUTPOST6, PATIENCE)?,
        ])
    }

    fn connections(&self) -> Result<Vec<LongConnection>, LabError> {
        let mut all = Vec::new();
        for _ in 0..5 {
            for address in [OUTPOST, OUTPOST6] {
                all.push(self.stand.lab.long_connection("tiefighter", address)?);
                all.push(self.stand.lab.long_datagrams("tiefighter", address)?);
            }
        }
        for connection in &mut all {
            connection.echo()?;
        }
        Ok(all)
    }
}

fn assert_alive(connections: &mut [LongConnection]) {
    let expected = [ADDRESS, ADDRESS, ADDRESS6, ADDRESS6].map(ip);
    for (place, connection) in connections.iter_mut().enumerate() {
        match connection.echo() {
            Ok(address) => assert_eq!(address, expected[place % 4], "connection {place}"),
            Err(error) => panic!("connection {place}: {error:?}"),
        }
    }
}

/// Every request was answered, with the promised address; returns how long the slowest took.
fn none_lost(hammers: [Hammer; 2]) -> Duration {
    let mut slowest = Duration::ZERO;
    for (hammer, address) in hammers.into_iter().zip([ADDRESS, ADDRESS6]) {
        let requests = hammer.stop();
        let lost: Vec<_> = requests.iter().filter(|one| one.answer != Answer::Granted(ip(address))).collect();
        assert_eq!(lost, Vec::<&crate::lab::Request>::new(), "of {} requests", requests.len());
        slowest = requests.iter().map(|one| one.took).max().unwrap_or_default().max(slowest);
    }
    slowest
}

fn holds(gateway: Daemon, router: Daemon) -> Outcome {
    let mut network = Network::up(gateway, router)?;
    let mut alive = network.connections()?;
    let kind = format!("{gateway:?} on gateways, {router:?} on the router");

    // Drained: withdrawn there, announced here, and nothing is lost.
    let (hammers, began) = (network.hammers()?, Instant::now());
    network.stand.lab.cordon(GATEWAY)?;
    network.await_route(STANDBY);
    print_figures(&format!("{kind}: a cordoned gateway's route is the other's"), vec![began.elapsed()]);
    assert_alive(&mut alive);
    print_figures(&format!("{kind}: the slowest request meanwhile"), vec![none_lost(hammers)]);

    // Egret is away on the holder: the route stays.
    let hammers = network.hammers()?;
    network.stand.kill9(STANDBY)?;
    std::thread::sleep(Duration::from_secs(2));
    network.await_route(STANDBY);
    network.stand.start(STANDBY)?;
    network.stand.await_settled()?;
    none_lost(hammers);
    network.uncordon()?;
    network.stand.await_settled()?;
    network.await_route(STANDBY);

    // No source reaches the holder, whose link to the router is well.
    let hammers = network.hammers()?;
    network.stand.lab.node(STANDBY)?.ip_batch("link set eth0 down\n")?;
    let began = Instant::now();
    network.await_route(GATEWAY);
    print_figures(
        &format!("{kind}: the route of a gateway that sources do not reach is the other's"),
        vec![began.elapsed()],
    );
    assert_alive(&mut alive);
    print_figures(&format!("{kind}: the slowest request meanwhile"), vec![none_lost(hammers)]);
    network.stand.lab.node(STANDBY)?.ip_batch(
        "link set eth0 up\nroute replace default via 172.18.0.1\nroute replace 10.1.1.0/24 via 172.18.0.2\n\
         route replace 10.1.2.0/24 via 172.18.0.3\naddress replace fd00:172:18::4/64 dev eth0 nodad\n\
         route replace fd00:10:1:1::/64 via fd00:172:18::2\nroute replace fd00:10:1:2::/64 via fd00:172:18::3\n\
         route replace default via fd00:172:18::1\n",
    )?;
    network.stand.await_settled()?;

    // No power.
    let hammers = network.hammers()?;
    network.stand.kill9(GATEWAY)?;
    network.stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\nlink set net1 down\n")?;
    let began = Instant::now();
    let (_, daemons) = network.gateways.remove(0);
    drop(daemons);
    let leads = || {
        let routes = network.routes(ADDRESS) + &network.routes(ADDRESS6);
        routes.contains("via 10.0.3.43 ") && !routes.contains("via 10.0.3.42 ")
    };
    assert!(wait_until(3 * DEADLINE, leads), "{}\n{}", network.routes(ADDRESS), network.said());
    print_figures(&format!("{kind}: the route of a gateway without power is the other's"), vec![began.elapsed()]);
    assert_alive(&mut alive);
    print_figures(&format!("{kind}: the slowest request meanwhile"), vec![none_lost(hammers)]);
    network.stand.assert_no_leak_but(&[ip(ADDRESS), ip(ADDRESS6)])
}

#[test]
#[ignore = "needs BIRD and FRR: make bgp"]
fn what_bird_announces_to_frr_follows_the_address() -> Outcome {
    holds(Daemon::Bird, Daemon::Frr)
}

#[test]
#[ignore = "needs BIRD and FRR: make bgp"]
fn what_frr_announces_to_bird_follows_the_address() -> Outcome {
    holds(Daemon::Frr, Daemon::Bird)
}
