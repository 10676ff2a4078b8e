//! `egret test`: what a server sees of real requests from real pods is compared with what is promised.
//!
//! Deliberately absent: what is promised (`explained`).

use std::process::Output;

use super::stand::{DEADLINE, Outcome, Stand};
use crate::lab::{LabError, Options, wait_until};

const ECHO: &str = "http://10.0.4.2:8000/";

impl Stand {
    /// What `egret test` prints on a node for a pod, and its exit code. Pods of other labs have the same addresses, so the namespace is named.
    fn test(&self, node: &str, pod: &str, more: &[&str]) -> Result<(Option<i32>, String), LabError> {
        let (name, namespace) = (format!("batuu/{pod}"), self.lab.pod(pod)?.path().display().to_string());
        let words = ["test", "--echo", ECHO, "--pod", &name, "--netns", &namespace];
        let all: Vec<&str> = words.into_iter().chain(more.iter().copied()).collect();
        let Output { status, stdout, stderr } = self.command(node, &all)?;
        let text = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        Ok((status.code(), text))
    }

    /// What `egret test` prints once it begins like this, with this exit code. On a machine that is busy with other labs a gateway may just
    /// have been silent for a moment, and then something else is promised.
    fn await_test(&self, code: i32, pod: &str, begins: &str) -> String {
        let mut last = (None, String::new());
        let said = wait_until(DEADLINE, || {
            last = self.test("kind-worker", pod, &[]).unwrap_or_default();
            last.0 == Some(code) && last.1.starts_with(begins)
        });
        assert!(said, "{begins}: {last:?}\n{}", self.log("kind-worker"));
        last.1
    }
}

#[test]
fn what_a_server_sees_is_compared_with_what_is_promised() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let promised = "; promised: leaves as 10.0.3.42 through kind-worker2\n";
    let text = stand.await_test(0, "tiefighter", "ok  outpost: batuu/tiefighter → 10.0.4.2:8000 is seen as 10.0.3.42 ");
    assert!(text.ends_with(&format!(" ms{promised}")), "{text}");
    let (_, json) = stand.test("kind-worker", "tiefighter", &["-o", "json"])?;
    assert!(json.contains("\"formatVersion\": 1") && json.contains("\"result\": \"asPromised\""), "{json}");
    stand.await_test(0, "xwing", "not compared  no policy: batuu/xwing → 10.0.4.2:8000 is seen as 10.");
    let (code, text) = stand.test("kind-worker2", "tiefighter", &[])?;
    assert_eq!(text, "error: batuu/tiefighter is on kind-worker\nhint: run it there: this machine is kind-worker2\n");
    assert_eq!(code, Some(1));
    // Another router on the way translates once more.
    let translates =
        "table ip more { chain leave { type nat hook postrouting priority srcnat; oifname v-outpost masquerade; }; }";
    stand.lab.router().nft(translates)?;
    stand.await_test(2, "tiefighter", "WRONG ADDRESS  outpost: batuu/tiefighter → 10.0.4.2:8000 is seen as 10.0.4.1 ");
    stand.lab.router().exec(["nft", "delete", "table", "ip", "more"])?;
    // A firewall that answers nothing.
    stand.lab.outpost_namespace().nft("table ip more { chain come { type filter hook input priority 0; drop; }; }")?;
    let (code, text) = stand.test("kind-worker", "tiefighter", &["--patience", "300ms"])?;
    assert!(text.starts_with("NO ANSWER  outpost: "), "{text}");
    assert!(text.ends_with(&format!(" has no answer: nothing came within 300 ms{promised}")), "{text}");
    assert_eq!(code, Some(2), "{text}");
    stand.assert_no_leak_but(&stand.lab.pod_addresses("xwing")?)
}

#[test]
fn a_live_connection_is_explained_with_what_came_of_it_and_what_was_counted() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let namespace = stand.lab.pod("tiefighter")?.path().display().to_string();
    let live = |port: &str, more: &[&str]| -> Result<String, LabError> {
        let words = ["explain", "batuu/tiefighter", "--to", "10.0.4.2", "--live", port, "--netns", &namespace];
        let all: Vec<&str> = words.into_iter().chain(more.iter().copied()).collect();
        let Output { stdout, stderr, .. } = stand.command("kind-worker", &all)?;
        Ok([stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat())
    };
    let text = live("8000", &[])?;
    let line = text.lines().find(|line| line.trim_start().starts_with("live")).unwrap_or_default();
    assert!(line.contains("TCP port 8000 accepted after ") && line.contains("; kind-worker counted "), "{text}");
    assert!(!line.contains(" counted 0 packets"), "{text}");
    assert!(live("81", &[])?.contains("TCP port 81 refused after "));
    let json = live("8000", &["-o", "json"])?;
    assert!(json.contains("\"outcome\": \"connected\"") && json.contains("\"kind-worker\": "), "{json}");
    // A firewall that answers nothing.
    stand.lab.outpost_namespace().nft("table ip more { chain come { type filter hook input priority 0; drop; }; }")?;
    assert!(live("8000", &[])?.contains("TCP port 8000 no answer: nothing came within 3 s; kind-worker counted "));
    Ok(())
}

#[test]
fn without_a_pod_one_member_of_each_policy_is_tried_and_other_policies_are_named() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let Output { status, stderr, .. } = stand.command("kind-worker", &["test", "--echo", "http://10.0.9.9/"])?;
    let text = String::from_utf8_lossy(&stderr);
    assert!(text.starts_with("error: no policy with members on kind-worker has 10.0.9.9 as a destination\n"), "{text}");
    assert_eq!(status.code(), Some(1));
    let Output { status, stderr, .. } = stand.command("kind-worker", &["test", "--echo", "https://10.0.4.2/"])?;
    assert!(String::from_utf8_lossy(&stderr).contains("as in http://10.0.4.2/"), "{stderr:?}");
    assert_eq!(status.code(), Some(64));
    // Several labs may stand at once: either the pod's namespace is found, or it is said that it cannot be told apart.
    let Output { stdout, .. } = stand.command("kind-worker", &["test", "--echo", ECHO])?;
    let text = String::from_utf8_lossy(&stdout);
    assert!(
        text.starts_with("ok  outpost: batuu/tiefighter → 10.0.4.2:8000 is seen as 10.0.3.42 ")
            || text.contains("network namespaces of this machine have 10.1.1.177"),
        "{text}"
    );
    Ok(())
}
