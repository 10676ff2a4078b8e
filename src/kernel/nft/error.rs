//! What can go wrong with nftables, in words for people.
//!
//! Deliberately absent: what to do about it; a caller tells [`NftError::Stale`] and [`NftError::AnswerLost`] (look again) from the rest.

use std::io;

use thiserror::Error;

use super::batch::EncodeError;
use super::socket::ExchangeError;

/// A fault in reading, changing or listening to nftables.
#[derive(Debug, Error)]
pub enum NftError {
    /// There is no socket: no netfilter in the kernel, or no permission.
    #[error("open a netlink socket for nftables")]
    Open(#[source] io::Error),
    /// The listing failed.
    #[error("list the nftables tables named `egret`")]
    Observe(#[source] ExchangeError),
    /// The ruleset changed during every attempt to list it, or the kernel rearranged a large set all the time.
    #[error("list the nftables tables named `egret`: it changed during each of {attempts} attempts")]
    Restless {
        /// How often it was tried.
        attempts: u32,
    },
    /// The transaction has no form in netlink: a fault of ours, not the kernel's.
    #[error("prepare an nftables transaction")]
    Encode(#[source] EncodeError),
    /// Somebody changed the ruleset since it was looked at. Nothing was changed.
    #[error("nftables was changed by somebody since it was looked at")]
    Stale,
    /// The kernel refused one of the changes, and so the whole transaction. Nothing was changed.
    #[error("`{change}`{}", .text.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// Family, table and change, in nft's syntax.
        change: String,
        /// The kernel's explanation, where it gives one.
        text: Option<String>,
        /// Its error number.
        #[source]
        errno: io::Error,
    },
    /// The transaction as a whole failed. Nothing was changed.
    #[error("commit an nftables transaction")]
    Commit(#[source] ExchangeError),
    /// What became of a transaction is not known: the kernel's answers were more than the socket's buffer holds.
    #[error("commit an nftables transaction: the kernel's answer was lost")]
    AnswerLost,
    /// Trying out what the kernel can do failed.
    #[error("find out what nftables can do here")]
    Probe(#[source] ExchangeError),
    /// Listening failed.
    #[error("listen for changes of nftables")]
    Listen(#[source] ExchangeError),
}
