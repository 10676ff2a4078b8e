//! Transfers of connections: a thread that gives this node's connections to the gateway that their packets go to from now on, and takes
//! those of other nodes.
//!
//! A thread of its own, because a round may take longer than a server's patience. Not here: messages and rules (`core::transfer`),
//! sockets and connection tracking (`kernel`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::core::liveness::PathKey;
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::DatapathConfig;
use crate::core::transfer::wire::{Answer, Offer, capacity};
use crate::core::transfer::{
    Allowance, ExitConnection, Fate, FlowProtocol, MOST, MovedExit, Reached, TransferPlan, moved,
};
use crate::kernel::conntrack::{ConntrackError, Ends, Entered, Flow, FlowTable, Handle, NewFlow};
use crate::kernel::provoke::provoke;
use crate::kernel::transfer::{listen, source, towards};
use crate::telemetry::chain;

/// How many milliseconds a gateway has to answer an offer, the first time and each time after that.
const PATIENCE: [u64; 5] = [50, 100, 200, 400, 800];
/// So many clients are made to speak at once, and then none for [`PAUSE`].
const PROVOKED: usize = 100;
/// See [`PROVOKED`].
const PAUSE: Duration = Duration::from_millis(20);
/// The largest datagram that is read; an offer is smaller.
const DATAGRAM: usize = 2048;

/// A handle on the thread, which ends when it is dropped.
#[derive(Debug)]
pub struct Transfers {
    plans: UnboundedSender<TransferPlan>,
    plan: TransferPlan,
}

impl Transfers {
    /// Starts the thread. It gives and takes nothing yet.
    pub fn start() -> std::io::Result<Self> {
        let (plans, received) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || LocalSet::new().block_on(&runtime, serve(received));
        std::thread::Builder::new().name("egret-transfers".to_owned()).spawn(work)?;
        Ok(Self { plans, plan: TransferPlan::default() })
    }

    /// Sets what is in the kernel now.
    pub fn set(&mut self, plan: &TransferPlan) {
        if self.plan != *plan {
            self.plan = plan.clone();
            // The thread ends only with this handle.
            let _ = self.plans.send(plan.clone());
        }
    }
}

async fn serve(mut plans: UnboundedReceiver<TransferPlan>) {
    let mut plan = TransferPlan::default();
    let mut taker = Taker::default();
    let mut given: BTreeMap<PathKey, AbortHandle> = BTreeMap::new();
    let mut number: u32 = 0;
    loop {
        let (mut four, mut six) = ([0; DATAGRAM], [0; DATAGRAM]);
        tokio::select! {
            biased;
            next = plans.recv() => {
                let Some(next) = next else { return };
                for moved in moved(&plan, &next) {
                    number = number.wrapping_add(1);
                    let path = moved.path.clone();
                    let task = spawn_local(give(moved, next.clone(), number)).abort_handle();
                    // What is on its way to a gateway that does not carry them any more is given up.
                    if let Some(former) = given.insert(path, task) {
                        former.abort();
                    }
                }
                taker.listen(&next);
                plan = next;
            }
            (length, from) = receive(taker.sockets.get(&AddressFamily::V4), &mut four) => {
                taker.take(&four[..length], from, AddressFamily::V4, &plan).await;
            }
            (length, from) = receive(taker.sockets.get(&AddressFamily::V6), &mut six) => {
                taker.take(&six[..length], from, AddressFamily::V6, &plan).await;
            }
        }
    }
}

/// The next datagram; never, without a socket.
async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> (usize, SocketAddr) {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        match socket.recv_from(buffer).await {
            Ok(received) => return received,
            // An ICMP error of an earlier answer, for example.
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// A gateway's side.
struct Taker {
    sockets: BTreeMap<AddressFamily, UdpSocket>,
    range: DatapathConfig,
    table: Option<FlowTable>,
    allowance: Allowance,
    began: Instant,
    fault: Option<String>,
}

impl Default for Taker {
    fn default() -> Self {
        Self {
            sockets: BTreeMap::new(),
            range: DatapathConfig::default(),
            table: None,
            allowance: Allowance::default(),
            began: Instant::now(),
            fault: None,
        }
    }
}

impl Taker {
    /// Listens in the families in which this node is a gateway.
    fn listen(&mut self, plan: &TransferPlan) {
        if self.range != plan.range {
            self.sockets.clear();
            self.range = plan.range;
        }
        self.allowance.retain(&plan.nodes);
        for family in AddressFamily::BOTH {
            if !plan.taken.keys().any(|(_, of)| *of == family) {
                self.sockets.remove(&family);
                continue;
            }
            let Entry::Vacant(place) = self.sockets.entry(family) else { continue };
            match listen(family, plan.range.reply_mark()) {
                Ok(socket) => drop(place.insert(socket)),
                Err(error) => self.note(&format!("listen: {error}")),
            }
        }
    }

    /// Takes an offer in, if it comes from a node, for an exit that is here.
    async fn take(&mut self, datagram: &[u8], from: SocketAddr, family: AddressFamily, plan: &TransferPlan) {
        let node = source(from);
        let Some(offer) = Offer::decode(datagram, family).filter(|_| plan.nodes.contains_key(&node)) else { return };
        let Some(exit) = plan.taken.get(&(offer.exit, family)) else { return };
        if !self.allowance.take(node, offer.connections.len(), self.began.elapsed()) {
            // It is offered again a moment later.
            tracing::debug!(%node, "a node offers more connections than this one takes in so short a time");
            return;
        }
        let mut answer = Answer { transfer: offer.transfer, number: offer.number, ..Answer::default() };
        for connection in &offer.connections {
            if !exit.accepts(connection) {
                answer.refused += 1;
                continue;
            }
            let original = Ends { source: SocketAddr::new(node, connection.port), destination: connection.destination };
            let (protocol, mark) = (connection.protocol, exit.mark);
            let new = NewFlow { protocol, original, translated_to: exit.address, mark };
            match self.enter(&new).await {
                Ok(Entered::New) => answer.entered += 1,
                Ok(Entered::Exists) => answer.known += 1,
                Err(error) => {
                    self.table = None;
                    self.note(&chain(&error));
                    answer.refused += 1;
                }
            }
        }
        tracing::debug!(%node, ?answer, "connections taken over");
        if let Some(socket) = self.sockets.get(&family) {
            // An answer that cannot be sent is as one that was lost.
            let _ = socket.send_to(&answer.encode(), from).await;
        }
    }

    async fn enter(&mut self, new: &NewFlow) -> Result<Entered, ConntrackError> {
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(FlowTable::open()?),
        };
        table.enter(new).await
    }

    /// Logs a fault once.
    fn note(&mut self, fault: &str) {
        if self.fault.as_deref() != Some(fault) {
            tracing::warn!(error = fault, "connections of a gateway that failed cannot all be taken over");
            self.fault = Some(fault.to_owned());
        }
    }
}

/// A source's side.
async fn give(moved: MovedExit, plan: TransferPlan, number: u32) {
    let (exit, carrier) = (moved.path.0.identity(), moved.way.carrier.identity());
    let result = match moved.fate {
        Fate::Transferred(to) => transfer(&moved, to, plan.range, number).await,
        Fate::Reset => reset(&moved, plan.range).await,
        Fate::Renewed => renew(&moved, &plan).await,
    };
    match result {
        Ok(done) => tracing::info!(exit, carrier, "{done}"),
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(exit, carrier, error, "connections in which only the server speaks may stall");
        }
    }
}

/// The open connections of an exit that this node translates to its tunnel address.
async fn open_flows(
    moved: &MovedExit,
    range: DatapathConfig,
    which: impl Fn(&Flow) -> bool,
) -> Result<(FlowTable, Vec<(Flow, Handle)>), ConntrackError> {
    let mut table = FlowTable::open()?;
    let (family, mut picked) = (moved.path.1, 0);
    let wanted = |flow: &Flow| {
        let of_family = AddressFamily::of(flow.original.source.ip()) == family;
        let wanted = flow.open && of_family && which(flow) && picked < MOST;
        picked += usize::from(wanted);
        wanted
    };
    let flows = table.pick((moved.way.mark, range.mask), wanted).await?;
    Ok((table, flows))
}

async fn transfer(
    moved: &MovedExit,
    to: Reached,
    range: DatapathConfig,
    number: u32,
) -> Result<String, ConntrackError> {
    let inside = |flow: &Flow| flow.reply.destination.ip() == moved.way.tunnel;
    let (table, flows) = open_flows(moved, range, inside).await?;
    let connections: Vec<ExitConnection> = flows
        .iter()
        .map(|(flow, _)| ExitConnection {
            protocol: flow.protocol,
            port: flow.reply.destination.port(),
            destination: flow.reply.source,
        })
        .collect();
    if let Some(Answer { entered, known, refused, .. }) = offer(&connections, moved.path.1, to, number).await {
        return Ok(format!(
            "{} connections given to the gateway: {entered} entered, {known} known there, {refused} refused",
            connections.len()
        ));
    }
    let spoken = provoke_all(table, flows, range).await;
    Ok(format!("the gateway takes no connections over: {spoken} clients made to speak instead"))
}

/// Offers connections until all are answered; the sum of the answers, or none: the gateway does not answer.
async fn offer(connections: &[ExitConnection], family: AddressFamily, to: Reached, transfer: u32) -> Option<Answer> {
    let mut sum = Answer { transfer, ..Answer::default() };
    let socket = towards(family, to.mark).ok()?;
    for (number, part) in connections.chunks(capacity(family)).enumerate() {
        let number = u16::try_from(number).ok()?;
        let message = Offer { transfer, number, exit: to.mac, connections: part.to_vec() }.encode();
        let answer = exchange(&socket, &message, (transfer, number)).await?;
        sum.entered = sum.entered.saturating_add(answer.entered);
        sum.known = sum.known.saturating_add(answer.known);
        sum.refused = sum.refused.saturating_add(answer.refused);
    }
    Some(sum)
}

async fn exchange(socket: &UdpSocket, message: &[u8], expected: (u32, u16)) -> Option<Answer> {
    for patience in PATIENCE {
        // What cannot be sent now may be a moment later: a route that is just being replaced.
        let _ = socket.send(message).await;
        let answered = async {
            let mut buffer = [0; DATAGRAM];
            loop {
                match socket.recv(&mut buffer).await {
                    Ok(length) => {
                        let answer = Answer::decode(&buffer[..length]);
                        if let Some(answer) = answer.filter(|answer| (answer.transfer, answer.number) == expected) {
                            return answer;
                        }
                    }
                    Err(_) => sleep(PAUSE).await,
                }
            }
        };
        if let Ok(answer) = timeout(Duration::from_millis(patience), answered).await {
            return Some(answer);
        }
    }
    None
}

async fn reset(moved: &MovedExit, range: DatapathConfig) -> Result<String, ConntrackError> {
    let inside = |flow: &Flow| flow.reply.destination.ip() == moved.way.tunnel;
    let (table, flows) = open_flows(moved, range, inside).await?;
    let spoken = provoke_all(table, flows, range).await;
    Ok(format!("connections get another address: {spoken} TCP clients made to speak, so that they are reset"))
}

/// Returns how many clients were made to speak.
async fn provoke_all(mut table: FlowTable, flows: Vec<(Flow, Handle)>, range: DatapathConfig) -> usize {
    let (mut spoken, mut fault) = (0, None);
    for (place, (flow, handle)) in flows.iter().filter(|(flow, _)| flow.protocol == FlowProtocol::Tcp).enumerate() {
        if place % PROVOKED == PROVOKED - 1 {
            sleep(PAUSE).await;
        }
        // Its number is in no window.
        let sent = match table.loosen(handle).await {
            Ok(()) => provoke(flow.reply.destination, flow.reply.source, range.reply_mark())
                .map_err(|errno| errno.to_string()),
            Err(error) => Err(chain(&error)),
        };
        match sent {
            Ok(()) => spoken += 1,
            Err(error) => fault = Some(error),
        }
    }
    if let Some(error) = fault {
        tracing::warn!(error, "not all clients could be made to speak");
    }
    spoken
}

/// Deletes the connections of pods of this node: their translation is that of the former way.
async fn renew(moved: &MovedExit, plan: &TransferPlan) -> Result<String, ConntrackError> {
    let of_a_pod = |flow: &Flow| {
        let opened_by: IpAddr = flow.original.source.ip();
        !plan.nodes.contains_key(&opened_by)
    };
    let (mut table, flows) = open_flows(moved, plan.range, of_a_pod).await?;
    for (_, handle) in &flows {
        table.delete(handle).await?;
    }
    Ok(format!("{} connections begin anew with their next packet", flows.len()))
}
