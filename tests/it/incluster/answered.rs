//! What agents answer through the API server's `pods/proxy`: to whom, what, and what becomes of answers that do not come or are no good.
//!
//! Deliberately absent: rights (`tests/chart`, `cluster`), and what an answer means (`core::explain`).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use egret::core::explain::{KernelQuestion, TOKEN_HEADER};
use serde_json::{Value, json};

use super::stand::{LABELS, Outcome, Stand, policy};
use crate::apiserver::{Fault, Filter};
use crate::harness::DEADLINE;
use crate::lab::{LabError, OUTPOST, Options, wait_until_every};

const NAMESPACE: &str = "egret-system";
const PORT: u16 = 9790;
const EXPLAIN: [&str; 4] = ["explain", "batuu/tiefighter", "--to", "10.0.4.2"];
/// Between two questions: agents answer a few a second.
const PAUSE: Duration = Duration::from_millis(600);

/// The pod of a node's agent, as the chart makes it.
fn agent_pod(stand: &Stand, node: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("egret-agent-{node}"), "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": "egret", "app.kubernetes.io/component": "agent"},
        },
        "spec": {
            "nodeName": node, "hostNetwork": true,
            "containers": [{"name": "agent", "image": "egret:1", "ports": [{"name": "metrics", "containerPort": port}]}],
        },
        "status": {"phase": "Running", "podIP": address(stand, node).to_string()},
    })
}

/// A node's InternalIP.
fn address(stand: &Stand, node: &str) -> IpAddr {
    let object = stand.api.get("nodes", "", node).expect("a node");
    let addresses = object["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let internal = addresses.iter().find(|one| one["type"] == "InternalIP").expect("an InternalIP");
    internal["address"].as_str().and_then(|text| text.parse().ok()).expect("an address")
}

/// A stand whose agents answer, with the outpost's policy applied and reported.
pub(super) fn answering(options: Options) -> Outcome<Stand> {
    let mut stand = Stand::empty(options)?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "egret-viewer", "namespace": NAMESPACE}});
    stand.api.create(&account);
    stand.controller("one")?;
    let listen = format!("0.0.0.0:{PORT}");
    for node in stand.nodes() {
        stand.agent_with(&node, &["--namespace", NAMESPACE, "--listen", &listen])?;
        let pod = agent_pod(&stand, &node, PORT);
        stand.api.create(&pod);
    }
    stand.push(&[("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
    stand.await_granted("tiefighter")?;
    let reports = |node: &String| stand.object("egressnodes", node)["status"]["revision"].is_string();
    stand.await_that("reports of all nodes", || stand.nodes().iter().all(reports))?;
    Ok(stand)
}

impl Stand {
    /// What a command says to somebody with this cluster's kubeconfig.
    pub(super) fn say(&self, words: &[&str]) -> Outcome<(Option<i32>, String)> {
        let (program, kubeconfig) = (self.lab.program()?, self.kubeconfig());
        let mut command = Command::new(program);
        command.args(words).arg("--kubeconfig").arg(kubeconfig).env_clear();
        let output = self.lab.router().enter(|| command.output())?.map_err(LabError::doing("run egret"))?;
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The exit code of a command that fails.
    pub(super) fn failing(&self, words: &[&str]) -> Outcome<i32> {
        let (program, kubeconfig) = (self.lab.program()?, self.kubeconfig());
        let mut command = Command::new(program);
        command.args(words).arg("--kubeconfig").arg(kubeconfig).env_clear();
        let output = self.lab.router().enter(|| command.output())?.map_err(LabError::doing("run egret"))?;
        Ok(output.status.code().unwrap_or_default())
    }

    /// Waits until all of this is said; the whole of it.
    fn await_said(&self, words: &[&str], code: i32, says: &[&str]) -> Outcome<String> {
        let mut last = (None, String::new());
        let said = wait_until_every(PAUSE, DEADLINE, || {
            last = self.say(words).unwrap_or_default();
            last.0 == Some(code) && says.iter().all(|part| last.1.contains(part))
        });
        if said { Ok(last.1) } else { Err(self.late(&format!("{says:?}"), &format!("{:?}\n{}", last.0, last.1))) }
    }

    /// A token of an account for an audience, as its holder's rights let them make it.
    fn token(&self, account: &str, audience: &str) -> String {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 600},
        });
        let (code, answer) = self.api.send("POST", &path, "application/json", &request);
        assert_eq!(code, 201, "{answer}");
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Asks an agent's port directly, with this token.
    fn knock(&self, node: &str, token: Option<&str>, path: &str) -> Outcome<(u16, String)> {
        let to = SocketAddr::new(address(self, node), PORT);
        let header = token.map(|token| format!("{TOKEN_HEADER}: {token}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nhost: egret\r\n{header}\r\n");
        let exchange = move || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(to)?;
            stream.write_all(request.as_bytes())?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        };
        let reply = self.lab.router().enter(exchange)?.map_err(LabError::doing("ask an agent"))?;
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
        Ok((head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), body.to_owned()))
    }
}

/// The question about tiefighter, as it is asked of its own node.
fn question() -> String {
    let question = KernelQuestion {
        source: Some([10, 1, 1, 177].into()),
        here: true,
        destination: Some([10, 0, 4, 2].into()),
        exit: None,
        connections: false,
    };
    format!("/v1/kernel?{}", question.query())
}

#[test]
fn both_kernels_on_the_way_say_what_they_hold_and_counted() -> Outcome {
    let stand = answering(Options::default())?;
    let (code, text) = stand.say(&EXPLAIN)?;
    assert_eq!(code, Some(0), "{text}");
    let first = "batuu/tiefighter (10.1.1.177, kind-worker) → 10.0.4.2   leaves as 10.0.3.42 through kind-worker2";
    assert_eq!(text.lines().next(), Some(first));
    let of = |node: &str| text.lines().find(|line| line.contains(&format!("kernel  {node} at "))).unwrap_or_default();
    let (source, gateway) = (of("kind-worker"), of("kind-worker2"));
    assert!(source.contains("→ exit 1, rule 501, default encap ip id") && source.contains(" packets"), "{text}");
    assert!(gateway.contains("exit 1, rule 501, ") && gateway.contains("dev net1 table 9001"), "{text}");
    let (_, json) = stand.say(&[&EXPLAIN[..], &["-ojson"]].concat())?;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert!(
        json["kernels"].as_array().is_some_and(|all| all.iter().all(|one| one["packets"].as_u64() > Some(0))),
        "{json}"
    );
    // What a kernel holds is told as of now, before anybody has reported it.
    let gateway = stand.lab.node("kind-worker2")?;
    gateway.exec(["ip", "address", "del", "10.0.3.42/24", "dev", "net1"])?;
    let says = ["DROPPED on kind-worker2", "net1 has no global IPv4 address", "table 9001 unreachable"];
    stand.await_said(&EXPLAIN, 2, &says)?;
    // A pod that no policy selects is in no group of its node's kernel.
    let xwing = ["explain", "batuu/xwing", "--to", "10.0.4.2"];
    let text = stand.await_said(&xwing, 0, &["NOT STEERED", "kernel  kind-worker at "])?;
    assert!(text.contains(": in no group"), "{text}");
    Ok(())
}

#[test]
fn a_pod_that_its_node_does_not_know_yet_is_held_back_there() -> Outcome {
    let stand = answering(Options::default())?;
    let awing = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "awing", "namespace": "batuu", "labels": {"org": "alliance"}},
        "spec": {"nodeName": "kind-worker", "containers": [{"name": "a", "image": "a:1"}]},
        "status": {"phase": "Running", "podIP": "10.1.1.199", "podIPs": [{"ip": "10.1.1.199"}]},
    });
    stand.api.hold("pods");
    stand.api.create(&awing);
    let asked = ["explain", "batuu/awing", "--to", "10.0.4.2"];
    let (code, text) = stand.say(&asked)?;
    let head = "DIFFERS on kind-worker: its agent does not know the pod, so its kernel drops what the pod sends to destinations of policies";
    assert!(code == Some(2) && text.contains(head) && text.contains("do      ask again in some seconds"), "{text}");
    // Where no policy names the destination, nothing is held back.
    let (code, text) = stand.say(&["explain", "batuu/awing", "--to", "192.0.2.9"])?;
    assert!(code == Some(0) && text.contains("NOT STEERED"), "{text}");
    stand.api.release("pods");
    stand.await_said(&asked, 0, &["NOT STEERED", ": in no group"])?;
    Ok(())
}

#[test]
fn connections_are_listed_as_the_pods_node_tracks_them() -> Outcome {
    let stand = answering(Options::default())?;
    let words = ["explain", "batuu/tiefighter", "--to", "10.0.4.2", "--connections", "--seen-as", "10.0.3.42"];
    let mut open = stand.lab.long_connection("tiefighter", OUTPOST)?;
    open.echo()?;
    // Agents report their addresses a moment after they have applied a policy. What the pod tried before is listed, too.
    let says = ["replies go to 10.1.1.254, by kind-worker2 dev net1", "seen    10.0.3.42 is the address of outpost"];
    let text = stand.await_said(&words, 0, &says)?;
    assert!(text.contains("open    "), "{text}");
    let (_, json) = stand.say(&[&words[..], &["-ojson"]].concat())?;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let connections = json["connections"].as_array().cloned().unwrap_or_default();
    let steered = connections.iter().find(|one| one["repliesTo"] == "10.1.1.254");
    assert_eq!(steered.expect("the open one")["node"], "kind-worker", "{json}");
    open.echo()?;
    Ok(())
}

#[test]
fn whoever_has_no_token_of_the_right_account_for_this_node_gets_nothing() -> Outcome {
    let stand = answering(Options::default())?;
    let path = question();
    stand.api.create(
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "other", "namespace": NAMESPACE}}),
    );
    let ours = "egret.dev/agent/kind-worker";
    let none = "there is no token in the header egret-token\n".to_owned();
    let invalid = "this token does not count here\n".to_owned();
    assert_eq!(stand.knock("kind-worker", None, &path)?, (401, none.clone()));
    for path in [path.as_str(), "/v1/doctor", "/v1/node"] {
        assert_eq!(stand.knock("kind-worker", None, path)?, (401, none.clone()), "{path}");
    }
    assert_eq!(stand.knock("kind-worker", Some("forged"), &path)?, (401, invalid.clone()));
    for audience in ["egret.dev/agent/kind-worker2", "egret.dev/agent"] {
        let token = stand.token("egret-viewer", audience);
        assert_eq!(stand.knock("kind-worker", Some(&token), &path)?, (401, invalid.clone()), "{audience}");
    }
    let other = stand.token("other", ours);
    let wrong = "this token's account may not ask\n".to_owned();
    assert_eq!(stand.knock("kind-worker", Some(&other), &path)?, (403, wrong));
    let expired = stand.token("egret-viewer", ours);
    stand.api.expire_tokens();
    assert_eq!(stand.knock("kind-worker", Some(&expired), &path)?, (401, invalid));
    let token = stand.token("egret-viewer", ours);
    let (code, answer) = stand.knock("kind-worker", Some(&token), &path)?;
    assert_eq!(code, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["leadsTo"], "kind-worker2 dev net1", "{answer}");
    assert_eq!(stand.knock("kind-worker", Some(&token), "/v1/kernel?destination=10.0.4.2&more=1")?.0, 400);
    // Nobody is answered without end.
    let codes: Vec<u16> =
        (0..40).map(|_| stand.knock("kind-worker", Some(&token), &path).map_or(0, |(code, _)| code)).collect();
    let answered = codes.iter().filter(|code| **code == 200).count();
    assert!(codes.contains(&429) && (1..30).contains(&answered), "{codes:?}");
    stand.await_granted("tiefighter")
}

#[test]
fn an_agent_that_is_away_is_named_and_the_answer_comes_all_the_same() -> Outcome {
    let mut stand = answering(Options::default())?;
    let fault = stand.api.fault(Filter::all().resource("pods/proxy").name("egret-agent-kind-worker:9790"), Fault::Hang);
    let begun = Instant::now();
    let (code, text) = stand.say(&EXPLAIN)?;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("leaves as 10.0.3.42 through kind-worker2"), "{text}");
    assert!(text.contains("kernel  kind-worker did not answer: no answer within 2 s; it reports "), "{text}");
    assert!(text.contains("kernel  kind-worker2 at "), "{text}");
    stand.api.clear(fault);
    stand.kill9("kind-worker2")?;
    let (code, text) = stand.say(&EXPLAIN)?;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("kernel  kind-worker2 did not answer: error trying to reach service: dial tcp 172.18.0.3:9790: "),
        "{text}"
    );
    let nothing = stand.say(&[&EXPLAIN[..], &["--offline"]].concat())?.1;
    assert!(nothing.contains("kernel  kind-worker2: not read here; it reports "), "{nothing}");
    Ok(())
}

#[test]
fn the_doctor_of_a_cluster_shows_the_ill_node_first_and_names_who_does_not_answer() -> Outcome {
    let mut stand = answering(Options { workers: 2, ..Options::default() })?;
    let text = stand.await_said(&["doctor"], 0, &["3 nodes: "])?;
    assert!(!text.contains("error ") && !text.contains("silent "), "{text}");
    stand.lab.node("kind-worker3")?.exec(["ip", "route", "add", "10.9.0.0/16", "dev", "eth0", "table", "9003"])?;
    let text = stand.await_said(&["doctor"], 1, &["1 with errors"])?;
    let second = "error  kind-worker3: a foreign route is in one of Egret's tables: 10.9.0.0/16 dev eth0 table 9003";
    assert_eq!(text.lines().nth(1), Some(second), "{text}");
    assert!(
        text.lines().nth(2).is_some_and(|line| line.starts_with("       hint: `ip route del 10.9.0.0/16")),
        "{text}"
    );
    stand.kill9("kind-worker")?;
    let text = stand.await_said(&["doctor"], 1, &["3 nodes: 1 with errors, 1 without an answer"])?;
    assert!(text.contains("silent kind-worker: error trying to reach service: "), "{text}");
    let (code, json) = stand.say(&["doctor", "-ojson"])?;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, json["formatVersion"].as_u64()), (Some(1), Some(1)));
    assert_eq!(
        (&json["errors"], &json["silent"], &json["problems"][0]["code"]),
        (&json!(1), &json!(1), &json!("foreign-route"))
    );
    assert!(json["checks"]["kind-worker2"].as_array().is_some_and(|checks| checks.len() > 5), "{json}");
    Ok(())
}

/// What a hostile agent says to every request; it never ends where `endless`.
fn hostile(stand: &Stand, node: &str, port: u16, body: Vec<u8>, endless: bool) -> Outcome {
    let listener = stand.lab.node(node)?.enter(|| TcpListener::bind(("0.0.0.0", port)))?;
    let listener = listener.map_err(LabError::doing("listen as an agent"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            // Whatever is asked.
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n");
            while stream.write_all(&body).is_ok() && endless {}
        }
    });
    Ok(())
}

#[test]
fn what_a_hostile_agent_says_is_bounded_and_shows_nothing_a_terminal_obeys() -> Outcome {
    let mut stand = answering(Options::default())?;
    stand.kill9("kind-worker2")?;
    let escape = "\u{1b}[2J\u{202e}";
    let difference = json!({"object": format!("{escape}{}", "x".repeat(10_000)), "desired": "a", "observed": null});
    let answer = json!({
        "formatVersion": 1, "at": "2026-11-30T12:00:00Z", "revision": escape,
        "way": {"exit": 1, "rule": escape, "route": format!("{escape}\nDROPPED")},
        "differs": vec![difference; 9], "exit": {"identity": "kind-worker2 dev net1", "carrier": escape},
    });
    let checks = json!({"formatVersion": 1, "checks": vec![json!({"code": escape, "severity": "error", "message": escape}); 5000]});
    let attacks = [
        (9801, answer.to_string().into_bytes(), false, "kernel  kind-worker2 at 12:00:00: "),
        (
            9802,
            vec![b'x'; 1 << 16],
            true,
            "kernel  kind-worker2 did not answer: its answer breaks off, or has more than 131072 bytes",
        ),
        (
            9803,
            b"\x1b[31m{nonsense".to_vec(),
            false,
            "kernel  kind-worker2 did not answer: its answer cannot be read by this version",
        ),
        (9804, checks.to_string().into_bytes(), false, "kernel  kind-worker2 did not answer: its answer"),
    ];
    for (port, body, endless, says) in attacks {
        hostile(&stand, "kind-worker2", port, body, endless)?;
        stand.api.delete("pods", NAMESPACE, "egret-agent-kind-worker2");
        let pod = agent_pod(&stand, "kind-worker2", port);
        stand.api.create(&pod);
        let (_, text) = stand.say(&EXPLAIN)?;
        assert!(text.contains(says), "{port}: {text}");
        assert!(
            !text.contains(['\u{1b}', '\u{202e}']) && text.len() < 16 << 10,
            "{port}: {} bytes: {text}",
            text.len()
        );
        let (code, text) = stand.say(&["doctor"])?;
        assert!(
            !text.contains(['\u{1b}', '\u{202e}']) && text.len() < 16 << 10,
            "{port}: {} bytes: {text}",
            text.len()
        );
        assert_eq!(code, Some(1), "{text}");
    }
    Ok(())
}

/// What many agents would say, at once and to every question.
const FINE: &str =
    r#"{"formatVersion": 1, "checks": [{"code": "kernel", "severity": "ok", "message": "fine", "hint": null}]}"#;

/// What programs that have ended used of processors, those of this process's children together.
fn processor_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).expect("usage");
    let time = |time: nix::sys::time::TimeVal| {
        let (seconds, micros) = (u64::try_from(time.tv_sec()), u64::try_from(time.tv_usec()));
        Duration::from_secs(seconds.unwrap_or(0)) + Duration::from_micros(micros.unwrap_or(0))
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// The size of the large cluster.
const NODES: usize = 5000;
const PODS: usize = 50_000;

/// Nodes with what their agents report, and pods.
fn populate(stand: &Stand) {
    let reported = stand.api.get("egressnodes.egret.dev", "", "kind-worker2").expect("its status");
    // A kubelet reports 50 images (`--node-status-max-images`), each by digest and by tag: most of a Node's 12 KB.
    let image = |number: usize| {
        let name = format!("registry.example.com/team-{number}/application");
        json!({"names": [format!("{name}@sha256:{number:064x}"), format!("{name}:v1.2.{number}")], "sizeBytes": 100_000_000 + number})
    };
    let images: Vec<Value> = (0..50).map(image).collect();
    for number in 0..NODES - 2 {
        let name = format!("node-{number:04}");
        let mut egress = reported.clone();
        egress["metadata"] = json!({"name": name});
        stand.api.create(&egress);
        let (high, low) = (number / 200, number % 200 + 10);
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDRs": [format!("10.{}.{}.0/24", 100 + high, low)]},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("172.19.{high}.{low}")}], "conditions": [{"type": "Ready", "status": "True"}],
                       "images": images},
        });
        stand.api.create(&node);
        let mut pod = agent_pod(stand, "kind-worker2", 9800);
        pod["metadata"]["name"] = json!(format!("egret-agent-{name}"));
        pod["spec"]["nodeName"] = json!(name);
        stand.api.create(&pod);
    }
    for team in 0..200 {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("team-{team}")}});
        stand.api.create(&namespace);
    }
    for number in 0..PODS {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("pod-{number}"), "namespace": format!("team-{}", number % 200), "labels": {"app": format!("app-{}", number % 100)}},
            "spec": {"nodeName": format!("node-{:04}", number % (NODES - 2)), "containers": [{"name": "a", "image": "a:1"}]},
            "status": {"phase": "Running"},
        });
        stand.api.create(&pod);
    }
}

/// Measures; nothing is compared but that it works: `EGRET_PROGRAM=target/release/egret cargo test --test it answered::figures -- --ignored
/// --nocapture`. The double is not optimised then, and the times are mostly its; the processor time is that of the program.
#[test]
#[ignore = "measures, and takes minutes"]
fn figures() -> Outcome {
    let mut stand =
        answering(Options { program: std::env::var_os("EGRET_PROGRAM").map(PathBuf::from), ..Options::default() })?;
    let time = |stand: &Stand, what: &str, words: &[&str]| -> Outcome {
        let mut times: Vec<Duration> = Vec::new();
        let used = processor_time();
        for _ in 0..5 {
            let begun = Instant::now();
            let (_, text) = stand.say(words)?;
            times.push(begun.elapsed());
            assert!(text.contains("nodes: ") || text.contains("leaves as 10.0.3.42"), "{text}");
            // Agents answer a few a second.
            wait_until_every(Duration::from_secs(2), Duration::from_secs(3), || times.len() > 5);
        }
        times.sort();
        let own = processor_time().saturating_sub(used) / 5;
        println!(
            "{what}: {:?} (of five: {:?} to {:?}); processor time of egret itself {own:?}",
            times[2], times[0], times[4]
        );
        Ok(())
    };
    time(&stand, "explain, 2 nodes", &EXPLAIN)?;
    time(&stand, "doctor, 2 nodes", &["doctor"])?;
    // What agents do with many nodes is measured elsewhere (`tests/bench`).
    stand.kill_all();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{FINE}");
    let listener = stand.lab.node("kind-worker2")?.enter(|| TcpListener::bind(("0.0.0.0", 9800)))?;
    let listener = listener.map_err(LabError::doing("listen as agents"))?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            // Whatever is asked.
            let _ = stream.read(&mut head);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    populate(&stand);
    let words = [&EXPLAIN[..], &["--offline"]].concat();
    time(&stand, "explain, 5,000 nodes and 50,000 pods", &words)?;
    time(&stand, "doctor, 5,000 nodes", &["doctor"])
}
