//! nftables over netlink: what is in our tables, changing it in one transaction, and hearing of changes by others.
//!
//! One long-lived socket does it all, because an owned table belongs to the socket that made it: when the process ends the table
//! stays (the persist flag) and has no owner until the next one takes it over with [`Change::AddTable`]. Each file has one subject:
//! `wire` (bytes), `expression` (the kernel's instructions), `statement` and `recognise` (a rule there and back), `sets`,
//! `elements`, `mss`, `batch` (a transaction there), `dump` (a listing back), `socket`, `probe`, `events`.
//! Deliberately absent: what to change (`core::plan`) and tables that are not named `egret`.
//!
//! [`Change::AddTable`]: crate::core::state::nft::Change::AddTable

// The lint does not look at test builds, where it would be expected in vain.
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

/// How often a listing is begun anew because somebody changed the ruleset meanwhile, or the kernel still rearranges a large set.
const ATTEMPTS: u32 = 20;

/// How much longer each wait between two attempts is than the one before: the kernel needs the processor too.
const PATIENCE: Duration = Duration::from_millis(1);

/// The number of the ruleset's state, of all tables of all programs. The kernel counts one up for each transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub u32);

impl Generation {
    /// The next one; there is no 0 (net/netfilter/nf_tables_api.c, `nf_tables_commit`).
    fn next(self) -> Self {
        Self(self.0.checked_add(1).unwrap_or(1))
    }
}

/// The connection to nftables in one network namespace. A table made owned through it is protected while it lives.
pub struct Nft {
    socket: NetfilterSocket,
    /// Only looks: tables count as owned whoever their owner is.
    onlooker: bool,
}

impl Nft {
    /// Opens it in the network namespace of the calling thread. Has to be called within a tokio runtime that has IO and time.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { socket: NetfilterSocket::open(socket::LARGE_BUFFER).map_err(NftError::Open)?, onlooker: false })
    }

    /// From now on tables of another Egret that is at work count as owned, as they do in its own eyes.
    pub fn look_only(&mut self) {
        self.onlooker = true;
    }

    /// Everything of ours as it is at one moment, and the generation it is of.
    pub async fn observe(&mut self) -> Result<(Ruleset, Generation), NftError> {
        for attempt in 0..ATTEMPTS {
            tokio::time::sleep(PATIENCE * attempt).await;
            let before = self.generation().await?;
            match self.list().await {
                Ok(ruleset) if self.generation().await? == before => return Ok((ruleset, before)),
                // Something went away, or changed, between two of the questions.
                Ok(_) | Err(ExchangeError::Interrupted | ExchangeError::Lost) => {}
                Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::ENOENT) => {}
                Err(source) => return Err(NftError::Observe(source)),
            }
        }
        Err(NftError::Restless { attempts: ATTEMPTS })
    }

    /// Makes all of a transaction true, or nothing of it, if the ruleset still has the generation that was `seen`. Returns the
    /// generation that it makes, so that the event of it can be told from those of others. Nothing to do costs nothing.
    ///
    /// [`NftError::Stale`] asks for another look, and so does [`NftError::AnswerLost`]; the others say what is wrong.
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

    /// What the counters in our rules say, of one generation: a rule's index has to mean the same rule.
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

    /// The generation of this moment.
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

    /// All of ours, perhaps of more than one moment. The kernel picks out our table by itself, but for tables and chains.
    async fn list(&mut self) -> Result<Ruleset, ExchangeError> {
        let mut listing = TableListing::new((!self.onlooker).then(|| self.socket.port()));
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

    /// Lists the objects of one kind in our table. That `*_TABLE` is 1 and a list of elements' set is 2 holds for all of them.
    async fn dump(
        &mut self,
        kind: u8,
        family: TableFamily,
        set: Option<&str>,
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
                if let Some(set) = set {
                    message.text(NFTA_SET_ELEM_LIST_SET, set);
                }
            });
            writer.finish().unwrap_or_default()
        };
        self.socket.ask(request, answer).await
    }

    /// The kernel's refusals of a batch, in order, by message number. The answer to the last message ends them, and so does one to
    /// the first: that is about the batch as a whole.
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
        // What was lost came later than what is still to be read, and the first refusal is the one that counts.
        while let Some(datagram) = self.socket.receive_now() {
            let read = collect_refusals(datagram, (first, last), &mut refusals);
            read.map_err(|source| NftError::Commit(ExchangeError::Malformed(source)))?;
        }
        if refusals.is_empty() { Err(NftError::AnswerLost) } else { Ok(refusals) }
    }
}

/// Takes the refusals of a batch with these message numbers out of a datagram; `true` if it has the answer that ends them.
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
