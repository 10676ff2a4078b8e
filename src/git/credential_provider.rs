//! Credential providers: where passwords come from that expire, such as the installation tokens of a GitHub App.
//!
//! Asked before each exchange, in the main process; the worker never sees a provider. This folder knows no forge: `reconcile::app` connects
//! the two. The provider caches its tokens.

use std::fmt;
use std::sync::Arc;

use super::credentials::Secret;
use super::error::{Error, Result, TokenError};
use super::source::Source;

/// A source of short-lived tokens for a repository.
pub trait TokenSource: Send + Sync {
    /// A token that is valid for some minutes. Blocks.
    fn token(&self) -> std::result::Result<Secret, TokenError>;

    /// The server rejected the last token: the next one must be a new one.
    fn rejected(&self);
}

/// A source of tokens, and the user whose password they are.
#[derive(Clone)]
pub struct CredentialProvider {
    /// The user.
    pub user: String,
    /// The source of tokens.
    pub tokens: Arc<dyn TokenSource>,
}

impl CredentialProvider {
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

impl fmt::Debug for CredentialProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialProvider({})", self.user)
    }
}

impl PartialEq for CredentialProvider {
    fn eq(&self, other: &Self) -> bool {
        self.user == other.user && Arc::ptr_eq(&self.tokens, &other.tokens)
    }
}

impl Eq for CredentialProvider {}
