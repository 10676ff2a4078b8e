//! The outpost: a real HTTP server in its own namespace that lets in only the egress addresses, tells each caller how it sees it, and
//! remembers everyone: that is how a leak is found.
//!
//! Port 8000 speaks HTTP/1.1: 200 `granted ADDRESS` or 403 `denied ADDRESS`. For connections that stay, port 9000 answers each line, and
//! port 9001 each datagram, with `ADDRESS LINE`. Port 9100 speaks without being asked: `tick` every 20 ms over TCP, and over UDP once a
//! datagram has come.
//! Deliberately absent: its network (`topology`), and packets that reach it without ever becoming a visit (`watch`).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::{StatusCode, Uri};
use axum::serve::IncomingStream;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

use super::error::LabError;
use super::namespace::Namespace;

/// The port of the HTTP server.
pub(crate) const HTTP: u16 = 8000;
/// The port that answers lines over TCP.
pub(crate) const LINES: u16 = 9000;
/// The port that answers datagrams.
pub(crate) const DATAGRAMS: u16 = 9001;

/// The port that speaks while its client is silent.
pub(crate) const TICKS: u16 = 9100;
/// How often.
const TICK: Duration = Duration::from_millis(20);

/// One request, line or datagram that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visit {
    /// When it arrived.
    pub(crate) at: Instant,
    /// From which address.
    pub(crate) caller: IpAddr,
    /// At which port of the outpost.
    pub(crate) port: u16,
    /// The path asked for, or the line.
    pub(crate) text: String,
    /// Which connection it came on, counted from 0 over all ports. Each datagram is one of its own.
    pub(crate) connection: u64,
}

/// The running outpost. Dropping it ends every connection.
pub(crate) struct Outpost {
    record: Arc<Record>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Outpost {
    /// Starts it in a namespace that has these addresses, and returns when all ports listen.
    pub(crate) fn start(
        namespace: Namespace,
        addresses: Vec<IpAddr>,
        allowed: BTreeSet<IpAddr>,
    ) -> Result<Self, LabError> {
        let record =
            Arc::new(Record { allowed: Mutex::new(allowed), visits: Mutex::default(), connections: AtomicU64::new(0) });
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let shared = Arc::clone(&record);
        let thread = std::thread::spawn(move || {
            // Sockets belong to the namespace of the thread that makes them, hence a runtime that is this thread alone.
            let runtime = namespace.move_in().and_then(|()| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(LabError::doing("start the outpost"))
            });
            match runtime {
                Ok(runtime) => runtime.block_on(serve(shared, &addresses, &ready, stopped)),
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        let outpost = Self { record, stop: Some(stop), thread: Some(thread) };
        let died = || Err(LabError::Nonsense { what: "the outpost's thread, which ended before it was ready" });
        is_ready.recv().unwrap_or_else(|_| died()).map(|()| outpost)
    }

    /// Everything that arrived since the start or the last [`Self::forget`], in order.
    pub(crate) fn visits(&self) -> Vec<Visit> {
        lock(&self.record.visits).clone()
    }

    /// The addresses it came from.
    pub(crate) fn callers(&self) -> BTreeSet<IpAddr> {
        lock(&self.record.visits).iter().map(|visit| visit.caller).collect()
    }

    /// Forgets every visit.
    pub(crate) fn forget(&self) {
        lock(&self.record.visits).clear();
    }

    /// Lets in exactly these addresses from now on; at the start, those of every gateway.
    pub(crate) fn allow(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        *lock(&self.record.allowed) = addresses.into_iter().collect();
    }
}

impl Drop for Outpost {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A thread that is gone already needs no telling.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic in the outpost was seen by its clients as silence; raising it from a drop would hide the test's own.
            let _ = thread.join();
        }
    }
}

/// What the outpost's tasks share with the lab.
struct Record {
    allowed: Mutex<BTreeSet<IpAddr>>,
    visits: Mutex<Vec<Visit>>,
    connections: AtomicU64,
}

impl Record {
    fn new_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    fn add(&self, caller: IpAddr, port: u16, text: String, connection: u64) {
        lock(&self.visits).push(Visit { at: Instant::now(), caller, port, text, connection });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A caller of the HTTP server and its connection.
#[derive(Clone)]
struct Caller {
    address: SocketAddr,
    /// Given at the connection's first request: `Connected` has no way to the record.
    connection: Arc<std::sync::OnceLock<u64>>,
}

impl Connected<IncomingStream<'_, TcpListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self { address: *stream.remote_addr(), connection: Arc::default() }
    }
}

async fn serve(
    record: Arc<Record>,
    addresses: &[IpAddr],
    ready: &mpsc::Sender<Result<(), LabError>>,
    stopped: oneshot::Receiver<()>,
) {
    match listen(addresses).await {
        Ok((http, lines, ticks, datagrams)) => {
            let router = Router::new().fallback(answer).with_state(Arc::clone(&record));
            let http = axum::serve(http, router.into_make_service_with_connect_info::<Caller>());
            // The lab may have given up on this thread; then the stop follows at once.
            let _ = ready.send(Ok(()));
            for (socket, ticks) in datagrams {
                tokio::spawn(answer_datagrams(socket, Arc::clone(&record)));
                tokio::spawn(tick_datagrams(ticks));
            }
            tokio::spawn(tick(ticks));
            tokio::select! {
                _ = stopped => {}
                _ = http => {}
                () = answer_lines(lines, record) => {}
            }
        }
        Err(error) => drop(ready.send(Err(LabError::doing("listen in the outpost")(error)))),
    }
}

/// TCP has one for all addresses: IPv4 callers come as mapped addresses and are named by their IPv4 address.
/// UDP has one for each: over a common one the kernel would choose the source of an answer, and may choose the other address.
async fn listen(
    addresses: &[IpAddr],
) -> io::Result<(TcpListener, TcpListener, TcpListener, Vec<(UdpSocket, UdpSocket)>)> {
    let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut datagrams = Vec::new();
    for address in addresses {
        datagrams.push((UdpSocket::bind((*address, DATAGRAMS)).await?, UdpSocket::bind((*address, TICKS)).await?));
    }
    let tcp = |port| TcpListener::bind((any, port));
    Ok((tcp(HTTP).await?, tcp(LINES).await?, tcp(TICKS).await?, datagrams))
}

async fn answer(
    State(record): State<Arc<Record>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    uri: Uri,
) -> (StatusCode, String) {
    let address = caller.address.ip().to_canonical();
    let connection = *caller.connection.get_or_init(|| record.new_connection());
    record.add(address, HTTP, uri.path().to_owned(), connection);
    if lock(&record.allowed).contains(&address) {
        (StatusCode::OK, format!("granted {address}\n"))
    } else {
        (StatusCode::FORBIDDEN, format!("denied {address}\n"))
    }
}

async fn answer_lines(listener: TcpListener, record: Arc<Record>) {
    loop {
        // A connection that died before it was accepted is no reason to stop.
        if let Ok((stream, caller)) = listener.accept().await {
            let (record, connection) = (Arc::clone(&record), record.new_connection());
            tokio::spawn(async move {
                // The end of a connection, by whatever fault, is all there is to it.
                let _ = answer_lines_of(&stream, caller.ip().to_canonical(), connection, &record).await;
            });
        }
    }
}

async fn answer_lines_of(stream: &TcpStream, caller: IpAddr, connection: u64, record: &Record) -> io::Result<()> {
    let (mut pending, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => pending.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let mut reply = format!("{caller} {line}\n").into_bytes();
            record.add(caller, LINES, line, connection);
            while !reply.is_empty() {
                stream.writable().await?;
                match stream.try_write(&reply) {
                    Ok(written) => drop(reply.drain(..written)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Ticks to everybody who connects, whatever they say.
async fn tick(listener: TcpListener) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // A client that reads too slowly misses some.
                while !matches!(stream.try_write(b"tick\n"), Err(error) if error.kind() != io::ErrorKind::WouldBlock) {
                    tokio::time::sleep(TICK).await;
                }
            });
        }
    }
}

/// Ticks to everybody who has sent a datagram.
async fn tick_datagrams(socket: UdpSocket) {
    let (mut callers, mut buffer) = (BTreeSet::new(), [0; 64]);
    loop {
        if let Ok(Ok((_, caller))) = tokio::time::timeout(TICK, socket.recv_from(&mut buffer)).await {
            callers.insert(caller);
            continue;
        }
        for caller in &callers {
            // One that cannot be sent is lost, as datagrams may be.
            let _ = socket.send_to(b"tick\n", *caller).await;
        }
    }
}

async fn answer_datagrams(socket: UdpSocket, record: Arc<Record>) {
    let mut buffer = [0; 1500];
    loop {
        // An ICMP error of an earlier answer is reported here and concerns nobody.
        if let Ok((length, sender)) = socket.recv_from(&mut buffer).await {
            let caller = sender.ip().to_canonical();
            let line = String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned();
            let reply = format!("{caller} {line}\n");
            record.add(caller, DATAGRAMS, line, record.new_connection());
            // An answer that cannot be sent is lost, as datagrams may be.
            let _ = socket.send_to(reply.as_bytes(), sender).await;
        }
    }
}
