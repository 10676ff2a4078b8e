//! A real `git daemon`, and a relay before it that spoils what it says, in the ways that servers and networks do.
//!
//! Deliberately absent: what has to become of it (`bad_servers`).

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::fixture::Origin;
use crate::lab::wait_until;

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

/// A program that serves until it is dropped.
pub(crate) struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.kill().expect("it can be ended");
        self.0.wait().expect("it ends");
    }
}

/// Starts a server and waits until it takes connections.
pub(crate) fn serving(command: &mut Command, port: u16) -> Serving {
    let child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut serving = Serving(child);
    let listens = wait_until(Duration::from_secs(20), || {
        assert!(serving.0.try_wait().expect("a child").is_none(), "{command:?} has ended");
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    assert!(listens, "{command:?}");
    serving
}

/// `git daemon` on everything in the origin's folder, for reading and writing.
pub(super) fn git_daemon(origin: &Origin) -> (Serving, u16) {
    let port = free_port();
    // Not by way of `git`, which has a child do it that outlives it.
    let folder = Command::new("git").arg("--exec-path").output().expect("git is installed").stdout;
    let folder = String::from_utf8(folder).expect("UTF-8");
    let mut command = Command::new(Path::new(folder.trim_end()).join("git-daemon"));
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.args(["--reuseaddr", "--export-all", "--enable=receive-pack", "--listen=127.0.0.1"]);
    command.arg(format!("--port={port}")).arg(origin.path()).stdout(Stdio::null()).stderr(Stdio::null());
    (serving(&mut command, port), port)
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Good,
    /// Does not offer to leave history out.
    Unshallow,
    /// Accepts, and says nothing.
    Stall,
    /// A byte, and after a while another.
    Trickle,
    /// Breaks the connection off.
    Reset,
    /// Ends in the middle of the pack.
    Truncate,
    /// Stops in the middle of the pack, and holds the line.
    StallInPack,
    /// The pack comes a byte at a time.
    TrickleInPack,
    /// The pack has no end.
    Endless,
}

/// A relay before a server, whose mood the test sets.
pub(super) struct Crooked {
    pub(super) port: u16,
    mood: Arc<Mutex<Mood>>,
}

const PAUSE: Duration = Duration::from_millis(60);

impl Crooked {
    pub(super) fn before(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mood = Arc::new(Mutex::new(Mood::Good));
        let relay = Self { port, mood: Arc::clone(&mood) };
        // It ends with the test binary: a listener costs nothing.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mood = *mood.lock().expect("a mood");
                thread::spawn(move || serve(client, upstream, mood));
            }
        });
        relay
    }

    pub(super) fn set(&self, mood: Mood) {
        *self.mood.lock().expect("a mood") = mood;
    }
}

fn serve(mut client: TcpStream, upstream: u16, mood: Mood) -> io::Result<()> {
    match mood {
        Mood::Stall => return io::copy(&mut client, &mut io::sink()).map(|_| ()),
        // A socket that is closed with something unread in it sends a reset.
        Mood::Reset => return client.peek(&mut [0]).map(|_| ()),
        _ => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let (mut asks, mut asked) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut asks, &mut asked);
        asked.shutdown(std::net::Shutdown::Both)
    });
    let result = match mood {
        Mood::Good => io::copy(&mut server, &mut client).map(|_| ()),
        Mood::Unshallow => without_shallow(&mut server, &mut client),
        Mood::Trickle => trickle(&mut server, &mut client),
        _ => until_pack(&mut server, &mut client).and_then(|pack| spoil(&pack, &mut server, &mut client, mood)),
    };
    let _ = client.shutdown(std::net::Shutdown::Both);
    result
}

pub(super) fn trickle(server: &mut impl Read, client: &mut impl Write) -> io::Result<()> {
    for byte in BufReader::new(server).bytes() {
        client.write_all(&[byte?])?;
        // The pace is what is tried.
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// The first packet lists what the server can do; a word that no client knows takes the place of this one.
fn without_shallow(server: &mut impl Read, client: &mut impl Write) -> io::Result<()> {
    const WORD: &[u8] = b" shallow ";
    let mut packet = read_packet(server)?;
    let place = packet.windows(WORD.len()).position(|part| part == WORD).ok_or(io::ErrorKind::InvalidData)?;
    packet[place..place + WORD.len()].copy_from_slice(b" unknown ");
    client.write_all(&packet)?;
    io::copy(server, client).map(|_| ())
}

/// A packet with its length (gitprotocol-common(5)).
fn read_packet(server: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    server.read_exact(&mut packet)?;
    let length = std::str::from_utf8(&packet).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
    let length = length.ok_or(io::ErrorKind::InvalidData)?.max(4);
    packet.resize(length, 0);
    server.read_exact(&mut packet[4..])?;
    Ok(packet)
}

/// Relays packet by packet, until one begins the pack: gives that one.
fn until_pack(server: &mut impl Read, client: &mut impl Write) -> io::Result<Vec<u8>> {
    loop {
        let packet = read_packet(server)?;
        if packet[4..].starts_with(b"\x01PACK") {
            return Ok(packet);
        }
        client.write_all(&packet)?;
    }
}

fn spoil(pack: &[u8], server: &mut impl Read, client: &mut TcpStream, mood: Mood) -> io::Result<()> {
    match mood {
        Mood::Truncate => client.write_all(&pack[..pack.len() / 2]),
        Mood::StallInPack => {
            client.write_all(&pack[..pack.len() / 2])?;
            io::copy(server, &mut io::sink())?;
            // The server is done; we hold the line until the client gives up.
            io::copy(&mut client.try_clone()?, &mut io::sink()).map(|_| ())
        }
        Mood::TrickleInPack => {
            let mut rest = pack;
            trickle(&mut rest, client)?;
            trickle(server, client)
        }
        _ => endless(client),
    }
}

/// One blob of two gigabytes, in blocks that zlib passes through as they are.
pub(super) fn endless(client: &mut impl Write) -> io::Result<()> {
    let mut start = b"PACK\0\0\0\x02\0\0\0\x01".to_vec();
    // Type blob; the size by its lowest four bits, then seven at a time.
    start.extend([0xbf, 0xff, 0xff, 0xff, 0x7f, 0x78, 0x01]);
    packet(client, &start)?;
    let mut block = vec![0x00, 0x00, 0x80, 0xff, 0x7f];
    block.resize(5 + 0x8000, b'x');
    loop {
        packet(client, &block)?;
    }
}

fn packet(client: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let mut packet = format!("{:04x}\x01", bytes.len() + 5).into_bytes();
    packet.extend_from_slice(bytes);
    client.write_all(&packet)
}
