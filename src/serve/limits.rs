//! A listener with limits, for a server that is reachable by any host on the network: it bounds the number of
//! connections, the number from one address, and the lifetime of each.
//!
//! No client waits to be accepted. If all places are taken, the connection that has been idle longest is closed. A
//! connection that has sent something counts as younger than one that has not, so that a client which opens
//! connections and sends nothing keeps no other client out, least of all the kubelet. Connections from the node's own
//! address, such as probes of a process in the host network, have separate places that no other host can take. Not
//! here: HTTP (the parent module). Whatever a client, fast or slow, has not sent within its connection's lifetime is
//! not read, be it header or body.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

/// The most connections from other hosts at a time. Two Prometheus servers and a kubelet need three.
const PLACES: usize = 32;

/// The most of them from one address.
const OF_ONE_ADDRESS: usize = 8;

/// The most connections from the address that they lead to, that is from this node itself.
const OF_THIS_NODE: usize = 8;

/// The lifetime of a connection, from its beginning to the last byte of its only response.
const LIFE: Duration = Duration::from_secs(5);

/// Accepts every connection, and keeps few.
pub(super) struct Limited {
    listener: TcpListener,
    places: Arc<Mutex<Places>>,
}

impl Limited {
    /// Binds within a tokio runtime.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener: TcpListener::from_std(listener)?, places: Arc::default() })
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, from) = Listener::accept(&mut self.listener).await;
        let own = stream.local_addr().is_ok_and(|to| to.ip() == from.ip());
        let place = Place::take(&self.places, if own { Guest::ThisNode } else { Guest::Stranger(from.ip()) });
        (Connection { stream, end: Box::pin(sleep(LIFE)), place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The origin of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    ThisNode,
    Stranger(IpAddr),
}

/// The places that are taken, by a number that only grows: the first is the oldest.
#[derive(Debug, Default)]
struct Places {
    taken: BTreeMap<u64, Taken>,
    next: u64,
}

#[derive(Debug)]
struct Taken {
    guest: Guest,
    /// The client has sent something.
    has_spoken: bool,
    /// Dropped to close the connection.
    _stay: oneshot::Sender<()>,
}

impl Places {
    /// Gives a place to a connection, and closes the one that has to make room for it.
    fn give(&mut self, guest: Guest) -> (u64, oneshot::Receiver<()>) {
        match guest {
            Guest::ThisNode => self.make_room(OF_THIS_NODE, |other| other == Guest::ThisNode),
            Guest::Stranger(_) => {
                self.make_room(OF_ONE_ADDRESS, |other| other == guest);
                self.make_room(PLACES, |other| other != Guest::ThisNode);
            }
        }
        let (stay, shown_out) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        self.taken.insert(number, Taken { guest, has_spoken: false, _stay: stay });
        (number, shown_out)
    }

    /// Makes room for one more connection among those selected.
    fn make_room(&mut self, places: usize, among: impl Fn(Guest) -> bool) {
        let those = || self.taken.iter().filter(|(_, taken)| among(taken.guest));
        if those().count() >= places
            && let Some((_, oldest)) = those().map(|(number, taken)| (taken.has_spoken, *number)).min()
        {
            self.taken.remove(&oldest);
        }
    }
}

/// One place, given back when it is dropped.
struct Place {
    number: u64,
    /// None once it has fired: it must not be polled again.
    shown_out: Option<oneshot::Receiver<()>>,
    places: Arc<Mutex<Places>>,
}

impl Place {
    fn take(places: &Arc<Mutex<Places>>, guest: Guest) -> Self {
        let (number, shown_out) = with(places, |places| places.give(guest));
        Self { number, shown_out: Some(shown_out), places: Arc::clone(places) }
    }

    /// Whether the connection has to close. The task is woken when it has.
    fn is_lost(&mut self, context: &mut Context<'_>) -> bool {
        if self.shown_out.as_mut().is_some_and(|out| Pin::new(out).poll(context).is_ready()) {
            self.shown_out = None;
        }
        self.shown_out.is_none()
    }

    fn has_spoken(&self) {
        with(&self.places, |places| {
            if let Some(taken) = places.taken.get_mut(&self.number) {
                taken.has_spoken = true;
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        with(&self.places, |places| places.taken.remove(&self.number));
    }
}

fn with<T>(places: &Mutex<Places>, change: impl FnOnce(&mut Places) -> T) -> T {
    change(&mut places.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A connection that ends after [`LIFE`], whichever side is to send, or when its place is given to another.
pub(super) struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    place: Place,
}

impl Connection {
    fn stream(self: Pin<&mut Self>, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        let this = self.get_mut();
        if this.place.is_lost(context) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match this.end.as_mut().poll(context) {
            Poll::Pending => Ok(Pin::new(&mut this.stream)),
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.as_mut().stream(context)?.poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.place.has_spoken();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream(context)?.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(number: u8) -> Guest {
        Guest::Stranger(IpAddr::from([10, 1, 1, number]))
    }

    /// The numbers of the places that are taken.
    fn taken(places: &Places) -> Vec<u64> {
        places.taken.keys().copied().collect()
    }

    #[test]
    fn who_comes_too_often_gives_way_to_itself_alone() {
        let mut places = Places::default();
        places.give(stranger(1));
        for _ in 0..400 {
            places.give(stranger(2));
        }
        assert_eq!(taken(&places), [0, 393, 394, 395, 396, 397, 398, 399, 400]);
    }

    #[test]
    fn with_many_strangers_the_one_that_has_been_idle_longest_goes_and_who_has_asked_stays() {
        let mut places = Places::default();
        let given: Vec<_> = (0..32).map(|number| places.give(stranger(number))).collect();
        places.taken.get_mut(&0).expect("the first").has_spoken = true;
        places.give(stranger(99));
        assert_eq!(taken(&places), [vec![0], (2..33).collect()].concat());
        let notified: Vec<u64> = given
            .into_iter()
            .filter_map(|(number, mut out)| {
                matches!(out.try_recv(), Err(oneshot::error::TryRecvError::Closed)).then_some(number)
            })
            .collect();
        assert_eq!(notified, [1], "it hears of it");
        for taken in places.taken.values_mut() {
            taken.has_spoken = true;
        }
        places.give(stranger(100));
        assert_eq!(taken(&places)[..2], [2, 3], "all have asked: the oldest goes");
    }

    #[test]
    fn no_stranger_takes_a_place_of_this_node() {
        let mut places = Places::default();
        for _ in 0..3 {
            places.give(Guest::ThisNode);
        }
        for number in 0..200 {
            places.give(stranger(number));
        }
        assert_eq!((taken(&places).len(), taken(&places)[..3].to_vec()), (PLACES + 3, vec![0, 1, 2]));
        for _ in 0..200 {
            places.give(Guest::ThisNode);
        }
        assert_eq!(taken(&places).len(), PLACES + OF_THIS_NODE);
    }
}
