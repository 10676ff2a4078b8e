//! Packs that are spoiled on their way over HTTP: through the relay as well, nothing hangs, nothing broken gets into the mirror, and all
//! is well when the server is.
//!
//! Deliberately absent: the same over `git://` (`bad_servers`), and what comes before a pack (`bad_web`).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use egret::git::access::{Access, TransferLimits};
use egret::git::{Error, ErrorKind};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use super::bad_servers::{FOR_EVER, LIMITS};
use super::crooked::{endless, trickle};
use super::fixture::Origin;
use super::https::{Demand, GOOD, Https, LOOPBACK};
use super::ways_in::text_of;

/// What becomes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Good,
    Truncate,
    Reset,
    Stall,
    Trickle,
    Corrupt,
    Endless,
}

/// A relay before an HTTP server.
fn before(upstream: u16, mood: Arc<Mutex<Mood>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    // It ends with the test binary.
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mood = *mood.lock().expect("a mood");
            thread::spawn(move || relay(client, upstream, mood));
        }
    });
    port
}

fn relay(mut client: TcpStream, upstream: u16, mood: Mood) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let (mut asks, mut asked) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let mut piece = vec![0; 64 << 10];
        loop {
            let length = asks.read(&mut piece)?;
            match mood {
                _ if length == 0 => return asked.shutdown(Shutdown::Both),
                Mood::Endless if piece.starts_with(b"POST ") => return without_end(&mut asks),
                _ => asked.write_all(&piece[..length])?,
            }
        }
    });
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = server.read(&mut piece)?;
        let pack = piece[..length].windows(4).position(|word| word == b"PACK");
        match (pack, mood) {
            _ if length == 0 => return client.shutdown(Shutdown::Both),
            (None, _) | (_, Mood::Good) => client.write_all(&piece[..length])?,
            (Some(pack), mood) => return spoil(&mut piece[..length], pack, &mut server, &mut client, mood),
        }
    }
}

fn without_end(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n\r\n0008NAK\n")?;
    endless(client)
}

/// `pack`: where it begins in the piece.
fn spoil(piece: &mut [u8], pack: usize, server: &mut TcpStream, client: &mut TcpStream, mood: Mood) -> io::Result<()> {
    let half = pack + (piece.len() - pack) / 2;
    match mood {
        Mood::Good | Mood::Endless | Mood::Truncate => client.write_all(&piece[..half])?,
        Mood::Reset => {
            client.write_all(&piece[..half])?;
            // A close that waits for nothing is a reset; it is one when the other thread has ended, too.
            setsockopt(client, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
            return client.shutdown(Shutdown::Read);
        }
        Mood::Stall => {
            client.write_all(&piece[..half])?;
            // Until the other side gives up.
            return io::copy(&mut client.try_clone()?, &mut io::sink()).map(|_| ());
        }
        Mood::Trickle => {
            let mut rest: &[u8] = piece;
            trickle(&mut rest, client)?;
            trickle(server, client)?;
        }
        Mood::Corrupt => {
            // In the first object, behind the head of the pack.
            piece[pack + 14] ^= 0xff;
            client.write_all(piece)?;
            io::copy(server, client)?;
        }
    }
    client.shutdown(Shutdown::Both)
}

/// What is said of a mood, and that it is got over.
fn through(mood: Mood, limits: TransferLimits) -> Error {
    let origin = Origin::new();
    let server = Https::with(&origin, Demand::Plain, LOOPBACK, GOOD);
    let now = Arc::new(Mutex::new(Mood::Good));
    let source = format!("http://127.0.0.1:{}/git/policies.git", before(server.port, Arc::clone(&now)));
    let plenty = Access { ca_file: None, ..server.ada() };
    let first = origin.push(&[("a.yaml", "a: 1\n")], "first");
    assert_eq!(origin.mirror_by("state", &source, plenty.clone()).head(None).expect("a look").commit, first);
    let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
    *now.lock().expect("a mood") = mood;
    let access = Access { limits, ..plenty.clone() };
    let error = origin.mirror_by("state", &source, access).head(None).expect_err("the pack is spoiled");
    assert_eq!(error.kind(), ErrorKind::Transient, "{}", text_of(&error));
    assert!(error.hint().is_some(), "{}", text_of(&error));
    *now.lock().expect("a mood") = Mood::Good;
    assert_eq!(origin.mirror_by("state", &source, plenty).head(None).expect("a look").commit, second);
    origin.assert_mirror_is_sound();
    error
}

#[test]
fn a_pack_that_is_cut_off_over_http_is_reported() {
    let text = text_of(&through(Mood::Truncate, TransferLimits::default()));
    assert!(text.starts_with("cannot fetch from http://") && text.contains(": the answer breaks off"), "{text}");
}

#[test]
fn a_connection_that_is_reset_in_a_pack_over_http_is_reported() {
    let text = text_of(&through(Mood::Reset, TransferLimits::default()));
    assert!(text.starts_with("cannot fetch from http://") && text.contains("reset"), "{text}");
}

#[test]
fn a_pack_that_stops_coming_over_http_is_given_up() {
    let limits = TransferLimits { connect: FOR_EVER, total: FOR_EVER, ..LIMITS };
    let text = text_of(&through(Mood::Stall, limits));
    assert!(text.ends_with("is too slow: it sent nothing for 700ms in the middle of a fetch"), "{text}");
}

#[test]
fn a_pack_that_trickles_over_http_is_given_up_although_something_always_comes() {
    let limits = TransferLimits { connect: FOR_EVER, idle: FOR_EVER, ..LIMITS };
    let text = text_of(&through(Mood::Trickle, limits));
    assert!(text.ends_with("is too slow: it was not done after 2s"), "{text}");
}

#[test]
fn a_pack_that_is_changed_on_its_way_is_not_taken() {
    let error = through(Mood::Corrupt, TransferLimits::default());
    assert!(matches!(&error, Error::Unreachable { action: "fetch from", .. }), "{}", text_of(&error));
    assert!(error.hint().is_some_and(|hint| hint.starts_with("the server sent broken data")), "{:?}", error.hint());
}

#[test]
fn a_pack_without_end_over_http_is_stopped() {
    let text = text_of(&through(Mood::Endless, TransferLimits { connect: FOR_EVER, total: FOR_EVER, ..LIMITS }));
    assert!(text.ends_with("sends more than 8 MiB"), "{text}");
}
