//! The page of a real `egret run` on a real kernel: what it shows, that its answers are those of `egret explain`, and that a fault is its first
//! line.
//!
//! Deliberately absent: what can be said without a kernel (`page`), and browsers (`tests/page`).

use egret::core::text::url_part;

use super::stand::{DEADLINE, Document, Outcome, Stand};
use crate::lab::{Hammer, LabError, OUTPOST, Options, get, wait_until};

/// Where the page is served, in its node's namespace.
const UI: &str = "127.0.0.1:9092";

impl Stand {
    /// The scenario applied, with a page on every node.
    fn with_pages() -> Result<Self, LabError> {
        let mut stand = Self::applied(Options::default())?;
        for node in stand.nodes() {
            stand.terminate(&node)?;
            let process = stand.lab.egret(&node, &["--ui", UI])?;
            stand.keep(&node, process);
            stand.await_words(&node, "egret runs")?;
        }
        Ok(stand)
    }

    /// Status and body of a page; nothing while nobody answers.
    fn page(&self, node: &str, path: &str) -> Result<(u16, String), LabError> {
        let listen = UI.parse().expect("an address and a port");
        Ok(self.lab.node(node)?.enter(|| get(listen, path))?.unwrap_or_default())
    }

    /// Waits until a page says all of this; the whole of it.
    fn await_page(&self, node: &str, path: &str, says: &[&str]) -> Result<String, LabError> {
        let mut last = (0, String::new());
        let said = wait_until(DEADLINE, || {
            last = self.page(node, path).unwrap_or_default();
            last.0 == 200 && says.iter().all(|part| last.1.contains(part))
        });
        if said { Ok(last.1) } else { Err(self.late(&format!("{says:?}"), &format!("{}\n{}", last.0, last.1))) }
    }
}

#[test]
fn the_page_shows_what_status_and_explain_say_with_rates_and_the_commit() -> Outcome {
    let stand = Stand::with_pages()?;
    let front = stand.await_page("kind-worker2", "/", &["nothing is wrong", "let the empire through"])?;
    for part in ["policies/outpost.yaml:1", "10.0.4.0/24", "10.0.3.42", "process on the node kind-worker2"] {
        assert!(front.contains(part), "{part} is missing: {front}");
    }
    // What the other node reports is known, too.
    stand.await_page("kind-worker2", "/nodes", &["kind-worker<", "kind-worker2<"])?;
    let explained = stand.command("kind-worker", &["explain", "batuu/tiefighter", "--to", "10.0.4.2"])?;
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    let first = text.lines().next().unwrap_or_default().to_owned();
    let asked = format!("/explain?pod={}&to=10.0.4.2", url_part("batuu/tiefighter"));
    let page = stand.await_page("kind-worker", &asked, &[&first, "rule 501", "&quot;let the empire through&quot;"])?;
    assert!(page.contains("selector 1: org=empire, namespace batuu"), "{page}");
    let (status, page) = stand.page("kind-worker", "/explain?pod=batuu/tiefihgter&to=10.0.4.2")?;
    assert!(status == 404 && page.contains("did you mean batuu/tiefighter?"), "{status} {page}");
    let policy = "/policy?kind=CiliumEgressGatewayPolicy&name=outpost";
    stand.await_page("kind-worker", policy, &["“let the empire through”", "kind-worker2 dev net1"])?;
    let traffic: Hammer = stand.lab.hammer("tiefighter", OUTPOST)?;
    stand.await_page("kind-worker2", "/", &["packets/s", "Rates over the last"])?;
    stand.await_page("kind-worker", "/", &["packets/s from this node", "conn."])?;
    drop(traffic);
    Ok(())
}

#[test]
fn a_fault_is_the_first_line_and_drift_is_in_the_timeline() -> Outcome {
    let stand = Stand::with_pages()?;
    let gateway = stand.lab.node("kind-worker2")?;
    stand.await_page("kind-worker2", "/", &["nothing is wrong"])?;
    gateway.exec(["ip", "address", "del", "10.0.3.42/24", "dev", "net1"])?;
    let says = ["verdict bad", "1 policy DROPS: outpost: kind-worker2: net1 has no global IPv4 address"];
    stand.await_page("kind-worker2", "/", &says)?;
    // The pods' node hears of it by the other's report.
    stand.await_page("kind-worker", "/", &says)?;
    let asked = "/explain?pod=batuu/tiefighter&to=10.0.4.2";
    stand.await_page("kind-worker", asked, &["answer bad", "DROPPED on kind-worker2 since "])?;
    gateway.exec(["ip", "address", "add", "10.0.3.42/24", "dev", "net1"])?;
    stand.await_page("kind-worker", "/", &["verdict fine"])?;
    let worker = stand.lab.node("kind-worker")?;
    worker.exec(["ip", "rule", "del", "priority", "501"])?;
    stand.await_page("kind-worker", "/changes?q=drift", &["was gone, by ", "corrected after "])?;
    Ok(())
}

#[test]
fn what_waits_is_shown_with_its_reason() -> Outcome {
    let stand = Stand::with_pages()?;
    let suspended = "apiVersion: egret.dev/v1alpha1
kind: Config
suspend: {until: \"2099-01-01T00:00:00Z\", owner: Mon, reason: <b>not yet</b>}
";
    stand.push("egret.yaml", suspended)?;
    let says = ["What waits", "Suspended", "Mon suspended the cluster", "&lt;b&gt;not yet&lt;/b&gt;", "2099-01-01"];
    stand.await_page("kind-worker", "/", &says).map(|_| ())
}

/// Texts that others may write, and that would be more than text if somebody forgot to escape them.
const HOSTILE: &str = "</title><script>alert(1)</script> & <b>\"'";

#[test]
#[ignore = "needs Chromium and packages of npm: make page"]
fn in_a_real_browser_a_lab_is_shown_fine_and_broken() -> Outcome {
    let stand = Stand::with_pages()?;
    stand.push_saying(HOSTILE, &[("README.md", "nothing")])?;
    let partner = Document::through("kind-worker").text().replace("name: outpost", "name: partner");
    let partner = partner.replace("org: empire", "org: alliance").replace("interface: net1", "interface: eth0");
    stand.push("policies/partner.yaml", &partner)?;
    let traffic = stand.lab.hammer("tiefighter", OUTPOST)?;
    stand.await_page("kind-worker2", "/", &["partner", "packets/s"])?;
    let explained = "/explain?pod=batuu/tiefighter&to=10.0.4.2";
    let pages = [
        "/",
        "/policies",
        "/nodes?sort=heard",
        "/changes",
        explained,
        "/explain?address=10.0.3.42",
        "/explain",
        "/explain?pod=batuu/x&to=x",
        "/nowhere",
    ];
    stand.look("kind-worker2", "fine", &pages)?;
    let gateway = stand.lab.node("kind-worker2")?;
    gateway.exec(["ip", "rule", "del", "priority", "501"]).ok();
    gateway.exec(["ip", "address", "del", "10.0.3.42/24", "dev", "net1"])?;
    stand.push(
        "policies/broken.yaml",
        "apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: broken}\n",
    )?;
    stand.await_page("kind-worker2", "/", &["verdict bad", "What waits"])?;
    stand.look("kind-worker2", "bad", &["/", explained, "/policy?kind=CiliumEgressGatewayPolicy&name=outpost"])?;
    drop(traffic);
    Ok(())
}

impl Stand {
    /// Lets a browser look at pages of a node, from within its namespace.
    #[expect(clippy::print_stdout, reason = "what the browser has to say; the test harness takes what is printed so")]
    fn look(&self, node: &str, name: &str, paths: &[&str]) -> Outcome {
        let folder = std::env::var("EGRET_PAGE_SCREENSHOTS").expect("make page sets it");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/look.mjs");
        let words = ["node", script, &format!("http://{UI}"), &folder, name];
        let said = self.lab.node(node)?.exec(words.into_iter().chain(paths.iter().copied()))?;
        println!("{said}");
        Ok(())
    }
}
