//! What pods do: ask the outpost once, ask it without pause, or keep a connection and see whether it still lives.
//!
//! Deliberately absent: any judgement. A client says what it was answered and when; what should have been is the test's.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::LabError;
use super::namespace::Namespace;
use super::outpost::{DATAGRAMS, HTTP, LINES};

/// How long a client waits for an answer that may never come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// How long one of many requests waits: less than the second after which a lost SYN is sent again, so that a loss is seen as one.
const HASTE: Duration = Duration::from_millis(500);

/// What the outpost answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::enum_variant_names, reason = "`Answer::None` would read as an empty answer")]
pub(crate) enum Answer {
    /// Let in, seen with this address.
    Granted(IpAddr),
    /// Turned away, seen with this address.
    Denied(IpAddr),
    /// No connection, or none that was answered to its end.
    NoAnswer,
}

impl fmt::Display for Answer {
    /// As the outpost says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted(seen) => write!(f, "granted {seen}"),
            Self::Denied(seen) => write!(f, "denied {seen}"),
            Self::NoAnswer => f.write_str("no answer"),
        }
    }
}

/// Asks from the calling thread's namespace, on a new connection.
pub(crate) fn ask(address: IpAddr, path: &str, patience: Duration) -> Answer {
    let Ok((head, body)) = ask_and_close(SocketAddr::new(address, HTTP), path, patience) else {
        return Answer::NoAnswer;
    };
    // The status and the body must agree, or it is not the outpost that spoke.
    match body.trim_end().split_once(' ').map(|(word, seen)| (word, seen.parse())) {
        Some(("granted", Ok(seen))) if head.starts_with("HTTP/1.1 200 ") => Answer::Granted(seen),
        Some(("denied", Ok(seen))) if head.starts_with("HTTP/1.1 403 ") => Answer::Denied(seen),
        _ => Answer::NoAnswer,
    }
}

/// The head and the body of an answer that says its length. The client is the first to close: a server that was would keep the
/// connection in TIME-WAIT, and of thousands a minute some would come with a port that it keeps, and wait for the second SYN.
fn ask_and_close(server: SocketAddr, path: &str, patience: Duration) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes())?;
    let mut reply = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reply.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.find_map(|(_, value)| value.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![0; length];
    reply.read_exact(&mut body)?;
    // Until the other end has closed, too: what is still on its way would count as somebody's packet. An answer is an answer
    // whatever becomes of that.
    if reply.get_ref().shutdown(Shutdown::Write).is_ok() {
        let _ = io::copy(&mut reply, &mut io::sink());
    }
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}

fn request(server: SocketAddr, path: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}

/// Asks any server over HTTP from the calling thread's namespace: the status and the body.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let reply = request(address, path, PATIENCE)?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.map(|status| (status, body.to_owned())).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// One request of a [`Hammer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// When it was begun.
    pub(crate) begun: Instant,
    /// How long it took to be answered, or given up.
    pub(crate) took: Duration,
    /// The answer.
    pub(crate) answer: Answer,
}

/// A client that asks without pause, each time on a new connection, until it is stopped or dropped.
pub(crate) struct Hammer {
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hammer {
    /// Starts it in a pod's namespace.
    pub(crate) fn start(pod: &Namespace, address: IpAddr) -> Result<Self, LabError> {
        Self::start_with(pod, address, HASTE)
    }

    /// The same with another patience for each request.
    pub(crate) fn start_with(pod: &Namespace, address: IpAddr, patience: Duration) -> Result<Self, LabError> {
        let (requests, stop) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicBool>::default());
        let (shared, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        // Started from a thread that is in the namespace, it is in it from its first instruction.
        let thread = pod.enter(|| {
            std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let answer = ask(address, "/hammer", patience);
                    let request = Request { begun, took: begun.elapsed(), answer };
                    shared.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                }
            })
        })?;
        Ok(Self { requests, stop, thread: Some(thread) })
    }

    /// All requests answered or given up so far, in order.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops it when its present request is done, and gives all of them.
    pub(crate) fn stop(mut self) -> Vec<Request> {
        self.halt();
        self.requests()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread cannot panic; if it did, the requests tell how far it came.
            let _ = thread.join();
        }
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.halt();
    }
}

/// A conversation with the outpost that goes on over one pair of ports.
pub(crate) struct LongConnection {
    line: Line,
    said: u64,
}

enum Line {
    Tcp(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl LongConnection {
    /// Opens a TCP connection from a pod.
    pub(crate) fn tcp(pod: &Namespace, address: IpAddr) -> Result<Self, LabError> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&SocketAddr::new(address, LINES), PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Line::Tcp(BufReader::new(stream)))
        };
        Self::open(pod, address, connect)
    }

    /// Opens a UDP socket in a pod. Nothing is sent yet.
    pub(crate) fn udp(pod: &Namespace, address: IpAddr) -> Result<Self, LabError> {
        let connect = || {
            let any: IpAddr = if address.is_ipv4() {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect((address, DATAGRAMS))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(Line::Udp(socket))
        };
        Self::open(pod, address, connect)
    }

    fn open(
        pod: &Namespace,
        address: IpAddr,
        connect: impl FnOnce() -> io::Result<Line> + Send,
    ) -> Result<Self, LabError> {
        let line = pod.enter(connect)?.map_err(LabError::doing(format!("connect from {} to {address}", pod.name())))?;
        Ok(Self { line, said: 0 })
    }

    /// Says something and gives the address that the outpost saw it come from. An error where the connection no longer works.
    pub(crate) fn echo(&mut self) -> Result<IpAddr, LabError> {
        self.said += 1;
        let line = format!("line {}", self.said);
        let reply = self.exchange(&line).map_err(LabError::doing("talk on a long connection"))?;
        let seen = reply.strip_suffix(&line).and_then(|seen| seen.trim_end().parse().ok());
        seen.ok_or(LabError::Nonsense { what: "the outpost's answer on a long connection" })
    }

    /// The same with a line of this many bytes.
    pub(crate) fn echo_large(&mut self, length: usize) -> Result<IpAddr, LabError> {
        let reply =
            self.exchange(&"x".repeat(length)).map_err(LabError::doing("talk at length on a long connection"))?;
        let seen =
            reply.split_once(' ').filter(|(_, line)| line.len() == length).and_then(|(seen, _)| seen.parse().ok());
        seen.ok_or(LabError::Nonsense { what: "the outpost's answer to a long line" })
    }

    fn exchange(&mut self, line: &str) -> io::Result<String> {
        match &mut self.line {
            Line::Tcp(stream) => {
                stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
                let mut reply = String::new();
                stream.read_line(&mut reply)?;
                if reply.is_empty() {
                    Err(io::ErrorKind::UnexpectedEof.into())
                } else {
                    Ok(reply.trim_end().to_owned())
                }
            }
            Line::Udp(socket) => {
                socket.send(line.as_bytes())?;
                let mut buffer = [0; 1500];
                loop {
                    let length = socket.recv(&mut buffer)?;
                    let reply = String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned();
                    // An answer to an earlier line may come late.
                    if reply.ends_with(&format!(" {line}")) {
                        return Ok(reply);
                    }
                }
            }
        }
    }
}
