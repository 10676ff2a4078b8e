//! The page by itself, with a loop of the test's own behind it: what is answered, to whom, how large, and that hostile texts are only text.
//!
//! With nodes and kernels behind it, it is in `outpost` and `incluster`; in a browser, in `tests/page`.

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use egret::core::explain::DocumentChange;
use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::finding::Finding;
use egret::core::name::NodeName;
use egret::core::overview::Urgency;
use egret::core::page::links::{ForgeStyle, RepositoryPages};
use egret::core::page::{Knowledge, OpenPull};
use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::report::history::{DatedFinding, NodeReport, Rejected};
use egret::serve::Server;
use egret::serve::ui::{self, PageRequests, PolicyLog, UiOptions};
use jiff::Timestamp;

/// What nobody may write into a page.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u{202e}";

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

/// A history with one commit, whose texts are as given.
struct Log(&'static str);

impl PolicyLog for Log {
    fn last_change(&self, _file: &str, _commit: &str) -> Option<DocumentChange> {
        let (summary, author) = (self.0.to_owned(), self.0.to_owned());
        Some(DocumentChange { commit: "c".repeat(40), summary, author, time: now() })
    }

    fn recent(&self, _commit: &str, _most: usize) -> Vec<DocumentChange> {
        self.last_change("", "").into_iter().collect()
    }
}

fn serve(hosts: &[&str], log: Log) -> (Server, PageRequests) {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    ui::start(UiOptions { listen: "127.0.0.1:0".parse().unwrap(), hosts }, Arc::new(log)).unwrap()
}

/// Runs a test beside a loop that always knows the same.
fn with_page(known: Knowledge, log: Log, test: impl FnOnce(SocketAddr) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let (server, mut requests) = serve(&["egret.example"], log);
        let known = Arc::new(known);
        let address = server.address();
        let mut test = tokio::task::spawn_blocking(move || test(address));
        loop {
            tokio::select! {
                request = requests.next() => request.answer(Ok(Arc::clone(&known))),
                done = &mut test => return done.unwrap(),
            }
        }
    });
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// Status, head in lower case, and body.
fn ask(address: SocketAddr, method: &str, path: &str, host: &str) -> (u16, String, String) {
    let reply = exchange(address, &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, _, body) = ask(address, "GET", path, "127.0.0.1:9092");
    (status, body)
}

fn policy(name: &str, team: &str, gateway: &str) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors:\n  \
         - podSelector: {{matchLabels: {{team: {team}}}}}\n  destinationCIDRs: [\"10.8.0.0/16\"]\n  \
         egressGateway: {{nodeSelector: {{matchLabels: {{kubernetes.io/hostname: {gateway}}}}}, interface: net1}}\n"
    )
}

/// A cluster with so many nodes, policies and pods.
fn cluster(nodes: usize, policies: usize, pods: usize) -> Knowledge {
    let mut known = Knowledge::nothing("prod", now());
    let mut catalogue = Catalogue::new("prod");
    let name = |number: usize| format!("node-{number:04}");
    let files: BTreeMap<String, FileUpdate> = (0..policies)
        .map(|number| {
            let text = policy(&format!("policy-{number}"), &format!("t{number}"), &name(number % nodes.max(1)));
            (format!("policies/{number}.yaml"), FileUpdate::Text(text))
        })
        .collect();
    catalogue.update(files);
    known.set = Arc::new(catalogue.policies().clone());
    assert_eq!(known.set.policies.len(), policies, "{:?}", catalogue.diagnostics());
    let mut facts = Facts::default();
    for number in 0..nodes {
        let labels = [("kubernetes.io/hostname".to_owned(), name(number))].into();
        let host = u8::try_from(number % 250).unwrap();
        let addresses = vec![[172, 18, u8::try_from(number / 250).unwrap(), host].into()];
        let node = Node { labels, addresses, ready: true, ..Node::default() };
        facts.nodes.insert(NodeName::parse(&name(number)).unwrap(), node);
    }
    facts.namespaces.insert("batuu".to_owned(), BTreeMap::new());
    for number in 0..pods {
        let pod = PodName { namespace: "batuu".to_owned(), name: format!("pod-{number}") };
        let labels = [("team".to_owned(), format!("t{}", number % policies.max(1)))].into();
        let node = NodeName::parse(&name(number % nodes.max(1))).ok();
        let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
        facts.pods.insert(pod, Pod { labels, node, addresses: vec![[10, a, b, c].into()], ..Pod::default() });
    }
    known.facts = Arc::new(facts);
    known.revision = "a".repeat(40);
    known
}

/// A cluster in which every text that others write is hostile.
fn hostile() -> Knowledge {
    let mut known = cluster(1, 1, 1);
    let text = || HOSTILE.to_owned();
    let mut report = NodeReport::new("node-0000");
    report.findings =
        vec![DatedFinding { finding: Finding::new(HOSTILE, HOSTILE, HOSTILE).hint(HOSTILE), since: now() }];
    known.reports = [(NodeName::parse("node-0000").unwrap(), report)].into();
    known.rejected = vec![Rejected { place: text(), message: text(), instead: text() }];
    known.faults = vec![(Urgency::Doubtful, text())];
    known.waits = Some(text());
    known.cluster = text();
    known.pages = RepositoryPages::at("forge.example", "a/b", Some(ForgeStyle::Gitea));
    known.pulls = Some(vec![OpenPull {
        number: 1,
        title: text(),
        page: format!("javascript:{HOSTILE}"),
        head: text(),
        draft: true,
        summary: Some(text()),
        urgency: Urgency::Doubtful,
        updated: now(),
    }]);
    known
}

const PAGES: [&str; 6] =
    ["/", "/policies", "/nodes", "/changes", "/explain", "/policy?kind=EgressPolicy&name=policy-0"];

#[test]
fn hostile_texts_are_shown_as_text_on_every_page() {
    with_page(hostile(), Log(HOSTILE), |address| {
        let asked = egret::core::text::url_part(HOSTILE);
        let questions = [
            format!("/explain?pod={asked}&to={asked}"),
            format!("/explain?pod=a/{asked}&to=10.8.0.1"),
            "/explain?pod=batuu/pod-0&to=10.8.0.1".to_owned(),
            format!("/explain?address={asked}"),
            format!("/nodes?q={asked}&state={asked}&sort={asked}&refresh={asked}"),
            format!("/{asked}"),
            format!("/policies?{asked}={asked}&page=-1"),
        ];
        for path in PAGES.iter().map(|path| (*path).to_owned()).chain(questions) {
            let (status, page) = get(address, &path);
            assert!(matches!(status, 200 | 400 | 404), "{path}: {status}");
            for forbidden in ["<script", "<img", "javascript:", "\u{202e}", " onerror=alert(2)>\"", " style="] {
                assert!(!page.contains(forbidden), "{path} has {forbidden}:\n{page}");
            }
        }
        let (_, page) = get(address, "/");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "it is shown: {page}");
    });
}

#[test]
fn a_large_cluster_is_no_large_page() {
    let began = Instant::now();
    with_page(cluster(5000, 500, 50_000), Log("more"), move |address| {
        println!("prepared in {:?}", began.elapsed());
        for path in PAGES.into_iter().chain(["/nodes?q=node-49&sort=name", "/explain?pod=batuu/pod-7&to=10.8.0.1"]) {
            let began = Instant::now();
            let (status, page) = get(address, path);
            println!("measured: {path}: {} kB in {:?}", page.len() / 1000, began.elapsed());
            assert_eq!(status, 200, "{path}: {page}");
            assert!(page.len() < 300_000, "{path} has {} bytes", page.len());
            assert!(page.matches("<tr").count() <= 110, "{path}");
        }
        assert!(get(address, "/nodes?page=50&sort=name").1.contains("node-4999"), "the last part");
        assert!(get(address, "/nodes?page=999999").1.contains("part 50 of 50"), "no part beyond the last");
        assert!(get(address, "/nodes?q=node-4321").1.contains("Nodes <span class=\"count\">1<"), "filtered");
    });
}

#[test]
fn the_head_of_every_answer_is_strict() {
    with_page(cluster(2, 1, 1), Log("more"), |address| {
        for path in PAGES.into_iter().chain(["/nowhere"]) {
            let (_, head, body) = ask(address, "GET", path, "localhost:1");
            for line in [
                "content-type: text/html; charset=utf-8",
                "x-content-type-options: nosniff",
                "referrer-policy: no-referrer",
                "cache-control: no-store",
                "cross-origin-resource-policy: same-origin",
            ] {
                assert!(head.contains(line), "{path} lacks {line}: {head}");
            }
            let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
            let (before, after) = policy.split_once("style-src 'sha256-").unwrap();
            assert_eq!(before, "default-src 'none'; ");
            let rest = "'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
            assert!(after.ends_with(rest), "{policy}");
            assert!(!body.contains("<script") && !body.contains(" style=\"") && !body.contains(" onclick"), "{body}");
        }
    });
}

#[test]
fn nothing_can_be_changed_and_there_is_nothing_else() {
    with_page(cluster(2, 1, 1), Log("more"), |address| {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            assert_eq!(ask(address, method, "/", "localhost").0, 405, "{method}");
        }
        let (status, _, body) = ask(address, "HEAD", "/", "localhost");
        assert_eq!((status, body.as_str()), (200, ""));
        for path in ["/metrics", "/policy?kind=EgressPolicy&name=nobody", "/../etc/passwd", "/policies/"] {
            assert_eq!(get(address, path).0, 404, "{path}");
        }
    });
}

#[test]
fn only_known_names_are_answered() {
    with_page(cluster(2, 1, 1), Log("more"), |address| {
        for known in
            ["localhost", "localhost:9092", "a.localhost", "10.1.2.3:80", "[fd00::1]:9092", "[::1]", "EGRET.example"]
        {
            assert_eq!(ask(address, "GET", "/", known).0, 200, "{known}");
        }
        for unknown in ["evil.example", "localhost.evil.example", "10.1.2.3.evil.example", "", "egret.example.evil"] {
            let (status, _, body) = ask(address, "GET", "/", unknown);
            assert_eq!(status, 421, "{unknown}");
            assert!(body.contains("--ui-host"), "{body}");
        }
        // A proxy's form of the request, whose name counts more than the header.
        assert_eq!(ask(address, "GET", "http://evil.example/", "localhost").0, 421);
    });
}

#[test]
fn a_question_is_answered_or_what_is_wrong_with_it() {
    with_page(cluster(2, 1, 2), Log("let them out"), |address| {
        let (status, page) = get(address, "/explain?pod=batuu%2Fpod-0&to=10.8.0.1");
        assert_eq!(status, 200);
        assert!(page.contains("batuu/pod-0 (10.0.0.0, node-0000) → 10.8.0.1"), "{page}");
        assert!(page.contains("&quot;let them out&quot;"), "the commit: {page}");
        let (status, page) = get(address, "/explain?pod=batuu/pod-9&to=10.8.0.1");
        assert_eq!(status, 404);
        assert!(page.contains("there is no pod batuu/pod-9; did you mean batuu/pod-0?"), "{page}");
        for (path, why) in [
            ("/explain?pod=pod-0&to=10.8.0.1", "“pod-0” is no pod: write NAMESPACE/NAME"),
            (
                "/explain?pod=batuu/pod-0&to=example.com",
                "“example.com”: a name is looked up by the pod; give the address",
            ),
            ("/explain?pod=batuu/pod-0", "“”: no IP address"),
            ("/explain?address=x", "“x”: a name is looked up by the pod"),
        ] {
            let (status, page) = get(address, path);
            assert!(status == 400 && page.contains(why), "{path}: {status} {page}");
        }
        let (status, page) = get(address, "/explain?address=172.18.0.1");
        assert!(status == 200 && page.contains("172.18.0.1 is the address of the node node-0001"), "{page}");
    });
}

#[test]
fn an_empty_cluster_has_a_page() {
    with_page(cluster(0, 0, 0), Log(""), |address| {
        for path in &PAGES[..5] {
            assert_eq!(get(address, path).0, 200, "{path}");
        }
    });
}

#[test]
fn a_loop_that_knows_nothing_yet_and_one_that_does_not_answer_are_told_apart_from_news() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (server, mut requests) = serve(&[], Log(""));
        let address = server.address();
        let asked = || tokio::task::spawn_blocking(move || get(address, "/"));
        let page = asked();
        requests.next().await.answer(Err("nothing was read".to_owned()));
        let (status, body) = page.await.unwrap();
        assert!(status == 503 && body.contains("nothing was read"), "{status} {body}");
        let page = asked();
        requests.next().await.answer(Ok(Arc::new(cluster(1, 1, 1))));
        assert_eq!(page.await.unwrap().0, 200);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let page = asked();
        let held = requests.next().await;
        let (status, body) = page.await.unwrap();
        assert!(status == 200 && body.contains("the process does not answer; this was known"), "{status} {body}");
        // Others do not wait for it in turn.
        let began = Instant::now();
        let all: Vec<_> = (0..4).map(|_| asked()).collect();
        for one in all {
            assert_eq!(one.await.unwrap().0, 200);
        }
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        held.answer(Ok(Arc::new(cluster(1, 1, 1))));
    });
}

#[test]
fn thousands_of_requests_ask_the_loop_about_once_a_second() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (server, mut requests) = serve(&[], Log(""));
        let (address, known) = (server.address(), Arc::new(cluster(100, 20, 100)));
        let began = Instant::now();
        let mut clients: Vec<_> = (0..4)
            .map(|_| tokio::task::spawn_blocking(move || (0..500).filter(|_| get(address, "/nodes").0 == 200).count()))
            .collect();
        let (mut asked, mut answered) = (0, 0);
        while let Some(client) = clients.last_mut() {
            tokio::select! {
                request = requests.next() => {
                    asked += 1;
                    request.answer(Ok(Arc::clone(&known)));
                }
                done = client => {
                    answered += done.unwrap();
                    clients.pop();
                }
            }
        }
        println!("measured: 2,000 requests in {:?}, {asked} of the loop", began.elapsed());
        assert_eq!(answered, 2000);
        assert!(asked <= began.elapsed().as_secs() + 2, "{asked}");
    });
}

#[test]
#[ignore = "needs Chromium and packages of npm: make page"]
fn in_a_real_browser_a_large_cluster_is_shown() {
    with_page(cluster(5000, 500, 50_000), Log("more"), |address| {
        let folder = std::env::var("EGRET_PAGE_SCREENSHOTS").expect("make page sets it");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/look.mjs");
        let words = ["large", "/", "/policies", "/nodes"];
        let address = format!("http://{address}");
        let mut looked = std::process::Command::new("node");
        assert!(looked.arg(script).arg(address).arg(folder).args(words).status().unwrap().success());
    });
}
