//! A client that says nothing once its connection is open, and hears the server speak: a download, or events.
//!
//! Deliberately absent: any judgement.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::client::PATIENCE;
use super::error::LabError;
use super::namespace::Namespace;
use super::outpost::TICKS;

/// What a listener heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The server speaks.
    Tick,
    /// Nothing.
    Silence,
    /// The connection has ended so.
    Ended(ErrorKind),
}

/// A silent client.
pub(crate) enum Listener {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over UDP.
    Udp(UdpSocket),
}

impl Listener {
    /// Opens a TCP connection from a pod to the ticking server.
    pub(crate) fn tcp(pod: &Namespace, address: IpAddr) -> Result<Self, LabError> {
        let open = || TcpStream::connect_timeout(&SocketAddr::new(address, TICKS), PATIENCE);
        pod.enter(open)?.map(Self::Tcp).map_err(LabError::doing(format!("listen to {address} from {}", pod.name())))
    }

    /// The same over UDP: one datagram is all that it ever says.
    pub(crate) fn udp(pod: &Namespace, address: IpAddr) -> Result<Self, LabError> {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let open = || {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect((address, TICKS))?;
            socket.send(b"go on")?;
            Ok(socket)
        };
        pod.enter(open)?.map(Self::Udp).map_err(LabError::doing(format!("listen to {address} from {}", pod.name())))
    }

    /// What is heard from now on, within a time. What has come before is passed over.
    pub(crate) fn hears(&mut self, within: Duration) -> Heard {
        if let Some(ended) = self.drain() {
            return ended;
        }
        let until = Instant::now() + within;
        loop {
            match self.read(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))) {
                Ok(0) => return Heard::Ended(ErrorKind::UnexpectedEof),
                Ok(_) => return Heard::Tick,
                Err(ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                    if Instant::now() >= until {
                        return Heard::Silence;
                    }
                }
                Err(kind) => return Heard::Ended(kind),
            }
        }
    }

    /// Reads what has come; how the connection ended, if it did.
    fn drain(&mut self) -> Option<Heard> {
        loop {
            match self.read(Duration::ZERO) {
                Ok(0) => return Some(Heard::Ended(ErrorKind::UnexpectedEof)),
                Ok(_) | Err(ErrorKind::Interrupted) => {}
                Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
                Err(kind) => return Some(Heard::Ended(kind)),
            }
        }
    }

    /// Waits for at most this long; not at all for zero.
    fn read(&mut self, wait: Duration) -> Result<usize, ErrorKind> {
        let (now, wait) = (wait.is_zero(), Some(wait).filter(|wait| !wait.is_zero()));
        let mut buffer = [0; 4096];
        let read = match self {
            Self::Tcp(stream) => stream
                .set_nonblocking(now)
                .and_then(|()| stream.set_read_timeout(wait))
                .and_then(|()| stream.read(&mut buffer)),
            Self::Udp(socket) => socket
                .set_nonblocking(now)
                .and_then(|()| socket.set_read_timeout(wait))
                .and_then(|()| socket.recv(&mut buffer)),
        };
        read.map_err(|error| error.kind())
    }
}
