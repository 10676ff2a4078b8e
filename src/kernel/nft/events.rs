//! Subscribes to nftables generation changes: who changed the ruleset, and when.
//!
//! What was changed is not decoded. Each changed element has a notification of its own, a large change overruns the
//! buffer, and then the generation event behind it is lost too; so an event only triggers a new dump
//! (`super::Nft::observe`).

use std::collections::VecDeque;

use super::socket::{ExchangeError, NetfilterSocket};
use super::uapi::*;
use super::wire::{self, Malformed, Message, Messages};
use super::{Generation, NftError};

/// Deliberately small: an overrun triggers the same dump as the events it loses.
const BUFFER: usize = 64 * 1024;

/// A ruleset event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftEvent {
    /// A process changed the ruleset: perhaps not Egret's part of it, perhaps this process itself.
    Changed(ChangeEvent),
    /// The socket overran: anything may have changed, by any process.
    Overrun,
}

/// A new generation of the ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeEvent {
    /// The generation that the change made. One that [`super::Nft::commit`] returned is our own.
    pub generation: Generation,
    /// The thread that committed it, as numbered in the initial pid namespace: in a container, not a number of this
    /// namespace.
    pub process_id: u32,
    /// The thread's name, 15 bytes at most: `nft`, `kube-proxy`.
    pub process_name: String,
}

/// The event socket. It is separate from [`super::Nft`]'s: notifications must not come between requests and answers.
pub struct NftEvents {
    socket: NetfilterSocket,
    seen: VecDeque<ChangeEvent>,
}

impl NftEvents {
    /// Subscribes, in the network namespace of the calling thread. Must be called within a tokio runtime.
    pub fn open() -> Result<Self, NftError> {
        let open = || {
            let mut socket = NetfilterSocket::open(BUFFER)?;
            socket.join(NFNLGRP_NFTABLES)?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(NftError::Open)?, seen: VecDeque::new() })
    }

    /// Waits for the next event. Cancel-safe.
    pub async fn next(&mut self) -> Result<NftEvent, NftError> {
        loop {
            if let Some(event) = self.seen.pop_front() {
                return Ok(NftEvent::Changed(event));
            }
            let datagram = match self.socket.receive().await {
                Ok(datagram) => datagram,
                Err(ExchangeError::Lost) => {
                    // An overrun triggers a full dump, so pending notifications can be discarded.
                    while self.socket.receive_now().is_some() {}
                    return Ok(NftEvent::Overrun);
                }
                Err(source) => return Err(NftError::Listen(source)),
            };
            for message in Messages(datagram) {
                let event = message.and_then(|message| read_generation(&message));
                let event = event.map_err(|source| NftError::Listen(ExchangeError::Malformed(source)))?;
                self.seen.extend(event);
            }
        }
    }
}

/// Decodes `NFT_MSG_NEWGEN`; none for any other message.
pub(super) fn read_generation(message: &Message<'_>) -> Result<Option<ChangeEvent>, Malformed> {
    if message.of_subsystem(NFNL_SUBSYS_NFTABLES) != Some(NFT_MSG_NEWGEN) {
        return Ok(None);
    }
    let (_, attributes) = message.netfilter()?;
    let number = wire::find_u32(attributes, NFTA_GEN_ID)?.ok_or(Malformed { what: "generation without a number" })?;
    Ok(Some(ChangeEvent {
        generation: Generation(number),
        process_id: wire::find_u32(attributes, NFTA_GEN_PROC_PID)?.unwrap_or(0),
        process_name: wire::find_text(attributes, NFTA_GEN_PROC_NAME)?.unwrap_or_default().to_owned(),
    }))
}
