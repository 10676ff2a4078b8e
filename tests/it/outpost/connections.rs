//! Connections that outlive what they began under: their pod, their pod's group, the time before any policy, and their own parent.
//!
//! Deliberately absent: connections whose gateway changes (`load`), and what the kernel lists (`kernel_nft::connections`).

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::stand::{DEADLINE, Document, HELD_BACK, Outcome, Stand, WAYS, with_pods};
use crate::lab::{Answer, DATAGRAMS, LabError, OUTPOST, Options, Pod, wait_until, wait_until_every};

/// A port that every pod of an address uses again.
const SAME: u16 = 40_444;
/// A port of the outpost where a [`Talker`] listens.
const TALK: u16 = 5_141;
/// A port of the outpost that answers nothing.
const SILENT: u16 = 5_140;

const NODE: &str = "172.18.0.2";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A UDP socket of a pod, always on the same port.
fn socket(stand: &Stand, pod: &str) -> Result<UdpSocket, LabError> {
    bound(stand, pod, SAME)
}

fn bound(stand: &Stand, pod: &str, port: u16) -> Result<UdpSocket, LabError> {
    let opened = move || {
        let socket = UdpSocket::bind(("0.0.0.0", port))?;
        socket.set_read_timeout(Some(HELD_BACK))?;
        Ok(socket)
    };
    stand.lab.pod(pod)?.enter(opened)?.map_err(LabError::doing(format!("open a socket in {pod}")))
}

/// Which address the outpost saw a datagram come from; none if it did not answer.
fn seen(socket: &UdpSocket) -> Option<IpAddr> {
    socket.send_to(b"?", (OUTPOST, DATAGRAMS)).ok()?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).ok()?;
    std::str::from_utf8(&answer[..length]).ok()?.split(' ').next()?.parse().ok()
}

fn member(name: &str) -> Pod {
    Pod::new(name, "kind-worker", 50, &[("org", "empire")])
}

fn other(name: &str) -> Pod {
    Pod::new(name, "kind-worker", 50, &[("org", "alliance")])
}

/// Starts a pod and lets its datagrams be seen as this address, and as no other before.
fn starts(stand: &Stand, pod: Pod, as_seen: IpAddr) -> Result<UdpSocket, LabError> {
    let name = pod.name.clone();
    stand.lab.wire_pod(pod)?;
    let socket = socket(stand, &name)?;
    // The moment before anybody knows of it: what its address had before must not serve it.
    assert_eq!(seen(&socket), None, "{name} is not known yet");
    stand.lab.announce_pod(&name)?;
    let mut first = None;
    wait_until(DEADLINE, || {
        first = seen(&socket);
        first.is_some()
    });
    assert_eq!(first, Some(as_seen), "{name}\n{}", stand.log("kind-worker"));
    Ok(socket)
}

/// Sends three segments in the place of the outpost, so far ahead that connection tracking finds them invalid, with the acknowledgement of
/// now: a reset that answers them is believed.
const INVALID_SEGMENTS: &str = "import socket, struct, sys, time
server, egress = [socket.inet_aton(one) for one in sys.argv[1:3]]
sniff = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)); sniff.settimeout(20)
print('ready', flush=True)
while True:
    packet = sniff.recv(2048)
    if packet[9] == 6 and packet[12:16] == server and packet[16:20] == egress and packet[33] & 7 == 0: break
sport, dport, seq, ack = struct.unpack('!HHII', packet[20:32])
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def segment(sum): return struct.pack('!HHIIBBHHH', sport, dport, (seq + 0x30000000) & 0xffffffff, ack, 0x50, 0x18, 500, sum, 0) + b'far!'
pseudo = server + egress + struct.pack('!BBH', 0, 6, 24)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
head = struct.pack('!BBHHHBBH', 0x45, 0, 44, 0, 0, 64, 6, 0) + server + egress
for _ in range(3): raw.sendto(head + segment(checksum(pseudo + segment(0))), (sys.argv[2], 0))
sniff.settimeout(1); until = time.monotonic() + 1
try:
    while time.monotonic() < until:
        packet = sniff.recv(2048)
        if packet[9] == 6 and packet[12:16] == egress and packet[16:20] == server and packet[33] & 4: print('reset', flush=True); break
    else: print('no reset', flush=True)
except TimeoutError: print('no reset', flush=True)";

/// Such a segment is for no pod, and the gateway's own reset for it would end the pod's connection.
#[test]
fn an_invalid_segment_of_a_server_resets_no_connection() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let mut connection = stand.lab.long_connection("tiefighter", OUTPOST)?;
    let egress = connection.echo()?;
    let router = stand.lab.router();
    let mut script = router.enter(|| {
        let mut python = std::process::Command::new("python3");
        python.args(["-c", INVALID_SEGMENTS, &OUTPOST.to_string(), &egress.to_string()]);
        python.stdout(std::process::Stdio::piped()).spawn()
    })?;
    let script = script.as_mut().expect("python");
    let mut lines = BufReader::new(script.stdout.take().expect("its output")).lines();
    assert_eq!(lines.next().transpose().ok().flatten().as_deref(), Some("ready"));
    connection.echo()?;
    assert_eq!(lines.next().transpose().ok().flatten().as_deref(), Some("no reset"));
    let _ = script.wait();
    // The guard drops the host's resets, so the segments were what they are meant to be.
    let guard = stand.lab.node("kind-worker2")?.exec(["nft", "list", "chain", "inet", "egret", "leaving"])?;
    assert!(guard.contains("counter packets 3 "), "{guard}");
    for _ in 0..3 {
        assert_eq!(connection.echo()?, egress);
    }
    Ok(())
}

/// 13: within conntrack's time, on the same port, towards the same server.
/// Answers to such a port look like packets of the tunnel until it is seen where they come from.
#[test]
fn a_connection_whose_own_port_is_the_tunnels_is_answered_on_both_nodes() -> Outcome {
    let ties = [Pod::new("tie", "kind-worker2", 51, &[("org", "empire")])];
    let stand = Stand::applied(with_pods(&ties))?;
    for pod in ["tiefighter", "tie"] {
        let socket = bound(&stand, pod, 4790)?;
        let as_promised = || seen(&socket) == Some(WAYS[0].2);
        assert!(wait_until(DEADLINE, as_promised), "{pod}\n{}", stand.log("kind-worker"));
    }
    stand.await_settled()
}

#[test]
fn a_pod_that_gets_an_address_inherits_no_connection_of_it() -> Outcome {
    for masquerade in [false, true] {
        let stand = Stand::applied(Options { masquerade, ..Options::default() })?;
        let own = if masquerade { ip(NODE) } else { ip("10.1.1.50") };
        for pod in [member("one"), other("two"), member("three"), member("four"), other("five"), other("six")] {
            let name = pod.name.clone();
            let egress = pod.labels["org"] == "empire";
            let socket = starts(&stand, pod, if egress { WAYS[0].2 } else { own })?;
            drop(socket);
            stand.lab.remove_pod(&name)?;
            stand.await_settled()?;
        }
        stand.assert_no_leak_but(&[own])?;
    }
    Ok(())
}

/// Writes the manifest of a pod with the address that [`member`] and [`other`] have, which is being deleted.
fn terminating(stand: &Stand, name: &str, org: &str) -> Result<PathBuf, LabError> {
    let file = stand.lab.cluster_dir().join("terminating.yaml");
    let text = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: batuu, labels: {{org: {org}}}, \
         deletionTimestamp: \"2026-11-28T12:00:00Z\"}}, spec: {{nodeName: kind-worker}}, \
         status: {{phase: Running, podIPs: [{{ip: 10.1.1.50}}]}}}}\n"
    );
    std::fs::write(&file, text).map_err(LabError::doing("write a manifest"))?;
    Ok(file)
}

/// 14: its sandbox and its address are gone, its object is not.
#[test]
fn a_pod_that_is_being_deleted_loses_its_address_to_the_one_that_runs() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    // Of two that both run the later name counts: here neither name decides.
    for (gone, pod, as_seen) in
        [("zz", other("aa"), ip("10.1.1.50")), ("zz", member("ab"), WAYS[0].2), ("aa", other("zy"), ip("10.1.1.50"))]
    {
        let (name, org) = (pod.name.clone(), if as_seen == WAYS[0].2 { "alliance" } else { "empire" });
        let first = Pod { labels: [("org".to_owned(), org.to_owned())].into(), ..member(gone) };
        let before = if org == "empire" { WAYS[0].2 } else { ip("10.1.1.50") };
        drop(starts(&stand, first, before)?);
        let file = terminating(&stand, gone, org)?;
        stand.lab.remove_pod(gone)?;
        stand.await_settled()?;
        stand.lab.wire_pod(pod)?;
        let socket = socket(&stand, &name)?;
        stand.lab.announce_pod(&name)?;
        // Until its manifest is read the address is the former's; then it is this one's, its old connections included.
        let right = wait_until(DEADLINE, || seen(&socket) == Some(as_seen));
        assert!(right, "{name}: {:?}\n{}", seen(&socket), stand.log("kind-worker"));
        let findings = stand.report("kind-worker").map(|report| report.findings).unwrap_or_default();
        assert!(findings.iter().all(|since| since.finding.code != "address-twice"), "{findings:?}");
        drop(socket);
        std::fs::remove_file(&file).map_err(LabError::doing("remove a manifest"))?;
        stand.lab.remove_pod(&name)?;
        stand.await_settled()?;
    }
    Ok(())
}

/// A server that goes on sending for a moment after each datagram: the address that it saw.
struct Talker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Talker {
    /// How often it repeats itself, and how soon: there is always a reply in flight while a pod speaks with it.
    const TIMES: u32 = 30;
    const PAUSE: Duration = Duration::from_millis(5);

    fn start(stand: &Stand) -> Result<Self, LabError> {
        let opened = || {
            let socket = UdpSocket::bind((OUTPOST, TALK))?;
            socket.set_read_timeout(Some(Self::PAUSE))?;
            Ok(socket)
        };
        let opened = stand.lab.outpost_namespace().enter(opened)?;
        let socket = opened.map_err(LabError::doing("open a socket at the outpost"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || Self::talk(&socket, &stopped));
        Ok(Self { stop, thread: Some(thread) })
    }

    fn talk(socket: &UdpSocket, stopped: &AtomicBool) -> std::io::Result<()> {
        let mut last = None;
        while !stopped.load(Ordering::Relaxed) {
            match socket.recv_from(&mut [0; 64]) {
                Ok((_, caller)) => last = Some((caller, Self::TIMES)),
                // A port that is closed again, reported by ICMP, is as good as silence.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            if let Some((caller, times)) = last.as_mut().filter(|(_, times)| *times > 0) {
                *times -= 1;
                // Where it cannot be sent there is no reply in flight.
                let _ = socket.send_to(caller.ip().to_string().as_bytes(), *caller);
            }
        }
        Ok(())
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("it runs").expect("the server").expect("a socket that receives");
        }
    }
}

/// Speaks with the talker once; whom it saw at last. None: it is not heard.
fn talks(socket: &UdpSocket) -> Option<IpAddr> {
    socket.send_to(b"?", (OUTPOST, TALK)).ok()?;
    let (mut text, mut seen) = ([0; 64], None);
    // Two of its pauses: what it says to this, and nothing that it said before.
    let begun = Instant::now();
    while begun.elapsed() < 2 * Talker::PAUSE {
        if let Ok(length) = socket.recv(&mut text) {
            seen = std::str::from_utf8(&text[..length]).ok()?.parse().ok();
        }
    }
    seen
}

/// Lets a pod speak until it is seen with the egress address; then it is never seen with another.
fn talks_through_its_exit(stand: &Stand, socket: &UdpSocket) -> Outcome {
    let turned = wait_until_every(Duration::ZERO, DEADLINE, || talks(socket) == Some(WAYS[0].2));
    assert!(turned, "{:?}\n{}", talks(socket), stand.log("kind-worker"));
    stand.lab.forget()?;
    for _ in 0..50 {
        talks(socket);
    }
    let wrong = stand.lab.wrong_sources(OUTPOST)?;
    assert!(wrong.is_empty(), "{wrong:?}\n{}", stand.log("kind-worker"));
    let seen = stand.lab.sources_towards(OUTPOST)?;
    assert!(seen.contains_key(&WAYS[0].2), "{seen:?}");
    Ok(())
}

/// Without its entry a reply would count as the first packet of a connection that the server opens, and the pod's packets as replies.
#[test]
fn a_reply_in_flight_at_a_flush_makes_no_connection_of_the_servers() -> Outcome {
    let short = |socket: &UdpSocket| {
        socket.set_read_timeout(Some(Talker::PAUSE)).map_err(LabError::doing("set a socket's timeout"))
    };
    let stand = Stand::up(Options::default())?;
    let _talker = Talker::start(&stand)?;
    stand.push("nodes/gateways.yaml", &super::stand::labels("kind-worker2"))?;
    stand.await_settled()?;
    let own = stand.lab.pod_addresses("tiefighter")?[0];
    let pod = socket(&stand, "tiefighter")?;
    short(&pod)?;
    assert!(wait_until_every(Duration::ZERO, DEADLINE, || talks(&pod) == Some(own)));
    let annotations = "egret.dev/existing-connections: Reset";
    stand.push("policies/outpost.yaml", &Document { annotations, ..Document::default() }.text())?;
    talks_through_its_exit(&stand, &pod)?;
    stand.push("policies/outpost.yaml", &Document::default().text())?;
    stand.await_settled()?;
    // The address passes from a pod that no policy selects to a member, which uses its port and speaks with the same server.
    drop(starts(&stand, other("zz"), ip("10.1.1.50"))?);
    let first = socket(&stand, "zz")?;
    short(&first)?;
    assert!(wait_until_every(Duration::ZERO, DEADLINE, || talks(&first) == Some(ip("10.1.1.50"))));
    drop(first);
    let file = terminating(&stand, "zz", "alliance")?;
    stand.lab.remove_pod("zz")?;
    stand.await_settled()?;
    stand.lab.wire_pod(member("ab"))?;
    let pod = socket(&stand, "ab")?;
    short(&pod)?;
    assert!(wait_until_every(Duration::ZERO, DEADLINE, || talks(&pod) == Some(ip("10.1.1.50"))));
    stand.lab.announce_pod("ab")?;
    talks_through_its_exit(&stand, &pod)?;
    std::fs::remove_file(&file).map_err(LabError::doing("remove a manifest"))?;
    Ok(())
}

/// 12: nobody ever answers it, so it stays new, and its translation was made before there was a policy.
#[test]
fn a_one_way_flow_that_is_older_than_its_policy_goes_its_policys_way() -> Outcome {
    for masquerade in [false, true] {
        let stand = Stand::up(Options { masquerade, ..Options::default() })?;
        let own = if masquerade { ip(NODE) } else { stand.lab.pod_addresses("tiefighter")?[0] };
        let socket = socket(&stand, "tiefighter")?;
        let came_from = |source: IpAddr| {
            wait_until(DEADLINE, || {
                socket.send_to(b"log", (OUTPOST, SILENT)).is_ok()
                    && stand.lab.sources_towards(OUTPOST).is_ok_and(|seen| seen.contains_key(&source))
            })
        };
        assert!(came_from(own));
        stand.push_outpost()?;
        assert!(came_from(WAYS[0].2), "{:?}\n{}", stand.lab.sources_towards(OUTPOST)?, stand.log("kind-worker"));
        stand.await_settled()?;
        stand.lab.forget()?;
        assert!(came_from(WAYS[0].2));
        stand.assert_no_leak_but(&[])?;
    }
    Ok(())
}

/// A TCP connection to the outpost's lines, from a pod.
fn lines(stand: &Stand, pod: &str) -> Result<TcpStream, LabError> {
    let opened = || {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(OUTPOST, 9000), DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(stream)
    };
    stand.lab.pod(pod)?.enter(opened)?.map_err(LabError::doing("open a connection"))
}

/// Whose address the outpost sees on it; the error where it is cut.
fn reported_address(stream: &TcpStream) -> std::io::Result<IpAddr> {
    (&*stream).write_all(b"?\n")?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let seen = answer.split(' ').next().unwrap_or_default();
    seen.parse().map_err(|_| std::io::ErrorKind::InvalidData.into())
}

#[test]
fn a_live_connection_that_is_to_be_reset_is_reset_and_does_not_hang() -> Outcome {
    for masquerade in [false, true] {
        let stand = Stand::up(Options { masquerade, ..Options::default() })?;
        let own = if masquerade { ip(NODE) } else { stand.lab.pod_addresses("tiefighter")?[0] };
        stand.push("nodes/gateways.yaml", &super::stand::labels("kind-worker2"))?;
        stand.await_settled()?;
        let stream = lines(&stand, "tiefighter")?;
        assert_eq!(reported_address(&stream).ok(), Some(own));
        let annotations = "egret.dev/existing-connections: Reset";
        stand.push("policies/outpost.yaml", &Document { annotations, ..Document::default() }.text())?;
        stand.await_granted("tiefighter")?;
        stand.await_settled()?;
        // The pod is the first to speak: were it the outpost, tracking would take the connection for one that the outpost opened.
        let end = reported_address(&stream).map_err(|error| error.kind());
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset), "{}", stand.log("kind-worker"));
    }
    Ok(())
}

/// 16: the first packet that is tracked of a connection is one in its middle, and counts as new.
#[test]
fn a_connection_in_use_survives_the_first_start_in_a_kernel_that_tracked_nothing() -> Outcome {
    let stand = Stand::up(Options { tracks: false, ..Options::default() })?;
    let own = stand.lab.pod_addresses("tiefighter")?[0];
    let stream = lines(&stand, "tiefighter")?;
    assert_eq!(reported_address(&stream).ok(), Some(own));
    let tracked = "/proc/sys/net/netfilter/nf_conntrack_count";
    let count = stand.lab.node("kind-worker")?.enter(|| std::fs::read_to_string(tracked))?;
    assert_eq!(count.map_err(LabError::doing("read how much is tracked"))?.trim(), "0", "nothing asks for tracking");
    stand.push_outpost()?;
    let granted = wait_until(DEADLINE, || {
        assert_eq!(reported_address(&stream).map_err(|error| error.kind()), Ok(own), "{}", stand.log("kind-worker"));
        stand.lab.ask_within("tiefighter", OUTPOST, HELD_BACK).is_ok_and(|seen| seen == Answer::Granted(WAYS[0].2))
    });
    assert!(granted, "{}", stand.log("kind-worker"));
    stand.await_settled()?;
    assert_eq!(reported_address(&stream).ok(), Some(own), "a connection keeps the way it began on");
    Ok(())
}

/// 17: while nobody looks, whoever gets the address is taken for the member; from then on no more, its live connections included.
#[test]
fn a_member_deleted_while_nobody_looked_leaves_its_exit_to_nobody() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    let own = ip("10.1.1.50");
    drop(starts(&stand, member("one"), WAYS[0].2)?);
    stand.await_settled()?;
    stand.kill9("kind-worker")?;
    stand.lab.remove_pod("one")?;
    stand.lab.wire_pod(other("two"))?;
    stand.lab.announce_pod("two")?;
    let socket = socket(&stand, "two")?;
    assert_eq!(seen(&socket), Some(WAYS[0].2), "what cannot be helped while nobody looks: docs/datapath.md says so");
    stand.start("kind-worker")?;
    assert!(wait_until(DEADLINE, || seen(&socket) == Some(own)), "{}", stand.log("kind-worker"));
    stand.await_settled()?;
    // And where nobody has the address any more.
    stand.lab.remove_pod("two")?;
    stand.await_settled()?;
    drop(starts(&stand, member("three"), WAYS[0].2)?);
    stand.await_settled()?;
    stand.kill9("kind-worker")?;
    stand.lab.remove_pod("three")?;
    stand.start("kind-worker")?;
    stand.await_settled()?;
    stand.lab.wire_pod(other("four"))?;
    let socket = self::socket(&stand, "four")?;
    assert_eq!(seen(&socket), None, "the connection of the one that is gone does not serve it");
    stand.lab.announce_pod("four")?;
    assert!(wait_until(DEADLINE, || seen(&socket).is_some()));
    assert_eq!(seen(&socket), Some(own));
    Ok(())
}

/// A server of FTP's control connection as far as the kernel's helper reads it, and of one data connection after the other.
fn ftp(control: &TcpListener, data: &TcpListener, rounds: usize) -> std::io::Result<Vec<IpAddr>> {
    let mut callers = Vec::new();
    for _ in 0..rounds {
        let (mut stream, _) = control.accept()?;
        stream.write_all(b"220 outpost\r\n")?;
        let mut reader = BufReader::new(stream.try_clone()?);
        for _ in 0..2 {
            let mut command = String::new();
            reader.read_line(&mut command)?;
            let port = data.local_addr()?.port();
            let (high, low) = (port >> 8, port & 0xff);
            stream.write_all(format!("227 Entering Passive Mode (10,0,4,2,{high},{low})\r\n").as_bytes())?;
            let (_, caller) = data.accept()?;
            callers.push(caller.ip());
        }
    }
    Ok(callers)
}

/// Asks for a data connection, opens it, and lets it go.
fn fetch(control: &mut BufReader<TcpStream>) -> std::io::Result<()> {
    control.get_mut().write_all(b"PASV\r\n")?;
    let mut answer = String::new();
    control.read_line(&mut answer)?;
    let numbers = answer.split(['(', ')']).nth(1).unwrap_or_default().split(',').skip(4);
    let numbers: Vec<u16> = numbers.filter_map(|number| number.parse().ok()).collect();
    let [high, low] = numbers[..] else { return Err(std::io::ErrorKind::InvalidData.into()) };
    TcpStream::connect_timeout(&SocketAddr::new(OUTPOST, high << 8 | low), DEADLINE).map(|_| ())
}

fn greeted(stand: &Stand) -> Result<BufReader<TcpStream>, LabError> {
    let opened = || {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(OUTPOST, 21), DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut control = BufReader::new(stream);
        control.read_line(&mut String::new())?;
        Ok(control)
    };
    stand.lab.pod("tiefighter")?.enter(opened)?.map_err(LabError::doing("open a control connection"))
}

/// The kernel gives a connection that a helper expects its parent's mark (`init_conntrack`, net/netfilter/nf_conntrack_core.c), and
/// it is `related`, never `new`.
#[test]
fn a_related_connection_goes_the_way_of_its_parent() -> Outcome {
    let stand = Stand::up(Options::default())?;
    let own = stand.lab.pod_addresses("tiefighter")?[0];
    for node in ["kind-worker", "kind-worker2"] {
        stand.lab.node(node)?.nft(
            "table ip helpers {
               ct helper ftp { type \"ftp\" protocol tcp; }
               chain pre { type filter hook prerouting priority -150; tcp dport 21 ct helper set \"ftp\"; }
             }",
        )?;
    }
    let listening =
        || Ok([TcpListener::bind(SocketAddr::new(OUTPOST, 21))?, TcpListener::bind(SocketAddr::new(OUTPOST, 0))?]);
    let [control, data] =
        stand.lab.outpost_namespace().enter(listening)?.map_err(LabError::doing("listen at the outpost"))?;
    let server = std::thread::spawn(move || ftp(&control, &data, 2));
    let failed = LabError::doing;

    // One that began before there was a policy, and stays as it is: its children, too.
    let mut old = greeted(&stand)?;
    stand.lab.pod("tiefighter")?.enter(|| fetch(&mut old))?.map_err(failed("fetch before there is a policy"))?;
    stand.push_outpost()?;
    stand.await_granted("tiefighter")?;
    stand.await_settled()?;
    stand.lab.pod("tiefighter")?.enter(|| fetch(&mut old))?.map_err(failed("fetch on an old connection"))?;
    drop(old);
    // And one whose pod has lost its policy since.
    let mut new = greeted(&stand)?;
    stand.lab.pod("tiefighter")?.enter(|| fetch(&mut new))?.map_err(failed("fetch on a new connection"))?;
    let hutts = Document { org: "hutt", ..Document::default() };
    stand.push("policies/outpost.yaml", &hutts.text())?;
    stand.await_own_way("tiefighter")?;
    stand.await_settled()?;
    let last = stand.lab.pod("tiefighter")?.enter(|| fetch(&mut new))?;
    last.map_err(failed("fetch on a connection that keeps its exit"))?;
    let callers = server.join().expect("the server").map_err(failed("serve FTP"))?;
    assert_eq!(callers, [own, own, WAYS[0].2, WAYS[0].2]);
    Ok(())
}
