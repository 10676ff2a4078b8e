//! HTTPS with lighttpd and `git http-backend`, under an authority of the test's own, and git:// with `git daemon`; on loopback.
//!
//! Deliberately absent: SSH (`ssh`), client certificates and proxies (`ways_in`), and servers that misbehave (`bad_servers`).

use std::fs;

use egret::git::access::Access;
use egret::git::credentials::Credentials;
use egret::git::publish::Published;
use egret::git::{Error, Fate};

use super::crooked::git_daemon;
use super::fixture::{Origin, PROGRAM};
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
    assert!(matches!(published, Published::Committed { tries: 1, .. }), "{published:?}");
    assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), "1");
    let mut mirror = origin.mirror_by("state-token", &server.source, server.access(Some("token"), "ghp_1"));
    assert_eq!(mirror.head(None).expect("a token").commit, second);
    let inside = format!("https://ada:hunter2@127.0.0.1:{}/git/policies.git", server.port);
    let access = Access { credentials: Credentials::default(), ..server.access(None, "") };
    assert_eq!(origin.mirror_by("state-inside", &inside, access).head(None).expect("in the address").commit, second);
}

#[test]
fn a_wrong_password_is_tried_once_and_told() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let error = origin.mirror_by("state", &server.source, server.access(Some("ada"), "wrong")).head(None);
    let error = error.expect_err("a wrong password");
    assert!(matches!(&error, Error::Denied { .. }), "{error:?}");
    assert_eq!((error.fate(), error.hint().is_some()), (Fate::NeedsPerson, true));
    assert!(!error.to_string().contains("wrong\n"), "{error}");
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_and_the_hint_says_how_to_name_it() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let access = Access { ca_file: None, ..server.access(Some("ada"), "hunter2") };
    let error = origin.mirror_by("state", &server.source, access).head(None).expect_err("an unknown authority");
    assert!(error.hint().is_some_and(|hint| hint.ends_with("name its file by --ca-file")), "{error:?}");
    let missing = Access { ca_file: Some("/nonexistent.pem".into()), ..server.access(Some("ada"), "hunter2") };
    let error = origin.mirror_by("state", &server.source, missing).head(None).expect_err("no such file");
    assert_eq!(error.to_string(), "cannot read the credential file /nonexistent.pem");
}

#[test]
fn hundreds_of_fetches_and_reports_over_git_do_not_pile_up() {
    let origin = Origin::new();
    let (_daemon, port) = git_daemon(&origin);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let source = format!("git://127.0.0.1:{port}{}", origin.bare.display());
    let mut mirror = origin.mirror_by("state", &source, Access { program: PROGRAM.into(), ..Access::default() });
    let published = publish_file(&mut mirror, "one", "drift\n").expect("a report");
    assert!(matches!(published, Published::Committed { .. }), "{published:?}");
    let packs = || fs::read_dir(origin.state().join("objects/pack")).expect("packs").count() / 2;
    // All at once, because it is fetching that is tried here.
    let mut stream = String::new();
    for round in 1..=270 {
        let from = if round == 1 { "refs/heads/main^0".to_owned() } else { format!(":{}", round - 1) };
        let lines = ["commit refs/heads/later", &format!("mark :{round}"), "committer x <x@x> 1 +0000", "data 0"];
        stream.extend(lines.into_iter().chain([format!("from {from}").as_str()]).flat_map(|line| [line, "\n"]));
    }
    let commits = origin.fast_import(&stream);
    let mut most = 0;
    for commit in &commits {
        fs::write(origin.bare.join("refs/heads/main"), format!("{commit}\n")).expect("a reference");
        assert_eq!(mirror.head(None).expect("a look").commit.to_string(), *commit);
        most = most.max(packs());
    }
    assert_eq!(commits.len(), 270);
    assert!(most <= 257, "{most} packs");
    assert!(packs() < 100, "{} packs are left", packs());
    origin.assert_mirror_is_sound();
}
