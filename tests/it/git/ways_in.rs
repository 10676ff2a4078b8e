//! Client certificates and proxies: what it takes to get to an HTTPS server at all.
//!
//! The proxy is a double of our own, of a few lines: it does CONNECT (RFC 9110, 9.3.6) and checks a password, and everything behind it
//! is real. Deliberately absent: what is fetched (`servers`).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use egret::git::access::{Access, TransferLimits};
use egret::git::credentials::Secret;
use egret::git::publish::PublishOutcome;
use egret::git::{Error, ErrorKind};

use super::crooked::free_port;
use super::fixture::{Origin, PROGRAM};
use super::https::{Demand, GOOD, Https, LOOPBACK, RAN_OUT};
use super::publishing::publish_file;

/// The whole of an error, as a log shows it.
pub(super) fn text_of(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn fails(origin: &Origin, source: &str, access: Access) -> (String, ErrorKind, Option<String>) {
    let error = origin.mirror_by("state-fails", source, access).head(None).expect_err("no way in");
    (text_of(&error), error.kind(), error.hint())
}

#[test]
fn a_client_certificate_lets_in_and_one_that_was_renewed_is_used_at_the_next_look() {
    let origin = Origin::new();
    let server = Https::with(&origin, Demand::Certificate, LOOPBACK, GOOD);
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    let certificate = server.client_certificate("clients", GOOD);
    let access = Access { client_certificate: Some(certificate), ..server.ada() };
    let mut mirror = origin.mirror_by("state", &server.source, access);
    assert_eq!(mirror.head(None).unwrap_or_else(|error| panic!("{error:?} {}", server.log())).commit, first);
    let published = publish_file(&mut mirror, "one", "drift\n").unwrap_or_else(|error| panic!("{error:?}"));
    assert!(matches!(published, PublishOutcome::Committed { tries: 1, .. }), "{published:?}");
    // It runs out, and nobody renewed it yet.
    server.client_certificate("clients", RAN_OUT);
    let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
    let error = mirror.head(None).expect_err("a certificate that ran out");
    assert!(text_of(&error).contains("the server does not take our certificate"), "{}", text_of(&error));
    assert_eq!(error.kind(), ErrorKind::Transient);
    // The same mirror, the same files.
    server.client_certificate("clients", GOOD);
    assert_eq!(mirror.head(None).expect("a renewed certificate").commit, second);
}

#[test]
fn without_the_certificate_that_a_server_wants_the_error_says_so() {
    let origin = Origin::new();
    let server = Https::with(&origin, Demand::Certificate, LOOPBACK, GOOD);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let none = fails(&origin, &server.source, server.ada());
    let certificate = server.client_certificate("others", GOOD);
    let other = fails(&origin, &server.source, Access { client_certificate: Some(certificate), ..server.ada() });
    for (text, fate, hint) in [none, other] {
        assert!(
            text.starts_with(&format!("cannot connect to {}: the server does not take our certificate", server.source)),
            "{text}"
        );
        assert_eq!(fate, ErrorKind::Transient);
        assert!(hint.is_some_and(|hint| hint.contains("--git-client-certificate")));
    }
}

#[test]
fn a_certificate_and_a_key_that_are_no_pair_are_reported_with_their_files() {
    let origin = Origin::new();
    let server = Https::with(&origin, Demand::Certificate, LOOPBACK, GOOD);
    let mut certificate = server.client_certificate("clients", GOOD);
    let shown = server.folder.display();
    certificate.key = server.folder.join("server.key");
    let (text, ..) =
        fails(&origin, &server.source, Access { client_certificate: Some(certificate.clone()), ..server.ada() });
    assert!(text.contains(&format!("{shown}/server.key is not the key of {shown}/client.pem")), "{text}");
    certificate.key = server.folder.join("users");
    let (text, ..) =
        fails(&origin, &server.source, Access { client_certificate: Some(certificate.clone()), ..server.ada() });
    assert!(text.contains(&format!("{shown}/users has no private key")), "{text}");
    certificate.key = server.folder.join("missing");
    let (text, ..) = fails(&origin, &server.source, Access { client_certificate: Some(certificate), ..server.ada() });
    assert!(text.starts_with(&format!("cannot read the credential file {shown}/missing")), "{text}");
}

#[test]
fn a_certificate_that_is_for_others_or_ran_out_is_reported_in_words() {
    let origin = Origin::new();
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let server = Https::with(&origin, Demand::Nothing, "subjectAltName=DNS:other.example", GOOD);
    let (text, _, hint) = fails(&origin, &server.source, server.ada());
    let start = format!("cannot connect to {}: its certificate ", server.source);
    assert_eq!(text, format!("{start}is not for 127.0.0.1 but for other.example"));
    assert!(hint.is_some_and(|hint| hint.contains("the certificate is for the name")));
    drop(server);
    let server = Https::with(&origin, Demand::Nothing, LOOPBACK, RAN_OUT);
    let (text, ..) = fails(&origin, &server.source, server.ada());
    assert_eq!(text, format!("cannot connect to {}: its certificate has run out", server.source));
}

/// What a proxy does with a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Manner {
    Open,
    /// For whoever says this: `user:password` in base64.
    Asks(&'static str),
    Refuses,
    Stalls,
    Hangs,
}

/// A CONNECT proxy, and the heads of what it was asked.
struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        // It ends with the test binary.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (manner, seen) = (manner.clone(), Arc::clone(&seen));
                thread::spawn(move || connect(client, &manner, &seen));
            }
        });
        Self { port, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("heads").clone()
    }
}

fn connect(mut client: TcpStream, manner: &Manner, seen: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let head: Vec<String> = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    seen.lock().expect("heads").push(head.join("\n"));
    let answer = match manner {
        Manner::Open => "200 Connection established",
        Manner::Asks(proof) if head.contains(&format!("Proxy-Authorization: Basic {proof}")) => "200 OK",
        Manner::Asks(_) => "407 Proxy Authentication Required",
        Manner::Refuses => "403 Forbidden",
        Manner::Hangs => return Ok(()),
        Manner::Stalls => return io::copy(&mut reader, &mut io::sink()).map(|_| ()),
    };
    client.write_all(format!("HTTP/1.1 {answer}\r\nVia: 1.1 proxy\r\n\r\n").as_bytes())?;
    let Some(place) = head.first().and_then(|line| line.strip_prefix("CONNECT ")?.split(' ').next()) else {
        return Ok(());
    };
    if !answer.starts_with("200") {
        return Ok(());
    }
    let mut server = TcpStream::connect(place)?;
    let (mut asks, mut asked) = (reader, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut asks, &mut asked);
        asked.shutdown(std::net::Shutdown::Both)
    });
    io::copy(&mut server, &mut client)?;
    client.shutdown(std::net::Shutdown::Both)
}

fn by(proxy: &str, access: Access) -> Access {
    Access { proxy: Some(Secret::new(proxy.to_owned())), ..access }
}

#[test]
fn a_proxy_is_gone_through_with_and_without_a_password_and_sees_neither_token_nor_content() {
    // ada%40example:hun:ter2 in the address.
    for (manner, userinfo) in
        [(Manner::Open, ""), (Manner::Asks("YWRhQGV4YW1wbGU6aHVuOnRlcjI="), "ada%40example:hun:ter2@")]
    {
        let origin = Origin::new();
        let server = Https::start(&origin);
        let proxy = Proxy::start(manner);
        let commit = origin.push(&[("a.yaml", "a: 1\n")], "first");
        let access = by(&format!("http://{userinfo}127.0.0.1:{}", proxy.port), server.ada());
        let mut mirror = origin.mirror_by("state", &server.source, access);
        assert_eq!(mirror.head(None).unwrap_or_else(|error| panic!("{}", text_of(&error))).commit, commit);
        publish_file(&mut mirror, "one", "drift\n").unwrap_or_else(|error| panic!("{}", text_of(&error)));
        let heads = proxy.heads();
        assert!(!heads.is_empty());
        for head in heads {
            assert!(head.starts_with(&format!("CONNECT 127.0.0.1:{} HTTP/1.1\n", server.port)), "{head}");
            assert!(!head.contains("\nAuthorization") && !head.contains("policies"), "{head}");
        }
    }
}

#[test]
fn a_proxy_that_wants_another_password_is_reported_and_none_is_shown() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let proxy = Proxy::start(Manner::Asks("eA=="));
    let place = format!("127.0.0.1:{}", proxy.port);
    let (text, fate, hint) = fails(&origin, &server.source, by(&format!("http://{place}"), server.ada()));
    assert_eq!(text, format!("cannot connect to {}: the proxy asks for a user and a password", server.source));
    assert_eq!((fate, hint.is_some_and(|hint| hint.contains("--git-proxy"))), (ErrorKind::Transient, true));
    let (text, ..) = fails(&origin, &server.source, by(&format!("http://ada:s3cret@{place}"), server.ada()));
    assert_eq!(text, format!("cannot connect to {}: the proxy does not take the user and the password", server.source));
}

#[test]
fn a_proxy_that_is_down_refuses_breaks_off_or_stalls_is_reported_and_held_by_the_time_for_connections() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let limits = TransferLimits { connect: Duration::from_secs(1), ..TransferLimits::default() };
    let fails = |port: u16| {
        let access = by(&format!("http://127.0.0.1:{port}"), Access { limits, ..server.ada() });
        let (text, fate, _) = fails(&origin, &server.source, access);
        assert_eq!(fate, ErrorKind::Transient, "{text}");
        text.strip_prefix(&format!("cannot connect to {}: ", server.source)).unwrap_or(&text).to_owned()
    };
    let down = fails(free_port());
    assert!(down.starts_with("the proxy takes no connection") && down.contains("refused"), "{down}");
    let refuses = fails(Proxy::start(Manner::Refuses).port);
    assert_eq!(refuses, format!("the proxy does not lead to 127.0.0.1:{}: it says 403", server.port));
    let hangs = fails(Proxy::start(Manner::Hangs).port);
    assert!(hangs.starts_with("the proxy breaks off"), "{hangs}");
    assert_eq!(fails(Proxy::start(Manner::Stalls).port), "no connection within 800ms, through the proxy");
}

/// What `egret preview` says of a repository, with these arguments and no snapshot: if it names that, it came through.
fn preview(server: &Https, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(["preview", "--repo", &server.source, "--base", "main", "--head", "main", "--git-user", "ada"]);
    command.arg("--git-password-file").arg(server.ada().credentials.password.expect("a file"));
    command.args(["--cluster", "/nowhere/snapshot"]).args(arguments).envs(environment.iter().copied());
    String::from_utf8_lossy(&command.output().expect("it runs").stderr).into_owned()
}

#[test]
fn what_is_said_on_the_command_line_and_in_the_environment_reaches_the_server() {
    let origin = Origin::new();
    let server = Https::with(&origin, Demand::Certificate, LOOPBACK, GOOD);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    server.client_certificate("clients", GOOD);
    let path = |name: &str| server.folder.join(name).to_str().expect("UTF-8").to_owned();
    let (authority, certificate, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let own = ["--git-client-certificate", &certificate, "--git-client-key", &key];
    let through = preview(&server, &[&own[..], &["--git-ca-file", &authority]].concat(), &[]);
    assert!(through.contains("/nowhere/snapshot"), "{through}");
    // The system's authorities, wherever it has them.
    let through = preview(&server, &own, &[("SSL_CERT_FILE", &authority)]);
    assert!(through.contains("/nowhere/snapshot"), "{through}");
    // By their names, and by the former ones, as variables and as options.
    for [client_certificate, client_key, ca_file] in [
        ["EGRET_GIT_CLIENT_CERTIFICATE", "EGRET_GIT_CLIENT_KEY", "EGRET_GIT_CA_FILE"],
        ["EGRET_CLIENT_CERTIFICATE", "EGRET_CLIENT_KEY", "EGRET_CA_FILE"],
    ] {
        let variables = [(client_certificate, certificate.as_str()), (client_key, &key), (ca_file, &authority)];
        let through = preview(&server, &[], &variables);
        assert!(through.contains("/nowhere/snapshot"), "{through}");
    }
    let former = ["--client-certificate", &certificate, "--client-key", &key, "--ca-file", &authority];
    let through = preview(&server, &former, &[]);
    assert!(through.contains("/nowhere/snapshot"), "{through}");
    let stopped = preview(&server, &own, &[("SSL_CERT_FILE", &path("others.pem"))]);
    assert!(stopped.contains("its certificate is by an authority that is not known"), "{stopped}");
    let half = preview(&server, &own[..2], &[]);
    assert!(half.contains("--git-client-key <FILE>"), "{half}");
    let wrong = preview(&server, &["--git-proxy", "socks5://ada:s3cret@proxy:1080"], &[("EGRET_CA_FILE", &authority)]);
    assert!(
        wrong.contains("is not of the form http://[user:password@]host:port") && !wrong.contains("s3cret"),
        "{wrong}"
    );
}

#[test]
fn a_proxy_of_the_environment_is_not_asked() {
    let origin = Origin::new();
    let server = Https::start(&origin);
    let proxy = Proxy::start(Manner::Open);
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    let place = format!("http://127.0.0.1:{}", proxy.port);
    let environment =
        ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY", "http_proxy"].map(|name| (name, place.as_str()));
    let authority = server.folder.join("ca.pem");
    let errors = preview(&server, &["--git-ca-file", authority.to_str().expect("UTF-8")], &environment);
    assert!(errors.contains("/nowhere/snapshot"), "{errors}");
    assert_eq!(proxy.heads(), Vec::<String>::new());
}
