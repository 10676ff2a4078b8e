//! Who changes nftables, and when: the kernel's announcements of new generations.
//!
//! Deliberately absent: what was changed. Each changed element is an announcement of its own, a large change overruns the buffer,
//! and then the announcement that ends it is lost too; so a change only means that somebody should look (`super::Nft::observe`).

use std::collections::VecDeque;

use super::socket::{ExchangeError, NetfilterSocket};
use super::uapi::*;
use super::wire::{self, Malformed, Message, Messages};
use super::{Generation, NftError};

/// Small on purpose: what is not read in time only says "look", and a full buffer says the same.
const BUFFER: usize = 64 * 1024;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftEvent {
    /// Somebody changed the ruleset; perhaps not our part of it, perhaps this process.
    Changed(ChangeEvent),
    /// More happened than could be kept: anything may have changed, by anyone.
    Overrun,
}

/// A new generation of the ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeEvent {
    /// The generation that the change made. One that [`super::Nft::commit`] returned is our own.
    pub generation: Generation,
    /// The thread that did it, as numbered in the initial process namespace: in a container, no number of ours.
    pub process_id: u32,
    /// The thread's name, 15 bytes at most: `nft`, `kube-proxy`.
    pub process_name: String,
}

/// A socket that listens. It is none of [`super::Nft`]'s: announcements must not get between questions and answers.
pub struct NftEvents {
    socket: NetfilterSocket,
    seen: VecDeque<ChangeEvent>,
}

impl NftEvents {
    /// Begins to listen, in the network namespace of the calling thread. Has to be called within a tokio runtime.
    pub fn open() -> Result<Self, NftError> {
        let open = || {
            let mut socket = NetfilterSocket::open(BUFFER)?;
            socket.join(NFNLGRP_NFTABLES)?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(NftError::Open)?, seen: VecDeque::new() })
    }

    /// Waits for the next event. Giving up waiting loses nothing.
    pub async fn next(&mut self) -> Result<NftEvent, NftError> {
        loop {
            if let Some(event) = self.seen.pop_front() {
                return Ok(NftEvent::Changed(event));
            }
            let datagram = match self.socket.receive().await {
                Ok(datagram) => datagram,
                Err(ExchangeError::Lost) => {
                    // Whoever hears of the overrun looks at everything: what is still unread is of no account to them.
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

/// Reads `NFT_MSG_NEWGEN`; none for any other message.
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
