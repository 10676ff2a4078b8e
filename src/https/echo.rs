//! Asks a server which address it sees a connection come from. Plain HTTP: what is compared is an address, not what a server may say of
//! itself, and the connection goes to an address that was looked up elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::Request;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// As much of an answer is read: an address and some words.
const LONGEST: usize = 16 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// No connection, or it broke.
    #[error("connect: {0}")]
    Connect(#[from] std::io::Error),
    /// What came is no HTTP.
    #[error("ask: {0}")]
    Http(#[from] hyper::Error),
    /// The path or the name cannot be asked for.
    #[error("ask: {0}")]
    Request(#[from] http::Error),
    /// The answer is too long, or broke off.
    #[error("read the answer: {0}")]
    Body(String),
    /// Nothing came in time.
    #[error("nothing came within {} ms", .0.as_millis())]
    Late(Duration),
    /// It names no address.
    #[error("the answer names no address: {0:?}")]
    NoAddress(String),
}

impl EchoError {
    /// Whether something came back from the server: packets arrive, whatever is wrong with the answer.
    pub fn reached(&self) -> bool {
        match self {
            Self::Connect(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
            Self::Http(_) | Self::Body(_) | Self::NoAddress(_) => true,
            Self::Request(_) | Self::Late(_) => false,
        }
    }
}

/// Connects to `to` and asks for `path` of `host`; returns the first address in the answer, whatever its status.
pub async fn seen_by(to: SocketAddr, (host, path): (&str, &str), patience: Duration) -> Result<IpAddr, EchoError> {
    tokio::time::timeout(patience, ask(to, (host, path))).await.unwrap_or(Err(EchoError::Late(patience)))
}

async fn ask(to: SocketAddr, (host, path): (&str, &str)) -> Result<IpAddr, EchoError> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("egret/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| EchoError::Body(error.to_string()))
    };
    tokio::pin!(exchange);
    let body = tokio::select! {
        body = &mut exchange => body?,
        // It drives the exchange, and may end just before that has been looked at.
        ended = connection => match ended {
            Ok(()) => exchange.await?,
            Err(error) => return Err(error.into()),
        },
    };
    let text = String::from_utf8_lossy(&body);
    address_in(&text).ok_or_else(|| EchoError::NoAddress(text.chars().take(60).collect()))
}

/// The first address in a text: alone, in a sentence, or in JSON.
fn address_in(text: &str) -> Option<IpAddr> {
    let mut words = text.split(|letter: char| !(letter.is_ascii_hexdigit() || matches!(letter, '.' | ':')));
    words.find_map(|word| word.trim_matches(['.', ':']).parse().ok().or_else(|| word.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_whatever_echoes_say() {
        let v4: IpAddr = "10.0.3.42".parse().unwrap();
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        for (text, address) in [
            ("10.0.3.42\n", Some(v4)),
            ("granted 10.0.3.42", Some(v4)),
            ("{\"ip\":\"10.0.3.42\",\"port\":4}", Some(v4)),
            ("Your address is 10.0.3.42.", Some(v4)),
            ("{\"ip\":\"2001:db8::7\"}", Some(v6)),
            ("::1", Some("::1".parse().unwrap())),
            ("<html>no such page</html>", None),
            ("", None),
        ] {
            assert_eq!(address_in(text), address, "{text}");
        }
    }
}
