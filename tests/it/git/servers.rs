//! HTTPS with lighttpd and `git http-backend`, under an authority of the test's own, and git:// with `git daemon`; on loopback.
//!
//! Deliberately absent: SSH (`ssh`), and servers that misbehave (`bad_servers`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use egret::git::access::Access;
use egret::git::credentials::Credentials;
use egret::git::publish::Published;
use egret::git::{Error, Fate};

use super::crooked::{Serving, free_port, git_daemon, serving};
use super::fixture::{Origin, PROGRAM};
use super::publishing::{BRANCH, publish_file};

/// A lighttpd that lets `ada` in with `hunter2`, and `token` with `ghp_1`.
pub(super) struct Https {
    _lighttpd: Serving,
    port: u16,
    folder: PathBuf,
    pub(super) source: String,
}

fn openssl(folder: &Path, arguments: &str) {
    let words = arguments.split(' ');
    let output = Command::new("openssl").args(words).current_dir(folder).output().expect("openssl is installed");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Https {
    pub(super) fn start(origin: &Origin) -> Self {
        Self::with(origin, "")
    }

    /// With more lines of configuration.
    pub(super) fn with(origin: &Origin, more: &str) -> Self {
        let folder = origin.path().join("https");
        fs::create_dir_all(&folder).expect("a folder");
        let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        openssl(&folder, &format!("{key} -keyout ca.key -out ca.pem -subj /CN=authority"));
        openssl(
            &folder,
            &format!(
                "{key} -keyout server.key -out server.crt -subj /CN=git -addext subjectAltName=IP:127.0.0.1 -CA ca.pem -CAkey ca.key"
            ),
        );
        fs::write(folder.join("users"), "ada:hunter2\ntoken:ghp_1\n").expect("a file");
        let (port, shown) = (free_port(), folder.display());
        let backend = Command::new("git").arg("--exec-path").output().expect("git is installed").stdout;
        let backend = format!("{}/git-http-backend", String::from_utf8(backend).expect("UTF-8").trim_end());
        let config = format!(
            "server.document-root = \"{0}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}\n\
             server.errorlog = \"{shown}/log\"\n\
             server.modules = (\"mod_alias\", \"mod_setenv\", \"mod_auth\", \"mod_authn_file\", \"mod_cgi\", \"mod_access\", \"mod_openssl\")\n\
             ssl.engine = \"enable\"\nssl.pemfile = \"{shown}/server.crt\"\nssl.privkey = \"{shown}/server.key\"\n\
             auth.backend = \"plain\"\nauth.backend.plain.userfile = \"{shown}/users\"\n\
             auth.require = (\"/\" => (\"method\" => \"basic\", \"realm\" => \"git\", \"require\" => \"valid-user\"))\n\
             alias.url = (\"/git\" => \"{backend}\")\ncgi.assign = (\"\" => \"\")\n\
             setenv.set-environment = (\"GIT_PROJECT_ROOT\" => \"{0}\", \"GIT_HTTP_EXPORT_ALL\" => \"1\", \
             \"GIT_CONFIG_GLOBAL\" => \"/dev/null\", \"PATH\" => \"/usr/local/bin:/usr/bin:/bin\")\n{more}",
            origin.path().display()
        );
        fs::write(folder.join("config"), config).expect("a file");
        origin.in_bare(&["config", "http.receivepack", "true"]);
        let mut command = Command::new("lighttpd");
        command.args(["-D", "-f"]).arg(folder.join("config")).stdout(Stdio::null()).stderr(Stdio::null());
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        let source = format!("https://127.0.0.1:{port}/git/policies.git");
        Self { _lighttpd: serving(&mut command, port), port, folder, source }
    }

    pub(super) fn access(&self, user: Option<&str>, password: &str) -> Access {
        let file = self.folder.join("password");
        fs::write(&file, format!("{password}\n")).expect("a file");
        let credentials = Credentials { user: user.map(str::to_owned), password: Some(file), ..Credentials::default() };
        Access { program: PROGRAM.into(), ca_file: Some(self.folder.join("ca.pem")), ..credentials.into() }
    }
}

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
