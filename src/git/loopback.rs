//! A port on loopback for libgit2, and the secret that protects it: other processes of the host's network can reach the port, but not guess
//! the path (decision 0014).

use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// How long a client may take to send the head of its request. libgit2 needs a millisecond.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(10);
/// The most connections at a time. libgit2 has one.
const CONNECTIONS: usize = 8;
/// The wait after a failed `accept`.
const ACCEPT_RETRY: Duration = Duration::from_millis(20);

/// A secret path, valid while the process lives.
#[derive(Clone)]
pub(super) struct SecretPath(String);

impl SecretPath {
    /// 32 random bytes in base64.
    pub(super) fn new() -> io::Result<Self> {
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The address of a port with this path.
    pub(super) fn url(&self, scheme: &str, port: u16) -> String {
        format!("{scheme}://127.0.0.1:{port}/{}", self.0)
    }

    /// What follows the secret in a path, if the path begins with it. Compared in constant time.
    pub(super) fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        let (secret, rest) = path.strip_prefix('/')?.split_at_checked(self.0.len())?;
        bool::from(secret.as_bytes().ct_eq(self.0.as_bytes())).then_some(rest)
    }
}

/// Opens a port on loopback.
pub(super) fn listen() -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Accepts connections for as long as the process lives, and spawns `serve` for each.
pub(super) async fn accept<Serve, Served>(listener: TcpListener, serve: Serve)
where
    Serve: Fn(TcpStream) -> Served,
    Served: Future<Output = ()> + Send + 'static,
{
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((socket, peer)) = listener.accept().await else {
            // No free file descriptors, for example.
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        if !peer.ip().is_loopback() {
            continue;
        }
        let served = serve(socket);
        tokio::spawn(async move {
            served.await;
            drop(slot);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_path_has_32_bytes_and_is_never_the_same() {
        let (one, other) = (SecretPath::new().expect("a secret"), SecretPath::new().expect("a secret"));
        assert_eq!(URL_SAFE_NO_PAD.decode(&one.0).expect("base64").len(), 32);
        assert_ne!(one.0, other.0);
        let path = format!("/{}/info/refs", one.0);
        assert_eq!(one.strip(&path), Some("/info/refs"));
        assert_eq!(other.strip(&path), None);
        assert_eq!(one.strip(&path[..20]), None);
    }
}
