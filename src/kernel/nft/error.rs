//! Errors of nftables operations.
//!
//! Only [`NftError::Stale`] and [`NftError::AnswerLost`] are solved by observing again.

use std::io;

use thiserror::Error;

use super::batch::EncodeError;
use super::socket::ExchangeError;

/// A failure to read, change or watch nftables.
#[derive(Debug, Error)]
pub enum NftError {
    /// No socket: the kernel has no netfilter, or permission is missing.
    #[error("open a netlink socket for nftables")]
    Open(#[source] io::Error),
    /// The dump failed.
    #[error("list the nftables tables named `egret`")]
    Observe(#[source] ExchangeError),
    /// The ruleset changed during every attempt to dump it, or the kernel kept rearranging a large set.
    #[error("list the nftables tables named `egret`: it changed during each of {attempts} attempts")]
    Restless {
        /// The number of attempts.
        attempts: u32,
    },
    /// The transaction cannot be represented in netlink: a bug of Egret's, not the kernel's.
    #[error("prepare an nftables transaction")]
    Encode(#[source] EncodeError),
    /// Another process changed the ruleset since it was dumped. Nothing was changed.
    #[error("nftables was changed by another process since it was read")]
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
    /// The outcome of a transaction is unknown: the kernel's answers overran the socket's buffer.
    #[error("commit an nftables transaction: the kernel's answer was lost")]
    AnswerLost,
    /// Probing the kernel's features failed.
    #[error("probe the features of nftables")]
    Probe(#[source] ExchangeError),
    /// The event socket failed.
    #[error("listen for changes of nftables")]
    Listen(#[source] ExchangeError),
}
