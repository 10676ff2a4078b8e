//! nftables over netlink: dumps Egret's tables, changes them in one transaction, and watches for changes by other
//! processes.
//!
//! One long-lived socket does all of it, because an owned table belongs to the socket that created it: when the process
//! ends the table stays (the persist flag) and has no owner until the next process takes it over with
//! [`NftChange::AddTable`]. Files: `wire` (framing), `expression` (the kernel's instructions), `statement` and
//! `recognise` (rules to expressions and back), `sets`, `elements`, `mss`, `batch` (encodes a transaction), `dump`
//! (decodes a listing), `socket`, `probe`, `events`. Tables that are not named `egret` are never touched; what to change
//! is decided in `core::plan`.
//!
//! [`NftChange::AddTable`]: crate::core::state::nft::NftChange::AddTable

// The lint does not run in test builds, where the expectation would be unfulfilled.
#![cfg_attr(
    not(test),
    expect(
        clippy::wildcard_imports,
        reason = "`uapi` has prefixes that tell its numbers apart, as the kernel's headers have"
    )
)]

mod batch;
mod dump;
mod elements;
mod error;
mod events;
mod expression;
mod mss;
mod probe;
mod recognise;
mod sets;
pub(in crate::kernel) mod socket;
mod statement;
pub(in crate::kernel) mod uapi;
pub(in crate::kernel) mod wire;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use nix::errno::Errno;

use crate::core::state::nft::{NftTransaction, RuleCounters, Ruleset, TableFamily};
use crate::core::state::ownership::TABLE;

pub use batch::{Batch, EncodeError};
pub use dump::decode;
pub use error::NftError;
pub use events::{ChangeEvent, NftEvent, NftEvents};
pub use probe::NftFeatures;
pub use socket::ExchangeError;
pub use wire::Malformed;

use batch::protocol;
use dump::TableListing;
use socket::{NetfilterSocket, Verdict};
use uapi::*;
use wire::{Messages, Writer};

/// How often a dump is restarted because the ruleset changed meanwhile, or the kernel still rearranges a large set.
const ATTEMPTS: u32 = 20;

/// Increment of the wait between two attempts: the kernel needs the processor too.
const PATIENCE: Duration = Duration::from_millis(1);

/// The ruleset's generation id, over all tables of all programs. The kernel increments it with each transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub u32);

impl Generation {
    /// The next generation; 0 is skipped (net/netfilter/nf_tables_api.c, `nf_tables_commit`).
    fn next(self) -> Self {
        Self(self.0.checked_add(1).unwrap_or(1))
    }
}

/// The nftables connection of one network namespace. A table created as owned is protected while this lives.
pub struct Nft {
    socket: NetfilterSocket,
    /// Read-only: tables count as owned whoever their owner is.
    read_only: bool,
}

impl Nft {
    /// Opens the socket in the network namespace of the calling thread. Must be called within a tokio runtime with IO and
    /// time enabled.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { socket: NetfilterSocket::open(socket::LARGE_BUFFER).map_err(NftError::Open)?, read_only: false })
    }

    /// From now on tables owned by another running Egret count as owned.
    pub fn read_only(&mut self) {
        self.read_only = true;
    }

    /// A consistent snapshot of Egret's tables, with its generation.
    pub async fn observe(&mut self) -> Result<(Ruleset, Generation), NftError> {
        for attempt in 0..ATTEMPTS {
            tokio::time::sleep(PATIENCE * attempt).await;
            let before = self.generation().await?;
            match self.list().await {
                Ok(ruleset) if self.generation().await? == before => return Ok((ruleset, before)),
                // An object was deleted, or changed, between two of the requests.
                Ok(_) | Err(ExchangeError::Interrupted | ExchangeError::Lost) => {}
                Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::ENOENT) => {}
                Err(source) => return Err(NftError::Observe(source)),
            }
        }
        Err(NftError::Restless { attempts: ATTEMPTS })
    }

    /// Commits a transaction atomically if the ruleset still has the generation `seen`. Returns the generation that it
    /// makes, so that its event can be distinguished from those of other processes. An empty transaction sends nothing.
    ///
    /// [`NftError::Stale`] and [`NftError::AnswerLost`] require observing again; the other errors name the cause.
    pub async fn commit(&mut self, transaction: &NftTransaction, seen: Generation) -> Result<Generation, NftError> {
        if transaction.changes.is_empty() {
            return Ok(seen);
        }
        let batch = Batch::encode(transaction, Some(seen), self.socket.reserve(0)).map_err(NftError::Encode)?;
        self.socket.reserve(batch.length());
        self.socket.send(batch.bytes()).await.map_err(NftError::Commit)?;
        let refusals = self.refusals(batch.first_sequence(), batch.last_sequence()).await?;
        match refusals.into_iter().next() {
            None => Ok(seen.next()),
            Some((_, refusal)) if refusal.errno == Errno::ERESTART as i32 => Err(NftError::Stale),
            Some((sequence, refusal)) => {
                let errno = io::Error::from_raw_os_error(refusal.errno);
                Err(match batch.blame(transaction, sequence, refusal.offset) {
                    Some(change) => NftError::Refused { change, text: refusal.text, errno },
                    None => NftError::Commit(ExchangeError::Refused { text: refusal.text, errno }),
                })
            }
        }
    }

    /// The rule counters of Egret's tables, of one generation: a rule's index has to refer to the same rule.
    pub async fn counters(&mut self) -> Result<RuleCounters, NftError> {
        for attempt in 0..ATTEMPTS {
            tokio::time::sleep(PATIENCE * attempt).await;
            let before = self.generation().await?;
            match self.list_counters().await {
                Ok(counters) if self.generation().await? == before => return Ok(counters),
                Ok(_) | Err(ExchangeError::Interrupted | ExchangeError::Lost) => {}
                Err(source) => return Err(NftError::Observe(source)),
            }
        }
        Err(NftError::Restless { attempts: ATTEMPTS })
    }

    /// What the rules at the beginning of a chain of Egret's table have counted, up to the first that counts nothing: probes that
    /// arrived for an exit. One small dump, so that it may be read often.
    pub async fn first_counters(&mut self, chain: &str) -> Result<u64, NftError> {
        let (mut packets, mut ended) = (0, false);
        let read = |message: &wire::Message<'_>| {
            // Kernels before 4.13 list the rules of all chains.
            match dump::read_counter(message)? {
                Some((_, of, Some(counter))) if of == chain && !ended => packets += counter.packets,
                Some((_, of, _)) => ended |= of == chain,
                None => {}
            }
            Ok(())
        };
        self.dump(NFT_MSG_GETRULE, TableFamily::Inet, Some(chain), read).await.map_err(NftError::Observe)?;
        Ok(packets)
    }

    async fn list_counters(&mut self) -> Result<RuleCounters, ExchangeError> {
        let mut counters = RuleCounters::new();
        let mut rules: BTreeMap<(TableFamily, String), usize> = BTreeMap::new();
        for family in [TableFamily::Inet, TableFamily::Netdev] {
            let read = |message: &wire::Message<'_>| {
                if let Some((family, chain, counter)) = dump::read_counter(message)? {
                    let next = rules.entry((family, chain.clone())).or_default();
                    counters.extend(counter.map(|counter| ((family, chain, *next), counter)));
                    *next += 1;
                }
                Ok(())
            };
            self.dump(NFT_MSG_GETRULE, family, None, read).await?;
        }
        Ok(counters)
    }

    /// The current generation.
    async fn generation(&mut self) -> Result<Generation, NftError> {
        let mut generation = None;
        let request = |sequence| {
            let kind = NFNL_SUBSYS_NFTABLES << 8 | u16::from(NFT_MSG_GETGEN);
            let mut writer = Writer::default();
            writer.message((kind, NLM_F_REQUEST | NLM_F_ACK, sequence), (NFPROTO_UNSPEC, 0), |_| {});
            writer.finish().unwrap_or_default()
        };
        let answer = |message: &wire::Message<'_>| {
            generation = events::read_generation(message)?.or(generation.take());
            Ok(())
        };
        self.socket.ask(request, answer).await.map_err(NftError::Observe)?;
        let missing = ExchangeError::Malformed(Malformed { what: "generation" });
        generation.map(|event| event.generation).ok_or(NftError::Observe(missing))
    }

    /// Dumps Egret's tables, perhaps not of one moment. The kernel filters by table itself, except for tables and chains.
    async fn list(&mut self) -> Result<Ruleset, ExchangeError> {
        let mut listing = TableListing::new((!self.read_only).then(|| self.socket.port()));
        for family in [TableFamily::Inet, TableFamily::Netdev] {
            self.dump(NFT_MSG_GETTABLE, family, None, |message| listing.read(message)).await?;
        }
        for family in listing.families() {
            for kind in [NFT_MSG_GETSET, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE] {
                self.dump(kind, family, None, |message| listing.read(message)).await?;
            }
        }
        for (family, set) in listing.known_sets() {
            self.dump(NFT_MSG_GETSETELEM, family, Some(&set), |message| listing.read(message)).await?;
        }
        listing.finish().map_err(|dump::InterruptedDump| ExchangeError::Interrupted)
    }

    /// Dumps the objects of one kind in Egret's table. For all kinds `*_TABLE` is 1, and the set of an element list is 2.
    async fn dump(
        &mut self,
        kind: u8,
        family: TableFamily,
        set_or_chain: Option<&str>,
        answer: impl FnMut(&wire::Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), ExchangeError> {
        let request = |sequence| {
            let kind_and_subsystem = NFNL_SUBSYS_NFTABLES << 8 | u16::from(kind);
            let mut writer = Writer::default();
            let header = (kind_and_subsystem, NLM_F_REQUEST | NLM_F_DUMP, sequence);
            writer.message(header, (protocol(family), 0), |message| {
                if kind != NFT_MSG_GETTABLE && kind != NFT_MSG_GETCHAIN {
                    message.text(NFTA_RULE_TABLE, TABLE);
                }
                // One number for both: NFTA_RULE_CHAIN.
                if let Some(name) = set_or_chain {
                    message.text(NFTA_SET_ELEM_LIST_SET, name);
                }
            });
            writer.finish().unwrap_or_default()
        };
        self.socket.ask(request, answer).await
    }

    /// The kernel's refusals of a batch, in order, by sequence number. They end with the answer to the last message, or
    /// with one to the first, which is about the batch as a whole.
    async fn refusals(&mut self, first: u32, last: u32) -> Result<Vec<(u32, Verdict)>, NftError> {
        let mut refusals = Vec::new();
        loop {
            let ended = match self.socket.receive().await {
                Ok(datagram) => collect_refusals(datagram, (first, last), &mut refusals),
                Err(ExchangeError::Lost) => break,
                Err(source) => return Err(NftError::Commit(source)),
            };
            if ended.map_err(|source| NftError::Commit(ExchangeError::Malformed(source)))? {
                return Ok(refusals);
            }
        }
        // Lost answers are later than those still to be read, and the first refusal is the one that counts.
        while let Some(datagram) = self.socket.receive_now() {
            let read = collect_refusals(datagram, (first, last), &mut refusals);
            read.map_err(|source| NftError::Commit(ExchangeError::Malformed(source)))?;
        }
        if refusals.is_empty() { Err(NftError::AnswerLost) } else { Ok(refusals) }
    }
}

/// Collects the refusals of a batch with these sequence numbers from a datagram; `true` if it has the answer that ends
/// them.
fn collect_refusals(
    datagram: &[u8],
    (first, last): (u32, u32),
    refusals: &mut Vec<(u32, Verdict)>,
) -> Result<bool, Malformed> {
    let mut ended = false;
    for message in Messages(datagram) {
        let message = message?;
        if message.sequence.wrapping_sub(first) > last.wrapping_sub(first) {
            continue;
        }
        let Some(verdict) = Verdict::read(&message)? else { continue };
        let refused = verdict.errno != 0;
        ended |= message.sequence == last || (refused && message.sequence == first);
        if refused {
            refusals.push((message.sequence, verdict));
        }
    }
    Ok(ended)
}
