//! SSH against a real sshd on loopback, with its own host key, the user's key and hooks that run.
//!
//! Deliberately absent: agents and passwords, and the forms that keys come in (`ssh_keys`).

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use egret::git::credentials::Credentials;
use egret::git::mirror::Mirror;
use egret::git::publish::PublishOutcome;
use egret::git::{Error, ErrorKind};

use super::fixture::Origin;
use super::publishing::{BRANCH, files_on_branch, publish_file};
use crate::lab::wait_until;

/// An sshd that lets one key in, and ends with the test.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    pub(super) folder: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().expect("it can be ended");
        self.child.wait().expect("it ends");
    }
}

/// `kind` may have more of ssh-keygen's arguments behind it.
pub(super) fn generate_key(path: &Path, kind: &str) {
    let status =
        Command::new("ssh-keygen").args(["-q", "-N", "", "-t"]).args(kind.split(' ')).arg("-f").arg(path).status();
    assert!(status.expect("ssh-keygen is installed").success());
}

fn public_key(folder: &Path, name: &str) -> String {
    let line = fs::read_to_string(folder.join(format!("{name}.pub"))).expect("a key");
    line.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn write_known_hosts(folder: &Path, port: u16, key: &str) {
    fs::write(folder.join("known_hosts"), format!("[127.0.0.1]:{port} {key}\n")).expect("a file");
}

/// Writes what an sshd on loopback needs into a folder: `config`, keys, and `user` and `known_hosts` for who comes. Returns the
/// path of `config`.
pub(crate) fn configure(folder: &Path, hosts: &[&str], user: &str, port: u16) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder");
    // sshd confines its unprivileged half to this folder; packages leave making it to the init system.
    fs::create_dir_all("/run/sshd").expect("a folder");
    let mut host_keys = String::new();
    for (number, kind) in hosts.iter().enumerate() {
        let name = if number == 0 { "host".to_owned() } else { format!("host-{kind}") };
        generate_key(&folder.join(&name), kind);
        host_keys += "HostKey ";
        host_keys += folder.join(name).to_str().expect("UTF-8");
        host_keys += "\n";
    }
    generate_key(&folder.join("user"), user);
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\n{host_keys}AuthorizedKeysFile {0}/user.pub\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nAllowUsers root\n\
         SetEnv GIT_CONFIG_GLOBAL=/dev/null PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
        folder.display()
    );
    fs::write(folder.join("config"), config).expect("a file");
    write_known_hosts(folder, port, &public_key(folder, "host"));
    folder.join("config")
}

impl Server {
    pub(super) fn start(origin: &Origin) -> Self {
        Self::with(origin, &["ed25519"], "ed25519")
    }

    /// With host keys of these kinds, for a user with a key of that kind.
    pub(super) fn with(origin: &Origin, hosts: &[&str], user: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        Self::at(origin, hosts, user, port)
    }

    pub(super) fn at(origin: &Origin, hosts: &[&str], user: &str, port: u16) -> Self {
        let folder = origin.path().join("ssh");
        let config = configure(&folder, hosts, user, port);
        let log = File::create(folder.join("log")).expect("a file");
        let child = Command::new("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(config).stderr(log).spawn();
        let server = Self { child: child.expect("sshd is installed"), port, folder };
        let listens = wait_until(Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(listens, "{}", server.log());
        server
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(super) fn public_key(&self, name: &str) -> String {
        public_key(&self.folder, name)
    }

    pub(super) fn fingerprint(&self, name: &str) -> String {
        let output = Command::new("ssh-keygen").arg("-lf").arg(self.folder.join(format!("{name}.pub"))).output();
        let text = String::from_utf8(output.expect("ssh-keygen is installed").stdout).expect("UTF-8");
        text.split(' ').nth(1).expect("a fingerprint").to_owned()
    }

    pub(super) fn write_known_hosts(&self, key: &str) {
        write_known_hosts(&self.folder, self.port, key);
    }

    pub(super) fn credentials(&self) -> Credentials {
        Credentials {
            ssh_key: Some(self.folder.join("user")),
            known_hosts: Some(self.folder.join("known_hosts")),
            ..Credentials::default()
        }
    }

    pub(super) fn mirror(&self, origin: &Origin, state: &str) -> Mirror {
        let source = format!("ssh://root@127.0.0.1:{}{}", self.port, origin.bare.display());
        origin.mirror_at(state, &source, self.credentials())
    }
}

#[test]
fn a_push_is_fetched_and_a_report_comes_back_over_ssh() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.push_latin1_branch();
    let mut mirror = server.mirror(&origin, "state");
    assert_eq!(mirror.head(None).unwrap_or_else(|error| panic!("{error:?} {}", server.log())).commit, first);
    assert!(!mirror.head(None).expect("a look").moved);
    let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
    assert_eq!(mirror.head(None).expect("a look").commit, second);
    assert_eq!(mirror.resolve("HEAD~1").expect("a step back"), first);
    for (report, count) in [("one", "1"), ("two", "2")] {
        let published = publish_file(&mut mirror, report, "drift\n").expect("a report");
        assert!(matches!(published, PublishOutcome::Committed { tries: 1, .. }), "{published:?}");
        assert_eq!(origin.in_bare(&["rev-list", "--count", BRANCH]), count);
    }
    assert_eq!(publish_file(&mut mirror, "two", "drift\n").expect("the same"), PublishOutcome::Unchanged);
    assert_eq!(files_on_branch(&origin).into_keys().collect::<Vec<_>>(), [".egret-reports", "one", "two"]);
}

#[test]
fn a_host_with_another_key_is_refused_and_the_fingerprint_is_named() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = server.mirror(&origin, "state");
    server.write_known_hosts(&server.public_key("user"));
    let error = mirror.head(None).expect_err("another key is known");
    assert_eq!(
        error.to_string(),
        format!(
            "the SSH server 127.0.0.1 of ssh://root@127.0.0.1:{}{} offers the host key ssh-ed25519 {}, and known_hosts has \
             another key for it",
            server.port,
            origin.bare.display(),
            server.fingerprint("host")
        )
    );
    assert_eq!(error.kind(), ErrorKind::NeedsIntervention);
    fs::write(server.folder.join("known_hosts"), "").expect("a file");
    let error = mirror.head(None).expect_err("no key is known");
    assert!(error.to_string().ends_with("known_hosts has no line for it"), "{error}");

    server.write_known_hosts(&server.public_key("host"));
    let hashed = Command::new("ssh-keygen").args(["-H", "-f"]).arg(server.folder.join("known_hosts")).output();
    assert!(hashed.expect("ssh-keygen is installed").status.success());
    assert!(fs::read_to_string(server.folder.join("known_hosts")).expect("a file").starts_with("|1|"));
    assert_eq!(mirror.head(None).expect("a hashed name is found").commit, commit);
}

#[test]
fn every_kind_of_key_lets_its_user_in() {
    for kind in ["ed25519", "ecdsa -b 384", "rsa"] {
        let origin = Origin::new();
        let server = Server::with(&origin, &[kind], kind);
        let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
        let head = server.mirror(&origin, "state").head(None);
        assert_eq!(head.unwrap_or_else(|error| panic!("{kind}: {error:?} {}", server.log())).commit, commit);
    }
}

#[test]
fn of_a_server_with_several_keys_any_that_is_known_will_do() {
    let origin = Origin::new();
    let server = Server::with(&origin, &["ed25519", "ecdsa", "rsa"], "ed25519");
    let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
    for pinned in ["host", "host-ecdsa", "host-rsa"] {
        server.write_known_hosts(&server.public_key(pinned));
        let hashed =
            Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(server.folder.join("known_hosts")).status();
        assert!(hashed.expect("ssh-keygen is installed").success());
        let head = server.mirror(&origin, &format!("state-{pinned}")).head(None);
        assert_eq!(head.unwrap_or_else(|error| panic!("{pinned}: {error:?}")).commit, commit);
    }
    // Before and after the operator gives it a new one.
    let both = ["user", "host"].map(|name| format!("[127.0.0.1]:{} {}\n", server.port, server.public_key(name)));
    fs::write(server.folder.join("known_hosts"), both.concat()).expect("a file");
    assert_eq!(server.mirror(&origin, "state").head(None).expect("one of two").commit, commit);
}

#[test]
fn a_server_without_any_key_of_a_known_kind_is_reported_with_the_fingerprint_of_what_it_has() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    generate_key(&server.folder.join("old"), "rsa");
    server.write_known_hosts(&server.public_key("old"));
    let error = server.mirror(&origin, "state").head(None).expect_err("no known key");
    let expected = format!(
        "offers the host key ssh-ed25519 {}, and known_hosts has only its ssh-rsa key",
        server.fingerprint("host")
    );
    assert!(error.to_string().ends_with(&expected), "{error}");
}

#[test]
fn a_key_that_is_not_let_in_is_tried_once_and_reported() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    generate_key(&server.folder.join("stranger"), "ed25519");
    let source = format!("ssh://root@127.0.0.1:{}{}", server.port, origin.bare.display());
    let with_key = |name: &str| Credentials { ssh_key: Some(server.folder.join(name)), ..server.credentials() };
    let error = origin.mirror_at("state", &source, with_key("stranger")).head(None).expect_err("a stranger");
    assert!(matches!(&error, Error::Denied { .. }), "{error:?}");
    assert!(error.to_string().ends_with("denied access (tried the SSH key)"), "{error}");
    let error = origin.mirror_at("state", &source, with_key("missing")).head(None).expect_err("no key");
    assert!(matches!(&error, Error::Credential { path, .. } if path.ends_with("missing")), "{error:?}");
}

#[test]
fn a_remote_that_takes_no_push_is_read_only_and_says_why() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.hook("pre-receive", "echo no reports here >&2; exit 1");
    let mut mirror = server.mirror(&origin, "state");
    let error = publish_file(&mut mirror, "mine", "1\n").expect_err("a hook says no");
    assert!(
        matches!(&error, Error::ReadOnly { why, .. } if why == "pre-receive hook declined: no reports here"),
        "{error:?}"
    );
    mirror.head(None).expect("reading goes on");
}

#[test]
fn who_is_overtaken_within_the_push_itself_plans_anew() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let mut mirror = server.mirror(&origin, "state");
    publish_file(&mut mirror, "zero", "0\n").expect("a report");
    // The server's reference moves after it was compared and before it is locked: once.
    let overtake = format!(
        "test -e overtaken && exit 0; touch overtaken\nunset GIT_QUARANTINE_PATH\n\
         new=$(git -c user.name=x -c user.email=x@x commit-tree -p {BRANCH} -m faster {BRANCH}^{{tree}})\n\
         git update-ref refs/heads/{BRANCH} $new"
    );
    origin.hook("update", &overtake);
    let published =
        publish_file(&mut mirror, "mine", "1\n").unwrap_or_else(|error| panic!("{error:?} {}", server.log()));
    assert!(matches!(published, PublishOutcome::Committed { tries: 2, .. }), "{published:?}");
    let subjects = origin.in_bare(&["log", "--format=%s", BRANCH]);
    assert_eq!(subjects, "Report on mine\nfaster\nReport on zero");
}

#[test]
fn two_publishers_over_ssh_lose_nothing() {
    let origin = Origin::new();
    let server = Server::start(&origin);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    std::thread::scope(|scope| {
        for node in ["one", "two"] {
            let (origin, server) = (&origin, &server);
            scope.spawn(move || {
                let mut mirror = server.mirror(origin, &format!("state-{node}"));
                for report in 0..3 {
                    publish_file(&mut mirror, &format!("{node}/{report}"), "drift\n").expect("a report");
                }
            });
        }
    });
    let expected = [".egret-reports", "one/0", "one/1", "one/2", "two/0", "two/1", "two/2"];
    assert_eq!(files_on_branch(&origin).into_keys().collect::<Vec<_>>(), expected);
}
