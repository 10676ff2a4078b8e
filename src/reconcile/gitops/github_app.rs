//! A GitHub App for Git: the forge's edge gives tokens, Git's edge wants them, and neither knows the other.
//!
//! Deliberately absent: how a token is had (`forge::app`), and when one is needed (`git`).

use std::sync::Arc;

use crate::forge::app::{GitHubApp, TokenPurpose};
use crate::git::tokens::{Giver, NoToken, Tokens};
use crate::secret::Secret;

/// The user that GitHub takes an installation's token as the password of.
const USER: &str = "x-access-token";

#[derive(Debug)]
struct ForGit(Arc<GitHubApp>);

impl Tokens for ForGit {
    fn token(&self) -> Result<Secret, NoToken> {
        self.0.token(TokenPurpose::Git).map_err(|error| {
            let (hint, passes) = (error.hint(), error.retryable());
            NoToken { cause: Box::new(error), hint, passes }
        })
    }

    fn refused(&self) {
        self.0.forget(TokenPurpose::Git);
    }
}

/// Has Git ask an App for its password.
pub fn giver(app: Arc<GitHubApp>) -> Giver {
    Giver { user: USER.to_owned(), tokens: Arc::new(ForGit(app)) }
}
