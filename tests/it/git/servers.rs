//! HTTPS with lighttpd and `git http-backend`, under an authority of the test's own; on loopback.
//!
//! Deliberately absent: SSH (`ssh`), client certificates and proxies (`ways_in`), git:// (`rot`), and servers that
//! misbehave (`bad_servers`).

use std::fs;

use egret::git::access::Access;
use egret::git::credentials::Credentials;
use egret::git::publish::PublishOutcome;
use egret::git::{Error, ErrorKind};

use super::fixture::Origin;
use super::https::Https;
use super::publishing::{BRANCH, publish_file};

#[test]
fn a_push_is_fetched_and_a_report_comes_back_over_https() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror_by("state", &server.source, server.access(Some("ada"), "hunter2"));
    let log = || fs::read_to_string(server.folder.join("log")).unwrap_or_default();
    assert_eq!(mirror.head(None).unwrap_or_else(|error| panic!("{error:?} {}", log())).commit, first);
    let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
    assert_eq!(mirror.head(None).expect("a look").commit, second);
    let published = publish_file(&mut mirror, "one", "drift\n").unwrap_or_else(|error| panic!("{error:?} {}", log()));
    assert!(matches!(published, PublishOutcome::Committed { tries: 1, .. }), "{published:?}");
    assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), "1");
    let mut mirror = origin.mirror_by("state-token", &server.source, server.access(Some("token"), "ghp_1"));
    assert_eq!(mirror.head(None).expect("a token").commit, second);
    let inside = format!("https://ada:hunter2@127.0.0.1:{}/git/policies.git", server.port);
    let access = Access { credentials: Credentials::default(), ..server.access(None, "") };
    assert_eq!(origin.mirror_by("state-inside", &inside, access).head(None).expect("in the address").commit, second);
}

#[test]
fn a_wrong_password_is_tried_once_and_reported() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let error = origin.mirror_by("state", &server.source, server.access(Some("ada"), "wrong")).head(None);
    let error = error.expect_err("a wrong password");
    assert!(matches!(&error, Error::Denied { .. }), "{error:?}");
    assert_eq!((error.kind(), error.hint().is_some()), (ErrorKind::NeedsIntervention, true));
    assert!(!error.to_string().contains("wrong\n"), "{error}");
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_and_the_hint_says_how_to_name_it() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let access = Access { ca_file: None, ..server.access(Some("ada"), "hunter2") };
    let error = origin.mirror_by("state", &server.source, access).head(None).expect_err("an unknown authority");
    assert!(error.hint().is_some_and(|hint| hint.ends_with("name its file by --git-ca-file")), "{error:?}");
    let missing = Access { ca_file: Some("/nonexistent.pem".into()), ..server.access(Some("ada"), "hunter2") };
    let error = origin.mirror_by("state", &server.source, missing).head(None).expect_err("no such file");
    assert_eq!(error.to_string(), "cannot read the credential file /nonexistent.pem");
}

#[test]
fn credentials_that_may_read_and_not_push_make_reports_read_only() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.in_bare(&["config", "http.receivepack", "false"]);
    let mut mirror = origin.mirror_by("state", &server.source, server.ada());
    let error = publish_file(&mut mirror, "one", "drift\n").expect_err("it may only read");
    assert!(
        matches!(&error, Error::ReadOnly { why, .. } if why == "the credentials may read, and not push"),
        "{error:?}"
    );
    assert_eq!(mirror.head(None).expect("reading goes on").commit, commit);
    origin.in_bare(&["config", "http.receivepack", "true"]);
    publish_file(&mut mirror, "one", "drift\n").expect("it may, now");
}

#[test]
fn the_way_that_libgit2_is_led_leaves_no_trace_in_the_mirror() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = origin.mirror_by("state", &server.source, server.ada());
    mirror.head(None).expect("a look");
    publish_file(&mut mirror, "one", "drift\n").expect("a report");
    let mut folders = vec![origin.state()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read(&path).expect("a file");
            assert!(!text.windows(16).any(|word| word == b"http://127.0.0.1"), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen}");
}
