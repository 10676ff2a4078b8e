//! `pods/NAME:PORT/proxy/…`: a request is led on to the pod's address, with all of its headers but `Authorization`, as
//! `UpgradeAwareHandler` and `httputil.ReverseProxy` do (apimachinery, pkg/util/proxy; pkg/registry/core/pod, `ResourceLocation`).
//!
//! Deliberately absent: upgrades, TLS to pods, services and nodes, bodies of requests, and links in HTML that would be rewritten.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::resource::{Target, behind_proxy};
use super::status::{self, Outcome};
use super::store::Key;
use super::world::World;

/// How long a pod may take to take a connection: the real server waits for half a minute.
const CONNECT: Duration = Duration::from_secs(10);

/// Headers that belong to one connection (httputil, `hopHeaders`), and the one that the server's authentication takes away.
const NOT_HANDED_ON: [header::HeaderName; 6] =
    [header::AUTHORIZATION, header::CONNECTION, header::HOST, header::TE, header::TRANSFER_ENCODING, header::UPGRADE];

/// Where a request goes, and what is sent.
pub(crate) struct Way {
    to: SocketAddr,
    request: String,
}

impl Way {
    pub(crate) fn find(
        world: &World,
        target: &Target,
        method: &str,
        path: &str,
        query: &str,
        headers: &HeaderMap,
    ) -> Outcome<Self> {
        let (name, port) = target.name.split_once(':').unwrap_or((&target.name, ""));
        let pod = world.store.get(&Key::new("pods", &target.namespace, name));
        let pod = pod.ok_or_else(|| status::not_found(target.resource.named(name)))?;
        let port = match port {
            "" => {
                let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
                let mut ports = containers.filter_map(|container| container["ports"][0]["containerPort"].as_u64());
                ports.next().unwrap_or(80).to_string()
            }
            port => port.to_owned(),
        };
        let port: u16 =
            port.parse().map_err(|_| status::bad_request(format!("invalid pod request {:?}", target.name)))?;
        let address: IpAddr = pod["status"]["podIP"]
            .as_str()
            .unwrap_or_default()
            .parse()
            .map_err(|_| status::bad_request("address not allowed"))?;
        if address.is_loopback() {
            return Err(status::bad_request("address not allowed"));
        }
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        let mut request = format!("{method} {}{query} HTTP/1.1\r\nhost: {address}:{port}\r\n", behind_proxy(path));
        for (name, value) in headers.iter().filter(|(name, _)| !NOT_HANDED_ON.contains(name)) {
            // Writing to a string cannot fail.
            let _ = write!(request, "{name}: {}\r\n", value.to_str().unwrap_or_default());
        }
        request.push_str("connection: close\r\n\r\n");
        Ok(Self { to: SocketAddr::new(address, port), request })
    }

    /// Asks, and hands on the answer as it is.
    pub(crate) async fn go(self) -> Response {
        match self.ask().await {
            Ok(response) => response,
            Err(error) => {
                let refusal = status::service_unavailable(&format!(
                    "error trying to reach service: dial tcp {}: {error}",
                    self.to
                ));
                let response =
                    Response::builder().status(refusal.code).header(header::CONTENT_TYPE, "application/json");
                response.body(Body::from(refusal.body.to_string())).unwrap_or_default()
            }
        }
    }

    async fn ask(&self) -> std::io::Result<Response> {
        let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(self.to));
        let mut stream = connecting.await.map_err(|_| std::io::Error::other("i/o timeout"))??;
        stream.write_all(self.request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) if head.len() < 64 << 10 => head.push(byte),
                _ => return Err(std::io::Error::other("malformed HTTP response")),
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let status: u16 = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(502);
        let mut response = Response::builder().status(status);
        for line in text.lines().skip(1) {
            if let Some((name, value)) = line.split_once(": ")
                && ["content-type", "cache-control"].contains(&name.to_ascii_lowercase().as_str())
            {
                response = response.header(name, value);
            }
        }
        // As it comes: an answer may have no end.
        let body = futures::stream::unfold(stream, |mut stream| async move {
            let mut part = vec![0; 16 << 10];
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => None,
                Ok(length) => {
                    part.truncate(length);
                    Some((Ok::<_, std::convert::Infallible>(axum::body::Bytes::from(part)), stream))
                }
            }
        });
        Ok(response.body(Body::from_stream(body)).unwrap_or_default())
    }
}
