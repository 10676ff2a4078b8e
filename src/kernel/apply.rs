//! Apply: each step of a plan as the one or two messages that carry it out.
//!
//! Deliberately absent: order and choice, which are the plan's, and labels, which are the cluster's.

use std::io::Write as _;

use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::link::LinkMessage;
use rustix::thread::MembarrierCommand;

use super::socket::{CreateMode, RouteError};
use super::{Kernel, KernelError, conntrack, encode, nft};
use crate::core::plan::Step;
use crate::core::state::net::Sysctl;

/// How long connection tracking, when it begins, is given to see both directions of live connections. Those that say nothing for so
/// long count as new afterwards; and for so long a node's first policies wait.
const NOTICE: std::time::Duration = std::time::Duration::from_secs(1);

impl Kernel {
    /// Carries out one step. `generation` is the one of the look that the plan was made from; the first transaction that
    /// succeeds moves it on.
    pub async fn apply(&mut self, step: &Step, generation: &mut nft::Generation) -> Result<(), KernelError> {
        match step {
            Step::SetLabel(..) | Step::RemoveLabel(..) => Ok(()),
            Step::Nft(transaction) => {
                *generation = self.nft.commit(transaction, *generation).await.map_err(KernelError::Nft)?;
                Ok(())
            }
            Step::FlushConntrack { mark, mask } => match conntrack::forget(*mark, *mask).await {
                // Without connection tracking over netlink there is nothing to forget by; a mark in use is never given out.
                Ok(()) | Err(conntrack::ConntrackError::Missing { .. }) => Ok(()),
                Err(source) => Err(KernelError::Conntrack { mark: *mark, source }),
            },
            Step::FlushSources(sources) => match conntrack::forget_sources(sources).await {
                Ok(_) | Err(conntrack::ConntrackError::Missing { .. }) => Ok(()),
                Err(source) => Err(KernelError::Connections(source)),
            },
            Step::Notice => {
                tokio::time::sleep(NOTICE).await;
                Ok(())
            }
            Step::RcuBarrier => {
                settle().await;
                Ok(())
            }
            Step::SetSysctl(sysctl, value, _) => write(sysctl, value),
            other => {
                self.apply_route(other).await.map_err(|source| KernelError::Step { step: step.to_string(), source })
            }
        }
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
                    crate::core::state::net::Route::Via { link, .. } => index(link)?,
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
            | Step::FlushSources(_)
            | Step::Notice
            | Step::RcuBarrier
            | Step::SetSysctl(..) => Ok(()),
        }
    }
}

/// Waits until every packet that was on its way from one hook to the next has arrived. Packets are handled inside RCU read-side
/// sections (`netif_receive_skb` to the neighbour's queue), and `MEMBARRIER_CMD_GLOBAL` waits for all of those that had begun:
/// it is `synchronize_rcu` (kernel/sched/membarrier.c), some 10 to 30 ms.
///
/// Where the kernel has none (`nohz_full` processors, a seccomp filter), a time follows that is long for a packet and short for people.
async fn settle() {
    const LONG_FOR_A_PACKET: std::time::Duration = std::time::Duration::from_millis(100);
    let waited = tokio::task::spawn_blocking(|| rustix::thread::membarrier(MembarrierCommand::Global)).await;
    if !matches!(waited, Ok(Ok(()))) {
        tokio::time::sleep(LONG_FOR_A_PACKET).await;
    }
}

/// A device's number now: it changes when the device is made anew.
fn index(name: &str) -> Result<u32, RouteError> {
    nix::net::if_::if_nametoindex(name).map_err(|_| RouteError::NoInterface(name.to_owned()))
}

/// What was to be made is there: as wanted, whoever made it. The look afterwards tells whether it is the same.
fn there(result: Result<(), RouteError>) -> Result<(), RouteError> {
    result.or_else(|error| if error.is_exists() { Ok(()) } else { Err(error) })
}

/// What was to be taken away is gone already: as wanted.
fn gone(result: Result<(), RouteError>) -> Result<(), RouteError> {
    result.or_else(|error| if error.is_missing() { Ok(()) } else { Err(error) })
}

fn write(sysctl: &Sysctl, value: &str) -> Result<(), KernelError> {
    super::sysctl::open(&sysctl.path())
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| KernelError::Sysctl { doing: format!("set {sysctl} = {value}"), source })
}
