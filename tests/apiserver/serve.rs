//! Sockets: a listener that can be away, and connections that can be dropped at any moment.
//!
//! Deliberately absent: what is said on them (`http`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::signal::{Changes, Signal};
use super::world::{Simulated, World};

/// What all tasks of a server and the test share.
pub(crate) struct Shared {
    world: Mutex<World>,
    /// Counts everything that somebody may wait for but writes.
    pub(crate) changed: Signal,
    /// Counts the writes to each resource that is watched.
    written: Mutex<BTreeMap<String, Signal>>,
    lines: Mutex<Vec<Weak<Line>>>,
    /// Whether connections are to be refused.
    pub(crate) away: AtomicBool,
    /// Whether there is a listening socket.
    pub(crate) listening: AtomicBool,
}

impl Shared {
    /// One that listens.
    pub(crate) fn new(simulated: Option<Simulated>) -> Self {
        Self {
            world: Mutex::new(World::new(simulated)),
            changed: Signal::default(),
            written: Mutex::default(),
            lines: Mutex::default(),
            away: AtomicBool::new(false),
            listening: AtomicBool::new(true),
        }
    }

    /// Everything, for as long as the guard lives. A test that panicked with it leaves it usable.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everybody who waits.
    pub(crate) fn notify(&self) {
        self.changed.send();
        lock(&self.written).values().for_each(Signal::send);
    }

    /// Wakes those who watch these resources.
    pub(crate) fn notify_written(&self, resources: &BTreeSet<String>) {
        let written = lock(&self.written);
        resources.iter().filter_map(|resource| written.get(resource)).for_each(Signal::send);
    }

    /// What concerns the watches of a resource.
    pub(crate) fn of_resource(&self, resource: &str) -> Changes {
        lock(&self.written).entry(resource.to_owned()).or_default().subscribe()
    }

    /// Drops every connection.
    pub(crate) fn cut_lines(&self) {
        let lines = std::mem::take(&mut *lock(&self.lines));
        lines.iter().filter_map(Weak::upgrade).for_each(|line| line.cut());
    }

    fn add_line(&self, line: &Arc<Line>) {
        let mut lines = lock(&self.lines);
        lines.retain(|line| line.strong_count() > 0);
        lines.push(Arc::downgrade(line));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection, as those see it who may cut it.
#[derive(Default)]
pub(crate) struct Line {
    cut: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Line {
    /// Ends the connection: nothing more is read or written.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        lock(&self.waiting).drain(..).for_each(Waker::wake);
    }

    /// An error once it is cut; until then the task is woken when that happens.
    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        let mut waiting = lock(&self.waiting);
        if self.cut.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        Ok(())
    }
}

/// A connection that can be cut.
pub(crate) struct Cuttable {
    stream: TcpStream,
    line: Arc<Line>,
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.line.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.line.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The listening socket. While the server is away there is none, so that the kernel refuses; it comes back at the same address.
pub(crate) struct Gate {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Option<TcpListener>,
    changed: Changes,
}

impl Gate {
    /// Takes a socket that was bound already.
    pub(crate) fn new(shared: Arc<Shared>, listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let (address, changed) = (listener.local_addr()?, shared.changed.subscribe());
        Ok(Self { shared, address, listener: Some(TcpListener::from_std(listener)?), changed })
    }

    /// Opens or closes the socket as the test wants it.
    async fn obey(&mut self) {
        let away = self.shared.away.load(Ordering::SeqCst);
        if away && self.listener.take().is_some() {
            self.shared.cut_lines();
        }
        if !away && self.listener.is_none() {
            self.listener = TcpListener::bind(self.address).await.ok();
        }
        self.shared.listening.store(self.listener.is_some(), Ordering::SeqCst);
    }
}

impl Listener for Gate {
    type Io = Cuttable;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            self.changed.mark_seen();
            self.obey().await;
            let accepted = if let Some(listener) = &self.listener {
                tokio::select! {
                    accepted = listener.accept() => accepted.ok(),
                    () = self.changed.changed() => None,
                }
            } else {
                // An address that is still in use is tried again soon.
                let soon = std::time::Duration::from_millis(10);
                drop(tokio::time::timeout(soon, self.changed.changed()).await);
                None
            };
            if let Some((stream, address)) = accepted {
                drop(stream.set_nodelay(true));
                let line = Arc::default();
                self.shared.add_line(&line);
                return (Cuttable { stream, line }, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// The connection that a request came on.
#[derive(Clone)]
pub(crate) struct Peer(pub(crate) Arc<Line>);

impl Connected<IncomingStream<'_, Gate>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        Self(Arc::clone(&stream.io().line))
    }
}
