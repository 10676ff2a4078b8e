//! Certificates by openssl, a server that answers as it is told, with TLS or without, and a proxy for CONNECT.
//!
//! Deliberately absent: everything of HTTP that the client under test does not need, written without the libraries it uses.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// An authority, another one, one of the first's name, and certificates of the first: `good` for 127.0.0.1, `other-name`, `expired`.
pub(super) struct Certificates(tempfile::TempDir);

/// What `openssl ca` wants to be told.
const AUTHORITY: &str = "[ca]\ndefault_ca = own\n[own]\nnew_certs_dir = .\ndatabase = index\nserial = serial\n\
    certificate = ca.pem\nprivate_key = ca.key\ndefault_md = sha256\npolicy = any\nx509_extensions = names\nunique_subject = no\n\
    [any]\ncommonName = supplied\n[names]\n";

impl Certificates {
    pub(super) fn new() -> Self {
        let this = Self(tempfile::tempdir().expect("a folder"));
        for (authority, name) in [("ca", "ca"), ("other-ca", "other"), ("namesake", "ca")] {
            this.openssl(&format!(
                "req -x509 {KEY} -days 2 -keyout {authority}.key -out {authority}.pem -subj /CN={name}"
            ));
        }
        for (name, alternative, from, until) in [
            ("good", "IP:127.0.0.1", "20200101000000Z", "20450101000000Z"),
            ("other-name", "DNS:git.example", "20200101000000Z", "20450101000000Z"),
            ("expired", "IP:127.0.0.1", "20200101000000Z", "20200102000000Z"),
        ] {
            fs::write(this.path("config"), format!("{AUTHORITY}subjectAltName = {alternative}\n")).expect("a file");
            fs::write(this.path("index"), "").expect("a file");
            fs::write(this.path("serial"), "01\n").expect("a file");
            this.openssl(&format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN=server"));
            this.openssl(&format!(
                "ca -batch -notext -config config -in {name}.csr -out {name}.crt -startdate {from} -enddate {until}"
            ));
        }
        this
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn chain(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let certificate = CertificateDer::from_pem_file(self.path(&format!("{name}.crt"))).expect("a certificate");
        (vec![certificate], PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key"))
    }

    #[expect(clippy::unnecessary_wraps, reason = "a server without TLS is given none")]
    pub(super) fn server(&self, name: &str) -> Option<Arc<ServerConfig>> {
        let (chain, key) = self.chain(name);
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        Some(Arc::new(builder.with_single_cert(chain, key).expect("a configuration")))
    }

    #[expect(clippy::unnecessary_wraps, reason = "a server without TLS is given none")]
    pub(super) fn server_for_clients(&self, name: &str) -> Option<Arc<ServerConfig>> {
        let (chain, key) = self.chain(name);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).expect("a certificate")).expect("an authority");
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_client_cert_verifier(verifier.expect("a verifier"));
        Some(Arc::new(builder.with_single_cert(chain, key).expect("a configuration")))
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// What is answered.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// What was asked.
    Echo,
    /// Nothing, and the connection stays.
    Nothing,
    /// A head that announces more.
    HeadAlone,
    /// A byte now and then.
    Trickle,
    /// A length, and the end before it is reached.
    Declared(u64),
    /// Pieces without end.
    Endless,
    /// Another place.
    Redirect(String),
    /// The end.
    Close,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A server for as long as the test runs.
pub(super) struct Server {
    pub(super) port: u16,
    secure: bool,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn start(tls: Option<Arc<ServerConfig>>, reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let this = Self {
            port: listener.local_addr().expect("an address").port(),
            secure: tls.is_some(),
            heads: Arc::default(),
        };
        let heads = this.heads.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (tls, reply, heads) = (tls.clone(), reply.clone(), heads.clone());
                // A client that goes away, or does not believe us, is what is tried here.
                thread::spawn(move || match tls {
                    None => serve(Box::new(socket), &reply, &heads),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
                        serve(Box::new(StreamOwned::new(connection, socket)), &reply, &heads)
                    }
                });
            }
        });
        this
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http{}://127.0.0.1:{}{path}", if self.secure { "s" } else { "" }, self.port)
    }

    /// The requests' heads until now.
    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }
}

fn head(stream: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// Reads on until the client goes away.
fn until_hung_up(stream: &mut impl Read) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(|_| ())
}

fn serve(stream: Box<dyn Stream>, reply: &Reply, heads: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let head = head(&mut stream)?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    heads.lock().expect("no panic").push(head);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let out = stream.get_mut();
    match reply {
        Reply::Echo => {
            write!(out, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")?;
            out.write_all(&body)?;
        }
        Reply::Nothing => return until_hung_up(&mut stream),
        Reply::HeadAlone => {
            write!(out, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")?;
            out.flush()?;
            return until_hung_up(&mut stream);
        }
        Reply::Trickle => {
            write!(out, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")?;
            for _ in 0..1000 {
                write!(out, "x")?;
                out.flush()?;
                // The pace is what is tried.
                thread::sleep(Duration::from_millis(100));
            }
        }
        Reply::Declared(length) => {
            write!(out, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\nxxx")?;
        }
        Reply::Endless => {
            write!(out, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            loop {
                write!(out, "3e8\r\n{}\r\n", "x".repeat(1000))?;
            }
        }
        Reply::Redirect(to) => {
            write!(out, "HTTP/1.1 301 Moved Permanently\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")?;
        }
        Reply::Close => {}
    }
    out.flush()
}

/// A proxy that leads wherever it is asked to, whoever asks in the right way.
pub(super) struct Proxy {
    pub(super) port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(super) fn start(authorization: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let this = Self { port: listener.local_addr().expect("an address").port(), asked: Arc::default() };
        let asked = this.asked.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let asked = asked.clone();
                thread::spawn(move || lead(socket, authorization, &asked));
            }
        });
        this
    }

    /// The first lines of what it was asked.
    pub(super) fn requests(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn lead(socket: TcpStream, authorization: Option<&str>, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let (mut socket, head) = (socket, head(&mut reader)?);
    asked.lock().expect("no panic").extend(head.lines().next().map(str::to_owned));
    let proven = authorization.is_none_or(|wanted| head.contains(&format!("Proxy-Authorization: {wanted}\r\n")));
    if !proven {
        let answer =
            "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n";
        return socket.write_all(answer.as_bytes());
    }
    let place = head.split(' ').nth(1).unwrap_or_default();
    let mut there = TcpStream::connect(place)?;
    socket.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut back, mut here) = (there.try_clone()?, socket.try_clone()?);
    thread::spawn(move || io::copy(&mut back, &mut here));
    io::copy(&mut reader, &mut there).map(|_| ())
}
