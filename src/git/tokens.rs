//! Passwords that end: who gives one when it is needed, asked before each conversation and never by the worker.
//!
//! This folder knows no forge: whoever joins them says where tokens are from. Deliberately absent: keeping a token, which is the giver's.

use std::fmt;
use std::sync::Arc;

use super::credentials::Secret;
use super::error::{Error, Result};
use super::source::Source;

/// Somebody who gives tokens for a repository.
pub trait Tokens: Send + Sync {
    /// One that is good for some minutes. Blocks.
    fn token(&self) -> std::result::Result<Secret, NoToken>;

    /// The last one was not taken: the next is to be a new one.
    fn refused(&self);
}

/// Why there is no token.
#[derive(Debug)]
pub struct NoToken {
    /// What happened.
    pub cause: Box<dyn std::error::Error + Send + Sync>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether it may pass by itself.
    pub passes: bool,
}

/// A giver of tokens, and the user whose password they are.
#[derive(Clone)]
pub struct Giver {
    /// The user.
    pub user: String,
    /// The giver.
    pub tokens: Arc<dyn Tokens>,
}

impl Giver {
    /// The source with the user and a token in it, for https; any other as it is.
    pub(super) fn sign_in(&self, source: &Source) -> Result<Source> {
        if !source.is_web() {
            return Ok(source.clone());
        }
        let token =
            self.tokens.token().map_err(|why| Error::NoToken { repository: source.to_string(), source: why })?;
        Ok(source.with_password(&self.user, token))
    }
}

impl fmt::Debug for Giver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Giver({})", self.user)
    }
}

impl PartialEq for Giver {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && Arc::ptr_eq(&self.tokens, &other.tokens)
    }
}

impl Eq for Giver {}

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for NoToken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}
