//! The HTTP server by itself: what it says, and that neither side waits for the other. With a node behind it, it is in `outpost`.

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use egret::core::compile::counters::{CountedExit, Counters, TunnelDrop};
use egret::core::name::ObjectName;
use egret::core::policy::{PolicyId, PolicyKind};
use egret::core::report::drift::DriftClass;
use egret::core::state::nft::RuleCounter;
use egret::serve::{self, ApiErrorCounts, Health, Metrics, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Runs a test on one thread, as Egret does.
fn alone<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn start(health: &Health, metrics: &Metrics) -> Server {
    serve::start("127.0.0.1:0".parse().unwrap(), health.clone(), metrics.clone()).unwrap()
}

async fn exchange(address: SocketAddr, request: &str) -> io::Result<String> {
    let request = request.to_owned();
    let exchange = move || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(request.as_bytes())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

/// Status, head and body of a GET.
async fn get(server: &Server, path: &str) -> (u16, String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: egret\r\n\r\n");
    // The connection is not closed by us: reading to its end shows that the server closes it.
    let reply = exchange(server.address(), &request).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn counter(packets: u64) -> RuleCounter {
    RuleCounter { packets, bytes: packets * 100 }
}

fn counters(exits: &[(&str, bool)]) -> Counters {
    let policy = PolicyId { name: ObjectName::parse("outpost").unwrap(), kind: PolicyKind::Cilium };
    Counters {
        leak_guard: counter(1),
        start_guard: counter(2),
        tunnel: [(TunnelDrop::Source, counter(3))].into(),
        exits: exits
            .iter()
            .map(|(identity, gateway)| {
                (CountedExit { identity: (*identity).to_owned(), gateway: *gateway }, counter(4))
            })
            .collect(),
        policies: exits.iter().map(|(identity, _)| ((policy.clone(), (*identity).to_owned()), 5)).collect(),
        dropped: [(("outpost".to_owned(), "NoGateway"), counter(6))].into(),
    }
}

#[test]
fn the_page_has_what_was_recorded_and_nothing_else() {
    alone(async {
        let metrics = Metrics::new();
        let server = start(&Health::new(), &metrics);
        let (status, head, body) = get(&server, "/metrics").await;
        assert_eq!(status, 200);
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "# HELP egret_build The version of Egret.\n# TYPE egret_build info\n\
             egret_build_info{{version=\"{version}\"}} 1\n# EOF\n"
        );
        assert_eq!(body, expected);

        metrics.reconciled(true, Duration::from_millis(3));
        metrics.reconciled(false, Duration::from_millis(300));
        metrics.drift(DriftClass::Missing, 2);
        metrics.drift_open(1);
        metrics.exits(1, 2);
        metrics.members(7);
        let policy = |name: &str| PolicyId { name: ObjectName::parse(name).unwrap(), kind: PolicyKind::Egret };
        metrics.policies([(policy("outpost"), Ok(())), (policy("partner"), Err("NoGateway"))].into());
        metrics.addresses_held([([10, 0, 3, 42].into(), true), ([10, 0, 3, 43].into(), false)].into());
        metrics.probe_latencies(vec![("n2 dev net1".to_owned(), "ipv4", Duration::from_micros(250))]);
        metrics.leads();
        metrics.revision("abc");
        metrics.api_errors(|| ApiErrorCounts {
            requests: [("patch nodes".to_owned(), 1)].into(),
            watches: [("pods", 1)].into(),
        });
        metrics.git_fetched(SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_914_123_500));
        metrics.counters(&counters(&[("n2 dev net1", true)]));
        let page = get(&server, "/metrics").await.2;
        for line in [
            "egret_reconcile_total{result=\"succeeded\"} 1",
            "egret_reconcile_total{result=\"failed\"} 1",
            "egret_reconcile_duration_seconds_count 2",
            "egret_reconcile_duration_seconds_bucket{le=\"0.005\"} 1",
            "egret_drift_total{class=\"missing\"} 2",
            "egret_drift_total{class=\"extra\"} 0",
            "egret_drift_open 1",
            "egret_revision_info{revision=\"abc\"} 1",
            "egret_exits{role=\"gateway\"} 1",
            "egret_exits{role=\"source\"} 2",
            "egret_members 7",
            "egret_policy_ready{policy=\"outpost\",kind=\"EgressPolicy\",reason=\"Programmed\"} 1",
            "egret_policy_ready{policy=\"partner\",kind=\"EgressPolicy\",reason=\"NoGateway\"} 0",
            "egret_policy_dropped_packets_total{policy=\"outpost\",reason=\"NoGateway\"} 6",
            "egret_egress_address_held{address=\"10.0.3.42\"} 1",
            "egret_egress_address_held{address=\"10.0.3.43\"} 0",
            "egret_probe_latency_seconds{exit=\"n2 dev net1\",family=\"ipv4\"} 0.00025",
            "egret_leader 1",
            "egret_git_last_success_timestamp_seconds 1795914123.5",
            "egret_api_errors_total{operation=\"patch nodes\"} 1",
            "egret_watch_errors_total{resource=\"pods\"} 1",
            "egret_leak_guard_dropped_packets_total 1",
            "egret_start_guard_dropped_packets_total 2",
            "egret_tunnel_dropped_packets_total{reason=\"source\"} 3",
            "egret_tunnel_dropped_packets_total{reason=\"exit\"} 0",
            "egret_exit_packets_total{exit=\"n2 dev net1\",role=\"gateway\"} 4",
            "egret_exit_bytes_total{exit=\"n2 dev net1\",role=\"gateway\"} 400",
            "egret_policy_connections_total{policy=\"outpost\",kind=\"CiliumEgressGatewayPolicy\",exit=\"n2 dev net1\"} 5",
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is missing in\n{page}");
        }
    });
}

#[test]
fn a_controller_that_leads_no_more_shows_no_commits() {
    alone(async {
        let metrics = Metrics::new();
        let server = start(&Health::new(), &metrics);
        metrics.leads();
        metrics.revision("abc");
        metrics.commit_pending(Some("RemovalsUnconfirmed"));
        metrics.suspended([("cluster".to_owned(), 7)].into());
        let of_leaders = ["egret_revision_info{", "egret_commit_pending{", "egret_suspended_until"];
        let shown = |page: &str| of_leaders.map(|series| page.lines().any(|line| line.starts_with(series)));
        assert_eq!(shown(&get(&server, "/metrics").await.2), [true; 3]);
        metrics.follows();
        let page = get(&server, "/metrics").await.2;
        assert_eq!(shown(&page), [false; 3], "one that leads no more: {page}");
        assert!(page.lines().any(|line| line == "egret_leader 0"), "{page}");
    });
}

#[test]
fn an_exit_that_is_gone_is_shown_no_more() {
    alone(async {
        let metrics = Metrics::new();
        let server = start(&Health::new(), &metrics);
        metrics.counters(&counters(&[("n2 dev net1", true), ("n3 dev net1", false)]));
        assert!(get(&server, "/metrics").await.2.contains("n3 dev net1"));
        metrics.counters(&counters(&[("n2 dev net1", true)]));
        let page = get(&server, "/metrics").await.2;
        assert!(page.contains("n2 dev net1") && !page.contains("n3 dev net1"), "{page}");
    });
}

#[test]
fn counters_are_read_when_somebody_asks_and_a_busy_loop_keeps_nobody_waiting() {
    let leaks = |page: &str| page.contains("egret_leak_guard_dropped_packets_total 1\n");
    alone(async {
        let metrics = Metrics::new();
        let server = start(&Health::new(), &metrics);
        let mut questions = metrics.scrapes();
        let (page, ()) = tokio::join!(get(&server, "/metrics"), async {
            questions.next().await.answer(&counters(&[]));
        });
        assert!(leaks(&page.2), "{}", page.2);

        // The loop is in a round now, and does not come to the question. What was read within a tenth of a second is not asked for again.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let asked = Instant::now();
        let page = get(&server, "/metrics").await.2;
        assert!(leaks(&page), "what was last known: {page}");
        assert!(asked.elapsed() >= Duration::from_secs(1), "it was waited for: {:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(150)).await;
        let asked = Instant::now();
        get(&server, "/metrics").await;
        assert!(asked.elapsed() < Duration::from_millis(500), "nobody waits behind a question that is open");

        // It comes to it at last; the answer is not lost.
        questions.next().await.answer(&Counters { leak_guard: counter(9), ..Counters::default() });
        let page = get(&server, "/metrics").await.2;
        assert!(page.contains("egret_leak_guard_dropped_packets_total 9\n"), "{page}");
    });
}

#[test]
fn probes_say_why_not_and_there_is_nothing_else() {
    alone(async {
        let health = Health::new();
        let server = start(&health, &Metrics::new());
        let (status, head, body) = get(&server, "/healthz").await;
        assert_eq!((status, body.as_str()), (200, "ok\n"));
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(get(&server, "/readyz").await.0, 503);
        health.set_ready(Err("the kernel refused".to_owned()));
        let (status, _, body) = get(&server, "/readyz").await;
        assert_eq!((status, body.as_str()), (503, "the kernel refused\n"));
        health.set_ready(Ok(()));
        assert_eq!(get(&server, "/readyz").await.0, 200);
        health.set_remark(Some("drift reports are not committed: no".to_owned()));
        let (status, _, body) = get(&server, "/readyz").await;
        assert_eq!((status, body.as_str()), (200, "ok\ndrift reports are not committed: no\n"));
        assert_eq!(get(&server, "/").await.0, 404);
        let post = "POST /metrics HTTP/1.1\r\nHost: egret\r\nContent-Length: 0\r\n\r\n";
        assert!(exchange(server.address(), post).await.unwrap().starts_with("HTTP/1.1 405 "));
    });
}

#[test]
fn a_port_in_use_is_reported_and_a_dropped_server_leaves_it() {
    alone(async {
        let server = start(&Health::new(), &Metrics::new());
        let address = server.address();
        let error = serve::start(address, Health::new(), Metrics::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(error.to_string(), format!("listen on {address}: Address already in use (os error 98)"));
        drop(server);
        let free = || std::net::TcpListener::bind(address).is_ok();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(free());
    });
}

#[test]
fn who_says_nothing_is_shown_out() {
    alone(async {
        let server = start(&Health::new(), &Metrics::new());
        let silent = exchange(server.address(), "");
        let slow = exchange(server.address(), "GET /metrics HTTP/1.1\r\nHost: ");
        for reply in <[_; 2]>::from(tokio::join!(silent, slow)) {
            assert!(!reply.unwrap_or_default().contains(" 200 "));
        }
    });
}

/// So many connections from one address of the loopback network, which say nothing.
async fn idle(to: SocketAddr, from: IpAddr, connections: usize) -> Vec<tokio::net::TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        streams.push(socket.connect(to).await.unwrap());
    }
    streams
}

#[test]
fn idle_connections_keep_nobody_from_probing() {
    alone(async {
        let server = start(&Health::new(), &Metrics::new());
        let to = server.address();
        // From a pod's address, and then from many: a life of 5 s is no way out of 400 connections for 8 probes.
        let mut streams = idle(to, [127, 0, 0, 2].into(), 400).await;
        for pod in 3..43 {
            streams.extend(idle(to, [127, 0, 0, pod].into(), 10).await);
        }
        for from in [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 99]] {
            for path in ["/healthz", "/metrics"] {
                let mut stream = idle(to, from.into(), 1).await.remove(0);
                stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: egret\r\n\r\n").as_bytes()).await.unwrap();
                let mut reply = String::new();
                stream.read_to_string(&mut reply).await.unwrap();
                assert!(reply.starts_with("HTTP/1.1 200 "), "{path} for {from:?}: {reply}");
            }
        }
        // Most of the idle ones were shown out, and none was left to wait.
        let mut open = 0;
        for stream in streams {
            let read = stream.into_std().unwrap().read(&mut [0; 1]);
            open += usize::from(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        }
        assert!(open <= 40, "{open} idle connections are open");
    });
}

/// Posts to a webhook; the status.
async fn post(server: &Server, headers: &str, body: &str) -> u16 {
    let length = body.len();
    let request = format!("POST /webhook HTTP/1.1\r\nHost: egret\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
    let reply = exchange(server.address(), &request).await.unwrap();
    reply[9..12].parse().unwrap()
}

#[test]
fn a_webhook_is_believed_by_its_secret_and_says_no_more_than_that_somebody_pushed() {
    let folder = tempfile::tempdir().unwrap();
    let secret_file = folder.path().join("secret");
    std::fs::write(&secret_file, "old\nnew\n").unwrap();
    let options = |secret_file: &std::path::Path| serve::webhook::WebhookListener {
        listen: "127.0.0.1:0".parse().unwrap(),
        secret_file: secret_file.to_owned(),
        branch: Some("main".to_owned()),
        pulls: true,
    };
    alone(async {
        let (server, mut events) = serve::webhook::start(options(&secret_file)).unwrap();
        let main = r#"{"ref": "refs/heads/main"}"#;
        assert_eq!(post(&server, "X-Gitlab-Token: wrong\r\n", main).await, 401);
        assert_eq!(post(&server, "", main).await, 401);
        assert_eq!(post(&server, "X-Gitlab-Token: new\r\n", r#"{"ref": "refs/heads/egret/reports/prod"}"#).await, 200);
        assert_eq!(post(&server, "X-Gitlab-Token: new\r\nX-Gitlab-Event: Tag Push Hook\r\n", main).await, 200);
        assert!(events.pushes.try_recv().is_err() && events.pulls.try_recv().is_err());
        assert_eq!(post(&server, "X-Gitlab-Token: new\r\n", r#"{"ref": "refs/heads/feature"}"#).await, 202);
        assert_eq!(events.pulls.recv().await, Some(()), "it may be the head of a pull request");
        assert_eq!(post(&server, "X-Gitlab-Token: new\r\nX-Gitlab-Event: Merge Request Hook\r\n", "{}").await, 202);
        assert_eq!(events.pulls.recv().await, Some(()));
        assert!(events.pushes.try_recv().is_err());
        assert_eq!(post(&server, "X-Gitlab-Token: old\r\nX-Gitlab-Event: Push Hook\r\n", main).await, 202);
        assert_eq!(post(&server, "X-Gitlab-Token: new\r\n", main).await, 202);
        assert_eq!(events.pushes.recv().await, Some(()));
        assert!(events.pushes.try_recv().is_err(), "two pushes that nobody has looked at yet are one look");
        // A secret that is changed counts from the next request on.
        std::fs::write(&secret_file, "newest").unwrap();
        assert_eq!(post(&server, "X-Gitlab-Token: old\r\n", main).await, 401);
        assert_eq!(post(&server, "X-Gitlab-Token: newest\r\n", main).await, 202);
        // What is announced as too long is not read, and nothing is answered but that.
        let request =
            "POST /webhook HTTP/1.1\r\nHost: egret\r\nX-Gitlab-Token: newest\r\nContent-Length: 99999999\r\n\r\n";
        let reply = exchange(server.address(), request).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
        let mut refused = 0;
        for _ in 0..40 {
            refused += usize::from(post(&server, "X-Gitlab-Token: wrong\r\n", main).await == 429);
        }
        assert!(refused > 0);
    });
    std::fs::write(&secret_file, "\n").unwrap();
    let empty = alone(async { serve::webhook::start(options(&secret_file)).map(|_| ()) });
    assert!(empty.unwrap_err().to_string().contains("holds no secret"));
}
