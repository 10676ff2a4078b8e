//! Opens one connection: name resolution, the proxy's tunnel, TLS.
//!
//! Proxies over TLS, and the environment's `https_proxy`, are not supported: a proxy is configured, or there is none.
//! Not here: requests over the connection (see `https`).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;
use tower::{Service, service_fn};

use super::USER_AGENT;
use super::error::{HttpErrorCause, NO_CONNECTION, Shared};
use super::trust::TrustAnchors;
use crate::secret::Secret;

/// The most bytes of a proxy's answer to CONNECT.
const LONGEST_GREETING: usize = 16 << 10;

/// A proxy's address and our credentials for it.
#[derive(Debug, Clone)]
pub(super) struct Proxy {
    uri: Uri,
    /// `Basic …`
    pub(super) authorization: Option<Secret>,
}

impl Proxy {
    /// Parses `http://[user:password@]host:port`. The error contains no part of it: it may hold a password.
    pub(super) fn parse(text: &Secret) -> Result<Self, HttpErrorCause> {
        let wrong = || HttpErrorCause::Proxy("is not of the form http://[user:password@]host:port".to_owned());
        let rest = text.reveal().trim_end_matches('/').strip_prefix("http://").ok_or_else(wrong)?;
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let uri: Uri = format!("http://{place}/").parse().map_err(|_| wrong())?;
        if uri.host().is_none_or(str::is_empty) || uri.path() != "/" {
            return Err(wrong());
        }
        let authorization = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            // `%40` is `@`: characters with a meaning in an address are percent-encoded.
            let plain: Vec<u8> = percent_decode_str(name).chain(*b":").chain(percent_decode_str(password)).collect();
            Secret::new(format!("Basic {}", STANDARD.encode(plain)))
        });
        Ok(Self { uri, authorization })
    }
}

/// Opens connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) trust: Arc<TrustAnchors>,
    pub(super) proxy: Option<Arc<Proxy>>,
    pub(super) limit: Duration,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<Wire, HttpErrorCause> {
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let first = self.proxy.as_ref().map_or(&uri, |proxy| &proxy.uri);
        let mut tcp = tcp(first.clone(), self.limit).await.map_err(|cause| match (&self.proxy, cause) {
            (Some(_), HttpErrorCause::Connect(why)) => HttpErrorCause::Proxy(format!("takes no connection: {why}")),
            (Some(_), HttpErrorCause::Dns { host, .. }) => {
                HttpErrorCause::Proxy(format!("is not found: the name {host} leads nowhere"))
            }
            (_, cause) => cause,
        })?;
        if !secure {
            return Ok(Wire::Plain { io: TokioIo::new(tcp), proxy: self.proxy.is_some() });
        }
        let host = uri.host().unwrap_or_default();
        if let Some(proxy) = &self.proxy {
            let port = uri.port_u16().unwrap_or(443);
            tunnel(&mut tcp, &format!("{host}:{port}"), proxy.authorization.as_ref()).await?;
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare)
            .map_err(|_| HttpErrorCause::Address(format!("`{host}` is no name of a server")))?;
        let tls = TlsConnector::from(self.trust.config()?).connect(name, tcp).await.map_err(|error| tls(&error))?;
        Ok(Wire::Tls(Box::new(TokioIo::new(tls))))
    }
}

fn tls(error: &io::Error) -> HttpErrorCause {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => HttpErrorCause::Tls(tls.into()),
        None => HttpErrorCause::Connect(format!("the server breaks off when TLS begins: {error}")),
    }
}

/// Resolves the name and tries its addresses, of both families side by side (RFC 8305).
async fn tcp(uri: Uri, limit: Duration) -> Result<TcpStream, HttpErrorCause> {
    let host = uri.host().unwrap_or_default().to_owned();
    let resolver = service_fn(|name: Name| async move {
        let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(NotFound)?;
        Ok::<std::vec::IntoIter<SocketAddr>, NotFound>(found.collect::<Vec<_>>().into_iter())
    });
    let mut connector = HttpConnector::new_with_resolver(resolver);
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(limit));
    connector.set_keepalive(Some(Duration::from_secs(15)));
    connector.call(uri).await.map(TokioIo::into_inner).map_err(|error| {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        let mut last = String::new();
        while let Some(one) = next {
            if let Some(NotFound(why)) = one.downcast_ref::<NotFound>() {
                return HttpErrorCause::Dns { host: host.clone(), source: io::Error::new(why.kind(), why.to_string()) };
            }
            last = one.to_string();
            next = one.source();
        }
        HttpErrorCause::Connect(last)
    })
}

/// A name that does not resolve, as distinct from an address that does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the name is not found")]
struct NotFound(#[source] io::Error);

/// Requests a tunnel from the proxy (CONNECT, RFC 9110, 9.3.6).
async fn tunnel(tcp: &mut TcpStream, authority: &str, authorization: Option<&Secret>) -> Result<(), HttpErrorCause> {
    let broken = |error: io::Error| HttpErrorCause::Proxy(format!("breaks off: {error}"));
    let proof = authorization.map(|text| format!("Proxy-Authorization: {}\r\n", text.reveal())).unwrap_or_default();
    let question =
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {USER_AGENT}\r\n{proof}\r\n");
    tcp.write_all(question.as_bytes()).await.map_err(broken)?;
    let mut head = Vec::new();
    // One byte at a time: what comes after the empty line is the server's.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_GREETING {
            return Err(HttpErrorCause::Proxy("says too much".to_owned()));
        }
        head.push(tcp.read_u8().await.map_err(broken)?);
    }
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
    match code {
        "200" => Ok(()),
        "407" if authorization.is_some() => {
            Err(HttpErrorCause::Proxy("does not take the user and the password".to_owned()))
        }
        "407" => Err(HttpErrorCause::Proxy("asks for a user and a password".to_owned())),
        "" => Err(HttpErrorCause::Proxy("does not speak HTTP".to_owned())),
        code => Err(HttpErrorCause::Proxy(format!("does not lead to {authority}: it says {code}"))),
    }
}

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = Shared;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, Shared>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (this, limit) = (self.clone(), self.limit);
        Box::pin(async move {
            let made = tokio::time::timeout(limit, this.connect(uri)).await;
            made.unwrap_or(Err(HttpErrorCause::Timeout { what: NO_CONNECTION, after: limit })).map_err(Shared::from)
        })
    }
}

/// A connection, with TLS or without.
pub(super) enum Wire {
    Plain { io: TokioIo<TcpStream>, proxy: bool },
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        // With this, hyper writes the absolute address into the request, as a proxy needs it.
        Connected::new().proxy(matches!(self, Self::Plain { proxy: true, .. }))
    }
}

impl Read for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { io, .. } => Pin::new(io).poll_read(context, buffer),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_read(context, buffer),
        }
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain { io, .. } => Pin::new(io).poll_write(context, bytes),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { io, .. } => Pin::new(io).poll_flush(context),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain { io, .. } => Pin::new(io).poll_shutdown(context),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(context),
        }
    }
}
