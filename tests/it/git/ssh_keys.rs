//! Keys in the forms that people and Secrets have them in, and hosts whose keys are revoked, changed, or many.
//!
//! Deliberately absent: what is fetched (`ssh`).

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use egret::git::credentials::Credentials;
use egret::git::{Error, ErrorKind};

use super::fixture::{Origin, PROGRAM};
use super::ssh::{Server, generate_key};
use super::ways_in::text_of;
use crate::lab::wait_until_every;

fn change(key: &Path, how: impl Fn(&str) -> String) {
    let text = fs::read_to_string(key).expect("a key");
    fs::write(key, how(&text)).expect("a key");
}

/// What becomes of a key's text on its way into a Secret.
type Form<'a> = &'a dyn Fn(&str) -> String;

#[test]
fn a_private_key_lets_in_in_every_form_that_it_comes_in() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let source = format!("ssh://root@127.0.0.1:{}{}", server.port, origin.bare.display());
    let as_it_is = |text: &str| text.to_owned();
    // As a Secret has it that somebody made by hand: no end of line, another system's ends of lines, empty lines around it.
    let unended = |text: &str| text.trim_end().to_owned();
    let returns = |text: &str| text.replace('\n', "\r\n");
    // P-256 not in OpenSSH's format: one key in 256 is shorter than its curve, and ssh-key does not read it (decision 0022).
    let forms: [(&str, Form); 10] = [
        ("ed25519", &as_it_is),
        ("ed25519", &unended),
        ("ed25519", &returns),
        ("ecdsa -b 384", &as_it_is),
        ("ecdsa -b 521", &as_it_is),
        ("ecdsa -m PEM", &as_it_is),
        ("rsa -b 4096", &as_it_is),
        ("rsa -m PEM", &as_it_is),
        ("rsa -m PKCS8", &as_it_is),
        ("rsa -m PEM", &returns),
    ];
    for (number, (kind, how)) in forms.into_iter().enumerate() {
        let key = server.folder.join("user");
        for name in ["user", "user.pub"] {
            fs::remove_file(server.folder.join(name)).expect("it was there");
        }
        generate_key(&key, kind);
        change(&key, how);
        let head = origin.mirror_at(&format!("state-{number}"), &source, server.credentials()).head(None);
        let head = head.unwrap_or_else(|error| panic!("{kind} {number}: {} {}", text_of(&error), server.log()));
        assert_eq!(head.commit, commit, "{kind}");
    }
}

#[test]
fn a_key_that_is_none_or_has_a_passphrase_is_reported_for_what_it_is() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let source = format!("ssh://root@127.0.0.1:{}{}", server.port, origin.bare.display());
    let look = |name: &str| {
        let credentials = Credentials { ssh_key: Some(server.folder.join(name)), ..server.credentials() };
        origin.mirror_at("state", &source, credentials).head(None).expect_err("no key that can be used")
    };
    let mut command = Command::new("ssh-keygen");
    let status = command.args(["-q", "-t", "ed25519", "-N", "secret", "-f"]).arg(server.folder.join("locked")).status();
    assert!(status.expect("ssh-keygen is installed").success());
    fs::write(server.folder.join("garbage"), "-----BEGIN OPENSSH PRIVATE KEY-----\nbm9uZQ==\n").expect("a file");
    fs::write(server.folder.join("empty"), "").expect("a file");
    for (name, what) in [
        ("locked", "the key has a passphrase"),
        ("garbage", "it is not a private key"),
        ("empty", "it is not a private key"),
        ("user.pub", "it is a public key"),
    ] {
        let error = look(name);
        assert!(text_of(&error).contains(what), "{name}: {}", text_of(&error));
        assert!(text_of(&error).contains(&format!("ssh/{name}")), "{name}: {}", text_of(&error));
        assert_eq!(error.kind(), ErrorKind::Transient, "{name}");
    }
}

/// An agent that ends with the test.
struct SshAgent(Child);

impl Drop for SshAgent {
    fn drop(&mut self) {
        self.0.kill().expect("it can be ended");
        self.0.wait().expect("it ends");
    }
}

/// What `egret preview` says with this agent and no key file; if it names the snapshot, it got through to the repository.
fn preview_with_agent(server: &Server, source: &str, socket: &Path) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(["preview", "--repo", source, "--base", "main", "--head", "main", "--cluster", "/nowhere/snapshot"]);
    command.arg("--known-hosts").arg(server.folder.join("known_hosts")).env("SSH_AUTH_SOCK", socket);
    String::from_utf8_lossy(&command.output().expect("it runs").stderr).into_owned()
}

#[test]
fn the_keys_of_an_agent_are_tried_where_no_file_is_named() {
    let origin = Origin::new();
    let server = Server::with(&origin, &["ed25519"], "rsa");
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let source = format!("ssh://root@127.0.0.1:{}{}", server.port, origin.bare.display());
    let socket = server.folder.join("agent");
    let agent = Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).stdout(Stdio::null()).spawn();
    let _agent = SshAgent(agent.expect("ssh-agent is installed"));
    let add = |name: &str| {
        let mut command = Command::new("ssh-add");
        let added = command.arg("-q").arg(server.folder.join(name)).env("SSH_AUTH_SOCK", &socket).output();
        added.expect("ssh-add is installed").status.success()
    };
    generate_key(&server.folder.join("other"), "ed25519");
    let listens = wait_until_every(Duration::from_millis(20), Duration::from_secs(20), || add("other"));
    assert!(listens, "the agent does not listen");
    let denied = preview_with_agent(&server, &source, &socket);
    assert!(denied.contains("denied access (tried the SSH agent)"), "{denied}");
    assert!(add("user"));
    let through = preview_with_agent(&server, &source, &socket);
    assert!(through.contains("/nowhere/snapshot"), "{through} {}", server.log());
}

#[test]
fn a_revoked_host_key_is_refused_although_it_is_pinned_too() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let key = server.public_key("host");
    let lines = format!("[127.0.0.1]:{0} {key}\n@revoked [127.0.0.1]:{0} {key}\n", server.port);
    fs::write(server.folder.join("known_hosts"), lines).expect("a file");
    let error = server.mirror(&origin, "state").head(None).expect_err("a revoked key");
    let expected =
        format!("offers the host key ssh-ed25519 {}, and known_hosts has revoked it", server.fingerprint("host"));
    assert!(error.to_string().ends_with(&expected), "{error}");
    assert_eq!(error.kind(), ErrorKind::NeedsIntervention);
}

#[test]
fn a_host_that_gets_another_key_is_refused_until_that_one_is_pinned() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = server.mirror(&origin, "state");
    assert_eq!(mirror.head(None).expect("a look").commit, first);
    let pinned = fs::read_to_string(server.folder.join("known_hosts")).expect("a file");
    // The one at this address is another machine from now on; the folder, and so the user's key, are the same.
    let port = server.port;
    drop(server);
    for name in ["host", "host.pub", "user", "user.pub"] {
        fs::remove_file(origin.path().join("ssh").join(name)).expect("it was there");
    }
    let server = Server::at(&origin, &["ed25519"], "ed25519", port);
    fs::write(server.folder.join("known_hosts"), &pinned).expect("a file");
    let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
    let error = mirror.head(None).expect_err("another key");
    let Error::HostKey { offered, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*offered, format!("ssh-ed25519 {}", server.fingerprint("host")));
    assert!(error.hint().is_some_and(|hint| hint.starts_with("this may be an attack")), "{:?}", error.hint());
    fs::write(
        server.folder.join("known_hosts"),
        pinned + &format!("[127.0.0.1]:{port} {}\n", server.public_key("host")),
    )
    .expect("a file");
    assert_eq!(mirror.head(None).expect("both are pinned").commit, second);
}
