//! The lab by itself, without Egret: what the other tests stand on is tried here, so that a failure there is a failure of Egret.
//!
//! Deliberately absent: anything of Egret's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{
    Answer, EGRESS, EGRESS6, EXCLUDED, EXCLUDED6, Lab, LabError, NAMED, OUTPOST, OUTPOST6, Options, Pod, ended_by,
    take_down_on_signals, wait_until,
};

type Outcome = Result<(), LabError>;

/// Long enough for a busy machine. No test passes by waiting it out.
const SOON: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The namespaces and the folder that bear a lab's name.
fn left_of(name: &str) -> Vec<PathBuf> {
    let folders = [Path::new(NAMED), &std::env::temp_dir()].map(|folder| fs::read_dir(folder).expect("a folder"));
    let paths = folders.into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let ours = |path: &PathBuf| {
        let rest = path.file_name().and_then(|file| file.to_str()?.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    paths.filter(ours).collect()
}

#[test]
fn without_egret_every_pod_is_denied_as_itself() -> Outcome {
    let lab = Lab::up(Options::default())?;
    for (pod, address, seen) in [
        ("tiefighter", OUTPOST, "10.1.1.177"),
        ("tiefighter", EXCLUDED, "10.1.1.177"),
        ("tiefighter", OUTPOST6, "fd00:10:1:1::177"),
        ("tiefighter", EXCLUDED6, "fd00:10:1:1::177"),
        ("xwing", OUTPOST, "10.1.1.234"),
        ("xwing", OUTPOST6, "fd00:10:1:1::234"),
    ] {
        assert_eq!(lab.ask(pod, address)?, Answer::Denied(ip(seen)), "{pod} to {address}");
    }
    Ok(())
}

#[test]
fn an_egress_address_is_granted_and_only_what_is_allowed() -> Outcome {
    let lab = Lab::up(Options { gateways: 2, default_route_over_net1: true, ..Options::default() })?;
    // Asked from the gateway itself, with nothing but a route over net1.
    for (node, seen, seen6) in
        [("kind-worker2", EGRESS, EGRESS6), ("kind-worker3", ip("10.0.3.43"), ip("fd00:10:3::43"))]
    {
        let gateway = lab.node(node)?;
        gateway.exec(["ip", "route", "add", "10.0.4.0/24", "via", "10.0.3.1"])?;
        gateway.exec(["ip", "route", "add", "fd00:10:4::/64", "via", "fd00:10:3::1"])?;
        let body = |url: &str| gateway.exec(["curl", "--silent", "--max-time", "5", url]);
        assert_eq!(body("http://10.0.4.2:8000/")?, format!("granted {seen}\n"));
        assert_eq!(body("http://[fd00:10:4::2]:8000/")?, format!("granted {seen6}\n"));
        lab.outpost().allow([]);
        assert_eq!(body("http://10.0.4.2:8000/")?, format!("denied {seen}\n"));
        lab.outpost().allow([EGRESS, EGRESS6, ip("10.0.3.43"), ip("fd00:10:3::43")]);
        let defaults = gateway.exec(["ip", "route", "show", "default"])?;
        assert_eq!(defaults, "default via 172.18.0.1 dev eth0 \ndefault via 10.0.3.1 dev net1 metric 200 \n");
    }
    Ok(())
}

#[test]
fn who_came_is_remembered_even_a_packet_that_nobody_answered() -> Outcome {
    let lab = Lab::up(Options::default())?;
    assert_eq!((lab.outpost().callers(), lab.sources_towards(OUTPOST)?), (BTreeSet::new(), BTreeMap::new()));
    lab.ask("tiefighter", OUTPOST)?;
    lab.ask("xwing", OUTPOST6)?;
    let visits = lab.outpost().visits();
    let said: Vec<_> = visits.iter().map(|visit| (visit.caller, visit.port, visit.text.as_str())).collect();
    assert_eq!(said, [(ip("10.1.1.177"), 8000, "/tiefighter"), (ip("fd00:10:1:1::234"), 8000, "/xwing")]);
    assert!(visits[0].connection < visits[1].connection && visits[0].at < visits[1].at);
    assert_eq!(lab.outpost().callers(), [ip("10.1.1.177"), ip("fd00:10:1:1::234")].into());
    lab.forget()?;
    assert_eq!((lab.outpost().callers(), lab.wrong_sources(OUTPOST)?), (BTreeSet::new(), BTreeMap::new()));
    // Two datagrams to a port where nobody listens: the outpost never hears of them.
    lab.pod("xwing")?.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for _ in 0..2 {
            socket.send_to(b"x", (EXCLUDED, 7)).expect("sent");
        }
    })?;
    assert_eq!(lab.sources_towards(EXCLUDED)?, [(ip("10.1.1.234"), 2)].into());
    assert_eq!(lab.wrong_sources(EXCLUDED)?, [(ip("10.1.1.234"), 2)].into());
    assert_eq!((lab.outpost().callers(), lab.sources_towards(OUTPOST)?), (BTreeSet::new(), BTreeMap::new()));
    Ok(())
}

#[test]
fn two_labs_stand_side_by_side_and_know_nothing_of_each_other() -> Outcome {
    let (first, second) = (Lab::up(Options::default())?, Lab::up(Options::default())?);
    second.remove_pod("tiefighter")?;
    assert_eq!(first.ask("tiefighter", OUTPOST)?, Answer::Denied(ip("10.1.1.177")));
    assert_eq!(second.outpost().callers(), BTreeSet::new());
    let gone = second.name();
    drop(second);
    assert_eq!(left_of(&gone), Vec::<PathBuf>::new());
    assert_eq!(first.ask("tiefighter", OUTPOST6)?, Answer::Denied(ip("fd00:10:1:1::177")));
    Ok(())
}

#[test]
fn nothing_is_left_when_a_test_panics() {
    let name = std::thread::spawn(|| {
        let mut options = Options::default();
        options.pods.push(Pod::new("lonely", "kind-worker2", 60, &[]));
        let lab = Lab::up(options).expect("a lab");
        let stands = left_of(&lab.name()).len();
        let in_machine = fs::read_dir("/sys/class/net")
            .expect("interfaces")
            .any(|link| link.is_ok_and(|link| link.file_name() == "lxc-lonely"));
        std::panic::resume_unwind(Box::new((lab.name(), stands, in_machine)));
    });
    let panic = name.join().expect_err("it panics");
    let (name, stands, in_machine) = panic.downcast_ref::<(String, usize, bool)>().expect("what it left");
    assert_eq!((*stands, *in_machine), (8, false), "router, outpost, 2 nodes, 3 pods and a folder; all links inside");
    assert_eq!(left_of(name), Vec::<PathBuf>::new());
}

#[test]
fn a_client_without_pause_sees_every_answer_and_the_moment_they_end() -> Outcome {
    let lab = Lab::up(Options::default())?;
    let own = Answer::Denied(ip("10.1.1.177"));
    let hammer = lab.hammer("tiefighter", OUTPOST)?;
    assert!(wait_until(SOON, || hammer.requests().len() >= 200), "it asks again and again");
    assert_eq!(hammer.requests().iter().map(|request| request.answer).collect::<BTreeSet<_>>(), [own].into());
    lab.router().exec(["ip", "link", "set", "v-outpost", "down"])?;
    assert!(wait_until(SOON, || hammer.requests().last().is_some_and(|last| last.answer == Answer::NoAnswer)));
    let requests = hammer.stop();
    assert!(requests.is_sorted_by_key(|request| request.begun));
    let first_lost = requests.iter().position(|request| request.answer == Answer::NoAnswer).expect("one was lost");
    assert!(requests[..first_lost].iter().all(|request| request.answer == own), "none before the link went down");
    Ok(())
}

#[test]
fn a_long_connection_lives_as_long_as_its_way() -> Outcome {
    let lab = Lab::up(Options::default())?;
    for (address, seen) in [(OUTPOST, "10.1.1.177"), (OUTPOST6, "fd00:10:1:1::177")] {
        let mut connections = [lab.long_connection("tiefighter", address)?, lab.long_datagrams("tiefighter", address)?];
        for connection in &mut connections {
            assert_eq!((connection.echo()?, connection.echo()?), (ip(seen), ip(seen)), "{address}");
        }
    }
    let visits = lab.outpost().visits();
    let lines: BTreeSet<u64> = visits.iter().filter(|visit| visit.port == 9000).map(|visit| visit.connection).collect();
    assert_eq!((visits.len(), lines.len()), (8, 2), "two lines each, and two TCP connections");
    let mut tcp = lab.long_connection("tiefighter", OUTPOST)?;
    let mut udp = lab.long_datagrams("tiefighter", OUTPOST)?;
    lab.node("kind-worker")?.nft("table ip cut { chain c { type filter hook forward priority 0; policy drop; }; }")?;
    assert!(tcp.echo().is_err() && udp.echo().is_err());
    Ok(())
}

#[test]
fn pods_come_go_and_move_with_their_network_and_manifests() -> Outcome {
    let lab = Lab::up(Options::default())?;
    let told = |name: &str| {
        let text = fs::read_to_string(lab.cluster_dir().join("pods.yaml")).expect("pods.yaml");
        let list: Value = serde_yaml::from_str(&text).expect("YAML");
        let pods = list["items"].as_array().expect("items").clone();
        pods.into_iter().find(|pod| pod["metadata"]["name"] == name).map(|pod| {
            let addresses = pod["status"]["podIPs"].as_array().expect("addresses").iter();
            (pod["spec"]["nodeName"].clone(), addresses.map(|address| address["ip"].clone()).collect::<Vec<_>>())
        })
    };
    let expected = |node: &str, addresses: [&str; 2]| Some((Value::from(node), addresses.map(Value::from).to_vec()));

    let addresses = lab.add_pod("newborn", "kind-worker", &[("org", "empire")])?;
    assert_eq!(addresses, [ip("10.1.1.50"), ip("fd00:10:1:1::50")]);
    assert_eq!(told("newborn"), expected("kind-worker", ["10.1.1.50", "fd00:10:1:1::50"]));
    assert_eq!(lab.ask("newborn", OUTPOST)?, Answer::Denied(ip("10.1.1.50")));

    assert_eq!(lab.move_pod("newborn", "kind-worker2")?, [ip("10.1.2.50"), ip("fd00:10:1:2::50")]);
    assert_eq!(told("newborn"), expected("kind-worker2", ["10.1.2.50", "fd00:10:1:2::50"]));
    assert_eq!(lab.ask("newborn", OUTPOST)?, Answer::Denied(ip("10.1.2.50")));
    assert_eq!(lab.ask("newborn", OUTPOST6)?, Answer::Denied(ip("fd00:10:1:2::50")));
    // And between pods of two nodes, without the router.
    let listener = lab.pod("tiefighter")?.enter(|| TcpListener::bind("10.1.1.177:80").expect("listening"))?;
    let connected =
        lab.pod("newborn")?.enter(|| TcpStream::connect_timeout(&listener.local_addr().expect("its address"), SOON))?;
    let own = connected.and_then(|stream| stream.local_addr()).map(|address| address.ip());
    assert_eq!(own.expect("a connection"), ip("10.1.2.50"));

    lab.remove_pod("newborn")?;
    assert_eq!(told("newborn"), None);
    assert!(matches!(lab.ask("newborn", OUTPOST), Err(LabError::Unknown { kind: "pod", .. })));

    lab.wire_pod(Pod::new("early", "kind-worker", 50, &[]))?;
    assert_eq!((told("early"), lab.ask("early", OUTPOST)?), (None, Answer::Denied(ip("10.1.1.50"))));
    lab.announce_pod("early")?;
    assert_eq!(told("early"), expected("kind-worker", ["10.1.1.50", "fd00:10:1:1::50"]));
    let same = lab.wire_pod(Pod::new("late", "kind-worker", 50, &[])).expect_err("the address is taken");
    assert_eq!(same.to_string(), "pod `late` cannot be added: its addresses are another pod's");
    Ok(())
}

#[test]
fn a_masquerading_cni_hides_pods_behind_their_node() -> Outcome {
    let lab = Lab::up(Options { masquerade: true, ..Options::default() })?;
    assert_eq!(lab.ask("tiefighter", OUTPOST)?, Answer::Denied(ip("172.18.0.2")));
    assert_eq!(lab.ask("tiefighter", OUTPOST6)?, Answer::Denied(ip("fd00:172:18::2")));
    Ok(())
}

#[test]
fn nodes_begin_with_the_sysctls_that_were_asked_for() -> Outcome {
    for rp_filter in 0..=2 {
        let lab = Lab::up(Options { rp_filter, src_valid_mark: true, ipv6: false, ..Options::default() })?;
        let node = lab.node("kind-worker2")?;
        node.exec(["ip", "link", "add", "later", "type", "bridge"])?;
        let keys = ["all", "eth0", "net1", "later"].map(|device| format!("net.ipv4.conf.{device}.rp_filter"));
        let keys = keys.iter().map(String::as_str).chain(["net.ipv4.conf.all.src_valid_mark", "net.ipv4.ip_forward"]);
        let values = node.exec(["sysctl", "-n"].into_iter().chain(keys))?;
        assert_eq!(values, format!("{rp_filter}\n{rp_filter}\n{rp_filter}\n{rp_filter}\n1\n1\n"));
        assert_eq!(lab.ask("tiefighter", OUTPOST)?, Answer::Denied(ip("10.1.1.177")));
        assert_eq!(node.exec(["ip", "-6", "address"])?, "", "no IPv6 anywhere");
        node.sysctl("net.ipv4.conf.later.rp_filter", "1")?;
        assert_eq!(node.exec(["sysctl", "-n", "net.ipv4.conf.later.rp_filter"])?, "1\n");
    }
    Ok(())
}

#[test]
fn the_manifests_are_lists_as_kubectl_prints_them() -> Outcome {
    let lab = Lab::up(Options::default())?;
    let read = |file: &str| fs::read_to_string(lab.cluster_dir().join(file)).expect("a manifest");
    let list = |file: &str| serde_yaml::from_str::<Value>(&read(file)).expect("YAML");
    for (file, names) in [
        ("nodes.yaml", vec!["kind-worker", "kind-worker2"]),
        ("namespaces.yaml", vec!["batuu", "default", "kube-system"]),
        ("pods.yaml", vec!["tiefighter", "xwing"]),
    ] {
        let items = list(file)["items"].as_array().expect("items").clone();
        assert_eq!(items.iter().map(|item| item["metadata"]["name"].clone()).collect::<Vec<_>>(), names, "{file}");
    }
    let node = list("nodes.yaml")["items"][1].clone();
    assert_eq!(node["spec"]["podCIDRs"], serde_json::json!(["10.1.2.0/24", "fd00:10:1:2::/64"]));
    let address = |position: usize| node["status"]["addresses"][position]["address"].clone();
    assert_eq!([address(0), address(1)], ["172.18.0.3", "fd00:172:18::3"]);

    let before = read("nodes.yaml");
    lab.set_ready("kind-worker2", false)?;
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let changed: Vec<_> =
        lines(&before).into_iter().zip(lines(&read("nodes.yaml"))).filter(|(old, new)| old != new).collect();
    assert_eq!(changed, [("      status: \"True\"".to_owned(), "      status: \"False\"".to_owned())]);
    assert_eq!(list("nodes.yaml")["items"][1]["status"]["conditions"][1]["status"], "False");
    lab.set_ready("kind-worker2", true)?;
    assert_eq!(read("nodes.yaml"), before);
    assert!(fs::read_dir(lab.cluster_dir()).expect("the folder").count() == 3, "no file on its way is ever seen here");
    Ok(())
}

#[test]
fn the_repository_keeps_what_is_pushed() -> Outcome {
    let lab = Lab::up(Options { pods: Vec::new(), ..Options::default() })?;
    let repository = lab.repository();
    repository.write("policies/outpost.yaml", "kind: EgressPolicy\n")?;
    let first = repository.push("let the empire through")?;
    repository.remove("policies/outpost.yaml")?;
    repository.write("README.md", "empty\n")?;
    let second = repository.push("and no more")?;
    assert_eq!(repository.log("main")?, [format!("{second} and no more"), format!("{first} let the empire through")]);
    assert_eq!(repository.in_bare(["ls-tree", "-r", "--name-only", "main"])?, "README.md\n");
    assert!(repository.show(&first)?.contains("+kind: EgressPolicy"));
    assert!(matches!(repository.push("nothing changed"), Err(LabError::Failed { .. })));
    Ok(())
}

#[test]
fn a_program_runs_in_its_nodes_namespace_and_is_heard_ended_and_killed() -> Outcome {
    let lab = Lab::up(Options::default())?;
    let shell = |script: &str| lab.start("kind-worker2", "sh", ["-c", script]);
    let mut polite =
        shell("ip -4 address show net1; echo trouble >&2; trap 'echo bye; exit 3' TERM; while :; do sleep 0.02; done")?;
    polite.wait_for("inet 10.0.3.42/24", SOON)?;
    polite.wait_for("trouble", SOON)?;
    polite.terminate()?;
    assert_eq!(polite.wait_exit(SOON)?.code(), Some(3));
    assert!(polite.output()?.ends_with("bye\n"));
    polite.terminate()?;

    let mut sleeper = lab.start("kind-worker", "sleep", ["1000"])?;
    let late = sleeper.wait_exit(Duration::ZERO).expect_err("it sleeps on");
    assert!(matches!(late, LabError::Late { .. }), "{late}");
    sleeper.kill9()?;
    assert_eq!(ended_by(sleeper.wait_exit(SOON)?), Some(Signal::SIGKILL));

    let dropped = lab.start("kind-worker", "sleep", ["1000"])?;
    let id = dropped.id();
    drop(dropped);
    assert!(!Path::new("/proc").join(id.to_string()).exists());
    let words: Vec<_> =
        lab.egret_arguments("kind-worker")?.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let folder = lab.folder().display();
    let expected = format!(
        "--repo {folder}/policies.git --cluster {folder}/cluster --node kind-worker --state-dir {folder}/state-kind-worker"
    );
    assert_eq!(words.join(" "), expected);
    assert!(lab.program()?.is_file());
    Ok(())
}

/// Runs [`a_lab_that_waits_for_its_end`] in a process of its own and gives the lab's name and the id of a program inside.
fn lab_of_another_process() -> (Child, String, u32) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "lab_alone::a_lab_that_waits_for_its_end", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let said = BufReader::new(child.stdout.take().expect("its output"));
    let stands = said.lines().map_while(Result::ok).find_map(|line| {
        let (name, id) = line.split_once("lab stands: ")?.1.split_once(' ')?;
        Some((name.to_owned(), id.parse().expect("an id")))
    });
    let (name, id) = stands.expect("it says that the lab stands");
    assert_eq!(left_of(&name).len(), 7, "router, outpost, 2 nodes, 2 pods and a folder");
    (child, name, id)
}

/// A process that was killed and has no parent to reap it stays as a zombie, which has no namespace.
fn has_ended(id: u32) -> bool {
    fs::metadata(format!("/proc/{id}/ns/net")).is_err()
}

#[test]
#[ignore = "the other half of the next two tests, which run it in a process that they end"]
fn a_lab_that_waits_for_its_end() -> Outcome {
    take_down_on_signals()?;
    let lab = Lab::up(Options::default())?;
    let inside = lab.start("kind-worker", "sleep", ["1000"])?;
    println!("lab stands: {} {}", lab.name(), inside.id());
    // Ends by itself where nobody holds the other end.
    std::io::stdin().read_line(&mut String::new()).map_err(LabError::doing("wait"))?;
    Ok(())
}

#[test]
fn a_signal_takes_the_lab_down_and_ends_the_process() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let (mut child, name, inside) = lab_of_another_process();
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("signalled");
        assert_eq!(child.wait().expect("its end").code(), Some(code));
        assert_eq!(left_of(&name), Vec::<PathBuf>::new());
        assert!(wait_until(SOON, || has_ended(inside)));
    }
}

#[test]
fn what_a_killed_process_left_is_swept_by_the_next_lab() -> Outcome {
    let (mut child, name, inside) = lab_of_another_process();
    child.kill().expect("killed");
    assert_eq!(child.wait().expect("its end").signal(), Some(9));
    let next = Lab::up(Options { pods: Vec::new(), ..Options::default() })?;
    // Another test's lab may have begun the sweep a moment ago, and be at it still.
    assert!(wait_until(SOON, || left_of(&name).is_empty() && has_ended(inside)), "{:?}", left_of(&name));
    drop(next);
    Ok(())
}
