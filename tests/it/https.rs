//! The HTTP client against real TLS on loopback, under an authority of the test's own: whom it believes, whom it does not, and
//! how it gets away from servers and proxies that hang or send too much.
//!
//! Deliberately absent: what is asked of a forge or a Git server.

mod stand;

use std::time::Duration;

use egret::https::{
    Client, ClientIdentity, ClientOptions, HttpError, HttpErrorCause, HttpResponse, Method, Request, RequestLimits,
    TlsError, full,
};
use egret::secret::Secret;

use self::stand::{Certificates, Proxy, Reply, Server};

/// Short enough for a test, long enough for a loaded machine.
const LIMITS: RequestLimits = RequestLimits {
    connect: Duration::from_secs(4),
    idle: Duration::from_millis(900),
    total: Duration::from_secs(2),
    most: 100_000,
};

fn options(certificates: &Certificates) -> ClientOptions {
    ClientOptions { roots: Some(certificates.path("ca.pem")), limits: LIMITS, ..ClientOptions::default() }
}

fn ask(options: ClientOptions, url: &str) -> Result<HttpResponse, HttpError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let request = Request::builder().method(Method::POST).uri(url).body(full("question")).expect("a request");
        Client::new(options)?.send(request).await
    })
}

fn tls_fault(result: Result<HttpResponse, HttpError>) -> TlsError {
    match result.expect_err("it is not believed").cause() {
        HttpErrorCause::Tls(tls) => tls.clone(),
        other => panic!("{other:?}"),
    }
}

fn timeout(result: Result<HttpResponse, HttpError>) -> String {
    let error = result.expect_err("it takes too long");
    assert!(matches!(error.cause(), HttpErrorCause::Timeout { .. }), "{error:?}");
    assert!(error.retryable());
    error.cause().to_string()
}

#[test]
fn a_server_of_the_named_authority_is_asked_and_answers() {
    let certificates = Certificates::new();
    let server = Server::start(certificates.server("good"), Reply::Echo);
    let answer = ask(options(&certificates), &server.url("/a?b=c")).expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.body.as_ref()), (200, b"question".as_slice()));
    let head = server.heads().join("");
    assert!(head.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(concat!("user-agent: egret/", env!("CARGO_PKG_VERSION"), "\r\n")), "{head}");
}

#[test]
fn certificates_that_prove_nothing_are_refused_and_the_error_says_what_is_wrong() {
    let certificates = Certificates::new();
    let good = Server::start(certificates.server("good"), Reply::Echo);
    let stranger = ClientOptions { roots: Some(certificates.path("other-ca.pem")), ..options(&certificates) };
    let error = ask(stranger, &good.url("/a?secret")).expect_err("another authority");
    assert_eq!(error.to_string(), format!("POST {}", good.url("/a")));
    assert_eq!(error.cause().to_string(), "its certificate is by an authority that is not known");
    assert_eq!(error.hint(), Some("if the server has an authority of its own, name the file with its certificate"));
    assert!(!error.retryable());
    let system = ClientOptions { roots: None, ..options(&certificates) };
    let fault = ask(system, &good.url("/")).expect_err("the system's authorities");
    assert!(
        matches!(fault.cause(), HttpErrorCause::Tls(TlsError::UnknownAuthority) | HttpErrorCause::NoRoots),
        "{fault:?}"
    );

    let named = Server::start(certificates.server("other-name"), Reply::Echo);
    let wrong_name =
        TlsError::WrongName { expected: "127.0.0.1".to_owned(), presented: vec!["git.example".to_owned()] };
    assert_eq!(wrong_name.to_string(), "its certificate is not for 127.0.0.1 but for git.example");
    assert_eq!(tls_fault(ask(options(&certificates), &named.url("/"))), wrong_name);

    let expired = Server::start(certificates.server("expired"), Reply::Echo);
    assert_eq!(tls_fault(ask(options(&certificates), &expired.url("/"))), TlsError::Expired);
    for server in [good, named, expired] {
        assert_eq!(server.heads(), Vec::<String>::new(), "nothing was asked");
    }
}

#[test]
fn a_client_certificate_is_shown_and_missed() {
    let certificates = Certificates::new();
    let server = Server::start(certificates.server_for_clients("good"), Reply::Echo);
    let fault = tls_fault(ask(options(&certificates), &server.url("/")));
    assert!(matches!(fault, TlsError::WantsClientCertificate(_)), "{fault:?}");
    let identity = |certificate: &str, key: &str| ClientOptions {
        identity: Some(ClientIdentity { certificate: certificates.path(certificate), key: certificates.path(key) }),
        ..options(&certificates)
    };
    let answer = ask(identity("good.crt", "good.key"), &server.url("/")).expect("an answer");
    assert_eq!(answer.body.as_ref(), b"question");
    let error = ask(identity("good.crt", "ca.key"), &server.url("/")).expect_err("another key");
    assert!(error.cause().to_string().contains("is not the key of"), "{error:?}");
    let error = ask(identity("good.crt", "gone.key"), &server.url("/")).expect_err("no key");
    assert!(matches!(error.cause(), HttpErrorCause::File { path, .. } if path.ends_with("gone.key")), "{error:?}");
    let error = ask(identity("good.key", "good.key"), &server.url("/")).expect_err("no certificate");
    assert_eq!(
        error.cause().to_string(),
        format!("{} has no certificate in PEM", certificates.path("good.key").display())
    );
}

#[test]
fn a_rotated_authority_is_believed_at_the_next_connection() {
    let certificates = Certificates::new();
    let server = Server::start(certificates.server("good"), Reply::Echo);
    let file = certificates.path("rotated.pem");
    std::fs::copy(certificates.path("namesake.pem"), &file).expect("a copy");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client::new(ClientOptions { roots: Some(file.clone()), ..options(&certificates) }).expect("a client");
    let request = || Request::builder().uri(server.url("/")).body(full("")).expect("a request");
    assert_eq!(tls_fault(runtime.block_on(client.send(request()))), TlsError::UnknownAuthority);
    std::fs::copy(certificates.path("ca.pem"), &file).expect("a copy");
    assert_eq!(runtime.block_on(client.send(request())).expect("an answer").status.as_u16(), 200);
}

#[test]
fn a_proxy_leads_to_the_server_and_says_why_not() {
    let certificates = Certificates::new();
    let server = Server::start(certificates.server("good"), Reply::Echo);
    let with = |proxy: &str| ClientOptions { proxy: Some(Secret::new(proxy.to_owned())), ..options(&certificates) };
    let open = Proxy::start(None);
    ask(with(&format!("http://127.0.0.1:{}", open.port)), &server.url("/")).expect("an answer");
    assert_eq!(open.requests(), [format!("CONNECT 127.0.0.1:{} HTTP/1.1", server.port)]);
    // `ada:p@ss`
    let closed = Proxy::start(Some("Basic YWRhOnBAc3M="));
    ask(with(&format!("http://ada:p%40ss@127.0.0.1:{}/", closed.port)), &server.url("/")).expect("an answer");
    let fault = |proxy: &str| {
        let error = ask(with(proxy), &server.url("/")).expect_err("no way");
        assert!(!format!("{error:?}").contains("p%40ss"), "{error:?}");
        error.cause().to_string()
    };
    assert_eq!(fault(&format!("http://127.0.0.1:{}", closed.port)), "the proxy asks for a user and a password");
    assert_eq!(
        fault(&format!("http://eve:p%40ss@127.0.0.1:{}", closed.port)),
        "the proxy does not take the user and the password"
    );
    assert_eq!(
        fault("https://ada:p%40ss@127.0.0.1:1"),
        "the proxy is not of the form http://[user:password@]host:port"
    );
    let gone = stand::free_port();
    let text = fault(&format!("http://127.0.0.1:{gone}"));
    assert!(text.starts_with("the proxy takes no connection: "), "{text}");
    assert_eq!(server.heads().len(), 2);
}

#[test]
fn plain_http_is_spoken_only_where_it_is_asked_for_and_a_proxy_gets_the_whole_address() {
    let certificates = Certificates::new();
    let server = Server::start(None, Reply::Echo);
    let error = ask(options(&certificates), &server.url("/")).expect_err("no TLS");
    assert_eq!(error.cause().to_string(), "http:// has neither secrecy nor proof: use https://");
    let plain = ClientOptions { plain: true, ..options(&certificates) };
    assert_eq!(ask(plain.clone(), &server.url("/")).expect("an answer").body.as_ref(), b"question");
    // The server itself is good enough a proxy for a request in absolute form.
    let proxy = Some(Secret::new(format!("http://ada:p@127.0.0.1:{}", server.port)));
    ask(ClientOptions { proxy, ..plain.clone() }, "http://nowhere.example/x").expect("an answer");
    let head = server.heads().pop().expect("a request");
    assert!(head.starts_with("POST http://nowhere.example/x HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("proxy-authorization: Basic YWRhOnA=\r\n"), "{head}");
    for (url, what) in [
        ("ftp://127.0.0.1/", "only https:// is spoken"),
        ("https://ada:hunter2@127.0.0.1/", "the address has a user in it"),
    ] {
        let error = ask(plain.clone(), url).expect_err("no address");
        assert_eq!(error.cause().to_string(), what);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn a_server_that_stalls_or_trickles_is_left() {
    let certificates = Certificates::new();
    let fault = |reply| {
        let server = Server::start(certificates.server("good"), reply);
        timeout(ask(options(&certificates), &server.url("/")))
    };
    assert_eq!(fault(Reply::Nothing), "no answer within 2s");
    assert_eq!(fault(Reply::HeadAlone), "the answer did not go on within 900ms");
    assert_eq!(fault(Reply::Trickle), "the answer was not complete within 2s");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = silent.local_addr().expect("an address").port();
    let quick = RequestLimits { connect: Duration::from_millis(300), ..LIMITS };
    let error = ask(ClientOptions { limits: quick, ..options(&certificates) }, &format!("https://127.0.0.1:{port}/"));
    let error = error.expect_err("no TLS");
    assert_eq!((error.cause().to_string().as_str(), error.unknown()), ("no connection within 300ms", false));
}

#[test]
fn an_answer_that_is_too_large_is_broken_off_whether_it_says_so_or_not() {
    let certificates = Certificates::new();
    for reply in [Reply::Declared(100_001), Reply::Endless] {
        let server = Server::start(certificates.server("good"), reply);
        let error = ask(options(&certificates), &server.url("/")).expect_err("too much");
        assert_eq!(error.cause().to_string(), "the answer has more than 100000 bytes");
    }
}

#[test]
fn a_redirect_is_an_answer_and_nobody_goes_there() {
    let certificates = Certificates::new();
    let other = Server::start(None, Reply::Echo);
    let server = Server::start(certificates.server("good"), Reply::Redirect(other.url("/elsewhere")));
    let answer = ask(ClientOptions { plain: true, ..options(&certificates) }, &server.url("/")).expect("an answer");
    assert_eq!(answer.status.as_u16(), 301);
    assert_eq!(answer.headers.get("location").and_then(|to| to.to_str().ok()), Some(other.url("/elsewhere").as_str()));
    assert_eq!(other.heads(), Vec::<String>::new());
}

#[test]
fn what_breaks_off_is_reported_and_may_have_happened() {
    let certificates = Certificates::new();
    for reply in [Reply::Close, Reply::Declared(10)] {
        let server = Server::start(certificates.server("good"), reply);
        let error = ask(options(&certificates), &server.url("/")).expect_err("no whole answer");
        assert!(
            matches!(error.cause(), HttpErrorCause::Broken(_)) && error.unknown() && error.retryable(),
            "{error:?}"
        );
    }
    let gone = stand::free_port();
    let error = ask(options(&certificates), &format!("https://127.0.0.1:{gone}/")).expect_err("nobody is there");
    assert!(matches!(error.cause(), HttpErrorCause::Connect(_)) && !error.unknown(), "{error:?}");
    let error = ask(options(&certificates), "https://nowhere.invalid/").expect_err("no name");
    assert!(matches!(error.cause(), HttpErrorCause::Dns { host, .. } if host == "nowhere.invalid"), "{error:?}");
}
