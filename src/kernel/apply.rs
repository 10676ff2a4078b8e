//! Carries out each step of a plan as one or two netlink messages. Order and choice are the plan's.
//!
//! Not here: label steps, which `cluster` applies.

use std::io::Write as _;
use std::sync::PoisonError;

use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rustix::thread::MembarrierCommand;

use super::socket::{CreateMode, RouteError};
use super::{Kernel, KernelError, conntrack, encode, nft};
use crate::core::neighbour_resolution::LinkNeighbour;
use crate::core::plan::Step;
use crate::core::state::net::{Route, Sysctl};

/// How long connection tracking, once loaded, gets to see both directions of live connections. A connection that is
/// silent for longer counts as new afterwards; a node's first policies wait this long.
const NOTICE: std::time::Duration = std::time::Duration::from_secs(1);

impl Kernel {
    /// Carries out one step. `generation` is the nftables generation that the plan was made from; the first transaction
    /// that succeeds advances it.
    pub async fn apply(&mut self, step: &Step, generation: &mut nft::Generation) -> Result<(), KernelError> {
        match step {
            Step::SetLabel(..) | Step::RemoveLabel(..) => Ok(()),
            Step::Nft(transaction) => {
                *generation = self.nft.commit(transaction, *generation).await.map_err(KernelError::Nft)?;
                Ok(())
            }
            Step::FlushConntrack { mark, mask } => match conntrack::flush(*mark, *mask).await {
                // Without ctnetlink nothing can be flushed; a mark that is in use is never reassigned.
                Ok(()) | Err(conntrack::ConntrackError::Missing { .. }) => Ok(()),
                Err(source) => Err(KernelError::Conntrack { mark: *mark, source }),
            },
            Step::FlushTranslated { mark, mask, keep } => {
                match conntrack::flush_translated(*mark, *mask, *keep).await {
                    Ok(_) | Err(conntrack::ConntrackError::Missing { .. }) => Ok(()),
                    Err(source) => Err(KernelError::Conntrack { mark: *mark, source }),
                }
            }
            Step::FlushSources(sources) => match conntrack::flush_sources(sources).await {
                Ok(_) | Err(conntrack::ConntrackError::Missing { .. }) => Ok(()),
                Err(source) => Err(KernelError::Connections(source)),
            },
            Step::Notice => {
                tokio::time::sleep(NOTICE).await;
                Ok(())
            }
            Step::RcuBarrier => {
                rcu_barrier().await;
                Ok(())
            }
            Step::SetSysctl(sysctl, value, _) => write(sysctl, value),
            other => {
                self.apply_route(other).await.map_err(|source| KernelError::Step { step: step.to_string(), source })
            }
        }
    }

    /// Makes the kernel ask for a neighbour, as a packet to it would. From now on it is an event if it does not answer.
    pub async fn ask_for(&self, (interface, address): &LinkNeighbour) -> Result<(), KernelError> {
        let ask = async {
            let index = index(interface)?;
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert((index, *address));
            let message = encode::use_of_neighbour(*address, index);
            let mut question = message.clone();
            question.header.flags = NeighbourFlags::empty();
            let known = self.routes.get(Message::GetNeighbour(question)).await;
            match known {
                Ok(known) if !known.iter().any(may_be_asked_for) => return Ok(()),
                Err(error) if !error.is_missing() => return Err(error),
                _ => {}
            }
            self.routes.execute(Message::NewNeighbour(message), CreateMode::Replace).await
        };
        ask.await.map_err(|source| KernelError::Observe { what: "a next hop", source })
    }

    async fn apply_route(&self, step: &Step) -> Result<(), RouteError> {
        match step {
            Step::AddLink(name, link) => {
                self.routes.execute(Message::NewLink(encode::link(name, link)), CreateMode::Create).await
            }
            Step::ChangeLink(name, link) => {
                let message = encode::link_change(index(name)?, link);
                self.routes.execute(Message::SetLink(message), CreateMode::Plain).await
            }
            Step::DeleteLink(name) => {
                let mut message = LinkMessage::default();
                message.header.index = index(name)?;
                gone(self.routes.execute(Message::DelLink(message), CreateMode::Plain).await)
            }
            Step::AddAddress(address) => {
                let message = encode::address(address, index(&address.link)?);
                there(self.routes.execute(Message::NewAddress(message), CreateMode::Create).await)
            }
            Step::DeleteAddress(address) => {
                let message = encode::address(address, index(&address.link)?);
                gone(self.routes.execute(Message::DelAddress(message), CreateMode::Plain).await)
            }
            Step::SetNeighbour(neighbour) => {
                let message = encode::neighbour(neighbour, index(&neighbour.link)?);
                self.routes.execute(Message::NewNeighbour(message), CreateMode::Replace).await
            }
            Step::DeleteNeighbour(neighbour) => {
                let message = encode::neighbour(neighbour, index(&neighbour.link)?);
                gone(self.routes.execute(Message::DelNeighbour(message), CreateMode::Plain).await)
            }
            Step::SetRoute(key, route, _) => {
                let index = match route {
                    Route::Via { link, .. } | Route::Local { link } => index(link)?,
                    _ => 0,
                };
                self.routes.execute(Message::NewRoute(encode::route(key, route, index)), CreateMode::Replace).await
            }
            Step::DeleteRoute(key, _) => {
                gone(self.routes.execute(Message::DelRoute(encode::route_deletion(key)), CreateMode::Plain).await)
            }
            Step::AddRule(rule) => {
                there(self.routes.execute(Message::NewRule(encode::rule(rule)), CreateMode::Create).await)
            }
            Step::DeleteRule(rule) => {
                gone(self.routes.execute(Message::DelRule(encode::rule_deletion(rule)), CreateMode::Plain).await)
            }
            Step::SetLabel(..)
            | Step::RemoveLabel(..)
            | Step::Nft(_)
            | Step::FlushConntrack { .. }
            | Step::FlushTranslated { .. }
            | Step::FlushSources(_)
            | Step::Notice
            | Step::RcuBarrier
            | Step::SetSysctl(..) => Ok(()),
        }
    }
}

/// Waits until every packet in flight between two hooks has arrived. Packets are handled inside RCU read-side sections
/// (`netif_receive_skb` to the neighbour's queue), and `MEMBARRIER_CMD_GLOBAL` waits for all sections that had begun: it
/// is `synchronize_rcu` (kernel/sched/membarrier.c), some 10 to 30 ms.
///
/// Where the kernel does not offer it (`nohz_full` processors, a seccomp filter), a fixed wait replaces it that is long
/// for a packet.
async fn rcu_barrier() {
    const LONG_FOR_A_PACKET: std::time::Duration = std::time::Duration::from_millis(100);
    let waited = tokio::task::spawn_blocking(|| rustix::thread::membarrier(MembarrierCommand::Global)).await;
    if !matches!(waited, Ok(Ok(()))) {
        tokio::time::sleep(LONG_FOR_A_PACKET).await;
    }
}

/// A device's current index; it changes when the device is recreated.
/// Whether a neighbour is one that the kernel gave up, or has not used for a while. To ask for another would take away what others gave
/// it: that it is permanent, managed, or learnt by a daemon (`__neigh_update` with NEIGH_UPDATE_F_USE, net/core/neighbour.c).
fn may_be_asked_for(message: &Message) -> bool {
    let Message::NewNeighbour(neighbour) = message else { return false };
    let state = matches!(neighbour.header.state, NeighbourState::Failed | NeighbourState::Stale);
    let of_others = neighbour.header.flags.difference(NeighbourFlags::Router);
    let managed = neighbour.attributes.iter().any(|attribute| attribute.kind() == NDA_FLAGS_EXT);
    state && of_others.is_empty() && !managed
}

/// include/uapi/linux/neighbour.h
const NDA_FLAGS_EXT: u16 = 15;

fn index(name: &str) -> Result<u32, RouteError> {
    nix::net::if_::if_nametoindex(name).map_err(|_| RouteError::NoInterface(name.to_owned()))
}

/// Ignores "exists already", whoever created the object: the read-back after the round compares its properties.
fn there(result: Result<(), RouteError>) -> Result<(), RouteError> {
    result.or_else(|error| if error.is_exists() { Ok(()) } else { Err(error) })
}

/// Ignores "does not exist": the object to delete is gone already.
fn gone(result: Result<(), RouteError>) -> Result<(), RouteError> {
    result.or_else(|error| if error.is_missing() { Ok(()) } else { Err(error) })
}

fn write(sysctl: &Sysctl, value: &str) -> Result<(), KernelError> {
    super::sysctl::open(&sysctl.path())
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| KernelError::Sysctl { doing: format!("set {sysctl} = {value}"), source })
}
