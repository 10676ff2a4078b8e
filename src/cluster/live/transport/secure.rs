//! A test server with TLS that speaks the versions of HTTP that a test wants, counts its connections, and hands each
//! request to the test as `fake` does.

use std::convert::Infallible;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Config;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tower::ServiceExt as _;

use super::super::fake::{FakeRequest, PATIENCE, router};
use super::super::{ApiClient, Encoding};

/// What the connections are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Serve,
    /// Take no new requests on the connections there are (GOAWAY).
    GoAway,
    /// Neither read nor write any more.
    Freeze,
}

/// The server. Dropping it closes all of its connections.
pub(super) struct SecureFake {
    address: String,
    certificate: CertificateDer<'static>,
    connections: Arc<AtomicUsize>,
    asked: mpsc::UnboundedReceiver<FakeRequest>,
    orders: watch::Sender<Order>,
    thread: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl SecureFake {
    /// `h2`, `http/1.1`, as ALPN names them.
    pub(super) fn start(versions: &[&str]) -> Self {
        let (certificate, key) = identity();
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let mut config = builder.with_single_cert(vec![certificate.clone()], key).expect("a configuration");
        config.alpn_protocols = versions.iter().map(|version| version.as_bytes().to_vec()).collect();

        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = format!("https://{}", listener.local_addr().expect("an address"));
        let (tell, asked) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let (orders, obey) = watch::channel(Order::Serve);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let (router, acceptor) = (router(tell), TlsAcceptor::from(Arc::new(config)));
                let serving = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        count.fetch_add(1, Ordering::SeqCst);
                        tokio::spawn(serve(stream, acceptor.clone(), router.clone(), obey.clone()));
                    }
                };
                tokio::select! {
                    biased;
                    () = serving => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, certificate, connections, asked, orders, thread: Some((stop, thread)) }
    }

    pub(super) fn client(&self) -> ApiClient {
        let mut config = Config::new(self.address.parse().expect("an address"));
        config.root_cert = Some(vec![self.certificate.to_vec()]);
        ApiClient::open(config, Encoding::Plain).expect("a client")
    }

    /// How many connections were opened.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn order(&self, order: Order) {
        self.orders.send_replace(order);
    }

    /// The next request.
    pub(super) async fn asked(&mut self) -> FakeRequest {
        tokio::time::timeout(PATIENCE, self.asked.recv()).await.expect("a request in time").expect("a server")
    }
}

impl Drop for SecureFake {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // The panic message was printed already.
            let _ = thread.join();
        }
    }
}

/// A certificate for 127.0.0.1 that is its own authority.
fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=server -keyout key \
                     -out certificate -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder.path()).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = |name: &str| Path::new(folder.path()).join(name);
    let certificate = CertificateDer::from_pem_file(path("certificate")).expect("a certificate");
    (certificate, PrivateKeyDer::from_pem_file(path("key")).expect("a key"))
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, router: Router, mut orders: watch::Receiver<Order>) {
    // A client that does not trust the certificate is not served.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    orders.mark_unchanged();
    if !http2 {
        // It ends with its client.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        return;
    }
    let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            changed = orders.changed() => {
                let order = *orders.borrow_and_update();
                match order {
                    _ if changed.is_err() => return,
                    Order::Serve => {}
                    Order::GoAway => connection.as_mut().graceful_shutdown(),
                    Order::Freeze => std::future::pending().await,
                }
            }
        }
    }
}
