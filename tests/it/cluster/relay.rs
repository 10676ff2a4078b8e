//! A way from the lab to the API server: connections that come to the lab's router are carried on from this process's own namespace.
//!
//! Bytes alone pass: TLS is spoken from end to end. Deliberately absent: any other destination than the one API server.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::shutdown;

use crate::lab::Lab;

use super::api::{Outcome, fault};

/// Where it listens, on the router's address that all nodes reach.
pub(super) const AT: (&str, u16) = ("172.18.0.1", 6443);

const CONNECT: Duration = Duration::from_secs(5);

/// The connections there are, to be cut when it ends.
type Lines = Arc<Mutex<Vec<TcpStream>>>;

/// A running relay. Dropping it cuts what goes over it.
pub(super) struct Relay {
    stop: TcpListener,
    lines: Lines,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts it. A socket belongs to the namespace that it was made in, whichever thread uses it: the listener is made at the router,
    /// and connections to the API server are made by threads that never left this process's own namespace.
    pub(super) fn start(lab: &Lab, host: String, port: u16) -> Outcome<Self> {
        let listener = lab.router().enter(|| TcpListener::bind(AT))?.map_err(fault)?;
        let (stop, lines) = (listener.try_clone().map_err(fault)?, Lines::default());
        let known = Arc::clone(&lines);
        let thread = std::thread::spawn(move || {
            for inside in listener.incoming().map_while(Result::ok) {
                let (host, known) = (host.clone(), Arc::clone(&known));
                std::thread::spawn(move || carry(inside, &host, port, &known));
            }
        });
        Ok(Self { stop, lines, thread: Some(thread) })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Whoever waits for a connection on a socket that is shut down is refused (EINVAL; inet_csk_accept of net/ipv4).
        let _ = shutdown(self.stop.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; if it did, nobody connects any more.
            drop(thread.join());
        }
        for line in self.lines.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            drop(line.shutdown(Shutdown::Both));
        }
    }
}

/// Whoever cannot be carried on sees a connection that ends, and tries again.
fn carry(inside: TcpStream, host: &str, port: u16, lines: &Lines) {
    let Ok(outside) = connect(host, port) else { return };
    let set_up = inside.set_nonblocking(false).and_then(|()| inside.set_nodelay(true));
    let copies = (inside.try_clone(), outside.try_clone(), inside.try_clone(), outside.try_clone());
    let (Ok(()), (Ok(mut from_inside), Ok(mut to_outside), Ok(known), Ok(known_too))) = (set_up, copies) else {
        return;
    };
    lines.lock().unwrap_or_else(PoisonError::into_inner).extend([known, known_too]);
    let there = std::thread::spawn(move || {
        drop(io::copy(&mut from_inside, &mut to_outside));
        drop(to_outside.shutdown(Shutdown::Write));
    });
    let (mut from_outside, mut to_inside) = (outside, inside);
    drop(io::copy(&mut from_outside, &mut to_inside));
    drop(to_inside.shutdown(Shutdown::Write));
    drop(there.join());
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
